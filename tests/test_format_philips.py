"""Philips XML: XLI with differences that wrap, residual limb leads, the calibration pulse, all versions."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import vendor_files as files

from leadwise.batch import LEADS
from leadwise.data.formats import philips, reading
from leadwise.data.recordings.recording import RecordError, Recording


def read(**arguments: object) -> Recording:
    return reading.read(files.philips(**arguments).encode())  # type: ignore[arg-type]


def samples_of(recording: Recording) -> np.ndarray:
    assert recording.digital is not None
    return recording.digital.samples


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01"])
def test_every_version_gives_the_samples(version: str) -> None:
    recording = read(version=version)
    assert recording.format == f"philips {version}"
    assert recording.leads == LEADS
    np.testing.assert_array_equal(samples_of(recording), np.stack(list(files.twelve_leads().values()), axis=1))
    assert recording.remarks == ()


def test_differences_and_limb_leads_wrap_at_16_bits() -> None:
    """Rectangles of 60,000 steps: their second differences exceed 16 bits."""
    leads = files.twelve_leads()
    leads["V1"] = np.where(np.arange(1000) % 100 < 50, 30_000, -30_000).astype(np.int16)
    leads["I"] = np.where(np.arange(1000) % 90 < 30, 30_000, -30_000).astype(np.int16)
    recording = read(leads=leads)
    np.testing.assert_array_equal(samples_of(recording), np.stack(list(leads.values()), axis=1))


def test_random_samples_survive_compression() -> None:
    generator = np.random.default_rng(1)
    leads = {lead: generator.integers(-32767, 32768, 400).astype(np.int16) for lead in LEADS}
    np.testing.assert_array_equal(samples_of(read(leads=leads)), np.stack(list(leads.values()), axis=1))


def test_the_calibration_pulse_is_cut_with_a_remark() -> None:
    plain = files.twelve_leads()
    recording = read(leads=files.with_calibration(plain))
    np.testing.assert_array_equal(samples_of(recording), np.stack(list(plain.values()), axis=1))
    assert recording.remarks == ("calibration pulse of 1 mV at 2.1 s cut",)


def test_zeros_behind_the_ecg_are_cut() -> None:
    plain = files.twelve_leads()
    longer = {lead: np.concatenate([samples, np.zeros(50)]).astype(np.int16) for lead, samples in plain.items()}
    recording = read(leads=longer)
    assert len(recording.signal) == 1000
    assert recording.remarks == ("zeros of all leads from 2.00 s to the end cut",)
    # another level of all leads is no calibration
    other = {
        lead: np.concatenate([samples, np.zeros(50), np.full(50, 77)]).astype(np.int16)
        for lead, samples in plain.items()
    }
    assert len(read(leads=other).signal) == 1100


def test_slots_of_zeros_are_missing() -> None:
    """Fifteen slots, of which V3R, V4R and V7 hold zeros, also during the pulse."""
    leads = files.with_calibration(files.twelve_leads())
    leads |= {lead: np.zeros(len(leads["I"]), dtype=np.int16) for lead in ("V3R", "V4R", "V7")}
    recording = read(leads=leads)
    assert recording.unused == ("V3R", "V4R", "V7")
    assert len(recording.signal) == 1000
    # a slot of the twelve
    recording = read(leads=leads | {"V5": np.zeros(len(leads["I"]), dtype=np.int16)})
    assert "V5" not in recording.leads
    assert recording.remarks == ("only zeros, so not recorded: V5", "calibration pulse of 1 mV at 2.1 s cut")


def test_uncompressed_samples() -> None:
    """Base64 or plain numbers, one lead after the other."""
    leads = files.twelve_leads()
    joined = np.concatenate(list(leads.values()))
    plain = " ".join(map(str, joined.tolist()))
    for content, encoding in ((files.base64_of(joined), "Base64"), (plain, "Plain")):
        text = files.philips(waveform=content).replace('compression="XLI"', 'compression="None"')
        recording = reading.read(text.replace('"Base64"', f'"{encoding}"').encode())
        np.testing.assert_array_equal(samples_of(recording), np.stack(list(leads.values()), axis=1))
    with pytest.raises(RecordError, match="the waveform has 11999 samples and the file states 12000"):
        reading.read(
            files.philips(waveform=files.base64_of(joined[1:])).replace('compression="XLI"', 'compression=""').encode()
        )


def test_what_the_file_states() -> None:
    assert read().stated == {
        "age": 51, "sex": "male", "device": "PageWriter", "year": 2012, "heart_rate": 60, "pr_ms": 160, "qrs_ms": 90
    }  # fmt: skip


def test_statements_are_cleaned() -> None:
    statements = (
        "-------- PEDIATRIC ECG --------",
        "SINUS RHYTHM",
        "NO CHANGE FROM 4-Mar-2011 10:11",
        "Electronically signed by: Smith, John 04-Mar-2012 10:11:12",
        "",
    )
    assert read(statements=statements).statements == ("PEDIATRIC ECG", "SINUS RHYTHM", "NO CHANGE", "NORMAL ECG")


def test_a_damaged_stream_is_one_error() -> None:
    raw = files.xli(list(files.twelve_leads().values()))
    for broken, message in (
        (raw[: len(raw) // 4], "the waveform ends before lead"),
        (b"\xff\xff\xff\xff" + raw[4:], "the waveform ends before lead I;"),
        (raw[:8] + b"\xff\x00" + raw[10:], "the compressed samples of lead I are damaged|has 0 samples"),
    ):
        with pytest.raises(RecordError, match=message):
            read(waveform=base64.b64encode(broken).decode())
    with pytest.raises(RecordError, match="lead I has 1000 samples and the file states 1200"):
        read(n_stated=1200)
    with pytest.raises(RecordError, match="implausible"):
        read(n_stated=10**10)
    with pytest.raises(RecordError, match="the waveform has no samples"):
        read(waveform="")
    text = files.philips()
    for old, new, message in (
        ('compression="XLI"', 'compression="ZIP"', "its compression 'ZIP' is not known"),
        ("parsedwaveforms", "otherwaveforms", "it contains no waveform"),
        ('resolution="5"', 'resolution="x"', "the resolution is 'x', not a number"),
    ):
        with pytest.raises(RecordError, match=message):
            reading.read(text.replace(old, new).encode())


def test_a_stream_that_expands_without_end_is_stopped() -> None:
    """Codes that double the output again and again stop at the stated length."""
    codes = [0, *range(256, 1023), *[1022] * 5000]
    bits = "".join(f"{code:010b}" for code in codes)
    body = bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits) - 7, 8))
    chunk = len(body).to_bytes(4, "little") + bytes(4) + body
    with pytest.raises(RecordError, match="the compressed samples of lead I are damaged"):
        read(waveform=base64.b64encode(chunk).decode())


def test_lead_names_without_labels() -> None:
    """Version 1.03 names the lead set only; channels beyond the twelve are unused."""
    leads = files.twelve_leads() | {"V3R": files.beats()}
    recording = read(leads=leads, version="1.03")
    assert (recording.leads, recording.unused) == (LEADS, ("channel 13",))
    with pytest.raises(RecordError, match=r"none of its channels \(channel 1, "):
        reading.read(files.philips(version="1.03").replace("STD-12", "EASI").encode())
    assert not philips.matches(b"<restingecg/>")
