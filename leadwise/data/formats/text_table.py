"""Tables of numbers in text files: encoding, separator, decimal sign, comments, header and units, as programs write them."""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leadwise.data.formats.given import known_unit
from leadwise.data.recordings.lead_names import is_lead
from leadwise.data.recordings.recording import RecordError

_SEPARATORS = ("\t", ";", "|", ",", "")  # in the order in which they are tried; "" = spaces
_ALL_SEPARATORS = "".join(_SEPARATORS)
_COMMENTS = ("#", "%", "//")
_MISSING = frozenset(("", "nan", "na", "n/a", "#n/a", "null", "none", "-", "--", "?"))
_N_HEADER = 60  # rows in which a header is searched
_N_PROBED = 40  # rows that decide on the separator
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?$")
_LINE_END = re.compile(r"\r\n|\n|\r")
_TWO_NUMBERS = re.compile(r"\d\s+[+-]?\d")
_UNIT_IN_NAME = re.compile(
    r"^(?P<name>.*?)(?:\s*[\[(]\s*(?P<inner>[^\[\]()]+?)\s*[\])]|[\s_/,-]+(?P<bare>[mun\u00b5\u03bc]v|(?:milli|micro|nano)volts?))\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class TextTable:
    """A table of cells, one list per row, with what its header states about each column."""

    names: list[str]  # of the columns; "" where the file names none
    units: list[str]  # of the columns; "" where the file states none
    rows: list[list[str]]
    line_numbers: list[int]  # of the rows, from 1
    decimal: str  # "." or ","

    @property
    def n_columns(self) -> int:
        """Cells of each row."""
        return len(self.names)

    def number(self, cell: str) -> float:
        """The number in a cell, NaN if it is missing.

        Raises:
            ValueError: the cell holds no number.
        """
        text = cell.strip()
        if text.casefold() in _MISSING:
            return math.nan
        return float(text.replace(",", ".") if self.decimal == "," else text)


def looks_like_table(first_bytes: bytes, is_whole: bool) -> bool:
    """Whether a text begins with lead names and numbers below them, or with numbers only, in two or more columns.

    Strict: a text in which a lead's name appears among other words is no table.
    """
    try:
        lines = cell_lines(decode_text(first_bytes))[0]
    except ValueError:
        return False
    if not is_whole and len(lines) > 1:
        lines = lines[:-1]  # it may be cut
    if not lines:
        return False
    separator = _separator(lines)
    rows = [_split(line, separator) for line in lines]
    if len(rows[0]) < 2:
        return False
    header = _header_row(rows)
    if header is not None:
        cells = rows[header]
        n_leads, below = sum(map(is_lead, cells)), rows[header + 1 : header + 3]
        return 2 * n_leads >= len(cells) and (not below or any(len(row) > 1 and _is_numeric(row) for row in below))
    if all(is_lead(row[0]) for row in rows):
        return all(_is_numeric(row) for row in rows)
    return all(_number_like(cell) or not cell.strip() for row in rows for cell in row) and all(map(_is_numeric, rows))


def read_table(path: Path, content: bytes) -> TextTable:
    """The table in a text file.

    Raises:
        RecordError: the file is empty or not a text, or its rows have different numbers of cells.
    """
    try:
        text = decode_text(content)
    except ValueError:
        raise RecordError(f"record {path}: not a text in UTF-8, UTF-16 or Latin-1; save it as CSV in UTF-8") from None
    lines, line_numbers, comments = cell_lines(text)
    if not lines:
        raise RecordError(f"record {path}: it is empty; it must have a row of lead names and one row per sample")
    separator = _separator(lines)
    rows = [_split(line, separator) for line in lines]

    # header: the row of lead names, else what precedes the first row of numbers
    n_columns = Counter(len(row) for row in rows[-_N_PROBED:]).most_common(1)[0][0]
    header = _header_row(rows)
    if header is not None:
        names, begin = rows[header], header + 1
    else:
        if not any(_is_numeric(row, at_least=0.5) for row in rows):
            raise RecordError(
                f"record {path}: it has no row of numbers; it must have one row per sample or one row per lead"
            )
        begin = next((k for k, row in enumerate(rows[:_N_HEADER]) if _is_numeric(row) and len(row) == n_columns), 0)
        names = rows[begin - 1] if begin and len(rows[begin - 1]) == n_columns else []
        if not begin and not _is_numeric(rows[0]) and len(rows) > 1:
            names, begin = rows[0], 1
        for comment in comments:  # numpy writes the header as a comment
            cells = _split(comment, separator)
            if sum(map(is_lead, cells)) and len(cells) == n_columns:
                names = cells
        if not names and _is_numbered(rows[begin]):  # pandas numbers columns without names
            names, begin = [""] * len(rows[begin]), begin + 1
    units = [""] * len(names)
    if begin < len(rows) and any(known_unit(cell) for cell in rows[begin]) and not _is_numeric(rows[begin]):
        units, begin = rows[begin], begin + 1
    rows, line_numbers = rows[begin:], line_numbers[begin:]
    if not rows:
        raise RecordError(f"record {path}: it has a header and no samples; export it again")

    # one number of cells: that of the names, or most rows'; R writes no name above its index
    names = names or [""] * n_columns
    if len(names) == n_columns - 1:
        names, units = ["", *names], ["", *units]
    n_columns = len(names)
    rows = [
        row[:n_columns] if len(row) > n_columns and not any(cell.strip() for cell in row[n_columns:]) else row
        for row in rows
    ]
    bad = [number for number, row in zip(line_numbers, rows) if len(row) != n_columns]
    if bad:
        n_cells = len(rows[line_numbers.index(bad[0])])
        others = f" (and {len(bad) - 1} other lines)" if len(bad) > 1 else ""
        raise RecordError(
            f"record {path}: line {bad[0]} has {n_cells} cells where {n_columns} are expected{others}; correct that line"
        )
    units = [cell.strip() for cell in units[:n_columns]] + [""] * (n_columns - len(units))
    units = [unit or unit_in_name(name) for unit, name in zip(units, names)]
    names = [_without_unit(name) for name in names]
    return TextTable(names, units, rows, line_numbers, _decimal(rows, separator))


def unit_in_name(name: str) -> str:
    """The voltage unit in a column's name such as "I (mV)", "V1 [uV]" or "ii_mV"; "" if it has none."""
    match = _UNIT_IN_NAME.match(name.strip())
    unit = (match["inner"] or match["bare"]) if match else ""
    return unit if match and match["name"] and known_unit(unit) else ""


def _without_unit(name: str) -> str:
    """The name of a lead without its unit; any other name unchanged."""
    match = _UNIT_IN_NAME.match(name.strip())
    return match["name"].strip() if match and unit_in_name(name) and is_lead(match["name"]) else name


def decode_text(content: bytes) -> str:
    """The text of a file, by its byte order mark, as UTF-8 or as Latin-1; marks at its beginning are no part of it.

    Raises:
        ValueError: it contains zero bytes, which no text does.
    """
    return _decoded(content).lstrip("\ufeff")  # a second mark would become a part of the first lead name


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content:
        even, odd = content[::2].count(0), content[1::2].count(0)
        if max(even, odd) * 3 < len(content) or min(even, odd):
            raise ValueError("zero bytes")
        return content.decode("utf-16-le" if odd else "utf-16-be", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def split_lines(text: str) -> list[str]:
    """The lines of a file, which end in LF, CR or both.

    `str.splitlines` ends a line at other characters too, such as U+0085: a damaged byte would move all lines below it.
    """
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def cell_lines(text: str) -> tuple[list[str], list[int], list[str]]:
    """The lines that hold cells, their numbers, and the comments without their sign."""
    lines, numbers, comments = [], [], []
    for number, line in enumerate(split_lines(text), start=1):
        stripped = line.strip(" \r\n")
        sign = next((sign for sign in _COMMENTS if stripped.startswith(sign)), None)
        if sign is not None and not stripped.startswith("#N/A"):
            comments.append(stripped.removeprefix(sign).strip())
        elif stripped and not (number == 1 and stripped.casefold().startswith("sep=")):  # a hint for spreadsheets
            lines.append(stripped)
            numbers.append(number)
    while lines and not lines[-1].strip(_ALL_SEPARATORS):  # rows below a spreadsheet's table
        lines.pop()
    return lines, numbers[: len(lines)], comments


def _split(line: str, separator: str) -> list[str]:
    if not separator:
        return line.split()
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter=separator, skipinitialspace=True))
        except csv.Error:  # a quote that does not end
            return line.split(separator)
    return line.split(separator)


def _separator(lines: Sequence[str]) -> str:
    """The separator with which most of the last lines have the same number of cells, half of them numbers."""
    probed = lines[-_N_PROBED:]
    for separator in _SEPARATORS:
        if separator and separator not in probed[-1]:
            continue
        if separator == "," and any(map(is_lead, lines[:_N_HEADER])):
            continue  # one column with decimal commas below the name of a lead
        rows = [_split(line, separator) for line in probed]
        if separator == "," and all(len(row) > 2 and all(map(_TWO_NUMBERS.search, row[1:-1])) for row in rows):
            continue  # decimal commas between spaces
        n_cells = Counter(map(len, rows)).most_common(1)[0][0]
        n_good = sum(len(row) == n_cells and _is_numeric(row, at_least=0.5) for row in rows)
        if n_cells > 1 and n_good * 2 >= len(rows):
            return separator
    return next((separator for separator in _SEPARATORS[:-1] if separator in lines[0]), "")


def _header_row(rows: Sequence[Sequence[str]]) -> int | None:
    """The number of the row that names leads: the last such row before the numbers."""
    header = None
    for number, row in enumerate(rows[:_N_HEADER]):
        n_numbers = sum(map(_number_like, row))
        if any(map(is_lead, row)) and 2 * n_numbers < len(row) and not (is_lead(row[0]) and n_numbers):
            header = number
        elif header is not None and n_numbers:
            break
    return header


def _is_numeric(row: Sequence[str], at_least: float = 0.51) -> bool:
    """Whether a row holds numbers: more than half of the cells that are not empty."""
    filled = [cell for cell in row if cell.strip()]
    return bool(filled) and sum(map(_number_like, filled)) >= at_least * len(filled)


def _number_like(cell: str) -> bool:
    text = cell.strip()
    return _NUMBER.match(text) is not None or text.casefold() in ("nan", "na", "inf", "-inf")


def _is_numbered(row: Sequence[str]) -> bool:
    """Whether a row numbers the columns: 0, 1, 2, ..., or nothing above an index and then 0, 1, 2, ..."""
    cells = [cell.strip() for cell in row]
    cells = cells[1:] if cells and not cells[0] else cells
    return len(cells) > 2 and cells == list(map(str, range(len(cells))))


def _decimal(rows: Sequence[Sequence[str]], separator: str) -> str:
    """The decimal sign: a comma where cells have commas and no points."""
    probed = [cell for row in [*rows[:_N_PROBED], *rows[-_N_PROBED:]] for cell in row if _number_like(cell)]
    if separator == "," and not any("," in cell for cell in probed):
        return "."
    return "," if any("," in cell for cell in probed) and not any("." in cell for cell in probed) else "."
