"""Losses of views that are parts of one series: what comes later, another stretch, another lead, another day.

A term over pairs takes the rows of all processes, and in `local_rows` the rows for which this process answers, as in `losses`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.losses.logits import MASKED_LOGIT


def future_contrast(predicted: Tensor, future: Tensor, seen: Tensor, local_rows: slice = slice(None)) -> Tensor:
    """TS-TCC's temporal contrast, one direction (Eqs. 1 and 2): of all records, each prediction must find its own future.

    -log exp(p_ik . z_ik) / sum_j exp(p_ik . z_jk), mean over the k steps ahead and the records in `local_rows`.
    predicted, future: (B, K, D); seen: (B,) bool, records of which there is a future. The others add nothing, and count.
    """
    logits = torch.einsum("ikd,jkd->ikj", predicted[local_rows], future)  # (b, K, B)
    logits = logits.masked_fill(~seen, MASKED_LOGIT)
    own = torch.arange(len(future), device=future.device)[local_rows]
    loss = F.cross_entropy(logits.flatten(0, 1), own.repeat_interleave(future.shape[1]), reduction="none")
    each = loss.reshape(logits.shape[:2]).mean(1)  # (b,)
    return torch.where(seen[local_rows], each, 0.0).mean()


def same_patient(
    views: Tensor, seen: Tensor, patient: Tensor, temperature: float, local_rows: slice = slice(None)
) -> Tensor:
    """CLOCS's loss: of all records in another view, each view must find its own record and the others of its patient.

    For views a and b, -log exp(cos(a_i, b_j) / t) / sum_k exp(cos(a_i, b_k) / t): its mean over pairs i = j, and its mean
    over pairs i != j of one patient, both with a and b changed round, too; the mean of these four, or of the first two
    where no patient comes twice. Then the mean over all pairs of views that some record, or patient, has both of.
    views: (B, V, D); seen: (B, V) bool, the others are neither asked for nor found; patient: (B,) int64.
    """
    n, n_views = seen.shape
    unit, there = F.normalize(views, dim=-1), seen.to(views.dtype)
    own = torch.arange(n, device=views.device)[local_rows]
    others = patient[:, None] == patient[None]
    others.fill_diagonal_(False)
    n_own = there.T @ there  # (V, V) pairs of the whole batch, for each two views
    n_others = there.T @ (others.to(views.dtype) @ there)
    kinds = ((n_own > 0).to(views.dtype) + (n_others > 0)).fill_diagonal_(0)  # a view is not set against itself
    n_pairs = (kinds > 0).sum().clamp(min=1)
    weight = (n / len(own)) / (kinds.clamp(min=1) * n_pairs) * (kinds > 0)  # the mean over processes is then the sum

    total = views.new_zeros(())
    for a in range(n_views):
        logits = torch.einsum("id,jvd->ivj", unit[local_rows, a], unit) / temperature  # (b, V, B)
        surprise = -F.log_softmax(logits.masked_fill(~seen.T, MASKED_LOGIT), dim=-1)
        surprise = torch.where(seen[local_rows, a, None, None] & seen.T, surprise, 0.0)
        itself = surprise.gather(2, own[:, None, None].expand(-1, n_views, 1)).sum((0, 2))  # (V,)
        of_patient = (surprise * others[local_rows, None]).sum((0, 2))
        means = itself / n_own[a].clamp(min=1) + of_patient / n_others[a].clamp(min=1)
        total = total + (weight[a] * means).sum()
    return total
