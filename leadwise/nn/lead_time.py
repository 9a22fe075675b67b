"""A masked autoencoder over lead x time patches: an encoder of the visible tokens and a decoder of the whole grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from leadwise.batch import to_device
from leadwise.nn import masking
from leadwise.nn.patches import ConvTokenizer, LinearTokenizer, NormedTokenizer, sincos
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
    checkpointing: bool = False  # recompute activations in the backward pass
    embedding_scale: float = 1.0  # factor on the encoder's lead and temporal embeddings at the start
    cross_pattern: bool = False  # a token attends to its own lead and its own time only (ECG-JEPA, arXiv 2410.08559)


@dataclass(frozen=True)
class Encoded:
    """The encoder's output for the visible patches of B records."""

    tokens: Tensor  # (B, V, D)
    index: Tensor  # (B, V) place of each token among the L * N patches
    real: Tensor | None  # (B, V) bool, false for padding tokens; None = all are real
    pooled: Tensor  # (B, D)
    count: Tensor | None = None  # (B, L) int64 on the host: the visible patches of each lead, if known


class LeadTimeEncoder(nn.Module):
    """Visible patches -> tokens with lead and temporal embeddings -> Transformer."""

    def __init__(self, shape: EncoderShape, tokenizer: ConvTokenizer | LinearTokenizer | NormedTokenizer) -> None:
        super().__init__()
        if shape.cross_pattern and (shape.separators or shape.pooling == "cls"):
            raise ValueError("cross_pattern: separators and a class token have no lead or time to attend to")
        self.shape = shape
        self.tokenizer = tokenizer
        self.spatial = lead_embeddings(shape.n_leads, shape.width)
        self.temporal = positions(shape.temporal, shape.n_patches, shape.width)
        if shape.embedding_scale != 1:
            with torch.no_grad():
                self.spatial.mul_(shape.embedding_scale)
                self.temporal.mul_(shape.embedding_scale)
        self.separator = nn.Parameter(0.02 * torch.randn(2, shape.width)) if shape.separators else None
        self.cls = nn.Parameter(0.02 * torch.randn(shape.width)) if shape.pooling == "cls" else None
        self.transformer = Transformer(shape.width, shape.depth, shape.heads, checkpointing=shape.checkpointing)

    def forward(
        self,
        patches: Tensor,
        visible: Tensor,
        first: Tensor | None = None,
        among: Tensor | None = None,
        count: Tensor | None = None,
    ) -> Encoded:
        """Encode the visible patches; hidden ones are neither tokenised nor encoded.

        patches: (B, L, N, P); visible: (B, L, N) bool. `first` (B,), for crops: the number of the crop's first patch
        among the patches of the whole signal. `among`: as in `masking.places`. `count`: (B, L) int64 on the host, the number of
        visible patches of each lead; without it, the device is read.
        """
        b, _, n_patches, _ = patches.shape

        # tokens of the visible patches, with the embeddings of their lead and time
        index, real = masking.places(visible.flatten(1), among, None if count is None else count.sum(-1))  # (B, V)
        chosen = masking.take(patches.flatten(1, 2), index)  # (B, V, P)
        x = self.tokenizer(chosen)  # (B, V, D)
        time = index % n_patches if first is None else index % n_patches + first[:, None]
        x = x + self.spatial[index // n_patches] + self.temporal[time]

        # class token and separators go in front, and out again after the Transformer
        extra = self._extra_tokens(b, visible)  # (B, E, D), and which of them are real (B, E)
        n_extra = extra[0].shape[1]
        if n_extra:
            x = torch.cat([extra[0], x], dim=1)
            if real is not None or not bool((extra[1] if count is None else count > 0).all()):
                real_tokens = real if real is not None else torch.ones_like(index, dtype=torch.bool)
                real = torch.cat([extra[1], real_tokens], dim=1)
        x = self.transformer(x, self._same_lead_or_time(index, real, n_patches) if self.shape.cross_pattern else real)
        if self.cls is not None:
            pooled = x[:, 0]
        x = x[:, n_extra:]
        real = None if real is None else real[:, n_extra:]

        # without a class token, the mean of the real tokens
        if self.cls is None:
            pooled = (
                x.mean(1) if real is None else (x * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
            )
        return Encoded(x, index, real, pooled, count)

    @staticmethod
    def _same_lead_or_time(index: Tensor, real: Tensor | None, n_patches: int) -> Tensor:
        """Which tokens each token attends to, (B, V, V) bool: real ones of its lead or time, and itself."""
        lead, time = index // n_patches, index % n_patches
        pairs = (lead[:, :, None] == lead[:, None]) | (time[:, :, None] == time[:, None])
        if real is None:
            return pairs
        own = torch.eye(index.shape[1], dtype=torch.bool, device=index.device)
        return (pairs & real[:, None]) | own  # padding attends to itself, because attention needs a token

    def _extra_tokens(self, b: int, visible: Tensor) -> tuple[Tensor, Tensor]:
        """The class token and the separators (B, E, D), and which are real (B, E): not those of leads without a visible patch."""
        extra = [] if self.cls is None else [self.cls.expand(b, 1, -1)]
        real = [] if self.cls is None else [torch.ones(b, 1, dtype=torch.bool, device=visible.device)]
        if self.separator is not None:
            marks = (self.separator[:, None] + self.spatial[None]).flatten(0, 1)  # (2 L, D)
            extra.append(marks.expand(b, -1, -1))
            real.append(visible.any(-1).repeat(1, 2))
        if not extra:
            return visible.new_zeros((b, 0, 0), dtype=torch.float32), visible.new_zeros((b, 0))
        return torch.cat(extra, dim=1), torch.cat(real, dim=1)


_PLACES_AT_ONCE = 4000  # places of all parts together, up to which `mean_over_parts` encodes them in one call


# patches (B, L, N, P), part (B, L, N) bool, `among` of `masking.places` and `count` of `LeadTimeEncoder` -> (B, D)
EncodePart = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def mean_over_parts(encode: EncodePart, patches: Tensor, usable: Tensor, on_host: Tensor, n_parts: int) -> Tensor:
    """(B, D): the mean of `encode` over `n_parts` parts of the usable patches that together hold each patch once.

    usable: (B, L, N) bool, and the same `on_host`. A part without a patch of a record does not count.
    """
    is_exporting = torch.compiler.is_exporting()
    if n_parts == 1:
        return encode(patches, usable, None, None if is_exporting else on_host.sum(-1))
    parts = masking.interleaved_parts(usable, n_parts)  # (K, B, L, N)
    on_host = parts if on_host is usable else masking.interleaved_parts(on_host, n_parts)
    nonempty = on_host.flatten(2).any(-1)  # (K, B): a short recording may have no patch in some part
    if is_exporting:
        return _weighted(_encode_parts_at_once(encode, patches, parts, nonempty), nonempty)

    # an empty part of a record is replaced by all of its patches, because attention needs a token
    if bool(nonempty.all()):
        count = on_host.sum(-1)  # (K, B, L)
    else:
        each_patch = on_host.any(0)
        parts = torch.where(to_device(nonempty, usable.device)[..., None, None], parts, usable)
        count = torch.where(nonempty[..., None, None], on_host, each_patch).sum(-1)
    if n_parts * usable.numel() <= _PLACES_AT_ONCE:
        # of few records: one call costs less than several
        each = encode(patches.repeat(n_parts, 1, 1, 1), parts.flatten(0, 1), None, count.flatten(0, 1))
        each = each.reshape(n_parts, len(patches), -1)
    else:
        each = torch.stack([encode(patches, part, None, number) for part, number in zip(parts, count)])
    return _weighted(each, nonempty)


def _weighted(each: Tensor, nonempty: Tensor) -> Tensor:
    """(B, D): the mean of each (K, B, D) over the K parts that are `nonempty` (K, B)."""
    weight = to_device(nonempty, each.device).to(each.dtype)[..., None]  # (K, B, 1)
    out: Tensor = (each * weight).sum(0) / weight.sum(0)
    return out


def _encode_parts_at_once(encode: EncodePart, patches: Tensor, parts: Tensor, nonempty: Tensor) -> Tensor:
    """`encode` of the K parts as one batch, (K, B, D); a part's unusable places are masked, so that lengths are fixed.

    Attention needs at least one token: a record's empty part is encoded whole, and its weight in the mean is 0.
    """
    n_parts, _, n_leads, n_patches = parts.shape
    among = torch.tensor(masking.part_indices(n_leads, n_patches, n_parts), device=parts.device)  # (K, M)
    part = parts | ~nonempty[..., None, None]
    rows = among[:, None].expand(-1, patches.shape[0], -1).flatten(0, 1)  # (K B, M)
    out = encode(patches.repeat(n_parts, 1, 1, 1), part.flatten(0, 1), rows, None)
    return out.reshape(n_parts, patches.shape[0], out.shape[-1])


def mean_by_lead(encoded: Encoded, n_leads: int, n_patches: int) -> Tensor:
    """The mean of the real tokens of each lead (B, L D); 0 for a lead without one."""
    tokens = encoded.tokens if encoded.real is None else encoded.tokens * encoded.real[..., None]
    real = torch.ones_like(encoded.index) if encoded.real is None else encoded.real.long()
    lead = encoded.index // n_patches  # (B, V)
    member = nn.functional.one_hot(lead, n_leads) * real[..., None]  # (B, V, L)
    total = member.to(tokens.dtype).mT @ tokens  # (B, L, D)
    return (total / member.sum(1).clamp(min=1)[..., None]).flatten(1)


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a decoder, and its kind of attention."""

    width: int = 256
    depth: int = 4
    heads: int = 8
    attention: Literal["joint", "leadwise", "cross"] = "joint"  # see LeadTimeDecoder


class LeadTimeDecoder(nn.Module):
    """Visible tokens -> samples of every patch.

    joint: self-attention over the whole grid, with a shared mask embedding in hidden places. leadwise: the same within each
    lead. cross: hidden places attend to the visible tokens and not to each other; the output of visible places is zero.
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
        self,
        encoded: Encoded,
        usable: Tensor,
        condition: Tensor | None = None,
        visible: Tensor | None = None,
        on_host: Tensor | None = None,
    ) -> Tensor:
        """Predicted patches (B, L, N, P).

        usable: (B, L, N) bool; other patches are neither attended to nor predicted. condition: (B, width) or None, an
        additional token that every place attends to. visible: (B, L, N) bool, the patches that were encoded; only "cross"
        needs it. on_host: `usable` on the host; without it, the device is read.

        Raises:
            ValueError: "cross" without `visible`.
        """
        known = self.enter(encoded.tokens).to(self.mask.dtype)  # (B, V, D')
        if self.shape.attention == "cross":
            if visible is None:
                raise ValueError(
                    "decoder 'cross' predicts hidden patches only: pass visible=, the patches that were encoded"
                )
            n_hidden = None
            if on_host is not None and encoded.count is not None:
                n_hidden = (on_host.sum(-1) - encoded.count).sum(-1)  # (B,)
            return self._cross(known, encoded, usable & ~visible, condition, n_hidden)
        all_usable = bool((usable if on_host is None else on_host).all())
        return self._grid(known, encoded, usable, condition, all_usable)

    def _cross(
        self, known: Tensor, encoded: Encoded, hidden: Tensor, condition: Tensor | None, n_hidden: Tensor | None
    ) -> Tensor:
        """The hidden patches (B, L, N, P), each from the visible tokens alone; zero elsewhere."""
        b, n_leads, n_patches = hidden.shape
        place = self.spatial[:, None] + self.temporal  # (L, N, D')
        place = place.flatten(0, 1)

        # memory: the visible tokens with their places, and the condition in front
        memory, real = known + place[encoded.index], encoded.real
        if condition is not None:
            memory = torch.cat([condition[:, None].to(memory.dtype), memory], dim=1)
            real = None if real is None else nn.functional.pad(real, (1, 0), value=True)
        memory = self.norm_memory(memory)

        # one query per hidden place
        index, real_queries = masking.places(hidden.flatten(1), count=n_hidden)  # (B, H)
        x = self.mask + place[index]  # (B, H, D')
        for block in self.blocks:
            x = block(x, memory, real)
        samples: Tensor = self.leave(self.norm(x))

        # back to the grid; padding queries index places that are not hidden, which must stay zero
        if real_queries is not None:
            samples = samples * real_queries[..., None]
        grid = samples.new_zeros(b, n_leads * n_patches, samples.shape[-1])
        grid = grid.scatter(1, index[..., None].expand(-1, -1, samples.shape[-1]), samples)
        return grid.reshape(b, n_leads, n_patches, -1)

    def _grid(
        self, known: Tensor, encoded: Encoded, usable: Tensor, condition: Tensor | None, all_usable: bool
    ) -> Tensor:
        """All patches (B, L, N, P), by self-attention over the grid or within each lead."""
        b = len(usable)
        n_leads, n_patches = self.grid

        # the grid: visible tokens in their places, the mask embedding elsewhere
        x = self.mask.expand(b, n_leads * n_patches, -1)
        if encoded.real is not None:  # a padding token must not overwrite the place that it indexes
            there = masking.take(x, encoded.index)
            known = torch.where(encoded.real[..., None], known, there)
        x = x.scatter(1, encoded.index[..., None].expand(-1, -1, x.shape[-1]), known)
        x = x.reshape(b, n_leads, n_patches, -1) + self.spatial[:, None] + self.temporal  # (B, L, N, D')

        # one sequence per record, or one per lead
        real = None if all_usable else usable
        if self.shape.attention == "leadwise":
            x, real = x.flatten(0, 1), None if real is None else real.flatten(0, 1)  # (B L, N, D')
            condition = None if condition is None else condition.repeat_interleave(n_leads, 0)
        else:
            x, real = x.flatten(1, 2), None if real is None else real.flatten(1, 2)  # (B, L N, D')
        if real is not None:  # attention needs at least one token, also where a lead has no usable patch
            real = real | ~real.any(-1, keepdim=True)

        # the condition is a token in front, removed again afterwards
        if condition is not None:
            x = torch.cat([condition[:, None], x], dim=1)
            real = None if real is None else nn.functional.pad(real, (1, 0), value=True)
        x = self.transformer(x, real)
        if condition is not None:
            x = x[:, 1:]
        samples: Tensor = self.leave(x)
        return samples.reshape(b, n_leads, n_patches, -1)


def positions(kind: Temporal, n: int, width: int) -> nn.Parameter:
    """Temporal embeddings (n, width), shared by all leads: fixed sine-cosine, or learnable with that start.

    They start at the scale of the tokens. With a start near zero, a decoder needs thousands of steps before it relates a
    hidden patch to the visible patches of the same time.
    """
    return nn.Parameter(sincos(n, width), requires_grad=kind == "learnable")


def lead_embeddings(n_leads: int, width: int) -> nn.Parameter:
    """Learnable lead embeddings (L, width), at the scale of the tokens for the same reason."""
    return nn.Parameter(0.5 * torch.randn(n_leads, width))
