"""Patch tokenisers: samples of one patch -> one token, independent of all other patches.

Convolutions and norms use samples of their own patch only: zero padding at its borders, and GroupNorm statistics of the
patch. Otherwise hidden samples would leak into visible tokens, and tokenising only the visible patches would not be exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from leadwise.nn.token_scale import start_at_unit_scale


def patchify(signal: Tensor, n_patches: int) -> Tensor:
    """A signal (B, L, T) as (B, L, N, P) patches of equal length, in time order."""
    b, n_leads, n_samples = signal.shape
    return signal.reshape(b, n_leads, n_patches, n_samples // n_patches)


class ConvTokenizer(nn.Module):
    """Patch (..., P) -> token (..., D): three convolutions, each with GELU and group norm, then one linear map.

    The stride of the first convolution leaves about seven positions whatever the patch length, and its kernel reads every
    sample (section 2.1 of CG-DMER, arXiv 2602.21154, which gives neither depth, kernels nor widths: these are our choice).
    `amplitude` adds each patch's mean and log standard deviation to the input of the linear map, because group norm removes
    both. `pooled` adds features that hardly depend on where in the patch a wave is: see `PooledFeatures`.
    """

    def __init__(self, patch_samples: int, width: int, amplitude: bool = False, pooled: bool = False) -> None:
        super().__init__()
        channels, groups = 8, 4
        stride = max(1, patch_samples // 6)
        kernel = _kernel(patch_samples, stride)
        n_positions = (patch_samples - 1) // stride + 1
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
        self.pooled = PooledFeatures() if pooled else None
        n_pooled = PooledFeatures.width if pooled else 0
        self.project = nn.Linear(channels * n_positions + n_pooled + 2 * amplitude, width)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: (..., P) -> (..., D)."""
        shape = patches.shape[:-1]
        flat = patches.reshape(-1, 1, patches.shape[-1])  # (M, 1, P)
        features = [self.convolutions(flat).flatten(1)]  # (M, C * positions)
        if self.pooled is not None:
            features.append(self.pooled(flat))
        if self.amplitude:
            level = flat.mean(-1)  # (M, 1), on the model's scale (mV by default)
            spread = (flat.std(-1, correction=0) + 1e-3).log()
            features += [level, spread]
        out: Tensor = self.project(torch.cat(features, dim=1))
        return out.reshape(*shape, -1)


def _kernel(patch_samples: int, stride: int) -> int:
    """The width of the first convolution: 15 samples, or as many as are needed to read every sample of the patch.

    Centres are `stride` apart from the first sample on. The kernel must reach from each to the next, and from the last one
    to the end of the patch.
    """
    reach = max(stride // 2, (patch_samples - 1) % stride)
    return max(min(15, patch_samples - 1 + patch_samples % 2), 2 * reach + 1)


class PooledFeatures(nn.Sequential):
    """Patches (M, 1, P) -> features (M, 64): three convolutions, then their mean and maximum over the patch.

    A wave at two places of a patch gives nearly the same features, which the flattened features of a strided convolution
    do not. Our addition; the paper describes one set of convolutions.
    """

    width = 64  # of the output

    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(1, 16, 7, stride=2, padding=3),
            nn.GELU(),
            nn.GroupNorm(4, 16),
            nn.Conv1d(16, 32, 5, stride=2, padding=2),
            nn.GELU(),
            nn.GroupNorm(4, 32),
            nn.Conv1d(32, 32, 3, padding=1),
            nn.GELU(),
            nn.GroupNorm(4, 32),
        )

    def forward(self, patches: Tensor) -> Tensor:
        features: Tensor = super().forward(patches)  # type: ignore[no-untyped-call]  # (M, 32, positions)
        return torch.cat([features.mean(-1), features.amax(-1)], dim=1)


class LinearTokenizer(nn.Module):
    """Patch (..., P) -> token (..., D) by one linear map. Tokens start at a root mean square of about 1.

    `input_rms` is the root mean square of the samples (`token_scale.signal_rms`).
    """

    def __init__(self, patch_samples: int, width: int, input_rms: float) -> None:
        super().__init__()
        self.project = nn.Linear(patch_samples, width)
        start_at_unit_scale(self.project, input_rms)

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
