"""MERL: Zero-Shot ECG Classification with Multimodal Learning and Test-time Clinical Knowledge Enhancement.
arXiv 2403.06659 (ICML 2024).

    L_total = L_CMA + L_UMA

    clip(a, b)  cross-entropy a -> b plus cross-entropy b -> a over the batch's pairs, cosine / tau, tau = 0.07
    L_CMA       clip(z_ecg, z_text): cross-modal alignment of the projected ECG and the projected report
    L_UMA       clip(z_1, z_2): uni-modal alignment of two views of one latent, each with its own linear map and dropout

    resnet      ResNet18 -> 1x1 convolution -> attention pool = z_ecg; the convolution's mean over time -> the two views
    vit         patches of all leads -> mean -> LayerNorm -> MLP with batch norm = z_ecg; the LayerNorm's output -> the two views
    s4          as resnet, with state-space layers in place of the ResNet

Choices where the paper and its released code disagree, and departures from both (in brackets: the setting that restores the
paper's text):
- The paper freezes the text encoder's first six layers. The released code runs the whole text encoder without gradient, and the
  weights behind the published results were trained like this: here it is frozen whole, with its dropout off
  [text_frozen = "layers"].
- The report's vector is the pooler's output, as in the code, although MedCPT was trained with the plain CLS state
  [text_pooling = "cls"].
- text_encoder = "" is a small BERT with random initial weights, which is trained: nothing is frozen then.
- Reports are padded to the longest of the batch, not to 256 tokens: padding is not attended to.
- Records with identical reports are negatives of each other, as in the paper; same_report = "ignore" or "positive" changes this
  for L_CMA.
- Across processes the gradient is that of the whole batch, and batch norm uses the statistics of the whole batch. The code scales
  the gradient by 1 / processes and computes batch norm statistics per process.
- An unobserved lead or time is 0 on the model's scale; the paper always has twelve whole leads. With
  signal.normalize = "merl_minmax", the paper's scale, 0 is the record's lowest value.
- Leads are selected by name in the order of `signal.leads`; the code has aVF before aVL and swaps rows to correct this.
- The ViT's tokens start at a root mean square of 1 and its positions at 0.4. In the released code positions start at 1 and
  hide the tokens, which are 0.14 for an ECG in mV: this costs 3 to 6 points in short runs (NOTES.md) [vit_start = "published"].
- Linear maps before a batch norm have no bias, which the batch norm would remove. Queries and keys of the attention start equal
  (nn/transformer.py). The position of the pool's learnable token is added once.
- Three options that other papers add to such a contrast are off by default: `lead_dropout` trains on random subsets of leads, as
  K-MERL (arXiv 2502.17900) does; with it, signal.normalize = "mv" and `learn_temperature`, whose tau does not fall below
  `least_temperature`, most of the recipe of MS-ECG-FM (arXiv 2610.07662) is set; `similar_report` takes records whose reports
  share most words as `same_report` takes identical ones, in the sense of FG-CLEP (arXiv 2505.11939), which compares reports by a
  language model.
- Not implemented: cosine schedule with warm restarts; prompts from a language model (evaluate/prompts are ours); and selection
  of weights by zero-shot scores on labelled downstream records, which is not zero-shot.
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
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.encoder import check_part, scaled
from leadwise.nn.heads import AttentionPool
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.report_tower import SMALL_REPORTS, ReportTower, TextSettings, WithReports, check_similar_report
from leadwise.nn.resnet import ResNet18
from leadwise.nn.s4 import S4Encoder
from leadwise.nn.text import Tokenizer
from leadwise.nn.token_scale import signal_rms
from leadwise.nn.views import PairViewSettings, report_ids
from leadwise.nn.vit import ViT


@dataclass(frozen=True)
class Config(TextSettings, PairViewSettings, MethodConfig):
    # ECG branch
    encoder: Literal["resnet", "vit", "s4"] = "resnet"
    resnet_width: int = 64  # channels of the first stage; the feature is eight times as wide
    pool_heads: int = 4  # of the attention pool
    n_patches: int = 100  # of the ViT, each of all leads; must divide the number of samples of a lead
    vit_width: int = 192
    vit_depth: int = 12
    vit_heads: int = 3
    vit_start: Literal["equal", "published"] = (
        "equal"  # scale of tokens and positions: alike, or as in the paper's code
    )
    s4_width: int = 512  # of the state-space encoder: channels,
    s4_depth: int = 4  # layers,
    s4_states: int = 8  # states of each channel
    s4_stride: int = 2  # and samples per position
    head_norm: Literal["batch", "layer"] = "batch"  # in the ViT's head
    # report branch (the paper: ncbi/MedCPT-Query-Encoder, frozen whole in its code)
    text_pooling: Literal["cls", "mean", "pooler"] = "pooler"  # computes the report's vector from its tokens
    # alignment
    shared_width: int = 256  # of z_ecg, z_text and the two views
    temperature: float = 0.07  # tau, of both terms
    learn_temperature: bool = False  # tau of L_CMA is trained, from `temperature` on
    least_temperature: float = 0.01  # and is not lower than this
    view_dropout: float = 0.1  # after each of L_UMA's two linear maps
    same_report: SameReport = "negative"  # pairs of records with identical reports, in L_CMA
    similar_report: float = (
        1.0  # reports with this word overlap (cosine of 0 to 1) count as identical; 1: only identical ones
    )
    w_cma: float = 1.0
    w_uma: float = 1.0  # 0 removes the term and its computation

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, temperature="> 0", view_dropout="[0, 1)")
        check_ranges(self, w_cma="> 0", w_uma=">= 0")  # without w_cma no report is used
        check_ranges(self, least_temperature="> 0")
        check_similar_report(self.similar_report, self.same_report)

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation (batch norm needs all records of a process in one pass), or ''."""
        if self.encoder == "resnet":
            return "method.encoder = 'resnet'"
        if self.encoder == "s4":
            return ""
        return "method.head_norm = 'batch'" if self.head_norm == "batch" else ""


# Settings for two CPU cores: a quarter of the paper's width, and the views of CG-DMER's small settings.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, **SMALL_REPORTS,
}  # fmt: skip
ALSO_SMALL = ({**SMALL, "encoder": "vit", "n_patches": 50, "vit_width": 96, "vit_depth": 4},)
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "resnet_width": 8, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48,
        "shared_width": 16,
    },
    "vit": {
        "encoder": "vit", "n_patches": 10, "vit_width": 32, "vit_depth": 2, "vit_heads": 4, "text_width": 32,
        "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48, "shared_width": 16,
    },
    "s4": {
        "encoder": "s4", "s4_width": 16, "s4_depth": 2, "s4_states": 4, "s4_stride": 4, "text_width": 32, "text_depth": 1,
        "text_heads": 2, "vocab_size": 400, "max_tokens": 48, "shared_width": 16, "learn_temperature": True,
        "same_report": "ignore", "similar_report": 0.8,
    },
}  # fmt: skip


class Method(WithReports, PretrainingMethod):
    falling_terms = ("L_CMA", "L_UMA")
    config: Config

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this method."""
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = nonzero_weights(L_CMA=c.w_cma, L_UMA=c.w_uma)
        n_leads, wide = len(signal.leads), c.shared_width

        # ECG -> z_ecg, and the latent of the two views
        input_rms = None if c.vit_start == "published" else signal_rms(signal.normalize)
        self.ecg: ResNet18 | S4Encoder | ViT
        if c.encoder != "vit":
            self.ecg = ResNet18(n_leads, c.resnet_width)
            if c.encoder == "s4":
                rms = signal_rms(signal.normalize)
                self.ecg = S4Encoder(n_leads, c.s4_width, c.s4_depth, c.s4_states, c.s4_stride, rms)
            self.down = nn.Conv1d(self.ecg.width, wide, 1)
            self.pool = AttentionPool(wide, self.ecg.n_positions(signal.n_samples), c.pool_heads, wide)
            latent = wide
        else:
            self.ecg = ViT(n_leads, signal.n_samples, c.n_patches, c.vit_width, c.vit_depth, c.vit_heads, input_rms)
            norm = BatchNorm if c.head_norm == "batch" else nn.LayerNorm
            self.head = nn.Sequential(
                nn.Linear(c.vit_width, wide, bias=False), norm(wide), nn.ReLU(),
                nn.Linear(wide, wide, bias=False), norm(wide),
            )  # fmt: skip
            latent = c.vit_width

        if c.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(c.temperature)))

        # report -> z_text
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = nn.Sequential(nn.Linear(self.text.width, wide), nn.GELU(), nn.Linear(wide, wide))

        # L_UMA's two views
        if c.w_uma:
            self.view_1 = nn.Linear(latent, wide, bias=False)
            self.view_2 = nn.Linear(latent, wide, bias=False)
            self.dropout = nn.Dropout(c.view_dropout)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; the features that `batch_terms` compares, one row per record."""
        view = self.training_view(batch)
        z_ecg, latent = self._project(self._encode(view))
        z_text = self.text_head(self.text.read(list(view.report)))
        features = {"ecg": z_ecg, "text": z_text, "report": report_ids(batch, view)}
        if self.config.similar_report < 1:
            features["words"] = self.words(batch)
        if self.config.w_uma:
            features |= {"view_1": self.dropout(self.view_1(latent)), "view_2": self.dropout(self.view_2(latent))}
        return {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms over the whole batch, including other processes' records."""
        c = self.config
        every = distributed.gather_features(features)
        scale, local_rows = 1 / c.temperature, distributed.local_rows(len(every["report"]))
        cma_scale: Tensor | float = scale
        if c.learn_temperature:
            cma_scale = 1 / self.log_temperature.exp().clamp(min=c.least_temperature)
        words = (every["words"], c.similar_report) if c.similar_report < 1 else None
        cma = multimodal.aligned(
            every["ecg"], every["text"], every["report"], cma_scale, c.same_report, local_rows, words=words
        )
        terms = {
            "L_CMA": c.w_cma * (2 * cma)
        }  # the sum of both directions, as in the paper's code; `aligned` is their mean
        if c.w_uma:
            # as report ids: the only positive of a record is its own other view
            own = torch.arange(len(every["report"]), device=every["report"].device)[:, None]
            uma = multimodal.aligned(every["view_1"], every["view_2"], own, scale, "negative", local_rows)
            terms["L_UMA"] = c.w_uma * (2 * uma)
        return terms

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs; any subset of leads may be observed.

        backbone: the mean over time of the ResNet's features before the 1x1 convolution, or the ViT's normalised mean (the
        probe's feature). shared: unit vectors in the space of `embed_text`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        features = self._encode(batch)
        backbone = features if self.config.encoder == "vit" else features.mean(-1)
        return [backbone if part == "backbone" else F.normalize(self._project(features)[0], dim=-1) for part in parts]

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        z_ecg, latent = self._project(self._encode(batch))
        tokens, cut = self.text.tokenize(list(batch.report))
        z_text = self.text_head(self.text(tokens)[1])
        out = multimodal.effective_ranks(z_ecg, z_text) | {"reports_cut": cut}
        if self.config.learn_temperature:
            out["temperature"] = float(self.log_temperature.exp().clamp(min=self.config.least_temperature))
        if self.config.w_uma:
            out["cos_views"] = float(F.cosine_similarity(self.view_1(latent), self.view_2(latent), dim=-1).mean())
        return out

    def _encode(self, batch: Batch) -> Tensor:
        """The encoder's output: (B, D, N), or (B, D) of the ViT."""
        features: Tensor = self.ecg(scaled(batch, self.signal))
        return features.transpose(1, 2) if self.config.encoder == "s4" else features

    def _project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """z_ecg (B, D) and the latent of the two views (B, D), from `_encode`."""
        if self.config.encoder == "vit":
            return self.head(features), features
        features = self.down(features)  # (B, D, N)
        return self.pool(features), features.mean(-1)
