"""Read the heart image of a file: `.npz`, NIfTI, or a folder of a DICOM short-axis series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadwise.data.volumes.heart_image import HeartImage, VolumeError
from leadwise.files import DamagedNpzError, npz_names, read_npz

_NIFTI = (".nii", ".nii.gz")
_SAME = 0.02  # relative difference of two spacings that count as the same


def read_image(
    path: Path, item: str = "volume", mask: Path | None = None, labels: tuple[int, int, int] = (1, 2, 3)
) -> HeartImage:
    """Return the frames of an image file in the package's orientation, with the masks of `mask` or of its own .npz.

    Args:
        path: `.npz`, `.nii`, `.nii.gz`, or a folder with the DICOM files of one short-axis series.
        item: the name of the array in an `.npz`.
        mask: a file of the same shape.
        labels: the mask's numbers of LV blood, myocardium and RV blood; other numbers are background.

    Raises:
        VolumeError: a file is missing, damaged or of another kind, or its shape or values cannot be a heart image.
        CohortError: a library for its format is not installed.
    """
    image = _read(path, item)
    if mask is not None:
        stored = _read(mask, "mask")
        if stored.frames.shape != image.frames.shape:
            raise VolumeError(
                f"{mask}: the mask has shape {stored.frames.shape}, but {path.name} has {image.frames.shape}; give the "
                "mask of this image"
            )
        pairs = zip(stored.spacing_mm, image.spacing_mm)
        if not all(abs(one - other) <= _SAME * other for one, other in pairs):
            raise VolumeError(
                f"{mask}: the mask has a spacing of {_listed(stored.spacing_mm)} mm, but {path.name} has "
                f"{_listed(image.spacing_mm)}; give the mask of this image"
            )
        if stored.is_oriented != image.is_oriented:
            raise VolumeError(
                f"{mask}: only one of the mask and {path.name} states its orientation in the patient, so that they may be "
                "turned against each other; write the mask with the header of its image"
            )
        numbers = stored.frames
    elif path.suffix.lower() == ".npz":
        own = _npz_mask(path, image.frames.shape)
        if own is None:
            return image
        numbers = own
    else:
        return image
    values = np.zeros(numbers.shape, dtype=np.uint8)
    for value, label in enumerate(labels, start=1):
        values[numbers == label] = value
    return HeartImage(image.frames, image.spacing_mm, image.is_oriented, values)


def _read(path: Path, item: str) -> HeartImage:
    """The image of one file, checked."""
    if not path.exists():
        raise VolumeError(f"{path}: there is no such file")
    if path.is_dir():
        from leadwise.data.volumes.dicom_series import read_series

        image = read_series(path)
    elif path.name.lower().endswith(_NIFTI):
        from leadwise.data.volumes.nifti import read_nifti

        image = read_nifti(path)
    elif path.suffix.lower() == ".npz":
        image = _read_npz(path, item)
    else:
        raise VolumeError(
            f"{path}: it is no heart image that can be read; give .npz, .nii, .nii.gz or the folder of a DICOM series"
        )
    return image


def _read_npz(path: Path, item: str) -> HeartImage:
    arrays = _arrays(path, item, "spacing_mm")
    if len({item, "spacing_mm"} & arrays.keys()) < 2:
        missing = item if item not in arrays else "spacing_mm"
        raise VolumeError(f"{path}: it has no array '{missing}', only {', '.join(npz_names(path))}; store it there")
    frames, spacing_mm = arrays[item], arrays["spacing_mm"]
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or not frames.size or frames.dtype.kind not in "fiub":
        raise VolumeError(
            f"{path}: '{item}' has shape {frames.shape} and type {frames.dtype}; it must be numbers (slices, rows, columns), "
            "or (frames, slices, rows, columns)"
        )
    if spacing_mm.shape != (3,) or spacing_mm.dtype.kind not in "fiu" or not _is_spacing(spacing_mm):
        raise VolumeError(f"{path}: spacing_mm must be three distances > 0 in mm: between slices, rows and columns")
    row, column, depth = float(spacing_mm[1]), float(spacing_mm[2]), float(spacing_mm[0])
    return HeartImage(frames.astype(np.float32), (depth, row, column), True)


def _npz_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The masks (T, D, H, W) that an .npz has beside its image; None if it has none."""
    mask = _arrays(path, "mask").get("mask")
    if mask is None:
        return None
    mask = mask[None] if mask.ndim == 3 else mask
    if mask.shape != shape or mask.dtype.kind not in "iub":
        raise VolumeError(
            f"{path}: 'mask' has shape {mask.shape} and type {mask.dtype}; it must be whole numbers of shape {shape}"
        )
    return mask


def _is_spacing(spacing_mm: np.ndarray) -> bool:
    return bool((spacing_mm > 0).all() and np.isfinite(spacing_mm).all())


def _listed(spacing_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{step:.4g}" for step in spacing_mm)


def _arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Those of these arrays that an .npz has; the others of the file are not read."""
    try:
        return read_npz(path, names)
    except DamagedNpzError as error:
        raise VolumeError(f"{path}: {error}; write it again with numpy.savez") from None
