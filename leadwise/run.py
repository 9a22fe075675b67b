"""A run: one folder with everything that another machine needs to load a trained method. Create, save, resume and load it.

config.toml          every setting, including the preprocessing (`signal`)
data.json            the training cohort: name, source, fingerprint, and a hash of each training patient
tokenizer/           the tokenizer of reports, and the shape of a borrowed text encoder
model.safetensors    the weights
metrics.jsonl        one line of metrics every few steps
resume/state.pt      model, optimiser, step and best loss; random numbers depend on the step, so a resumed run is bit-identical
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from leadwise import config as settings
from leadwise import distributed
from leadwise.config import Config
from leadwise.files import replacing
from leadwise.methods import catalogue
from leadwise.methods.contract import PretrainingMethod

RESUME_KEYS = {"step", "best", "model", "optimizer"}  # of a resume state


class RunError(RuntimeError):
    """A run folder that cannot be used; the message names the file, the problem and the remedy."""


class Run:
    """A method with its settings and its folder; `folder` is None for a run that is not on disk."""

    def __init__(self, config: Config, method: PretrainingMethod, folder: Path | None = None) -> None:
        self.config, self.method, self.folder = config, method, folder

    @property
    def name(self) -> str:
        """The run's name in tables: that of its folder, or of its method."""
        return self.folder.name if self.folder else str(self.config.method["name"])

    @property
    def fingerprint(self) -> str:
        """A hash of weights, preprocessing and the method's settings: equal for equal embeddings.

        Removed settings count with the value that they have now, so that the hash of a run of an earlier version, and with
        it the name of its embedding cache, stays the same.
        """
        c = self.config
        table = catalogue.removed_settings(c) | c.method
        digest = hashlib.sha256(repr((c.signal, sorted(table.items()), c.optim.precision)).encode())
        for name, tensor in self.method.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def provenance(self) -> dict[str, Any]:
        """The contents of data.json, which describe the training data; empty for a run without a folder.

        Raises:
            RunError: data.json is damaged.
        """
        path = self.folder / "data.json" if self.folder else None
        if not path or not path.is_file():
            return {}
        try:
            provenance = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(path, str(error)) from None
        if not isinstance(provenance, dict):
            raise _damaged(path, "no JSON object")
        return provenance

    def trained_on(self, source: str, patients: Iterable[str]) -> list[str]:
        """Return those of the `patients` of a data set that were used to train the run."""
        training_patients = set(self.provenance.get("people", ()))
        return [patient for patient in patients if patient_hash(source, patient) in training_patients]

    def untrained(self, seed: int = 0) -> Run:
        """Return a run with the same settings and tokenizer and fresh weights from `seed`, also of a borrowed text encoder.

        With the run's own seed these are the weights that this run started from.
        """
        with isolated_random_state():
            torch.manual_seed(seed)
            saved_folder = self.folder / "tokenizer" if self.folder else None
            method = catalogue.build(self.config, self.method.tokenizer, saved_folder)
        method.to(next(self.method.parameters()).device).eval()
        return Run(self.config, method)

    def save_weights(self) -> None:
        """Write model.safetensors; an interrupted write leaves the previous file."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.method.state_dict().items()}
        with replacing(self._existing_folder / "model.safetensors") as temporary:
            save_file(tensors, temporary)

    def save_resume(self, state: dict[str, Any]) -> None:
        """Write resume/state.pt; an interrupted write leaves the previous file."""
        (self._existing_folder / "resume").mkdir(exist_ok=True)
        with replacing(self._existing_folder / "resume" / "state.pt") as temporary:
            torch.save(state, temporary)

    def load_resume(self) -> dict[str, Any]:
        """Return the state that `save_resume` wrote.

        Raises:
            RunError: the file is missing, or another version wrote it.
        """
        path = self._existing_folder / "resume" / "state.pt"
        if not path.exists():
            raise RunError(f"{path} is missing, so this run cannot be resumed; start it again in another folder")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        missing = RESUME_KEYS - state.keys()
        if missing:
            raise RunError(
                f"{path} lacks {', '.join(sorted(missing))}: another version of leadwise wrote it; resume with that version"
            )
        return state

    def log(self, row: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        rounded = {key: round(v, 6) if isinstance(v, float) and abs(v) > 1e-3 else v for key, v in row.items()}
        with (self._existing_folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(rounded) + "\n")

    def truncate_log(self, step: int) -> None:
        """Remove the lines of metrics.jsonl after `step`, so that a resumed run logs each step once."""
        path = self._existing_folder / "metrics.jsonl"
        if not path.exists():
            return
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines))

    @property
    def _existing_folder(self) -> Path:
        if self.folder is None:
            raise RunError("this run has no folder; create it with one")
        return self.folder


def _damaged(path: Path, problem: str) -> RunError:
    return RunError(
        f"{path} is damaged ({problem}); copy the run folder again: this file lists the patients used for training"
    )


def _step_of(line: str) -> float:
    """Return the step of a line of metrics.jsonl; infinity for a line that a crash cut off."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf


def patient_hash(source: str, patient: str) -> str:
    """Return a short hash of a patient of a data set, so that a run can list its training patients without naming them."""
    return hashlib.sha256(f"{source}/{patient}".encode()).hexdigest()[:12]


def create(
    config: Config, texts: Iterable[str], folder: Path | None = None, provenance: dict[str, Any] | None = None
) -> Run:
    """Return a new run with fresh weights. With a folder, write its config, tokenizer and provenance there.

    Args:
        config: the settings; those of the method that are not given take their defaults.
        texts: the training reports, from which the tokenizer is made.
        folder: the run's folder; None for a run in memory.
        provenance: the contents of data.json.

    Raises:
        RunError: the folder is not empty.
        ConfigError: settings that the method cannot use.
    """
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; choose another folder, or continue that run with --resume")

    # the method, with weights from the run's seed
    config = catalogue.with_defaults(config)
    file, method_config = catalogue.method_settings(config)
    tokenizer = file.method_class.make_tokenizer(method_config, texts)
    torch.manual_seed(config.optim.seed)
    run = Run(config, catalogue.build(config, tokenizer), folder)

    # the folder; config.toml comes last, because it makes the folder a run folder
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder / "tokenizer")
        run.method.save_extra(folder / "tokenizer")
        with replacing(folder / "data.json") as temporary:
            temporary.write_text(json.dumps(provenance or {}, indent=1) + "\n")
        with replacing(folder / "config.toml") as temporary:
            temporary.write_text(settings.dumps(config))
    return run


def open_without_weights(folder: Path) -> Run:
    """Return the run of a folder with its settings and tokenizer, and with fresh weights.

    Raises:
        RunError: no run folder, a damaged config, settings of another version, or a missing tokenizer.
    """
    path = folder / "config.toml"
    if not path.is_file():
        raise RunError(f"{folder} is not a run folder: it has no config.toml; `leadwise pretrain` writes one")
    try:
        config = settings.typed(Config, tomllib.loads(path.read_text()))
        file, _ = catalogue.method_settings(config)
    except (tomllib.TOMLDecodeError, settings.ConfigError) as error:
        raise RunError(f"{path}: {error}") from None
    config = dataclasses.replace(config, method=settings.drop_removed(config.method, file.removed))
    saved_folder = folder / "tokenizer"
    if file.method_class.reads_reports and not (saved_folder / "tokenizer.json").is_file():
        raise RunError(f"{saved_folder} has no tokenizer.json; copy the whole run folder again")
    tokenizer = file.method_class.load_tokenizer(saved_folder)
    return Run(config, catalogue.build(config, tokenizer, saved_folder), folder)


def isolated_random_state() -> AbstractContextManager[None]:
    """Return a context that restores the random states of all devices when it ends."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; "auto" is the first GPU, or the CPU if there is none.

    Under `torchrun` each process has its own GPU.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise settings.ConfigError(
            f"setting optim.device = {name!r} is not a device ({error}); use 'auto', 'cpu' or 'cuda'"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise settings.ConfigError(f"setting optim.device = {name!r}, but torch finds no GPU; use 'auto' or 'cpu'")
    if device.type != "cuda" or distributed.n_launched() == 1:
        return device

    # several processes on this machine: one GPU each, by the process's local rank
    n_gpus, number = torch.cuda.device_count(), distributed.local_rank()
    if device.index is not None:
        raise settings.ConfigError(f"setting optim.device = {name!r}, but each process uses its own GPU; use 'cuda'")
    if number >= n_gpus:
        raise settings.ConfigError(
            f"process {number} of this machine has no GPU of its own, there are {n_gpus}; start {n_gpus} processes here"
        )
    return torch.device("cuda", number)


def load(folder: Path | str, device: str = "auto") -> Run:
    """Return a trained run in eval mode on `device` ("auto": the first GPU, or the CPU).

    Raises:
        RunError: no run folder, a missing or damaged file, or weights that do not fit the config.
    """
    # the method as the config describes it
    folder = Path(folder)
    run = open_without_weights(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise RunError(
            f"{folder} has no model.safetensors: the run has saved no weights yet, or the copy is incomplete"
        )
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path} cannot be read as safetensors ({error}); copy it again") from None

    # every weight must fit: a method that is half random would go unnoticed
    expected = run.method.state_dict()
    mismatches = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "of another shape": sorted(
            k for k in expected.keys() & weights.keys() if expected[k].shape != weights[k].shape
        ),
    }
    problems = [f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in mismatches.items() if keys]
    if problems:
        raise RunError(
            f"{path} does not fit {folder / 'config.toml'}: weights {'; '.join(problems)}. Nothing was loaded; copy the "
            "whole run folder again"
        )
    run.method.load_state_dict(weights)
    run.method.to(choose_device(device)).eval()
    return run
