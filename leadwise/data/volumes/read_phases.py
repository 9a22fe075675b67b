"""Read the phases of one recording's heart images onto one grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from leadwise.batch import Volume
from leadwise.data.volumes import geometry
from leadwise.data.volumes.heart_image import HeartImage, VolumeError
from leadwise.data.volumes.read_image import read_image
from leadwise.data.volumes.volume_file import HALF, LARGEST, SMALLEST, VolumeFile

SCAR = "scar"
"""The phase whose volume may be constant: a heart without late enhancement."""


@dataclass(frozen=True)
class Problem:
    """A phase that is left out, and why."""

    phase: str
    reason: str  # missing_file, unreadable, not_finite or constant
    detail: str


@dataclass
class Phases:
    """The phases of one recording on the grid of a `Volume`. Arrays have one entry per phase; what is absent is 0 or NaN."""

    volumes: np.ndarray  # (P, D, H, W) float32
    masks: np.ndarray  # (P, D, H, W) uint8
    present: np.ndarray  # (P,) bool
    masked: np.ndarray  # (P,) bool
    oriented: np.ndarray  # (P,) bool, whether the file states the orientation
    frame: np.ndarray  # (P,) int32, the frame of a cine; -1 for a file of one frame
    n_slices: np.ndarray  # (P,) int32, slices of the grid that the file covers
    blood_ml: np.ndarray  # (P,) float64, LV blood by the mask at the file's own resolution
    problems: list[Problem] = field(default_factory=list)

    @staticmethod
    def empty(volume: Volume) -> Phases:
        """No phase present."""
        n = len(volume.phases)
        no = np.zeros(n, dtype=bool)
        return Phases(
            np.zeros(volume.shape, dtype=np.float32), np.zeros(volume.shape, dtype=np.uint8), no.copy(), no.copy(), no.copy(),
            np.full(n, -1, dtype=np.int32), np.zeros(n, dtype=np.int32), np.full(n, np.nan),
        )  # fmt: skip


def read_phases(files: Mapping[str, VolumeFile], volume: Volume) -> Phases:
    """Return the phases of a recording on the grid of `volume`, all with the heart at the same place.

    The grid is centred on the heart by the masks of all phases, or without masks on the middle of the image. A phase that
    cannot be used is absent, with its reason in `problems`.

    Raises:
        CohortError: a library for a file's format is not installed.
    """
    # each file is read once: a cine holds several phases
    out = Phases.empty(volume)
    frames: dict[str, tuple[HeartImage, int]] = {}
    opened: dict[tuple[object, ...], HeartImage] = {}
    for phase, file in files.items():
        try:
            item = "volume" if file.item is None or file.is_frame else file.item
            key = (file.path, item, file.mask, file.labels)
            if key not in opened:
                opened[key] = read_image(file.path, item, file.mask, file.labels)
            frames[phase] = opened[key], _frame(opened[key], file)
        except (VolumeError, OSError) as error:
            absent = [path for path in (file.path, file.mask) if path is not None and not path.exists()]
            reason, detail = ("missing_file", str(absent[0])) if absent else ("unreadable", str(error))
            out.problems.append(Problem(phase, reason, detail))

    # the values of each phase, and then all of them at one place
    for phase, (image, number) in list(frames.items()):
        reason = _unusable(phase, image.frames[number])
        if reason:
            out.problems.append(Problem(phase, reason, str(files[phase].path)))
            del frames[phase]
    shapes = {(image.frames.shape[1:], image.spacing_mm) for image, _ in frames.values()}
    shared = _center(frames) if len(shapes) == 1 else None
    for phase, (image, number) in frames.items():
        place = volume.phases.index(phase)
        center = _center({phase: (image, number)}) if shared is None else shared
        mask = None if image.mask is None or not image.mask[number].any() else image.mask[number]
        _place(out, place, image, number, mask, volume, center)
        out.frame[place] = number if len(image.frames) > 1 else -1
    return out


def _place(
    out: Phases, place: int, image: HeartImage, number: int, mask: np.ndarray | None, volume: Volume, center: np.ndarray
) -> None:
    """Write one frame of an image to the phase number `place`."""
    if geometry.matches(image, volume):
        out.volumes[place], out.n_slices[place] = image.frames[number], volume.slices
        if mask is not None:
            out.masks[place] = mask
    else:
        out.volumes[place] = geometry.resample(image.frames[number], image.spacing_mm, volume, center)
        out.n_slices[place] = geometry.n_covered(image.frames.shape[1], image.spacing_mm[0], volume, float(center[0]))
        if mask is not None:
            out.masks[place] = geometry.resample(mask, image.spacing_mm, volume, center, is_mask=True)
    out.present[place], out.masked[place], out.oriented[place] = True, mask is not None, image.is_oriented
    if mask is not None:
        out.blood_ml[place] = image.blood_ml()[number]


def _center(frames: Mapping[str, tuple[HeartImage, int]]) -> np.ndarray:
    """The middle (3,) of the heart in voxels of images of one shape; without masks the middle of the image."""
    masks = [image.mask[number] for image, number in frames.values() if image.mask is not None]
    center = geometry.heart_center(masks)
    if center is not None:
        return center
    image, _ = next(iter(frames.values()))
    return (np.array(image.frames.shape[1:]) - 1) / 2.0


def _frame(image: HeartImage, file: VolumeFile) -> int:
    """The number of the frame that a file's item names.

    Raises:
        VolumeError: there is no such frame, or its rule needs masks that the image does not have.
    """
    n_frames = len(image.frames)
    if not file.is_frame:
        if n_frames > 1:
            raise VolumeError(f"{file.path}: it has {n_frames} frames; give it as a cine, or a file with one frame")
        return 0
    assert file.item is not None
    blood, item = image.blood_ml(), file.item
    if item in (LARGEST, SMALLEST) and not np.isfinite(blood).any() and file.otherwise is not None:
        item = file.otherwise
    if item.isdecimal():
        if int(item) >= n_frames:
            raise VolumeError(f"{file.path}: there is no frame {item}; its {n_frames} frames count from 0")
        return int(item)
    if item == HALF:
        return n_frames // 2
    if not np.isfinite(blood).any():
        raise VolumeError(
            f"{file.path}: no mask has LV blood, so that the frame with the {file.item} volume is not known; give masks, or "
            "the frame's number"
        )
    return int({LARGEST: np.nanargmax, SMALLEST: np.nanargmin}[item](blood))


def _unusable(phase: str, frame: np.ndarray) -> str:
    """Why the values of a frame cannot be used; '' if they can."""
    if not np.isfinite(frame).all():
        return "not_finite"
    return "constant" if phase != SCAR and frame.min() == frame.max() else ""
