"""EDF, EDF+ and BDF: equal to pyedflib; signals of other rates and units, gaps, headers that strict libraries refuse."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vendor_files import check_damage, with_a_damaged_byte

from leadwise.batch import LEADS
from leadwise.data.formats import edf, reading
from leadwise.data.recordings.recording import RecordError

pyedflib = pytest.importorskip("pyedflib")


def signal(
    label: str, rate_hz: int = 250, unit: str = "uV", limits: tuple[float, float] = (-3276.8, 3276.7)
) -> dict[str, Any]:
    return {
        "label": label, "dimension": unit, "sample_frequency": rate_hz, "physical_min": limits[0],
        "physical_max": limits[1], "digital_min": -32768, "digital_max": 32767, "transducer": "", "prefilter": "",
    }  # fmt: skip


def write(path: Path, signals: list[dict[str, Any]], seconds: int = 4, kind: int = 1) -> list[np.ndarray]:
    """An EDF+ file written by pyedflib, and its samples in the files' units."""
    rng = np.random.default_rng(0)
    values = [
        rng.uniform(*np.array([s["physical_min"], s["physical_max"]]) * 0.9, seconds * s["sample_frequency"])
        for s in signals
    ]
    with pyedflib.EdfWriter(str(path), len(signals), file_type=kind) as writer:
        writer.setHeader(
            {
                "technician": "Poe", "recording_additional": "", "patientname": "Jane Roe", "patient_additional": "",
                "patientcode": "4711", "equipment": "Recorder7", "admincode": "", "sex": 0,
                "startdate": datetime(2019, 3, 4), "birthdate": datetime(1951, 2, 3).date(),
            }
        )  # fmt: skip
        writer.setSignalHeaders(signals)
        writer.writeSamples(values)
    return values


def reference(path: Path, number: int) -> np.ndarray:
    with pyedflib.EdfReader(str(path)) as file:
        values: np.ndarray = file.readSignal(number)
    return values


@pytest.mark.parametrize(("kind", "name", "label"), [(1, "a.edf", "edf+"), (0, "a.edf", "edf"), (3, "a.bdf", "bdf+")])
def test_a_recording_equals_the_library(tmp_path: Path, kind: int, name: str, label: str) -> None:
    limits = (-3000.0, 3000.0)
    signals = [signal(f"ECG {lead}", limits=limits) for lead in LEADS]
    if kind == 3:
        signals = [one | {"digital_min": -8388608, "digital_max": 8388607} for one in signals]
    write(tmp_path / name, signals, kind=kind)
    recording = reading.read(tmp_path / name)
    assert (recording.leads, recording.rate_hz, recording.format) == (LEADS, 250, label)
    for number in range(12):
        np.testing.assert_allclose(recording.signal[:, number] * 1000, reference(tmp_path / name, number), atol=1e-9)


def test_of_the_patient_only_age_sex_year_and_device_are_stored(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", [signal("I")])
    recording = reading.read(tmp_path / "a.edf")
    assert recording.stated == {"age": 68, "sex": "female", "year": 2019, "device": "Recorder7"}
    assert recording.digital is not None  # the offset is a multiple of the step
    assert not any(word in repr(recording) for word in ("Roe", "4711", "Poe"))


def test_signals_of_other_rates_and_units_veto_nothing(tmp_path: Path) -> None:
    others = [signal("Resp", 25, "NU"), signal("SpO2", 1, "%", (0, 100)), signal("ECG V6", 500)]
    write(tmp_path / "a.edf", [signal("ECG I"), *others[:2], signal("EKG II", unit="mV", limits=(-5, 5)), others[2]])
    recording = reading.read(tmp_path / "a.edf")
    assert (recording.leads, recording.unused) == (("I", "II"), ("Resp", "SpO2", "ECG V6"))
    assert recording.remarks == ("channels with another rate than 250 Hz are not used: ECG V6 (500 Hz)",)
    np.testing.assert_allclose(recording.signal[:, 0] * 1000, reference(tmp_path / "a.edf", 0), atol=1e-9)
    np.testing.assert_allclose(recording.signal[:, 1], reference(tmp_path / "a.edf", 3), atol=1e-9)
    given = reading.read(tmp_path / "a.edf", leads=["-", "-", "-", "-", "aVR"])
    assert (given.leads, given.rate_hz) == (("aVR",), 500)


def test_a_unit_that_is_no_voltage_is_refused_and_an_absent_one_is_given(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", [signal("I", unit="NU")])
    with pytest.raises(RecordError, match="unit 'NU', which is not a voltage"):
        reading.read(tmp_path / "a.edf", units="mV")
    write(tmp_path / "b.edf", [signal("I", unit="")])
    with pytest.raises(RecordError, match="does not state the unit"):
        reading.read(tmp_path / "b.edf")
    np.testing.assert_allclose(
        reading.read(tmp_path / "b.edf", units="uV").signal[:, 0] * 1000, reference(tmp_path / "b.edf", 0)
    )


def test_headers_that_strict_libraries_refuse(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", [signal("I"), signal("Resp")])
    expected = reading.read(tmp_path / "a.edf").signal
    content = bytearray((tmp_path / "a.edf").read_bytes())
    content[8:168] = b"".ljust(160)  # the fields of patient and recording, removed
    content[168:184] = b"00.00.0000.00.00"
    n_signals = int(content[252:256])
    begin = 256 + n_signals * (16 + 80 + 8)  # physical minima, then maxima
    content[begin + 8 : begin + 16] = content[begin + 8 * (n_signals + 1) : begin + 8 * (n_signals + 2)] = b"0       "
    content[236:244] = b"-1      "  # the recorder was switched off
    with pytest.raises(OSError):  # noqa: PT011  # its message is the library's
        (tmp_path / "b.edf").write_bytes(content), reading.read(tmp_path / "b.edf"), reference(tmp_path / "b.edf", 0)
    np.testing.assert_array_equal(reading.read(bytes(content)).signal, expected)
    assert reading.read(bytes(content)).stated == {"year": 2000}


def test_gaps_are_missing_samples(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", [signal("I")], seconds=3)
    content = (tmp_path / "a.edf").read_bytes()
    expected = reading.read(content).signal
    n_header, n_record = int(content[184:192]), (len(content) - int(content[184:192])) // 3
    later = bytearray(content).replace(b"EDF+C", b"EDF+D")
    begin = n_header + 2 * n_record
    assert later[begin:].count(b"+2\x14\x14") == 1
    later[begin:] = later[begin:].replace(b"+2\x14\x14", b"+5\x14\x14")
    recording = reading.read(bytes(later))
    assert recording.signal.shape == (6 * 250, 1)
    assert np.isnan(recording.signal[500:1250]).all()
    np.testing.assert_array_equal(recording.signal[:500], expected[:500])
    np.testing.assert_array_equal(recording.signal[1250:], expected[500:])
    overlapping = bytes(later).replace(b"+5\x14\x14", b"+1\x14\x14")
    with pytest.raises(RecordError, match="overlap in time"):
        reading.read(overlapping)


def test_damage_is_one_error(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", [signal("I")])
    content = (tmp_path / "a.edf").read_bytes()
    with pytest.raises(RecordError, match="truncated: 3 data records where its header promises 4"):
        reading.read(content[:-2])
    with pytest.raises(RecordError, match="the number of signals in its header is not a number"):
        reading.read(content[:252] + b"many" + content[256:])
    with pytest.raises(RecordError, match="promises 500 signals and ends before"):
        reading.read(content[:252] + b"500 " + content[256:])
    huge = content[:236] + b"99999999" + content[244:]
    with pytest.raises(RecordError, match="truncated: 4 data records where its header promises 99999999"):
        reading.read(huge)
    (tmp_path / "b.edf").write_bytes(b"text")
    with pytest.raises(RecordError, match="not an EDF or BDF file"):
        reading.read(tmp_path / "b.edf")
    check_damage(reading.read, with_a_damaged_byte(content, 192, 1024, n=200))


def test_matches() -> None:
    assert not edf.matches(b"0       " + b" " * 200)
    assert not edf.matches(b"0,1,2")
