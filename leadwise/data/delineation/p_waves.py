"""Decide whether the wave before the QRS of an average beat is a P wave, and find it in each beat.

A P wave recurs in most beats at the same distance from the QRS, and the baseline before it is quiet. Fibrillation waves do
not recur; flutter waves and the P waves of a complete block also occur elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from leadwise.data.delineation.beats import BEFORE, Integers
from leadwise.data.delineation.conditioning import Floats
from leadwise.data.delineation.waves import NAN, WaveBounds

_REACH = 20  # samples by which the P wave of a beat may come earlier or later than the average one
_LIKE = 0.5  # correlation of a beat's P wave with that of the others
_JITTER = 5  # samples: the largest difference from the usual distance to the QRS
_SHORTEST_P, _SHORTEST_PR = 10, 35  # samples: 20 and 70 ms
_LEAST_SHARE = 0.6  # of beats
_BASELINE_SHARE = 0.5  # of the P wave: more movement between T and P wave is atrial activity
_LEAST_BASELINE = 40  # samples that must exist to judge it
_FAST_RR = 230  # samples, 130 beats/min: with a shorter interval, a wave on the T wave is not taken for a P wave


def p_shifts(signal: Floats, beat: Floats, middles: Integers, waves: WaveBounds, rr: float) -> Floats:
    """Return for each beat how much later than the average its P wave is, (N,) samples; NaN without one.

    `signal` (L, T) and the average beat `beat` (L, n) are limited to the frequencies of P waves; `rr` is the distance between
    beats in samples. All values are NaN if the wave is not a P wave.
    """
    none = np.full(len(middles), NAN)
    if not (waves.p_offset - waves.p_onset >= _SHORTEST_P and waves.qrs_onset - waves.p_onset >= _SHORTEST_PR):
        return none
    if _is_atrial_activity(beat, waves, rr):
        return none
    likeness, shifts = _compare(signal, middles, waves)
    judged = np.isfinite(likeness)
    if judged.sum() < 2:
        return none
    like = judged & (np.nan_to_num(likeness) >= _LIKE)
    usual = np.median(shifts[like]) if like.any() else 0.0
    like &= np.abs(np.nan_to_num(shifts) - usual) <= _JITTER
    return np.where(like, shifts, NAN) if like.sum() >= _LEAST_SHARE * judged.sum() else none


def _is_atrial_activity(beat: Floats, waves: WaveBounds, rr: float) -> bool:
    """Return whether the baseline between the previous T wave and the P wave moves as much as the P wave."""
    t_offset = waves.t_offset if np.isfinite(waves.t_offset) else waves.qrs_offset + 120
    first, last = BEFORE + int(max(20 + t_offset - rr, 5 - BEFORE)), BEFORE + int(waves.p_onset) - 8
    if last - first < _LEAST_BASELINE:
        return last < first and rr < _FAST_RR
    wave = beat[:, BEFORE + int(waves.p_onset) : BEFORE + int(waves.p_offset)]
    size = float(np.std(wave - wave.mean(axis=1, keepdims=True)))
    at = np.linspace(-1, 1, last - first)
    baseline = beat[:, first:last] - beat[:, first:last].mean(axis=1, keepdims=True)
    baseline = baseline - (baseline @ at / (at @ at))[:, None] * at  # without its trend
    return float(np.std(baseline)) > _BASELINE_SHARE * size


def _compare(signal: Floats, middles: Integers, waves: WaveBounds) -> tuple[Floats, Floats]:
    """Return for each beat the correlation of its P wave with the average of the others, (N,), and its shift in samples.

    The beat itself is not in the average, because the noise of a few beats is like its own average.
    """
    # (N, L, n + 2 * reach): the surroundings of the expected P wave
    n = int(waves.p_offset - waves.p_onset)
    starts = middles + int(waves.p_onset) - _REACH
    inside = (starts >= 0) & (starts + n + 2 * _REACH <= signal.shape[1])
    likeness, shifts = np.full(len(middles), NAN), np.full(len(middles), NAN)
    if inside.sum() < 2:
        return likeness, shifts
    cuts = np.stack([signal[:, start : start + n + 2 * _REACH] for start in starts[inside]])
    windows = sliding_window_view(cuts, n, axis=2)[:, :, :, ::2]  # (N, L, lags, n / 2): every second sample
    windows = windows - windows.mean(axis=3, keepdims=True)
    size = np.sqrt(np.einsum("nlmt,nlmt->nm", windows, windows)) + 1e-9

    # correlation over all leads at each shift
    centre = windows[:, :, _REACH]
    others = (centre.sum(axis=0) - centre) / (len(centre) - 1)
    scale = size * (np.sqrt(np.einsum("nlt,nlt->n", others, others)) + 1e-9)[:, None]
    correlation = np.einsum("nlmt,nlt->nm", windows, others) / scale
    best = correlation.argmax(axis=1)
    likeness[inside] = correlation[np.arange(len(best)), best]
    shifts[inside] = best - _REACH
    return likeness, shifts
