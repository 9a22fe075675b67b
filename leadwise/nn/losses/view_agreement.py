"""Losses that compare two views of each record: row i of both (B, D) inputs is a view of record i.

`local_rows` are the rows of this process among those of all processes, as in `losses.multimodal`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.losses.logits import MASKED_LOGIT


def nt_xent(a: Tensor, b: Tensor, temperature: float, local_rows: slice = slice(None)) -> Tensor:
    """SimCLR's NT-Xent: each of 2B views must identify the other view of its record among all other views.

    -log exp(cos(z_i, z_i') / t) / sum_{k != i} exp(cos(z_i, z_k) / t), mean over both views of the records in `local_rows`.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    own = torch.arange(len(a), device=a.device)[local_rows]

    def one_way(anchors: Tensor, others: Tensor) -> Tensor:
        anchor = anchors[local_rows]
        across = anchor @ others.T / temperature  # (b, B)
        within = anchor @ anchors.T / temperature
        within = within.scatter(1, own[:, None], MASKED_LOGIT)
        return F.cross_entropy(torch.cat([across, within], dim=1), own)

    return (one_way(a, b) + one_way(b, a)) / 2


def bootstrap(prediction: Tensor, target: Tensor) -> Tensor:
    """BYOL's Eq. 2: squared distance of unit vectors, 2 - 2 cos(q, z'), mean over B. No gradient reaches the target."""
    return 2 + 2 * negative_cosine(prediction, target)


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """SimSiam's Eqs. 1 and 3: -cos(p, stop(z)), mean over B."""
    return -F.cosine_similarity(prediction, target.detach(), dim=-1).mean()


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Barlow Twins' Eq. 2: (D, D) correlations over the batch between the features of two views."""
    a, b = F.normalize(a - a.mean(0), dim=0), F.normalize(b - b.mean(0), dim=0)
    return a.T @ b


def redundancy(correlation: Tensor, off_diagonal: float) -> Tensor:
    """Barlow Twins' Eq. 1: sum_i (1 - C_ii)^2 + off_diagonal x sum_{i != j} C_ij^2."""
    diagonal = correlation.diagonal()
    return (1 - diagonal).square().sum() + off_diagonal * (correlation.square().sum() - diagonal.square().sum())


def momentum_nce(query: Tensor, keys: Tensor, temperature: float, local_rows: slice = slice(None)) -> Tensor:
    """MoCo v3's Eq. 1 times 2 t, as in its code: -2 t log exp(cos(q, k+) / t) / sum_k exp(cos(q, k) / t), mean over queries.

    query: (b, D) of this process; keys: (B, D) of all processes, those of this process at `local_rows`. The factor makes the size
    of the gradient independent of the temperature. No gradient reaches the keys.
    """
    logits = F.normalize(query, dim=-1) @ F.normalize(keys.detach(), dim=-1).T / temperature  # (b, B)
    own = torch.arange(len(keys), device=keys.device)[local_rows]
    return 2 * temperature * F.cross_entropy(logits, own)
