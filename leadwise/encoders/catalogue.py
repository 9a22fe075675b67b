"""The encoders with public weights: names, sources, signals, and how to load one.

An encoder is found by the name of its file in this folder.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from leadwise import encoders
from leadwise.encoders.contract import PublishedEncoder

_NOT_ENCODERS = (
    "catalogue",
    "contract",
    "positions",
    "preprocessing",
    "wav2vec",
    "weight_file",
)  # modules of this folder


def encoder_names() -> list[str]:
    """Return the names of all encoders, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(encoders.__path__) if module.name not in _NOT_ENCODERS)


def find_encoder(name: str) -> type[PublishedEncoder]:
    """Return the class of the encoder in `encoders/<name>.py`.

    Raises:
        ValueError: no such file; the message suggests the nearest name.
    """
    known = encoder_names()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known: {', '.join(known)}"
        raise ValueError(f"no encoder '{name}'; {hint}")
    encoder: type[PublishedEncoder] = importlib.import_module(f"{encoders.__name__}.{name}").Encoder
    return encoder


def load(name: str, folder: Path | str) -> PublishedEncoder:
    """Return an encoder with the weights of a folder.

    Raises:
        ValueError: no such encoder.
        WeightsError: weights that do not fit.
    """
    return find_encoder(name).load(folder)


def tiny_sizes(name: str) -> dict[str, Any]:
    """Return the smallest sizes of an encoder, for the contract tests: TINY of its file."""
    sizes: dict[str, Any] = importlib.import_module(find_encoder(name).__module__).TINY
    return sizes


@dataclass(frozen=True)
class EncoderEntry:
    """One encoder, as `leadwise methods` lists it."""

    name: str
    title: str
    paper: str
    licence: str
    weights: str  # address
    files: str
    signal: str
    width: int
    n_parameters: int  # of the encoder alone
    trained_on: str
    state: str


def entries() -> list[EncoderEntry]:
    """Return all encoders, sorted by name."""
    return [_entry(name) for name in encoder_names()]


def _entry(name: str) -> EncoderEntry:
    kind = find_encoder(name)
    first = inspect.cleandoc(importlib.import_module(kind.__module__).__doc__ or "").partition("\n\n")[0]
    title, _, paper = first.rpartition("\n")
    with torch.device("meta"):  # allocates nothing
        encoder = kind()
    signal = kind.signal
    return EncoderEntry(
        name=name,
        title=" ".join(title.split()).rstrip("."),
        paper=paper.rstrip("."),
        licence=kind.source.licence,
        weights=kind.source.weights,
        files=", ".join(kind.source.files),
        signal=f"{len(signal.leads)} leads, {signal.rate_hz} Hz, {signal.duration_s:g} s",
        width=encoder.width,
        n_parameters=sum(p.numel() for p in encoder.parameters()),
        trained_on=", ".join(kind.source.trained_on),
        state="tried with real weights" if kind.tried_with_real_weights else "not tried with real weights",
    )
