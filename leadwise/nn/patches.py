"""Patch tokenisers: samples of one patch -> one token, independent of all other patches.

Convolutions and norms use samples of their own patch only: zero padding at its borders, and GroupNorm statistics of the
patch. Otherwise hidden samples would leak into visible tokens, and tokenising only the visible patches would not be exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def patchify(signal: Tensor, n_patches: int) -> Tensor:
    """A signal (B, L, T) as (B, L, N, P) patches of equal length, in time order."""
    b, n_leads, n_samples = signal.shape
    return signal.reshape(b, n_leads, n_patches, n_samples // n_patches)


class ConvTokenizer(nn.Module):
    """Patch (..., P) -> token (..., D): three convolutions, each with GELU and group norm, then one linear map.

    The stride of the first convolution leaves about seven positions whatever the patch length (section 2.1 of CG-DMER,
    arXiv 2602.21154, which gives neither depth, kernels nor widths: these are our choice). `amplitude` adds each patch's
    mean and log standard deviation to the input of the linear map, because group norm removes both.
    """

    def __init__(self, patch_samples: int, width: int, amplitude: bool = False) -> None:
        super().__init__()
        channels, groups = 8, 4
        kernel = min(15, patch_samples - 1 + patch_samples % 2)
        stride = max(1, patch_samples // 6)
        n_positions = (patch_samples + 2 * (kernel // 2) - kernel) // stride + 1
        self.convolutions = nn.Sequential(
            nn.Conv1d(1, channels, kernel, stride, padding=kernel // 2),
            nn.GELU(),
            nn.GroupNorm(groups, channels),
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.GroupNorm(groups, channels),
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.GroupNorm(groups, channels),
        )
        self.amplitude = amplitude
        self.project = nn.Linear(channels * n_positions + 2 * amplitude, width)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: (..., P) -> (..., D)."""
        shape = patches.shape[:-1]
        flat = patches.reshape(-1, 1, patches.shape[-1])  # (M, 1, P)
        features = self.convolutions(flat).flatten(1)  # (M, C * positions)
        if self.amplitude:
            level = flat.mean(-1)  # (M, 1), on the model's scale (mV by default)
            spread = (flat.std(-1, correction=0) + 1e-3).log()
            features = torch.cat([features, level, spread], dim=1)
        out: Tensor = self.project(features)
        return out.reshape(*shape, -1)


class LinearTokenizer(nn.Module):
    """Patch (..., P) -> token (..., D) by one linear map."""

    def __init__(self, patch_samples: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(patch_samples, width)

    def forward(self, patches: Tensor) -> Tensor:
        out: Tensor = self.project(patches)
        return out


class NormedTokenizer(nn.Sequential):
    """Patch (..., P) -> token (..., D) by one linear map between two norms."""

    def __init__(self, patch_samples: int, width: int) -> None:
        super().__init__(nn.LayerNorm(patch_samples), nn.Linear(patch_samples, width), nn.LayerNorm(width))


def sincos(n: int, width: int) -> Tensor:
    """Sine-cosine positions (n, width), with periods from 4 to 4 n positions in geometric steps.

    With the usual periods, up to 60,000, most of the width would be the same for all of the few dozen patches of a lead.
    """
    half = width // 2
    period = 4.0 * n ** (torch.arange(half) / max(1, half - 1))
    angle = 2 * math.pi * torch.arange(n)[:, None] / period
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    return nn.functional.pad(table, (0, width - 2 * half))
