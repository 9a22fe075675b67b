"""Detect the beats of an ECG from all its leads, group them by shape, and average the beats of a group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import find_peaks

from leadwise.data.delineation.conditioning import Floats, Mask, keep_band

Integers = NDArray[np.int64]

BEFORE, AFTER = 225, 350  # samples of a beat before and after its middle: 450 and 700 ms
_QRS_HZ = (8.0, 30.0)
_LEAST_DISTANCE = 110  # samples between beats: 220 ms
_HALF, _SLACK = 45, 20  # samples: half of the window that is compared, and the largest shift in either direction
_SAME_SHAPE = 0.85  # correlation
_MOST_GROUPS = 4
_LEAST_CLEARNESS = 0.4


@dataclass(frozen=True, eq=False)
class BeatGroup:
    """Beats of one shape."""

    middles: Integers  # (N,) samples; the same point of each beat
    numbers: Integers  # (N,) position of each among all beats
    likeness: float  # mean correlation with the group's average


def clear_leads(signal: Floats) -> Mask:
    """Return which leads (L,) have beats that rise as clearly above the rest as those of the clearest lead, roughly."""
    _, clearness = _energy(signal)
    clear: Mask = clearness >= _LEAST_CLEARNESS * clearness.max()
    return clear


def _energy(signal: Floats) -> tuple[Floats, Floats]:
    """Return the energy of each lead (L, T) at the frequencies of a QRS, 1 in beats; and log(beats / rest), (L,)."""
    energy = uniform_filter1d(np.abs(keep_band(signal, *_QRS_HZ)), 30, axis=1)
    top = np.maximum(np.percentile(energy, 97, axis=1), 1e-9)
    rest = np.maximum(np.percentile(energy, 40, axis=1), 1e-9)
    return energy / top[:, None], np.log(top / rest)


def qrs_activity(signal: Floats) -> Floats:
    """Return (T,), near 1 in a QRS and near 0 between beats, from leads (L, T); a noisy lead has little weight."""
    energy, clearness = _energy(signal)
    weight = clearness**2 + 1e-9
    activity: Floats = weight @ energy / weight.sum()
    return activity


def detect_beats(signal: Floats) -> tuple[Integers, float]:
    """Return the middle of each QRS complex in samples, and the activity between beats as a share of that of beats."""
    activity = qrs_activity(signal)
    # the level of beats: the maximum within 1.6 s, which contains a beat unless the heart is very slow
    local = maximum_filter1d(activity, 800, mode="nearest")
    level = float(np.median(local))
    peaks, _ = find_peaks(activity, height=0.35 * level, distance=_LEAST_DISTANCE)
    if not len(peaks):
        return peaks, 1.0
    heights = activity[peaks]

    # a low maximum soon after a high one is a T wave
    beats: list[int] = []
    for peak, height in zip(peaks, heights):
        if beats and peak - beats[-1] < 200 and height < 0.6 * activity[beats[-1]]:
            continue
        if beats and peak - beats[-1] < 200 and activity[beats[-1]] < 0.6 * height and len(beats) == 1:
            beats[-1] = int(peak)  # the T wave of a beat before the first sample
            continue
        beats.append(int(peak))

    # a wide beat has less of the QRS's frequencies: accept a lower maximum that is too late for a T wave, too early for a P
    # wave, and far above the activity between beats
    background = float(np.median(activity))
    low, _ = find_peaks(activity, height=max(0.2 * level, 5 * background), distance=_LEAST_DISTANCE)
    for candidate in low:
        distance = candidate - np.array(beats)
        earlier, later = distance[distance >= 0], -distance[distance < 0]
        if (earlier.min(initial=220) >= 220) and (later.min(initial=150) >= 150):
            beats.append(int(candidate))
    beats.sort()
    middles = np.array(beats, dtype=np.int64)
    return middles, float(np.median(activity) / np.median(activity[middles]))


def group_beats(signal: Floats, middles: Integers) -> list[BeatGroup]:
    """Return the groups of beats of one shape, largest first; beats like no other are alone in the last groups."""
    reach = _HALF + _SLACK
    padded = np.pad(signal, ((0, 0), (reach, reach)), mode="edge")
    # (N, L, 2 * reach): the surroundings of each beat
    cuts = np.stack([padded[:, middle : middle + 2 * reach] for middle in middles])
    lags = sliding_window_view(cuts[:, :, ::2], _HALF, axis=2)  # every second sample: (N, L, lags, half)
    lags = lags - lags.mean(axis=3, keepdims=True)
    size = np.sqrt(np.einsum("nlmt,nlmt->nm", lags, lags)) + 1e-9
    centre = lags.shape[2] // 2

    # the first model is the beat that is like most others; then the average of those like it
    groups: list[BeatGroup] = []
    rest = np.arange(len(middles))
    while len(rest) and len(groups) < _MOST_GROUPS:
        unshifted = lags[rest, :, centre] / size[rest, centre, None, None]
        alike = np.einsum("nlt,mlt->nm", unshifted, unshifted)
        model = unshifted[int((alike > _SAME_SHAPE - 0.1).sum(axis=1).argmax())]
        for _ in range(2):
            correlation = np.einsum("nlmt,lt->nm", lags[rest], model) / (size[rest] * np.linalg.norm(model))
            best = correlation.argmax(axis=1)
            highest = correlation[np.arange(len(rest)), best]
            members = highest >= _SAME_SHAPE
            if not members.any():
                members = highest == highest.max()
            own, at = rest[members], best[members]
            model = (lags[own, :, at] / size[own, at, None, None]).mean(axis=0)
        shift = 2 * (at - centre)
        groups.append(BeatGroup(middles[own] + shift, own, float(highest[members].mean())))
        rest = rest[~members]
    return groups


def average_beat(leads: Floats, observed: Mask, middles: Integers) -> Floats:
    """Return the median of beats, (L, BEFORE + AFTER) mV; NaN where no beat is observed."""
    padded = np.pad(np.where(observed, leads, np.nan), ((0, 0), (BEFORE, AFTER)), constant_values=np.nan)
    cuts = np.stack([padded[:, middle : middle + BEFORE + AFTER] for middle in middles])
    ordered = np.sort(cuts, axis=0)  # NaN last
    n = np.isfinite(ordered).sum(axis=0)
    low = np.take_along_axis(ordered, np.maximum((n - 1) // 2, 0)[None], axis=0)[0]
    high = np.take_along_axis(ordered, np.minimum(n // 2, np.maximum(n - 1, 0))[None], axis=0)[0]
    beat: Floats = (low + high) / 2
    return beat
