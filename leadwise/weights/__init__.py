"""Trained weights that ship with the package: one run folder for each name in this folder (see `benchmarks/shipped.py`)."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent
MOST_BYTES = 12_000_000  # of one folder; a test checks it


def names() -> tuple[str, ...]:
    """Return the names of the runs that ship with the package."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/config.toml")))


def folder(name: str) -> Path | None:
    """Return the run folder of that name; None if the package has none."""
    return FOLDER / name if name in names() else None


def user_cache(run_folder: Path) -> Path | None:
    """Return where the embeddings of a shipped run are cached: in the user's cache folder; None for any other run folder.

    Nothing is written into an installed package.
    """
    if run_folder.resolve().parent != FOLDER.resolve():
        return None
    return cache_home() / run_folder.name


def cache_home() -> Path:
    """Return the folder of this package in the user's cache folder; it may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leadwise"
