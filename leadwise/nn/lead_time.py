"""A masked autoencoder over lead x time patches: an encoder of the visible tokens, a decoder of the whole grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from leadwise.nn import masking
from leadwise.nn.patches import (
    ConvTokenizer,
    LinearTokenizer,
    NormedTokenizer,
    sincos,
)
from leadwise.nn.transformer import CrossBlock, Transformer

Temporal = Literal["learnable", "sincos"]


@dataclass(frozen=True)
class EncoderShape:
    """The sizes of an encoder over L leads x N patches of P samples."""

    n_leads: int
    n_patches: int
    patch_samples: int
    width: int
    depth: int
    heads: int
    temporal: Temporal = "learnable"
    pooling: Literal["mean", "cls"] = "mean"
    separators: bool = False  # one token before and one after each lead
    checkpointing: bool = False


@dataclass(frozen=True)
class Encoded:
    """What the encoder made of the patches it saw."""

    tokens: Tensor  # (B, V, D)
    index: Tensor  # (B, V) place of each token among the L * N patches
    real: Tensor | None  # (B, V) bool, false on fillers; None = all are real
    pooled: Tensor  # (B, D)


class LeadTimeEncoder(nn.Module):
    """Visible patches -> tokens with lead and temporal embeddings -> Transformer."""

    def __init__(self, shape: EncoderShape, tokenizer: ConvTokenizer | LinearTokenizer | NormedTokenizer) -> None:
        super().__init__()
        self.shape = shape
        self.tokenizer = tokenizer
        self.spatial = lead_embeddings(shape.n_leads, shape.width)
        self.temporal = positions(shape.temporal, shape.n_patches, shape.width)
        self.separator = nn.Parameter(0.02 * torch.randn(2, shape.width)) if shape.separators else None
        self.cls = nn.Parameter(0.02 * torch.randn(shape.width)) if shape.pooling == "cls" else None
        self.transformer = Transformer(shape.width, shape.depth, shape.heads, checkpointing=shape.checkpointing)

    def forward(self, patches: Tensor, visible: Tensor, first: Tensor | None = None) -> Encoded:
        """patches: (B, L, N, P); visible: (B, L, N) bool. Hidden patches are neither tokenised nor encoded.

        Of a crop, `first` (B,) is the number of its first patch among those of the promised time.
        """
        b, _, n_patches, _ = patches.shape
        index, real = masking.places(visible.flatten(1))  # (B, V)
        chosen = masking.take(patches.flatten(1, 2), index)  # (B, V, P)
        x = self.tokenizer(chosen)  # (B, V, D)
        time = index % n_patches if first is None else index % n_patches + first[:, None]
        x = x + self.spatial[index // n_patches] + self.temporal[time]
        extra = self._extra_tokens(b, visible)  # (B, E, D), their reality (B, E)
        n_extra = extra[0].shape[1]
        if n_extra:
            x = torch.cat([extra[0], x], dim=1)
            if real is not None or not bool(extra[1].all()):
                shown = real if real is not None else torch.ones_like(index, dtype=torch.bool)
                real = torch.cat([extra[1], shown], dim=1)
        x = self.transformer(x, real)
        if self.cls is not None:
            pooled = x[:, 0]
        x = x[:, n_extra:]
        real = None if real is None else real[:, n_extra:]
        if self.cls is None:
            pooled = (
                x.mean(1) if real is None else (x * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
            )
        return Encoded(x, index, real, pooled)

    def _extra_tokens(self, b: int, visible: Tensor) -> tuple[Tensor, Tensor]:
        """The class token and the separators of leads that have anything visible, (B, E, D), with which are real."""
        extra = [] if self.cls is None else [self.cls.expand(b, 1, -1)]
        real = [] if self.cls is None else [torch.ones(b, 1, dtype=torch.bool, device=visible.device)]
        if self.separator is not None:
            marks = (self.separator[:, None] + self.spatial[None]).flatten(0, 1)  # (2 L, D)
            extra.append(marks.expand(b, -1, -1))
            real.append(visible.any(-1).repeat(1, 2))
        if not extra:
            return visible.new_zeros((b, 0, 0), dtype=torch.float32), visible.new_zeros((b, 0))
        return torch.cat(extra, dim=1), torch.cat(real, dim=1)


@dataclass(frozen=True)
class DecoderShape:
    width: int = 256
    depth: int = 4
    heads: int = 8
    attention: Literal["joint", "leadwise", "cross"] = "joint"  # who attends to whom; see LeadTimeDecoder


class LeadTimeDecoder(nn.Module):
    """Visible tokens -> samples of every patch.

    joint: the whole grid, a shared mask embedding in hidden places, attends to itself. leadwise: each lead by itself.
    cross: hidden places ask the visible tokens and do not hear each other; the samples of visible places are zeros.
    """

    def __init__(self, encoder: EncoderShape, shape: DecoderShape) -> None:
        super().__init__()
        self.shape, self.grid = shape, (encoder.n_leads, encoder.n_patches)
        self.enter = nn.Linear(encoder.width, shape.width)
        self.mask = nn.Parameter(0.02 * torch.randn(shape.width))
        self.spatial = lead_embeddings(encoder.n_leads, shape.width)
        self.temporal = positions(encoder.temporal, encoder.n_patches, shape.width)
        if shape.attention == "cross":
            self.norm_memory = nn.LayerNorm(shape.width)
            self.blocks = nn.ModuleList(CrossBlock(shape.width, shape.heads) for _ in range(shape.depth))
            self.norm = nn.LayerNorm(shape.width)
        else:
            self.transformer = Transformer(shape.width, shape.depth, shape.heads)
        self.leave = nn.Linear(shape.width, encoder.patch_samples)

    def forward(
        self, seen: Encoded, usable: Tensor, condition: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """Predicted patches (B, L, N, P). usable: (B, L, N) bool; the others are not attended to, nor asked for.

        condition: (B, width) or None, a token that every place may read. visible: (B, L, N) bool, those that were seen;
        only "cross" needs it.
        """
        known = self.enter(seen.tokens).to(self.mask.dtype)  # (B, V, D')
        if self.shape.attention == "cross":
            if visible is None:
                raise ValueError("decoder 'cross' asks for hidden patches only: tell it which were visible")
            return self._asked(known, seen, usable & ~visible, condition)
        return self._grid(known, seen, usable, condition)

    def _asked(self, known: Tensor, seen: Encoded, hidden: Tensor, condition: Tensor | None) -> Tensor:
        b, n_leads, n_patches = hidden.shape
        place = self.spatial[:, None] + self.temporal  # (L, N, D')
        place = place.flatten(0, 1)
        memory, real = known + place[seen.index], seen.real
        if condition is not None:
            memory = torch.cat([condition[:, None].to(memory.dtype), memory], dim=1)
            real = None if real is None else nn.functional.pad(real, (1, 0), value=True)
        memory = self.norm_memory(memory)
        index, asked = masking.places(hidden.flatten(1))  # (B, H)
        x = self.mask + place[index]  # (B, H, D')
        for block in self.blocks:
            x = block(x, memory, real)
        samples: Tensor = self.leave(self.norm(x))
        if asked is not None:
            samples = samples * asked[..., None]  # fillers point at places of their own, which stay zero
        grid = samples.new_zeros(b, n_leads * n_patches, samples.shape[-1])
        grid = grid.scatter(1, index[..., None].expand(-1, -1, samples.shape[-1]), samples)
        return grid.reshape(b, n_leads, n_patches, -1)

    def _grid(self, known: Tensor, seen: Encoded, usable: Tensor, condition: Tensor | None) -> Tensor:
        b = len(usable)
        n_leads, n_patches = self.grid
        x = self.mask.expand(b, n_leads * n_patches, -1)
        if seen.real is not None:  # a filler must not overwrite the place it points at
            there = masking.take(x, seen.index)
            known = torch.where(seen.real[..., None], known, there)
        x = x.scatter(1, seen.index[..., None].expand(-1, -1, x.shape[-1]), known)
        x = x.reshape(b, n_leads, n_patches, -1) + self.spatial[:, None] + self.temporal  # (B, L, N, D')
        real = None if bool(usable.all()) else usable
        if self.shape.attention == "leadwise":
            x, real = x.flatten(0, 1), None if real is None else real.flatten(0, 1)  # (B L, N, D')
            condition = None if condition is None else condition.repeat_interleave(n_leads, 0)
        else:
            x, real = x.flatten(1, 2), None if real is None else real.flatten(1, 2)  # (B, L N, D')
        if real is not None:  # attention needs something to read even where a lead is missing altogether
            real = real | ~real.any(-1, keepdim=True)
        if condition is not None:
            x = torch.cat([condition[:, None], x], dim=1)
            real = None if real is None else nn.functional.pad(real, (1, 0), value=True)
        x = self.transformer(x, real)
        if condition is not None:
            x = x[:, 1:]
        samples: Tensor = self.leave(x)
        return samples.reshape(b, n_leads, n_patches, -1)


def positions(kind: Temporal, n: int, width: int) -> nn.Parameter:
    """Temporal embeddings (n, width), shared by all leads: fixed sine-cosine, or learnable from that start.

    They begin at the scale of the tokens: from a start near zero, a decoder takes thousands of steps before it can tell
    which visible patch was recorded at the same time as a hidden one.
    """
    return nn.Parameter(sincos(n, width), requires_grad=kind == "learnable")


def lead_embeddings(n_leads: int, width: int) -> nn.Parameter:
    """Learnable lead embeddings (L, width), at the scale of the tokens for the same reason."""
    return nn.Parameter(0.5 * torch.randn(n_leads, width))
