"""Dual-phase CMR: cardiac MRI at the end of diastole and of systole as two anchors of an ECG encoder.
arXiv 2602.12883 (SPIE Medical Imaging 2026).

Stage 1 is any method that trains on ECGs alone, such as st_mem. This file has the stages 2 and 3. Stage 4, a probe or a
regression on the frozen encoder, is `leadwise probe` and `leadwise regress`.

    stage = "cmr"       L_p = squared error of the standardised phenotypes of phase p, one image encoder for each phase; mean
                        over the records that have the phase
    stage = "contrast"  L = (w_ed C(E, D) + w_es C(E, S) + w_ds C(D, S)) / (w_ed + w_es + w_ds) + w_text C(E, R)

    C(a, b)             symmetric InfoNCE of cosines / tau over the records of the batch that have both
    z                   E, D, S: heads of the ECG and of the images in the two phases; R: the report
    target              "infonce": a record's own pair; "relational": KL(P || Q) with P from distances of phenotypes (MyoECG)

- `data.init` names the run of the ECG encoder, of any method; without it the encoder is one of this file's settings. The run
  contains that method, with its tokenizer and text encoder, and loads without it.
- `data.init_volume` names a run of stage "cmr". Its image encoders are frozen, in eval mode, except for their last linear map.
  Without it they are trained from random weights.
- space = "init": ECG, images and words share the space of the init run, which has to embed texts, such as CG-DMER: an image can
  then be classified by prompts. Its text encoder is not trained; w_text > 0 continues to train the ECGs on their reports.
- A phase besides "ed" and "es", such as "scar" (late enhancement), is a further anchor of the ECG with weight w_other.

This implementation departs from the paper and its code as follows (in brackets: the setting that restores them):
- The image encoder is a small one [volume_encoder = "resnet50", volume_width = 768; without its Kinetics weights].
- The code's systole is the middle frame of the cine, not the smallest volume; that is a choice of `leadwise prepare` [es=half].
- Phenotypes are standardised over the training recordings; the code's error is in raw units.
- The code mirrors diastole and systole independently, which exchanges the ventricles in one of them. Here: never
  [volume_flip = true mirrors both].
- The code's frozen encoders stay in training mode, so that their batch norms move. Here they are in eval mode.
- The ECG's head reads the pooled vector; the code's reads the output of a classifier.
- Another recording of the same person is no negative. A record without a phase is left out of that phase's pairs.
- In short runs on few thousand people, pairs are memorised with one fixed window: random crops of the ECG (`view_crop`), mild
  noise and a larger weight decay prevent it. SMALL and SMALL_OPTIM have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise import distributed
from leadwise.batch import Batch, Signal, Volume
from leadwise.config import check_ranges
from leadwise.methods.contract import MethodConfig, PretrainingMethod, nonzero_weights
from leadwise.methods.wrapped_encoder import WrappedEncoder
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part
from leadwise.nn.heads import Head
from leadwise.nn.losses import anchors, multimodal
from leadwise.nn.phenotypes import WithPhenotypes
from leadwise.nn.text import numbers
from leadwise.nn.views import UnchangedViewSettings, View, Views
from leadwise.nn.volume_encoder import (
    VolumeEncoder,
    VolumeEncoderSettings,
    frozen_encoder,
    phases_of_part,
    volume_view,
    volumes_of,
)

ECG, TEXT = "ecg", "text"  # names of anchors besides the phases


@dataclass(frozen=True)
class Config(EncoderSettings, UnchangedViewSettings, VolumeEncoderSettings, MethodConfig):
    stage: Literal["cmr", "contrast"] = "contrast"  # 2: image encoders alone; 3: ECG encoder and heads
    volume: Volume = field(default_factory=Volume)  # the images; its phases are the anchors
    phenotypes: tuple[str, ...] = ()  # of stage "cmr", and of target = "relational"
    phase_of: tuple[str, ...] = ()  # of stage "cmr": for each of the phenotypes, the phase whose encoder predicts it
    # stage "contrast"
    space: Literal["own", "init"] = (
        "own"  # of the shared embeddings: two new heads, or that of the init run and its texts
    )
    shared_width: int = 128  # of the own space
    ecg_frozen: bool = False  # train the image side only; with data.init
    temperature: float = 0.07  # tau
    w_ed: float = 1 / 3  # weights of the pairs; 0 removes a pair
    w_es: float = 1 / 3
    w_ds: float = 1 / 3  # diastole with systole
    w_other: float = 1 / 3  # the ECG with each further phase
    w_text: float = 0.0  # weight of ECG and report; with space = "init"
    target: Literal["infonce", "relational"] = "infonce"
    phenotype_temperature: float = 1.0  # of the distances of standardised phenotypes, for target = "relational"

    def __post_init__(self) -> None:
        UnchangedViewSettings.__post_init__(self)
        VolumeEncoderSettings.__post_init__(self)
        check_ranges(self, temperature="> 0", phenotype_temperature="> 0", shared_width=">= 1")
        check_ranges(self, w_ed=">= 0", w_es=">= 0", w_ds=">= 0", w_other=">= 0", w_text=">= 0")
        self._check_phenotypes()

    def _check_phenotypes(self) -> None:
        if self.stage == "cmr":
            if not self.phenotypes or len(self.phase_of) != len(self.phenotypes):
                raise ValueError(
                    'stage = "cmr" is trained on phenotypes: set phenotypes and phase_of to lists of the same length, such as '
                    'phenotypes=["lvedv", "lvesv"] and phase_of=["ed", "es"]'
                )
            for phase in (*self.phase_of, *self.volume.phases):
                if phase not in self.volume.phases or phase not in self.phase_of:
                    raise ValueError(
                        f"phase_of = {list(self.phase_of)}, but volume.phases = {list(self.volume.phases)}: both must have "
                        "the same phases"
                    )
        elif self.target == "relational" and not self.phenotypes:
            raise ValueError('target = "relational" compares phenotypes: set phenotypes, such as ["lvedv", "lvef"]')

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient accumulation, or ''. The init run's is checked where it is opened."""
        return self.volume_whole_batch or (super().whole_batch if self.stage == "contrast" else "")


NEEDS = "volumes: a cohort with images of the heart (`leadwise prepare ecg_cmr`)"
# Settings for two CPU cores and the simulated pairs, whose images have six slices of 46 x 42 pixels.
SMALL = {
    "encoder": "resnet", "resnet_width": 16, "temperature": 0.1, "view_crop": 0.4, "view_noise_mv": 0.02,
    "volume_noise": 0.02,
}  # fmt: skip
SMALL_OPTIM = {"batch_size": 128, "lr": 1e-3, "weight_decay": 0.02}
# The smallest settings, for the contract tests.
_VOLUME = Volume(slices=3, rows=12, columns=10)
_TINY = {"resnet_width": 8, "volume": _VOLUME, "volume_widths": (4, 8), "volume_width": 8, "shared_width": 16}
TINY = {
    "": {**_TINY, "temperature": 0.2},
    "cmr": {**_TINY, "stage": "cmr", "phenotypes": ("lvedv", "lvesv"), "phase_of": ("ed", "es")},
    "relational": {**_TINY, "target": "relational", "phenotypes": ("lvedv", "lvesv"), "view_crop": 0.5},
    "lead_time": {
        **_TINY, "encoder": "lead_time", "n_patches": 10, "width": 32, "depth": 2, "heads": 4, "view_crop": 0.5,
        "volume_shared": True,
    },
}  # fmt: skip


class Method(WithPhenotypes, PretrainingMethod):
    config: Config
    reads_volumes = True
    compares_records = True
    starts_from = ("init", "init_volume")
    embeds_text = True
    embeds_volume = True

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
        self.embeds_text = c.stage == "contrast" and c.space == "init"
        self.register_phenotypes(c.phenotypes)
        if c.stage == "cmr":
            self._build_cmr(start)
        else:
            self._build_contrast(start)

    def _build_cmr(self, start: Mapping[str, PretrainingMethod]) -> None:
        """Stage 2: one image encoder for each phase, and a linear map to its phenotypes."""
        c = self.config
        if start:
            raise ValueError(f'data.{next(iter(start))} is set, but stage = "cmr" starts from no run; leave it empty')
        self.embeds_ecg, self.parts = False, ()
        self.phases = c.volume.phases
        self.volume_parts = (*self.phases, "both")
        self.weights = {f"L_{phase}": 1.0 for phase in self.phases}
        self.volumes = VolumeEncoder(c, self.phases, c.volume.slices)
        self.predict = nn.ModuleDict(
            {phase: nn.Linear(self.volumes.width, c.phase_of.count(phase)) for phase in self.phases}
        )

    def _build_contrast(self, start: Mapping[str, PretrainingMethod]) -> None:
        """Stage 3: the ECG encoder, the image encoders, and the heads of the anchors."""
        # the pairs that are compared; an anchor in none of them is not built
        c = self.config
        by_pair = {f"{ECG}-{phase}": c.w_other for phase in c.volume.phases}
        by_pair |= {"ecg-ed": c.w_ed, "ecg-es": c.w_es, "ed-es": c.w_ds, "es-ed": c.w_ds}
        self.pairs = anchors.pair_weights((ECG, *c.volume.phases), by_pair)
        if not any(ECG in pair for pair in self.pairs):
            raise ValueError("no anchor is compared with the ECG: set w_ed, w_es or w_other above 0")
        self.phases = tuple(phase for phase in c.volume.phases if any(phase in pair for pair in self.pairs))
        self.volume_parts = (*self.phases, "both")
        shares = {f"L_{a}_{b}": weight for (a, b), weight in self.pairs.items()}
        self.weights = nonzero_weights(**shares, L_text=c.w_text)

        # the ECG encoder: the method of another run, or one of our own
        init = start.get("init")
        _check_init(c, init)
        if init is None:
            self.ecg: EcgEncoder | WrappedEncoder = EcgEncoder(c, self.signal)
            backbone_width, shared_width = self.ecg.width, c.shared_width
        else:
            self.ecg = WrappedEncoder(init, ("shared",) if c.space == "init" else ("backbone",), c.ecg_frozen)
            backbone_width = self.ecg.widths[0]
            shared_width = backbone_width if c.space == "init" else c.shared_width
        self.view = Views(c, self.signal, self.ecg.grid)
        if c.space == "own":
            self.ecg_head = Head(backbone_width, shared_width)
        self.parts = ("backbone", "shared")

        # the image encoders and their heads
        if "init_volume" in start:
            self.volumes = frozen_encoder(start["init_volume"].volume_branch, c.volume, self.phases)
        else:
            self.volumes = VolumeEncoder(c, self.phases, c.volume.slices)
        self.heads = nn.ModuleDict({phase: Head(self.volumes.width, shared_width) for phase in self.phases})

    @property
    def volume_branch(self) -> tuple[Volume, nn.Module]:
        """The images and the encoders behind `embed_volume`, from which another run can start."""
        return replace(self.config.volume, phases=self.phases), self.volumes

    # --- the loss

    def local_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No terms per record; the features of `batch_terms`, one row per record.

        Stage "contrast": the anchors' vectors. Stage "cmr": each record's own error of each phase. Its mean is over the records
        that have the phase, and their number is known only of the whole batch, not of a pass or a process.
        """
        c = self.config
        volume, present = volumes_of(batch, c.volume.phases, self.phases)
        if self.training:
            volume = volume_view(volume, c)
        images = self.volumes(volume, present)
        if c.stage == "cmr":
            return {}, self._phenotype_errors(images, present, batch)
        features = {phase: self.heads[phase](images[:, i]) for i, phase in enumerate(self.phases)}
        features |= {ECG: self._ecg_vectors(batch)[1], "present": present.long(), "person": numbers(batch.patient)}
        features["person"] = features["person"].to(present.device)
        if c.target == "relational":
            phenotype = self.standardised_phenotypes(batch)
            features |= {"phenotype": phenotype.nan_to_num(0.0), "known": phenotype.isfinite().long()}
        if c.w_text:
            with torch.no_grad():
                features[TEXT] = self.embed_text(list(batch.report))
            features["has_text"] = torch.tensor([bool(r.strip()) for r in batch.report], device=present.device).long()
            features["report"] = numbers(batch.report).to(present.device)[:, None]
        return {}, features

    def batch_terms(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms over the whole batch, including other processes' records."""
        c, every = self.config, distributed.gather_features(features)
        rows = distributed.local_rows(len(next(iter(every.values()))))
        if c.stage == "cmr":
            means = {
                f"L_{phase}": anchors.mean_over_present(every["error"][:, i], every["has_error"][:, i].bool(), rows)
                for i, phase in enumerate(self.phases)
            }
            return {name: self.weights[name] * term for name, term in means.items()}
        present = {phase: every["present"][:, i].bool() for i, phase in enumerate(self.phases)}
        present[ECG] = torch.ones_like(every["person"], dtype=torch.bool)
        terms = {}
        for a, b in self.pairs:
            both = present[a] & present[b]
            if c.target == "relational":
                phenotype = every["phenotype"].masked_fill(every["known"] == 0, torch.nan)
                loss = anchors.relational_contrast(
                    every[a], every[b], both, phenotype, 1 / c.temperature, c.phenotype_temperature, rows
                )
            else:
                loss = anchors.pair_contrast(every[a], every[b], both, 1 / c.temperature, every["person"], rows)
            terms[f"L_{a}_{b}"] = loss
        if c.w_text:
            # another record with the same report is no negative
            has_text, report = every["has_text"].bool(), every["report"][:, 0]
            terms["L_text"] = anchors.pair_contrast(every[ECG], every[TEXT], has_text, 1 / c.temperature, report, rows)
        return {name: self.weights[name] * term for name, term in terms.items()}

    def _phenotype_errors(self, images: Tensor, present: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Each record's mean squared error (B, P) of a phase's standardised phenotypes, of those known; and if it has any."""
        error, known = self._errors(images, present, batch)
        errors, numbers_known = [], []
        for phase in self.phases:
            own = [i for i, name in enumerate(self.config.phase_of) if name == phase]
            n = known[:, own].sum(1)
            errors.append(error[:, own].sum(1) / n.clamp(min=1))
            numbers_known.append(n)
        return {"error": torch.stack(errors, dim=1), "has_error": (torch.stack(numbers_known, dim=1) > 0).long()}

    def _errors(self, images: Tensor, present: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Squared errors (B, Q) of the standardised phenotypes, 0 where unknown or without an image, and where they count."""
        target = self.standardised_phenotypes(batch)
        known = target.isfinite() & present[:, [self.phases.index(phase) for phase in self.config.phase_of]]
        return torch.where(known, self._predict(images) - target.nan_to_num(0.0), 0.0).square(), known

    def _predict(self, images: Tensor) -> Tensor:
        """Standardised phenotypes (B, Q) of stage "cmr", each from the images (B, P, D) of its phase."""
        by_phase = {phase: self.predict[phase](images[:, i]).float().unbind(1) for i, phase in enumerate(self.phases)}
        columns = {phase: iter(values) for phase, values in by_phase.items()}
        return torch.stack([next(columns[phase]) for phase in self.config.phase_of], dim=1)

    # --- embeddings

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """(B, D) embeddings of whole ECGs; any subset of leads may be observed.

        backbone: the ECG encoder's vector (the probe's feature). shared: unit vectors in the space of `embed_volume`.

        Raises:
            ValueError: an unknown part, or a record without an observed sample; or stage "cmr", which has no ECG encoder.
        """
        return self.embed_parts(batch, (part,))[0]

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`, from one pass of the encoder."""
        if not self.embeds_ecg:
            raise ValueError(
                'stage = "cmr": this run has no ECG encoder; start a run of stage "contrast" from it with data.init_volume'
            )
        for part in parts:
            check_part(part, self.parts)
        if isinstance(self.ecg, WrappedEncoder) and self.config.space == "init":
            return self.ecg.method.embed_parts(batch, parts)
        backbone, shared = self._ecg_vectors(batch, whole=True)
        return [backbone if part == "backbone" else F.normalize(shared, dim=-1) for part in parts]

    def embed_volume(self, batch: Batch, part: str = "shared") -> Tensor:
        """(B, D) embeddings of the images of one phase, or of "both": of all phases together. "shared" is "both".

        Stage "contrast": unit vectors in the shared space; of several phases the sum, so that the cosine with an ECG is that
        of the summed similarities. Stage "cmr": the encoders' vectors, of several phases side by side, 0 for an absent one.

        Raises:
            ValueError: an unknown part, or a record without any image of it.
        """
        volume, present = volumes_of(batch, self.config.volume.phases, self.phases)
        chosen = phases_of_part(part, self.phases, present, batch.record)
        images: Tensor = self.volumes(volume, present)
        if self.config.stage == "cmr":
            return images[:, chosen].flatten(1)
        units = [F.normalize(self.heads[phase](images[:, i]).float(), dim=-1) for i, phase in enumerate(self.phases)]
        total = (torch.stack(units, dim=1) * present[..., None])[:, chosen].sum(1)
        return F.normalize(total, dim=-1)

    def embed_text(self, texts: list[str]) -> Tensor:
        """(K, D) unit vectors of reports or prompts, by the init run, in the shared space.

        Raises:
            ValueError: the shared space has no texts.
        """
        return self._text_method().embed_text(texts)

    @property
    def text_branch(self) -> tuple[nn.Module, nn.Module]:
        """The report tower and the head of the init run."""
        return self._text_method().text_branch

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """Of a held-out batch: explained shares of the phenotypes, or how often a record's own image is the nearest."""
        volume, present = volumes_of(batch, self.config.volume.phases, self.phases)
        images = self.volumes(volume, present)
        if self.config.stage == "cmr":
            error, known = self._errors(images, present, batch)
            share = 1 - error.sum(0) / known.sum(0).clamp(min=1)
            return {f"explained_{name}": value for name, value in zip(self.config.phenotypes, share.tolist())}
        ecg = self._ecg_vectors(batch, whole=True)[1]
        out = {"effective_rank": multimodal.effective_rank(F.normalize(ecg.float(), dim=-1))}
        for i, phase in enumerate(self.phases):
            nearest = anchors.top1(ecg, self.heads[phase](images[:, i]), present[:, i])
            out[f"top1_{phase}"] = nearest if nearest == nearest else 0.0  # NaN: no record has the phase
        return out

    # --- parts

    def _ecg_vectors(self, batch: Batch, whole: bool = False) -> tuple[Tensor, Tensor]:
        """The ECGs' backbone (B, D) and vector in the shared space (B, S): of a random view in training, unless `whole`."""
        is_view = self.training and not whole
        view = self.view(batch) if is_view else View(batch, torch.zeros(len(batch), device=batch.ecg.device).long())
        if isinstance(self.ecg, WrappedEncoder):
            vector: Tensor = self.ecg(view)[0]
            return vector, vector if self.config.space == "init" else self.ecg_head(vector)
        vector = self.ecg(view.batch, view.start if is_view else None)
        return vector, self.ecg_head(vector)

    def _text_method(self) -> PretrainingMethod:
        if not self.embeds_text:
            raise ValueError(
                'this run embeds no texts: train it with space = "init" and data.init, a run that embeds texts'
            )
        assert isinstance(self.ecg, WrappedEncoder)
        return self.ecg.method


def _check_init(config: Config, init: PretrainingMethod | None) -> None:
    """Raise ValueError if the settings do not fit the method of data.init, None without one."""
    if init is None:
        for name, value in (("space", "own"), ("ecg_frozen", False), ("w_text", 0.0)):
            if getattr(config, name) != value:
                raise ValueError(
                    f"{name} = {getattr(config, name)!r} needs an init run: set data.init, or {name}={value}"
                )
    elif not init.embeds_ecg:
        raise ValueError("data.init is a run without an ECG encoder; choose another run")
    elif config.space == "init" and not (init.embeds_text and "shared" in init.parts):
        raise ValueError('space = "init", but the run of data.init embeds no texts; choose another run, or space=own')
    elif config.w_text and config.space == "own":
        raise ValueError("w_text > 0 needs the texts of the init run: set space=init, or w_text=0")
    elif config.ecg_frozen and config.space == "init" and config.w_text:
        raise ValueError("w_text > 0 trains nothing with ecg_frozen = true; set w_text=0")
