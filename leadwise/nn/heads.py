"""From a pooled vector to a space of its own."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from leadwise import ranks


class Head(nn.Sequential):
    """An MLP of `depth` linear layers; GELU and a norm between them."""

    def __init__(self, width: int, out: int, depth: int, norm: Literal["layer", "batch"]) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.GELU(), BatchNorm(width) if norm == "batch" else nn.LayerNorm(width)]
        super().__init__(*layers, nn.Linear(width, out))


class BatchNorm(nn.BatchNorm1d):
    """Batch norm by the statistics of every process's rows: what one process would do with the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D) -> (B, D)."""
        if not self.training:
            return super().forward(x)
        every = ranks.gather(x)  # (n_ranks B, D)
        return super().forward(every)[ranks.mine(len(every))]
