"""A recording's samples as int16 and back: what the file had, at a stated step, -32768 = missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.recordings.recording import MISSING, Digital

if TYPE_CHECKING:
    from leadwise.data.recordings.twelve_leads import TwelveLead

_LARGEST = 32767


def pack(recording: TwelveLead) -> Digital:
    """The recording as integers (T0, 12): the file's own where it has them, else rounded to 1 uV.

    Where a lead's range exceeds int16 at 1 uV, its step is the least whole number of uV that fits.
    """
    if recording.digital is not None and all(quality.origin == "recorded" for quality in recording.quality):
        return recording.digital
    samples = np.full(recording.signal.shape, MISSING, dtype=np.int16)
    uv_per_step, baseline = np.ones(len(LEADS)), np.zeros(len(LEADS), dtype=np.int32)
    for lead, quality in enumerate(recording.quality):
        if quality.origin == "recorded" and recording.digital is not None:
            samples[:, lead] = recording.digital.samples[:, lead]
            uv_per_step[lead], baseline[lead] = recording.digital.uv_per_step[lead], recording.digital.baseline[lead]
            continue
        observed = np.isfinite(recording.signal[:, lead])
        if not observed.any():
            continue
        microvolts = recording.signal[observed, lead] * 1000.0
        uv_per_step[lead] = max(1.0, np.ceil(np.abs(microvolts).max() / _LARGEST))
        samples[observed, lead] = np.rint(microvolts / uv_per_step[lead]).astype(np.int16)
    return Digital(samples, uv_per_step, baseline)


def unpack(block: np.ndarray, uv_per_step: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Samples (12, T0) int16 as a signal (T0, 12) float32 in mV, NaN = missing."""
    signal = np.empty(block.shape, dtype=np.float32)
    scale_into(signal, block, uv_per_step, baseline)
    signal[block == MISSING] = np.nan
    turned: np.ndarray = signal.T
    return turned


def scale_into(signal: np.ndarray, block: np.ndarray, uv_per_step: np.ndarray, baseline: np.ndarray) -> None:
    """Samples (L, T) int16 as mV into `signal` (L, T) float32, missing ones too; uv_per_step, baseline: (L,).

    In float32 throughout, a third of the time of float64; divided by the steps per mV, which is a whole number in nearly
    every file, so that the result is the nearest float32 there.
    """
    steps_per_mv = (1000.0 / uv_per_step).astype(np.float32)[:, None]
    if baseline.any():
        np.subtract(block, baseline.astype(np.float32)[:, None], out=signal, casting="same_kind")
        np.divide(signal, steps_per_mv, out=signal)
    else:
        np.divide(block, steps_per_mv, out=signal)


def unusable_reason(recording: TwelveLead) -> tuple[str, str] | None:
    """Why a readable recording is of no use, as (reason, detail); None if it is."""
    n_samples = recording.n_samples
    recorded = [quality for quality in recording.quality if quality.origin == "recorded"]
    share = sum(quality.n_missing for quality in recorded) / (len(recorded) * n_samples)
    if share > 0.5:
        return "nan", f"{share:.0%} of its recorded samples are missing"
    seen = [quality for quality in recording.quality if quality.n_missing < n_samples]
    if all(quality.flat for quality in seen):
        doubt = f"; {recording.unit_doubt}" if recording.unit_doubt else ""
        return "flat", f"all {len(seen)} leads are flat{doubt}"
    return None
