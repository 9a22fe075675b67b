"""Vision Transformer over time (Dosovitskiy et al. 2020, arXiv 2010.11929): one token per patch, for all leads together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leadwise.nn.token_scale import POSITION_RMS, start_at_unit_scale
from leadwise.nn.transformer import Block


class ViT(nn.Module):
    """(B, L, T) -> (B, D): patch embedding of all leads, learnable positions, pre-norm blocks, mean over tokens, LayerNorm."""

    def __init__(
        self, n_leads: int, n_samples: int, n_patches: int, width: int, depth: int, heads: int, input_rms: float | None
    ) -> None:
        """
        Args:
            input_rms: root mean square of the ECGs, from which tokens start at 1 and positions at 0.4. None: weights as
                torch draws them and positions at 1, as in MERL's released code; positions then hide an ECG in mV.

        Raises:
            ValueError: n_patches does not divide n_samples.
        """
        super().__init__()
        if n_samples % n_patches:
            raise ValueError(f"n_patches = {n_patches} does not divide the {n_samples} samples of a lead")
        self.width = width
        samples = n_samples // n_patches
        self.patch = nn.Conv1d(n_leads, width, samples, stride=samples, bias=False)
        self.position = nn.Parameter(torch.randn(1, n_patches, width))
        if input_rms is not None:
            start_at_unit_scale(self.patch, input_rms)
            with torch.no_grad():
                self.position.mul_(POSITION_RMS)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, ecg: Tensor) -> Tensor:
        """ecg: (B, L, T), normalised -> (B, D)."""
        out: Tensor = self.norm(self.tokens(ecg).mean(1))
        return out

    def tokens(self, ecg: Tensor, first: Tensor | None = None) -> Tensor:
        """ecg: (B, L, T) -> (B, N, D) before the norm. For crops, `first` (B,) is the number of the first patch."""
        x: Tensor = self.patch(ecg).transpose(1, 2)  # (B, N, D)
        time = torch.arange(x.shape[1], device=x.device)
        x = x + (self.position[:, time] if first is None else self.position[0, time + first[:, None]])
        for block in self.blocks:
            x = block(x)
        return x
