"""F1 at one threshold per class, chosen on the validation split; the test split has no influence on the thresholds.

A class is predicted where its score reaches its threshold. The threshold is the validation score with the best F1, the
highest one if several are equal. A class without positives in validation has no threshold and no F1; callers must report it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from leadwise.evaluate.metrics.bootstrap import divide_or_nan, weighted_by_class
from leadwise.evaluate.metrics.score import Bools, Floats, check_scores


def best_thresholds(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """Return (K,) the threshold of each class with the best F1 on validation labels and scores (N, K).

    nan for a class without positives.

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a score is not finite.
    """
    truth, values = check_scores(labels, scores)
    thresholds = np.full(truth.shape[1], np.nan)
    for k in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-values[:, k], kind="stable")
        ordered, hits = values[order, k], np.cumsum(truth[order, k])
        last = np.append(ordered[1:] != ordered[:-1], True)  # last of its ties: tied records are predicted together
        f1 = 2 * hits / (np.arange(1, len(ordered) + 1) + hits[-1])
        thresholds[k] = ordered[int(np.argmax(np.where(last, f1, -1.0)))]
    return thresholds


def f1(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Return (K,) the F1 of each class at its threshold (K,); nan without a threshold or with one label value only."""
    values: Floats = weighted_f1(labels, scores, thresholds, np.ones((1, np.shape(labels)[0])))[0]
    return values


def weighted_f1(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike, weights: ArrayLike) -> Floats:
    """Return (R, K) F1 with record n counted weights[r, n] times, weights (R, N); nan as above."""
    values, threshold = np.asarray(scores, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    predicted = np.where(np.isfinite(values), values >= threshold, np.nan)  # keeps nan, so that the check refuses it
    result = weighted_by_class(labels, predicted, weights, _weighted_class)
    result[:, np.isnan(threshold)] = np.nan
    return result


def _weighted_class(truth: Bools, predicted: Floats, columns: Floats) -> Floats:
    """Return (r,) the weighted F1 of one class, 2 TP / (predicted + positive); columns (N, r)."""
    if truth.all() or not truth.any():
        return np.full(columns.shape[1], np.nan)
    positive = columns[truth].sum(axis=0)
    reached = predicted > 0
    result = divide_or_nan(2 * columns[truth & reached].sum(axis=0), columns[reached].sum(axis=0) + positive)
    result[positive == 0] = np.nan
    return result
