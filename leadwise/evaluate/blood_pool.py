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
_MARKER_PIXELS = 2.5  # radius of the seed of a ventricle
_SAMPLES = np.linspace(0, 1, 24)  # along a line between two pixels
_NEIGHBOURS = ndimage.generate_binary_structure(3, 1)


def left_blood_ml(volume: NDArray[Any], voxel_ml: float) -> float:
    """Return the blood of the left ventricle in mL in a short-axis volume (D, H, W); 0 if nothing is bright.

    Bright voxels are divided at the septum. The seeds are, in the slice with the most blood, the pixel furthest from the
    border of the blood, and the furthest of those that a dark line separates from it. A watershed on the brightness does the
    rest. The left ventricle is the rounder one of the two, in any orientation.

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
    if not bright.any():
        return 0.0

    # a watershed from one seed in each ventricle; only the part of the image with blood counts
    rows, columns = (np.flatnonzero(bright.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    box = (slice(None), slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2))
    part, blood = values[box], bright[box]
    fullest = int(blood.sum(axis=(1, 2)).argmax())
    seeds = _seeds(blood[fullest])
    row, column = np.ogrid[: part.shape[1], : part.shape[2]]
    markers = np.zeros(part.shape, dtype=np.int8)
    for number, (y, x) in enumerate(seeds, start=1):
        near = (row - y) ** 2 + (column - x) ** 2 < _MARKER_PIXELS**2
        markers[fullest][near & blood[fullest]] = number
    darkness = (255 * np.clip(1 - part / top, 0, 1)).astype(np.uint8)
    owner = ndimage.watershed_ift(darkness, markers, _NEIGHBOURS)

    # the left one is round, the right one a crescent around it
    parts = [blood & (owner == number + 1) for number in range(len(seeds))]
    left = parts[int(np.argmax([_roundness(one[fullest]) for one in parts]))]
    return float(left.sum()) * voxel_ml


def _roundness(region: NDArray[np.bool_]) -> float:
    """Return the share of a region (H, W) that its largest circle fills."""
    depth = float(_depth(region).max())
    return np.pi * depth**2 / max(1, int(region.sum()))


def _depth(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance of each pixel of a region (H, W) to its border, in pixels."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]


def _seeds(blood: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return a pixel in each ventricle of a slice (H, W); only one if no pixel is separated from it by a dark line."""
    depth = _depth(blood)
    first = np.array(np.unravel_index(int(depth.argmax()), depth.shape))
    pixels = np.argwhere(blood)
    lines = np.rint(first + (pixels - first)[:, None] * _SAMPLES[:, None]).astype(int)  # (n, samples, 2)
    hidden = pixels[~blood[lines[..., 0], lines[..., 1]].all(axis=1)]
    if not len(hidden):
        return [(int(first[0]), int(first[1]))]
    second = hidden[int(depth[hidden[:, 0], hidden[:, 1]].argmax())]
    return [(int(first[0]), int(first[1])), (int(second[0]), int(second[1]))]
