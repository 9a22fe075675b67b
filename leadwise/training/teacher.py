"""The teacher of a distilled run: the run that `data.teacher` names, and its embeddings of the student's recordings.

The embeddings are computed once, before the first step, and stored in the run folder (`teacher.npz`): a pass of the teacher
over all recordings costs about one epoch of the student, and a run has dozens of epochs. A resumed run reads the file, and
opens the teacher only if the file is missing. The file is not part of a shared run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leadwise import hub
from leadwise import run as runs
from leadwise.config import Config, ConfigError
from leadwise.data.loader import Recordings
from leadwise.evaluate.embed import embed, training_overlap
from leadwise.evaluate.embed_ecgs import width_of
from leadwise.files import DamagedNpzError, read_npz, replacing
from leadwise.methods.catalogue import learns_from_teacher, method_settings
from leadwise.progress import Progress, partial_progress
from leadwise.run import TEACHER_FILE, Run
from leadwise.training.inputs import TrainingData


def open_teacher(config: Config, accept_changes: bool = False) -> Run | None:
    """Return the run that `data.teacher` names; None for a method without a teacher.

    Args:
        accept_changes: log a warning, and raise no error, for files of the teacher that were changed after it was saved.

    Raises:
        ConfigError: the setting is empty, or names a run that the method cannot learn from, or the method has no teacher.
        HubError: there is no such run.
        RunError: its folder is damaged.
    """
    method, where = str(config.method["name"]), config.data.teacher
    if not learns_from_teacher(method):
        if where:
            raise ConfigError(
                f"data.teacher = '{where}', but method '{method}' has no teacher; leave the setting empty"
            )
        return None
    if not where:
        raise ConfigError(
            f"method '{method}' is trained to the embeddings of another run: set data.teacher to a run folder, such as "
            "runs/ptbxl"
        )
    teacher = runs.load(hub.find(where), config.optim.device, accept_changes)
    problem = _mismatch(config, teacher)
    if problem:
        raise ConfigError(f"data.teacher = '{where}': {problem}")
    return teacher


def _mismatch(config: Config, teacher: Run) -> str:
    """Return why a config cannot have this teacher, with the remedy; '' if it can."""
    own, given = config.signal, teacher.config.signal
    for name in ("rate_hz", "duration_s", "leads"):
        a, b = getattr(own, name), getattr(given, name)
        if a != b:
            text = f"[{', '.join(b)}]" if isinstance(b, tuple) else f"{b:g}"
            return f"it has signal.{name} = {text}, and this config another value; set signal.{name} to it"
    if not teacher.method.embeds_text:
        return f"its method '{teacher.config.method['name']}' has no text encoder; choose a run that has one"
    return ""


def with_teacher(config: Config, teacher: Run | None, saved: Config | None = None) -> Config:
    """Return the config with the settings that follow from the teacher, or from the saved config of a run that is resumed.

    Raises:
        ConfigError: the config has other values, or the teacher cannot be used.
    """
    method = str(config.method["name"])
    if not learns_from_teacher(method):
        return config
    file, _ = method_settings(config)
    if teacher is not None:
        try:
            widths = {part: width_of(teacher, part) for part in file.method_class.teacher_parts}
            follows = file.method_class.teacher_settings(teacher.method, widths)
        except ValueError as error:
            raise ConfigError(f"data.teacher = '{config.data.teacher}': {error}") from None
    else:
        assert saved is not None
        follows = {name: value for name, value in saved.method.items() if name not in config.method}
    for name, value in follows.items():
        given = config.method.get(name, value)
        if given != value:
            raise ConfigError(f"method.{name} = {given!r}, but the teacher has {value!r}; leave the setting out")
    return dataclasses.replace(config, method={**config.method, **follows})


def with_targets(
    data: TrainingData, run: Run, teacher: Run | None, progress: Progress | None = None, write: bool = True
) -> TrainingData:
    """Return the data with the teacher's embeddings as targets, from the run folder or computed and stored there.

    Args:
        teacher: None for a resumed run; it is opened if the file is missing or does not fit the recordings.
        write: store the embeddings.
    """
    if not run.method.learns_from_teacher:
        return data
    path = None if run.folder is None else run.folder / TEACHER_FILE
    parts = {"train": data.train, "held_out": data.held_out}
    stored = None if path is None else _read(path, data, None if teacher is None else teacher.fingerprint)
    if stored is None:
        teacher = teacher or open_teacher(run.config)
        assert teacher is not None
        training_overlap(teacher, data.held_out.cohort, data.held_out.rows, run.config.data.val_split)
        stored, done, n = {}, 0, sum(map(len, parts.values()))
        for name, recordings in parts.items():
            step = partial_progress(progress, done, len(recordings), n)
            stored[name] = embed_teacher(run, teacher, recordings, step)
            done += len(recordings)
        if path is not None and write:
            _write(path, data, teacher.fingerprint, stored)
    train, held_out = data.train.with_targets(stored["train"]), data.held_out.with_targets(stored["held_out"])
    return dataclasses.replace(data, train=train, held_out=held_out)


def embed_teacher(run: Run, teacher: Run, recordings: Recordings, progress: Progress | None = None) -> np.ndarray:
    """Return the teacher's embeddings (n, D) of recordings, the method's `teacher_parts` side by side."""
    part = "+".join(run.method.teacher_parts)
    if not len(recordings):
        return np.zeros((0, sum(width_of(teacher, name) for name in run.method.teacher_parts)), dtype=np.float32)
    return embed(teacher, recordings, part, progress=progress)


def give_teacher(run: Run, teacher: Run, data: TrainingData) -> None:
    """Copy from the teacher what a new run keeps of it. `data` has the targets."""
    targets = data.train.targets
    assert targets is not None
    run.method.take_teacher(teacher.method.to("cpu"), torch.from_numpy(targets))


def _read(path: Path, data: TrainingData, teacher: str | None) -> dict[str, np.ndarray] | None:
    """Return the stored embeddings, or None if they are not those of this data and teacher (None: of any)."""
    try:
        table = read_npz(path)
    except (FileNotFoundError, DamagedNpzError):
        return None
    try:
        fits = all(str(table[name]) == value for name, value in _identity(data, teacher).items()) and all(
            np.array_equal(table[f"{name}_rows"], part.rows) and np.isfinite(table[name]).all()
            for name, part in (("train", data.train), ("held_out", data.held_out))
        )
    except (KeyError, TypeError):
        return None
    return {name: table[name] for name in ("train", "held_out")} if fits else None


def _write(path: Path, data: TrainingData, teacher: str, stored: dict[str, np.ndarray]) -> None:
    """Write the embeddings with the rows and the fingerprints that they belong to."""
    table: dict[str, Any] = {
        **_identity(data, teacher), **stored, "train_rows": data.train.rows, "held_out_rows": data.held_out.rows
    }  # fmt: skip
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **table)


def _identity(data: TrainingData, teacher: str | None) -> dict[str, str]:
    identity = {"cohort": data.train.cohort.fingerprint}
    return identity if teacher is None else {**identity, "teacher": teacher}
