"""Names and table cells in messages: short, and never the text of a report."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBERED = re.compile(r"\w{1,12} \d{1,3}")  # such as "channel 7"


def first_few(names: Iterable[str], most: int = 3) -> str:
    """The first few names, joined by commas; '...' at the end if there are more."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def short_cell(cell: object, most: int = 12) -> str:
    """The content of a table's cell if it is short and has no space, else 'a longer text'.

    The columns of a table may be swapped, so that any cell may be a report.
    """
    text = str(cell)
    return "a longer text" if len(text) > most or any(letter.isspace() for letter in text) else text


def quoted_cell(cell: object) -> str:
    """`short_cell`, with quotes around the content of the cell."""
    return repr(cell) if short_cell(cell) == str(cell) else short_cell(cell)


def channel_names(names: Iterable[str], most: int = 16) -> str:
    """The names of channels that have no space, or are a word and a number: in a file that is no ECG, they may be a report."""
    stripped = [name.strip() for name in names]
    return first_few((one if _NUMBERED.fullmatch(one) else short_cell(one, most=24) for one in stripped), most)


def short_name(name: str) -> str:
    """The name of a record or a patient if it has up to 64 characters and no space, else 'a longer text'."""
    return short_cell(name, most=64)
