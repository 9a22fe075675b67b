"""What a suite of hard cases tells: one row for each kind of case, for tests (few cases) and `make torture` (many)."""

from __future__ import annotations

import logging
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One kind of case: how many were tried, and each one that did not go as it must."""

    what: str  # a line of a table: "pretrain killed at a random moment, then resumed"
    n_cases: int
    faults: tuple[str, ...] = ()  # one line each, with what reproduces it
    details: str = ""  # figures worth reading: "194 of 200 died in a write; slowest resume 3.1 s"


def logged(what: str, n_cases: int, faults: tuple[str, ...] = (), details: str = "") -> Row:
    """Return a row of a kind of case that has ended, and write it to the log of the long run."""
    logging.getLogger("trust").info("%s: %d cases, %d faults; %s", what, n_cases, len(faults), details)
    return Row(what, n_cases, faults, details)


def faults_of(rows: list[Row]) -> str:
    """Return all faults as text, empty where there are none."""
    return "\n".join(f"{row.what}: {fault}" for row in rows for fault in row.faults)
