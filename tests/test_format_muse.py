"""GE MUSE XML: the rhythm and not the median, units, checks of counts and CRC, what the file states."""

from __future__ import annotations

import numpy as np
import pytest
import vendor_files as files

from leadwise.data.formats import reading
from leadwise.data.recordings.recording import RecordError, Recording
from leadwise.data.recordings.twelve_leads import to_twelve_leads


def read(**arguments: object) -> Recording:
    return reading.read(files.muse(**arguments).encode("latin-1"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kinds", [("Median", "Rhythm"), ("Rhythm", "Median"), ("Rhythm",), ("",)])
def test_the_rhythm_is_chosen_by_its_type(kinds: tuple[str, ...]) -> None:
    recording = read(kinds=kinds)
    assert len(recording.signal) == (600 if kinds == ("",) else 1000)
    with pytest.raises(RecordError, match=r"contains no rhythm \(waveforms: median\)"):
        read(kinds=("Median",))


def test_eight_leads_stay_eight_until_they_are_completed() -> None:
    recording = read()
    assert recording.leads == files.EIGHT
    twelve = to_twelve_leads(recording)
    one, two = files.eight_leads()["I"], files.eight_leads()["II"]
    np.testing.assert_allclose(twelve.signal[:, 2], (two.astype(float) - one) * 4.88 / 1000, atol=1e-12)
    assert [quality.origin for quality in twelve.quality[2:6]] == ["derived"] * 4


def test_what_the_file_states() -> None:
    recording = read()
    assert recording.format == "muse 9.0.7.1"
    assert recording.stated == {
        "age": 1.5, "sex": "female", "device": "MAC", "year": 2019, "heart_rate": 60, "pr_ms": 180, "qrs_ms": 90, "qt_ms": 400
    }  # fmt: skip
    assert read(replaced={"V2": {"LeadOff": "TRUE"}}).stated["lead_off"] == ("V2",)


def test_statements_are_joined_to_lines_and_cleaned() -> None:
    statements = [
        ("Sinus rhythm", True),
        ("Anterior infarct", False),
        (", age undetermined", True),
        ("When compared with ECG of", False),
        ("30-MAR-2023 10:21,", True),
        ("Confirmed by", False),
        ("SMITH, JOHN (123) on 1/2/2023 10:11:12 AM", True),
    ]
    assert read(statements=statements).statements == ("Sinus rhythm", "Anterior infarct, age undetermined")


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"LeadDataCRC32": 12345}, "the CRC32 of lead II differs from the stated 12345"),
        ({"LeadSampleCountTotal": 999}, "lead II has 1000 samples and the file states 999"),
        ({"LeadSampleCountTotal": 10**12}, "implausible"),
        ({"LeadByteCountTotal": 4000}, "lead II has 2000 bytes and the file states 4000"),
        ({"LeadSampleSize": 4}, "samples of 4 bytes"),
        ({"WaveFormData": ""}, "lead II has no samples"),
        ({"WaveFormData": "AAAAA"}, "the base64 text of lead II is damaged or truncated"),
        ({"LeadAmplitudeUnits": "WEBER"}, "the unit 'WEBER', which is not a voltage"),
        ({"LeadAmplitudeUnitsPerBit": ""}, "the step of lead II is absent, not a number"),
        ({"LeadAmplitudeUnitsPerBit": "1e-300"}, "a step of 1e-300 uV"),
    ],
)  # fmt: skip
def test_a_damaged_lead_is_one_error(replaced: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read(replaced={"II": replaced})
    # a damaged channel that is not used has no veto
    leads = files.eight_leads() | {"V3R": files.beats()}
    assert read(leads=leads, replaced={"V3R": replaced}).unused == ("V3R",)


def test_an_odd_number_of_bytes_is_an_error() -> None:
    replaced = {"WaveFormData": "AAAA", "LeadByteCountTotal": 3, "LeadDataCRC32": "", "LeadSampleCountTotal": ""}
    with pytest.raises(RecordError, match="lead I has 3 bytes, not a whole number of samples"):
        read(replaced={"I": replaced})


def test_without_unit_and_rate_they_are_given() -> None:
    text = files.muse(replaced={lead: {"LeadAmplitudeUnits": ""} for lead in files.EIGHT}).replace(
        "<SampleBase>500</SampleBase>", ""
    )
    with pytest.raises(RecordError, match="does not state the sampling rate"):
        reading.read(text.encode("latin-1"))
    with pytest.raises(RecordError, match="does not state the unit"):
        reading.read(text.encode("latin-1"), rate_hz=500)
    recording = reading.read(text.encode("latin-1"), rate_hz=250, units="uV")
    assert recording.rate_hz == 250
    np.testing.assert_allclose(recording.signal[:, 0], files.eight_leads()["I"] * 4.88 / 1000)


def test_two_channels_of_one_lead_are_an_error_that_names_the_remedy() -> None:
    extra = files.muse_lead("II", files.beats())
    with pytest.raises(RecordError, match=r"lead 'II' appears twice .* \(--leads, leads=\)"):
        read(extra=extra)
    text = files.muse(extra=extra).encode("latin-1")
    assert reading.read(text, leads=[*files.EIGHT, "-"]).unused == ("II",)


def test_the_lowest_integer_is_missing() -> None:
    leads = files.eight_leads()
    leads["V1"][10:15] = -32768
    recording = read(leads=leads)
    assert recording.digital is not None
    assert np.flatnonzero(np.isnan(recording.signal).any(axis=1)).tolist() == [10, 11, 12, 13, 14]
