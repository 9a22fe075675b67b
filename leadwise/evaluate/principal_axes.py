"""A common width for the features of a probe, so that rows with features of different widths have the same read-out.

A wider feature vector gives a linear read-out more parameters. With a common width N, a probe reads the N principal
components of the standardised features, by scikit-learn's PCA. It is fitted on all training recordings, without labels;
validation and test recordings are not used. The components are neither scaled nor centred again: the penalty of a logistic
regression does not depend on a rotation, so the scores change only by what the dropped components contain.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leadwise.evaluate.logistic_regression import ProbeError, standardisation
from leadwise.evaluate.metrics.score import Floats


def principal_axes(train: NDArray[np.floating], width: int | None) -> Floats | None:
    """Return (D, N) the first N = `width` principal axes of standardised features; None if there is nothing to reduce.

    Features that are not wider than `width` stay as they are, and so do all features if `width` is None. Centred features
    of n recordings have at most n - 1 components, so that N is smaller for a small training split.

    Args:
        train: (n, D) features of all training recordings.

    Raises:
        ProbeError: `width` is below 1.
    """
    from sklearn.decomposition import PCA

    if width is not None and width < 1:
        raise ProbeError(f"a probe width of {width} is below 1; omit it to probe the features at their own width")
    if width is None or train.shape[1] <= width:
        return None
    features = np.asarray(train, dtype=np.float64)
    mean, inverse_std = standardisation(features)
    n_axes = max(1, min(width, len(features) - 1))
    # a fixed solver: the default one is randomised for some shapes
    fitted = PCA(n_axes, svd_solver="covariance_eigh").fit((features - mean) * inverse_std)
    return np.ascontiguousarray(fitted.components_.T)
