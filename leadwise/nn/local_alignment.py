"""Statements of a report against beats of an ECG: what a report's tokens say together, and which stretch of the ECG shows it.

(GLoRIA: Huang et al., ICCV 2021, where words of a report seek regions of an image.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.losses.logits import MASKED_LOGIT
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.text import Tokenizer, Tokens

LEAST = 1e-6  # of a squared length that is divided by


def closing_words(tokenizer: Tokenizer) -> Tensor:
    """(V,) bool: tokens that end a statement, since a period is the last of them."""
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return torch.tensor([word is not None and word.endswith(".") for word in words])


def statement_numbers(tokens: Tokens, closing: Tensor, special: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The number of the statement that each token is in, (B, S), and which tokens are in one at all, (B, S) bool.

    A statement ends with a period, or with the report. What follows the last of `most` statements is part of it. A report
    without words is one statement of its special tokens, so that each has at least one.
    """
    ordinary = tokens.real & ~torch.isin(tokens.ids, special)
    ordinary = torch.where(ordinary.any(-1, keepdim=True), ordinary, tokens.real)
    closes = closing[tokens.ids] & ordinary
    return (closes.cumsum(-1) - closes.long()).clamp(max=most - 1), ordinary


def statement_means(states: Tensor, number: Tensor, inside: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(B, most, D): the mean of each statement's token states (B, S, D), and how many statements a report has, (B,) int64."""
    member = F.one_hot(number, most) * inside[..., None]  # (B, S, most)
    n = member.sum(1)  # (B, most)
    total = torch.einsum("bsm,bsd->bmd", member.to(states.dtype), states)
    return total / n.clamp(min=1)[..., None], (n > 0).sum(-1)


def local_similarity(
    statements: Tensor, n_said: Tensor, beats: Tensor, attend: float = 4.0, matter: float = 5.0
) -> Tensor:
    """(G, G): how well each report's statements (G, M, D) are found among each ECG's beats (G, Q, D); `n_said` (G,) are there.

    With s_m a statement and b_q a beat, of report i and ECG j,

        a_mq   = softmax_q(attend * softmax_m(s_m . b_q))       where the statement looks
        c_m    = sum_q a_mq b_q                                 what it sees
        S_ij   = log sum_m exp(matter * cos(s_m, c_m))
    """
    there = torch.arange(statements.shape[1], device=statements.device) < n_said[:, None]  # (G, M)
    dots = torch.einsum("imd,jqd->ijmq", statements, beats)
    claimed = dots.masked_fill(~there[:, None, :, None], MASKED_LOGIT).softmax(2)
    looks = (attend * claimed).softmax(3)  # (G, G, M, Q)
    # cos(s_m, c_m) by the beats' products with each other: c_m itself, D wide for every pair, is never held
    together = torch.einsum("jqd,jrd->jqr", beats, beats)
    length = torch.einsum("ijmq,jqr,ijmr->ijm", looks, together, looks).clamp(min=LEAST).sqrt()
    own = statements.square().sum(-1).clamp(min=LEAST).sqrt()  # (G, M)
    cosine = (looks * dots).sum(3) / (length * own[:, None])
    return (matter * cosine).masked_fill(~there[:, None], MASKED_LOGIT).logsumexp(2)


def local_nce(similarity: Tensor, report: Tensor, scale: float, treat: SameReport) -> Tensor:
    """(G,): for each record the mean of two cross-entropies, its report among all ECGs and its ECG among all reports.

    similarity: (G, G), report by ECG; report and treat as in `losses.info_nce`.
    """
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    same = (report[:, None] == report[None]).any(-1) | own
    logits = scale * similarity
    if treat == "ignore":
        logits = logits.masked_fill(same & ~own, MASKED_LOGIT)
    target = same if treat == "positive" else own

    def one_way(x: Tensor) -> Tensor:
        return x.logsumexp(1) - (x * target).sum(1) / target.sum(1)

    return (one_way(logits) + one_way(logits.T)) / 2


def groups(n: int, size: int, local_rows: slice) -> list[tuple[slice, slice]]:
    """The groups of `size` of n rows that contain any of `local_rows`, and which rows of each group those are."""
    found = []
    for begin in range(0, n, size):
        end = min(begin + size, n)
        first, last = max(begin, local_rows.start or 0), min(end, n if local_rows.stop is None else local_rows.stop)
        if first < last:
            found.append((slice(begin, end), slice(first - begin, last - begin)))
    return found
