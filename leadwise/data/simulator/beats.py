"""The shape of a beat under each finding: its waves of the heart vector, how long, how large and how turned.

A ventricular activation is put together from a textbook loop, what each finding changes in it, and how this person's
heart differs. It is then stretched to its QRS duration, turned to its axis and scaled to its voltage *as this person's
leads see it*, so that the labels are true of the tracing and not only of the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from leadwise.data.simulator.heart import (
    Array,
    Waves,
    axis_deg,
    bounds_ms,
    twelve_leads,
    waves,
)
from leadwise.data.simulator.patients import Person, Presentation

Rows = dict[str, tuple[float, ...]]  # at, rise, fall, hold (ms), x left, y down, z back (mV)

_NORMAL: Rows = {
    "septum": (-24, 9, 9, 0, -0.16, -0.05, -0.28),
    "wall": (-6, 9, 9, 0, 0.52, 0.35, -0.20),
    "mass": (6, 9, 9, 0, 0.95, 0.85, 0.30),
    "base": (26, 9, 10, 0, -0.02, -0.22, 0.55),
}
_LEFT_BUNDLE: Rows = {  # no septal q; a slow, notched way to the left and back
    "septum": (-46, 13, 14, 0, 0.16, 0.04, -0.02),
    "wall": (-18, 15, 15, 0, 0.80, 0.28, 0.50),
    "mass": (28, 17, 16, 6, 0.92, 0.16, 0.85),
    "base": (58, 12, 12, 0, 0.22, -0.04, 0.30),
}
_LEFT_ANTERIOR: Rows = {  # first down and to the right, then up and to the left
    "septum": (-22, 8, 9, 0, -0.20, 0.36, -0.22),
    "wall": (-2, 9, 10, 0, 0.62, -0.30, -0.15),
    "mass": (10, 10, 11, 0, 0.78, -0.70, 0.35),
    "base": (30, 10, 12, 0, 0.14, -0.38, 0.42),
}
_RIGHT_HEART: Rows = {  # the right ventricle outweighs the left: forward, down and to the right
    "septum": (-22, 9, 9, 0, 0.12, 0.05, -0.22),
    "wall": (-8, 9, 9, 0, 0.30, 0.25, -0.28),
    "mass": (8, 10, 10, 0, -0.42, 0.72, -0.62),
    "base": (26, 10, 12, 0, -0.62, 0.16, -0.14),
}
_PACED: Rows = {  # from the right ventricular apex: slowly up, to the left and back
    "septum": (-50, 14, 14, 0, 0.12, -0.30, -0.10),
    "wall": (-18, 18, 18, 4, 0.62, -0.95, 0.45),
    "mass": (30, 18, 20, 6, 0.58, -0.98, 0.80),
}
_FROM_LEFT_VENTRICLE: Rows = {"wall": (-22, 20, 18, 0, -0.35, 0.45, -0.85), "mass": (26, 20, 24, 6, -0.85, 0.40, -0.60)}
_FROM_RIGHT_VENTRICLE: Rows = {"wall": (-22, 20, 18, 0, 0.50, 0.75, 0.40), "mass": (26, 20, 24, 6, 0.75, 0.90, 0.85)}
_RIGHT_BUNDLE_END = (58, 16, 17, 2, -0.58, 0.02, -0.62)  # the late right ventricle: forward and to the right
_PATHWAYS = ((-42, 17, 20, 0, 0.18, 0.26, -0.42), (-42, 17, 20, 0, 0.46, 0.12, 0.04))  # left, right: the delta wave

_T_NORMAL = np.array([0.30, 0.24, -0.15])
_ST = {  # mV at the top of the ST segment
    "STEI": np.array([-0.07, 0.27, 0.11]),
    "STEA": np.array([0.11, -0.02, -0.31]),
    "STD": np.array([-0.135, -0.135, 0.03]),
}


@dataclass(frozen=True)
class Beat:
    """One kind of heartbeat, timed against the QRS onset."""

    qrs: Waves
    repolarisation: Waves  # ST segment and T wave
    qrs_ms: float
    axis_deg: float

    @property
    def waves(self) -> Waves:
        return self.qrs + self.repolarisation


def between(low: float, high: float, share: float) -> float:
    """`share` of the way from `low` to `high`."""
    return low + (high - low) * share


def conducted_beat(person: Person, shown: Presentation, qt_ms: float, rng: np.random.Generator) -> Beat:
    """The beat that this ECG's dominant rhythm makes (paced and escape beats included)."""
    found = shown.findings
    if shown.rhythm == "PACE":
        loop = _shaped(_PACED, person, 0.06)
    elif shown.ventricular_escape:
        loop = _shaped(_FROM_LEFT_VENTRICLE if shown.variant < 0.5 else _FROM_RIGHT_VENTRICLE, person, 0.10)
    else:
        loop = _shaped(_rows(found, shown.variant, person), person, 0.10)
    loop = replace(loop, vector_mv=loop.vector_mv * (1 + 0.02 * rng.standard_normal((len(loop), 3))))
    loop = _turned(loop, person, _axis_range(shown), person.traits[0])
    low, high = _qrs_range_ms(shown)
    loop = _sized(loop, person, found, shown)
    qrs, qrs_ms = _timed(loop, between(low, high, 0.85 * person.traits[1] + 0.15 * rng.random()))
    return _finished(qrs, qrs_ms, _repolarisation(person, shown, qrs, qrs_ms, qt_ms, rng), person)


def ectopic_beat(person: Person, shown: Presentation, qt_ms: float) -> Beat:
    """A premature ventricular beat: wide, large, with its T wave the other way."""
    if shown.findings & {
        "CRBBB",
        "CLBBB",
    }:  # from the ventricle whose bundle is blocked, it would look like any other beat
        left = "CLBBB" in shown.findings
    else:
        left = person.traits[1] < 0.5
    rows = _FROM_LEFT_VENTRICLE if left else _FROM_RIGHT_VENTRICLE
    size = between(0.9, 1.3, person.traits[3]) * (1.4 if "LVH" in shown.findings else 1.0)
    loop = _shaped(rows, person, 0.2).turned(between(-70, 50, person.traits[2]))
    qrs, qrs_ms = _timed(loop.scaled(size), between(142, 172, person.traits[4]))
    t_wave = _t_wave(-0.30 * _mean_vector(qrs), max(qt_ms, qrs_ms + 190.0))
    return _finished(qrs, qrs_ms, t_wave, person)


def p_wave(person: Person, shown: Presentation, ectopic: bool) -> Waves:
    """A P wave, timed against its onset: right atrium, then left; an ectopic one comes from below."""
    size = between(0.95, 1.4, person.traits[5]) * (0.75 if "LVOLT" in shown.findings else 1.0)
    rows = [(33, 15, 15, 0, 0.030, 0.072, -0.035), (65, 17, 17, 0, 0.062, 0.052, 0.040)]
    if ectopic:
        rows = [(30, 13, 13, 0, 0.050, -0.085, 0.035), (52, 15, 15, 0, 0.005, -0.075, -0.045)]
    return waves(rows).scaled(size)


def spike(rate_hz: float) -> Waves:
    """A pacing stimulus, timed against itself; as wide as the recorder's step makes it, with the same area."""
    sigma_ms = max(1.2, 450 / rate_hz)
    height = 1.2 / sigma_ms
    return waves([(0, sigma_ms, sigma_ms, 0, 0.6 * height, -1.6 * height, 0.9 * height)])


def _rows(found: frozenset[str], variant: float, person: Person) -> Rows:
    if "CLBBB" in found:
        return _LEFT_BUNDLE
    if "RVH" in found:
        return _RIGHT_HEART
    rows = dict(_LEFT_ANTERIOR if "LAFB" in found else _NORMAL)
    if "LVH" in found:
        rows["mass"] = (*rows["mass"][:6], rows["mass"][6] + 0.32)
    if "RAD" in found:  # a heart that hangs upright, and turned back: V1 stays negative
        rows["wall"] = (*rows["wall"][:6], 0.05)
        rows["mass"] = (*rows["mass"][:6], 0.75)
    if "IMI" in found:  # the inferior wall is silent: the first forces point up for 40 ms
        rows["septum"] = (-28, 11, 11, 0, 0.06, -0.78, -0.16)
        rows["wall"] = (-4, 9, 9, 0, 0.62, 0.02, -0.22)
        rows["mass"] = (9, 9, 10, 0, 0.90, 0.92, 0.30)
    if "AMI" in found:  # the anterior wall is silent: the first forces point back
        rows["septum"] = (-26, 10, 10, 0, 0.02, *rows["septum"][5:6], 0.36)
        rows["wall"] = (*rows["wall"][:6], 0.50)
        rows["mass"] = (*rows["mass"][:6], 0.62)
    if "CRBBB" in found:
        rows["base"] = (26, 9, 12, 0, -0.02, 0.35 * rows["base"][5], 0.26)
        rows["end"] = _RIGHT_BUNDLE_END
    if "WPW" in found:
        rows["septum"] = _PATHWAYS[0 if person.traits[6] < 0.5 else 1]
        rows["wall"] = (-10, 11, 10, 0, *rows["wall"][4:])
    return rows


def _shaped(rows: Rows, person: Person, spread: float) -> Waves:
    loop = waves([list(row) for row in rows.values()])
    return loop.scaled(1 + spread * np.clip(person.shape[: len(loop)], -2, 2))


def _axis_range(shown: Presentation) -> tuple[float, float] | None:
    found = shown.findings
    if shown.rhythm == "PACE" or shown.ventricular_escape:
        return None
    if "LAFB" in found:
        return (-50.0, -74.0)
    if "RVH" in found:
        return (102.0, 140.0)
    if "RAD" in found:
        return (98.0, 116.0)
    if "LAD" in found:
        return (-34.0, -41.0)
    if "IMI" in found:
        return (-15.0, 30.0)
    if "CLBBB" in found:
        return (-18.0, 50.0)
    if "CRBBB" in found:
        return (-5.0, 60.0)
    return (-12.0, 80.0)


def _qrs_range_ms(shown: Presentation) -> tuple[float, float]:
    found = shown.findings
    if shown.rhythm == "PACE" or shown.ventricular_escape:
        return (148.0, 172.0)
    if "CLBBB" in found:
        return (136.0, 164.0)
    if "CRBBB" in found:
        return (128.0, 152.0)
    if "WPW" in found:
        return (118.0, 142.0)
    return (90.0, 108.0) if found & {"LVH", "RVH", "LAFB", "IMI", "AMI"} else (80.0, 104.0)


def _turned(loop: Waves, person: Person, axes: tuple[float, float] | None, share: float) -> Waves:
    """The loop turned until this person's leads I and II give the wanted frontal axis."""
    if axes is None:
        return loop
    goal = between(*axes, share)
    for _ in range(8):  # the leads see up-down larger than left-right, so the turn is found in steps
        i_area, ii_area = person.transform[:2] @ loop.area()
        off = (goal - axis_deg(i_area, ii_area) + 180) % 360 - 180
        if abs(off) < 0.5:
            break
        loop = loop.turned(0.8 * off)
    return loop


def _sized(loop: Waves, person: Person, found: frozenset[str], shown: Presentation) -> Waves:
    """The loop at the voltage that its findings ask for, in this person's leads."""
    grid = np.arange(loop.at_ms.min() - 30, loop.at_ms.max() + 45, 2.0)
    leads = twelve_leads(loop.along(grid) @ person.transform.T)
    high, low = leads.max(axis=0), leads.min(axis=0)
    limb, chest = (high - low)[:6].max(), (high - low)[6:].max()
    sokolow = -low[6] + max(high[10], high[11])
    share = person.traits[7]
    if "LVOLT" in found:
        return loop.scaled(float(min(between(0.30, 0.42, share) / limb, between(0.65, 0.88, share) / chest)))
    if "LVH" in found:
        return loop.scaled(float(max(between(3.9, 5.2, share) / sokolow, 0.75 / limb)))
    factor = between(1.5, 2.5, share) / chest
    if "RVH" in found:
        factor = max(factor, 0.75 / high[6])
    wide = shown.rhythm == "PACE" or shown.ventricular_escape or "CLBBB" in found
    ceiling = np.inf if wide else 3.1 / sokolow
    return loop.scaled(float(min(max(min(factor, 1.9 / limb), 0.70 / limb), ceiling)))


def _timed(loop: Waves, qrs_ms: float) -> tuple[Waves, float]:
    """The loop stretched to last `qrs_ms` and moved so that it starts at zero."""
    onset, end = bounds_ms(loop)
    factor = qrs_ms / (end - onset)
    return loop.stretched(factor).delayed(-onset * factor), qrs_ms


def _mean_vector(qrs: Waves) -> Array:
    area = qrs.area()
    grid_peak = np.abs(qrs.vector_mv).max()
    mean: Array = area / np.linalg.norm(area) * grid_peak
    return mean


def _t_wave(vector_mv: Array, qt_ms: float) -> Waves:
    """A T wave that ends (tangent to its steepest descent) `qt_ms` after the QRS onset."""
    fall = 0.078 * qt_ms
    return waves([(qt_ms - 2 * fall, 1.55 * fall, fall, 0, *vector_mv)])


def _repolarisation(
    person: Person, shown: Presentation, qrs: Waves, qrs_ms: float, qt_ms: float, rng: np.random.Generator
) -> Waves:
    found = shown.findings
    t_vector = _T_NORMAL * between(0.85, 1.35, person.traits[8]) * (1 + 0.08 * np.clip(person.shape[6], -2, 2))
    st_vector = np.array([0.012, 0.015, -0.022]) * (1 + 0.3 * rng.standard_normal())
    if shown.rhythm == "PACE" or shown.ventricular_escape or found & {"CLBBB", "WPW"}:
        share = 0.18 if "WPW" in found else 0.28  # secondary: against the QRS
        t_vector = -share * _mean_vector(qrs) + (0.25 * t_vector if "WPW" in found else 0)
        st_vector = 0.30 * t_vector
    elif "CRBBB" in found:
        t_vector = t_vector * np.array([1.05, 1.0, -0.7])
    elif "RVH" in found:
        t_vector = t_vector * np.array([0.9, 1.05, -1.1])
        st_vector = np.array([0.02, 0.0, 0.03])
    elif {"LVH", "STD", "INVT"} <= found:  # strain
        t_vector = np.array([-0.34, -0.03, -0.02]) * between(0.9, 1.3, person.traits[8])
        st_vector = np.array([-0.135, -0.085, 0.05]) * between(1.1, 1.5, rng.random())
    elif "INVT" in found:
        inferior = "AMI" not in found and shown.variant < 0.4
        pattern = np.array([0.22, -0.30, -0.14]) if inferior else np.array([-0.30, -0.04, 0.13])
        t_vector = pattern * between(0.95, 1.4, rng.random())
    for code, vector in _ST.items():
        if code in found and not {"LVH", "STD", "INVT"} <= found:
            st_vector = st_vector + vector * between(0.9, 1.6, rng.random())
            if code != "STD":
                t_vector = 0.8 * t_vector + 0.7 * vector
    if "LVOLT" in found:
        t_vector = 0.55 * t_vector
    t_wave = _t_wave(t_vector, qt_ms)
    top_ends = float(t_wave.at_ms[0] - 1.2 * t_wave.rise_ms[0])
    begins = qrs_ms + 6.0
    st_fall = float(0.9 * t_wave.rise_ms[0])
    return t_wave + waves([(begins, 11, st_fall, max(top_ends - begins, 0.0), *st_vector)])


def _finished(qrs: Waves, qrs_ms: float, repolarisation: Waves, person: Person) -> Beat:
    i_area, ii_area = person.transform[:2] @ qrs.area()
    return Beat(qrs, repolarisation, qrs_ms, axis_deg(i_area, ii_area))
