"""Errors of completed leads: one number per recording and lead, and their means over recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS, Batch
from leadwise.data.delineation.beats import detect_beats
from leadwise.data.delineation.conditioning import RATE_HZ, condition
from leadwise.evaluate.metrics.score import Floats

MEASURES = ("mse", "mae", "r", "qrs")
UNITS = {"mse": "mV²", "mae": "mV", "r": "", "qrs": "mV"}
_QRS_HALF_S = 0.06


@dataclass(frozen=True)
class LeadErrors:
    """The measures of one row: N recordings, U synthetic leads; NaN where a measure is undefined."""

    name: str
    values: dict[str, Floats]  # measure -> (N, U)
    coverage: float | None = None  # share of true samples within the band of 80 %; None: no band

    def mean(self, measure: str, weights: NDArray[Any] | None = None, some: NDArray[np.bool_] | None = None) -> Floats:
        """Return the means over recordings of each lead, (U,), or with weights (R, N) of each resampling, (R, U)."""
        values = self.values[measure]
        chosen = np.isfinite(values) if some is None else np.isfinite(values) & some[:, None]
        weight = np.ones((1, len(values))) if weights is None else weights.astype(np.float64)
        total, count = weight @ np.where(chosen, values, 0.0), weight @ chosen
        means: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        return means[0] if weights is None else means


def centred(ecg: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the ECG (..., T) minus each lead's median."""
    values = np.asarray(ecg, dtype=np.float64)
    out: NDArray[np.float64] = values - np.median(values, axis=-1, keepdims=True)
    return out


def beats_of(batch: Batch, rate_hz: int, leads: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the middle of each QRS complex of each recording, in samples, from all recorded leads."""
    rows = [row for row, lead in enumerate(leads) if lead in LEADS]
    names = tuple(leads[row] for row in rows)
    middles = []
    for ecg, observed in zip(batch.ecg.numpy().astype(np.float64), batch.observed.numpy()):
        conditioned = condition(ecg[rows], names, rate_hz, observed[rows])
        middle = np.empty(0, dtype=np.int64) if conditioned is None else detect_beats(conditioned.signal)[0]
        middles.append((middle * rate_hz / RATE_HZ).round().astype(np.int64))
    return middles


def measure_errors(
    estimate: NDArray[np.float64], truth: NDArray[np.float64], beats: Sequence[NDArray[np.int64]], rate_hz: int
) -> dict[str, Floats]:
    """Return the measures (B, U) of estimates (B, U, T)."""
    error = estimate - truth
    a, b = (x - x.mean(axis=-1, keepdims=True) for x in (estimate, truth))
    norm = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    r = np.divide((a * b).sum(-1), norm, out=np.full(norm.shape, np.nan), where=norm > 0)
    size = qrs_amplitude(estimate, beats, rate_hz) - qrs_amplitude(truth, beats, rate_hz)
    return {"mse": (error**2).mean(-1), "mae": np.abs(error).mean(-1), "r": r, "qrs": np.abs(size)}


def qrs_amplitude(ecg: NDArray[np.float64], beats: Sequence[NDArray[np.int64]], rate_hz: int) -> Floats:
    """Return (B, U) the median over the beats of the largest minus the smallest sample near the middle of the QRS, in mV."""
    half = round(_QRS_HALF_S * rate_hz)
    out = np.full(ecg.shape[:2], np.nan)
    for number, (one, middles) in enumerate(zip(ecg, beats)):
        inside = middles[(middles >= half) & (middles < one.shape[1] - half)]
        if len(inside):
            windows = one[:, inside[:, None] + np.arange(-half, half + 1)]  # (U, beats, samples)
            out[number] = np.median(np.ptp(windows, axis=-1), axis=-1)
    return out
