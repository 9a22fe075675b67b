"""Prepare an ECG of any rate, lead set and quality for delineation: usable leads at 500 Hz, filtered, gaps marked."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.signal import butter, resample_poly, sosfiltfilt

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

RATE_HZ = 500
"""The rate of all further steps; a recording at another rate is resampled, so that every constant is in samples of 2 ms."""

LEAST_OBSERVED = 0.5  # share of a lead's samples; a lead with fewer is not used
_FLAT_MV = 0.02  # range between the 1st and 99th percentile below which a lead counts as flat
_PASS_HZ = (0.5, 40.0)
_SPIKE_MV = 0.45  # a pacing stimulus exceeds its surroundings by more
_SPIKE_TAIL_S = 0.016
_SPIKE_LEAST_HZ = 250  # below this rate a stimulus has the width of an R wave


@dataclass(frozen=True, eq=False)
class ConditionedEcg:
    """The usable leads of an ECG at `RATE_HZ`; time 0 is the first sample of the recording."""

    leads: tuple[str, ...]
    signal: Floats  # (L, T) mV, 0.5 to 40 Hz
    observed: Mask  # (L, T)
    paced: bool  # pacing stimuli were removed

    def subset(self, chosen: Mask) -> ConditionedEcg:
        """Return the ECG with the chosen leads (L,) only."""
        names = tuple(lead for lead, stays in zip(self.leads, chosen) if stays)
        return ConditionedEcg(names, self.signal[chosen], self.observed[chosen], self.paced)


def condition(ecg_mv: Floats, leads: tuple[str, ...], rate_hz: float, observed: Mask) -> ConditionedEcg | None:
    """Return the usable leads of an ECG (L, T); None if there is none. Every value at an unobserved sample is ignored."""
    # leads with enough samples that are not flat
    usable = []
    for row in range(len(leads)):
        values = ecg_mv[row, observed[row]]
        if observed[row].mean() < LEAST_OBSERVED or len(values) < 2:
            continue
        low, high = np.percentile(values, (1, 99))
        if high - low >= _FLAT_MV:
            usable.append(row)
    if not usable:
        return None

    # bridge gaps by straight lines, so that filters have an input there, then resample
    mask = observed[usable]
    filled = ecg_mv[usable].astype(np.float64)
    at = np.arange(filled.shape[1])
    for row, exists in zip(filled, mask):
        if not exists.all():
            row[~exists] = np.interp(at[~exists], at[exists], row[exists])
    paced = False
    if rate_hz >= _SPIKE_LEAST_HZ:
        filled, paced = _without_stimuli(filled, rate_hz)
    if rate_hz != RATE_HZ:
        ratio = Fraction(RATE_HZ / rate_hz).limit_denominator(1000)
        filled = resample_poly(filled, ratio.numerator, ratio.denominator, axis=1, padtype="line")
        nearest = np.minimum(np.rint(np.arange(filled.shape[1]) * rate_hz / RATE_HZ).astype(int), mask.shape[1] - 1)
        mask = mask[:, nearest]

    signal = keep_band(filled, *_PASS_HZ)
    return ConditionedEcg(tuple(leads[row] for row in usable), signal, mask, paced)


def keep_band(leads: Floats, low_hz: float | None, high_hz: float) -> Floats:
    """Return the part of leads (L, T) between two frequencies, or below `high_hz`; no wave moves, the phase is zero."""
    padding = min(leads.shape[1] - 1, RATE_HZ)
    result: Floats = sosfiltfilt(_sections(low_hz, high_hz), leads, axis=1, padtype="odd", padlen=padding)
    return result


@cache
def _sections(low_hz: float | None, high_hz: float) -> Floats:
    """Return second-order sections of Butterworth filters."""
    sections: Floats = butter(3, high_hz, "lowpass", fs=RATE_HZ, output="sos")
    if low_hz is not None:
        sections = np.concatenate(
            [butter(1 if low_hz < 1 else 2, low_hz, "highpass", fs=RATE_HZ, output="sos"), sections]
        )
    return sections


def _without_stimuli(leads: Floats, rate_hz: float) -> tuple[Floats, bool]:
    """Return leads (L, T) with pacing stimuli replaced by straight lines, and whether there were any."""
    width = 2 * round(0.005 * rate_hz) + 1
    narrow = np.abs(leads - median_filter(leads, size=(1, width), mode="nearest")).max(axis=0) > _SPIKE_MV
    if not narrow.any():
        return leads, False
    reach = round(_SPIKE_TAIL_S * rate_hz)  # the electrode discharges after the stimulus
    begins = np.flatnonzero(narrow)
    wide = np.zeros(leads.shape[1] + 1, dtype=np.int64)
    np.add.at(wide, np.maximum(begins - width // 2 - 1, 0), 1)
    np.add.at(wide, np.minimum(begins + reach + 1, leads.shape[1]), -1)
    clean = np.flatnonzero(np.cumsum(wide[:-1]) == 0)
    if len(clean) < 2:
        return leads, False
    at = np.arange(leads.shape[1])
    return np.stack([np.interp(at, clean, lead[clean]) for lead in leads]), True
