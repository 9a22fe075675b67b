"""The ECG files beneath a folder, of every format that `reading` knows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leadwise.data.formats.reading import Format, all_formats

_N_FIRST_BYTES = 4096  # of a file, given to `matches`


@dataclass(frozen=True)
class EcgFiles:
    """The ECG files of a folder in order of their paths, and the number of other files."""

    paths: tuple[Path, ...]
    n_other: int


def beneath(folder: Path) -> EcgFiles:
    """The files in `folder` and its subfolders whose name and first bytes fit a format that can be read.

    The data file of a header is no file of its own. Hidden folders, cohorts and unfinished cohorts are left out; links to
    folders are not followed.
    """
    paths, n_other = [], 0
    for file in _walk(folder):
        own = _is_ecg(file)
        if own:
            paths.append(file)
        elif own is not None:
            n_other += 1
    return EcgFiles(tuple(sorted(paths)), n_other)


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_left_out(Path(place) / name)]
        yield from (Path(place) / name for name in names if not name.startswith("."))


def _is_left_out(folder: Path) -> bool:
    is_unfinished = folder.suffix == ".partial" and (folder / "parts").is_dir()
    return folder.name.startswith(".") or is_unfinished or (folder / "cohort.json").is_file()


def _is_ecg(file: Path) -> bool | None:
    """Whether a file describes a recording; None if it is a part of the recording that another file describes."""
    candidates = [known for known in all_formats() if file.suffix.lower() in filter(None, known.suffixes)]
    if any(known.main(file) != file and known.main(file).is_file() for known in candidates):
        return None
    candidates = [known for known in candidates if known.main(file) == file]
    return bool(candidates) and _matches(file, candidates)


def _matches(file: Path, candidates: list[Format]) -> bool:
    try:
        with file.open("rb") as content:
            first_bytes = content.read(_N_FIRST_BYTES)
    except OSError:
        return False
    return any(known.matches(first_bytes) for known in candidates)
