"""The splits that the published tables were made with: CSV files that a user gives, read by name.

    ptbxl/<super_class|sub_class|form|rhythm>/ptbxl_*_{train,val,test}.csv
    icbeb/icbeb_{train,val,test}.csv          CPSC2018
    chapman/chapman_{train,val,test}.csv      CSN

That is the layout of MERL's repository. Two faults of these files must not travel: the label columns of PTB-XL's sub-classes
stand in another order in val and test than in train, and CSN's columns were made by substring ("VB" is in "1AVB"). Here
labels come back in the order of the caller's classes, found by name; CSN's are read from the statements token by token,
and the columns as published only where they are asked for. A record is found by its file's name, never by a row number.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import SPLITS, CohortError
from leadwise.data.sources.ptbxl import PTBXL

log = logging.getLogger(__name__)

LabelRule = Literal["exact", "merl_substring"]


class PublishedError(ValueError):
    """Split files that cannot be used; the message names the file, the value and the remedy."""


@dataclass(frozen=True)
class _Layout:
    """Where a task's files lie and what their columns are, beside one column for each class."""

    stem: str  # the path without _train.csv
    file_column: str  # names the recording's file
    record: re.Pattern[str]  # our record name within that
    metadata: tuple[str, ...]
    patient_column: str | None = None  # real patients, which must not stand in two splits
    statements: str | None = None  # codes joined by commas, which the columns were made of


_PTBXL = ("ecg_id", "patient_id", "strat_fold", "filename_lr", "filename_hr")
_LAYOUTS = {
    task: _Layout(
        f"ptbxl/{name}/ptbxl_{name}", "filename_hr", re.compile(r"(\d{5})_hr$"), (*_PTBXL, name), "patient_id"
    )
    for task, name in {"super": "super_class", "sub": "sub_class", "form": "form", "rhythm": "rhythm"}.items()
} | {
    # patient_id repeats ecg_id there, which numbers the files of one machine's folder: neither is of use
    "cpsc2018": _Layout(
        "icbeb/icbeb", "filename", re.compile(r"^(A\d{4})$"),
        ("patient_id", "ecg_id", "filename", "validation", "age", "sex", "scp_codes"),
    ),
    "csn": _Layout(
        "chapman/chapman", "ecg_path", re.compile(r"(JS\d{5})\.mat$"), ("ecg_path", "age", "diagnose"), statements="diagnose"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PublishedSplit:
    """One file: its records in its order."""

    file: Path
    sha256: str
    records: tuple[str, ...]  # as our cohorts name them
    labels: NDArray[np.int8]  # (n, K) in {0, 1}, classes in the order of `Published.classes`
    columns: tuple[str, ...]  # the K classes as the file orders them


@dataclass(frozen=True)
class Published:
    """A task's three published splits."""

    task: str
    classes: tuple[str, ...]
    rule: LabelRule
    splits: dict[str, PublishedSplit]  # train, val, test

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Each split's own order of label columns: what code that goes by position takes for the same classes."""
        return {name: split.columns for name, split in self.splits.items()}

    @property
    def fingerprint(self) -> str:
        """A hash of the three files."""
        return hashlib.sha256("".join(split.sha256 for split in self.splits.values()).encode()).hexdigest()[:16]


def tasks() -> tuple[str, ...]:
    """The tasks whose published splits can be read."""
    return tuple(_LAYOUTS)


def read_published(
    folder: Path, task: str, classes: Sequence[str] | None = None, labels: LabelRule = "exact"
) -> Published:
    """The published splits of a task, from a folder in the layout of MERL's.

    Args:
        classes: the K classes in the order wanted; default: PTB-XL's as `labels.py` has them, else as the train file has.
        labels: "exact", or for csn "merl_substring": its columns as published, wrong in 7 of 38 classes.

    Raises:
        PublishedError: no such task or file, a column that is not there or is no class, a record that stands twice, a
            patient in two splits, a label that is not 0 or 1.
    """
    layout = _LAYOUTS.get(task)
    if layout is None:
        raise PublishedError(f"no published splits for task {task!r}; there are those of {', '.join(_LAYOUTS)}")
    if labels not in ("exact", "merl_substring"):
        raise PublishedError(f"labels {labels!r}: say exact or merl_substring")
    if labels == "merl_substring" and layout.statements is None:
        raise PublishedError(f"labels merl_substring are csn's alone; task {task} has exact ones")
    if classes is None and task in PTBXL:
        classes = tuple(PTBXL[task])
    tables = {split: _table(Path(folder) / f"{layout.stem}_{split}.csv", layout) for split in SPLITS}
    splits: dict[str, PublishedSplit] = {}
    for split, (path, table) in tables.items():
        columns = tuple(str(name) for name in table.columns if name not in layout.metadata)
        classes = columns if classes is None else tuple(classes)
        _check_classes(path, columns, classes)
        splits[split] = PublishedSplit(
            file=path,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            records=_records(path, table, layout),
            labels=_labels(path, table, classes, layout.statements if labels == "exact" else None),
            columns=columns,
        )
    _check_apart("record", {split: (s.file, s.records) for split, s in splits.items()})
    if layout.patient_column is not None:
        _check_apart(
            "patient", {split: (path, list(table[layout.patient_column])) for split, (path, table) in tables.items()}
        )
    return Published(task, tuple(classes or ()), labels, splits)


def _table(path: Path, layout: _Layout) -> tuple[Path, pd.DataFrame]:
    if not path.is_file():
        raise PublishedError(f"{path} is missing; --splits is the folder that holds ptbxl/, icbeb/ and chapman/")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise PublishedError(f"{path} cannot be read as a CSV ({type(error).__name__}); fetch it again") from None
    for name in (layout.file_column, layout.statements, layout.patient_column):
        if name is not None and name not in table.columns:
            raise PublishedError(f"{path}: no column {name}; it has {', '.join(map(str, table.columns[:8]))} ...")
    if not len(table):
        raise PublishedError(f"{path} lists no recording; fetch it again")
    return path, table


def _check_classes(path: Path, columns: tuple[str, ...], classes: tuple[str, ...]) -> None:
    unknown, missing = sorted(set(columns) - set(classes)), sorted(set(classes) - set(columns))
    if unknown:
        raise PublishedError(f"{path}: unknown class {', '.join(unknown)}; the task has {', '.join(classes)}")
    if missing:
        raise PublishedError(f"{path}: no column for class {', '.join(missing)}; fetch the file again")


def _records(path: Path, table: pd.DataFrame, layout: _Layout) -> tuple[str, ...]:
    found = []
    for number, name in enumerate(table[layout.file_column], start=2):
        match = layout.record.search(name)
        if match is None:
            raise PublishedError(
                f"{path}, line {number}: {layout.file_column} {name[:60]!r} names no recording of the form "
                f"{layout.record.pattern}"
            )
        found.append(match[1])
    return tuple(found)


def _labels(path: Path, table: pd.DataFrame, classes: tuple[str, ...], statements: str | None) -> NDArray[np.int8]:
    """(n, K) labels by name: from the columns, or where there are statements from their tokens."""
    if statements is not None:
        said = [{token.strip() for token in text.split(",")} for text in table[statements]]
        return np.array([[name in tokens for name in classes] for tokens in said], dtype=np.int8)
    values = table[list(classes)].to_numpy()
    wrong = np.argwhere(~np.isin(values, ("0", "1")))
    if len(wrong):
        row, column = (int(at) for at in wrong[0])
        raise PublishedError(
            f"{path}, line {row + 2}: class {classes[column]} is {str(values[row, column])[:20]!r}, not 0 or 1"
        )
    return np.asarray(values == "1", dtype=np.int8)


def _check_apart(what: str, named: dict[str, tuple[Path, Sequence[str]]]) -> None:
    """No record twice at all, no patient in two splits."""
    seen: dict[str, str] = {}
    for split, (path, names) in named.items():
        if what == "record" and len(set(names)) < len(names):
            twice = next(name for name, count in pd.Series(list(names)).value_counts().items() if count > 1)
            raise PublishedError(f"{path}: record {twice} stands there twice; fetch the file again")
        for name in names:
            if seen.setdefault(name, split) != split:
                raise PublishedError(f"{path}: {what} {name} is in split '{seen[name]}' too; fetch the files again")


@dataclass(frozen=True)
class MatchedSplits:
    """The published records that a cohort holds: train, then val, then test, each in its file's order."""

    rows: NDArray[np.int64]  # (n,) of the cohort
    split: NDArray[Any]  # (n,) "train", "val" or "test", as published
    labels: NDArray[np.int8]  # (n, K), classes in the order of the published ones
    missing: dict[str, int]  # by split, how many published records the cohort has not

    @property
    def counts(self) -> dict[str, int]:
        """Records found, by split."""
        return {split: int((self.split == split).sum()) for split in SPLITS}


def match_records(published: Published, cohort: Cohort) -> MatchedSplits:
    """Which rows of a cohort the published records are.

    Raises:
        PublishedError: none of them is in the cohort.
    """
    places = {record: row for row, record in enumerate(cohort.records)}
    rows, split, labels, missing = [], [], [], {}
    for name, part in published.splits.items():
        here = [number for number, record in enumerate(part.records) if record in places]
        rows += [places[part.records[number]] for number in here]
        split += [name] * len(here)
        labels.append(part.labels[here])
        missing[name] = len(part.records) - len(here)
    if not rows:
        first = published.splits["train"].records[0]
        raise PublishedError(
            f"cohort {cohort.name}: none of the published records of task {published.task} is in it (such as {first}); "
            "take the cohort of that data set"
        )
    return MatchedSplits(np.array(rows, dtype=np.int64), np.array(split), np.concatenate(labels), missing)


class PublishedCohort(Cohort):
    """A cohort whose rows, splits and labels of one task are the published ones; all else is the cohort's own."""

    def __init__(self, cohort: Cohort, published: Published) -> None:
        """
        Raises:
            PublishedError: none of the published records is in the cohort.
        """
        self.__dict__.update(cohort.__dict__)
        self.published, self.found = published, match_records(published, cohort)
        self.tasks = {**cohort.tasks, published.task: published.classes}
        self._place = {row: place for place, row in enumerate(self.found.rows.tolist())}
        n_missing = sum(self.found.missing.values())
        if n_missing:
            log.warning(
                "cohort %s lacks %d of the %d published records of task %s: scores are of the part that is there",
                self.name, n_missing, n_missing + len(self.found.rows), published.task,
            )  # fmt: skip

    def rows(self, split: str | None = None, task: str | None = None, min_report_words: int = 0) -> np.ndarray:
        """As `Cohort.rows`; of the published task, its records in the order of the files, on which draws depend."""
        if task != self.published.task or split not in (None, *SPLITS):
            return super().rows(split, task, min_report_words)  # which refuses a split that there is not
        chosen = self.found.rows if split is None else self.found.rows[self.found.split == split]
        if not min_report_words:
            return chosen
        return chosen[np.isin(chosen, super().rows(min_report_words=min_report_words))]

    def splits(self, rows: np.ndarray) -> np.ndarray:
        """The published split of each of some published records, as text (n,)."""
        return self.found.split[self._places(rows)]

    def labels(self, task: str, rows: np.ndarray) -> np.ndarray:
        """As `Cohort.labels`; of the published task, the published labels."""
        return self.found.labels[self._places(rows)] if task == self.published.task else super().labels(task, rows)

    def _places(self, rows: np.ndarray) -> NDArray[np.int64]:
        try:
            return np.array([self._place[row] for row in np.asarray(rows).tolist()], dtype=np.int64)
        except KeyError as error:
            record = self.records[int(error.args[0])]
            raise CohortError(f"record {record} is in no published split of task {self.published.task}") from None
