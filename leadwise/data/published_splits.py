"""Read the splits used for the published tables, from CSV files that the user provides.

    ptbxl/<super_class|sub_class|form|rhythm>/ptbxl_*_{train,val,test}.csv
    icbeb/icbeb_{train,val,test}.csv          CPSC2018
    chapman/chapman_{train,val,test}.csv      CSN

This is the layout of MERL's repository. These files have two faults that must not have an effect here: the label columns
of PTB-XL's sub-classes have another order in val and test than in train, and CSN's columns were derived by substring ("VB"
is in "1AVB"). Here labels are found by name and returned in the order of the caller's classes. CSN's labels are read from
the statements token by token; its columns as published are an option. A record is found by the name of its file, never
by a row number.
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
    """The split files cannot be used; the message names the file, the value and the remedy."""


@dataclass(frozen=True)
class _Layout:
    """The path of a task's files, and their columns other than one per class."""

    stem: str  # the path without _train.csv
    file_column: str  # names the recording's file
    record: re.Pattern[str]  # matches the record name of our cohorts in that column
    metadata: tuple[str, ...]
    patient_column: str | None = None  # real patients: none may be in two splits
    statements: str | None = None  # codes joined by commas, from which the class columns were derived


_PTBXL = ("ecg_id", "patient_id", "strat_fold", "filename_lr", "filename_hr")
_LAYOUTS = {
    task: _Layout(
        f"ptbxl/{name}/ptbxl_{name}", "filename_hr", re.compile(r"(\d{5})_hr$"), (*_PTBXL, name), "patient_id"
    )
    for task, name in {"super": "super_class", "sub": "sub_class", "form": "form", "rhythm": "rhythm"}.items()
} | {
    # patient_id repeats ecg_id in these files, and ecg_id numbers the files of one folder: both are ignored
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
    """One split file: its records, in the order of the file."""

    file: Path
    sha256: str
    records: tuple[str, ...]  # as our cohorts name them
    labels: NDArray[np.int8]  # (n, K) in {0, 1}, classes in the order of `Published.classes`
    columns: tuple[str, ...]  # the K classes in the order of the file


@dataclass(frozen=True)
class Published:
    """A task's three published splits."""

    task: str
    classes: tuple[str, ...]
    rule: LabelRule
    splits: dict[str, PublishedSplit]  # train, val, test

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Each split's own order of label columns, which code that selects columns by position would confuse."""
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
    """Read the published splits of a task from a folder with the layout of MERL's repository.

    Args:
        classes: the K classes in the requested order; default: that of `tasks.py` for PTB-XL, else of the train file.
        labels: "exact", or for csn "merl_substring": its columns as published, wrong in 7 of 38 classes.

    Raises:
        PublishedError: an unknown task, a missing file or column, a column that is not a class, a record that occurs
            twice, a patient in two splits, or a label that is not 0 or 1.
    """
    # the arguments
    layout = _LAYOUTS.get(task)
    if layout is None:
        raise PublishedError(f"no published splits for task {task!r}; choose from {', '.join(_LAYOUTS)}")
    if labels not in ("exact", "merl_substring"):
        raise PublishedError(f"labels {labels!r} is unknown; use exact or merl_substring")
    if labels == "merl_substring" and layout.statements is None:
        raise PublishedError(f"labels merl_substring exist only for csn; use exact for task {task}")
    if classes is None and task in PTBXL:
        classes = tuple(PTBXL[task])

    # the three files
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

    # no record twice, and no patient in two splits
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
    records = []
    for number, name in enumerate(table[layout.file_column], start=2):
        match = layout.record.search(name)
        if match is None:
            raise PublishedError(
                f"{path}, line {number}: {layout.file_column} {name[:60]!r} names no recording of the form "
                f"{layout.record.pattern}"
            )
        records.append(match[1])
    return tuple(records)


def _labels(path: Path, table: pd.DataFrame, classes: tuple[str, ...], statements: str | None) -> NDArray[np.int8]:
    """Labels (n, K) by class name, from the class columns, or from the tokens of the column `statements`."""
    if statements is not None:
        token_sets = [{token.strip() for token in text.split(",")} for text in table[statements]]
        return np.array([[name in tokens for name in classes] for tokens in token_sets], dtype=np.int8)
    values = table[list(classes)].to_numpy()
    wrong = np.argwhere(~np.isin(values, ("0", "1")))
    if len(wrong):
        row, column = (int(at) for at in wrong[0])
        raise PublishedError(
            f"{path}, line {row + 2}: class {classes[column]} is {str(values[row, column])[:20]!r}, not 0 or 1"
        )
    return np.asarray(values == "1", dtype=np.int8)


def _check_apart(what: str, named: dict[str, tuple[Path, Sequence[str]]]) -> None:
    """Raise PublishedError if a record occurs twice, or a record or patient is in two splits."""
    split_of: dict[str, str] = {}
    for split, (path, names) in named.items():
        if what == "record" and len(set(names)) < len(names):
            twice = next(name for name, count in pd.Series(list(names)).value_counts().items() if count > 1)
            raise PublishedError(f"{path}: record {twice} occurs twice; fetch the file again")
        for name in names:
            if split_of.setdefault(name, split) != split:
                raise PublishedError(f"{path}: {what} {name} is in split '{split_of[name]}' too; fetch the files again")


@dataclass(frozen=True)
class MatchedSplits:
    """The published records that a cohort contains: train, then val, then test, each in the order of its file."""

    rows: NDArray[np.int64]  # (n,) of the cohort
    split: NDArray[Any]  # (n,) "train", "val" or "test", as published
    labels: NDArray[np.int8]  # (n, K), classes in the order of the published ones
    missing: dict[str, int]  # by split: the number of published records that the cohort lacks

    @property
    def counts(self) -> dict[str, int]:
        """Records that the cohort contains, by split."""
        return {split: int((self.split == split).sum()) for split in SPLITS}


def match_records(published: Published, cohort: Cohort) -> MatchedSplits:
    """Match the published records to the rows of a cohort by record name.

    Raises:
        PublishedError: the cohort contains none of them.
    """
    places = {record: row for row, record in enumerate(cohort.records)}
    rows, split, labels, missing = [], [], [], {}
    for name, part in published.splits.items():
        present = [number for number, record in enumerate(part.records) if record in places]
        rows += [places[part.records[number]] for number in present]
        split += [name] * len(present)
        labels.append(part.labels[present])
        missing[name] = len(part.records) - len(present)
    if not rows:
        first = published.splits["train"].records[0]
        raise PublishedError(
            f"cohort {cohort.name}: none of the published records of task {published.task} is in it (such as {first}); "
            "use the cohort of that data set"
        )
    return MatchedSplits(np.array(rows, dtype=np.int64), np.array(split), np.concatenate(labels), missing)


class PublishedCohort(Cohort):
    """A cohort with the published rows, splits and labels of one task; everything else is that of the wrapped cohort."""

    def __init__(self, cohort: Cohort, published: Published) -> None:
        """
        Raises:
            PublishedError: the cohort contains none of the published records.
        """
        self.__dict__.update(cohort.__dict__)
        self.published, self.matched = published, match_records(published, cohort)
        self.tasks = {**cohort.tasks, published.task: published.classes}
        self._place = {row: place for place, row in enumerate(self.matched.rows.tolist())}
        n_missing = sum(self.matched.missing.values())
        if n_missing:
            log.warning(
                "cohort %s lacks %d of the %d published records of task %s: scores are computed on the records that it has",
                self.name, n_missing, n_missing + len(self.matched.rows), published.task,
            )  # fmt: skip

    def rows(self, split: str | None = None, task: str | None = None, min_report_words: int = 0) -> np.ndarray:
        """As `Cohort.rows`; for the published task, its records in the order of the files, on which random draws depend."""
        if task != self.published.task or split not in (None, *SPLITS):
            return super().rows(split, task, min_report_words)  # raises for an unknown split
        chosen = self.matched.rows if split is None else self.matched.rows[self.matched.split == split]
        if not min_report_words:
            return chosen
        return chosen[np.isin(chosen, super().rows(min_report_words=min_report_words))]

    def splits(self, rows: np.ndarray) -> np.ndarray:
        """The published split of each of the given rows, as text (n,)."""
        return self.matched.split[self._places(rows)]

    def labels(self, task: str, rows: np.ndarray) -> np.ndarray:
        """As `Cohort.labels`; for the published task, the published labels."""
        return self.matched.labels[self._places(rows)] if task == self.published.task else super().labels(task, rows)

    def _places(self, rows: np.ndarray) -> NDArray[np.int64]:
        try:
            return np.array([self._place[row] for row in np.asarray(rows).tolist()], dtype=np.int64)
        except KeyError as error:
            record = self.records[int(error.args[0])]
            raise CohortError(f"record {record} is in no published split of task {self.published.task}") from None
