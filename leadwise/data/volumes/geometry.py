"""Bring heart images into one orientation and one grid. Positions are in the patient: left, posterior, superior (LPS), in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leadwise.batch import Volume
from leadwise.data.volumes.heart_image import HeartImage

_TO_APEX = np.array([1.0, -1.0, -1.0]) / np.sqrt(3.0)  # the long axis of a heart: left, anterior, inferior
_SAME = 0.02  # relative difference of two spacings that count as the same
_LEAST_ANGLE = 0.25  # of an axis with a direction in the patient that decides its sign; below it nothing is decided


def orient(frames: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, list[int], bool]:
    """Return frames (T, D, H, W) in the package's orientation, the order of the axes D, H, W, and whether it is known.

    The first spatial axis is the one between slices. Slices run from base to apex, that is to the left, front and feet;
    rows run towards the feet; columns complete a right-handed system, so that an image is never mirrored. A stack whose axes
    are exactly those of the patient is no short-axis stack: its file has lost the orientation, and it is returned unchanged.

    Args:
        frames: (T, D, H, W) in the file's order.
        directions: (3, 3), in LPS the unit vector along which each of the axes D, H and W of `frames` increases.
    """
    # a short-axis stack is oblique; one along the patient's axes has an invented orientation
    toward_apex = float(directions[0] @ _TO_APEX)
    if np.allclose(np.abs(directions).max(axis=1), 1.0, atol=1e-4) or abs(toward_apex) < _LEAST_ANGLE:
        return frames, [0, 1, 2], False

    # slices to the apex; the in-plane axis that is nearest to head and feet becomes the rows
    order = [0, 1, 2] if abs(directions[1, 2]) >= abs(directions[2, 2]) else [0, 2, 1]
    frames, directions = frames.transpose(0, *(1 + axis for axis in order)), directions[order]
    turn = [toward_apex < 0, directions[1, 2] > 0]
    signs = np.array([-1.0 if is_turned else 1.0 for is_turned in turn])
    along_columns = np.cross(signs[0] * directions[0], signs[1] * directions[1])
    turn.append(bool(along_columns @ directions[2] < 0))
    steps = tuple(slice(None, None, -1 if is_turned else 1) for is_turned in turn)
    return np.ascontiguousarray(frames[(slice(None), *steps)]), order, True


def heart_center(masks: Sequence[np.ndarray]) -> np.ndarray | None:
    """The middle (3,) of the heart in voxels: of the slices with LV, and of the rows and columns with heart; None without masks.

    `masks` are (D, H, W) uint8 of equal shape.
    """
    together = np.stack([mask for mask in masks if mask.any()]) if any(mask.any() for mask in masks) else None
    if together is None:
        return None
    ventricle = np.isin(together, (1, 2)).any(axis=(0, 2, 3))
    slices = np.flatnonzero(ventricle if ventricle.any() else together.any(axis=(0, 2, 3)))
    rows, columns = np.flatnonzero(together.any(axis=(0, 1, 3))), np.flatnonzero(together.any(axis=(0, 1, 2)))
    return np.array([(one[0] + one[-1]) / 2.0 for one in (slices, rows, columns)])


def matches(image: HeartImage, volume: Volume) -> bool:
    """Whether an image has the shape and the spacing of `volume` already: then it is stored as it is."""
    return image.frames.shape[1:] == volume.shape[1:] and all(
        abs(one - other) <= _SAME * other for one, other in zip(image.spacing_mm, volume.spacing_mm)
    )


def resample(
    values: np.ndarray, spacing_mm: Sequence[float], volume: Volume, center: np.ndarray, is_mask: bool = False
) -> np.ndarray:
    """Return an image (D0, H0, W0) on the grid of `volume`, (D, H, W) float32, with `center` (3,) in voxels in its middle.

    A coarser grid averages, a finer one interpolates linearly; an axis with the same spacing is shifted by whole voxels, so
    that neither slices nor pixels are blurred. Outside of the image is its lowest value. A mask takes the nearest voxel,
    and 0 outside.
    """
    out = values if is_mask else values.astype(np.float32)
    low = 0 if is_mask else out.min()
    out = out - low
    for axis, n_out in enumerate(volume.shape[1:]):
        places = _places(n_out, out.shape[axis], spacing_mm[axis], volume.spacing_mm[axis], float(center[axis]))
        if is_mask:
            nearest = np.rint(places).astype(int)
            inside = (nearest >= 0) & (nearest < out.shape[axis])
            taken = np.take(out, np.clip(nearest, 0, out.shape[axis] - 1), axis=axis)
            out = np.moveaxis(np.moveaxis(taken, axis, -1) * inside, -1, axis)
        else:
            width = max(1.0, volume.spacing_mm[axis] / spacing_mm[axis])
            weights = _weights(places, out.shape[axis], width)
            out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
    return (out if is_mask else (out + low)).astype(np.uint8 if is_mask else np.float32)


def n_covered(n_in: int, spacing_mm: float, volume: Volume, center: float) -> int:
    """How many slices of `volume` are inside a stack of `n_in` slices, whose middle slice for the grid is `center`."""
    places = _places(volume.slices, n_in, spacing_mm, volume.spacing_mm[0], center)
    return int(((places >= -0.5) & (places <= n_in - 0.5)).sum())


def _places(n_out: int, n_in: int, spacing_in: float, spacing_out: float, center: float) -> np.ndarray:
    """Where each voxel of the grid is, in voxels of the image: (n_out,)."""
    ratio = spacing_out / spacing_in
    if abs(ratio - 1.0) <= _SAME:
        first = np.floor(center - (n_out - 1) / 2.0 + 0.5)  # whole voxels; a half is rounded up
        return np.asarray(first + np.arange(n_out))
    return np.asarray(center + (np.arange(n_out) - (n_out - 1) / 2.0) * ratio)


def _weights(places: np.ndarray, n_in: int, width: float) -> np.ndarray:
    """Weights (n_out, n_in): how much of a box of `width` voxels around each place is in each voxel; 0 outside the image.

    A box of one voxel is linear interpolation.
    """
    voxels, middles = np.arange(n_in), places[:, None]
    overlap = np.minimum(middles + width / 2, voxels + 0.5) - np.maximum(middles - width / 2, voxels - 0.5)
    weights = np.clip(overlap, 0.0, None)
    inside = (places >= -0.5) & (places <= n_in - 0.5)
    total = weights.sum(axis=1)
    return np.asarray(
        np.where((inside & (total > 0))[:, None], weights / np.where(total > 0, total, 1.0)[:, None], 0.0)
    )
