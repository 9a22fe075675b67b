"""Audit a cohort before training: list its faults with counts and example recordings. Nothing is changed.

Checks of the index read every row, column by column. Checks of the samples read a random subset of recordings, the same
subset each time. No finding contains report text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leadwise.data.audit import (
    classes,
    leads,
    patients,
    signal_checks,
    signals,
    volumes,
)
from leadwise.data.audit.classes import ClassCount
from leadwise.data.audit.finding import Finding, column_codes, worst_first
from leadwise.data.audit.signals import Measures
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.progress import Progress

N_SAMPLED = 2000  # recordings whose samples are measured, about 3 ms each


@dataclass(frozen=True)
class Audit:
    """The findings of an audit, and the values behind them."""

    findings: tuple[Finding, ...]  # errors first
    classes: tuple[ClassCount, ...]
    measures: Measures  # of the recordings whose samples were read
    rate_hz: np.ndarray  # (n,) of every recording
    duration_s: np.ndarray  # (n,) of every recording

    def count(self, severity: str) -> int:
        """Return the number of findings of a severity: "error", "warning" or "note"."""
        return sum(finding.severity == severity for finding in self.findings)


def audit_cohort(
    cohort: Cohort,
    n_sampled: int = N_SAMPLED,
    against: Cohort | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Return every finding on a cohort and, if `against` is given, on what the two cohorts share.

    The samples of `n_sampled` recordings are measured, drawn with a fixed seed (0: all), and as many of `against`.

    Raises:
        CohortError: `n_sampled` is negative, or both cohorts are the same folder.
    """
    if n_sampled < 0:
        raise CohortError(f"cannot measure {n_sampled} recordings; pass 1 or more, or 0 for all")
    if against is not None and against.folder.resolve() == cohort.folder.resolve():
        raise CohortError(f"cohort {cohort.folder} is compared with itself; name another cohort to compare it with")
    report: Progress = progress or (lambda what, done, total: None)

    # checks of the index: every row
    table = leads.read_index(cohort)
    report("read the index", 1, 2)
    counts, findings = classes.check_classes(cohort)
    findings += [*patients.check_patients(cohort), *patients.check_patient_names(cohort)]
    findings += patients.check_exact_copies(cohort)
    findings += [*patients.check_reports(cohort), *classes.check_ages(cohort)]
    findings += [*leads.check_leads(cohort, table), *leads.check_lengths(cohort, table)]
    report("read the index", 2, 2)

    # checks of the samples: a subset of the recordings
    rows = _sampled_rows(cohort, n_sampled)
    measures = signals.measure(cohort, rows, lambda done, total: report("measure samples", done, total))
    findings += signal_checks.check_signals(cohort, measures, table.order[rows])
    findings += signal_checks.check_near_duplicates(cohort, measures, column_codes(cohort, "samples_sha256"))

    # heart images, where there are any
    findings += volumes.check_volumes(cohort, rows, lambda done, total: report("measure heart images", done, total))

    # recordings and patients that both cohorts contain
    if against is not None:
        findings += patients.check_overlap(cohort, against)
        what = f"measure samples of {against.name}"
        other_rows = _sampled_rows(against, n_sampled)
        other_measures = signals.measure(against, other_rows, lambda done, total: report(what, done, total))
        findings += signal_checks.check_near_overlap(cohort, measures, against, other_measures)
    return Audit(worst_first(findings), tuple(counts), measures, table.rate_hz, table.duration_s)


def _sampled_rows(cohort: Cohort, n: int) -> np.ndarray:
    """Return the rows to measure, ascending."""
    if n == 0 or n >= len(cohort):
        return np.arange(len(cohort))
    rows: np.ndarray = np.sort(np.random.default_rng(0).choice(len(cohort), n, replace=False))
    return rows
