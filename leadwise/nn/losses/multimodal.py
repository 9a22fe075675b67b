"""Losses of methods that train on ECGs and reports: pure functions, one per equation, in mean form.

Equation numbers are those of CG-DMER (arXiv 2602.21154). Mean form makes 1 a sensible first weight for every term.
A loss over pairs takes the rows of all processes and returns the mean over `local_rows`, the rows of this process: the mean of
all processes' values is the loss of the whole batch. The matrix of all pairs is never stored: it is computed in blocks of
columns, and recomputed in the backward pass.
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

Words = tuple[Tensor, float]
"""Unit vectors (B, V) of the words of each report, and the least cosine of two reports that count as equal."""

BLOCK = 1024  # columns per block; a batch that fits into one block is not recomputed


def patch_reconstruction(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Eq. 2 as a mean: squared error per sample, averaged over each record's hidden patches, then over records.

    prediction, target: (B, L, N, P); hidden: (B, L, N) bool. A record without a hidden patch adds 0 and still
    counts, so that the mean over equal parts of a batch equals the mean over the batch.
    """
    error = (prediction - target).square().mean(-1)  # (B, L, N)
    n = hidden.sum((1, 2))  # (B,)
    return ((error * hidden).sum((1, 2)) / n.clamp(min=1)).mean()


def token_errors(logits: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
    """Cross-entropy of masked tokens: (B, 2), the sum over each report's masked tokens and their number.

    logits: (B, S, V); tokens: (B, S) true ids; masked: (B, S) bool, True at masked tokens.
    """
    loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none").reshape(tokens.shape)
    return torch.stack([(loss * masked).sum(-1), masked.sum(-1).float()], dim=-1)


def token_reconstruction(errors: Tensor) -> Tensor:
    """Eq. 3 from `token_errors` (B, 2): mean over each report's masked tokens, then over reports.

    A report without a masked token adds 0 and still counts.
    """
    return (errors[:, 0] / errors[:, 1].clamp(min=1)).mean()


def orthogonality(specific: Tensor, shared: Tensor) -> Tensor:
    """Eq. 5 for one modality: squared cosine of each record's specific and shared embedding, (B, D) each, mean over B."""
    return F.cosine_similarity(specific, shared, dim=-1).square().mean()


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlations (D, E) over the batch between the columns of (B, D) and (B, E); 0 for a constant column."""

    def standard(x: Tensor) -> Tensor:
        x = x - x.mean(0)
        return x / x.square().mean(0).sqrt().clamp(min=1e-6)

    return standard(first).T @ standard(second) / len(first)


def decorrelation(running: Tensor, batch: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """The mean squared correlation, and the new running correlations.

    running, batch: (D, E), as of `cross_correlation`. A batch of 32 alone has a squared correlation of 1/32 by chance, so the
    value is that of the running mean over many batches. The gradient flows through the batch's share of it, and is divided
    by that share so that it does not depend on `momentum`.
    """
    now = momentum * running + (1 - momentum) * batch.detach()
    through_batch = 2 * (now * batch).mean()
    return now.square().mean() + through_batch - through_batch.detach(), now


def siglip(
    ecg: Tensor,
    text: Tensor,
    report: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    treat: SameReport,
    local_rows: slice = slice(None),
    words: Words | None = None,
) -> Tensor:
    """Eq. 6: -log sigmoid(y_ij (scale * ecg_i . text_j + bias)), sum over i in `local_rows` and all j, per i.

    ecg, text: (B, D). report: (B, C) int64 report ids; rows that agree in any column have the same report. `treat`: a pair i != j
    with the same report counts as a positive, as a negative (the paper), or not at all ("ignore"). With `words`, reports of at
    least that overlap count as the same.
    The paper prints scale 1 and bias 0; with unit vectors the minimum is then reached when all pairs point apart.
    """
    anchor = ecg[local_rows]  # (b, D)

    def block(columns: slice) -> Tensor:
        logits = scale * (anchor @ text[columns].T) + bias  # (b, c)
        own, same = _relations(report, local_rows, columns, words)
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
    words: Words | None = None,
    both_ways: bool = True,
) -> Tensor:
    """Eqs. 7-9: mean over `local_rows` of the ECG-to-text and text-to-ECG cross-entropies; scale = 1 / tau.

    Without `both_ways`, of the ECG-to-text cross-entropy alone: each ECG among all reports.

    standard: i = j is the target and part of the denominator (symmetric InfoNCE).
    decoupled: the printed denominator, without k = i, for i = j only. literal: Eq. 9 as printed, summed over all i and j.
    report, treat and words as in `siglip`; with "positive" the target is uniform over equal reports. An anchor whose printed
    denominator is empty, because all reports are the same, adds 0.
    """

    def one_way(anchors: Tensor, others: Tensor) -> Tensor:
        anchor = anchors[local_rows]  # (b, D)

        def block(columns: slice) -> Tensor:
            logits = (scale * (anchor @ others[columns].T)).float()  # (b, c)
            # which pairs are targets, and which are in the denominator, by form and treatment of equal reports
            own, same = _relations(report, local_rows, columns, words)
            counted = ~same | own if treat == "ignore" else torch.ones_like(own)
            if form == "literal":
                target = counted
            else:
                target = same if treat == "positive" else own
            denominator = counted if form == "standard" else counted & ~own
            log_denominator = logits.masked_fill(~denominator, MASKED_LOGIT).logsumexp(1)
            return torch.stack([log_denominator, (logits * target).sum(1), target.sum(1)])  # (3, b)

        # join the blocks; an anchor with an empty denominator adds 0, with a gradient of 0
        log_denominator, positive_logits, n = _over_columns(block, len(others)).unbind(1)  # (blocks, b) each
        loss = log_denominator.logsumexp(0) - positive_logits.sum(0) / n.sum(0)
        loss = torch.where(log_denominator.amax(0) > MASKED_LOGIT / 2, loss, 0.0 * loss)
        return (loss * n.sum(0) if form == "literal" else loss).mean()

    if not both_ways:
        return one_way(ecg, text)
    return (one_way(ecg, text) + one_way(text, ecg)) / 2


def aligned(
    ecg: Tensor,
    text: Tensor,
    report: Tensor,
    scale: Tensor | float,
    treat: SameReport,
    local_rows: slice = slice(None),
    form: ContrastForm = "standard",
    words: Words | None = None,
    both_ways: bool = True,
) -> Tensor:
    """`info_nce` of the cosines of vectors (B, D) of any length, computed in float32 even under autocast."""
    with torch.autocast(ecg.device.type, enabled=False):  # logits of 14 and more need float32's digits
        unit = (F.normalize(ecg.float(), dim=-1), F.normalize(text.float(), dim=-1))
        return info_nce(*unit, report, scale, treat, form, local_rows, words, both_ways)


def _relations(report: Tensor, rows: slice, columns: slice, words: Words | None = None) -> tuple[Tensor, Tensor]:
    """Two (b, c) bool matrices: whether row and column are the same record, and whether they have the same report."""
    place = torch.arange(len(report), device=report.device)
    own = place[rows][:, None] == place[columns][None]
    same = torch.zeros_like(own)
    for ids in report.unbind(1):
        same |= ids[rows][:, None] == ids[columns][None]
    if words is not None:
        bags, least = words
        same |= bags[rows] @ bags[columns].T >= least
    return own, same


def _over_columns(block: Callable[[slice], Tensor], n: int) -> Tensor:
    """The results of `block` for each block of n columns, stacked; nothing of size (b, n) is stored."""
    spans = [slice(begin, min(begin + BLOCK, n)) for begin in range(0, n, BLOCK)]
    if len(spans) == 1:
        return block(spans[0])[None]
    return torch.stack([checkpoint(block, span, use_reentrant=False, preserve_rng_state=False) for span in spans])


def effective_rank(x: Tensor) -> float:
    """Effective rank of x (N, D): exp of the entropy of its normalised singular values, at most N - 1."""
    return rankme(x - x.mean(0))


def rankme(x: Tensor) -> float:
    """RankMe (arXiv 2210.02885, Eqs. 1 and 2): exp of the entropy of x's normalised singular values, x (N, D) not centred.

    At most min(N, D). Among runs of one method, a higher value goes with better probes; no label is needed.
    """
    s = torch.linalg.svdvals(x.float())
    p = s / s.sum().clamp(min=1e-12)
    return float(torch.exp(-(p * p.clamp(min=1e-12).log()).sum()))


def effective_ranks(ecg: Tensor, text: Tensor) -> dict[str, float]:
    """`effective_rank` of ECG and text embeddings (B, D) after normalisation, under the names that metrics.jsonl uses."""
    return {
        "effective_rank": effective_rank(F.normalize(ecg, dim=-1)),
        "effective_rank_text": effective_rank(F.normalize(text, dim=-1)),
    }
