"""Trained weights that ship with the package: one run folder for each name in this folder. There are none yet."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of the runs that ship with the package."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/config.toml")))


def folder(name: str) -> Path | None:
    """Return the run folder of that name; None if the package has none."""
    return FOLDER / name if name in names() else None
