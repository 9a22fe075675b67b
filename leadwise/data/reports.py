"""Report text: one style for all sources, and the split of a report into statements.

An ECG machine prints a list of statements. Whatever marks it prints between them, the style here is
'sinus rhythm. normal ecg.'.
"""

from __future__ import annotations

import re

_MARKS = " *=-"  # that machines print around a report
_BOUNDARY = re.compile(r"\s*(?:;|\.+(?=[\s;]|$))\s*")  # not the period of a decimal number


def clean(text: str) -> str:
    """The report in the one style: lower case, 'ecg' for 'ekg', a period after each statement; '' if it is empty."""
    return join_statements(statements(text))


def join_statements(parts: list[str]) -> str:
    """Statements as one report, a period after each."""
    return "".join(f"{statement}. " for statement in parts).rstrip()


def statements(text: str) -> list[str]:
    """The report's statements in order, in the one style, without their periods."""
    lines = text.lower().replace("ekg", "ecg").splitlines()  # a line break ends a statement
    flat = ";".join(" ".join(line.split()).strip(_MARKS) for line in lines)
    parts = [part for part in _BOUNDARY.split(flat) if part.strip(_MARKS + ".")]
    if parts:
        parts[0] = parts[0].lstrip(_MARKS)
        parts[-1] = parts[-1].rstrip(_MARKS + ".")
    return parts


_NEEDS_NEXT = re.compile(
    r"(?:^|\s)(?:with|and|or|&|\(|occasional|frequent|possible|accelerated|consider|consecutive|blocked|rule out)$",
    re.I,
)
_NEEDS_LAST = re.compile(r"^(?:,|\(|\)|(?:with|and|or|in a)\b)", re.I)


def join_modifiers(text: str) -> str:
    """The text of a 12SL-like list with each modifier joined to its statement; '; ' remains between statements.

    Such lists print "Sinus rhythm; with occasional; premature atrial complexes" and "Inferior infarct; , age undetermined":
    split at the semicolons, half a statement would count as one.
    """
    merged: list[str] = []
    for part in filter(None, (piece.strip(" *") for piece in text.split(";"))):
        listing = merged and merged[-1].count("(") > merged[-1].count(")")
        if merged and (_NEEDS_LAST.search(part) or _NEEDS_NEXT.search(merged[-1])):
            merged[-1] = f"{merged[-1]} {part}"
        elif listing:
            merged[-1] = f"{merged[-1].rstrip(',')}, {part}"
        else:
            merged.append(part)
    tidy = (re.sub(r"\s+([,)])", r"\1", statement).replace("( ", "(") for statement in merged)
    return "; ".join(tidy)


def n_words(text: str) -> int:
    """The number of words in a report, without the final period."""
    return len(clean(text).split())
