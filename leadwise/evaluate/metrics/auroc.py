"""How a score is counted: per-class AUROC, its macro mean, and an interval that knows that a patient has several ECGs.

`Score` and its intervals serve every measure (`summary`); the measures beyond AUROC stand in files of their own.

AUROC of a class is the chance that a positive record is scored above a negative one, ties counted half. Scores only
need to rank (logits, cosines); nothing is thresholded. A class with one label value only has no AUROC: it is left out
of the macro mean and named. Intervals are percentiles over resamplings of whole patients with replacement, so that
the ECGs of one patient enter together; a class left with one label value in a resampling is left out of that
resampling's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]

N_REPLICATES = 1000
_CHUNK_CELLS = 4_000_000  # weights held at once, so that large cohorts do not fill the memory


class ScoreError(ValueError):
    """Scores or labels that cannot be counted; the message names the class or record and the remedy."""


@dataclass(frozen=True)
class Score:
    """One measure in [0, 1], macro and per class, with 95 % intervals over patients; AUROC where nothing else is said."""

    macro: float  # mean over the classes for which it is defined
    interval: Interval  # of macro
    per_class: dict[str, float | None]  # None where undefined
    class_interval: dict[str, Interval | None]
    skipped: tuple[str, ...]  # classes for which it is undefined: one label value only
    n_records: int
    n_patients: int
    positives: dict[str, int]
    replicates: Floats = field(repr=False, compare=False)  # (R,) macro of each resampling, for paired differences

    def to_json(self) -> dict[str, Any]:
        """Everything but the replicates, as plain JSON values."""
        intervals = {name: None if at is None else list(at) for name, at in self.class_interval.items()}
        return {
            "macro": self.macro,
            "interval": list(self.interval),
            "per_class": dict(self.per_class),
            "class_interval": intervals,
            "skipped": list(self.skipped),
            "n_records": self.n_records,
            "n_patients": self.n_patients,
            "positives": dict(self.positives),
        }


@dataclass(frozen=True)
class Control:
    """Macro AUROC when every ECG is judged against another patient's labels: it must sit at 0.5."""

    mean: float
    interval: Interval  # 95 % of the single permutations
    n_permutations: int

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "interval": list(self.interval), "n_permutations": self.n_permutations}


def auroc(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """(K,) AUROC of each class in [0, 1]; nan where a class has one label value only.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K), any finite scale.

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a score is not finite.
    """
    truth, values = checked(labels, scores)
    return _auroc_from_ranks(truth, _midranks(values))


def score(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[str] | NDArray[Any],
    classes: Sequence[str],
    n_replicates: int = N_REPLICATES,
    seed: int = 0,
) -> Score:
    """Macro and per-class AUROC with 95 % intervals over `n_replicates` resamplings of patients.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K), or (S, N, K) for S repeats of one experiment (seeds): AUROCs are then means over the repeats,
            each resampling drawing the same patients for all of them.
        patients: N patient names.
        classes: K class names.

    Raises:
        ScoreError: non-finite scores, mismatched shapes, or no class with both label values.
    """
    stack = np.asarray(scores, dtype=np.float64)
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3 or len(stack) == 0 or stack.shape[2] != len(classes):
        raise ScoreError(f"scores of shape {np.shape(scores)} do not fit {len(classes)} classes: (N, K) or (S, N, K)")
    truth = checked(labels, stack[0], classes)[0]
    if len(patients) != len(truth):
        raise ScoreError(f"{len(patients)} patients for {len(truth)} records: give one name a record")
    estimate = np.mean([auroc(truth, checked(truth, values, classes)[1]) for values in stack], axis=0)
    defined = np.isfinite(estimate)
    if not defined.any():
        raise ScoreError(
            f"none of {', '.join(classes)} has both label values among {len(truth)} records; nothing to score"
        )

    weights = resample_patients(patients, n_replicates, seed)
    replicates = np.mean([weighted_auroc(truth, values, weights) for values in stack], axis=0)  # (R, K)
    return summary(estimate, replicates, truth, patients, classes)


def summary(
    estimate: Floats, replicates: Floats, truth: Bools, patients: Sequence[str] | NDArray[Any], classes: Sequence[str]
) -> Score:
    """The Score of a measure from its values (K,) and those of R resamplings (R, K), nan where undefined.

    At least one class must be defined.
    """
    defined = np.isfinite(estimate)
    macro = _mean_of_defined(replicates)
    return Score(
        macro=float(estimate[defined].mean()),
        interval=interval_of(macro),
        per_class={name: float(at) if np.isfinite(at) else None for name, at in zip(classes, estimate)},
        class_interval={
            name: interval_of(replicates[:, k]) if defined[k] and np.isfinite(replicates[:, k]).any() else None
            for k, name in enumerate(classes)
        },
        skipped=tuple(name for name, there in zip(classes, defined) if not there),
        n_records=len(truth),
        n_patients=len(np.unique(np.asarray(patients))),
        positives={name: int(count) for name, count in zip(classes, truth.sum(axis=0))},
        replicates=macro,
    )


def gain(score: Score, reference: Score) -> tuple[float, Interval]:
    """Macro AUROC of `score` above `reference` with its 95 % interval, paired: both resampled the same patients."""
    if score.replicates.shape != reference.replicates.shape or score.positives != reference.positives:
        raise ScoreError("a gain needs two scores of the same records and resamplings")
    return score.macro - reference.macro, interval_of(score.replicates - reference.replicates)


def resample_patients(patients: Sequence[str] | NDArray[Any], n_replicates: int, seed: int) -> NDArray[np.int32]:
    """(R, N) how often each record counts in each resampling: all records of a patient alike."""
    names, of_record = np.unique(np.asarray(patients), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(names), size=(n_replicates, len(names)))
    drawn += np.arange(n_replicates)[:, None] * len(names)  # one histogram for all replicates
    counts = np.bincount(drawn.ravel(), minlength=n_replicates * len(names)).reshape(n_replicates, len(names))
    return counts[:, of_record].astype(np.int32)


def weighted_auroc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> Floats:
    """(R, K) AUROC as if record n stood weights[r, n] times; nan where a class is left with one label value.

    Args:
        labels: (N, K) in {0, 1}.
        scores: (N, K).
        weights: (R, N), not negative.
    """
    return weighted_by_class(labels, scores, weights, _weighted_class)


def weighted_by_class(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike, measure: Callable[[Bools, Floats, Floats], Floats]
) -> Floats:
    """(R, K) of a measure as if record n stood weights[r, n] times, for labels and scores (N, K), weights (R, N).

    `measure` is given one class's labels (N,) and scores (N,) and a piece of the weights (N, r), and returns (r,).
    """
    truth, values = checked(labels, scores)
    weight = np.asarray(weights)
    if weight.ndim != 2 or weight.shape[1] != len(truth):
        raise ScoreError(f"weights of shape {weight.shape} do not fit {len(truth)} records: (R, N)")
    result = np.empty((len(weight), truth.shape[1]))
    rows = max(1, _CHUNK_CELLS // max(1, len(truth)))
    for start in range(0, len(weight), rows):
        columns = np.ascontiguousarray(
            weight[start : start + rows].T, dtype=np.float64
        )  # (N, r): sums run down whole rows
        for k in range(truth.shape[1]):
            result[start : start + rows, k] = measure(truth[:, k], values[:, k], columns)
    return result


def _weighted_class(truth: Bools, values: Floats, columns: Floats) -> Floats:
    """(r,) weighted AUROC of one class; columns (N, r)."""
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
    won = np.einsum("pr,pr->r", mass, below[left]) + np.einsum("pr,pr->r", mass, below[right])
    pairs = 2 * mass.sum(axis=0) * below[-1]
    return ratio(won, pairs)


def shuffled_pairs(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[str] | NDArray[Any],
    n_permutations: int = 200,
    seed: int = 0,
) -> Control | None:
    """Macro AUROC with every record's scores exchanged for another patient's; None where one patient holds over half.

    The records are laid out patient by patient in random order and then shifted by more than the largest patient.
    """
    truth, values = checked(labels, scores)
    ranks = _midranks(values)
    of_record = np.unique(np.asarray(patients), return_inverse=True)[1]
    largest = int(np.bincount(of_record).max())
    if 2 * largest > len(truth):
        return None
    rng = np.random.default_rng(seed)
    macros = np.empty(n_permutations)
    for p in range(n_permutations):
        macros[p] = _mean_of_defined(_auroc_from_ranks(truth, ranks[strangers(of_record, rng)])[None])[0]
    return Control(float(macros.mean()), interval_of(macros), n_permutations)


def strangers(of_record: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
    """(N,) for each record another patient's, each taken once; no patient may hold over half of the records.

    Args:
        of_record: (N,) number of each record's patient, from 0.
    """
    n, largest = len(of_record), int(np.bincount(of_record).max())
    layout = np.lexsort((rng.random(n), rng.permutation(of_record.max() + 1)[of_record]))
    shift = int(rng.integers(largest, n - largest + 1))
    partner = np.empty(n, dtype=np.int64)
    partner[layout] = np.roll(layout, shift)
    return partner


def checked(labels: ArrayLike, scores: ArrayLike, classes: Sequence[str] | None = None) -> tuple[Bools, Floats]:
    """Labels (N, K) as truth values and scores (N, K) in double precision; ScoreError for what cannot be counted."""
    truth = np.asarray(labels)
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 2 or truth.shape != values.shape:
        raise ScoreError(f"labels {truth.shape} and scores {values.shape} must both be (N, K)")
    if not np.isin(truth, (0, 1)).all():
        raise ScoreError("labels must be 0 or 1")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = (int(at) for at in bad[0])
        name = f"class {column}" if classes is None else f"class {classes[column]}"
        raise ScoreError(
            f"{len(bad)} scores are not finite, first: record {row}, {name} = {values[row, column]}; "
            "look for non-finite embeddings"
        )
    return truth.astype(bool), values


def _midranks(values: Floats) -> Floats:
    """(N, K) ranks from 1 within each column, ties sharing the mean of their ranks."""
    ranks = np.empty_like(values)
    for k in range(values.shape[1]):
        ordered = np.sort(values[:, k])
        left = np.searchsorted(ordered, values[:, k], side="left")
        right = np.searchsorted(ordered, values[:, k], side="right")
        ranks[:, k] = (left + right + 1) / 2
    return ranks


def _auroc_from_ranks(truth: Bools, ranks: Floats) -> Floats:
    n_positive = truth.sum(axis=0).astype(np.float64)
    pairs = n_positive * (len(truth) - n_positive)
    won = np.where(truth, ranks, 0).sum(axis=0) - n_positive * (n_positive + 1) / 2
    return ratio(won, pairs)


def _mean_of_defined(values: Floats) -> Floats:
    """(R,) mean of each row's finite entries; nan for a row without any."""
    there = np.isfinite(values)
    n_there = there.sum(axis=1)
    total = np.where(there, values, 0).sum(axis=1)
    return ratio(total, n_there)


def ratio(part: Floats, whole: NDArray[Any]) -> Floats:
    """part / whole, nan where there is nothing to divide by."""
    result: Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return result


def interval_of(values: Floats) -> Interval:
    """Where the middle 95 % of the finite values lie."""
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)
