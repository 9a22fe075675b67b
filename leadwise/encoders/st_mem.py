"""ST-MEM: Guiding Masked Representation Learning to Capture Spatio-Temporal Relationship of Electrocardiogram.
arXiv 2402.09450 (ICLR 2024); ViT-B with patches of 75 samples of a lead.

Input: twelve leads at 250 Hz. As the repository evaluates: three crops of 9 s from 10 s, a Butterworth high-pass at 0.67 Hz and a
low-pass at 40 Hz, both of order 5, then the whole crop to mean 0 and deviation 1.

Embedding: the mean over the tokens of patches, without separators, and a norm: 768 numbers; the mean over the three crops.

Names: those of the repository. The file of the encoder alone fits, and that of encoder and decoder, whose decoder is
ignored. The names of the files are those that others use.

Licence: the repository has stated MIT, then CC BY-NC 4.0, and its owner reserves all rights. Read it before any use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.positions import sine_positions
from leadwise.encoders.preprocessing import butterworth, mean_of_windows, windows, with_numpy
from leadwise.nn.normalize import normalize

N_SAMPLES = 2250  # of a crop
STARTS = (0, 125, 250)  # of the crops
TINY = {"width": 32, "depth": 2, "heads": 4, "hidden": 64}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="CC BY-NC 4.0, and all rights reserved",
        weights="https://drive.google.com/file/d/1E7J-A1HqWa2f08T6Sfk5uWk-_CFJhOYQ",
        code="https://github.com/bakqui/ST-MEM",
        files={"st_mem_vit_base_encoder.pth": (), "st_mem_vit_base_full.pth": ()},
        trained_on=("csn", "code15"),
    )
    signal = Signal(rate_hz=250, duration_s=10.0, normalize="record_zscore")
    entries = ("model",)
    prefixes = ("encoder.",)
    ignored = ("head.*", "to_decoder_embedding.*", "mask_embedding", "decoder_*")

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12, hidden: int = 3072, patch: int = 75) -> None:
        super().__init__()
        self.width, self.depth, self.patch = width, depth, patch
        # the published first part of the sequence cuts patches and has no weights
        self.to_patch_embedding = nn.Sequential(
            nn.Identity(), nn.LayerNorm(patch), nn.Linear(patch, width), nn.LayerNorm(width)
        )
        time = F.pad(sine_positions(torch.arange(N_SAMPLES // patch), width), (0, 0, 1, 1))  # 0 for the separators
        self.pos_embedding = nn.Parameter(time[None], requires_grad=False)
        self.sep_embedding = nn.Parameter(0.02 * torch.randn(width))
        self.lead_embeddings = nn.ParameterList(0.02 * torch.randn(width) for _ in self.signal.leads)
        for number in range(depth):
            self.add_module(f"block{number}", _LeadBlock(width, heads, hidden))
        self.norm = nn.LayerNorm(width)

    def encode(self, batch: Batch) -> Tensor:
        crops = with_numpy(
            windows(batch.ecg, N_SAMPLES, STARTS),
            lambda x: butterworth(butterworth(x, 5, (0.67,), "highpass", 250), 5, (40.0,), "lowpass", 250),
        )
        crops = normalize(crops, windows(batch.observed, N_SAMPLES, STARTS), "record_zscore")
        return mean_of_windows(self.encode_crops(crops), len(STARTS))

    def encode_crops(self, x: Tensor) -> Tensor:
        """x: (B, L, 2250), normalised -> (B, D)."""
        # patches with their time, a separator at both ends of each lead, and the lead
        patches = self.to_patch_embedding(x.reshape(*x.shape[:2], -1, self.patch))  # (B, L, N, D)
        b, n_leads, n, _ = patches.shape
        middle = patches + self.pos_embedding[:, None, 1 : n + 1]
        first, last = (
            (self.sep_embedding + self.pos_embedding[:, place]).expand(b, n_leads, 1, -1) for place in (0, -1)
        )
        lead = torch.stack(list(self.lead_embeddings))[:, None]
        tokens = (torch.cat([first, middle, last], dim=2) + lead).flatten(1, 2)  # (B, L (N + 2), D)

        for number in range(self.depth):
            tokens = self.get_submodule(f"block{number}")(tokens)
        out: Tensor = self.norm(tokens.reshape(b, n_leads, n + 2, -1)[:, :, 1:-1].mean((1, 2)))
        return out


class _PreNorm(nn.Module):
    """`fn` of the normed input."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fn(self.norm(x))
        return out


class _LeadAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, S, D) -> (B, S, D)."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, dim=2))
        out: Tensor = self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class _LeadFeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        # the published sequence has a dropout in third place, from which the numbers in the names follow
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class _LeadBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = _PreNorm(width, _LeadAttention(width, heads))
        self.ff = _PreNorm(width, _LeadFeedForward(width, hidden))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        out: Tensor = x + self.ff(x)
        return out
