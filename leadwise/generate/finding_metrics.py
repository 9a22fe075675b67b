"""Comparison of generated reports with their references by what they state: findings, measurements, contradictions.

Both texts are read by the labeller, so its errors are part of every number; tables print its accuracy (`labeller_accuracy`).
A finding that a report states with doubt counts as stated in one set of scores and as not stated in the other. Intervals
are percentiles over resamplings of whole patients.

A resampling that lacks a finding leaves it out of macro F1. Where many findings are rare, the interval of macro F1 is therefore
not centred on its value, and too narrow: in simulations it had the true value in 78 to 91 % of the cases where a third or more of
the findings had fewer than RARE references, and in 97 % where none had (NOTES.md). Micro F1 and the rates do not have this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.metrics.bootstrap import (
    N_REPLICATES,
    divide_or_nan,
    mean_of_defined,
    percentile_interval,
    resample_patients,
)
from leadwise.evaluate.metrics.score import Bools, Floats, Interval
from leadwise.generate.labeller import ReportLabels, label_report
from leadwise.generate.labeller_accuracy import LabellerAccuracy
from leadwise.generate.lexicon import lexicon
from leadwise.generate.pairs import ReportScoreError, check_pairs
from leadwise.generate.report_numbers import RANGES

_MEASURES = (
    "micro_f1",
    "macro_f1",
    "exact_match",
    "hallucination_rate",
    "omission_rate",
    "weighted_omission_rate",
)
RARE = 10  # references that state a finding; with fewer, its F1 is a coarse number
_NEAR = 0.10  # a number is near its reference within 10 % of it
_NEAR_DEG = 10.0  # an axis, within 10 degrees: a percentage of an angle has no meaning


@dataclass(frozen=True)
class RateWithInterval:
    """A rate with its 95 % interval over patients."""

    value: float
    interval: Interval
    replicates: Floats = field(repr=False, compare=False)  # (R,) value of each resampling, for paired differences

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True)
class FindingCounts:
    """One finding in references and generated reports."""

    n_reference: int
    n_generated: int
    n_both: int

    @property
    def f1(self) -> float | None:
        """F1; None if neither the references nor the generated reports state the finding."""
        total = self.n_reference + self.n_generated
        return 2 * self.n_both / total if total else None


@dataclass(frozen=True)
class FindingScores:
    """Agreement of stated findings, under one rule for findings stated with doubt.

    micro_f1: over all statements. macro_f1: mean over the findings that at least one reference states.
    exact_match: share of reports with exactly the findings of the reference.
    hallucination_rate: share of the generated statements that the reference does not have; 0 if nothing is stated.
    omission_rate: share of the reference's statements that the generated report does not have; weighted by severity in
    weighted_omission_rate (`weight` of the lexicon).
    """

    uncertain_counts: bool  # findings stated with doubt count as stated
    micro_f1: RateWithInterval
    macro_f1: RateWithInterval
    exact_match: RateWithInterval
    hallucination_rate: RateWithInterval
    omission_rate: RateWithInterval
    weighted_omission_rate: RateWithInterval
    per_finding: Mapping[str, FindingCounts]  # findings that some report states

    def to_json(self) -> dict[str, Any]:
        per_finding = {key: {**vars(counts), "f1": counts.f1} for key, counts in self.per_finding.items()}
        rates = {name: getattr(self, name).to_json() for name in _MEASURES}
        return {"uncertain_counts": self.uncertain_counts, **rates, "per_finding": per_finding}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per finding, the most frequent in the references first."""
        book = lexicon()
        return [
            {"finding": key, "name": book.findings[key].name, "weight": book.findings[key].weight}
            | {**vars(counts), "f1": counts.f1}
            for key, counts in sorted(self.per_finding.items(), key=lambda item: -item[1].n_reference)
        ]


@dataclass(frozen=True)
class NumberError:
    """Error of one measurement, over the reports in which both texts state it."""

    n_reference: int  # reports with a reference value
    n_generated: int  # generated reports that state it
    n_both: int
    mean_absolute: float | None  # in the unit of the name; None if no report has both
    share_near: float | None  # within 10 % of the reference; an axis, within 10 degrees

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class ReportScore:
    """All findings metrics of a set of generated reports."""

    with_uncertain: FindingScores  # a finding stated with doubt counts as stated
    without_uncertain: FindingScores  # it counts as not stated
    contradictions_per_report: RateWithInterval  # pairs of findings that exclude each other, in the generated reports
    numbers: Mapping[str, NumberError] | None  # None: not applicable, the writer states no numbers
    coverage_of_references: float  # share of their sentences that the labeller recognises
    coverage_of_generated: float
    n_reports: int
    n_patients: int
    n_empty: int  # generated reports without text; they state nothing, and count
    labeller: tuple[LabellerAccuracy, ...]

    @property
    def n_findings(self) -> tuple[int, int]:
        """The number of findings in macro F1, and of those that fewer than RARE references state."""
        counts = [one.n_reference for one in self.with_uncertain.per_finding.values() if one.n_reference]
        return len(counts), sum(n < RARE for n in counts)

    def to_json(self) -> dict[str, Any]:
        return {
            "with_uncertain": self.with_uncertain.to_json(),
            "without_uncertain": self.without_uncertain.to_json(),
            "contradictions_per_report": self.contradictions_per_report.to_json(),
            "numbers": None
            if self.numbers is None
            else {name: error.to_json() for name, error in self.numbers.items()},
            "coverage_of_references": self.coverage_of_references,
            "coverage_of_generated": self.coverage_of_generated,
            "n_reports": self.n_reports,
            "n_patients": self.n_patients,
            "n_empty": self.n_empty,
            "labeller": [accuracy.to_json() for accuracy in self.labeller],
        }

    def row(self) -> dict[str, Any]:
        """Return the table row: each rate with its interval, findings stated with doubt as stated."""
        rates: dict[str, RateWithInterval] = {name: getattr(self.with_uncertain, name) for name in _MEASURES}
        rates["contradictions_per_report"] = self.contradictions_per_report
        cells: dict[str, Any] = {}
        for name, rate in rates.items():
            cells |= {name: rate.value, f"{name}_low": rate.interval[0], f"{name}_high": rate.interval[1]}
        firm = {f"{name}_firm": getattr(self.without_uncertain, name).value for name in ("micro_f1", "macro_f1")}
        read = {f"labeller_f1_{accuracy.source.replace(' ', '_')}": accuracy.f1 for accuracy in self.labeller}
        coverage = {"coverage": self.coverage_of_generated, "n_empty": self.n_empty, "n_reports": self.n_reports}
        return {**cells, **firm, **coverage, **read}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per finding."""
        return self.with_uncertain.rows()


def score_reports(
    references: Sequence[str],
    generated: Sequence[str],
    patients: Sequence[str] | NDArray[Any],
    *,
    measured: Sequence[Mapping[str, float]] | None = None,
    has_numbers: bool = True,
    labeller: Sequence[LabellerAccuracy] = (),
    n_replicates: int = N_REPLICATES,
    seed: int = 0,
) -> ReportScore:
    """Return the findings metrics of N generated reports.

    Two sets of generated reports for the same ECGs are compared by `macro_gain`, on the same resamplings.

    Args:
        references: N reports, not empty.
        generated: N reports; an empty one states nothing.
        patients: N patients, whose reports are resampled together.
        measured: N measurements by name (`report_numbers.RANGES`), NaN where unknown; default: the numbers in the references.
        has_numbers: False for a writer that was trained without numbers: their errors are not applicable.
        labeller: accuracy of the labeller, passed through to the tables.

    Raises:
        ReportScoreError: the numbers differ, or a reference is empty.
    """
    check_pairs(references, generated)
    if len(patients) != len(references) or (measured is not None and len(measured) != len(references)):
        raise ReportScoreError(f"give a patient, and measurements if any, for each of the {len(references)} reports")
    expected, actual = [label_report(text) for text in references], [label_report(text) for text in generated]
    weights = np.vstack([np.ones((1, len(references))), resample_patients(patients, n_replicates, seed)])

    contradictions = np.array([len(labels.contradictions) for labels in actual], dtype=np.float64)
    return ReportScore(
        with_uncertain=_finding_scores(expected, actual, weights, uncertain=True),
        without_uncertain=_finding_scores(expected, actual, weights, uncertain=False),
        contradictions_per_report=_with_interval(weights @ contradictions / weights.sum(axis=1)),
        numbers=_number_errors(measured or [one.numbers for one in expected], actual) if has_numbers else None,
        coverage_of_references=_coverage(expected),
        coverage_of_generated=_coverage(actual),
        n_reports=len(references),
        n_patients=len(np.unique(np.asarray(patients))),
        n_empty=sum(not text.strip() for text in generated),
        labeller=tuple(labeller),
    )


def macro_gain(score: ReportScore, reference: ReportScore, uncertain: bool = True) -> tuple[float, Interval]:
    """Return the macro F1 of `score` minus that of `reference`, and the 95 % interval of this paired difference.

    Raises:
        ReportScoreError: the two were not scored on the same number of reports and resamplings.
    """
    a, b = (one.with_uncertain if uncertain else one.without_uncertain for one in (score, reference))
    same_size = (score.n_reports, score.n_patients) == (reference.n_reports, reference.n_patients)
    if not same_size or len(a.macro_f1.replicates) != len(b.macro_f1.replicates):
        raise ReportScoreError("a gain needs two scores of the same reports with the same number of resamplings")
    gaps = a.macro_f1.replicates - b.macro_f1.replicates
    return a.macro_f1.value - b.macro_f1.value, percentile_interval(gaps)


def _finding_scores(
    expected: Sequence[ReportLabels], actual: Sequence[ReportLabels], weights: Floats, uncertain: bool
) -> FindingScores:
    """Return the scores of stated findings; the first row of the weights (1 + R, N) is the sample itself."""
    # who states what, (N, K), over the findings that any report states
    truth, stated = _stated(expected, uncertain), _stated(actual, uncertain)
    used = np.flatnonzero((truth | stated).any(axis=0))
    truth, stated = truth[:, used], stated[:, used]
    keys = [list(lexicon().findings)[k] for k in used]
    severity = np.array([lexicon().findings[key].weight for key in keys])

    # weighted counts (1 + R, K), and the measures of each row
    both = weights @ (truth & stated).astype(np.float64)
    n_truth, n_stated = weights @ truth.astype(np.float64), weights @ stated.astype(np.float64)
    per_finding = np.full(both.shape, np.nan)
    np.divide(2 * both, n_truth + n_stated, out=per_finding, where=n_truth > 0)
    values = {
        "micro_f1": divide_or_nan(2 * both.sum(axis=1), (n_truth + n_stated).sum(axis=1)),
        "macro_f1": mean_of_defined(per_finding),
        "exact_match": weights @ (truth == stated).all(axis=1) / weights.sum(axis=1),
        "hallucination_rate": divide_or_nan((n_stated - both).sum(axis=1), n_stated.sum(axis=1)),
        "omission_rate": divide_or_nan((n_truth - both).sum(axis=1), n_truth.sum(axis=1)),
        "weighted_omission_rate": divide_or_nan((n_truth - both) @ severity, n_truth @ severity),
    }
    counts = {
        key: FindingCounts(int(n_truth[0, k]), int(n_stated[0, k]), int(both[0, k])) for k, key in enumerate(keys)
    }
    rates = {name: _with_interval(np.nan_to_num(value)) for name, value in values.items()}
    return FindingScores(uncertain, per_finding=counts, **rates)


def _stated(labels: Sequence[ReportLabels], uncertain: bool) -> Bools:
    """Return (N, K) which report states which finding of the lexicon."""
    column = {key: k for k, key in enumerate(lexicon().findings)}
    table = np.zeros((len(labels), len(column)), dtype=bool)
    for row, one in enumerate(labels):
        table[row, [column[key] for key in one.stated(uncertain)]] = True
    return table


def _with_interval(values: Floats) -> RateWithInterval:
    """Return a rate from its values (1 + R,), the first one on the sample itself."""
    replicates = values[1:]
    interval = percentile_interval(replicates) if len(replicates) else (float(values[0]), float(values[0]))
    return RateWithInterval(float(values[0]), interval, replicates)


def _number_errors(measured: Sequence[Mapping[str, float]], actual: Sequence[ReportLabels]) -> dict[str, NumberError]:
    """Return the error of each measurement."""
    errors = {}
    for name in RANGES:
        expected = np.array([one.get(name, np.nan) for one in measured], dtype=np.float64)
        stated = np.array([labels.numbers.get(name, np.nan) for labels in actual], dtype=np.float64)
        gap, limit = np.abs(stated - expected), _NEAR * np.abs(expected)
        if name == "axis_deg":
            gap, limit = np.minimum(gap, 360 - gap), np.full(len(gap), _NEAR_DEG)
        known = np.isfinite(gap)
        errors[name] = NumberError(
            n_reference=int(np.isfinite(expected).sum()),
            n_generated=int(np.isfinite(stated).sum()),
            n_both=int(known.sum()),
            mean_absolute=float(gap[known].mean()) if known.any() else None,
            share_near=float((gap[known] <= limit[known]).mean()) if known.any() else None,
        )
    return errors


def _coverage(labels: Sequence[ReportLabels]) -> float:
    """Return the share of the sentences of all reports that the labeller recognises; 1 without sentences."""
    n_sentences = sum(one.n_sentences for one in labels)
    return 1 - sum(len(one.unmatched) for one in labels) / n_sentences if n_sentences else 1.0
