"""D-BETA: Boosting Masked ECG-Text Auto-Encoders as Discriminative Learners (first C-MELT).
arXiv 2410.02131 (ICML 2025); the ECG encoder.

Input: twelve leads, 10 s at 500 Hz, in mV, with no filter and no normalisation. Missing leads are 0, as in the lead masking of
its training. The order of the leads is that of the repository's data sets; a figure of its example names aVF before aVL.

Embedding: the first token, a learnable one, after the last layer, a linear map and the pooler: 768 numbers in [-1, 1], which the
repository compares with texts.

Names: those of the repository (fairseq-signals within the model), whose checkpoint holds them under "model". The file names are
those of its scripts. The text encoder, the fusion and the heads are ignored. The model on Hugging Face may have other names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.encoders.contract import PublishedEncoder, WeightSource
from leadwise.encoders.wav2vec import Wav2Vec

TINY = {"width": 32, "depth": 2, "heads": 4, "hidden": 64}


class Encoder(PublishedEncoder):
    source = WeightSource(
        licence="CC BY-NC 4.0",
        weights="https://huggingface.co/Manhph2211/D-BETA",
        code="https://github.com/manhph2211/D-BETA",
        files={"best.pt": (), "sample.pt": ()},
        trained_on=("mimic_iv_ecg",),
    )
    signal = Signal(rate_hz=500, duration_s=10.0)
    entries = ("model",)
    ignored = (
        "ecg_encoder.mask_emb", "language_encoder.*", "multi_modal_language_*", "multi_modal_ecg_layers.*",
        "multi_modal_ecg_pooler.*", "modality_type_embeddings.*", "unimodal_language_pooler.*",
        "mlm_head.*", "mim_head.*", "mem_head.*", "itm_head.*", "etm_head.*",
    )  # fmt: skip

    def __init__(self, width: int = 768, depth: int = 8, heads: int = 12, hidden: int = 3072) -> None:
        super().__init__()
        self.width = width
        self.ecg_encoder = Wav2Vec(width=width, depth=depth, heads=heads, hidden=hidden)
        self.class_embedding = nn.Parameter(0.02 * torch.randn(width))
        self.multi_modal_ecg_proj = nn.Linear(width, width)
        self.unimodal_ecg_pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def encode(self, batch: Batch) -> Tensor:
        tokens = self.ecg_encoder.tokens(batch.ecg.masked_fill(~batch.observed, 0.0))
        tokens = torch.cat([self.class_embedding.expand(len(tokens), 1, -1), tokens], dim=1)
        first = self.multi_modal_ecg_proj(self.ecg_encoder.encoder(tokens)[:, 0])
        return torch.tanh(self.unimodal_ecg_pooler["dense"](first))
