"""CPSC2018 in both its forms: labels by number and by code, age and sex, `.mat` structs, and one error for each fault."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from scipy.io import savemat
from typer.testing import CliRunner

from leadwise.batch import LEADS
from leadwise.cli import app
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.formats.mat import age_and_sex
from leadwise.data.formats.reading import files, read
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.cpsc2018 import CPSC2018, read_source
from leadwise.data.sources.source import Row

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
HEAD = "Recording,First_label,Second_label,Third_label\n"


def samples(n: int = 3000, seed: int = 0) -> np.ndarray:
    """Millivolts (12, n), in steps of a microvolt."""
    return np.random.default_rng(seed).integers(-900, 900, (12, n)) / 1000.0


def matlab(path: Path, data: Any, sex: Any = "Male", age: Any = 74, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"ECG": {"sex": sex, "age": age, "data": data}}, **options)
    return path


def original(folder: Path) -> Path:
    """The challenge's own form, its files over two folders."""
    matlab(folder / "TrainingSet1" / "A0001.mat", samples(seed=1), "Female", 74)
    matlab(folder / "TrainingSet1" / "A0002.mat", samples(4321, seed=2), "Male", np.nan, do_compression=True)
    matlab(folder / "TrainingSet2" / "A6877.mat", samples(seed=3), "Male", -1)
    (folder / "REFERENCE.csv").write_text(HEAD + "A0001,5,,\nA0002,2,5,\nA6877,1,8,9\n")
    return folder


def repack(
    folder: Path, name: str, dx: str | None, age: str = "49", sex: str = "Female", seed: int | None = None
) -> Path:
    """A record in the form of PhysioNet/CinC: WFDB format 16 behind a 24-byte head of MATLAB 4."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = np.rint(samples(seed=int(name[1:]) if seed is None else seed) * 1000).astype("<i2").T  # (T, 12)
    (folder / f"{name}.mat").write_bytes(bytes(24) + steps.tobytes())
    lines = [f"{name} 12 500 {len(steps)} 12-May-2020 12:33:59"]
    for lead, column in zip(LEADS, steps.T):
        checksum = int(column.sum(dtype=np.int16))
        lines.append(f"{name}.mat 16+24 1000/mV 16 0 {column[0]} {checksum} 0 {lead}")
    lines += [f"#Age: {age}", f"#Sex: {sex}", *([] if dx is None else [f"#Dx: {dx}"]), "#Rx: Unknown"]
    path = folder / f"{name}.hea"
    path.write_text("\n".join(lines) + "\n")
    return path


def positives(row: Row) -> set[str]:
    return {name for name, value in row.labels["cpsc2018"].items() if value}


def test_the_challenges_own_form(tmp_path: Path) -> None:
    source = read_source(original(tmp_path / "raw"))
    assert source.tasks == {"cpsc2018": tuple(CPSC2018)}
    assert [row.record for row in source.rows] == ["A0001", "A0002", "A6877"]
    assert [positives(row) for row in source.rows] == [{"CRBBB"}, {"AFIB", "CRBBB"}, {"NORM", "STD", "STE"}]
    assert [row.extra["age"] for row in source.rows] == [74.0, None, None]
    assert [row.extra["sex"] for row in source.rows] == ["female", "male", "male"]
    ledger = write(source, tmp_path / "cohort")
    assert (ledger.n_total, ledger.kept, ledger.n_leads_missing) == (3, 3, 0)
    cohort = Cohort.open(tmp_path / "cohort", verify=True)
    signal, rate_hz = cohort.signal(1)
    assert rate_hz == 500
    np.testing.assert_allclose(signal, samples(4321, seed=2).T, atol=1e-6)  # packed at 1 uV: nothing is lost
    np.testing.assert_array_equal(cohort.labels("cpsc2018", np.array([0])), [[0, 0, 0, 0, 1, 0, 0, 0, 0]])


def test_the_form_of_cinc_with_codes_and_with_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = tmp_path / "raw"
    repack(raw / "g1", "A0001", "164889003,59118001", age="NaN")
    repack(raw / "g1", "A0002", "I-AVB", age="-1", sex="Unknown")
    repack(raw / "g7", "A6000", "Normal, PVC")
    repack(raw / "g7", "A6001", None)
    repack(raw / "g7", "Q0001", "10370003")  # of another data set of the challenge
    with caplog.at_level(logging.WARNING):
        source = read_source(raw)
    assert "1 headers have no #Dx and are not in the task: A6001" in caplog.text
    assert [row.record for row in source.rows] == ["A0001", "A0002", "A6000", "A6001"]
    assert [positives(row) for row in source.rows[:3]] == [{"AFIB", "CRBBB"}, {"1AVB"}, {"NORM", "VPC"}]
    assert source.rows[3].labels == {}
    assert [row.extra for row in source.rows[:3]] == [
        {"age": None, "sex": "female"},
        {"age": None, "sex": None},
        {"age": 49.0, "sex": "female"},
    ]
    write(source, tmp_path / "cohort")
    cohort = Cohort.open(tmp_path / "cohort", verify=True)
    signal, _ = cohort.signal(0)
    np.testing.assert_array_equal(signal, wfdb.rdrecord(str(raw / "g1" / "A0001")).p_signal.astype(np.float32))
    np.testing.assert_array_equal(cohort.rows(task="cpsc2018"), [0, 1, 2])


def test_copies_under_two_names_are_an_error_or_left_out(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for name, seed in (("A0001", 7), ("A0002", 8), ("A0003", 7), ("A0005", 7)):
        repack(raw, name, "164889003", seed=seed)
    source = read_source(raw)
    with pytest.raises(CohortError, match=r"2 recordings have the same samples .* A0001 .* and A0003 .*--allow-copies"):
        write(source, tmp_path / "cohort", shard_records=2)
    ledger = write(source, tmp_path / "cohort", shard_records=2, allow_copies=True)
    assert (ledger.n_total, ledger.kept, ledger.copy, ledger.without_report) == (4, 2, 2, 2)
    cohort = Cohort.open(tmp_path / "cohort", verify=True)
    assert list(cohort.records) == ["A0001", "A0002"]
    np.testing.assert_allclose(cohort.signal(1)[0], samples(seed=8).T, atol=1e-6)
    lines = (tmp_path / "cohort" / "dropped.csv").read_text().splitlines()
    assert lines[1:] == [f"{name},copy,the samples of record A0001" for name in ("A0003", "A0005")]


def test_a_table_beside_headers_says_the_labels(tmp_path: Path) -> None:
    repack(tmp_path, "A0001", "426783006")
    (tmp_path / "REFERENCE.csv").write_text(HEAD + "A0001,2,,\n")
    (row,) = read_source(tmp_path).rows
    assert positives(row) == {"AFIB"}
    assert row.leads is None  # its header says them
    assert row.extra == {"age": 49.0, "sex": "female"}


def test_a_split_follows_from_the_name_alone(tmp_path: Path) -> None:
    names = [f"A{number:04d}" for number in range(1, 1001)]
    (tmp_path / "REFERENCE.csv").write_text(HEAD + "".join(f"{name},1,,\n" for name in names))
    rows = read_source(tmp_path).rows
    shares = [sum(row.split == split for row in rows) / len(rows) for split in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.03)
    (tmp_path / "REFERENCE.csv").write_text(HEAD + "".join(f"{name},1,,\n" for name in names[::7]))
    assert [row.split for row in read_source(tmp_path).rows] == [row.split for row in rows[::7]]
    with pytest.raises(CohortError, match=r"143 of 143 recordings have a missing file \(.*A0001\.mat"):
        write(read_source(tmp_path), tmp_path / "cohort")


def test_recordings_that_the_table_does_not_list_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    original(tmp_path)
    (tmp_path / "REFERENCE.csv").write_text(HEAD + "A0001,5.0,,\n")
    with caplog.at_level(logging.WARNING):
        (row,) = read_source(tmp_path).rows
    assert positives(row) == {"CRBBB"}
    assert "2 of the recordings; they are left out: A0002, A6877" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A0001,10,,", "record 'A0001': a label is '10', which is none of the nine classes: 1, 2"),
        ("A0001,0,,", "a label is '0', which is none"),
        ("A0001,1,x,", "a label is 'x', which is none"),
        ("A0001,,,", "record 'A0001' has no label"),
        ("A0001,1,,\nA0001,1,,", "'A0001' is not A0001 ... A6877, or appears twice"),
        ("normal ecg,1,,", "record a longer text is not A0001"),
    ],
)
def test_a_bad_line_of_the_table_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "REFERENCE.csv").write_text(f"{HEAD}{line}\n")
    with pytest.raises(CohortError, match=message):
        read_source(tmp_path)


def test_a_folder_that_is_not_cpsc2018_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"contains no recording A0001 \.\.\. A6877"):
        read_source(tmp_path)
    matlab(tmp_path / "A0001.mat", samples())
    with pytest.raises(CohortError, match=r"contains 1 \.mat files and no REFERENCE\.csv"):
        read_source(tmp_path)
    (tmp_path / "REFERENCE.csv").write_text("Recording,First_label\nA0001,1\n")
    with pytest.raises(CohortError, match="no column Second_label, Third_label"):
        read_source(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "REFERENCE.csv").write_text(HEAD)
    with pytest.raises(CohortError, match="contains 2 tables"):
        read_source(tmp_path)


def test_a_code_beyond_the_nine_and_a_name_twice_are_errors(tmp_path: Path) -> None:
    repack(tmp_path / "g1", "A0001", "164889003,10370003")
    with pytest.raises(CohortError, match=r"A0001\.hea: #Dx is '10370003', which is none of the nine"):
        read_source(tmp_path)
    repack(tmp_path / "g1", "A0001", "164889003")
    repack(tmp_path / "g2", "A0001", "164889003")
    with pytest.raises(CohortError, match="record A0001 appears twice"):
        read_source(tmp_path)


# ---------------------------------------------------------------------------------------------------- .mat structs


def test_a_struct_is_read_either_way_round_with_missing_samples(tmp_path: Path) -> None:
    data = samples()
    data[3, 1000:1010] = np.nan
    data[4, 7] = np.inf
    for table in (data, data.T):
        path = matlab(tmp_path / "A0001.mat", table)
        recording = read(path, leads=LEADS, rate_hz=500, units="mV")
        expected = np.where(np.isfinite(data), data, np.nan).T
        np.testing.assert_array_equal(recording.signal, expected)
        assert recording.files == files(path) == (path,)
    with pytest.raises(RecordError, match="does not state the leads"):
        read(path, rate_hz=500, units="mV")
    with pytest.raises(RecordError, match="does not state the sampling rate"):
        read(path, leads=LEADS, units="mV")


def test_a_header_beside_a_mat_makes_it_wfdb(tmp_path: Path) -> None:
    repack(tmp_path, "A0001", "164889003")
    assert files(tmp_path / "A0001.mat") == (tmp_path / "A0001.hea", tmp_path / "A0001.mat")
    np.testing.assert_allclose(read(tmp_path / "A0001.mat").signal, samples(seed=1).T, atol=1e-9)
    (tmp_path / "A0001.hea").unlink()
    with pytest.raises(RecordError, match=r"A0001\.mat"):  # its 24 bytes are no head of MATLAB
        read(tmp_path / "A0001.mat", leads=LEADS, rate_hz=500, units="mV")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"ECG": {"sex": "Male"}}, "it contains no array of numbers"),
        ({"ECG": {"data": "text"}}, "it contains no array of numbers"),
        ({"ECG": {"data": samples(50)[:11]}}, r"shape \(11, 50\) has no side of 12 leads"),
        ({"ECG": {"data": samples(12)}}, r"shape \(12, 12\) could be either way round"),
        ({"ECG": {"data": samples(50) + 1j}}, "it must be numbers of shape"),
    ],
)
def test_another_mat_is_one_clear_error(tmp_path: Path, held: dict[str, Any], message: str) -> None:
    savemat(tmp_path / "A0001.mat", held)
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "A0001.mat", leads=LEADS, rate_hz=500, units="mV")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_mat_is_one_clear_error(tmp_path: Path, compressed: bool) -> None:
    whole = matlab(tmp_path / "A0001.mat", samples(400), do_compression=compressed).read_bytes()
    for n_left in (*range(0, 400, 17), len(whole) // 2, len(whole) - 50):
        (tmp_path / "A0002.mat").write_bytes(whole[:n_left])
        with pytest.raises(RecordError, match=r"A0002\.mat"):
            read(tmp_path / "A0002.mat", leads=LEADS, rate_hz=500, units="mV")
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        broken[int(rng.integers(128, 400))] ^= int(rng.integers(1, 256))
        (tmp_path / "A0002.mat").write_bytes(bytes(broken))
        with contextlib.suppress(RecordError):  # no other error, whatever scipy raises; some bytes do not matter
            assert read(tmp_path / "A0002.mat", leads=LEADS, rate_hz=500, units="mV").leads == LEADS
    (tmp_path / "A0002.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(RecordError, match=r"A0002\.mat: not a readable \.mat file"):
        age_and_sex(tmp_path / "A0002.mat")
    with pytest.raises(FileNotFoundError):
        age_and_sex(tmp_path / "A0003.mat")


def test_a_damaged_mat_is_dropped_with_its_reason(tmp_path: Path) -> None:
    raw = original(tmp_path / "raw")
    path = raw / "TrainingSet1" / "A0001.mat"
    path.write_bytes(path.read_bytes()[:5000])
    source = read_source(raw)
    assert source.rows[0].extra == {"age": None, "sex": None}
    with pytest.raises(CohortError, match="1 recordings are unreadable"):
        write(source, tmp_path / "cohort")
    ledger = write(source, tmp_path / "cohort", allow_unreadable=True)
    assert (ledger.kept, ledger.unreadable) == (2, 1)
    assert "A0001,unreadable" in (tmp_path / "cohort" / "dropped.csv").read_text()


def test_prepare_end_to_end(tmp_path: Path) -> None:
    original(tmp_path / "raw")
    words = ["prepare", "cpsc2018", str(tmp_path / "raw"), "-o", str(tmp_path / "cohort")]
    idle = CliRunner().invoke(app, [*words, "--min-likelihood", "50", "--rate-hz", "500"])
    assert idle.exit_code == 2
    assert "has no option rate_hz, min_likelihood; it takes none" in " ".join(idle.output.replace("│", " ").split())
    done = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "ledger.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "ledger.json").read_text())["ledger"]["kept"] == 3
    assert Cohort.open(tmp_path / "cohort").source == "cpsc2018"


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="no part of CPSC2018 is beside this checkout")
def test_golden_labels_of_real_records(tmp_path: Path) -> None:
    folder = SHARED / "data" / "cpsc_2018"
    source = read_source(folder)
    with (folder / "labels.csv").open(newline="") as file:
        lines = {line["record"]: line for line in csv.DictReader(file)}
    assert len(source.rows) == len(lines) == 117
    for row in source.rows:
        line = lines[row.record]
        assert positives(row) == set(line["merl_labels"].split(";")), row.record
        assert row.extra == {"age": float(line["age"]), "sex": line["sex"].lower()}
    assert {name for row in source.rows for name in positives(row)} == set(CPSC2018)
    ledger = write(source, tmp_path / "cohort")
    assert (ledger.n_total, ledger.kept, ledger.n_leads_recorded) == (117, 117, 12 * 117)
    cohort = Cohort.open(tmp_path / "cohort")
    assert set(cohort.index["rate_hz"]) == {500.0}
    assert cohort.index["n_samples"].tolist() == [int(lines[record]["samples"]) for record in cohort.records]
