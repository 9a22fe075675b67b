"""ETP: Learning Transferable ECG Representations via ECG-Text Pre-training.
arXiv 2309.07145 (ICASSP 2024).

    L_align     cross-entropy of ECG -> report and of report -> ECG over the batch's pairs, cosine / tau; their mean

    ECG         ResNet18 over time -> mean over time -> one linear map = z_ecg
    report      BioClinicalBERT, frozen -> one linear map = z_text

The abstract, the two encoders, the linear projectors and the symmetric loss are known; no code was released, and the
paper's settings could not be read. Ours, therefore:
- tau = 0.07, 256 shared dimensions, the plain CLS state as the report's vector, 256 tokens of it, the mean over time as the
  ECG's.
- The ResNet's shape is that of nn/resnet.py, as in MERL, whose first author is this paper's.
- text_encoder = "" is a small BERT from nothing, which learns: a frozen one would say nothing.

Where we depart from the paper, and why:
- Reports that are word for word the same are negatives of each other [same_report = "ignore" or "positive"].
- A lead or time that was not observed is 0 on the model's scale, and no mean is taken over times without any lead.
- Across processes the gradient is that of the whole batch, and batch norm has the whole batch's statistics.
- Any of the four ECG encoders can stand in the ResNet's place [encoder].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.report_tower import (
    SMALL_REPORTS,
    ReportTower,
    TextSettings,
    WithReports,
)
from leadwise.nn.text import Tokenizer
from leadwise.nn.views import PairViewSettings, report_ids


@dataclass(frozen=True)
class Config(EncoderSettings, TextSettings, PairViewSettings, MethodConfig):
    shared_width: int = 256  # of z_ecg and z_text
    temperature: float = 0.07  # tau
    same_report: SameReport = "negative"  # pairs with word for word the same report

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive; got {self.temperature}")


# A size for two CPU cores; views and report branch are those of the other methods that read reports.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, **SMALL_REPORTS,
}  # fmt: skip
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "resnet_width": 8, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48,
        "shared_width": 16,
    },
}  # fmt: skip


class Method(WithReports, PretrainingMethod):
    config: Config

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when the weights of a saved run will be loaded."""
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = {"L_align": 1.0}
        self.ecg = EcgEncoder(c, signal)
        self.ecg_head = nn.Linear(self.ecg.width, c.shared_width)
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = nn.Linear(self.text.width, c.shared_width)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No term of a record by itself; and what `batch_terms` compares, one row per record."""
        view = self.training_view(batch)
        z_ecg, z_text = self.ecg_head(self.ecg(view)), self.text_head(self.text.read(list(view.report)))
        return {}, {"ecg": z_ecg, "text": z_text, "report": report_ids(batch, view)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss over the whole batch, other processes' records too."""
        c = self.config
        every = distributed.gather_features(features)
        ecg, text, report = every["ecg"], every["text"], every["report"]
        loss = multimodal.aligned(
            ecg, text, report, 1 / c.temperature, c.same_report, distributed.local_rows(len(report))
        )
        return {"L_align": loss}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs; any subset of leads may be observed.

        backbone: the encoder's mean (the probe's feature). shared: unit vectors in the space of `embed_text`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        feature: Tensor = self.ecg(batch)
        return feature if part == "backbone" else F.normalize(self.ecg_head(feature), dim=-1)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """What a run wants to watch beside its losses, on one held-out batch."""
        tokens, cut = self.text.tokenize(list(batch.report))
        z_text = self.text_head(self.text(tokens)[1])
        return multimodal.effective_ranks(self.ecg_head(self.ecg(batch)), z_text) | {"reports_cut": cut}
