"""Losses over pairs: ECG-report matching, views of one patient, forecasting, and a discriminator.

`local_rows` are the rows of this process among those of all processes, as in `losses.multimodal`. The other losses are means
over records.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def matching(own: Tensor, other: Tensor, exists: Tensor) -> Tensor:
    """Matching loss: -log sigmoid(own) and -log sigmoid(-other), averaged.

    own, other: (B,) logits of each record with its own report and with a dissimilar one; exists: (B,) bool, True where a
    dissimilar report exists. Without one, only the record's own pair counts.
    """
    own_loss, other_loss = -F.logsigmoid(own.float()), -F.logsigmoid(-other.float())
    return torch.where(exists, (own_loss + other_loss) / 2, own_loss).mean()


def sample_dissimilar_reports(closeness: Tensor, report: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """For each row, sample a negative: (B,) the row of a dissimilar report, and (B,) bool, whether one exists.

    closeness: (B, B); report: (B, C) int64, rows that agree in any column have the same report and are never drawn. The sample
    is uniform over the farthest `share` of the rest; ties are broken at random.
    """
    same = (report[:, None] == report[None]).any(-1)  # (B, B); True on the diagonal
    others = (~same).sum(1)
    tie = 1e-4 * torch.rand(closeness.shape, device=closeness.device)
    order = (closeness + tie).masked_fill(same, torch.inf).argsort(dim=1)
    quota = (share * others).ceil().clamp(min=1)
    place = (torch.rand(len(order), device=order.device) * quota).long().minimum(quota.long() - 1)
    return order.gather(1, place[:, None])[:, 0], others > 0


def word_overlap(ids: Tensor, counted: Tensor, n_words: int) -> Tensor:
    """Word overlap of reports: (B, B) cosines of their `bags_of_words`."""
    used = bags_of_words(ids, counted, n_words)
    return used @ used.T


def bags_of_words(ids: Tensor, counted: Tensor, n_words: int) -> Tensor:
    """Unit vectors (B, V) of which words each report has.

    ids: (B, S) of V words; counted: (B, S) bool, True for words, False for padding and special tokens.
    """
    used = torch.zeros(len(ids), n_words, device=ids.device)
    return F.normalize(used.scatter_reduce(1, ids, counted.to(used.dtype), "amax"), dim=-1)


def patient_agreement(predicted: Tensor, target: Tensor, patient: Tensor, local_rows: slice = slice(None)) -> Tensor:
    """SimSiam over patients: -cos(p_i, sg z_j), mean over every j of the same patient as i, then over i in `local_rows`.

    predicted, target: (B, D); patient: (B,) int64. There are no negatives, and no gradient reaches the target.
    """
    unit = F.normalize(target.detach().float(), dim=-1)
    same = (patient[local_rows][:, None] == patient[None]).to(unit.dtype)  # (b, B)
    centre = same @ unit / same.sum(1, keepdim=True)
    return -(F.normalize(predicted[local_rows].float(), dim=-1) * centre).sum(-1).mean()


def forecast(predicted: Tensor, target: Tensor, exists: Tensor) -> Tensor:
    """Forecasting loss: -cos(predicted, sg target), averaged over the observed steps of a record, then over records.

    predicted, target: (B, K, D); exists: (B, K) bool. A record without an observed step adds 0 and still counts.
    """
    cosine = F.cosine_similarity(predicted.float(), target.detach().float(), dim=-1)  # (B, K)
    return -((cosine * exists).sum(1) / exists.sum(1).clamp(min=1)).mean()


def discriminator_loss(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of a discriminator: logits (B, ...) of the first kind should be positive, those of the second negative."""
    return -(F.logsigmoid(first.float()).mean() + F.logsigmoid(-second.float()).mean()) / 2
