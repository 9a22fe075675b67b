"""A recording cut in pieces, and the pieces in another order."""

from __future__ import annotations

import torch
from torch import Tensor


def permute(ecg: Tensor, observed: Tensor, most: int, grid: int = 1) -> tuple[Tensor, Tensor]:
    """Each record cut in 1 to `most` pieces, put together in a random order, the same for all of its leads.

    ecg: (B, L, T); observed: (B, L, T) bool. Cuts lie at multiples of `grid`, so that whole patches stay whole.
    """
    order = piece_order(len(ecg), ecg.shape[-1] // grid, most, ecg.device)  # (B, N)
    index = order[..., None] * grid + torch.arange(grid, device=ecg.device)
    index = index.flatten(1)[:, None].expand(-1, ecg.shape[1], -1)  # (B, L, T)
    return ecg.gather(2, index), observed.gather(2, index)


def piece_order(n: int, length: int, most: int, device: torch.device) -> Tensor:
    """(n, length) int64: numbers 0 to length - 1, cut in 1 to `most` pieces in each row, the pieces shuffled."""
    n_cuts = torch.randint(most, (n, 1), device=device)
    where = torch.rand(n, length, device=device)
    where[:, 0] = 2.0  # before the first there is nothing to cut off
    rank = where.argsort(1).argsort(1)
    piece = (rank < n_cuts.clamp(max=length - 1)).long().cumsum(1)  # (n, length) number of the piece a place is in
    key = torch.rand(n, most, device=device).gather(1, piece)
    return key.argsort(dim=1, stable=True)
