"""What methods there are: the paper of each, what it reads, how large it is, and what it needs of the data."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from leadwise import methods
from leadwise.batch import Signal
from leadwise.config import ConfigError

_SMALL_SIGNAL = Signal(rate_hz=100, duration_s=10.0)


_NOT_METHODS = ("catalogue", "contract")  # modules of this folder that are no method


def method_names() -> list[str]:
    """Every method in the house, by file name."""
    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__) if module.name not in _NOT_METHODS)


def find_method(name: str) -> ModuleType:
    """The module `methods/<name>.py`.

    Raises:
        ValueError: no such method; the message suggests the nearest.
    """
    if name not in method_names():
        near = difflib.get_close_matches(name, method_names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(method_names())}"
        raise ValueError(f"no method '{name}'; {hint}")
    return importlib.import_module(f"{methods.__name__}.{name}")


def embeds_text(name: str) -> bool:
    """Whether a method embeds texts, so that it can be asked zero-shot."""
    return hasattr(find_method(name).Method, "embed_text")


def learns_labels(name: str) -> bool:
    """Whether a method learns a task's labels: such a run belongs to one task."""
    return name in method_names() and any(
        field.name == "classes" for field in dataclasses.fields(find_method(name).Config)
    )


def small_settings(name: str) -> dict[str, Any]:
    """A [method] table of a size for two CPU cores: the method's own `SMALL`.

    Raises:
        ConfigError: it has none.
    """
    return all_small_settings(name)[0]


def all_small_settings(name: str) -> list[dict[str, Any]]:
    """The same, and those of the method's other rows in tables (`ALSO_SMALL`).

    Raises:
        ConfigError: it has none.
    """
    module = find_method(name)
    if not hasattr(module, "SMALL"):
        raise ConfigError(f"method '{name}' has no SMALL settings; give a config of its own")
    return [{"name": name, **table} for table in (module.SMALL, *getattr(module, "ALSO_SMALL", ()))]


def small_optim_settings(name: str) -> dict[str, Any]:
    """Settings of [optim] that go with a method's small ones, where it has any (`SMALL_OPTIM`)."""
    return dict(getattr(find_method(name), "SMALL_OPTIM", {}))


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
    return [_entry(name) for name in (method_names() if names is None else names)]


def settings(name: str) -> list[dict[str, str]]:
    """A row for each setting of a method: the paper's value, and the small one where it differs."""
    module = find_method(name)
    small = getattr(module, "SMALL", {})
    return [
        {"setting": one.name, "default": repr(one.default), "small": repr(small[one.name]) if one.name in small else ""}
        for one in dataclasses.fields(module.Config)
    ]


def _entry(name: str) -> Entry:
    module = find_method(name)
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
