"""Read the tensors of a weight file by name, without running any code that the file names.

Suffixes: .safetensors, and .pth, .pt, .ckpt, .bin as torch.save writes them. The latter are pickles, and often hold settings as
Python objects beside the tensors. Tensors are read with `weights_only`; every other class that the file names becomes an empty
placeholder, so that neither that class nor its package is imported.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file, the value and the remedy."""


class _Placeholder:
    """Replaces an object of a class that the file names; it takes and forgets any state."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def find(folder: Path, known: Sequence[str]) -> Path:
    """Return the weight file of a folder: one of the `known` names, else the only file with a suffix of weight files.

    A path to a file is returned as it is.

    Raises:
        WeightsError: no such folder, no weight file, or several of which none or more than one has a known name.
    """
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise WeightsError(f"{folder}: no such folder; give the folder that has the weight file")
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in SUFFIXES)
    named = [path for path in files if path.name in known]
    chosen = named or files
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise WeightsError(f"{folder}: has no weight file ({', '.join(SUFFIXES)}); put {' or '.join(known)} there")
    raise WeightsError(
        f"{folder}: has several weight files ({', '.join(path.name for path in chosen)}); give the path of one of them"
    )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path, entries: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name.

    Args:
        entries: keys under which a checkpoint may hold its tensors, such as "state_dict"; the first that is there is used.
            A file without any of them holds the tensors themselves.

    Raises:
        WeightsError: the file is damaged, of another kind, or has no tensors.
    """
    content: Any
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{path}: cannot be read as weights ({reason[:200]}); copy the file again, or save its tensors as .safetensors"
        ) from None
    for key in entries:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(f"{path}: has no tensors by name, but {keys}; choose the file with the encoder's weights")
    return tensors


def _read_pickle(path: Path) -> Any:
    placeholders: list[Any] = []
    if zipfile.is_zipfile(path):
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        placeholders = [(type("Placeholder", (_Placeholder,), {}), name) for name in named]
    with torch.serialization.safe_globals(placeholders):
        return torch.load(path, map_location="cpu", weights_only=True)
