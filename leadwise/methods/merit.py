"""MERIT-style: Information-theoretic Multimodal Representation Learning for Electrocardiogram Signals.
arXiv 2605.27583 (2026).

    maximise    I(Z; X) + b I(Z; R)      of the representation Z of an ECG X with the report R
    I(Z; X) >=  H(X) + E log q(X | Z)    (Barber and Agakov); q a Gaussian of hidden patches, given the visible ones
    I(Z; R) >=  log B - L_nce            (InfoNCE)
    L           = L_mem + b L_nce        what of the two bounds can be learnt

    L_mem       squared error on hidden patches: branch 1 encodes the visible ones and decodes
    L_nce       symmetric InfoNCE over the batch's pairs, cosine / tau: branch 2 encodes the whole ECG with the same encoder,
                takes the mean, projects, and is set against the projected report

MERIT-style, not MERIT: only the paper's abstract and introduction could be read, and no code was found. Known are the two
terms, the two branches and where they come from: an information-theoretic objective, approximated by reconstruction and
contrast. The derivation above is the standard one, and everything else is ours:
- One encoder for both branches, a token for each lead and patch, as the introduction's talk of leads and times suggests;
  its sizes, the decoder, three quarters hidden in each lead, tau = 0.07 and b = 1.
- L_mem's target is each patch brought to mean 0 and deviation 1, with a floor relative to the record's deviation, so that
  isoelectric patches do not ask for noise [target = "raw", the Gaussian of the bound as it stands, or "record"].
- The view's noise is on what the encoder sees, not on the target.
- MedCPT, of which half learns, as in the methods it is compared with; text_encoder = "" is a small BERT from nothing.
- Across processes the gradient is that of the whole batch.
- Not here: text written by a language model from the ECG's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import augment, masking, targets
from leadwise.nn.encoder import check_part
from leadwise.nn.heads import Head
from leadwise.nn.lead_time import (
    DecoderShape,
    EncoderShape,
    LeadTimeDecoder,
    LeadTimeEncoder,
)
from leadwise.nn.losses import multimodal
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.masking import Masking
from leadwise.nn.normalize import normalize
from leadwise.nn.patches import ConvTokenizer, patchify
from leadwise.nn.report_tower import (
    SMALL_REPORTS,
    ReportTower,
    TextSettings,
    WithReports,
)
from leadwise.nn.text import Tokenizer
from leadwise.nn.views import PairViewSettings, pair_view, report_ids


@dataclass(frozen=True)
class Config(TextSettings, PairViewSettings, MethodConfig):
    # encoder of both branches
    n_patches: int = 100  # patches per lead; each lasts duration_s / n_patches, and T must be a multiple of it
    width: int = 768  # D
    depth: int = 8  # Transformer layers
    heads: int = 12
    checkpointing: bool = False  # recompute encoder activations in the backward pass
    # branch 1
    mask_ratio: float = 0.75  # share of each lead's patches that is hidden
    masking: Masking = "uniform"  # what is drawn: patches per lead, patches, leads or times
    decoder: Literal["joint", "leadwise", "cross"] = "joint"  # all leads at once, each by itself, or hidden to visible
    decoder_width: int = 256
    decoder_depth: int = 4
    decoder_heads: int = 8
    target: Literal["patch", "record", "raw"] = "patch"  # scale of L_mem's target
    # branch 2
    text_frozen: Literal["whole", "layers"] = "layers"  # of a borrowed encoder
    max_tokens: int = 128  # longer reports are cut; the share is logged
    head_depth: int = 2  # layers of each projector
    shared_width: int = 256  # of z_ecg and z_text
    temperature: float = 0.07  # tau
    same_report: SameReport = "negative"  # pairs with word for word the same report
    b: float = 1.0  # weight of L_nce; L_mem's is 1

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio lies in (0, 1); got {self.mask_ratio}")
        if self.temperature <= 0 or self.b <= 0:
            raise ValueError(
                f"temperature and b must be positive (without b no report is read); got {self.temperature} and {self.b}"
            )


# A size for two CPU cores and signals of 1,000 samples; views and report branch are those of the other methods that read
# reports. Patches are long and layers few, since branch 2 pays for all patches.
SMALL = {
    "n_patches": 10, "mask_ratio": 0.7, "width": 96, "depth": 3, "heads": 4,
    "decoder_width": 64, "decoder_depth": 1, "decoder_heads": 2,
    **SMALL_REPORTS,
}  # fmt: skip
# The smallest settings, for the contract tests.
TINY = {
    "": {
        "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
        "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48, "shared_width": 16,
    },
}  # fmt: skip


class Method(WithReports, PretrainingMethod):
    falling_terms = ("L_mem", "L_nce")
    config: Config

    def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer, saved_folder: Path | None = None) -> None:
        """`saved_folder` is the folder to which `save_extra` wrote, when the weights of a saved run will be loaded."""
        super().__init__(config, signal, tokenizer)
        c = config
        if signal.n_samples % c.n_patches:
            raise ValueError(f"n_patches = {c.n_patches} does not divide the {signal.n_samples} samples of a lead")
        self.weights = {"L_mem": 1.0, "L_nce": c.b}
        samples = signal.n_samples // c.n_patches
        shape = EncoderShape(
            len(signal.leads), c.n_patches, samples, c.width, c.depth, c.heads, checkpointing=c.checkpointing
        )
        self.ecg = LeadTimeEncoder(shape, ConvTokenizer(samples, c.width, amplitude=True))

        # branch 1
        grid = DecoderShape(c.decoder_width, c.decoder_depth, c.decoder_heads, c.decoder)
        self.decoder = LeadTimeDecoder(shape, grid)

        # branch 2
        self.norm = nn.LayerNorm(c.width)
        self.ecg_head = Head(c.width, c.shared_width, c.head_depth)
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = Head(self.text.width, c.shared_width, c.head_depth)

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L_mem; and what `batch_terms` compares, one row per record."""
        c, shown = self.config, batch
        if self.training:  # held-out patients are looked at as they are
            shown = pair_view(batch, replace(c, noise_mv=0.0), self.signal)
        clean, usable = self._patches(shown)
        patches = clean
        if self.training and c.noise_mv:
            patches = augment.noise(clean, c.noise_mv) * usable[..., None]
        visible = masking.draw_visible(usable, c.mask_ratio, c.masking)
        predicted = self.decoder(self.ecg(patches, visible), usable, None, visible)
        level, spread = self._level_and_spread(clean, shown.observed)
        l_mem = multimodal.patch_reconstruction(predicted, (clean - level) / spread, usable & ~visible)

        z_ecg = self.ecg_head(self.norm(self.ecg(patches, usable).pooled))
        z_text = self.text_head(self.text.read(list(shown.report)))
        return {"L_mem": l_mem}, {"ecg": z_ecg, "text": z_text, "report": report_ids(batch, shown)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted L_nce over the whole batch, other processes' records too."""
        c = self.config
        every = distributed.gather_features(features)
        ecg, text, report = every["ecg"], every["text"], every["report"]
        loss = multimodal.aligned(
            ecg, text, report, 1 / c.temperature, c.same_report, distributed.local_rows(len(report))
        )
        return {"L_nce": c.b * loss}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole, unmasked ECGs; any subset of leads may be observed.

        backbone: the normed mean of branch 2's tokens (the probe's feature). shared: unit vectors in the space of
        `embed_text`.

        Raises:
            ValueError: an unknown part, or a record without one whole patch that was observed.
        """
        check_part(part, self.parts)
        feature: Tensor = self.norm(self.ecg(*self._patches(batch)).pooled)
        return feature if part == "backbone" else F.normalize(self.ecg_head(feature), dim=-1)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For a look: the decoder's ECG (B, L, T) in mV where patches were hidden, and which samples those are.

        A patch's predicted shape is brought back to mV with the true patch's level and spread, which the target took away.

        Raises:
            ValueError: a scale that has no way back to mV.
        """
        targets.refuse_other_scales(self.signal.normalize)
        patches, usable = self._patches(batch)
        visible = masking.draw_visible(usable, self.config.mask_ratio, self.config.masking)
        predicted = self.decoder(self.ecg(patches, visible), usable, None, visible)
        level, spread = self._level_and_spread(patches, batch.observed)
        hidden = (usable & ~visible).repeat_interleave(patches.shape[-1], dim=-1)
        return targets.in_mv(predicted, level, spread, batch), hidden

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """What a run wants to watch beside its losses, on one held-out batch."""
        tokens, cut = self.text.tokenize(list(batch.report))
        out = multimodal.effective_ranks(self.embed_ecg(batch, "shared"), self.text_head(self.text(tokens)[1]))
        out["reports_cut"] = cut
        if self.signal.normalize == "mv":
            samples, hidden = self.reconstruct(batch)
            if bool(hidden.any()):
                # with the true patch's level and spread given: how well its shape is told, in mV squared
                out["mem_mv2"] = float((samples - batch.ecg).square()[hidden].mean())
        return out

    # --- the steps

    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scaled patches (B, L, N, P), and which were observed from end to end (B, L, N).

        Raises:
            ValueError: a record without one whole patch that was observed.
        """
        n = self.config.n_patches
        usable = patchify(batch.observed, n).all(-1)
        empty = [name for name, some in zip(batch.record, usable.flatten(1).any(-1).tolist()) if not some]
        if empty:
            raise ValueError(
                f"record {empty[0]}: not one whole patch was observed, so there is nothing to learn or embed"
            )
        return patchify(normalize(batch.ecg, batch.observed, self.signal.normalize), n), usable

    def _level_and_spread(self, patches: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        return targets.level_and_spread(patches, patchify(observed, self.config.n_patches), self.config.target)
