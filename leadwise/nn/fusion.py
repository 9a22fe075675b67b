"""Cross-modal fusion: two token sequences with self-attention, cross-attention to each other, and feed-forward layers."""

from __future__ import annotations

from torch import Tensor, nn

from leadwise.nn.transformer import Attention, FeedForward


class ReadingBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention to another sequence, feed-forward."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_other = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width, mlp_ratio)

    def forward(self, x: Tensor, other: Tensor, real: Tensor | None, other_real: Tensor | None) -> Tensor:
        """x: (B, S, D), other: (B, M, D), real: (B, S) and other_real: (B, M) bool or None -> (B, S, D)."""
        normed = self.norm_self(x)
        x = x + self.attention(normed, normed, real)
        x = x + self.cross(self.norm_cross(x), self.norm_other(other), other_real)
        out: Tensor = x + self.feed(self.norm_feed(x))
        return out


class Fusion(nn.Module):
    """A stack of layers with one block per sequence; both blocks attend to the other sequence as it was before the layer."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(ReadingBlock(width, heads) for _ in range(depth))
        self.second = nn.ModuleList(ReadingBlock(width, heads) for _ in range(depth))

    def forward(
        self, first: Tensor, second: Tensor, first_real: Tensor | None = None, second_real: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Both sequences before the first layer and after each layer: `depth` + 1 pairs of (B, S, D) and (B, M, D)."""
        states = [(first, second)]
        for one, other in zip(self.first, self.second):
            a, b = states[-1]
            states.append((one(a, b, first_real, second_real), other(b, a, second_real, first_real)))
        return states
