"""A look at a cohort before anyone trains on it: Cohort in, findings out; nothing is changed, no report is shown.

What the index says is checked on every row, column by column. What needs samples is checked on a sample of recordings,
the same ones each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leadwise.data.audit import (
    classes,
    leads,
    people,
    signal_checks,
    signals,
)
from leadwise.data.audit.classes import ClassCount
from leadwise.data.audit.finding import Finding, column_codes, worst_first
from leadwise.data.audit.signals import Measures
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.progress import Progress

N_SAMPLED = 2000  # recordings whose samples are looked at; some 3 ms each


@dataclass(frozen=True)
class Audit:
    """What was found."""

    findings: tuple[Finding, ...]  # errors first
    classes: tuple[ClassCount, ...]
    measures: Measures  # of the recordings whose samples were looked at
    rate_hz: np.ndarray  # (n,) of every recording
    duration_s: np.ndarray  # (n,)

    def count(self, severity: str) -> int:
        """How many findings are errors, warnings or notes."""
        return sum(finding.severity == severity for finding in self.findings)


def audit(
    cohort: Cohort,
    n_sampled: int = N_SAMPLED,
    against: Cohort | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Everything that is found in a cohort, and what it shares with another if one is given.

    Samples are looked at of `n_sampled` recordings, drawn with a fixed seed (0: of all), of `against` as well.

    Raises:
        CohortError: `n_sampled` is negative, or both cohorts are one folder.
    """
    if n_sampled < 0:
        raise CohortError(f"{n_sampled} recordings cannot be looked at; ask for 1 or more, or 0 for all")
    if against is not None and against.folder.resolve() == cohort.folder.resolve():
        raise CohortError(f"cohort {cohort.folder} was given twice; name another one to compare it with")
    heard: Progress = progress or (lambda what, done, total: None)
    table = leads.read(cohort)
    heard("read the index", 1, 2)
    counts, found = classes.classes(cohort)
    found += [*people.people(cohort), *people.copies(cohort), *people.reports(cohort), *classes.ages(cohort)]
    found += [*leads.leads(cohort, table), *leads.lengths(cohort, table)]
    heard("read the index", 2, 2)
    rows = _drawn(cohort, n_sampled)
    measures = signals.measure(cohort, rows, lambda done, total: heard("look at samples", done, total))
    found += signal_checks.judge(cohort, measures, table.order[rows])
    found += signal_checks.near_copies(cohort, measures, column_codes(cohort, "samples_sha256"))
    if against is not None:
        found += people.overlap(cohort, against)
        what = f"look at {against.name}"
        theirs = signals.measure(against, _drawn(against, n_sampled), lambda done, total: heard(what, done, total))
        found += signal_checks.near_overlap(cohort, measures, against, theirs)
    return Audit(worst_first(found), tuple(counts), measures, table.rate_hz, table.duration_s)


def _drawn(cohort: Cohort, n: int) -> np.ndarray:
    """Rows to look at, ascending."""
    if n == 0 or n >= len(cohort):
        return np.arange(len(cohort))
    rows: np.ndarray = np.sort(np.random.default_rng(0).choice(len(cohort), n, replace=False))
    return rows
