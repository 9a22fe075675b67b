"""Mortara, CardioSoft and Schiller XML: offsets and steps, counts, what the files state, and the check of the heart rate."""

from __future__ import annotations

import numpy as np
import pytest
import vendor_files as files

from leadwise.data.formats import reading
from leadwise.data.formats.rate_doubt import heart_rate
from leadwise.data.recordings.recording import RecordError


def test_mortara_adds_the_offset_and_divides_by_units_per_mv() -> None:
    recording = reading.read(files.mortara(OFFSET=-20, UNITS_PER_MV=200).encode())
    np.testing.assert_allclose(recording.signal[:, 1], (files.twelve_leads()["II"] - 20.0) / 200)
    assert recording.stated == {
        "age": 61, "sex": "female", "device": "ELI250c", "year": 2015, "heart_rate": 60, "pr_ms": 150, "qrs_ms": 92, "qt_ms": 388
    }  # fmt: skip
    assert recording.statements == ("Sinus rhythm",)
    # the duration in milliseconds
    assert len(reading.read(files.mortara(DURATION=2000).encode()).signal) == 1000


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"DURATION": 999}, "lead I has 1000 samples and the file states 999"),
        ({"BITS": 12}, "lead I is written as 12 SIGNED BASE64"),
        ({"UNITS_PER_MV": 0}, "UNITS_PER_MV of lead I is 0"),
        ({"UNITS_PER_MV": ""}, "UNITS_PER_MV of lead I is absent"),
        ({"DATA": "AAA="}, "lead I has 2 bytes|lead I has 1 samples and the file states 1000"),
        ({"DATA": "AA"}, "the base64 text of lead I is damaged or truncated"),
        ({"SAMPLE_FREQ": "fast"}, "SAMPLE_FREQ is 'fast', not a number"),
    ],
)
def test_a_damaged_mortara_channel_is_one_error(replaced: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        reading.read(files.mortara(**replaced).encode())
    with pytest.raises(RecordError, match="contains no CHANNEL"):
        reading.read(b"<ECG ></ECG>")


def test_cardiosoft_reads_the_strip_and_not_the_medians() -> None:
    recording = reading.read(files.cardiosoft().encode("latin-1"))
    np.testing.assert_allclose(recording.signal[:, 1], files.twelve_leads()["II"] * 0.005)
    assert recording.format == "cardiosoft 6.73"
    assert recording.stated == {
        "age": 18, "sex": "male", "device": "CardioSoft", "year": 2014, "heart_rate": 60, "pr_ms": 150, "qrs_ms": 90, "qt_ms": 400
    }  # fmt: skip
    assert recording.statements == ("Sinus rhythm",)


def test_schiller_reads_the_rhythm_and_not_the_averages() -> None:
    recording = reading.read(files.schiller().encode())
    np.testing.assert_allclose(recording.signal[:, 1], files.twelve_leads()["II"] * 0.0025)
    assert recording.stated == {
        "age": 55, "sex": "male", "device": "AT-110", "year": 2006, "heart_rate": 60, "qt_ms": 410
    }  # fmt: skip
    assert recording.statements == ("Sinus rhythm",)


@pytest.mark.parametrize("write", [files.cardiosoft, files.schiller])
def test_wrong_counts_are_one_error(write: object) -> None:
    with pytest.raises(RecordError, match="lead I has 1000 samples and the file states 1001"):
        reading.read(write(n_stated=1001).encode("latin-1"))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (files.cardiosoft().replace("StripData", "OtherData"), "contains no StripData"),
        (files.cardiosoft().replace("uVperLsb", "mmHg"), "its resolution is in 'mmHg'"),
        (files.schiller().replace("ECG_RHYTHMS", "OTHER"), "contains no wave data of type ECG_RHYTHMS"),
        (files.schiller().replace("<exponent>1", "<exponent>3"), "the exponent 3"),
        (files.schiller().replace("COMMASEPARATE", "BINARY"), "written as 'BINARY'"),
        (files.schiller().replace("<units>UV", "<units>KG"), "the unit 'KG', which is not a voltage"),
    ],
)  # fmt: skip
def test_text_formats_refuse_what_they_do_not_know(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        reading.read(text.encode("latin-1"))


@pytest.mark.parametrize("bpm", [35, 60, 110, 180])
@pytest.mark.parametrize("rate_hz", [125, 250, 500, 1000])
def test_the_heart_rate_of_the_samples(bpm: float, rate_hz: float) -> None:
    leads = np.stack([files.beats(round(10 * rate_hz), rate_hz, bpm, size) for size in (100, 200, 300)], axis=1) / 200.0
    measured = heart_rate(leads, rate_hz, bpm)
    assert measured == pytest.approx(bpm, rel=0.03)
    # an artefact in one lead does not count
    leads[::97, 1] += 20.0
    assert heart_rate(leads, rate_hz, bpm) == pytest.approx(bpm, rel=0.03)


def test_a_recording_that_is_too_short_or_flat_has_no_heart_rate() -> None:
    assert heart_rate(files.beats(1000)[:, None] / 200.0, 500, 60) is None
    assert heart_rate(np.zeros((5000, 2)), 500, 60) is None
    assert heart_rate(np.full((5000, 2), np.nan), 500, 60) is None
