"""A variational autoencoder of heart images: all phases and slices of a heart in, one latent vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.nn.volume_encoder import ChannelNorm


class VolumeVae(nn.Module):
    """Heart images (B, P, D, H, W) -> mean and log-variance (B, latent) -> (B, P, D, H, W).

    Phases and slices are the channels of one image plane. Each of `widths` halves the plane by a convolution; the decoder is the
    mirror image, whose last step writes four pixels for each position.

    Raises:
        ValueError: no width, or a size below 1.
    """

    def __init__(self, shape: tuple[int, int, int, int], widths: Sequence[int], latent: int) -> None:
        super().__init__()
        if not widths or min(*widths, latent) < 1:
            raise ValueError(
                f"image_widths = {list(widths)}, latent = {latent}: must be one or more sizes of 1 or more"
            )
        self.shape, n_channels = shape, shape[0] * shape[1]
        self.planes = [(shape[2], shape[3])]  # size of the plane before each width, and behind the last
        for _ in widths:
            self.planes.append(((self.planes[-1][0] + 1) // 2, (self.planes[-1][1] + 1) // 2))
        n_flat = widths[-1] * self.planes[-1][0] * self.planes[-1][1]
        self.down = nn.Sequential(*(_block(a, b, stride=2) for a, b in pairwise((n_channels, *widths))))
        self.to_latent = nn.Linear(n_flat, 2 * latent)
        self.from_latent = nn.Linear(latent, n_flat)
        self.up = nn.ModuleList(_block(a, b) for a, b in pairwise(reversed(widths)))
        self.to_pixels = nn.Conv2d(widths[0], 4 * n_channels, 3, padding=1)

    def encode(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, D, H, W) -> mean and log-variance (B, latent); an absent phase is 0."""
        mean, log_variance = self.to_latent(self.down(volume.flatten(1, 2)).flatten(1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, P, D, H, W)."""
        h = F.gelu(self.from_latent(z)).reshape(len(z), -1, *self.planes[-1])
        for block, plane in zip(self.up, reversed(self.planes[1:-1])):
            h = block(F.interpolate(h, size=plane, mode="nearest"))
        pixels = F.pixel_shuffle(self.to_pixels(h), 2)[..., : self.shape[2], : self.shape[3]]
        return pixels.reshape(len(z), *self.shape)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) of each row, (B, Z) -> (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def draw_latent(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return one draw (B, Z) of N(mean, exp(log_variance)) with a gradient."""
    return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def _block(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=stride, padding=1), ChannelNorm(after), nn.GELU())
