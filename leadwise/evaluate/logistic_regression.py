"""Logistic regression of the probe: one model per class on standardised features, one regularisation strength for all."""

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
    """Fitted coefficients of all classes; the scores of a class that could not be learned are constant."""

    mean: Floats  # (D,) over the training recordings
    inverse_std: Floats  # (D,) 1 / their standard deviation; 0 for a constant feature
    coefficients: Floats  # (D, K)
    intercepts: Floats  # (K,)
    strength: float  # C, chosen on validation
    val_macro: float  # macro AUROC on validation

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Return logits (N, K) of features (N, D)."""
        return np.asarray(self._standardise(features) @ self.coefficients + self.intercepts)

    def _standardise(self, features: NDArray[np.floating]) -> Floats:
        return (np.asarray(features, dtype=np.float64) - self.mean) * self.inverse_std


def standardisation(features: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Return mean (D,) and inverse standard deviation (D,) of features (n, D); the latter is 0 for a constant feature.

    A feature counts as constant if it is so up to rounding.
    """
    mean, std = features.mean(axis=0), features.std(axis=0)
    varies = std > 1e-6 * np.maximum(1e-6, np.abs(mean))
    return mean, np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)


def fit(
    train: NDArray[np.floating],
    train_labels: NDArray[np.int8],
    val: NDArray[np.floating],
    val_labels: NDArray[np.int8],
    basis: Floats | None = None,
) -> LogisticModel:
    """Fit the model at each strength and return the one with the best macro AUROC on validation.

    Of equally good strengths, the one with the strongest penalty is returned.

    Args:
        train, val: (n, D) features, not standardised; labels (n, K) in {0, 1}.
        basis: (D, N) orthonormal columns, see `principal_axes`: only these N projections of the standardised features are
            used. The coefficients of the result are those of the D features, within the span of the basis.

    Raises:
        ProbeError: no class has both label values on validation.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # standardise by the training recordings; a constant feature gets weight 0
    train_features = np.asarray(train, dtype=np.float64)
    mean, inverse_std = standardisation(train_features)
    inputs = (train_features - mean) * inverse_std
    if basis is not None:
        inputs = inputs @ basis

    # from strong to weak penalty; each fit starts at the solution of the previous strength
    learnable = np.flatnonzero(train_labels.min(axis=0) < train_labels.max(axis=0))
    models = {k: LogisticRegression(warm_start=True, max_iter=_MAX_ITERATIONS) for k in learnable}
    best: LogisticModel | None = None
    n_unconverged = 0
    for strength in STRENGTHS:
        coefficients = np.zeros((train_features.shape[1], train_labels.shape[1]))
        intercepts = np.zeros(train_labels.shape[1])
        # one BLAS thread: matrices this small are slower with several threads; the limit is set once per strength,
        # because setting it takes as long as a fit
        with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted here, logged once below
            for k, model in models.items():
                model.set_params(C=strength).fit(inputs, train_labels[:, k])
                n_unconverged += int(model.n_iter_[0] >= _MAX_ITERATIONS)
                coefficients[:, k] = model.coef_[0] if basis is None else basis @ model.coef_[0]
                intercepts[k] = model.intercept_[0]

        # keep the strength with the best macro AUROC on validation
        candidate = LogisticModel(mean, inverse_std, coefficients, intercepts, strength, np.nan)
        class_aurocs = auroc(val_labels, candidate.scores(val))
        if not np.isfinite(class_aurocs).any():
            raise ProbeError("no class has both label values in split 'val', so no strength can be chosen")
        macro = float(np.nanmean(class_aurocs))
        if best is None or macro > best.val_macro:
            best = LogisticModel(mean, inverse_std, coefficients, intercepts, strength, macro)
    if n_unconverged:
        n_fits = len(models) * len(STRENGTHS)
        log.warning("%d of %d fits stopped at %d iterations", n_unconverged, n_fits, _MAX_ITERATIONS)
    assert best is not None
    return best
