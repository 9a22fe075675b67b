"""A task as both protocols need it: exact labels by name, and what MERL's files and code make of them.

With the published split files, their records, splits and labels stand in for the cohort's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.published_splits import PublishedCohort, read_published, tasks
from leadwise.evaluate.merl_legacy.probe_heads import Fault, Labels, known_column_orders
from leadwise.evaluate.merl_legacy.unfrozen_batchnorm import embedding_uses_batchnorm, find_batchnorms
from leadwise.evaluate.probe import ProbeTask
from leadwise.run import Run


@dataclass(frozen=True)
class LegacyTask:
    """A task of n recordings as both protocols need it."""

    cohort: Cohort
    name: str
    rows: np.ndarray  # (n,) of the cohort
    task: ProbeTask  # exact labels
    columns: dict[str, tuple[str, ...]] | None  # each split's order of label columns, where it is known
    substring: Labels | None  # (n, K) labels made by substring, where there are any


def with_published_splits(cohort: Cohort, task: str, splits: Path | None) -> Cohort:
    """The cohort with the published records, splits and exact labels of a task, found by name; without `splits` itself.

    Raises:
        PublishedError: a file is missing or wrong, or none of its records is in the cohort.
    """
    if splits is None:
        return cohort
    return PublishedCohort(cohort, read_published(splits, task, cohort.tasks.get(task)))


def load_legacy_task(cohort: Cohort, task: str, splits: Path | None = None) -> LegacyTask:
    """What a cohort, and the published splits in a folder, say of a task.

    Raises:
        PublishedError: as `with_published`.
        ProbeError: a split is empty or shares patients with another.
    """
    seen = with_published_splits(cohort, task, splits)
    rows = seen.rows(task=task)
    classes = tuple(seen.tasks[task])
    asked = ProbeTask(classes, seen.labels(task, rows), seen.splits(rows), np.array(seen.patients.take(rows)))
    substring: Labels | None = None
    if isinstance(seen, PublishedCohort):
        columns = dict(seen.published.columns)
        if task == "csn" and splits is not None:
            wrong = PublishedCohort(cohort, read_published(splits, task, classes, "merl_substring"))
            substring = wrong.labels(task, rows)
    else:
        known = known_column_orders(cohort.source, task, classes)
        columns = known or {}
        if task == "csn" and "acronyms" in cohort.column_names:
            said = cohort.column("acronyms", rows).fillna("")
            substring = np.array([[name in text for name in classes] for text in said], dtype=np.int8)
    return LegacyTask(seen, task, rows, asked, columns or None, substring)


def inapplicable_faults(
    run: Run, asked: LegacyTask, window: str | None = None, part: str = "backbone"
) -> dict[Fault, str]:
    """The faults that cannot happen to this run, task and part, each with the reason."""
    columns, reasons = asked.columns, {}
    if columns is None and asked.name not in tasks():
        reasons[Fault.POSITIONAL_COLUMNS] = "there are no published files of this task"
    elif columns is None or len(set(columns.values())) == 1:
        reasons[Fault.POSITIONAL_COLUMNS] = "the published files of this task order their columns alike"
    if not find_batchnorms(run.method):
        reasons[Fault.MOVING_BATCHNORM] = "the method has no BatchNorm"
    elif not embedding_uses_batchnorm(run, asked.cohort, int(asked.rows[0]), part, window):
        reasons[Fault.MOVING_BATCHNORM] = f"no BatchNorm has a part in the method's '{part}' embedding"
    elif window == "multi_crop_mean":
        reasons[Fault.MOVING_BATCHNORM] = "MERL's batches hold one window of a recording, not several"
    if asked.substring is None:
        of_csn = "prepare the cohort with its acronyms, or name the files by --splits"
        reasons[Fault.SUBSTRING_LABELS] = of_csn if asked.name == "csn" else "only CSN's labels were made by substring"
    if asked.cohort.source != "cpsc2018":
        reasons[Fault.FIVE_SECOND_WINDOW] = "only CPSC2018's recordings are cut"
    return reasons
