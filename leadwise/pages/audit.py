"""A cohort's audit as a person reads it: tables, one JSON object, and a page with pictures of the worst offenders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from leadwise.batch import LEADS
from leadwise.data.audit.audit import N_SAMPLED, Audit, audit
from leadwise.data.audit.finding import (
    SEVERITIES,
    Example,
    Finding,
    worst_first,
)
from leadwise.data.audit.leads import LENGTHS_S
from leadwise.data.audit.people import known_people
from leadwise.data.audit.signal_checks import TYPICAL_BPM, TYPICAL_MV
from leadwise.data.cohort.cohort import Cohort
from leadwise.pages.html import Page
from leadwise.pictures import histogram, paper
from leadwise.progress import Progress
from leadwise.run import Run

N_PICTURES = 12
PICTURED = (  # findings that a tracing shows, by how their check begins, and how many of each
    ("units", 2), ("rate of", 2), ("lead order", 2), ("leads that are copies", 1), ("amplitudes", 2), ("flat leads", 2),
    ("heart rate", 1), ("missing samples", 1), ("mains hum", 1), ("upsampled", 1), ("duplicate signals", 1),
    ("near-duplicate", 2), ("signals alike", 2), ("odd length", 1),
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """What was found in a cohort, ready to be shown."""

    cohort: Cohort
    audit: Audit
    against: str | None  # the name of the cohort it was compared with
    run: str | None

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return self.audit.count("error") > 0

    @property
    def summary(self) -> str:
        """One sentence."""
        numbers = {kind: self.audit.count(kind) for kind in SEVERITIES}
        counts = ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in numbers.items())
        n, looked_at = len(self.cohort), len(self.audit.measures.row)
        return f"{self.cohort.name}: {n} recordings, samples of {looked_at} looked at; {counts}"

    def rows(self, n_examples: int = 3) -> list[dict[str, Any]]:
        """The findings as rows of a table."""
        return [_row(finding, n_examples) for finding in self.audit.findings]

    def class_rows(self) -> list[dict[str, Any]]:
        """The classes as rows of a table, counts by split."""
        return [count.row() for count in self.audit.classes]

    def to_json(self) -> dict[str, Any]:
        """One object: every finding, every class, and percentiles of what was measured."""
        return {
            "command": "check",
            "cohort": self.cohort.name,
            "source": self.cohort.source,
            "fingerprint": self.cohort.fingerprint,
            "against": self.against,
            "run": self.run,
            "recordings": len(self.cohort),
            "looked_at": len(self.audit.measures.row),
            **{f"n_{kind}s": self.audit.count(kind) for kind in SEVERITIES},
            "findings": [finding.to_json() for finding in self.audit.findings],
            "classes": self.class_rows(),
            "percentiles": {name: _percentiles(values) for name, values in _measured(self.audit).items()},
        }


def check(
    cohort: Cohort,
    against: Cohort | None = None,
    run: Run | None = None,
    n_sampled: int = N_SAMPLED,
    progress: Progress | None = None,
) -> Check:
    """The audit of a cohort, compared with another cohort and with the people that a run learnt from, where given."""
    found = audit(cohort, n_sampled, against, progress)
    if run is not None:
        found = dataclasses.replace(found, findings=worst_first([*found.findings, *_known(cohort, run)]))
    return Check(cohort, found, against.name if against else None, run.name if run else None)


def _known(cohort: Cohort, run: Run) -> list[Finding]:
    if not run.provenance:
        said = (
            "The run does not say whom it learnt from (it has no data.json), so nobody can tell whether they are here."
        )
        return [Finding(f"people that {run.name} learnt from", "warning", 1, 0, "runs", said)]
    everyone = cohort.patients.distinct(np.arange(len(cohort)))
    return known_people(cohort, run.learnt_from(cohort.source, everyone), run.name)


def write_page(result: Check, path: Path) -> None:
    """Write the result as one offline page: findings, classes by split, how values are spread, the worst tracings."""
    cohort, found = result.cohort, result.audit
    page = Page(f"Check of {cohort.name}")
    page.text(f"{result.summary}. Source {cohort.source}, index {cohort.fingerprint}.")
    for what, name in (("Compared with the cohort", result.against), ("Compared with the run", result.run)):
        if name:
            page.text(f"{what} {name}.")
    page.text(
        "An error makes scores false; a warning wants a look before training; a note is to know. The index was read in "
        "full; what needs samples was seen only on the recordings looked at. Report text is not shown."
    )
    page.heading("Findings")
    if found.findings:
        page.table(result.rows(n_examples=6))
    else:
        page.text("Nothing was found.")
    if found.classes:
        page.heading("Classes by split")
        page.table(
            result.class_rows(), "recordings with (+) and without (\u2212) a class; all labels of the task known"
        )
    page.heading("How values are spread")
    seen = found.measures
    page.figure(
        histogram.draw(
            [
                histogram.Panel("range of a recording, mV", seen.range_mv, TYPICAL_MV, log=True),
                histogram.Panel("beats a minute", seen.beats_bpm, TYPICAL_BPM),
                histogram.Panel("duration, s", found.duration_s, LENGTHS_S, log=True),
                histogram.Panel("rate, Hz", found.rate_hz),
                histogram.Panel("highest frequency with power, Hz", seen.end_hz),
                histogram.Panel("mains hum, share of power (0 not shown)", seen.hum_share, log=True),
            ]
        ),
        f"Range, beats, frequency and hum of {len(seen.row)} recordings looked at, duration and rate of all. Shaded: where "
        "the middle of a sound cohort lies (duration: where each recording does).",
        "histograms",
    )
    pictured = _pictured(found.findings)
    if pictured:
        page.heading("The worst, on paper")
    for finding, example in pictured:
        page.figure(
            _tracing(cohort, finding, example),
            f"{finding.severity}: {finding.check}. {example}",
            f"ECG of {example.record} on paper grid",
        )
    page.write(path)


def _pictured(findings: Sequence[Finding]) -> list[tuple[Finding, Example]]:
    """The findings and examples to draw, each recording once, errors first."""
    chosen: list[tuple[Finding, Example]] = []
    for finding in findings:
        most = next((n for begin, n in PICTURED if finding.check.startswith(begin) and finding.unit != "patients"), 0)
        drawn = {example.row for _, example in chosen}
        chosen += [(finding, example) for example in finding.examples[:most] if example.row not in drawn]
    return chosen[:N_PICTURES]


def _tracing(cohort: Cohort, finding: Finding, example: Example) -> Figure:
    signal, rate_hz = cohort.signal(example.row)
    note = f"{finding.check}: {example.detail}" if example.detail else finding.check
    return paper.draw(signal.T, rate_hz, LEADS, title=example.record, notes=[note])


def _row(finding: Finding, n_examples: int) -> dict[str, Any]:
    more = len(finding.examples) > n_examples
    return {
        "severity": finding.severity,
        "check": finding.check,
        "n": f"{finding.n}/{finding.of}" if finding.of else str(finding.n),
        "of what": finding.unit,
        "what it means": finding.said,
        "the worst": "; ".join(map(str, finding.examples[:n_examples])) + ("; ..." if more else ""),
    }


def _measured(found: Audit) -> dict[str, np.ndarray]:
    seen = found.measures
    return {
        "range_mv": seen.range_mv,
        "beats_bpm": seen.beats_bpm,
        "end_hz": seen.end_hz,
        "hum_share": seen.hum_share,
        "duration_s": found.duration_s,
        "rate_hz": found.rate_hz,
    }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return {}
    at = (0, 1, 5, 25, 50, 75, 95, 99, 100)
    return {str(k): round(float(value), 4) for k, value in zip(at, np.percentile(known, at))}
