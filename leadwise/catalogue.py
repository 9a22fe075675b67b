"""What methods there are: the paper of each, what it reads, how large it is, and what it needs of the data."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from leadwise import methods
from leadwise.batch import Signal

_SMALL_SIGNAL = Signal(rate_hz=100, duration_s=10.0)


@dataclass(frozen=True)
class Entry:
    """One method."""

    name: str
    title: str
    source: str  # arXiv id or journal, and the venue
    reads: str
    n_parameters: int  # with the paper's settings; of a report branch the small one, as long as none is borrowed
    n_small: int | None  # with the method's settings for two CPU cores
    zero_shot: bool  # whether it answers words
    needs: str  # of the data, beside what it reads
    objective: str  # the docstring: equations, and where it departs from the paper


def entries(names: Iterable[str] | None = None) -> list[Entry]:
    """Every method, or those named, in the order of their names.

    Raises:
        ValueError: no such method; the message suggests the nearest.
    """
    return [_entry(name) for name in (methods.names() if names is None else names)]


def settings(name: str) -> list[dict[str, str]]:
    """A row for each setting of a method: the paper's value, and the small one where it differs."""
    module = methods.find(name)
    small = getattr(module, "SMALL", {})
    return [
        {"setting": one.name, "default": repr(one.default), "small": repr(small[one.name]) if one.name in small else ""}
        for one in dataclasses.fields(module.Config)
    ]


def _entry(name: str) -> Entry:
    module = methods.find(name)
    first, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    title, _, source = first.rpartition("\n") if "\n" in first else (first, "", "")
    small = getattr(module, "SMALL", None)
    return Entry(
        name=name,
        title=" ".join(title.split()).rstrip("."),
        source=source.rstrip("."),
        reads=_reads(module),
        n_parameters=_count(module, {}, getattr(module, "SIGNAL", Signal())),
        n_small=None if small is None else _count(module, small, _SMALL_SIGNAL),
        zero_shot=hasattr(module.Method, "embed_text"),
        needs=getattr(module, "NEEDS", ""),
        objective=rest,
    )


def _reads(module: Any) -> str:
    if hasattr(module.Method, "make_tokenizer"):
        return "ECG + report"
    return "ECG + labels" if "classes" in module.Config.__dataclass_fields__ else "ECG"


def _count(module: Any, table: dict[str, Any], signal: Signal) -> int:
    """Parameters of a method, built without memory for them."""
    labels = {"classes": ("a class",)} if "classes" in module.Config.__dataclass_fields__ else {}
    config = module.Config(**table, **labels)
    tokenizer = None
    if hasattr(module.Method, "make_tokenizer"):
        tokenizer = module.Method.make_tokenizer(config, ["normal ecg"])
        tokenizer.add_tokens([f"word {number}" for number in range(config.vocab_size - len(tokenizer))])
    with torch.device("meta"):
        method = module.Method(config, signal, tokenizer, None)
    return sum(p.numel() for p in method.parameters())
