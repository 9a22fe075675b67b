"""What a WFDB header says, checked before a sample is read: files, format, gain and unit of each signal.

`wfdb` reads headers as ASCII and drops what is not, so that 'µV' becomes 'V', and it fills in 'mV' where no unit
stands. Units decide by a factor of a thousand, so they are read here from the text itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::\d+)?(?:\+(\d+))?$")
_GAIN = re.compile(r"([^(/]+)(?:\((-?\d+)\))?(?:/(.*))?$")
_BYTES_PER_SAMPLE = {"8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5}


class HeaderError(ValueError):
    """A header that cannot be trusted; the message says which line and why."""


@dataclass(frozen=True)
class SignalLine:
    """One signal of a header."""

    file: str
    format: str
    byte_offset: int
    gain: float | None  # steps per unit; None where the header leaves it out
    unit: str | None  # as written; None where the header leaves it out
    checksum: int | None  # sum of the samples, modulo 65536
    name: str


@dataclass(frozen=True)
class Header:
    """The record line and the signal lines."""

    rate_hz: float | None  # None where the header leaves it out
    n_samples: int | None  # None where the header leaves it out
    signals: tuple[SignalLine, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The data files named, each once, in order."""
        return tuple(dict.fromkeys(signal.file for signal in self.signals))

    def n_bytes(self, file: str) -> int | None:
        """The least size of a data file in bytes; None where the header or its format does not say."""
        lines = [signal for signal in self.signals if signal.file == file]
        if self.n_samples is None or any(line.format not in _BYTES_PER_SAMPLE for line in lines):
            return None
        samples = sum(_BYTES_PER_SAMPLE[line.format] for line in lines) * self.n_samples
        return int(samples) + max(line.byte_offset for line in lines)


def parse(path: Path) -> Header:
    """The header at `path`.

    Raises:
        HeaderError: not a single-segment WFDB header; the message has no file name, the caller adds it.
        OSError: the file cannot be read.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # µ as the single byte B5
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise HeaderError("the header is empty")
    fields = lines[0].split()
    try:
        n_signals = int(fields[1])
        # WFDB would read an absent rate as 250 Hz; nobody said so, and it decides every interval
        rate_hz = float(re.split(r"[/(]", fields[2])[0]) if len(fields) > 2 else None
        n_samples = int(fields[3]) if len(fields) > 3 else None
    except (ValueError, IndexError):
        raise HeaderError(f"line 1 is not 'name signals rate samples': {lines[0][:80]!r}") from None
    if "/" in fields[0]:
        raise HeaderError("multi-segment records are not read; convert it to a single segment first")
    if n_signals < 1 or len(lines) - 1 < n_signals:
        raise HeaderError(f"it promises {n_signals} signals and describes {len(lines) - 1}")
    signals = tuple(_signal(line, row) for row, line in enumerate(lines[1 : n_signals + 1], start=2))
    return Header(rate_hz, n_samples, signals)


def _signal(line: str, row: int) -> SignalLine:
    fields = line.split(maxsplit=8)
    matched = _FORMAT.match(fields[1]) if len(fields) > 1 else None
    if matched is None:
        raise HeaderError(f"signal line {row} has no storage format: {line[:80]!r}")
    if matched[2] not in (None, "1"):
        raise HeaderError(f"signal line {row} stores {matched[2]} samples a frame; only one is read")
    if Path(fields[0]).name != fields[0]:
        raise HeaderError(f"signal line {row} names the data file {fields[0]!r} outside the header's folder")
    gain, unit = None, None
    if len(fields) > 2:
        written = _GAIN.match(fields[2])
        try:
            gain = float(written[1]) if written else float("nan")
        except ValueError:
            raise HeaderError(f"signal line {row} has the gain {fields[2]!r}, which is not a number") from None
        unit = written[3] if written else None
    try:
        checksum = int(fields[6]) % 65536 if len(fields) > 6 else None
    except ValueError:
        raise HeaderError(f"signal line {row} has the checksum {fields[6]!r}, which is not a number") from None
    name = fields[8].strip() if len(fields) > 8 else ""
    return SignalLine(fields[0], matched[1], int(matched[3] or 0), gain, unit or None, checksum, name)
