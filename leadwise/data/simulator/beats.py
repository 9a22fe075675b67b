"""The shape of a beat under each finding: its waves of the heart vector, their duration, size and direction.

A ventricular activation is a textbook loop, changed by the findings and by the individual shape of the patient's heart.
It is then stretched to its QRS duration, rotated to its axis and scaled to its voltage, all as measured in the leads of
this patient, so that the labels are true of the tracing and not only of the recipe.
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
from leadwise.data.simulator.patients import Patient, Presentation

Rows = dict[str, tuple[float, ...]]  # time, rise, fall, hold (ms), x left, y down, z back (mV)

NORMAL: Rows = {
    "septum": (-24, 9, 9, 0, -0.16, -0.05, -0.28),
    "wall": (-6, 9, 9, 0, 0.52, 0.35, -0.20),
    "mass": (6, 9, 9, 0, 0.95, 0.85, 0.30),
    "base": (26, 9, 10, 0, -0.02, -0.22, 0.55),
}
_LEFT_BUNDLE: Rows = {  # no septal q; slow and notched activation to the left and back
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
_PACED: Rows = {  # from the right ventricular apex: slow activation upward, to the left and back
    "septum": (-50, 14, 14, 0, 0.12, -0.30, -0.10),
    "wall": (-18, 18, 18, 4, 0.62, -0.95, 0.45),
    "mass": (30, 18, 20, 6, 0.58, -0.98, 0.80),
}
_FROM_LEFT_VENTRICLE: Rows = {"wall": (-22, 20, 18, 0, -0.35, 0.45, -0.85), "mass": (26, 20, 24, 6, -0.85, 0.40, -0.60)}
_FROM_RIGHT_VENTRICLE: Rows = {"wall": (-22, 20, 18, 0, 0.50, 0.75, 0.40), "mass": (26, 20, 24, 6, 0.75, 0.90, 0.85)}
_RIGHT_BUNDLE_END = (58, 16, 17, 2, -0.58, 0.02, -0.62)  # the late right ventricle: forward and to the right
_PATHWAYS = ((-42, 17, 20, 0, 0.18, 0.26, -0.42), (-42, 17, 20, 0, 0.46, 0.12, 0.04))  # left, right: the delta wave

T_NORMAL = np.array([0.30, 0.24, -0.15])
_ST = {  # mV at the top of the ST segment
    "STEI": np.array([-0.07, 0.27, 0.11]),
    "STEA": np.array([0.11, -0.02, -0.31]),
    "STD": np.array([-0.135, -0.135, 0.03]),
}


@dataclass(frozen=True)
class Beat:
    """One kind of heartbeat; times are relative to the QRS onset."""

    qrs: Waves
    repolarisation: Waves  # T wave, then ST segment
    qrs_ms: float
    axis_deg: float

    @property
    def waves(self) -> Waves:
        """QRS, ST segment and T wave."""
        return self.qrs + self.repolarisation

    @property
    def t_top_mv(self) -> Array:
        """The heart vector (3,) at the top of the T wave."""
        top: Array = self.repolarisation.along(self.repolarisation.at_ms[:1])[0]
        return top


def interpolate(low: float, high: float, share: float) -> float:
    """Return the value at `share` (0 to 1) between `low` and `high`."""
    return low + (high - low) * share


def conducted_beat(patient: Patient, presentation: Presentation, qt_ms: float, rng: np.random.Generator) -> Beat:
    """Return the beat of this ECG's dominant rhythm, which may be a paced or an escape beat."""
    findings = presentation.findings
    if presentation.rhythm == "PACE":
        loop = individual_loop(_PACED, patient, 0.06)
    elif presentation.ventricular_escape:
        loop = individual_loop(
            _FROM_LEFT_VENTRICLE if presentation.variant < 0.5 else _FROM_RIGHT_VENTRICLE, patient, 0.10
        )
    else:
        loop = individual_loop(_rows(findings, presentation.variant, patient), patient, 0.10)
    loop = replace(loop, vector_mv=loop.vector_mv * (1 + 0.02 * rng.standard_normal((len(loop), 3))))
    loop = _turn_to_axis(loop, patient, _axis_range(presentation), patient.traits[0])
    low, high = _qrs_range_ms(presentation)
    loop = _scale_to_voltage(loop, patient, findings, presentation)
    qrs, qrs_ms = stretch_to_duration(loop, interpolate(low, high, 0.85 * patient.traits[1] + 0.15 * rng.random()))
    return _make_beat(qrs, qrs_ms, _repolarisation(patient, presentation, qrs, qrs_ms, qt_ms, rng), patient)


def ectopic_beat(patient: Patient, presentation: Presentation, qt_ms: float) -> Beat:
    """Return a premature ventricular beat: wide, large, with a T wave opposite to the QRS."""
    if presentation.findings & {"CRBBB", "CLBBB"}:
        # from the ventricle with the blocked bundle, it would look like any other beat
        left = "CLBBB" in presentation.findings
    else:
        left = patient.traits[1] < 0.5
    rows = _FROM_LEFT_VENTRICLE if left else _FROM_RIGHT_VENTRICLE
    size = interpolate(0.9, 1.3, patient.traits[3]) * (1.4 if "LVH" in presentation.findings else 1.0)
    loop = individual_loop(rows, patient, 0.2).rotated(interpolate(-70, 50, patient.traits[2]))
    qrs, qrs_ms = stretch_to_duration(loop.scaled(size), interpolate(142, 172, patient.traits[4]))
    t_wave = _t_wave(-0.30 * _mean_vector(qrs), max(qt_ms, qrs_ms + 190.0))
    return _make_beat(qrs, qrs_ms, t_wave, patient)


def p_wave(patient: Patient, presentation: Presentation, ectopic: bool) -> Waves:
    """Return a P wave, relative to its onset: right atrium, then left; an ectopic one starts in the lower atria."""
    size = interpolate(0.95, 1.4, patient.traits[5]) * (0.75 if "LVOLT" in presentation.findings else 1.0)
    rows = [(33, 15, 15, 0, 0.030, 0.072, -0.035), (65, 17, 17, 0, 0.062, 0.052, 0.040)]
    if ectopic:
        rows = [(30, 13, 13, 0, 0.050, -0.085, 0.035), (52, 15, 15, 0, 0.005, -0.075, -0.045)]
    return waves(rows).scaled(size)


def spike(rate_hz: float) -> Waves:
    """Return a pacing stimulus at time 0: as wide as the sampling interval requires, with constant area."""
    sigma_ms = max(1.2, 450 / rate_hz)
    height = 1.2 / sigma_ms
    return waves([(0, sigma_ms, sigma_ms, 0, 0.6 * height, -1.6 * height, 0.9 * height)])


def _rows(findings: frozenset[str], variant: float, patient: Patient) -> Rows:
    if "CLBBB" in findings:
        return _LEFT_BUNDLE
    if "RVH" in findings:
        return _RIGHT_HEART
    rows = dict(_LEFT_ANTERIOR if "LAFB" in findings else NORMAL)
    if "LVH" in findings:
        rows["mass"] = (*rows["mass"][:6], rows["mass"][6] + 0.32)
    if "RAD" in findings:  # a vertical heart, rotated back so that V1 stays negative
        rows["wall"] = (*rows["wall"][:6], 0.05)
        rows["mass"] = (*rows["mass"][:6], 0.75)
    if "IMI" in findings:  # the inferior wall is not activated: the vector points up for the first 40 ms
        rows["septum"] = (-28, 11, 11, 0, 0.06, -0.78, -0.16)
        rows["wall"] = (-4, 9, 9, 0, 0.62, 0.02, -0.22)
        rows["mass"] = (9, 9, 10, 0, 0.90, 0.92, 0.30)
    if "AMI" in findings:  # the anterior wall is not activated: the vector points back at first
        rows["septum"] = (-26, 10, 10, 0, 0.02, *rows["septum"][5:6], 0.36)
        rows["wall"] = (*rows["wall"][:6], 0.50)
        rows["mass"] = (*rows["mass"][:6], 0.62)
    if "CRBBB" in findings:
        rows["base"] = (26, 9, 12, 0, -0.02, 0.35 * rows["base"][5], 0.26)
        rows["end"] = _RIGHT_BUNDLE_END
    if "WPW" in findings:
        rows["septum"] = _PATHWAYS[0 if patient.traits[6] < 0.5 else 1]
        rows["wall"] = (-10, 11, 10, 0, *rows["wall"][4:])
    return rows


def individual_loop(rows: Rows, patient: Patient, spread: float) -> Waves:
    """Return a textbook loop, changed by the shape of this patient's heart; `spread` is the SD of the change."""
    loop = waves([list(row) for row in rows.values()])
    return loop.scaled(1 + spread * np.clip(patient.shape[: len(loop)], -2, 2))


def _axis_range(presentation: Presentation) -> tuple[float, float] | None:
    findings = presentation.findings
    if presentation.rhythm == "PACE" or presentation.ventricular_escape:
        return None
    if "LAFB" in findings:
        return (-50.0, -74.0)
    if "RVH" in findings:
        return (102.0, 140.0)
    if "RAD" in findings:
        return (98.0, 116.0)
    if "LAD" in findings:
        return (-34.0, -41.0)
    if "IMI" in findings:
        return (-15.0, 30.0)
    if "CLBBB" in findings:
        return (-18.0, 50.0)
    if "CRBBB" in findings:
        return (-5.0, 60.0)
    return (-12.0, 80.0)


def _qrs_range_ms(presentation: Presentation) -> tuple[float, float]:
    findings = presentation.findings
    if presentation.rhythm == "PACE" or presentation.ventricular_escape:
        return (148.0, 172.0)
    if "CLBBB" in findings:
        return (136.0, 164.0)
    if "CRBBB" in findings:
        return (128.0, 152.0)
    if "WPW" in findings:
        return (118.0, 142.0)
    return (90.0, 108.0) if findings & {"LVH", "RVH", "LAFB", "IMI", "AMI"} else (80.0, 104.0)


def _turn_to_axis(loop: Waves, patient: Patient, axes: tuple[float, float] | None, share: float) -> Waves:
    """Rotate the loop until leads I and II of this patient have the requested frontal axis."""
    if axes is None:
        return loop
    goal = interpolate(*axes, share)
    for _ in range(8):  # leads weigh vertical forces more than horizontal ones, so the angle is found by iteration
        i_area, ii_area = patient.transform[:2] @ loop.area()
        off = (goal - axis_deg(i_area, ii_area) + 180) % 360 - 180
        if abs(off) < 0.5:
            break
        loop = loop.rotated(0.8 * off)
    return loop


def _scale_to_voltage(loop: Waves, patient: Patient, findings: frozenset[str], presentation: Presentation) -> Waves:
    """Scale the loop to the voltage that its findings require in this patient's leads."""
    grid = np.arange(loop.at_ms.min() - 30, loop.at_ms.max() + 45, 2.0)
    leads = twelve_leads(loop.along(grid) @ patient.transform.T)
    high, low = leads.max(axis=0), leads.min(axis=0)
    limb, chest = (high - low)[:6].max(), (high - low)[6:].max()
    sokolow = -low[6] + max(high[10], high[11])
    share = patient.traits[7]
    if "LVOLT" in findings:
        return loop.scaled(float(min(interpolate(0.30, 0.42, share) / limb, interpolate(0.65, 0.88, share) / chest)))
    if "LVH" in findings:
        return loop.scaled(float(max(interpolate(3.9, 5.2, share) / sokolow, 0.75 / limb)))
    factor = interpolate(1.5, 2.5, share) / chest
    if "RVH" in findings:
        factor = max(factor, 0.75 / high[6])
    wide = presentation.rhythm == "PACE" or presentation.ventricular_escape or "CLBBB" in findings
    ceiling = np.inf if wide else 3.1 / sokolow
    return loop.scaled(float(min(max(min(factor, 1.9 / limb), 0.70 / limb), ceiling)))


def stretch_to_duration(loop: Waves, qrs_ms: float) -> tuple[Waves, float]:
    """Stretch the loop to the duration `qrs_ms` and shift it to start at zero."""
    onset, end = bounds_ms(loop)
    factor = qrs_ms / (end - onset)
    return loop.stretched(factor).delayed(-onset * factor), qrs_ms


def _mean_vector(qrs: Waves) -> Array:
    area = qrs.area()
    grid_peak = np.abs(qrs.vector_mv).max()
    mean: Array = area / np.linalg.norm(area) * grid_peak
    return mean


def _t_wave(vector_mv: Array, qt_ms: float) -> Waves:
    """Return a T wave that ends (tangent at its steepest descent) `qt_ms` after the QRS onset."""
    fall = 0.078 * qt_ms
    return waves([(qt_ms - 2 * fall, 1.55 * fall, fall, 0, *vector_mv)])


def _repolarisation(
    patient: Patient, presentation: Presentation, qrs: Waves, qrs_ms: float, qt_ms: float, rng: np.random.Generator
) -> Waves:
    # the individual T wave and ST segment, changed by the findings
    findings = presentation.findings
    t_vector = T_NORMAL * interpolate(0.85, 1.35, patient.traits[8]) * (1 + 0.08 * np.clip(patient.shape[6], -2, 2))
    st_vector = np.array([0.012, 0.015, -0.022]) * (1 + 0.3 * rng.standard_normal())
    if presentation.rhythm == "PACE" or presentation.ventricular_escape or findings & {"CLBBB", "WPW"}:
        share = 0.18 if "WPW" in findings else 0.28  # secondary change: opposite to the QRS
        t_vector = -share * _mean_vector(qrs) + (0.25 * t_vector if "WPW" in findings else 0)
        st_vector = 0.30 * t_vector
    elif "CRBBB" in findings:
        t_vector = t_vector * np.array([1.05, 1.0, -0.7])
    elif "RVH" in findings:
        t_vector = t_vector * np.array([0.9, 1.05, -1.1])
        st_vector = np.array([0.02, 0.0, 0.03])
    elif {"LVH", "STD", "INVT"} <= findings:  # strain
        t_vector = np.array([-0.34, -0.03, -0.02]) * interpolate(0.9, 1.3, patient.traits[8])
        st_vector = np.array([-0.135, -0.085, 0.05]) * interpolate(1.1, 1.5, rng.random())
    elif "INVT" in findings:
        inferior = "AMI" not in findings and presentation.variant < 0.4
        pattern = np.array([0.22, -0.30, -0.14]) if inferior else np.array([-0.30, -0.04, 0.13])
        t_vector = pattern * interpolate(0.95, 1.4, rng.random())

    # ST elevation and depression
    for code, vector in _ST.items():
        if code in findings and not {"LVH", "STD", "INVT"} <= findings:
            st_vector = st_vector + vector * interpolate(0.9, 1.6, rng.random())
            if code != "STD":
                t_vector = 0.8 * t_vector + 0.7 * vector
    if "LVOLT" in findings:
        t_vector = 0.55 * t_vector

    return st_and_t_waves(t_vector, st_vector, qrs_ms, qt_ms)


def st_and_t_waves(t_vector: Array, st_vector: Array, qrs_ms: float, qt_ms: float) -> Waves:
    """Return a T wave that ends `qt_ms` after the QRS onset, and an ST segment that lasts from the QRS to it."""
    t_wave = _t_wave(t_vector, qt_ms)
    top_ends = float(t_wave.at_ms[0] - 1.2 * t_wave.rise_ms[0])
    begins = qrs_ms + 6.0
    st_fall = float(0.9 * t_wave.rise_ms[0])
    return t_wave + waves([(begins, 11, st_fall, max(top_ends - begins, 0.0), *st_vector)])


def _make_beat(qrs: Waves, qrs_ms: float, repolarisation: Waves, patient: Patient) -> Beat:
    i_area, ii_area = patient.transform[:2] @ qrs.area()
    return Beat(qrs, repolarisation, qrs_ms, axis_deg(i_area, ii_area))
