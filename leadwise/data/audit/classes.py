"""Checks whether a cohort's tasks can be trained and scored: class counts by split, and ages; every row of the index."""

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
    first_examples,
    split_codes,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import SPLITS, label_column
from leadwise.data.messages import first_few, short_cell

FEW = 10  # positives (or negatives) in a split; with fewer, a confidence interval is too wide to rank methods by
OLDEST_YEARS = 120
_EMPTY_SPLIT = {
    "train": "no probe can be trained on it",
    "val": "nothing can be chosen on it",
    "test": "it cannot be scored",
}


@dataclass(frozen=True)
class ClassCount:
    """How many recordings of each split have a class (1) or not (0), among those with every label of the task."""

    task: str
    name: str
    positive: tuple[int, int, int]  # by SPLITS
    negative: tuple[int, int, int]

    def row(self) -> dict[str, Any]:
        """Return the counts as a row of a table."""
        return {
            "task": self.task,
            "class": self.name,
            **{f"{split} +": n for split, n in zip(SPLITS, self.positive)},
            **{f"{split} −": n for split, n in zip(SPLITS, self.negative)},
        }


def check_classes(cohort: Cohort) -> tuple[list[ClassCount], list[Finding]]:
    """Return the counts of every class of every main task, and the findings on them."""
    split = split_codes(cohort)
    site, sites = _sites(cohort)
    counts: list[ClassCount] = []
    findings: list[Finding] = []
    for task, names in cohort.main_tasks.items():
        values = np.stack([_label(cohort, task, name) for name in names])  # (K, n) int8, -1 = unknown
        complete = np.asarray((values >= 0).all(axis=0))
        task_counts = [_count(task, name, column, complete, split) for name, column in zip(names, values)]
        counts += task_counts
        findings += _check_rare_classes(task, task_counts)
        findings += _check_incomplete_labels(cohort, task, values, complete)
        findings += _check_equal_classes(task, names, values[:, complete])
        findings += _check_sites(task, names, values[:, complete], site[complete], sites)
    return counts, findings


def _label(cohort: Cohort, task: str, name: str) -> np.ndarray:
    return np.concatenate(
        [batch.column(0).fill_null(-1).to_numpy() for batch in cohort.columns([label_column(task, name)])]
    )


def _count(task: str, name: str, column: np.ndarray, complete: np.ndarray, split: np.ndarray) -> ClassCount:
    def by_split(value: int) -> tuple[int, int, int]:
        train, val, test = np.bincount(split[complete & (column == value)], minlength=len(SPLITS)).tolist()
        return train, val, test

    return ClassCount(task, name, by_split(1), by_split(0))


def _check_rare_classes(task: str, counts: list[ClassCount]) -> list[Finding]:
    """Findings on splits without labels, classes with one label value only, and classes with few positives."""
    findings = []

    def add(check: str, severity: Severity, classes: Sequence[object], message: str) -> None:
        findings.append(Finding(f"task {task}, {check}", severity, len(classes), len(counts), "classes", message))

    for k, split in enumerate(SPLITS):
        if not any(count.positive[k] + count.negative[k] for count in counts):
            message = f"No recording in split {split} has every label of the task: {_EMPTY_SPLIT[split]}."
            add(f"nothing in {split}", "warning", counts, message)
            continue
        constant = [c.name for c in counts if min(c.positive[k], c.negative[k]) == 0]
        rare = [f"{c.name} {c.positive[k]}" for c in counts if 0 < c.positive[k] < FEW and c.negative[k]]
        if constant:
            effect = "a probe cannot learn them" if k == 0 else "their AUROC is undefined"
            message = (
                f"All labels of these classes are equal in split {split}, so {effect} ({first_few(constant, 12)})."
            )
            add(f"cannot be {'learned' if k == 0 else 'scored'} in {split}", "warning", constant, message)
        if rare:
            effect = "a probe can hardly learn them" if k == 0 else "their confidence intervals will be wide"
            message = f"Fewer than {FEW} positives in split {split}: {effect} ({first_few(rare, 12)})."
            add(f"few positives in {split}", "note", rare, message)
    return findings


def _check_incomplete_labels(cohort: Cohort, task: str, values: np.ndarray, complete: np.ndarray) -> list[Finding]:
    """Findings on recordings with some labels of a task, which no score uses, and on those with every label 0."""
    findings = []
    known = (values >= 0).any(axis=0)
    rows = np.flatnonzero(known & ~complete)
    if len(rows):
        n_known = (values[:, rows] >= 0).sum(axis=0)
        message = (
            "These recordings have only some labels of the task, so the task skips them. "
            "Write 0 where a missing label means absent."
        )
        details = (f"{n} of {len(values)} known" for n in n_known)
        findings.append(
            Finding(
                f"task {task}, labels partly known",
                "warning",
                len(rows),
                int(known.sum()),
                "recordings",
                message,
                first_examples(cohort, rows, details),
            )
        )
    empty = np.flatnonzero(complete & (values == 0).all(axis=0))
    if len(empty) and len(values) > 1:
        message = "Every label of the task is 0. Check that 0 means absent, and not unexamined."
        findings.append(
            Finding(
                f"task {task}, all labels 0",
                "note",
                len(empty),
                int(complete.sum()),
                "recordings",
                message,
                first_examples(cohort, empty),
            )
        )
    return findings


def _check_equal_classes(task: str, names: tuple[str, ...], values: np.ndarray) -> list[Finding]:
    """Findings on classes with equal labels in every recording, such as a column that was read twice."""
    if values.shape[1] < FEW:
        return []
    pairs = []
    varying = np.flatnonzero((values != values[:, :1]).any(axis=1))
    for position, first in enumerate(varying):
        for second in varying[position + 1 :]:
            if np.array_equal(values[first], values[second]):
                pairs.append(f"{names[first]} = {names[second]}")
    if not pairs:
        return []
    message = f"These classes have equal labels in every recording ({first_few(pairs, 8)}). Was a column read twice?"
    return [Finding(f"task {task}, equal classes", "warning", len(pairs), 0, "pairs", message)]


def _sites(cohort: Cohort) -> tuple[np.ndarray, list[str]]:
    """Return the position of each row's site (n,) int64 in the list of site names, -1 where unknown; and that list."""
    if "site" not in cohort.column_names:
        return np.full(len(cohort), -1), []
    column = pa.chunked_array([batch.column(0) for batch in cohort.columns(["site"])])
    cells = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    known = pc.if_else(pc.equal(cells, ""), None, cells).combine_chunks().dictionary_encode()
    position: np.ndarray = known.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return position.astype(np.int64), known.dictionary.to_pylist()


def _check_sites(
    task: str, names: tuple[str, ...], values: np.ndarray, site: np.ndarray, sites: list[str]
) -> list[Finding]:
    """Findings on classes that occur at one site and not at another where at least FEW were expected.

    A model can predict such a class by recognising the site.
    """
    size = np.bincount(site[site >= 0], minlength=len(sites))
    affected = []
    for name, column in zip(names, values):
        has = np.bincount(site[(site >= 0) & (column == 1)], minlength=len(sites))
        elsewhere = (has.sum() - has) / np.maximum(size.sum() - size, 1)  # share of positives at all other sites
        without = np.flatnonzero((has == 0) & (size * elsewhere >= FEW))
        if len(without) and has.max() >= FEW:
            none = first_few((f"{size[k]} at site {short_cell(sites[k], most=64)}" for k in without), 3)
            most = short_cell(sites[int(has.argmax())], most=64)
            affected.append(f"{name} ({has.max()} at site {most}, none of {none})")
    if not affected:
        return []
    message = f"A model may score well on these classes by recognising the site: {first_few(affected, 12)}."
    title = f"task {task}, classes at some sites only"
    return [Finding(title, "warning", len(affected), len(names), "classes", message)]


def check_ages(cohort: Cohort) -> list[Finding]:
    """Return findings on ages that are impossible, all equal or missing, if the index has a column `age`."""
    if "age" not in cohort.column_names:
        return []
    parts = [batch.column(0) for batch in cohort.columns(["age"])]
    if not pa.types.is_floating(parts[0].type):
        message = "The age column contains text, so scores by age band are not possible."
        return [Finding("ages", "note", len(cohort), len(cohort), "recordings", message)]
    years = np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts])
    known = np.isfinite(years)
    findings = []

    # ages outside the possible range
    wrong = np.flatnonzero(known & ((years < 0) | (years > OLDEST_YEARS)))
    if len(wrong):
        message = (
            f"Below 0 or above {OLDEST_YEARS} years. Some sources write 300 for 'over 89' and -1 for 'unknown'; "
            "leave unknown ages empty."
        )
        details = (f"{years[row]:g} years" for row in wrong)
        examples = first_examples(cohort, wrong, details)
        findings.append(Finding("ages", "warning", len(wrong), len(cohort), "recordings", message, examples))

    # one age for everyone: probably another field, such as the number of leads
    if known.sum() >= FEW and len(np.unique(years[known])) == 1:
        message = f"Every age is {years[known][0]:g}. Check whether another field was read as the age."
        findings.append(Finding("ages", "warning", int(known.sum()), len(cohort), "recordings", message))

    if not known.all():
        n = int((~known).sum())
        findings.append(Finding("ages", "note", n, len(cohort), "recordings", "The age is unknown."))
    return findings
