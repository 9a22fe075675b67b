"""Losses: pure functions of tensors, one per equation, in mean form so that weights of one are a sensible start.

Equation numbers are those of CG-DMER (arXiv 2602.21154). A term over pairs takes the rows of all processes, and in `local_rows`
the rows for which this process answers: the mean of all processes' values is then the loss of the whole batch. The table of
all pairs is never held: it is gone through in blocks of columns, each computed anew in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from leadwise.nn.losses.logits import MASKED_LOGIT

ContrastForm = Literal["standard", "decoupled", "literal"]
SameReport = Literal["ignore", "positive", "negative"]

BLOCK = 1024  # columns of a block; a batch within one block is computed once and kept


def patch_reconstruction(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Eq. 2 as a mean: squared error per sample, over each record's hidden patches, then over records.

    prediction, target: (B, L, N, P); hidden: (B, L, N) bool. A record with nothing hidden adds nothing, and counts: so the
    mean over shares of a batch is the mean over the batch.
    """
    error = (prediction - target).square().mean(-1)  # (B, L, N)
    n = hidden.sum((1, 2))  # (B,)
    return ((error * hidden).sum((1, 2)) / n.clamp(min=1)).mean()


def token_errors(logits: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
    """(B, 2): the sum of the cross-entropies of each report's masked tokens, and how many there are.

    logits: (B, S, V); tokens: (B, S) true ids; masked: (B, S) bool, the places that count.
    """
    loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none").reshape(tokens.shape)
    return torch.stack([(loss * masked).sum(-1), masked.sum(-1).float()], dim=-1)


def token_reconstruction(errors: Tensor) -> Tensor:
    """Eq. 3 from `token_errors` (B, 2): mean over each report's masked tokens, then over reports.

    A report without a masked token adds 0 to the sum and counts as a report.
    """
    return (errors[:, 0] / errors[:, 1].clamp(min=1)).mean()


def orthogonality(specific: Tensor, shared: Tensor) -> Tensor:
    """Eq. 5, one modality: squared cosine between a sample's specific and shared parts, (B, D) each, mean over B."""
    return F.cosine_similarity(specific, shared, dim=-1).square().mean()


def siglip(
    ecg: Tensor,
    text: Tensor,
    report: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    treat: SameReport,
    local_rows: slice = slice(None),
) -> Tensor:
    """Eq. 6: -log sigmoid(y_ij (scale * ecg_i . text_j + bias)), summed over i in `local_rows` and all j, divided by the i's.

    ecg, text: (B, D). report: (B, C) int64; two rows that agree in a column have the same report. `treat` says what a pair
    i != j with the same report is: a positive, a negative (the paper), or ignored.
    The paper prints scale 1 and bias 0; with unit vectors its best value is then the collapse of all pairs apart.
    """
    anchor = ecg[local_rows]  # (b, D)

    def block(columns: slice) -> Tensor:
        logits = scale * (anchor @ text[columns].T) + bias  # (b, c)
        own, same = _relations(report, local_rows, columns)
        loss = -F.logsigmoid(torch.where(same if treat == "positive" else own, logits, -logits).float())
        return (loss.masked_fill(same & ~own, 0.0) if treat == "ignore" else loss).sum()

    return _over_columns(block, len(text)).sum() / len(anchor)


def info_nce(
    ecg: Tensor,
    text: Tensor,
    report: Tensor,
    scale: Tensor | float,
    treat: SameReport,
    form: ContrastForm,
    local_rows: slice = slice(None),
) -> Tensor:
    """Eqs. 7-9: mean over `local_rows` of the ECG-to-text and text-to-ECG cross-entropies; scale = 1 / tau.

    standard: i = j is the target and stands in the denominator (symmetric InfoNCE).
    decoupled: the printed denominator, without k = i, for i = j only. literal: Eq. 9's sum over every i and j.
    report and treat as in `siglip`; with "positive" the target is spread evenly over equal reports. Where a printed
    denominator is empty, since all reports are the same, there is nothing to learn.
    """

    def one_way(anchors: Tensor, others: Tensor) -> Tensor:
        anchor = anchors[local_rows]  # (b, D)

        def block(columns: slice) -> Tensor:
            logits = (scale * (anchor @ others[columns].T)).float()  # (b, c)
            own, same = _relations(report, local_rows, columns)
            shown = ~same | own if treat == "ignore" else torch.ones_like(own)
            if form == "literal":
                target = shown
            else:
                target = same if treat == "positive" else own
            against = shown if form == "standard" else shown & ~own
            all_of_them = logits.masked_fill(~against, MASKED_LOGIT).logsumexp(1)
            return torch.stack([all_of_them, (logits * target).sum(1), target.sum(1)])  # (3, b)

        all_of_them, pull, n = _over_columns(block, len(others)).unbind(1)  # (blocks, b) each
        loss = all_of_them.logsumexp(0) - pull.sum(0) / n.sum(0)
        loss = torch.where(all_of_them.amax(0) > MASKED_LOGIT / 2, loss, 0.0 * loss)
        return (loss * n.sum(0) if form == "literal" else loss).mean()

    return (one_way(ecg, text) + one_way(text, ecg)) / 2


def aligned(
    ecg: Tensor,
    text: Tensor,
    report: Tensor,
    scale: Tensor | float,
    treat: SameReport,
    local_rows: slice = slice(None),
    form: ContrastForm = "standard",
) -> Tensor:
    """`info_nce` of vectors of any length (B, D), by their cosines, in float32 whatever the precision around it."""
    with torch.autocast(ecg.device.type, enabled=False):  # logits of 14 and more want float32's digits
        unit = (F.normalize(ecg.float(), dim=-1), F.normalize(text.float(), dim=-1))
        return info_nce(*unit, report, scale, treat, form, local_rows)


def _relations(report: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """For each row and column, (b, c) bool: whether they are one record, and whether they have the same report."""
    place = torch.arange(len(report), device=report.device)
    own = place[rows][:, None] == place[columns][None]
    same = torch.zeros_like(own)
    for reading in report.unbind(1):
        same |= reading[rows][:, None] == reading[columns][None]
    return own, same


def _over_columns(block: Callable[[slice], Tensor], n: int) -> Tensor:
    """What `block` makes of each block of n columns, stacked; nothing of size (b, n) outlives its block."""
    spans = [slice(begin, min(begin + BLOCK, n)) for begin in range(0, n, BLOCK)]
    if len(spans) == 1:
        return block(spans[0])[None]
    return torch.stack([checkpoint(block, span, use_reentrant=False, preserve_rng_state=False) for span in spans])


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the normalised singular values of x (N, D): how many directions are used, N - 1 at most."""
    s = torch.linalg.svdvals((x - x.mean(0)).float())
    p = s / s.sum().clamp(min=1e-12)
    return float(torch.exp(-(p * p.clamp(min=1e-12).log()).sum()))


def effective_ranks(ecg: Tensor, text: Tensor) -> dict[str, float]:
    """`effective_rank` of both sides of a shared space, (B, D) of any length, as a run logs them."""
    return {
        "effective_rank": effective_rank(F.normalize(ecg, dim=-1)),
        "effective_rank_text": effective_rank(F.normalize(text, dim=-1)),
    }
