"""Source: a data set before its samples are read. It has one Row per recording, and tasks for the labels of the rows."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from leadwise.batch import Volume
from leadwise.data.cohort.layout import SPLITS, CohortError
from leadwise.data.formats.reading import missing_file, part_suffixes
from leadwise.data.messages import first_few, quoted_cell, short_name
from leadwise.data.volumes.volume_file import VolumeFile

_FROM_SOURCE = ("record", "patient", "split", "report", "report_words", "statements")
_FROM_FILE = ("rate_hz", "n_samples", "shard", "offset", "uv_per_step", "baseline", "lead_order")
_CHECKSUMS = ("source_sha256", "samples_sha256")
_PER_LEAD = ("lead_origin", "lead_missing", "lead_flat", "lead_max_mv", "n_short_gaps", "n_long_gaps", "unused_leads")
RESERVED = frozenset((*_FROM_SOURCE, *_FROM_FILE, *_CHECKSUMS, *_PER_LEAD))
"""The index's own columns; an extra column of a source has another name."""


FACTS = ("age", "sex", "device", "year")  # what a file may state of a recording
TEXT_FACTS = ("sex", "device")


@dataclass(frozen=True)
class Row:
    """One recording of a source: its file, patient, split, report and labels."""

    record: str  # its name, unique in the source
    path: Path
    patient: str
    split: str  # train, val or test
    report: str = ""  # as in the source; "" where there is none
    labels: dict[str, dict[str, int]] = field(default_factory=dict)  # task -> class -> 0 or 1; absent = not known
    extra: dict[str, float | str | None] = field(default_factory=dict)  # age, sex, ...
    leads: tuple[str, ...] | None = None  # for files that do not name their leads
    rate_hz: float | None = None  # for files that do not state their rate
    units: str | None = None  # for files that do not state their unit
    statements: tuple[str, ...] | None = None  # of the report, where the source lists them: `report` is stored as it is
    item: str | None = None  # which recording, in a file that holds several
    facts_from_file: bool = False  # an empty report, and values of `extra` that are None, are read from the file
    volumes: dict[str, VolumeFile] = field(default_factory=dict)  # phase -> heart image; a phase may be absent


@dataclass(frozen=True)
class BadRow:
    """A row of a source's table that cannot become a recording, and why."""

    record: str  # its name, as far as it is known
    reason: str  # names the table, the row and the value; never report text


@dataclass(frozen=True)
class Source:
    """A data set: its rows, and its tasks with their classes in canonical order."""

    name: str
    rows: Sequence[Row]  # a list, or a sequence that creates the rows of a slice on access
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    min_report_words: int = 0  # recordings with fewer words in their report are left out, unless the caller changes it
    settings: dict[str, float] = field(default_factory=dict)  # that decided the rows; stored in cohort.json
    n_published: int | None = None  # recordings in the whole data set, for `prepare --dry-run` with a part of it
    about: dict[str, str] = field(default_factory=dict)  # title, licence, citation, url ...; stored in cohort.json
    details: tuple[str, ...] = ()  # tasks with the classes of others, finer or together: used only where they are named
    bad_rows: Sequence[BadRow] = ()  # an error when a cohort is written, unless they may be left out
    volume: Volume | None = None  # the heart images to store; None for a data set without
    targets: tuple[str, ...] = ()  # extra columns with numbers that can be predicted: phenotypes
    bounds: dict[str, float] = field(default_factory=dict)  # target -> highest R² possible from the ECG, if it is known


@dataclass(frozen=True)
class Facts:
    """Facts about a source from one pass over its rows."""

    extra: dict[str, bool]  # extra column -> whether it contains text; numbers otherwise
    absent: list[str]  # the first missing files (the header, where there is one)
    absent_rows: np.ndarray  # (n,) numbers of the rows whose file is missing
    digest: str  # of everything that a row states: two sources with the same digest give the same cohort

    @property
    def n_absent(self) -> int:
        """The number of recordings whose file is missing."""
        return len(self.absent_rows)


def check(source: Source) -> Facts:
    """Check that a source can become a cohort, and return facts about it.

    Rows are created slice by slice, and few bytes of each stay in memory.

    Raises:
        CohortError: no row, a record twice, a patient in two splits, a file of two patients, an unknown split, task,
            class or label value.
    """
    if not len(source.rows):
        raise CohortError(f"source {source.name}: it has no recording; check the folder and its table")

    # one pass over the rows: check each alone, and collect what is compared across rows
    split_of: dict[str, str] = {}
    torn: dict[str, None] = {}
    extra: dict[str, bool] = {}
    absent: list[str] = []
    absent_rows = array("q")
    names, places, owners = array("q"), array("q"), array("q")  # hashes: 8 bytes a row
    _check_images(source)
    stated: list[object] = [source.name, source.tasks, source.settings, *([source.about] if source.about else [])]
    stated += [repr(source.volume), source.targets, source.bounds] if source.volume or source.targets else []
    digest = hashlib.sha256(json.dumps(stated).encode())
    for number, row in enumerate(in_slices(source.rows)):
        _check_row(source, row)
        digest.update(_row_text(row))
        if split_of.setdefault(row.patient, row.split) != row.split:
            torn[row.patient] = None
        for name, value in row.extra.items():
            extra[name] = (
                extra.get(name, False) or isinstance(value, str) or (row.facts_from_file and name in TEXT_FACTS)
            )
        missing = missing_file(row.path)
        if missing is not None:
            absent_rows.append(number)
            absent += [str(missing)] if len(absent_rows) <= 3 else []
        names.append(hash(row.record))
        places.append(hash((_place(row.path), row.item)))
        owners.append(hash((row.patient, row.split)))

    for name in source.targets:
        if extra.get(name, True):
            raise CohortError(f"source {source.name}: the phenotype {name!r} must be an extra column of numbers")

    # across rows: unique names, no file of two patients, no patient in two splits
    _check_names(source, np.asarray(names))
    _check_files(source, np.asarray(places), np.asarray(owners))
    if torn:
        raise CohortError(
            f"source {source.name}: {len(torn)} patients are in more than one split ({first_few(map(short_name, torn))}); "
            "move all recordings of a patient into one"
        )
    return Facts(extra, absent, np.asarray(absent_rows), digest.hexdigest())


def in_slices(rows: Sequence[Row], n: int = 4096) -> Iterator[Row]:
    """Iterate over all rows, `n` at a time, for sources that create rows on access."""
    for begin in range(0, len(rows), n):
        yield from rows[begin : begin + n]


def split_by_hash(patient: str, train: int = 7, val: int = 1) -> str:
    """The split of a patient, from a hash of the name alone: `train` tenths, `val` tenths, the rest test.

    The split of a patient does not change when others are added.
    """
    tenth = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) % 10
    return "train" if tenth < train else "val" if tenth < train + val else "test"


def _row_text(row: Row) -> bytes:
    """Everything that a row states, as text; of its path the name alone, so that a moved data set gives the same."""
    names = (row.record, row.path.name, row.item, row.patient, row.split)
    given = (row.leads, row.rate_hz, row.units)
    text = json.dumps((*names, *given, row.report, row.statements, row.labels, row.extra)).encode() + b"\n"
    if not row.volumes:
        return text
    images = {
        phase: (file.path.name, file.item, file.otherwise, file.mask and file.mask.name, file.labels)
        for phase, file in row.volumes.items()
    }
    return text + json.dumps(images).encode() + b"\n"


def _check_row(source: Source, row: Row) -> None:
    where = f"record {short_name(row.record)}"
    if row.split not in SPLITS:
        raise CohortError(f"{where}: split {quoted_cell(row.split)} is not one of {', '.join(SPLITS)}")
    if not row.patient:
        raise CohortError(f"{where}: no patient is named; give the name of the record where patients are not known")
    for task, classes in row.labels.items():
        known = source.tasks.get(task)
        if known is None:
            raise CohortError(f"{where}: task {task!r} is not one of {', '.join(source.tasks) or 'none'}")
        for name, value in classes.items():
            if name not in known:
                raise CohortError(f"{where}: class {name!r} is not in task {task}: {', '.join(known)}")
            if value not in (0, 1):
                raise CohortError(f"{where}: label {task}.{name} is {quoted_cell(value)}; it must be 0 or 1")
    for phase in row.volumes:
        if source.volume is None or phase not in source.volume.phases:
            phases = () if source.volume is None else source.volume.phases
            raise CohortError(
                f"{where}: heart images of phase {phase!r} are not among those of the source: {first_few(phases) or 'none'}"
            )
    for name in row.extra:
        if source.volume is not None and name.startswith("volume_"):
            raise CohortError(f"{where}: the extra column {name!r} begins like the cohort's own; rename it")
        if name in RESERVED or name.startswith("label."):
            raise CohortError(f"{where}: the extra column {name!r} is one of the cohort's own; rename it")


def _check_images(source: Source) -> None:
    for name, bound in source.bounds.items():
        if name not in source.targets or not 0.0 <= bound <= 1.0:
            raise CohortError(
                f"source {source.name}: the bound {name} = {bound!r} must be an R² from 0 to 1 of one of its phenotypes: "
                f"{', '.join(source.targets) or 'none'}"
            )


def _check_names(source: Source, names: np.ndarray) -> None:
    """Check that record names are unique; `names` (n,) are their hashes."""
    values, counts = np.unique(names, return_counts=True)
    if len(values) == len(names):
        return
    suspects = set(values[counts > 1].tolist())  # two names may have the same hash
    uses = Counter(row.record for row in in_slices(source.rows) if hash(row.record) in suspects)
    doubled = [record for record, n in uses.items() if n > 1]
    if doubled:
        raise CohortError(
            f"source {source.name}: {len(doubled)} record names are used more than once ({first_few(map(short_name, doubled))}); "
            "give each recording its own name"
        )


def _check_files(source: Source, places: np.ndarray, owners: np.ndarray) -> None:
    """Check that no recording belongs to two patients or splits.

    `places` (n,) are hashes of its file and its item in the file, `owners` (n,) of patient and split.
    """
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
    """The file at the end of a path, links followed; the same text for all parts of a recording of several files."""
    place = os.path.realpath(path)  # half the time of Path.resolve, 800,000 times
    stem, suffix = os.path.splitext(place)  # noqa: PTH122
    return stem if suffix.lower() in part_suffixes() else place
