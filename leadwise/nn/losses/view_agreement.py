"""Losses of two views, one function each. Rows i of both are views of one record, (B, D).

A term over pairs takes the rows of all processes, and in `local_rows` the rows for which this process answers, as in `losses`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.losses.logits import MASKED_LOGIT


def nt_xent(a: Tensor, b: Tensor, temperature: float, local_rows: slice = slice(None)) -> Tensor:
    """SimCLR's normalised cross-entropy: of 2B views, each must find the other of its record among all but itself.

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
    """BYOL's Eq. 2: squared distance of unit vectors, 2 - 2 cos(q, z'), mean over B. No gradient goes to the target."""
    return 2 + 2 * negative_cosine(prediction, target)


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """SimSiam's Eqs. 1 and 3: -cos(p, stop(z)), mean over B."""
    return -F.cosine_similarity(prediction, target.detach(), dim=-1).mean()


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Barlow Twins' Eq. 2, (D, D): the correlation over the batch of every feature of one view with every one of the other."""
    a, b = F.normalize(a - a.mean(0), dim=0), F.normalize(b - b.mean(0), dim=0)
    return a.T @ b


def redundancy(correlation: Tensor, off_diagonal: float) -> Tensor:
    """Barlow Twins' Eq. 1: sum_i (1 - C_ii)^2 + off_diagonal x sum_{i != j} C_ij^2."""
    diagonal = correlation.diagonal()
    return (1 - diagonal).square().sum() + off_diagonal * (correlation.square().sum() - diagonal.square().sum())


def momentum_nce(query: Tensor, keys: Tensor, temperature: float, local_rows: slice = slice(None)) -> Tensor:
    """MoCo v3's Eq. 1 times 2 t, as in its code: -2 t log exp(cos(q, k+) / t) / sum_k exp(cos(q, k) / t), mean over queries.

    `query` (b, D) are this process's own, `keys` (B, D) those of all processes; its own stand at `local_rows`. The factor keeps
    the gradient's size whatever the temperature. No gradient goes to the keys.
    """
    logits = F.normalize(query, dim=-1) @ F.normalize(keys.detach(), dim=-1).T / temperature  # (b, B)
    own = torch.arange(len(keys), device=keys.device)[local_rows]
    return 2 * temperature * F.cross_entropy(logits, own)
