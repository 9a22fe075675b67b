"""F1 at thresholds that the validation split fixed, one for each class; the scored split has no say in them.

A class is called where its score reaches its threshold: the validation score with the best F1 there, the highest of
equals. A class without positives in validation has no threshold, no F1, and is to be named.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from leadwise.evaluate.metrics.auroc import (
    Bools,
    Floats,
    checked,
    ratio,
    weighted_by_class,
)


def best_thresholds(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """(K,) the score from which to call each class, by F1 on validation labels and scores (N, K); nan without positives.

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a score is not finite.
    """
    truth, values = checked(labels, scores)
    found = np.full(truth.shape[1], np.nan)
    for k in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-values[:, k], kind="stable")
        ordered, hits = values[order, k], np.cumsum(truth[order, k])
        last = np.append(ordered[1:] != ordered[:-1], True)  # of its equals: they are called together
        f1 = 2 * hits / (np.arange(1, len(ordered) + 1) + hits[-1])
        found[k] = ordered[int(np.argmax(np.where(last, f1, -1.0)))]
    return found


def f1(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """(K,) F1 of each class at its threshold (K,); nan without a threshold or with one label value only."""
    once: Floats = weighted_f1(labels, scores, thresholds, np.ones((1, np.shape(labels)[0])))[0]
    return once


def weighted_f1(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike, weights: ArrayLike) -> Floats:
    """(R, K) F1 as if record n stood weights[r, n] times, weights (R, N); nan as above."""
    values, at = np.asarray(scores, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    called = np.where(np.isfinite(values), values >= at, np.nan)  # what is not finite is still refused
    result = weighted_by_class(labels, called, weights, _weighted_class)
    result[:, np.isnan(at)] = np.nan
    return result


def _weighted_class(truth: Bools, called: Floats, columns: Floats) -> Floats:
    """(r,) weighted F1 of one class, 2 TP / (called + positive); columns (N, r)."""
    if truth.all() or not truth.any():
        return np.full(columns.shape[1], np.nan)
    positive = columns[truth].sum(axis=0)
    reached = called > 0
    result = ratio(2 * columns[truth & reached].sum(axis=0), columns[reached].sum(axis=0) + positive)
    result[positive == 0] = np.nan
    return result
