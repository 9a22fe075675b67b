"""A U-Net over time for latents of ECGs, with a vector and a set of tokens as conditions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.nn.flow import time_features
from leadwise.nn.transformer import Block, CrossBlock


class UNet1d(nn.Module):
    """(B, C, N) -> (B, C, N), given a vector (B, E) and tokens (B, M, D); N is any length.

    Each level has a residual block whose scale and shift depend on the vector. All levels but the finest also have
    self-attention over time and cross-attention to the tokens. Time is divided by two between the levels.

    Raises:
        ValueError: fewer than two levels, or a width that is not a multiple of the heads or of 4.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], kernel: int, vector_width: int, token_width: int, heads: int
    ) -> None:
        super().__init__()
        if len(widths) < 2 or any(width % heads or width % 4 for width in widths):
            raise ValueError(
                f"unet_widths = {tuple(widths)}: give two or more widths that are multiples of 4 and of heads = {heads}"
            )
        first, last = widths[0], widths[-1]
        self.enter = nn.Conv1d(channels, first, kernel, padding=kernel // 2)
        self.down, self.halve, self.up, self.merge = (nn.ModuleList() for _ in range(4))
        before = first
        for number, width in enumerate(widths):
            self.down.append(_Level(before, width, kernel, vector_width, token_width, heads, attends=number > 0))
            self.halve.append(nn.Conv1d(width, width, 3, 2, 1) if number + 1 < len(widths) else nn.Identity())
            before = width
        self.middle = _Level(last, last, kernel, vector_width, token_width, heads, attends=True)
        for number, width in reversed(list(enumerate(widths))):
            self.up.append(_Level(before + width, width, kernel, vector_width, token_width, heads, attends=number > 0))
            self.merge.append(nn.Conv1d(width, width, 3, padding=1) if number else nn.Identity())
            before = width
        last_conv = nn.Conv1d(first, channels, kernel, padding=kernel // 2)
        with torch.no_grad():  # the first estimates are near 0
            last_conv.weight.mul_(0.1)
        self.leave = nn.Sequential(_norm(first), nn.SiLU(), last_conv)

    def forward(self, x: Tensor, vector: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
        """real: (B, M) bool, False for tokens that are not read."""
        # positions, which convolutions know only near the edges: without them attention could not measure distances
        n = x.shape[-1]
        h = self.enter(x)
        h = h + time_features(torch.arange(n, device=x.device) / n, h.shape[1], fastest=float(n)).T.to(h)

        # down, and up with what each level had
        levels: list[Tensor] = []
        for level, halve in zip(self.down, self.halve):
            h = level(h, vector, tokens, real)
            levels.append(h)
            h = halve(h)
        h = self.middle(h, vector, tokens, real)
        for level, merge in zip(self.up, self.merge):
            h = level(torch.cat([h, levels.pop()], dim=1), vector, tokens, real)
            if levels:  # to the length of the next finer level, which may be odd
                h = merge(h.repeat_interleave(2, dim=-1)[..., : levels[-1].shape[-1]])
        out: Tensor = self.leave(h)
        return out


class _Level(nn.Module):
    """A residual block, and attention if it `attends`."""

    def __init__(
        self, width_in: int, width: int, kernel: int, vector_width: int, token_width: int, heads: int, attends: bool
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(width_in), nn.SiLU(), nn.Conv1d(width_in, width, kernel, padding=kernel // 2))
        self.modulate = nn.Linear(vector_width, 2 * width)
        self.norm = _norm(width)
        self.second = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.shortcut: nn.Module = nn.Identity() if width_in == width else nn.Conv1d(width_in, width, 1)
        self.over_time = Block(width, heads, 2.0) if attends else None
        self.tokens = nn.Linear(token_width, width) if attends else None
        self.over_tokens = CrossBlock(width, heads, 2.0) if attends else None

    def forward(self, x: Tensor, vector: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
        scale, shift = self.modulate(F.silu(vector))[..., None].chunk(2, dim=1)
        h: Tensor = self.second(F.silu(self.norm(self.first(x)) * (1 + scale) + shift))
        h = h + self.shortcut(x)
        if self.over_time is None or self.tokens is None or self.over_tokens is None:
            return h
        h = self.over_tokens(self.over_time(h.mT), self.tokens(tokens), real)
        return h.mT


def _norm(width: int) -> nn.GroupNorm:
    """Group norm with the largest number of groups up to 8 that divides the width."""
    return nn.GroupNorm(next(n for n in (8, 4, 2, 1) if width % n == 0), width)
