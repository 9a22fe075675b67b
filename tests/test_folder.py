"""The user's own data: a CSV table beside the recordings, and one clear error for each way to get it wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import wfdb
from vendor_files import muse

from leadwise.batch import LEADS
from leadwise.data.cohort import left_out
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.left_out import LeftOutError
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
    with pytest.raises(CohortError, match="contains no table and no ECG file that can be read"):
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
        ("file\n1.hea\n", "no column 'path', which names the file of each recording; rename 'file' to path"),
        ("paths,site\n1.hea,A\n", "rename 'paths' to path"),
        ("record\n1\n", "no column 'path', which names the file of each recording; add it"),
        ("", "no column 'path'"),
        ("path,path\n1.hea,2.hea\n", "column 'path' appears twice"),
        ("path,Age,age\n1.hea,1,2\n", "column 'age' appears twice"),
        ("path,,site\n1.hea,,A\n", "column 2 has no name in the first row; name or remove it"),
        ("path,label.\n1.hea,1\n", "'label.' names no class"),
        ("path,label.x,label.own.x\n1.hea,1,1\n", "class 'x' of task own has two columns"),
        ('path\n"1.hea\n', "is not a CSV table"),
        (f'path,"{SECRET}",split\n', "first row contains a longer text; it must be the column names"),
        (f'"{SECRET}",1.hea,train\n', "first row contains a longer text"),
    ],
)
def test_a_bad_table_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CohortError, match=message) as caught:
        read_source(manifest(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("infarct", "noon"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label.x\n1.hea,0\n2.hea,maybe\n", r"mine.csv row 3: label.x is 'maybe'; a label is 0, 1 or empty"),
        ("path,label.x\n1.hea,2\n", "row 2: label.x is '2'"),
        ("path,split\n1.hea,dev\n", "row 2: split is 'dev'; it must be one of train, val, test"),
        ("path,split\n1.hea,\n", "row 2: split is ''"),
        ("path,age\n1.hea,old\n", "row 2: age is 'old'; it must be years"),
        ("path,age\n1.hea,300\n", "row 2: age is '300'"),
        ("path,age\n1.hea,>50\n", "row 2: age is '>50'"),
        ("path,rate_hz\n1.hea,fast\n", "row 2: rate_hz is 'fast'; it must be a number of Hz or empty"),
        ("path,rate_hz\n1.hea,-5\n", "row 2: rate_hz is '-5'"),
        ("path,leads\n1.hea,I II X9\n", "row 2: the given lead 'X9' is none of I, II"),
        ("path,site\n,A\n", "row 2: path is empty; name the file, or remove the row"),
        ("path\n../1.hea\n", "row 2: the path '../1.hea' leaves .* another folder that is passed"),
        ("path\n/etc/1.hea\n", "row 2: the path '/etc/1.hea' leaves"),
        ("path,report\n1.hea,sinus, normal\n", "row 2: 3 cells under 2 columns; quote cells"),
        ("path,report,split\n1.hea,sinus\n", "row 2: 2 cells under 3 columns"),
        # what may be a report in the wrong column is never repeated
        (f'path,split\n1.hea,"{SECRET}"\n', "row 2: split is a longer text; it must be one of train"),
        (f'path,label.x\n1.hea,"{SECRET}"\n', "row 2: label.x is a longer text; a label"),
        (f'path,age\n1.hea,"{SECRET}"\n', "row 2: age is a longer text; it must be years"),
        ("path,age\n1.hea,infarction-of-heart\n", "row 2: age is a longer text"),
        (f'path,report\n"{SECRET}",1.hea\n', "row 2: path is a text with spaces that names no file"),
        (f'path,rate_hz\n1.hea,"{SECRET}"\n', "row 2: rate_hz is a longer text"),
        (f'path,units\n1.hea,"{SECRET}"\n', "row 2: units is a longer text"),
        ("path,leads\n1.hea,acute-infarct-at-noon\n", "row 2: leads contains a longer text"),
    ],
)
def test_a_bad_row_is_an_error_that_names_row_and_value(tmp_path: Path, text: str, message: str) -> None:
    source = read_source(manifest(tmp_path, text))
    with pytest.raises(CohortError, match=message) as caught:
        write(source, tmp_path / "out")
    listed = (tmp_path / "out.partial" / "dropped.csv").read_text(encoding="utf-8")
    assert "bad_row" in listed
    assert "\n" not in str(caught.value)
    assert not any(word in text for text in (str(caught.value), listed) for word in ("infarct", "noon"))


def test_all_bad_rows_and_missing_files_are_reported_at_once_and_may_be_left_out(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(300, 12)))
    text = "path,age,label.x\n0.npy,50,1\n1.npy,old,1\n2.npy,60,maybe\ngone.npy,70,0\n"
    source = read_source(manifest(tmp_path, text), Options(LEADS, 100, "mV"))
    with pytest.raises(LeftOutError) as caught:
        write(source, tmp_path / "out")
    for words in ("2 of 4 rows", "row 3: age is 'old'", "row 4: label.x is 'maybe'", "1 of 2 recordings", "gone.npy"):
        assert words in str(caught.value)
    assert caught.value.file == tmp_path / "out.partial" / "dropped.csv"
    listed = {entry.record: (entry.reason, entry.detail) for entry in left_out.read(caught.value.file)}
    assert {name: reason for name, (reason, _) in listed.items()} == {
        "1.npy": "bad_row",
        "2.npy": "bad_row",
        "gone": "missing_file",
    }
    assert listed["1.npy"][1] == "mine.csv row 3: age is 'old'; it must be years (0 to 150) or empty"

    ledger = write(source, tmp_path / "out", allow_missing=True, allow_unreadable=True)
    assert (ledger.n_total, ledger.kept, ledger.bad_row, ledger.missing_file) == (4, 1, 2, 1)
    assert {entry.record for entry in left_out.read(tmp_path / "out" / "dropped.csv")} == set(listed)
    assert not (tmp_path / "out.partial").exists()


def test_a_table_of_bad_rows_only_is_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    source = read_source(manifest(tmp_path, "path,split\n1.hea,dev\n2.hea,dev\n"))
    with pytest.raises(LeftOutError, match=r"2 of 2 rows cannot be used .*; correct them; .*dropped\.csv lists all"):
        write(source, tmp_path / "out", allow_unreadable=True)


# --------------------------------------------------------------------------------------------- spellings of a table


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, separator: str, encoding: str) -> None:
    lines = [
        ["Path", "Patient", "AGE", "report", "site", "", ""],
        ["a.hea", "P1", "71", "größer; as, is|x", "Ward 3", "", ""],
        ["", "", "", "", "", "", ""],
        ["b.hea", "P2", "60", "", "", "", ""],
    ]
    text = "\r\n".join(separator.join(f'"{cell}"' if separator in cell else cell for cell in line) for line in lines)
    mark = "\ufeff" if encoding == "utf-16-be" else ""  # as Excel's "Unicode text" has it
    (tmp_path / "mine.csv").write_bytes((mark + text).encode(encoding))
    first, second = (source := read_source(tmp_path)).rows
    assert not source.bad_rows
    assert (first.patient, first.report, first.extra) == ("P1", "größer; as, is|x", {"age": 71.0, "site": "Ward 3"})
    assert (second.patient, second.report, second.extra) == ("P2", "", {"age": 60.0, "site": None})


def test_a_separator_line_of_excel_and_decimal_commas(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("sep=;\npath;age;height\n1.hea;71,5;1,80\n2.hea;x;1,75\n", encoding="utf-8")
    source = read_source(tmp_path)
    assert source.rows[0].extra == {"age": 71.5, "height": 1.8}
    assert [row.reason.partition(":")[0] for row in source.bad_rows] == ["mine.csv row 4"]  # as an editor counts


def test_any_other_column_is_stored(tmp_path: Path) -> None:
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(300, 12)))
    text = (
        "path,site,device,Heart rate (bpm),ward,offset,long\n"
        "0.npy,A,MAC 5500,71.5,01,7,12345678901234567890\n1.npy,,,NA,02,8,1\n2.npy,B,x,60,03,9,2\n"
    )
    source = read_source(manifest(tmp_path, text), Options(LEADS, 100, "mV"))
    write(source, tmp_path / "out")
    index = Cohort.open(tmp_path / "out").index
    assert index["site"].fillna("").tolist() == ["A", "", "B"]
    assert index["device"].fillna("").tolist() == ["MAC 5500", "", "x"]
    assert index["Heart rate (bpm)"].dtype == np.float64
    assert index["Heart rate (bpm)"].isna().tolist() == [False, True, False]
    assert index["ward"].tolist() == ["01", "02", "03"]
    assert index["long"].tolist()[0] == "12345678901234567890"
    assert read_source(manifest(tmp_path, "path,site\n0.npy,1\n1.npy,2\n")).rows[0].extra == {"site": "1"}
    assert index["table.offset"].tolist() == [7, 8, 9]
    assert index["offset"].tolist() == [0, 3600, 7200]


@pytest.mark.parametrize(
    ("header", "near"),
    [("path,reports", "report"), ("path,patient_id", "patient"), ("path,labels.afib", "label.afib"),
     ("path,unit", "units"), ("path,site", None), ("path,patient,patients", None), ("path,item_no,device", None)],
)  # fmt: skip
def test_a_column_that_resembles_a_known_one_that_is_absent_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str, near: str | None
) -> None:
    read_source(manifest(tmp_path, header + "\n" + ",".join(["1.hea", "1", "1"][: header.count(",") + 1]) + "\n"))
    assert (f"if it is {near!r}, rename it" in caplog.text) if near else ("rename" not in caplog.text)


def test_sex_age_and_labels_have_one_spelling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sexes = ["M", "male", "Male", "F", "female", "w", "0", "1", "", "unknown", "divers"]
    ages = ["45", "45 Y", "045Y", ">89", "89+", "90+", "71,5", "6 months", "NA", "", "120"]
    labels = ["1", "0", "true", "FALSE", "yes", "No", "1.0", "0.0", "", "nan", "t"]
    lines = [f'{i}.hea,{sex},"{age}",{x}' for i, (sex, age, x) in enumerate(zip(sexes, ages, labels))]
    source = read_source(manifest(tmp_path, "path,sex,age,label.x\n" + "\n".join(lines) + "\n"))
    assert not source.bad_rows
    assert [row.extra["sex"] for row in source.rows] == [
        *["male"] * 3, *["female"] * 3, None, None, None, None, "divers",
    ]  # fmt: skip
    assert [row.extra["age"] for row in source.rows] == [45, 45, 45, 90, 90, 90, 71.5, 0.5, None, None, 120]
    values = [row.labels.get("own", {}).get("x") for row in source.rows]
    assert values == [1, 0, 1, 0, 1, 0, 1, 0, None, None, 1]
    assert "3 recordings have an age above 89 without its number; it is stored as 90" in caplog.text
    assert "2 recordings have a number as sex, which may mean either; it is stored as unknown" in caplog.text


def test_leads_rate_and_units_of_a_row_go_before_the_options(tmp_path: Path) -> None:
    text = 'path,leads,rate_hz,units\n0.npy,,,\n1.npy,I II;V1,500 Hz,uV\n2.npy,"I,II",,\n3.npy,"I, V6","250,5",\n'
    source = read_source(manifest(tmp_path, text), Options(LEADS, 100, "mV"))
    assert [(row.leads, row.rate_hz, row.units) for row in source.rows] == [
        (LEADS, 100, "mV"),
        (("I", "II", "V1"), 500, "uV"),
        (("I", "II"), 100, "mV"),
        (("I", "V6"), 250.5, "mV"),
    ]


def test_two_recordings_of_one_file_may_belong_to_two_patients(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).normal(size=(3, 12, 300))
    np.save(tmp_path / "all.npy", stack)
    options = Options(LEADS, 100, "mV")
    source = read_source(manifest(tmp_path, "path,item,patient\nall.npy,0,A\nall.npy,2.0,B\n"), options)
    assert [row.record for row in source.rows] == ["all/0", "all/2"]
    write(source, tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    for row, item in ((0, 0), (1, 2)):
        np.testing.assert_allclose(cohort.signal(row)[0], stack[item].T, atol=0.0006)
    same = read_source(manifest(tmp_path, "path,record,item,patient\nall.npy,x,0,A\nall.npy,y,0,B\n"), options)
    with pytest.raises(CohortError, match="records x and y name the same file but different patients"):
        write(same, tmp_path / "other")
    without = read_source(manifest(tmp_path, "path\nall.npy\n"), options)
    with pytest.raises(CohortError, match="item"):
        write(without, tmp_path / "other", overwrite=True)


# ---------------------------------------------------------------------------------------------------- root and links


def test_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "tables").mkdir()
    (tmp_path / "data" / "a" / "1.npy").write_bytes(b"")
    (tmp_path / "data" / "2.npy").symlink_to(tmp_path / "data" / "a" / "1.npy")
    absolute = tmp_path / "data" / "a" / "3.npy"
    table = manifest(tmp_path / "tables", f"path\na/1.npy\n2.npy\n{absolute}\na\\4.npy\n../x.npy\n")
    source = read_source(table, Options(root=tmp_path / "data"))
    assert [row.path.relative_to(tmp_path / "data").as_posix() for row in source.rows] == [
        "a/1.npy", "2.npy", "a/3.npy", "a/4.npy",
    ]  # fmt: skip
    assert [row.record for row in source.rows] == ["a/1", "2", "a/3", "a/4"]
    assert "the path '../x.npy' leaves" in source.bad_rows[0].reason
    with pytest.raises(CohortError, match=r"there is no folder .*gone; pass the folder"):
        read_source(table, Options(root=tmp_path / "gone"))


# -------------------------------------------------------------------------------------------------- without a table


def test_a_folder_without_a_table_is_all_its_ecg_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ward = tmp_path / "ward" / "b"
    ward.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(ward / "1.npy", rng.normal(size=(500, 12)))
    np.save(tmp_path / "ward" / "many.npy", rng.normal(size=(2, 12, 500)))
    wfdb.wrsamp(
        "w", fs=100, units=["mV"] * 12, sig_name=list(LEADS), fmt=["16"] * 12, adc_gain=[1000.0] * 12,
        baseline=[0] * 12, d_signal=rng.integers(-900, 900, (500, 12)), write_dir=str(ward),
    )  # fmt: skip
    np.savetxt(ward / "c.csv", rng.normal(size=(500, 12)), delimiter=",", header=",".join(LEADS), comments="")
    (ward / "notes.txt").write_text("no ECG\n")
    (ward / "labels.csv").write_text("record,afib\nw,1\n")
    (tmp_path / "ward" / ".cache").mkdir()
    np.save(tmp_path / "ward" / ".cache" / "x.npy", rng.normal(size=(500, 12)))
    (tmp_path / "out.npy").write_bytes(b"")
    (ward / "out.npy").symlink_to(tmp_path / "out.npy")

    options = Options(LEADS, 100, "mV")
    source = read_source(tmp_path / "ward", options)
    assert [row.record for row in source.rows] == ["b/1.npy", "b/c.csv", "b/w.hea", "many.npy/0", "many.npy/1"]
    assert [row.item for row in source.rows] == [None, None, None, "0", "1"]
    assert "5 recordings name no patient" in caplog.text
    assert "2 other files are left out: b/labels.csv, b/notes.txt" in caplog.text
    (bad,) = source.bad_rows
    assert "b/out.npy is a link that leads out of" in bad.reason
    (ward / "out.npy").unlink()
    source = read_source(tmp_path / "ward", options)
    ledger = write(source, tmp_path / "ward" / "cohort")
    assert ledger.kept == 5
    again = read_source(tmp_path / "ward", options)  # the cohort's own files are left out
    assert [row.record for row in again.rows] == [row.record for row in source.rows]


@pytest.mark.parametrize("name", ["a.xml", "a.csv", "a.hea", "a.npy"])
def test_an_ecg_file_in_place_of_the_table_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.csv":
        path.write_text("I,II\n1,2\n3,4\n")
    elif name == "a.npy":
        np.save(path, np.zeros((12, 500)))
    else:
        path.write_text(muse() if name == "a.xml" else "a 1 100\na.dat 16 200 16 0 0 0 0 I\n")
    with pytest.raises(
        CohortError, match=r"is an ECG file and no table; pass its folder, or a table with the column path"
    ):
        read_source(path)


def test_a_link_out_of_a_folder_without_a_table_needs_the_root(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    np.save(tmp_path / "1.npy", np.zeros((300, 12)))
    (tmp_path / "inner" / "1.npy").symlink_to(tmp_path / "1.npy")
    source = read_source(tmp_path / "inner")
    assert not source.rows
    assert "1.npy is a link that leads out of" in source.bad_rows[0].reason
    assert [row.record for row in read_source(tmp_path / "inner", Options(root=tmp_path)).rows] == ["1.npy"]


def test_recordings_without_a_patient_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warning = "each counts as a patient of its own, so a person may be in two splits"
    rows = read_source(manifest(tmp_path, "path\n1.hea\n2.hea\n")).rows
    assert [row.patient for row in rows] == ["1", "2"]
    assert f"2 recordings name no patient (row 2, row 3); {warning}" in caplog.text
    caplog.clear()
    read_source(manifest(tmp_path, "path,patient\n1.hea,P1\n2.hea, \n3.hea,P3\n"))
    assert f"1 recordings name no patient (row 3); {warning}" in caplog.text
    caplog.clear()
    read_source(manifest(tmp_path, "path,patient\n1.hea,P1\n"))
    assert not caplog.text


def test_a_given_lead_that_is_none_of_the_twelve_is_an_error_before_a_file_is_opened() -> None:
    with pytest.raises(RecordError, match="'V7' is none of"):
        Options(("I", "V7"), 250, "mV")


def test_suffixes_in_capitals_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "MINE.CSV").write_text("path\na/1.NPY\n2.Hea\n")
    assert [row.record for row in read_source(tmp_path).rows] == ["a/1", "2"]


def test_the_leads_of_a_row_name_the_columns_of_its_file_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    signal = np.round(rng.normal(size=(300, 12)), 3)
    np.save(tmp_path / "a.npy", signal)
    turned = ",".join(LEADS[::-1])
    np.savetxt(tmp_path / "b.csv", signal[:, ::-1] + 0.5, delimiter=",", header=turned, comments="", fmt="%.6f")
    table = manifest(tmp_path, f"path,leads\na.npy,{' '.join(LEADS)}\nb.csv,\n")
    write(read_source(table, Options(rate_hz=250, units="mV")), tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    for row, offset in ((0, 0.0), (1, 0.5)):
        np.testing.assert_allclose(cohort.signal(row)[0], signal + offset, atol=0.0006)


@pytest.mark.parametrize("name", ["1.hea", "1"])
def test_a_link_that_leads_out_is_refused_and_a_copy_is_not(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.hea").write_text("x")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "1.hea").symlink_to(tmp_path / "secret.hea")
    table = manifest(inner, f"path\n{name}\n")
    reason = read_source(table).bad_rows[0].reason
    assert f"row 2: the path {name!r} is a link that leads out" in reason or "1.hea' is a link that leads out" in reason
    assert "copy the file itself into the folder" in reason
    (inner / "1.hea").unlink()
    (inner / "1.hea").write_text("x")
    assert not read_source(table).bad_rows


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
