"""The contract of a method. Every file in this folder is a paper; the name in a config is the name of the file.

A method file holds `Config` (a frozen dataclass: the paper's values are the defaults) and `Method`:

    class Method(nn.Module):
        parts: tuple[str, ...]                                  # what embed_ecg can give; "backbone" always
        def __init__(self, config: Config, signal: Signal, tokenizer: Tokenizer | None, kept: Path | None) -> None
        def forward(self, batch: Batch) -> dict[str, Tensor]    # weighted loss terms; training minimises their sum
        def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor     # (B, D), eval mode, nothing masked
        weights: dict[str, float]                               # of each term: raw = weighted / weight

A method that reads reports has `tokenizer`, `embed_text(texts) -> (K, D)` in the space of the part "shared", and beside the class
`make_tokenizer(config, reports)` and `load_tokenizer(folder)`. Optional: `after_step(progress)` (momentum teachers, schedules),
`measure(batch) -> dict[str, float]` (what to watch on held-out patients), `pretrained_parameters` (a lower rate),
`keep(folder)` (what a rebuild needs; the folder comes back as `kept`), `reconstruct(batch)` (for pictures).
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
