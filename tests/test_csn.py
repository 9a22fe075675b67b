"""CSN: exact codes to acronyms, malformed headers named, one site's own classes named, and what a header's comments say."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from leadwise.batch import LEADS
from leadwise.cli import app
from leadwise.data.audit.audit import audit_cohort
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.formats import wfdb_header
from leadwise.data.sources.csn import (
    CHAPMAN,
    CSN,
    CSN_ACRONYMS,
    CSN_FULL,
    CSN_MERGED,
    NINGBO,
    acronyms,
    read_source,
)
from leadwise.data.sources.source import Row
from leadwise.evaluate.card import subgroups

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
CODE = {acronym: code for code, acronym in CSN_ACRONYMS.items()}
UNMAPPED = "55827005"


def record(folder: Path, number: int, dx: str | None, with_samples: bool = False) -> Path:
    """A record in CSN's layout: a header, and with it 5000 samples behind a 24-byte head if requested."""
    name = f"JS{number:05d}"
    place = folder / "WFDBRecords" / f"{number // 1000:02d}" / f"{number // 100:03d}"
    place.mkdir(parents=True, exist_ok=True)
    steps = np.random.default_rng(number).integers(-900, 900, (5000, 12)).astype("<i2")
    lines = [f"{name} 12 500 5000 23-Mar-2021 20:20:47"]
    for lead, column in zip(LEADS, steps.T):
        lines.append(f"{name}.mat 16+24 1000/mV 16 0 {column[0]} {column.sum(dtype=np.int16)} 0 {lead}")
    lines += ["#Age: 85", "#Sex: Male", *([] if dx is None else [f"#Dx: {dx}"]), "#Rx: Unknown"]
    path = place / f"{name}.hea"
    path.write_text("\n".join(lines) + "\n")
    if with_samples:
        (place / f"{name}.mat").write_bytes(bytes(24) + steps.tobytes())
    return path


def malformed(path: Path) -> None:
    """As in release 1.0.0: the line break after the record line is lost, and some of the line behind it."""
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([f"{' '.join(first.split()[:4])}{second[second.index('00/mV') :]}", *rest]) + "\n")


def dx(*names: str) -> str:
    return ",".join(CODE.get(name, name) for name in names)


def positives(row: Row, task: str) -> set[str]:
    return {name for name, value in row.labels[task].items() if value}


def of(rows: Iterable[Row]) -> dict[str, Row]:
    return {row.record: row for row in rows}


def test_a_code_is_a_class_and_no_part_of_another(tmp_path: Path) -> None:
    for number, names in enumerate(
        (
            ("2AVB", "1AVB", "AVB"),
            ("VB",),
            ("STTC", "STE", "STDD", "STTU"),
            ("CCR",),
            ("LVQRSAL", "SR"),
            ("2AVB1", "SR"),
        ),
        1,
    ):
        record(tmp_path, number, dx(*names))
    source = read_source(tmp_path)
    assert source.tasks == {"csn": tuple(CSN), "csn_full": tuple(CSN_FULL), "csn_merged": tuple(CSN_MERGED)}
    assert [positives(row, "csn") for row in source.rows] == [
        {"2AVB", "1AVB", "AVB"}, {"VB"}, {"STTC", "STE", "STDD", "STTU"}, {"CCR"}, {"SR"}, {"2AVB1", "SR"},
    ]  # fmt: skip
    assert positives(source.rows[4], "csn_full") == {"LVQRSAL", "SR"}
    assert all(set(row.labels["csn"]) == set(CSN) for row in source.rows)


def test_a_record_is_in_a_task_where_it_has_one_of_its_classes(tmp_path: Path) -> None:
    record(tmp_path, 1, dx("SB"))
    record(tmp_path, 2, dx("SB", "TWC"))
    record(tmp_path, 3, UNMAPPED)
    record(tmp_path, 4, f"{dx('AF')},,{UNMAPPED}, {dx('TWC')},{dx('AF')}")
    record(tmp_path, 5, dx("AFIB"))
    rows = of(read_source(tmp_path).rows)
    assert [set(rows[f"JS0000{n}"].labels) for n in (1, 2, 3, 4, 5)] == [
        {"csn_full"}, {"csn", "csn_full", "csn_merged"}, set(), *[{"csn", "csn_full", "csn_merged"}] * 2,
    ]  # fmt: skip
    assert positives(rows["JS00001"], "csn_full") == {"SB"}
    assert positives(rows["JS00002"], "csn") == {"TWC"}
    assert positives(rows["JS00004"], "csn") == {"AF", "TWC"}
    assert positives(rows["JS00004"], "csn_merged") == {"AFIB/AF", "TWC"}
    assert positives(rows["JS00005"], "csn_merged") == {"AFIB/AF"}
    assert [(row.extra["acronyms"], row.extra["unmapped"]) for row in rows.values()] == [
        ("SB", None), ("SB,TWC", None), (None, UNMAPPED), ("AF,TWC", UNMAPPED), ("AFIB", None),
    ]  # fmt: skip
    assert rows["JS00004"].extra["age"] == 85.0
    assert rows["JS00004"].extra["sex"] == "male"
    assert all(row.patient == row.record for row in rows.values())


def test_where_acronyms_share_a_code_the_first_is_the_class() -> None:
    assert acronyms(["164909002", "698252002", "164865005", "195101003", "1"]) == (["LBBB", "IDC", "MI", "WAVN"], ["1"])


def test_malformed_and_silent_headers_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = tmp_path / "raw"
    for number in (1, 2):
        record(raw, number, dx("SR"), with_samples=True)
    malformed(record(raw, 1052, dx("SB", "TWC"), with_samples=True))
    record(raw, 3, None, with_samples=True)
    with caplog.at_level(logging.WARNING):
        source = read_source(raw)
    assert "1 headers are malformed, and their recordings cannot be read (JS01052; " in caplog.text
    assert "1 headers have no #Dx and are in no task: JS00003" in caplog.text
    assert positives(of(source.rows)["JS01052"], "csn") == {"TWC"}
    with pytest.raises(CohortError, match=r"1 recordings are unreadable .*JS01052"):
        write(source, tmp_path / "cohort")
    ledger = write(source, tmp_path / "cohort", allow_unreadable=True)
    assert (ledger.n_total, ledger.kept, ledger.unreadable) == (4, 3, 1)


def test_classes_of_one_site_alone_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1, 13):
        record(tmp_path, number, dx("AFIB", "SR"))
    for number in range(10_646, 10_656):  # the first is the last one of Chapman-Shaoxing
        record(tmp_path, number, dx("AF", "SR"))
    for number in range(10_656, 10_660):
        record(tmp_path, number, dx("APB"))  # too few to say
    with caplog.at_level(logging.WARNING):
        source = read_source(tmp_path)
    assert "only one of its two sites has AFIB (12 in Chapman-Shaoxing): a score" in caplog.text
    assert "task csn_merged has fibrillation and flutter as one class" in caplog.text
    assert [row.extra["site"] for row in source.rows[11:14]] == ["Chapman-Shaoxing", "Chapman-Shaoxing", "Ningbo"]
    caplog.clear()
    for path in tmp_path.rglob("JS106[45]*.hea"):
        path.unlink()
    with caplog.at_level(logging.WARNING):
        read_source(tmp_path)
    assert caplog.text == ""  # one site alone: nothing to tell apart


def test_a_folder_without_records_and_a_name_twice_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"contains no header JS00001\.hea"):
        read_source(tmp_path)
    record(tmp_path, 1, dx("SR"))
    record(tmp_path / "copy", 1, dx("SR"))
    with pytest.raises(CohortError, match="record JS00001 appears twice"):
        read_source(tmp_path)


def test_prepare_end_to_end(tmp_path: Path) -> None:
    for number in (1, 2, 20_000):
        record(tmp_path / "raw", number, dx("SR", "TWC"), with_samples=True)
    target = tmp_path / "cohort"
    done = CliRunner().invoke(
        app, ["prepare", "csn", str(tmp_path / "raw"), "-o", str(target), "--json", str(tmp_path / "l.json")]
    )
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "l.json").read_text())["ledger"]["kept"] == 3
    cohort = Cohort.open(target, verify=True)
    assert cohort.source == "csn"
    assert cohort.index["acronyms"].tolist() == ["SR,TWC"] * 3
    assert cohort.index["site"].tolist() == ["Chapman-Shaoxing", "Chapman-Shaoxing", "Ningbo"]
    labels = cohort.labels("csn", cohort.rows(task="csn"))
    assert labels.sum(axis=0).tolist() == [3 * (name in ("SR", "TWC")) for name in CSN]
    expected = np.random.default_rng(2).integers(-900, 900, (5000, 12)) / 1000.0
    np.testing.assert_allclose(cohort.signal(1)[0], expected, atol=1e-6)


def test_the_two_hospitals_are_scored_apart(tmp_path: Path) -> None:
    for first in (1, 20_000):  # enough of either to be scored
        for number in range(first, first + subgroups.MIN_RECORDS):
            record(tmp_path / "raw", number, dx("SR", "TWC"), with_samples=True)
    write(read_source(tmp_path / "raw"), tmp_path / "cohort")
    cohort = Cohort.open(tmp_path / "cohort")
    site = subgroups.group_names(cohort, np.arange(len(cohort)))["site"]
    n = subgroups.MIN_RECORDS
    assert dict(zip(cohort.index["record"], site)) == {
        **{f"JS{number:05d}": CHAPMAN for number in range(1, 1 + n)},
        **{f"JS{number:05d}": NINGBO for number in range(20_000, 20_000 + n)},
    }


def test_a_prepared_cohort_still_tells_the_classes_of_one_site(tmp_path: Path) -> None:
    for number in range(1, 13):
        record(tmp_path / "raw", number, dx("AFIB", "TWC"), with_samples=True)
        record(tmp_path / "raw", 20_000 + number, dx("AF", "TWC"), with_samples=True)
    write(read_source(tmp_path / "raw"), tmp_path / "cohort")
    findings = {f.check: f for f in audit_cohort(Cohort.open(tmp_path / "cohort"), 1).findings}
    finding = findings["task csn, classes at some sites only"]
    assert finding.severity == "warning"
    assert f"AF (12 at site {NINGBO}, none of 12 at site {CHAPMAN})" in finding.message
    assert f"AFIB (12 at site {CHAPMAN}, none of 12 at site {NINGBO})" in finding.message
    assert "TWC" not in finding.message
    assert "task csn_merged, classes at some sites only" not in findings


# ------------------------------------------------------------------------------------------------- header comments


def test_comments_of_a_header() -> None:
    raw = b"a 1 500\na.dat 16\n#Age: 49\n# Sex : Female\n#Dx: 1,2\n#Dx: 3\n#no colon\n#Hx: a: b\nAge: 7\n"
    assert wfdb_header.comments(raw) == {"age": "49", "sex": "Female", "dx": "1,2,3", "hx": "a: b"}
    assert wfdb_header.comments("#Sex: F\xb5".encode("latin-1")) == {"sex": "F\xb5"}
    assert wfdb_header.comments(b"") == {}


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("49", 49.0),
        ("0", 0.0),
        ("89.5", 89.5),
        ("NaN", None),
        ("-1", None),
        ("300", None),
        ("Unknown", None),
        ("", None),
    ],
)
def test_an_age_that_is_none_is_unknown(text: str, age: float | None) -> None:
    assert wfdb_header.person({"age": text, "sex": "FEMALE"}) == {"age": age, "sex": "female"}
    assert wfdb_header.person({"sex": "Unknown"}) == {"age": None, "sex": None}


# ------------------------------------------------------------------------------------------------------- real data


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="no part of CSN is beside this checkout")
def test_golden_labels_of_real_records(tmp_path: Path) -> None:
    folder = SHARED / "data" / "chapman"
    source = read_source(folder)
    with (folder / "labels.csv").open(newline="") as file:
        lines = {line["record"]: line for line in csv.DictReader(file)}
    assert len(source.rows) == len(lines) == 85
    for row in source.rows:
        codes = [code for code in lines[row.record]["dx_snomed"].split(",") if code]
        exact = {CSN_ACRONYMS[code] for code in codes if code in CSN_ACRONYMS}
        assert (positives(row, "csn_full") if exact else set(row.labels)) == exact, row.record
        assert positives(row, "csn") == exact & set(CSN) if exact & set(CSN) else "csn" not in row.labels
        assert str(row.extra["unmapped"] or "") == ",".join(code for code in codes if code not in CSN_ACRONYMS)
    listed = [row for row in source.rows if lines[row.record]["merl_split"]]
    by_substring = {row.record: {name for name in CSN if name in str(row.extra["acronyms"])} for row in listed}
    published = {row.record: set(lines[row.record]["merl_labels"].split(";")) for row in listed}
    assert len(listed) == 36
    assert [name for name in published if published[name] != by_substring[name]] == ["JS00005"]
    # its header lists 1AVB too, which the published table does not have
    assert published["JS00005"] == {name for name in CSN if name in "AF,STDD,STTC"}
    ledger = write(source, tmp_path / "cohort")
    assert (ledger.n_total, ledger.kept) == (85, 85)
