"""Heads: modules that map an encoder's output to a vector in another space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.losses.logits import MASKED_LOGIT
from leadwise.nn.transformer import Attention

Ending = Literal["linear", "bare", "norm", "bare_norm"]


class Head(nn.Sequential):
    """An MLP of `depth` linear layers, with GELU and LayerNorm between them."""

    def __init__(self, width: int, out: int, depth: int = 2) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)]
        super().__init__(*layers, nn.Linear(width, out))


class Projector(nn.Sequential):
    """Linear maps of these widths, with batch norm and ReLU between them.

    `ends`: "linear", a last map with bias; "bare", a last map without bias, for a norm that follows elsewhere; "norm" and
    "bare_norm", a batch norm after the last map, the latter without learnable scale and shift. A linear map before a norm
    has no bias, because the norm would remove it.
    """

    def __init__(self, *widths: int, ends: Ending = "linear") -> None:
        layers: list[nn.Module] = []
        for number, (width, out) in enumerate(pairwise(widths), start=1):
            last = number == len(widths) - 1
            layers.append(nn.Linear(width, out, bias=last and ends == "linear"))
            if not last:
                layers += [BatchNorm(out), nn.ReLU()]
            elif ends in ("norm", "bare_norm"):
                layers.append(BatchNorm(out, affine=ends == "norm"))
        super().__init__(*layers)


class AttentionPool(nn.Module):
    """A feature map -> one vector: attention of a learnable token over all positions and itself, then one linear map."""

    def __init__(self, width: int, n_positions: int, heads: int, out: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, n_positions + 1, width) / width)
        self.attention = Attention(width, heads)
        self.project = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N) -> (B, out)."""
        tokens = (
            torch.cat([self.token.expand(x.shape[0], -1, -1), x.transpose(1, 2)], dim=1) + self.position
        )  # (B, 1 + N, D)
        out: Tensor = self.project(self.attention(tokens[:, :1], tokens)[:, 0])
        return out


class QueryPool(nn.Module):
    """Tokens -> a few vectors: attention of learnable queries over all tokens, then a LayerNorm."""

    def __init__(self, width: int, out: int, heads: int, n_queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(n_queries, out))
        self.norm_tokens = nn.LayerNorm(width)
        self.enter = nn.Linear(width, out)
        self.attention = Attention(out, heads)
        self.norm = nn.LayerNorm(out)

    def forward(self, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        """tokens: (B, N, D); real: (B, N) bool, False = not attended to -> (B, Q, out)."""
        known = self.enter(self.norm_tokens(tokens))
        out: Tensor = self.norm(self.attention(self.queries.expand(tokens.shape[0], -1, -1), known, real))
        return out


class SortedPool(nn.Module):
    """Tokens -> one vector, by GPO (Chen et al., arXiv 2011.04305, CVPR 2021): weights of the sorted values of each dimension.

    A GRU reads the ranks 0, 1, ... and gives each a score; a softmax over the ranks that a record has makes them weights. It
    includes the mean and the maximum. The GRU reads in one direction, so that weights do not depend on padding.
    """

    def __init__(self, width: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.width, self.temperature = width, temperature
        self.read_ranks = nn.GRU(width, width, batch_first=True)
        self.score = nn.Linear(width, 1, bias=False)  # a bias would change nothing in the softmax
        nn.init.normal_(self.score.weight, std=0.01)  # starts near the mean

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """tokens: (B, N, D); real: (B, N) bool, at least one in each record -> (B, D)."""
        n, device = tokens.shape[1], tokens.device
        frequency = torch.exp(torch.arange(0, self.width, 2, device=device) * (-math.log(10000.0) / self.width))
        angle = torch.arange(n, device=device)[:, None] * frequency
        ranks = torch.cat([angle.sin(), angle.cos()], dim=1)  # (N, width)
        score = self.score(self.read_ranks(ranks[None])[0])[..., 0].float() / self.temperature  # (1, N)
        exists = torch.arange(n, device=device)[None] < real.sum(1, keepdim=True)
        weight = score.masked_fill(~exists, MASKED_LOGIT).softmax(-1)  # (B, N)
        descending = tokens.masked_fill(~real[..., None], -torch.inf).sort(dim=1, descending=True).values
        out: Tensor = (descending.masked_fill(~exists[..., None], 0.0) * weight[..., None]).sum(1)
        return out


class GaussianHead(nn.Module):
    """Tokens -> a Gaussian: the mean, a unit vector, and the log-variance of each dimension. Each has a map and a pool.

    The total variance starts at about 0.25: at 1 for each dimension it would be far larger than any distance of unit vectors.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Linear(width, out), nn.Linear(width, out)
        self.pool_mean, self.pool_log_variance = SortedPool(), SortedPool()
        nn.init.normal_(self.log_variance.weight, std=0.1 / math.sqrt(width))
        nn.init.constant_(self.log_variance.bias, math.log(0.25 / out))

    def forward(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (B, N, D); real: (B, N) bool -> mean (B, out) and log-variance (B, out)."""
        mean = self.pool_mean(self.mean(tokens), real)
        return F.normalize(mean.float(), dim=-1), self.pool_log_variance(self.log_variance(tokens), real).float()


_LAYERS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


def layers_of(described: Sequence[str], width: int) -> list[nn.Module]:
    """Return the layers that `described_layers` describes, with fresh weights, for inputs of `width`.

    Raises:
        ValueError: a layer is unknown.
    """
    layers: list[nn.Module] = []
    for text in described:
        name, _, size = text.partition(" ")
        if name == "linear" and size.isdecimal():
            layers.append(nn.Linear(width, int(size)))
            width = int(size)
        elif text == "norm":
            layers.append(nn.LayerNorm(width))
        elif text in _LAYERS:
            layers.append(_LAYERS[text]())
        else:
            raise ValueError(f"layer {text!r} is unknown; use 'linear WIDTH', 'norm', {', '.join(map(repr, _LAYERS))}")
    if not any(isinstance(layer, nn.Linear) for layer in layers):
        raise ValueError("there is no linear layer; add 'linear WIDTH'")
    return layers


def described_layers(head: nn.Module) -> list[str]:
    """Return the layers of a head as texts, such as "linear 256", "gelu" and "norm", from which `layers_of` builds it.

    Raises:
        ValueError: the head has a layer that no text describes.
    """
    names = {kind: name for name, kind in _LAYERS.items()}
    described = []
    for layer in head if isinstance(head, nn.Sequential) else [head]:
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            described.append(f"linear {layer.out_features}")
        elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine and layer.eps == nn.LayerNorm(1).eps:
            described.append("norm")
        elif type(layer) in names and not list(layer.children()):
            described.append(names[type(layer)])
        else:
            raise ValueError(f"a head with the layer {type(layer).__name__} cannot be copied")
    return described
