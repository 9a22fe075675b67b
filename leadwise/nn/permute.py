"""Permutation augmentation: a recording is cut into segments that are put in random order."""

from __future__ import annotations

import torch
from torch import Tensor


def permute(ecg: Tensor, observed: Tensor, most: int, grid: int = 1) -> tuple[Tensor, Tensor]:
    """Cut each record into 1 to `most` segments and shuffle them, all leads of a record alike.

    ecg: (B, L, T); observed: (B, L, T) bool. Cuts are at multiples of `grid`, so that patches stay whole.
    """
    order = piece_order(len(ecg), ecg.shape[-1] // grid, most, ecg.device)  # (B, N)
    index = order[..., None] * grid + torch.arange(grid, device=ecg.device)
    index = index.flatten(1)[:, None].expand(-1, ecg.shape[1], -1)  # (B, L, T)
    return ecg.gather(2, index), observed.gather(2, index)


def piece_order(n: int, length: int, most: int, device: torch.device) -> Tensor:
    """Shuffled positions (n, length) int64: each row is 0 to length - 1, cut into 1 to `most` segments in random order."""
    n_cuts = torch.randint(most, (n, 1), device=device)
    where = torch.rand(n, length, device=device)
    where[:, 0] = 2.0  # no cut before the first position
    rank = where.argsort(1).argsort(1)
    segment = (rank < n_cuts.clamp(max=length - 1)).long().cumsum(1)  # (n, length) segment of each position
    key = torch.rand(n, most, device=device).gather(1, segment)
    return key.argsort(dim=1, stable=True)
