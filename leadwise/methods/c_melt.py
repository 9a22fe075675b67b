"""C-MELT: Contrastive Enhanced Masked Auto-Encoders for ECG-Language Pre-Training.
arXiv 2410.02131 (ICML 2025, as D-BETA: Boosting Masked ECG-Text Auto-Encoders as Discriminative Learners).

    L = L_MLM + L_MEM + L_ETM + L_ETS

    tokens   of the ECG, one per time for all leads; of the report. Most ECG tokens and some report tokens are hidden
    fusion   both sequences, each with attention to itself and to the other, layer by layer
    L_MLM    cross-entropy of hidden words, from the fused report
    L_MEM    squared error on hidden ECG, from a decoder of the ECG after half of the fusion layers
    L_ETM    binary classification of whether a report belongs to an ECG, from both outputs of the fusion; negatives are
             dissimilar reports (N3S)
    L_ETS    sigmoid loss over all ECG-report pairs, of each modality's vector before the fusion; embeddings use these vectors

This implementation departs from the paper as follows (in brackets: the setting that restores the paper's text):
- N3S samples a negative among the 64 most dissimilar reports of the whole corpus, by precomputed vectors of Flan-T5. Here
  negatives come from the process's own share of the batch, and dissimilarity is few common words, which needs no second model
  [far_share: the share of these records to sample from]. In both, an identical report is never a negative.
- The released code replaces the reports of half of a batch before the forward pass. Hidden words and ECG are then predicted
  beside a report that does not belong to the ECG, and L_ETS loses half of its positives. Here only L_ETM uses dissimilar reports:
  each record is fused twice, with its own report and with a dissimilar one.
- The code's four convolutions without overlap are one linear map of 20 ms x all leads here, which starts so that tokens are as
  large as the embeddings of their times (nn/token_scale.py); times are learnable, not convolved;
  there are 250 tokens of 20 samples in place of 312 of 16, which do not divide 5,000.
- Flan-T5 would be an encoder-decoder; leadwise's text encoders are of the BERT family [text_encoder], or a small one with random
  initial weights. Vectors of whole reports and ECGs are computed by `text_pooling` and `pooling`; fused vectors are means.
- No dropout. One matching logit, not two. Pre-norm layers; queries and keys of the attention start equal (nn/transformer.py).
- L_MEM's target is each lead divided by its own deviation, as in the code, on samples that were observed and not removed.
- Leads are removed, and the other views of the settings are drawn, in training only; the paper has only the former.
- L_ETS has neither scale nor bias, and its vectors end in tanh, as in the code [ets = "learnable" for unit vectors].
- In SMALL, identical reports are not negatives in L_ETS [same_report = "negative"].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn import masking
from leadwise.nn import text as reports
from leadwise.nn.encoder import check_part, mean_of, scaled
from leadwise.nn.fusion import Fusion
from leadwise.nn.lead_time import DecoderShape, Encoded, EncoderShape, LeadTimeDecoder, LeadTimeEncoder
from leadwise.nn.losses import multimodal, pairwise
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import LinearTokenizer, patchify
from leadwise.nn.report_tower import SMALL_REPORTS, ReportTower, TextSettings, WithReports
from leadwise.nn.text import Tokenizer, Tokens
from leadwise.nn.token_scale import signal_rms
from leadwise.nn.views import PairViewSettings, report_ids


@dataclass(frozen=True)
class Config(TextSettings, PairViewSettings, MethodConfig):
    # ECG branch
    n_patches: int = 250  # tokens, each of all leads; must divide the number of samples of a lead
    mask_ratio: float = 0.75  # hidden share of ECG tokens
    width: int = 768  # of an ECG token
    depth: int = 8  # Transformer layers
    heads: int = 12
    pooling: Literal["mean", "cls"] = "cls"  # computes the ECG's vector from its tokens
    lead_dropout: float = 0.5  # probability that a lead is removed in training; at least one remains
    # report branch (the paper: Flan-T5-base, trained)
    text_frozen: Literal["whole", "layers"] = "layers"  # frozen part of a pre-trained encoder
    text_frozen_layers: int = 0  # 0: all layers are trained
    text_mask_ratio: float = 0.25  # hidden share of words
    # fusion
    fusion_width: int = 768
    fusion_depth: int = 6  # layers, each of both sequences
    fusion_heads: int = 12
    mem_layer: int = 3  # number of fusion layers before the ECG is decoded; 0 = before the fusion
    decoder_width: int = 384  # of L_MEM's decoder
    decoder_depth: int = 4
    decoder_heads: int = 6
    # matching and alignment
    far_share: float = (
        0.25  # a dissimilar report is sampled from this share of the batch, those with the fewest common words
    )
    shared_width: int = 768  # of the vectors that L_ETS compares
    ets: Literal["unscaled", "learnable"] = (
        "unscaled"  # plain products, or unit vectors with a learnable scale and bias
    )
    same_report: SameReport = "negative"  # pairs of records with identical reports, in L_ETS
    w_mlm: float = 1.0  # 0 removes the term and its computation
    w_mem: float = 1.0  # 0 removes the term and its computation
    w_etm: float = 1.0
    w_ets: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, mask_ratio="(0, 1)", text_mask_ratio="(0, 1)", far_share="(0, 1]")
        check_ranges(self, mem_layer=f"[0, {self.fusion_depth}]")  # up to fusion_depth
        check_ranges(
            self, w_etm="> 0", w_ets="> 0", w_mlm=">= 0", w_mem=">= 0"
        )  # etm and ets train fusion and embeddings

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation: L_ETM samples negatives among a process's records of one pass."""
        return "method.name = 'c_melt'"


# Settings for two CPU cores, with the views of MERL's small settings.
SMALL = {
    "n_patches": 50, "width": 128, "depth": 4, "heads": 4, "pooling": "mean",
    "fusion_width": 64, "fusion_depth": 2, "fusion_heads": 2, "mem_layer": 1,
    "decoder_width": 64, "decoder_depth": 1, "decoder_heads": 2, **SMALL_REPORTS, "lead_dropout": 0.0,
}  # fmt: skip
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "text_width": 32, "text_depth": 1, "text_heads": 2,
        "vocab_size": 400, "max_tokens": 48, "fusion_width": 16, "fusion_depth": 2, "fusion_heads": 2, "mem_layer": 1,
        "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "shared_width": 16,
    },
    "learnable": {
        "n_patches": 10, "width": 32, "depth": 1, "heads": 4, "pooling": "mean", "text_width": 32, "text_depth": 1,
        "text_heads": 2, "text_pooling": "mean", "vocab_size": 400, "max_tokens": 48, "fusion_width": 16, "fusion_depth": 1,
        "fusion_heads": 2, "mem_layer": 0, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "shared_width": 16,
        "ets": "learnable", "same_report": "ignore",
    },
}  # fmt: skip


class Method(WithReports, PretrainingMethod):
    falling_terms = ("L_MLM", "L_MEM", "L_ETM", "L_ETS")
    config: Config
    special: Tensor

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this method."""
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = nonzero_weights(L_MLM=c.w_mlm, L_MEM=c.w_mem, L_ETM=c.w_etm, L_ETS=c.w_ets)
        if signal.n_samples % c.n_patches:
            raise ValueError(f"n_patches = {c.n_patches} does not divide the {signal.n_samples} samples of a lead")

        # both branches; the grid has one row, and its patches contain all leads
        samples = len(signal.leads) * signal.n_samples // c.n_patches
        shape = EncoderShape(1, c.n_patches, samples, c.width, c.depth, c.heads, pooling=c.pooling)
        self.ecg = LeadTimeEncoder(shape, LinearTokenizer(samples, c.width, signal_rms(signal.normalize)))
        self.pooled_norm = nn.LayerNorm(c.width)
        self.text = ReportTower(c, tokenizer, saved_folder)

        # L_ETS
        self.ecg_shared = nn.Sequential(nn.Linear(c.width, c.shared_width), nn.Tanh())
        self.text_head = nn.Sequential(nn.Linear(self.text.width, c.shared_width), nn.Tanh())
        if c.ets == "learnable":
            self.ets_log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
            self.ets_bias = nn.Parameter(torch.tensor(-10.0))

        # fusion
        self.ecg_enter = nn.Linear(c.width, c.fusion_width)
        self.text_enter = nn.Linear(self.text.width, c.fusion_width)
        self.fusion = Fusion(c.fusion_width, c.fusion_depth, c.fusion_heads)

        # L_MLM, L_MEM, L_ETM
        if c.w_mlm:
            wide = self.text.width
            self.word_bias = nn.Parameter(torch.zeros(len(tokenizer)))
            self.word_transform = nn.Sequential(
                nn.LayerNorm(c.fusion_width), nn.Linear(c.fusion_width, wide), nn.GELU(), nn.LayerNorm(wide)
            )
        if c.w_mem:
            decoder = DecoderShape(c.decoder_width, c.decoder_depth, c.decoder_heads)
            self.decoder = LeadTimeDecoder(replace(shape, width=c.fusion_width), decoder)
        self.fused_text = nn.Sequential(
            nn.LayerNorm(c.fusion_width), nn.Linear(c.fusion_width, c.fusion_width), nn.Tanh()
        )
        self.fused_ecg = nn.Sequential(
            nn.LayerNorm(c.fusion_width), nn.Linear(c.fusion_width, c.fusion_width), nn.Tanh()
        )
        self.match = nn.Linear(2 * c.fusion_width, 1)
        self.register_buffer("special", torch.tensor(tokenizer.all_special_ids), persistent=False)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted terms of each record by itself, and the features that `batch_terms` compares, one row per record."""
        # encode the visible ECG and the report with hidden words
        view = self.training_view(batch)
        report = report_ids(batch, view)
        patches, usable = self._patches(view)
        visible = masking.draw_visible(usable, self.config.mask_ratio)
        encoded = self.ecg(patches, visible)
        tokens = self.text.tokenize(list(view.report))[0].to(view.ecg.device)
        cloze = self._hide_words(tokens)
        states, e_text = self.text(cloze.question)

        # fuse each ECG with its own report, and with a dissimilar one
        dissimilar, exists = self._dissimilar(tokens, report)
        both = torch.cat([torch.arange(len(dissimilar), device=dissimilar.device), dissimilar])
        ecg, text = self.ecg_enter(encoded.tokens).repeat(2, 1, 1), self.text_enter(states)[both]
        ecg_real, text_real = None if encoded.real is None else encoded.real.repeat(2, 1), tokens.real[both]
        fused = self.fusion(text, ecg, text_real, ecg_real)
        end_text, end_ecg = fused[-1]
        own, other = self._match(end_text, end_ecg, text_real, ecg_real).chunk(2)

        # L_MLM and L_MEM use the first half of the rows, with the own reports
        terms: dict[str, Tensor] = {}
        if self.config.w_mlm:
            terms["L_MLM"] = self._words(cloze, end_text[: len(view)])
        if self.config.w_mem:
            mixed = fused[self.config.mem_layer][1][: len(view)]
            terms["L_MEM"] = self._hidden_ecg(view, replace(encoded, tokens=mixed), usable, visible)
        terms["L_ETM"] = pairwise.matching(own, other, exists)
        features = {"ecg": self._pooled(encoded, self.ecg_shared), "text": self.text_head(e_text), "report": report}
        return {name: self.weights[name] * term for name, term in terms.items()}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted L_ETS over the whole batch, including other processes' records."""
        c = self.config
        ecg, text = (distributed.gather(features[name].float()) for name in ("ecg", "text"))
        report = distributed.gather(features["report"])
        scale: Tensor | float = 1.0
        bias: Tensor | float = 0.0
        with torch.autocast(ecg.device.type, enabled=False):
            if c.ets == "learnable":
                ecg, text = F.normalize(ecg, dim=-1), F.normalize(text, dim=-1)
                scale, bias = self.ets_log_scale.exp(), self.ets_bias
            loss = multimodal.siglip(ecg, text, report, scale, bias, c.same_report, distributed.local_rows(len(ecg)))
        return {"L_ETS": c.w_ets * loss}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole, unmasked ECGs, before any fusion; any subset of leads may be observed.

        backbone: the encoder's normalised vector (the probe's feature). shared: unit vectors in the space of `embed_text`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        encoded = self.ecg(*self._patches(batch))
        return [
            self._pooled(encoded) if part == "backbone" else F.normalize(self._pooled(encoded, self.ecg_shared), dim=-1)
            for part in parts
        ]

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        tokens, cut = self.text.tokenize(list(batch.report))
        text = F.normalize(self.text_head(self.text(tokens)[1]), dim=-1)
        return {
            "effective_rank": multimodal.effective_rank(self.embed_ecg(batch, "shared")),
            "effective_rank_text": multimodal.effective_rank(text),
            "reports_cut": cut,
        }

    # --- patches and terms

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Patches of all leads (B, 1, N, L P) on the model's scale, and (B, 1, N) bool, True where any lead was observed."""
        n = self.config.n_patches
        patches = patchify(scaled(batch, self.signal), n).transpose(1, 2).flatten(2)  # (B, N, L P)
        return patches[:, None], patchify(batch.observed, n).any(-1).any(1)[:, None]

    def _pooled(self, encoded: Encoded, head: nn.Module | None = None) -> Tensor:
        """The ECG's normalised vector (B, D), or its projection by `head`."""
        out: Tensor = self.pooled_norm(encoded.pooled)
        return out if head is None else head(out)

    def _hide_words(self, tokens: Tokens) -> reports.Cloze:
        """The reports with random words hidden; no word is hidden if w_mlm is 0."""
        ratio = self.config.text_mask_ratio
        masked = (
            reports.choose_masked(tokens, self.special, ratio) if self.config.w_mlm else torch.zeros_like(tokens.real)
        )
        return reports.mask_in_place(tokens, masked, self.tokenizer.mask_token_id, len(self.tokenizer))

    def _dissimilar(self, tokens: Tokens, report: Tensor) -> tuple[Tensor, Tensor]:
        """For each record, sample a dissimilar report of this pass: (B,) its row, and (B,) bool, whether one exists."""
        counted = tokens.real & ~torch.isin(tokens.ids, self.special)
        close = pairwise.word_overlap(tokens.ids, counted, len(self.tokenizer))
        return pairwise.sample_dissimilar_reports(close, report, self.config.far_share)

    def _match(self, text: Tensor, ecg: Tensor, text_real: Tensor, ecg_real: Tensor | None) -> Tensor:
        """(B,) logits of whether two fused sequences belong together."""
        ecg_mean = ecg.mean(1) if ecg_real is None else mean_of(ecg, ecg_real)
        both = torch.cat([self.fused_text(mean_of(text, text_real)), self.fused_ecg(ecg_mean)], dim=-1)
        out: Tensor = self.match(both)[:, 0]
        return out

    def _words(self, cloze: reports.Cloze, states: Tensor) -> Tensor:
        """L_MLM from the fused report (B, S, D)."""
        index, _ = masking.places(cloze.scored)  # the vocabulary's logits are computed for hidden words only
        words = self.text.words[: len(self.word_bias)]
        logits = self.word_transform(masking.take(states, index)) @ words.T + self.word_bias  # (B, A, V)
        errors = multimodal.token_errors(logits, cloze.answer.gather(1, index), cloze.scored.gather(1, index))
        return multimodal.token_reconstruction(errors)

    def _hidden_ecg(self, batch: Batch, mixed: Encoded, usable: Tensor, visible: Tensor) -> Tensor:
        """L_MEM, from the ECG's tokens after `mem_layer` fusion layers."""
        n = self.config.n_patches
        target = patchify(normalize(batch.ecg, batch.observed, "lead_zscore"), n)  # (B, L, N, P)
        predicted = self.decoder(mixed, usable)[:, 0].reshape(len(batch), n, target.shape[1], -1).transpose(1, 2)
        hidden = (usable & ~visible) & patchify(batch.observed, n).all(-1)  # (B, L, N)
        return multimodal.patch_reconstruction(predicted, target, hidden)
