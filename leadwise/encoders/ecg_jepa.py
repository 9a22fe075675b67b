"""ECG-JEPA: Learning General Representation of 12-Lead Electrocardiogram With a Joint-Embedding Predictive Architecture.
arXiv 2410.08559; the encoder, a ViT-B with patches of 0.2 s of a lead.

Input: eight leads (I, II, V1 to V6), 10 s at 250 Hz, in mV, with no filter and no normalisation. Missing leads are 0.

Embedding: the mean over the tokens after the last norm, 768 numbers. A token attends to those of its lead and of its time;
the position is added before every block.

Names: those of the repository, in which the checkpoint holds the encoder under "encoder". The first release is meant, with sine
positions and 16 heads; later versions of the repository have rotary positions, and their weights are refused by name.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.positions import sine_positions

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
TINY = {"width": 32, "depth": 2, "heads": 4, "hidden": 64}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="MIT",
        weights="https://drive.google.com/file/d/1gMOT4xjQQg0GZkY1iE6NuDzua4ALw00l",
        code="https://github.com/sehunfromdaegu/ECG_JEPA",
        files={"multiblock_epoch100.pth": (), "random_epoch100.pth": ()},
        trained_on=("csn", "code15"),
    )
    signal = Signal(leads=EIGHT, rate_hz=250, duration_s=10.0)
    entries = ("encoder",)

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 16, hidden: int = 3072, patch: int = 50) -> None:
        super().__init__()
        self.width, self.patch, self.n_patches = width, patch, self.signal.n_samples // patch
        # one half is that of the time, the other that of the lead
        time, lead = (sine_positions(torch.arange(n), width // 2) for n in (self.n_patches, len(EIGHT)))
        positions = torch.cat([time.repeat(len(EIGHT), 1), lead.repeat_interleave(self.n_patches, dim=0)], dim=1)
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.encoder_blocks = nn.Module()
        self.encoder_blocks.blocks = nn.ModuleList(_JepaBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.W_P = nn.Linear(patch, width)

    def encode(self, batch: Batch) -> Tensor:
        ecg = batch.ecg.masked_fill(~batch.observed, 0.0)
        x = self.W_P(ecg.reshape(len(ecg), -1, self.patch))
        place = torch.arange(x.shape[1], device=x.device)
        lead, time = place // self.n_patches, place % self.n_patches
        attends = (lead[:, None] == lead) | (time[:, None] == time)  # (S, S) bool
        for block in self.encoder_blocks.blocks:  # type: ignore[union-attr]
            x = block(x + self.pos_embed, attends)
        out: Tensor = self.norm(x).mean(1)
        return out


class _JepaBlock(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = _CrossAttention(width, heads), _JepaFeedForward(width, hidden)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, S, D), mask: (S, S) bool, True where a token attends -> (B, S, D)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return out


class _JepaFeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out
