"""Acquisition facts: what a recording shows of how it was made, not of the heart.

CG-DMER's specific part is meant to hold what only the ECG contains. Noise, wander of the baseline, size and the position of
the first beat are such facts: no report states them. A linear map that reads them better from the specific part than from the
shared part shows that the specific part has a purpose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leadwise.data.loader import Recordings
from leadwise.evaluate.handcrafted import beat_activity, beat_lag
from leadwise.evaluate.metrics.score import Floats

NOISE_HZ = 30.0  # noise of muscles and mains above it
WANDER_HZ = 0.6  # wander of the baseline below it
_WINDOW_S = 0.1  # noise is measured in windows of this length
_QUIET = 25  # percentile of the windows: most of a beat's windows, those of its QRS not among them, are noise alone
_FLOOR_MV = 1e-3  # smaller sizes are those of rounding

FACTS = ("noise", "baseline wander", "size", "position of the first beat")


def acquisition_facts(recordings: Recordings, batch_size: int = 128) -> dict[str, Floats]:
    """Return the facts of N recordings, each (N, columns).

    noise: log mV, the spread above 30 Hz in quiet windows, mean over the observed leads.
    baseline wander: log mV, the spread below 0.6 Hz, mean over the observed leads.
    size: log mV, the range from the 1st to the 99th percentile, mean over the observed leads.
    Samples that are not observed, such as the end of a short recording, have no influence on sizes and spreads.
    position of the first beat: cosine and sine of its share of a beat interval, (N, 2).
    """
    batches = [
        _facts(batch.ecg.numpy(), batch.observed.numpy(), recordings.signal.rate_hz)
        for batch in recordings.batches(batch_size)
    ]
    return {fact: np.concatenate([batch[fact] for batch in batches]) for fact in FACTS}


def _facts(ecg: NDArray[np.floating], observed: NDArray[np.bool_], rate_hz: float) -> dict[str, Floats]:
    """Return the facts of ECGs (B, L, T) in mV with the mask of their observed samples."""
    present = observed.any(axis=2)  # (B, L)
    n_observed = np.maximum(observed.sum(axis=2), 1)
    ecg = np.where(observed, ecg, 0.0)
    signal = np.where(observed, ecg - (ecg.sum(axis=2) / n_observed)[:, :, None], 0.0)

    # noise: above 30 Hz, or in the upper fifth of the band of slow recordings
    length = signal.shape[2]
    spectrum, hz = np.fft.rfft(signal, axis=2), np.fft.rfftfreq(length, 1 / rate_hz)
    fast = np.fft.irfft(np.where(hz >= min(NOISE_HZ, 0.4 * rate_hz), spectrum, 0.0), n=length, axis=2)
    width = max(2, round(_WINDOW_S * rate_hz))
    windows = fast[:, :, : length // width * width].reshape(*fast.shape[:2], -1, width)
    complete = np.asarray(observed[:, :, : length // width * width].reshape(windows.shape).all(axis=3))
    noise = _percentiles(np.sqrt((windows**2).mean(axis=3)), complete, _QUIET)

    # wander and size
    slow = np.fft.irfft(np.where(hz <= WANDER_HZ, spectrum, 0.0), n=length, axis=2)
    wander = np.sqrt((slow**2 * observed).sum(axis=2) / n_observed)
    low, high = _percentiles(signal, observed, 1), _percentiles(signal, observed, 99)

    # the first beat: the place of most activity in the first beat interval
    slopes = np.diff(signal, axis=2) * (observed[:, :, 1:] & observed[:, :, :-1]) * rate_hz
    activity = beat_activity(slopes, rate_hz)
    lag = beat_lag(activity, rate_hz)[0]
    first = np.where(np.arange(activity.shape[1]) < lag[:, None], activity, -np.inf).argmax(axis=1)
    angle = 2 * np.pi * first / lag

    def mean_log(size: NDArray[np.floating]) -> Floats:
        logs = np.where(present, np.log(np.maximum(size, _FLOOR_MV)), 0.0)
        return np.asarray(logs.sum(axis=1, keepdims=True) / np.maximum(present.sum(axis=1, keepdims=True), 1))

    position = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return dict(zip(FACTS, (mean_log(noise), mean_log(wander), mean_log(high - low), position)))


def _percentiles(values: Floats, exist: NDArray[np.bool_], percentage: float) -> Floats:
    """Return the percentile (B, L) of the values (B, L, n) that exist; 0 for a lead without any."""
    if exist.all():
        return np.asarray(np.percentile(values, percentage, axis=2))
    values = np.where(exist, values, np.nan)
    values[~exist.any(axis=2)] = 0.0
    return np.asarray(np.nanpercentile(values, percentage, axis=2))
