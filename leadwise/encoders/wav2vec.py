"""The encoder of wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477) as ECG models use it, with the names of fairseq.

Convolutions shorten the signal, a convolution of the tokens gives them positions, and post-norm Transformer layers follow.
ECG-FM, MELP and D-BETA read all leads in the first convolution, HuBERT-ECG one signal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolution = tuple[int, int, int]  # channels, kernel size, stride

FOUR_HALVINGS: tuple[Convolution, ...] = ((256, 2, 2),) * 4


class Wav2Vec(nn.Module):
    """(B, L, T) -> (B, N, D): tokens, in two steps, so that a caller can put one before the others."""

    def __init__(
        self,
        n_leads: int = 12,
        convolutions: Sequence[Convolution] = FOUR_HALVINGS,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        position_kernel: int = 128,
        position_groups: int = 16,
    ) -> None:
        super().__init__()
        self.feature_extractor = _FeatureExtractor(n_leads, convolutions)
        channels = convolutions[-1][0]
        self.layer_norm = nn.LayerNorm(channels)
        self.post_extract_proj = nn.Linear(channels, width)
        self.conv_pos = _ConvPosition(width, position_kernel, position_groups)
        self.encoder = _PostNormLayers(width, depth, heads, hidden)

    def tokens(self, x: Tensor) -> Tensor:
        """x: (B, L, T) -> (B, N, D), with positions."""
        features = self.layer_norm(self.feature_extractor(x).transpose(1, 2))
        projected: Tensor = self.post_extract_proj(features)
        positions: Tensor = self.conv_pos(projected)
        return projected + positions

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, T) -> (B, N, D)."""
        out: Tensor = self.encoder(self.tokens(x))
        return out


class _FeatureExtractor(nn.Module):
    """Convolutions without bias, each with a GELU; the first is normalised per channel over time."""

    def __init__(self, n_leads: int, convolutions: Sequence[Convolution]) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList()
        for number, (channels, kernel, stride) in enumerate(convolutions):
            norm = [nn.GroupNorm(channels, channels)] if number == 0 else []
            conv = nn.Conv1d(
                n_leads if number == 0 else convolutions[number - 1][0], channels, kernel, stride, bias=False
            )
            # fairseq has a dropout in second place, from which the numbers in the names follow
            self.conv_layers.append(nn.Sequential(conv, nn.Identity(), *norm, nn.GELU()))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.conv_layers:
            x = layer(x)
        return x


class _ConvPosition(nn.Module):
    """Grouped convolution over the tokens, with weight norm, and a GELU."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.pos_conv = nn.Sequential(_NormedConv(width, kernel, groups), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, D) -> (B, N, D)."""
        out: Tensor = self.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        return out


class _NormedConv(nn.Module):
    """Convolution whose weight is g v / |v|, with one length g for each place of the kernel."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_v = nn.Parameter(2 / (kernel * width) ** 0.5 * torch.randn(width, width // groups, kernel))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, D, N) -> (B, D, N); an even kernel gives one place more, which is dropped."""
        kernel = self.weight_v.shape[2]
        normed = self.weight_g * self.weight_v / self.weight_v.norm(dim=(0, 1), keepdim=True)
        return F.conv1d(x, normed, self.bias, padding=kernel // 2, groups=self.groups)[..., : x.shape[2]]


class _PostNormLayers(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(_PostNormLayer(width, heads, hidden) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, D) -> (B, N, D)."""
        x = self.layer_norm(x)
        for layer in self.layers:
            x = layer(x)
        return x


class _PostNormLayer(nn.Module):
    """Self-attention and feed-forward, each followed by the sum with its input and a norm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _PostNormAttention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x))
        out: Tensor = self.final_layer_norm(x + self.fc2(F.gelu(self.fc1(x))))
        return out


class _PostNormAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, N, D) -> (B, N, D)."""
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        out: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out
