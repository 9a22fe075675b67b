"""The quality of each lead: missing samples, whether it is flat, and its largest amplitude.

`lead_quality` takes one lead in mV, with or without missing samples. `integer_quality` takes the integers of a whole
recording without missing samples. Nearly every recording has no fault, and counting its integers can show that without
sorting them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from leadwise.data.recordings.recording import MISSING

SHORT_GAP_MS = 40.0  # the longest gap that is bridged by a straight line
FLAT_MV = 0.001  # a lead with a smaller standard deviation is flat: it contains no ECG
PLAUSIBLE_MV = (0.02, 20.0)  # the usual range of a lead; outside it, the unit is probably wrong by a factor of 1000
MARGIN_MV = PLAUSIBLE_MV[0] / 2  # samples farther than this below and above the middle of a lead are counted
_PERCENTILES = (1, 99)
_N_MEDIAN_SAMPLES = 300  # samples of a lead from which its median is estimated

Origin = Literal["recorded", "derived", "missing"]


class LeadQuality(NamedTuple):
    """The quality of one lead."""

    origin: Origin
    n_missing: int  # samples
    n_short_gaps: int  # gaps that `conform` bridges
    n_long_gaps: int  # gaps that remain unobserved: longer than SHORT_GAP_MS, or at an end
    flat: bool
    max_abs_mv: float  # NaN if no sample is observed


@dataclass(frozen=True)
class IntegerQuality:
    """The quality of a whole recording, as far as counting its integers can establish it."""

    quality: tuple[LeadQuality, ...]
    plausible: bool  # the range of every lead is certainly within PLAUSIBLE_MV; False means undecided
    middle: np.ndarray  # (L,) in steps: near the median of each lead
    is_near: np.ndarray  # (L,) whether the median is certainly no farther from `middle` than MARGIN_MV


def lead_quality(lead: np.ndarray, origin: Origin, rate_hz: float) -> LeadQuality:
    """The quality of one lead (T,) in mV, NaN = missing."""
    observed = np.isfinite(lead)
    n_missing = int((~observed).sum())
    if n_missing == len(lead):
        return LeadQuality(origin, n_missing, 0, 0 if origin == "missing" else 1, False, math.nan)
    n_short = n_long = 0
    if n_missing:
        gaps = find_gaps(observed)
        short = bridgeable(gaps, len(lead), rate_hz)
        n_short, n_long = int(short.sum()), int((~short).sum())
    values = lead[observed]
    with np.errstate(over="ignore"):  # of a damaged file
        flat = float(values.std()) < FLAT_MV
    return LeadQuality(origin, n_missing, n_short, n_long, flat, float(np.abs(values).max()))


def range_mv(lead: np.ndarray) -> float:
    """The 1st to 99th percentile range of one lead (T,) in mV, which ignores single spikes; NaN if no sample is observed."""
    values = lead[np.isfinite(lead)]
    if not len(values):
        return math.nan
    low, high = np.percentile(values, _PERCENTILES)
    return float(high - low)


def integer_quality(samples: np.ndarray, baseline: np.ndarray, mv_per_step: np.ndarray) -> IntegerQuality | None:
    """The quality of recorded leads, samples (L, T) int16; None if a sample is missing. `mv_per_step` (L,) is positive.

    If more than 1 % of a lead's samples are farther than a margin below some value and more than 1 % are that far above
    it, the lead's range is more than twice the margin, so it is not flat. If each of the two is at most half of the
    samples, the lead's median is no farther from that value than the margin. Counting is an order of magnitude faster
    than sorting.
    """
    # extremes of each lead; the smallest int16 marks a missing sample
    ends = np.stack([samples.min(axis=1), samples.max(axis=1)])  # (2, L)
    if ends[0].min() == MISSING:
        return None
    ends_mv = (ends - baseline) * mv_per_step

    # the median of each lead, estimated from about 300 samples, and the number of samples a margin below and above it
    n_samples = samples.shape[1]
    few = samples[:, :: max(1, n_samples // _N_MEDIAN_SAMPLES)]
    middle = np.partition(few, few.shape[1] // 2, axis=1)[:, few.shape[1] // 2].astype(np.int64)
    margin = MARGIN_MV / mv_per_step
    low = np.maximum(np.ceil(middle - margin), -(2**15)).astype(np.int16)
    high = np.minimum(np.floor(middle + margin), 2**15 - 1).astype(np.int16)
    n_below = [np.count_nonzero(lead) for lead in samples < low[:, None]]
    n_above = [np.count_nonzero(lead) for lead in samples > high[:, None]]

    # a lead with too few of them may be flat, so its standard deviation is computed
    quality, varies = [], True
    for lead, (below, above, largest) in enumerate(zip(n_below, n_above, np.abs(ends_mv).max(axis=0).tolist())):
        flat = False
        if min(below, above) < n_samples // 100 + 2:
            varies = False
            flat = float(((samples[lead] - baseline[lead]) * mv_per_step[lead]).std()) < FLAT_MV
        quality.append(LeadQuality("recorded", 0, 0, 0, flat, largest))
    plausible = varies and bool((ends_mv[1] - ends_mv[0]).max() <= PLAUSIBLE_MV[1])
    is_near = np.maximum(n_below, n_above) <= (n_samples - 1) // 2
    return IntegerQuality(tuple(quality), plausible, middle, is_near)


def find_gaps(observed: np.ndarray) -> np.ndarray:
    """The gaps of one lead, from `observed` (T,): (n, 2) the first missing sample and the one after the last."""
    edges = np.diff(np.concatenate(([True], observed, [True])).astype(np.int8))
    return np.stack([np.flatnonzero(edges == -1), np.flatnonzero(edges == 1)], axis=1)


def bridgeable(gaps: np.ndarray, n_samples: int, rate_hz: float) -> np.ndarray:
    """Whether each gap (n, 2) is at most SHORT_GAP_MS long and has a sample on both sides: (n,) bool."""
    length = gaps[:, 1] - gaps[:, 0]
    inside = (gaps[:, 0] > 0) & (gaps[:, 1] < n_samples)
    result: np.ndarray = inside & (length * 1000.0 <= SHORT_GAP_MS * rate_hz + 1e-6)
    return result
