"""CG-DMER: Hybrid Contrastive-Generative Framework for Disentangled Multimodal ECG Representation Learning.
arXiv 2602.21154 (ICASSP 2026).

    L = L_cons + w_e_rec L_e_rec + w_t_rec L_t_rec + w_orth L_orth + w_siglip L_siglip            (Eq. 10)

    tokens    temp_n + spa_l + W tok(patch l, n), visible patches only                              (Eq. 1)
    L_e_rec   squared error on hidden patches                                                       (Eq. 2)
    L_t_rec   cross-entropy of hidden report tokens                                                 (Eq. 3)
    heads     h_sp, h_sh of the pooled ECG and report                                               (Eq. 4)
    L_orth    squared cosine of h_sp and h_sh, both modalities                                      (Eq. 5)
    L_siglip  sigmoid loss over all ECG-report pairs of shared embeddings                           (Eq. 6)
    L_cons    symmetric InfoNCE of shared embeddings, tau = 0.07                                    (Eqs. 7-9)

This implementation departs from the paper's text as follows (in brackets: the setting that restores the paper's text):
- Eq. 10 as printed has no ECG reconstruction, but Table 3 ablates it: it is included, with its own weight [w_e_rec = 0].
- Eqs. 7-8 omit the positive from the denominator and Eq. 9 sums over all pairs, so that every negative is also a positive.
  Here: standard symmetric InfoNCE on i = j [contrast = "decoupled" or "literal"].
- Eq. 6 has neither scale nor bias; with unit vectors its optimum pushes all pairs apart and collapses. Here: SigLIP's
  learnable scale and bias [siglip = "literal", or "unnormalised" for vectors that are not normalised].
- Eq. 2 is a mean over samples. Its target is each patch scaled to mean 0 and standard deviation 1, with a floor relative to
  the record's deviation, so that isoelectric patches do not require the model to predict noise [target = "raw" or "record"].
- Records with identical reports are not negatives of each other [same_report = "negative"; on simulated hearts the
  difference is no larger than that between two seeds]. With `similar_report` below 1, off by default, this holds for reports
  that share most words too: the false negatives of FG-CLEP (arXiv 2505.11939), which compares reports by a language model and
  weights each pair; here the overlap of words decides, and no pair is weighted. Not measured.
- The contrastive terms use the same masked pass as the reconstruction; the paper does not specify the pass
  [contrast_view = "full"].
- Eq. 3 uses T5's sentinel tokens and an autoregressive decoder on a BERT, as the paper describes it; the contrastive terms
  use a pass over the uncorrupted report [text_task = "mlm" masks tokens in place instead]. Measured on simulated hearts,
  masking in place costs two to three points of zero-shot and of the 1 % probe, so the decoder is the default.
- All weights are 1 where the paper gives none. In short runs Eq. 6 costs as much zero-shot as Eqs. 7-9 gain: NOTES.md.
- The specific heads have no objective except Eq. 5, which any orthogonal vector satisfies. `specific_task = "recon"` gives
  them one: both decoders receive h_sp and h_sh. Eq. 5 is a cosine, which a rotation of one and the same vector meets too;
  `decorrelate = true` requires instead that no feature of h_sp correlates with one of h_sh over the records.
- Widths, depths, decoder, tokeniser and heads are our choice where the paper gives none. Lead and temporal embeddings start
  at the scale of the tokens, and queries and keys of the attention start equal. Without this, Eq. 2 stayed at the loss of
  predicting nothing (NOTES.md).
- Tokens contain each patch's mean and log deviation, which the tokeniser's group norm removes: without them a linear map of
  the tokens explains a third of the variance of a patch's log-size, with them all of it [patch_amplitude = false].
- Settings that are off by default and raised the scores of short runs (NOTES.md): `patch_pooled` adds features of a patch
  that hardly depend on where in it a wave is; `embedding_scale` lets the encoder's lead and temporal embeddings start
  smaller; `final_view` compares an unmasked view with the report in the last steps.
- A report can have 32 sentinels; of a text with more masked runs, the last runs stay unmasked.
- Not implemented: scheduled or learnable (uncertainty) weights, mixtures of masks, HSIC, LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn import augment, completion, masking, targets
from leadwise.nn import text as reports
from leadwise.nn.encoder import NO_PATCH, LeadTimeTokens, TokenEncoder, check_part, valid_only
from leadwise.nn.heads import Head
from leadwise.nn.lead_time import (
    DecoderShape,
    Encoded,
    EncoderShape,
    LeadTimeDecoder,
    LeadTimeEncoder,
    mean_by_lead,
    mean_over_parts,
)
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import ContrastForm, SameReport, Words
from leadwise.nn.normalize import normalize
from leadwise.nn.observed import usable_patches
from leadwise.nn.patches import ConvTokenizer, patchify
from leadwise.nn.report_tower import (
    SMALL_REPORTS,
    ReportTower,
    TextEncoderSettings,
    WithReports,
    check_similar_report,
)
from leadwise.nn.targets import Target
from leadwise.nn.text import Tokenizer, Tokens
from leadwise.nn.views import report_ids, report_view

TEMPERATURE = 0.07  # tau of Eqs. 7-8
CORRELATION_MOMENTUM = 0.95  # of the running correlations: about 20 batches
TEXT_MASK_RATIO = 0.15  # share of a report's tokens that Eq. 3 hides


@dataclass(frozen=True)
class Config(TextEncoderSettings, MethodConfig):
    # ECG branch (section 2.1)
    n_patches: int = 100  # N, patches per lead; must divide the number of samples of a lead
    mask_ratio: float = 0.75  # r, share of each lead's patches that is hidden
    patch_amplitude: bool = True  # add each patch's mean and log deviation to W's input; group norm removes both
    patch_pooled: bool = False  # add features of W's input that hardly depend on where in its patch a wave is
    embedding_scale: float = 1.0  # factor on the encoder's lead and temporal embeddings at the start
    width: int = 768  # D
    depth: int = 8  # Transformer layers
    heads: int = 12
    checkpointing: bool = False  # recompute encoder activations in the backward pass: less memory, more time
    decoder: Literal["joint", "leadwise", "cross"] = "joint"  # attention: all leads, each lead, hidden to visible
    decoder_width: int = 256
    decoder_depth: int = 4
    decoder_heads: int = 8
    target: Target = "patch"  # scale of Eq. 2's target
    contrast_view: Literal["masked", "full", "both"] = "masked"  # encoder pass whose output goes to the heads
    final_view: Literal["masked", "full", "parts"] = "masked"  # contrast_view of the last steps; parts: as an embedding
    final_share: float = 0.0  # share of the steps that use final_view
    embed_passes: int = 4  # parts that together hold every patch once; an embedding is the mean over them
    # report branch (the paper: ncbi/MedCPT-Query-Encoder)
    max_tokens: int = 128  # longer reports are truncated; the share is logged
    text_task: Literal["ar", "mlm"] = "ar"  # Eq. 3: autoregressive decoder, or prediction in place as in BERT
    text_decoder_depth: int = 2
    # disentanglement and alignment (section 2.2)
    shared_width: int = 256
    decorrelate: bool = False  # in place of Eq. 5's cosine: no correlation between h_sp and h_sh over the records
    specific_task: Literal["none", "recon"] = "none"  # "recon": both decoders also receive h_sp and h_sh
    contrast: ContrastForm = "standard"
    siglip: Literal["learnable", "literal", "unnormalised"] = "learnable"  # scale and bias of Eq. 6
    same_report: SameReport = "ignore"  # pairs of records with identical reports
    similar_report: float = 1.0  # reports with this word overlap (cosine) count as identical; 1: only identical ones
    w_e_rec: float = 1.0  # weights of Eq. 10; 0 removes the term and its computation
    w_t_rec: float = 1.0
    w_orth: float = 1.0
    w_siglip: float = 1.0
    # views of the training data, all off in the paper
    shift: bool = False  # shift the batch against the patch grid by a random part of a patch, in either direction
    gain: float = 0.0  # multiply all leads of a record by one random factor exp(N(0, gain))
    noise_mv: float = 0.0  # white noise on the encoder's input, largest standard deviation (the model's scale)
    statement_dropout: float = 0.0  # probability of leaving out each statement of a report; > 0 also shuffles them
    rewording: float = 0.0  # probability that a statement of a report is replaced by another wording of its finding

    def __post_init__(self) -> None:
        check_ranges(self, mask_ratio="[0, 1)", embed_passes=">= 1", final_share="[0, 1]", embedding_scale="> 0")
        check_ranges(self, rewording="[0, 1]")
        check_similar_report(self.similar_report, self.same_report)
        if self.same_report == "positive" and self.contrast != "standard":
            raise ValueError(f"same_report = 'positive' needs contrast = 'standard'; contrast = {self.contrast!r}")


# Settings of earlier versions, each with the value that this version uses. A saved run with this value still loads.
REMOVED = {
    "masking": "uniform", "patch_tokenizer": "conv", "patch_channels": 8, "temporal": "learnable", "separators": False,
    "pooling": "mean", "text_frozen": "layers", "text_mask_ratio": TEXT_MASK_RATIO, "text_mask_mix": True,
    "text_mean": "report", "text_view": "clean", "head_depth": 2, "head_norm": "layer", "orthogonality": "cosine",
    "temperature": TEMPERATURE, "learn_temperature": False, "siglip_mean": False, "w_cons": 1.0, "lead_dropout": 0.0,
}  # fmt: skip

# Settings for two CPU cores and signals of 1,000 samples, for runs of minutes: narrow, with many small steps. Chosen on
# fold 9 of PTB-XL, four minutes of one core each; the weights on simulated hearts: NOTES.md.
SMALL = {
    "n_patches": 20, "mask_ratio": 0.75, "patch_amplitude": True, "patch_pooled": True, "embedding_scale": 0.3,
    "width": 64, "depth": 4, "heads": 4,
    "decoder": "cross", "decoder_width": 48, "decoder_depth": 1, "decoder_heads": 2, "text_decoder_depth": 1,
    **{key: value for key, value in SMALL_REPORTS.items() if key != "shift_s"}, "shift": True,
    "w_t_rec": 0.1, "w_siglip": 0.2,
}  # fmt: skip
SMALL_OPTIM = {"batch_size": 32, "lr": 2e-3, "optimizer": "muon"}
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
        "text_width": 32, "text_depth": 1, "text_heads": 2, "text_decoder_depth": 1, "vocab_size": 400, "max_tokens": 48,
        "shared_width": 16,
    },
}  # fmt: skip


class Method(WithReports, PretrainingMethod):
    falling_terms = ("L_cons", "L_e_rec", "L_t_rec", "L_orth", "L_siglip")
    config: Config
    progress: Tensor
    parts: tuple[str, ...] = ("backbone", "shared", "specific", "both", "per_lead")

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when saved weights will be loaded into this method."""
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = nonzero_weights(
            L_cons=1.0, L_e_rec=c.w_e_rec, L_t_rec=c.w_t_rec, L_orth=c.w_orth, L_siglip=c.w_siglip
        )
        if signal.n_samples % c.n_patches:
            raise ValueError(f"n_patches = {c.n_patches} does not divide the {signal.n_samples} samples of a lead")

        # Eq. 1
        samples = signal.n_samples // c.n_patches
        shape = EncoderShape(
            len(signal.leads), c.n_patches, samples, c.width, c.depth, c.heads, checkpointing=c.checkpointing,
            embedding_scale=c.embedding_scale,
        )  # fmt: skip
        self.ecg = LeadTimeEncoder(shape, ConvTokenizer(samples, c.width, c.patch_amplitude, c.patch_pooled))
        self.pooled_norm = nn.LayerNorm(c.width)

        # Eq. 2
        if c.w_e_rec:
            grid = DecoderShape(c.decoder_width, c.decoder_depth, c.decoder_heads, c.decoder)
            self.ecg_decoder = LeadTimeDecoder(shape, grid)
            # a decoder of single leads has no visible token of a lead that is missing
            self.completes_leads = c.decoder != "leadwise" and signal.normalize == "mv"

        # Eq. 3
        self.text = ReportTower(c, tokenizer, saved_folder)
        width, n_words = self.text.width, len(tokenizer)
        if c.w_t_rec:
            self.word_bias = nn.Parameter(torch.zeros(n_words))
            if c.text_task == "ar":
                self.text_decoder = reports.ReportDecoder(width, c.text_decoder_depth, self.text.heads, c.max_tokens)
            else:
                self.word_transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        # not buffers: the tokens to hide are drawn on the host
        self.sentinels = torch.tensor(tokenizer.convert_tokens_to_ids(reports.SENTINELS))
        self.special = torch.tensor(tokenizer.all_special_ids)

        # Eq. 4
        self.ecg_shared = Head(c.width, c.shared_width)
        self.text_shared = Head(width, c.shared_width)
        if self.has_specific:
            self.ecg_specific = Head(c.width, c.shared_width)
            self.text_specific = Head(width, c.shared_width)
        else:
            self.parts = ("backbone", "shared", "per_lead")
        if c.final_share:
            self.register_buffer("progress", torch.zeros(()))  # saved, so that a resumed run is in the same phase
            # the same number on the host, so that no step has to read a GPU; None after weights were loaded
            self._progress: float | None = 0.0
            self.register_load_state_dict_post_hook(_forget_progress)  # type: ignore[no-untyped-call]
        if c.w_orth and c.decorrelate:
            for name in ("ecg_correlation", "text_correlation"):
                self.register_buffer(name, torch.zeros(c.shared_width, c.shared_width))
        if c.specific_task == "recon":
            if c.w_e_rec:
                self.ecg_condition = nn.Linear(2 * c.shared_width, c.decoder_width)
            if c.w_t_rec:
                self.text_condition = nn.Linear(2 * c.shared_width, width)

        # Eq. 6
        if c.w_siglip and c.siglip == "learnable":
            self.siglip_log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
            self.siglip_bias = nn.Parameter(torch.tensor(-10.0))

    @property
    def has_specific(self) -> bool:
        """Whether the specific heads exist: only if a term uses them."""
        return bool(self.config.w_orth) or self.config.specific_task == "recon"

    @property
    def decodes_specific(self) -> bool:
        """Whether the ECG decoder receives the specific part, so that exchanging it can change the reconstruction."""
        return self.config.specific_task == "recon" and bool(self.config.w_e_rec) and self.signal.normalize == "mv"

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted terms of each record by itself, and the features that `batch_terms` compares, one row per record."""
        c, view = self.config, self.training_view(batch)

        # ECG: the view, masked; noise is on the encoder's input and not on Eq. 2's target
        clean, usable, on_host = self._valid_patches(view)
        patches = self._noisy(clean, usable)
        # drawn in any case: the draws after it stay the same
        visible, count = masking.draw_visible_counted(usable, on_host, c.mask_ratio)
        view_name = self._contrast_view
        is_masked = bool(c.w_e_rec) or view_name in ("masked", "both")
        encoded = self.ecg(patches, visible, count=count) if is_masked else None
        e_ecg = self._contrast_views(view_name, patches, usable, on_host, encoded)  # one (B, D) per pass

        # report: the corrupted one for Eq. 3, the whole one for the heads
        tokens, _ = self.text.tokenize(list(view.report))
        cloze = self._hide_words(tokens) if c.w_t_rec else None  # on the host: tokens and random numbers are there
        states = None if cloze is None else self.text(cloze.question)
        e_text = self.text(tokens)[1]
        text_sh, ecg_sh = self.text_shared(e_text), [self.ecg_shared(e) for e in e_ecg]

        # features of Eqs. 6-9
        features = {"ecg": torch.stack(ecg_sh, dim=1), "text": text_sh, "report": report_ids(batch, view)}
        if c.similar_report < 1:
            features["words"] = self.words(batch)

        # Eqs. 2, 3 and 5
        terms: dict[str, Tensor] = {}
        if c.w_e_rec and encoded is not None:
            predicted = self._reconstruct(encoded, usable, on_host, visible, self._pool(encoded))
            target = self._target(clean, view)
            terms["L_e_rec"] = multimodal.patch_reconstruction(predicted, target, usable & ~visible)
        if cloze is not None and states is not None:
            terms["L_t_rec"] = multimodal.token_reconstruction(self._fill_in(cloze, *states))
        if c.w_orth and c.decorrelate:
            features["ecg_specific"] = torch.stack([self.ecg_specific(e) for e in e_ecg], dim=1)
            features["text_specific"] = self.text_specific(e_text)
        elif c.w_orth:
            text_sp, ecg_sp = self.text_specific(e_text), [self.ecg_specific(e) for e in e_ecg]
            terms["L_orth"] = _orthogonality(text_sp, text_sh) + _mean(
                [_orthogonality(sp, sh) for sp, sh in zip(ecg_sp, ecg_sh)]
            )
        return {name: self.weights[name] * term for name, term in terms.items()}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms that compare records: of the whole batch, including other processes' records."""
        every = distributed.gather_features(features)
        text, report = every["text"], every["report"]
        local_rows = distributed.local_rows(len(text))
        words = (every["words"], self.config.similar_report) if self.config.similar_report < 1 else None
        views = every["ecg"].unbind(1)  # one (B, D) per encoder pass
        terms = {"L_cons": _mean([self._info_nce(ecg, text, report, local_rows, words) for ecg in views])}
        if self.config.w_siglip:
            terms["L_siglip"] = _mean([self._siglip(ecg, text, report, local_rows, words) for ecg in views])
        if "ecg_specific" in every:
            terms["L_orth"] = self._decorrelation(every)
        return {name: self.weights[name] * term for name, term in terms.items()}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole, unmasked ECGs; any subset of leads may be observed.

        backbone: the normalised mean of the encoder's tokens (the probe's feature). shared: unit vectors in the space of
        `embed_text`. specific: h_sp. both: shared and specific, concatenated. per_lead: the mean token of each lead, (B, L D);
        0 for a lead without a completely observed patch.

        Raises:
            ValueError: an unknown part, or a record without one completely observed patch.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)

        # the mean token, which all parts but per_lead are computed from, and the mean token of each lead
        patches, usable, on_host = self._valid_patches(batch)
        reads: list[Callable[[Encoded], Tensor]] = [self._pool] if set(parts) != {"per_lead"} else []
        if "per_lead" in parts:
            reads.append(lambda encoded: mean_by_lead(encoded, *usable.shape[1:]))
        read = self._over_parts(
            patches, usable, on_host, lambda encoded: torch.cat([one(encoded) for one in reads], dim=-1)
        )
        e_ecg = read[:, : self.config.width] if len(reads) > 1 else read
        by_lead = read[:, self.config.width :] if len(reads) > 1 else read

        def embedding(part: str) -> Tensor:
            if part in ("backbone", "per_lead"):
                return e_ecg if part == "backbone" else by_lead
            heads = [] if part == "specific" else [F.normalize(self.ecg_shared(e_ecg), dim=-1)]
            heads += [] if part == "shared" else [self.ecg_specific(e_ecg)]
            return torch.cat(heads, dim=-1)

        return [embedding(part) for part in parts]

    @property
    def token_encoder(self) -> TokenEncoder:
        """The ECG encoder and the norm of its mean, of all patches in one pass, from which another run can start."""
        return LeadTimeTokens(self.ecg, self.pooled_norm, self.signal)

    @property
    def text_branch(self) -> tuple[ReportTower, nn.Module]:
        """The report tower and the head behind `embed_text`."""
        return self.text, self.text_shared

    def embed_text(self, texts: list[str]) -> Tensor:
        """(K, D) unit vectors of reports or prompts, in the shared space."""
        tokens, _ = self.text.tokenize(texts)
        return F.normalize(self.text_shared(self.text(tokens)[1]), dim=-1)

    @torch.no_grad()
    def reconstruct(self, batch: Batch, specific_of: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The decoder's ECG (B, L, T) in mV where patches were hidden, and the mask (B, L, T) of these samples.

        A predicted patch is scaled back to mV with the true patch's level and spread, which the target does not contain.
        `specific_of` (B,) holds, for each record, the row of the batch whose specific part its decoder receives; default:
        its own row.

        Raises:
            ValueError: a run without a decoder, or a signal scale that cannot be converted back to mV.
        """
        if not self.config.w_e_rec:
            raise ValueError("this run was trained without L_e_rec: it has no decoder to reconstruct with")
        targets.refuse_other_scales(self.signal.normalize)
        patches, usable, on_host = self._patches_and_host(batch)
        visible, count = masking.draw_visible_counted(usable, on_host, self.config.mask_ratio)
        encoded = self.ecg(patches, visible, count=count)
        predicted = self._reconstruct(encoded, usable, on_host, visible, self._pool(encoded), specific_of)
        level, spread = self._level_and_spread(patches, batch)
        hidden = (usable & ~visible).repeat_interleave(patches.shape[-1], dim=-1)
        return targets.in_mv(predicted, level, spread, batch), hidden

    def reconstruct_with_specific(self, batch: Batch, specific_of: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `reconstruct`, with the specific part of the records `specific_of` (B,) of the batch."""
        return self.reconstruct(batch, specific_of)

    @torch.no_grad()
    def complete(self, batch: Batch, observed: Tensor, n_draws: int = 1) -> Tensor:
        """ECGs (n_draws, B, L, T) in mV; the decoder fills in all patches of the leads that are not `observed` (B, L) bool.

        With target "patch" the decoder predicts the shape of a patch and not its amplitude; with "record" it does not predict
        that of the record. What it does not predict is that of a linear map of the given leads (`completion.fill_patches`).

        Raises:
            ValueError: a run without L_e_rec, or decoder "leadwise", which reconstructs each lead from its own patches.
        """
        c = self.config
        if not self.completes_leads:
            targets.refuse_other_scales(self.signal.normalize)
            reason = (
                "this run was trained without L_e_rec: it has no decoder"
                if not c.w_e_rec
                else "decoder = 'leadwise' reads one lead at a time"
            )
            raise ValueError(
                f"{reason} and completes no missing lead; train with w_e_rec=1 and decoder='joint' or 'cross'"
            )

        def decode(patches: Tensor, visible: Tensor) -> Tensor:
            encoded = self.ecg(patches, visible)
            everywhere = torch.ones_like(visible)
            return self._reconstruct(encoded, everywhere, everywhere, visible, self._pool(encoded))

        return completion.fill_patches(decode, batch, observed, self.signal, c.n_patches, c.target, 0.01, n_draws)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        # ranks of the shared space, and the share of truncated reports
        e_ecg = self._whole(*self._patches_and_host(batch))
        tokens, cut = self.text.tokenize(list(batch.report))
        shared, e_text = self.ecg_shared(e_ecg), self.text(tokens)[1]
        out = multimodal.effective_ranks(shared, self.text_shared(e_text)) | {"reports_cut": cut}

        # how far Eq. 5 is from zero: mean absolute cosine of both parts
        if self.has_specific:
            out["cos_ecg"] = float(F.cosine_similarity(shared, self.ecg_specific(e_ecg), dim=-1).abs().mean())
            text_shared, text_specific = self.text_shared(e_text), self.text_specific(e_text)
            out["cos_text"] = float(F.cosine_similarity(text_shared, text_specific, dim=-1).abs().mean())

        # squared error of reconstructed shapes in mV^2: the true patch's level and spread are given
        if self.config.w_e_rec and self.signal.normalize == "mv":
            samples, hidden = self.reconstruct(batch)
            if bool(hidden.any()):
                out["e_rec_mv2"] = float((samples - batch.ecg).square()[hidden].mean())
        return out

    # --- inputs

    def training_view(self, batch: Batch) -> Batch:
        """The batch as the settings' views change it in training; in eval mode the batch itself."""
        c = self.config
        if not self.training:
            return batch
        if c.shift:
            patch_samples = self.ecg.shape.patch_samples
            batch = augment.shift(batch, patch_samples, patch_samples)
        if c.gain:
            batch = replace(batch, ecg=augment.gain(batch.ecg, c.gain))
        return replace(batch, report=report_view(batch, c.statement_dropout, c.rewording))

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scaled patches (B, L, N, P), and which of them are completely observed (B, L, N)."""
        return self._patches_and_host(batch)[:2]

    def _patches_and_host(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and which patches are completely observed as a tensor on the host."""
        n = self.config.n_patches
        ecg = normalize(batch.ecg, batch.observed, self.signal.normalize)
        return patchify(ecg, n), *usable_patches(batch, n)

    def _valid_patches(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same as `_patches_and_host`.

        Raises:
            ValueError: a record without one completely observed patch.
        """
        patches, usable, on_host = self._patches_and_host(batch)
        return valid_only(patches, on_host.flatten(1).any(-1), batch.record, NO_PATCH), usable, on_host

    def _noisy(self, patches: Tensor, usable: Tensor) -> Tensor:
        """Patches (B, L, N, P) with the view's noise, on the model's scale."""
        if not self.training or not self.config.noise_mv:
            return patches
        return augment.noise(patches, self.config.noise_mv) * usable[..., None]

    # --- Eqs. 1 and 2

    def _pool(self, encoded: Encoded) -> Tensor:
        out: Tensor = self.pooled_norm(encoded.pooled)
        return out

    def _whole(self, patches: Tensor, usable: Tensor, on_host: Tensor) -> Tensor:
        """E^ecg (B, D) of all usable patches."""
        return self._over_parts(patches, usable, on_host, self._pool)

    def _over_parts(
        self, patches: Tensor, usable: Tensor, on_host: Tensor, read: Callable[[Encoded], Tensor]
    ) -> Tensor:
        """The mean of `read` over `embed_passes` parts that together hold each usable patch once.

        With the default, a part has about as many tokens as the encoder receives in training.
        """

        def encode(patches: Tensor, part: Tensor, among: Tensor | None, count: Tensor | None) -> Tensor:
            return read(self.ecg(patches, part, among=among, count=count))

        return mean_over_parts(encode, patches, usable, on_host, self.config.embed_passes)

    @property
    def _contrast_view(self) -> str:
        """The encoder passes whose output goes to the heads at this step: masked, full, both or parts."""
        c = self.config
        if not c.final_share:
            return c.contrast_view
        if self._progress is None:
            self._progress = float(self.progress)
        return c.final_view if self._progress >= 1 - c.final_share else c.contrast_view

    def _contrast_views(
        self, name: str, patches: Tensor, usable: Tensor, on_host: Tensor, encoded: Encoded | None
    ) -> list[Tensor]:
        """E^ecg (B, D) of each pass of the view `name`. `encoded` is the masked pass; None if the view has none."""
        if name == "parts":
            return [self._whole(patches, usable, on_host)]
        is_full = name in ("full", "both")
        full = [self._pool(self.ecg(patches, usable, count=on_host.sum(-1)))] if is_full else []
        masked = [self._pool(encoded)] if encoded is not None and name in ("masked", "both") else []
        return masked + full

    @property
    def phase_ends(self) -> tuple[float, ...]:
        """The steps of `final_view` take longer than those before them."""
        return (1 - self.config.final_share, 1.0) if self.config.final_share else (1.0,)

    def after_step(self, progress: float) -> None:
        """Store the share of the steps that are done, on which `final_view` depends."""
        if self.config.final_share:
            self.progress.fill_(progress)
            self._progress = float(np.float32(progress))  # as it is saved

    def _reconstruct(
        self,
        encoded: Encoded,
        usable: Tensor,
        on_host: Tensor,
        visible: Tensor,
        e_ecg: Tensor,
        specific_of: Tensor | None = None,
    ) -> Tensor:
        """The decoder's patches (B, L, N, P), relative to their level and spread."""
        condition = None
        if self.config.specific_task == "recon":
            specific = self.ecg_specific(e_ecg if specific_of is None else e_ecg[specific_of])
            condition = self.ecg_condition(torch.cat([self.ecg_shared(e_ecg), specific], dim=-1))
        out: Tensor = self.ecg_decoder(encoded, usable, condition, visible, on_host)
        return out

    def _level_and_spread(self, patches: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean and deviation that Eq. 2's target is relative to: (B, L, N, 1) or broadcast to it."""
        real = patchify(batch.observed, self.config.n_patches)
        return targets.level_and_spread(patches, real, self.config.target)

    def _target(self, patches: Tensor, batch: Batch) -> Tensor:
        level, spread = self._level_and_spread(patches, batch)
        return (patches - level) / spread

    # --- Eq. 3

    def _hide_words(self, tokens: Tokens) -> reports.Cloze:
        """The reports with random tokens hidden, in the form that `text_task` needs."""
        masked = reports.choose_masked(tokens, self.special, TEXT_MASK_RATIO)
        if self.config.text_task == "mlm":
            return reports.mask_in_place(tokens, masked, self.tokenizer.mask_token_id, len(self.tokenizer))
        return reports.cloze(tokens, masked, self.sentinels, self.tokenizer.cls_token_id, self.tokenizer.pad_token_id)

    def _fill_in(self, cloze: reports.Cloze, memory: Tensor, e_text: Tensor) -> Tensor:
        """Eq. 3's errors (B, 2), as `multimodal.token_errors` returns them, from the corrupted report's states (B, S, D)."""
        words = self.text.words
        n_scored = cloze.scored.sum(-1)
        cloze = cloze.to(words.device)
        real = cloze.question.real
        condition = None
        if self.config.specific_task == "recon":
            condition = self.text_condition(torch.cat([self.text_shared(e_text), self.text_specific(e_text)], dim=-1))
        if self.config.text_task == "mlm":
            index, _ = masking.places(
                cloze.scored, count=n_scored
            )  # the vocabulary's logits are computed for masked tokens only
            states = masking.take(memory, index)
            states = self.word_transform(states if condition is None else states + condition[:, None])
            answer, scored = cloze.answer.gather(1, index), cloze.scored.gather(1, index)
        else:
            if condition is not None:
                memory = torch.cat([condition[:, None], memory], dim=1)
                real = F.pad(real, (1, 0), value=True)
            states = self.text_decoder(F.embedding(cloze.prompt, words), memory, real)
            answer, scored = cloze.answer, cloze.scored
        logits = states @ words[: len(self.word_bias)].T + self.word_bias  # (B, A, V)
        return multimodal.token_errors(logits, answer, scored)

    # --- Eqs. 6-9

    def _info_nce(self, ecg: Tensor, text: Tensor, report: Tensor, local_rows: slice, words: Words | None) -> Tensor:
        c = self.config
        return multimodal.aligned(ecg, text, report, 1 / TEMPERATURE, c.same_report, local_rows, c.contrast, words)

    def _decorrelation(self, every: dict[str, Tensor]) -> Tensor:
        """The mean squared correlation of h_sp and h_sh, summed over both modalities."""
        total = torch.zeros((), device=every["text"].device)
        with torch.autocast(every["text"].device.type, enabled=False):
            for name in ("ecg", "text"):
                shared, specific = every[name].float().flatten(0, -2), every[f"{name}_specific"].float().flatten(0, -2)
                running: Tensor = getattr(self, f"{name}_correlation")
                batch = multimodal.cross_correlation(shared, specific)
                term, now = multimodal.decorrelation(running, batch, CORRELATION_MOMENTUM)
                if self.training:
                    running.copy_(now)
                total = total + term
        return total

    def _siglip(self, ecg: Tensor, text: Tensor, report: Tensor, local_rows: slice, words: Words | None) -> Tensor:
        c = self.config
        scale, bias = (self.siglip_log_scale.exp(), self.siglip_bias) if c.siglip == "learnable" else (1.0, 0.0)
        with torch.autocast(ecg.device.type, enabled=False):
            ecg, text = ecg.float(), text.float()
            if c.siglip != "unnormalised":
                ecg, text = F.normalize(ecg, dim=-1), F.normalize(text, dim=-1)
            return multimodal.siglip(ecg, text, report, scale, bias, c.same_report, local_rows, words)


def _forget_progress(method: nn.Module, _keys: object) -> None:
    """The number on the host is read again from the loaded `progress`."""
    method._progress = None  # type: ignore[assignment]


def _orthogonality(specific: Tensor, shared: Tensor) -> Tensor:
    """Eq. 5 of one modality, in float32."""
    with torch.autocast(specific.device.type, enabled=False):
        return multimodal.orthogonality(specific.float(), shared.float())


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()
