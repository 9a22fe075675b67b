"""The sine-cosine positions of Transformers (Vaswani et al. 2017), which published checkpoints contain."""

from __future__ import annotations

import torch
from torch import Tensor


def sine_positions(place: Tensor, width: int) -> Tensor:
    """Return the positions (n, width) of the places (n,): sines, then cosines, with periods from 2 pi to 20,000 pi."""
    angle = place[:, None] / 10000 ** (torch.arange(width // 2) / (width // 2))
    return torch.cat([angle.sin(), angle.cos()], dim=1)
