"""The user's own data: a CSV table beside the recordings, and one clear error for each way to get it wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.folder import Options, read_source

SECRET = "acute inferior infarct, chest pain since noon"


def manifest(folder: Path, text: str) -> Path:
    path = folder / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_columns(tmp_path: Path) -> None:
    source = read_source(
        manifest(
            tmp_path,
            "path,record,patient,report,split,age,sex,label.afib,label.rhythm.sr,label.rhythm.af\n"
            'a/1.hea,one,P1,"Sinus rhythm, normal",train,71,female,0,1,0\n'
            "a/2.npy,,P2,,test,,,,1.0,0.0\n",
        ),
        Options(("I", "II"), 250, "mV"),
    )
    first, second = source.rows
    assert source.tasks == {"own": ("afib",), "rhythm": ("sr", "af")}
    assert (first.record, first.patient, first.split, first.report) == ("one", "P1", "train", "Sinus rhythm, normal")
    assert first.path == tmp_path / "a" / "1.hea"
    assert first.labels == {"own": {"afib": 0}, "rhythm": {"sr": 1, "af": 0}}
    assert first.extra == {"age": 71.0, "sex": "female"}
    assert (second.record, second.patient, second.split) == ("a/2", "P2", "test")
    assert second.labels == {"rhythm": {"sr": 1, "af": 0}}
    assert second.extra == {"age": None, "sex": None}
    assert (second.leads, second.rate_hz, second.units) == (("I", "II"), 250, "mV")


def test_a_byte_order_mark_and_the_folder_itself_are_fine(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(b"\xef\xbb\xbfpath\r\n1.hea\r\n\r\nrec.ord\r\n")
    assert [row.record for row in read_source(tmp_path).rows] == ["1", "rec.ord"]
    (tmp_path / "other.csv").write_text("path\n")
    with pytest.raises(CohortError, match=r"2 CSV files \(mine.csv, other.csv\); name the table"):
        read_source(tmp_path)
    with pytest.raises(CohortError, match="no table at"):
        read_source(tmp_path / "none.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="no CSV file"):
        read_source(tmp_path / "empty")


def test_patients_are_dealt_out_by_name_and_stay_when_others_join(tmp_path: Path) -> None:
    lines = [f"{number}.hea,P{number // 2}" for number in range(2000)]
    dealt = {row.record: row for row in read_source(manifest(tmp_path, "path,patient\n" + "\n".join(lines))).rows}
    by_patient: dict[str, set[str]] = {}
    for row in dealt.values():
        by_patient.setdefault(row.patient, set()).add(row.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    counts = {split: sum(row.split == split for row in dealt.values()) for split in ("train", "val", "test")}
    assert 1500 < counts["train"] < 1700
    assert 140 < counts["val"] < 260
    assert 140 < counts["test"] < 260
    fewer = read_source(manifest(tmp_path, "path,patient\n" + "\n".join(lines[::7]))).rows
    assert all(row.split == dealt[row.record].split for row in fewer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\n1.hea\n", "unknown column 'file'"),
        ("path,reports\n1.hea,x\n", "unknown column 'reports'; did you mean 'report'"),
        ("path,labels.afib\n1.hea,1\n", "unknown column 'labels.afib'; did you mean 'label"),
        ("record\n1\n", "no column 'path'"),
        ("", "no column 'path'"),
        ("path,path\n1.hea,2.hea\n", "column 'path' appears twice"),
        ("path,label.\n1.hea,1\n", "'label.' names no class"),
        ("path,label.x,label.own.x\n1.hea,1,1\n", "class 'x' of task own has two columns"),
        ("path,label.x\n1.hea,0\n2.hea,maybe\n", r"mine.csv row 3: label.x is 'maybe'; a label is 0, 1 or empty"),
        ("path,label.x\n1.hea,2\n", "row 2: label.x is '2'"),
        ("path,split\n1.hea,dev\n", "row 2: split is 'dev'"),
        ("path,split\n1.hea,\n", "row 2: split is ''"),
        ("path,age\n1.hea,old\n", "row 2: age is 'old'"),
        ("path\n../1.hea\n", "row 2: the path '../1.hea' leaves"),
        ("path\n/etc/1.hea\n", "row 2: the path '/etc/1.hea' leaves"),
        ("path,report\n1.hea,sinus, normal\n", "row 2: 3 cells under 2 columns"),
        ('path\n"1.hea\n', "is not a CSV table"),
    ],
)
def test_a_bad_table_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CohortError, match=message) as caught:
        read_source(manifest(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'path,split\n1.hea,"{SECRET}"\n', "row 2: split is a longer text; it must be one of train"),
        (f'path,label.x\n1.hea,"{SECRET}"\n', "row 2: label.x is a longer text; a label"),
        (f'path,age\n1.hea,"{SECRET}"\n', "row 2: age is a longer text; it must be years"),
        ("path,age\n1.hea,infarction-of-heart\n", "row 2: age is a longer text"),
        (f'path,report\n"{SECRET}",1.hea\n', "row 2: path is a text with spaces that names no file"),
        (f'path,"{SECRET}",split\n', "first row contains a longer text; it must be the column names"),
        (f'"{SECRET}",1.hea,train\n', "first row contains a longer text"),
    ],
)
def test_a_report_in_the_wrong_column_is_never_shown(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CohortError, match=message) as caught:
        read_source(manifest(tmp_path, text))
    assert not any(word in str(caught.value) for word in ("infarct", "noon"))


def test_recordings_without_a_patient_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warning = "name no patient; each counts as a patient of its own, so a person may be in two splits"
    rows = read_source(manifest(tmp_path, "path\n1.hea\n2.hea\n")).rows
    assert [row.patient for row in rows] == ["1", "2"]
    assert f"2 recordings {warning}" in caplog.text
    caplog.clear()
    read_source(manifest(tmp_path, "path,patient\n1.hea,P1\n2.hea, \n3.hea,P3\n"))
    assert f"1 recordings {warning}" in caplog.text
    caplog.clear()
    read_source(manifest(tmp_path, "path,patient\n1.hea,P1\n"))
    assert not caplog.text


def test_a_given_lead_that_is_none_of_the_twelve_is_an_error_before_a_file_is_opened() -> None:
    with pytest.raises(RecordError, match="the given lead 'V7' is none of"):
        Options(("I", "V7"), 250, "mV")


def test_suffixes_in_capitals_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "MINE.CSV").write_text("path\na/1.NPY\n2.Hea\n")
    assert [row.record for row in read_source(tmp_path).rows] == ["a/1", "2"]


def test_given_leads_replace_the_names_in_the_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    signal = np.round(rng.normal(size=(300, 12)), 3)
    np.save(tmp_path / "a.npy", signal)
    turned = ",".join(LEADS[::-1])
    np.savetxt(tmp_path / "b.csv", signal[:, ::-1] + 0.5, delimiter=",", header=turned, comments="", fmt="%.6f")
    table = manifest(tmp_path, "path\na.npy\nb.csv\n")
    write(read_source(table, Options(LEADS, 250, "mV")), tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    np.testing.assert_allclose(cohort.signal(0)[0], signal, atol=0.0006)
    np.testing.assert_allclose(cohort.signal(1)[0], signal[:, ::-1] + 0.5, atol=0.0006)
    assert "the given leads replace the names in the files: V6 -> I, V5 -> II" in caplog.text


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.hea").write_text("x")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "1.hea").symlink_to(tmp_path / "secret.hea")
    with pytest.raises(CohortError, match=r"row 2: the path '1\.hea' is a link that leads out"):
        read_source(manifest(inner, "path\n1.hea\n"))
    with pytest.raises(CohortError, match=r"row 2: the path '1\.hea' is a link that leads out"):
        read_source(manifest(inner, "path\n1\n"))


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes("path,report\n1.hea,Sinusrhythmus für Erwachsene\n".encode("latin-1"))
    with pytest.raises(CohortError, match="not text in UTF-8") as caught:
        read_source(tmp_path / "mine.csv")
    assert "Sinus" not in str(caught.value)


def test_a_record_named_twice_and_a_torn_patient_are_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"used more than once \(1\)"):
        write(read_source(manifest(tmp_path, "path\n1.hea\n1.npy\n")), tmp_path / "out")
    text = "path,patient,split\n1.hea,P1,train\n2.hea,P1,test\n"
    with pytest.raises(CohortError, match=r"patients are in more than one split \(P1\)"):
        write(read_source(manifest(tmp_path, text)), tmp_path / "out")
    with pytest.raises(CohortError, match="it has no recording"):
        write(read_source(manifest(tmp_path, "path\n")), tmp_path / "out")


def test_partly_known_labels_keep_a_recording_out_of_the_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", rng.normal(size=(500, 12)).astype(np.float32))
    text = "path,label.a,label.b\n0.npy,1,0\n1.npy,1,\n2.npy,,\n"
    with caplog.at_level(logging.WARNING):
        source = read_source(manifest(tmp_path, text), Options(LEADS, 250, "mV"))
    assert "1 recordings have some labels of task own" in caplog.text
    write(source, tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    np.testing.assert_array_equal(cohort.rows(task="own"), [0])
    np.testing.assert_array_equal(cohort.labels("own", np.array([0])), [[1, 0]])
    with pytest.raises(CohortError, match=r"1 rows are not in task own .*record 1"):
        cohort.labels("own", np.array([0, 1]))
    assert cohort.index["label.own.a"].tolist()[:2] == [1, 1]
    assert cohort.index["label.own.b"].isna().tolist() == [False, True, True]


def test_signals_of_every_kind_come_back_in_millivolts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    signal = np.round(rng.normal(size=(300, 12)), 3)
    np.save(tmp_path / "a.npy", (signal * 1000).astype(np.int16).T)
    np.savetxt(tmp_path / "b.csv", signal * 1000, delimiter=",", header=",".join(LEADS), comments="", fmt="%.6f")
    path = tmp_path / "tables" / ".." / "mine.csv"
    (tmp_path / "tables").mkdir()
    (tmp_path / "mine.csv").write_text("path\na.npy\nb.csv\n")
    source = read_source(path, Options(LEADS, 250, "uV"))
    write(source, tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    for row in range(2):
        actual, rate_hz = cohort.signal(row)
        assert rate_hz == 250
        np.testing.assert_allclose(actual, signal, atol=0.0011 if row == 0 else 0.0006)
