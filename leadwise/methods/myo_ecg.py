"""MyoECG: ECG and cardiac MRI aligned by concepts, such as the size and the function of the left ventricle.
Yukui-1999/MyoECG (July 2026).

    L = w_distill L_distill + w_phenotype (L_phenotype + L_teacher) + w_relation L_relation

    e_q, t_q      concept q of the ECG and of its images: attention of one query over the tokens of each
    L_distill     mean over concepts of 1 - cos(e_q, t_q); t_q has no gradient
    L_phenotype   squared error of the standardised phenotypes of concept q, by a linear map of e_q
    L_teacher     the same by a linear map of t_q
    L_relation    KL(P || Q), P_ij ~ exp(-|f_i - f_j|^2 / tau_f), Q_ij ~ exp(cos(z_i, v_j) / tau): f are the standardised
                  phenotypes, z is a head of the ECG's vector, and v a head of the concepts of the images

- Concepts are groups of phenotypes: `concept_of` has the concept of each of `phenotypes`. All read the same queries.
- The tokens of the images are the feature maps of their encoders before pooling, with a learned place for each position.
- `data.init_volume` names a run of dual_phase_cmr with stage = "cmr": its image encoders are the frozen teacher. Without it they
  are trained by L_teacher.
- `data.init` names a run whose ECG encoder is trained further, such as one of st_mem or cg_dmer. Without it the encoder is
  new, of this file's settings.
- The part "concepts" is e_q of all concepts side by side.

The losses, queries and sizes are from the abstract and the public code, which has no licence. This implementation departs from
them as follows (in brackets: the setting that restores them):
- Five concepts of the phenotypes that our simulated pairs have; the source has seven of 27 phenotypes, with the wall thickness of
  each of 16 segments [phenotypes and concept_of, where a cohort has them].
- The source trains the teacher with its queries first. A run of stage "cmr" has no queries, so the image side reads its concepts
  by weights that L_teacher trains beside the ECG's. The ECG's terms reach nothing of the image side but the shared queries and,
  by L_relation, the head of v.
- The vectors that L_relation compares are not stated in what was accessible. KL(P || Q) is the mean of both directions, ECG to
  image and image to ECG.
- Phenotypes that a record misses are left out of its distances, which are scaled to all of them.
- target = "infonce" compares a record's own pair, for comparison; the code's further alternatives are not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal, Volume
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.nn import phenotypes
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, TokenEncoder, check_part
from leadwise.nn.heads import Head
from leadwise.nn.losses import anchors, multimodal
from leadwise.nn.phenotypes import WithPhenotypes
from leadwise.nn.text import numbers
from leadwise.nn.transformer import Attention
from leadwise.nn.views import UnchangedViewSettings, Views
from leadwise.nn.volume_encoder import (
    VolumeEncoder,
    VolumeEncoderSettings,
    frozen_encoder,
    phases_of_part,
    volume_view,
    volumes_of,
)

_CONCEPTS = {
    "lvedv": "LV size", "lvesv": "LV size", "lvsv": "LV function", "lvef": "LV function", "lvmass": "LV mass",
    "rvedv": "RV size", "rvesv": "RV size", "rvsv": "RV function", "rvef": "RV function",
}  # fmt: skip


@dataclass(frozen=True)
class Config(EncoderSettings, UnchangedViewSettings, VolumeEncoderSettings, MethodConfig):
    volume: Volume = field(default_factory=Volume)  # the images
    phenotypes: tuple[str, ...] = tuple(_CONCEPTS)
    concept_of: tuple[str, ...] = tuple(_CONCEPTS.values())  # for each of the phenotypes
    concept_width: int = 128  # of e_q and t_q
    concept_heads: int = 4  # of the attention of the queries
    shared_width: int = 128  # of z and v
    temperature: float = 0.07  # tau
    phenotype_temperature: float = 1.0  # tau_f
    target: Literal["relational", "infonce"] = "relational"  # of L_relation
    w_distill: float = 1.0
    w_phenotype: float = 1.0
    w_relation: float = 0.5

    def __post_init__(self) -> None:
        UnchangedViewSettings.__post_init__(self)
        VolumeEncoderSettings.__post_init__(self)
        check_ranges(self, concept_width=">= 1", concept_heads=">= 1", shared_width=">= 1")
        check_ranges(self, temperature="> 0", phenotype_temperature="> 0")
        check_ranges(self, w_distill=">= 0", w_phenotype="> 0", w_relation="> 0")
        if not self.phenotypes or len(self.concept_of) != len(self.phenotypes):
            raise ValueError(
                f"phenotypes has {len(self.phenotypes)} names and concept_of {len(self.concept_of)}: set both to lists of the "
                'same length, such as phenotypes=["lvedv", "lvef"] and concept_of=["LV size", "LV function"]'
            )
        if self.concept_width % self.concept_heads:
            raise ValueError(
                f"concept_width = {self.concept_width} is not a multiple of concept_heads = {self.concept_heads}"
            )

    @property
    def concepts(self) -> tuple[str, ...]:
        """The concepts, in the order of their first phenotype."""
        return tuple(dict.fromkeys(self.concept_of))

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation, or ''."""
        return self.volume_whole_batch or super().whole_batch


NEEDS = "volumes: a cohort with images of the heart and phenotypes (`leadwise prepare ecg_cmr`)"
# Settings for two CPU cores and the simulated pairs.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "temperature": 0.1, "view_crop": 0.4, "view_noise_mv": 0.02,
    "volume_noise": 0.02, "concept_width": 64,
}  # fmt: skip
SMALL_OPTIM = {"batch_size": 128, "lr": 1e-3, "weight_decay": 0.02}
# The smallest settings, for the contract tests.
_TINY = {
    "volume": Volume(slices=3, rows=12, columns=10), "volume_widths": (4, 8), "volume_width": 8, "shared_width": 16,
    "phenotypes": ("lvedv", "lvesv"), "concept_of": ("LV size", "LV function"), "concept_width": 16, "temperature": 0.2,
}  # fmt: skip
TINY = {
    "": {**_TINY, "resnet_width": 8},
    "lead_time": {
        **_TINY, "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "view_crop": 0.5,
        "volume_shared": True, "concept_of": ("LV size", "LV size"),
    },
    "infonce": {**_TINY, "resnet_width": 8, "target": "infonce"},
}  # fmt: skip


class ConceptReader(nn.Module):
    """Reads the concepts of one side: attention of the queries over its tokens, then a LayerNorm."""

    def __init__(self, width: int, out: int, heads: int) -> None:
        super().__init__()
        self.norm_tokens = nn.LayerNorm(width)
        self.enter = nn.Linear(width, out)
        self.attention = Attention(out, heads)
        self.norm = nn.LayerNorm(out)

    def forward(self, queries: Tensor, tokens: Tensor, real: Tensor, place: Tensor | None = None) -> Tensor:
        """queries: (Q, out); tokens: (B, N, D); real: (B, N) bool; place: (N, out), added to the tokens -> (B, Q, out)."""
        known = self.enter(self.norm_tokens(tokens))
        known = known if place is None else known + place
        out: Tensor = self.norm(self.attention(queries.expand(tokens.shape[0], -1, -1), known, real))
        return out


class Method(WithPhenotypes, PretrainingMethod):
    config: Config
    parts = ("backbone", "shared", "concepts")
    reads_volumes = True
    embeds_volume = True
    compares_records = True
    starts_from = ("init", "init_volume")
    volume_parts = ("both",)  # the queries read all phases together

    def __init__(
        self,
        config: Config,
        signal: Signal,
        tokenizer: object = None,
        saved_folder: Path | None = None,
        start: Mapping[str, PretrainingMethod] | None = None,
    ) -> None:
        """`start` holds the methods of the runs in data.init and data.init_volume.

        Raises:
            ValueError: one of them cannot be used with these settings.
        """
        super().__init__(config, signal)
        c, start = config, start or {}
        self.weights = nonzero_weights(
            L_distill=c.w_distill, L_phenotype=c.w_phenotype, L_teacher=c.w_phenotype, L_relation=c.w_relation
        )
        self.register_phenotypes(c.phenotypes)

        # the two encoders
        self.ecg: TokenEncoder
        if "init" in start:
            self.ecg = start["init"].token_encoder.requires_grad_(True)
        else:
            self.ecg = EcgEncoder(c, signal)
        self.view = Views(c, signal, self.ecg.grid)
        if "init_volume" in start:
            self.volumes = frozen_encoder(start["init_volume"].volume_branch, c.volume, c.volume.phases)
        else:
            self.volumes = VolumeEncoder(c, c.volume.phases, c.volume.slices)
        self.volumes.freeze_pooling()

        # the concepts of both sides, and what is computed from them
        n_concepts, width = len(c.concepts), c.concept_width
        self.queries = nn.Parameter(torch.randn(n_concepts, width))
        self.read_ecg = ConceptReader(self.ecg.width, width, c.concept_heads)
        self.read_images = ConceptReader(self.volumes.map_width, width, c.concept_heads)
        n_places = len(c.volume.phases) * self.volumes.n_places(c.volume)
        self.place = nn.Parameter(0.2 * torch.randn(n_places, width))
        n_of = [c.concept_of.count(name) for name in c.concepts]
        self.predict_ecg = nn.ModuleList([nn.Linear(width, n) for n in n_of])
        self.predict_images = nn.ModuleList([nn.Linear(width, n) for n in n_of])
        self.ecg_head = Head(self.ecg.width, c.shared_width)
        self.image_head = Head(n_concepts * width, c.shared_width)

    # --- the loss

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; the features of `batch_terms`, one row per record.

        Each record's own distance and errors are features too: their means are over the records that have an image, or a
        phenotype, and their number is known only of the whole batch.
        """
        # both sides
        c = self.config
        volume, present = volumes_of(batch, c.volume.phases, c.volume.phases)
        view, start = batch, None
        if self.training:
            volume = volume_view(volume, c)
            crop = self.view(batch)
            view, start = crop.batch, crop.start
        tokens, real = self.ecg.tokens(view, start)
        ecg, images = self.read_ecg(self.queries, tokens, real), self._image_concepts(volume, present)
        teacher = images.detach()

        # what each record has by itself
        target = self.standardised_phenotypes(batch)
        known, has_image = target.isfinite(), present.any(1)
        error, has_error = phenotypes.squared_errors(self._predict(self.predict_ecg, ecg), target, known)
        of_images = phenotypes.squared_errors(
            self._predict(self.predict_images, images), target, known & has_image[:, None]
        )
        return {}, {
            "ecg": self.ecg_head(self.ecg.pool(tokens, real)),
            "image": self.image_head(teacher.flatten(1)),
            "distance": (1 - F.cosine_similarity(ecg.float(), teacher.float(), dim=-1)).mean(1),
            "has_image": has_image.long(),
            "error": error,
            "has_error": has_error.long(),
            "image_error": of_images[0],
            "has_image_error": of_images[1].long(),
            "phenotype": target.nan_to_num(0.0),
            "known": known.long(),
            "person": numbers(batch.patient).to(present.device),
        }

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms over the whole batch, including other processes' records."""
        c, every = self.config, distributed.gather_features(features)
        rows, has_image = distributed.local_rows(len(every["ecg"])), every["has_image"].bool()
        if c.target == "relational":
            phenotype = every["phenotype"].masked_fill(every["known"] == 0, torch.nan)
            relation = anchors.relational_contrast(
                every["ecg"], every["image"], has_image, phenotype, 1 / c.temperature, c.phenotype_temperature, rows
            )
        else:
            relation = anchors.pair_contrast(
                every["ecg"], every["image"], has_image, 1 / c.temperature, every["person"], rows
            )
        terms = {
            "L_distill": anchors.mean_over_present(every["distance"], has_image, rows),
            "L_phenotype": anchors.mean_over_present(every["error"], every["has_error"].bool(), rows),
            "L_teacher": anchors.mean_over_present(every["image_error"], every["has_image_error"].bool(), rows),
            "L_relation": relation,
        }
        return {name: weight * terms[name] for name, weight in self.weights.items()}

    # --- embeddings

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole ECGs; any subset of leads may be observed.

        backbone: the encoder's vector (the probe's feature). shared: unit vectors in the space of `embed_volume`. concepts: the
        vectors of all concepts side by side.

        Raises:
            ValueError: an unknown part, or a record without an observed sample.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        for part in parts:
            check_part(part, self.parts)
        tokens, real = self.ecg.tokens(batch)
        backbone = self.ecg.pool(tokens, real)
        by_part = {"backbone": backbone}
        if "shared" in parts:
            by_part["shared"] = F.normalize(self.ecg_head(backbone), dim=-1)
        if "concepts" in parts:
            by_part["concepts"] = self.read_ecg(self.queries, tokens, real).flatten(1)
        return [by_part[part] for part in parts]

    def embed_volume(self, batch: Batch, part: str = "shared") -> Tensor:
        """(B, D) unit vectors of the images of all phases together, the only part.

        Raises:
            ValueError: an unknown part, or a record without any image.
        """
        check_part(part, ("shared", *self.volume_parts))
        phases = self.config.volume.phases
        volume, present = volumes_of(batch, phases, phases)
        phases_of_part(part, phases, present, batch.record)
        return F.normalize(self.image_head(self._image_concepts(volume, present).flatten(1)).float(), dim=-1)

    def predict_phenotypes(self, batch: Batch) -> Tensor:
        """(B, Q) phenotypes of ECGs in their own units, in the order of the setting `phenotypes`."""
        concepts = self.read_ecg(self.queries, *self.ecg.tokens(batch))
        return self._predict(self.predict_ecg, concepts) * self.phenotype_deviation + self.phenotype_mean

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Of a held-out batch: explained shares of the phenotypes, and how often a record's own images are the nearest."""
        volume, present = volumes_of(batch, self.config.volume.phases, self.config.volume.phases)
        tokens, real = self.ecg.tokens(batch)
        ecg, images = self.ecg_head(self.ecg.pool(tokens, real)), self._image_concepts(volume, present)
        out = {"effective_rank": multimodal.effective_rank(F.normalize(ecg.float(), dim=-1))}
        nearest = anchors.top1(ecg, self.image_head(images.flatten(1)), present.any(1))
        out["top1"] = nearest if nearest == nearest else 0.0  # NaN: no record has an image
        target, concepts = self.standardised_phenotypes(batch), self.read_ecg(self.queries, tokens, real)
        for name, predicted in (
            ("ecg", self._predict(self.predict_ecg, concepts)),
            ("images", self._predict(self.predict_images, images)),
        ):
            error, has_error = phenotypes.squared_errors(predicted, target, target.isfinite() & present.any(1)[:, None])
            out[f"explained_{name}"] = float(1 - error.sum() / has_error.sum().clamp(min=1))
        return out

    # --- parts

    def _image_concepts(self, volume: Tensor, present: Tensor) -> Tensor:
        """The concepts (B, Q, C) of volumes that are present (B, P); of a record without any, those of empty volumes."""
        maps = self.volumes.tokens(volume, present)  # (B, P, N, D)
        real = (present | ~present.any(1, keepdim=True)).repeat_interleave(maps.shape[2], dim=1)
        out: Tensor = self.read_images(self.queries, maps.flatten(1, 2), real, self.place)
        return out

    def _predict(self, maps: nn.ModuleList, concepts: Tensor) -> Tensor:
        """Standardised phenotypes (B, Q), each from its concept, by the linear maps of one side."""
        c = self.config
        by_concept = {name: iter(maps[i](concepts[:, i]).unbind(1)) for i, name in enumerate(c.concepts)}
        return torch.stack([next(by_concept[name]) for name in c.concept_of], dim=1)
