"""Names and table cells in messages: short, and never the text of a report."""

from __future__ import annotations

from collections.abc import Iterable


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


def short_name(name: str) -> str:
    """The name of a record or a patient if it has up to 64 characters and no space, else 'a longer text'."""
    return short_cell(name, most=64)
