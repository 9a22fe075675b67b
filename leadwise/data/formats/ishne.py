"""ISHNE Holter files (`.ecg`): int16 samples of 1 to 12 leads behind a header at fixed offsets.

Source: Badilini, The ISHNE Holter Standard Output File Format, 1998. The header's checksum is not compared: recorders write
0 or a wrong one into sound files.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_size, checked_rate, mv_per_unit
from leadwise.data.formats.parsing import scaled, without_empty_slots
from leadwise.data.formats.stated import age_in_years, stated
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".ecg",)

_BEGINS = b"ISHNE1.0"
_HEADER_BYTES = 522
_NAMES = (
    "unknown", "bipolar", "X", "Y", "Z", "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6", "ES",
    "AS", "AI",
)  # fmt: skip  # by the code of a lead


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is an ISHNE file."""
    return first_bytes.startswith(_BEGINS)


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The leads of an ISHNE file.

    Raises:
        RecordError: the file is damaged or of another format, or a lead that is used has no step.
    """
    if not matches(content):
        raise RecordError(f"record {path}: not an ISHNE file (it does not begin with ISHNE1.0); check the path")
    if len(content) < _HEADER_BYTES:
        raise RecordError(f"record {path}: its header is truncated; download it again")

    # header
    n_variable_bytes, n_promised = struct.unpack_from("<ii", content, 10)
    sex, _, birth_day, birth_month, birth_year, day, month, year = struct.unpack_from("<8h", content, 128)
    (n_leads,) = struct.unpack_from("<h", content, 156)
    codes, steps_nv = struct.unpack_from("<12h", content, 158), struct.unpack_from("<12h", content, 206)
    (rate_hz,) = struct.unpack_from("<h", content, 272)
    begin = _HEADER_BYTES + n_variable_bytes
    if not 0 < n_leads <= len(codes) or not _HEADER_BYTES <= begin <= len(content):
        raise RecordError(
            f"record {path}: its header states {n_leads} leads and samples from byte {begin} of {len(content)}; download it again"
        )
    n_samples = (len(content) - begin) // (2 * n_leads)
    check_size(path, n_samples, n_leads)

    # leads: only the steps of those that are used matter
    names = [_NAMES[code] if 0 <= code < len(_NAMES) else f"lead {code}" for code in codes[:n_leads]]
    channels = choose_channels(path, names, given)
    samples = np.frombuffer(content, "<i2", n_samples * n_leads, begin).reshape(n_samples, n_leads)
    steps = [
        steps_nv[number] / 1000.0 if steps_nv[number] > 0 else 1000.0 * mv_per_unit(path, None, given.units)
        for number in channels.used
    ]
    signal, digital = scaled(path, samples[:, list(channels.used)], channels.leads, steps)
    remarks = channels.remarks
    if n_promised > n_samples:
        remarks = (*remarks, f"its header promises {n_promised} samples of each lead, it holds {n_samples}")
    age = age_in_years((birth_year, birth_month, birth_day), (year, month, day))
    recorder = content[232:272].split(b"\0")[0].decode("latin-1").strip()
    recorder = "" if recorder.casefold() in ("analog", "digital") else recorder  # its kind and not its model
    recording = Recording(
        path.stem, signal, channels.leads, checked_rate(path, float(rate_hz)), digital, unused=channels.unused,
        stated=stated(age, {1: "M", 2: "F"}.get(sex), (recorder,), year), remarks=remarks,
    )  # fmt: skip
    return without_empty_slots(path, recording)
