"""TODO."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "val", "test")


class CohortError(ValueError):
    """A source or a cohort that cannot be used; the message names what, where and the remedy."""


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`, which must stay inside the folder, links followed.

    Raises:
        CohortError: an absolute path, one with '..', or a link that leads out; `where` says who names it.
    """
    path = folder / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise CohortError(f"{where}: the path {name!r} leaves {folder}; give one that stays inside it")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CohortError(f"{where}: the path {name!r} is a link that leads out of {folder}; put the file itself there")
    return path


FORMAT = 2  # of a cohort folder


_HASHED_BYTES = 1 << 22


@dataclass(frozen=True)
class Ledger:
    """Where every recording of a source went."""

    n_total: int
    kept: int
    no_report: int = 0  # dropped: no report, where one was asked for
    short_report: int = 0  # dropped: fewer words than asked for
    missing_file: int = 0  # dropped: a file is not there
    unreadable: int = 0  # dropped: damaged, or something left unsaid
    nan: int = 0  # dropped: more than half of the recorded samples missing
    flat: int = 0  # dropped: every lead flat
    copy: int = 0  # dropped: the samples of another patient's recording
    without_report: int = 0  # of those kept: they have no report
    n_leads_recorded: int = 0  # of those kept: leads that their files held
    n_leads_derived: int = 0  # of those kept: limb leads computed from I and II
    n_leads_missing: int = 0  # of those kept: leads that nobody has


def label_column(task: str, name: str) -> str:
    """The index column of a class."""
    return f"label.{task}.{name}"


def sha256(paths: Iterable[Path]) -> str:
    """The checksum of the files' contents, one after the other, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_HASHED_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
