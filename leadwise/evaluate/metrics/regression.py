"""R², mean absolute error and Pearson's r of predicted numbers, for many weightings of the recordings at once.

R² is relative to the mean of the truth under the same weights: 1 is perfect, 0 is as good as that mean, below 0 is worse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.metrics.score import Floats

MEASURES = ("r2", "mae", "r")
_CHUNK_CELLS = 4_000_000  # weights that are converted to double precision at once


def weighted_measures(truth: Floats, predicted: Floats, weights: NDArray[Any]) -> dict[str, Floats]:
    """Return each of MEASURES as (R, Q), where recording m counts weights[r, m] times; NaN where it is undefined.

    Args:
        truth: (M, Q); a recording without a value (NaN) is left out of that target.
        predicted: (M, Q).
        weights: (R, M), not negative.
    """
    shape = len(weights), truth.shape[1]
    result = {name: np.full(shape, np.nan) for name in MEASURES}
    rows = max(1, _CHUNK_CELLS // max(1, len(truth)))
    for q in range(truth.shape[1]):
        known = np.isfinite(truth[:, q])
        if not known.any():
            continue
        y, z = truth[known, q], predicted[known, q]
        y, z = y - y.mean(), z - y.mean()  # for precision: none of the measures depends on the level
        for begin in range(0, len(weights), rows):
            some = slice(begin, begin + rows)
            block = np.asarray(weights[some][:, known], dtype=np.float64)
            for name, values in _measures(y, z, block).items():
                result[name][some, q] = values
    return result


def _measures(y: Floats, z: Floats, weight: Floats) -> dict[str, Floats]:
    """Return the measures (r,) of one target: truth and prediction (m,), and weights (r, m)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        total = weight.sum(axis=1)
        mean_y, mean_z = weight @ y / total, weight @ z / total
        variance_y = weight @ (y * y) / total - mean_y**2
        variance_z = weight @ (z * z) / total - mean_z**2
        covariance = weight @ (y * z) / total - mean_y * mean_z
        error = weight @ np.square(y - z) / total
        varies = variance_y > 1e-9 * float(np.mean(y * y))
        predicted_varies = variance_z > 1e-9 * np.maximum(variance_y, 1e-300)
        r = np.clip(covariance / np.sqrt(variance_y * variance_z), -1.0, 1.0)
        return {
            "r2": np.where(varies, 1 - error / variance_y, np.nan),
            "mae": np.where(total > 0, weight @ np.abs(y - z) / total, np.nan),
            "r": np.where(varies & predicted_varies, r, np.nan),
        }
