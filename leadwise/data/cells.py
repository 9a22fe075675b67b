"""Convert the cells of a table into values: age, sex, labels, numbers. Every common spelling gives one value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

OLDEST = 90.0
"""Ages above 89 years identify people; tables write them as '>89' or '90+', and they are stored as 90."""

_EMPTY = frozenset(("", "na", "n/a", "nan", "none", "null", "<na>"))
_UNKNOWN = _EMPTY | {"-", "?", "u", "unk", "unknown", "not known", "missing"}
_MALE, _FEMALE = frozenset(("m", "male", "man")), frozenset(("f", "female", "w", "woman"))
_CODES = frozenset(("0", "1", "2", "9", "0.0", "1.0", "2.0", "9.0"))
_TRUE, _FALSE = frozenset(("1", "1.0", "true", "t", "yes", "y")), frozenset(("0", "0.0", "false", "f", "no", "n"))
_AGE = re.compile(r"(>|>=|≥)?\s*(\d{1,3}(?:[.,]\d+)?)\s*(\+)?\s*(y|yr|yrs|years?|m|months?|w|weeks?|d|days?)?", re.I)
_PER_YEAR = {"y": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.I)
_LARGEST_EXACT = 2**53  # a larger whole number changes when it becomes a float64


def is_empty(cell: str) -> bool:
    """Whether a cell holds no value: nothing, or NA, NaN, None or null."""
    return cell.strip().casefold() in _EMPTY


def age(cell: str) -> tuple[float | None, bool]:
    """The age in years, and whether the cell states an age above 89 without its number, which gives 90.

    `71`, `71,5`, `45 Y`, `045Y`, `6 months`, `>89` and `90+` are ages; an empty cell or 'unknown' is None.

    Raises:
        ValueError: the cell is no age, or not within 0 to 150 years.
    """
    text = cell.strip()
    if text.casefold() in _UNKNOWN:
        return None, False
    match = _AGE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    above, number, plus, unit = match.groups()
    years = float(number.replace(",", ".")) / _PER_YEAR[(unit or "y")[0].lower()]
    if above or plus:
        if years < OLDEST - 1:
            raise ValueError(text)  # '>50' is a group, not an age
        return OLDEST, True
    if years > 150:
        raise ValueError(text)
    return years, False


def sex(cell: str) -> tuple[str | None, bool]:
    """'male', 'female', another text as it is in lower case, or None; and whether the cell is a code such as 0 or 1.

    Data sets disagree about such codes (0 is male in PTB-XL, female in others), so that a code gives None.
    """
    text = cell.strip().casefold()
    if text in _UNKNOWN:
        return None, False
    if text in _CODES:
        return None, True
    return "male" if text in _MALE else "female" if text in _FEMALE else text, False


def label(cell: str) -> int | None:
    """0 or 1 from 0, 1, true, false, yes or no in any case; None if the cell is empty.

    Raises:
        ValueError: the cell is no label.
    """
    text = cell.strip().casefold()
    if text in _EMPTY:
        return None
    if text not in _TRUE and text not in _FALSE:
        raise ValueError(text)
    return int(text in _TRUE)


def number(cell: str, decimal_comma: bool = False) -> float:
    """The number in a cell; with `decimal_comma`, `71,5` is one too.

    Raises:
        ValueError: the cell is no finite number.
    """
    text = cell.strip()
    if decimal_comma and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(cell)
    return float(text)


def column(values: Iterable[str], decimal_comma: bool = False) -> list[float | None] | list[str | None]:
    """A column as numbers if all of its cells are numbers or empty, else as texts; an empty cell is None.

    Whole numbers that begin with 0 or have more digits than a float64 are names (of a site, a device), not numbers.
    """
    cells = texts(values)
    numbers: list[float | None] = []
    for cell in cells:
        try:
            numbers.append(None if cell is None else _quantity(cell, decimal_comma))
        except ValueError:
            return cells
    return numbers if any(value is not None for value in numbers) else cells


def texts(values: Iterable[str]) -> list[str | None]:
    """A column as texts without spaces around them; an empty cell is None."""
    return [None if is_empty(value) else value.strip() for value in values]


def _quantity(text: str, decimal_comma: bool) -> float:
    value = number(text, decimal_comma)
    if re.match(r"[+-]?0\d", text) or abs(value) > _LARGEST_EXACT:
        raise ValueError(text)
    return value
