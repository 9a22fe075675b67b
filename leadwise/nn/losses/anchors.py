"""Contrast between several anchors of a record, such as its ECG and each of its images: pure functions, in mean form.

A record may miss an anchor. Pairs of anchors are compared over the records that have both. `local_rows` are the rows of this
process among those of all processes: the mean of all processes' values is the value of the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.losses.logits import MASKED_LOGIT


def pair_weights(names: Sequence[str], weights: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Return the weight of each pair of anchors, divided by the sum of all: w_ab / sum(w). A weight of 0 leaves the pair out.

    `weights` holds them by "a-b", in the order of `names`; a pair without an entry has weight 0.

    Raises:
        ValueError: no pair has a weight above 0.
    """
    pairs = {(a, b): weights.get(f"{a}-{b}", 0.0) for a, b in combinations(names, 2)}
    total = sum(pairs.values())
    if total <= 0:
        raise ValueError(f"no pair of {', '.join(names)} has a weight above 0; set one")
    return {pair: weight / total for pair, weight in pairs.items() if weight}


def pair_contrast(
    a: Tensor,
    b: Tensor,
    present: Tensor,
    scale: Tensor | float,
    person: Tensor | None = None,
    local_rows: slice = slice(None),
) -> Tensor:
    """C(a, b) = (CE(s, diagonal) + CE(s transposed, diagonal)) / 2 with s = scale * cosine(a_i, b_j), over records with both.

    Args:
        a, b: (B, D) vectors of any length.
        present: (B,) bool, records with both anchors; the others are neither anchors nor negatives. Without any, the value is 0.
        scale: 1 / tau.
        person: (B,) int64; another record of the same person is no negative.
        local_rows: the rows of this process.
    """
    logits = _logits(a, b, scale)
    counted = present[:, None] & present[None]
    if person is not None:
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)
        counted = counted & ((person[:, None] != person[None]) | own)
    rows = (_cross_entropy(logits, counted) + _cross_entropy(logits.T, counted.T)) / 2  # (B,)
    return mean_over_present(rows, present, local_rows)


def relational_contrast(
    a: Tensor,
    b: Tensor,
    present: Tensor,
    phenotype: Tensor,
    scale: Tensor | float,
    temperature: float = 1.0,
    local_rows: slice = slice(None),
) -> Tensor:
    """KL(P || Q) in both directions, halved: P_ij ~ exp(-|f_i - f_j|^2 / temperature), Q_ij ~ exp(scale * cosine(a_i, b_j)).

    For continuous phenotypes f, people with nearly the same heart are not negatives of each other (MyoECG). The distance is
    over the phenotypes that both records have, scaled up to all; a pair without any is left out, except a record with itself.

    Args:
        a, b: (B, D) vectors of any length.
        present: (B,) bool, records with both anchors.
        phenotype: (B, Q) standardised, NaN where unknown.
        scale: 1 / tau of the cosines.
        temperature: tau of the distances.
        local_rows: the rows of this process.
    """
    logits = _logits(a, b, scale)
    distance, comparable = phenotype_distances(phenotype)
    counted = present[:, None] & present[None] & comparable
    log_p = (-distance / temperature).masked_fill(~counted, MASKED_LOGIT).log_softmax(-1)
    p = log_p.exp() * counted  # 0 throughout for an absent record
    entropy = (p * log_p).sum(-1)

    def divergence(s: Tensor) -> Tensor:
        log_q = s.masked_fill(~counted, MASKED_LOGIT).log_softmax(-1)
        return entropy - (p * log_q.masked_fill(~counted, 0.0)).sum(-1)

    rows = (divergence(logits) + divergence(logits.T)) / 2
    return mean_over_present(rows, present, local_rows)


def contrast_within(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE between the K vectors of a record and its K others, k with k: (B,), one value for each record.

    a, b: (B, K, D) vectors of any length. The mean over records is that of `mean_over_present`.
    """
    logits = _logits(a, b, scale)  # (B, K, K)
    own = logits.diagonal(dim1=1, dim2=2)
    return ((logits.logsumexp(2) + logits.logsumexp(1)) / 2 - own).mean(1)


@torch.no_grad()
def top1_within(a: Tensor, b: Tensor, present: Tensor) -> float:
    """Share of the K vectors of the present records whose own b is the nearest of the K of its record; NaN without records."""
    if not bool(present.any()):
        return float("nan")
    nearest = _logits(a[present], b[present], 1.0).argmax(2)
    return float((nearest == torch.arange(nearest.shape[1], device=nearest.device)).float().mean())


def phenotype_distances(phenotype: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (B, B) of phenotypes (B, Q) with NaN where unknown, and which pairs can be compared, (B, B) bool.

    The sum over the Q' phenotypes that both have is multiplied by Q / Q'. The distance of a record from itself is 0.
    """
    known = phenotype.isfinite()
    values = phenotype.nan_to_num(0.0, 0.0, 0.0)
    n_common = known.float() @ known.float().T
    # |x - y|^2 over common entries, without a (B, B, Q) tensor
    squares = values.square() @ known.float().T
    total = (squares + squares.T - 2 * values @ values.T).clamp(min=0.0)
    own = torch.eye(len(values), dtype=torch.bool, device=values.device)
    distance = (total * phenotype.shape[1] / n_common.clamp(min=1)).masked_fill(own, 0.0)
    return distance, (n_common > 0) | own


@torch.no_grad()
def top1(a: Tensor, b: Tensor, present: Tensor) -> float:
    """Share of the records with both anchors whose own b is the nearest to their a; NaN without such records."""
    if not bool(present.any()):
        return float("nan")
    cosine = _logits(a[present], b[present], 1.0)
    return float((cosine.argmax(1) == torch.arange(len(cosine), device=cosine.device)).float().mean())


def _logits(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """scale * cosine of every pair (..., B, B) of (..., B, D), in float32 even under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return scale * (F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).mT)


def _cross_entropy(logits: Tensor, counted: Tensor) -> Tensor:
    """-log softmax of the diagonal over the `counted` columns of each row, (B,)."""
    return logits.masked_fill(~counted, MASKED_LOGIT).logsumexp(1) - logits.diagonal()


def mean_over_present(rows: Tensor, present: Tensor, local_rows: slice = slice(None)) -> Tensor:
    """The sum of this process's present rows, divided by the mean number of present rows of a process; 0 without any.

    rows: (B,) values of the records of all processes; present: (B,) bool. The mean of all processes' values is the mean over
    the present rows of the whole batch, however they are spread over the processes.
    """
    share = len(rows[local_rows]) / max(len(rows), 1)
    n = (present.sum() * share).clamp(min=share)
    return torch.where(present, rows, 0.0 * rows)[local_rows].sum() / n
