"""MS-ECG-FM: a foundation model of ECGs from reports of several sources.
arXiv 2610.07662 (October 2026).

    L_align     mean of -log softmax_j(cos(e_i, t_j) / tau)_i over the ECGs i of the batch: ECG -> report only

    input       millivolts, never scaled per record; batch norm of each lead
    ECG         one token per lead and patch of 0.5 s, by convolutions within the patch -> Transformer -> mean -> linear map = e
    report      a frozen text encoder -> linear map = t
    view        a random subset of the leads, shifted in time
    tau         learned, not below 0.01
    weights     those with the highest RankMe of held-out embeddings [log.keep = "rankme"]

The paper's code and weights were not accessible. The loss, the floor of tau, the input, the 12 x 20 tokens, sizes and views are
those that it describes. In its ablation, whole leads cost 2.3 points on single leads, and scaling per record 1.0 on hypertrophy.
Not stated there, so ours: the probability of a masked lead, the largest shift, linear maps to the shared space, heads, layers of
the tokenizer (those of nn/patches.py, with the mean and size of a patch, which their group norm would remove), and the mean of
tokens as the ECG's vector.

This implementation departs from the paper as follows (in brackets: the setting that restores it):
- The paper's text encoder has 27 billion parameters, and its embeddings are computed once. Here any BERT in a folder is frozen
  and computed in every step [text_encoder]. text_encoder = "" is a small BERT with fresh weights, which is trained.
- The paper's reports are also of echocardiography, chest X-rays and discharge. Here each ECG has the report of its cohort.
- Reports that are equal are negatives of each other, as in the paper; same_report = "ignore" or "positive" changes this.
- Each lead's median is subtracted (signal.normalize = "mv"). Statistics of the batch norm are those of observed samples, of all
  processes; a lead that is masked or missing has no tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.batch_norm import LeadNorm
from leadwise.nn.encoder import NO_PATCH, check_part, scaled, valid_only
from leadwise.nn.lead_time import EncoderShape, LeadTimeEncoder
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.observed import usable_patches
from leadwise.nn.patches import ConvTokenizer, patchify
from leadwise.nn.report_tower import SMALL_REPORTS, ReportTower, TextSettings, WithReports
from leadwise.nn.text import Tokenizer
from leadwise.nn.views import PairViewSettings, pair_view, report_ids


@dataclass(frozen=True)
class Config(TextSettings, PairViewSettings, MethodConfig):
    # ECG branch
    n_patches: int = 20  # per lead: 0.5 s each for 10 s; must divide the number of samples of a lead
    width: int = 512
    depth: int = 12  # Transformer layers
    heads: int = 8
    input_norm: bool = True  # batch norm of each lead; false: millivolts as they are
    # views
    shift_s: float = 0.5
    lead_dropout: float = 0.5
    # alignment
    shared_width: int = 256  # of e and t
    temperature: float = 0.07  # tau at the start
    least_temperature: float = 0.01  # and its floor
    direction: Literal["ecg_to_text", "both"] = "ecg_to_text"  # both: the mean of ECG -> report and report -> ECG
    same_report: SameReport = "negative"  # pairs of records with identical reports

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, temperature="> 0", least_temperature="> 0", lead_dropout="[0, 1)")

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation (batch norm needs all records of a process in one pass), or ''."""
        return "method.input_norm = true" if self.input_norm else ""


# Settings for two CPU cores; report branch and views are those of the other methods with reports, and leads are masked.
SMALL = {
    "n_patches": 20, "width": 64, "depth": 4, "heads": 4, **SMALL_REPORTS, "lead_dropout": 0.5,
}  # fmt: skip
# The smallest settings, for the contract tests.
_TINY = {
    "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "text_width": 32, "text_depth": 1, "text_heads": 2,
    "vocab_size": 400, "max_tokens": 48, "shared_width": 16,
}  # fmt: skip
TINY = {"": _TINY, "plain": {**_TINY, "input_norm": False, "direction": "both", "same_report": "ignore"}}


class Method(WithReports, PretrainingMethod):
    falling_terms = ("L_align",)
    config: Config

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this method."""
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = {"L_align": 1.0}
        if signal.n_samples % c.n_patches:
            raise ValueError(f"n_patches = {c.n_patches} does not divide the {signal.n_samples} samples of a lead")
        self.patch_samples = signal.n_samples // c.n_patches
        if c.input_norm:
            self.input_norm = LeadNorm(len(signal.leads))
        shape = EncoderShape(len(signal.leads), c.n_patches, self.patch_samples, c.width, c.depth, c.heads)
        self.ecg = LeadTimeEncoder(shape, ConvTokenizer(self.patch_samples, c.width, amplitude=True))
        self.norm = nn.LayerNorm(c.width)
        self.ecg_head = nn.Linear(c.width, c.shared_width)
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = nn.Linear(self.text.width, c.shared_width)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(c.temperature)))

    def training_view(self, batch: Batch) -> Batch:
        """The training view of a batch: leads masked, and shifted; in eval mode the batch itself."""
        return pair_view(batch, self.config, self.signal, self.patch_samples) if self.training else batch

    @property
    def temperature(self) -> Tensor:
        """tau, not below its floor."""
        return self.log_temperature.exp().clamp(min=self.config.least_temperature)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; the features that `batch_terms` compares, one row per record."""
        view = self.training_view(batch)
        z_ecg, z_text = self.ecg_head(self._encode(view)), self.text_head(self.text.read(list(view.report)))
        return {}, {"ecg": z_ecg, "text": z_text, "report": report_ids(batch, view)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss over the whole batch, including other processes' records."""
        c, every = self.config, distributed.gather_features(features)
        loss = multimodal.aligned(
            every["ecg"], every["text"], every["report"], 1 / self.temperature, c.same_report,
            distributed.local_rows(len(every["report"])), both_ways=c.direction == "both",
        )  # fmt: skip
        return {"L_align": loss}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs; any subset of leads may be observed.

        backbone: the normalised mean of the encoder's tokens (the probe's feature). shared: unit vectors in the space of
        `embed_text`.

        Raises:
            ValueError: an unknown part, or a record without one completely observed patch.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        feature = self._encode(batch)
        return [feature if part == "backbone" else F.normalize(self.ecg_head(feature), dim=-1) for part in parts]

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        tokens, cut = self.text.tokenize(list(batch.report))
        z_text = self.text_head(self.text(tokens)[1])
        ranks = multimodal.effective_ranks(self.ecg_head(self._encode(batch)), z_text)
        return ranks | {"reports_cut": cut, "temperature": float(self.temperature)}

    def _encode(self, batch: Batch) -> Tensor:
        """The normalised mean (B, D) of the tokens of all completely observed patches.

        Raises:
            ValueError: a record has no such patch.
        """
        n, ecg = self.config.n_patches, scaled(batch, self.signal)
        if self.config.input_norm:
            ecg = self.input_norm(ecg, batch.observed)
        usable, on_host = usable_patches(batch, n)
        patches = valid_only(patchify(ecg, n), on_host.flatten(1).any(-1), batch.record, NO_PATCH)
        count = None if torch.compiler.is_exporting() else on_host.sum(-1)
        out: Tensor = self.norm(self.ecg(patches, usable, count=count).pooled)
        return out
