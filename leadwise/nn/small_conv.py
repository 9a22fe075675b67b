"""A small convolutional encoder: stages of convolution, batch norm, ReLU, max-pooling by two, and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from leadwise.nn.batch_norm import BatchNorm


class SmallConv(nn.Module):
    """(B, L, T) -> (B, D, N), D = widths[-1]. Each stage divides the number of positions by 2 x stride, rounding up."""

    def __init__(self, n_leads: int, widths: Sequence[int], kernel: int, stride: int, dropout: Sequence[float]) -> None:
        super().__init__()
        self.width = widths[-1]
        layers: list[nn.Module] = []
        for (before, after), chance in zip(pairwise((n_leads, *widths)), dropout):
            layers += [
                nn.Conv1d(before, after, kernel, stride, padding=kernel // 2, bias=False), BatchNorm(after), nn.ReLU(),
                nn.MaxPool1d(2, ceil_mode=True), nn.Dropout(chance),
            ]  # fmt: skip
        self.layers = nn.Sequential(*layers)

    def forward(self, ecg: Tensor) -> Tensor:
        """ecg: (B, L, T), normalised -> (B, D, N)."""
        out: Tensor = self.layers(ecg)
        return out

    @torch.no_grad()
    def n_positions(self, n_samples: int) -> int:
        """Number of output positions for `n_samples`."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv1d):
                (kernel,), (stride,) = layer.kernel_size, layer.stride
                n_samples = (n_samples + 2 * (kernel // 2) - kernel) // stride + 1
            elif isinstance(layer, nn.MaxPool1d):
                n_samples = -(-n_samples // 2)
        return n_samples
