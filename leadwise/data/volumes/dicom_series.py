"""Read the DICOM files of one short-axis series from a folder: one frame or a cine of each slice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.cohort.layout import CohortError
from leadwise.data.messages import first_few
from leadwise.data.volumes.geometry import orient
from leadwise.data.volumes.heart_image import HeartImage, VolumeError

_SAME_SLICE_MM = 0.5  # between the positions of two images of one slice
_SAME_DIRECTION = 1e-3
_UNEVEN = 0.1  # of the distance between slices: a larger difference means that a slice is missing


def read_series(folder: Path) -> HeartImage:
    """Return the image of a DICOM series in the package's orientation.

    Images are sorted by position along the normal of the slices, and within a slice by trigger time, else by instance
    number. Files of the folder that are no DICOM images are passed over.

    Raises:
        VolumeError: no image, images of several directions or sizes, slices that are missing or have fewer frames.
        CohortError: pydicom is not installed.
    """
    images = _images(folder)
    rows, columns, pixel_mm = _plane(folder, images)
    normal = np.cross(rows, columns)

    # slices by position, frames by time
    slices: dict[float, list[Any]] = defaultdict(list)
    for image in images:
        place = float(np.asarray(image.ImagePositionPatient, dtype=np.float64) @ normal)
        near = next((other for other in slices if abs(other - place) < _SAME_SLICE_MM), place)
        slices[near].append(image)
    places = sorted(slices)
    counts = {len(of_slice) for of_slice in slices.values()}
    if len(counts) > 1:
        raise VolumeError(
            f"{folder}: its {len(places)} slices have {min(counts)} to {max(counts)} frames; fetch the missing images, or "
            "give a folder with one series only"
        )
    distances = np.diff(places)
    if len(places) > 1 and distances.max() - distances.min() > _UNEVEN * distances.min():
        raise VolumeError(
            f"{folder}: its slices are {distances.min():.3g} to {distances.max():.3g} mm apart, so that one is missing; fetch "
            "it, or give a folder with one stack only"
        )
    ordered = [sorted(slices[place], key=_time) for place in places]
    frames = np.stack([[_pixels(folder, image) for image in of_slice] for of_slice in ordered], axis=1)  # (T, D, H, W)

    # an image's rows of pixels run along `rows`: that is the direction of its columns
    spacing = (_slice_mm(images[0], distances), *pixel_mm)
    turned, order, is_oriented = orient(frames, np.stack([normal, columns, rows]))
    depth, row, column = (float(spacing[axis]) for axis in order)
    return HeartImage(np.ascontiguousarray(turned), (depth, row, column), is_oriented)


def _images(folder: Path) -> list[Any]:
    """The data sets of the folder's DICOM images of one series."""
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise CohortError(f"{folder}: DICOM series need pydicom: pip install 'leadwise[cmr]'") from None
    images = []
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        try:
            image = pydicom.dcmread(file)
        except InvalidDicomError:
            continue
        except (OSError, ValueError, EOFError) as error:
            raise VolumeError(f"{file}: it is damaged ({error}); fetch it again") from None
        if "PixelData" in image and "ImagePositionPatient" in image and "ImageOrientationPatient" in image:
            images.append(image)
    if not images:
        raise VolumeError(
            f"{folder}: it has no DICOM image with a position in the patient; give the folder of one short-axis series"
        )
    series = sorted({str(image.get("SeriesInstanceUID", "")) for image in images})
    if len(series) > 1 and any(len({_place(image) for image in images if image.get("SeriesInstanceUID") == one}) > 1
                               for one in series):  # fmt: skip
        # a scanner may store each slice of a stack as a series of its own: those are one stack
        raise VolumeError(f"{folder}: it has {len(series)} series; give a folder with one short-axis series")
    return images


def _place(image: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 1) for value in image.ImagePositionPatient)


def _plane(folder: Path, images: list[Any]) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """The direction along a row, along a column, and the spacing between rows and columns, which all images share."""
    first = np.asarray(images[0].ImageOrientationPatient, dtype=np.float64)
    spacing = tuple(float(value) for value in images[0].get("PixelSpacing", ()))
    size = (int(images[0].Rows), int(images[0].Columns))
    for image in images:
        other = np.asarray(image.ImageOrientationPatient, dtype=np.float64)
        if np.abs(other - first).max() > _SAME_DIRECTION:
            raise VolumeError(
                f"{folder}: its images have several directions, as in long-axis views; give a folder with one short-axis series"
            )
        if (int(image.Rows), int(image.Columns)) != size or tuple(map(float, image.get("PixelSpacing", ()))) != spacing:
            raise VolumeError(f"{folder}: its images have several sizes or spacings; give a folder with one series")
    if len(spacing) != 2 or min(spacing) <= 0:
        raise VolumeError(f"{folder}: its images state no PixelSpacing above 0; fetch them again with it")
    return first[:3], first[3:], (spacing[0], spacing[1])


def _time(image: Any) -> tuple[float, int]:
    """What sorts the frames of a slice."""
    trigger = image.get("TriggerTime", None)
    return (float(trigger) if trigger is not None else 0.0, int(image.get("InstanceNumber", None) or 0))


def _slice_mm(image: Any, distances: np.ndarray) -> float:
    """The distance between slices: of their positions, else as the image states it."""
    if len(distances):
        return float(np.median(distances))
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = image.get(name, None)
        if value:
            return float(value)
    return 10.0


def _pixels(folder: Path, image: Any) -> np.ndarray:
    """The intensities (H, W) float32 of an image."""
    try:
        pixels = np.asarray(image.pixel_array, dtype=np.float32)
    except (AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
        reason = first_few([str(error).splitlines()[0] if str(error) else type(error).__name__])
        raise VolumeError(
            f"{folder}: the pixels of an image cannot be decoded ({reason}); store them uncompressed"
        ) from None
    if pixels.ndim != 2:
        raise VolumeError(f"{folder}: an image has shape {pixels.shape}; give a series of single greyscale images")
    slope, intercept = image.get("RescaleSlope", None), image.get("RescaleIntercept", None)
    return pixels * np.float32(1.0 if slope is None else slope) + np.float32(0.0 if intercept is None else intercept)
