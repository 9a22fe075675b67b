"""`HeartImage`: the frames of one image file in the package's orientation, with spacing and masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BACKGROUND, LV_BLOOD, MYOCARDIUM, RV_BLOOD = 0, 1, 2, 3
"""The values of a mask."""


class VolumeError(ValueError):
    """A heart image cannot be read; the message names the file, the value and the remedy."""


@dataclass(frozen=True)
class HeartImage:
    """T frames (T, D, H, W) of a short-axis stack: slice 0 at the base, rows downwards, columns to the patient's left.

    Slices, rows and columns are right-handed in the patient: the image is never mirrored.
    """

    frames: np.ndarray  # (T, D, H, W) float32
    spacing_mm: tuple[float, float, float]  # between slices, rows and columns
    is_oriented: bool  # whether the file states where base and apex are; else its own order is taken as it is
    mask: np.ndarray | None = None  # (T, D, H, W) uint8

    @property
    def voxel_ml(self) -> float:
        """The volume of one voxel in mL."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def blood_ml(self) -> np.ndarray:
        """The LV blood volume of each frame in mL, by its mask: (T,); NaN where a frame has no LV blood, or without masks."""
        if self.mask is None:
            return np.full(len(self.frames), np.nan)
        counts = (self.mask == LV_BLOOD).reshape(len(self.mask), -1).sum(axis=1)
        return np.where(counts > 0, counts * self.voxel_ml, np.nan)
