"""ASTCL: Adversarial Spatiotemporal Contrastive Learning for Electrocardiogram Signals.
Wang et al., IEEE Transactions on Neural Networks and Learning Systems 35(10), 2024 (doi 10.1109/TNNLS.2023.3272153; no arXiv).

    L = L_pat + L_st + a L_adv

    views   each record twice: with more noise, and with less; each view in two halves, the earlier and the later
    L_pat   patient discrimination: SimSiam between views and halves of one patient; nothing is pushed apart
    L_st    spatiotemporal prediction: from some leads of one view's earlier half, the other view's later half, all leads,
            step by step; by cosine, and no gradient reaches what is predicted
    L_adv   a discriminator tells the two views' features apart; the encoder, behind a reversed gradient, sees to it that it
            cannot

No code of the paper is public, and only its abstract was open to us: two augmentations by the noise of ECGs, the game between
encoder and discriminator, prediction together with patient discrimination, positives of one patient only, predictor and
stop-gradient. All else is ours:
- The weights, a = 0.1, and every size and level of noise.
- More noise: baseline wander, hum and muscle noise, at the electrodes, so that the leads' algebra stays (nn/augment.py). Less
  noise: a band-pass by FFT in place of what the paper does [low_hz, high_hz].
- Segments are halves of a recording. Where the batch holds several recordings of a patient, by name, all of them are
  positives of each other. A record of which one half was not observed shows the other half twice.
- L_st predicts K equal parts of the later half, each part's mean token brought to the batch's mean 0 and deviation 1, so that
  a constant is no answer. The discriminator reads the encoder's vectors.
- The projector has three layers, as SimSiam's. In runs of a hundred steps on simulated hearts the probe hardly rose above the
  untrained ResNet's; with two layers, half of the leads taken away and twice the rate it fell below.
- The encoder is one of the house's four; AdamW and the house's schedule.
- Linear maps before a batch norm have no bias, which it would take away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn import augment
from leadwise.nn import text as reports
from leadwise.nn.batch_norm import BatchNorm
from leadwise.nn.encoder import (
    EcgEncoder,
    EncoderSettings,
    check_part,
    mean_of,
    scaled,
)
from leadwise.nn.filters import band_pass
from leadwise.nn.gradient_reversal import reverse_gradient
from leadwise.nn.heads import Projector
from leadwise.nn.losses import pairwise
from leadwise.nn.patches import patchify
from leadwise.nn.vit import ViT


@dataclass(frozen=True)
class Config(EncoderSettings, MethodConfig):
    # views; the levels are ours, as all numbers below
    gain: float = 0.1  # one random factor exp(N(0, gain)) for all leads of each view
    wander_mv: float = 0.2  # more noise: baseline wander at each electrode, largest amplitude
    powerline_mv: float = 0.05  # hum at each electrode, largest amplitude
    muscle_mv: float = 0.05  # white noise above 20 Hz at each electrode, largest standard deviation
    low_hz: float = 0.5  # less noise: what is slower is taken away
    high_hz: float = 40.0  # what is faster is taken away
    lead_mask: float = 0.5  # chance of each lead to be taken away from an earlier half, one at least stays
    # heads
    hidden_width: int = 2048  # of the projector
    out_width: int = 256  # of z
    predictor_width: int = 64  # of the bottleneck before L_pat
    n_ahead: int = 4  # K, parts of the later half that are predicted
    discriminator_width: int = 256
    reversal: float = 1.0  # factor on the gradient that L_adv sends back, turned round, to the encoder
    w_pat: float = 1.0
    w_st: float = 1.0
    w_adv: float = 0.1  # a

    def __post_init__(self) -> None:
        if not 0 <= self.lead_mask < 1 or not 0 <= self.low_hz < self.high_hz or self.n_ahead < 1:
            raise ValueError(
                f"lead_mask lies in [0, 1), low_hz below high_hz and n_ahead is 1 or more; got {self.lead_mask}, {self.low_hz}, "
                f"{self.high_hz} and {self.n_ahead}"
            )
        if min(self.gain, self.wander_mv, self.powerline_mv, self.muscle_mv, self.reversal) < 0:
            raise ValueError("gain, wander_mv, powerline_mv, muscle_mv and reversal are 0 or more")
        if min(self.w_pat, self.w_st, self.w_adv) <= 0:
            raise ValueError(f"weights are positive; got {self.w_pat}, {self.w_st} and {self.w_adv}")

    @property
    def whole_batch(self) -> str:
        """The projector's batch norm needs a process's share of a batch in one pass."""
        return "method.name = 'astcl'"


# A size for two CPU cores. No leads are taken away: of the short runs we made, those without did better.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "hidden_width": 256, "out_width": 128, "predictor_width": 32,
    "discriminator_width": 64, "lead_mask": 0.0,
}  # fmt: skip

NEEDS = "several recordings of a patient, or long ones: else two halves of a recording stand in"  # of the data

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

_MUSCLE_HZ = 20.0  # muscle noise lies above


@dataclass(frozen=True)
class _Seen:
    """What the encoder made of a half of B records."""

    vector: Tensor  # (B, D)
    z: Tensor  # (B, Z)
    parts: Tensor  # (B, K, D), the mean token of each part of the half
    there: Tensor  # (B, K) bool, parts of which anything was observed


class Method(PretrainingMethod):
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
                f"a half of {signal.n_samples} samples holds no patch of {self.ecg.grid}: choose more n_patches"
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
        """L_st and L_adv, which each record has for itself; and z and its prediction of both halves of both views, (B, D)."""
        views = self._more_noise(batch), self._less_noise(batch)
        seen = self._encode([half for view in views for half in self._halves(view)])
        early, late = seen[0::2], seen[1::2]  # with more noise, with less
        st = [self._forecast(here, there) for here, there in zip(early, late[::-1])]
        strength = self.config.reversal
        noisy, calm = (
            self.discriminator(reverse_gradient(torch.cat([one.vector, other.vector]), strength))
            for one, other in zip(early, late)
        )
        own = {"L_st": self.config.w_st * (st[0] + st[1]) / 2}
        own["L_adv"] = self.config.w_adv * pairwise.discriminator_loss(noisy, calm)
        predicted = self.predictor(torch.cat([half.z for half in seen])).chunk(len(seen))
        features = {f"z_{number}": half.z for number, half in enumerate(seen)}
        features |= {f"p_{number}": p for number, p in enumerate(predicted)}
        # without a patient's name, a record is a patient of its own
        names = [patient or f"record {record}" for patient, record in zip(batch.patient, batch.record)]
        return own, {**features, "patient": reports.numbers(names).to(batch.ecg.device)}

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """L_pat over the whole batch: a half of a view meets the other half of the other view, of all the patient's records."""
        every = distributed.gather_features(features)
        patient, local_rows = every["patient"], distributed.local_rows(len(every["patient"]))
        terms = [
            pairwise.patient_agreement(every[f"p_{here}"], every[f"z_{3 - here}"], patient, local_rows)
            for here in range(4)
        ]
        return {"L_pat": self.config.w_pat * torch.stack(terms).mean()}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of ECGs, before the projector; any subset of leads may be observed.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        check_part(part, self.parts)
        out: Tensor = self.ecg(batch)
        return out

    # --- the steps

    def _more_noise(self, batch: Batch) -> Batch:
        """The ECG with wander, hum and muscle noise, drawn at nine electrodes."""
        c, shape = self.config, (len(batch), self.electrodes.shape[1], batch.ecg.shape[-1])
        rate, device = self.signal.rate_hz, batch.ecg.device
        level = c.muscle_mv * torch.rand(len(batch), 1, 1, device=device)
        laid = level * band_pass(torch.randn(shape, device=device), rate, _MUSCLE_HZ, 2.0 * rate)
        laid = laid + augment.wander(shape, c.wander_mv, rate, device)
        laid = laid + augment.powerline(shape, c.powerline_mv, rate, device)
        ecg = augment.gain(batch.ecg, c.gain) + torch.einsum("le,bet->blt", self.electrodes, laid)
        return replace(batch, ecg=ecg * batch.observed)

    def _less_noise(self, batch: Batch) -> Batch:
        """The ECG between two frequencies; where nothing was observed, a filter sees the lead's median."""
        level = scaled(batch, replace(self.signal, normalize="mv"))
        ecg = band_pass(level, self.signal.rate_hz, self.config.low_hz, self.config.high_hz)
        return replace(batch, ecg=augment.gain(ecg, self.config.gain) * batch.observed)

    def _halves(self, view: Batch) -> tuple[tuple[Batch, Tensor], tuple[Batch, Tensor]]:
        """The earlier half with some leads taken away, and the later half; each with the sample at which it begins."""
        n, start = self.n_half, self.signal.n_samples - self.n_half
        ecgs, seen = (view.ecg[..., :n], view.ecg[..., start:]), (view.observed[..., :n], view.observed[..., start:])
        whole = [self._whole(observed).any(-1)[:, None, None] for observed in seen]  # (B, 1, 1)
        found = []
        for here, begin in ((0, 0), (1, start)):
            instead = ~whole[here] & whole[1 - here]  # an encoder of whole patches must be given one
            ecg = torch.where(instead, ecgs[1 - here], ecgs[here])
            observed = torch.where(instead, seen[1 - here], seen[here])
            if here == 0 and self.config.lead_mask:
                ecg, observed = augment.drop_leads(ecg, observed, self._whole(observed), self.config.lead_mask)
            at = torch.where(instead[:, 0, 0], start - begin, begin)
            found.append((replace(view, ecg=ecg, observed=observed), at))
        return found[0], found[1]

    def _whole(self, observed: Tensor) -> Tensor:
        """Leads with a whole patch observed, (B, L) bool."""
        return patchify(observed, observed.shape[-1] // self.ecg.grid).all(-1).any(-1)

    def _encode(self, halves: list[tuple[Batch, Tensor]]) -> list[_Seen]:
        """All halves of both views at once, so that a batch norm has one mean for them."""
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
        vector = self.ecg.model.norm(mean) if isinstance(self.ecg.model, ViT) else mean  # as the encoder has it
        fields = (vector, self.projector(vector), (sums / shares.clamp(min=1e-6)).transpose(1, 2), shares[:, 0] > 0)
        return [_Seen(*row) for row in zip(*(field.chunk(len(halves)) for field in fields))]

    def _forecast(self, early: _Seen, late: _Seen) -> Tensor:
        """L_st of one view's earlier half and the other's later one."""
        target = self.part_norm(late.parts.detach().transpose(1, 2)).transpose(1, 2)  # (B, K, D)
        predicted = self.forecaster(early.z).reshape(target.shape)
        return pairwise.forecast(predicted, target, late.there)
