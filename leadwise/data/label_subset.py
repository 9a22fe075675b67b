"""Draw a random subset of a split's labelled recordings, by the same rule for the probe and for supervised training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort


class DrawError(ValueError):
    """The requested fraction of the labels cannot be drawn; the message names the fraction and the remedy."""


def subset(n: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """Positions of a random subset of floor(n x fraction) of n training recordings, by the rule of the published splits.

    Raises:
        DrawError: a fraction outside (0, 1], or too small to draw one recording.
    """
    if not 0 < fraction <= 1:
        raise DrawError(f"fraction {fraction} is not within (0, 1]; 0.01 is one percent")
    if fraction == 1:
        return np.arange(n)
    if int(n * fraction) < 1:
        raise DrawError(f"fraction {fraction:g} of {n} training recordings is none; use a larger fraction")
    from sklearn.model_selection import train_test_split

    drawn, _ = train_test_split(np.arange(n), train_size=fraction, random_state=seed)
    return np.asarray(drawn, dtype=np.int64)


def labelled_rows(
    cohort: Cohort,
    task: str,
    split: str,
    fraction: float = 1.0,
    seed: int = 42,
    of: NDArray[np.integer] | None = None,
) -> NDArray[np.int64]:
    """Row numbers of a split's recordings with labels of a task, or of a random fraction of them.

    Args:
        of: only these rows are drawn from; default: all.

    Raises:
        DrawError: as `subset`.
    """
    rows = cohort.rows(split=split, task=task)
    rows = rows if of is None else rows[np.isin(rows, of)]
    drawn: NDArray[np.int64] = rows[subset(len(rows), fraction, seed)]
    return drawn
