"""A causal language model of GPT-2's architecture, which also attends to keys and values from outside of its text.

Pre-norm blocks, learned positions, output weights tied to the word embeddings (Radford et al. 2019). Written here and not
taken from `transformers`, because each layer's own key and value projections are applied to vectors of an ECG.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeyValues = tuple[Tensor, Tensor]  # keys and values of earlier places, each (B, H, P, D/H)


class SelfAttention(nn.Module):
    """Causal multi-head self-attention after P earlier places, all of which every query attends to."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def key_values(self, vectors: Tensor) -> KeyValues:
        """Return keys and values of vectors (B, K, D) by this layer's own projections."""
        width = vectors.shape[-1]
        weight, bias = self.query_key_value.weight[width:], self.query_key_value.bias[width:]
        keys, values = F.linear(vectors, weight, bias).chunk(2, dim=-1)
        return self._by_head(keys), self._by_head(values)

    def forward(self, x: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues]:
        """x: (B, S, D) -> (B, S, D), and the keys and values of all places so far."""
        b, s, d = x.shape
        q, k, v = (self._by_head(part) for part in self.query_key_value(x).chunk(3, dim=-1))
        n_past = 0
        if past is not None:
            n_past = past[0].shape[2]
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        visible = torch.ones(s, n_past + s, dtype=torch.bool, device=x.device).tril(n_past)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).reshape(b, s, d)), (k, v)

    def _by_head(self, x: Tensor) -> Tensor:
        b, s, d = x.shape
        return x.view(b, s, self.heads, d // self.heads).transpose(1, 2)


class LanguageBlock(nn.Module):
    """Pre-norm causal self-attention and feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues]:
        """x: (B, S, D) -> (B, S, D), and the keys and values of all places so far."""
        mixed, places = self.attention(self.norm_attention(x), past)
        x = x + self.drop(mixed)
        return x + self.drop(self.feed(self.norm_feed(x))), places


class CausalLM(nn.Module):
    """A causal language model over `n_words` tokens and at most `n_positions` places."""

    def __init__(self, n_words: int, width: int, depth: int, heads: int, n_positions: int, dropout: float) -> None:
        super().__init__()
        self.word = nn.Embedding(n_words, width)
        self.position = nn.Embedding(n_positions, width)
        self.blocks = nn.ModuleList(LanguageBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

        # GPT-2's initial weights: the maps that add to the residual stream are smaller by the number of such additions
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                adds = name.endswith(("attention.out.weight", "feed.2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if adds else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def key_values(self, vectors: Tensor) -> list[KeyValues]:
        """Return keys and values of vectors (B, K, D) for every layer, by each layer's own projections."""
        return [block.attention.key_values(vectors) for block in self.blocks]  # type: ignore[union-attr, operator]

    def forward(self, x: Tensor, begin: int, past: list[KeyValues] | None = None) -> tuple[Tensor, list[KeyValues]]:
        """Return the states (B, S, D) of S places, and every layer's keys and values of all places so far.

        Args:
            x: (B, S, D) embeddings without positions, such as `word(ids)`.
            begin: position of the first place.
            past: keys and values of earlier places, as this method or `key_values` returned them.
        """
        x = self.drop(x + self.position.weight[begin : begin + x.shape[1]])
        places = []
        for number, block in enumerate(self.blocks):
            x, own = block(x, None if past is None else past[number])
            places.append(own)
        return self.norm(x), places

    def logits(self, states: Tensor) -> Tensor:
        """Return the logit of each token (..., n_words) from states (..., D)."""
        return F.linear(states, self.word.weight)
