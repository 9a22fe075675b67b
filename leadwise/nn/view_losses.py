"""Losses of two views, one function each. Rows i of both are views of one record, (B, D).

A term over pairs takes the rows of all processes, and in `mine` the rows for which this process answers, as in `losses`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e30  # a logit that weighs nothing


def nt_xent(a: Tensor, b: Tensor, temperature: float, mine: slice = slice(None)) -> Tensor:
    """SimCLR's normalised cross-entropy: of 2B views, each must find the other of its record among all but itself.

    -log exp(cos(z_i, z_i') / t) / sum_{k != i} exp(cos(z_i, z_k) / t), mean over both views of the records in `mine`.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    own = torch.arange(len(a), device=a.device)[mine]

    def one_way(anchors: Tensor, others: Tensor) -> Tensor:
        anchor = anchors[mine]
        across = anchor @ others.T / temperature  # (b, B)
        within = anchor @ anchors.T / temperature
        within = within.scatter(1, own[:, None], NEVER)
        return F.cross_entropy(torch.cat([across, within], dim=1), own)

    return (one_way(a, b) + one_way(b, a)) / 2
