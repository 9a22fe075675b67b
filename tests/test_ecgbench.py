"""Data sets of ecgbench: its labels by name, its folds, its licence; the download is not written to; clear errors."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from leadwise.batch import LEADS
from leadwise.cli import app
from leadwise.data import codes, ecgbench_labels
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import csn, ecgbench
from leadwise.data.sources.cpsc2018 import read_source as read_cpsc2018
from leadwise.data.sources.ptbxl import read_source as read_ptbxl
from leadwise.data.sources.source import Row, check

pytest.importorskip("ecgbench", reason="the extra `datasets` is not installed")

SHARED = Path(__file__).resolve().parents[2] / "shared"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="no real ECGs are beside this checkout")


def write_record(header: Path, seed: int, comments: str = "") -> None:
    """A WFDB recording of 12 leads, 2 s at 500 Hz."""
    header.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-900, 900, (1000, 12)).astype("<i2")
    header.with_suffix(".dat").write_bytes(samples.tobytes())
    lines = [f"{header.stem} 12 500 1000"]
    lines += [f"{header.stem}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
    header.write_text("\n".join(lines) + "\n" + comments)


def write_georgia(folder: Path, n: int = 40) -> Path:
    """A part of the challenge: headers with SNOMED CT codes, one of them of no dictionary."""
    dx = ("426783006", "164889003,59118001", "17338001", "427172004", "999999999", "")
    for i in range(n):
        comments = f"#Age: {40 + i if i else -1}\n#Sex: {'Male' if i % 2 else 'Female'}\n#Dx: {dx[i % 6]}\n"
        write_record(folder / f"E{i:05d}.hea", i, comments)
    return folder


def positives(row: Row, task: str) -> set[str]:
    """The positive classes of a row in one task."""
    return {name for name, value in row.labels.get(task, {}).items() if value}


def test_a_part_of_a_challenge_becomes_a_cohort(tmp_path: Path) -> None:
    folder = write_georgia(tmp_path / "georgia")
    source = ecgbench.read_source(folder, ecgbench.Options("challenge2021"))
    rows = {row.record: row for row in source.rows}
    assert len(rows) == 40
    assert source.name == "ecgbench.challenge2021"
    assert positives(rows["E00001"], "diagnoses") == {"atrial fibrillation", "right bundle branch block"}
    assert positives(rows["E00002"], "diagnoses") == positives(rows["E00003"], "diagnoses")  # two codes, one meaning
    assert positives(rows["E00004"], "diagnoses") == {"snomed 999999999"}
    assert rows["E00005"].labels == {}  # no label: not in the task
    assert rows["E00000"].extra == {"age": None, "sex": "female", "site": "georgia"}
    assert rows["E00003"].extra["age"] == 43.0

    # the folds are stable, each split has records, and the cohort states its origin
    again = ecgbench.read_source(folder, ecgbench.Options("challenge2021"))
    assert [row.split for row in again.rows] == [row.split for row in source.rows]
    assert set(Counter(row.split for row in source.rows)) == {"train", "val", "test"}
    ledger = write(source, tmp_path / "cohort")
    assert ledger.kept == 40
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.about["licence"] == "CC BY 4.0"
    assert "Reyna" in cohort.about["citation"]
    assert cohort.about["labels"].startswith("ecgbench 1.")


def test_the_download_is_not_written_to(tmp_path: Path) -> None:
    folder = write_georgia(tmp_path / "root" / "training" / "georgia", 12).parents[1]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    source = ecgbench.read_source(folder, ecgbench.Options("challenge2021", part="georgia"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert source.rows[0].path == folder / "training" / "georgia" / "E00000.mat"
    with pytest.raises(CohortError, match=r"no part 'ptb' here; it has georgia"):
        ecgbench.read_source(folder, ecgbench.Options("challenge2021", part="ptb"))


def test_few_records_are_split_by_a_hash_of_the_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_georgia(tmp_path / "georgia", 4)
    source = ecgbench.read_source(folder, ecgbench.Options("challenge2021"))
    assert len(source.rows) == 4
    assert "4 records are too few for its folds" in caplog.text


def test_folds_of_the_library_may_be_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_georgia(tmp_path / "georgia", 12)
    table = tmp_path / "folds.csv"
    table.write_text(
        "record_name,fold,default_split\n" + "".join(f"E{i:05d},1,{'test' if i else 'train'}\n" for i in range(9))
    )
    source = ecgbench.read_source(folder, ecgbench.Options("challenge2021", folds=table))
    assert [row.split for row in source.rows] == ["train"] + 8 * ["test"]
    assert "3 of 12 records are in no split" in caplog.text
    table.write_text("a,b\n1,2\n")
    with pytest.raises(CohortError, match="no column record_name, default_split"):
        ecgbench.read_source(folder, ecgbench.Options("challenge2021", folds=table))


LUDB_COLUMNS = (
    "ID,Sex,Age,Rhythms,Electric axis of the heart,Conduction abnormalities,Extrasystolies,Hypertrophies,Cardiac pacing,"
    "Ischemia,Non-specific repolarization abnormalities,Other states"
)


def write_ludb(folder: Path, n: int = 12) -> Path:
    """LUDB: its table, with a line break in each cell, and the files of all records but the last."""
    folder.mkdir()
    lines = [LUDB_COLUMNS.split(",")]
    for i in range(1, n + 1):
        hypertrophy = "Left ventricular hypertrophy\nLeft atrial overload\n" if i % 2 else ""
        lines.append(
            [
                str(i),
                "F\n",
                "51\n",
                "Sinus rhythm\n",
                "Electric axis of the heart: vertical",
                "",
                "",
                hypertrophy,
                "",
                "",
                "",
                "",
            ]
        )
        if i < n:
            write_record(folder / "data" / f"{i}.hea", i)
    with (folder / "ludb.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder


def test_lists_of_findings_and_records_without_a_file(tmp_path: Path) -> None:
    source = ecgbench.read_source(write_ludb(tmp_path / "ludb"), ecgbench.Options("ludb"))
    assert source.tasks["hypertrophy"] == ("left atrial overload", "left ventricular hypertrophy")
    assert source.tasks["axis"] == ("vertical axis",)
    rows = {row.record: row for row in source.rows}
    assert positives(rows["1"], "hypertrophy") == {"left atrial overload", "left ventricular hypertrophy"}
    assert rows["2"].labels["hypertrophy"] == {"left atrial overload": 0, "left ventricular hypertrophy": 0}
    assert rows["1"].extra == {"age": 51.0, "sex": "female"}
    assert check(source).n_absent == 1
    assert write(source, tmp_path / "cohort", allow_missing=True).kept == 11


def test_aha_statements_of_sph_and_its_patients(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        "ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date\n"
        + "".join(
            f"A{i:05d},{('1', '22;23', '60+310;147')[i % 3]},S{i // 2:05d},5{i % 9},M,5000,2020-01-01\n"
            for i in range(40)
        )
    )
    (tmp_path / "code.csv").write_text(
        "Category,Code,Description\nA,1,Normal ECG\nC,22,Sinus bradycardia\nC,23,Sinus arrhythmia\n"
        "F,60,Ventricular premature complex(es)\nL,147,T-wave abnormality\nModifier,310,Frequent\n"
    )
    source = ecgbench.read_source(tmp_path, ecgbench.Options("sph"))
    row = source.rows[2]
    assert positives(row, "statements") == {"premature ventricular beats", "t wave abnormality"}
    assert (row.patient, row.leads, row.rate_hz, row.units) == ("S00001", LEADS, 500.0, "mV")
    assert row.path == tmp_path / "records" / "A00002.h5"
    assert check(source).n_absent == 40  # also: no patient is in two splits


def test_code15_names_the_exam_and_not_the_row(tmp_path: Path) -> None:
    columns = (
        "exam_id,patient_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,death,timey,normal_ecg,trace_file"
    )
    lines = [
        f"{1000 + i},{i // 2},60,True,61,False,{i % 2 == 0},False,False,False,False,,,{i % 2 == 1},part0.hdf5"
        for i in range(30)
    ]
    (tmp_path / "exams.csv").write_text("\n".join([columns, *lines]) + "\n")
    source = ecgbench.read_source(tmp_path, ecgbench.Options("code15"))
    row = source.rows[0]
    assert (row.path, row.item, row.patient) == (tmp_path / "part0.hdf5", "1000", "0")
    assert positives(row, "abnormalities") == {"right bundle branch block"}
    assert row.labels["normal"] == {"normal ecg": 0}
    assert check(source).n_absent == 30


def test_echonext_is_a_task_for_each_finding_and_reads_rows_of_one_array(tmp_path: Path) -> None:
    """A flag of 0 whose measurement is absent is unknown; the array is (N, 1, T, L)."""
    flags = [column for one in ecgbench_labels.LABEL_SETS["echonext"] for column in one.names]
    header = ["ecg_key", "patient_key", "split", "age_at_ecg", "lvef_value", *flags]
    lines = [
        ",".join([f"k{i}", f"p{i}", ("train", "val", "test", "no_split")[i % 4], "61", "" if i % 8 == 0 else "40"]
                 + [str(int(i % 3 == 0))] * len(flags))
        for i in range(24)
    ]  # fmt: skip
    (tmp_path / "echonext_metadata_100k.csv").write_text("\n".join([",".join(header), *lines]) + "\n")
    signals = np.random.default_rng(0).normal(size=(6, 1, 500, 12)).astype(np.float32)
    for split in ("train", "val", "test"):
        np.save(tmp_path / f"EchoNext_{split}_waveforms.npy", signals + {"train": 0, "val": 1, "test": 2}[split])
    source = ecgbench.read_source(tmp_path, ecgbench.Options("echonext"))
    rows = {row.record: row for row in source.rows}
    assert len(rows) == 18  # without no_split
    assert rows["k4"].item == "1"
    assert "lvef_lte_45" not in rows["k0"].labels  # not measured
    assert rows["k9"].labels["lvef_lte_45"] == {"reduced ejection fraction": 1}
    assert rows["k0"].labels["shd_moderate_or_greater"] == {"structural heart disease": 1}
    write(source, tmp_path / "cohort")
    cohort = Cohort.open(tmp_path / "cohort")
    assert "not in mV" in cohort.about["remark"]
    signal, rate_hz = cohort.signal(list(cohort.records).index("k5"))
    assert rate_hz == 250.0
    assert np.abs(signal - (signals[1, 0] + 1)).max() < 1e-3


def test_a_recording_with_one_row_per_lead(tmp_path: Path) -> None:
    """MedalCare-XL: simulated ECGs in CSV files without names, a split of its own."""
    root = tmp_path / "WP2_largeDataset_Noise"
    for number, split in enumerate(("train", "validation", "test")):
        folder = root / "sinus" / split / f"run_{number:03d}"
        folder.mkdir(parents=True)
        samples = np.random.default_rng(number).normal(size=(12, 5000)).round(4)
        for variant in ("raw", "noise", "filtered"):
            np.savetxt(folder / f"{number:06d}_{variant}.csv", samples, delimiter=",", fmt="%.4f")
    source = ecgbench.read_source(tmp_path, ecgbench.Options("medalcare_xl"))
    assert sorted(row.split for row in source.rows) == ["test", "train", "val"]
    assert source.tasks == {"pathology": ("sinus rhythm",)}
    write(source, tmp_path / "cohort")
    cohort = Cohort.open(tmp_path / "cohort")
    signal, rate_hz = cohort.signal(list(cohort.splits(np.arange(3))).index("train"))
    assert (signal.shape, rate_hz) == ((5000, 12), 500.0)
    assert np.abs(signal.T - np.random.default_rng(0).normal(size=(12, 5000)).round(4)).max() < 1e-3


def hdf5_file(path: Path, **arrays: np.ndarray) -> None:
    """An HDF5 file with these arrays; the test is skipped where HDF5 cannot be read."""
    pytest.importorskip("leadwise.data.formats.hdf5", reason="this version reads no HDF5")
    h5py = pytest.importorskip("h5py", reason="the extra `formats` is not installed")
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def test_signals_of_sph_code15_and_ikem(tmp_path: Path) -> None:
    """One file per recording; many recordings by exam_id, in another order than the table; eight leads in microvolts."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=(12, 5000)).astype(np.float16)
    (tmp_path / "sph").mkdir()
    (tmp_path / "sph" / "metadata.csv").write_text(
        "ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date\nA00001,1,S1,51,M,5000,2020-01-01\n"
    )
    (tmp_path / "sph" / "code.csv").write_text("Category,Code,Description\nA,1,Normal ECG\n")
    hdf5_file(tmp_path / "sph" / "records" / "A00001.h5", ecg=one)
    signal, rate_hz = first_signal(tmp_path / "sph", "sph")
    assert (signal.shape, rate_hz) == ((5000, 12), 500.0)
    assert np.abs(signal.T - one).max() < 1e-3

    # CODE-15: the second row of the file is the first of the table
    tracings = rng.normal(size=(3, 4096, 12)).astype(np.float32)
    tracings[2] = 0
    columns = (
        "exam_id,patient_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,death,timey,normal_ecg,trace_file"
    )
    lines = [f"{exam},{exam},60,True,61,False,False,False,False,False,True,,,False,part0.hdf5" for exam in (11, 10)]
    (tmp_path / "code15").mkdir()
    (tmp_path / "code15" / "exams.csv").write_text("\n".join([columns, *lines]) + "\n")
    hdf5_file(tmp_path / "code15" / "part0.hdf5", tracings=tracings, exam_id=np.array([10, 11, 0]))
    signal, rate_hz = first_signal(tmp_path / "code15", "code15")
    assert rate_hz == 400.0
    assert np.abs(signal - tracings[1]).max() < 1e-3

    # IKEM: V1 ... V6, II, I in microvolts at 500 Hz
    eight = (1000 * rng.normal(size=(1, 4096, 8))).astype(np.float32)
    (tmp_path / "ikem").mkdir()
    (tmp_path / "ikem" / "exams.csv").write_text(
        "exam_id,age,is_male,weight,height,ventricular_rate,atrial_rate,acquisition_date,patient_id\n"
        "7,50,1,-1,-1,60,60,01-02-2020,1\n"
    )
    hdf5_file(tmp_path / "ikem" / "exams_part_0.hdf5", tracings=eight, exam_id=np.array([7]))
    signal, rate_hz = first_signal(tmp_path / "ikem", "ikem")
    assert rate_hz == 500.0
    assert np.abs(signal[:, LEADS.index("V1")] - eight[0, :, 0] / 1000).max() < 1e-3
    assert np.abs(signal[:, LEADS.index("I")] - eight[0, :, 7] / 1000).max() < 1e-3


def first_signal(folder: Path, name: str) -> tuple[np.ndarray, float]:
    """The first recording of a prepared data set."""
    write(ecgbench.read_source(folder, ecgbench.Options(name)), folder / "cohort")
    return Cohort.open(folder / "cohort").signal(0)


def test_brugada_and_ptb(tmp_path: Path) -> None:
    """A numeric label with a meaning; recordings grouped by the folder of their patient."""
    lines = ["patient_id,basal_pattern,sudden_death,brugada"]
    for i in range(12):
        write_record(tmp_path / "b" / "files" / str(100 + i) / f"{100 + i}.hea", i)
        lines.append(f"{100 + i},0,0,{i % 3}")
    (tmp_path / "b" / "metadata.csv").write_text("\n".join(lines) + "\n")
    rows = ecgbench.read_source(tmp_path / "b", ecgbench.Options("brugada_huca")).rows
    assert [sorted(positives(row, "brugada")) for row in rows[:3]] == [
        ["normal ecg"],
        ["brugada pattern"],
        ["other or atypical brugada findings"],
    ]
    for i in range(12):
        comments = (
            f"# age: 60\n# sex: male\n# Reason for admission: {('Myocardial infarction', 'Healthy control')[i % 2]}\n"
        )
        write_record(tmp_path / "p" / f"patient{i // 2:03d}" / f"s{i:04d}.hea", i, comments)
    source = ecgbench.read_source(tmp_path / "p", ecgbench.Options("ptbdb"))
    assert check(source).n_absent == 0
    assert source.tasks["diagnosis"] == ("myocardial infarction", "normal ecg")
    assert {row.patient for row in source.rows} == {f"patient{i:03d}" for i in range(6)}


def test_what_is_missing_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CohortError, match=r"^source ecgbench: .*is not sph as it was downloaded: .*metadata\.csv"
    ) as error:
        ecgbench.read_source(tmp_path, ecgbench.Options("sph"))
    assert "/leadwise-ecgbench-" not in str(error.value)  # the temporary folder
    assert "data_path" not in str(error.value)  # advice for another command line
    with pytest.raises(CohortError, match="no data set 'sphh'; give name= one of brugada_huca, challenge2020"):
        ecgbench.read_source(tmp_path, ecgbench.Options("sphh"))
    with pytest.raises(CohortError, match="no data set is named"):
        ecgbench.read_source(tmp_path)
    with pytest.raises(CohortError, match="use `leadwise prepare mimic_iv_ecg PATH`"):
        ecgbench.read_source(tmp_path, ecgbench.Options("mimic_iv_ecg"))
    monkeypatch.setitem(sys.modules, "ecgbench", None)
    with pytest.raises(CohortError, match=r"pip install 'leadwise\[datasets\]'"):
        ecgbench.read_source(tmp_path, ecgbench.Options("sph"))


def test_tasks_lists_the_data_sets(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tasks", "ecgbench", "--json", str(tmp_path / "tasks.json")])
    assert done.exit_code == 0, done.output
    datasets = {line["name"]: line for line in json.loads((tmp_path / "tasks.json").read_text())["datasets"]}
    assert set(datasets) == set(ecgbench_labels.LABEL_SETS)
    assert datasets["sph"]["records"] == "25,770"
    assert datasets["sph"]["Hz"] == "500"
    assert all(
        line["licence"] and line["get it from"].startswith("http") and line["records"] for line in datasets.values()
    )
    assert "leadwise prepare ecgbench PATH name=NAME" in done.output


def test_check_states_the_licence(tmp_path: Path) -> None:
    write(
        ecgbench.read_source(write_ludb(tmp_path / "ludb"), ecgbench.Options("ludb")),
        tmp_path / "c",
        allow_missing=True,
    )
    done = CliRunner().invoke(app, ["check", str(tmp_path / "c"), "--json", str(tmp_path / "check.json")])
    assert "licence: ODC-By-1.0" in done.output
    assert json.loads((tmp_path / "check.json").read_text())["about"]["licence"] == "ODC-By-1.0"


def test_other_cohorts_state_nothing_new(cohort_folder: Path) -> None:
    assert "about" not in json.loads((cohort_folder / "cohort.json").read_text())
    assert Cohort.open(cohort_folder).about == {}


# ------------------------------------------------------------------------------------------------------------ real ECGs


@pytest.mark.real
@real
@pytest.mark.parametrize(
    ("folder", "name", "n_rows", "n_absent"),
    [
        ("ludb", "ludb", 200, 140),
        ("cpsc_2018", "cpsc_2018", 117, 0),
        ("chapman", "ecg_arrhythmia", 85, 0),
        ("external/georgia", "challenge2021", 36, 0),
        ("external/cpsc_2018_extra", "challenge2020", 15, 0),
    ],
)
def test_real_downloads(folder: str, name: str, n_rows: int, n_absent: int, caplog: pytest.LogCaptureFixture) -> None:
    source = ecgbench.read_source(SHARED / "data" / folder, ecgbench.Options(name))
    assert (len(source.rows), check(source).n_absent) == (n_rows, n_absent)
    unknown = [one for classes in source.tasks.values() for one in classes if codes.by_name(one) is None]
    assert unknown == (["snomed 251238007"] if folder == "chapman" else [])


@pytest.mark.real
@real
def test_labels_of_cpsc2018_equal_our_own() -> None:
    ours = {row.record: row for row in read_cpsc2018(SHARED / "data" / "cpsc_2018").rows}
    theirs = {
        row.record: row
        for row in ecgbench.read_source(SHARED / "data" / "cpsc_2018", ecgbench.Options("cpsc_2018")).rows
    }
    names = {
        "NORM": "normal ecg", "AFIB": "atrial fibrillation", "1AVB": "first degree av block",
        "CLBBB": "left bundle branch block", "CRBBB": "right bundle branch block", "PAC": "premature atrial beats",
        "VPC": "premature ventricular beats", "STD": "st depression", "STE": "st elevation",
    }  # fmt: skip
    assert set(ours) == set(theirs)
    for record, row in ours.items():
        assert {names[one] for one in positives(row, "cpsc2018")} == positives(theirs[record], "diagnoses"), record
        assert row.extra == theirs[record].extra


@pytest.mark.real
@real
def test_labels_of_csn_differ_only_in_codes_that_its_own_table_lacks() -> None:
    ours = {row.record: row for row in csn.read_source(SHARED / "data" / "chapman").rows}
    theirs = {
        row.record: row
        for row in ecgbench.read_source(SHARED / "data" / "chapman", ecgbench.Options("ecg_arrhythmia")).rows
    }
    assert set(ours) == set(theirs)
    n_differ = 0
    for record, row in ours.items():
        own = {codes.by_code("snomed", csn.CSN_ACRONYM_CODES[one]) for one in positives(row, "csn_full")}
        own_names = {entry.name for entry in own if entry}
        other = positives(theirs[record], "diagnoses")
        unmapped = str(row.extra["unmapped"] or "").split(",")
        extra = {entry.name if (entry := codes.by_code("snomed", one)) else f"snomed {one}" for one in unmapped if one}
        assert own_names | extra == other, record
        n_differ += own_names != other
    assert n_differ == 38


@pytest.mark.real
@real
def test_labels_of_ptbxl_equal_our_own() -> None:
    folder = SHARED / "data" / "ptb-xl"
    ours = {row.record: row for row in read_ptbxl(folder).rows}
    theirs = {row.record.zfill(5): row for row in ecgbench.read_source(folder, ecgbench.Options("ptbxl")).rows}
    classes_of: dict[str, tuple[str, str]] = {}
    with (folder / "scp_statements.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            entry = codes.by_code("scp", line[""])
            assert entry is not None, line
            if line["diagnostic"] == "1.0":
                classes_of[entry.name] = (line["diagnostic_class"], line["diagnostic_subclass"].strip("_"))
    assert set(ours) == set(theirs)
    for record, row in ours.items():
        other = theirs[record]
        assert (row.patient, row.split) == (other.patient, other.split)
        for place, task in enumerate(("super", "sub")):
            assert positives(row, task) == {classes_of[one][place] for one in positives(other, "diagnoses")}, record
        for task in ("form", "rhythm"):
            entries = (codes.by_code("scp", one) or codes.by_code("scp", f"{one}_") for one in positives(row, task))
            assert {entry.name for entry in entries if entry} == positives(other, task), record
