"""The result of an audit check: one Finding per fault, with its count and example recordings, without report text."""

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
    """A recording with the fault."""

    row: int  # of the cohort's index
    record: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.record} ({self.detail})" if self.detail else self.record


@dataclass(frozen=True)
class Finding:
    """A fault of a cohort, or a property that its user should know."""

    check: str  # title of the check, a few words
    severity: Severity  # error: scores would be wrong; warning: look before training; note: for information
    n: int  # how many units have it
    of: int  # out of how many; 0 where a total makes no sense
    unit: str  # what is counted: recordings, patients, classes
    message: str  # what it means and what to do
    examples: tuple[Example, ...] = ()  # worst first

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a JSON object."""
        return {
            "check": self.check,
            "severity": self.severity,
            "n": self.n,
            "of": self.of,
            "unit": self.unit,
            "said": self.message,
            "examples": [{"record": example.record, "detail": example.detail} for example in self.examples],
        }


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return errors, then warnings, then notes; the order within each is unchanged."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def first_examples(cohort: Cohort, rows: Iterable[int], details: Iterable[str] = ()) -> tuple[Example, ...]:
    """Return examples for the first MOST_EXAMPLES of `rows`, each with its detail if `details` is not empty."""
    first_rows = [int(row) for row, _ in zip(rows, range(MOST_EXAMPLES))]
    first_details = [detail for detail, _ in zip(details, first_rows)] or [""] * len(first_rows)
    return tuple(Example(row, record_name(cohort, row), detail) for row, detail in zip(first_rows, first_details))


def record_name(cohort: Cohort, row: int) -> str:
    """Return the name of a recording for a message; a long text is replaced, because it may be a misplaced report."""
    return short_cell(cohort.records[int(row)], most=64)


def patient_name(cohort: Cohort, row: int) -> str:
    """Return the name of a recording's patient for a message; a long text is replaced, as in `record_name`."""
    return short_cell(cohort.patients[int(row)], most=64)


def text_codes(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return an integer per row (n,) int64, equal where the texts are equal, without creating Python strings."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    codes: np.ndarray = whole.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)


def column_codes(cohort: Cohort, column: str) -> np.ndarray:
    """Return `text_codes` of a text column of the index."""
    return text_codes(pa.chunked_array([batch.column(0) for batch in cohort.columns([column])]))


def split_codes(cohort: Cohort) -> np.ndarray:
    """Return the position in SPLITS of each row's split (n,) int64."""
    codes = np.empty(len(cohort), dtype=np.int64)
    for code, split in enumerate(SPLITS):
        codes[cohort.rows(split=split)] = code
    return codes


def repeated_groups(ids: np.ndarray, rows: np.ndarray | None = None) -> list[np.ndarray]:
    """Return the rows of each id that occurs more than once: largest group first, rows ascending in each group."""
    rows = np.arange(len(ids)) if rows is None else rows
    _, position, counts = np.unique(ids, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[position] > 1)
    order = repeated[np.argsort(position[repeated], kind="stable")]
    groups = np.split(rows[order], np.flatnonzero(np.diff(position[order])) + 1) if len(order) else []
    return sorted(groups, key=lambda group: (-len(group), int(group[0])))
