"""What an audit finds: one Finding per fault, with its count and the worst recordings by name; never a report's text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import SPLITS
from leadwise.data.messages import short_cell

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # worst first
MOST_EXAMPLES = 8


@dataclass(frozen=True)
class Example:
    """A recording that shows a fault."""

    row: int  # of the cohort's index
    record: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.record} ({self.detail})" if self.detail else self.record


@dataclass(frozen=True)
class Finding:
    """A fault, or something to know, of a cohort."""

    check: str  # what was looked at, in a few words
    severity: Severity  # error: scores would be false; warning: look before training; note: to know
    n: int  # how many
    of: int  # among how many; 0 where that says nothing
    unit: str  # of what: recordings, patients, classes
    said: str  # what it means and what to do
    examples: tuple[Example, ...] = ()  # the worst first

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "check": self.check,
            "severity": self.severity,
            "n": self.n,
            "of": self.of,
            "unit": self.unit,
            "said": self.said,
            "examples": [{"record": example.record, "detail": example.detail} for example in self.examples],
        }


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; among each, as they came."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def examples(cohort: Cohort, rows: Iterable[int], details: Iterable[str] = ()) -> tuple[Example, ...]:
    """The first few of some rows, by name, each with a detail where there are any."""
    few = [int(row) for row, _ in zip(rows, range(MOST_EXAMPLES))]
    said = [detail for detail, _ in zip(details, few)] or [""] * len(few)
    return tuple(Example(row, name(cohort, row), detail) for row, detail in zip(few, said))


def name(cohort: Cohort, row: int) -> str:
    """The name of a recording, for a message; columns of a table may have been swapped, and it a report."""
    return short_cell(cohort.records[int(row)], most=64)


def patient(cohort: Cohort, row: int) -> str:
    """The name of a recording's patient, for a message."""
    return short_cell(cohort.patients[int(row)], most=64)


def codes(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A number for each row (n,) int64, equal where the texts are; no text becomes a Python object."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    numbers: np.ndarray = whole.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64)


def column_codes(cohort: Cohort, column: str) -> np.ndarray:
    """`codes` of a column of the index that holds text."""
    return codes(pa.chunked_array([batch.column(0) for batch in cohort.columns([column])]))


def split_codes(cohort: Cohort) -> np.ndarray:
    """The place in SPLITS of each row's split (n,) int64."""
    places = np.empty(len(cohort), dtype=np.int64)
    for place, split in enumerate(SPLITS):
        places[cohort.rows(split=split)] = place
    return places


def groups(ids: np.ndarray, rows: np.ndarray | None = None) -> list[np.ndarray]:
    """The rows of each id that occurs more than once, the largest group first, rows ascending in each."""
    rows = np.arange(len(ids)) if rows is None else rows
    _, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    again = np.flatnonzero(counts[place] > 1)
    order = again[np.argsort(place[again], kind="stable")]
    parts = np.split(rows[order], np.flatnonzero(np.diff(place[order])) + 1) if len(order) else []
    return sorted(parts, key=lambda part: (-len(part), int(part[0])))
