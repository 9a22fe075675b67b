"""Local alignment of report statements with beats of an ECG.

After GLoRIA (Huang et al., ICCV 2021), which aligns the words of a report with regions of an image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.losses.logits import MASKED_LOGIT
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.text import Tokenizer, Tokens

LEAST = 1e-6  # lower bound of squared lengths, which are divided by


def closing_words(tokenizer: Tokenizer) -> Tensor:
    """(V,) bool mask of the tokens that end a statement: those that end with a period."""
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return torch.tensor([word is not None and word.endswith(".") for word in words])


def statement_numbers(tokens: Tokens, closing: Tensor, special: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Statement number of each token (B, S), and (B, S) bool, True for tokens that belong to a statement.

    A statement ends with a period or with the report. Text after the first `most` statements belongs to the last of them. A
    report without words is one statement of its special tokens, so that every report has at least one.
    """
    ordinary = tokens.real & ~torch.isin(tokens.ids, special)
    ordinary = torch.where(ordinary.any(-1, keepdim=True), ordinary, tokens.real)
    closes = closing[tokens.ids] & ordinary
    return (closes.cumsum(-1) - closes.long()).clamp(max=most - 1), ordinary


def statement_means(states: Tensor, number: Tensor, inside: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Mean of each statement's token states (B, S, D): (B, most, D), and the number of statements per report, (B,) int64."""
    member = F.one_hot(number, most) * inside[..., None]  # (B, S, most)
    n = member.sum(1)  # (B, most)
    total = torch.einsum("bsm,bsd->bmd", member.to(states.dtype), states)
    return total / n.clamp(min=1)[..., None], (n > 0).sum(-1)


def local_similarity(
    statements: Tensor, n_statements: Tensor, beats: Tensor, attend: float = 4.0, matter: float = 5.0
) -> Tensor:
    """Similarity (G, G) of each report's statements (G, M, D) and each ECG's beats (G, Q, D); `n_statements` (G,) are valid.

    With s_m a statement and b_q a beat, of report i and ECG j,

        a_mq   = softmax_q(attend * softmax_m(s_m . b_q))       attention of the statement over beats
        c_m    = sum_q a_mq b_q                                 attended beats
        S_ij   = log sum_m exp(matter * cos(s_m, c_m))
    """
    valid = torch.arange(statements.shape[1], device=statements.device) < n_statements[:, None]  # (G, M)
    dots = torch.einsum("imd,jqd->ijmq", statements, beats)
    claimed = dots.masked_fill(~valid[:, None, :, None], MASKED_LOGIT).softmax(2)
    attention = (attend * claimed).softmax(3)  # (G, G, M, Q)
    # cos(s_m, c_m) from the beats' Gram matrix: c_m itself, D numbers for every pair, is never stored
    gram = torch.einsum("jqd,jrd->jqr", beats, beats)
    length = torch.einsum("ijmq,jqr,ijmr->ijm", attention, gram, attention).clamp(min=LEAST).sqrt()
    own = statements.square().sum(-1).clamp(min=LEAST).sqrt()  # (G, M)
    cosine = (attention * dots).sum(3) / (length * own[:, None])
    return (matter * cosine).masked_fill(~valid[:, None], MASKED_LOGIT).logsumexp(2)


def local_nce(similarity: Tensor, report: Tensor, scale: float, treat: SameReport) -> Tensor:
    """Contrastive loss per record (G,): mean of the cross-entropies report -> ECG and ECG -> report.

    similarity: (G, G), report by ECG; report and treat as in `info_nce` (losses/multimodal.py).
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
    """Groups of `size` consecutive rows out of n that contain any of `local_rows`, and which of their rows are local."""
    spans = []
    for begin in range(0, n, size):
        end = min(begin + size, n)
        first, last = max(begin, local_rows.start or 0), min(end, n if local_rows.stop is None else local_rows.stop)
        if first < last:
            spans.append((slice(begin, end), slice(first - begin, last - begin)))
    return spans
