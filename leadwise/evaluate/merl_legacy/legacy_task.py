"""A task as both protocols need it: exact labels by name, and the columns and labels of MERL's files and code.

With the published split files, their records, splits and labels replace the cohort's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.published_splits import PublishedCohort, read_published, tasks
from leadwise.evaluate.merl_legacy.probe_heads import Fault, Labels, known_column_orders
from leadwise.evaluate.merl_legacy.unfrozen_batchnorm import embedding_uses_batchnorm, find_batchnorms
from leadwise.evaluate.probe import ProbeTask
from leadwise.run import Run

FIVE_SECOND_SOURCE = "cpsc2018"  # the data set whose recordings MERL's code cuts


@dataclass(frozen=True)
class LegacyTask:
    """A task of n recordings as both protocols need it."""

    cohort: Cohort
    name: str
    rows: np.ndarray  # (n,) of the cohort
    task: ProbeTask  # exact labels
    columns: dict[str, tuple[str, ...]] | None  # the order of label columns in each split; None if it is not known
    substring: Labels | None  # (n, K) labels assigned by substring; None if there are none

    def restricted(self, selected: np.ndarray) -> LegacyTask:
        """Return the task with the recordings that are selected, (n,) bool.

        Raises:
            ProbeError: a split is empty.
        """
        if selected.all():
            return self
        task = replace(
            self.task,
            labels=self.task.labels[selected],
            split=self.task.split[selected],
            patient=self.task.patient[selected],
        )
        substring = None if self.substring is None else self.substring[selected]
        return replace(self, rows=self.rows[selected], task=task, substring=substring)


def with_published_splits(cohort: Cohort, task: str, splits: Path | None) -> Cohort:
    """Return the cohort with the published records, splits and exact labels of a task; the cohort itself without `splits`.

    Raises:
        PublishedError: a file is missing or wrong, or none of its records is in the cohort.
    """
    if splits is None:
        return cohort
    return PublishedCohort(cohort, read_published(splits, task, cohort.tasks.get(task)))


def load_legacy_task(cohort: Cohort, task: str, splits: Path | None = None) -> LegacyTask:
    """Return a task of a cohort, with the published splits in the folder `splits` if it is given.

    Raises:
        PublishedError: as `with_published_splits`.
        ProbeError: a split is empty or shares patients with another.
    """
    # The records, splits and exact labels.
    split_cohort = with_published_splits(cohort, task, splits)
    rows = split_cohort.rows(task=task)
    classes = tuple(split_cohort.tasks[task])
    patients = np.array(split_cohort.patients.take(rows))
    probe_task = ProbeTask(classes, split_cohort.labels(task, rows), split_cohort.splits(rows), patients)

    # The order of label columns and CSN's substring labels: from the files, or as far as they are known without them.
    substring: Labels | None = None
    if isinstance(split_cohort, PublishedCohort):
        columns = dict(split_cohort.published.columns)
        if task == "csn" and splits is not None:
            faulty = PublishedCohort(cohort, read_published(splits, task, classes, "merl_substring"))
            substring = faulty.labels(task, rows)
    else:
        columns = known_column_orders(cohort.source, task, classes) or {}
        if task == "csn" and "acronyms" in cohort.column_names:
            acronyms = cohort.column("acronyms", rows).fillna("")
            substring = np.array([[name in text for name in classes] for text in acronyms], dtype=np.int8)
    return LegacyTask(split_cohort, task, rows, probe_task, columns or None, substring)


def inapplicable_faults(
    run: Run, task: LegacyTask, window: str | None = None, part: str = "backbone"
) -> dict[Fault, str]:
    """Return the faults that cannot occur with this run, task and part, each with the reason."""
    columns, reasons = task.columns, {}
    if columns is None and task.name not in tasks():
        reasons[Fault.POSITIONAL_COLUMNS] = "there are no published files of this task"
    elif columns is None or len(set(columns.values())) == 1:
        reasons[Fault.POSITIONAL_COLUMNS] = "the published files of this task order their columns alike"
    if not find_batchnorms(run.method):
        reasons[Fault.MOVING_BATCHNORM] = "the method has no BatchNorm"
    elif not embedding_uses_batchnorm(run, task.cohort, int(task.rows[0]), part, window):
        reasons[Fault.MOVING_BATCHNORM] = f"the method's '{part}' embedding uses no BatchNorm"
    elif window == "multi_crop_mean":
        reasons[Fault.MOVING_BATCHNORM] = "MERL's batches contain one window of a recording, not several"
    if task.substring is None:
        csn_remedy = "prepare the cohort with its acronyms, or pass the files with --splits"
        reasons[Fault.SUBSTRING_LABELS] = csn_remedy if task.name == "csn" else "only CSN's labels use substrings"
    if task.cohort.source != FIVE_SECOND_SOURCE:
        reasons[Fault.FIVE_SECOND_WINDOW] = "only CPSC2018's recordings are cut"
    elif run.stored is not None:
        reasons[Fault.FIVE_SECOND_WINDOW] = "the embeddings were computed elsewhere, in one window"
    return reasons
