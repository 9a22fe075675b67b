"""Onset and offset of P wave, QRS and T wave on the average beat, from the speed and size of all leads together.

The limits were chosen on the odd records 1 to 59 of LUDB; benchmarks/results/delineation.md has the errors on 61 to 119.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import find_peaks

from leadwise.data.delineation.beats import AFTER, BEFORE
from leadwise.data.delineation.conditioning import RATE_HZ, Floats, Mask, keep_band

NAN = float("nan")

P_HZ, _T_HZ = 25.0, 15.0  # upper limits of P and T waves
_QRS_ONSET, _QRS_OFFSET = 0.04, 0.05  # share of the QRS's largest speed
_NOISE_FACTOR = 3.0  # a movement is at least this multiple of the slowest parts of the beat
_QUIET = 8  # samples that are slow before an onset and after an offset
_T_SLOPE = 0.25  # of the steepest return of the T wave
_T_TANGENT = 1.5  # at the latest, as multiple of the way that the tangent at the steepest return needs to the baseline
_P_SLOPE = 0.3  # of the steepest rise of the P wave
_P_TANGENT = 0.6  # of the way that the tangent at the steepest fall needs to the baseline
_LEAST_P_MV = 0.006  # root mean square over leads
_LEAST_T_MV = 0.02
_PLAUSIBLE_QT_MS = (250.0, 680.0)  # QT / cbrt(RR in s); outside of it the end of another wave was taken
_MS = 1000 / RATE_HZ


@dataclass(frozen=True, eq=False)
class WaveBounds:
    """Where the waves of an average beat begin and end, in samples relative to its middle; NaN where there is none."""

    qrs_onset: float = NAN
    qrs_offset: float = NAN
    p_onset: float = NAN
    p_offset: float = NAN
    t_offset: float = NAN


def delineate(beat: Floats, rr: float) -> WaveBounds:
    """Return the waves of an average beat (L, BEFORE + AFTER) mV whose distance to the next beat is `rr` samples."""
    # leads without a gap in the QRS; gaps elsewhere are bridged
    middle = slice(BEFORE - 60, BEFORE + 60)
    observed = np.isfinite(beat)
    usable = observed[:, middle].all(axis=1)
    if not usable.any():
        return WaveBounds()
    every: Mask = np.asarray(observed[usable].all(axis=0))
    beat = np.stack([_bridged(lead) for lead in beat[usable]])

    onset, offset = _qrs(beat)
    p_onset, p_offset = _p_wave(keep_band(beat, None, P_HZ), onset, rr, every)
    last = BEFORE + rr - 50  # before the next beat, and before its P wave
    if p_onset + rr - 5 > offset + 90:
        last = min(last, p_onset + rr - 5)
    t_offset = _t_offset(keep_band(beat, None, _T_HZ), offset, rr, last, every)
    corrected_ms = (t_offset - onset) * _MS / float(np.cbrt(rr * _MS / 1000))
    if not _PLAUSIBLE_QT_MS[0] <= corrected_ms <= _PLAUSIBLE_QT_MS[1]:
        t_offset = NAN
    return WaveBounds(onset - BEFORE, offset - BEFORE, p_onset - BEFORE, p_offset - BEFORE, t_offset - BEFORE)


def _bridged(lead: Floats) -> Floats:
    """Return a lead (T,) with straight lines where it is NaN, and its nearest value at the ends."""
    exists = np.isfinite(lead)
    if exists.all():
        return lead
    at = np.arange(len(lead))
    return np.interp(at, at[exists], lead[exists])


def _rms(leads: Floats) -> Floats:
    """Return the root mean square over leads, (T,)."""
    size: Floats = np.sqrt(np.mean(leads**2, axis=0))
    return size


def _qrs(beat: Floats) -> tuple[int, int]:
    """Return the first and last sample of the QRS: outward from its fastest movement until `_QUIET` samples are slow."""
    speed = _rms(np.gradient(beat, axis=1))
    near = slice(BEFORE - 45, BEFORE + 45)
    largest = float(speed[near].max())
    fastest = BEFORE - 45 + int(speed[near].argmax())
    noise = _NOISE_FACTOR * float(np.percentile(speed[BEFORE - 150 : BEFORE + 150], 15))
    slow = speed < max(_QRS_ONSET * largest, noise)
    onset = fastest
    while onset > BEFORE - 110 and not slow[onset - _QUIET : onset].all():
        onset -= 1
    slow = speed < max(_QRS_OFFSET * largest, noise)
    offset = fastest
    while offset < BEFORE + 120 and not slow[offset + 1 : offset + 1 + _QUIET].all():
        offset += 1
    return onset, offset


def _t_offset(beat: Floats, qrs_offset: int, rr: float, limit: float, every: Mask) -> float:
    """Return where the T wave ends: after its maximum, where its size decreases at `_T_SLOPE` of the fastest decrease."""
    last = int(min(qrs_offset + min(260, 0.62 * rr), limit, BEFORE + AFTER - 1))
    first = int(qrs_offset + min(40, 0.06 * rr))
    if last - first < 40 or not every[first:last].all():
        return NAN
    part = beat[:, first:last]
    size = _rms(part - part[:, -5:].mean(axis=1, keepdims=True))
    top = int(size.argmax())
    if size[top] < _LEAST_T_MV:
        return NAN
    decrease = -np.gradient(size)
    steepest = top + int(decrease[top:].argmax())
    slow = np.flatnonzero(decrease[steepest:] <= _T_SLOPE * decrease[steepest])
    if not len(slow):
        return NAN  # the next wave begins before this one ends
    return first + steepest + min(float(slow[0]), _T_TANGENT * float(size[steepest] / decrease[steepest]))


def _p_wave(beat: Floats, qrs_onset: int, rr: float, every: Mask) -> tuple[float, float]:
    """Return onset and offset of the most prominent wave before the QRS, relative to the level just before the QRS."""
    first, last = max(int(qrs_onset - min(160, 0.42 * rr)), 0), qrs_onset - 4
    if last - first < 40 or not every[first:last].all():
        return NAN, NAN
    part = beat[:, first:last]
    size = _rms(part - part[:, -10:].mean(axis=1, keepdims=True))
    peaks, properties = find_peaks(size, prominence=_LEAST_P_MV)
    if not len(peaks):
        return NAN, NAN
    top = int(peaks[properties["prominences"].argmax()])  # not the highest: the T wave before may be higher
    slope = np.gradient(size)
    rise = max(top - 40, 0) + int(slope[max(top - 40, 0) : top + 1].argmax())
    fall = top + int(slope[top : top + 40].argmin())
    slow = np.flatnonzero(slope[: rise + 1] <= _P_SLOPE * slope[rise])
    if not len(slow) or slope[fall] >= 0:
        return NAN, NAN
    end = fall + _P_TANGENT * size[fall] / -slope[fall]
    return first + float(slow[-1]), first + min(end, last - first)
