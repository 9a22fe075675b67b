"""A lead-wise masked autoencoder in the architecture of ST-MEM, written for comparing speed, not for use.

Patch -> LayerNorm, linear, LayerNorm; frozen sine-cosine times; in each lead 75 % of the patches hidden, drawn for each
lead alone; then a learnable lead embedding, and one shared separator token before and after each lead; a Transformer over
the visible tokens of all leads. The decoder, narrower, reads each lead by itself with the same weights, mask tokens in the
hidden places. Mean squared error on hidden patches, each brought to mean 0 and deviation 1.

Blocks and their fused attention are those of the package: what is compared is the architecture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leadwise.nn.masking import draw_visible, places, take
from leadwise.nn.patches import patchify, sincos
from leadwise.nn.transformer import Transformer


class StMem(nn.Module):
    def __init__(
        self,
        n_leads: int,
        n_patches: int,
        patch_samples: int,
        width: int,
        depth: int,
        heads: int,
        decoder: tuple[int, int, int] = (256, 4, 4),  # width, depth, heads
        mask_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.grid, self.mask_ratio = (n_leads, n_patches), mask_ratio
        decoder_width, decoder_depth, decoder_heads = decoder
        self.token = nn.Sequential(
            nn.LayerNorm(patch_samples), nn.Linear(patch_samples, width), nn.LayerNorm(width)
        )  # fmt: skip
        self.register_buffer("time", sincos(n_patches + 2, width))  # a place before and after for the separators
        self.separator = nn.Parameter(0.02 * torch.randn(width))
        self.lead = nn.Parameter(0.02 * torch.randn(n_leads, width))
        self.encoder = Transformer(width, depth, heads)
        self.enter = nn.Linear(width, decoder_width)
        self.mask = nn.Parameter(0.02 * torch.randn(decoder_width))
        self.register_buffer("decoder_time", sincos(n_patches + 2, decoder_width))
        self.decoder = Transformer(decoder_width, decoder_depth, decoder_heads)
        self.leave = nn.Linear(decoder_width, patch_samples)

    def forward(self, ecg: Tensor) -> Tensor:
        """The loss on ecg (B, L, T)."""
        n_leads, n_patches = self.grid
        b = len(ecg)
        patches = patchify(ecg, n_patches)  # (B, L, N, P)
        visible = draw_visible(torch.ones(patches.shape[:3], dtype=torch.bool, device=ecg.device), self.mask_ratio)
        index, _ = places(visible.flatten(0, 1))  # (B L, V), as many in each lead
        x = self.token(take(patches.flatten(0, 1), index)) + self.time[index + 1]  # (B L, V, D)
        ends = (self.separator + self.time[[0, -1]]).expand(len(x), -1, -1)  # (B L, 2, D)
        x = torch.cat([ends[:, :1], x, ends[:, 1:]], dim=1)  # (B L, V + 2, D)
        x = x.reshape(b, n_leads, -1, x.shape[-1]) + self.lead[:, None]
        x = self.encoder(x.flatten(1, 2))  # (B, L (V + 2), D)
        predicted = self._decode(x.reshape(b * n_leads, -1, x.shape[-1]), index)
        mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        error = (predicted.reshape(patches.shape) - (patches - mean) / (variance + 1e-6).sqrt()).square().mean(-1)
        return (error * ~visible).sum() / (~visible).sum()

    def _decode(self, x: Tensor, index: Tensor) -> Tensor:
        """(B L, V + 2, D) encoded -> (B L, N, P) predicted, each lead alone."""
        x = self.enter(x)
        whole = self.mask.to(x.dtype).expand(len(x), self.grid[1], -1)  # autocast: the linear map returns bfloat16
        whole = whole.scatter(1, index[..., None].expand(-1, -1, x.shape[-1]), x[:, 1:-1])
        x = torch.cat([x[:, :1], whole, x[:, -1:]], dim=1) + self.decoder_time
        predicted: Tensor = self.leave(self.decoder(x)[:, 1:-1])
        return predicted
