"""Convert recordings to int16 samples and back: the file's own integers where it has them, -32768 for a missing sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.recordings.recording import MISSING, Digital

if TYPE_CHECKING:
    from leadwise.data.recordings.twelve_leads import TwelveLead

LARGEST_MV = 50.0  # from the lead's median: no ECG amplifier has a wider range, so the gain or the unit is wrong
_LARGEST = 32767
_LEAST_S = 1.0  # of samples in the longest lead: a shorter piece holds no whole beat


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
    """Write samples (..., L, T) as mV into `signal` (..., L, T) float32; missing samples are scaled like any other.

    The samples are int16, or the same whole numbers as float32. `uv_per_step` and `baseline` have shape (..., L).
    All arithmetic is in float32, which takes a third of the time of float64. The samples are divided by the steps per mV. That
    is a whole number in nearly every file, so the result is the nearest float32 there.
    """
    steps_per_mv = (1000.0 / uv_per_step).astype(np.float32)[..., None]
    if baseline.any():
        np.subtract(block, baseline.astype(np.float32)[..., None], out=signal, casting="same_kind")
        np.divide(signal, steps_per_mv, out=signal)
    else:
        np.divide(block, steps_per_mv, out=signal)


def unusable_reason(recording: TwelveLead) -> tuple[str, str] | None:
    """Why a readable recording cannot be used, as (field of the ledger, detail); None if it can be used."""
    # by the samples that are left: in a digitised print, each lead has a quarter of the recording
    n_samples = recording.n_samples
    n_longest = max(n_samples - quality.n_missing for quality in recording.quality if quality.origin == "recorded")
    if n_longest == 0 or (n_longest < 0.5 * n_samples and n_longest < _LEAST_S * recording.rate_hz):
        return "nan", f"its longest lead has {n_longest / recording.rate_hz:.2g} s of samples, the rest is missing"
    observed = [quality for quality in recording.quality if quality.n_missing < n_samples]
    if all(quality.flat for quality in observed):
        doubt = f"; {recording.unit_doubt}" if recording.unit_doubt else ""
        return "flat", f"all {len(observed)} leads are flat{doubt}"
    return None


def implausible_amplitude(recording: TwelveLead) -> str:
    """Which lead leaves the range of any ECG amplifier, as text; '' if none does."""
    for lead, quality in enumerate(recording.quality):
        if quality.origin != "recorded" or not quality.max_abs_mv > LARGEST_MV:
            continue
        signal = recording.signal[:, lead]
        largest = float(np.nanmax(np.abs(signal - np.nanmedian(signal))))
        if largest > LARGEST_MV:
            return (
                f"record {recording.name}: lead {LEADS[lead]} deviates by {largest:.3g} mV from its median; no ECG "
                f"exceeds {LARGEST_MV:g} mV: correct its unit or gain"
            )
    return ""
