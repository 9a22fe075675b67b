"""The type of every result: a metric per class and as macro mean, with confidence intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]


class ScoreError(ValueError):
    """Scores or labels that cannot be evaluated; the message names the class or record and the remedy."""


@dataclass(frozen=True)
class Score:
    """One metric in [0, 1], macro and per class, with 95 % confidence intervals over patients.

    The metric is AUROC unless the context names another one.
    """

    macro: float  # mean over the classes for which the metric is defined
    interval: Interval  # of macro
    per_class: dict[str, float | None]  # None where undefined
    class_interval: dict[str, Interval | None]
    skipped: tuple[str, ...]  # classes for which the metric is undefined: all records have the same label
    n_records: int
    n_patients: int
    positives: dict[str, int]
    replicates: Floats = field(repr=False, compare=False)  # (R,) macro of each resampling, for paired differences

    def to_json(self) -> dict[str, Any]:
        """Return every field except the replicates as plain JSON values."""
        intervals = {
            name: None if interval is None else list(interval) for name, interval in self.class_interval.items()
        }
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


def check_scores(labels: ArrayLike, scores: ArrayLike, classes: Sequence[str] | None = None) -> tuple[Bools, Floats]:
    """Return labels (N, K) as booleans and scores (N, K) in double precision.

    Raises:
        ScoreError: shapes differ, a label is not 0 or 1, or a score is not finite.
    """
    truth = np.asarray(labels)
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 2 or truth.shape != values.shape:
        raise ScoreError(f"labels {truth.shape} and scores {values.shape} must both be (N, K)")
    if not np.isin(truth, (0, 1)).all():
        raise ScoreError("labels must be 0 or 1")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = (int(index) for index in bad[0])
        name = f"class {column}" if classes is None else f"class {classes[column]}"
        raise ScoreError(
            f"{len(bad)} scores are not finite, first: record {row}, {name} = {values[row, column]}; "
            "look for non-finite embeddings"
        )
    return truth.astype(bool), values
