"""ISHNE Holter, AliveCor ATC and MFER: values, names, checksums, channels that are not used, no identity."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vendor_files import check_damage, with_a_damaged_byte

from leadwise.data.formats import atc, ishne, mfer, reading
from leadwise.data.recordings.recording import RecordError

SAMPLES = np.random.default_rng(0).integers(-900, 900, (800, 3)).astype("<i2")


def write_ishne(
    codes: tuple[int, ...] = (11, 15, 6), steps: tuple[int, ...] = (5000, 5000, 2500), **more: Any
) -> bytes:
    header = bytearray(522)
    header[:8] = b"ISHNE1.0"
    n_promised = more.get("n_promised", len(SAMPLES))
    struct.pack_into("<iiii", header, 10, more.get("n_variable", 4), n_promised, 522, 526)
    header[28:40], header[68:80], header[108:112] = b"Jane".ljust(12, b"\0"), b"Roe".ljust(12, b"\0"), b"4711"
    struct.pack_into("<8h", header, 128, 2, 0, 3, 2, 1951, 4, 3, 2019)
    struct.pack_into("<h", header, 156, more.get("n_leads", len(codes)))
    struct.pack_into(f"<{len(codes)}h", header, 158, *codes)
    struct.pack_into(f"<{len(steps)}h", header, 206, *steps)
    header[232:240] = b"digital\0"
    struct.pack_into("<h", header, 272, 200)
    return bytes(header) + b"note" + SAMPLES.tobytes()


def test_ishne_equals_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.ecg"
    path.write_bytes(write_ishne())
    recording = reading.read(path)
    assert (recording.leads, recording.rate_hz, recording.format) == (("V1", "V5", "II"), 200, "ishne")
    np.testing.assert_allclose(recording.signal, SAMPLES * [0.005, 0.005, 0.0025])
    assert recording.stated == {"age": 68, "sex": "female", "year": 2019}
    assert not any(word in repr(recording) for word in ("Jane", "Roe", "4711"))
    ecgdatakit = pytest.importorskip("ecgdatakit")
    for number, lead in enumerate(ecgdatakit.FileParser().parse(path).leads):
        assert np.abs(lead.samples - recording.signal[:, number]).max() < 1e-12  # mV


def test_ishne_uses_leads_by_name_and_checks_only_these() -> None:
    recording = reading.read(write_ishne((2, 5, 6), (-9, 5000, 5000)))
    assert (recording.leads, recording.unused) == (("I", "II"), ("X",))
    with pytest.raises(RecordError, match="does not state the unit"):
        reading.read(write_ishne((5,), (0,)))
    assert "promises 5000 samples of each lead, it holds 800" in reading.read(write_ishne(n_promised=5000)).remarks[0]


@pytest.mark.parametrize("more", [{"n_leads": 0}, {"n_leads": 99}, {"n_variable": -5}, {"n_variable": 10**9}])
def test_a_damaged_ishne_file_is_one_error(more: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="its header states"):
        reading.read(write_ishne(**more))
    (tmp_path / "a.ecg").write_bytes(b"other")
    with pytest.raises(RecordError, match="not an ISHNE file"):
        reading.read(tmp_path / "a.ecg")


def block(name: bytes, data: bytes, crc: bool = False) -> bytes:
    content = name + struct.pack("<I", len(data)) + data
    return content + struct.pack("<I", zlib.crc32(content) if crc else sum(content))


def write_atc(leads: tuple[bytes, ...] = (b"ecg ", b"ecg2", b"ecg6"), crc: bool = False) -> bytes:
    date, model, recorder = (
        b"2019-03-04T10:11:12.000+01:00".ljust(32, b"\0"),
        b"phone".ljust(32, b"\0"),
        b"triangle hw1".ljust(32, b"\0"),
    )
    info = (
        date
        + b"58E0A7D7".ljust(40, b"\0")
        + b"\0" * 44
        + model
        + b"app 1".ljust(32, b"\0")
        + recorder
        + b"SN=4711".ljust(52, b"\0")
    )
    blocks = [block(b"info", info, crc), block(b"fmt ", struct.pack("<BHHBH", 1, 300, 500, 14, 0), crc)]
    blocks += [block(name, SAMPLES[:, k].tobytes(), crc) for k, name in enumerate(leads)]
    blocks += [block(b"avg ", SAMPLES[:200, 0].tobytes(), crc), block(b"ann ", bytes(28), crc)]
    return b"ALIVE\0\0\0" + struct.pack("<I", 3) + b"".join(blocks)


@pytest.mark.parametrize("crc", [False, True])
def test_atc(crc: bool) -> None:
    recording = reading.read(write_atc(crc=crc))
    assert (recording.leads, recording.rate_hz, recording.format) == (("I", "II", "aVF"), 300, "atc")
    np.testing.assert_allclose(recording.signal, SAMPLES * 0.0005)
    assert recording.stated == {"device": "triangle hw1", "year": 2019}
    assert not any(word in repr(recording) for word in ("4711", "58E0A7D7"))


def test_a_damaged_atc_file_is_one_error(tmp_path: Path) -> None:
    content = write_atc()
    for k in range(350, len(content) - 300, 397):
        with pytest.raises(RecordError, match=r"the checksum of its block|is truncated"):
            reading.read(content[:k] + bytes([content[k] ^ 1]) + content[k + 1 :])
    with pytest.raises(RecordError, match="its block 'ecg2' is truncated"):
        reading.read(content[: 12 + 276 + 20 + 12 + 1600 + 100])
    with pytest.raises(RecordError, match="no block of samples"):
        reading.read(write_atc(()))
    (tmp_path / "a.atc").write_bytes(b"other")
    with pytest.raises(RecordError, match="not an ATC file"):
        reading.read(tmp_path / "a.atc")


def tag(number: int, value: bytes) -> bytes:
    length = struct.pack("B", len(value)) if len(value) < 128 else b"\x84" + struct.pack(">I", len(value))
    return struct.pack("B", number) + length + value


def channel(number: int, code: int, unit: int = 0, exponent: int = -6, mantissa: int = 5, rate_hz: int = 250) -> bytes:
    attributes = tag(0x09, struct.pack(">H", code)) + tag(0x0C, struct.pack(">BbH", unit, exponent, mantissa))
    attributes += tag(0x0B, struct.pack(">BbH", 0, 0, rate_hz)) + tag(0x04, struct.pack(">I", rate_hz))
    return struct.pack("BB", 0x3F, number) + struct.pack("B", len(attributes)) + attributes


def write_mfer(channels: list[bytes], blocks: bytes, n_blocks: int) -> bytes:
    head = b"@\x20MFR ".ljust(34) + tag(0x01, b"\0") + tag(0x81, b"Roe^Jane") + tag(0x82, b"4711") + tag(0x84, b"\2")
    head += tag(0x83, b"\x43") + tag(0x05, struct.pack(">I", len(channels))) + tag(0x06, struct.pack(">I", n_blocks))
    return head + b"".join(channels) + tag(0x1E, blocks) + b"\x80"


def test_mfer_equals_the_library(tmp_path: Path) -> None:
    pytest.importorskip("ecgdatakit")
    rng = np.random.default_rng(0)
    first, second = rng.integers(-900, 900, (2, 3, 250)).astype(">i2")
    pressure, slow = rng.integers(0, 200, (3, 125)).astype(">i2"), rng.integers(-900, 900, (3, 125)).astype(">i2")
    blocks = b"".join(b"".join(one[k].tobytes() for one in (first, second, pressure, slow)) for k in range(3))
    channels = [
        channel(0, 1),
        channel(1, 2),
        channel(2, 143, unit=1, exponent=0, mantissa=1, rate_hz=125),
        channel(3, 3, rate_hz=125),
    ]
    path = tmp_path / "a.mwf"
    path.write_bytes(write_mfer(channels, blocks, 3))
    recording = reading.read(path)
    assert (recording.leads, recording.rate_hz, recording.format) == (("I", "II"), 250, "mfer")
    assert recording.unused == ("Blood pressure", "V1")
    assert recording.remarks == ("channels with another rate than 250 Hz are not used: V1 (125 Hz)",)
    np.testing.assert_allclose(recording.signal, np.stack([first.ravel(), second.ravel()], axis=1) * 0.005)
    assert recording.stated["sex"] == "female"
    assert not any(word in repr(recording) for word in ("Jane", "Roe", "4711"))


def test_a_pressure_is_no_lead_and_damage_is_one_error() -> None:
    pytest.importorskip("ecgdatakit")
    blocks = np.arange(250, dtype=">i2").tobytes()
    content = write_mfer([channel(0, 1, unit=1)], blocks, 1)
    with pytest.raises(RecordError, match="unit 'mmHg', which is not a voltage"):
        reading.read(content, units="mV")
    content = write_mfer([channel(0, 1)], blocks, 1)
    check_damage(reading.read, with_a_damaged_byte(content, 34, 120, n=200))


def test_matches() -> None:
    assert ishne.matches(write_ishne()[:4096])
    assert atc.matches(write_atc()[:4096])
    assert mfer.matches(write_mfer([channel(0, 1)], b"\0" * 500, 1)[:4096])
    for module in (ishne, atc, mfer):
        assert not module.matches(b"ALIV@@ISHNE")
