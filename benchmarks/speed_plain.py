"""The plain ways that the package's steps are held against, on the package's own modules and weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from leadwise.batch import Batch
from leadwise.nn import masking
from leadwise.nn.lead_time import Encoded
from leadwise.nn.losses.multimodal import patch_reconstruction
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import patchify


def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V with the whole table of weights in memory; (B, H, S, d) as torch's own function takes."""
    weights = (query @ key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        keep = attn_mask.dtype == torch.bool
        weights = weights.masked_fill(~attn_mask, -torch.inf) if keep else weights + attn_mask
    return F.dropout(weights.softmax(-1), dropout_p) @ value


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Every attention of the block is written out."""
    fused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = softmax_attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused  # type: ignore[assignment]


@contextlib.contextmanager
def padded(bert: nn.Module, n_tokens: int) -> Iterator[None]:
    """Every report that this BERT reads in the block is padded to `n_tokens`; states of padding are cut off again."""
    short = bert.forward

    def forward(input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
        n = input_ids.shape[1]
        room = (0, n_tokens - n)
        out = short(input_ids=F.pad(input_ids, room), attention_mask=F.pad(attention_mask, room), **more)
        pooler = getattr(out, "pooler_output", None)
        return SimpleNamespace(last_hidden_state=out.last_hidden_state[:, :n], pooler_output=pooler)

    bert.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        bert.forward = short  # type: ignore[method-assign]


class EcgBranch:
    """Eq. 2 alone on one batch: tokeniser, encoder, decoder, squared error on hidden patches; no report."""

    def __init__(self, method: Any, batch: Batch) -> None:
        self.method, self.batch, self.config = method, batch, method.config
        self.n_patches = self.config.n_patches

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled patches (B, L, N, P), the usable ones and the visible ones (B, L, N)."""
        batch = self.batch
        patches = patchify(normalize(batch.ecg, batch.observed, self.method.signal.normalize), self.n_patches)
        usable = patchify(batch.observed, self.n_patches).all(-1)
        return patches, usable, masking.draw_visible(usable, self.config.mask_ratio)

    def loss(self) -> Tensor:
        """As the package does it: only visible patches are tokenised and encoded."""
        patches, usable, visible = self.draw()
        return self.error(self.method.ecg(patches, visible), patches, usable, visible)

    def all_tokens_loss(self, hear_hidden: bool = True) -> Tensor:
        """All tokens through the encoder, hidden ones as a mask token.

        Without `hear_hidden`, no token attends to those, so that the loss is that of `loss`: for checking. It would be the
        slower one.
        """
        patches, usable, visible = self.draw()
        ecg = self.method.ecg
        b, n_leads, n_patches, _ = patches.shape
        x = torch.where(visible[..., None], ecg.tokenizer(patches), torch.zeros(()))  # (B, L, N, D)
        x = (x + ecg.spatial[:, None] + ecg.temporal).flatten(1, 2)
        x = ecg.transformer(x, None if hear_hidden else visible.flatten(1))
        index = torch.arange(n_leads * n_patches).expand(b, -1)
        if not hear_hidden:
            index, _ = masking.places(visible.flatten(1))
            x = masking.take(x, index)
        return self.error(Encoded(x, index, None, x.mean(1)), patches, usable, visible)

    def error(self, encoded: Encoded, patches: Tensor, usable: Tensor, visible: Tensor) -> Tensor:
        record = patches.var((1, 2, 3), correction=0, keepdim=True)
        spread = (patches.var(-1, correction=0, keepdim=True) + 0.01 * record + 1e-6).sqrt()
        target = (patches - patches.mean(-1, keepdim=True)) / spread
        predicted = self.method.ecg_decoder(encoded, usable, None, visible)
        return patch_reconstruction(predicted, target, usable & ~visible)


def learn(module: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Forward and backward, gradients thrown away."""
    loss().backward()
    module.zero_grad(set_to_none=True)


def gigaflop(work: Callable[[], object]) -> float:
    """Products of `work` in GFLOP, two for a multiply-add, attention's included: it is written out to be counted."""
    with written_out(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9
