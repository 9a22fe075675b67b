"""Pre-norm Transformer blocks: an encoder over a set of tokens, and decoders with cross-attention to a memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    """Multi-head attention of queries over a memory, by PyTorch's fused kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        # Queries and keys start with equal weights, so that a token first attends to similar tokens: a hidden patch to patches
        # of the same time. From unrelated random weights, reconstruction stays at predicting zero for a long time.
        nn.init.orthogonal_(self.query.weight)
        with torch.no_grad():
            self.key_value.weight[:width] = self.query.weight

    def forward(self, x: Tensor, memory: Tensor, real: Tensor | None = None, causal: bool = False) -> Tensor:
        """x: (B, S, D), memory: (B, M, D), real: (B, M) bool, or (B, S, M) for each query, False = masked -> (B, S, D)."""
        b, s, d = x.shape
        each = d // self.heads  # explicit: with zero queries, reshape could not infer it
        q = self.query(x).reshape(b, s, self.heads, each).transpose(1, 2)  # (B, H, S, D/H)
        k, v = self.key_value(memory).reshape(b, memory.shape[1], 2, self.heads, each).permute(2, 0, 3, 1, 4)
        mask = None
        if real is not None:
            mask = real[:, None, None, :] if real.ndim == 2 else real[:, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(b, s, d))
        return out


class FeedForward(nn.Sequential):
    def __init__(self, width: int, ratio: float) -> None:
        hidden = round(width * ratio)
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width, mlp_ratio)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        normed = self.norm_attention(x)
        x = x + self.attention(normed, normed, real)
        out: Tensor = x + self.feed(self.norm_feed(x))
        return out


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm. Position embeddings are added by the caller."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, checkpointing: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.checkpointing = checkpointing  # recompute activations in the backward pass: less memory, more time

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x: (B, S, D) -> (B, S, D); real: (B, S) bool, False = padding, or (B, S, S), the tokens that each token attends to."""
        for block in self.blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, real, use_reentrant=False)
            else:
                x = block(x, real)
        out: Tensor = self.norm(x)
        return out


class CrossBlock(nn.Module):
    """Cross-attention to a memory and feed-forward; the queries do not attend to each other."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm_cross = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width, mlp_ratio)

    def forward(self, x: Tensor, memory: Tensor, real: Tensor | None) -> Tensor:
        """x: (B, S, D), memory: (B, M, D), real: (B, M) bool or None -> (B, S, D)."""
        x = x + self.cross(self.norm_cross(x), memory, real)
        out: Tensor = x + self.feed(self.norm_feed(x))
        return out


class CausalBlock(nn.Module):
    """Causal self-attention, cross-attention to a memory, feed-forward."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width, mlp_ratio)

    def forward(self, x: Tensor, memory: Tensor, real: Tensor | None) -> Tensor:
        normed = self.norm_self(x)
        x = x + self.attention(normed, normed, causal=True)
        x = x + self.cross(self.norm_cross(x), memory, real)
        out: Tensor = x + self.feed(self.norm_feed(x))
        return out
