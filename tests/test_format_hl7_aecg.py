"""HL7 aECG: digits with origin and scale, the rhythm and not the derived beat, times in any unit."""

from __future__ import annotations

import numpy as np
import pytest
import vendor_files as files

from leadwise.data.formats import reading
from leadwise.data.recordings.recording import RecordError, Recording


def read(**arguments: object) -> Recording:
    return reading.read(files.aecg(**arguments).encode())  # type: ignore[arg-type]


@pytest.mark.parametrize(("increment", "unit"), [("0.002", "s"), ("2", "ms"), ("2000", "us")])
def test_the_sampling_interval_has_a_unit(increment: str, unit: str) -> None:
    assert read(increment=increment, unit=unit).rate_hz == 500


@pytest.mark.parametrize(("increment", "unit"), [("0", "s"), ("-1", "s"), ("x", "s"), ("0.002", "m")])
def test_an_interval_that_is_no_time_is_refused(increment: str, unit: str) -> None:
    with pytest.raises(RecordError, match="sampling interval"):
        read(increment=increment, unit=unit)


@pytest.mark.parametrize(
    ("scale", "origin", "unit", "step_mv", "zero_mv"),
    [("2.5", "0", "uV", 0.0025, 0.0), ("5", "-100", "uV", 0.005, -0.1), ("0.0025", "0.1", "mV", 0.0025, 0.1),
     ("2500", "0", "nV", 0.0025, 0.0), ("3", "1", "uV", 0.003, 0.001)],
)  # fmt: skip
def test_scale_and_origin_are_applied(scale: str, origin: str, unit: str, step_mv: float, zero_mv: float) -> None:
    sequence = files.aecg_sequence("MDC_ECG_LEAD_II", files.beats(), scale, origin, unit)
    recording = read(sequences=sequence)
    assert recording.leads == ("II",)
    np.testing.assert_allclose(recording.signal[:, 0], files.beats() * step_mv + zero_mv, atol=1e-12)


def test_digits_with_fractions_or_beyond_16_bits_are_millivolts() -> None:
    for values in (np.array([0.5, 1.5, -2.0]), np.array([100_000, -5, 3])):
        recording = read(sequences=files.aecg_sequence("MDC_ECG_LEAD_I", values, "0.1"))
        assert recording.digital is None
        np.testing.assert_allclose(recording.signal[:, 0], values / 10_000)


def test_the_file_of_thirteen_samples() -> None:
    """A valid file may be this short; what uses it decides."""
    recording = read(sequences=files.aecg_sequence("MDC_ECG_LEAD_II", np.arange(13) - 6))
    assert recording.signal.shape == (13, 1)


def test_what_the_file_states() -> None:
    assert read().stated == {
        "age": 59, "sex": "female", "device": "ELI250", "year": 2020, "heart_rate": 60, "pr_ms": 160, "qt_ms": 400
    }  # fmt: skip


def test_statements_are_cleaned() -> None:
    texts = ("Rythme sinusal", "Diagnostic non confirm\u00e9.", "--- Limite ---", "Valid\u00e9 par Dr Dupont 2/1/2020")
    assert read(statements=texts).statements == ("Rythme sinusal", "Limite")


def test_files_without_rhythm_are_refused() -> None:
    empty = b'<?xml version = "1.0"?><AnnotatedECG xmlns="urn:hl7-org:v3"></AnnotatedECG>'
    with pytest.raises(RecordError, match=r"contains no rhythm series \(series: none\)"):
        reading.read(empty)
    with pytest.raises(RecordError, match=r"contains no rhythm series \(series: REPRESENTATIVE_BEAT\)"):
        read(code="REPRESENTATIVE_BEAT")
    with pytest.raises(RecordError, match="contains no ECG channel"):
        read(sequences="")
    with pytest.raises(RecordError, match="its rhythm series is empty"):
        reading.read(files.aecg().replace("sequenceSet", "otherSet").encode())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('unit="uV"', 'unit="mmHg"', "the unit 'mmHg', which is not a voltage"),
        ('unit="uV"', "", "does not state the unit"),
        ('<scale value="2.5"', '<scale value="0"', "a step of 0 uV"),
        (
            "<digits>",
            "<digits>x ",
            "the samples of MDC_ECG_LEAD_I are not all numbers|the samples of lead MDC_ECG_LEAD_I are",
        ),
    ],
)
def test_a_damaged_lead_is_one_error(old: str, new: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        reading.read(files.aecg().replace(old, new).encode())


def test_an_interval_that_is_not_stated_is_given() -> None:
    text = files.aecg().replace("<increment", "<other").encode()
    with pytest.raises(RecordError, match="does not state the sampling rate"):
        reading.read(text)
    assert reading.read(text, rate_hz=500).rate_hz == 500
