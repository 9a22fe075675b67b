"""From an encoder's output to a vector in a space of its own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.transformer import Attention


class Head(nn.Sequential):
    """An MLP of `depth` linear layers; GELU and a norm between them."""

    def __init__(self, width: int, out: int, depth: int, norm: Literal["layer", "batch"]) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.GELU(), BatchNorm(width) if norm == "batch" else nn.LayerNorm(width)]
        super().__init__(*layers, nn.Linear(width, out))


class AttentionPool(nn.Module):
    """A feature map to one vector: a learnable token asks all positions and itself, then one linear map."""

    def __init__(self, width: int, n_positions: int, heads: int, out: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, n_positions + 1, width) / width)
        self.attention = Attention(width, heads)
        self.project = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N) -> (B, out)."""
        tokens = (
            torch.cat([self.token.expand(len(x), -1, -1), x.transpose(1, 2)], dim=1) + self.position
        )  # (B, 1 + N, D)
        out: Tensor = self.project(self.attention(tokens[:, :1], tokens)[:, 0])
        return out
