"""MELP: From Token to Rhythm: A Multi-Scale Approach for ECG-Language Pretraining.
arXiv 2506.21803 (ICML 2025); the ECG encoder.

Input: twelve leads in the order of MIMIC-IV-ECG (aVF before aVL), 10 s at 500 Hz, the whole record scaled to [0, 1].

Embedding: the mean over 14 learnable queries that attend to the tokens, after a norm: 256 numbers, which the repository's linear
probe reads.

Names: those of the repository's encoder (fairseq-signals within ECGFMModel), as its model for Hugging Face and its checkpoints of
training have them. The name of the file is assumed. The pool for captions, the projection of zero-shot classification, the text
encoder and the decoder are ignored.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.preprocessing import MIMIC_LEADS
from leadwise.encoders.wav2vec import Wav2Vec
from leadwise.nn.normalize import normalize

TINY = {"width": 32, "depth": 2, "heads": 4, "hidden": 64, "shared": 16, "queries": 3}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="MIT",
        weights="https://huggingface.co/fuyingw/MELP_Encoder",
        code="https://github.com/HKU-MedAI/MELP",
        files={"model.safetensors": ()},
        trained_on=("mimic_iv_ecg",),
    )
    signal = Signal(leads=MIMIC_LEADS, rate_hz=500, duration_s=10.0, normalize="merl_minmax")
    entries = ("state_dict",)
    prefixes = ("ecg_encoder.",)
    ignored = (
        "ecg_encoder.mask_emb", "ecg_encoder.quantizer.*", "ecg_encoder.project_q.*", "ecg_encoder.final_proj.*",
        "attn_pool_caption.*", "ln_caption.*", "proj_contrast", "logit_scale", "bn.*", "head.*",
        "lm_model.*", "proj_t.*", "sent_proj.*", "text_decoder.*",
    )  # fmt: skip

    def __init__(
        self,
        width: int = 768,
        depth: int = 8,
        heads: int = 12,
        hidden: int = 3072,
        shared: int = 256,
        queries: int = 14,
        pool_heads: int = 8,
    ) -> None:
        super().__init__()
        self.width = shared
        self.ecg_encoder = Wav2Vec(width=width, depth=depth, heads=heads, hidden=hidden)
        self.attn_pool_contrast = _QueryPool(shared, width, pool_heads, queries)
        self.ln_contrast = nn.LayerNorm(shared)

    def encode(self, batch: Batch) -> Tensor:
        tokens = self.ecg_encoder(normalize(batch.ecg, batch.observed, "merl_minmax"))
        out: Tensor = self.ln_contrast(self.attn_pool_contrast(tokens)).mean(1)
        return out


class _QueryPool(nn.Module):
    """Learnable queries that attend to the tokens."""

    def __init__(self, width: int, width_in: int, heads: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(queries, width))
        self.attn = nn.MultiheadAttention(width, heads, kdim=width_in, vdim=width_in, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(width), nn.LayerNorm(width_in)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, N, width_in) -> (B, queries, width)."""
        keys = self.ln_k(tokens)
        pooled: Tensor = self.attn(self.ln_q(self.query).expand(len(keys), -1, -1), keys, keys, need_weights=False)[0]
        return pooled
