"""Average precision (AUPRC): how clean the list of a class's highest scores is.

AP = sum over the distinct scores s, from high to low, of precision(score >= s) x the share of positives that s adds.
Nothing is interpolated, and records of equal score enter together. A random ranking scores about the class's share of
positives, so AUPRCs of classes of different prevalence are not comparable: that chance is told beside each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from leadwise.evaluate.metrics.auroc import (
    Bools,
    Floats,
    ratio,
    weighted_by_class,
)


def average_precision(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """(K,) average precision of each class in [0, 1]; nan where a class has one label value only.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K), any finite scale.

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a score is not finite.
    """
    once: Floats = weighted_average_precision(labels, scores, np.ones((1, np.shape(labels)[0])))[0]
    return once


def weighted_average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> Floats:
    """(R, K) average precision as if record n stood weights[r, n] times, weights (R, N); nan as above."""
    return weighted_by_class(labels, scores, weights, _weighted_class)


def _weighted_class(truth: Bools, values: Floats, columns: Floats) -> Floats:
    """(r,) weighted average precision of one class; columns (N, r). Sorted once for all columns."""
    n_positive = int(truth.sum())
    if not 0 < n_positive < len(truth):
        return np.full(columns.shape[1], np.nan)
    levels = -np.unique(-values[truth])  # (G,) the distinct scores of positives, high to low: precision counts there
    # a record belongs to the first level that it reaches; those below every positive are never listed
    level = np.searchsorted(-levels, -values, side="left")
    order = np.argsort(level, kind="stable")
    starts = np.searchsorted(level[order], np.arange(len(levels)))
    listed = order[: np.searchsorted(level[order], len(levels))]
    every = np.add.reduceat(columns[listed], starts, axis=0)  # (G, r) weight that each level adds to the list
    positives = np.flatnonzero(truth)
    positives = positives[np.argsort(level[positives], kind="stable")]
    gained = np.add.reduceat(columns[positives], np.searchsorted(level[positives], np.arange(len(levels))), axis=0)
    found, length = np.cumsum(gained, axis=0), np.cumsum(every, axis=0)
    precision = np.divide(found, length, out=np.zeros_like(found), where=length > 0)
    total = columns.sum(axis=0)
    result = ratio(np.einsum("gr,gr->r", gained, precision), found[-1])
    result[found[-1] >= total] = np.nan  # positives alone
    return result
