"""ASTCL: Adversarial Spatiotemporal Contrastive Learning for Electrocardiogram Signals.
Wang et al., IEEE Transactions on Neural Networks and Learning Systems 35(10), 2024 (doi 10.1109/TNNLS.2023.3272153; no arXiv).

    L = L_pat + L_st + a L_adv

    views   two per record: one with more noise, one with less; each is split into an earlier and a later half
    L_pat   patient discrimination: SimSiam between views and halves of one patient, without negatives
    L_st    spatiotemporal prediction: from some leads of one view's earlier half, predict the other view's later half, all
            leads, step by step; cosine, without a gradient to the target
    L_adv   a discriminator classifies which view a feature comes from; the encoder, behind gradient reversal, is trained to
            make the two views' features indistinguishable

The paper's code is not public, and only its abstract was accessible. From the abstract: two augmentations based on ECG noise,
adversarial training of encoder and discriminator, prediction together with patient discrimination, positives of one patient
only, a predictor and a stopped gradient. Everything else is ours:
- The weights, a = 0.1, and all sizes and noise levels.
- More noise: baseline wander, hum and muscle noise at the electrodes, so that the relations between leads still hold
  (nn/augment.py). Less noise: a band-pass filter by FFT in place of the paper's filter [low_hz, high_hz].
- Segments are halves of a recording. If a batch contains several recordings of a patient, identified by name, all of them are
  positives of each other. If one half of a record was not observed, the other half is used twice.
- L_st predicts K equal parts of the later half. The target is each part's mean token, normalised to mean 0 and deviation 1
  over the batch, so that a constant is not a solution. The discriminator reads the encoder's vectors.
- The projector has three layers, like SimSiam's. In runs of a hundred steps on simulated hearts the probe was hardly better
  than that of the untrained ResNet; with two layers, half of the leads removed and twice the learning rate it was worse.
- The encoder is one of five (nn/encoder.py); the optimiser is AdamW with leadwise's schedule.
- Linear maps before a batch norm have no bias, which the batch norm would remove.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import augment
from leadwise.nn import text as reports
from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part, mean_of, scaled
from leadwise.nn.filters import band_pass
from leadwise.nn.gradient_reversal import reverse_gradient
from leadwise.nn.heads import Projector
from leadwise.nn.losses import pairwise
from leadwise.nn.patches import patchify
from leadwise.nn.vit import ViT


@dataclass(frozen=True)
class Config(EncoderSettings, MethodConfig):
    # views; all numbers here and below are ours
    gain: float = 0.1  # one random factor exp(N(0, gain)) for all leads of each view
    wander_mv: float = 0.2  # more noise: baseline wander at each electrode, largest amplitude
    powerline_mv: float = 0.05  # hum at each electrode, largest amplitude
    muscle_mv: float = 0.05  # white noise above 20 Hz at each electrode, largest standard deviation
    low_hz: float = 0.5  # less noise: lower frequencies are removed
    high_hz: float = 40.0  # higher frequencies are removed
    lead_mask: float = 0.5  # probability that a lead is removed from an earlier half; at least one remains
    # heads
    hidden_width: int = 2048  # of the projector
    out_width: int = 256  # of z
    predictor_width: int = 64  # of the bottleneck before L_pat
    n_ahead: int = 4  # K, parts of the later half that are predicted
    discriminator_width: int = 256
    reversal: float = 1.0  # factor of the reversed gradient of L_adv in the encoder
    w_pat: float = 1.0
    w_st: float = 1.0
    w_adv: float = 0.1  # a

    def __post_init__(self) -> None:
        check_ranges(self, lead_mask="[0, 1)", low_hz=f"[0, {self.high_hz})", n_ahead=">= 1", reversal="[0, 1]")
        check_ranges(self, gain=">= 0", wander_mv=">= 0", powerline_mv=">= 0", muscle_mv=">= 0")
        check_ranges(self, w_pat="> 0", w_st="> 0", w_adv="> 0")

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation: the projector's batch norm needs all records in one pass."""
        return "method.name = 'astcl'"


# Settings for two CPU cores. No leads are removed: of our short runs, those without lead masking were better.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "hidden_width": 256, "out_width": 128, "predictor_width": 32,
    "discriminator_width": 64, "lead_mask": 0.0,
}  # fmt: skip

NEEDS = "several recordings per patient, or long ones; otherwise the two halves of a recording are used"

# The smallest settings, for the contract tests.
TINY = {
    "": {"resnet_width": 8, "hidden_width": 32, "out_width": 16, "predictor_width": 8, "discriminator_width": 16},
    "lead_time": {
        "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "hidden_width": 32, "out_width": 16,
        "predictor_width": 8, "discriminator_width": 16, "n_ahead": 2,
    },
    "vit": {
        "encoder": "vit", "n_patches": 10, "width": 32, "depth": 1, "heads": 4, "hidden_width": 32, "out_width": 16,
        "predictor_width": 8, "discriminator_width": 16, "n_ahead": 2,
    },
}  # fmt: skip

_MUSCLE_HZ = 20.0  # lowest frequency of muscle noise


@dataclass(frozen=True)
class _EncodedHalf:
    """Features of one half of B records."""

    vector: Tensor  # (B, D)
    z: Tensor  # (B, Z)
    parts: Tensor  # (B, K, D), the mean token of each part of the half
    observed: Tensor  # (B, K) bool, parts with an observed sample


class Method(WithEcgEncoder, PretrainingMethod):
    compares_records = True
    falling_terms = ("L_pat", "L_st")
    config: Config
    electrodes: Tensor

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        c = config
        self.weights = {"L_pat": c.w_pat, "L_st": c.w_st, "L_adv": c.w_adv}
        self.ecg = EcgEncoder(c, signal)
        self.n_half = signal.n_samples // 2 // self.ecg.grid * self.ecg.grid
        if not self.n_half:
            raise ValueError(
                f"a half of {signal.n_samples} samples is shorter than a patch of {self.ecg.grid}: choose a larger n_patches"
            )
        self.register_buffer("electrodes", augment.lead_algebra(signal.leads), persistent=False)  # (L, 9)
        self.projector = Projector(self.ecg.width, c.hidden_width, c.hidden_width, c.out_width, ends="bare_norm")
        self.predictor = Projector(c.out_width, c.predictor_width, c.out_width)
        self.forecaster = nn.Linear(c.out_width, c.n_ahead * self.ecg.width)
        self.part_norm = BatchNorm(self.ecg.width, affine=False)
        self.discriminator = nn.Sequential(
            nn.Linear(self.ecg.width, c.discriminator_width), nn.LeakyReLU(0.2), nn.Linear(c.discriminator_width, 1)
        )

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted L_st and L_adv; features z and its prediction p (B, D) of both halves of both views."""
        # four halves: both halves of the view with more noise, then of the view with less
        views = self._more_noise(batch), self._less_noise(batch)
        halves = self._encode([half for view in views for half in self._halves(view)])
        early, late = halves[0::2], halves[1::2]  # each: more noise, less noise

        # the two terms that compare no records
        forecasts = [self._forecast(here, there) for here, there in zip(early, late[::-1])]
        strength = self.config.reversal
        more_noise, less_noise = (
            self.discriminator(reverse_gradient(torch.cat([one.vector, other.vector]), strength))
            for one, other in zip(early, late)
        )
        terms = {"L_st": self.config.w_st * (forecasts[0] + forecasts[1]) / 2}
        terms["L_adv"] = self.config.w_adv * pairwise.discriminator_loss(more_noise, less_noise)

        # features of L_pat
        predicted = self.predictor(torch.cat([half.z for half in halves])).chunk(len(halves))
        features = {f"z_{number}": half.z for number, half in enumerate(halves)}
        features |= {f"p_{number}": p for number, p in enumerate(predicted)}
        # a record without a patient's name is treated as a patient of its own
        names = [patient or f"record {record}" for patient, record in zip(batch.patient, batch.record)]
        return terms, {**features, "patient": reports.numbers(names).to(batch.ecg.device)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted L_pat over the whole batch: each half is paired with the other half of the other view, for all records of the
        patient."""
        every = distributed.gather_features(features)
        patient, local_rows = every["patient"], distributed.local_rows(len(every["patient"]))
        terms = [
            pairwise.patient_agreement(every[f"p_{here}"], every[f"z_{3 - here}"], patient, local_rows)
            for here in range(4)
        ]
        return {"L_pat": self.config.w_pat * torch.stack(terms).mean()}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole ECGs, before the projector; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        out: Tensor = self.ecg(batch)
        return out

    # --- views and features

    def _more_noise(self, batch: Batch) -> Batch:
        """The ECG with baseline wander, hum and muscle noise, drawn at the nine electrodes."""
        c, shape = self.config, (len(batch), self.electrodes.shape[1], batch.ecg.shape[-1])
        rate, device = self.signal.rate_hz, batch.ecg.device
        level = c.muscle_mv * torch.rand(len(batch), 1, 1, device=device)
        disturbance = level * band_pass(torch.randn(shape, device=device), rate, _MUSCLE_HZ, 2.0 * rate)
        disturbance = disturbance + augment.wander(shape, c.wander_mv, rate, device)
        disturbance = disturbance + augment.powerline(shape, c.powerline_mv, rate, device)
        ecg = augment.gain(batch.ecg, c.gain) + torch.einsum("le,bet->blt", self.electrodes, disturbance)
        return replace(batch, ecg=ecg * batch.observed)

    def _less_noise(self, batch: Batch) -> Batch:
        """The band-pass filtered ECG; the filter's input is the lead's median where nothing was observed."""
        level = scaled(batch, replace(self.signal, normalize="mv"))
        ecg = band_pass(level, self.signal.rate_hz, self.config.low_hz, self.config.high_hz)
        return replace(batch, ecg=augment.gain(ecg, self.config.gain) * batch.observed)

    def _halves(self, view: Batch) -> tuple[tuple[Batch, Tensor], tuple[Batch, Tensor]]:
        """The earlier half with some leads removed, and the later half; each with its first sample (B,)."""
        n, start = self.n_half, self.signal.n_samples - self.n_half
        ecgs = view.ecg[..., :n], view.ecg[..., start:]
        masks = view.observed[..., :n], view.observed[..., start:]
        has_patch = [self._whole(mask).any(-1)[:, None, None] for mask in masks]  # (B, 1, 1)
        halves = []
        for here, begin in ((0, 0), (1, start)):
            # an encoder of whole patches needs at least one: otherwise use the other half
            instead = ~has_patch[here] & has_patch[1 - here]
            ecg = torch.where(instead, ecgs[1 - here], ecgs[here])
            observed = torch.where(instead, masks[1 - here], masks[here])
            if here == 0 and self.config.lead_mask:
                ecg, observed = augment.drop_leads(ecg, observed, self._whole(observed), self.config.lead_mask)
            first = torch.where(instead[:, 0, 0], start - begin, begin)
            halves.append((replace(view, ecg=ecg, observed=observed), first))
        return halves[0], halves[1]

    def _whole(self, observed: Tensor) -> Tensor:
        """(B, L) bool, True for leads with at least one whole observed patch."""
        return patchify(observed, observed.shape[-1] // self.ecg.grid).all(-1).any(-1)

    def _encode(self, halves: list[tuple[Batch, Tensor]]) -> list[_EncodedHalf]:
        """Features of the given halves, encoded in one batch so that a batch norm has common statistics for them."""
        batches, starts = zip(*halves)
        every = replace(
            batches[0],
            ecg=torch.cat([b.ecg for b in batches]),
            observed=torch.cat([b.observed for b in batches]),
            record=tuple(name for b in batches for name in b.record),
        )
        tokens, real = self.ecg.tokens(every, torch.cat(starts))  # (4 B, N, D)
        weight = real[:, None].to(tokens.dtype)
        sums = F.adaptive_avg_pool1d(tokens.transpose(1, 2) * weight, self.config.n_ahead)  # (4 B, D, K)
        shares = F.adaptive_avg_pool1d(weight, self.config.n_ahead)  # (4 B, 1, K)
        mean = mean_of(tokens, real)
        vector = self.ecg.model.norm(mean) if isinstance(self.ecg.model, ViT) else mean  # as EcgEncoder.forward
        fields = (vector, self.projector(vector), (sums / shares.clamp(min=1e-6)).transpose(1, 2), shares[:, 0] > 0)
        return [_EncodedHalf(*row) for row in zip(*(field.chunk(len(halves)) for field in fields))]

    def _forecast(self, early: _EncodedHalf, late: _EncodedHalf) -> Tensor:
        """L_st, from one view's earlier half to the other view's later half."""
        target = self.part_norm(late.parts.detach().transpose(1, 2)).transpose(1, 2)  # (B, K, D)
        predicted = self.forecaster(early.z).reshape(target.shape)
        return pairwise.forecast(predicted, target, late.observed)
