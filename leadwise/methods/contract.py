"""The interface between a method file and the rest of the package.

A method is one file in this folder, and the name of the file is the method's name in a config. The file defines two classes:

    Config(MethodConfig)        a frozen dataclass: the settings, with the paper's values as defaults
    Method(PretrainingMethod)   the model and its loss

and may define these constants (`catalogue.MethodFile` has their defaults):

    SMALL        dict: settings for two CPU cores; `leadwise reproduce` uses them where no config is given
    ALSO_SMALL   tuple of dicts: the method's further rows in tables
    SMALL_OPTIM  dict: settings of [optim] that go with SMALL
    NEEDS        str: what the method needs of the data besides ECGs, reports or labels
    SIGNAL       Signal: the paper's signal, where the default signal does not fit the paper's settings
    REMOVED      dict: settings that earlier versions had, with the value that each has now
    TINY         dict of variant name -> settings: the smallest settings, on which the contract tests run; {"": {...}} for one

The module's docstring has the title, then the source (arXiv id, venue), a blank line, and the loss with the paper's equation
numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Generator, Tensor, nn

from leadwise.batch import SEXES, Batch, Signal, Volume
from leadwise.nn.encoder import TokenEncoder
from leadwise.nn.text import Tokenizer

Terms = dict[str, Tensor]  # weighted loss terms, scalars, by name
Features = dict[str, Tensor]  # what the comparison of records needs: tensors with one row per record


def nonzero_weights(**weights: float) -> dict[str, float]:
    """Return the weights that are not 0. A weight of 0 removes its term from the loss."""
    return {name: weight for name, weight in weights.items() if weight}


@dataclass(frozen=True)
class Conditions:
    """What one generated ECG should have besides its text; None where it is left open.

    Raises:
        ValueError: a value that no ECG has.
    """

    age_years: float | None = None
    sex: str | None = None  # one of leadwise.batch.SEXES
    heart_rate_bpm: float | None = None  # ventricular

    def __post_init__(self) -> None:
        if self.sex is not None and self.sex not in SEXES:
            raise ValueError(f"sex = {self.sex!r}: must be {' or '.join(SEXES)}; leave it out if it is open")
        for name, least, most in (("age_years", 0.0, 120.0), ("heart_rate_bpm", 15.0, 300.0)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} = {value:g}: must be from {least:g} to {most:g}; leave it out if it is open")


@dataclass(frozen=True)
class MethodConfig:
    """Base class of the settings of a method, the table [method] of a config without its `name`."""

    @property
    def uses_volumes(self) -> bool:
        """Whether a method that `reads_volumes` reads them with these settings."""
        return True

    @property
    def whole_batch(self) -> str:
        """The setting that forbids gradient-accumulation passes, such as "method.encoder = 'resnet'"; '' if none does.

        Batch norm, for example, needs a process's share of a batch in one pass.
        """
        return ""


class PretrainingMethod(nn.Module):
    """Base class of all pre-training methods. It declares every member that the rest of the package uses.

    A method implements `__init__`, `embed_ecg` and either `forward` or, if its loss compares records with each other,
    `local_terms` and `batch_terms`. Everything else is optional and has its default here.

    Every trainable parameter takes part in the loss of every batch. Random numbers come from torch, numpy or random, whose
    states the training loop seeds by step and pass.
    """

    # --- what the method is; class attributes, read without an instance

    reads_reports: ClassVar[bool] = False
    """Whether training needs reports. Then `make_tokenizer` and `load_tokenizer` return a tokenizer."""

    learns_labels: ClassVar[bool] = False
    """Whether training needs the labels of a task. Then `Config` has the setting `classes`, and a run belongs to one task."""

    learns_from_teacher: ClassVar[bool] = False
    """Whether training needs the embeddings of a trained run, the teacher in `data.teacher`. Then batches have `target`, and
    `teacher_settings` and `take_teacher` are implemented. The trained method does not need the teacher."""

    reads_volumes: ClassVar[bool] = False
    """Whether training needs heart images. Then `Config` has the setting `volume`, a `Volume`, and batches have `volume` and
    `has_volume`. Recordings without an image of any of its phases are not used."""

    reads_phenotypes: ClassVar[bool] = False
    """Whether training reads phenotypes, measured quantities such as LV volumes. Then `Config` has the setting `phenotypes`, a
    tuple of names, and batches have `phenotype` unless it is empty. Recordings that have none of them are not used."""

    reads_person: ClassVar[bool] = False
    """Whether training reads age and sex: batches have `person`, NaN where the cohort does not have them."""

    embeds_volume: bool = False
    """Whether `embed_volume` is implemented: retrieval between ECGs and heart images needs it. An instance whose settings leave
    the image branch out sets it to False."""

    embeds_ecg: bool = True
    """Whether `embed_ecg` is implemented. An instance whose settings leave the ECG encoder out, such as one that trains image
    encoders alone, sets it to False and has no `parts`."""

    embeds_text: bool = False
    """Whether `embed_text` is implemented: zero-shot classification and retrieval need it. An instance whose settings leave the
    report branch out sets it to False."""

    draws_targets: ClassVar[bool] = False
    """Whether `draw` is implemented: draws of a target, such as phenotypes or heart images, given an ECG."""

    generates_ecgs: bool = False
    """Whether `generate` is implemented: ECGs from texts. An instance whose settings leave the generator out sets it to False."""

    completes_leads: bool = False
    """Whether `complete` is implemented: `leadwise complete` needs it. An instance whose settings leave out the decoder, or whose
    decoder cannot fill in a whole lead, sets it to False."""

    ranks_by_distance: bool = False
    """Whether an embedding is a Gaussian, and retrieval ranks by the expected squared distance, which contains the variances.
    Then the part "shared" is the mean, a unit vector, "uncertainty" is a part, and `text_uncertainty` and, with images,
    `volume_uncertainty` are implemented."""

    starts_from: ClassVar[tuple[str, ...]] = ()
    """The settings of [data] that can name trained runs whose methods become part of this one, such as ("init",). `__init__` then
    has a fifth parameter `start`: by setting, the method of that run. The run folder contains what builds them again."""

    compares_records: ClassVar[bool] = False
    """Whether the loss compares the records of a batch: `local_terms` and `batch_terms` are implemented, and not `forward`."""

    falling_terms: tuple[str, ...] = ()
    """Loss terms that, each by itself, must not rise in the contract test of twenty steps. Of all methods, the sum must fall."""

    # --- what an instance has

    parts: tuple[str, ...] = ("backbone",)
    """The embeddings that `embed_ecg` can return with these settings. "backbone" is always one of them."""

    volume_parts: tuple[str, ...] = ()
    """The embeddings that `embed_volume` can return with these settings, such as "ed", "es" and "both"."""

    config: MethodConfig
    signal: Signal
    tokenizer: Tokenizer | None

    weights: dict[str, float]
    """The weight of each loss term, in the order of the log. A term without an entry has weight 1."""

    def __init__(
        self,
        config: MethodConfig,
        signal: Signal,
        tokenizer: Tokenizer | None = None,
        saved_folder: Path | None = None,
    ) -> None:
        """Set `config`, `signal` and `tokenizer`. Subclasses call this first and then build their modules.

        Args:
            config: the settings.
            signal: leads, sampling rate, duration and normalisation of the ECGs.
            tokenizer: what `make_tokenizer` or `load_tokenizer` returned.
            saved_folder: the folder to which `save_extra` wrote, when the weights of a saved run will be loaded; else None.
        """
        super().__init__()
        self.config, self.signal, self.tokenizer = config, signal, tokenizer
        self.weights = {}

    # --- the loss

    def forward(self, batch: Batch) -> Terms:
        """Return the weighted terms of the loss, by name. Training minimises their sum."""
        if not self.compares_records:
            raise NotImplementedError(
                f"{type(self).__module__}: implement `forward`, or set compares_records = True and implement `local_terms` "
                "and `batch_terms`"
            )
        terms, features = self.local_terms(batch)
        terms = terms | self.batch_terms(features)
        return {name: terms[name] for name in self.weights}

    def local_terms(self, batch: Batch) -> tuple[Terms, Features]:
        """Return the weighted terms that each record has by itself, and the features that `batch_terms` compares.

        The records of a step may be split over several processes, and over several gradient-accumulation passes of each.
        Local terms are means over the records of `batch`, with the number of records as the denominator, so that the mean
        over equal shares is exact. Features are tensors with one row per record: vectors, and numbers that identify equal
        reports or patients.

        With several passes this is called twice on the same records, the second time for the gradient: both calls must
        draw the same random numbers.
        """
        raise NotImplementedError(f"{type(self).__module__}: compares_records is True, but `local_terms` is missing")

    def batch_terms(self, features: Features) -> Terms:
        """Return the weighted terms that compare the records of the whole batch.

        `features` holds the rows of all passes of this process, detached from the graph. `distributed.gather` adds the rows
        of the other processes. Each term is the mean over this process's own rows, or the value of the whole batch.
        """
        raise NotImplementedError(f"{type(self).__module__}: compares_records is True, but `batch_terms` is missing")

    # --- embeddings

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        """Return (B, D) embeddings of whole ECGs, nothing masked, in eval mode. Any subset of leads may be observed.

        Raises:
            ValueError: `part` is not in `parts`, or nothing of a record was observed.
        """
        raise NotImplementedError(f"{type(self).__module__}: `embed_ecg` is missing")

    def embed_parts(self, batch: Batch, parts: Sequence[str]) -> list[Tensor]:
        """Return `embed_ecg` of each of `parts`. A method overrides this if one pass of its encoder gives several parts."""
        return [self.embed_ecg(batch, part) for part in parts]

    @property
    def n_token_ids(self) -> int:
        """The number of different numbers in the part "tokens", which language models read; 0 without such a part.

        That part has the numbers of codes, from 0 on, as floats (B, T): they are names, and no embedding.
        """
        return 0

    def embed_text(self, texts: list[str]) -> Tensor:
        """Return (K, D) unit vectors of K texts, in the space of the part "shared". Needs `embeds_text`."""
        raise NotImplementedError(f"{type(self).__module__} embeds no texts")

    def embed_volume(self, batch: Batch, part: str = "shared") -> Tensor:
        """Return (B, D) unit vectors of heart images, in the space of the ECGs' part "shared". Needs `embeds_volume`.

        "shared" is the method's default among `volume_parts`; the volumes of `batch` have `has_volume` for what it needs.

        Raises:
            ValueError: `part` is neither "shared" nor in `volume_parts`.
        """
        raise NotImplementedError(f"{type(self).__module__} embeds no heart images")

    def draw(
        self,
        batch: Batch,
        n_draws: int = 1,
        generator: Generator | None = None,
        guidance: float | None = None,
        alpha: float | None = None,
    ) -> Tensor:
        """Return draws (n_draws, B, ...) of the method's target given the ECGs of a batch. Needs `draws_targets`.

        Args:
            generator: of the random numbers, on the CPU.
            guidance: weight of the ECG; 1: as trained, 0: draws without the ECG. Default: the method's setting.
            alpha: standard deviation of the noise at the start. Default: the method's setting.
        """
        raise NotImplementedError(f"{type(self).__module__} draws no targets")

    def rebuild_volume(self, batch: Batch) -> Tensor:
        """Return heart images (B, P, D, H, W) of a batch through the method's autoencoder; only if it draws images."""
        raise NotImplementedError(f"{type(self).__module__} draws no heart images")

    def text_uncertainty(self, texts: list[str]) -> Tensor:
        """Return (K,) total variances of the Gaussians of K texts. Needs `ranks_by_distance`."""
        raise NotImplementedError(f"{type(self).__module__} has no uncertainty of texts")

    def volume_uncertainty(self, batch: Batch, part: str = "shared") -> Tensor:
        """Return (B,) total variances of the Gaussians of heart images. Needs `ranks_by_distance` and `embeds_volume`."""
        raise NotImplementedError(f"{type(self).__module__} has no uncertainty of heart images")

    @property
    def volume_branch(self) -> tuple[Volume, nn.Module]:
        """The images and the `VolumeEncoder` behind `embed_volume`, from which another run can start.

        Raises:
            ValueError: these settings have none.
        """
        raise ValueError(
            f"a run of {type(self).__module__} has no image encoders; choose one whose images were trained"
        )

    @property
    def token_encoder(self) -> TokenEncoder:
        """The ECG encoder behind the part "backbone", as vectors over time, which another run trains further.

        Raises:
            ValueError: the method has none, or not with these settings.
        """
        raise ValueError(
            f"a run of {type(self).__module__.rpartition('.')[2]} has no encoder of vectors over time; choose a run of another "
            "method, such as st_mem, pa_mae, cg_dmer or etp"
        )

    @property
    def text_branch(self) -> tuple[nn.Module, nn.Module]:
        """The `ReportTower` and the head behind `embed_text`, which a distilled model copies. Needs `embeds_text`."""
        raise NotImplementedError(f"{type(self).__module__} embeds no texts")

    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the ECG (B, L, T) in mV with masked samples reconstructed, and which samples those are. For pictures."""
        raise NotImplementedError(f"{type(self).__module__} reconstructs no ECG")

    def complete(self, batch: Batch, observed: Tensor, n_draws: int = 1) -> Tensor:
        """Return ECGs (n_draws, B, L, T) in mV, of which only the leads `observed` (B, L) bool are read.

        Recorded samples of these leads are returned unchanged; everything else is filled in. The first draw is the estimate,
        further ones are random. Needs `completes_leads`.

        Raises:
            ValueError: nothing of a record was observed in these leads, or these settings complete no leads.
        """
        raise NotImplementedError(f"{type(self).__module__} completes no leads")

    @property
    def decodes_specific(self) -> bool:
        """Whether `reconstruct` uses the part "specific" with these settings; then `reconstruct_with_specific` is implemented."""
        return False

    def reconstruct_with_specific(self, batch: Batch, specific_of: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `reconstruct`, with the part "specific" of the records `specific_of` (B,) of the batch."""
        raise NotImplementedError(f"{type(self).__module__} does not decode the part 'specific'")

    def generate(self, texts: Sequence[str], conditions: Sequence[Conditions], seed: int) -> Tensor:
        """Return one ECG for each of B texts, worded as in a report: (B, L, T) in mV. Needs `generates_ecgs`; in eval mode.

        An empty text leaves the findings open. `conditions` has one entry for each text. The same seed gives the same ECGs.
        """
        raise NotImplementedError(f"{type(self).__module__} generates no ECGs")

    # --- the tokenizer, and what a run folder stores

    @staticmethod
    def make_tokenizer(config: Any, texts: Iterable[str]) -> Tokenizer | None:
        """Return a new run's tokenizer, made from the training reports `texts`; None for a method without reports.

        `config` is an instance of the method's own Config.
        """
        return None

    @staticmethod
    def load_tokenizer(folder: Path) -> Tokenizer | None:
        """Return the tokenizer stored in `folder`, a run's tokenizer/; None for a method without reports."""
        return None

    def save_extra(self, folder: Path) -> None:
        """Write to `folder`, a run's tokenizer/, what `__init__` needs besides settings, tokenizer and weights."""

    # --- a teacher; needs `learns_from_teacher`

    teacher_parts: ClassVar[tuple[str, ...]] = ()
    """The parts of the teacher whose embeddings, concatenated, are `Batch.target`."""

    @staticmethod
    def teacher_settings(teacher: PretrainingMethod, widths: dict[str, int]) -> dict[str, Any]:
        """Return the settings that follow from the teacher. `widths` holds D of each of `teacher_parts`.

        Raises:
            ValueError: this teacher cannot be used.
        """
        raise NotImplementedError("learns_from_teacher is True, but `teacher_settings` is missing")

    def take_teacher(self, teacher: PretrainingMethod, targets: Tensor) -> None:
        """Copy from the teacher what this method keeps. `targets` (n, D) are the embeddings of the training recordings."""
        raise NotImplementedError(
            f"{type(self).__module__}: learns_from_teacher is True, but `take_teacher` is missing"
        )

    # --- training

    def take_phenotypes(self, table: Tensor) -> None:
        """Store what a new run needs of the training recordings' phenotypes `table` (n, Q), NaN where unknown.

        Called once, before the first step, if the method `reads_phenotypes`. Mean and standard deviation belong in buffers,
        which the weights of the run contain.
        """

    def after_step(self, progress: float) -> None:
        """Update what no gradient updates, such as a momentum teacher, after a step. `progress` goes from 0 to 1."""

    @property
    def phase_ends(self) -> tuple[float, ...]:
        """Where the time of a step changes during training: ascending shares of the steps, of which the last is 1."""
        return (1.0,)

    def measure(self, batch: Batch) -> dict[str, float]:
        """Return further figures for the log, on a batch of held-out patients."""
        return {}

    @property
    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters with borrowed weights; they get a lower learning rate (optim.pretrained_lr_scale)."""
        return []

    @property
    def compilable_modules(self) -> list[nn.Module]:
        """Modules that torch.compile may compile: those that draw no random numbers."""
        return []
