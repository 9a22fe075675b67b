"""The left ventricle's blood in short-axis heart images, counted without a segmentation: by brightness and the dark septum.

For images in which blood is the brightest tissue, such as cine MRI and its simulation, real or generated. It is a measure for
comparing images with each other, not a segmentation: a stack that does not cover the heart gives a part of its volume.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_BRIGHTEST = 0.99  # quantile of a volume that is the brightness of blood: a small heart fills few percent of the image
_SHARE = 0.6  # of this brightness: blood is above; muscle has 0.4, surroundings up to 0.5
_LEAST_VOXELS = 20  # of a connected bright region
_MARKER_PIXELS = 2.5  # radius of the seed of a ventricle around its centre
_ROUNDS = 8  # of the search for the two centres
_NEIGHBOURS = ndimage.generate_binary_structure(3, 1)


def left_blood_ml(volume: NDArray[Any], voxel_ml: float) -> float:
    """Return the blood of the left ventricle in mL in a short-axis volume (D, H, W); 0 if nothing is bright.

    Bright voxels are divided at the septum: two centres in the plane by 2-means, and from them a watershed on the brightness.
    The left ventricle is the one further down and to the right, towards the patient's left and back: images have the
    orientation that `leadwise prepare ecg_cmr` stores.

    Args:
        voxel_ml: volume of a voxel, such as `Volume.voxel_ml`.
    """
    values = np.asarray(volume, dtype=np.float32)
    top = float(np.quantile(values, _BRIGHTEST))
    if not top > 0:
        return 0.0

    # the blood of both ventricles: bright, in regions of some size
    bright = ndimage.binary_opening(values > _SHARE * top, np.ones((1, 2, 2), dtype=bool))
    regions, _ = ndimage.label(bright)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    bright &= sizes[regions] >= _LEAST_VOXELS
    _, *places = np.nonzero(bright)
    if not len(places[0]):
        return 0.0

    # a watershed from both centres; only the part of the image with blood counts
    box = tuple(slice(max(0, int(at.min()) - 1), int(at.max()) + 2) for at in places)
    part, blood = values[:, *box], bright[:, *box]
    centres = _two_centres(np.stack(places, axis=1) - [box[0].start, box[1].start])
    row, column = np.ogrid[: part.shape[1], : part.shape[2]]
    markers = np.zeros(part.shape, dtype=np.int8)
    for number, (y, x) in enumerate(centres, start=1):
        markers[:, (row - y) ** 2 + (column - x) ** 2 < _MARKER_PIXELS**2] = number
    darkness = (255 * np.clip(1 - part / top, 0, 1)).astype(np.uint8)
    owner = ndimage.watershed_ift(darkness, markers * blood, _NEIGHBOURS)
    left = 1 + int(centres[1].sum() > centres[0].sum())
    return float((blood & (owner == left)).sum()) * voxel_ml


def _two_centres(places: NDArray[Any]) -> NDArray[np.float64]:
    """Return the centres (2, 2) of two groups of points (n, 2), by 2-means from the halves along the diagonal."""
    points = places.astype(np.float64)
    along = points.sum(axis=1)
    group = along > np.median(along)
    centres = np.zeros((2, 2))
    for _ in range(_ROUNDS):
        for number in (0, 1):
            chosen = points[group == bool(number)]
            centres[number] = chosen.mean(axis=0) if len(chosen) else points.mean(axis=0)
        group = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1).astype(bool)
    return centres
