"""The linear model of a probe: a logistic regression per class on standardised features, one strength for all classes."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.metrics.score import Floats

log = logging.getLogger(__name__)

STRENGTHS = (1e-4, 6e-4, 4e-3, 2.5e-2, 0.16, 1.0)  # C: weight of the summed loss against half the squared norm

_MAX_ITERATIONS = 1000


class ProbeError(ValueError):
    """A task that cannot be probed; the message names the split or fraction and the remedy."""


@dataclass(frozen=True)
class LogisticModel:
    """A fitted model; the scores of a class that could not be learnt are constant."""

    mean: Floats  # (D,) of the recordings it was fitted on
    per_spread: Floats  # (D,) 1 / their spread; 0 where they do not vary
    slopes: Floats  # (D, K)
    level: Floats  # (K,)
    strength: float  # chosen on validation
    val_macro: float

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """(N, K) logits of features (N, D)."""
        return np.asarray(self._standardised(features) @ self.slopes + self.level)

    def _standardised(self, features: NDArray[np.floating]) -> Floats:
        return (np.asarray(features, dtype=np.float64) - self.mean) * self.per_spread


def fit(
    train: NDArray[np.floating], train_labels: NDArray[np.int8], val: NDArray[np.floating], val_labels: NDArray[np.int8]
) -> LogisticModel:
    """The model of the strength with the best macro AUROC on validation, the strongest penalty of equals.

    Args:
        train, val: (n, D) features as they are; labels (n, K) in {0, 1}.

    Raises:
        ProbeError: no class has both label values on validation.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    wide = np.asarray(train, dtype=np.float64)
    mean, spread = wide.mean(axis=0), wide.std(axis=0)
    varies = spread > 1e-6 * np.maximum(1e-6, np.abs(mean))  # beyond rounding
    per_spread = np.where(varies, 1.0 / np.where(varies, spread, 1.0), 0.0)
    inputs = (wide - mean) * per_spread
    learnable = np.flatnonzero(train_labels.min(axis=0) < train_labels.max(axis=0))
    fits = {k: LogisticRegression(warm_start=True, max_iter=_MAX_ITERATIONS) for k in learnable}
    best: LogisticModel | None = None
    unfinished = 0
    for strength in STRENGTHS:  # from strong to weak penalty, each from where the last one ended
        slopes, level = np.zeros((wide.shape[1], train_labels.shape[1])), np.zeros(train_labels.shape[1])
        # products this small take longer when threads wait for each other; to set the limit takes as long as a fit
        with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted here, told once below
            for k, model in fits.items():
                model.set_params(C=strength).fit(inputs, train_labels[:, k])
                unfinished += int(model.n_iter_[0] >= _MAX_ITERATIONS)
                slopes[:, k], level[k] = model.coef_[0], model.intercept_[0]
        found = LogisticModel(mean, per_spread, slopes, level, strength, np.nan)
        each = auroc(val_labels, found.scores(val))
        if not np.isfinite(each).any():
            raise ProbeError("no class has both label values in split 'val', so no strength can be chosen")
        macro = float(np.nanmean(each))
        if best is None or macro > best.val_macro:
            best = LogisticModel(mean, per_spread, slopes, level, strength, macro)
    if unfinished:
        log.warning("%d of %d fits stopped at %d iterations", unfinished, len(fits) * len(STRENGTHS), _MAX_ITERATIONS)
    assert best is not None
    return best
