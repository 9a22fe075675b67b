"""How good each lead is: what of it is missing, whether it is flat, how large it is.

Two ways to one answer: `of_lead` takes a lead in mV, whatever is missing of it; `of_integers` takes a whole recording
as its file holds it, nothing missing, and asks only for a few order statistics of the integers.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

SHORT_GAP_MS = 40.0  # longest stretch of missing samples that a straight line may bridge
FLAT_MV = 0.001  # a lead whose standard deviation stays below this holds no heart
_PERCENTILES = (1, 99)
_NEVER_FLAT_MV = 15 * FLAT_MV  # 1 % of the samples on either side of such a range make a deviation of 0.07 x 15

Origin = Literal["recorded", "derived", "missing"]


class LeadQuality(NamedTuple):
    """How good one lead is."""

    origin: Origin
    n_missing: int  # samples
    n_short_gaps: int  # missing stretches that `conform` bridges
    n_long_gaps: int  # missing stretches that stay unobserved: longer than SHORT_GAP_MS, or at an end
    flat: bool
    max_abs_mv: float  # NaN where nothing is observed
    range_mv: float  # 1st to 99th percentile, deaf to a lone spike; NaN where nothing is observed


def of_lead(lead: np.ndarray, origin: Origin, rate_hz: float) -> LeadQuality:
    """The quality of one lead (T,) in mV, NaN = missing."""
    observed = np.isfinite(lead)
    n_missing = int((~observed).sum())
    if n_missing == len(lead):
        return LeadQuality(origin, n_missing, 0, 0 if origin == "missing" else 1, False, math.nan, math.nan)
    n_short = n_long = 0
    if n_missing:
        gaps = find_gaps(observed)
        short = bridgeable(gaps, len(lead), rate_hz)
        n_short, n_long = int(short.sum()), int((~short).sum())
    values = lead[observed]
    flat = float(values.std()) < FLAT_MV
    low, high = np.percentile(values, _PERCENTILES)
    return LeadQuality(origin, n_missing, n_short, n_long, flat, float(np.abs(values).max()), float(high - low))


def of_integers(
    samples: np.ndarray, baseline: np.ndarray, mv_per_step: np.ndarray
) -> tuple[tuple[LeadQuality, ...], np.ndarray]:
    """The quality of each recorded lead, and the medians (L,) in steps, of samples (L, T) int16 without any missing."""
    n_samples = samples.shape[1]
    exact = [percent / 100 * (n_samples - 1) for percent in _PERCENTILES]  # where a percentile lies, between two ranks
    below = [math.floor(rank) for rank in exact]
    above = [min(rank + 1, n_samples - 1) for rank in below]
    ranks = np.array([0, n_samples - 1, *below, *above, (n_samples - 1) // 2, n_samples // 2])
    steps = order_statistics(samples, ranks)  # (L, 8)
    mv = (steps - baseline[:, None]) * mv_per_step[:, None]
    largest = np.abs(mv[:, :2]).max(axis=1)
    low, high = (mv[:, 2:4] + (mv[:, 4:6] - mv[:, 2:4]) * (np.array(exact) - below)).T
    found = []
    for lead, (max_abs_mv, range_mv) in enumerate(zip(largest.tolist(), (high - low).tolist())):
        flat = False
        if range_mv < _NEVER_FLAT_MV:
            flat = float(((samples[lead] - baseline[lead]) * mv_per_step[lead]).std()) < FLAT_MV
        found.append(LeadQuality("recorded", 0, 0, 0, flat, max_abs_mv, range_mv))
    return tuple(found), (steps[:, 6] + steps[:, 7]) / 2


def order_statistics(samples: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The samples at these ranks (R,) of each lead, 0 the smallest: (L, R), of samples (L, T) int16.

    One histogram of all leads, side by side, costs a fraction of sorting or partitioning each.
    """
    n_leads, n_samples = samples.shape
    low = samples.min(axis=1).astype(np.int64)
    end = np.cumsum(samples.max(axis=1) - low + 1)  # of each lead's bins
    if end[-1] > samples.size:  # a wild lead: more bins than samples
        ordered: np.ndarray = np.sort(samples, axis=1, kind="stable")[:, ranks].astype(np.int64)
        return ordered
    shift = np.concatenate(([0], end[:-1])) - low  # from a sample to its bin
    counted = np.bincount(_bins(samples, shift))
    np.cumsum(counted, out=counted)
    wanted = ranks + n_samples * np.arange(n_leads)[:, None]
    found: np.ndarray = np.searchsorted(counted, wanted, side="right") - shift[:, None]
    return found


def _bins(samples: np.ndarray, shift: np.ndarray) -> np.ndarray:
    bins = samples.astype(np.intp)
    bins += shift[:, None]
    return bins.ravel()


def find_gaps(observed: np.ndarray) -> np.ndarray:
    """Stretches of missing samples of one lead (T,): (n, 2) first sample and the one after the last."""
    edges = np.diff(np.concatenate(([True], observed, [True])).astype(np.int8))
    return np.stack([np.flatnonzero(edges == -1), np.flatnonzero(edges == 1)], axis=1)


def bridgeable(gaps: np.ndarray, n_samples: int, rate_hz: float) -> np.ndarray:
    """Which gaps (n, 2) are short and have a sample on either side: (n,) bool."""
    length = gaps[:, 1] - gaps[:, 0]
    inside = (gaps[:, 0] > 0) & (gaps[:, 1] < n_samples)
    result: np.ndarray = inside & (length * 1000.0 <= SHORT_GAP_MS * rate_hz + 1e-6)
    return result
