"""The median of the dominant beats of an ECG, lead by lead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data.delineation.beats import BEFORE, average_beat, group_beats
from leadwise.data.delineation.conditioning import RATE_HZ, condition
from leadwise.data.measurements import Measurements
from leadwise.ecg import ECG


def median_beat(ecg: ECG, measured: Measurements) -> NDArray[np.float64] | None:
    """Return the median of the dominant beats (12, T) in mV at RATE_HZ, with the level before the QRS at 0; None without beats.

    NaN in a lead that is missing.
    """
    conditioned = condition(ecg.signal, LEADS, ecg.rate_hz, ecg.observed)
    onsets, offsets = measured.beats["qrs_onset_s"], measured.beats["qrs_offset_s"]
    usable = np.isfinite(onsets) & np.isfinite(offsets)
    if conditioned is None or not usable.any():
        return None
    middles = np.rint((onsets[usable] + offsets[usable]) / 2 * RATE_HZ).astype(np.int64)
    groups = group_beats(conditioned.signal, middles)
    largest = max(groups, key=lambda group: len(group.numbers))
    average = average_beat(conditioned.signal, conditioned.observed, largest.middles)
    half = max(1, round(float(np.median(offsets[usable] - onsets[usable])) / 2 * RATE_HZ))
    before = average[:, max(0, BEFORE - half - 10) : BEFORE - half]
    level = np.nanmedian(before, axis=1, keepdims=True) if before.size and np.isfinite(before).all() else 0.0
    beat = np.full((len(LEADS), average.shape[1]), np.nan)
    beat[[LEADS.index(lead) for lead in conditioned.leads]] = average - level
    return beat
