"""ECGs that an Apple Watch exports as CSV: lines "key,value" in the phone's language, then one number per line, in uV.

It is no table: where the language has a decimal comma, a number is "-265,868". Values are found by their form and not by
their key, which is translated.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_size, checked_rate, known_unit, mv_per_unit
from leadwise.data.formats.stated import stated
from leadwise.data.formats.text_table import decode_text, split_lines
from leadwise.data.recordings.lead_names import standard_name
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".csv",)

_MAX_HEADER_LINES = 40
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?$")
_RATE = re.compile(r"(\d{2,4}(?:[.,]\d+)?)\s*[^\W\d_]{2,}\.?$")  # 512 hertz
_LEAD = re.compile(r"(?<!\w)(III|II|I|aVR|aVL|aVF|V[1-6])(?!\w)")
_DEVICE = re.compile(r"Watch\d+,\d+")
_TIME = re.compile(r"((?:19|20)\d\d)-\d\d-\d\d \d\d:\d\d:\d\d")  # of the recording; a birth date has no time


def matches(first_bytes: bytes) -> bool:
    """Whether a file begins with such a header: a rate with its unit and a voltage unit, then a line with one number."""
    try:
        lines = split_lines(decode_text(first_bytes[: len(first_bytes) // 2 * 2]))
    except ValueError:
        return False
    header = _header(lines)
    if header is None:
        return False
    values = [_value(line) for line in header]
    return any(map(_RATE.match, values)) and any(map(known_unit, values))


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The recording of one lead that an Apple Watch exports.

    Raises:
        RecordError: the file has no such header, or a line below it is not one number.
    """
    try:
        lines = split_lines(decode_text(content))
    except ValueError:
        lines = []
    header = _header(lines)
    if header is None:
        raise RecordError(f"record {path}: not an ECG that an Apple Watch exports; export it again")
    values = [_value(line) for line in header]

    # rate, unit and lead: by their form, the last of each
    rates = [match[1] for match in map(_RATE.match, values) if match]
    units = [value for value in values if known_unit(value)]
    leads = [match[1] for match in map(_LEAD.search, values[-4:]) if match]
    rate_hz = float(rates[-1].replace(",", ".")) if rates else given.rate_hz
    channels = choose_channels(path, [standard_name(leads[-1]) if leads else ""], given)
    factor = mv_per_unit(path, units[-1] if units else None, given.units)

    # samples
    samples = []
    for number, line in enumerate(lines[len(header) :], start=len(header) + 1):
        text = line.strip().strip('"')
        if not text:
            continue
        if not _NUMBER.match(text):
            raise RecordError(f"record {path}: line {number} is not one number; export it again")
        samples.append(float(text.replace(",", ".")))
    check_size(path, len(samples), 1)
    device, time = _DEVICE.search("\n".join(header)), _TIME.search("\n".join(header))
    return Recording(
        path.stem, np.array(samples)[:, None] * factor, channels.leads, checked_rate(path, rate_hz),
        stated=stated(device=(f"Apple {device[0]}" if device else "",), year=int(time[1]) if time else None),
        remarks=channels.remarks,
    )  # fmt: skip


def _header(lines: list[str]) -> list[str] | None:
    """The lines before the first number; None if there is none, or no header."""
    for number, line in enumerate(lines[:_MAX_HEADER_LINES]):
        if _NUMBER.match(line.strip().strip('"')):
            return lines[:number] or None
    return None


def _value(line: str) -> str:
    """The value of a line "key,value" or "key;value"."""
    return re.split(r"[,;\t]", line, maxsplit=1)[-1].strip().strip('"')
