"""One clean ECG of one patient: the heart vector over time, its leads, and the true values behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.simulator.beats import (
    Beat,
    conducted_beat,
    ectopic_beat,
    interpolate,
    p_wave,
    spike,
)
from leadwise.data.simulator.heart import (
    Array,
    Waves,
    render,
    twelve_leads,
)
from leadwise.data.simulator.patients import Patient, Presentation, draw_presentation
from leadwise.data.simulator.rhythm import Rhythm, atrial_activity, draw_rhythm

DURATION_S = 10.0


@dataclass(frozen=True)
class Tracing:
    """The leads of an ECG without noise, and its true values."""

    presentation: Presentation
    leads: Array  # (T, 8) mV, the leads of heart.INDEPENDENT_LEADS
    truth: dict[str, float]  # rate_bpm, pr_ms, qrs_ms, qt_ms, qtc_ms, axis_deg, t_mv (NaN if undefined)
    st_mv: Array  # (12,) ST level 60 ms after the QRS (40 ms above 100 beats/min), in the order of batch.LEADS


def random_stream(patient: Patient, k: int, seed: int) -> np.random.Generator:
    """Return the random generator of a patient's `k`-th ECG; it draws the device, then the tracing, the noise and the report."""
    return np.random.default_rng([seed, 2, patient.number, k])


def draw_tracing(
    patient: Patient, rng: np.random.Generator, rate_hz: float, presentation: Presentation | None = None
) -> Tracing:
    """Return one ECG of a patient, `DURATION_S` long at `rate_hz`; its findings are drawn if `presentation` is not given."""
    presentation = presentation or draw_presentation(patient, rng)

    # times of the beats and the QT interval
    rhythm = draw_rhythm(patient, presentation, DURATION_S, rng)
    onsets = rhythm.qrs_s[(rhythm.qrs_s >= 0) & (rhythm.qrs_s < DURATION_S)]
    mean_s = float(np.diff(onsets).mean())
    qtc_ms = (
        interpolate(486, 540, patient.traits[6])
        if "LNGQT" in presentation.findings
        else interpolate(378, 440, patient.traits[6])
    )
    qt_ms = qtc_ms * np.sqrt(mean_s)
    if (
        presentation.rhythm == "PACE"
        or presentation.ventricular_escape
        or presentation.findings & {"CLBBB", "CRBBB", "WPW"}
    ):
        qt_ms += 30  # late activation means late recovery

    # the beat, and the leads
    beat = conducted_beat(patient, presentation, qt_ms, rng)
    leads = clean_leads(patient, presentation, rhythm, beat, qt_ms, rate_hz, rng)

    # the true values
    truth = {
        "rate_bpm": 60 / mean_s,
        "atrial_bpm": rhythm.atrial_bpm,
        "pr_ms": rhythm.pr_ms,
        "qrs_ms": beat.qrs_ms,
        "qt_ms": qt_ms,
        "qtc_ms": qt_ms / np.sqrt(mean_s),
        "axis_deg": beat.axis_deg,
        "t_mv": float(twelve_leads(beat.t_top_mv[None] @ patient.transform.T)[0, LEADS.index("II")]),
    }
    after_ms = np.array([beat.qrs_ms + (60 if mean_s > 0.6 else 40)])
    st_mv = twelve_leads(beat.repolarisation.along(after_ms) @ patient.transform.T)[0]
    return Tracing(presentation, leads, truth, st_mv)


def clean_leads(
    patient: Patient,
    presentation: Presentation,
    rhythm: Rhythm,
    beat: Beat,
    qt_ms: float,
    rate_hz: float,
    rng: np.random.Generator,
) -> Array:
    """Return the leads of heart.INDEPENDENT_LEADS over `DURATION_S`, (T, 8) mV: every event of the rhythm, and breathing."""
    n_samples = round(DURATION_S * rate_hz)
    vector = render(_events(patient, presentation, rhythm, beat, qt_ms, rate_hz, rng), n_samples, rate_hz)
    vector += atrial_activity(rhythm, presentation, n_samples, rate_hz, rng)
    return _modulate_by_breathing(vector, rate_hz, rng) @ patient.transform.T


def _events(
    patient: Patient,
    presentation: Presentation,
    rhythm: Rhythm,
    beat: Beat,
    qt_ms: float,
    rate_hz: float,
    rng: np.random.Generator,
) -> Waves:
    """Return every wave of the recording; times are relative to its first sample."""
    events = _repeat(beat.waves, rhythm.qrs_s[~rhythm.ventricular], 0.025, rng)
    if rhythm.ventricular.any():
        early = ectopic_beat(patient, presentation, qt_ms)
        events += _repeat(early.waves, rhythm.qrs_s[rhythm.ventricular], 0.03, rng)
    for ectopic in (False, True):
        times = rhythm.p_s[rhythm.p_ectopic == ectopic]
        if len(times):
            events += _repeat(p_wave(patient, presentation, ectopic), times, 0.05, rng)
    if len(rhythm.spike_s):
        events += _repeat(spike(rate_hz), rhythm.spike_s, 0.03, rng)
    return events


def _repeat(shape: Waves, times_s: Array, jitter: float, rng: np.random.Generator) -> Waves:
    """Return the same waves at each time, with random variation between beats."""
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


def _modulate_by_breathing(vector: Array, rate_hz: float, rng: np.random.Generator) -> Array:
    """Return the vector with the effect of breathing: rotation in the frontal plane by degrees, and size by a few percent."""
    phase = 2 * np.pi * (rng.uniform(0.18, 0.32) * np.arange(len(vector)) / rate_hz + float(rng.random()))
    swing = np.sin(phase)
    angle = np.deg2rad(rng.uniform(1, 4)) * swing
    size = 1 + rng.uniform(0.01, 0.04) * swing
    turned = np.empty_like(vector)
    turned[:, 0] = size * (vector[:, 0] - angle * vector[:, 1])
    turned[:, 1] = size * (vector[:, 1] + angle * vector[:, 0])
    turned[:, 2] = size * vector[:, 2]
    return turned
