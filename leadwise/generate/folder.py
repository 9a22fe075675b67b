"""A writer folder: what another machine needs to write reports with a trained writer, besides the run that it belongs to.

writer.toml          every setting; not config.toml, because the folder is no run
data.json            the run by its fingerprint, the training cohort, and the numbers of patients and recordings
trained_on.json      hashes of the training patients and signals (`leadwise.trained_on`); it stays with the owner of the data
selected_on.json     the same of the held-out ones that choose the weights; none with log.keep = "last"
tokenizer/           the tokenizer, trained on the training reports; of `local`, that of the language model, and its identity
model.safetensors    the weights, and in its header the digests of weights, settings and tokenizer
metrics.jsonl        one line of metrics every few steps
resume/state.pt      model, optimiser, step and best held-out loss
random_encoder/      the control of `leadwise score-writer`: the same writer, trained on a run with random weights
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from leadwise import digests, trained_on
from leadwise.config import ConfigError, LogConfig, OptimConfig, typed
from leadwise.data import reports
from leadwise.files import naming_full_disk, replacing, sync_tree
from leadwise.generate.report_model import ReportModel
from leadwise.generate.writer import NOTE, Writer, WriterError, WriterInput
from leadwise.generate.writers.local import LocalModel, LocalSettings
from leadwise.generate.writers.tiny import TinyModel, TinySettings
from leadwise.nn.text import load_tokenizer
from leadwise.progress import Progress
from leadwise.run import Run, choose_device, isolated_random_state
from leadwise.trained_on import ScoredRecordings, TrainedOn, TrainedOnError, TrainingOverlap

SETTINGS, PROVENANCE, WEIGHTS = "writer.toml", "data.json", "model.safetensors"
CONTROL = "random_encoder"
SELECTED_ON = "selected_on.json"
_ECGS_AT_ONCE = 64


# settings that older folders do not have, with the values that change nothing: their digests are not recorded then
_ADDED = {"numbers": "keep", "paraphrase": False, "projection_steps": 0, "input": "vectors"}
TOKENS = "tokens"  # the part of a run that has code numbers

KINDS: dict[str, type[TinySettings | LocalSettings]] = {"tiny": TinySettings, "local": LocalSettings}


@dataclass(frozen=True)
class EcgConfig:
    """Which embedding of an ECG the writer reads."""

    part: str = "backbone"  # of the run; several joined by "+"
    encoder: Literal["trained", "untrained"] = (
        "trained"  # untrained: the weights that the run started from, as a control
    )


@dataclass(frozen=True)
class WriterConfig:
    """All settings of a trained writer."""

    writer: dict[str, Any] = field(default_factory=lambda: {"kind": "tiny"})
    ecg: EcgConfig = field(default_factory=EcgConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            steps=2000, batch_size=32, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.95), final_lr=1e-5
        )
    )
    log: LogConfig = field(default_factory=lambda: LogConfig(keep="best"))

    @property
    def kind(self) -> str:
        """The kind of the writer."""
        return str(self.writer.get("kind", ""))

    @property
    def projection_steps(self) -> int:
        """The steps of the first of two stages, in which only the projection of the ECG is trained; 0: one stage."""
        return getattr(self.settings, "projection_steps", 0)

    @property
    def has_numbers(self) -> bool:
        """Whether the training reports have their measurements."""
        return self.settings.numbers == "keep"

    @property
    def settings(self) -> TinySettings | LocalSettings:
        """The settings of its kind.

        Raises:
            ConfigError: an unknown kind or setting, or a value out of range.
        """
        if self.kind not in KINDS:
            raise ConfigError(f"setting writer.kind = {self.kind!r} is unknown; it must be {' or '.join(KINDS)}")
        return typed(KINDS[self.kind], {k: v for k, v in self.writer.items() if k != "kind"}, "writer")

    def table(self) -> dict[str, Any]:
        """Return every setting, including the defaults of its kind."""
        return {**dataclasses.asdict(self), "writer": {"kind": self.kind, **dataclasses.asdict(self.settings)}}


def config_of(table: dict[str, Any]) -> WriterConfig:
    """Return the settings in a table.

    Raises:
        ConfigError: an unknown setting, a value out of range, or a setting that has no use here.
    """
    config = typed(WriterConfig, table)
    config = dataclasses.replace(config, writer=config.table()["writer"])
    reads_tokens = config.settings.input == TOKENS
    if reads_tokens and config.ecg.part == EcgConfig().part:
        config = dataclasses.replace(config, ecg=dataclasses.replace(config.ecg, part=TOKENS))
    if reads_tokens != (config.ecg.part == TOKENS):
        raise ConfigError(
            f"setting ecg.part = {config.ecg.part!r} and writer.input = {config.settings.input!r} do not go together: "
            "writer.input=tokens reads the part 'tokens' and no other"
        )
    fixed = {"accumulate": 1, "optimizer": "adamw", "precision": "float32", "compile": False}
    for name, value in fixed.items():
        if getattr(config.optim, name) != value:
            raise ConfigError(f"setting optim.{name} of a writer is always {value!r}; leave it out")
    if config.projection_steps >= config.optim.steps:
        raise ConfigError(
            f"setting writer.projection_steps = {config.projection_steps} leaves no step of {config.optim.steps} to the second "
            "stage; lower it, or raise optim.steps"
        )
    return config


class TrainedWriter(Writer):
    """A trained model with its settings and its folder."""

    def __init__(self, folder: Path, config: WriterConfig, model: ReportModel, provenance: dict[str, Any]) -> None:
        self.folder, self.config, self.model, self.provenance = folder, config, model, provenance
        self.name, self.part = f"{config.kind} {folder.name}", config.ecg.part

    def write(self, ecgs: WriterInput, progress: Progress | None = None) -> list[str]:
        """Return the reports of N ECGs, by greedy decoding."""
        texts: list[str] = []
        self.model.eval()
        with torch.inference_mode():
            for begin in range(0, len(ecgs), _ECGS_AT_ONCE):
                features = torch.from_numpy(ecgs.features[begin : begin + _ECGS_AT_ONCE]).float()
                texts += map(reports.clean, self.model.generate(features.to(self.model.device)))
                if progress is not None:
                    progress("write reports", len(texts), len(ecgs))
        return texts

    def encoder(self, run: Run) -> Run:
        """Return the run whose embeddings the writer reads: `run`, or the one with the weights that it started from.

        Raises:
            WriterError: the writer was trained on another run.
        """
        if self.provenance["run"]["fingerprint"] != run.fingerprint:
            raise WriterError(
                f"{self.folder} was trained on run {self.provenance['run']['name']}, and {run.name} has other weights or "
                "settings; pass that run, or train a writer on this one: leadwise train-writer RUN COHORT -o FOLDER"
            )
        return encoder_of(run, self.config)

    def overlap(self, scored: ScoredRecordings) -> TrainingOverlap:
        """Return how much of the recordings that reports are scored on was used to train the writer.

        Raises:
            WriterError: the list of what it was trained on is damaged.
        """
        return trained_on.compare(self._hashes(trained_on.FILE), self.provenance, scored)

    def selection_overlap(self, scored: ScoredRecordings) -> TrainingOverlap | None:
        """Return how much of the recordings that reports are scored on chose the writer's weights; None if none did.

        Raises:
            WriterError: the list of what chose them is damaged.
        """
        if self.config.log.keep == "last":
            return None
        return trained_on.compare(self._hashes(SELECTED_ON), self.provenance, scored)

    def _hashes(self, name: str) -> TrainedOn | None:
        path = self.folder / name
        try:
            return TrainedOn.read(path) if path.is_file() else None
        except TrainedOnError as error:
            raise WriterError(f"{path} is damaged ({error}); copy the writer folder again") from None


def encoder_of(run: Run, config: WriterConfig) -> Run:
    """Return the run with trained weights, or with the random ones that it started from."""
    return run if config.ecg.encoder == "trained" else run.untrained(run.config.optim.seed)


def new_model(config: WriterConfig, texts: Iterable[str], n_features: int, n_token_ids: int = 0) -> ReportModel:
    """Return a model with fresh weights from the settings' seed, and a tokenizer trained on `texts`."""
    settings = config.settings
    with _seeded(config):
        if isinstance(settings, LocalSettings):
            return LocalModel(settings, n_features, n_token_ids=n_token_ids)
        return TinyModel(settings, TinyModel.make_tokenizer(settings, texts), n_features, n_token_ids)


def _saved_model(config: WriterConfig, folder: Path, n_features: int, n_token_ids: int) -> ReportModel:
    """Return the model of a writer folder's tokenizer/ with fresh weights.

    Raises:
        WriterError: the tokenizer is missing or damaged, or the language model is another one.
    """
    settings = config.settings
    try:
        tokenizer = load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    except Exception:  # tokenizers raises plain Exception for a damaged file, and may quote it
        tokenizer = None
    if tokenizer is None:
        raise WriterError(f"{folder} is missing or damaged; copy the writer folder again")
    with _seeded(config):
        if isinstance(settings, LocalSettings):
            return LocalModel(settings, n_features, folder, n_token_ids)
        return TinyModel(settings, tokenizer, n_features, n_token_ids)


@contextmanager
def _seeded(config: WriterConfig) -> Iterator[None]:
    """A block that draws random numbers from the settings' seed alone."""
    with isolated_random_state():
        torch.manual_seed(config.optim.seed)
        yield


def create(
    folder: Path,
    config: WriterConfig,
    model: ReportModel,
    provenance: dict[str, Any],
    hashes: TrainedOn,
    selected_on: TrainedOn | None = None,
) -> TrainedWriter:
    """Write a new writer folder without weights; writer.toml comes last, because it makes the folder a writer folder."""
    with naming_full_disk(folder / "tokenizer"):
        model.save_tokenizer(folder / "tokenizer")
        sync_tree(folder / "tokenizer")
    with replacing(folder / PROVENANCE) as temporary:
        temporary.write_text(json.dumps({"note": NOTE, **provenance}, indent=1) + "\n", encoding="utf-8")
    hashes.write(folder / trained_on.FILE)
    if selected_on is not None:
        selected_on.write(folder / SELECTED_ON)
    write_settings(folder, config)
    return TrainedWriter(folder, config, model, provenance)


def write_settings(folder: Path, config: WriterConfig) -> None:
    """Write writer.toml, atomically."""
    with replacing(folder / SETTINGS) as temporary:
        temporary.write_text(tomli_w.dumps(config.table()), encoding="utf-8")


def save_weights(writer: TrainedWriter) -> None:
    """Write model.safetensors with the digests of weights, settings and tokenizer, atomically."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in writer.model.own_state().items()}
    header = digests.to_header(_recorded(writer.folder, writer.config), digests.of_tensors(tensors))
    with replacing(writer.folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata=header)


def _recorded(folder: Path, config: WriterConfig) -> digests.Recorded:
    table = config.table()
    table["writer"].pop("model", None)  # where a language model is may change; which one it is does not
    for name, neutral in _ADDED.items():
        if table["writer"].get(name) == neutral:
            table["writer"].pop(name)
    return digests.Recorded(digests.of_settings(table), digests.of_folder(folder / "tokenizer"))


def read_config(folder: Path) -> WriterConfig:
    """Return the settings of a writer folder.

    Raises:
        WriterError: the folder is no writer folder, or its settings are damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise WriterError(
            f"{folder} is not a writer folder: it has no {SETTINGS}; train one with: leadwise train-writer RUN COHORT -o FOLDER"
        )
    try:
        return config_of(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise WriterError(f"{path}: {error}; copy the writer folder again") from None


def open_without_weights(folder: Path) -> TrainedWriter:
    """Return the writer of a folder with fresh weights.

    Raises:
        WriterError: no writer folder, or a missing or damaged file.
    """
    config = read_config(folder)
    path = folder / PROVENANCE
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
        n_features, n_token_ids = int(provenance["n_features"]), int(provenance.get("n_token_ids", 0))
        provenance["run"]["name"], provenance["run"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise WriterError(f"{path} is missing or damaged; copy the writer folder again") from None
    model = _saved_model(config, folder / "tokenizer", n_features, n_token_ids)
    return TrainedWriter(folder, config, model, provenance)


def load(folder: Path | str, device: str = "auto") -> TrainedWriter:
    """Return a trained writer; settings, tokenizer and weights are compared with their digests.

    Raises:
        WriterError: no writer folder, or a missing, changed or damaged file.
    """
    folder = Path(folder)
    writer = open_without_weights(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise WriterError(
            f"{folder} has no {WEIGHTS}: its training has saved no weights yet (continue it with --resume), or the copy is "
            "incomplete"
        )
    try:
        tensors = load_file(path)
        writer.model.load_own_state(tensors)
    except (SafetensorError, ValueError, OSError):
        raise WriterError(f"{path} is damaged, or of another writer; copy the writer folder again") from None
    recorded, weights = digests.read_header(path)
    if recorded != _recorded(folder, writer.config) or weights != digests.of_tensors(tensors):
        raise WriterError(
            f"{folder}: {SETTINGS}, tokenizer or {WEIGHTS} is not as it was when the weights were saved; copy the writer "
            "folder again"
        )
    writer.model.to(choose_device(device)).eval()
    return writer
