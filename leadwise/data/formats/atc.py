"""AliveCor's ATC files (Kardia): blocks with a checksum each, one block of int16 samples per lead.

Block: name (4 bytes), length (uint32), data, checksum (uint32: the sum of all its bytes before, or their CRC32). The block
"fmt " states rate and step; "ecg ", "ecg2", ... "ecgc" are the leads; "avg " and "med " are average beats. Source:
AliveCor's specification of the format, version 1.7.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_size, checked_rate
from leadwise.data.formats.parsing import scaled, without_empty_slots
from leadwise.data.formats.stated import stated
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".atc",)

_BEGINS = b"ALIVE\0\0\0"
_LEAD_OF_BLOCK = {
    b"ecg ": "I", b"ecg2": "II", b"ecg3": "III", b"ecg4": "aVR", b"ecg5": "aVL", b"ecg6": "aVF", b"ecg7": "V1",
    b"ecg8": "V2", b"ecg9": "V3", b"ecga": "V4", b"ecgb": "V5", b"ecgc": "V6",
}  # fmt: skip
_INT16 = 1  # the only format of samples


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is an ATC file."""
    return first_bytes.startswith(_BEGINS)


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The leads of an ATC file.

    Raises:
        RecordError: the file is of another format, a block is truncated or its checksum differs, or a block is absent.
    """
    if not matches(content):
        raise RecordError(f"record {path}: not an ATC file (it does not begin with ALIVE); check the path")
    blocks = _blocks(path, content)
    leads = {name: data for name, data in blocks.items() if name in _LEAD_OF_BLOCK}
    if len(blocks.get(b"fmt ", b"")) < 6 or not leads:
        raise RecordError(f"record {path}: it has no block 'fmt ' or no block of samples; export it again")

    # rate, step and samples; a lead that is shorter than others ends in missing samples
    kind, rate_hz, step_nv = struct.unpack_from("<BHH", blocks[b"fmt "])
    if kind != _INT16:
        raise RecordError(f"record {path}: its samples have the format {kind}, which is not read; export it again")
    channels = choose_channels(path, [_LEAD_OF_BLOCK[name] for name in leads], given)
    columns = [np.frombuffer(data, "<i2", len(data) // 2) for data in leads.values()]
    n_samples = max(len(columns[number]) for number in channels.used)
    check_size(path, n_samples, len(columns))
    samples = np.zeros((n_samples, len(channels.used)), dtype=np.int16)
    missing = np.ones(samples.shape, dtype=bool)
    for column, number in enumerate(channels.used):
        samples[: len(columns[number]), column] = columns[number]
        missing[: len(columns[number]), column] = False
    steps = [step_nv / 1000.0] * len(channels.used)
    signal, digital = scaled(path, samples, channels.leads, steps, missing=missing if missing.any() else None)

    # of the block 'info': date (32 bytes), ids (40 and 44), phone (32), software (32), recorder (32)
    info = blocks.get(b"info", b"")
    recorder = info[180:212].split(b"\0")[0].decode("latin-1")
    year = info[:4].decode("latin-1")
    recording = Recording(
        path.stem, signal, channels.leads, checked_rate(path, float(rate_hz)), digital, unused=channels.unused,
        stated=stated(device=(recorder,), year=int(year) if year.isdecimal() else None), remarks=channels.remarks,
    )  # fmt: skip
    return without_empty_slots(path, recording)


def _blocks(path: Path, content: bytes) -> dict[bytes, bytes]:
    """The data of each block by name; of blocks with one name, the first."""
    blocks: dict[bytes, bytes] = {}
    begin = 12  # after the signature and the version
    while begin + 12 <= len(content):
        name = content[begin : begin + 4]
        (n_bytes,) = struct.unpack_from("<I", content, begin + 4)
        end = begin + 8 + n_bytes
        label = name.decode("latin-1").strip()
        if end + 4 > len(content):
            raise RecordError(f"record {path}: its block {label!r} is truncated; download it again")
        (checksum,) = struct.unpack_from("<I", content, end)
        block = content[begin:end]
        if checksum not in (sum(block) % 2**32, zlib.crc32(block)):
            raise RecordError(
                f"record {path}: the checksum of its block {label!r} differs; it is damaged: download it again"
            )
        blocks.setdefault(name, content[begin + 8 : end])
        begin = end + 4
    return blocks
