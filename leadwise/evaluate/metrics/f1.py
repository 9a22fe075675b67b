"""F1 and F2 at one threshold per class, in the variants of the literature, each under its own name.

    f1_val   thresholds of the best F1 on the validation split; the scored split has no influence on them
    f1_max   thresholds of the best F1 on the scored split itself: optimistic, never below f1_val (MERL, ECG-Chat, ECG-R1)
    f2_val   F2, in which recall counts four times as much as precision, at the thresholds of its best value on validation

A class is predicted where its score reaches its threshold. The threshold is the score with the best value, the highest one if
several are equal. A class without positives in validation has no threshold and no F1; callers must report it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from leadwise.evaluate.metrics.bootstrap import divide_or_nan, weighted_by_class
from leadwise.evaluate.metrics.score import Bools, Floats, check_scores


@dataclass(frozen=True)
class Thresholds:
    """Thresholds (S, K) of S repeats and K classes from the validation split; nan for a class without positives there."""

    f1: Floats
    f2: Floats

    @classmethod
    def choose(cls, labels: ArrayLike, scores: ArrayLike) -> Thresholds:
        """Return the thresholds of one repeat, (1, K), with the best F1 and F2 on labels and scores (N, K)."""
        return cls(best_thresholds(labels, scores)[None], best_thresholds(labels, scores, beta=2)[None])

    @classmethod
    def of_repeats(cls, repeats: list[Thresholds]) -> Thresholds:
        """Return the thresholds of several repeats as one."""
        return cls(np.concatenate([one.f1 for one in repeats]), np.concatenate([one.f2 for one in repeats]))


def best_thresholds(labels: ArrayLike, scores: ArrayLike, beta: float = 1.0) -> Floats:
    """Return (K,) the threshold of each class with the best F-beta on labels and scores (N, K).

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
        f_beta = (1 + beta**2) * hits / (np.arange(1, len(ordered) + 1) + beta**2 * hits[-1])
        thresholds[k] = ordered[int(np.argmax(np.where(last, f_beta, -1.0)))]
    return thresholds


def f1(labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike, beta: float = 1.0) -> Floats:
    """Return (K,) the F-beta of each class at its threshold (K,); nan without a threshold or with one label value only."""
    values: Floats = weighted_f1(labels, scores, thresholds, np.ones((1, np.shape(labels)[0])), beta)[0]
    return values


def weighted_f1(
    labels: ArrayLike, scores: ArrayLike, thresholds: ArrayLike, weights: ArrayLike, beta: float = 1.0
) -> Floats:
    """Return (R, K) F-beta with record n counted weights[r, n] times, weights (R, N); nan as above."""
    values, threshold = np.asarray(scores, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    predicted = np.where(np.isfinite(values), values >= threshold, np.nan)  # keeps nan, so that the check refuses it

    def of_class(truth: Bools, predicted: Floats, columns: Floats) -> Floats:
        """Return (r,) of one class, (1 + beta²) TP / (predicted + beta² positive); columns (N, r)."""
        if truth.all() or not truth.any():
            return np.full(columns.shape[1], np.nan)
        positive = columns[truth].sum(axis=0)
        reached = predicted > 0
        n_predicted = columns[reached].sum(axis=0)
        result = divide_or_nan((1 + beta**2) * columns[truth & reached].sum(axis=0), n_predicted + beta**2 * positive)
        result[positive == 0] = np.nan
        return result

    result = weighted_by_class(labels, predicted, weights, of_class)
    result[:, np.isnan(threshold)] = np.nan
    return result
