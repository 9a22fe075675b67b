"""Ridge regression of several targets on frozen features, with a penalty for each target by cross-validation over patients.

Features are standardised by the recordings that the model is fitted on, and clipped: a feature that is nearly constant there
may be hundreds of standard deviations away elsewhere, and one such recording decides R².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.logistic_regression import standardisation
from leadwise.evaluate.metrics.score import Floats

PENALTIES = tuple(10.0 ** (k / 2) for k in range(-6, 5))  # 0.001 to 100, in units of the number of recordings
N_FOLDS = 5
MAX_FEATURE = 5.0  # standard deviations


@dataclass(frozen=True)
class Standardised:
    """The standardisation of features that a model was fitted with."""

    mean: Floats  # (D,)
    inverse_std: Floats  # (D,) 0 for a constant feature

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Standardised:
        """Return the standardisation of features (n, D)."""
        return cls(*standardisation(np.asarray(features, dtype=np.float64)))

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        """Return features (N, D) in standard deviations, clipped to MAX_FEATURE."""
        scaled = (np.asarray(features, dtype=np.float64) - self.mean) * self.inverse_std
        return np.clip(scaled, -MAX_FEATURE, MAX_FEATURE)


@dataclass(frozen=True)
class RidgeModel:
    """Fitted coefficients of Q targets."""

    standardise: Standardised
    coefficients: Floats  # (D, Q)
    intercepts: Floats  # (Q,)
    penalties: tuple[float, ...]  # of each target, in units of the number of recordings

    def predict(self, features: NDArray[np.floating]) -> Floats:
        """Return predictions (N, Q) of features (N, D)."""
        return np.asarray(self.standardise(features) @ self.coefficients + self.intercepts)


def fit_ridge(features: NDArray[np.floating], values: Floats, patients: NDArray[Any]) -> RidgeModel:
    """Fit a model on features (n, D) and values (n, Q) of recordings of `patients` (n,).

    A recording without a value (NaN) is left out of that target. Each target has the penalty with the smallest squared error
    on the left-out folds; of equally good ones, the largest.
    """
    from threadpoolctl import threadpool_limits

    coefficients = np.zeros((features.shape[1], values.shape[1]))
    intercepts, penalties = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    standardise = Standardised.of(features)
    inputs = standardise(features)
    known = np.isfinite(values)
    folds = patient_folds(patients, N_FOLDS)
    with threadpool_limits(1, user_api="blas"):  # matrices this small are slower with several threads
        # targets that the same recordings have share their decompositions
        patterns, pattern_of = np.unique(known, axis=1, return_inverse=True)
        for number, pattern in enumerate(patterns.T):
            columns = np.flatnonzero(np.ravel(pattern_of) == number)
            x, y, fold = inputs[pattern], values[np.ix_(pattern, columns)], folds[pattern]
            chosen = _choose(x, y, fold)
            center, level = x.mean(axis=0), y.mean(axis=0)
            weights = _solve(x - center, y - level)  # (P, D, q)
            for position, column in enumerate(columns):
                coefficients[:, column] = weights[chosen[position], :, position]
                penalties[column] = PENALTIES[chosen[position]]
                intercepts[column] = level[position] - center @ coefficients[:, column]
    return RidgeModel(standardise, coefficients, intercepts, tuple(penalties.tolist()))


def patient_folds(patients: NDArray[Any], n_folds: int) -> NDArray[np.int64]:
    """Return the fold (n,) of each recording, from 0: all recordings of a patient are in one, drawn with a fixed seed."""
    names, patient_of = np.unique(patients, return_inverse=True)
    folds = np.random.default_rng(0).permutation(len(names)) % n_folds
    return np.asarray(folds[np.ravel(patient_of)], dtype=np.int64)


def _choose(x: Floats, y: Floats, folds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number (q,) of the best penalty of each target by cross-validation."""
    errors = np.zeros((len(PENALTIES), y.shape[1]))
    for fold in np.unique(folds):
        inside, outside = folds != fold, folds == fold
        if not inside.any():
            continue
        center, level = x[inside].mean(axis=0), y[inside].mean(axis=0)
        weights = _solve(x[inside] - center, y[inside] - level)
        residual = (y[outside] - level)[None] - np.einsum("nd,pdq->pnq", x[outside] - center, weights, optimize=True)
        errors += np.square(residual).sum(axis=1)
    last_first = errors[::-1]  # argmin returns the first of equal ones
    return np.asarray(len(PENALTIES) - 1 - last_first.argmin(axis=0), dtype=np.int64)


def _solve(x: Floats, y: Floats) -> Floats:
    """Return the coefficients (P, D, q) at each penalty, from centred x (n, D) and y (n, q)."""
    n = len(x)
    if n >= x.shape[1]:
        variances, axes = np.linalg.eigh(x.T @ x)
        projected = axes.T @ (x.T @ y)  # (D, q)
    else:
        variances, left = np.linalg.eigh(x @ x.T)
        # in the span of the recordings: x' (x x' + p)^-1 y
        axes, projected = x.T @ left, left.T @ y
    variances = np.maximum(variances, 0.0)
    return np.stack([axes @ (projected / (variances + penalty * n)[:, None]) for penalty in PENALTIES])
