"""Losses of masked autoencoders and of CRT: pure functions, averaged over records."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(prediction: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Mean squared error over the selected elements of each record, then over records.

    prediction, target: (B, ...); counts: bool of the same shape, True = selected. A record without a selected element adds 0
    and still counts in the mean, so that the mean over equal parts of a batch equals the mean over the batch.
    """
    error = ((prediction - target).square() * counts).flatten(1).sum(1)  # (B,)
    return (error / counts.flatten(1).sum(1).clamp(min=1)).mean()


def latent_prediction(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """ECG-JEPA's loss: smooth L1 distance (d^2 / 2 below 1, |d| - 1/2 above) at hidden patches, mean over D, patches and records.

    prediction, target: (B, L, N, D); hidden: (B, L, N) bool. A record without a hidden patch adds 0 and still counts.
    """
    distance = F.smooth_l1_loss(prediction, target, reduction="none").mean(-1)  # (B, L, N)
    total = torch.where(hidden, distance, 0.0).sum((1, 2))
    return (total / hidden.sum((1, 2)).clamp(min=1)).mean()


def instance_discrimination(before: Tensor, after: Tensor, real: Tensor | None = None) -> Tensor:
    """L_IDC of CRT: log of the sum over i != j of exp(cos(before_i, after_j)), i and j tokens of a record; mean over records.

    before, after: (B, S, D), a record's tokens before and after the Transformer; real: (B, S) bool, False = padding.
    The term of a record with fewer than two tokens is 0.
    """
    cosine = F.normalize(before.float(), dim=-1) @ F.normalize(after.float(), dim=-1).transpose(1, 2)  # (B, S, S)
    pairs = ~torch.eye(cosine.shape[1], dtype=torch.bool, device=cosine.device).expand_as(cosine)
    if real is not None:
        pairs = pairs & real[:, :, None] & real[:, None, :]
    has_pairs = pairs.flatten(1).any(1)
    total = cosine.exp().masked_fill(~pairs, 0.0).flatten(1).sum(1)  # a cosine is no more than 1: nothing overflows
    return torch.where(has_pairs, total, 1.0).log().mean()
