"""Digests of a run's settings, tokenizer and weights, so that a changed or damaged file is noticed when the run is loaded.

They are stored in the header of model.safetensors, the file that they belong to: weights and digests are written at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

KEY = "leadwise.digests"  # of the header's metadata

# settings that describe how and where a run is computed; they may be edited, and a resumed run may change most of them
NOT_RECORDED = {
    "optim.steps", "optim.accumulate", "optim.compile", "optim.deterministic", "optim.device", "optim.timeout_s", "data.workers",
    "data.cohort", "data.teacher", "data.init", "data.init_volume", "data.init_text",
}  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """Digests of a run's settings and of its tokenizer."""

    settings: Mapping[str, str]  # by dotted name, such as "signal.leads"
    tokenizer: str


def of_settings(table: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each setting of a parsed config.toml by its dotted name, without NOT_RECORDED."""
    values = {
        f"{group}.{key}": value
        for group, entries in table.items()
        for key, value in (entries.items() if isinstance(entries, Mapping) else [("", entries)])
    }
    return {name: _digest(json.dumps(value).encode()) for name, value in values.items() if name not in NOT_RECORDED}


def of_folder(folder: Path) -> str:
    """Return the digest of the names and contents of a folder's files, without hidden ones; '' if there are none."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    entries = [f"{path.relative_to(folder).as_posix()} {_digest(path.read_bytes())}" for path in files]
    return _digest("\n".join(entries).encode()) if entries else ""


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def changed_settings(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the settings that differ, or that only one of the two has, sorted."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def to_header(recorded: Recorded, weights: str) -> dict[str, str]:
    """Return the metadata for the header of model.safetensors."""
    entries = {"settings": dict(recorded.settings), "tokenizer": recorded.tokenizer, "weights": weights}
    return {KEY: json.dumps(entries, sort_keys=True)}


def read_header(path: Path) -> tuple[Recorded | None, str | None]:
    """Return the digests in the header of model.safetensors: of settings and tokenizer, and of the weights.

    Both are None for a file without digests, and for a missing or damaged file: reading its weights reports that.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
        entries = json.loads(text) if text else None
        if entries is None:
            return None, None
        return Recorded(dict(entries["settings"]), str(entries["tokenizer"])), str(entries["weights"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None, None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
