"""SCP-ECG: leads by name, values equal to the library's, damaged files refused with one line, no identity."""

from __future__ import annotations

import binascii
import struct
from pathlib import Path

import numpy as np
import pytest
from vendor_files import check_damage, with_a_damaged_byte

from leadwise.data.formats import reading, scp
from leadwise.data.recordings.recording import RecordError

ecgdatakit = pytest.importorskip("ecgdatakit")

CODES = {"I": 1, "II": 2, "V1": 3, "V2": 4, "V3": 5, "V4": 6, "V5": 7, "V6": 8, "V7": 9, "V3R": 11}
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


def samples(leads: tuple[str, ...] = EIGHT, n_samples: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).integers(-900, 900, (n_samples, len(leads))).astype("<i2")


def section(number: int, body: bytes) -> bytes:
    body += b"\0" * (len(body) % 2)
    content = struct.pack("<HIBB6x", number, len(body) + 16, 20, 20) + body
    return struct.pack("<H", binascii.crc_hqx(content, 0xFFFF)) + content


def tag(number: int, value: bytes) -> bytes:
    return struct.pack("<BH", number, len(value)) + value


def write(
    values: np.ndarray,
    leads: tuple[str, ...] = EIGHT,
    interval_us: int = 2000,
    step_nv: int = 2500,
    last: int | None = None,
    checksum: int | None = None,
    begins: tuple[int, ...] = (),
) -> bytes:
    """A record with uncompressed rhythm data; a lead may begin later than sample 1."""
    person = (
        tag(0, b"Roe\0") + tag(1, b"Jane\0") + tag(2, b"4711\0") + tag(4, struct.pack("<HB", 67, 1)) + tag(8, b"\2")
    )
    person += (
        tag(5, struct.pack("<HBB", 1951, 2, 3))
        + tag(25, struct.pack("<HBB", 2019, 3, 4))
        + tag(26, b"\1\2\3")
        + tag(255, b"")
    )
    begins = begins or (1,) * len(leads)
    definition = struct.pack("<BB", len(leads), 4 | len(leads) << 3)
    for begin, lead in zip(begins, leads):
        definition += struct.pack("<IIB", begin, last or begin + len(values) - 1, CODES[lead])
    rhythm = struct.pack("<HHBB", step_nv, interval_us, 0, 0) + struct.pack("<H", 2 * len(values)) * len(leads)
    rhythm += b"".join(values[:, k].tobytes() for k in range(len(leads)))
    texts = [b"Sinus rhythm\0", b"Confirmed by Roe, Jane MD on 04-MAR-2019\0"]
    statements = struct.pack("<BHBBBBBB", 1, 2019, 3, 4, 1, 2, 3, len(texts))
    statements += b"".join(struct.pack("<BH", k + 1, len(text)) + text for k, text in enumerate(texts))
    sections = {
        1: section(1, person), 3: section(3, definition), 6: section(6, rhythm), 8: section(8, statements),
    }  # fmt: skip

    # section 0: where each section begins
    n_pointers = 12
    begin, pointers = 7 + 16 + 10 * n_pointers, b""
    for number in range(n_pointers):
        n_bytes = 16 + 10 * n_pointers if number == 0 else len(sections.get(number, b""))
        pointers += struct.pack("<HII", number, n_bytes, 7 if number == 0 else begin if n_bytes else 0)
        begin += n_bytes if number else 0
    body = section(0, pointers) + b"".join(sections.values())
    body = struct.pack("<I", len(body) + 6) + body
    return struct.pack("<H", binascii.crc_hqx(body, 0xFFFF) if checksum is None else checksum) + body


def test_eight_leads_equal_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.scp"
    path.write_bytes(write(samples()))
    recording = reading.read(path)
    assert (recording.leads, recording.rate_hz, recording.format) == (EIGHT, 500, "scp 2.0")
    np.testing.assert_allclose(recording.signal, samples() * 0.0025)
    reference = ecgdatakit.FileParser().parse(path)
    for number, lead in enumerate(reference.leads):
        assert np.abs(lead.samples - recording.signal[:, number]).max() < 1e-12  # mV
    assert recording.digital is not None
    assert recording.statements == ("Sinus rhythm",)
    assert recording.stated == {"age": 67, "sex": "female", "year": 2019}
    assert not any(word in repr(recording) for word in ("Roe", "Jane", "4711"))


def test_leads_are_used_by_name_and_not_by_place() -> None:
    leads = ("I", "II", "V3R", "V1", "V2", "V4", "V6", "V7")
    recording = reading.read(write(samples(leads), leads))
    assert recording.leads == ("I", "II", "V1", "V2", "V4", "V6")
    assert recording.unused == ("V3R", "V7")
    np.testing.assert_allclose(recording.signal, samples(leads)[:, [0, 1, 3, 4, 5, 6]] * 0.0025)


def test_leads_that_begin_later_are_missing_before() -> None:
    recording = reading.read(write(samples(("I", "II")), ("I", "II"), begins=(1, 201)))
    assert recording.signal.shape == (1200, 2)
    assert np.isnan(recording.signal[:200, 1]).all()
    assert np.isnan(recording.signal[1000:, 0]).all()
    np.testing.assert_allclose(recording.signal[200:, 1], samples(("I", "II"))[:, 1] * 0.0025)


def test_ranges_that_begin_at_0_mean_from_1() -> None:
    """As recorders of Contec write them; every checksum of the record is right."""
    values = samples()
    content = bytearray(write(values, last=len(values)))
    place = content.index(struct.pack("<IIB", 1, len(values), CODES["I"]))
    for lead in range(len(EIGHT)):
        struct.pack_into("<I", content, place + 9 * lead, 0)
    content = content[2:]
    recording = reading.read(struct.pack("<H", binascii.crc_hqx(bytes(content), 0xFFFF)) + bytes(content))
    np.testing.assert_allclose(recording.signal, values * 0.0025)
    assert recording.remarks == ("lead ranges that begin at sample 0 were read as from sample 1",)


def test_damage_is_one_error() -> None:
    content = write(samples())
    with pytest.raises(RecordError, match="its checksum differs; it is damaged"):
        reading.read(content[:500] + b"?" + content[501:])
    with pytest.raises(RecordError, match="truncated: 10000 bytes where its header promises"):
        reading.read(content[:10000])
    with pytest.raises(RecordError, match=r"lead 1 has 4000000000 samples, more than its .* bytes can hold"):
        reading.read(write(samples(), last=4_000_000_000))
    with pytest.raises(RecordError, match="does not state the unit"):
        reading.read(write(samples(), step_nv=0))
    placeholder = reading.read(write(samples(), checksum=0))
    assert placeholder.remarks == ("its checksum is the placeholder 0 and was not compared",)
    # with a valid checksum, any byte of the sections before the samples
    damaged = with_a_damaged_byte(content[2:], 20, 500, n=100)
    check_damage(reading.read, (struct.pack("<H", binascii.crc_hqx(one, 0xFFFF)) + one for one in damaged))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.scp").write_bytes(b"SCPECG" * 100)
    with pytest.raises(RecordError, match="not an SCP-ECG record, or a damaged one"):
        reading.read(tmp_path / "a.scp")
    assert not scp.matches(b"\0" * 100)
