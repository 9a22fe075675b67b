"""What the code that writes a cohort and the code that reads one share: format, error, ledger, column names, file checks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leadwise.files import naming_full_disk, sync, sync_tree, temporary_folder

FORMAT = 2
"""The version of the cohort folder's format. A cohort of another version is refused."""

SPLITS = ("train", "val", "test")

_HASHED_BYTES = 1 << 22  # bytes read at a time when a file's checksum is computed


class CohortError(ValueError):
    """A source or a cohort cannot be used; the message names the file or recording, the value and the remedy."""


@dataclass(frozen=True)
class Ledger:
    """The number of recordings that were retained, and the number that were dropped for each reason."""

    n_total: int
    kept: int  # retained
    no_report: int = 0  # dropped: no report, where reports are required
    short_report: int = 0  # dropped: the report has too few words
    missing_file: int = 0  # dropped: a file does not exist
    bad_row: int = 0  # dropped: the row of the source's table cannot be used
    unreadable: int = 0  # dropped: the file is damaged or lacks a necessary value
    nan: int = 0  # dropped: too few samples are left, the rest is missing
    flat: int = 0  # dropped: every lead is flat
    copy: int = 0  # dropped: same samples as another patient's recording
    without_report: int = 0  # retained recordings that have no report
    n_leads_recorded: int = 0  # in retained recordings: leads read from their files
    n_leads_derived: int = 0  # in retained recordings: limb leads computed from I and II
    n_leads_missing: int = 0  # in retained recordings: leads neither recorded nor derived


def label_column(task: str, name: str) -> str:
    """The index column with the labels of class `name` of a task."""
    return f"label.{task}.{name}"


def inside(folder: Path, name: str, where: str) -> Path:
    """Return `folder / name` after checking that it stays inside the folder, with links resolved.

    Raises:
        CohortError: `name` is an absolute path, contains '..', or is a link to a place outside the folder. The message
            begins with `where`, the file that contains `name`.
    """
    path = folder / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise CohortError(f"{where}: the path {name!r} leaves {folder}; use a path inside that folder")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CohortError(
            f"{where}: the path {name!r} is a link that leads out of {folder}; copy the file itself into the folder"
        )
    return path


def map_shard(folder: Path, name: str, kind: str) -> np.ndarray:
    """Return the memory-mapped values (N,) of a shard, of this type.

    Raises:
        CohortError: the file cannot be read, or has another type or shape than a shard.
    """
    try:
        mapped = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises errors of many kinds, such as tokenize.TokenError
        raise CohortError(
            f"cohort {folder}: {name} cannot be read ({type(error).__name__}: {error}); prepare it again"
        ) from None
    if mapped.dtype != np.dtype(kind) or mapped.ndim != 1:
        raise CohortError(f"cohort {folder}: {name} has changed; prepare it again")
    values: np.ndarray = mapped.view(np.ndarray)  # slicing a plain array takes a tenth of the time of slicing a memmap
    return values


@contextmanager
def creating_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; it is renamed to `folder` if the block succeeds and deleted if it raises.

    Raises:
        CohortError: `folder` exists; it is never changed.
    """
    if folder.exists():
        raise CohortError(f"{folder} exists already; give a new folder, or delete this one first")
    with naming_full_disk(folder), temporary_folder(folder) as partial:
        yield partial
        sync_tree(partial)
        partial.rename(folder)
        sync(folder.parent)


def sha256(paths: Iterable[Path]) -> str:
    """The SHA-256 checksum of the files' concatenated contents, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_HASHED_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
