"""The chambers of a heart at one instant of contraction: surfaces of revolution with given volumes and a conserved wall.

The left ventricular cavity is a spheroid with semi-axes (r, r, a), cut half a semi-axis above its equator; the epicardium is
one with (r + w, a + 0.7 w) and the same cut. In each slice the right ventricle is a circle minus the disc of the left one.
An infarct does not change the cavity: its wall is thin at its outer side, and the rest of the wall is thicker by as much.
Lengths are in mm, volumes in mL. z counts from the equator towards the base.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leadwise.data.simulator.paired.population import LATENTS, Array, phenotypes

DENSITY_G_PER_ML = 1.05  # of the myocardium
TERRITORIES: dict[str, float] = {"anterior": 70.0, "inferior": -80.0, "lateral": 180.0}
"""Territories of an infarct: angle of its centre from the direction of the right ventricle, in degrees."""

_APEX_SHARE = 0.7  # wall at the apex, as a share of the wall at the equator
_SHORTENING = 0.25  # of the long axis, per unit of ejection fraction
_RV_LENGTH = 0.85  # of the long semi-axis of the epicardium
_CUT = 1.125  # volume of the cut spheroid, as a multiple of pi r² a
_THINNING = 0.30  # of an infarct's wall at end-diastole
_N_LEVELS = 96  # slices of the numerical integrals
_LEVELS: Array = (np.arange(_N_LEVELS) + 0.5) / _N_LEVELS  # 0 is the apex of the epicardium, 1 the base


@dataclass(frozen=True)
class Infarct:
    """A scar that is a sector of the wall: no thickening, and a thin wall."""

    territory: str  # one of TERRITORIES
    share: float  # of the myocardium, as drawn
    centre_deg: float  # from the direction of the right ventricle
    width: float  # share of the circumference
    low: float  # first and last level: 0 is the apex, 1 the base
    high: float


@dataclass(frozen=True)
class Chambers:
    """One heart at one instant."""

    long_axis: float  # a: semi-axis of the cavity
    radius: float  # r: short semi-axis
    wall: float  # w: wall at the equator, outside an infarct
    rv_radius: float  # Q: radius of the right ventricle at the equator
    rv_direction_deg: float  # of the right ventricle in the image: 0 is right, 90 down
    infarct: Infarct | None
    scar_wall: Array  # (levels,) wall in the infarct; infinite outside it

    @property
    def epicardium(self) -> float:
        """Long semi-axis of the epicardium."""
        return self.long_axis + _APEX_SHARE * self.wall

    @property
    def base(self) -> float:
        """z of the base."""
        return self.long_axis / 2

    @property
    def length(self) -> float:
        """Length from the apex of the epicardium to the base."""
        return self.epicardium + self.base

    def radii(self, level: Array) -> tuple[Array, Array, Array]:
        """Return the radii of cavity, epicardium in the infarct's sector, and epicardium at levels from 0 (apex) to 1 (base)."""
        z = -self.epicardium + level * self.length
        cavity = self.radius * np.sqrt(np.maximum(0, 1 - (z / self.long_axis) ** 2))
        outer = (self.radius + self.wall) * np.sqrt(np.maximum(0, 1 - (z / self.epicardium) ** 2))
        scar_wall = self.scar_wall[np.clip((level * _N_LEVELS).astype(np.int64), 0, _N_LEVELS - 1)]
        return cavity, np.minimum(outer, cavity + scar_wall), outer

    def right_radii(self, level: Array) -> tuple[Array, Array]:
        """Return the radius of the right ventricle's circle, 0 where it is absent, and its distance from the left's axis."""
        z = -self.epicardium + level * self.length
        circle = self.rv_radius * np.sqrt(np.maximum(0, 1 - (z / (_RV_LENGTH * self.epicardium)) ** 2))
        return circle, 0.75 * self.radii(level)[2] + 0.25 * circle

    def volumes(self) -> dict[str, float]:
        """Return the volumes of left cavity, myocardium, scar and right cavity in mL, by numerical integration."""
        cavity, in_sector, outer = self.radii(_LEVELS)
        width = self.infarct.width if self.infarct else 0.0
        inside = np.isfinite(self.scar_wall)
        step = self.length / _N_LEVELS / 1000
        muscle = np.pi * ((1 - width) * outer**2 + width * in_sector**2 - cavity**2)
        scar = width * np.pi * (in_sector**2 - cavity**2)[inside]
        circle, distance = self.right_radii(_LEVELS)
        right = np.pi * circle**2 - circle_overlap(circle, outer, distance)
        return {
            "lv": float((np.pi * cavity**2).sum() * step),
            "myocardium": float(muscle.sum() * step),
            "scar": float(scar.sum() * step),
            "rv": float(right.sum() * step),
        }


def chambers(anatomy: Array, contraction: float, infarct: Infarct | None = None) -> Chambers:
    """Return the chambers of a person with `anatomy` (9,) when `contraction` of the stroke volume has left the heart.

    A contraction of 0 is end-diastole, 1 end-systole. The myocardial volume is the same at each contraction.
    """
    # end-diastole first: it decides the long axis and the wall of an infarct
    x = dict(zip(LATENTS, anatomy))
    y = {name: float(values[0]) for name, values in phenotypes(anatomy[None]).items()}
    sphericity, muscle = float(np.exp(x["ln_sphericity"])), y["lvmass"] / DENSITY_G_PER_ML
    direction = 180 + float(x["frontal_deg"]) - LATENTS["frontal_deg"][0]
    diastole = _left(y["lvedv"], muscle, None, sphericity, infarct, direction, None)
    heart = diastole
    if contraction > 0:
        shortened = diastole.long_axis * (1 - _SHORTENING * contraction * y["lvef"] / 100)
        volume = y["lvedv"] - contraction * y["lvsv"]
        heart = _left(volume, muscle, shortened, sphericity, infarct, direction, diastole)
    return _with_right(heart, y["rvedv"] - contraction * y["rvsv"])


def draw_infarct(rng: np.random.Generator) -> Infarct:
    """Draw an infarct: its territory, 5 to 35 % of the myocardium, and its place."""
    territory = str(rng.choice(list(TERRITORIES)))
    share = float(rng.uniform(0.05, 0.35))
    wall_share = share / (1 - _THINNING + _THINNING * share)  # of the wall before it became thin
    width = max(float(np.sqrt(wall_share * rng.uniform(0.5, 0.8))), wall_share / 0.85)
    height = wall_share / width
    centre = float(rng.uniform(0.4, 0.6))
    low = float(np.clip(centre - height / 2, 0.1, 0.98 - height))
    return Infarct(territory, share, TERRITORIES[territory] + float(rng.normal(0, 10)), width, low, low + height)


def circle_overlap(one: Array, other: Array, distance: Array) -> Array:
    """Return the area that two circles with radii `one` and `other` have in common at a distance of their centres."""
    small = np.minimum(one, other)
    apart, within = distance >= one + other, distance <= np.abs(one - other)
    partial = ~(apart | within)
    a, b, d = (np.where(partial, values, default) for values, default in ((one, 1.0), (other, 1.0), (distance, 1.0)))
    angle_a = np.arccos(np.clip((d**2 + a**2 - b**2) / (2 * d * a), -1, 1))
    angle_b = np.arccos(np.clip((d**2 + b**2 - a**2) / (2 * d * b), -1, 1))
    kite = 0.5 * np.sqrt(np.maximum(0, (-d + a + b) * (d + a - b) * (d - a + b) * (d + a + b)))
    lens = a**2 * angle_a + b**2 * angle_b - kite
    return np.where(partial, lens, np.where(within & ~apart, np.pi * small**2, 0.0))


def _left(
    volume: float,
    muscle: float,
    long_axis: float | None,
    sphericity: float,
    infarct: Infarct | None,
    direction: float,
    diastole: Chambers | None,
) -> Chambers:
    """Return the left ventricle with a cavity and a wall of given volumes; the long axis follows from the shape if not given."""
    # the cavity in closed form
    section = 1000 * volume / (_CUT * np.pi)
    axis = float((section / sphericity**2) ** (1 / 3)) if long_axis is None else long_axis
    radius = float(np.sqrt(section / axis))

    def shape(wall: float) -> Chambers:
        heart = Chambers(axis, radius, wall, 0.0, direction, infarct, np.full(_N_LEVELS, np.inf))
        return heart if infarct is None else _with_scar(heart, infarct, diastole)

    # the wall by Newton's method in logarithms
    log_wall, step = float(np.log(0.35 * radius * (muscle / volume) ** 0.8)), 1e-4
    for _ in range(30):
        now, after = (np.log(shape(np.exp(at)).volumes()["myocardium"] / muscle) for at in (log_wall, log_wall + step))
        if abs(now) < 1e-5:
            break
        log_wall -= float(np.clip(now * step / (after - now), -0.5, 0.5))
    return shape(float(np.exp(log_wall)))


def _with_scar(heart: Chambers, infarct: Infarct, diastole: Chambers | None) -> Chambers:
    """Return the heart with the wall of the infarct: thin at end-diastole, and of the same thickness later."""
    if diastole is None:
        cavity, _, outer = heart.radii(_LEVELS)
        inside = (infarct.low <= _LEVELS) & (infarct.high > _LEVELS) & (cavity > 0)
        scar_wall = np.where(inside, (1 - _THINNING) * (outer - cavity), np.inf)
    else:
        scar_wall = diastole.scar_wall
    return Chambers(
        heart.long_axis, heart.radius, heart.wall, 0.0, heart.rv_direction_deg, infarct, np.asarray(scar_wall)
    )


def _with_right(heart: Chambers, volume: float) -> Chambers:
    """Return the heart with the right ventricle of the given volume, by ever finer grids of its radius."""
    _, _, outer = heart.radii(_LEVELS)
    unit, _ = Chambers(heart.long_axis, heart.radius, heart.wall, 1.0, 0.0, None, heart.scar_wall).right_radii(_LEVELS)
    low, high = 1.0, 200.0
    for _ in range(4):  # each pass divides the interval by 31
        radius = np.linspace(low, high, 32)
        circle = radius[:, None] * unit
        area = np.pi * circle**2 - circle_overlap(circle, outer, 0.75 * outer + 0.25 * circle)
        at = int(np.clip(np.searchsorted(area.sum(axis=1) * heart.length / _N_LEVELS / 1000, volume), 1, 31))
        low, high = float(radius[at - 1]), float(radius[at])
    return Chambers(
        heart.long_axis,
        heart.radius,
        heart.wall,
        low,
        heart.rv_direction_deg,
        heart.infarct,
        heart.scar_wall,
    )
