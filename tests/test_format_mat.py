"""MATLAB files of version 4, 5 and 7.3: `val`, the struct ECG, or the only matrix; what variables beside it state."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from leadwise.batch import LEADS
from leadwise.data.formats import mat, mat_elements, reading
from leadwise.data.recordings.recording import RecordError

SAMPLES = np.random.default_rng(0).integers(-900, 900, (12, 400)).astype(np.int16)
GIVEN: dict[str, Any] = {"leads": LEADS, "rate_hz": 250, "units": "uV"}


def save_7_3(path: Path, variables: dict[str, Any]) -> None:
    """A file as MATLAB 7.3 writes it: HDF5 behind 512 bytes, axes in reverse order, texts as numbers."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = file.create_group("#refs#")

        def put(group: Any, name: str, value: Any) -> Any:
            if isinstance(value, dict):
                inner = group.create_group(name)
                for key, item in value.items():
                    put(inner, key, item)
                return inner
            if isinstance(value, str):
                dataset = group.create_dataset(name, data=np.array([[ord(c)] for c in value], dtype=np.uint16))
                dataset.attrs["MATLAB_class"] = np.bytes_("char")
                return dataset
            if isinstance(value, list):
                references = [put(cells, f"{name}{k}", item).ref for k, item in enumerate(value)]
                return group.create_dataset(name, data=np.array([references], dtype=h5py.ref_dtype))
            return group.create_dataset(name, data=np.asarray(value).T)

        for key, item in variables.items():
            put(file, key, item)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def save(path: Path, variables: dict[str, Any], version: str) -> None:
    if version == "7.3":
        save_7_3(path, variables)
    elif version == "5":
        cells = {k: np.array(v, dtype=object) if isinstance(v, list) else v for k, v in variables.items()}
        savemat(path, cells, do_compression=True)
    else:
        savemat(path, variables, format="4")


@pytest.mark.parametrize("version", ["4", "5", "7.3"])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("name", ["val", "anything"])
def test_one_matrix(tmp_path: Path, version: str, turned: bool, name: str) -> None:
    path = tmp_path / "a.mat"
    save(path, {name: SAMPLES.T if turned else SAMPLES, "n": 5.0}, version)
    recording = reading.read(path, **GIVEN)
    np.testing.assert_allclose(recording.signal, SAMPLES.T / 1000)
    assert recording.digital is not None
    np.testing.assert_allclose(reading.read(path.read_bytes(), **GIVEN).signal, SAMPLES.T / 1000)  # found by content
    with pytest.raises(RecordError, match="does not state the leads, the sampling rate and the unit"):
        reading.read(path)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_what_variables_state(tmp_path: Path, version: str) -> None:
    save(tmp_path / "a.mat", {"x": SAMPLES, "fs": 500.0, "leads": list(LEADS), "units": "uV"}, version)
    recording = reading.read(tmp_path / "a.mat")
    assert (recording.leads, recording.rate_hz) == (LEADS, 500)
    np.testing.assert_allclose(recording.signal, SAMPLES.T / 1000)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_the_struct_of_cpsc(tmp_path: Path, version: str) -> None:
    save(tmp_path / "a.mat", {"ECG": {"data": SAMPLES / 1000, "sex": "Male", "age": 74.0}}, version)
    recording = reading.read(tmp_path / "a.mat", **(GIVEN | {"units": "mV"}))
    np.testing.assert_allclose(recording.signal, SAMPLES.T / 1000)
    assert recording.stated == {"sex": "male", "age": 74}
    age, sex = mat.age_and_sex(tmp_path / "a.mat")
    assert (float(age), sex) == (74, "Male")


def test_damage_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"a": SAMPLES, "b": SAMPLES})
    with pytest.raises(RecordError, match=r"contains a \(12, 400\), b \(12, 400\); the samples must be the only array"):
        reading.read(path, **GIVEN)
    savemat(path, {"a": "text"})
    with pytest.raises(RecordError, match="no array of numbers"):
        reading.read(path, **GIVEN)
    for version in ("4", "5", "7.3"):
        save(path, {"val": SAMPLES}, version)
        path.write_bytes(path.read_bytes()[:1500])
        with pytest.raises(RecordError, match=r"not a readable \.mat file"):
            reading.read(path, **GIVEN)


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"val": SAMPLES}, format="4")
    content = bytearray(path.read_bytes())
    content[4:12] = np.array([12, 100_000_000], "<i4").tobytes()
    with pytest.raises(RecordError, match=r"promises 1,200,000,000 values|not a readable"):
        reading.read(bytes(content), **GIVEN)
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("val", shape=(10**10, 12), dtype="f8", chunks=(1000, 12))
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(RecordError, match="'val' promises 120,000,000,000 values"):
        reading.read(path, **GIVEN)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_element_of_an_unknown_type_is_an_error(tmp_path: Path, compressed: bool) -> None:
    """scipy ends the process on it."""
    path = tmp_path / "a.mat"
    savemat(path, {"val": SAMPLES})
    content = path.read_bytes()
    place = content.index(SAMPLES.T.tobytes()) - 8  # the head of the samples' element
    assert content[place] == 3  # int16
    damaged = content[:place] + b"\0" + content[place + 1 :]
    if compressed:
        stream = zlib.compress(damaged[128:])
        damaged = damaged[:128] + struct.pack("<II", 15, len(stream)) + stream
    with pytest.raises(RecordError, match="an element has the unknown type 0"):
        reading.read(damaged, **GIVEN)


def test_a_variable_that_inflates_too_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mat_elements, "_MAX_BYTES", 5000)
    savemat(tmp_path / "a.mat", {"val": SAMPLES * 0}, do_compression=True)
    with pytest.raises(RecordError, match="a variable inflates to more than"):
        reading.read(tmp_path / "a.mat", **GIVEN)


def test_matches(tmp_path: Path) -> None:
    for version in ("4", "5", "7.3"):
        save(tmp_path / "a.mat", {"val": SAMPLES}, version)
        assert mat.matches((tmp_path / "a.mat").read_bytes()[:4096])
    assert not mat.matches(bytes(100))
    assert not mat.matches(b"\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00a-b\x00")
