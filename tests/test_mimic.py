"""MIMIC-IV-ECG: two tables joined by study, the report word for word, and the whole way from a tree to a cohort."""

from __future__ import annotations

import csv
import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as some
from mimic_tree import MIMIC_LEADS, Tree, time_of, write_tables, write_tree

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.formats import reading
from leadwise.data.recordings import twelve_leads
from leadwise.data.sources.mimic_iv_ecg import Options, merl_report, read_source
from leadwise.data.sources.source import Source

SECRET = "patient says something private"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """2,000 recordings of two seconds."""
    return write_tree(tmp_path_factory.mktemp("mimic"), 2000, n_samples=1000)


@pytest.fixture(scope="module")
def source(tree: Tree) -> Source:
    return read_source(tree.folder)


def tables(
    folder: Path,
    listing: Sequence[Sequence[object]] = ((10, 1, "files/a/1"), (10, 2, "files/a/2"), (20, 3, "files/b/3")),
    measured: Sequence[Sequence[object]] = ((20, 3, "c", "d"), (10, 1, "a", ""), (10, 2, "b", "")),
    columns: Sequence[str] = ("subject_id", "study_id", "report_0", "report_1"),
) -> Path:
    """The two tables alone, of three studies by default."""
    for name, header, lines in (
        ("record_list.csv", ("subject_id", "study_id", "path"), listing),
        ("machine_measurements.csv", columns, measured),
    ):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *lines])
    return folder


# ---------------------------------------------------------------------------------------------------------- reports


@pytest.mark.parametrize(
    ("statements", "text", "n_words"),
    [
        ((), "empty", 0),
        (("",), "empty", 0),
        (("***",), "empty", 0),
        (("*", "---"), ". .", 1),  # the joint of two statements counts as a word
        (("\n\t",), "empty", 0),
        (("Sinus rhythm",), "sinus rhythm.", 2),
        (("Sinus rhythm", "Normal ECG"), "sinus rhythm. normal ecg.", 4),
        (("*** sinus rhythm ***",), "sinus rhythm.", 2),
        (("*** Sinus rhythm ***", "*** Abnormal ECG ***"), "sinus rhythm ***. *** abnormal ecg.", 6),
        (("Abnormal EKG", "an ekg", "an Ekg"), "abnormal ecg. an ecg. an ekg.", 6),
        (("Sinus\nrhythm\r\nwith\tpauses",), "sinus rhythm  with pauses.", 4),
        (("-=- Sinus rhythm -",), " sinus rhythm .", 2),  # first spaces and '*', then '=' and '-': a space is left
        (("=* Sinus *=",), "* sinus *.", 3),
        (("Infarct - age undetermined", "Summary: borderline"), "infarct - age undetermined. summary: borderline.", 6),
        (("Sinus rhythm.", "Normal ECG."), "sinus rhythm.. normal ecg..", 4),
    ],
)
def test_the_report_is_worded_step_by_step(statements: tuple[str, ...], text: str, n_words: int) -> None:
    assert merl_report(statements) == (text, n_words)


CELL = some.text(alphabet=" *=-.\n\taEKGekg", min_size=1, max_size=8)


@given(some.lists(CELL, max_size=4))
def test_words_are_counted_the_same_before_and_after_the_period(statements: list[str]) -> None:
    from leadwise.data.sources import mimic_iv_ecg

    assert len(mimic_iv_ecg._report(statements).split()) == merl_report(statements)[1]


def test_rows_have_the_report_of_their_study(tree: Tree, source: Source) -> None:
    for cells, row in zip(tree.statements, source.rows):
        text, n_words = merl_report([cell for cell in cells if cell])
        assert row.report == (f"{text[:-1].strip()}." if n_words else "")
        assert len(row.report.split()) == n_words
    silent = [source.rows[row] for row in tree.flaws["no_report"]]
    assert [(row.report, row.statements) for row in silent] == [("", ())] * 3
    marks = [source.rows[row] for row in tree.flaws["marks"]]
    assert marks[0].report == "sinus rhythm ***. *** abnormal ecg."
    assert marks[1].report == "atrial flutter. abnormal ecg."
    assert [row.statements for row in marks[:2]] == [
        ("sinus rhythm", "abnormal ecg"),
        ("atrial flutter", "abnormal ecg"),
    ]
    assert source.rows[tree.flaws["ekg"][0]].report == "sinus rhythm. abnormal ecg."
    assert source.rows[tree.flaws["line_break"][0]].statements == ("sinus rhythm with pauses", "abnormal ecg")
    assert source.rows[tree.flaws["inner_marks"][0]].statements[1] == "warning: poor data quality"


def test_statements_keep_their_order_however_many_columns_there_are(tmp_path: Path) -> None:
    numbers = (10, 2, 0, 1)
    columns = (*(f"report_{k}" for k in numbers), "report_text", "study_id", "subject_id")
    lines = [(f"s{a}", "", f" S{b}. ", "- -", "not this", study, subject) for a, b, study, subject in
             ((10, 0, 1, 10), (11, 1, 2, 10), (12, 2, 3, 20))]  # fmt: skip
    rows = read_source(tables(tmp_path, measured=lines, columns=columns)).rows
    assert [row.statements for row in rows] == [("s0", "s10"), ("s1", "s11"), ("s2", "s12")]
    assert rows[0].report == "s0. . - -. s10."


# ------------------------------------------------------------------------------------------------------------- rows


def test_rows_stand_in_the_order_of_the_list_joined_by_study(tree: Tree, source: Source) -> None:
    measured = pd.read_csv(tree.folder / "machine_measurements.csv")
    assert not np.array_equal(measured["study_id"], tree.studies)  # a join by position would fail
    assert (source.name, source.tasks, source.min_report_words) == ("mimic_iv_ecg", {}, 4)
    assert [row.record for row in source.rows] == [str(study) for study in tree.studies]
    assert [row.patient for row in source.rows] == [str(subject) for subject in tree.subjects]
    assert [row.path for row in source.rows] == [tree.folder / path for path in tree.paths]
    assert [row.extra for row in source.rows] == [{"ecg_time": time_of(row)} for row in range(2000)]


def test_rows_are_a_sequence_made_when_asked(tree: Tree, source: Source) -> None:
    rows = source.rows
    every = list(rows)
    assert (len(rows), len(every)) == (2000, 2000)
    assert (rows[0], rows[1999], rows[-1], rows[-2000]) == (every[0], every[1999], every[1999], every[0])
    assert rows[3] == rows[np.int64(3)] == every[3]
    for chosen in (slice(5, 9), slice(None), slice(1990, 3000), slice(9, 5), slice(-3, None), slice(0, 2000, 700)):
        assert rows[chosen] == every[chosen]
        assert isinstance(rows[chosen], list)
    assert rows[::-500] == every[::-500]
    assert list(reversed(rows))[:2] == every[:-3:-1]
    for outside in (2000, -2001):
        with pytest.raises(IndexError):
            rows[outside]
    assert pickle.loads(pickle.dumps(rows[:3])) == every[:3]


def test_a_table_without_times_gives_none(tmp_path: Path) -> None:
    assert [row.extra for row in read_source(tables(tmp_path)).rows] == [{}, {}, {}]


def test_subjects_are_split_by_their_id(tree: Tree, tmp_path: Path) -> None:
    def splits(folder: Path, val_share: float) -> dict[str, set[str]]:
        actual: dict[str, set[str]] = {}
        for row in read_source(folder, Options(val_share=val_share)).rows:
            actual.setdefault(row.patient, set()).add(row.split)
        return actual

    few, many = splits(tree.folder, 0.02), splits(tree.folder, 0.3)
    assert all(len(names) == 1 for names in many.values())
    share = np.mean([names == {"val"} for names in many.values()])
    assert 0.2 < share < 0.4
    assert {subject for subject in few if "val" in few[subject]} < {
        subject for subject in many if "val" in many[subject]
    }
    assert {*set.union(*splits(tree.folder, 0.0).values())} == {"train"}
    half = dataclasses.replace(
        tree, folder=tmp_path, subjects=tree.subjects[::2], studies=tree.studies[::2], paths=tree.paths[::2],
        statements=tree.statements[::2],
    )  # fmt: skip
    write_tables(half)
    assert all(many[subject] == names for subject, names in splits(tmp_path, 0.3).items())  # the same with fewer


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("val_share", [1.0, -0.1, float("nan")])
def test_options_are_checked(val_share: float) -> None:
    with pytest.raises(CohortError, match=r"val_share is .*; it must be a share"):
        Options(val_share=val_share)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listing": [(10, 1, "a"), (10, 2, "b")]}, r"measurements\.csv: 1 studies are not in record_list\.csv \(study_id 3\)"),
        ({"measured": [(10, 2, "b", "")]}, r"record_list\.csv: 2 studies are not in .*measurements\.csv \(study_id 1, 3\)"),
        ({"measured": []}, r"record_list\.csv: 3 studies are not in .*\(study_id 1, 2, 3\); use the two files of one release"),
        ({"listing": [(10, 1, "a"), (10, 1, "b"), (20, 3, "c")]}, r"list\.csv: 1 studies appear .* \(study_id 1\)"),
        (
            {"measured": [(20, 3, "", ""), (10, 1, "", ""), (10, 2, "", ""), (10, 2, "", "")]},
            r"measurements\.csv: 1 studies appear more than once \(study_id 2\)",
        ),
        (
            {"measured": [(20, 3, "", ""), (10, 1, "", ""), (20, 2, "", "")]},
            r"measurements\.csv: 1 studies have another subject_id than in record_list\.csv \(study_id 2\)",
        ),
        ({"listing": [(10, 1, "a"), (10, "2.5", "b")]}, r"record_list\.csv row 3: study_id is '2\.5', not a whole number"),
        ({"listing": [(10, 1, "a"), ("", 2, "b")]}, r"record_list\.csv row 3: subject_id is '', not a whole number"),
        ({"measured": [(20, SECRET, "", "")]}, r"measurements\.csv row 2: study_id is a longer text, not a whole number"),
        ({"listing": [(10, 1, "a"), (10, 2, "")]}, r"record_list\.csv row 3: it has no path"),
        ({"listing": [(10, 1, "/etc/passwd")]}, r"record_list\.csv row 2: the path /etc/passwd leaves"),
        ({"listing": [(10, 1, "a/../../b")]}, r"record_list\.csv row 2: the path a/\.\./\.\./b leaves"),
        ({"listing": [(10, 1, "a"), (10, 2, "..")]}, r"record_list\.csv row 3: the path \.\. leaves"),
        ({"listing": [(10, 1, SECRET)]}, r"record_list\.csv row 2: the path a longer text leaves .* or has a space"),
        *(({"listing": [(10, 1, path)]}, "row 2: the path .* leaves") for path in ("c:/x", "a\\..\\b", "a\nb", "a\x00b", "../a")),
        ({"measured": [(20, 3, SECRET, "", "")]}, r"measurements\.csv is not a CSV .*\(a row of 5 cells under 4 columns\)"),
        ({"columns": ("subject_id", "study_id", "report", "x")}, r"measurements\.csv: it has no column report_0"),
        ({"columns": ("subject_id", "study_id", "report_0", "report_0")}, r"column report_0 appears twice"),
        ({"columns": ("study", "subject", "report_0", "report_1")}, r"it has no column subject_id, study_id; download it again"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named(tmp_path: Path, changes: dict[str, Sequence], message: str) -> None:
    with pytest.raises(CohortError, match=message) as caught:
        read_source(tables(tmp_path, **changes))
    assert "private" not in str(caught.value)


def test_a_name_with_dots_is_no_way_out(tmp_path: Path) -> None:
    listing = ((10, 1, "files/a..b/1"), (10, 2, "..files/2"), (20, 3, "files/3.."))
    assert read_source(tables(tmp_path, listing)).rows[0].path == tmp_path / "files/a..b/1"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it has no column subject_id"),
        (f"subject_id,study_id,report_0\n10,1,{SECRET}\xe9\n".encode("latin-1"), "not a CSV table in UTF-8"),
        (f'subject_id,study_id,report_0\n10,1,"{SECRET}\n10,2,\n20,3,\n'.encode(), r"\(study_id 2, 3\)"),  # one cell
        (f"subject_id,study_id,report_0\n10,1\n10,2,{SECRET}\n".encode(), "a row of 2 cells under 3 columns"),
    ],
)
def test_a_broken_table_is_named_without_its_text(
    tmp_path: Path, content: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tables(tmp_path) / "machine_measurements.csv"
    path.write_bytes(content)
    with pytest.raises(CohortError, match=rf"measurements\.csv.*{why}") as caught:
        read_source(tmp_path)
    assert "private" not in f"{caught.value} {caught.value.__cause__} {caplog.text}"


def test_bad_text_far_down_is_found(tmp_path: Path) -> None:
    lines = [(10, study, f"{study}") for study in range(50_000)]
    with pytest.raises(CohortError, match=r"record_list\.csv row 49002: study_id is 'x'"):
        read_source(tables(tmp_path, [*lines[:49_000], (10, "x", "files/x")]))
    path = tables(tmp_path, lines) / "machine_measurements.csv"
    body = b"".join(b"10,%d,sinus rhythm of some length,\n" % study for study in range(50_000))
    path.write_bytes(b"subject_id,study_id,report_0,report_1\n" + body + b"10,50000,\xff,\n")
    with pytest.raises(CohortError, match=r"machine_measurements\.csv is not a CSV table in UTF-8 \(not UTF-8\)"):
        read_source(tmp_path)


@pytest.mark.parametrize("name", ["record_list.csv", "machine_measurements.csv"])
def test_a_missing_table_says_where_to_get_it(tmp_path: Path, name: str) -> None:
    (tables(tmp_path) / name).unlink()
    with pytest.raises(CohortError, match=rf"{name} is missing; .*physionet\.org/content/mimic-iv-ecg"):
        read_source(tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tables(tmp_path) / "record_list.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_source(tmp_path).rows) == 3


def test_no_study_is_no_cohort(tmp_path: Path) -> None:
    empty = read_source(tables(tmp_path, [], []))
    assert (len(empty.rows), list(empty.rows), empty.rows[:5]) == (0, [], [])
    with pytest.raises(CohortError, match="it has no recording"):
        write(empty, tmp_path / "out")


# ---------------------------------------------------------------------------------------------------- the whole way


@pytest.mark.parametrize("shared_files", [False, True])
def test_leads_come_by_name_out_of_their_own_order(tmp_path: Path, shared_files: bool) -> None:
    tree = write_tree(tmp_path, 20, 1, 1000, n_flawed=1, shared_files=shared_files)
    row = next(row for row in range(1, 20) if all(row not in rows for rows in tree.flaws.values()))
    actual = read_source(tmp_path).rows[row]
    read = reading.read(actual.path)
    assert read.leads == MIMIC_LEADS
    np.testing.assert_allclose(read.signal, wfdb.rdrecord(str(actual.path)).p_signal)
    header = actual.path.with_name(actual.path.name + ".hea").read_text().splitlines()[1].split()
    offset = int(header[1].partition("+")[2] or 0)
    steps = np.fromfile(actual.path.with_name(header[0]), "<i2", offset=offset)[: 1000 * 12].reshape(1000, 12)
    whole = twelve_leads.to_twelve_leads(read)
    assert (whole.lead_order, whole.rate_hz) == ("ok", 500)
    for column, lead in enumerate(LEADS):
        np.testing.assert_allclose(whole.signal[:, column], steps[:, MIMIC_LEADS.index(lead)] / 200)
    assert {lead: LEADS.index(lead) - MIMIC_LEADS.index(lead) for lead in ("aVL", "aVF")} == {"aVL": -1, "aVF": 1}


@pytest.mark.slow
def test_the_ledger_has_every_flaw_and_nothing_else(
    tree: Tree, source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = write(source, tmp_path / "out", allow_missing=True, allow_unreadable=True)
    reasons = {
        "no_report": "no_report", "three_words": "short_report", "no_dat": "missing_file", "no_hea": "missing_file",
        "truncated": "unreadable", "half_missing": "nan", "flat": "flat",
    }  # fmt: skip
    gone = {row: reason for flaw, reason in reasons.items() for row in tree.flaws[flaw]}
    retained = [row for row in range(2000) if row not in gone]
    counts = dataclasses.asdict(ledger)
    assert {name: counts[name] for name in ("n_total", "kept", "without_report")} == {
        "n_total": 2000, "kept": 1979, "without_report": 0,
    }  # fmt: skip
    assert {name: counts[name] for name in set(reasons.values())} == {
        "no_report": 3, "short_report": 3, "missing_file": 6, "unreadable": 3, "nan": 3, "flat": 3,
    }  # fmt: skip
    assert (ledger.n_leads_recorded, ledger.n_leads_derived, ledger.n_leads_missing) == (1979 * 12, 0, 0)
    dropped = pd.read_csv(tmp_path / "out" / "dropped.csv", keep_default_na=False, dtype=str)
    assert dict(zip(dropped["record"], dropped["reason"])) == {str(tree.studies[row]): gone[row] for row in gone}
    cohort = Cohort.open(tmp_path / "out")
    index = cohort.index
    assert index["record"].tolist() == [str(tree.studies[row]) for row in retained]
    assert index["report"].tolist() == [source.rows[row].report for row in retained]
    assert index["report_words"].tolist() == [len(source.rows[row].report.split()) for row in retained]
    assert index["ecg_time"].tolist() == [time_of(row) for row in retained]
    assert not index.groupby("patient")["split"].nunique().gt(1).any()
    assert set(index["lead_order"]) == {"ok"}
    gaps = {retained.index(row): (1, 0) for row in tree.flaws["short_gap"]}
    gaps |= {retained.index(row): (0, 1) for row in tree.flaws["long_gap"]}
    actual = zip(index["n_short_gaps"].map(sum), index["n_long_gaps"].map(sum))
    assert {place: pair for place, pair in enumerate(actual) if pair != (0, 0)} == gaps
    place = next(iter(gaps))
    signal, rate_hz = cohort.signal(place)
    steps = np.fromfile(source.rows[retained[place]].path.with_suffix(".dat"), "<i2").reshape(1000, 12)
    expected = np.where(steps == -32768, np.nan, steps / 200)[:, [MIMIC_LEADS.index(lead) for lead in LEADS]]
    np.testing.assert_allclose(signal, expected.astype(np.float32), rtol=1e-6)
    assert rate_hz == 500
    assert "sinus" not in caplog.text.lower()


def test_records_that_share_a_file_become_a_cohort_of_distinct_samples(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "raw", 60, 2, 1000, n_flawed=1, shared_files=True)
    assert len(list(tree.folder.rglob("*.dat"))) < 40
    ledger = write(read_source(tree.folder), tmp_path / "out", allow_missing=True, allow_unreadable=True)
    assert (ledger.n_total, ledger.kept) == (60, 53)
    assert Cohort.open(tmp_path / "out", verify=True).index["samples_sha256"].is_unique
