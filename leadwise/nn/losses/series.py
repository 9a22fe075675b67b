"""Losses over views that are parts of one time series: later segments, other leads, other recordings of the patient.

`local_rows` are the rows of this process among those of all processes, as in `losses.multimodal`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.losses.logits import MASKED_LOGIT


def future_contrast(predicted: Tensor, future: Tensor, observed: Tensor, local_rows: slice = slice(None)) -> Tensor:
    """TS-TCC's temporal contrasting, one direction (Eqs. 1 and 2): classify which record's future a prediction belongs to.

    -log exp(p_ik . z_ik) / sum_j exp(p_ik . z_jk), mean over the k steps ahead and the records in `local_rows`.
    predicted, future: (B, K, D); observed: (B,) bool, records that have a future. The others add 0 and still count.
    """
    logits = torch.einsum("ikd,jkd->ikj", predicted[local_rows], future)  # (b, K, B)
    logits = logits.masked_fill(~observed, MASKED_LOGIT)
    own = torch.arange(len(future), device=future.device)[local_rows]
    loss = F.cross_entropy(logits.flatten(0, 1), own.repeat_interleave(future.shape[1]), reduction="none")
    each = loss.reshape(logits.shape[:2]).mean(1)  # (b,)
    return torch.where(observed[local_rows], each, 0.0).mean()


def same_patient(
    views: Tensor, observed: Tensor, patient: Tensor, temperature: float, local_rows: slice = slice(None)
) -> Tensor:
    """CLOCS's loss: each view must identify, among all records in another view, its own record and the others of its patient.

    For views a and b, -log exp(cos(a_i, b_j) / t) / sum_k exp(cos(a_i, b_k) / t): its mean over pairs i = j, and its mean
    over pairs i != j of one patient, and both with a and b exchanged; the mean of these four, or of the first two if no patient
    occurs twice. Then the mean over all pairs of views that some record or patient has both of.
    views: (B, V, D); observed: (B, V) bool, unobserved views are neither anchors nor candidates; patient: (B,) int64.
    """
    n, n_views = observed.shape
    unit, is_observed = F.normalize(views, dim=-1), observed.to(views.dtype)
    own = torch.arange(n, device=views.device)[local_rows]
    others = patient[:, None] == patient[None]
    others.fill_diagonal_(False)
    # how many pairs each two views have in the whole batch, and the weight that makes the sum below a mean
    n_own = is_observed.T @ is_observed  # (V, V) pairs of the whole batch, for each two views
    n_others = is_observed.T @ (others.to(views.dtype) @ is_observed)
    kinds = ((n_own > 0).to(views.dtype) + (n_others > 0)).fill_diagonal_(0)  # a view is not compared with itself
    n_pairs = (kinds > 0).sum().clamp(min=1)
    weight = (n / len(own)) / (kinds.clamp(min=1) * n_pairs) * (kinds > 0)  # the mean over processes is then the sum

    # one view as the anchor at a time: the (b, V, B) logits of one are all that is stored
    total = views.new_zeros(())
    for a in range(n_views):
        logits = torch.einsum("id,jvd->ivj", unit[local_rows, a], unit) / temperature  # (b, V, B)
        loss = -F.log_softmax(logits.masked_fill(~observed.T, MASKED_LOGIT), dim=-1)
        loss = torch.where(observed[local_rows, a, None, None] & observed.T, loss, 0.0)
        own_loss = loss.gather(2, own[:, None, None].expand(-1, n_views, 1)).sum((0, 2))  # (V,)
        patient_loss = (loss * others[local_rows, None]).sum((0, 2))
        means = own_loss / n_own[a].clamp(min=1) + patient_loss / n_others[a].clamp(min=1)
        total = total + (weight[a] * means).sum()
    return total


def same_time_contrast(a: Tensor, b: Tensor, present: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE between two sequences of each record: the vector of one time among all times of the other.

    -log exp(scale cos(a_k, b_k)) / sum_j exp(scale cos(a_k, b_j)), and with a and b exchanged; mean of both, over the present
    times of a record, then over records. a, b: (B, K, D); present: (B, K) bool. A record without two present times adds 0 and
    still counts.
    """
    with torch.autocast(a.device.type, enabled=False):
        unit_a, unit_b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
        logits = (scale * (unit_a @ unit_b.transpose(1, 2))).masked_fill(~present[:, None], MASKED_LOGIT)
        back = (scale * (unit_b @ unit_a.transpose(1, 2))).masked_fill(~present[:, None], MASKED_LOGIT)
        both = logits.log_softmax(-1) + back.log_softmax(-1)
        own = torch.where(present, both.diagonal(dim1=1, dim2=2), 0.0)  # (B, K)
        each = -own.sum(1) / (2 * present.sum(1).clamp(min=1))
        return torch.where(present.sum(1) > 1, each, 0.0).mean()


def predictive_contrast(
    predicted: Tensor,
    latents: Tensor,
    real: Tensor,
    steps: tuple[int, ...],
    temperature: float,
    others: Tensor,
    is_other: Tensor,
) -> Tensor:
    """CPC's InfoNCE (Eq. 4): each prediction must identify the latent `steps` positions ahead.

    -log exp(p_tk . z_(t+k) / t) / sum_z exp(p_tk . z / t), where z is every real latent of the same record, and the `others`.
    Mean over the real positions t with a real t + k, then over the steps, then over records; a record without any adds 0 and
    still counts.

    Args:
        predicted: (B, K, N, D), from position t for each of the K `steps`.
        latents: (B, N, D) and real, (B, N) bool: which of them were observed.
        others: (M, D), further latents.
        is_other: (B, M) bool, those that are latents of another record and were observed.
    """
    n = latents.shape[1]
    total = latents.new_zeros(len(latents))
    for number, step in enumerate(steps):
        anchor = predicted[:, number, : n - step]  # (B, N - k, D)
        within = (anchor @ latents.mT / temperature).masked_fill(~real[:, None], MASKED_LOGIT)  # (B, N - k, N)
        across = (anchor @ others.T / temperature).masked_fill(~is_other[:, None], MASKED_LOGIT)  # (B, N - k, M)
        loss = torch.cat([within, across], dim=-1).logsumexp(-1) - within.diagonal(step, 1, 2)
        counted = real[:, : n - step] & real[:, step:]
        total = total + torch.where(counted, loss, 0.0).sum(1) / counted.sum(1).clamp(min=1)
    return total.mean() / len(steps)
