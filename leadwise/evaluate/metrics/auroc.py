"""Area under the ROC curve: per class, as macro mean, with a confidence interval over patients and a shuffled control.

The AUROC of a class is the probability that a positive record has a higher score than a negative one; ties count half.
Scores only need to rank records (logits, cosines): no threshold is used. The AUROC of a class with one label value only
is undefined: the class is left out of the macro mean and listed in `Score.skipped`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadwise.evaluate.metrics.bootstrap import (
    N_REPLICATES,
    divide_or_nan,
    mean_of_defined,
    percentile_interval,
    permute_across_patients,
    resample_patients,
    summarize,
    weighted_by_class,
)
from leadwise.evaluate.metrics.score import Bools, Floats, Interval, Score, ScoreError, check_scores


@dataclass(frozen=True)
class Control:
    """Macro AUROC with every ECG scored against another patient's labels; a correct evaluation gives 0.5."""

    mean: float
    interval: Interval  # contains 95 % of the permutations
    n_permutations: int

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "interval": list(self.interval), "n_permutations": self.n_permutations}


def auroc(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """Return (K,) the AUROC of each class in [0, 1]; nan where a class has one label value only.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K), any finite scale.

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a score is not finite.
    """
    truth, values = check_scores(labels, scores)
    return _auroc_from_ranks(truth, _midranks(values))


def auroc_score(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[str] | NDArray[Any],
    classes: Sequence[str],
    n_replicates: int = N_REPLICATES,
    seed: int = 0,
) -> Score:
    """Return macro and per-class AUROC with 95 % confidence intervals over `n_replicates` resamplings of patients.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K), or (S, N, K) for S repeats of one experiment (seeds): AUROCs are then means over the repeats,
            and each resampling draws the same patients for all of them.
        patients: N patient names.
        classes: K class names.

    Raises:
        ScoreError: non-finite scores, mismatched shapes, or no class with both label values.
    """
    # Validate the shapes: one repeat is a stack of one.
    stack = np.asarray(scores, dtype=np.float64)
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3 or len(stack) == 0 or stack.shape[2] != len(classes):
        raise ScoreError(f"scores of shape {np.shape(scores)} do not fit {len(classes)} classes: (N, K) or (S, N, K)")
    truth = check_scores(labels, stack[0], classes)[0]
    if len(patients) != len(truth):
        raise ScoreError(f"{len(patients)} patients for {len(truth)} records: pass one patient name for each record")

    # The AUROC on the records themselves.
    estimate = np.mean([auroc(truth, check_scores(truth, values, classes)[1]) for values in stack], axis=0)
    if not np.isfinite(estimate).any():
        raise ScoreError(
            f"none of {', '.join(classes)} has both label values among {len(truth)} records; nothing to score"
        )

    # The same mean in every resampling.
    weights = resample_patients(patients, n_replicates, seed)
    replicates = np.mean([weighted_auroc(truth, values, weights) for values in stack], axis=0)  # (R, K)
    return summarize(estimate, replicates, truth, patients, classes)


def weighted_auroc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> Floats:
    """Return (R, K) AUROC with record n counted weights[r, n] times; nan where the counted records share one label.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K).
        weights: (R, N), not negative.
    """
    return weighted_by_class(labels, scores, weights, _weighted_class)


def shuffled_pairs(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[str] | NDArray[Any],
    n_permutations: int = 200,
    seed: int = 0,
) -> Control | None:
    """Return macro AUROC with every record's scores replaced by those of another patient's record.

    None if one patient has more than half of the records: then there is no such exchange.
    """
    truth, values = check_scores(labels, scores)
    ranks = _midranks(values)
    patient_of_record = np.unique(np.asarray(patients), return_inverse=True)[1]
    largest = int(np.bincount(patient_of_record).max())
    if 2 * largest > len(truth):
        return None
    rng = np.random.default_rng(seed)
    macros = np.empty(n_permutations)
    for p in range(n_permutations):
        partner = permute_across_patients(patient_of_record, rng)
        macros[p] = mean_of_defined(_auroc_from_ranks(truth, ranks[partner])[None])[0]
    return Control(float(macros.mean()), percentile_interval(macros), n_permutations)


def _weighted_class(truth: Bools, values: Floats, columns: Floats) -> Floats:
    """Return (r,) the weighted AUROC of one class; columns (N, r) are the transposed weights."""
    negatives = np.flatnonzero(~truth)
    positives = np.flatnonzero(truth)
    if not len(negatives) or not len(positives):
        return np.full(columns.shape[1], np.nan)
    negatives = negatives[np.argsort(values[negatives], kind="stable")]
    below = np.zeros((len(negatives) + 1, columns.shape[1]))  # weight of the m lowest negatives
    np.cumsum(columns[negatives], axis=0, out=below[1:])
    ordered = values[negatives]
    left = np.searchsorted(ordered, values[positives], side="left")
    right = np.searchsorted(ordered, values[positives], side="right")
    mass = columns[positives]  # (P, r)
    won = np.einsum("pr,pr->r", mass, below[left]) + np.einsum("pr,pr->r", mass, below[right])  # ties count half
    pairs = 2 * mass.sum(axis=0) * below[-1]
    return divide_or_nan(won, pairs)


def _midranks(values: Floats) -> Floats:
    """Return (N, K) ranks from 1 within each column; tied values share the mean of their ranks."""
    ranks = np.empty_like(values)
    for k in range(values.shape[1]):
        ordered = np.sort(values[:, k])
        left = np.searchsorted(ordered, values[:, k], side="left")
        right = np.searchsorted(ordered, values[:, k], side="right")
        ranks[:, k] = (left + right + 1) / 2
    return ranks


def _auroc_from_ranks(truth: Bools, ranks: Floats) -> Floats:
    """Return (K,) AUROC from midranks: the Mann-Whitney U statistic over the number of pairs."""
    n_positive = truth.sum(axis=0).astype(np.float64)
    pairs = n_positive * (len(truth) - n_positive)
    won = np.where(truth, ranks, 0).sum(axis=0) - n_positive * (n_positive + 1) / 2
    return divide_or_nan(won, pairs)
