"""WFDB headers, parsed and checked before a sample is read: files, format, gain and unit of each signal; comments.

The library `wfdb` reads headers as ASCII and drops other characters, so that 'µV' becomes 'V', and it assumes 'mV' where
no unit is stated. A wrong unit changes amplitudes by a factor of a thousand, so units are read here from the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from leadwise.data.formats.text_table import split_lines
from leadwise.data.messages import quoted_cell, short_name

_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?$")
_GAIN = re.compile(r"([^(/]+)(?:\((-?\d+)\))?(?:/(.*))?$")
_SEGMENTED = re.compile(r"[^/]+/(\d+)$")  # name/number of segments
_BLANKS = re.compile(r"[ \t]+")  # not what str.split takes for blanks, such as U+0085
_RATE_END = re.compile(r"[/(]")
_OLDEST = 130.0  # years; a larger number is not an age
_BYTES_PER_SAMPLE = {"8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5}


class HeaderError(ValueError):
    """A header that cannot be used; the message names the line and the reason."""


class SignalLine(NamedTuple):
    """One signal of a header."""

    file: str  # without the folder that the header may give
    format: str
    n_per_frame: int  # samples in each frame of the record
    skew: int  # frames by which the signal's samples are stored late
    byte_offset: int
    gain: float | None  # steps per unit; None where the header omits it
    unit: str | None  # as written; None where the header omits it
    baseline: int | None  # sample value of 0: as stated, else the ADC's zero, else 0; None if that is not a number
    checksum: int | None  # sum of the samples, modulo 65536
    name: str
    problem: str = ""  # why the signal cannot be read; a signal that is not used may have one


class Segment(NamedTuple):
    """One segment of a multi-segment record."""

    name: str  # of its header without suffix; "~" for a gap
    n_samples: int


@dataclass(frozen=True)
class Header:
    """The record line and the signal lines, or the segments of a multi-segment record."""

    rate_hz: float | None  # frames per second; None where the header omits it
    n_samples: int | None  # frames; None where the header omits it, or has the placeholder 0
    signals: tuple[SignalLine, ...]
    n_described: int  # signal lines; more than `signals` where the record line promises fewer
    segments: tuple[Segment, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the data files, each once, in order."""
        return tuple(dict.fromkeys(signal.file for signal in self.signals))

    def n_bytes(self, file: str) -> int | None:
        """The least size of a data file in bytes; None if the header or the format does not determine it."""
        lines = [signal for signal in self.signals if signal.file == file]
        if self.n_samples is None or any(line.format not in _BYTES_PER_SAMPLE for line in lines):
            return None
        samples = sum(_BYTES_PER_SAMPLE[line.format] * line.n_per_frame for line in lines) * self.n_samples
        return int(samples) + max(line.byte_offset for line in lines)


@lru_cache(maxsize=4096)  # a shard parses each header twice: for the names of its files, and to read the samples
def parse(raw: bytes) -> Header:
    """The header in the bytes of a .hea file.

    Raises:
        HeaderError: not a WFDB header; the message contains no file name, the caller adds it.
    """
    # the record line: name, signals, rate, samples
    lines = [line for line in map(str.strip, split_lines(_text(raw))) if line and line[0] != "#"]
    if not lines:
        raise HeaderError("the header is empty")
    fields = _BLANKS.split(lines[0])
    try:
        n_signals = int(fields[1])
        # WFDB reads an absent rate as 250 Hz; that is a guess, and every interval depends on it
        rate_hz = float(_RATE_END.split(fields[2])[0]) if len(fields) > 2 else None
        n_samples = (int(fields[3]) if len(fields) > 3 else None) or None  # 0 is a placeholder for "not stated"
    except (ValueError, IndexError):
        raise HeaderError("line 1 is not 'name signals rate samples'") from None
    segmented = _SEGMENTED.match(fields[0])  # other slashes are folders in the record's name
    if segmented:
        return Header(rate_hz, n_samples, (), 0, _segments(lines, int(segmented[1])))

    # one line per signal
    if n_signals < 1 or len(lines) - 1 < n_signals:
        raise HeaderError(f"it promises {n_signals} signals and describes {len(lines) - 1}")
    signals = tuple(_signal(line, row) for row, line in enumerate(lines[1 : n_signals + 1], start=2))
    return Header(rate_hz, n_samples, signals, len(lines) - 1)


def comments(raw: bytes) -> dict[str, str]:
    """The comment lines of a header as a dictionary: {'age': '49', 'sex': 'Female', 'dx': '164889003,59118001'}.

    Keys are in lower case; the values of a key that appears twice are joined by commas. The rest of the header may be
    damaged.
    """
    values: dict[str, str] = {}
    for line in map(str.strip, split_lines(_text(raw))):
        key, colon, value = line.removeprefix("#").partition(":")
        if line.startswith("#") and colon:
            key, value = key.strip().casefold(), value.strip()
            values[key] = f"{values[key]},{value}" if values.get(key) else value
    return values


def person(values: Mapping[str, str]) -> dict[str, float | str | None]:
    """Age in years and sex ('male', 'female') from a header's comments; None where they are not known.

    Data sets write 'NaN' or -1 for an unknown age.
    """
    try:
        age = float(values.get("age", ""))
    except ValueError:
        age = -1.0
    sex = values.get("sex", "").strip().casefold()
    return {
        "age": age if 0 <= age <= _OLDEST else None,  # NaN is in no range
        "sex": {"male": "male", "m": "male", "female": "female", "f": "female"}.get(sex),
    }


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # µ as the single byte B5


def _segments(lines: list[str], n_segments: int) -> tuple[Segment, ...]:
    if len(lines) - 1 < n_segments:
        raise HeaderError(f"it promises {n_segments} segments and lists {len(lines) - 1}")
    segments = []
    for row, line in enumerate(lines[1 : n_segments + 1], start=2):
        fields = _BLANKS.split(line)
        try:
            segments.append(Segment(fields[0], int(fields[1])))
        except (ValueError, IndexError):
            raise HeaderError(f"line {row} is not 'segment samples'") from None
        if fields[0] != "~" and not _is_plain_name(fields[0]):
            raise HeaderError(f"line {row} names the segment {short_name(fields[0])!r} outside the header's folder")
    return tuple(segments)


def _signal(line: str, row: int) -> SignalLine:
    # file and storage format
    fields = _BLANKS.split(line, maxsplit=8)
    n_fields = len(fields)
    stored = _storage(fields[1]) if n_fields > 1 else None
    if stored is None:
        raise HeaderError(f"signal line {row} has no storage format")
    storage, n_per_frame, skew, byte_offset = stored
    problem, file = "", fields[0].rpartition("/")[2]  # the data file is beside the header, whatever folder it names
    if not _is_plain_name(file) or ".." in fields[0].split("/"):
        problem = f"signal line {row} names the data file {short_name(fields[0])!r} outside the header's folder"

    # gain, unit, baseline and checksum; all are optional
    gain, baseline, unit = None, None, None
    if n_fields > 2:
        try:
            gain, baseline, unit = _gain(fields[2])
        except ValueError:
            problem = f"signal line {row} has the gain {quoted_cell(fields[2])}, which is not a number"
    if baseline is None:
        baseline = _whole(fields[4]) if n_fields > 4 else 0
        if baseline is None:
            problem = f"signal line {row} has the ADC zero {quoted_cell(fields[4])}, which is not a number"
    try:
        checksum = int(fields[6]) % 65536 if n_fields > 6 else None
    except ValueError:
        checksum = None
        problem = f"signal line {row} has the checksum {quoted_cell(fields[6])}, which is not a number"
    name = fields[8].strip() if n_fields > 8 else ""
    return SignalLine(file, storage, n_per_frame, skew, byte_offset, gain, unit, baseline, checksum, name, problem)


# The following are cached: in a data set these fields are the same on every line.


@lru_cache(maxsize=256)
def _storage(text: str) -> tuple[str, int, int, int] | None:
    """Format, samples a frame, skew and byte offset from '16x1:0+24'; None if it has another form."""
    matched = _FORMAT.match(text)
    return matched and (matched[1], int(matched[2] or 1), int(matched[3] or 0), int(matched[4] or 0))


@lru_cache(maxsize=256)
def _gain(text: str) -> tuple[float, int | None, str | None]:
    """Gain, baseline and unit from '1000(0)/mV'; the gain is NaN if it has another form."""
    matched = _GAIN.match(text)
    if matched is None:
        return float("nan"), None, None
    return float(matched[1]), None if matched[2] is None else int(matched[2]), matched[3] or None


@lru_cache(maxsize=256)
def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _is_plain_name(file: str) -> bool:
    return Path(file).name == file
