"""ETP: Learning Transferable ECG Representations via ECG-Text Pre-training.
arXiv 2309.07145 (ICASSP 2024).

    L_align     mean of the cross-entropies ECG -> report and report -> ECG over the batch's pairs, cosine / tau

    ECG         ResNet18 over time -> mean over time -> one linear map = z_ecg
    report      BioClinicalBERT, frozen -> one linear map = z_text

The abstract, the two encoders, the linear projectors and the symmetric loss are known. No code was released and the paper's
settings were not accessible, so these are ours:
- tau = 0.07, 256 shared dimensions, the plain CLS state as the report's vector, at most 256 tokens per report, the mean over
  time as the ECG's vector.
- The ResNet's shape is that of nn/resnet.py, as in MERL, which has the same first author.
- text_encoder = "" is a small BERT with random initial weights, which is trained: frozen random weights would be useless.

This implementation departs from the paper as follows:
- Records with identical reports are negatives of each other; same_report = "ignore" or "positive" changes this.
- An unobserved lead or time is 0 on the model's scale, and the mean over time skips times without an observed lead.
- Across processes the gradient is that of the whole batch, and batch norm uses the statistics of the whole batch.
- Any of the five ECG encoders can replace the ResNet: setting `encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.report_tower import SMALL_REPORTS, ReportTower, TextSettings, WithReports
from leadwise.nn.text import Tokenizer
from leadwise.nn.views import PairViewSettings, report_ids


@dataclass(frozen=True)
class Config(EncoderSettings, TextSettings, PairViewSettings, MethodConfig):
    shared_width: int = 256  # of z_ecg and z_text
    temperature: float = 0.07  # tau
    same_report: SameReport = "negative"  # pairs of records with identical reports

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, temperature="> 0")


# Settings for two CPU cores; views and report branch are those of the other methods with reports.
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


class Method(WithEcgEncoder, WithReports, PretrainingMethod):
    config: Config

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this method."""
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = {"L_align": 1.0}
        self.ecg = EcgEncoder(c, signal)
        self.ecg_head = nn.Linear(self.ecg.width, c.shared_width)
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = nn.Linear(self.text.width, c.shared_width)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; the features that `batch_terms` compares, one row per record."""
        view = self.training_view(batch)
        z_ecg, z_text = self.ecg_head(self.ecg(view)), self.text_head(self.text.read(list(view.report)))
        return {}, {"ecg": z_ecg, "text": z_text, "report": report_ids(batch, view)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss over the whole batch, including other processes' records."""
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
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        feature: Tensor = self.ecg(batch)
        return [feature if part == "backbone" else F.normalize(self.ecg_head(feature), dim=-1) for part in parts]

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        tokens, cut = self.text.tokenize(list(batch.report))
        z_text = self.text_head(self.text(tokens)[1])
        return multimodal.effective_ranks(self.ecg_head(self.ecg(batch)), z_text) | {"reports_cut": cut}
