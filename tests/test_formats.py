"""File formats: found by suffix, then by content; a new file adds one; an unknown file's error lists what can be read."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from scipy.io import savemat
from vendor_files import muse

from leadwise.batch import LEADS
from leadwise.data import ecg_files, formats
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.formats import csv, mat, npy, reading
from leadwise.data.formats import wfdb as wfdb_format
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources import folder
from leadwise.data.sources.source import check

GIVEN = {"leads": LEADS, "rate_hz": 250, "units": "mV"}
TRACE = '''"""TRACE files: the letters TRACE, the rate as a little-endian int16, then int16 samples of 12 leads in uV."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.formats.given import Given
from leadwise.data.recordings.recording import Digital, RecordError, Recording

SUFFIXES = (".trc", ".xml")


def matches(first_bytes: bytes) -> bool:
    return first_bytes.startswith(b"TRACE")


def read(path: Path, given: Given) -> Recording:
    raw = path.read_bytes()
    if not matches(raw):
        raise RecordError(f"record {path}: not a TRACE file; export it again")
    samples = np.frombuffer(raw[7:], "<i2").reshape(-1, 12)
    digital = Digital(samples, np.ones(12), np.zeros(12, dtype=np.int32))
    return Recording(path.stem, None, LEADS, float(np.frombuffer(raw[5:7], "<i2")[0]), digital, (path,))
'''
OTHER_XML = '''"""Another format with the same suffix."""

from __future__ import annotations

from pathlib import Path

from leadwise.data.formats.given import Given
from leadwise.data.recordings.recording import Recording

SUFFIXES = (".xml",)


def matches(first_bytes: bytes) -> bool:
    return first_bytes.startswith(b"<other")


def read(path: Path, given: Given) -> Recording:
    raise AssertionError("the content is of another format")
'''


def samples(n_samples: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, (n_samples, 12)).astype("<i2")


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a format that the new file `trace.py` reads: nothing else is edited."""
    more = tmp_path / "more"
    more.mkdir()
    (more / "trace.py").write_text(TRACE)
    (more / "other_xml.py").write_text(OTHER_XML)
    (more / "trace_helpers.py").write_text('"""No format: it has no SUFFIXES."""\n')
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(more)])
    for name in ("trace", "other_xml", "trace_helpers"):
        monkeypatch.delitem(sys.modules, f"leadwise.data.formats.{name}", raising=False)
    path = tmp_path / "a1.TRC"
    path.write_bytes(b"TRACE" + np.array([250], "<i2").tobytes() + samples().tobytes())
    return path


def test_a_new_format_is_read_by_its_suffix(trace: Path) -> None:
    recording = reading.read(trace)
    assert (recording.rate_hz, recording.leads) == (250, LEADS)
    np.testing.assert_allclose(recording.signal, samples() / 1000)
    assert reading.files(trace) == (trace,)
    assert ".trc" in reading.suffixes()
    unknown = trace.with_name("a1.xyz")
    unknown.write_bytes(b"what is this")
    with pytest.raises(RecordError, match=r"not known; .*other_xml \(\.xml\), .*trace \(\.trc, \.xml\), wfdb"):
        reading.read(unknown)


@pytest.mark.parametrize("name", ["a2.xml", "a2.bin", "a2", "a2.dat"])
def test_a_new_format_is_found_by_content(trace: Path, name: str) -> None:
    """Where several formats have the suffix, or none has, or a WFDB record of that name has no header."""
    path = trace.rename(trace.with_name(name))
    np.testing.assert_allclose(reading.read(path).signal, samples() / 1000)
    assert reading.files(path) == (path,)
    assert reading.missing_file(path) is None


def test_files_of_a_new_format_become_a_cohort(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("path\na1.TRC\n")
    (row,) = folder.read_source(tmp_path / "mine.csv").rows
    assert row.record == "a1"
    write(folder.read_source(tmp_path / "mine.csv"), tmp_path / "cohort")
    signal, rate_hz = Cohort.open(tmp_path / "cohort").signal(0)
    assert rate_hz == 250
    np.testing.assert_allclose(signal, samples() / 1000, atol=1e-6)


def test_an_unknown_file_lists_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a1.xyz").write_bytes(b"\x00\x01\x02")
    known = (
        "csv (.csv", "dicom (.dcm", "edf (.edf, .bdf", "mat (.mat)", "muse (.xml)", "npy (.npy", "scp (.scp)",
        "wfdb (.hea, .dat, .mat, a name without suffix)",
    )  # fmt: skip
    for name, reason in (("a1.xyz", "its format is not known"), ("gone.xyz", "no such file; check the path")):
        with pytest.raises(RecordError, match=rf"{name}: {reason}; formats that can be read: ") as caught:
            reading.read(tmp_path / name)
        assert all(text in str(caught.value) for text in known)
    (tmp_path / "IM001").write_bytes(b"\x00\x01\x02")
    with pytest.raises(RecordError, match="IM001: its format is not known"):
        reading.read(tmp_path / "IM001")
    assert reading.files(tmp_path / "a1.xyz") == (tmp_path / "a1.xyz",)


def test_each_format_knows_its_own_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", samples())
    np.savetxt(tmp_path / "a.csv", samples()[:, :2], delimiter=",", header="I,ii", comments="", fmt="%d")
    np.savetxt(tmp_path / "b.csv", samples()[:, :2], delimiter=",", fmt="%d")
    savemat(tmp_path / "a.mat", {"ECG": {"data": samples().T, "sex": "Male", "age": 50}})
    wfdb.wrsamp(
        "a1", fs=250, units=["mV"], sig_name=["I"], d_signal=samples()[:, :1].astype(int), fmt=["16"], adc_gain=[1000],
        baseline=[0], write_dir=str(tmp_path),
    )  # fmt: skip
    known = {"a.npy": npy, "a.csv": csv, "b.csv": csv, "a.mat": mat, "a1.hea": wfdb_format, "a1.dat": None}
    for name, module in known.items():
        first_bytes = (tmp_path / name).read_bytes()[:4096]
        matching = [one for one in (csv, mat, npy, wfdb_format) if one.matches(first_bytes)]
        assert matching == ([module] if module else []), name
    for one in (csv, mat, npy, wfdb_format):
        for first_bytes in (
            b"",
            b"\x00" * 100,
            b"one word",
            b"a, sentence with, commas",
            b"<xml a='1,2'/>",
            b"\xff\xfe",
        ):
            assert not one.matches(first_bytes), (one, first_bytes)


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".mat"])
def test_a_file_under_another_name_is_found_by_content(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, samples())
    elif suffix == ".csv":
        np.savetxt(path, samples(), delimiter=",", fmt="%d")
    else:
        savemat(path, {"ECG": {"data": samples().T}})
    path.rename(tmp_path / "a.data")
    np.testing.assert_allclose(reading.read(tmp_path / "a.data", **GIVEN).signal, samples())


@pytest.mark.parametrize(
    "suffix", [".npy", ".dcm", ".ecg", ".hdf5", ".mat", ".scp", ".atc", ".mwf", ".edf", ".txt", ".csv"]
)
def test_the_content_decides_where_the_suffix_is_of_another_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(muse())
    assert reading.read(path).format.startswith("muse")
    assert ecg_files.beneath(tmp_path).paths == (path,)
    np.savez(tmp_path / "x", signal=samples() / 1000, leads=LEADS, fs=250, units="mV")
    (tmp_path / "x.npz").rename(path)
    assert reading.read(path).format == "npz"
    assert reading.items(path) == ()


def test_samples_whose_header_has_the_other_case(tmp_path: Path) -> None:
    wfdb.wrsamp(
        "a1", fs=250, units=["mV"], sig_name=["I"], d_signal=samples()[:, :1].astype(int), fmt=["16"], adc_gain=[1000],
        baseline=[0], write_dir=str(tmp_path),
    )  # fmt: skip
    header = (tmp_path / "a1.hea").rename(tmp_path / "a1.HEA")
    assert reading.files(tmp_path / "a1.dat") == (header, tmp_path / "a1.dat")
    np.testing.assert_allclose(reading.read(tmp_path / "a1.dat").signal, samples()[:, :1] / 1000)
    assert ecg_files.beneath(tmp_path).paths == (header,)


def test_what_is_no_ecg_file_is_one_error(tmp_path: Path) -> None:
    for suffix in reading.suffixes():
        path = tmp_path / f"a{suffix}"
        path.mkdir()
        with pytest.raises(RecordError, match=r"it is a folder; name a file in it$"):
            reading.read(path)
        path.rmdir()
        path.write_bytes(b"")
        with pytest.raises(RecordError, match=r"empty|no such file"):  # samples without a header
            reading.read(path)
        path.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
        with pytest.raises(RecordError, match=r"macOS's notes|line 1 is not|no such file"):
            reading.read(path)
        path.unlink()
    with pytest.raises(RecordError, match=r"no such file"):
        reading.read(tmp_path / "a1")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_file_without_permission_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The administrator may read every file: the refusal is simulated."""
    (tmp_path / "a.xml").write_text(muse())
    (tmp_path / "a.hea").write_text("a 1 100\n")

    def refuse(self: Path, *arguments: Any, **named: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    for name in ("a.xml", "a.hea"):
        with pytest.raises(
            RecordError, match=rf"{name}: cannot be opened \(Permission denied\); check its permissions"
        ):
            reading.read(tmp_path / name)


def test_the_files_of_a_folder_that_should_be_ecgs(tmp_path: Path) -> None:
    """A damaged file is not left out in silence; a file of any name counts if its content is that of an ECG format."""
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "export").write_text(muse())
    for name in ("damaged.scp", "empty.dcm", "unknown.xml", "short.npy"):
        (tmp_path / name).write_bytes(b"?")
    for name in ("README", "notes.txt", "labels.csv", "lonely.dat", "photo.jpg", ".hidden.xml"):
        (tmp_path / name).write_text("text, of no ECG")
    files = ecg_files.beneath(tmp_path)
    names = ["IM0001", "damaged.scp", "empty.dcm", "export", "short.npy", "unknown.xml"]
    assert [path.name for path in files.paths] == names
    assert files.left_out == "5 other files are left out: README, labels.csv, lonely.dat, notes.txt, photo.jpg"


def test_a_damaged_header_of_numpy_is_one_error(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, samples())
    for place in range(128):
        for value in (0, 10, 39, 255):
            damaged = bytearray(content.getvalue())
            damaged[place] = value
            (tmp_path / "a.npy").write_bytes(damaged)
            for source in (tmp_path / "a.npy", bytes(damaged)):
                with contextlib.suppress(RecordError):
                    reading.read(source, **GIVEN)


def test_a_name_with_a_dot_is_a_wfdb_record(tmp_path: Path) -> None:
    np.save(tmp_path / "unused.npy", samples())
    wfdb.wrsamp(
        "a1", fs=250, units=["mV"] * 12, sig_name=list(LEADS), d_signal=samples().astype(int), fmt=["16"] * 12,
        adc_gain=[1000] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    (tmp_path / "a1.hea").rename(tmp_path / "rec.ord.hea")
    np.testing.assert_allclose(reading.read(tmp_path / "rec.ord").signal, samples() / 1000)
    assert reading.files(tmp_path / "rec.ord") == (tmp_path / "rec.ord.hea", tmp_path / "a1.dat")
    assert reading.missing_file(tmp_path / "rec.ord") is None


def test_the_missing_file_is_the_one_that_describes_a_recording(tmp_path: Path) -> None:
    missing = {
        "a1": "a1.hea",
        "a1.hea": "a1.hea",
        "a1.dat": "a1.hea",
        "b.npy": "b.npy",
        "c.csv": "c.csv",
        "d.mat": "d.mat",
    }
    for name, described_by in missing.items():
        assert reading.missing_file(tmp_path / name) == tmp_path / described_by
    (tmp_path / "mine.csv").write_text("path\na1\nb.npy\n")
    facts = check(folder.read_source(tmp_path / "mine.csv"))
    assert (facts.n_absent, facts.absent) == (2, [str(tmp_path / "a1.hea"), str(tmp_path / "b.npy")])
    (tmp_path / "a1.dat").write_bytes(bytes(100))  # samples without a header
    assert reading.missing_file(tmp_path / "a1.dat") == tmp_path / "a1.hea"
    (tmp_path / "d.mat").write_bytes(bytes(100))  # damaged: `read` raises the error
    assert reading.missing_file(tmp_path / "d.mat") is None
    (tmp_path / "d.hea").write_text("also damaged")
    with pytest.raises(RecordError, match=r"d\.hea: line 1 is not"):
        reading.read(tmp_path / "d.mat", **GIVEN)


def test_formats_are_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", samples())
    reading.read(tmp_path / "a.npy", **GIVEN)

    def scan(*_args: object) -> None:
        raise AssertionError("the folder of formats is searched again")

    monkeypatch.setattr(reading.pkgutil, "iter_modules", scan)
    reading.read(tmp_path / "a.npy", **GIVEN)


def test_a_number_names_an_item_and_leads_are_a_list(tmp_path: Path) -> None:
    signal = np.random.default_rng(0).normal(size=(3, 12, 500))
    np.save(tmp_path / "x.npy", signal)
    np.testing.assert_array_equal(reading.read(tmp_path / "x.npy", **GIVEN, item=2).signal, signal[2].T)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"is one text; pass a list of names: leads=\['I', 'II'\]"):
        reading.read(tmp_path / "x.npy", leads="I, II", rate_hz=250, units="mV", item="0")


@pytest.mark.parametrize("name", ["A1", "A1.HEA", "A1.DAT"])
def test_a_record_in_capitals_is_found_by_each_of_its_names(tmp_path: Path, name: str) -> None:
    signal = np.random.default_rng(0).normal(size=(500, 1)).round(3)
    wfdb.wrsamp("a1", 250, ["mV"], ["I"], signal, fmt=["16"], adc_gain=[1000], baseline=[0], write_dir=str(tmp_path))
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.upper()))
    np.testing.assert_allclose(reading.read(tmp_path / name).signal, signal, atol=1e-9)
