"""Checks on the lists of texts that every metric of written reports takes."""

from __future__ import annotations

from collections.abc import Sequence


class ReportScoreError(ValueError):
    """Texts that cannot be compared; the message has no report text."""


def check_pairs(references: Sequence[str], generated: Sequence[str]) -> None:
    """Check that each generated report has a reference that is not empty. A generated report may be empty.

    Raises:
        ReportScoreError: there is no report, the numbers differ, or a reference is empty.
    """
    if len(references) != len(generated):
        raise ReportScoreError(
            f"{len(references)} references and {len(generated)} generated reports: give one for each ECG"
        )
    if not references:
        raise ReportScoreError("there is no report to score; choose a split that has reports")
    empty = [number for number, text in enumerate(references) if not text.strip()]
    if empty:
        raise ReportScoreError(
            f"{len(empty)} references are empty, first: number {empty[0]} (from 0); leave out ECGs without a report"
        )
