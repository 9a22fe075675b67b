"""EchoingECG: An Electrocardiogram Cross-Modal Model for Echocardiogram Tasks, with probabilistic embeddings.
arXiv 2509.25791 (MICCAI 2025).

    L = w_match L_match + w_pseudo L_pseudo + w_kl L_kl + w_volume L_volume

    N(mu, e^s)  of an ECG, a report or images: unit mean mu and log-variance s, by two linear maps of the tokens and GPO pooling
    d_ij        |mu_i - mu_j|^2 + sum(e^s_i + e^s_j)                                                   (PCME++)
    L_match     binary cross-entropy of the logit -a d_ij + b over all pairs of an ECG and a report; a and b are trained
    L_pseudo    the same, where reports at least as near as the record's own are matches too
    L_kl        KL(N(mu, e^s) || N(0, 1)) of ECGs and reports
    L_volume    L_match of ECGs and images, with a and b of its own, over the records with an image [w_volume > 0]

- Images are those of the phases of `volume`; their Gaussian is pooled over the phases as an ECG's is over time.
  `data.init_volume` names a run whose encoders of images are the frozen teacher, as the paper's teacher of echo videos is;
  without it they are trained. With w_volume = 0, the default, no images are read.
- The part "uncertainty" is sum(e^s): large where a record leaves open what it is. `leadwise retrieve` ranks by d_ij, so that an
  uncertain report or ECG is further from everything, and prints the uncertainty.

The equations are those of the paper and of PCME++; only the inference code was released. This implementation departs from both
as follows (in brackets: the setting that restores them):
- The teacher is an encoder of cardiac images in two phases, instead of EchoCLIP's frames with their mean and variance.
- The ECG encoder is one of ours, smaller than the paper's ResNet with blocks 3-4-23-3 and width 1536.
- balance = "equal" gives matches and other pairs the same weight: with "pairs", the default, matches are 1/B of the loss.
- The total variance starts at 0.25. With variances of 1 in 512 dimensions, distances of unit vectors would not count.
- Records with identical reports are other pairs, as in the paper; same_report = "ignore" or "positive" changes this.
- SIGNAL has the paper's standardisation of each lead, which removes its voltage; run settings may use "mv".

The uncertainty of an ECG rises with its noise only if training has noisy ECGs (`noise_mv`) and leads are standardised. On
simulated beats the rank correlation with the noise is 0.6 to 0.9 then, -0.2 without noise in training, and -0.9 in mV, where
noise enlarges the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal, Volume
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part
from leadwise.nn.heads import GaussianHead
from leadwise.nn.losses import gaussian, multimodal
from leadwise.nn.losses.gaussian import Balance
from leadwise.nn.losses.multimodal import SameReport
from leadwise.nn.report_tower import SMALL_REPORTS, ReportTower, TextSettings, WithReports
from leadwise.nn.text import Tokenizer
from leadwise.nn.views import PairViewSettings, report_ids
from leadwise.nn.volume_encoder import (
    VolumeEncoder,
    VolumeEncoderSettings,
    frozen_encoder,
    phases_of_part,
    volume_view,
    volumes_of,
)


@dataclass(frozen=True)
class Config(EncoderSettings, TextSettings, PairViewSettings, VolumeEncoderSettings, MethodConfig):
    shared_width: int = 512
    scale: float = 5.0  # a of the logit, at the start
    bias: float = 5.0  # b of the logit, at the start
    balance: Balance = "pairs"  # weight of matches: by their number, or equal to that of the other pairs
    same_report: SameReport = "negative"  # pairs of records with identical reports
    w_match: float = 2.0
    w_pseudo: float = 0.1
    w_kl: float = 1e-4
    w_volume: float = 0.0  # weight of L_volume; 0: no images are read
    volume: Volume = field(default_factory=Volume)  # the images

    def __post_init__(self) -> None:
        PairViewSettings.__post_init__(self)
        VolumeEncoderSettings.__post_init__(self)
        check_ranges(self, scale="> 0", w_match="> 0", w_pseudo=">= 0", w_kl=">= 0", w_volume=">= 0")

    @property
    def uses_volumes(self) -> bool:
        """Whether images are read."""
        return self.w_volume > 0

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation, or ''."""
        return (self.volume_whole_batch if self.w_volume else "") or super().whole_batch


SIGNAL = Signal(rate_hz=100, normalize="lead_zscore")  # the paper's
# Settings for two CPU cores; views and report branch are those of the other methods with reports.
SMALL = {"encoder": "resnet", "resnet_width": 16, **SMALL_REPORTS, "balance": "equal", "noise_mv": 0.3}
# The smallest settings, for the contract tests.
_TINY = {
    "resnet_width": 8, "text_width": 32, "text_depth": 1, "text_heads": 2, "vocab_size": 400, "max_tokens": 48,
    "shared_width": 16,
}  # fmt: skip
TINY = {
    "": _TINY,
    "volume": {
        **_TINY, "w_volume": 0.5, "volume": Volume(slices=3, rows=12, columns=10), "volume_widths": (4, 8), "volume_width": 8,
        "balance": "equal",
    },
}  # fmt: skip


class Method(WithEcgEncoder, WithReports, PretrainingMethod):
    config: Config
    reads_volumes = True
    starts_from = ("init_volume",)
    embeds_volume = True
    ranks_by_distance = True

    def __init__(
        self,
        config: Config,
        signal: Signal,
        tokenizer: Tokenizer,
        saved_folder: Path | None = None,
        start: Mapping[str, PretrainingMethod] | None = None,
    ) -> None:
        """`saved_folder`: where `save_extra` wrote, when saved weights will be loaded. `start`: the method of data.init_volume.

        Raises:
            ValueError: the run of data.init_volume cannot be used with these settings.
        """
        super().__init__(config, signal, tokenizer)
        c = config
        self.weights = nonzero_weights(L_match=c.w_match, L_pseudo=c.w_pseudo, L_kl=c.w_kl, L_volume=c.w_volume)
        self.parts = ("backbone", "shared", "uncertainty")
        self.ecg = EcgEncoder(c, signal)
        self.ecg_head = GaussianHead(self.ecg.width, c.shared_width)
        self.text = ReportTower(c, tokenizer, saved_folder)
        self.text_head = GaussianHead(self.text.width, c.shared_width)
        self.logit = nn.Parameter(torch.tensor([c.scale, c.bias]))
        self.embeds_volume = bool(c.w_volume)
        if not c.w_volume:
            if start:
                raise ValueError("data.init_volume is set, but w_volume = 0 reads no images; set w_volume above 0")
            return
        self.volume_parts = (*c.volume.phases, "both")
        if start:
            self.volumes = frozen_encoder(start["init_volume"].volume_branch, c.volume, c.volume.phases)
        else:
            self.volumes = VolumeEncoder(c, c.volume.phases, c.volume.slices)
        self.volume_head = GaussianHead(self.volumes.width, c.shared_width)
        self.volume_logit = nn.Parameter(torch.tensor([c.scale, c.bias]))

    @property
    def volume_branch(self) -> tuple[Volume, nn.Module]:
        """The images and the encoders behind `embed_volume`, from which another run can start."""
        if not self.embeds_volume:
            return super().volume_branch
        return self.config.volume, self.volumes

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted L_kl, and the Gaussians that `batch_terms` compares, one row per record."""
        c, view = self.config, self.training_view(batch)
        ecg, text = self.ecg_head(*self.ecg.tokens(view)), self._text_gaussian(list(view.report))
        features = {
            "ecg": ecg[0], "ecg_s": ecg[1], "text": text[0], "text_s": text[1], "report": report_ids(batch, view)
        }  # fmt: skip
        if c.w_volume:
            volume, present = volumes_of(batch, c.volume.phases, c.volume.phases)
            images = self.volumes(volume_view(volume, c) if self.training else volume, present)
            features["image"], features["image_s"] = self._image_gaussian(images, present)
            features["present"] = present.any(1).long()
        divergence = (gaussian.divergence(*ecg) + gaussian.divergence(*text)) / 2
        return {"L_kl": c.w_kl * divergence} if c.w_kl else {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms over pairs of the whole batch, including other processes' records."""
        c, every = self.config, distributed.gather_features(features)
        rows = distributed.local_rows(len(every["ecg"]))
        own = torch.eye(len(every["ecg"]), dtype=torch.bool, device=every["ecg"].device)
        same = (every["report"][:, None] == every["report"][None]).any(-1)
        match = same if c.same_report == "positive" else own
        counted = own | ~same if c.same_report == "ignore" else torch.ones_like(own)
        distance = gaussian.distances(every["ecg"], every["ecg_s"], every["text"], every["text_s"])
        terms = {"L_match": self._matching(distance, match, self.logit, counted, rows)}
        if c.w_pseudo:
            pairs = (distance, distance.T)
            both = [self._matching(d, gaussian.pseudo_matches(d, match), self.logit, counted, rows) for d in pairs]
            terms["L_pseudo"] = (both[0] + both[1]) / 2
        if c.w_volume:
            present = every["present"].bool()
            images = gaussian.distances(every["ecg"], every["ecg_s"], every["image"], every["image_s"])
            pairs_with_image = present[None] & present[:, None]
            terms["L_volume"] = self._matching(images, own, self.volume_logit, pairs_with_image, rows)
        return {name: self.weights[name] * term for name, term in terms.items()}

    def _matching(self, distance: Tensor, match: Tensor, logit: Tensor, counted: Tensor, rows: slice) -> Tensor:
        return gaussian.matching(distance, match, logit[0], logit[1], self.config.balance, counted, rows)

    # --- embeddings

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs; any subset of leads may be observed.

        backbone: the mean of the encoder's tokens (the probe's feature). shared: the Gaussian's mean, unit vectors in the space
        of `embed_text`. uncertainty: the Gaussian's total variance, (B, 1).

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        tokens, real = self.ecg.tokens(batch)
        mean, log_variance = self.ecg_head(tokens, real)
        by_part = {"shared": mean, "uncertainty": gaussian.variance(log_variance)[:, None]}
        return [self.ecg.pool(tokens, real) if part == "backbone" else by_part[part] for part in parts]

    def embed_text(self, texts: list[str]) -> Tensor:
        """(K, D) unit vectors of reports or prompts, the means of their Gaussians."""
        return self._text_gaussian(texts)[0]

    def text_uncertainty(self, texts: list[str]) -> Tensor:
        """(K,) total variances of the Gaussians of reports or prompts."""
        return gaussian.variance(self._text_gaussian(texts)[1])

    def embed_volume(self, batch: Batch, part: str = "shared") -> Tensor:
        """(B, D) unit vectors of the image of one phase, or of "both": of all phases together. "shared" is "both".

        Raises:
            ValueError: an unknown part, a record without any image of it, or w_volume = 0.
        """
        return self._images(batch, part)[0]

    def volume_uncertainty(self, batch: Batch, part: str = "shared") -> Tensor:
        """(B,) total variances of the Gaussians of images."""
        return gaussian.variance(self._images(batch, part)[1])

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Figures that a run logs in addition to its losses, for one held-out batch."""
        tokens, cut = self.text.tokenize(list(batch.report))
        mean, log_variance = self.ecg_head(*self.ecg.tokens(batch))
        text_mean, text_log_variance = self.text_head(self.text(tokens)[0], tokens.real.to(mean.device))
        return multimodal.effective_ranks(mean, text_mean) | {
            "reports_cut": cut,
            "uncertainty_ecg": float(gaussian.variance(log_variance).mean()),
            "uncertainty_text": float(gaussian.variance(text_log_variance).mean()),
        }

    def _text_gaussian(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        tokens = self.text.tokenize(texts)[0]
        states: Tensor = self.text(tokens)[0]
        mean, log_variance = self.text_head(states, tokens.real.to(states.device))
        return mean, log_variance

    def _image_gaussian(self, images: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian of the images (B, P, D) that are present (B, P); of a record without any, that of its first phase."""
        first = torch.arange(present.shape[1], device=present.device) == 0
        mean, log_variance = self.volume_head(images, present | (first & ~present.any(1, keepdim=True)))
        return mean, log_variance

    def _images(self, batch: Batch, part: str) -> tuple[Tensor, Tensor]:
        if not self.embeds_volume:
            raise ValueError("w_volume = 0: this run was trained without images and embeds none")
        phases = self.config.volume.phases
        volume, present = volumes_of(batch, phases, phases)
        chosen = phases_of_part(part, phases, present, batch.record)
        return self._image_gaussian(self.volumes(volume, present)[:, chosen], present[:, chosen])
