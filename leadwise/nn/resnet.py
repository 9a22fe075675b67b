"""ResNet18 in one dimension (He et al. 2015, arXiv 1512.03385); the first convolution mixes all leads.

There is no max-pooling after the first convolution: time is halved four times, so that 10 s at 500 Hz give 313 positions of
32 ms.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.nn.batch_norm import BatchNorm

STRIDES = (1, 2, 2, 2)  # one per stage


class BasicBlock(nn.Module):
    """Residual block: two convolutions of three samples with batch norm, and a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width_in, width, 3, stride, padding=1, bias=False)
        self.first_norm = BatchNorm(width)
        self.second = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.second_norm = BatchNorm(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv1d(width_in, width, 1, stride, bias=False), BatchNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, T) -> (B, width, T / stride)."""
        out = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """(B, L, T) -> (B, 8 base, T / 16). `base` is the number of channels of the first of four stages; each stage doubles it."""

    def __init__(self, n_leads: int, base: int = 64) -> None:
        super().__init__()
        self.width = 8 * base
        self.first = nn.Conv1d(n_leads, base, 7, stride=2, padding=3, bias=False)
        self.norm = BatchNorm(base)
        blocks: list[nn.Module] = []
        width = base
        for number, stride in enumerate(STRIDES):
            wider = base * 2**number
            blocks += [BasicBlock(width, wider, stride), BasicBlock(wider, wider, 1)]
            width = wider
        self.blocks = nn.Sequential(*blocks)

    @staticmethod
    def n_positions(n_samples: int) -> int:
        """Number of output positions for `n_samples`; each halving rounds up."""
        for stride in (2, *STRIDES):
            n_samples = -(-n_samples // stride)
        return n_samples

    def forward(self, ecg: Tensor) -> Tensor:
        """ecg: (B, L, T), normalised -> (B, 8 base, N)."""
        out: Tensor = self.blocks(F.relu(self.norm(self.first(ecg))))
        return out
