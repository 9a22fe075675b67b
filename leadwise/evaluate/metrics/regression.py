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
# standard deviations, in shares of the largest value, up to which a number is constant but for rounding
_CONSTANT, _CONSTANT_PREDICTION = 1e-12, 1e-7  # predictions may be of float32
_LOST = 1e-4  # a variance below this share of the squared mean is computed again around its own mean


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
        # none of the measures depends on the level, and only the error on the unit: both cost digits
        constant = _CONSTANT * np.abs(y).max(), _CONSTANT_PREDICTION * np.abs(z).max()
        level = y.mean()
        unit = float(np.abs(y - level).max()) or 1.0
        y, z = (y - level) / unit, (z - level) / unit
        for begin in range(0, len(weights), rows):
            some = slice(begin, begin + rows)
            block = np.asarray(weights[some][:, known], dtype=np.float64)
            measures = _measures(y, z, block, (constant[0] / unit, constant[1] / unit))
            for name, values in measures.items():
                result[name][some, q] = values * unit if name == "mae" else values
    return result


def _measures(y: Floats, z: Floats, weight: Floats, constant: tuple[float, float]) -> dict[str, Floats]:
    """Return the measures (r,) of one target: truth and prediction (m,), and weights (r, m).

    constant: the standard deviations up to which truth and prediction count as constant.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        total = weight.sum(axis=1)
        mean_y, mean_z = weight @ y / total, weight @ z / total
        variance_y = weight @ (y * y) / total - mean_y**2
        variance_z = weight @ (z * z) / total - mean_z**2
        covariance = weight @ (y * z) / total - mean_y * mean_z

        # far from the mean of all recordings, as without an outlier, these differences have lost their digits
        lost = np.flatnonzero((variance_y < _LOST * mean_y**2) | (variance_z < _LOST * mean_z**2))
        if len(lost):
            share = weight[lost] / total[lost, None]
            from_y, from_z = y - mean_y[lost, None], z - mean_z[lost, None]
            rest_y, rest_z = (share * from_y).sum(axis=1), (share * from_z).sum(axis=1)  # rounding of the means
            variance_y[lost] = (share * from_y**2).sum(axis=1) - rest_y**2
            variance_z[lost] = (share * from_z**2).sum(axis=1) - rest_z**2
            covariance[lost] = (share * from_y * from_z).sum(axis=1) - rest_y * rest_z

        error = weight @ np.square(y - z) / total
        varies = variance_y > constant[0] ** 2
        predicted_varies = variance_z > constant[1] ** 2
        r = np.clip(covariance / np.sqrt(variance_y) / np.sqrt(variance_z), -1.0, 1.0)
        return {
            "r2": np.where(varies, 1 - error / variance_y, np.nan),
            "mae": np.where(total > 0, weight @ np.abs(y - z) / total, np.nan),
            "r": np.where(varies & predicted_varies, r, np.nan),
        }
