"""MERIT-style: Information-theoretic Multimodal Representation Learning for Electrocardiogram Signals.
arXiv 2605.27583 (2026).

    maximise    I(Z; X) + b I(Z; R)      of the representation Z of an ECG X with the report R
    I(Z; X) >=  H(X) + E log q(X | Z)    (Barber and Agakov); q a Gaussian of hidden patches, given the visible ones
    I(Z; R) >=  log B - L_nce            (InfoNCE)
    L           = L_mem + b L_nce        the trainable parts of the two bounds

    L_mem       squared error on hidden patches: branch 1 encodes the visible patches and decodes
    L_nce       symmetric InfoNCE over the batch's pairs, cosine / tau: branch 2 encodes the whole ECG with the same encoder,
                averages and projects; compared with the projected report

MERIT-style, not MERIT: only the paper's abstract and introduction were accessible, and no code was found. Known are the two
terms, the two branches and their origin: an information-theoretic objective, approximated by reconstruction and contrast. The
derivation above is the standard one, and everything else is ours:
- One encoder for both branches, with one token per lead and patch, because the introduction describes leads and times; also its
  sizes, the decoder, the hidden three quarters of each lead, tau = 0.07 and b = 1.
- L_mem's target is each patch scaled to mean 0 and standard deviation 1, with a floor relative to the record's deviation, so
  that isoelectric patches do not require the model to predict noise [target = "raw", the Gaussian of the bound, or "record"].
- The view's noise is on the encoder's input, not on the target.
- The text encoder is MedCPT, half of which is trained, as in the methods it is compared with; text_encoder = "" is a small BERT
  with random initial weights.
- Across processes the gradient is that of the whole batch.

The arms of the paper's thesis, that both terms are needed (`leadwise reproduce merit` compares them):
- b = 0, mask-only: branch 2, its heads and the text encoder are absent, and no report enters the loss. Only the tokenizer is
  still made. The normalisation of the probe's feature has no weights then, since no term would train them. No text is embedded.
- w_mem = 0, contrast-only: branch 1 and its decoder are absent, and `reconstruct` raises.

What the paper evaluates, and how this package does; the paper's own protocol is unknown:
- PTB-XL's levels: the tasks super, sub, form, rhythm, diag (44 statements) and all (71; every record). Its F1 is not defined in
  what is accessible: f1_val, f1_max and f2_val are printed.
- Its printed AUCs are at the level of fine-tuning, not of a frozen probe: `leadwise finetune`.
- Distribution shift: `leadwise shift`, over the findings that two label sets share, and over changed ECGs.
- Text generated from the ECG: `leadwise train-writer` and `leadwise report`. Which language model and which prompts the paper
  uses is unknown.
"""

from __future__ import annotations

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
from leadwise.nn import augment, completion, masking, targets
from leadwise.nn.encoder import NO_PATCH, check_part, valid_only
from leadwise.nn.heads import Head
from leadwise.nn.lead_time import DecoderShape, EncoderShape, LeadTimeDecoder, LeadTimeEncoder
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.masking import Masking
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import ConvTokenizer, patchify
from leadwise.nn.report_tower import SMALL_REPORTS, ReportTower, TextSettings, WithReports
from leadwise.nn.text import Tokenizer
from leadwise.nn.views import PairViewSettings, pair_view, report_ids


@dataclass(frozen=True)
class Config(TextSettings, PairViewSettings, MethodConfig):
    # encoder of both branches
    n_patches: int = (
        100  # patches per lead, each of duration_s / n_patches; must divide the number of samples of a lead
    )
    width: int = 768  # D
    depth: int = 8  # Transformer layers
    heads: int = 12
    checkpointing: bool = False  # recompute encoder activations in the backward pass
    # branch 1
    mask_ratio: float = 0.75  # share of each lead's patches that is hidden
    masking: Masking = "uniform"  # what is hidden: patches of each lead, any patches, leads or times
    decoder: Literal["joint", "leadwise", "cross"] = "joint"  # attention: all leads, each lead, hidden to visible
    decoder_width: int = 256
    decoder_depth: int = 4
    decoder_heads: int = 8
    target: Literal["patch", "record", "raw"] = "patch"  # scale of L_mem's target
    # branch 2
    text_frozen: Literal["whole", "layers"] = "layers"  # frozen part of a pre-trained encoder
    max_tokens: int = 128  # longer reports are truncated; the share is logged
    head_depth: int = 2  # layers of each projector
    shared_width: int = 256  # of z_ecg and z_text
    temperature: float = 0.07  # tau
    same_report: SameReport = "negative"  # pairs of records with identical reports
    b: float = 1.0  # weight of L_nce; 0: without branch 2 and reports
    w_mem: float = 1.0  # weight of L_mem; 0: without branch 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, mask_ratio="(0, 1)", temperature="> 0", b=">= 0", w_mem=">= 0")
        if not (self.b or self.w_mem):
            raise ValueError("b = 0 and w_mem = 0: no term is left; set one of them above 0")


# Settings for two CPU cores and signals of 1,000 samples; views and report branch are those of the other methods with reports.
# Patches are long and layers few, because branch 2 encodes all patches.
SMALL = {
    "n_patches": 10, "mask_ratio": 0.7, "width": 96, "depth": 3, "heads": 4,
    "decoder_width": 64, "decoder_depth": 1, "decoder_heads": 2,
    **SMALL_REPORTS,
}  # fmt: skip
# The smallest settings, for the contract tests.
_TINY = {
    "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
    "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48, "shared_width": 16,
}  # fmt: skip
TINY = {"": _TINY, "mask-only": {**_TINY, "b": 0.0}, "contrast-only": {**_TINY, "w_mem": 0.0}}


class Method(WithReports, PretrainingMethod):
    falling_terms: tuple[str, ...] = ("L_mem", "L_nce")
    config: Config

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this method."""
        super().__init__(config, signal, tokenizer)
        c = config
        if signal.n_samples % c.n_patches:
            raise ValueError(f"n_patches = {c.n_patches} does not divide the {signal.n_samples} samples of a lead")
        self.weights = nonzero_weights(L_mem=c.w_mem, L_nce=c.b)
        self.falling_terms = tuple(self.weights)
        samples = signal.n_samples // c.n_patches
        shape = EncoderShape(
            len(signal.leads), c.n_patches, samples, c.width, c.depth, c.heads, checkpointing=c.checkpointing
        )
        self.ecg = LeadTimeEncoder(shape, ConvTokenizer(samples, c.width, amplitude=True))

        # branch 1
        if c.w_mem:
            grid = DecoderShape(c.decoder_width, c.decoder_depth, c.decoder_heads, c.decoder)
            self.decoder = LeadTimeDecoder(shape, grid)
            # a decoder of single leads has no visible token of a lead that is missing
            self.completes_leads = c.decoder != "leadwise" and signal.normalize == "mv"

        # branch 2; without it no term trains the weights of the norm
        self.norm = nn.LayerNorm(c.width, elementwise_affine=bool(c.b))
        if not c.b:
            self.parts, self.embeds_text = ("backbone",), False
            return
        self.ecg_head = Head(c.width, c.shared_width, c.head_depth)
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = Head(self.text.width, c.shared_width, c.head_depth)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted L_mem; and the features that `batch_terms` compares, one row per record. Weights of 0 leave theirs out."""
        # the training view; its noise is on the encoder's input and not on L_mem's target
        c, view = self.config, batch
        if self.training:
            view = pair_view(batch, replace(c, noise_mv=0.0), self.signal, self.signal.n_samples // c.n_patches)
        clean, usable = self._patches(view)
        patches = clean
        if self.training and c.noise_mv:
            patches = augment.noise(clean, c.noise_mv) * usable[..., None]

        # branch 1
        terms: dict[str, Tensor] = {}
        if c.w_mem:
            visible = masking.draw_visible(usable, c.mask_ratio, c.masking)
            predicted = self.decoder(self.ecg(patches, visible), usable, None, visible)
            level, spread = self._level_and_spread(clean, view.observed)
            l_mem = multimodal.patch_reconstruction(predicted, (clean - level) / spread, usable & ~visible)
            terms["L_mem"] = c.w_mem * l_mem

        # branch 2
        if not c.b:
            return terms, {}
        z_ecg = self.ecg_head(self.norm(self.ecg(patches, usable).pooled))
        z_text = self.text_head(self.text.read(list(view.report)))
        return terms, {"ecg": z_ecg, "text": z_text, "report": report_ids(batch, view)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted L_nce over the whole batch, including other processes' records; empty with b = 0."""
        c = self.config
        if not c.b:
            return {}
        every = distributed.gather_features(features)
        ecg, text, report = every["ecg"], every["text"], every["report"]
        loss = multimodal.aligned(
            ecg, text, report, 1 / c.temperature, c.same_report, distributed.local_rows(len(report))
        )
        return {"L_nce": c.b * loss}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole, unmasked ECGs; any subset of leads may be observed.

        backbone: the normalised mean of branch 2's tokens (the probe's feature). shared: unit vectors in the space of
        `embed_text`; absent with b = 0.

        Raises:
            ValueError: an unknown part, or a record without one completely observed patch.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        feature: Tensor = self.norm(self.ecg(*self._patches(batch)).pooled)
        return [feature if part == "backbone" else F.normalize(self.ecg_head(feature), dim=-1) for part in parts]

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The decoder's ECG (B, L, T) in mV where patches were hidden, and the mask (B, L, T) of these samples.

        A predicted patch is scaled back to mV with the true patch's level and spread, which the target does not contain.

        Raises:
            ValueError: a signal scale that cannot be converted back to mV, or w_mem = 0.
        """
        if not self.config.w_mem:
            raise ValueError("w_mem = 0: this run has no decoder and reconstructs no ECG")
        targets.refuse_other_scales(self.signal.normalize)
        patches, usable = self._patches(batch)
        visible = masking.draw_visible(usable, self.config.mask_ratio, self.config.masking)
        predicted = self.decoder(self.ecg(patches, visible), usable, None, visible)
        level, spread = self._level_and_spread(patches, batch.observed)
        hidden = (usable & ~visible).repeat_interleave(patches.shape[-1], dim=-1)
        return targets.in_mv(predicted, level, spread, batch), hidden

    @torch.no_grad()
    def complete(self, batch: Batch, observed: Tensor, n_draws: int = 1) -> Tensor:
        """ECGs (n_draws, B, L, T) in mV; the decoder fills in all patches of the leads that are not `observed` (B, L) bool.

        With target "patch" the decoder predicts the shape of a patch and not its amplitude; with "record" it does not predict
        that of the record. What it does not predict is that of a linear map of the given leads (`completion.fill_patches`).

        Raises:
            ValueError: w_mem = 0, or decoder "leadwise", which reconstructs each lead from its own patches.
        """
        c = self.config
        if not self.completes_leads:
            targets.refuse_other_scales(self.signal.normalize)
            reason = (
                "w_mem = 0: this run has no decoder" if not c.w_mem else "decoder = 'leadwise' reads one lead at a time"
            )
            raise ValueError(
                f"{reason} and completes no missing lead; train with w_mem=1 and decoder='joint' or 'cross'"
            )

        def decode(patches: Tensor, visible: Tensor) -> Tensor:
            out: Tensor = self.decoder(self.ecg(patches, visible), torch.ones_like(visible), None, visible)
            return out

        return completion.fill_patches(decode, batch, observed, self.signal, c.n_patches, c.target, 0.01, n_draws)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        out: dict[str, float] = {}
        if self.config.b:
            tokens, cut = self.text.tokenize(list(batch.report))
            out = multimodal.effective_ranks(self.embed_ecg(batch, "shared"), self.text_head(self.text(tokens)[1]))
            out["reports_cut"] = cut
        if self.config.w_mem and self.signal.normalize == "mv":
            samples, hidden = self.reconstruct(batch)
            if bool(hidden.any()):
                # squared error of reconstructed shapes in mV^2: the true patch's level and spread are given
                out["mem_mv2"] = float((samples - batch.ecg).square()[hidden].mean())
        return out

    # --- the report branch, which is absent with b = 0

    def embed_text(self, texts: list[str]) -> Tensor:
        """(K, D) unit vectors of reports or prompts, in the shared space.

        Raises:
            ValueError: b = 0.
        """
        if not self.config.b:
            raise ValueError("b = 0: this run was trained without reports and embeds no text")
        return super().embed_text(texts)

    def save_extra(self, folder: Path) -> None:
        """Write a pre-trained text encoder's shape; nothing with b = 0."""
        if self.config.b:
            super().save_extra(folder)

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters with pre-trained weights; none with b = 0."""
        return super().pretrained_parameters if self.config.b else []

    # --- patches

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scaled patches (B, L, N, P), and which of them are completely observed (B, L, N).

        Raises:
            ValueError: a record without one completely observed patch.
        """
        n = self.config.n_patches
        patches = patchify(normalize(batch.ecg, batch.observed, self.signal.normalize), n)
        usable = patchify(batch.observed, n).all(-1)
        return valid_only(patches, usable.flatten(1).any(-1), batch.record, NO_PATCH), usable

    def _level_and_spread(self, patches: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and deviation that L_mem's target is relative to: (B, L, N, 1) or broadcast to it."""
        return targets.level_and_spread(patches, patchify(observed, self.config.n_patches), self.config.target)
