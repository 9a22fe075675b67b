"""The times of atrial and ventricular events in each rhythm, and the waves of fibrillation and flutter.

Times are seconds from the first sample. Events start before it and end after the last sample, so that no beat is cut at
the edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leadwise.data.simulator.beats import interpolate
from leadwise.data.simulator.heart import Array
from leadwise.data.simulator.patients import Patient, Presentation

LEAD_IN_S = 2.5  # events begin this long before the first sample
_NONE: Array = np.empty(0)


@dataclass(frozen=True)
class Rhythm:
    """The events of one ECG."""

    qrs_s: Array  # (N,) onsets
    ventricular: NDArray[np.bool_]  # (N,) true for premature ventricular beats
    p_s: Array  # (M,) onsets
    p_ectopic: NDArray[np.bool_]  # (M,)
    rate_bpm: float  # ventricular, as intended
    pr_ms: float  # NaN if atria and ventricles beat independently
    spike_s: Array = field(default_factory=lambda: _NONE)  # pacing stimuli
    atrial_bpm: float = float("nan")  # of flutter waves, or of P waves that are independent of the QRS
    f_wave_s: Array = field(default_factory=lambda: _NONE)  # (W,) start of each flutter wave


def draw_rhythm(patient: Patient, presentation: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    """Return the events of one ECG of `duration_s`, for its rhythm and its premature beats."""
    makers = {
        "SR": _sinus,
        "AFIB": _fibrillation,
        "AFLT": _flutter,
        "SVTAC": _reentry,
        "PACE": _paced,
        "AVB3": _complete_block,
    }
    return makers[presentation.rhythm](patient, presentation, duration_s, rng)


def _regular(rate_bpm: float, duration_s: float, jitter: float, rng: np.random.Generator) -> Array:
    n = int((duration_s + 2 * LEAD_IN_S) * rate_bpm / 60) + 3
    cycles = 60 / rate_bpm * (1 + jitter * rng.standard_normal(n))
    return np.cumsum(cycles) - LEAD_IN_S - float(rng.random()) * 60 / rate_bpm


def _sinus(patient: Patient, presentation: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    findings = presentation.findings
    share = 0.8 * patient.traits[9] + 0.2 * float(rng.random())
    low, high = (42, 56) if "SBRAD" in findings else (104, 132) if "STACH" in findings else (62, 95)
    rate_bpm = interpolate(low, high, share)

    qrs_s = sinus_beats(patient, rate_bpm, duration_s, rng)
    pr_ms = pr_interval(patient, presentation, rate_bpm)

    # premature beats
    ventricular = np.zeros(len(qrs_s), bool)
    early = np.zeros(len(qrs_s), bool)
    if "PVC" in findings:
        ventricular = _choose_early_beats(qrs_s, duration_s, presentation.variant, rng)
        qrs_s = _shift_early_beats(qrs_s, ventricular, rng.uniform(0.54, 0.68), resets=False)
    elif "PAC" in findings:
        early = _choose_early_beats(qrs_s, duration_s, 0.3 + 0.7 * presentation.variant, rng)
        qrs_s = _shift_early_beats(qrs_s, early, rng.uniform(0.60, 0.72), resets=True)
    conducted = ~ventricular
    p_s = qrs_s[conducted] - pr_ms / 1000
    return Rhythm(qrs_s, ventricular, p_s, early[conducted], rate_bpm, pr_ms)


def sinus_beats(patient: Patient, rate_bpm: float, duration_s: float, rng: np.random.Generator) -> Array:
    """Return the onsets of sinus beats in seconds, with respiratory sinus arrhythmia that decreases with age."""
    cycle_s = 60 / rate_bpm
    qrs_s = _regular(rate_bpm, duration_s, 0.006, rng)
    breath = np.sin(2 * np.pi * interpolate(0.18, 0.32, float(rng.random())) * qrs_s + 6.28 * float(rng.random()))
    depth = 0.045 * np.clip((75 - patient.age_years) / 50, 0.1, 1) * min(cycle_s, 1.0)
    return np.asarray(qrs_s + depth * breath)


def pr_interval(patient: Patient, presentation: Presentation, rate_bpm: float) -> float:
    """Return the PR interval of a sinus rhythm in ms; it shortens at a high rate."""
    share = patient.traits[4]
    if "WPW" in presentation.findings:
        return interpolate(86, 106, share)
    if "LPR" in presentation.findings:
        return interpolate(225, 310, share)
    return interpolate(142, 186, share) - 0.25 * max(rate_bpm - 75, 0)


def _choose_early_beats(qrs_s: Array, duration_s: float, variant: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which beats come early: every second, every third, or one to three, never two in a row."""
    early = np.zeros(len(qrs_s), bool)
    if variant < 0.22:
        early[int(rng.integers(2)) :: 2] = True
        return early
    if variant < 0.36:
        early[int(rng.integers(3)) :: 3] = True
        return early
    inside = np.flatnonzero((qrs_s > 1.2) & (qrs_s < duration_s - 1.2))
    for pick in rng.permutation(inside)[: 2 * int(rng.integers(1, 4))]:
        if not early[pick - 1 : pick + 2].any() and early.sum() < 3:
            early[pick] = True
    return early


def _shift_early_beats(qrs_s: Array, early: NDArray[np.bool_], coupling: float, resets: bool) -> Array:
    """Return the times with early beats at `coupling` of their cycle; later beats keep their times, or follow if `resets`."""
    cycles = np.diff(qrs_s, prepend=2 * qrs_s[0] - qrs_s[1])
    gained = np.where(early, (1 - coupling) * cycles, 0.0)
    if resets:
        pause = np.where(early, 0.08 * cycles, 0.0)  # the sinus node recovers
        return np.asarray(qrs_s - np.cumsum(gained) + np.cumsum(pause) - pause)
    return np.asarray(qrs_s - gained)


def _fibrillation(patient: Patient, presentation: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    # irregular intervals: gamma distributed above a minimum
    rate_bpm = interpolate(58, 142, 0.5 * patient.traits[9] + 0.5 * float(rng.random()))
    mean_s = 60 / rate_bpm
    spread = rng.uniform(0.18, 0.27)
    n = int((duration_s + 2 * LEAD_IN_S) / mean_s * 1.4) + 8
    floor_s = 0.31
    excess_s = mean_s - floor_s
    shape = (excess_s / (spread * mean_s)) ** 2
    qrs_s = np.cumsum(floor_s + rng.gamma(shape, excess_s / shape, n)) - LEAD_IN_S

    # premature ventricular beats in long intervals
    ventricular = np.zeros(n, bool)
    if "PVC" in presentation.findings:
        long_before = np.diff(qrs_s, prepend=qrs_s[0]) > 0.9 * mean_s
        inside = np.flatnonzero(long_before & (qrs_s > 1.2) & (qrs_s < duration_s - 1.0))
        ventricular[rng.permutation(inside)[: int(rng.integers(1, 4))]] = True
        ventricular[1:] &= ~ventricular[:-1]
        at = np.flatnonzero(ventricular)
        qrs_s[at] = np.minimum(qrs_s[at], qrs_s[at - 1] + np.maximum(0.62 * mean_s, 0.40))
        late = np.flatnonzero(np.append(False, ventricular[:-1]))  # the next beat comes after the T wave
        for k in late:
            qrs_s[k:] += max(0.0, qrs_s[k - 1] + max(0.9 * mean_s, 0.52) - qrs_s[k])
    return Rhythm(qrs_s, ventricular, _NONE, np.empty(0, bool), rate_bpm, float("nan"))


def _flutter(patient: Patient, presentation: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    atrial_bpm = interpolate(272, 312, patient.traits[4])
    waves_s = _regular(atrial_bpm, duration_s, 0.003, rng)
    if presentation.variant < 0.30:
        steps = np.full(len(waves_s), 2)
    elif presentation.variant < 0.70:
        steps = np.full(len(waves_s), 4)
    else:
        steps = rng.choice([2, 3, 4], len(waves_s), p=[0.3, 0.2, 0.5])
    at = np.cumsum(steps)
    qrs_s = waves_s[at[at < len(waves_s)]] + 0.07 + 0.004 * rng.standard_normal(int((at < len(waves_s)).sum()))
    rate_bpm = 60 * (len(qrs_s) - 1) / float(qrs_s[-1] - qrs_s[0])
    plain = np.zeros(len(qrs_s), bool)
    return Rhythm(
        qrs_s, plain, _NONE, np.empty(0, bool), rate_bpm, float("nan"), atrial_bpm=atrial_bpm, f_wave_s=waves_s
    )


def _reentry(patient: Patient, presentation: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    rate_bpm = interpolate(160, 196, 0.6 * patient.traits[9] + 0.4 * float(rng.random()))
    qrs_s = _regular(rate_bpm, duration_s, 0.004, rng)
    return Rhythm(qrs_s, np.zeros(len(qrs_s), bool), _NONE, np.empty(0, bool), rate_bpm, float("nan"))


def _paced(patient: Patient, presentation: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    rate_bpm = float(rng.choice([60, 60, 65, 70, 75, 80]))
    qrs_s = _regular(rate_bpm, duration_s, 0.0, rng)
    pr_ms = interpolate(150, 190, patient.traits[4])
    spike_s = qrs_s - 0.004
    if presentation.variant < 0.4:  # both chambers are paced
        spike_s = np.concatenate([spike_s, qrs_s - pr_ms / 1000 - 0.02])
    none = np.zeros(len(qrs_s), bool)
    return Rhythm(qrs_s, none, qrs_s - pr_ms / 1000, none, rate_bpm, pr_ms, spike_s=spike_s)


def _complete_block(
    patient: Patient, presentation: Presentation, duration_s: float, rng: np.random.Generator
) -> Rhythm:
    low, high = (30, 40) if presentation.ventricular_escape else (39, 49)
    rate_bpm = interpolate(low, high, float(rng.random()))
    qrs_s = _regular(rate_bpm, duration_s, 0.006, rng)
    atrial_bpm = interpolate(68, 100, float(rng.random()))
    p_s = _regular(atrial_bpm, duration_s, 0.008, rng)
    none = np.zeros(len(qrs_s), bool)
    return Rhythm(qrs_s, none, p_s, np.zeros(len(p_s), bool), rate_bpm, float("nan"), atrial_bpm=atrial_bpm)


def atrial_activity(
    rhythm: Rhythm, presentation: Presentation, n_samples: int, rate_hz: float, rng: np.random.Generator
) -> Array:
    """Return fibrillation or flutter waves as vector, (n_samples, 3) mV; zeros in other rhythms."""
    # flutter: a regular saw-tooth
    at_s = np.arange(n_samples) / rate_hz
    if presentation.rhythm == "AFLT":
        phase = np.interp(at_s, rhythm.f_wave_s, np.arange(len(rhythm.f_wave_s)))
        saw = np.interp(phase % 1, [0.0, 0.68, 1.0], [1.0, -1.0, 1.0])  # a slow fall and a faster rise
        size = rng.uniform(0.8, 1.25)
        return np.asarray(saw[:, None] * (size * np.array([0.012, 0.135, 0.05])))
    if presentation.rhythm != "AFIB":
        return np.zeros((n_samples, 3))

    # fibrillation: two oscillations of varying frequency and size
    vector = np.zeros((n_samples, 3))
    size = rng.uniform(0.045, 0.085)
    for direction, weight in (((-0.30, 0.45, -0.80), 1.0), ((0.15, 0.60, 0.20), 0.7)):
        knots = np.arange(0, at_s[-1] + 1.5, 0.5)
        frequency_hz = rng.uniform(5.0, 7.5) + 0.7 * rng.standard_normal(len(knots))
        phase = np.interp(at_s, knots, np.cumsum(frequency_hz) * 0.5) + float(rng.random())
        swell = np.interp(at_s, knots, np.clip(1 + 0.3 * rng.standard_normal(len(knots)), 0.3, 1.7))
        wave = swell * (np.sin(2 * np.pi * phase) + 0.25 * np.sin(4 * np.pi * phase))
        vector += wave[:, None] * (weight * size * np.array(direction))
    return vector
