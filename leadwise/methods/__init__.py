"""The contract of a method. Every file in this folder is a paper; the name in a config is the name of the file.

A method file holds `Config` (a frozen dataclass: the paper's values are the defaults) and `Method`:

    class Method(nn.Module):
        def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer | None) -> None
        def forward(self, batch: Batch) -> dict[str, Tensor]    # weighted loss terms; training minimises their sum
        def embed_ecg(self, batch: Batch) -> Tensor             # (B, D), eval mode, nothing masked
        def embed_text(self, texts: list[str]) -> Tensor        # (K, D); ECG-only methods do not define it
        def after_step(self, progress: float) -> None           # optional: momentum teachers, schedules

and, where it reads reports, `make_tokenizer(config, reports) -> Tokenizer` and `load_tokenizer(folder) -> Tokenizer`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """Every method in the house, by file name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The module `methods/<name>.py`.

    Raises:
        ValueError: no such method; the message suggests the nearest.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names())}"
        raise ValueError(f"no method '{name}'; {hint}")
    return importlib.import_module(f"{__name__}.{name}")
