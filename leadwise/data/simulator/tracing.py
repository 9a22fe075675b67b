"""One clean ECG of one patient: the heart vector over time, the leads that see it, and the truth about both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from leadwise.data.simulator.beats import (
    Beat,
    between,
    conducted_beat,
    ectopic_beat,
    p_wave,
    spike,
)
from leadwise.data.simulator.heart import (
    Array,
    Waves,
    render,
    twelve_leads,
)
from leadwise.data.simulator.patients import Person, Presentation, present
from leadwise.data.simulator.rhythm import Rhythm, make_rhythm, restlessness

DURATION_S = 10.0


@dataclass(frozen=True)
class Tracing:
    """What the electrodes would give without noise, and what is true of it."""

    shown: Presentation
    seen: Array  # (T, 8) mV, the leads of heart.SEEN
    truth: dict[str, float]  # rate_bpm, pr_ms, qrs_ms, qt_ms, qtc_ms, axis_deg (nan where there is none)
    st_mv: (
        Array  # (12,) what repolarisation adds 60 ms after QRS (40 ms above 100 beats/min), in the order of batch.LEADS
    )


def stream(person: Person, k: int, seed: int) -> np.random.Generator:
    """The random numbers of a patient's `k`-th ECG: its device first, then its tracing, its noise and its report."""
    return np.random.default_rng([seed, 2, person.number, k])


def trace(person: Person, rng: np.random.Generator, rate_hz: float, shown: Presentation | None = None) -> Tracing:
    """One more ECG of this patient, `DURATION_S` long at `rate_hz`; what it shows is drawn when not given."""
    shown = shown or present(person, rng)
    n_samples = round(DURATION_S * rate_hz)
    rhythm = make_rhythm(person, shown, DURATION_S, rng)
    inside = rhythm.qrs_s[(rhythm.qrs_s >= 0) & (rhythm.qrs_s < DURATION_S)]
    mean_s = float(np.diff(inside).mean())
    qtc_ms = between(486, 540, person.traits[6]) if "LNGQT" in shown.findings else between(378, 440, person.traits[6])
    qt_ms = qtc_ms * np.sqrt(mean_s)
    if shown.rhythm == "PACE" or shown.ventricular_escape or shown.findings & {"CLBBB", "CRBBB", "WPW"}:
        qt_ms += 30  # what is activated late recovers late
    beat = conducted_beat(person, shown, qt_ms, rng)
    vector = render(_events(person, shown, rhythm, beat, qt_ms, rate_hz, rng), n_samples, rate_hz)
    vector += restlessness(rhythm, shown, n_samples, rate_hz, rng)
    truth = {
        "rate_bpm": 60 / mean_s,
        "atrial_bpm": rhythm.atrial_bpm,
        "pr_ms": rhythm.pr_ms,
        "qrs_ms": beat.qrs_ms,
        "qt_ms": qt_ms,
        "qtc_ms": qt_ms / np.sqrt(mean_s),
        "axis_deg": beat.axis_deg,
    }
    after_ms = np.array([beat.qrs_ms + (60 if mean_s > 0.6 else 40)])
    st_mv = twelve_leads(beat.repolarisation.along(after_ms) @ person.transform.T)[0]
    return Tracing(shown, _breathing(vector, rate_hz, rng) @ person.transform.T, truth, st_mv)


def _events(
    person: Person,
    shown: Presentation,
    rhythm: Rhythm,
    beat: Beat,
    qt_ms: float,
    rate_hz: float,
    rng: np.random.Generator,
) -> Waves:
    """Every wave of the record, timed against its first sample."""
    every = _repeated(beat.waves, rhythm.qrs_s[~rhythm.ventricular], 0.025, rng)
    if rhythm.ventricular.any():
        early = ectopic_beat(person, shown, qt_ms)
        every += _repeated(early.waves, rhythm.qrs_s[rhythm.ventricular], 0.03, rng)
    for ectopic in (False, True):
        times = rhythm.p_s[rhythm.p_ectopic == ectopic]
        if len(times):
            every += _repeated(p_wave(person, shown, ectopic), times, 0.05, rng)
    if len(rhythm.spike_s):
        every += _repeated(spike(rate_hz), rhythm.spike_s, 0.03, rng)
    return every


def _repeated(shape: Waves, times_s: Array, jitter: float, rng: np.random.Generator) -> Waves:
    """The same waves at each time, no two beats quite alike."""
    n, g = len(times_s), len(shape)
    gain = 1 + jitter * rng.standard_normal((n, 1, 3))
    return replace(
        shape,
        at_ms=(1000 * times_s[:, None] + shape.at_ms).ravel(),
        rise_ms=np.tile(shape.rise_ms, n),
        fall_ms=np.tile(shape.fall_ms, n),
        hold_ms=np.tile(shape.hold_ms, n),
        vector_mv=(gain * shape.vector_mv).reshape(n * g, 3),
    )


def _breathing(vector: Array, rate_hz: float, rng: np.random.Generator) -> Array:
    """The vector as breathing turns it in the frontal plane (a few degrees) and weakens it (a few percent)."""
    phase = 2 * np.pi * (rng.uniform(0.18, 0.32) * np.arange(len(vector)) / rate_hz + float(rng.random()))
    swing = np.sin(phase)
    angle = np.deg2rad(rng.uniform(1, 4)) * swing
    size = 1 + rng.uniform(0.01, 0.04) * swing
    turned = np.empty_like(vector)
    turned[:, 0] = size * (vector[:, 0] - angle * vector[:, 1])
    turned[:, 1] = size * (vector[:, 1] + angle * vector[:, 0])
    turned[:, 2] = size * vector[:, 2]
    return turned
