"""HDF5 files with h5py: CODE-15 and its relatives, and any file with one array of samples (see `named_arrays`).

A part of CODE-15 has `tracings` (N, 4096, 12) and `exam_id` (N,). A recording is found by its exam_id and never by its row:
`exams.csv` has another order. The row of zeros with exam_id 0 is no recording. Recordings are shorter than 4096 samples and
padded with zeros at both ends: this padding is marked as missing. Leads and rate are those that the data set documents; its
unit is not stated. In other files the names of the recordings are their row numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.formats.given import Given
from leadwise.data.formats.named_arrays import FACTS, MAX_VALUES, ArrayFacts, facts, from_named, signal_name
from leadwise.data.formats.parsing import library_errors
from leadwise.data.messages import first_few, short_name
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".hdf5", ".h5", ".hdf")

_BEGINS = b"\x89HDF\r\n\x1a\n"
_MOST_ITEMS = 10_000_000
_CODE15 = ArrayFacts(LEADS, 400.0)  # of files that have tracings and exam_id
_NO_EXAM = "0"


@dataclass(frozen=True)
class _Content:
    """Where the samples of a file are, and the names of its recordings."""

    name: str  # of the array of samples
    rows: dict[str, int]  # name of a recording -> its row; empty for one recording
    is_code15: bool


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is an HDF5 file."""
    return first_bytes.startswith(_BEGINS)


def items(path: Path) -> tuple[str, ...]:
    """The exam_id of each recording of CODE-15, or the row numbers; () for one recording."""
    return tuple(_content_of_file(path, _version(path)).rows)


def read(path: Path, given: Given) -> Recording:
    """The recording in an HDF5 file.

    Raises:
        RecordError: the file is damaged, has no array of samples or no recording of the given name, or something that it
            does not state is not given.
    """
    import h5py

    content = _content_of_file(path, _version(path))
    with library_errors(path, "HDF5"), h5py.File(path, "r") as file:
        return replace(_read(path, file, content, given), files=(path,))


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The recording in the content of an HDF5 file.

    Raises:
        RecordError: as `read`.
    """
    import h5py

    with library_errors(path, "HDF5"), h5py.File(BytesIO(content), "r") as file:
        return _read(path, file, _find(path, file), given)


def _version(path: Path) -> int:
    """When the file was changed: the key of what is remembered of it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        raise RecordError(f"record {path}: no such file; check the path") from None


@lru_cache(maxsize=8)  # of 20,000 recordings of one file: its ids are read once
def _content_of_file(path: Path, _version_ns: int) -> _Content:
    import h5py

    with library_errors(path, "HDF5"), h5py.File(path, "r") as file:
        return _find(path, file)


def _find(path: Path, file: Any) -> _Content:
    """The array of samples of an open file and the names of its recordings."""
    shapes = {name: data.shape for name, data in _datasets(file) if data.dtype.kind in "iuf"}
    name = signal_name(path, shapes)
    n_items = shapes[name][0] if len(shapes[name]) == 3 else 1
    if n_items > _MOST_ITEMS:
        raise RecordError(f"record {path}: it promises {n_items} recordings, which is implausible; check the file")
    if len(shapes[name]) != 3:
        return _Content(name, {}, is_code15=False)
    ids = file.get(f"{name.rpartition('/')[0]}/exam_id".lstrip("/"))
    if ids is None or ids.shape not in ((n_items,), (n_items, 1)):
        return _Content(name, {str(row): row for row in range(n_items)} if n_items > 1 else {}, is_code15=False)
    names = [str(int(number)) for number in np.ravel(ids[()])]
    rows: dict[str, int] = {}
    for row, exam in enumerate(names):
        if exam != _NO_EXAM:
            rows.setdefault(exam, row)  # the first of a name that appears twice
    return _Content(name, rows, is_code15=True)


def _datasets(file: Any) -> list[tuple[str, Any]]:
    """The arrays of an open file with their names."""
    import h5py

    listed: list[tuple[str, Any]] = []
    file.visititems(lambda name, node: listed.append((name, node)) if isinstance(node, h5py.Dataset) else None)
    return listed


def _read(path: Path, file: Any, content: _Content, given: Given) -> Recording:
    dataset = file[content.name]
    stated = _facts(file, dataset)
    if content.is_code15:
        # documented, not stated: what the caller gives comes first (IKEM has the same form at 500 Hz)
        stated = ArrayFacts(
            stated.leads or (_CODE15.leads if given.leads is None else None),
            stated.rate_hz or (_CODE15.rate_hz if given.rate_hz is None else None),
            stated.units,
        )
    if content.is_code15 and (given.item == _NO_EXAM or not content.rows):
        raise RecordError(f"record {path}: its row with exam_id 0 is no recording; leave it out")

    # one recording, without its padding
    if dataset.ndim == 3:
        array = dataset[_row(path, content.rows or {"0": 0}, given)]
    else:
        if given.item is not None:
            raise RecordError(f"record {path}: it holds one recording; leave out item")
        if dataset.size > MAX_VALUES:
            raise RecordError(
                f"record {path}: its array {dataset.shape} is implausibly large for one recording; check the file"
            )
        array = dataset[()]
    is_padded = content.is_code15 or content.name.rpartition("/")[2] == "tracings"
    recording = from_named(path, _without_padding(array) if is_padded else array, stated, given)
    if dataset.ndim == 3:
        recording = replace(recording, contents=(array.tobytes(),))
    if content.is_code15 and given.leads is None:
        recording = replace(recording, remarks=(*recording.remarks, "leads and rate as documented for CODE-15"))
    return recording


def _row(path: Path, rows: Mapping[str, int], given: Given) -> int:
    """The row of the recording that `given.item` names, of those in `rows`.

    Raises:
        RecordError: no item is given and there are several, or none of them has this name.
    """
    if given.item is None and len(rows) == 1:
        return next(iter(rows.values()))
    if given.item is None:
        raise RecordError(
            f"record {path}: it holds {len(rows)} recordings ({first_few(map(short_name, rows), 4)}); name one (--item, item=), "
            "or list them in a table with the columns path and item"
        )
    if given.item not in rows:
        raise RecordError(f"record {path}: it has no item {given.item!r}; it has {first_few(map(short_name, rows), 4)}")
    return rows[given.item]


def _without_padding(array: np.ndarray) -> np.ndarray:
    """The samples as floats, NaN in the zeros before the first and after the last sample that is not zero in all leads."""
    padded = array.astype(np.float64)
    axis = int(array.shape[0] > array.shape[1])  # the side of the leads
    recorded = np.flatnonzero(array.any(axis=axis))
    if len(recorded):
        along = padded if axis else padded.T
        along[: recorded[0]], along[recorded[-1] + 1 :] = np.nan, np.nan
    return padded


def _facts(file: Any, dataset: Any) -> ArrayFacts:
    """What arrays and attributes beside the samples state."""
    values: dict[str, Any] = {}
    for holder in (file, dataset.parent, dataset):
        values |= {name: value for name, value in holder.attrs.items() if name.casefold() in FACTS}
    for name, node in dataset.parent.items():
        if name.casefold() in FACTS and getattr(node, "size", MAX_VALUES) <= 1000:
            values[name] = node.asstr()[()] if node.dtype.kind == "O" else node[()]
    return facts(values)
