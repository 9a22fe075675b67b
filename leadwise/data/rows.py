"""What a source says before a sample is read: one Row per recording, and the tasks its labels belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")
_FROM_SOURCE = ("record", "patient", "split", "report", "report_words")
_FROM_FILE = ("rate_hz", "n_samples", "shard", "offset", "uv_per_step", "baseline", "lead_order")
_CHECKSUMS = ("source_sha256", "samples_sha256")
_PER_LEAD = ("lead_origin", "lead_missing", "lead_flat", "lead_max_mv", "n_short_gaps", "n_long_gaps")
_RESERVED = frozenset((*_FROM_SOURCE, *_FROM_FILE, *_CHECKSUMS, *_PER_LEAD))  # the index's own columns


class CohortError(ValueError):
    """A source or a cohort that cannot be used; the message names what, where and the remedy."""


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


@dataclass(frozen=True)
class Source:
    """A data set: its rows, and its tasks with their classes in canonical order."""

    name: str
    rows: list[Row]
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)


def check(source: Source) -> None:
    """Nothing, if the source can become a cohort.

    Raises:
        CohortError: no row, a record twice, a patient in two splits, a file of two patients, an unknown split, task,
            class or label value.
    """
    if not source.rows:
        raise CohortError(f"source {source.name}: it has no recording; check the folder and its table")
    doubled = [record for record, n in Counter(row.record for row in source.rows).items() if n > 1]
    if doubled:
        raise CohortError(
            f"source {source.name}: {len(doubled)} record names are used more than once ({listed(map(_name, doubled))}); "
            "give each recording its own name"
        )
    split_of: dict[str, str] = {}
    owner_of: dict[Path, Row] = {}
    torn = []
    for row in source.rows:
        if row.split not in SPLITS:
            raise CohortError(
                f"record {_name(row.record)}: split {quoted(row.split)} is not one of {', '.join(SPLITS)}"
            )
        if not row.patient:
            raise CohortError(
                f"record {_name(row.record)}: no patient is named; without one, splits cannot be kept apart"
            )
        if split_of.setdefault(row.patient, row.split) != row.split:
            torn.append(row.patient)
        owner = owner_of.setdefault(_place(row.path), row)
        if (owner.patient, owner.split) != (row.patient, row.split):
            raise CohortError(
                f"records {_name(owner.record)} and {_name(row.record)} name the same file but different patients or "
                "splits; leave one out, or give both the same patient and split"
            )
        _check_columns(source, row)
    if torn:
        torn = list(dict.fromkeys(torn))
        raise CohortError(
            f"source {source.name}: {len(torn)} patients stand in more than one split ({listed(map(_name, torn))}); "
            "move all recordings of a patient into one"
        )


def _place(path: Path) -> Path:
    """The file that a path leads to, links followed; one name for the parts of a WFDB record."""
    place = path.resolve()
    return place.with_suffix("") if place.suffix.lower() in (".hea", ".dat", ".mat") else place


def _check_columns(source: Source, row: Row) -> None:
    where = f"record {_name(row.record)}"
    for task, classes in row.labels.items():
        known = source.tasks.get(task)
        if known is None:
            raise CohortError(f"{where}: task {task!r} is not one of {', '.join(source.tasks) or 'none'}")
        for name, value in classes.items():
            if name not in known:
                raise CohortError(f"{where}: class {name!r} is not in task {task}: {', '.join(known)}")
            if value not in (0, 1):
                raise CohortError(f"{where}: label {task}.{name} is {quoted(value)}; it takes 0 or 1")
    for name in row.extra:
        if name in _RESERVED or name.startswith("label."):
            raise CohortError(f"{where}: the extra column {name!r} is one of the cohort's own; rename it")


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def shown(cell: object, most: int = 12) -> str:
    """What a table's cell says, if it is short and without a space; columns may be swapped, and it a report."""
    text = str(cell)
    return "a longer text" if len(text) > most or any(letter.isspace() for letter in text) else text


def quoted(cell: object) -> str:
    """A table's cell for a message, in quotes, if `shown` shows it."""
    return repr(cell) if shown(cell) == str(cell) else shown(cell)


def _name(name: str) -> str:
    """The name of a record or a patient for a message: it may be long, but has no space."""
    return shown(name, most=64)


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
