"""Hand-crafted features: statistics of leads and rhythm without learning, the reference a representation must exceed.

Per lead: spread, percentiles, slopes, crossings of its median, power in bands, and whether it was observed at all.
Over leads: correlations. Over the recording: heart rate from the autocorrelation of the slopes, and its regularity.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leadwise.batch import Batch, Signal
from leadwise.data.loader import Recordings
from leadwise.evaluate.embed import EmbedError, Features
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.progress import Progress

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_PERCENTILES = (1, 5, 25, 75, 95, 99)
_BANDS_HZ = ((0.0, 1.0), (1.0, 4.0), (4.0, 8.0), (8.0, 15.0), (15.0, 30.0), (30.0, 50.0))
_RATES_BPM = (30.0, 240.0)
HEART_RATE = -3  # column of the features: beats per minute
_LEAST_OBSERVED = 0.05  # of a lead's samples; below it the lead counts as missing
_SMOOTH_S = 0.08  # about one QRS; slopes are summed over it to estimate the rate


def handcrafted_features(recordings: Recordings, batch_size: int = 128, progress: Progress | None = None) -> Features:
    """Return features (N, F); those of an unobserved lead are 0, except its indicator."""
    batches: list[Features] = []
    done = 0
    for batch in recordings.batches(batch_size):
        features = ecg_statistics(batch.ecg, batch.observed, recordings.signal.rate_hz)
        batches.append(features.astype(np.float32))
        done += len(batch)
        if progress is not None:
            progress("hand-crafted features", done, len(recordings))
    if not batches:
        raise EmbedError("no recordings to compute features of; check the split and the task")
    return np.concatenate(batches)


class Handcrafted(PretrainingMethod):
    """The same features with the interface of a method; it has no parameters."""

    def __init__(self, signal: Signal) -> None:
        super().__init__(MethodConfig(), signal)

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """Return features (B, F) of ECGs."""
        return torch.from_numpy(ecg_statistics(batch.ecg, batch.observed, self.signal.rate_hz).astype(np.float32))


def ecg_statistics(ecg: torch.Tensor, observed: torch.Tensor, rate_hz: float) -> Floats:
    """Return features (B, F) of ECGs (B, L, T) in mV with the mask of their observed samples (B, L, T)."""
    # a lead with few observed samples counts as missing
    mask = observed.cpu().numpy().astype(bool)
    present = mask.mean(axis=2) >= _LEAST_OBSERVED  # (B, L)
    mask = mask & present[:, :, None]
    n_observed = mask.sum(axis=2)

    # sort the observed samples (nan last) for percentiles, and subtract the median of each lead
    ordered = np.sort(np.where(mask, ecg.cpu().numpy(), np.nan), axis=2)
    median = _percentile(ordered, n_observed, 50)
    signal = np.where(mask, ecg.cpu().numpy() - median[:, :, None], 0.0).astype(np.float64)
    percentiles = [_percentile(ordered, n_observed, percent) - median for percent in _PERCENTILES]
    slopes = np.diff(signal, axis=2) * (mask[:, :, 1:] & mask[:, :, :-1]) * rate_hz  # mV/s

    # features of each lead, then correlations of leads and the rhythm
    per_lead = [
        np.sqrt((signal**2).sum(axis=2) / np.maximum(n_observed, 1)),  # mV, spread about the median
        _percentile(ordered, n_observed, 100) - _percentile(ordered, n_observed, 0),  # mV, range
        *percentiles,
        *_slope_statistics(slopes, n_observed),
        _crossings_hz(signal, mask, rate_hz),
        *_bands(signal, n_observed, rate_hz),
        (~present).astype(np.float64),
    ]
    blocks = [value.reshape(len(signal), -1) for value in per_lead]
    return np.concatenate([*blocks, _correlations(signal), _rhythm(slopes, rate_hz)], axis=1)


def _percentile(ordered: NDArray[np.floating], n_observed: NDArray[np.integer], percent: float) -> Floats:
    """Return nearest-rank percentiles (B, L) of the first `n_observed` of T ordered samples; 0 without observed samples."""
    rank = np.rint(percent / 100 * np.maximum(n_observed - 1, 0)).astype(np.int64)
    return np.nan_to_num(np.take_along_axis(ordered, rank[:, :, None], axis=2)[:, :, 0].astype(np.float64))


def _slope_statistics(slopes: Floats, n_observed: NDArray[np.integer]) -> list[Floats]:
    """Return the mean absolute slope, the steepest rise and the steepest fall, each (B, L), in mV/s."""
    size = np.abs(slopes)
    return [size.sum(axis=2) / np.maximum(n_observed - 1, 1), slopes.max(axis=2), slopes.min(axis=2)]


def _crossings_hz(signal: Floats, mask: Mask, rate_hz: float) -> Floats:
    """Return crossings (B, L) of the median per second."""
    crossed = (signal[:, :, 1:] > 0) != (signal[:, :, :-1] > 0)
    both = mask[:, :, 1:] & mask[:, :, :-1]
    return np.asarray((crossed & both).sum(axis=2) * rate_hz / np.maximum(both.sum(axis=2), 1), dtype=np.float64)


def _bands(signal: Floats, n_observed: NDArray[np.integer], rate_hz: float) -> list[Floats]:
    """Return the log power per observed sample, (B, L) for each band below half the rate; 0 for an unobserved lead."""
    power = np.abs(np.fft.rfft(signal, axis=2)) ** 2
    hz = np.fft.rfftfreq(signal.shape[2], 1 / rate_hz)
    bands = []
    for low, high in _BANDS_HZ:
        inside = (hz >= low) & (hz < high)
        if low >= rate_hz / 2 or not inside.any():
            continue
        mean = power[:, :, inside].sum(axis=2) / np.maximum(n_observed, 1) / signal.shape[2]  # mV²
        bands.append(np.where(n_observed > 0, np.log(mean + 1e-8), 0.0))
    return bands


def _correlations(signal: Floats) -> Floats:
    """Return correlations (B, L (L - 1) / 2) of each pair of leads; 0 with an unobserved or constant lead."""
    covariance = np.einsum("blt,bmt->blm", signal, signal, optimize=True)
    size = np.sqrt(np.einsum("bll->bl", covariance))
    scale = size[:, :, None] * size[:, None, :]
    correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-12)
    first, second = np.triu_indices(signal.shape[1], k=1)
    return np.asarray(correlation[:, first, second])


def _rhythm(slopes: Floats, rate_hz: float) -> Floats:
    """Return (B, 3): beats per minute, and the autocorrelation (at most 1) one beat and two beats later."""
    lag, correlation = beat_lag(beat_activity(slopes, rate_hz), rate_hz)
    rows, n = np.arange(len(correlation)), correlation.shape[1]
    after_two = np.where(2 * lag < n, correlation[rows, np.minimum(2 * lag, n - 1)], 0.0)
    return np.stack([60 * rate_hz / lag, correlation[rows, lag], after_two], axis=1)


def beat_activity(slopes: Floats, rate_hz: float) -> Floats:
    """Return (B, T - 1), large in every QRS: slopes (B, L, T - 1) of all leads, summed over about one QRS, with mean 0."""
    total_slope = np.abs(slopes).sum(axis=1)
    width = max(1, round(_SMOOTH_S * rate_hz))
    cumulative = np.cumsum(np.pad(total_slope, ((0, 0), (width, 0))), axis=1)
    activity = cumulative[:, width:] - cumulative[:, :-width]
    return np.asarray(activity - activity.mean(axis=1, keepdims=True))


def beat_lag(activity: Floats, rate_hz: float) -> tuple[NDArray[np.int64], Floats]:
    """Return the samples between beats (B,) and the autocorrelation (B, T - 1), at most 1, of the activity of beats."""
    # autocorrelation by FFT, normalised by the number of overlapping samples at each lag
    n = activity.shape[1]
    spectrum = np.fft.rfft(activity, n=2 * n, axis=1)
    n_overlapping = np.arange(n, 0, -1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :n] / n_overlapping
    at_zero = correlation[:, :1]
    correlation = np.divide(correlation, at_zero, out=np.zeros_like(correlation), where=at_zero > 1e-12).clip(-1, 1)

    # the first high peak among plausible heart rates is one beat, not two
    shortest = max(1, round(60 / _RATES_BPM[1] * rate_hz))
    longest = max(shortest + 1, min(n - 1, round(60 / _RATES_BPM[0] * rate_hz)))
    inner = correlation[:, shortest:longest]
    before, after = correlation[:, shortest - 1 : longest - 1], correlation[:, shortest + 1 : longest + 1]
    peak = (inner >= before) & (inner >= after)
    high = peak & (inner >= 0.8 * inner.max(axis=1, keepdims=True))
    return shortest + np.where(high.any(axis=1), high.argmax(axis=1), inner.argmax(axis=1)), correlation
