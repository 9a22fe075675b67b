"""HDF5: CODE-15 by exam_id and without its padding; other files by their only array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.formats import hdf5, reading
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources import folder

h5py = pytest.importorskip("h5py")

EXAMS = (1169160, 2873686, 0, 271011)
PADDING = ((48, 48), (648, 648), (0, 4096), (0, 0))


@pytest.fixture
def code15(tmp_path: Path) -> Path:
    """A part as CODE-15 has it: 4,096 samples, padded on both sides, and a row of zeros."""
    rng = np.random.default_rng(0)
    tracings = rng.normal(size=(4, 4096, 12)).astype("<f4")
    for row, (before, after) in enumerate(PADDING):
        tracings[row, :before] = tracings[row, 4096 - after :] = 0
    tracings[0, 1000:1050] = 0  # a lost contact is no padding
    path = tmp_path / "exams_part0.hdf5"
    with h5py.File(path, "w") as file:
        file["tracings"], file["exam_id"] = tracings, np.array(EXAMS)
    return path


def test_a_recording_of_code15_by_its_exam_id(code15: Path) -> None:
    assert reading.items(code15) == ("1169160", "2873686", "271011")
    with h5py.File(code15) as file:
        tracings = file["tracings"][()]
    sums = set()
    for row, (exam, (before, after)) in enumerate(zip(EXAMS, PADDING)):
        if exam == 0:
            continue
        recording = reading.read(code15, item=str(exam), units="mV")
        assert (recording.leads, recording.rate_hz, recording.format) == (LEADS, 400, "hdf5")
        assert recording.remarks == ("leads and rate as documented for CODE-15",)
        missing = np.isnan(recording.signal)
        assert (missing.sum(axis=0) == before + after).all()
        np.testing.assert_array_equal(recording.signal[~missing], tracings[row].astype(float)[~missing])
        sums.add(recording.sha256)
    assert len(sums) == 3
    np.testing.assert_array_equal(
        reading.read(code15.read_bytes(), item="271011", units="mV").signal, tracings[3].astype(float)
    )


def test_what_code15_does_not_state(code15: Path) -> None:
    with pytest.raises(RecordError, match=r"does not state the unit; pass it \(--units, units=\)"):
        reading.read(code15, item="271011")
    given = ["-", "II", *"-" * 10]
    assert reading.read(code15, item="271011", units="mV", leads=given).leads == ("II",)
    for item, reason in ((None, "holds 3 recordings"), ("0", "exam_id 0 is no recording"), ("5", "no item '5'")):
        with pytest.raises(RecordError, match=reason):
            reading.read(code15, item=item, units="mV")


def test_a_part_without_a_recording(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["tracings"], file["exam_id"] = np.zeros((1, 4096, 12)), np.array([0])
    assert reading.items(tmp_path / "a.hdf5") == ()
    with pytest.raises(RecordError, match="exam_id 0 is no recording"):
        reading.read(tmp_path / "a.hdf5", units="mV")


def test_a_table_of_exams_becomes_a_cohort(code15: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("path,item\nexams_part0.hdf5,271011\nexams_part0.hdf5,1169160\n")
    source = folder.read_source(tmp_path / "mine.csv", folder.Options(units="mV"))
    write(source, tmp_path / "cohort")
    cohort = Cohort.open(tmp_path / "cohort")
    with h5py.File(code15) as file:
        np.testing.assert_allclose(cohort.signal(0)[0], file["tracings"][3], atol=0.01)


@pytest.mark.parametrize("group", ["", "ecg/lead12/"])
def test_one_recording_with_attributes(tmp_path: Path, group: str) -> None:
    values = np.random.default_rng(0).normal(size=(12, 500))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[f"{group}samples"] = values
        file[f"{group}samples"].attrs.update({"fs": 500, "units": "uV"})
        file[f"{group}leads"] = np.array(LEADS, dtype=object)
    recording = reading.read(tmp_path / "a.h5")
    assert (recording.leads, recording.rate_hz) == (LEADS, 500)
    np.testing.assert_allclose(recording.signal, values.T / 1000)
    assert reading.items(tmp_path / "a.h5") == ()


def test_many_recordings_by_row(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 500, 12))
    values[1, :20] = 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tracings"] = values
    assert reading.items(tmp_path / "a.h5") == ("0", "1", "2")
    given: dict[str, Any] = {"leads": LEADS, "rate_hz": 400, "units": "mV"}
    signal = reading.read(tmp_path / "a.h5", item="1", **given).signal
    assert np.isnan(signal[:20]).all()
    np.testing.assert_array_equal(signal[20:], values[1, 20:])
    with pytest.raises(RecordError, match="does not state the leads, the sampling rate and the unit"):
        reading.read(tmp_path / "a.h5", item="1")


def test_damage_is_one_error(tmp_path: Path, code15: Path) -> None:
    given: dict[str, Any] = {"leads": LEADS, "rate_hz": 400, "units": "mV"}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = np.zeros((10, 12)), np.zeros((10, 12))
    with pytest.raises(RecordError, match="the samples must be the only array"):
        reading.read(tmp_path / "a.h5", **given)
    with h5py.File(tmp_path / "b.h5", "w") as file:  # 2.4 TB that are not written
        file.create_dataset("x", shape=(10**10, 12), dtype="f8", chunks=(1000, 12))
    with pytest.raises(RecordError, match="implausibl"):
        reading.read(tmp_path / "b.h5", **given)
    (tmp_path / "c.h5").write_bytes(code15.read_bytes()[:3000])
    with pytest.raises(RecordError, match="not a readable HDF5 file"):
        reading.read(tmp_path / "c.h5", **given)
    with pytest.raises(RecordError, match="no such file"):
        reading.read(tmp_path / "gone.h5", **given)


def test_matches(code15: Path) -> None:
    assert hdf5.matches(code15.read_bytes()[:4096])
    assert not hdf5.matches(b"HDF")
