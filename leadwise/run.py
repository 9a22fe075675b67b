"""A run: one folder that another machine can load. Create, save, resume, load.

config.toml          every setting, the preprocessing (`signal`) among them
tokenizer/           what turns reports into tokens, and the shape of a borrowed text encoder
model.safetensors    the weights
metrics.jsonl        one line of numbers every few steps
resume/state.pt      model, optimiser, step and best loss: enough to go on to the bit, since random numbers follow the step
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

RESUME = {"step", "best", "model", "optimizer"}  # what a resume state holds


class RunError(RuntimeError):
    """A run folder that cannot be used; the message names the file, what is wrong and the remedy."""


class Run:
    """A method with its settings, and the folder it lives in (None: nowhere yet)."""

    def __init__(self, config: Config, method: PretrainingMethod, folder: Path | None = None) -> None:
        self.config, self.method, self.folder = config, method, folder

    @property
    def name(self) -> str:
        """What tables call this run."""
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
        """What the run learnt from, as data.json says; empty for a run without a folder.

        Raises:
            RunError: data.json is damaged.
        """
        path = self.folder / "data.json" if self.folder else None
        if not path or not path.is_file():
            return {}
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(
                f"{path} is damaged ({error}); copy it again: whom the run learnt from stands there"
            ) from None
        if not isinstance(told, dict):
            raise RunError(f"{path} is damaged (no JSON object); copy it again: whom the run learnt from stands there")
        return told

    def learnt_from(self, source: str, patients: Iterable[str]) -> list[str]:
        """Which of these people of a data set stood in the run's training part."""
        known = set(self.provenance.get("people", ()))
        return [patient for patient in patients if person_hash(source, patient) in known]

    def untrained(self, seed: int = 0) -> Run:
        """The twin that never learnt: same settings and tokenizer, fresh weights from `seed`, a borrowed BERT's included.

        With the run's own seed it is the very start of this run.
        """
        with side_random():
            torch.manual_seed(seed)
            saved_folder = self.folder / "tokenizer" if self.folder else None
            twin = catalogue.build(self.config, self.method.tokenizer, saved_folder)
        twin.to(next(self.method.parameters()).device).eval()
        return Run(self.config, twin)

    def save_weights(self) -> None:
        """Write model.safetensors, whole or not at all."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.method.state_dict().items()}
        with replacing(self._home / "model.safetensors") as temporary:
            save_file(tensors, temporary)

    def save_resume(self, state: dict[str, Any]) -> None:
        """Write resume/state.pt, whole or not at all."""
        (self._home / "resume").mkdir(exist_ok=True)
        with replacing(self._home / "resume" / "state.pt") as temporary:
            torch.save(state, temporary)

    def load_resume(self) -> dict[str, Any]:
        """What `save_resume` wrote.

        Raises:
            RunError: there is none, or it is another version's.
        """
        path = self._home / "resume" / "state.pt"
        if not path.exists():
            raise RunError(f"{path} is not there, so this run cannot be resumed; start it afresh in another folder")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        lacking = RESUME - state.keys()
        if lacking:
            raise RunError(
                f"{path} lacks {', '.join(sorted(lacking))}: another version of leadwise wrote it; resume with that"
            )
        return state

    def log(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        short = {key: round(v, 6) if isinstance(v, float) and abs(v) > 1e-3 else v for key, v in row.items()}
        with (self._home / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(short) + "\n")

    def forget_after(self, step: int) -> None:
        """Take away the lines of steps that a crash undid, so that a resumed log reads like an uninterrupted one."""
        path = self._home / "metrics.jsonl"
        if not path.exists():
            return
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines))

    @property
    def _home(self) -> Path:
        if self.folder is None:
            raise RunError("this run has no folder; save it first")
        return self.folder


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf  # torn by the crash


def person_hash(source: str, patient: str) -> str:
    """A short hash of a person of a data set, so that a run can say whom it knows without naming anyone."""
    return hashlib.sha256(f"{source}/{patient}".encode()).hexdigest()[:12]


def create(
    config: Config, texts: Iterable[str], folder: Path | None = None, provenance: dict[str, Any] | None = None
) -> Run:
    """A new run with fresh weights; with a folder, its config, tokenizer and provenance are written there.

    Raises:
        RunError: the folder holds something already.
    """
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; choose another folder, or continue that run with --resume")
    config = catalogue.with_defaults(config)
    file, method_config = catalogue.method_settings(config)
    tokenizer = file.method_class.make_tokenizer(method_config, texts)
    torch.manual_seed(config.optim.seed)
    run = Run(config, catalogue.build(config, tokenizer), folder)
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


def reopen(folder: Path) -> Run:
    """The run of a folder with fresh weights: its settings and tokenizer, before any weights are read."""
    path = folder / "config.toml"
    if not path.is_file():
        raise RunError(f"{folder} is not a run folder: it has no config.toml; `leadwise pretrain` makes one")
    try:
        config = settings.typed(Config, tomllib.loads(path.read_text()))
        file, _ = catalogue.method_settings(config)
    except (tomllib.TOMLDecodeError, settings.ConfigError) as error:
        raise RunError(f"{path}: {error}") from None
    config = dataclasses.replace(config, method=settings.drop_removed(config.method, file.removed))
    saved_folder = folder / "tokenizer"
    if file.method_class.reads_reports and not (saved_folder / "tokenizer.json").is_file():
        raise RunError(f"{saved_folder} holds no tokenizer.json; copy the run folder again, whole")
    tokenizer = file.method_class.load_tokenizer(saved_folder)
    return Run(config, catalogue.build(config, tokenizer, saved_folder), folder)


def side_random() -> AbstractContextManager[None]:
    """A block whose random draws, on any device, leave those outside as they were."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is the first GPU, or the CPU where there is none. Under `torchrun`, each its own GPU.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise settings.ConfigError(f"setting optim.device = {name!r} is no device: {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise settings.ConfigError(f"setting optim.device = {name!r}, but torch sees no GPU here; use 'auto' or 'cpu'")
    if device.type != "cuda" or distributed.n_launched() == 1:
        return device
    n_cards, number = torch.cuda.device_count(), distributed.local_rank()
    if device.index is not None:
        raise settings.ConfigError(f"setting optim.device = {name!r}, but each process takes its own GPU; use 'cuda'")
    if number >= n_cards:
        raise settings.ConfigError(
            f"process {number} of this machine finds {n_cards} GPUs; start {n_cards} processes here"
        )
    return torch.device("cuda", number)


def load(folder: Path | str, device: str = "auto") -> Run:
    """A trained run, in eval mode, on `device` ("auto": the first GPU, or the CPU).

    Raises:
        RunError: no run there, a file is missing or torn, or the weights do not fit the config.
    """
    folder = Path(folder)
    run = reopen(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise RunError(f"{folder} has no model.safetensors: the run saved no weights yet, or the copy is not whole")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path} cannot be read as safetensors ({error}); copy it again") from None
    own = run.method.state_dict()
    wrong = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape),
    }
    faults = [f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in wrong.items() if keys]
    if faults:
        raise RunError(f"{path} does not fit {folder / 'config.toml'}: weights {'; '.join(faults)}. Nothing was loaded")
    run.method.load_state_dict(weights)
    run.method.to(choose_device(device)).eval()
    return run
