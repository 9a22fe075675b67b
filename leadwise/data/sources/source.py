"""What a source says before a sample is read: one Row per recording, and the tasks its labels belong to."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from leadwise.data.cohort.layout import SPLITS, CohortError
from leadwise.data.messages import first_few, quoted_cell, short_name

_FROM_SOURCE = ("record", "patient", "split", "report", "report_words", "statements")
_FROM_FILE = ("rate_hz", "n_samples", "shard", "offset", "uv_per_step", "baseline", "lead_order")
_CHECKSUMS = ("source_sha256", "samples_sha256")
_PER_LEAD = ("lead_origin", "lead_missing", "lead_flat", "lead_max_mv", "n_short_gaps", "n_long_gaps")
_RESERVED = frozenset((*_FROM_SOURCE, *_FROM_FILE, *_CHECKSUMS, *_PER_LEAD))  # the index's own columns


@dataclass(frozen=True)
class Row:
    """What a source says about one recording."""

    record: str  # its name, unique in the source
    path: Path
    patient: str
    split: str  # train, val or test
    report: str = ""  # as the source has it; "" where there is none
    labels: dict[str, dict[str, int]] = field(default_factory=dict)  # task -> class -> 0 or 1; absent = not known
    extra: dict[str, float | str | None] = field(default_factory=dict)  # age, sex, ...
    leads: tuple[str, ...] | None = None  # said for files that do not name their leads
    rate_hz: float | None = None  # said for files that do not state their rate
    units: str | None = None  # said for files that do not state their unit
    statements: tuple[str, ...] | None = (
        None  # of the report, where the source lists them: `report` then stands as it is
    )


@dataclass(frozen=True)
class Source:
    """A data set: its rows, and its tasks with their classes in canonical order."""

    name: str
    rows: Sequence[Row]  # a list, or what makes the rows of a slice when it is asked for them
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    min_report_words: int = 0  # recordings whose report has fewer are left out, unless the caller says otherwise
    settings: dict[str, float] = field(default_factory=dict)  # what decided the rows; kept in cohort.json


@dataclass(frozen=True)
class Facts:
    """What a look at every row says of a source."""

    extra: dict[str, bool]  # extra column -> whether it holds text; numbers otherwise
    absent: list[str]  # records whose own file (the header, where there is one) is not there, and the file's name
    n_absent: int


def check(source: Source) -> Facts:
    """Facts on a source that can become a cohort. Rows are looked at slice by slice, and few bytes of each are kept.

    Raises:
        CohortError: no row, a record twice, a patient in two splits, a file of two patients, an unknown split, task,
            class or label value.
    """
    if not len(source.rows):
        raise CohortError(f"source {source.name}: it has no recording; check the folder and its table")
    split_of: dict[str, str] = {}
    torn: dict[str, None] = {}
    extra: dict[str, bool] = {}
    absent: list[str] = []
    n_absent = 0
    names, places, owners = array("q"), array("q"), array("q")  # hashes: 8 bytes a row
    for row in in_slices(source.rows):
        _check_row(source, row)
        if split_of.setdefault(row.patient, row.split) != row.split:
            torn[row.patient] = None
        for name, value in row.extra.items():
            extra[name] = extra.get(name, False) or isinstance(value, str)
        file = main_file(row.path)
        if not file.is_file():
            n_absent += 1
            absent += [str(file)] if n_absent <= 3 else []
        names.append(hash(row.record))
        places.append(hash(_place(row.path)))
        owners.append(hash((row.patient, row.split)))
    _refuse_doubled(source, np.asarray(names))
    _refuse_shared(source, np.asarray(places), np.asarray(owners))
    if torn:
        raise CohortError(
            f"source {source.name}: {len(torn)} patients stand in more than one split ({first_few(map(short_name, torn))}); "
            "move all recordings of a patient into one"
        )
    return Facts(extra, absent, n_absent)


def in_slices(rows: Sequence[Row], n: int = 4096) -> Iterator[Row]:
    """Every row, made slice by slice where a source makes them when asked."""
    for begin in range(0, len(rows), n):
        yield from rows[begin : begin + n]


def dealt(patient: str) -> str:
    """A split from a patient's name alone, 70 % train, 10 % val, 20 % test: it stays the same when others join."""
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) % 10
    return "train" if place < 7 else "val" if place == 7 else "test"


def main_file(path: Path) -> Path:
    """The file that says what a recording is: the header of a WFDB record, else the file itself."""
    kind = path.suffix.lower()
    if kind in (".npy", ".csv") or (kind == ".mat" and not path.with_suffix(".hea").is_file()):
        return path
    return path.with_suffix(".hea") if kind in (".hea", ".dat", ".mat") else path.with_name(path.name + ".hea")


def _check_row(source: Source, row: Row) -> None:
    if row.split not in SPLITS:
        raise CohortError(
            f"record {short_name(row.record)}: split {quoted_cell(row.split)} is not one of {', '.join(SPLITS)}"
        )
    if not row.patient:
        raise CohortError(
            f"record {short_name(row.record)}: no patient is named; without one, splits cannot be kept apart"
        )
    where = f"record {short_name(row.record)}"
    for task, classes in row.labels.items():
        known = source.tasks.get(task)
        if known is None:
            raise CohortError(f"{where}: task {task!r} is not one of {', '.join(source.tasks) or 'none'}")
        for name, value in classes.items():
            if name not in known:
                raise CohortError(f"{where}: class {name!r} is not in task {task}: {', '.join(known)}")
            if value not in (0, 1):
                raise CohortError(f"{where}: label {task}.{name} is {quoted_cell(value)}; it takes 0 or 1")
    for name in row.extra:
        if name in _RESERVED or name.startswith("label."):
            raise CohortError(f"{where}: the extra column {name!r} is one of the cohort's own; rename it")


def _refuse_doubled(source: Source, names: np.ndarray) -> None:
    """`names` (n,) are hashes of record names."""
    values, counts = np.unique(names, return_counts=True)
    if len(values) == len(names):
        return
    suspects = set(values[counts > 1].tolist())
    said = Counter(row.record for row in in_slices(source.rows) if hash(row.record) in suspects)
    doubled = [record for record, n in said.items() if n > 1]
    if doubled:
        raise CohortError(
            f"source {source.name}: {len(doubled)} record names are used more than once ({first_few(map(short_name, doubled))}); "
            "give each recording its own name"
        )


def _refuse_shared(source: Source, places: np.ndarray, owners: np.ndarray) -> None:
    """`places` and `owners` (n,) are hashes of files and of who they belong to."""
    order = np.argsort(places, kind="stable")
    again = places[order][1:] == places[order][:-1]
    shared = again & (owners[order][1:] != owners[order][:-1])
    if shared.any():
        at = int(np.flatnonzero(shared)[0])
        first, second = (source.rows[int(row)] for row in order[at : at + 2])
        raise CohortError(
            f"records {short_name(first.record)} and {short_name(second.record)} name the same file but different patients or "
            "splits; leave one out, or give both the same patient and split"
        )


def _place(path: Path) -> str:
    """The file that a path leads to, links followed; one name for the parts of a WFDB record."""
    place = os.path.realpath(path)  # half the time of Path.resolve, 800,000 times
    return place[:-4] if place[-4:].lower() in (".hea", ".dat", ".mat") else place
