"""Text tables of one recording: CSV, TSV and their relatives, one column per lead or one row per lead.

Leads are found by name; other columns are not used. Units may be in a row or in the names, the rate in a time column. What
a file does not state, the caller gives. `text_table` reads encoding, separator, decimal sign and header.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leadwise.data.formats.arrays import from_table
from leadwise.data.formats.channels import Channels, choose_channels
from leadwise.data.formats.given import LARGEST_RATE_HZ, Given, check_size, known_unit, mv_per_unit
from leadwise.data.formats.text_table import TextTable, looks_like_table, read_table, unit_in_name
from leadwise.data.messages import quoted_cell
from leadwise.data.recordings.lead_names import is_lead
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".csv", ".tsv", ".txt", ".tab")

_MOST_LEADS = 128  # a table with more columns than this and fewer rows has one row per lead
_LOWEST_RATE_HZ = 20.0  # below, a time column counts other units than its name states
_S_PER_UNIT = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3,
               "milliseconds": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "microseconds": 1e-6}  # fmt: skip
_TIMES = ("time", "t", "times", "timestamp", "elapsed", "zeit", "tiempo", "tempo", "temps")
_INDICES = ("", "index", "unnamed: 0", "sample", "samples", "sample_index", "n", "nr", "no", "row", "#")


def matches(first_bytes: bytes) -> bool:
    """Whether a file begins with a table of numbers, below lead names or without names."""
    return looks_like_table(first_bytes, is_whole=len(first_bytes) < 4096)


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The recording in a text table; an empty cell is a missing sample.

    Raises:
        RecordError: the file is empty or no table, a row has too few cells, a cell of a lead is not a number, or something
            that the file does not state is not given.
    """
    table = read_table(path, content)
    turned = _by_rows(table, given)
    if turned is not None:
        names, units, first = turned
        channels = choose_channels(path, names, given)
        cells = np.array([table.rows[number][first:] for number in channels.used], dtype=object).T
        line_numbers, is_turned = [table.line_numbers[number] for number in channels.used], True
        used_units = [units[number] for number in channels.used]
        check_size(path, len(cells), len(names))
        return _recording(path, _Cells(cells, line_numbers, is_turned), used_units, channels, given, table)

    # time and index columns are no channels, unless the given leads count them
    times = [number for number in range(table.n_columns) if _is_time(table, number)]
    others = {*times, *(number for number in range(table.n_columns) if _is_index(table, number))}
    columns = [number for number in range(table.n_columns) if number not in others and not _is_empty(table, number)]
    if given.leads is not None and len(given.leads) == table.n_columns:
        columns = list(range(table.n_columns))
    elif given.leads is not None and len(given.leads) == table.n_columns - 1 < len(columns) and _is_rising(table, 0):
        columns, times = columns[1:], [0]  # a first column without name
    channels = choose_channels(path, [table.names[number] for number in columns], given)
    used = [columns[number] for number in channels.used]
    check_size(path, len(table.rows), len(columns))

    # the rate of the time column
    remarks = channels.remarks
    rate_hz = next(filter(None, (_rate_hz(table, number) for number in times if number not in used)), None)
    if rate_hz is not None:
        if given.rate_hz is not None and abs(given.rate_hz - rate_hz) > 0.01 * rate_hz:
            remarks = (*remarks, f"its time column has {rate_hz:g} Hz; the given {given.rate_hz:g} Hz are not used")
        given = replace(given, rate_hz=rate_hz)
    elif times and given.rate_hz is not None:
        remarks = (*remarks, "its time column is irregular or has no known unit; the given rate is used")
    channels = replace(channels, remarks=remarks)
    cells = np.array([[row[number] for number in used] for row in table.rows], dtype=object)
    return _recording(
        path, _Cells(cells, table.line_numbers, False), [table.units[number] for number in used], channels, given, table
    )


@dataclass(frozen=True)
class _Cells:
    """The cells (T0, L0) of the leads, and the line of each row, or of each column if the table was turned."""

    cells: np.ndarray
    line_numbers: Sequence[int]
    is_turned: bool


def _recording(
    path: Path, cells: _Cells, units: Sequence[str], channels: Channels, given: Given, table: TextTable
) -> Recording:
    """The recording in the cells of its leads, whose units may differ."""
    values = _numbers(path, cells, channels, table)
    channels = replace(channels, used=tuple(range(len(channels.used))))
    stated = {unit for unit in units if unit}
    if not stated:
        return from_table(path, values, channels, given)
    if len(stated) == 1 and all(units):
        return from_table(path, values, channels, given, unit=units[0])
    factors = [mv_per_unit(path, unit or None, given.units) for unit in units]
    return from_table(path, values * factors, channels, given, unit="mV")


def _numbers(path: Path, cells: _Cells, channels: Channels, table: TextTable) -> np.ndarray:
    """The cells as float64 (T0, L0), NaN = missing."""
    values = np.empty(cells.cells.shape)
    for column, lead in enumerate(channels.leads):
        of_lead = cells.cells[:, column]
        try:
            values[:, column] = [table.number(cell) for cell in of_lead]
        except ValueError:
            row = next(number for number, cell in enumerate(of_lead) if not _is_number(table, cell))
            line = cells.line_numbers[column if cells.is_turned else row]
            raise RecordError(
                f"record {path}: line {line}: lead {lead!r} is {quoted_cell(str(of_lead[row]))}, which is not a number; "
                "correct that cell"
            ) from None
    return values


def _is_number(table: TextTable, cell: str) -> bool:
    try:
        table.number(cell)
    except ValueError:
        return False
    return True


def _by_rows(table: TextTable, given: Given) -> tuple[list[str], list[str], int] | None:
    """Names and units of the rows and the first column with samples, if the table has one row per lead; else None."""
    n_rows, n_columns = len(table.rows), table.n_columns
    first = [row[0].strip() for row in table.rows]
    has_leads = any(map(is_lead, table.names))
    if not has_leads and n_rows <= _MOST_LEADS and any(map(is_lead, first)) and n_columns > 1:
        if any(_is_number(table, cell) for cell in first if cell):
            return None
        second = [row[1].strip() for row in table.rows]
        if all(map(known_unit, second)):
            return first, second, 2
        return first, [unit_in_name(name) for name in first], 1
    is_wide = n_rows <= _MOST_LEADS < n_columns
    fits = given.leads is not None and n_rows == len(given.leads) != n_columns
    if not any(table.names) and (is_wide or fits):
        return [""] * n_rows, [""] * n_rows, 0
    return None


def _words(name: str) -> tuple[str, str]:
    """A column's name and the unit behind it: "Time (ms)", "time_ms" and "t [ms]" have the unit ms."""
    text = name.strip().casefold().replace("(", " ").replace(")", " ").replace("[", " ").replace("]", " ")
    words = text.replace("_", " ").replace("/", " ").replace(",", " ").split()
    if len(words) > 1 and words[-1] in _S_PER_UNIT:
        return " ".join(words[:-1]), words[-1]
    return (" ".join(words), "") if words and words[0] not in _S_PER_UNIT else ("time" if words else "", "".join(words))


def _is_time(table: TextTable, number: int) -> bool:
    name, unit = _words(table.names[number])
    return bool(table.names[number].strip()) and (name in _TIMES or (bool(unit) and name.startswith(_TIMES[0])))


def _is_index(table: TextTable, number: int) -> bool:
    """Whether a column without a lead's name counts the samples."""
    if table.names[number].strip().casefold() not in _INDICES or table.n_columns < 2 or len(table.rows) < 3:
        return False
    if not table.names[number].strip() and (number > 0 or not any(name.strip() for name in table.names)):
        return False
    cells = [row[number].strip() for row in table.rows]
    return cells[0].isdecimal() and cells == [str(int(cells[0]) + k) for k in range(len(cells))]


def _is_empty(table: TextTable, number: int) -> bool:
    """Whether a column has neither a name nor a sample: the separator at the end of each row makes one."""
    return not table.names[number].strip() and not any(row[number].strip() for row in table.rows)


def _is_rising(table: TextTable, number: int) -> bool:
    """Whether a column without name counts samples or time."""
    try:
        values = np.array([table.number(row[number]) for row in table.rows])
    except ValueError:
        return False
    return len(values) > 2 and bool((np.diff(values) > 0).all())


def _rate_hz(table: TextTable, number: int) -> float | None:
    """The sampling rate in Hz of a time column; None if its steps differ or its unit cannot be known."""
    try:
        times = np.array([table.number(row[number]) for row in table.rows])
    except ValueError:
        return None
    if len(times) < 3 or not np.isfinite(times).all():
        return None
    step = (times[-1] - times[0]) / (len(times) - 1)
    if step <= 0 or np.abs(np.diff(times) - step).max() > 0.75 * step:
        return None

    # the unit: that of the header, else the one with which the rate is plausible
    unit = table.units[number].casefold() or _words(table.names[number])[1]
    if unit in _S_PER_UNIT:
        rate_hz = 1 / (step * _S_PER_UNIT[unit])
    elif unit or math.isclose(step, 1.0):
        return None  # it counts samples, or milliseconds at 1000 Hz
    else:
        candidates = [1 / (step * seconds) for seconds in (1.0, 1e-3)]
        rate_hz = next((rate for rate in candidates if _LOWEST_RATE_HZ <= rate <= LARGEST_RATE_HZ), 0.0)
    n_decimals = max(len(row[number].replace(",", ".").partition(".")[2].strip()) for row in table.rows[-20:])
    nearest, error = round(rate_hz), 1e-4 + 10.0**-n_decimals / (times[-1] - times[0])  # times are rounded
    if nearest and abs(rate_hz - nearest) <= error * rate_hz:
        return float(nearest)
    return round(rate_hz, 4) or None
