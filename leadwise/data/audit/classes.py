"""Can a cohort's tasks be learnt and scored? Counts of each class by split, and ages; from the index alone, every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leadwise.data.audit.finding import (
    Finding,
    Severity,
    examples,
    split_codes,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import SPLITS, label_column
from leadwise.data.messages import first_few, short_cell

FEW = 10  # positives (or negatives) in a split; with fewer, an interval is too wide to rank methods by
OLDEST_YEARS = 120
_WITHOUT = {"train": "it cannot be learnt", "val": "nothing can be chosen on it", "test": "it cannot be scored"}


@dataclass(frozen=True)
class ClassCount:
    """How often a class is 1 and 0 in each split, of recordings that have every label of the task."""

    task: str
    name: str
    positive: tuple[int, int, int]  # by SPLITS
    negative: tuple[int, int, int]

    def row(self) -> dict[str, Any]:
        """A row of a table."""
        return {
            "task": self.task,
            "class": self.name,
            **{f"{split} +": n for split, n in zip(SPLITS, self.positive)},
            **{f"{split} −": n for split, n in zip(SPLITS, self.negative)},
        }


def classes(cohort: Cohort) -> tuple[list[ClassCount], list[Finding]]:
    """The count of every class of every task, and what that means."""
    split = split_codes(cohort)
    site, sites = _sites(cohort)
    counts: list[ClassCount] = []
    found: list[Finding] = []
    for task, names in cohort.tasks.items():
        values = np.stack([_label(cohort, task, name) for name in names])  # (K, n) int8, -1 = not known
        whole = np.asarray((values >= 0).all(axis=0))
        own = [_count(task, name, column, whole, split) for name, column in zip(names, values)]
        counts += own
        found += [*_rare(task, own), *_partly(cohort, task, values, whole), *_same(task, names, values[:, whole])]
        found += _one_site(task, names, values[:, whole], site[whole], sites)
    return counts, found


def _label(cohort: Cohort, task: str, name: str) -> np.ndarray:
    return np.concatenate(
        [batch.column(0).fill_null(-1).to_numpy() for batch in cohort.columns([label_column(task, name)])]
    )


def _count(task: str, name: str, column: np.ndarray, whole: np.ndarray, split: np.ndarray) -> ClassCount:
    def by_split(value: int) -> tuple[int, int, int]:
        train, val, test = np.bincount(split[whole & (column == value)], minlength=len(SPLITS)).tolist()
        return train, val, test

    return ClassCount(task, name, by_split(1), by_split(0))


def _rare(task: str, counts: list[ClassCount]) -> list[Finding]:
    found = []
    for k, split in enumerate(SPLITS):
        if not any(count.positive[k] + count.negative[k] for count in counts):
            said = f"No recording of {split} is in the task: {_WITHOUT[split]}."
            found.append(_of_classes(f"task {task}, nothing in {split}", "warning", counts, counts, said))
            continue
        lone = [c.name for c in counts if min(c.positive[k], c.negative[k]) == 0]
        few = [f"{c.name} {c.positive[k]}" for c in counts if 0 < c.positive[k] < FEW and c.negative[k]]
        if lone:
            so = "nothing can be learnt" if k == 0 else "no AUROC is defined there"
            said = f"Only positives or only negatives in {split}, so {so}: {first_few(lone, 12)}."
            found.append(
                _of_classes(
                    f"task {task}, cannot be {'learnt from' if k == 0 else 'scored in'} {split}",
                    "warning",
                    lone,
                    counts,
                    said,
                )
            )
        if few:
            so = "they will hardly be learnt" if k == 0 else "their intervals will be wide"
            said = f"Fewer than {FEW} positives in {split}: {so} ({first_few(few, 12)})."
            found.append(_of_classes(f"task {task}, few positives in {split}", "note", few, counts, said))
    return found


def _of_classes(
    check: str, severity: Severity, chosen: Sequence[object], counts: list[ClassCount], said: str
) -> Finding:
    return Finding(check, severity, len(chosen), len(counts), "classes", said)


def _partly(cohort: Cohort, task: str, values: np.ndarray, whole: np.ndarray) -> list[Finding]:
    """Recordings with some labels of a task, which are in none of its scores, and those with every label 0."""
    found = []
    known = (values >= 0).any(axis=0)
    rows = np.flatnonzero(known & ~whole)
    if len(rows):
        n_known = (values[:, rows] >= 0).sum(axis=0)
        said = "Some labels of the task are known, others not: they are left out of the task. Fill in 0 where that is meant."
        details = (f"{n} of {len(values)} known" for n in n_known)
        found.append(
            Finding(
                f"task {task}, labels partly known",
                "warning",
                len(rows),
                int(known.sum()),
                "recordings",
                said,
                examples(cohort, rows, details),
            )
        )
    empty = np.flatnonzero(whole & (values == 0).all(axis=0))
    if len(empty) and len(values) > 1:
        said = (
            "Every label of the task is 0. That is right only where nothing of it was found, not where nobody looked."
        )
        found.append(
            Finding(
                f"task {task}, no class holds",
                "note",
                len(empty),
                int(whole.sum()),
                "recordings",
                said,
                examples(cohort, empty),
            )
        )
    return found


def _same(task: str, names: tuple[str, ...], values: np.ndarray) -> list[Finding]:
    """Classes whose labels are equal, or opposite, in every recording: a column taken twice, or one class of two."""
    if values.shape[1] < FEW:
        return []
    pairs = []
    moving = np.flatnonzero((values != values[:, :1]).any(axis=1))
    for place, one in enumerate(moving):
        for other in moving[place + 1 :]:
            if np.array_equal(values[one], values[other]):
                pairs.append(f"{names[one]} = {names[other]}")
    if not pairs:
        return []
    said = f"The labels are equal in every recording: {first_few(pairs, 8)}. Was a column taken twice?"
    return [Finding(f"task {task}, equal classes", "warning", len(pairs), 0, "pairs", said)]


def _sites(cohort: Cohort) -> tuple[np.ndarray, list[str]]:
    """The place of each row's site (n,) int64 in the names of all sites; -1 where it is not known."""
    if "site" not in cohort.column_names:
        return np.full(len(cohort), -1), []
    column = pa.chunked_array([batch.column(0) for batch in cohort.columns(["site"])])
    cells = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    known = pc.if_else(pc.equal(cells, ""), None, cells).combine_chunks().dictionary_encode()
    place: np.ndarray = known.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return place.astype(np.int64), known.dictionary.to_pylist()


def _one_site(
    task: str, names: tuple[str, ...], values: np.ndarray, site: np.ndarray, sites: list[str]
) -> list[Finding]:
    """Classes that a site has and another, where as many were to be expected, has not: the site may be what is learnt."""
    size = np.bincount(site[site >= 0], minlength=len(sites))
    found = []
    for name, column in zip(names, values):
        has = np.bincount(site[(site >= 0) & (column == 1)], minlength=len(sites))
        elsewhere = (has.sum() - has) / np.maximum(size.sum() - size, 1)  # share of positives at all other sites
        without = np.flatnonzero((has == 0) & (size * elsewhere >= FEW))
        if len(without) and has.max() >= FEW:
            none = first_few((f"{size[k]} at site {short_cell(sites[k], most=64)}" for k in without), 3)
            found.append(
                f"{name} ({has.max()} at site {short_cell(sites[int(has.argmax())], most=64)}, none of {none})"
            )
    if not found:
        return []
    said = f"A score for them may tell the site, not the heart: {first_few(found, 12)}."
    return [Finding(f"task {task}, classes of some sites alone", "warning", len(found), len(names), "classes", said)]


def ages(cohort: Cohort) -> list[Finding]:
    """Ages that cannot be, are all the same, or are not there, where the index has a column `age` of numbers."""
    if "age" not in cohort.column_names:
        return []
    parts = [batch.column(0) for batch in cohort.columns(["age"])]
    if not pa.types.is_floating(parts[0].type):
        said = "The column holds text, so no recording can be told apart by age band."
        return [Finding("ages", "note", len(cohort), len(cohort), "recordings", said)]
    years = np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
    known = np.isfinite(years)
    found = []
    wrong = np.flatnonzero(known & ((years < 0) | (years > OLDEST_YEARS)))
    if len(wrong):
        said = f"Below 0 or above {OLDEST_YEARS} years; some sources write 300 for 'over 89' and -1 for 'not known'."
        details = (f"{years[row]:g} years" for row in wrong)
        found.append(
            Finding("ages", "warning", len(wrong), len(cohort), "recordings", said, examples(cohort, wrong, details))
        )
    if known.sum() >= FEW and len(np.unique(years[known])) == 1:
        said = f"Every age is {years[known][0]:g}: was another field read for it?"
        found.append(Finding("ages", "warning", int(known.sum()), len(cohort), "recordings", said))
    if not known.all():
        n = int((~known).sum())
        found.append(Finding("ages", "note", n, len(cohort), "recordings", "Their age is not known."))
    return found
