"""TODO."""

from __future__ import annotations

from collections.abc import Iterable


def first_few(names: Iterable[str], most: int = 3) -> str:
    """The first few names, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def short_cell(cell: object, most: int = 12) -> str:
    """What a table's cell says, if it is short and without a space; columns may be swapped, and it a report."""
    text = str(cell)
    return "a longer text" if len(text) > most or any(letter.isspace() for letter in text) else text


def quoted_cell(cell: object) -> str:
    """A table's cell for a message, in quotes, if `shown` shows it."""
    return repr(cell) if short_cell(cell) == str(cell) else short_cell(cell)


def short_name(name: str) -> str:
    """The name of a record or a patient for a message: it may be long, but has no space."""
    return short_cell(name, most=64)
