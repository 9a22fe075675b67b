"""SCP-ECG files (EN 1064, ISO 11073-91064) with ecgdatakit: raw or Huffman-coded, with or without reference beats."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.clean_statements import clean_statements
from leadwise.data.formats.given import Given, check_size, checked_rate, mv_per_unit
from leadwise.data.formats.parsing import as_file, library_errors, scaled, without_empty_slots
from leadwise.data.formats.stated import PLACEHOLDER_BIRTH, stated
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".scp",)

_SECTION_HEADER = 16
_LEADS_SECTION = 3


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is an SCP-ECG record: section 0 begins at byte 7 and names itself."""
    if len(first_bytes) < 32:
        return False
    number, n_bytes = struct.unpack_from("<HI", first_bytes, 8)
    itself, begin = struct.unpack_from("<H4xI", first_bytes, 22)
    is_sized = n_bytes >= 26 and (n_bytes - _SECTION_HEADER) % 10 == 0
    return bool(number == itself == 0 and begin == 7 and is_sized)


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The rhythm leads of an SCP-ECG record, by name; leads that it does not store are absent.

    Raises:
        RecordError: the file is damaged, its checksum differs, or it has a compression that is not read.
    """
    from ecgdatakit.parsing.parsers.scp_ecg import SCPECGParser

    if not matches(content):
        raise RecordError(
            f"record {path}: not an SCP-ECG record, or a damaged one; download it again or export it as XML"
        )
    remarks = _check_record(path, content)
    content, range_remarks = _with_ranges_from_one(content)
    with library_errors(path, "SCP-ECG"), as_file(content, ".scp") as file:
        record = SCPECGParser().parse(file)
        channels = choose_channels(path, [lead.label for lead in record.leads], given)
        leads = [record.leads[number] for number in channels.used]
        rate_hz = checked_rate(path, float(leads[0].sampling_rate))

        # each lead at its first sample; where another lead is longer, samples are missing
        begins = [int(lead.annotations.get("start_sample", 1)) - 1 for lead in leads]
        n_samples = max(begin + len(lead.samples) for begin, lead in zip(begins, leads))
        check_size(path, n_samples, len(leads))
        samples = np.zeros((n_samples, len(leads)), dtype=np.int64)
        missing = np.ones(samples.shape, dtype=bool)
        for column, (begin, lead) in enumerate(zip(begins, leads)):
            samples[begin : begin + len(lead.samples), column] = np.round(lead.samples)
            missing[begin : begin + len(lead.samples), column] = False
        steps = [
            1000.0 * lead.resolution * mv_per_unit(path, lead.resolution_unit or None, given.units) for lead in leads
        ]
        signal, digital = scaled(path, samples, channels.leads, steps, missing=missing if missing.any() else None)
        version = record.file_format.version if record.file_format else ""
        facts = _stated(record)
        statements = record.interpretation.statements if record.interpretation else []
        recording = Recording(
            path.stem, signal, channels.leads, rate_hz, digital, unused=channels.unused, format=f"scp {version}".strip(),
            stated=facts, statements=clean_statements(text for text, _ in statements),
            remarks=(*channels.remarks, *remarks, *range_remarks),
        )  # fmt: skip
        return without_empty_slots(path, recording)


def _check_record(path: Path, content: bytes) -> tuple[str, ...]:
    """Compare the record's checksum and check the lengths that it promises; return a remark on a checksum of 0.

    Raises:
        RecordError: the checksum differs, or a lead has more samples than the file can hold.
    """
    checksum, n_bytes = struct.unpack_from("<HI", content)
    if n_bytes > len(content):
        raise RecordError(
            f"record {path}: it is truncated: {len(content)} bytes where its header promises {n_bytes}; download it again"
        )
    if n_bytes < 6 + _SECTION_HEADER:
        raise RecordError(
            f"record {path}: its header promises {n_bytes} bytes in all; it is damaged: download it again"
        )
    record = content[:n_bytes]
    if checksum not in (0, binascii.crc_hqx(record[2:], 0xFFFF)):
        raise RecordError(f"record {path}: its checksum differs; it is damaged: download it again")

    # samples of each lead: a compressed sample has at least one bit
    for lead, place in enumerate(_lead_places(record)):
        first, last = struct.unpack_from("<II", record, place)
        if last - first > 8 * len(record):
            raise RecordError(
                f"record {path}: lead {lead + 1} has {last - first + 1} samples, more than its {len(record)} bytes can "
                "hold; download it again"
            )
    return () if checksum else ("its checksum is the placeholder 0 and was not compared",)


def _sections(record: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, size in bytes and place of each section that section 0 points to, as far as the record holds it."""
    (n_section_bytes,) = struct.unpack_from("<I", record, 10)
    for begin in range(22, min(6 + n_section_bytes, len(record)) - 9, 10):
        number, n_bytes, place = struct.unpack_from("<HII", record, begin)
        if place and place - 1 + max(n_bytes, _SECTION_HEADER + 2) <= len(record):
            yield number, n_bytes, place - 1


def _lead_places(record: bytes) -> Iterator[int]:
    """Where section 3 describes each lead: its first and last sample and its code, in 9 bytes."""
    for number, _, place in _sections(record):
        if number == _LEADS_SECTION:
            leads = place + _SECTION_HEADER
            for lead in range(record[leads]):
                if leads + 2 + 9 * lead + 9 <= len(record):
                    yield leads + 2 + 9 * lead


def _with_ranges_from_one(content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The record with lead ranges that begin at 1, and a remark; recorders of Contec write "0 to n" for "1 to n".

    The checksums of the section and the record are computed anew: they were compared before.
    """
    changed = bytearray(content)
    places = list(_lead_places(content))
    ranges = [struct.unpack_from("<II", content, place) for place in places]
    if not any(first == 0 < last for first, last in ranges):
        return content, ()
    for place, (first, last) in zip(places, ranges):
        struct.pack_into("<I", changed, place, 1 if first == 0 < last else first)
    for number, n_bytes, place in _sections(content):
        if number == _LEADS_SECTION:
            struct.pack_into("<H", changed, place, binascii.crc_hqx(changed[place + 2 : place + n_bytes], 0xFFFF))
    (n_bytes,) = struct.unpack_from("<I", content, 2)
    struct.pack_into("<H", changed, 0, binascii.crc_hqx(changed[2:n_bytes], 0xFFFF))
    return bytes(changed), ("lead ranges that begin at sample 0 were read as from sample 1",)


def _stated(record: Any) -> Mapping[str, Any]:
    patient, device, date = record.patient, record.recording.device, record.recording.date
    birth = patient.birth_date
    is_placeholder = birth is not None and (birth.year, birth.month, birth.day) == PLACEHOLDER_BIRTH
    age = None if is_placeholder else patient.age
    return stated(
        age, patient.sex, (device.manufacturer, device.model), None if date is None else date.year,
        record.measurements.heart_rate,
    )  # fmt: skip
