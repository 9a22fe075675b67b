"""Turn what a caller passes as ECGs into a list of named entries, each opened when it is needed.

A path, a folder, a pattern with `*`, an `ECG`, an array, a list of these, or a DataFrame with a column of paths.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leadwise import ecg as ecgs_of
from leadwise.data import ecg_files
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.formats import reading
from leadwise.data.formats.given import Given
from leadwise.data.recordings.recording import RecordError, Recording
from leadwise.ecg import ECG

log = logging.getLogger(__name__)

_PER_ROW = ("rate_hz", "leads", "units", "item")  # columns of a DataFrame that replace the arguments of the same name


@dataclass(frozen=True)
class InputEntry:
    """One ECG of an input."""

    name: str  # path, or name of the ECG
    row: Hashable  # label of its row: of the DataFrame's index, else its position
    open: Callable[[], ECG]


@dataclass(frozen=True)
class Inputs:
    """The ECGs of an input, in order."""

    entries: tuple[InputEntry, ...]
    index: pd.Index | None = None  # of a DataFrame

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """The name of each ECG."""
        return [entry.name for entry in self.entries]


def arguments(given: Given) -> dict[str, Any]:
    """Return what the caller states as the arguments of `read` and `from_array`."""
    return {"rate_hz": given.rate_hz, "leads": given.leads, "units": given.units}


def as_cohort(source: Any) -> Cohort | None:
    """Return the cohort that `source` is or names; None if it is something else."""
    if isinstance(source, Cohort):
        return source
    if isinstance(source, str | Path) and (Path(source) / "cohort.json").is_file():
        return Cohort.open(Path(source))
    return None


def collect(ecgs: Any, given: Given | None = None, path_column: str = "path") -> Inputs:
    """Return the entries of an input; no file is read yet.

    Raises:
        RecordError: nothing to read, an unknown kind of input, or an array without leads, rate or unit.
    """
    given = given or Given()
    if isinstance(ecgs, Inputs):
        return ecgs
    if isinstance(ecgs, pd.DataFrame):
        return _of_frame(ecgs, given, path_column)
    if isinstance(ecgs, str | Path):
        return _numbered(_of_path(ecgs, given))
    if isinstance(ecgs, ECG | Recording | bytes):
        return _numbered([_of_one(ecgs, given, "ecg")])
    if hasattr(ecgs, "detach") or (isinstance(ecgs, np.ndarray) and ecgs.dtype.kind in "iufcb"):
        return _numbered(_of_array(ecgs, given))
    if isinstance(ecgs, np.ndarray):
        ecgs = ecgs.ravel().tolist()  # of paths, or of ECGs
    if not isinstance(ecgs, Iterable):
        raise RecordError(
            f"{type(ecgs).__name__} is no ECG: pass a path, an ECG, an array, a list of these or a DataFrame"
        )
    items = list(ecgs)
    if not items:
        raise RecordError("no ECG was given; pass at least one")
    return _numbered([_of_one(item, given, str(number)) for number, item in enumerate(items)])


def collect_paths(paths: Sequence[Path | str], given: Given | None = None) -> Inputs:
    """Return the entries of several paths, each a file, a folder or a pattern with `*`.

    Raises:
        RecordError: a folder or pattern without recordings.
    """
    return _numbered([opener for path in paths for opener in _of_path(path, given or Given())])


Opener = tuple[str, Callable[[], ECG]]


def _numbered(openers: Sequence[Opener]) -> Inputs:
    return Inputs(tuple(InputEntry(name, number, opener) for number, (name, opener) in enumerate(openers)))


def _of_one(item: Any, given: Given, name: str) -> Opener:
    """One element of a list: a path, an ECG, a recording, the bytes of a file, or an array (L, T)."""
    stated = arguments(given)
    if isinstance(item, ECG):
        return item.name, lambda: item
    if isinstance(item, Recording):
        return item.name, partial(ECG, item)
    if isinstance(item, str | Path):
        return str(item), partial(ecgs_of.read, item, **stated)
    if isinstance(item, bytes):
        return name, partial(ecgs_of.read, item, **stated)
    ecgs_of.check_given(**stated)
    return name, partial(ecgs_of.from_array, item, name=name, **stated)


def _of_array(array: Any, given: Given) -> list[Opener]:
    values = ecgs_of.as_numpy(array)
    ecgs_of.check_given(given.rate_hz, given.leads, given.units)
    assert given.leads is not None  # by check_given
    if values.ndim == 2:
        ecgs_of.check_shape(values, given.leads, 2)
        return [_of_one(values, given, "array")]
    ecgs_of.check_shape(values, given.leads, 3)
    return [_of_one(rows, given, str(number)) for number, rows in enumerate(values)]


def _of_path(path: Path | str, given: Given) -> list[Opener]:
    """The recordings of a file, of a folder with its subfolders, or of the files that a pattern matches."""
    text = str(path)
    if Path(path).is_dir():
        return [opener for file in recordings_in(Path(path)) for opener in _of_file(file, given)]
    if not Path(path).exists() and glob.has_magic(text):
        files = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  # a pattern may be absolute
        if not files:
            raise RecordError(f"no file matches {text}; check the pattern")
        return [opener for file in files for opener in _of_file(file, given)]
    return _of_file(path, given)


def _of_file(path: Path | str, given: Given) -> list[Opener]:
    """The recording of a file, or each of several; those are named by the file and their item."""
    try:
        items = reading.items(path)
    except RecordError:
        items = ()  # the same error is raised when the recording is read
    if not items:
        return [_of_one(path, given, str(path))]
    stated = arguments(given)
    return [(f"{path}#{item}", partial(ecgs_of.read, path, item=item, **stated)) for item in items]


def recordings_in(folder: Path) -> list[Path]:
    """Return the ECG files in a folder and its subfolders; one path for each recording, or for each file of several.

    Raises:
        RecordError: there is none.
    """
    files = ecg_files.beneath(folder)
    if files.left_out:
        log.warning("%s: %s", folder, files.left_out)
    if not files.paths:
        raise RecordError(f"{folder}: no file of a known format in it; `leadwise.formats()` lists the formats")
    return list(files.paths)


def _of_frame(frame: pd.DataFrame, given: Given, path_column: str) -> Inputs:
    """The rows of a DataFrame; columns rate_hz, leads, units and item, where they exist, apply to their row."""
    if path_column not in frame.columns:
        columns = ", ".join(map(str, frame.columns))
        raise RecordError(
            f"the DataFrame has no column {path_column!r}; it has {columns}: rename one or pass path_column="
        )
    if not len(frame):
        raise RecordError("the DataFrame has no rows; pass at least one")
    from_caller = {**arguments(given), "item": given.item}
    own = [name for name in _PER_ROW if name in frame.columns]
    entries = []
    for row, (label, path) in enumerate(zip(frame.index, frame[path_column])):
        stated = dict(from_caller)
        for name in own:
            value = frame[name].iloc[row]
            if isinstance(value, str) and name == "leads":
                value = [lead.strip() for lead in value.split(",")]
            if isinstance(value, list | tuple) or pd.notna(value):
                stated[name] = value
        entries.append(InputEntry(str(path), label, partial(_open_row, path, stated)))
    return Inputs(tuple(entries), frame.index)


def _open_row(path: Any, stated: dict[str, Any]) -> ECG:
    if not isinstance(path, str | Path):
        raise RecordError(f"the path of a row is {path!r}; it must be the name of a file")
    return ecgs_of.read(path, **stated)
