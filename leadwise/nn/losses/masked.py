"""Losses of methods that hide part of a recording and fill it in: pure functions, means over records."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(prediction: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Squared error over the numbers of each record that count, shown or hidden, then over records.

    prediction, target: (B, ...); counts: the same shape, bool. A record of which nothing counts adds nothing, and counts as a
    record: so the mean over shares of a batch is the mean over the batch.
    """
    error = ((prediction - target).square() * counts).flatten(1).sum(1)  # (B,)
    return (error / counts.flatten(1).sum(1).clamp(min=1)).mean()


def instance_discrimination(before: Tensor, after: Tensor, real: Tensor | None = None) -> Tensor:
    """L_IDC of CRT: log of the sum over i != j of exp(cos(before_i, after_j)), i and j tokens of a record; mean over records.

    before, after: (B, S, D), a record's tokens before and after the Transformer; real: (B, S) bool, False = a filler.
    Of a record with less than two tokens there is nothing to tell apart, and its term is 0.
    """
    cosine = F.normalize(before.float(), dim=-1) @ F.normalize(after.float(), dim=-1).transpose(1, 2)  # (B, S, S)
    pairs = ~torch.eye(cosine.shape[1], dtype=torch.bool, device=cosine.device).expand_as(cosine)
    if real is not None:
        pairs = pairs & real[:, :, None] & real[:, None, :]
    there = pairs.flatten(1).any(1)
    shown = cosine.exp().masked_fill(~pairs, 0.0).flatten(1).sum(1)  # a cosine is no more than 1: nothing overflows
    return torch.where(there, shown, 1.0).log().mean()
