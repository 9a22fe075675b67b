"""Filters of a batch of ECGs, on its device: by FFT, the same for all leads, so that their algebra holds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def band_pass(x: Tensor, rate_hz: float, low_hz: float, high_hz: float) -> Tensor:
    """x (..., T) between `low_hz` and `high_hz`, with soft edges; an edge that the rate cannot hold does nothing.

    The FFT takes a signal for a ring: mirrored ends keep its end from leaking into its beginning.
    """
    n = x.shape[-1]
    pad = min(n - 1, round(rate_hz))  # a second
    ring = F.pad(x.reshape(1, -1, n), (pad, pad), mode="reflect").reshape(*x.shape[:-1], n + 2 * pad)
    hertz = torch.fft.rfftfreq(ring.shape[-1], 1 / rate_hz, device=x.device)
    weight = _rise(hertz, low_hz) * (1 - _rise(hertz, high_hz))
    out: Tensor = torch.fft.irfft(torch.fft.rfft(ring) * weight, n=ring.shape[-1])
    return out[..., pad : pad + n]


def _rise(hertz: Tensor, edge: float) -> Tensor:
    """From 0 below to 1 above an edge, a half at it: a raised cosine over half its frequency, which hardly rings."""
    if edge <= 0:
        return torch.ones_like(hertz)
    way = ((hertz - 0.75 * edge) / (0.5 * edge)).clamp(0.0, 1.0)
    return (1 - torch.cos(math.pi * way)) / 2
