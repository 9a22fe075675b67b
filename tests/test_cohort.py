"""A cohort on disk: faithful, deterministic, complete or resumable, and refused when it has changed."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import invoke

from leadwise.batch import LEADS
from leadwise.data.cohort import index, packing, shard
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError, sha256
from leadwise.data.cohort.prepare import write
from leadwise.data.formats import reading
from leadwise.data.recordings import twelve_leads
from leadwise.data.recordings.recording import Digital, Recording
from leadwise.data.sources.simulated import simulate
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate.card import subgroups

RATE_HZ = 250
SECRET = "patient says something private"


def signal(seed: int, n_samples: int = 500) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(size=(n_samples, 12)), axis=0) / 10  # mV


def source(folder: Path, n: int = 7) -> Source:
    """Recordings of two tasks with some flaws that a cohort must preserve: NaN, a flat lead, different lengths."""
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        values = signal(number, 400 + 10 * number)
        values[50:55, 2] = np.nan
        values[:, 7] = 0.25 if number == 3 else values[:, 7]
        np.save(folder / f"{number}.npy", values.astype(np.float32))
        rows.append(
            Row(
                record=f"r{number}",
                path=folder / f"{number}.npy",
                patient=f"p{number // 2}",
                split="train" if number < 4 else "val" if number < 6 else "test",
                report=["Sinus rhythm; Normal ECG", "", SECRET][number % 3],
                labels={"rhythm": {"sr": number % 2, "af": 1 - number % 2}} if number != 2 else {},
                extra={"age": 40.0 + number if number else None, "sex": "female" if number % 2 else None},
                leads=LEADS,
                rate_hz=RATE_HZ,
                units="mV",
            )
        )
    return Source("made", rows, {"rhythm": ("sr", "af")})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def changed(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "cohort.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


# ----------------------------------------------------------------------------------------------------------- faith


def test_what_was_written_is_read(tmp_path: Path) -> None:
    data = source(tmp_path / "raw")
    ledger = write(data, tmp_path / "out", shard_records=3)
    cohort = Cohort.open(tmp_path / "out", verify=True)
    assert (len(cohort), ledger.n_total, ledger.kept, ledger.without_report) == (7, 7, 7, 2)
    assert cohort.ledger == ledger
    assert (cohort.name, cohort.source, cohort.tasks) == ("out", "made", {"rhythm": ("sr", "af")})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cohort.json", "dropped.csv", "index.parquet", "samples-00000.npy", "samples-00001.npy", "samples-00002.npy",
    ]  # fmt: skip
    for number in range(7):
        values, rate_hz = cohort.signal(number)
        assert (values.dtype, rate_hz) == (np.float32, RATE_HZ)
        expected = np.load(tmp_path / "raw" / f"{number}.npy")
        np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
        np.testing.assert_allclose(values, expected, atol=0.000501)  # half a microvolt, and float32
    index = cohort.index
    assert index["record"].tolist() == [f"r{number}" for number in range(7)]
    assert index["report"].tolist()[:3] == ["sinus rhythm. normal ecg.", "", SECRET + "."]
    assert index["report_words"].tolist()[:3] == [4, 0, 4]
    assert index["lead_missing"][0].tolist() == [0, 0, 5] + [0] * 9
    assert index["n_short_gaps"][0].tolist() == [0, 0, 1] + [0] * 9
    assert np.flatnonzero(index["lead_flat"][3]).tolist() == [7]
    assert index["age"].isna().tolist() == [True] + [False] * 6
    assert index["sex"].tolist()[1] == "female"
    assert index["label.rhythm.sr"].isna().tolist() == [number == 2 for number in range(7)]
    assert len(set(index["source_sha256"])) == 7


def test_a_column_is_read_alone_and_is_that_of_the_index(tmp_path: Path) -> None:
    write(source(tmp_path / "raw"), tmp_path / "out", shard_records=3)
    cohort, rows = Cohort.open(tmp_path / "out"), np.array([6, 0, 2, 2])
    columns = {name: cohort.column(name, rows) for name in ("age", "sex", "record", "label.rhythm.sr")}
    by_group = subgroups.group_names(cohort, rows)
    assert "index" not in cohort.__dict__  # the table as a whole was not read
    for name, values in columns.items():
        pd.testing.assert_series_equal(values, cohort.index[name].iloc[rows], check_index=False, check_names=False)
    assert by_group["age"].tolist() == ["40-59", "not known", "40-59", "40-59"]
    assert set(by_group) == {"age"}  # the sex of none of these rows is known
    with pytest.raises(CohortError, match="cohort out: its index has no column 'seks'"):
        cohort.column("seks", rows)


def test_sixteen_bit_files_are_stored_as_they_are(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).integers(-32767, 32767, (300, 12), dtype=np.int16)
    steps[5, 5] = -32768
    digital = Digital(steps, np.linspace(0.3, 4.9, 12), np.arange(-50_000, 50_000, 8400, dtype=np.int32)[:12])
    read = Recording("a", digital.millivolts(), LEADS, 500.0, digital)
    packed = packing.pack(twelve_leads.to_twelve_leads(read))
    np.testing.assert_array_equal(packed.samples, steps)
    np.testing.assert_array_equal(packed.uv_per_step, digital.uv_per_step)
    np.testing.assert_array_equal(packed.baseline, digital.baseline)
    unpacked = packing.unpack(packed.samples.T, packed.uv_per_step, packed.baseline)
    np.testing.assert_allclose(unpacked, digital.millivolts().astype(np.float32), rtol=3e-7)


def test_floats_and_derived_leads_are_rounded_to_a_microvolt_or_to_a_stated_step() -> None:
    values = signal(0)[:, :3]
    values[10, 2] = 200.0  # 200 mV do not fit int16 at 1 uV
    packed = packing.pack(twelve_leads.to_twelve_leads(Recording("a", values, ("I", "II", "V1"), 500.0)))
    assert packed.uv_per_step.tolist() == [7.0 if lead == "V1" else 1.0 for lead in LEADS]
    unpacked = packing.unpack(packed.samples.T, packed.uv_per_step, packed.baseline)
    assert np.isnan(unpacked[:, 7:]).all()
    np.testing.assert_allclose(unpacked[:, 6], values[:, 2], atol=0.0036)
    np.testing.assert_allclose(unpacked[:, 2], values[:, 1] - values[:, 0], atol=0.000501)


def test_rows_and_labels(tmp_path: Path) -> None:
    write(source(tmp_path / "raw"), tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    assert cohort.rows().tolist() == list(range(7))
    assert cohort.rows("train").tolist() == [0, 1, 2, 3]
    assert cohort.rows("train", "rhythm").tolist() == [0, 1, 3]
    assert cohort.rows(min_report_words=4).tolist() == [0, 2, 3, 5, 6]
    assert cohort.rows("val", "rhythm", 1).tolist() == [5]
    labels = cohort.labels("rhythm", np.array([3, 0]))
    assert (labels.dtype, labels.tolist()) == (np.int8, [[1, 0], [0, 1]])
    with pytest.raises(CohortError, match="no task 'super'; it has rhythm"):
        cohort.labels("super", np.array([0]))
    with pytest.raises(CohortError, match="no split 'dev'; it is one of train, val, test"):
        cohort.rows("dev")


def test_a_cohort_is_pickled_to_a_worker_process_without_its_samples(tmp_path: Path) -> None:
    write(source(tmp_path / "raw"), tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    first = cohort.signal(4)[0]
    packed = pickle.dumps(cohort)
    np.testing.assert_array_equal(pickle.loads(packed).signal(4)[0], first)


# ---------------------------------------------------------------------------------------------------------- ledger


def test_the_ledger_counts_every_recording(tmp_path: Path) -> None:
    data = source(tmp_path / "raw", n=9)
    raw = tmp_path / "raw"
    (raw / "3.npy").unlink()
    (raw / "5.npy").write_bytes(b"no array")
    np.save(raw / "6.npy", np.full((500, 12), 0.5))
    empty = signal(8)
    empty[:300] = np.nan
    np.save(raw / "8.npy", empty)
    short = [dataclasses.replace(row, report="Sinus rhythm") if row.record == "r2" else row for row in data.rows]
    short = [dataclasses.replace(row, report="a b c d") if int(row.record[1:]) > 2 else row for row in short]
    options = {"min_report_words": 3, "allow_missing": True, "allow_unreadable": True, "shard_records": 2}
    ledger = write(dataclasses.replace(data, rows=short), tmp_path / "out", **options)
    assert dataclasses.asdict(ledger) == {
        "n_total": 9, "kept": 3, "no_report": 1, "short_report": 1, "missing_file": 1, "bad_row": 0, "unreadable": 1, "nan": 1,
        "flat": 1, "copy": 0, "without_report": 0, "n_leads_recorded": 36, "n_leads_derived": 0, "n_leads_missing": 0,
    }  # fmt: skip
    dropped = pd.read_csv(tmp_path / "out" / "dropped.csv", keep_default_na=False)
    assert dict(zip(dropped["record"], dropped["reason"])) == {
        "r1": "no_report", "r2": "short_report", "r3": "missing_file", "r5": "unreadable", "r6": "flat", "r8": "nan",
    }  # fmt: skip
    assert Cohort.open(tmp_path / "out", verify=True).index["record"].tolist() == ["r0", "r4", "r7"]


def test_the_ledger_counts_leads_recorded_derived_and_missing(tmp_path: Path) -> None:
    data = source(tmp_path / "raw", n=2)
    np.save(tmp_path / "raw" / "1.npy", signal(1)[:, [0, 1, 6]])
    data.rows[1] = dataclasses.replace(data.rows[1], leads=("I", "II", "V1"))
    ledger = write(data, tmp_path / "out")
    assert (ledger.n_leads_recorded, ledger.n_leads_derived, ledger.n_leads_missing) == (15, 4, 5)
    changed(tmp_path / "out", lambda description: description["ledger"].update(n_leads=24))
    with pytest.raises(CohortError, match="damaged"):
        Cohort.open(tmp_path / "out")


def test_volts_labelled_as_millivolts_are_dropped_with_a_question(tmp_path: Path) -> None:
    data = source(tmp_path / "raw", n=2)
    np.save(tmp_path / "raw" / "1.npy", np.tile([1e-4, -1e-4], 250)[:, None].repeat(12, axis=1))
    write(data, tmp_path / "out")
    assert "all 12 leads are flat; its leads range over 0.0002 mV; is the unit right?" in (
        tmp_path / "out" / "dropped.csv"
    ).read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- copies


def test_one_file_of_two_patients_is_refused(tmp_path: Path) -> None:
    data = source(tmp_path / "raw")
    (tmp_path / "raw" / "link.npy").symlink_to(tmp_path / "raw" / "6.npy")
    data.rows[0] = dataclasses.replace(data.rows[0], path=tmp_path / "raw" / "link.npy")
    with pytest.raises(CohortError, match=r"records r0 and r6 name the same file .*; leave one out"):
        write(data, tmp_path / "out")
    halves = [dataclasses.replace(data.rows[k], path=tmp_path / f"a{suffix}") for k, suffix in ((1, ".hea"), (6, ""))]
    with pytest.raises(CohortError, match="records r1 and r6 name the same file"):
        write(dataclasses.replace(data, rows=halves), tmp_path / "out")


@pytest.mark.parametrize("kind", ["bytes", "reordered"])
def test_equal_samples_of_two_patients_are_refused_whatever_the_files(tmp_path: Path, kind: str) -> None:
    data = source(tmp_path / "raw")
    if kind == "bytes":
        shutil.copy(tmp_path / "raw" / "0.npy", tmp_path / "raw" / "6.npy")
    else:  # another header, another order of leads: the checksum of the files differs, that of the samples does not
        steps = np.random.default_rng(0).integers(-900, 900, (500, 12)).astype(np.int16)
        np.save(tmp_path / "raw" / "0.npy", steps)
        np.save(tmp_path / "raw" / "6.npy", steps[:, ::-1])
        data.rows[0] = dataclasses.replace(data.rows[0], units="uV")
        data.rows[6] = dataclasses.replace(data.rows[6], units="uV", leads=LEADS[::-1])
    with pytest.raises(CohortError, match=r"1 recordings have the same samples .*r0 \(train\) and r6 \(test\)"):
        write(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    same_split = [dataclasses.replace(row, split="train") for row in data.rows]
    with pytest.raises(CohortError, match=r"r0 \(train\) and r6 \(train\).*leave out the copies with --allow-copies"):
        write(dataclasses.replace(data, rows=same_split), tmp_path / "out")


def test_copies_of_one_patient_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = source(tmp_path / "raw")
    for copy, of in ((1, 0), (3, 2)):
        shutil.copy(tmp_path / "raw" / f"{of}.npy", tmp_path / "raw" / f"{copy}.npy")
    with caplog.at_level(logging.WARNING):
        write(data, tmp_path / "out")
    assert caplog.text.count("copies of another") == 1
    assert "2 recordings are copies" in caplog.text
    index = Cohort.open(tmp_path / "out").index
    assert index["samples_sha256"].nunique() == 5
    first = Cohort.open(tmp_path / "out").signal(0)[0]
    block = np.where(np.isnan(first), -32768, np.rint(np.nan_to_num(first) * 1000)).astype("<i2").T
    assert index["samples_sha256"][0] == hashlib.sha256(block.tobytes()).hexdigest()


def test_missing_and_unreadable_files_are_errors_unless_allowed(tmp_path: Path) -> None:
    data = source(tmp_path / "raw")
    (tmp_path / "raw" / "2.npy").rename(tmp_path / "away.npy")
    with pytest.raises(CohortError, match=r"1 of 7 recordings have a missing file \(.*2\.npy\).*--allow-missing"):
        write(data, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out.partial").iterdir()] == ["dropped.csv"]
    (tmp_path / "raw" / "2.npy").write_bytes(b"no array")
    with pytest.raises(CohortError, match=r"1 recordings are unreadable .*2\.npy.*--allow-unreadable") as caught:
        write(data, tmp_path / "out", shard_records=2)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "out").exists()
    untouched = (tmp_path / "out.partial" / "samples-00000.npy").stat().st_mtime_ns
    (tmp_path / "away.npy").replace(tmp_path / "raw" / "2.npy")  # repaired: only its shard is written again
    assert write(data, tmp_path / "out", shard_records=2).kept == 7
    assert (tmp_path / "out" / "samples-00000.npy").stat().st_mtime_ns == untouched
    Cohort.open(tmp_path / "out", verify=True)


def test_no_usable_recording_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        CohortError, match=r"none of its 7 recordings can be used \(5 short_report, 2 no_report\)|no_rep"
    ):
        write(source(tmp_path / "raw"), tmp_path / "out", min_report_words=50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": "r1"}, r"used more than once \(r1\)"),
        ({"split": "val"}, r"1 patients are in more than one split \(p0\)"),
        ({"split": "dev"}, "record r0: split 'dev'"),
        ({"patient": ""}, "record r0: no patient"),
        ({"labels": {"form": {"x": 1}}}, "record r0: task 'form' is not one of rhythm"),
        ({"labels": {"rhythm": {"x": 1}}}, "record r0: class 'x' is not in task rhythm"),
        ({"labels": {"rhythm": {"sr": 2}}}, "record r0: label rhythm.sr is 2"),
        ({"extra": {"offset": 1.0}}, "record r0: the extra column 'offset'"),
        ({"split": SECRET}, "record r0: split a longer text"),
        ({"labels": {"rhythm": {"sr": SECRET}}}, "record r0: label rhythm.sr is a longer text"),
        ({"record": SECRET, "patient": ""}, "record a longer text: no patient"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    data = source(tmp_path / "raw")
    data.rows[0] = dataclasses.replace(data.rows[0], **change)
    with pytest.raises(CohortError, match=message) as caught:
        write(data, tmp_path / "out")
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "out.partial").exists()


def test_names_that_may_be_reports_are_not_listed(tmp_path: Path) -> None:
    data = source(tmp_path / "raw")
    same = dataclasses.replace(data, rows=[dataclasses.replace(row, record=SECRET) for row in data.rows])
    torn = dataclasses.replace(data, rows=[dataclasses.replace(row, patient=SECRET) for row in data.rows])
    for swapped, message in ((same, "used more than once"), (torn, "more than one split")):
        with pytest.raises(CohortError, match=rf"{message} \(a longer text\)") as caught:
            write(swapped, tmp_path / "out")
        assert SECRET not in str(caught.value)


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="source made: it has no recording"):
        write(Source("made", [], {}), tmp_path / "out")


# ------------------------------------------------------------------------------------------------- whole or resumed


def test_two_runs_make_the_same_bytes(tmp_path: Path) -> None:
    data = source(tmp_path / "raw")
    reports: list[tuple[int, int]] = []
    write(data, tmp_path / "one", shard_records=3, progress=lambda _, done, total: reports.append((done, total)))
    write(data, tmp_path / "two", shard_records=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert Cohort.open(tmp_path / "one").fingerprint == Cohort.open(tmp_path / "two").fingerprint
    assert reports[-1] == (7, 7)
    assert reports == sorted(reports)
    other = source(tmp_path / "raw2")
    np.save(tmp_path / "raw2" / "0.npy", signal(99))
    write(other, tmp_path / "three", shard_records=3)
    assert Cohort.open(tmp_path / "three").fingerprint != Cohort.open(tmp_path / "one").fingerprint


def test_a_full_disk_keeps_whole_shards_and_the_next_run_goes_on(tmp_path: Path, monkeypatch) -> None:
    data = source(tmp_path / "raw")
    write(data, tmp_path / "straight", shard_records=2)
    append, n_calls = shard._append, 0

    def full(out, samples: bytes) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 4:
            out.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(out, samples)

    with monkeypatch.context() as patch:
        patch.setattr(shard, "_append", full)
        with pytest.raises(
            CohortError,
            match=r"disk is full; 1 finished shards are in .*out\.partial: free some space and run the same command",
        ):
            write(data, tmp_path / "out", shard_records=2)
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in (tmp_path / "out.partial").iterdir()) == ["parts", "samples-00000.npy"]
    n_read = 0
    read = reading.read

    def counted(*args, **kwargs):
        nonlocal n_read
        n_read += 1
        return read(*args, **kwargs)

    monkeypatch.setattr(shard, "read", counted)
    write(data, tmp_path / "out", shard_records=2)
    assert n_read == 5  # the two of the finished shard are not read again
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("where", ["table", "text"])
def test_a_disk_full_at_the_index_is_resumed_too(tmp_path: Path, monkeypatch, where: str) -> None:
    data = source(tmp_path / "raw")
    write(data, tmp_path / "straight", shard_records=2)
    write_text = shard.write_text

    def full(path: Path, content: object, *_: object) -> None:
        if where == "text" and path.parent.name != "out.partial":
            write_text(path, str(content))
            return
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if where == "table":
            patch.setattr(index, "_write_table", full)
        else:
            patch.setattr(shard, "write_text", full)
        with pytest.raises(CohortError, match="disk is full; 4 finished shards"):
            write(data, tmp_path / "out", shard_records=2)
    with pytest.raises(CohortError, match="not finished: run the same"):
        Cohort.open(tmp_path / "out")
    write(data, tmp_path / "out", shard_records=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_killed_run_goes_on_and_a_changed_file_or_setting_is_done_anew(tmp_path: Path) -> None:
    data = source(tmp_path / "raw")

    def killed(_: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(data, tmp_path / "out", shard_records=2, progress=killed)
    (tmp_path / "out.partial" / ".samples-00002.npy.1a2b3c4d.part").write_bytes(b"half")  # as kill -9 would leave it
    np.save(tmp_path / "raw" / "0.npy", signal(77))
    write(data, tmp_path / "straight", shard_records=3)
    write(data, tmp_path / "out", shard_records=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_a_damaged_shard_of_an_earlier_run_is_not_trusted(tmp_path: Path) -> None:
    data = source(tmp_path / "raw")
    (tmp_path / "raw" / "6.npy").write_bytes(b"no array")
    with pytest.raises(CohortError, match="unreadable"):
        write(data, tmp_path / "out", shard_records=2)
    first = tmp_path / "out.partial" / "samples-00000.npy"
    first.write_bytes(first.read_bytes()[:-2])
    (tmp_path / "out.partial" / "parts" / "part-00001.json").write_text("{}")
    write(data, tmp_path / "out", shard_records=2, allow_unreadable=True)
    assert len(Cohort.open(tmp_path / "out", verify=True)) == 6


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(source(tmp_path / "raw"), tmp_path / "out")
    assert len(Cohort.open(tmp_path / "out", verify=True)) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_shards_of_a_version_with_other_columns_are_done_anew(tmp_path: Path, monkeypatch) -> None:
    data = source(tmp_path / "raw")
    (tmp_path / "raw" / "6.npy").write_bytes(b"no array")
    with monkeypatch.context() as patch:
        patch.setattr(shard, "_FILE_FIELDS", shard._FILE_FIELDS.remove(len(shard._FILE_FIELDS) - 1))
        with pytest.raises(CohortError, match="unreadable"):
            write(data, tmp_path / "out", shard_records=2)
    np.save(tmp_path / "raw" / "6.npy", signal(6))
    write(data, tmp_path / "out", shard_records=2)
    assert Cohort.open(tmp_path / "out").index["samples_sha256"].nunique() == 7


def test_an_existing_folder_is_replaced_only_on_request_and_only_if_it_is_a_cohort(tmp_path: Path) -> None:
    data = source(tmp_path / "raw")
    write(data, tmp_path / "out")
    with pytest.raises(CohortError, match="exists already; pass --overwrite"):
        write(data, tmp_path / "out")
    write(Source("made", data.rows[:2], data.tasks), tmp_path / "out", overwrite=True)
    assert len(Cohort.open(tmp_path / "out")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]
    for overwrite in (False, True):  # a remedy that would be refused is not named
        with pytest.raises(CohortError, match=r"raw exists and is not a cohort.*another folder with -o") as caught:
            write(data, tmp_path / "raw", overwrite=overwrite)
        assert "--overwrite" not in str(caught.value)
    assert write(data, tmp_path / "another").kept == 7
    shutil.rmtree(tmp_path / "another")
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "thesis.txt").write_text("x")
    with pytest.raises(CohortError, match=r"contains thesis\.txt, which `leadwise prepare` did not write"):
        write(data, tmp_path / "new")


# ------------------------------------------------------------------------------------------------------------- open


def test_a_cohort_that_changed_is_refused(tmp_path: Path) -> None:
    write(source(tmp_path / "raw"), tmp_path / "good", shard_records=3)

    def copy() -> Path:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        return Path(shutil.copytree(tmp_path / "good", tmp_path / "bad"))

    bad = copy()
    data = bytearray((bad / "samples-00001.npy").read_bytes())
    data[500] ^= 1
    (bad / "samples-00001.npy").write_bytes(data)
    Cohort.open(bad)  # sizes are right
    with pytest.raises(CohortError, match=r"samples-00001\.npy has changed at record r3 "):
        Cohort.open(bad, verify=True)
    (bad / "samples-00001.npy").write_bytes(data[:-2])
    with pytest.raises(CohortError, match=r"samples-00001\.npy has \d+ bytes, not \d+"):
        Cohort.open(bad)
    (bad / "samples-00001.npy").unlink()
    with pytest.raises(CohortError, match=r"samples-00001\.npy is missing"):
        Cohort.open(bad)
    bad = copy()
    data = bytearray((bad / "index.parquet").read_bytes())
    data[500] ^= 1
    (bad / "index.parquet").write_bytes(data)
    with pytest.raises(CohortError, match=r"index\.parquet has changed"):
        Cohort.open(bad)
    (bad / "cohort.json").write_text("{")
    with pytest.raises(CohortError, match=r"cohort\.json is damaged"):
        Cohort.open(bad)
    (bad / "cohort.json").write_text('{"format": 99}')
    with pytest.raises(CohortError, match="not of format 2"):
        Cohort.open(bad)
    with pytest.raises(CohortError, match=r"no cohort at .*nowhere; see"):
        Cohort.open(tmp_path / "nowhere")


def test_a_folder_of_simulated_files_is_no_cohort_and_its_remedy_works(tmp_path: Path) -> None:
    simulate(tmp_path / "ecgs", 6, 0)
    with pytest.raises(CohortError, match="simulated ECGs that are not prepared") as refused:
        Cohort.open(tmp_path / "ecgs")
    command = re.search(r"`leadwise (.*) -o COHORT`", str(refused.value))
    assert command is not None
    assert command[1] == f"prepare simulated {tmp_path / 'ecgs'}"
    done = invoke(*command[1].split(), "-o", tmp_path / "cohort")
    assert done.returncode == 0, done.stderr
    assert len(Cohort.open(tmp_path / "cohort")) == 6


@pytest.mark.parametrize("name", ["../good/samples-00000.npy", "/etc/passwd", "", "a/../../x"])
def test_a_shard_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    write(source(tmp_path / "raw"), tmp_path / "out")
    changed(tmp_path / "out", lambda description: description["shards"][0].update(file=name))
    with pytest.raises(CohortError, match="leaves") as caught:
        Cohort.open(tmp_path / "out")
    assert repr(name) in str(caught.value)


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write(source(tmp_path / "raw"), tmp_path / "out")
    (tmp_path / "out" / "samples-00000.npy").rename(tmp_path / "elsewhere.npy")
    (tmp_path / "out" / "samples-00000.npy").symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(CohortError, match=r"'samples-00000\.npy' is a link that leads out"):
        Cohort.open(tmp_path / "out")


def test_an_index_that_points_outside_its_shard_is_refused(tmp_path: Path) -> None:
    write(source(tmp_path / "raw"), tmp_path / "out")
    packing_table = pq.read_table(tmp_path / "out" / "index.parquet")
    at = packing_table.column_names.index("offset")
    moved = pa.array([offset + 100 for offset in packing_table["offset"].to_pylist()])
    shard.write_table(tmp_path / "out" / "index.parquet", packing_table.set_column(at, "offset", moved))
    index = tmp_path / "out" / "index.parquet"
    facts = {"file": index.name, "size": index.stat().st_size, "sha256": sha256([index])}
    changed(tmp_path / "out", lambda description: description.update(index=facts))
    with pytest.raises(CohortError, match="points outside shard 0"):
        Cohort.open(tmp_path / "out")
