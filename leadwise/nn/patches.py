"""From samples to patch tokens, each patch by itself.

Convolutions and norms never leave their patch: padding is zero at its borders and GroupNorm's statistics are its own.
Otherwise hidden samples would leak into visible tokens, and "pick the visible, then tokenise" would not be exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def patchify(signal: Tensor, n_patches: int) -> Tensor:
    """(B, L, T) cut into (B, L, N, P) patches of equal length, in time order."""
    b, n_leads, n_samples = signal.shape
    return signal.reshape(b, n_leads, n_patches, n_samples // n_patches)


class ConvTokenizer(nn.Module):
    """Patch (M, P) -> token (M, D): three convolutions, each with GELU and group norm, then one linear map.

    The first convolution strides so that about seven positions are left whatever the patch length (paper section 2.1;
    depth, kernels and widths are our choice, the paper gives none). `amplitude` adds each patch's mean and log standard
    deviation to the linear map's input, which group norm would otherwise take away.
    """

    def __init__(self, patch_samples: int, width: int, channels: int = 8, amplitude: bool = False) -> None:
        super().__init__()
        kernel = min(15, patch_samples - 1 + patch_samples % 2)
        stride = max(1, patch_samples // 6)
        n_positions = (patch_samples + 2 * (kernel // 2) - kernel) // stride + 1
        groups = math.gcd(4, channels)
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
            level = flat.mean(-1)  # (M, 1), the model's scale (mV by default)
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

    The usual periods, up to 60,000, would leave most of the width the same for all of the few dozen times there are here.
    """
    half = width // 2
    period = 4.0 * n ** (torch.arange(half) / max(1, half - 1))
    angle = 2 * math.pi * torch.arange(n)[:, None] / period
    table = torch.cat([angle.sin(), angle.cos()], dim=1)
    return nn.functional.pad(table, (0, width - 2 * half))
