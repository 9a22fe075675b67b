"""Short-axis volumes of a heart: the share of each voxel that each tissue fills, and the image with its imperfections.

All that is no anatomy (brightness, surroundings, bias field, noise, position, shifts of slices) is drawn anew for each volume,
so that two volumes of a person have the anatomy in common and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.layout import CohortError
from leadwise.data.simulator.paired.geometry import Chambers
from leadwise.data.simulator.paired.population import Array

SLICE_SPACING_MM = 10.0
SLICE_THICKNESS_MM = 8.0
FIELD_MM = 92 * 1.83  # height of the image; pixels are square

LV_BLOOD, MYOCARDIUM, RV_BLOOD = 1, 2, 3
"""The labels of a mask; 0 is the background."""

_SUB = 3  # samples of a voxel in each direction
_STEP = 1e-3  # of intensity: volumes have whole steps, as a scanner stores them


@dataclass(frozen=True)
class Grid:
    """The geometry of a stack of slices, first slice at the base."""

    slices: int = 6
    rows: int = 46
    columns: int = 42

    def __post_init__(self) -> None:
        limits = {"slices": (1, 24), "rows": (16, 512), "columns": (16, 512)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise CohortError(
                    f"a volume with {getattr(self, name)} {name} cannot be simulated; give {low} to {high}"
                )
        if not 0.8 <= self.columns / self.rows <= 1.25:
            raise CohortError(f"{self.rows} x {self.columns} pixels cut the heart; give 0.8 to 1.25 columns per row")

    @property
    def pixel_mm(self) -> float:
        """Size of a pixel."""
        return FIELD_MM / self.rows

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxels between slices, rows and columns."""
        return (SLICE_SPACING_MM, self.pixel_mm, self.pixel_mm)


@dataclass(frozen=True)
class Tissue:
    """The share of each voxel that is each tissue, (slices, rows, columns) each, from 0 to 1; the rest is background."""

    lv: NDArray[np.float32]
    myocardium: NDArray[np.float32]  # with the scar
    rv: NDArray[np.float32]
    scar: NDArray[np.float32]

    def mask(self) -> NDArray[np.uint8]:
        """Return the label of the tissue with the largest share in each voxel."""
        background = 1 - self.lv - self.myocardium - self.rv
        labels = np.stack([background, self.lv, self.myocardium, self.rv]).argmax(axis=0)
        return np.asarray(labels, dtype=np.uint8)

    def counted_ml(self, grid: Grid) -> dict[str, float]:
        """Return the volumes of left cavity, myocardium, right cavity and scar in mL by counting voxels."""
        voxel = float(np.prod(grid.spacing_mm)) / 1000
        parts = {"lv": self.lv, "myocardium": self.myocardium, "rv": self.rv, "scar": self.scar}
        return {name: float(part.sum(dtype=np.float64)) * voxel for name, part in parts.items()}


def tissue(
    heart: Chambers,
    diastole: Chambers,
    grid: Grid,
    rng: np.random.Generator | None = None,
    slice_shift_mm: float = 0.0,
) -> Tissue:
    """Return the tissue of a heart in a stack that is planned on its end-diastole; without `rng` it is centred exactly.

    The apex keeps its place in space, the base moves. `slice_shift_mm` is the SD of a shift of each slice in its plane.
    """
    # position: the heart's box at end-diastole is in the middle of the image, the stack in the middle of its length
    direction = np.deg2rad(heart.rv_direction_deg)
    towards_rv = np.array([np.cos(direction), np.sin(direction)])
    level = np.array([0.6])
    circle, distance = diastole.right_radii(level)
    centre = -towards_rv * float(distance[0] + circle[0] - diastole.radii(level)[2][0]) / 2
    middle, shifts = diastole.length / 2, np.zeros((grid.slices, 2))
    if rng is not None:
        centre, middle = centre + rng.normal(0, 3.0, 2), middle + rng.normal(0, 1.5)
        shifts = rng.normal(0, 1.0, (grid.slices, 2)) * slice_shift_mm

    # samples in the plane, as positions in mm: x to the right, y down
    fine = grid.pixel_mm / _SUB
    x = ((np.arange(_SUB * grid.columns) - (_SUB * grid.columns - 1) / 2) * fine).astype(np.float32)
    y = ((np.arange(_SUB * grid.rows) - (_SUB * grid.rows - 1) / 2) * fine).astype(np.float32)
    parts = np.zeros((4, grid.slices, grid.rows, grid.columns), np.float32)
    step = SLICE_THICKNESS_MM / _SUB
    for k in range(grid.slices):
        at = middle + ((grid.slices - 1) / 2 - k) * SLICE_SPACING_MM  # height over the apex
        heights = at + (np.arange(_SUB) - (_SUB - 1) / 2) * step
        covered = np.clip((heart.length - (heights - step / 2)) / step, 0, 1)  # the share below the base
        covered[heights < 0] = 0
        if covered.any():
            levels = np.clip(heights / heart.length, 0, 1 - 1e-9)
            left, top = (centre + shifts[k]).astype(np.float32)
            parts[:, k] = _slice(heart, levels, covered / _SUB, x - left, y - top)
    return Tissue(*parts)


def image(parts: Tissue, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the cine image of a tissue, (slices, rows, columns): bright blood, dark myocardium."""
    blood, muscle = rng.normal(1.0, 0.05), rng.normal(0.38, 0.03)
    return _acquire(blood * (parts.lv + parts.rv) + muscle * parts.myocardium, parts, rng)


def scar_image(parts: Tissue, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the late-enhancement image of a tissue, (slices, rows, columns): bright scar, black myocardium, grey blood."""
    blood, muscle, scar = rng.normal(0.55, 0.05), rng.normal(0.10, 0.02), rng.normal(1.0, 0.05)
    clean = blood * (parts.lv + parts.rv) + muscle * (parts.myocardium - parts.scar) + scar * parts.scar
    return _acquire(clean, parts, rng)


def _slice(
    heart: Chambers, levels: Array, weights: Array, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the share of each pixel of one slice that is left cavity, myocardium, right cavity and scar, (4, rows, columns)."""
    squared = x**2 + y[:, None] ** 2
    direction = np.deg2rad(heart.rv_direction_deg)
    cavity, in_sector, outer = (radius.astype(np.float32) for radius in heart.radii(levels))
    circle, distance = (length.astype(np.float32) for length in heart.right_radii(levels))
    across, down = (distance * np.cos(direction)).astype(np.float32), (distance * np.sin(direction)).astype(np.float32)
    sector = None if heart.infarct is None else _sector(heart, x, y)

    fine = np.zeros((4, len(y), len(x)), np.float32)
    for k, weight in enumerate(weights.astype(np.float32)):
        disc, lv = squared < outer[k] ** 2, squared < cavity[k] ** 2
        wall = disc & ~lv
        if sector is not None and in_sector[k] < outer[k]:
            thin = squared < in_sector[k] ** 2
            wall &= thin | ~sector
            fine[3] += weight * (sector & thin & wall)
        fine[0] += weight * lv
        fine[1] += weight * wall
        if circle[k] > 0:
            right = (x - across[k]) ** 2 + (y[:, None] - down[k]) ** 2
            fine[2] += weight * ((right < circle[k] ** 2) & ~disc)
    pooled = fine.reshape(4, len(y) // _SUB, _SUB, len(x) // _SUB, _SUB).mean(axis=(2, 4))
    return np.asarray(pooled, dtype=np.float32)


def _sector(heart: Chambers, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which samples of a slice are in the sector of the infarct, (rows, columns)."""
    assert heart.infarct is not None
    angle = np.rad2deg(np.arctan2(y[:, None], x)) - heart.rv_direction_deg - heart.infarct.centre_deg
    return np.asarray(np.abs((angle + 180) % 360 - 180) < 180 * heart.infarct.width)


def _acquire(clean: NDArray[np.float32], parts: Tissue, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a clean image with surroundings, a bias field and Rician noise, in whole steps."""
    # surroundings: random patches
    slices, rows, columns = clean.shape
    patches = rng.uniform(0.1, 0.5, (slices, 6, 6))
    surroundings = patches[:, np.arange(rows)[:, None] * 6 // rows, np.arange(columns) * 6 // columns]
    signal = clean + surroundings * (1 - parts.lv - parts.myocardium - parts.rv)

    # a linear bias field, and the noise of a magnitude image
    slope = rng.normal(0, 0.08, 3)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in clean.shape), indexing="ij")
    signal = signal * (1 + sum(gain * axis for gain, axis in zip(slope, axes)))
    noise = 0.05 * rng.standard_normal((2, *clean.shape), dtype=np.float32)
    steps = np.rint(np.hypot(signal + noise[0], noise[1]) / _STEP)
    return np.asarray(steps * _STEP, dtype=np.float32)
