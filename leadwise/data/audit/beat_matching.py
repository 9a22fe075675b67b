"""Find copies of recordings that begin at another time or were altered, from the times of their beats.

A copy is still found if it was cropped, filtered, resampled, inverted or scaled per lead, if a lead is missing or the
leads have another order, and if noise was added. Times and shapes of beats are taken from the slopes of all leads
together, on which order, sign and scale of the leads have no effect.

1. Every run of five consecutive beats is a point: its four intervals and the mean shape of its beats. Points that are
   close to each other give pairs of recordings and the time between their beginnings.
2. A pair is a candidate if most other beats of both fall together at that time.
3. Candidates are aligned, and each lead of one is correlated with each lead of the other, without regard to sign: the
   leads as they are, and what they contain beside the mean beat, which two similar hearts do not have in common.

At most 8 runs of five beats per recording are held in memory, about 800 bytes. Copies that share fewer than five beats,
such as the two halves of a recording, are not detected; nor are copies of recordings with fewer than three leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import convolve1d, maximum_filter1d, uniform_filter1d
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

GRID_HZ = 200  # all recordings are compared at this rate
MIN_CORRELATION = 0.95  # median over the leads; of 4,961 ECGs of PTB-XL, those of two patients reach 0.96
MIN_RESIDUAL = 0.5  # of what is not the mean beat; in PTB-XL copies with noise of 20 dB reach 0.64, two patients 0.14
_BEAT_S = 0.2, 0.4  # before and after a beat
N_INTERVALS = 4  # of a run of beats
MOST_RUNS = 8  # per recording: the most irregular ones, which identify it best
N_NEIGHBOURS = 8  # points that are looked at around each point
RADIUS_S = 0.015  # between two points, in every interval
MATCH_S = 0.012  # between two beats that fall together
MIN_MATCHED, MIN_BEATS, MIN_OVERLAP_S, MIN_LEADS = 0.8, 5, 3.0, 3
_MOST_LAGS = 3  # of a pair: a regular rhythm fits at several
_MOST_PARTNERS = 2  # of a recording: the best matches
_COARSE_HZ, _MIN_COARSE = 50, 0.85  # the first comparison: its rate, and the correlation that it needs
_FINE_S = 0.03  # over which the second comparison averages
# zeros of the transfer function at 50 and 60 Hz: smoothing alone leaves a hum that is as large as the ECG
_WITHOUT_MAINS = np.real(np.poly(np.exp(2j * np.pi * np.array([50, -50, 60, -60]) / GRID_HZ)))
_WITHOUT_MAINS /= _WITHOUT_MAINS.sum()
_MOVES = 0.03  # of the lead that moves most; others are flat
_REFINED = 4  # samples on either side, in which a lag is refined
_HALF_QRS = 14  # samples on either side of a beat, whose centre of mass is its time
_SHAPE_WEIGHT_S = 0.15  # seconds in an interval that count as much as one unit of the shape
# bounds (s) around a beat, between which its shape is averaged: P wave, and S to T wave
_SHAPE_S = ((-0.25, -0.15), (-0.15, -0.08), (0.08, 0.15), (0.15, 0.22), (0.22, 0.30), (0.30, 0.40))


@dataclass(frozen=True)
class Beats:
    """The beats of a recording."""

    times_s: np.ndarray  # (beats,) ascending
    runs: np.ndarray  # (runs, intervals + shape) float32
    begins_s: np.ndarray  # (runs,) time of the first beat of each run


def find_beats(ecg: np.ndarray, rate_hz: float) -> Beats:
    """Return the beats of an ECG (12, T) centred on its medians, 0 = missing; none if no lead moves."""
    energy = _slope_energy(_on_grid(ecg, rate_hz, GRID_HZ))
    times = _beat_times(energy)
    runs, begins = _runs(energy, times)
    return Beats(times.astype(np.float32), runs.astype(np.float32), begins.astype(np.float32))


def candidates(beats: Sequence[Beats]) -> dict[tuple[int, int], list[float]]:
    """Return pairs (one < other) of recordings whose beats fall together, each with the possible lags in s, best first.

    A lag is the time in the other recording minus the time in the first.
    """
    points = np.concatenate([np.zeros((0, N_INTERVALS + len(_SHAPE_S))), *(b.runs for b in beats)])
    owner = np.repeat(np.arange(len(beats)), [len(b.runs) for b in beats])
    begins = np.concatenate([np.zeros(0), *(b.begins_s for b in beats)])
    if len(points) < 2:
        return {}
    _, near = cKDTree(points).query(points, k=N_NEIGHBOURS + 1, p=np.inf, distance_upper_bound=RADIUS_S)
    one, other = np.repeat(np.arange(len(points)), N_NEIGHBOURS + 1), near.ravel()
    one, other = one[other < len(points)], other[other < len(points)]

    # lags of each pair, the recording that comes first in `beats` first
    one, other = (np.where(owner[one] < owner[other], *order) for order in ((one, other), (other, one)))
    lags: dict[tuple[int, int], list[float]] = {}
    for first, second, lag in zip(owner[one].tolist(), owner[other].tolist(), (begins[other] - begins[one]).tolist()):
        if first != second:
            lags.setdefault((first, second), []).append(lag)

    # the best matches of each recording
    scored = [
        (score, pair, best)
        for pair, pair_lags in lags.items()
        for score, best in [_best_lags(beats[pair[0]], beats[pair[1]], pair_lags)]
        if best
    ]
    n_partners = np.zeros(len(beats), dtype=np.int64)
    selected = {}
    for _, pair, best in sorted(scored, key=lambda row: (-row[0], row[1])):
        if n_partners[list(pair)].min() < _MOST_PARTNERS:
            n_partners[list(pair)] += 1
            selected[pair] = best
    return dict(sorted(selected.items()))


@dataclass(frozen=True)
class Aligned:
    """A recording as it is compared with another one."""

    ecg: np.ndarray  # (12, T) mV; 0 = missing, if it is centred
    rate_hz: float

    @cached_property
    def fine(self) -> np.ndarray:
        """(12, T) at GRID_HZ, without the slowest and fastest changes."""
        return self._smooth(_on_grid(self.ecg, self.rate_hz, GRID_HZ), GRID_HZ, _FINE_S)

    @cached_property
    def without_hum(self) -> np.ndarray:
        """(12, T) as `fine`, without 50 and 60 Hz: the hum of the mains is the same in two recordings, at some lag."""
        n = len(_WITHOUT_MAINS) // 2 + 1  # at the ends the filter lacks samples, and would leave hum there
        filtered = convolve1d(_on_grid(self.ecg, self.rate_hz, GRID_HZ), _WITHOUT_MAINS, axis=1)[:, n:-n]
        return self._smooth(np.pad(filtered, ((0, 0), (n, n)), mode="edge"), GRID_HZ, _FINE_S)

    @cached_property
    def coarse(self) -> np.ndarray:
        """(12, T) at a lower rate, smooth enough for a lag that is some hundredths of a second off."""
        return self._smooth(_on_grid(self.ecg, self.rate_hz, _COARSE_HZ), _COARSE_HZ, 0.08)

    @staticmethod
    def _smooth(values: np.ndarray, rate_hz: int, width_s: float) -> np.ndarray:
        smooth = _mean_filter(values, round(width_s * rate_hz)) - _mean_filter(values, rate_hz // 2)
        return np.asarray(smooth, dtype=np.float32)


def refine_lag(one: Aligned, other: Aligned, lags: Sequence[float]) -> float | None:
    """Return the lag (s) at which one recording is a copy of the other; None if it is a copy at none of `lags`."""
    for lag in lags:
        if _correlation(one.coarse, other.coarse, round(lag * _COARSE_HZ), _COARSE_HZ) < _MIN_COARSE:
            continue
        middle = round(lag * GRID_HZ)
        steps = range(middle - _REFINED, middle + _REFINED + 1)
        correlations = [_correlation(one.fine, other.fine, step, GRID_HZ) for step in steps]
        best = steps[int(np.argmax(correlations))]
        if max(correlations) >= MIN_CORRELATION and _residual_correlation(one, other, best) >= MIN_RESIDUAL:
            return best / GRID_HZ
    return None


def overlap(n_one: int, n_other: int, lag: int) -> tuple[slice, slice]:
    """Return the samples of two recordings of so many samples that fall together, the other `lag` samples later."""
    begin, end = max(0, -lag), min(n_one, n_other - lag)
    return slice(begin, max(begin, end)), slice(begin + lag, max(begin, end) + lag)


def _correlation(one: np.ndarray, other: np.ndarray, lag: int, rate_hz: float) -> float:
    """Return the median absolute correlation of the leads of two recordings (12, T), the better of two pairings.

    Leads are paired by name, or in the way that fits best. 0 if too little of the recordings overlaps.
    """
    parts = [values[:, part] for values, part in zip((one, other), overlap(one.shape[1], other.shape[1], lag))]
    if parts[0].shape[1] < MIN_OVERLAP_S * rate_hz:
        return 0.0
    return _of_leads(*parts)[0]


def _of_leads(one: np.ndarray, other: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the median absolute correlation of the leads of two aligned recordings (12, T), and the leads of `other` in order.

    Leads are paired by name, or in the way that fits best. 0 if fewer than MIN_LEADS move in both.
    """
    parts = [values - values.mean(axis=1, keepdims=True) for values in (one, other)]
    norms = [np.sqrt(np.einsum("lt,lt->l", values, values)) for values in parts]
    moves = [norm > max(_MOVES * float(norm.max()), 1e-6) for norm in norms]
    names = np.arange(len(one))
    if min(move.sum() for move in moves) < MIN_LEADS:
        return 0.0, names
    size = np.maximum(norms[0][:, None] * norms[1], 1e-9)
    table = np.abs(parts[0] @ parts[1].T) / size * moves[0][:, None] * moves[1]
    both = moves[0] & moves[1]
    by_name = float(np.median(np.diag(table)[both])) if both.sum() >= MIN_LEADS else 0.0
    fitting = linear_sum_assignment(-table)[1]
    pairing = table[names, fitting]
    best = float(np.median(pairing[pairing > 0]))
    return (by_name, names) if by_name >= best else (best, fitting)


def _residual_correlation(one: Aligned, other: Aligned, lag: int) -> float:
    """Return the median correlation over the leads of what two recordings have beside their mean beats.

    Two regular rhythms of similar hearts have similar beats at the same times, but not the same noise and breathing. The
    correlation is that of all beats, or of the middle one: an artefact, or a filter's transient at an end, disturbs few beats.
    """
    covered = overlap(one.fine.shape[1], other.fine.shape[1], lag)
    order = _of_leads(*(values[:, part] for values, part in zip((one.fine, other.fine), covered)))[1]
    parts = [values[:, part] for values, part in zip((one.without_hum, other.without_hum), covered)]
    times = (_beat_times(_slope_energy(_on_grid(one.ecg, one.rate_hz, GRID_HZ))) * GRID_HZ).astype(np.int64) - max(
        0, -lag
    )
    window = np.arange(-round(_BEAT_S[0] * GRID_HZ), round(_BEAT_S[1] * GRID_HZ))
    times = times[(times + window[0] >= 0) & (times + window[-1] < parts[0].shape[1])]
    if len(times) < MIN_BEATS - 2:
        return 0.0
    residuals = []
    for values in (parts[0], parts[1][order]):
        beats = values[:, times[:, None] + window]  # (12, beats, T)
        mean = beats.mean(axis=1)
        # without its mean beat, larger or smaller and a little earlier or later
        basis, _ = np.linalg.qr(np.stack([np.ones_like(mean), mean, np.gradient(mean, axis=1)], axis=2))
        residuals.append(beats - np.einsum("lbk,ltk->lbt", np.einsum("lbt,ltk->lbk", beats, basis), basis))
    a, b = residuals
    products = (a * b).sum(axis=2)  # (12, beats)
    sizes = np.linalg.norm(a, axis=2), np.linalg.norm(b, axis=2)
    whole = np.linalg.norm(sizes[0], axis=1) * np.linalg.norm(sizes[1], axis=1)
    both = whole > 1e-6
    if not both.any():
        return 0.0
    of_all = products.sum(axis=1)[both] / whole[both]
    of_each = (products / np.maximum(sizes[0] * sizes[1], 1e-9))[both] * np.sign(of_all)[
        :, None
    ]  # a lead may be inverted
    return float(max(np.median(np.abs(of_all)), np.median(np.median(of_each, axis=1))))


def _on_grid(ecg: np.ndarray, rate_hz: float, grid_hz: int) -> np.ndarray:
    """Return an ECG (12, T) at another rate: averages over each step, from a cumulative sum that is interpolated."""
    n = ecg.shape[1]
    total = np.zeros((len(ecg), n + 2))
    np.cumsum(ecg, axis=1, out=total[:, 1:-1])
    total[:, -1] = total[:, -2]
    edges = np.clip(np.arange(int(n / rate_hz * grid_hz) + 1) * (rate_hz / grid_hz) + 0.5, 0, n)
    before = edges.astype(np.int64)
    at_edges = total[:, before]
    at_edges += (total[:, before + 1] - at_edges) * (edges - before)
    values: np.ndarray = np.diff(at_edges, axis=1) / np.maximum(np.diff(edges), 1e-9)
    return values


def _mean_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Return the means (L, T) of `width` samples around each sample, as if the ends went on."""
    return uniform_filter1d(values, width, axis=1, mode="nearest")


def _slope_energy(ecg: np.ndarray) -> np.ndarray:
    """Return the squared slope (T,) of an ECG (12, T) at GRID_HZ, each lead relative to its steepest slopes; (0,) if flat."""
    n = ecg.shape[1]
    if n < GRID_HZ:
        return np.zeros(0)
    slope = np.zeros_like(ecg)
    slope[:, 4:-4] = ecg[:, 8:] - ecg[:, :-8]  # over 40 ms
    steepest = np.percentile(np.abs(slope), 98, axis=1, keepdims=True)
    moves = steepest[:, 0] > max(_MOVES * float(steepest.max()), 1e-4)  # relative: the unit may be wrong
    if not moves.any():
        return np.zeros(0)
    energy = np.minimum(np.abs(slope[moves] / steepest[moves]), 1.5) ** 2  # limits the effect of a spike
    smooth: np.ndarray = _mean_filter(energy.mean(axis=0, keepdims=True), 12)[0]
    return smooth


def _beat_times(energy: np.ndarray) -> np.ndarray:
    """Return the times (s) of the highest peaks of the slope, at least 0.25 s apart: centres of mass around the peaks."""
    if not len(energy):
        return np.zeros(0)
    usual, high = np.percentile(energy, (50, 97))
    is_peak = (energy == maximum_filter1d(energy, GRID_HZ // 2 + 1)) & (energy > usual + 0.4 * (high - usual))
    peaks = np.flatnonzero(is_peak)
    peaks = peaks[(peaks >= _HALF_QRS) & (peaks < len(energy) - _HALF_QRS)]
    offsets = np.arange(-_HALF_QRS, _HALF_QRS + 1)
    around = energy[peaks[:, None] + offsets]
    times: np.ndarray = (peaks + (around * offsets).sum(axis=1) / around.sum(axis=1)) / GRID_HZ
    return times


def _runs(energy: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most irregular runs of beats (runs, intervals + shape) and the times of their first beats (runs,)."""
    intervals = np.diff(times)
    n_runs = len(intervals) - N_INTERVALS + 1
    if n_runs < 1:
        return np.zeros((0, N_INTERVALS + len(_SHAPE_S))), np.zeros(0)
    # mean slopes in each part of each beat, relative to those of its QRS
    slope = np.sqrt(np.maximum(energy, 0.0))  # a running mean may be slightly negative
    total = np.concatenate([[0.0], np.cumsum(slope)])
    bounds = ((times[:, None, None] + np.array(_SHAPE_S)) * GRID_HZ).astype(np.int64)
    sums = np.diff(total[bounds.clip(0, len(slope))], axis=2)[..., 0]
    tops = slope[(times * GRID_HZ).astype(np.int64)]
    shapes = sums / np.diff(bounds, axis=2)[..., 0] / np.maximum(tops, 1e-9)[:, None]
    # the beats at both ends of a run may lie at the end of the recording, where their shape is cut off
    rows = np.arange(n_runs)[:, None] + np.arange(N_INTERVALS)
    shape = shapes[rows[:, 1:]].mean(axis=1)
    points = np.concatenate([intervals[rows], _SHAPE_WEIGHT_S * shape], axis=1)
    irregular = np.sort(np.argsort(-intervals[rows].std(axis=1), kind="stable")[:MOST_RUNS])
    return points[irregular], times[:n_runs][irregular]


def _best_lags(one: Beats, other: Beats, lags: list[float]) -> tuple[float, list[float]]:
    """Return how well beats fall together at the best of `lags`, and the best lags; none if they never do."""
    scored = []
    previous = -np.inf
    for lag in sorted(lags):
        if lag - previous <= MATCH_S / 2:
            continue  # the same lag again
        previous = lag
        # beats of both in the time that both cover
        moved = one.times_s + lag
        begin = max(moved[0], other.times_s[0]) - MATCH_S
        end = min(moved[-1], other.times_s[-1]) + MATCH_S
        own = moved[(moved >= begin) & (moved <= end)]
        others = other.times_s[(other.times_s >= begin) & (other.times_s <= end)]
        distance = np.abs(own[:, None] - others).min(axis=1)
        n_matched = int((distance <= MATCH_S).sum())
        share = n_matched / max(len(own), len(others))
        if n_matched >= MIN_BEATS and share >= MIN_MATCHED:
            scored.append((n_matched * share - float(distance.clip(max=MATCH_S).mean()) / MATCH_S, lag))
    best = sorted(scored, reverse=True)[:_MOST_LAGS]
    return (best[0][0], [lag for _, lag in best]) if best else (0.0, [])
