"""A variational autoencoder of ECGs in one dimension: convolutions over time, one attention block in the middle.

The shape is WearECG's (arXiv 2510; widths 128-256-512-512, 4 latent channels, time divided by 8): residual blocks with group
norm and SiLU, a stride of two between two widths, mean and log-variance of each latent, and a mirrored decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_VARIANCE_RANGE = (-20.0, 10.0)  # outside, exp(log_variance) is of no use in float32


class EcgVae(nn.Module):
    """ECGs (B, n_in, S) -> mean and log-variance (B, latent, S / stride) -> (B, n_out, S).

    `widths` are the channels of the stages, finest first; time is divided by two between two stages, so that `stride` is
    2 ** (len(widths) - 1): 8 with four widths. `n_condition` channels of samples can enter the last stage of the decoder.

    Raises:
        ValueError: fewer than two widths, or a size below 1.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        widths: Sequence[int] = (128, 256, 512, 512),
        latent: int = 4,
        heads: int = 1,
        n_condition: int = 0,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(*widths, n_in, n_out, latent) < 1:
            raise ValueError(
                f"widths = {tuple(widths)}, n_in = {n_in}, n_out = {n_out}, latent = {latent}: "
                "give at least two widths, and sizes of at least 1"
            )
        if widths[-1] % heads:
            raise ValueError(
                f"heads = {heads} does not divide the last of widths = {tuple(widths)}; set another number"
            )
        self.latent, self.n_condition = latent, n_condition
        self.stride: int = 2 ** (len(widths) - 1)

        # encoder: one residual block per width, halved in between; the attention block at the coarsest time
        down: list[nn.Module] = [nn.Conv1d(n_in, widths[0], 7, padding=3), ResidualBlock(widths[0], widths[0])]
        for before, after in pairwise(widths):
            down += [nn.Conv1d(before, before, 3, stride=2, padding=1), ResidualBlock(before, after)]
        self.encoder = nn.Sequential(*down, *_middle(widths[-1], heads), _norm(widths[-1]), nn.SiLU())
        self.to_latent = nn.Conv1d(widths[-1], 2 * latent, 3, padding=1)

        # decoder: the mirror image
        up: list[nn.Module] = [nn.Conv1d(latent, widths[-1], 3, padding=1), *_middle(widths[-1], heads)]
        for before, after in pairwise(reversed(widths)):
            up += [ResidualBlock(before, after), Doubled(after)]
        self.decoder = nn.Sequential(*up)
        self.last = nn.Sequential(
            ResidualBlock(widths[0] + n_condition, widths[0]),
            _norm(widths[0]),
            nn.SiLU(),
            nn.Conv1d(widths[0], n_out, 7, padding=3),
        )

    def n_steps(self, n_samples: int) -> int:
        """The number of latent steps of `n_samples`: their number divided by the stride, rounded up."""
        return -(-n_samples // self.stride)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, latent, S / stride) of x (B, n_in, S).

        An x whose length is not a multiple of the stride is padded at its end with its last sample; `decode` removes the
        padding if it receives `n_samples`.
        """
        mean, log_variance = self.to_latent(self.features(x)).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def features(self, x: Tensor) -> Tensor:
        """What mean and log-variance are computed from, (B, widths[-1], S / stride), of x (B, n_in, S)."""
        padding = -x.shape[-1] % self.stride
        out: Tensor = self.encoder(F.pad(x, (0, padding), mode="replicate") if padding else x)
        return out

    def decode(self, z: Tensor, n_samples: int | None = None, condition: Tensor | None = None) -> Tensor:
        """ECGs (B, n_out, S) of latents (B, latent, S / stride).

        n_samples: the length S, of at most stride x steps and more than one stride less; default: stride x steps.
        condition: (B, n_condition, S), samples that the last stage reads beside the decoded features.

        Raises:
            ValueError: a length that `z` does not have, or a condition that does not fit.
        """
        longest = self.stride * z.shape[-1]
        n_samples = longest if n_samples is None else n_samples
        if self.n_steps(n_samples) != z.shape[-1]:
            raise ValueError(
                f"n_samples = {n_samples} has {self.n_steps(n_samples)} latent steps, but z has {z.shape[-1]}; "
                f"give a length from {longest - self.stride + 1} to {longest}"
            )
        x: Tensor = self.decoder(z)
        if self.n_condition:
            if condition is None or condition.shape[1:] != (self.n_condition, n_samples):
                given = "no condition" if condition is None else f"condition {tuple(condition.shape)}"
                raise ValueError(f"{given}: this decoder needs condition (B, {self.n_condition}, {n_samples})")
            padded = F.pad(condition, (0, longest - n_samples), mode="replicate") if longest > n_samples else condition
            x = torch.cat([x, padded], dim=1)
        out: Tensor = self.last(x)[..., :n_samples]
        return out


def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A draw from the Gaussian of `mean` and `log_variance`, through which gradients flow. Random numbers are from the host."""
    noise = torch.randn(mean.shape, dtype=mean.dtype).to(mean.device)
    return mean + noise * (0.5 * log_variance).exp()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), summed over channels, as the mean over records and steps. Both: (B, C, S)."""
    each = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
    return each.sum(1).mean()


class ResidualBlock(nn.Module):
    """Two convolutions of three samples, each after group norm and SiLU, beside a shortcut: (B, C, S) -> (B, width, S)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(width_in), nn.SiLU(), nn.Conv1d(width_in, width, 3, padding=1))
        self.second = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv1d(width, width, 3, padding=1))
        self.shortcut: nn.Module = nn.Identity() if width_in == width else nn.Conv1d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x)) + self.shortcut(x)
        return out


class TimeAttention(nn.Module):
    """Self-attention over time after a group norm, beside a shortcut: (B, C, S) -> (B, C, S)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(width)
        self.enter = nn.Conv1d(width, 3 * width, 1)
        self.leave = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, width, steps = x.shape
        query, key, value = self.enter(self.norm(x)).reshape(b, 3, self.heads, width // self.heads, steps).mT.unbind(1)
        mixed = F.scaled_dot_product_attention(query, key, value)  # (B, heads, S, C / heads)
        out: Tensor = x + self.leave(mixed.mT.reshape(b, width, steps))
        return out


class Doubled(nn.Module):
    """Time repeated twice, then a convolution: (B, C, S) -> (B, C, 2 S). A transposed convolution would leave a pattern."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.repeat_interleave(2, dim=-1))
        return out


def _middle(width: int, heads: int) -> list[nn.Module]:
    return [ResidualBlock(width, width), TimeAttention(width, heads), ResidualBlock(width, width)]


def _norm(width: int) -> nn.GroupNorm:
    """Group norm with the largest number of groups up to 8 that divides the width."""
    return nn.GroupNorm(next(n for n in (8, 4, 2, 1) if width % n == 0), width)
