"""Open what a command is given as RUN: a run, or an encoder of another program.

    runs/mine, ptbxl, org/name        a run: folder, shipped name or hub id
    mine.npz, mine.parquet            embeddings by record (`leadwise.data.stored_embeddings`)
    ecgfounder:folder                 an encoder with public weights (`public_weights`), and their folder
    mine.onnx                         an ONNX file (`onnx_file`)
    my_module:name, my_file.py:name   a Python entry (`python_entry`); its code is run
    mine.toml                         a description: one of these, with what its file cannot state

A description has the settings of `Description`; its paths begin at its own folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leadwise import hub
from leadwise.batch import Signal
from leadwise.config import ConfigError, typed
from leadwise.data.stored_embeddings import SUFFIXES, StoredEmbeddings, read_embeddings
from leadwise.foreign.foreign_run import ForeignError, ForeignRun, PretrainingData
from leadwise.foreign.onnx_file import open_onnx
from leadwise.foreign.public_weights import is_public, open_public
from leadwise.foreign.python_entry import is_entry, open_entry
from leadwise.run import Run
from leadwise.trained_on import TrainedOn

_KINDS = ("embeddings", "onnx", "python")


@dataclass(frozen=True)
class Description:
    """The settings of a description file."""

    name: str = ""  # in tables; default: that of the file or entry
    embeddings: str | dict[str, str] = ""  # file of embeddings; or [embeddings]: by name of the cohort
    onnx: str = ""  # ONNX file
    output: str = ""  # which output of an ONNX file is the embedding
    python: str = ""  # Python entry
    trained_on: list[str] | None = None  # names of data sets, such as "mimic_iv_ecg"; []: none; left out: unknown
    patients: str = ""  # text file, one training patient of the one data set in `trained_on` on each line
    signal: Mapping[str, Any] = field(default_factory=dict)  # [signal]: the settings of `leadwise.batch.Signal`


def open_encoder(word: Path | str, device: str = "auto", accept_changes: bool = False) -> Run:
    """Return the run or the encoder of another program that a word names.

    Args:
        word: see the module's docstring.
        device: "auto" (the first GPU, or the CPU), "cpu" or "cuda"; embeddings and ONNX files use none.
        accept_changes: as for `run.load`.

    Raises:
        HubError, RunError: there is no such run, or it cannot be used.
        ForeignError, StoredEmbeddingsError: the encoder or its file cannot be used.
    """
    text, path = str(word), Path(word)
    if is_public(text):
        return open_public(text, device)
    suffix = path.suffix.lower()
    if path.is_dir():
        return hub.load(word, device, accept_changes)
    if suffix == ".toml":
        return _open_description(path, device)
    if suffix in SUFFIXES:
        return _open(Description(embeddings=str(path)), Path(), device, PretrainingData())
    if suffix == ".onnx":
        return _open(Description(onnx=str(path)), Path(), device, PretrainingData())
    if is_entry(text):
        return _open(Description(python=text), Path(), device, PretrainingData())
    return hub.load(word, device, accept_changes)


def _open_description(path: Path, device: str) -> Run:
    """Return the encoder that a description file names.

    Raises:
        ForeignError: the file is absent or damaged, or names none or several.
    """
    if not path.is_file():
        raise ForeignError(f"{path}: no such file; docs/own-encoder.md shows the description of an encoder")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        described = typed(Description, table)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ForeignError(f"{path} is not TOML ({error}); correct that line") from None
    except ConfigError as error:
        raise ForeignError(f"{path}: {error}") from None
    named = [kind for kind in _KINDS if getattr(described, kind)]
    if len(named) != 1:
        raise ForeignError(
            f"{path}: it names {' and '.join(named) or 'no encoder'}; set exactly one of {', '.join(_KINDS)}"
        )
    if described.output and not described.onnx:
        raise ForeignError(f"{path}: output is that of an ONNX file; leave it out")
    return _open(described, path.parent, device, _pretraining_data(described, path), path)


def _open(
    described: Description, folder: Path, device: str, data: PretrainingData, path: Path | None = None
) -> ForeignRun:
    """Return the encoder of a description whose paths begin at `folder`; `path` is its file, for messages."""
    try:
        signal = typed(Signal, dict(described.signal), "signal") if described.signal else None
    except ConfigError as error:
        raise ForeignError(f"{path}: {error}") from None
    if described.onnx:
        run = open_onnx(folder / described.onnx, described.name, signal, data.sources, described.output)
    elif described.python:
        run = open_entry(described.python, folder, described.name, signal, data.sources, device)
    else:
        named = described.embeddings
        files = {"": named} if isinstance(named, str) else named
        stored = StoredEmbeddings({cohort: read_embeddings(folder / file) for cohort, file in files.items()})
        first = next(iter(stored.tables.values())).path
        name = described.name or (path or first).stem
        origin = f"embeddings file {', '.join(table.path.name for table in stored.tables.values())}"
        run = ForeignRun.of_file(name, origin, stored, signal or Signal(), data)
    if data.patients is not None:
        run.data = data
    return run


def _pretraining_data(described: Description, path: Path) -> PretrainingData:
    """Return what a description states of the data that its encoder was trained on.

    Raises:
        ForeignError: patients are named, and not one data set; or their file cannot be read.
    """
    sources = None if described.trained_on is None else tuple(described.trained_on)
    if not described.patients:
        return PretrainingData(sources)
    if sources is None or len(sources) != 1:
        raise ForeignError(
            f"{path}: patients = {described.patients!r} are those of one data set; set trained_on to its name, such as ['ptbxl']"
        )
    file = path.parent / described.patients
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ForeignError(f"{path}: patients = {described.patients!r} cannot be read ({error})") from None
    patients = TrainedOn.of(sources[0], names, ())
    return PretrainingData(sources, TrainedOn(patients.people, None, patients.salt))
