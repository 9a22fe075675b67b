"""A remark where the heart rate that a file states contradicts its samples: then the sampling rate is probably wrong.

The R peaks are counted on the median over the leads of their slopes, so that an artefact in one lead does not count.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from leadwise.data.recordings.recording import Recording

_LARGEST_RATIO = 1.6  # of the two heart rates; premature beats and atrial fibrillation remain below it
_MIN_BEATS = 4  # that the stated rate predicts in the recording; fewer decide nothing
_MOST_SAMPLES = 30_000  # from the middle of the recording: a minute at 500 Hz
_REFRACTORY = 0.4  # shortest distance of two beats, as a share of the stated RR interval
_THRESHOLD = 0.35  # of the slope of a typical beat


def with_rate_doubt(recording: Recording) -> Recording:
    """The recording, with a remark if its R peaks contradict the heart rate that its file states."""
    stated = recording.stated.get("heart_rate")
    if not isinstance(stated, int | float) or not 15 <= stated <= 350:
        return recording
    measured = heart_rate(recording.signal, recording.rate_hz, float(stated))
    if measured is None or 1 / _LARGEST_RATIO < measured / stated < _LARGEST_RATIO:
        return recording
    remark = (
        f"rate doubt: the file states {stated:g} beats/min, and its R peaks at {recording.rate_hz:g} Hz give {measured:.0f}; "
        "is the sampling rate right?"
    )
    return replace(recording, remarks=(*recording.remarks, remark))


def heart_rate(signal_mv: np.ndarray, rate_hz: float, expected: float) -> float | None:
    """Beats per minute from the R peaks of (T0, L0) mV; None if the recording is too short or too irregular to decide.

    `expected` beats per minute set the shortest distance of two beats, so that nothing here depends on `rate_hz` alone.
    """
    # slopes, each lead in units of its steepest parts, smoothed over a twentieth of a beat
    length = len(signal_mv)
    begin = max(0, (length - _MOST_SAMPLES) // 2)
    signal = signal_mv[begin : begin + _MOST_SAMPLES]
    interval = 60.0 / expected * rate_hz
    if len(signal) < _MIN_BEATS * interval or interval < 8:
        return None
    slopes = np.abs(np.diff(np.where(np.isfinite(signal), signal, 0.0), axis=0))
    steepest = np.percentile(slopes, 99, axis=0)
    slopes = slopes[:, steepest > 0] / steepest[steepest > 0]
    if slopes.shape[1] == 0:
        return None
    width = max(1, round(interval / 20))
    envelope = np.convolve(np.median(slopes, axis=1), np.full(width, 1.0 / width), mode="same")

    # the threshold: a share of the second highest beat, since the highest may be an artefact
    window = round(1.5 * interval)
    highest = np.sort([envelope[k : k + window].max() for k in range(0, len(envelope), window)])
    peaks = _peaks(envelope, float(_THRESHOLD * highest[-2:].min()), round(_REFRACTORY * interval))
    if len(peaks) < 2:
        return None
    return float(60.0 * rate_hz * (len(peaks) - 1) / (peaks[-1] - peaks[0]))


def _peaks(envelope: np.ndarray, threshold: float, distance: int) -> list[int]:
    """Maxima above `threshold`, the highest first, none closer than `distance` to a higher one; in order of time."""
    inner = (envelope[1:-1] >= envelope[:-2]) & (envelope[1:-1] > envelope[2:]) & (envelope[1:-1] > threshold)
    candidates = np.flatnonzero(inner) + 1
    free, peaks = np.ones(len(envelope), dtype=bool), []
    for candidate in candidates[np.argsort(-envelope[candidates])]:
        if free[candidate]:
            peaks.append(int(candidate))
            free[max(0, candidate - distance) : candidate + distance + 1] = False
    return sorted(peaks)
