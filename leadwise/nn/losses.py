"""Losses: pure functions of tensors, one per equation, in mean form so that weights of one are a sensible start.

Equation numbers are those of CG-DMER (arXiv 2602.21154).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ContrastForm = Literal["standard", "decoupled", "literal"]
SameReport = Literal["ignore", "positive", "negative"]


def patch_reconstruction(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Eq. 2 as a mean: squared error per sample, over each record's hidden patches, then over records.

    prediction, target: (B, L, N, P); hidden: (B, L, N) bool. A record with nothing hidden does not count.
    """
    error = (prediction - target).square().mean(-1)  # (B, L, N)
    return _mean_per_record(error.flatten(1), hidden.flatten(1))


def token_reconstruction(
    logits: Tensor, tokens: Tensor, masked: Tensor, over: Literal["report", "token"] = "report"
) -> Tensor:
    """Eq. 3: cross-entropy of the masked tokens, mean over each report's, then over reports; or over all tokens alike.

    logits: (B, S, V); tokens: (B, S) true ids; masked: (B, S) bool, the places that count.
    """
    loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    if over == "token":
        return (loss * masked.flatten()).sum() / masked.sum().clamp(min=1)
    return _mean_per_record(loss.reshape(tokens.shape), masked)


def _mean_per_record(values: Tensor, counts: Tensor) -> Tensor:
    n = counts.sum(-1)  # (B,)
    per_record = (values * counts).sum(-1) / n.clamp(min=1)
    return per_record.sum() / (n > 0).sum().clamp(min=1)


def orthogonality(specific: Tensor, shared: Tensor) -> Tensor:
    """Eq. 5, one modality: squared cosine between a sample's specific and shared parts, (B, D) each, mean over B."""
    return F.cosine_similarity(specific, shared, dim=-1).square().mean()


def cross_covariance(specific: Tensor, shared: Tensor) -> Tensor:
    """Eq. 5 over the batch instead of per sample: mean squared correlation of every specific with every shared feature."""
    a = (specific - specific.mean(0)) / (specific.std(0, correction=0) + 1e-4)
    b = (shared - shared.mean(0)) / (shared.std(0, correction=0) + 1e-4)
    return (a.T @ b / len(a)).square().mean()


def siglip(
    ecg: Tensor, text: Tensor, same: Tensor, scale: Tensor | float, bias: Tensor | float, treat: SameReport
) -> Tensor:
    """Eq. 6: -log sigmoid(y_ij (scale * ecg_i . text_j + bias)), summed over pairs and divided by B.

    ecg, text: (B, D). same: (B, B) bool, pairs with the same report (the diagonal is true). `treat` says what an
    off-diagonal pair with the same report is: a positive, a negative (the paper), or ignored.
    The paper prints scale 1 and bias 0; with unit vectors its best value is then the collapse of all pairs apart.
    """
    logits = scale * (ecg @ text.T) + bias  # (B, B)
    own = torch.eye(len(ecg), dtype=torch.bool, device=ecg.device)
    positive = same if treat == "positive" else own
    loss = -F.logsigmoid(torch.where(positive, logits, -logits).float())
    if treat == "ignore":
        loss = loss.masked_fill(same & ~own, 0.0)
    return loss.sum() / len(ecg)


def info_nce(
    ecg: Tensor, text: Tensor, same: Tensor, scale: Tensor | float, treat: SameReport, form: ContrastForm
) -> Tensor:
    """Eqs. 7-9: mean of the ECG-to-text and text-to-ECG cross-entropies; scale = 1 / tau.

    standard: i = j is the target and stands in the denominator (symmetric InfoNCE).
    decoupled: the printed denominator, without k = i, for i = j only. literal: Eq. 9's sum over every i and j.
    same and treat as in `siglip`; with "positive" the target is spread evenly over equal reports.
    """
    logits = (scale * (ecg @ text.T)).float()  # (B, B)
    own = torch.eye(len(ecg), dtype=torch.bool, device=ecg.device)
    if form == "standard" and treat == "positive":
        target = same / same.sum(-1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    twins = same & ~own
    if treat == "ignore":
        logits = logits.masked_fill(twins, -torch.inf)
    if form == "standard":
        index = torch.arange(len(ecg), device=ecg.device)
        return (F.cross_entropy(logits, index) + F.cross_entropy(logits.T, index)) / 2
    apart = logits.masked_fill(own, -torch.inf)  # the printed denominator leaves the pair itself out
    if bool(apart.isneginf().all()):  # one report throughout: without a negative there is nothing to learn
        return 0.0 * ecg.sum()
    forth = apart.logsumexp(1, keepdim=True) - logits  # L^{e2t}_{ij}
    back = (apart.logsumexp(0, keepdim=True) - logits).T
    if form == "decoupled":
        return (forth.diagonal() + back.diagonal()).mean() / 2
    both = (forth + back).masked_fill(twins, 0.0) if treat == "ignore" else forth + back
    return both.sum() / (2 * len(ecg))


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the normalised singular values of x (N, D): how many directions are used, N - 1 at most."""
    s = torch.linalg.svdvals((x - x.mean(0)).float())
    p = s / s.sum().clamp(min=1e-12)
    return float(torch.exp(-(p * p.clamp(min=1e-12).log()).sum()))
