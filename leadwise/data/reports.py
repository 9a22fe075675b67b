"""Report text: one style for all sources, and its statements.

A machine prints a list of statements. Whatever marks stood between them, here they read 'sinus rhythm. normal ecg.'.
"""

from __future__ import annotations

import re

_MARKS = " *=-"  # what machines put around a report
_BOUNDARY = re.compile(r"\s*(?:;|\.+(?=[\s;]|$))\s*")  # the period of a decimal number is none


def clean(text: str) -> str:
    """The report in the one style: lower-case, 'ecg' for 'ekg', a period after each statement; '' for nothing."""
    return joined(statements(text))


def joined(said: list[str]) -> str:
    """Statements as one report, a period after each."""
    return "".join(f"{statement}. " for statement in said).rstrip()


def statements(text: str) -> list[str]:
    """The report's statements in order, in the one style, without their periods."""
    lines = text.lower().replace("ekg", "ecg").splitlines()  # a line break ends a statement
    flat = ";".join(" ".join(line.split()).strip(_MARKS) for line in lines)
    said = [part for part in _BOUNDARY.split(flat) if part.strip(_MARKS + ".")]
    if said:
        said[0] = said[0].lstrip(_MARKS)
        said[-1] = said[-1].rstrip(_MARKS + ".")
    return said


_NEEDS_NEXT = re.compile(
    r"(?:^|\s)(?:with|and|or|&|\(|occasional|frequent|possible|accelerated|consider|consecutive|blocked|rule out)$",
    re.I,
)
_NEEDS_LAST = re.compile(r"^(?:,|\(|\)|(?:with|and|or|in a)\b)", re.I)


def join_modifiers(text: str) -> str:
    """The text of a 12SL-like list with each modifier back in the statement it belongs to; '; ' stays between statements.

    Such lists print "Sinus rhythm; with occasional; premature atrial complexes" and "Inferior infarct; , age undetermined":
    split at the semicolons, half a statement would stand for one.
    """
    joined: list[str] = []
    for part in filter(None, (piece.strip(" *") for piece in text.split(";"))):
        listing = joined and joined[-1].count("(") > joined[-1].count(")")
        if joined and (_NEEDS_LAST.search(part) or _NEEDS_NEXT.search(joined[-1])):
            joined[-1] = f"{joined[-1]} {part}"
        elif listing:
            joined[-1] = f"{joined[-1].rstrip(',')}, {part}"
        else:
            joined.append(part)
    tidy = (re.sub(r"\s+([,)])", r"\1", statement).replace("( ", "(") for statement in joined)
    return "; ".join(tidy)


def n_words(text: str) -> int:
    """How many words a report has; the final period makes none."""
    return len(clean(text).split())
