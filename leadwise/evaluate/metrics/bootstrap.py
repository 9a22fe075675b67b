"""Confidence intervals by resampling whole patients with replacement.

All ECGs of a patient are drawn together, so that several ECGs of one patient do not narrow the interval. Intervals are
percentiles over the resamplings. A class in which a resampling has one label value only is left out of the macro mean of
that resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadwise.evaluate.metrics.score import Bools, Floats, Interval, Score, ScoreError, check_scores

N_REPLICATES = 1000
_CHUNK_CELLS = 4_000_000  # entries of the weight matrix processed at once; limits the memory for large cohorts


def resample_patients(patients: Sequence[str] | NDArray[Any], n_replicates: int, seed: int) -> NDArray[np.int32]:
    """Return (R, N) how often each record is drawn in each resampling; all records of a patient share one count."""
    names, patient_of_record = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(names), size=(n_replicates, len(names)))
    drawn += np.arange(n_replicates)[:, None] * len(names)  # one histogram for all replicates
    counts = np.bincount(drawn.ravel(), minlength=n_replicates * len(names)).reshape(n_replicates, len(names))
    return counts[:, patient_of_record].astype(np.int32)


def permute_across_patients(patient_of_record: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return (N,) a random permutation of the records that maps every record to another patient's record.

    The records are ordered patient by patient, in random order, and then shifted by at least the size of the largest
    patient. No patient may have more than half of the records.

    Args:
        patient_of_record: (N,) number of each record's patient, from 0.
    """
    n, largest = len(patient_of_record), int(np.bincount(patient_of_record).max())
    layout = np.lexsort((rng.random(n), rng.permutation(patient_of_record.max() + 1)[patient_of_record]))
    shift = int(rng.integers(largest, n - largest + 1))
    partner = np.empty(n, dtype=np.int64)
    partner[layout] = np.roll(layout, shift)
    return partner


def weighted_by_class(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike, metric: Callable[[Bools, Floats, Floats], Floats]
) -> Floats:
    """Return (R, K) a metric in which record n counts weights[r, n] times.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K).
        weights: (R, N), not negative.
        metric: function of one class's labels (N,), scores (N,) and a block of transposed weights (N, r); returns (r,).
    """
    truth, values = check_scores(labels, scores)
    weight = np.asarray(weights)
    if weight.ndim != 2 or weight.shape[1] != len(truth):
        raise ScoreError(f"weights of shape {weight.shape} do not fit {len(truth)} records: (R, N)")
    result = np.empty((len(weight), truth.shape[1]))
    rows = max(1, _CHUNK_CELLS // max(1, len(truth)))
    for start in range(0, len(weight), rows):
        columns = np.ascontiguousarray(
            weight[start : start + rows].T, dtype=np.float64
        )  # (N, r): sums run down contiguous rows
        for k in range(truth.shape[1]):
            result[start : start + rows, k] = metric(truth[:, k], values[:, k], columns)
    return result


def summarize(
    estimate: Floats, replicates: Floats, truth: Bools, patients: Sequence[str] | NDArray[Any], classes: Sequence[str]
) -> Score:
    """Return the Score of a metric from its values (K,) and its values in R resamplings (R, K), nan where undefined.

    The metric must be defined for at least one class.
    """
    defined = np.isfinite(estimate)
    macro = mean_of_defined(replicates)
    return Score(
        macro=float(estimate[defined].mean()),
        interval=percentile_interval(macro),
        per_class={name: float(value) if np.isfinite(value) else None for name, value in zip(classes, estimate)},
        class_interval={
            name: percentile_interval(replicates[:, k]) if defined[k] and np.isfinite(replicates[:, k]).any() else None
            for k, name in enumerate(classes)
        },
        skipped=tuple(name for name, is_defined in zip(classes, defined) if not is_defined),
        n_records=len(truth),
        n_patients=len(np.unique(np.asarray(patients))),
        positives={name: int(count) for name, count in zip(classes, truth.sum(axis=0))},
        replicates=macro,
    )


def gain(score: Score, reference: Score) -> tuple[float, Interval]:
    """Return the macro metric of `score` minus that of `reference`, and the 95 % confidence interval of this difference.

    The difference is paired: both scores must come from the same resamplings of the same records.

    Raises:
        ScoreError: the scores come from different records or resamplings.
    """
    if score.replicates.shape != reference.replicates.shape or score.positives != reference.positives:
        raise ScoreError("a gain needs two scores of the same records and resamplings")
    return score.macro - reference.macro, percentile_interval(score.replicates - reference.replicates)


def percentile_interval(values: Floats) -> Interval:
    """Return the 2.5th and 97.5th percentile of the values, ignoring nan."""
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def mean_of_defined(values: Floats) -> Floats:
    """Return (R,) the mean of the finite entries of each row of (R, K); nan for a row that has none."""
    defined = np.isfinite(values)
    total = np.where(defined, values, 0).sum(axis=1)
    return divide_or_nan(total, defined.sum(axis=1))


def mean_of_drawn_repeats(values: Floats, seed: int = 0) -> Floats:
    """Return (R, ...) the mean over repeats of values (S, R, ...), with S repeats drawn with replacement in each resampling.

    The draws depend on S, R and `seed` only, so that two arms with the same repeats are paired.
    """
    n_repeats, n_replicates = values.shape[:2]
    drawn = np.random.default_rng([seed, n_repeats]).integers(n_repeats, size=(n_repeats, n_replicates))
    mean: Floats = values[drawn, np.arange(n_replicates)].mean(axis=0)
    return mean


def divide_or_nan(numerator: Floats, denominator: NDArray[Any]) -> Floats:
    """Return numerator / denominator, nan where the denominator is not positive."""
    result: Floats = np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
    return result
