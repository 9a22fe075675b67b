"""Two sequences that read each other, layer by layer: each has attention to itself, attention to the other, feed-forward."""

from __future__ import annotations

from torch import Tensor, nn

from leadwise.nn.transformer import Attention, FeedForward


class ReadingBlock(nn.Module):
    """Self-attention, attention to another sequence, feed-forward, each behind its LayerNorm."""

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
    """A stack of layers, each with one block a sequence; both read what the other was before the layer."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(ReadingBlock(width, heads) for _ in range(depth))
        self.second = nn.ModuleList(ReadingBlock(width, heads) for _ in range(depth))

    def forward(
        self, first: Tensor, second: Tensor, first_real: Tensor | None = None, second_real: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Both sequences, as they came and after each layer."""
        found = [(first, second)]
        for one, other in zip(self.first, self.second):
            a, b = found[-1]
            found.append((one(a, b, first_real, second_real), other(b, a, second_real, first_real)))
        return found
