"""The ECG with given features: the vector loop of a normal beat, changed in size, duration and direction, in sinus rhythm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from leadwise.data.simulator.beats import (
    NORMAL,
    T_NORMAL,
    Beat,
    individual_loop,
    interpolate,
    st_and_t_waves,
    stretch_to_duration,
)
from leadwise.data.simulator.findings import with_implied_findings
from leadwise.data.simulator.heart import Waves, axis_deg, twelve_leads, waves
from leadwise.data.simulator.paired.geometry import Infarct
from leadwise.data.simulator.paired.population import FEATURES, Array
from leadwise.data.simulator.patients import Patient, Presentation, draw_transform
from leadwise.data.simulator.rhythm import Rhythm, pr_interval, sinus_beats
from leadwise.data.simulator.tracing import DURATION_S, Tracing, clean_leads

_PEAK_MV = 1.5  # longest vector of the mean person's QRS
_RANGES = {  # values beyond are set to the nearest one, since the shapes of the waves are not defined there
    "qrs_ms": (60.0, 150.0),
    "qrs_t_angle_deg": (0.0, 170.0),
    "ln_heart_rate": (float(np.log(40.0)), float(np.log(135.0))),
    "qtc_ms": (330.0, 520.0),
}
_FORWARD: Array = np.array([0.0, 0.0, -1.0])
_DEAD = {  # direction of the wall that an infarct removes from the first part of the QRS: left, down, back
    "anterior": np.array([0.05, 0.0, -1.0]),
    "inferior": np.array([-0.15, 0.95, -0.1]),
    "lateral": np.array([0.95, 0.0, 0.25]),
}
_SINUS = Presentation(frozenset({"SR"}), "SR")


def draw_patient(number: int, split: str, rng: np.random.Generator) -> Patient:
    """Draw a person of the simulator in sinus rhythm, without any finding; nothing of it depends on the anatomy."""
    return Patient(
        number=number,
        split=split,
        n_ecgs=1,
        age_years=int(np.clip(rng.normal(62, 9), 40, 85)),
        sex=str(rng.choice(["F", "M"])),
        transform=draw_transform(rng),
        lasting=frozenset(),
        rhythm="SR",
        rhythm_share=1.0,
        slow_av=False,
        ectopy="",
        traits=rng.random(10),
        shape=rng.standard_normal((8, 3)),
    )


def draw_paired_tracing(
    features: Array, infarct: Infarct | None, patient: Patient, rate_hz: float, rng: np.random.Generator
) -> Tracing:
    """Return the ECG of a person with `features` (8,), in the order of population.FEATURES; its findings follow from rules."""
    # the features, within the ranges of the wave shapes
    f = {name: float(np.clip(value, *_RANGES.get(name, (-np.inf, np.inf)))) for name, value in zip(FEATURES, features)}
    rate_bpm = float(np.exp(f["ln_heart_rate"]))

    # times of the beats
    qrs_s = sinus_beats(patient, rate_bpm, DURATION_S, rng)
    none = np.zeros(len(qrs_s), bool)
    pr_ms = pr_interval(patient, _SINUS, rate_bpm)
    rhythm = Rhythm(qrs_s, none, qrs_s - pr_ms / 1000, none, rate_bpm, pr_ms)
    mean_s = float(np.diff(qrs_s[(qrs_s >= 0) & (qrs_s < DURATION_S)]).mean())
    qt_ms = f["qtc_ms"] * float(np.sqrt(mean_s))

    # the beat and the leads
    beat = _beat(f, infarct, patient, qt_ms, rng)
    leads = clean_leads(patient, _SINUS, rhythm, beat, qt_ms, rate_hz, rng)
    truth = {
        "rate_bpm": 60 / mean_s,
        "pr_ms": pr_ms,
        "qrs_ms": beat.qrs_ms,
        "qt_ms": qt_ms,
        "qtc_ms": f["qtc_ms"],
        "axis_deg": beat.axis_deg,
    }
    presentation = replace(_SINUS, findings=_findings(beat, patient, truth, infarct))
    after_ms = np.array([beat.qrs_ms + (60 if mean_s > 0.6 else 40)])
    return Tracing(
        presentation, leads, truth, twelve_leads(beat.repolarisation.along(after_ms) @ patient.transform.T)[0]
    )


def _beat(
    f: dict[str, float], infarct: Infarct | None, patient: Patient, qt_ms: float, rng: np.random.Generator
) -> Beat:
    # the loop of this heart: first and last forces, then duration and size
    loop = individual_loop(NORMAL, patient, 0.10)
    names = list(NORMAL)
    force = np.ones((len(loop), 1))
    force[[names.index("septum"), names.index("base")]] = np.exp(f["ln_right_force"])
    qrs, qrs_ms = stretch_to_duration(loop.scaled(force), f["qrs_ms"])
    peak = np.linalg.norm(qrs.along(np.arange(0.0, qrs_ms, 1.0)), axis=1).max()
    qrs = qrs.scaled(float(_PEAK_MV * np.exp(f["ln_qrs_amplitude"]) / peak))

    # its direction: horizontal turn, then the frontal turn that gives the axis in this person's leads
    area = qrs.rotated_horizontally(f["azimuth_deg"]).area()
    to_axis_deg = _turn_to_axis(area, f["axis_deg"], patient.transform)

    def turned(part: Waves) -> Waves:
        return part.rotated_horizontally(f["azimuth_deg"]).rotated(to_axis_deg)

    mean = turned(qrs).area()
    forward = turned(waves([(0, 1, 1, 0, *_FORWARD)])).vector_mv[0]

    # the T wave: the mean vector of the QRS, turned forward by the angle between both
    mean /= np.linalg.norm(mean)
    across = forward - (forward @ mean) * mean
    across /= max(float(np.linalg.norm(across)), 1e-6)
    angle = np.deg2rad(f["qrs_t_angle_deg"])
    size = float(np.linalg.norm(T_NORMAL)) * interpolate(0.85, 1.35, patient.traits[8])
    t_vector = size * (np.cos(angle) * mean + np.sin(angle) * across)
    st_vector = np.array([0.012, 0.015, -0.022]) * (1 + 0.3 * rng.standard_normal())

    # an infarct removes the forces of its wall from the first part of the QRS
    if infarct is not None:
        removed = -(0.30 + 1.5 * infarct.share) * _DEAD[infarct.territory]
        qrs += waves([(0.22 * qrs_ms, 0.10 * qrs_ms, 0.12 * qrs_ms, 0, *removed)])
    qrs = turned(qrs)
    i_area, ii_area = patient.transform[:2] @ qrs.area()
    return Beat(qrs, st_and_t_waves(t_vector, st_vector, qrs_ms, qt_ms), qrs_ms, axis_deg(i_area, ii_area))


def _turn_to_axis(area: Array, goal_deg: float, transform: Array) -> float:
    """Return the frontal turn in degrees of a QRS with `area` (3,) that gives leads I and II the axis `goal_deg`."""
    # net deflections along the goal and across it, as linear maps of the vector; the second one becomes zero
    i, avf = transform[0], (2 * transform[1] - transform[0]) / np.sqrt(3)
    cos, sin = np.cos(np.deg2rad(goal_deg)), np.sin(np.deg2rad(goal_deg))
    along, across = cos * i + sin * avf, cos * avf - sin * i
    radius, angle = float(np.hypot(area[0], area[1])), float(np.arctan2(area[1], area[0]))
    zero = np.arccos(np.clip(-across[2] * area[2] / (radius * np.hypot(across[0], across[1])), -1, 1))
    first = np.arctan2(across[1], across[0])
    solutions = [float(first + sign * zero) for sign in (-1, 1)]
    best = max(solutions, key=lambda a: along[0] * np.cos(a) + along[1] * np.sin(a))
    return float(np.rad2deg(best - angle))


def _findings(beat: Beat, patient: Patient, truth: dict[str, float], infarct: Infarct | None) -> frozenset[str]:
    """Return the findings of findings.FINDINGS that usual rules derive from the clean beat, and the infarct."""
    findings = {"SR"}
    grid = np.arange(0.0, beat.qrs_ms, 2.0)
    leads = twelve_leads(beat.qrs.along(grid) @ patient.transform.T)
    high, low = leads.max(axis=0), leads.min(axis=0)
    t_mv = twelve_leads(beat.t_top_mv[None] @ patient.transform.T)[0]
    rules = {
        "SBRAD": truth["rate_bpm"] < 60,
        "STACH": truth["rate_bpm"] > 100,
        "LAD": truth["axis_deg"] < -30,
        "RAD": truth["axis_deg"] > 90,
        "LNGQT": truth["qtc_ms"] > 460,
        "LVH": -low[6] + max(high[10], high[11]) >= 3.5,
        "LVOLT": (high - low)[:6].max() < 0.5 and (high - low)[6:].max() < 1.0,
        "INVT": (t_mv[[0, 8, 9, 10, 11]] < -0.07).sum() >= 2 or (t_mv[[1, 2, 5]] < -0.07).sum() >= 2,
        "AMI": infarct is not None and infarct.territory == "anterior",
        "IMI": infarct is not None and infarct.territory == "inferior",
    }
    return with_implied_findings(frozenset(findings | {code for code, holds in rules.items() if holds}))
