"""Losses of what belongs together and what does not, one function each: records and reports, a patient's views, a view's kind.

A term over pairs takes the rows of all processes, and in `local_rows` the rows for which this process answers, as in `losses`.
The others are means over records.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def matching(own: Tensor, other: Tensor, there: Tensor) -> Tensor:
    """Whether a record and a report belong together: -log sigmoid(own), and -log sigmoid(-other), mean over both.

    own, other: (B,) logits of each record with its own report and with a strange one; there: (B,) bool, whether there was a
    strange one. Without one, a record's own pair is all it has to say.
    """
    own_loss, other_loss = -F.logsigmoid(own.float()), -F.logsigmoid(-other.float())
    return torch.where(there, (own_loss + other_loss) / 2, own_loss).mean()


def strange_rows(closeness: Tensor, report: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """For each row another one whose report is far from its own, (B,), and whether there was any, (B,) bool.

    closeness: (B, B); report: (B, C) int64, rows that agree in a column have the same report and are never drawn. One of the
    farthest `share` of the rest is drawn, all with the same chance; of equally far ones, chance says which are farthest.
    """
    same = (report[:, None] == report[None]).any(-1)  # (B, B); itself too
    others = (~same).sum(1)
    tie = 1e-4 * torch.rand(closeness.shape, device=closeness.device)
    order = (closeness + tie).masked_fill(same, torch.inf).argsort(dim=1)
    quota = (share * others).ceil().clamp(min=1)
    place = (torch.rand(len(order), device=order.device) * quota).long().minimum(quota.long() - 1)
    return order.gather(1, place[:, None])[:, 0], others > 0


def word_overlap(ids: Tensor, counted: Tensor, n_words: int) -> Tensor:
    """(B, B): the cosine of which words two reports use. ids: (B, S) of V words; counted: (B, S) bool, no padding or marks."""
    used = torch.zeros(len(ids), n_words, device=ids.device)
    used = used.scatter_reduce(1, ids, counted.to(used.dtype), "amax")
    used = F.normalize(used, dim=-1)
    return used @ used.T


def patient_agreement(predicted: Tensor, target: Tensor, patient: Tensor, local_rows: slice = slice(None)) -> Tensor:
    """SimSiam over patients: -cos(p_i, sg z_j), mean over every j of the same patient as i, then over i in `local_rows`.

    predicted, target: (B, D); patient: (B,) int64. Nothing is pushed apart, and no gradient reaches the target.
    """
    unit = F.normalize(target.detach().float(), dim=-1)
    same = (patient[local_rows][:, None] == patient[None]).to(unit.dtype)  # (b, B)
    centre = same @ unit / same.sum(1, keepdim=True)
    return -(F.normalize(predicted[local_rows].float(), dim=-1) * centre).sum(-1).mean()


def forecast(predicted: Tensor, target: Tensor, there: Tensor) -> Tensor:
    """-cos(predicted, sg target), mean over the steps of a record that were observed, then over records.

    predicted, target: (B, K, D); there: (B, K) bool. A record without any adds nothing, and counts.
    """
    cosine = F.cosine_similarity(predicted.float(), target.detach().float(), dim=-1)  # (B, K)
    return -((cosine * there).sum(1) / there.sum(1).clamp(min=1)).mean()


def told_apart(first: Tensor, second: Tensor) -> Tensor:
    """A discriminator's cross-entropy: (B, ...) logits of the first kind ought to be high, those of the second low."""
    return -(F.logsigmoid(first.float()).mean() + F.logsigmoid(-second.float()).mean()) / 2
