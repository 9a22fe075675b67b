"""PTACL: ECGs and cardiac MRI aligned as wholes, and phase by phase within a person.
arXiv 2506.20683 (MICCAI 2025).

    L = L_global + w_local L_local

    L_global    symmetric InfoNCE of the ECG's vector and the mean vector of its images, cosines / tau
    L_local     the same within one record: its K phases of the ECG against its K images, mean over the records that have it
    u_k         projection of the ECG's tokens within 50 ms of phase k's point of the heartbeat
    v_k         projection of the image in phase k; both by the heads of L_global

The abstract is known: a contrast between people, and one between segments of an ECG and frames of the images within a person,
without new weights. No code was released, and the paper's body was not accessible. These are ours:
- w_local = 0.5, tau = 0.1, encoders, heads and sizes.
- The cohorts have images of two phases and no cine, so that K = 2: "ed" is at the onset of the QRS and "es" at the end of the
  T wave, found from the R peaks (nn/phase.py). A record without an R peak on both sides of a point has no L_local.
- A phase without a point of the heartbeat, such as "scar", is part of L_global only.
- Another recording of the same person is no negative.
- Image encoders are one for all phases: with one for each, an image shows its phase by its encoder.

A caution: the position of a token in the heartbeat is enough to solve L_local, whatever the patient. `measure` therefore logs
the accuracy of L_local also with the ECG of another person (`local_top1_other`); only what is above it is about the person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal, Volume
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn import phase
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, WithEcgEncoder, check_part, mean_of
from leadwise.nn.heads import Head
from leadwise.nn.losses import anchors, multimodal
from leadwise.nn.text import numbers
from leadwise.nn.views import UnchangedViewSettings, Views
from leadwise.nn.volume_encoder import (
    VolumeEncoder,
    VolumeEncoderSettings,
    phases_of_part,
    volume_view,
    volumes_of,
)

WINDOWS = ("ed", "es")  # phases with a point of the heartbeat


@dataclass(frozen=True)
class Config(EncoderSettings, UnchangedViewSettings, VolumeEncoderSettings, MethodConfig):
    volume: Volume = field(default_factory=Volume)  # the images
    volume_shared: bool = True  # one image encoder for all phases
    shared_width: int = 128
    temperature: float = 0.1  # tau
    w_local: float = 0.5  # weight of L_local; 0: without it
    window_s: float = 0.05  # half of the time around a point of the heartbeat

    def __post_init__(self) -> None:
        UnchangedViewSettings.__post_init__(self)
        VolumeEncoderSettings.__post_init__(self)
        check_ranges(self, temperature="> 0", w_local=">= 0", window_s="> 0", shared_width=">= 1")
        if self.w_local and not set(WINDOWS) <= set(self.volume.phases):
            raise ValueError(
                f"w_local > 0 compares diastole and systole, but volume.phases = {list(self.volume.phases)}; set w_local=0, or "
                'volume.phases=["ed", "es"]'
            )

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation, or ''."""
        return self.volume_whole_batch or super().whole_batch


NEEDS = "volumes: a cohort with images of the heart (`leadwise prepare ecg_cmr`)"
# Settings for two CPU cores and the simulated pairs.
SMALL = {"encoder": "resnet", "resnet_width": 16, "view_crop": 0.4, "view_noise_mv": 0.02, "volume_noise": 0.02}
SMALL_OPTIM = {"batch_size": 128, "lr": 1e-3, "weight_decay": 0.02}
# The smallest settings, for the contract tests.
_TINY = {
    "volume": Volume(slices=3, rows=12, columns=10), "volume_widths": (4, 8), "volume_width": 8, "shared_width": 16,
    "temperature": 0.2,
}  # fmt: skip
TINY = {
    "": {**_TINY, "resnet_width": 8},
    "lead_time": {
        **_TINY, "encoder": "lead_time", "n_patches": 20, "width": 32, "depth": 2, "heads": 4, "view_crop": 0.8,
    },
    "global-only": {**_TINY, "resnet_width": 8, "w_local": 0.0},
}  # fmt: skip


class Method(WithEcgEncoder, PretrainingMethod):
    config: Config
    parts = ("backbone", "shared")
    reads_volumes = True
    embeds_volume = True
    compares_records = True

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        c = config
        self.weights = nonzero_weights(L_global=1.0, L_local=c.w_local)
        self.volume_parts = (*c.volume.phases, "both")
        self.ecg = EcgEncoder(c, signal)
        self.ecg_head = Head(self.ecg.width, c.shared_width)
        self.view = Views(c, signal, self.ecg.grid)
        self.volumes = VolumeEncoder(c, c.volume.phases, c.volume.slices)
        self.volume_head = Head(self.volumes.width, c.shared_width)

    @property
    def volume_branch(self) -> tuple[Volume, nn.Module]:
        """The images and the encoder behind `embed_volume`, from which another run can start."""
        return self.config.volume, self.volumes

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; the features of `batch_terms`, one row per record.

        L_local is of each record by itself, but its mean is over the records that have it, and their number is known only of
        the whole batch: so each record's own value is one of the features.
        """
        c = self.config
        volume, present = volumes_of(batch, c.volume.phases, c.volume.phases)
        view, start = batch, None
        if self.training:
            volume = volume_view(volume, c)
            crop = self.view(batch)
            view, start = crop.batch, crop.start
        images = self.volumes(volume, present)
        tokens, real = self.ecg.tokens(view, start)
        features = {
            "ecg": self.ecg_head(self.ecg.pool(tokens, real)),
            "image": self.volume_head(mean_of(images, present)),
            "present": present.any(1).long(),
            "person": numbers(batch.patient).to(present.device),
        }
        if not c.w_local:
            return {}, features
        ecg_phases, image_phases, both = self._phases(view, tokens, real, images, present)
        features |= {
            "local": anchors.contrast_within(ecg_phases, image_phases, 1 / c.temperature), "has_local": both.long()
        }  # fmt: skip
        return {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms over the whole batch, including other processes' records."""
        every = distributed.gather_features(features)
        rows = distributed.local_rows(len(every["ecg"]))
        present, scale = every["present"].bool(), 1 / self.config.temperature
        loss = anchors.pair_contrast(every["ecg"], every["image"], present, scale, every["person"], rows)
        terms = {"L_global": loss}
        if self.config.w_local:
            local = anchors.mean_over_present(every["local"], every["has_local"].bool(), rows)
            terms["L_local"] = self.config.w_local * local
        return terms

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole ECGs; any subset of leads may be observed.

        backbone: the encoder's vector (the probe's feature). shared: unit vectors in the space of `embed_volume`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        feature = self.ecg.pool(*self.ecg.tokens(batch))
        return [feature if part == "backbone" else F.normalize(self.ecg_head(feature), dim=-1) for part in parts]

    def embed_volume(self, batch: Batch, part: str = "shared") -> Tensor:
        """(B, D) unit vectors of the image of one phase, or of "both": of the mean vector of all phases. "shared" is "both".

        Raises:
            ValueError: an unknown part, or a record without any image of it.
        """
        phases = self.config.volume.phases
        volume, present = volumes_of(batch, phases, phases)
        chosen = phases_of_part(part, phases, present, batch.record)
        images, present = self.volumes(volume, present)[:, chosen], present[:, chosen]
        return F.normalize(self.volume_head(mean_of(images, present)).float(), dim=-1)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Of a held-out batch: how often a record's own images are the nearest, and an ECG's phase is that of its image.

        local_top1: over the phases of each record, chance 1/K. local_top1_other: with the ECG of another person; a record
        counts if the batch has one of another person with beats.
        """
        c = self.config
        volume, present = volumes_of(batch, c.volume.phases, c.volume.phases)
        images = self.volumes(volume, present)
        tokens, real = self.ecg.tokens(batch)
        ecg = self.ecg_head(self.ecg.pool(tokens, real))
        out = {"effective_rank": multimodal.effective_rank(F.normalize(ecg.float(), dim=-1))}
        out["global_top1"] = anchors.top1(ecg, self.volume_head(mean_of(images, present)), present.any(1))
        if c.w_local:
            u, v, both = self._phases(batch, tokens, real, images, present)
            out["local_top1"] = anchors.top1_within(u, v, both)
            other, has_other = another_person(numbers(batch.patient).to(both.device), both)
            out["local_top1_other"] = anchors.top1_within(u[other], v, both & has_other)
        return {name: value if value == value else 0.0 for name, value in out.items()}  # NaN: nothing to compare

    def _phases(
        self, batch: Batch, tokens: Tensor, real: Tensor, images: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projections of the ECG (B, K, S) and of the images (B, K, S) in each phase, and which records have all (B,) bool."""
        c = self.config
        now = phase.phase_of(batch, self.signal)
        pooled, complete = [], torch.ones(len(batch), dtype=torch.bool, device=tokens.device)
        for name in WINDOWS:
            weight = phase.window_weights(now, name, c.window_s, tokens.shape[1]) * real
            complete = complete & (weight.sum(1) > 0)
            pooled.append(self.ecg.pool(tokens, weight))
        numbers_of = [c.volume.phases.index(name) for name in WINDOWS]
        u = self.ecg_head(torch.stack(pooled, dim=1))
        return u, self.volume_head(images[:, numbers_of]), complete & present[:, numbers_of].all(1)


def another_person(person: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each record the next usable one of another person (B,), in a circle, and whether there is one (B,) bool.

    person: (B,) int64; usable: (B,) bool.
    """
    n = len(person)
    ahead = (
        torch.arange(n, device=person.device)[:, None] + torch.arange(1, n + 1, device=person.device)
    ) % n  # (B, B)
    fits = (person[ahead] != person[:, None]) & usable[ahead]
    first = fits.long().argmax(1, keepdim=True)
    return ahead.gather(1, first)[:, 0], fits.any(1)
