"""Read a NIfTI file (`.nii`, `.nii.gz`) of a short-axis stack, one frame or a cine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadwise.data.cohort.layout import CohortError
from leadwise.data.volumes.geometry import orient
from leadwise.data.volumes.heart_image import HeartImage, VolumeError
from leadwise.files import first_line

_THICKER = 1.5  # the distance between slices is so many times that of pixels, where the file's third axis is another


def read_nifti(path: Path) -> HeartImage:
    """Return the image of a NIfTI file in the package's orientation.

    The axis of the slices is the one with by far the largest spacing, else the third.

    Raises:
        VolumeError: the file is damaged, or it is no stack of slices.
        CohortError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise CohortError(f"{path}: NIfTI files need nibabel: pip install 'leadwise[cmr]'") from None

    # axes i, j, k and frames; nibabel's positions are right, anterior, superior
    try:
        file = nibabel.load(path)
        values = np.asarray(file.dataobj, dtype=np.float32)
        affine = np.asarray(file.affine, dtype=np.float64)
    except Exception as error:  # nibabel, zlib and gzip raise a dozen types for a damaged file
        raise VolumeError(f"{path}: it is damaged or no NIfTI file ({first_line(error)}); convert it again") from None
    values = values[..., None] if values.ndim == 3 else values
    if values.ndim != 4 or not values.size:
        raise VolumeError(
            f"{path}: it has shape {values.shape}; it must be slices of one or more frames, in 3 or 4 axes"
        )
    steps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    if not np.isfinite(spacing).all() or not (spacing > 0).all():
        raise VolumeError(f"{path}: its spacing {spacing.tolist()} mm is not usable; convert it again with its spacing")

    # slices, rows, columns: a NIfTI file's first axis runs along the columns
    largest = int(np.argmax(spacing))
    between = largest if spacing[largest] > _THICKER * np.sort(spacing)[1] else 2
    columns, rows = (axis for axis in range(3) if axis != between)
    axes = [between, rows, columns]
    frames, order, is_oriented = orient(values.transpose(3, *axes), (steps / spacing).T[axes])
    depth, row, column = (float(spacing[axes[axis]]) for axis in order)
    return HeartImage(np.ascontiguousarray(frames), (depth, row, column), is_oriented)
