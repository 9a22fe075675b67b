"""A run: one folder with everything that another machine needs to load a trained method. Create, save, resume and load it.

config.toml          every setting, including the preprocessing (`signal`)
data.json            the training cohort: name, source, fingerprint, and the numbers of patients and signals
trained_on.json      hashes of the training patients and signals; it stays with the owner of the data (`leadwise.trained_on`)
tokenizer/           the tokenizer of reports, and the shape of a borrowed text encoder; of a run that another run is part of,
                     also settings and tokenizer of that run (init/)
model.safetensors    the weights, and in its header the digests of weights, settings and tokenizer (`leadwise.digests`)
calibration.json     probabilities of zero-shot scores, if `leadwise calibrate` has fitted them (`leadwise.evaluate.calibrate`)
calibrated_on.json   hashes of the patients and signals of that fit; it stays with the owner of the data
metrics.jsonl        one line of metrics every few steps
teacher.npz          of a distilled run: the teacher's embeddings of its recordings, while it is trained (`training.teacher`)
resume/state.pt      model, optimiser, step and best loss; random numbers depend on the step, so a resumed run is bit-identical
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from leadwise import config as settings
from leadwise import digests, distributed, trained_on, weights
from leadwise.config import Config
from leadwise.data.stored_embeddings import StoredEmbeddings
from leadwise.data.wordings import all_texts
from leadwise.files import first_line, make_folder, naming_full_disk, replacing, sync, sync_tree
from leadwise.methods import catalogue
from leadwise.methods.contract import PretrainingMethod
from leadwise.trained_on import ScoredRecordings, TrainedOn, TrainedOnError, TrainingOverlap

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

CALIBRATION = "calibration.json"
HALF = "float16"
_MOST_HALF = torch.finfo(torch.float16).max

RESUME_KEYS = {"step", "best", "model", "optimizer"}  # of a resume state

TEACHER_FILE = "teacher.npz"

# what a run that never saved a resume state may contain; any other file means that the folder is not such a run
UNSAVED_FILES = {
    "config.toml",
    "data.json",
    trained_on.FILE,
    TEACHER_FILE,
    "tokenizer",
    "metrics.jsonl",
    "model.safetensors",
    "resume",
}

_MOST_NAMED = 8  # settings in a message


class RunError(RuntimeError):
    """A run folder that cannot be used; the message names the file, the problem and the remedy."""


class Run:
    """A method with its settings and its folder; `folder` is None for a run that is not on disk.

    An encoder that leadwise did not train is a subclass (`leadwise.foreign`), and the evaluation treats both alike.
    """

    origin: str = ""
    """What an encoder that leadwise did not train is, such as "ONNX file mine.onnx"; "" for a run."""

    stored: StoredEmbeddings | None = None
    """The embeddings, if they have been computed elsewhere and there is no encoder; None: the method computes them."""

    has_untrained: bool = True
    """Whether `untrained` is possible: the control of every score."""

    def __init__(
        self,
        config: Config,
        method: PretrainingMethod,
        folder: Path | None = None,
        recorded: digests.Recorded | None = None,
    ) -> None:
        """`recorded` holds the digests of the folder's settings and tokenizer; `save_weights` stores them with the weights."""
        self.config, self.method, self.folder, self._recorded = config, method, folder, recorded

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
    def weights_digest(self) -> str:
        """A hash of the weights alone, which does not depend on the settings that a version of leadwise knows."""
        return digests.of_tensors(self.method.state_dict())[:16]

    @property
    def is_shipped(self) -> bool:
        """Whether the run's folder is part of the package, which is never written to."""
        return self.folder is not None and weights.user_cache(self.folder) is not None

    @property
    def cache_folder(self) -> Path | None:
        """The folder of cached embeddings: in the run folder, or in the user's cache for weights that ship with the package.

        None for a run without a folder.
        """
        if self.folder is None:
            return None
        return weights.user_cache(self.folder) or self.folder / "embeddings"

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

    @property
    def training_hashes(self) -> TrainedOn | None:
        """The hashes of training patients and signals; None for a run without the list, such as a downloaded one.

        Runs of earlier versions have the patients in data.json.

        Raises:
            RunError: the file with the list is damaged.
        """
        path = self.folder / trained_on.FILE if self.folder else None
        try:
            if path and path.is_file():
                return TrainedOn.read(path)
            provenance = self.provenance
            return TrainedOn.from_json(provenance) if "people" in provenance else None
        except TrainedOnError as error:
            assert self.folder is not None
            raise _damaged(path if path and path.is_file() else self.folder / "data.json", str(error)) from None

    @property
    def pretraining_data(self) -> str:
        """The data sets that the encoder was trained on, such as "ptbxl, csn"; "none", or "unknown"."""
        return str(self.provenance.get("source", "unknown"))

    def may_contain(self, source: str) -> bool:
        """Return whether recordings of a data set may have been in the training: it is known, or nothing is."""
        return bool(self.provenance.get("source", source) == source)

    def check_trainable(self) -> None:
        """Raise RunError if the encoder cannot be trained further, with the reason; every run can."""

    def trained_on(self, source: str, patients: Iterable[str]) -> list[str]:
        """Return those of the `patients` of a data set that were used to train the run."""
        hashes = self.training_hashes
        return [] if hashes is None else hashes.patients(source, patients)

    def overlap(self, scored: ScoredRecordings) -> TrainingOverlap:
        """Return how much of the recordings that the run is scored on was used to train it."""
        return trained_on.compare(self.training_hashes, self.provenance, scored)

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
        """Write model.safetensors; an interrupted write leaves the previous file.

        Its header contains the digests of the weights, and of the settings and the tokenizer with which the run was
        created or opened. They are in one file, so that a crash cannot leave weights with the digests of others.
        """
        self.write_weights(self._existing_folder / "model.safetensors")

    def write_weights(self, path: Path, dtype: str | None = None) -> None:
        """Write the weights with their digests to a file; an interrupted write leaves the previous file.

        Args:
            dtype: "float16" halves the file: weights in floating point are rounded to 16 bits. `load` gives float32 again.
                A tensor with a value beyond the range of float16 keeps its type. None: the types of the method.

        Raises:
            RunError: another dtype.
        """
        if dtype not in (None, HALF):
            raise RunError(
                f"weights cannot be stored as {dtype!r}; choose {HALF!r}, or None for the types of the method"
            )
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.method.state_dict().items()}
        if dtype == HALF:
            tensors = {name: _half(tensor) for name, tensor in tensors.items()}
        recorded = self._recorded or _folder_digests(self._existing_folder, catalogue.removed_settings(self.config))
        header = digests.to_header(recorded, digests.of_tensors(tensors))
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=header)

    def save_changeable_settings(self, changeable: Iterable[str]) -> None:
        """Write the current values of the dotted settings `changeable` to config.toml, if they differ from those there."""
        path = self._existing_folder / "config.toml"
        table, current = tomllib.loads(path.read_text()), dataclasses.asdict(self.config)
        changed = False
        for setting in changeable:
            group, _, key = setting.partition(".")
            if table.get(group, {}).get(key) != current[group][key]:
                table.setdefault(group, {})[key] = current[group][key]
                changed = True
        if changed:
            with replacing(path) as temporary:
                temporary.write_text(tomli_w.dumps(table))

    def save_resume(self, state: dict[str, Any]) -> None:
        """Write resume/state.pt; an interrupted write leaves the previous file."""
        save_state(self._existing_folder, state)

    def load_resume(self) -> dict[str, Any]:
        """Return the state that `save_resume` wrote.

        Raises:
            RunError: the file is missing or damaged, or another version wrote it.
        """
        return load_state(self._existing_folder)

    def log(self, row: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        append_metrics(self._existing_folder, row)

    def truncate_log(self, step: int) -> None:
        """Remove the lines of metrics.jsonl after `step`, so that a resumed run logs each step once."""
        truncate_metrics(self._existing_folder, step)

    @property
    def _existing_folder(self) -> Path:
        if self.folder is None:
            raise RunError("this run has no folder; create it with one")
        return self.folder


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write resume/state.pt of a folder; an interrupted write leaves the previous file."""
    log_file = folder / "metrics.jsonl"
    if log_file.exists():
        sync(log_file)  # a resumed run has the lines of all steps before its state
    with replacing(folder / "resume" / "state.pt") as temporary:
        torch.save(state, temporary)


def load_state(folder: Path) -> dict[str, Any]:
    """Return the state that `save_state` wrote.

    Raises:
        RunError: the file is missing or damaged, or another version wrote it.
    """
    path = folder / "resume" / "state.pt"
    if not path.exists():
        raise _no_resume_state(folder)
    try:
        damage = _damaged_member(path)
        state: dict[str, Any] = {} if damage else torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch, zipfile and pickle raise a dozen types for a damaged file
        damage = first_line(error)
    if damage:
        raise RunError(
            f"{path} is damaged ({damage}), so this run cannot be continued; copy the file again, or train in another "
            "folder (-o). The weights in model.safetensors are not affected"
        )
    missing = RESUME_KEYS - state.keys()
    if missing:
        raise RunError(
            f"{path} lacks {', '.join(sorted(missing))}: another version of leadwise wrote it; resume with that version"
        )
    return state


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Append a line to metrics.jsonl of a folder."""
    rounded = {key: round(v, 6) if isinstance(v, float) and abs(v) > 1e-3 else v for key, v in row.items()}
    path = folder / "metrics.jsonl"
    with naming_full_disk(path), path.open("a") as file:
        file.write(json.dumps(rounded) + "\n")


def truncate_metrics(folder: Path, step: int) -> None:
    """Remove the lines of metrics.jsonl after `step`."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    lines = [line for line in path.read_text(errors="replace").splitlines() if _step_of(line) <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in lines))


def _half(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float16 if it is of floating point and all its values are in that range, else unchanged."""
    fits = tensor.is_floating_point() and bool((tensor.abs() <= _MOST_HALF).all())
    return tensor.to(torch.float16) if fits else tensor


def _damaged(path: Path, problem: str) -> RunError:
    return RunError(
        f"{path} is damaged ({problem}); copy the run folder again: this file lists the patients used for training"
    )


def _step_of(line: str) -> float:
    """Return the step of a line of metrics.jsonl; infinity for a line that a crash cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _damaged_member(path: Path) -> str:
    """Return which part of a resume state does not have its checksum, or '' if all have; torch does not check them."""
    with zipfile.ZipFile(path) as archive:
        member = archive.testzip()
    return f"wrong checksum of {member}" if member else ""


def _no_resume_state(folder: Path) -> RunError:
    return RunError(
        f"{folder / 'resume' / 'state.pt'} is missing, so this run cannot be resumed; start it again in another folder"
    )


def has_resume_state(folder: Path) -> bool:
    """Return whether a run of `folder` can be continued from a saved state."""
    return (folder / "resume" / "state.pt").is_file()


def is_unsaved(folder: Path) -> bool:
    """Return whether `folder` holds a run that ended before it saved a resume state, and nothing else.

    Started again with the same settings, such a run repeats the same steps, so nothing is lost. A folder with weights counts
    only if its log ends before the first resume state was due: otherwise the state was deleted, or not copied.
    """
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not _is_temporary(path)}
    resume = folder / "resume"
    saved_state = [path for path in resume.iterdir() if not _is_temporary(path)] if resume.is_dir() else []
    if not names or names - UNSAVED_FILES or saved_state:
        return False
    if not {"model.safetensors", "metrics.jsonl"} & names:
        return True

    # steps were trained: none of them may be one after which a resume state was written
    try:
        saved_every = _read_config(folder).log.save_every
        lines = (folder / "metrics.jsonl").read_text(errors="replace").splitlines()
    except (RunError, OSError):
        return False
    steps = [step for step in map(_step_of, lines) if math.isfinite(step)]
    return max(steps, default=0) <= saved_every


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process until the context ends; the end of the process releases it as well.

    The lock is on the folder itself, so no file remains. Where folders cannot be locked (Windows, some network file systems),
    nothing is checked.

    Raises:
        RunError: another process has the lock.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process trains the run in {folder}; wait until it ends, or choose another folder (-o)"
            ) from None
        except OSError:
            log.debug("%s cannot be locked", folder)
        yield
    finally:
        os.close(descriptor)


def _is_temporary(path: Path) -> bool:
    """Return whether an interrupted `replacing` left this file."""
    return path.name.startswith(".") and path.name.endswith(".part")


def create(
    config: Config,
    texts: Iterable[str],
    folder: Path | None = None,
    provenance: dict[str, Any] | None = None,
    restart: bool = False,
    hashes: TrainedOn | None = None,
    teacher: Run | None = None,
    start: Mapping[str, Run] | None = None,
) -> Run:
    """Return a new run with fresh weights. With a folder, write its config, tokenizer and provenance there.

    Args:
        config: the settings; those of the method that are not given take their defaults.
        texts: the training reports, from which the tokenizer is made; with the method's `rewording`, from their other
            wordings as well.
        folder: the run's folder; None for a run in memory.
        provenance: the contents of data.json.
        hashes: the contents of trained_on.json; None: no such file.
        restart: the folder may hold a run that never saved a resume state (`is_unsaved`), which is replaced.
        teacher: the run whose tokenizer a distilled run takes.
        start: the runs whose methods become part of this one, by setting of [data]; their settings and tokenizers are copied
            to tokenizer/, so that the run can be loaded without them.

    Raises:
        RunError: the folder is not empty.
        ConfigError: settings that the method cannot use.
    """
    if folder is not None and folder.exists() and any(folder.iterdir()) and not (restart and is_unsaved(folder)):
        raise RunError(f"{folder} is not empty; choose another folder, or continue that run with --resume")

    # the method, with weights from the run's seed
    config = catalogue.with_defaults(config)
    file, method_config = catalogue.method_settings(config)
    if catalogue.uses_wordings(config):
        texts = list(texts)
        texts = [*texts, *all_texts(texts)]
    saved_folder = None
    if teacher is None:
        tokenizer = file.method_class.make_tokenizer(method_config, texts)
    else:
        tokenizer = teacher.method.tokenizer
        saved_folder = None if teacher.folder is None else teacher.folder / "tokenizer"
    torch.manual_seed(config.optim.seed)
    start = start or {}
    methods = {name: one.method for name, one in start.items()}
    run = Run(config, catalogue.build(config, tokenizer, saved_folder, methods), folder)

    # the folder; config.toml comes last, because it makes the folder a run folder
    if folder is not None:
        make_folder(folder)
        for leftover in [*folder.glob(".*.part"), *folder.glob("resume/.*.part")]:
            leftover.unlink()
        with naming_full_disk(saved := folder / "tokenizer"):
            if tokenizer is not None:
                tokenizer.save_pretrained(saved)
            run.method.save_extra(saved)
            for name, one in start.items():
                _save_start(one, saved / name)
            if saved.is_dir():
                sync_tree(saved)
        with replacing(folder / "data.json") as temporary:
            temporary.write_text(json.dumps(provenance or {}, indent=1) + "\n")
        if hashes is not None:
            hashes.write(folder / trained_on.FILE)
        with replacing(folder / "config.toml") as temporary:
            temporary.write_text(settings.dumps(config))
        run._recorded = _folder_digests(folder, file.removed)
    return run


def _save_start(run: Run, folder: Path) -> None:
    """Write what builds the method of a run again, besides its weights: signal and settings of the method, and tokenizer/."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that is started again
    folder.mkdir(parents=True)
    if run.folder is not None and (run.folder / "tokenizer").is_dir():
        shutil.copytree(run.folder / "tokenizer", folder / "tokenizer")
    config = Config(signal=run.config.signal, method=run.config.method)
    with replacing(folder / "config.toml") as temporary:
        temporary.write_text(settings.dumps(config), encoding="utf-8")


def _read_config(folder: Path) -> Config:
    """Return the settings in a folder's config.toml, without those of the method that this version removed.

    Raises:
        RunError: no run folder, a damaged config, or settings of another version.
    """
    path = folder / "config.toml"
    if not path.is_file():
        raise RunError(f"{folder} is not a run folder: it has no config.toml; `leadwise pretrain` writes one")
    try:
        config = settings.typed(Config, _read_table(path))
        file, _ = catalogue.method_settings(config)
        return dataclasses.replace(config, method=settings.drop_removed(config.method, file.removed))
    except settings.ConfigError as error:
        raise RunError(f"{path}: {error}") from None


def _read_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); copy the run folder again") from None


def _folder_digests(folder: Path, removed: Iterable[str]) -> digests.Recorded:
    """Return the digests of a run folder's settings and tokenizer."""
    table = _read_table(folder / "config.toml")
    table["method"] = {key: value for key, value in table.get("method", {}).items() if key not in set(removed)}
    return digests.Recorded(digests.of_settings(table), digests.of_folder(folder / "tokenizer"))


def open_without_weights(folder: Path, accept_changes: bool = False) -> Run:
    """Return the run of a folder with its settings and tokenizer, and with fresh weights.

    Args:
        folder: the run's folder.
        accept_changes: log a warning, and raise no error, if settings or tokenizer are not those of the saved weights.

    Raises:
        RunError: no run folder, a damaged config, settings of another version, a missing or damaged tokenizer, or files
            that were changed after the weights were saved.
    """
    # the settings, compared with those that the weights were saved with
    config = _read_config(folder)
    file, _ = catalogue.method_settings(config)
    now = _folder_digests(folder, file.removed)
    recorded, _ = digests.read_header(folder / "model.safetensors")
    if recorded is not None:
        changed = digests.changed_settings(recorded.settings, now.settings)
        if changed:
            more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
            problem = f"{', '.join(changed[:_MOST_NAMED])}{more} changed"
            _refuse_changes(folder / "config.toml", problem, accept_changes)
        if recorded.tokenizer != now.tokenizer:
            _refuse_changes(folder / "tokenizer", "its files changed", accept_changes)

    # the tokenizer and the method
    saved_folder = folder / "tokenizer"
    if file.method_class.reads_reports and not (saved_folder / "tokenizer.json").is_file():
        raise RunError(f"{saved_folder} has no tokenizer.json; copy the whole run folder again")
    try:
        tokenizer = file.method_class.load_tokenizer(saved_folder)
    except Exception as error:  # tokenizers raises plain Exception for a damaged file
        raise RunError(f"{saved_folder} is damaged ({first_line(error)}); copy the whole run folder again") from None
    return Run(config, catalogue.build(config, tokenizer, saved_folder), folder, now)


def _refuse_changes(path: Path, problem: str, accept_changes: bool) -> None:
    """Raise RunError for a file that is not the one that the weights were saved with; only warn with `accept_changes`."""
    if accept_changes:
        log.warning("%s is not as it was when the weights were saved: %s", path, problem)
        return
    raise RunError(
        f"{path} is not as it was when the weights were saved: {problem}. Restore it or copy the run folder again; to use the "
        "run as it is: --accept-changes, accept_changes=True"
    )


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


def load(folder: Path | str, device: str = "auto", accept_changes: bool = False) -> Run:
    """Return a trained run in eval mode on `device` ("auto": the first GPU, or the CPU).

    Settings, tokenizer and weights are compared with the digests that were stored when the weights were saved. Runs of
    leadwise 0.1.0 have no digests and are not compared.

    Args:
        folder: the run's folder.
        device: "auto", or a device of torch.
        accept_changes: log a warning, and raise no error, for files that were changed after the weights were saved.

    Raises:
        RunError: no run folder, a missing, changed or damaged file, or weights that do not fit the config.
    """
    # the method as the config describes it
    folder = Path(folder)
    run = open_without_weights(folder, accept_changes)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise RunError(
            f"{folder} has no model.safetensors: the run has saved no weights yet, or the copy is incomplete"
        )
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path} cannot be read as safetensors ({error}); copy it again") from None

    # every weight must fit: a method that is half random would go unnoticed
    expected = run.method.state_dict()
    mismatches = {
        "missing": sorted(expected.keys() - stored.keys()),
        "unexpected": sorted(stored.keys() - expected.keys()),
        "of another shape": sorted(k for k in expected.keys() & stored.keys() if expected[k].shape != stored[k].shape),
    }
    problems = [f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in mismatches.items() if keys]
    if problems:
        raise RunError(
            f"{path} does not fit {folder / 'config.toml'}: weights {'; '.join(problems)}. Nothing was loaded; copy the "
            "whole run folder again"
        )
    _, weights_digest = digests.read_header(path)
    if weights_digest is not None and weights_digest != digests.of_tensors(stored):
        _refuse_changes(path, "its weights changed", accept_changes)
    run.method.load_state_dict(stored)  # copies into the types of the method: float16 becomes float32
    run.method.to(choose_device(device)).eval()
    return run
