"""The velocity of a flow between vectors: a residual network that depends on the time and on a condition."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.nn.flow import time_features

_TIME_WIDTH = 64


class VectorVelocity(nn.Module):
    """Velocity (B, Z) at points (B, Z), times (B,) in [0, 1] and conditions (B, C).

    Time and condition scale, shift and weight each of the `depth` layers (adaLN, Peebles and Xie 2022, arXiv 2212.09748). A
    condition that is dropped is 0 behind its norm and its linear map, so that the layers depend on the time alone.
    """

    def __init__(self, n_target: int, n_condition: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(n_target, width)
        self.time = nn.Sequential(nn.Linear(_TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Sequential(nn.LayerNorm(n_condition), nn.Linear(n_condition, width, bias=False))
        self.layers = nn.ModuleList(_Layer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, n_target)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, retained: Tensor) -> Tensor:
        """x: (B, Z), t: (B,), condition: (B, C), retained: (B,) bool, False where the condition is dropped. Returns (B, Z)."""
        context = self.time(time_features(t, _TIME_WIDTH)) + self.condition(condition) * retained[:, None]
        context, h = F.silu(context), self.enter(x)
        for layer in self.layers:
            h = layer(h, context)
        out: Tensor = self.out(self.norm(h))
        return out


class _Layer(nn.Module):
    """Residual network of one hidden layer behind a norm that the context (B, D) scales and shifts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.feed = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(context).chunk(3, dim=-1)
        out: Tensor = h + gate * self.feed(self.norm(h) * (1 + scale) + shift)
        return out
