"""Convert recordings to int16 samples and back: the file's own integers where it has them, -32768 for a missing sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.recordings.recording import MISSING, Digital

if TYPE_CHECKING:
    from leadwise.data.recordings.twelve_leads import TwelveLead

_LARGEST = 32767


def pack(recording: TwelveLead) -> Digital:
    """Return the recording as integers (T0, 12): the file's own integers where it has them, else rounded to 1 uV.

    Where a lead's range exceeds int16 at 1 uV, its step is the smallest whole number of uV at which the lead fits.
    """
    if recording.digital is not None and all(quality.origin == "recorded" for quality in recording.quality):
        return recording.digital
    samples = np.full(recording.signal.shape, MISSING, dtype=np.int16)
    uv_per_step, baseline = np.ones(len(LEADS)), np.zeros(len(LEADS), dtype=np.int32)
    for lead, quality in enumerate(recording.quality):
        # recorded leads of an integer file are copied
        if quality.origin == "recorded" and recording.digital is not None:
            samples[:, lead] = recording.digital.samples[:, lead]
            uv_per_step[lead], baseline[lead] = recording.digital.uv_per_step[lead], recording.digital.baseline[lead]
            continue

        # derived leads and floating-point files are rounded
        observed = np.isfinite(recording.signal[:, lead])
        if not observed.any():
            continue
        microvolts = recording.signal[observed, lead] * 1000.0
        uv_per_step[lead] = max(1.0, np.ceil(np.abs(microvolts).max() / _LARGEST))
        samples[observed, lead] = np.rint(microvolts / uv_per_step[lead]).astype(np.int16)
    return Digital(samples, uv_per_step, baseline)


def unpack(block: np.ndarray, uv_per_step: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Convert samples (12, T0) int16 to a signal (T0, 12) float32 in mV, NaN = missing."""
    signal = np.empty(block.shape, dtype=np.float32)
    scale_into(signal, block, uv_per_step, baseline)
    signal[block == MISSING] = np.nan
    transposed: np.ndarray = signal.T
    return transposed


def scale_into(signal: np.ndarray, block: np.ndarray, uv_per_step: np.ndarray, baseline: np.ndarray) -> None:
    """Write samples (L, T) int16 as mV into `signal` (L, T) float32; missing samples are scaled like any other.

    `uv_per_step` and `baseline` have shape (L,). All arithmetic is in float32, which takes a third of the time of
    float64. The samples are divided by the steps per mV. That is a whole number in nearly every file, so the result is
    the nearest float32 there.
    """
    steps_per_mv = (1000.0 / uv_per_step).astype(np.float32)[:, None]
    if baseline.any():
        np.subtract(block, baseline.astype(np.float32)[:, None], out=signal, casting="same_kind")
        np.divide(signal, steps_per_mv, out=signal)
    else:
        np.divide(block, steps_per_mv, out=signal)


def unusable_reason(recording: TwelveLead) -> tuple[str, str] | None:
    """Why a readable recording cannot be used, as (field of the ledger, detail); None if it can be used."""
    n_samples = recording.n_samples
    recorded = [quality for quality in recording.quality if quality.origin == "recorded"]
    share = sum(quality.n_missing for quality in recorded) / (len(recorded) * n_samples)
    if share > 0.5:
        return "nan", f"{share:.0%} of its recorded samples are missing"
    observed = [quality for quality in recording.quality if quality.n_missing < n_samples]
    if all(quality.flat for quality in observed):
        doubt = f"; {recording.unit_doubt}" if recording.unit_doubt else ""
        return "flat", f"all {len(observed)} leads are flat{doubt}"
    return None
