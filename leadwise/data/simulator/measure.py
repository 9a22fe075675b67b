"""Rule-based measurements on a clean ECG, independent of how the simulator draws it.

Beats are detected from the speed of the eight-lead vector. The waves are measured on the average beat of the dominant
kind, between its onset and end.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import median_filter, uniform_filter1d

from leadwise.data.simulator.heart import Array, axis_deg

RATE_HZ = 500
_MS = 1000 / RATE_HZ
_INDEPENDENT = [0, 1, 6, 7, 8, 9, 10, 11]  # the leads that are not computed from others
_BEFORE, _AFTER = 210, 350  # samples of a beat before and after its R wave


@dataclass(frozen=True)
class EcgMeasurements:
    """The measurements of one ECG; NaN where a measurement is not possible."""

    rate_bpm: float
    rr_spread: float  # standard deviation of the RR intervals of dominant beats, as a share of their mean
    paced: bool
    p_present: bool  # a P wave precedes the QRS, the same from beat to beat
    atrial: str  # baseline between beats: "still", "waves" (irregular) or "flutter"
    n_wide_early: int
    n_narrow_early: int
    pr_ms: float
    qrs_ms: float
    qtc_ms: float  # Bazett
    axis_deg: float
    st_mv: Array  # (12,) 60 ms after the J point (40 ms above 100 beats/min), against the level before the QRS
    t_mv: Array  # (12,) T wave at its maximum
    r_mv: Array  # (12,) tallest upward deflection of the QRS
    s_mv: Array  # (12,) deepest downward deflection, positive
    q_mv: Array  # (12,) depth of the first downward deflection where nothing upward comes before it
    q_ms: Array  # (12,) its duration
    first_r_mv: Array  # (12,) height of the upward deflection before the deepest downward one
    late_v1_mv: float  # area of V1 in the last third of QRS, per ms
    late_i_mv: float  # the same of lead I
    slur_ms: float  # from QRS onset to the first quick movement


def measure_ecg(leads: Array) -> EcgMeasurements:
    """Return the measurements of clean leads, (T, 12) mV in the order of batch.LEADS at `RATE_HZ`."""
    # beats, without pacing spikes and flutter waves
    paced, smooth = _without_spikes(leads)
    peaks = _detect_beats(smooth)
    atrial, flutter = _find_atrial_activity(smooth, peaks, float(np.diff(peaks).mean()) * _MS)
    smooth = smooth - flutter
    kind, shift = _classify_beats(smooth, peaks)
    peaks = peaks + shift

    # early beats, and the average of the other dominant beats
    rr_ms = np.diff(peaks) * _MS
    sinus_rr = rr_ms[(kind[1:] == 0) & (kind[:-1] == 0)]
    early = np.append(False, rr_ms < 0.86 * np.median(sinus_rr if len(sinus_rr) else rr_ms))
    usual = peaks[(kind == 0) & ~early] if ((kind == 0) & ~early).sum() >= 3 else peaks[kind == 0]
    beat = _mean_beat(smooth, usual)

    # P wave, QRS, ST segment and T wave of the average beat, relative to the level before the QRS
    onset, end = _qrs_bounds(beat, 10 if np.median(rr_ms) > 450 else 5)
    level = beat[onset - 8 : onset - 2].mean(axis=0)
    beat = beat - level
    pr_ms, p_present = _p_wave(smooth, beat, usual, onset, float(np.median(rr_ms)))
    qrs = beat[onset : end + 1]
    r_mv, s_mv = np.maximum(qrs.max(axis=0), 0), np.maximum(-qrs.min(axis=0), 0)
    q_mv, q_ms = _q_waves(qrs)
    third = qrs[2 * len(qrs) // 3 :]
    following = rr_ms[np.isin(peaks[:-1], usual)]
    t_mv, t_end = _t_wave(beat, end, float(rr_ms.mean()), float(np.median(following if len(following) else rr_ms)))
    return EcgMeasurements(
        rate_bpm=60000 / float(rr_ms.mean()),
        rr_spread=float(sinus_rr.std() / sinus_rr.mean()) if len(sinus_rr) > 2 else float("nan"),
        paced=paced,
        p_present=p_present,
        atrial=atrial,
        n_wide_early=int((kind == 1).sum()),
        n_narrow_early=int((early & (kind == 0)).sum()),
        pr_ms=pr_ms,
        qrs_ms=(end - onset) * _MS,
        qtc_ms=(t_end - onset) * _MS / np.sqrt(rr_ms.mean() / 1000),
        axis_deg=axis_deg(float(qrs[:, 0].sum()), float(qrs[:, 1].sum())),
        st_mv=beat[end + round((60 if rr_ms.mean() > 600 else 40) / _MS)],
        t_mv=t_mv,
        r_mv=r_mv,
        s_mv=s_mv,
        q_mv=q_mv,
        q_ms=q_ms,
        first_r_mv=np.array([max(float(lead[: int(lead.argmin()) + 1].max()), 0.0) for lead in qrs.T]),
        late_v1_mv=float(third[:, 6].mean()),
        late_i_mv=float(third[:, 0].mean()),
        slur_ms=_slur_ms(qrs),
    )


def _without_spikes(leads: Array) -> tuple[bool, Array]:
    """Return whether the leads contain pacing stimuli, and the leads without them."""
    rest = median_filter(leads, size=(7, 1), mode="nearest")
    spikes = np.abs(leads - rest)[:, _INDEPENDENT].max(axis=1) > 0.45
    if not spikes.any():
        return False, leads
    wide = np.convolve(spikes, np.ones(7), "same") > 0
    clean = np.flatnonzero(~wide)
    at = np.arange(len(leads))
    return True, np.column_stack([np.interp(at, clean, lead[clean]) for lead in leads.T])


def _speed(leads: Array) -> Array:
    """Return the speed of the eight-lead vector, (T,) mV per sample."""
    speed: Array = np.linalg.norm(np.gradient(leads[:, _INDEPENDENT], axis=0), axis=1)
    return speed


def _detect_beats(leads: Array) -> NDArray[np.int64]:
    """Return the middle of every QRS complex that is completely inside the recording, in samples."""
    # stretches with the energy of a QRS
    quick = leads - uniform_filter1d(leads, 41, axis=0, mode="nearest")  # without the slow P and T waves
    speed = _speed(quick)
    energy = uniform_filter1d(np.linalg.norm(quick[:, _INDEPENDENT], axis=1), 30)
    top = float(np.quantile(energy, 0.985))
    moving = energy > max(0.20 * top, min(0.11, 0.5 * top))  # at low voltage, P waves are nearly as large as the QRS
    edges = np.flatnonzero(np.diff(moving.astype(int)))
    if moving[0]:
        edges = edges[1:]
    starts, ends = edges[::2][: len(edges) // 2], edges[1::2]

    # join the two halves of a notched QRS
    joined: list[list[int]] = []
    for start, end in zip(starts, ends):
        if joined and start - joined[-1][1] < 20:  # a notch
            joined[-1][1] = int(end)
        else:
            joined.append([int(start), int(end)])

    # remove T waves
    beats: list[list[int]] = []
    for start, end in joined:
        since_ms = (start + end - sum(beats[-1])) / 2 * _MS if beats else np.inf
        slower = bool(beats) and speed[start:end].max() < 0.6 * speed[beats[-1][0] : beats[-1][1]].max()
        if slower and (since_ms < 340 or (since_ms < 500 and energy[start:end].max() < 0.35)):
            continue  # a tall T wave after a fast or a small QRS
        if not beats and energy[start:end].max() < 0.6 * top:
            continue  # the T wave of a beat before the first sample
        beats.append([start, end])
    middles = np.array([(start + end) // 2 for start, end in beats])
    return middles[(middles > 60) & (middles < len(leads) - 60)]


def _classify_beats(leads: Array, peaks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return per beat 0 (dominant) or 1 (another shape), and the shift in samples that aligns it with the dominant beat."""
    half = 40
    independent = leads[:, _INDEPENDENT]
    # correlation of every beat with every other
    cuts = np.stack([independent[p - half : p + half] for p in peaks])
    cuts = cuts - cuts.mean(axis=1, keepdims=True)
    flat = cuts.reshape(len(cuts), -1)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    correlation = flat @ flat.T
    quick = np.stack([_speed(leads[p - half - 15 : p + half + 15]) for p in peaks])
    width = (quick > 0.25 * quick.max(axis=1, keepdims=True)).sum(axis=1)
    n_similar = (correlation > 0.85).sum(axis=1)

    # the dominant shape is the narrowest one among the frequent shapes, because in bigeminy both are frequent
    model = int(np.argmin(np.where(n_similar >= 0.35 * len(peaks), width - correlation.mean(axis=1), np.inf)))
    kind = np.zeros(len(peaks), dtype=np.int64)
    shift = np.zeros(len(peaks), dtype=np.int64)

    # align each beat with the dominant one within +-14 samples
    slack = 14
    for k, peak in enumerate(peaks):
        cuts_k = sliding_window_view(
            independent[peak - half - slack : peak + half + slack], 2 * half, axis=0
        )  # (29, 8, 80)
        cuts_k = cuts_k - cuts_k.mean(axis=2, keepdims=True)
        correlation_k = np.einsum("mlt,tl->m", cuts_k, cuts[model]) / np.linalg.norm(cuts_k, axis=(1, 2))
        best = int(correlation_k.argmax())
        shift[k] = best - slack
        kind[k] = int(correlation_k[best] / np.linalg.norm(cuts[model]) < 0.9)
    return kind, shift


def _mean_beat(leads: Array, dominant: NDArray[np.int64]) -> Array:
    """Return the dominant beat, (_BEFORE + _AFTER, 12) mV: the median over beats, which removes what does not recur."""
    padded = np.pad(leads, ((_BEFORE, _AFTER), (0, 0)), mode="edge")
    whole = [p for p in dominant if p - _BEFORE >= 0 and p + _AFTER <= len(leads)]
    cuts = np.stack([padded[p : p + _BEFORE + _AFTER] for p in (whole or dominant)])
    return np.asarray(np.median(cuts, axis=0))


def _qrs_bounds(beat: Array, quiet: int) -> tuple[int, int]:
    """Return first and last sample of the QRS: from the fastest movement outward until it is slow for `quiet` samples."""
    speed = _speed(beat)
    near = slice(_BEFORE - 50, _BEFORE + 50)
    top = int(speed[near].argmax()) + near.start
    slow = speed < 0.07 * speed[near].max()
    onset = top
    while onset > _BEFORE - 120 and not slow[onset - quiet : onset].all():
        onset -= 1
    end = top
    while end < _BEFORE + 120 and not slow[end + 1 : end + 1 + quiet].all():
        end += 1
    return onset, end


def _p_wave(leads: Array, beat: Array, dominant: NDArray[np.int64], onset: int, rr_ms: float) -> tuple[float, bool]:
    """Return the PR interval in ms, and whether a P wave precedes the QRS in most beats."""
    reach = int(min(340, 0.62 * rr_ms) / _MS)
    begin = max(onset - reach, 0)
    independent = beat[begin : onset - 2, :][:, _INDEPENDENT]
    lead_ii = beat[begin : onset - 2, 1]
    slope = np.linalg.norm(np.gradient(independent, axis=0), axis=1)
    if len(lead_ii) < 20:
        return float("nan"), False

    # the last local maximum of lead II before the QRS that exceeds its surroundings
    tops = [
        k
        for k in range(4, len(lead_ii) - 4)
        if lead_ii[k] == lead_ii[max(k - 12, 0) : k + 13].max()
        and lead_ii[k] > lead_ii[max(k - 45, 0) : k].min() + 0.02
    ]
    tops = [k for k in tops if lead_ii[k] > 0.035]
    if not tops:
        return float("nan"), False
    top = tops[-1]
    height = lead_ii[top] - lead_ii[max(top - 45, 0) : max(top - 8, 1)].min()

    # its shape must recur in most beats
    similarity = []
    shape = lead_ii[max(top - 30, 0) : top + 18]
    for peak in dominant:
        first = peak - _BEFORE + begin + max(top - 30, 0)
        cut = leads[max(first, 0) : first + len(shape), 1]
        if first >= 0 and len(cut) == len(shape) and cut.std() > 0:
            similarity.append(float(np.corrcoef(cut, shape)[0, 1]))
    if height < 0.03 or not similarity or float(np.mean(np.array(similarity) > 0.8)) < 0.7:
        return float("nan"), False

    # onset: backward from the maximum to where the slope is low
    start = top
    limit = 0.12 * slope[max(top - 25, 0) : top + 1].max()
    while start > 0 and (slope[start] > limit or top - start < 12):
        start -= 1
    return (onset - begin - start) * _MS, True


def _t_wave(beat: Array, end: int, rr_ms: float, next_ms: float) -> tuple[Array, float]:
    """Return the T wave at its maximum, (12,) mV, and the sample where it ends (tangent at the steepest return, or NaN)."""
    last = min(end + int(min(520.0, 0.62 * rr_ms) / _MS), _BEFORE + int((next_ms - 95) / _MS), len(beat) - 2)
    begin = end + int(min(80.0, 0.12 * rr_ms) / _MS)
    part = beat[begin:last]
    if len(part) < 10:
        return np.zeros(12), float("nan")
    size = np.linalg.norm(part[:, _INDEPENDENT] - part[-1, _INDEPENDENT], axis=1)
    top = int(size.argmax())
    ends = []
    for lead in sorted(_INDEPENDENT, key=lambda lead: -abs(part[top, lead]))[:3]:
        down = np.gradient(part[:, lead]) * np.sign(part[top, lead])
        steepest = top + int(down[top:].argmin())
        if down[steepest] < 0:
            ends.append(steepest + abs(part[steepest, lead]) / -down[steepest])
    t_end = begin + float(np.median(ends)) if ends else float("nan")
    return part[max(top - 3, 0) : top + 4].mean(axis=0), t_end


def _q_waves(qrs: Array) -> tuple[Array, Array]:
    """Return depth in mV and duration in ms of an initial downward deflection, (12,) each."""
    depth, duration = np.zeros(12), np.zeros(12)
    for k, lead in enumerate(qrs.T):
        up = np.flatnonzero(lead > 0.03)
        down = np.flatnonzero(lead < -0.03)
        if not len(down) or (len(up) and up[0] < down[0]):
            continue
        crossing = up[up > down[0]]
        stop = int(crossing[0]) if len(crossing) else len(lead)
        depth[k], duration[k] = -lead[:stop].min(), stop * _MS
    return depth, duration


def _slur_ms(qrs: Array) -> float:
    speed = _speed(qrs)
    return float(np.argmax(speed > 0.5 * speed.max()) * _MS)


def _find_atrial_activity(leads: Array, peaks: NDArray[np.int64], rr_ms: float) -> tuple[str, Array]:
    """Return the kind of baseline between T wave and QRS, and the flutter waves, (T, 12) mV (zero if there are none)."""
    # the samples between T wave and QRS
    after = int((0.46 * np.sqrt(rr_ms / 1000) * 1000 + 30) / _MS)
    use = np.zeros(len(leads), bool)
    for here, there in pairwise(peaks):
        use[here + after : there - int(60 / _MS)] = True
    if use.sum() < 60:  # the rhythm is too fast for a baseline: use everything between the QRS complexes
        use[:] = True
        for peak in peaks:
            use[max(peak - 30, 0) : peak + 35] = False

    # little movement: no atrial activity
    speed = np.abs(np.gradient(leads[:, 1])) + np.abs(np.gradient(leads[:, 6]))
    still = float(np.mean(speed[use] < 0.0012))
    none = np.zeros_like(leads)
    if still > 0.2:
        return "still", none

    # flutter, if a steady oscillation explains the movement
    samples = np.flatnonzero(use)
    if (
        np.ptp(leads[samples, 1]) > 0.12 and rr_ms / _MS - after > 180 / _MS
    ):  # in less than a whole wave at a time, any would fit
        at_s = np.arange(len(leads)) / RATE_HZ
        wave = leads[samples[::4], 1]
        frequencies = np.arange(4.3, 5.5, 0.02)
        residuals = [_residual_variance(at_s[samples[::4]], wave, frequency) for frequency in frequencies]
        if min(residuals) < 0.2 * wave.var():
            basis = _harmonics(at_s, float(frequencies[int(np.argmin(residuals))]), 3)
            fit = np.linalg.lstsq(basis[samples], leads[samples], rcond=None)[0]
            return "flutter", basis[:, 1:] @ fit[1:]
    return "waves", none


def _harmonics(at_s: Array, frequency_hz: float, n: int) -> Array:
    """Return a constant, and sines and cosines at `frequency_hz` and its multiples, (T, 1 + 2n)."""
    angles = 2 * np.pi * frequency_hz * at_s[:, None] * np.arange(1, n + 1)
    return np.column_stack([np.ones(len(at_s)), np.sin(angles), np.cos(angles)])


def _residual_variance(at_s: Array, wave: Array, frequency_hz: float) -> float:
    """Return the variance of `wave` that an oscillation at `frequency_hz` and twice that frequency does not explain."""
    basis = _harmonics(at_s, frequency_hz, 2)
    return float((wave - basis @ np.linalg.lstsq(basis, wave, rcond=None)[0]).var())
