"""Area under the precision-recall curve, computed as average precision.

AP = sum over the distinct scores s, from high to low, of precision(score >= s) x the fraction of positives that have score s.
Nothing is interpolated, and records of equal score enter together. A random ranking has an AUPRC of about the class's
prevalence, so AUPRCs of classes of different prevalence are not comparable; reports print this chance level beside each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from leadwise.evaluate.metrics.bootstrap import divide_or_nan, weighted_by_class
from leadwise.evaluate.metrics.score import Bools, Floats


def average_precision(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """Return (K,) the average precision of each class in [0, 1]; nan where a class has one label value only.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K), any finite scale.

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a score is not finite.
    """
    precisions: Floats = weighted_average_precision(labels, scores, np.ones((1, np.shape(labels)[0])))[0]
    return precisions


def weighted_average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> Floats:
    """Return (R, K) average precision with record n counted weights[r, n] times, weights (R, N); nan as above."""
    return weighted_by_class(labels, scores, weights, _weighted_class)


def _weighted_class(truth: Bools, values: Floats, columns: Floats) -> Floats:
    """Return (r,) the weighted average precision of one class; columns (N, r). Sorts once for all columns."""
    n_positive = int(truth.sum())
    if not 0 < n_positive < len(truth):
        return np.full(columns.shape[1], np.nan)

    # Precision counts only at the scores of positives. Assign each record to the first such level that it reaches;
    # records below every positive are dropped.
    levels = -np.unique(-values[truth])  # (G,) the distinct scores of positives, high to low
    level = np.searchsorted(-levels, -values, side="left")
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(len(levels)))
    listed = order[: np.searchsorted(level[order], len(levels))]
    every = np.add.reduceat(columns[listed], starts, axis=0)  # (G, r) weight that each level adds to the list

    # The same sums over the positives.
    positives = np.flatnonzero(truth)
    positives = positives[np.argsort(level[positives], kind="stable")]
    gained = np.add.reduceat(columns[positives], np.searchsorted(level[positives], np.arange(len(levels))), axis=0)

    # Precision at each level, averaged with the positives that the level adds.
    hits, length = np.cumsum(gained, axis=0), np.cumsum(every, axis=0)
    precision = np.divide(hits, length, out=np.zeros_like(hits), where=length > 0)
    total = columns.sum(axis=0)
    result = divide_or_nan(np.einsum("gr,gr->r", gained, precision), hits[-1])
    result[hits[-1] >= total] = np.nan  # the resampling has positives only
    return result
