"""Which recordings of a split a share of its labels is: one rule for the probe and for what learns from labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort


class DrawError(ValueError):
    """A share of the labels that cannot be drawn; the message names the fraction and the remedy."""


def subset(n: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """Which of n training recordings a draw holds: floor(n x fraction) at random, the rule of the published splits.

    Raises:
        DrawError: a fraction outside (0, 1], or so small that no recording is drawn.
    """
    if not 0 < fraction <= 1:
        raise DrawError(f"fraction {fraction} is not within (0, 1]; 0.01 is one percent")
    if fraction == 1:
        return np.arange(n)
    if int(n * fraction) < 1:
        raise DrawError(f"fraction {fraction:g} of {n} training recordings is none; ask for a larger fraction")
    from sklearn.model_selection import train_test_split

    drawn, _ = train_test_split(np.arange(n), train_size=fraction, random_state=seed)
    return np.asarray(drawn, dtype=np.int64)


def labelled_rows(cohort: Cohort, task: str, split: str, fraction: float = 1.0, seed: int = 42) -> NDArray[np.int64]:
    """Row numbers of a split's recordings with labels of a task, or of a share of them.

    Raises:
        DrawError: as `subset`.
    """
    rows = cohort.rows(split=split, task=task)
    drawn: NDArray[np.int64] = rows[subset(len(rows), fraction, seed)]
    return drawn
