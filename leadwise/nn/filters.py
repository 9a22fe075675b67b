"""FFT filters for a batch of ECGs, on its device; all leads are filtered alike, so that III = II - I still holds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def band_pass(x: Tensor, rate_hz: float, low_hz: float, high_hz: float) -> Tensor:
    """Band-pass x (..., T) between `low_hz` and `high_hz` with smooth edges; an edge above Nyquist has no effect.

    The FFT assumes a periodic signal: both ends are padded by reflection, so that the end does not leak into the start.
    """
    n = x.shape[-1]
    pad = min(n - 1, round(rate_hz))  # a second
    padded = F.pad(x.reshape(1, -1, n), (pad, pad), mode="reflect").reshape(*x.shape[:-1], n + 2 * pad)
    hertz = torch.fft.rfftfreq(padded.shape[-1], 1 / rate_hz, device=x.device)
    weight = _rise(hertz, low_hz) * (1 - _rise(hertz, high_hz))
    out: Tensor = torch.fft.irfft(torch.fft.rfft(padded) * weight, n=padded.shape[-1])
    return out[..., pad : pad + n]


def _rise(hertz: Tensor, edge: float) -> Tensor:
    """High-pass weights: a raised cosine from 0 to 1 around `edge`, one half at it, half its frequency wide (little ringing)."""
    if edge <= 0:
        return torch.ones_like(hertz)
    position = ((hertz - 0.75 * edge) / (0.5 * edge)).clamp(0.0, 1.0)
    return (1 - torch.cos(math.pi * position)) / 2
