"""When beats come: the times of atrial and ventricular events in each rhythm, and the atria's own restlessness.

Times are seconds from the first sample; events start before it and end after the last, so that no beat is cut at the
edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leadwise.data.simulator.beats import between
from leadwise.data.simulator.heart import Array
from leadwise.data.simulator.patients import Person, Presentation

LEAD_IN_S = 2.5  # events begin so long before the first sample
_NONE: Array = np.empty(0)


@dataclass(frozen=True)
class Rhythm:
    """The events of one ECG."""

    qrs_s: Array  # (N,) onsets
    ventricular: NDArray[np.bool_]  # (N,) true for premature ventricular beats
    p_s: Array  # (M,) onsets
    p_ectopic: NDArray[np.bool_]  # (M,)
    rate_bpm: float  # ventricular, as intended
    pr_ms: float  # nan where atria and ventricles do not go together
    spike_s: Array = field(default_factory=lambda: _NONE)  # pacing stimuli
    atrial_bpm: float = float("nan")  # of flutter waves or of P waves that go their own way
    f_wave_s: Array = field(default_factory=lambda: _NONE)  # (W,) flutter: when each wave starts


def make_rhythm(person: Person, shown: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    """The events of one ECG of `duration_s`, for the rhythm and the ectopy it shows."""
    makers = {
        "SR": _sinus,
        "AFIB": _fibrillation,
        "AFLT": _flutter,
        "SVTAC": _reentry,
        "PACE": _paced,
        "AVB3": _blocked,
    }
    return makers[shown.rhythm](person, shown, duration_s, rng)


def _regular(rate_bpm: float, duration_s: float, jitter: float, rng: np.random.Generator) -> Array:
    n = int((duration_s + 2 * LEAD_IN_S) * rate_bpm / 60) + 3
    cycles = 60 / rate_bpm * (1 + jitter * rng.standard_normal(n))
    return np.cumsum(cycles) - LEAD_IN_S - float(rng.random()) * 60 / rate_bpm


def _sinus(person: Person, shown: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    found = shown.findings
    share = 0.8 * person.traits[9] + 0.2 * float(rng.random())
    low, high = (42, 56) if "SBRAD" in found else (104, 132) if "STACH" in found else (62, 95)
    rate_bpm = between(low, high, share)
    cycle_s = 60 / rate_bpm
    qrs_s = _regular(rate_bpm, duration_s, 0.006, rng)
    breath = np.sin(2 * np.pi * between(0.18, 0.32, float(rng.random())) * qrs_s + 6.28 * float(rng.random()))
    depth = 0.045 * np.clip((75 - person.age_years) / 50, 0.1, 1) * min(cycle_s, 1.0)
    qrs_s = qrs_s + depth * breath
    pr_ms = _pr_ms(person, shown, rate_bpm)
    ventricular = np.zeros(len(qrs_s), bool)
    early = np.zeros(len(qrs_s), bool)
    if "PVC" in found:
        ventricular = _which_early(qrs_s, duration_s, shown.variant, rng)
        qrs_s = _brought_forward(qrs_s, ventricular, rng.uniform(0.54, 0.68), resets=False)
    elif "PAC" in found:
        early = _which_early(qrs_s, duration_s, 0.3 + 0.7 * shown.variant, rng)
        qrs_s = _brought_forward(qrs_s, early, rng.uniform(0.60, 0.72), resets=True)
    conducted = ~ventricular
    p_s = qrs_s[conducted] - pr_ms / 1000
    return Rhythm(qrs_s, ventricular, p_s, early[conducted], rate_bpm, pr_ms)


def _pr_ms(person: Person, shown: Presentation, rate_bpm: float) -> float:
    share = person.traits[4]
    if "WPW" in shown.findings:
        return between(86, 106, share)
    if "LPR" in shown.findings:
        return between(225, 310, share)
    return between(142, 186, share) - 0.25 * max(rate_bpm - 75, 0)


def _which_early(qrs_s: Array, duration_s: float, variant: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which beats come early: every second, every third, or one to three of them, never two in a row."""
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


def _brought_forward(qrs_s: Array, early: NDArray[np.bool_], coupling: float, resets: bool) -> Array:
    """The times with the early beats at `coupling` of their cycle; what follows keeps its time, or starts anew."""
    cycles = np.diff(qrs_s, prepend=2 * qrs_s[0] - qrs_s[1])
    gained = np.where(early, (1 - coupling) * cycles, 0.0)
    if resets:
        pause = np.where(early, 0.08 * cycles, 0.0)  # the sinus node needs a moment
        return np.asarray(qrs_s - np.cumsum(gained) + np.cumsum(pause) - pause)
    return np.asarray(qrs_s - gained)


def _fibrillation(person: Person, shown: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    rate_bpm = between(58, 142, 0.5 * person.traits[9] + 0.5 * float(rng.random()))
    mean_s = 60 / rate_bpm
    spread = rng.uniform(0.18, 0.27)
    n = int((duration_s + 2 * LEAD_IN_S) / mean_s * 1.4) + 8
    floor_s = 0.31
    excess_s = mean_s - floor_s
    shape = (excess_s / (spread * mean_s)) ** 2
    qrs_s = np.cumsum(floor_s + rng.gamma(shape, excess_s / shape, n)) - LEAD_IN_S
    ventricular = np.zeros(n, bool)
    if "PVC" in shown.findings:
        long_before = np.diff(qrs_s, prepend=qrs_s[0]) > 0.9 * mean_s
        inside = np.flatnonzero(long_before & (qrs_s > 1.2) & (qrs_s < duration_s - 1.0))
        ventricular[rng.permutation(inside)[: int(rng.integers(1, 4))]] = True
        ventricular[1:] &= ~ventricular[:-1]
        at = np.flatnonzero(ventricular)
        qrs_s[at] = np.minimum(qrs_s[at], qrs_s[at - 1] + np.maximum(0.62 * mean_s, 0.40))
        late = np.flatnonzero(np.append(False, ventricular[:-1]))  # the next beat waits for the T wave to pass
        for k in late:
            qrs_s[k:] += max(0.0, qrs_s[k - 1] + max(0.9 * mean_s, 0.52) - qrs_s[k])
    return Rhythm(qrs_s, ventricular, _NONE, np.empty(0, bool), rate_bpm, float("nan"))


def _flutter(person: Person, shown: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    atrial_bpm = between(272, 312, person.traits[4])
    waves_s = _regular(atrial_bpm, duration_s, 0.003, rng)
    if shown.variant < 0.30:
        steps = np.full(len(waves_s), 2)
    elif shown.variant < 0.70:
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


def _reentry(person: Person, shown: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    rate_bpm = between(160, 196, 0.6 * person.traits[9] + 0.4 * float(rng.random()))
    qrs_s = _regular(rate_bpm, duration_s, 0.004, rng)
    return Rhythm(qrs_s, np.zeros(len(qrs_s), bool), _NONE, np.empty(0, bool), rate_bpm, float("nan"))


def _paced(person: Person, shown: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    rate_bpm = float(rng.choice([60, 60, 65, 70, 75, 80]))
    qrs_s = _regular(rate_bpm, duration_s, 0.0, rng)
    pr_ms = between(150, 190, person.traits[4])
    spike_s = qrs_s - 0.004
    if shown.variant < 0.4:  # both chambers are paced
        spike_s = np.concatenate([spike_s, qrs_s - pr_ms / 1000 - 0.02])
    none = np.zeros(len(qrs_s), bool)
    return Rhythm(qrs_s, none, qrs_s - pr_ms / 1000, none, rate_bpm, pr_ms, spike_s=spike_s)


def _blocked(person: Person, shown: Presentation, duration_s: float, rng: np.random.Generator) -> Rhythm:
    low, high = (30, 40) if shown.ventricular_escape else (39, 49)
    rate_bpm = between(low, high, float(rng.random()))
    qrs_s = _regular(rate_bpm, duration_s, 0.006, rng)
    atrial_bpm = between(68, 100, float(rng.random()))
    p_s = _regular(atrial_bpm, duration_s, 0.008, rng)
    none = np.zeros(len(qrs_s), bool)
    return Rhythm(qrs_s, none, p_s, np.zeros(len(p_s), bool), rate_bpm, float("nan"), atrial_bpm=atrial_bpm)


def restlessness(
    rhythm: Rhythm, shown: Presentation, n_samples: int, rate_hz: float, rng: np.random.Generator
) -> Array:
    """Atrial activity that is no P wave: fibrillation or flutter waves, (n_samples, 3) mV of the vector, or zeros."""
    at_s = np.arange(n_samples) / rate_hz
    if shown.rhythm == "AFLT":
        phase = np.interp(at_s, rhythm.f_wave_s, np.arange(len(rhythm.f_wave_s)))
        saw = np.interp(phase % 1, [0.0, 0.68, 1.0], [1.0, -1.0, 1.0])  # a slow way down and a quicker one up
        size = rng.uniform(0.8, 1.25)
        return np.asarray(saw[:, None] * (size * np.array([0.012, 0.135, 0.05])))
    if shown.rhythm != "AFIB":
        return np.zeros((n_samples, 3))
    vector = np.zeros((n_samples, 3))
    size = rng.uniform(0.045, 0.085)
    for direction, weight in (((-0.30, 0.45, -0.80), 1.0), ((0.15, 0.60, 0.20), 0.7)):
        knots = np.arange(0, at_s[-1] + 1.5, 0.5)
        pitch_hz = rng.uniform(5.0, 7.5) + 0.7 * rng.standard_normal(len(knots))
        phase = np.interp(at_s, knots, np.cumsum(pitch_hz) * 0.5) + float(rng.random())
        swell = np.interp(at_s, knots, np.clip(1 + 0.3 * rng.standard_normal(len(knots)), 0.3, 1.7))
        wave = swell * (np.sin(2 * np.pi * phase) + 0.25 * np.sin(4 * np.pi * phase))
        vector += wave[:, None] * (weight * size * np.array(direction))
    return vector
