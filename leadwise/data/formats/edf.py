"""EDF, EDF+ and BDF: signals of 16 or 24 bits in data records, each with its own rate and unit.

The format is plain, and a reader of its own reads what strict libraries refuse: a header without dates, an unused signal
with an impossible scale, an EDF+ file with gaps. Its samples equal those of pyedflib (tests/test_format_edf.py).
Of the patient and recording fields only sex, age, year and device are used. Source: www.edfplus.info/specs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_size, checked_rate, mv_per_unit
from leadwise.data.formats.parsing import library_errors, of_one_rate, scaled
from leadwise.data.formats.stated import age_in_years, stated
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".edf", ".bdf", ".rec")

_BEGINS = {b"0       ": 2, b"\xffBIOSEMI": 3}  # the first bytes of a file, and its bytes per sample
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_HEADER_BYTES = 256
_FIELD_BYTES = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)  # of each signal: label ... reserved
_MAX_SIGNALS = 512
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_ONSET = re.compile(rb"([+-]\d+(?:\.\d*)?)[\x14\x15]")


@dataclass(frozen=True)
class _Signals:
    """The header of a file without its patient and recording fields; one entry per signal."""

    n_records: int
    record_s: float
    n_bytes: int  # of the header
    sample_bytes: int
    labels: list[str]
    units: list[str]
    physical: list[tuple[str, str]]  # minimum and maximum, as text: only those of used signals are parsed
    digital: list[tuple[str, str]]
    n_per_record: list[int]

    @property
    def record_samples(self) -> int:
        """Samples of all signals in one record."""
        return sum(self.n_per_record)


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is an EDF or BDF file."""
    return first_bytes[:8] in _BEGINS and first_bytes[168:184].replace(b".", b"").replace(b":", b"").isdigit()


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The leads of an EDF or BDF file; gaps of an EDF+D file are missing samples.

    Raises:
        RecordError: the file is damaged or truncated, or a signal that is used has no voltage unit.
    """
    if content[:8] not in _BEGINS:
        raise RecordError(f"record {path}: not an EDF or BDF file; check the path")
    with library_errors(path, "EDF"):
        header = _parse_header(path, content)

        # the signals that are leads
        numbers = [number for number, label in enumerate(header.labels) if label not in _ANNOTATIONS]
        names = [header.labels[number] for number in numbers]
        rates = [header.n_per_record[number] / header.record_s if header.record_s else 0.0 for number in numbers]
        channels, rate_hz = of_one_rate(choose_channels(path, names, given), names, rates)
        rate_hz = checked_rate(path, rate_hz)
        used = [numbers[number] for number in channels.used]
        n_per_record = header.n_per_record[used[0]]
        check_size(path, header.n_records * n_per_record, len(used))

        # samples (T0, L0), their steps, and the place of each record
        records = _records(content, header)
        samples = np.stack([_signal(records, header, number) for number in used], axis=1)
        scales = [_scale(path, header, number, given) for number in used]
        samples, missing = _with_gaps(path, content, header, records, samples, n_per_record, rate_hz)
        steps, offsets = zip(*scales)
        signal, digital = scaled(path, samples, channels.leads, steps, offsets, missing)
    return Recording(
        path.stem, signal, channels.leads, rate_hz, digital, unused=channels.unused, format=_version(content),
        stated=_stated(content), remarks=channels.remarks,
    )  # fmt: skip


def _version(content: bytes) -> str:
    kind = "bdf" if content[0] == 0xFF else "edf"
    return f"{kind}+" if content[192:196] in (b"EDF+", b"BDF+") else kind


def _parse_header(path: Path, content: bytes) -> _Signals:
    n_signals = _integer(path, content[252:256], "number of signals")
    if not 0 < n_signals <= _MAX_SIGNALS or len(content) < _HEADER_BYTES * (1 + n_signals):
        raise RecordError(f"record {path}: its header promises {n_signals} signals and ends before; download it again")

    # each field is stored for all signals, then the next field
    fields, begin = [], _HEADER_BYTES
    for width in _FIELD_BYTES:
        part = content[begin : begin + width * n_signals].decode("latin-1")
        fields.append([part[width * k : width * (k + 1)].strip() for k in range(n_signals)])
        begin += width * n_signals
    labels, _, units, physical_min, physical_max, digital_min, digital_max, _, counts, _ = fields
    sample_bytes, n_per_record = _BEGINS[content[:8]], [_integer(path, count, "number of samples") for count in counts]
    record_bytes = sum(n_per_record) * sample_bytes
    if min(n_per_record) < 0 or record_bytes == 0:
        raise RecordError(f"record {path}: its data records are empty; export it again")

    # -1 records: the file was not closed, its size decides
    n_complete = (len(content) - begin) // record_bytes
    n_records = _integer(path, content[236:244], "number of data records")
    if n_records < 0:
        n_records = n_complete
    if n_records > n_complete:
        raise RecordError(
            f"record {path}: it is truncated: {n_complete} data records where its header promises {n_records}; download it "
            "again"
        )
    return _Signals(
        n_records, float(content[244:252]), begin, sample_bytes, labels, units, list(zip(physical_min, physical_max)),
        list(zip(digital_min, digital_max)), n_per_record,
    )  # fmt: skip


def _integer(path: Path, field: bytes | str, what: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise RecordError(
            f"record {path}: the {what} in its header is not a number; it is damaged: download it again"
        ) from None


def _records(content: bytes, header: _Signals) -> np.ndarray:
    """The data records (N, bytes) uint8; not a copy."""
    n_bytes = header.record_samples * header.sample_bytes
    return np.frombuffer(content, np.uint8, header.n_records * n_bytes, header.n_bytes).reshape(-1, n_bytes)


def _signal(records: np.ndarray, header: _Signals, number: int) -> np.ndarray:
    """The samples (T0,) of one signal, as stored."""
    width = header.sample_bytes
    begin = sum(header.n_per_record[:number]) * width
    part = records[:, begin : begin + header.n_per_record[number] * width]
    if width == 2:
        samples: np.ndarray = np.ascontiguousarray(part).view("<i2").reshape(-1)
        return samples
    three = part.reshape(-1, 3).astype(np.int32)
    wide: np.ndarray = ((three[:, 0] << 8) | (three[:, 1] << 16) | (three[:, 2] << 24)) >> 8  # keeps the sign
    return wide


def _scale(path: Path, header: _Signals, number: int, given: Given) -> tuple[float, float]:
    """Step and offset of a signal in uV."""
    factor = 1000.0 * mv_per_unit(path, header.units[number] or None, given.units)
    (physical_min, physical_max), (digital_min, digital_max) = (
        tuple(map(float, limits)) for limits in (header.physical[number], header.digital[number])
    )
    if digital_max == digital_min or physical_max == physical_min:
        raise RecordError(
            f"record {path}: the limits of {header.labels[number]!r} are equal, so that it has no scale; correct its header"
        )
    step = (physical_max - physical_min) / (digital_max - digital_min)
    return factor * step, factor * (physical_min - digital_min * step)


def _with_gaps(
    path: Path,
    content: bytes,
    header: _Signals,
    records: np.ndarray,
    samples: np.ndarray,
    n_per_record: int,
    rate_hz: float,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples of an EDF+D file (T0, L0) at their times and which are missing; those of any other file unchanged."""
    if content[196:197] != b"D" or _version(content)[-1] != "+" or header.record_s == 0:
        return samples, None
    number = next(k for k, label in enumerate(header.labels) if label in _ANNOTATIONS)
    begin = sum(header.n_per_record[:number]) * header.sample_bytes
    width = header.n_per_record[number] * header.sample_bytes
    onsets = []
    for record in records:
        onset = _ONSET.match(record[begin : begin + width].tobytes())
        if onset is None:
            raise RecordError(f"record {path}: a data record does not state its time; export it as EDF+C")
        onsets.append(float(onset[1]))
    places = np.round((np.array(onsets) - onsets[0]) * rate_hz).astype(np.int64)
    if (np.diff(places) < n_per_record).any():
        raise RecordError(f"record {path}: its data records overlap in time; export it as EDF+C")
    n_total = int(places[-1]) + n_per_record
    check_size(path, n_total, samples.shape[1])

    # each record at its place
    spread = np.zeros((n_total, samples.shape[1]), samples.dtype)
    missing = np.ones(spread.shape, dtype=bool)
    for record_number, place in enumerate(places):
        part = samples[record_number * n_per_record : (record_number + 1) * n_per_record]
        spread[place : place + n_per_record], missing[place : place + n_per_record] = part, False
    return spread, missing


def _stated(content: bytes) -> Mapping[str, Any]:
    """Sex, age, year and device of an EDF+ header; the header of plain EDF has no fields for them."""
    year = _start_year(content)
    if _version(content)[-1] != "+":
        return stated(year=year)
    patient = content[8:88].decode("latin-1").split()  # code, sex, birth date, name
    recording = content[88:168].decode("latin-1").split()  # Startdate, date, code, technician, equipment
    birth = _year_month_day(patient[2]) if len(patient) > 2 else None
    start = _year_month_day(recording[1]) if len(recording) > 1 else None
    age = None if birth is None or start is None else age_in_years(birth, start)
    return stated(
        age, patient[1] if len(patient) > 1 else None, recording[4:5], start[0] if start is not None else year
    )


def _start_year(content: bytes) -> int | None:
    """The year of the field "dd.mm.yy": 85 ... 99 are 1985 ... 1999."""
    text = content[174:176]
    if not text.isdigit():
        return None
    return int(text) + (1900 if int(text) >= 85 else 2000)


def _year_month_day(text: str) -> tuple[int, int, int] | None:
    """A date such as 02-MAR-2002."""
    day, _, rest = text.upper().partition("-")
    month, _, year = rest.partition("-")
    if month not in _MONTHS or not (day.isdecimal() and year.isdecimal()):
        return None
    return int(year), _MONTHS.index(month) + 1, int(day)
