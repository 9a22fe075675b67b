"""A reference that learnt nothing: statistics of leads and rhythm, the least that a representation must beat.

Per lead: spread, percentiles, slopes, crossings of its median, power in bands, and whether it was observed at all.
Over leads: correlations. Over the record: a rate from the autocorrelation of the slopes and how regular it is.
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
_LEAST_OBSERVED = 0.05  # of a lead's samples; below it the lead counts as missing
_SMOOTH_S = 0.08  # about a QRS, over which slopes are summed for the rate


def handcrafted_features(recordings: Recordings, batch_size: int = 128, progress: Progress | None = None) -> Features:
    """(N, F) features; those of a lead that was not observed are 0 beside its indicator."""
    found: list[Features] = []
    done = 0
    for batch in recordings.batches(batch_size):
        features = ecg_statistics(batch.ecg, batch.observed, recordings.signal.rate_hz)
        found.append(features.astype(np.float32))
        done += len(batch)
        if progress is not None:
            progress("hand-crafted features", done, len(recordings))
    if not found:
        raise EmbedError("no recordings to describe; check the split and the task")
    return np.concatenate(found)


class Handcrafted(PretrainingMethod):
    """The same features as a method without parameters."""

    def __init__(self, signal: Signal) -> None:
        super().__init__(MethodConfig(), signal)

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, F) features of ECGs."""
        return torch.from_numpy(ecg_statistics(batch.ecg, batch.observed, self.signal.rate_hz).astype(np.float32))


def ecg_statistics(ecg: torch.Tensor, observed: torch.Tensor, rate_hz: float) -> Floats:
    """(B, F) features of ECGs (B, L, T) in mV with their observed samples (B, L, T)."""
    seen = observed.cpu().numpy().astype(bool)
    there = seen.mean(axis=2) >= _LEAST_OBSERVED  # (B, L)
    seen = seen & there[:, :, None]
    ordered = np.sort(np.where(seen, ecg.cpu().numpy(), np.nan), axis=2)  # nan last
    n_seen = seen.sum(axis=2)
    median = _percentile(ordered, n_seen, 50)
    signal = np.where(seen, ecg.cpu().numpy() - median[:, :, None], 0.0).astype(np.float64)
    levels = [_percentile(ordered, n_seen, at) - median for at in _PERCENTILES]
    steps = np.diff(signal, axis=2) * (seen[:, :, 1:] & seen[:, :, :-1]) * rate_hz  # mV/s
    per_lead = [
        np.sqrt((signal**2).sum(axis=2) / np.maximum(n_seen, 1)),  # mV, spread about the median
        _percentile(ordered, n_seen, 100) - _percentile(ordered, n_seen, 0),  # mV, range
        *levels,
        *_slopes(steps, n_seen),
        _crossings_hz(signal, seen, rate_hz),
        *_bands(signal, n_seen, rate_hz),
        (~there).astype(np.float64),
    ]
    blocks = [value.reshape(len(signal), -1) for value in per_lead]
    return np.concatenate([*blocks, _correlations(signal), _rhythm(steps, rate_hz)], axis=1)


def _percentile(ordered: NDArray[np.floating], n_seen: NDArray[np.integer], at: float) -> Floats:
    """(B, L) nearest-rank percentile of the first n_seen of T ordered samples; 0 where none was seen."""
    place = np.rint(at / 100 * np.maximum(n_seen - 1, 0)).astype(np.int64)
    return np.nan_to_num(np.take_along_axis(ordered, place[:, :, None], axis=2)[:, :, 0].astype(np.float64))


def _slopes(steps: Floats, n_seen: NDArray[np.integer]) -> list[Floats]:
    size = np.abs(steps)
    return [size.sum(axis=2) / np.maximum(n_seen - 1, 1), steps.max(axis=2), steps.min(axis=2)]


def _crossings_hz(signal: Floats, seen: Mask, rate_hz: float) -> Floats:
    """(B, L) crossings of the median a second."""
    crossed = (signal[:, :, 1:] > 0) != (signal[:, :, :-1] > 0)
    both = seen[:, :, 1:] & seen[:, :, :-1]
    return np.asarray((crossed & both).sum(axis=2) * rate_hz / np.maximum(both.sum(axis=2), 1), dtype=np.float64)


def _bands(signal: Floats, n_seen: NDArray[np.integer], rate_hz: float) -> list[Floats]:
    """(B, L) log power per observed sample in each band below half the rate; 0 for a silent lead."""
    power = np.abs(np.fft.rfft(signal, axis=2)) ** 2
    hz = np.fft.rfftfreq(signal.shape[2], 1 / rate_hz)
    bands = []
    for low, high in _BANDS_HZ:
        inside = (hz >= low) & (hz < high)
        if low >= rate_hz / 2 or not inside.any():
            continue
        mean = power[:, :, inside].sum(axis=2) / np.maximum(n_seen, 1) / signal.shape[2]  # mV²
        bands.append(np.where(n_seen > 0, np.log(mean + 1e-8), 0.0))
    return bands


def _correlations(signal: Floats) -> Floats:
    """(B, L (L - 1) / 2) correlation of each pair of leads; 0 with a silent lead."""
    covariance = np.einsum("blt,bmt->blm", signal, signal, optimize=True)
    size = np.sqrt(np.einsum("bll->bl", covariance))
    scale = size[:, :, None] * size[:, None, :]
    correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-12)
    first, second = np.triu_indices(signal.shape[1], k=1)
    return np.asarray(correlation[:, first, second])


def _rhythm(steps: Floats, rate_hz: float) -> Floats:
    """(B, 3): beats a minute, how alike the record is after one beat and after two (autocorrelation, at most 1)."""
    slope = np.abs(steps).sum(axis=1)  # (B, T - 1), large in every QRS
    width = max(1, round(_SMOOTH_S * rate_hz))
    total = np.cumsum(np.pad(slope, ((0, 0), (width, 0))), axis=1)
    beat = total[:, width:] - total[:, :-width]
    beat = beat - beat.mean(axis=1, keepdims=True)
    n = beat.shape[1]
    spectrum = np.fft.rfft(beat, n=2 * n, axis=1)
    shared = np.arange(n, 0, -1)  # samples that overlap at each lag
    alike = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :n] / shared
    alike = np.divide(alike, alike[:, :1], out=np.zeros_like(alike), where=alike[:, :1] > 1e-12).clip(-1, 1)
    shortest = max(1, round(60 / _RATES_BPM[1] * rate_hz))
    longest = max(shortest + 1, min(n - 1, round(60 / _RATES_BPM[0] * rate_hz)))
    inner = alike[:, shortest:longest]
    peak = (inner >= alike[:, shortest - 1 : longest - 1]) & (inner >= alike[:, shortest + 1 : longest + 1])
    high = peak & (inner >= 0.8 * inner.max(axis=1, keepdims=True))  # the first high peak: one beat, not two
    lag = shortest + np.where(high.any(axis=1), high.argmax(axis=1), inner.argmax(axis=1))
    rows = np.arange(len(alike))
    after_two = np.where(2 * lag < n, alike[rows, np.minimum(2 * lag, n - 1)], 0.0)
    return np.stack([60 * rate_hz / lag, alike[rows, lag], after_two], axis=1)
