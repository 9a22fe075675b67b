"""The report of a cohort audit: tables, one JSON object, and an HTML page with the worst tracings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from leadwise.batch import LEADS
from leadwise.data.audit.audit import N_SAMPLED, Audit, audit_cohort
from leadwise.data.audit.finding import (
    SEVERITIES,
    Example,
    Finding,
    record_name,
    worst_first,
)
from leadwise.data.audit.leads import LENGTHS_S
from leadwise.data.audit.patients import check_training_patients, check_training_signals
from leadwise.data.audit.signal_checks import TYPICAL_BPM, TYPICAL_MV
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import scored_recordings
from leadwise.pages.html import Page, Tone
from leadwise.pictures import heart_images, histogram, paper
from leadwise.progress import Progress
from leadwise.run import Run
from leadwise.trained_on import FILE

N_PICTURES = 12
PICTURED = (  # checks whose fault is visible on a tracing: how their title begins, and the most tracings of each
    ("units", 2), ("rate of", 2), ("lead order", 2), ("identical leads", 1), ("implausible amplitudes", 2),
    ("flat leads", 2), ("heart rate", 1), ("missing samples", 1), ("mains hum", 1), ("upsampled", 1),
    ("duplicate signals", 1), ("near-duplicate", 2), ("similar signals", 2), ("odd length", 1),
)  # fmt: skip


N_HEARTS = 3  # recordings whose heart images are drawn as they are, before those with a fault
PICTURED_HEARTS = (  # checks of heart images, as in PICTURED
    ("orientation of", 2), ("ES larger", 2), ("slices from", 2), ("heart cut off", 1), ("missing slices", 1),
    ("empty slices", 1), ("constant heart", 1), ("heart images of another", 1), ("heart images absent", 1),
)  # fmt: skip

TONES: dict[str, Tone] = {"error": "bad", "warning": "poor", "note": "plain"}


@dataclass(frozen=True)
class CheckReport:
    """The audit of a cohort, as tables, JSON and a page."""

    cohort: Cohort
    audit: Audit
    against: str | None  # name of the cohort that it was compared with
    run: str | None  # name of the run whose training patients were searched for

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return self.audit.count("error") > 0

    @property
    def summary(self) -> str:
        """One sentence with the numbers of recordings and findings."""
        n = {severity: self.audit.count(severity) for severity in SEVERITIES}
        counts = ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in n.items())
        n_measured = len(self.audit.measures.row)
        return f"{self.cohort.name}: {len(self.cohort)} recordings, samples of {n_measured} measured; {counts}"

    @property
    def origin(self) -> str:
        """Licence, citation and address of the data set; '' where its source states none."""
        return "; ".join(f"{key}: {text}" for key, text in self.cohort.about.items())

    def rows(self, n_examples: int = 3) -> list[dict[str, Any]]:
        """Return the findings as rows of a table."""
        return [_row(finding, n_examples) for finding in self.audit.findings]

    def class_rows(self) -> list[dict[str, Any]]:
        """Return the class counts by split as rows of a table."""
        return [count.row() for count in self.audit.classes]

    def to_json(self) -> dict[str, Any]:
        """Return one JSON object: every finding, every class, and percentiles of the measurements."""
        return {
            "command": "check",
            "cohort": self.cohort.name,
            "source": self.cohort.source,
            "fingerprint": self.cohort.fingerprint,
            **({"about": self.cohort.about} if self.cohort.about else {}),
            "against": self.against,
            "run": self.run,
            "recordings": len(self.cohort),
            "looked_at": len(self.audit.measures.row),
            **{f"n_{severity}s": self.audit.count(severity) for severity in SEVERITIES},
            "findings": [finding.to_json() for finding in self.audit.findings],
            "classes": self.class_rows(),
            "percentiles": {name: _percentiles(values) for name, values in _measurements(self.audit).items()},
        }


def check_cohort(
    cohort: Cohort,
    against: Cohort | None = None,
    run: Run | None = None,
    n_sampled: int = N_SAMPLED,
    progress: Progress | None = None,
) -> CheckReport:
    """Audit a cohort; if given, also compare it with another cohort and with the training patients of a run."""
    result = audit_cohort(cohort, n_sampled, against, progress)
    if run is not None:
        findings = worst_first([*result.findings, *_check_run(cohort, run)])
        result = dataclasses.replace(result, findings=findings)
    return CheckReport(cohort, result, against.name if against else None, run.name if run else None)


def _check_run(cohort: Cohort, run: Run) -> list[Finding]:
    hashes, rows = run.training_hashes, np.arange(len(cohort))
    if hashes is None:
        message = (
            f"The run folder has no {FILE}, the list of training patients and signals, so patients of this cohort that the run "
            "was trained on cannot be detected. A shared run has no such file. Of your own run, copy the whole folder again."
        )
        return [Finding(f"training patients of {run.name}", "warning", 1, 0, "runs", message)]

    # patients by name, signals by their checksums
    patients, checksums = cohort.patients.distinct(rows), cohort.checksums(rows)
    findings = check_training_patients(cohort, hashes.patients(cohort.source, patients), run.name)
    in_training = hashes.contains(checksums)
    findings += [] if in_training is None else check_training_signals(cohort, np.array(in_training), run.name)

    # where patients cannot be compared, their absence is not known
    overlap = run.overlap(scored_recordings(cohort, rows))
    if overlap.n_patients is None:
        counted = "" if overlap.n_signals is None else f" {overlap.n_signals} identical signals."
        message = (
            f"Unknown by patient: {overlap.unknown}.{counted} The same person may be among the training patients under another "
            "name, and then scores are too high; choose test data from another hospital or period."
        )
        findings.append(Finding(f"training patients of {run.name}", "warning", 1, 0, "runs", message))
    return findings


def write_page(report: CheckReport, path: Path) -> None:
    """Write the report as one offline HTML page: the worst tracing, histograms, findings, classes by split, more tracings."""
    cohort, audit = report.cohort, report.audit
    measures = audit.measures
    page = Page(f"Check of {cohort.name}")

    # how to read the page
    page.text(f"{report.summary}. Source: {cohort.source}; index {cohort.fingerprint}.")
    if report.origin:
        page.text(f"{report.origin}.")
    for what, name in (
        ("Compared with cohort", report.against),
        ("Compared with the training patients of", report.run),
    ):
        if name:
            page.text(f"{what} {name}.")
    page.text(
        "Each finding is an error, a warning or a note. Fix errors first: they make scores wrong. Look at warnings before "
        "you train a model. Notes are for your information."
    )
    page.text(
        f"Checks of names, splits and labels cover all {len(cohort)} recordings. Checks of the signal itself cover the "
        f"{len(measures.row)} recordings that were measured. This page contains no report text."
    )

    # pictures first: the worst tracing and the measurements, then findings and classes, then the other pictures
    pictured = _pictured_examples(audit.findings, PICTURED)
    if pictured:
        page.heading("The worst tracing")
        _add_tracing(page, cohort, *pictured[0])
    page.heading("Distribution of the measurements")
    page.figure(
        histogram.draw(
            [
                histogram.Panel("range of a recording, mV", measures.range_mv, TYPICAL_MV, log=True),
                histogram.Panel("heart rate, beats/min", measures.beats_bpm, TYPICAL_BPM),
                histogram.Panel("duration, s", audit.duration_s, LENGTHS_S, log=True),
                histogram.Panel("sampling rate, Hz", audit.rate_hz),
                histogram.Panel("highest frequency with power, Hz", measures.end_hz),
                histogram.Panel("mains hum, share of power (without 0)", measures.hum_share, log=True),
            ]
        ),
        f"Duration and sampling rate of all recordings; the other panels, of the {len(measures.row)} measured ones. "
        "Shaded: the normal range, of the median of a cohort for range and heart rate, of every recording for duration.",
        "histograms",
    )

    page.heading("Findings")
    if audit.findings:
        page.table(report.rows(n_examples=6), tones={"severity": TONES})
    else:
        page.text("No problems were found.")

    if audit.classes:
        page.heading("Classes by split")
        page.table(
            report.class_rows(),
            "Number of recordings with (+) and without (\u2212) each class. Only recordings with every label of the task "
            "are counted.",
        )

    if cohort.volumes is not None:
        _write_hearts(page, report)

    if pictured[1:]:
        page.heading("Further tracings")
    for finding, example in pictured[1:]:
        _add_tracing(page, cohort, finding, example)
    page.write(path)


def _add_tracing(page: Page, cohort: Cohort, finding: Finding, example: Example) -> None:
    page.figure(
        _draw_tracing(cohort, finding, example),
        f"{finding.severity}: {finding.check}. {example}",
        f"ECG of {example.record} on paper grid",
    )


def _write_hearts(page: Page, report: CheckReport) -> None:
    """Write the first recordings with heart images, and those of each fault."""
    cohort, volume = report.cohort, report.cohort.volumes
    assert volume is not None
    page.heading("Heart images")
    has = cohort.has_volume(np.arange(len(cohort)))
    counts = ", ".join(f"{n} {phase}" for phase, n in zip(volume.phases, has.sum(axis=0).tolist()))
    spacing = " × ".join(f"{step:g}" for step in volume.spacing_mm)
    page.text(
        f"{counts}, of {len(cohort)} recordings; {volume.slices} slices of {volume.rows} × {volume.columns} pixels, "
        f"{spacing} mm. Slices from base to apex; outlines from the masks, where they are known."
    )
    complete = np.flatnonzero(has.all(axis=1))[:N_HEARTS]
    for row in complete.tolist():
        page.figure(_draw_heart(cohort, row, ""), alt=f"heart images of {record_name(cohort, row)}")
    for finding, example in _pictured_examples(report.audit.findings, PICTURED_HEARTS):
        page.figure(
            _draw_heart(cohort, example.row, f": {finding.check}"),
            f"{finding.severity}: {finding.check}. {example}",
            f"heart images of {example.record}",
        )


def _draw_heart(cohort: Cohort, row: int, note: str) -> Figure:
    volume = cohort.volumes
    assert volume is not None
    masks = cohort.volume_mask(row)
    return heart_images.draw(
        cohort.volume(row), volume.phases, masks if masks.any() else None, cohort.has_volume(np.array([row]))[0].tolist(),
        volume.spacing_mm[1:], f"{record_name(cohort, row)}{note}",
    )  # fmt: skip


def _pictured_examples(
    findings: Sequence[Finding], pictured: Sequence[tuple[str, int]]
) -> list[tuple[Finding, Example]]:
    """Return the findings and examples to draw, each recording once, errors first."""
    selected: list[tuple[Finding, Example]] = []
    for finding in findings:
        n = next((n for title, n in pictured if finding.check.startswith(title) and finding.unit != "patients"), 0)
        drawn = {example.row for _, example in selected}
        selected += [(finding, example) for example in finding.examples[:n] if example.row not in drawn]
    return selected[:N_PICTURES]


def _draw_tracing(cohort: Cohort, finding: Finding, example: Example) -> Figure:
    signal, rate_hz = cohort.signal(example.row)
    note = f"{finding.check}: {example.detail}" if example.detail else finding.check
    return paper.draw(signal.T, rate_hz, LEADS, title=example.record, notes=[note])


def _row(finding: Finding, n_examples: int) -> dict[str, Any]:
    more = len(finding.examples) > n_examples
    return {
        "severity": finding.severity,
        "check": finding.check,
        "count": f"{finding.n}/{finding.of}" if finding.of else str(finding.n),
        "unit": finding.unit,
        "what it means": finding.message,
        "examples": "; ".join(map(str, finding.examples[:n_examples])) + ("; ..." if more else ""),
    }


def _measurements(audit: Audit) -> dict[str, np.ndarray]:
    measures = audit.measures
    return {
        "range_mv": measures.range_mv,
        "beats_bpm": measures.beats_bpm,
        "end_hz": measures.end_hz,
        "hum_share": measures.hum_share,
        "duration_s": audit.duration_s,
        "rate_hz": audit.rate_hz,
    }


def _percentiles(values: np.ndarray) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {}
    percents = (0, 1, 5, 25, 50, 75, 95, 99, 100)
    return {str(k): round(float(value), 4) for k, value in zip(percents, np.percentile(finite, percents))}
