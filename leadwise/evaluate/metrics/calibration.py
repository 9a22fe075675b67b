"""Whether probabilities mean what they say: expected calibration error, Brier score, and the reliability curve.

Records are sorted by probability into bins of equal count (of equal mass); records of equal probability share a bin, so
a bin may be larger, and there may be fewer bins. ECE = sum over bins of the bin's share x |mean probability - share of
positives|. Brier = mean squared difference of probability and label: 0 is perfect, p (1 - p) is what always saying the
prevalence p costs. Both need probabilities: cosines have neither.

The probe's penalty is chosen for ranking (AUROC), not for probabilities. Where few recordings let a strong penalty win, all
probabilities lie near the prevalence; ECE and Brier then judge the penalty, not the features: a class that is ranked without a
fault may have an ECE of 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadwise.evaluate.metrics.auroc import (
    N_REPLICATES,
    Bools,
    Floats,
    Interval,
    ScoreError,
    checked,
    interval_of,
    resample_patients,
    weighted_by_class,
)

N_BINS = 15
CAUTION = "Penalty chosen by AUROC, not for probabilities: from few recordings all may lie near the prevalence."


@dataclass(frozen=True)
class Reliability:
    """One class's curve: what was said against what came, a place for each of B bins, from low to high."""

    said: tuple[float, ...]  # mean probability
    came: tuple[float, ...]  # share of positives
    interval: tuple[Interval, ...]  # 95 % of `came`, over patients
    count: tuple[int, ...]  # records

    def to_json(self) -> dict[str, Any]:
        places = zip(self.said, self.came, self.interval, self.count)
        return {"bins": [{"said": s, "came": c, "interval": list(i), "count": n} for s, c, i, n in places]}


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = N_BINS) -> Floats:
    """(K,) expected calibration error of each class in [0, 1]; nan where a class has one label value only.

    Args:
        labels: (N, K) in {0, 1}.
        probabilities: (N, K) in [0, 1].

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a probability is outside [0, 1].
    """
    once: Floats = weighted_calibration_error(labels, probabilities, np.ones((1, np.shape(labels)[0])), n_bins)[0]
    return once


def weighted_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike, n_bins: int = N_BINS
) -> Floats:
    """(R, K) calibration error as if record n stood weights[r, n] times; the bins stay those of the records at hand.

    Chance gaps within bins never cancel, and a resampling adds its own: its errors lie above the plain one on average.
    """

    def of_class(truth: Bools, said: Floats, columns: Floats) -> Floats:
        gaps = _membership(said, n_bins) * (said - truth)  # (B, N)
        error: Floats = np.abs(gaps @ columns).sum(axis=0) / columns.sum(axis=0)
        return error

    return _defined(labels, weighted_by_class(labels, _probable(probabilities), weights, of_class))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """(K,) Brier score of each class in [0, 1], for labels and probabilities (N, K); nan and errors as above."""
    once: Floats = weighted_brier(labels, probabilities, np.ones((1, np.shape(labels)[0])))[0]
    return once


def weighted_brier(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike) -> Floats:
    """(R, K) Brier score as if record n stood weights[r, n] times, weights (R, N)."""

    def of_class(truth: Bools, said: Floats, columns: Floats) -> Floats:
        return np.asarray((said - truth) ** 2 @ columns / columns.sum(axis=0))

    return _defined(labels, weighted_by_class(labels, _probable(probabilities), weights, of_class))


def reliability(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: Sequence[str] | NDArray[Any],
    classes: Sequence[str],
    n_bins: int = 10,
) -> dict[str, Reliability]:
    """The curve of each class that has both label values, with intervals over resamplings of patients.

    Args:
        labels: (N, K) in {0, 1}.
        probabilities: (N, K) in [0, 1].
        patients: N patient names.
        classes: K class names.
    """
    truth, said = checked(labels, _probable(probabilities), classes)
    weights = resample_patients(patients, N_REPLICATES, 0).T.astype(np.float64)  # (N, R)
    curves = {}
    for k in np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0)).tolist():
        member = _membership(said[:, k], n_bins)  # (B, N)
        count = member.sum(axis=1)
        mass = member @ weights  # (B, R)
        shares = np.divide((member * truth[:, k]) @ weights, mass, out=np.full(mass.shape, np.nan), where=mass > 0)
        curves[classes[k]] = Reliability(
            said=tuple((member @ said[:, k] / count).tolist()),
            came=tuple((member @ truth[:, k] / count).tolist()),
            interval=tuple(interval_of(row) for row in shares),
            count=tuple(int(n) for n in count),
        )
    return curves


def _membership(said: Floats, n_bins: int) -> Floats:
    """(B, N) 1 where a record lies in a bin: bins of equal count by rank, equals together, none empty."""
    if n_bins < 1:
        raise ScoreError(f"{n_bins} bins: calibration needs at least one")
    lowest_rank = np.searchsorted(np.sort(said), said, side="left")
    held, of_record = np.unique(lowest_rank * n_bins // len(said), return_inverse=True)
    member = np.zeros((len(held), len(said)))
    member[of_record, np.arange(len(said))] = 1
    return member


def _probable(probabilities: ArrayLike) -> Floats:
    said = np.asarray(probabilities, dtype=np.float64)
    if (said < 0).any() or (said > 1).any():
        raise ScoreError(
            f"probabilities reach from {said.min():g} to {said.max():g}, outside [0, 1]: logits and cosines are not "
            "probabilities"
        )
    return said


def _defined(labels: ArrayLike, result: Floats) -> Floats:
    """The (R, K) result without the classes that have one label value only, as for every other measure."""
    truth = np.asarray(labels).astype(bool)
    result[:, truth.all(axis=0) | ~truth.any(axis=0)] = np.nan
    return result
