"""Calibration of probabilities: expected calibration error, Brier score and reliability curve.

Records are sorted by probability into bins of equal count. Records of equal probability share a bin, so a bin may be
larger, and there may be fewer bins. ECE = sum over bins of the bin's fraction of records x |mean probability - fraction of
positives|. Brier = mean squared difference of probability and label: 0 is perfect, and a constant prediction of the
prevalence p scores p (1 - p). Both need probabilities; cosines have neither.

The probe's penalty is chosen for ranking (AUROC), not for probabilities. With few recordings a strong penalty may win, and
then all probabilities are near the prevalence; ECE and Brier then measure the penalty, not the features: a class that is
ranked perfectly may have an ECE of 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadwise.evaluate.metrics.bootstrap import (
    N_REPLICATES,
    percentile_interval,
    resample_patients,
    weighted_by_class,
)
from leadwise.evaluate.metrics.score import Bools, Floats, Interval, ScoreError, check_scores

N_BINS = 15
CAUTION = "Penalty chosen by AUROC, not for probabilities: from few recordings all may lie near the prevalence."


@dataclass(frozen=True)
class Reliability:
    """The reliability curve of one class: predicted probability and observed frequency in B bins, from low to high."""

    mean_probability: tuple[float, ...]
    positive_share: tuple[float, ...]  # fraction of positives
    interval: tuple[Interval, ...]  # 95 % confidence interval of `positive_share`, over patients
    count: tuple[int, ...]  # records

    def to_json(self) -> dict[str, Any]:
        bins = zip(self.mean_probability, self.positive_share, self.interval, self.count)
        return {"bins": [{"said": p, "came": share, "interval": list(i), "count": n} for p, share, i, n in bins]}


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = N_BINS) -> Floats:
    """Return (K,) the expected calibration error of each class in [0, 1]; nan where a class has one label value only.

    Args:
        labels: (N, K) in {0, 1}.
        probabilities: (N, K) in [0, 1].

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a probability is outside [0, 1].
    """
    errors: Floats = weighted_calibration_error(labels, probabilities, np.ones((1, np.shape(labels)[0])), n_bins)[0]
    return errors


def weighted_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike, n_bins: int = N_BINS
) -> Floats:
    """Return (R, K) calibration error with record n counted weights[r, n] times; the bins do not depend on the weights.

    Random gaps within bins never cancel, and a resampling adds gaps of its own: on average its error is larger than the
    unweighted one.
    """

    def class_error(truth: Bools, probability: Floats, columns: Floats) -> Floats:
        gaps = _bin_membership(probability, n_bins) * (probability - truth)  # (B, N)
        error: Floats = np.abs(gaps @ columns).sum(axis=0) / columns.sum(axis=0)
        return error

    return _undefined_as_nan(
        labels, weighted_by_class(labels, _check_probabilities(probabilities), weights, class_error)
    )


def brier(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Return (K,) the Brier score of each class in [0, 1], for labels and probabilities (N, K); nan and errors as above."""
    scores: Floats = weighted_brier(labels, probabilities, np.ones((1, np.shape(labels)[0])))[0]
    return scores


def weighted_brier(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike) -> Floats:
    """Return (R, K) the Brier score with record n counted weights[r, n] times, weights (R, N)."""

    def class_score(truth: Bools, probability: Floats, columns: Floats) -> Floats:
        return np.asarray((probability - truth) ** 2 @ columns / columns.sum(axis=0))

    return _undefined_as_nan(
        labels, weighted_by_class(labels, _check_probabilities(probabilities), weights, class_score)
    )


def reliability(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: Sequence[str] | NDArray[Any],
    classes: Sequence[str],
    n_bins: int = 10,
) -> dict[str, Reliability]:
    """Return the reliability curve of each class that has both label values, with intervals over resampled patients.

    Args:
        labels: (N, K) in {0, 1}.
        probabilities: (N, K) in [0, 1].
        patients: N patient names.
        classes: K class names.
    """
    truth, probability = check_scores(labels, _check_probabilities(probabilities), classes)
    weights = resample_patients(patients, N_REPLICATES, 0).T.astype(np.float64)  # (N, R)
    curves = {}
    for k in np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0)).tolist():
        member = _bin_membership(probability[:, k], n_bins)  # (B, N)
        count = member.sum(axis=1)
        mass = member @ weights  # (B, R)
        shares = np.divide((member * truth[:, k]) @ weights, mass, out=np.full(mass.shape, np.nan), where=mass > 0)
        curves[classes[k]] = Reliability(
            mean_probability=tuple((member @ probability[:, k] / count).tolist()),
            positive_share=tuple((member @ truth[:, k] / count).tolist()),
            interval=tuple(percentile_interval(row) for row in shares),
            count=tuple(int(n) for n in count),
        )
    return curves


def _bin_membership(probability: Floats, n_bins: int) -> Floats:
    """Return (B, N) 1 where a record is in a bin: bins of equal count by rank, ties in one bin, no empty bin."""
    if n_bins < 1:
        raise ScoreError(f"{n_bins} bins: calibration needs at least one")
    lowest_rank = np.searchsorted(np.sort(probability), probability, side="left")
    bins, bin_of_record = np.unique(lowest_rank * n_bins // len(probability), return_inverse=True)
    member = np.zeros((len(bins), len(probability)))
    member[bin_of_record, np.arange(len(probability))] = 1
    return member


def _check_probabilities(probabilities: ArrayLike) -> Floats:
    """Return the probabilities in double precision; raise ScoreError if one is outside [0, 1]."""
    values = np.asarray(probabilities, dtype=np.float64)
    if (values < 0).any() or (values > 1).any():
        raise ScoreError(
            f"probabilities reach from {values.min():g} to {values.max():g}, outside [0, 1]: logits and cosines are not "
            "probabilities"
        )
    return values


def _undefined_as_nan(labels: ArrayLike, result: Floats) -> Floats:
    """Return the (R, K) result with nan for classes that have one label value only, as for every other metric."""
    truth = np.asarray(labels).astype(bool)
    result[:, truth.all(axis=0) | ~truth.any(axis=0)] = np.nan
    return result
