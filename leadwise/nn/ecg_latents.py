"""ECGs as latents that a generator can draw: a variational autoencoder, and a decoder of the mean beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.nn.ecg_vae import EcgVae, ResidualBlock
from leadwise.nn.phase import RPeaks

BEFORE_S, AFTER_S = 0.2, 0.4  # of a beat, around its R peak
_MOMENTUM = 0.1  # of the running mean and variance of the latents


def beat_samples(rate_hz: float) -> int:
    """Return N, the number of samples of a beat."""
    return round(BEFORE_S * rate_hz) + round(AFTER_S * rate_hz) + 1


def mean_beat(ecg: Tensor, observed: Tensor, peaks: RPeaks, rate_hz: float) -> tuple[Tensor, Tensor]:
    """Return the mean beat (B, L, N) of ECGs (B, L, T) over the beats that are observed in all leads, and which have one (B,)."""
    n, before = beat_samples(rate_hz), round(BEFORE_S * rate_hz)
    window = peaks.sample[..., None] - before + torch.arange(n, device=ecg.device)  # (B, M, N)
    inside = (window >= 0) & (window < ecg.shape[-1])
    window = window.clamp(0, ecg.shape[-1] - 1)
    b, m = peaks.sample.shape
    at = window.reshape(b, 1, m * n).expand(-1, ecg.shape[1], -1)
    beats = ecg.gather(2, at).reshape(b, ecg.shape[1], m, n)
    whole = observed.all(1).gather(1, window.reshape(b, m * n)).reshape(b, m, n)
    counts = peaks.real & (inside & whole).all(-1)  # (B, M)
    number = counts.sum(1)
    total = (beats * counts[:, None, :, None]).sum(2)
    return total / number.clamp(min=1)[:, None, None], number > 0


class BeatDecoder(nn.Module):
    """Latents (B, C, steps) -> the mean beat (B, L, N) of their ECG: residual blocks, pooling over time, a linear map."""

    def __init__(self, latent: int, width: int, n_leads: int, n_samples: int) -> None:
        super().__init__()
        self.shape = (n_leads, n_samples)
        self.blocks = nn.Sequential(
            nn.Conv1d(latent, width, 7, padding=3), *(ResidualBlock(width, width) for _ in range(3))
        )
        self.beat = nn.Linear(2 * width, n_leads * n_samples)
        with torch.no_grad():  # the first beats are flat: random ones would be far from any beat
            self.beat.weight.mul_(0.1)
            self.beat.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        features = self.blocks(z)
        pooled = torch.cat([features.mean(-1), features.amax(-1)], dim=1)
        out: Tensor = self.beat(F.silu(pooled)).reshape(-1, *self.shape)
        return out


class EcgLatents(nn.Module):
    """The autoencoder and the beat decoder, and mean and variance of each latent channel, by which generators scale them."""

    center: Tensor
    variance: Tensor

    def __init__(self, n_leads: int, rate_hz: float, widths: Sequence[int], latent: int, beat_width: int) -> None:
        super().__init__()
        self.vae = EcgVae(n_leads, n_leads, widths, latent)
        self.beat = BeatDecoder(latent, beat_width, n_leads, beat_samples(rate_hz))
        self.width = widths[-1]
        self.register_buffer("center", torch.zeros(latent))
        self.register_buffer("variance", torch.zeros(latent))  # 0: not known yet, counts as 1

    @torch.no_grad()
    def update_scale(self, z: Tensor) -> None:
        """Move the running mean and variance towards those of latents (B, C, steps); the first time, set them."""
        variance, center = torch.var_mean(z, dim=(0, 2), correction=0)
        share = torch.where((self.variance == 0).all(), 1.0, _MOMENTUM)
        self.center.lerp_(center, share)
        self.variance.lerp_(variance, share)

    def scale(self, z: Tensor) -> Tensor:
        """Return latents with mean 0 and variance 1 in each channel."""
        return (z - self.center[:, None]) / self._deviation

    def unscale(self, z: Tensor) -> Tensor:
        """Return the inverse of `scale`."""
        return z * self._deviation + self.center[:, None]

    @property
    def _deviation(self) -> Tensor:
        return torch.where(self.variance > 0, self.variance, 1.0).sqrt()[:, None]
