"""Losses of probabilistic embeddings: a record is a Gaussian with a mean and a variance for each dimension.

PCME++ (Chun, arXiv 2305.18171, ICLR 2024), as EchoingECG (arXiv 2509.25791) uses it. `log_variance` is s: the variance is e^s.
`local_rows` are the rows of this process among those of all processes: the mean of all processes' values is the value of the
whole batch.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.losses.anchors import mean_over_present

Balance = Literal["pairs", "equal"]


def distances(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """d_ij = |mu_i - mu_j|^2 + sum(e^s_i + e^s_j): the expected squared distance of two Gaussians, (A, B), in float32.

    mean, log_variance: (A, D); other_mean, other_log_variance: (B, D).
    """
    with torch.autocast(mean.device.type, enabled=False):
        mean, other_mean = mean.float(), other_mean.float()
        squares = mean.square().sum(-1)[:, None] + other_mean.square().sum(-1)[None] - 2 * mean @ other_mean.T
        return squares.clamp(min=0.0) + variance(log_variance)[:, None] + variance(other_log_variance)[None]


def variance(log_variance: Tensor) -> Tensor:
    """The total variance of each record, sum(e^s) over D: (B, D) -> (B,)."""
    return log_variance.float().exp().sum(-1)


def matching(
    distance: Tensor,
    match: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    balance: Balance = "pairs",
    counted: Tensor | None = None,
    local_rows: slice = slice(None),
) -> Tensor:
    """Binary cross-entropy of logit_ij = -scale * d_ij + bias against `match`, over all pairs i, j.

    Args:
        distance: (B, B) of `distances`.
        match: (B, B) bool.
        scale, bias: a and b of the logit.
        balance: "pairs": the mean over pairs, so that matches are 1/B of the loss (the paper). "equal": the mean over matches
            and the mean over the other pairs, averaged.
        counted: (B, B) bool, pairs that count; None: all. A row without such a pair is left out of the mean over rows.
        local_rows: the rows of this process.
    """
    logits = -scale * distance + bias
    counted = torch.ones_like(match) if counted is None else counted
    loss = F.binary_cross_entropy_with_logits(logits, match.to(logits.dtype), reduction="none")
    if balance == "pairs":
        rows = _row_means(loss, counted)
    else:
        rows = (_row_means(loss, counted & match) + _row_means(loss, counted & ~match)) / 2
    return mean_over_present(rows, counted.any(1), local_rows)


def pseudo_matches(distance: Tensor, match: Tensor) -> Tensor:
    """Return which pairs (B, B) are at least as near as a record's own pair: d_ij <= d_ii. `match` pairs always count."""
    return match | (distance <= distance.diagonal()[:, None])


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, e^s) || N(0, 1)), summed over D, mean over records. mean, log_variance: (B, D)."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(-1).mean()


def _row_means(loss: Tensor, counted: Tensor) -> Tensor:
    """The means (B,) over the counted pairs of each row (B, B); 0 for a row without one."""
    return (loss * counted).sum(1) / counted.sum(1).clamp(min=1)
