"""Test scores of a classifier trained from scratch on a task's labels: the reference for what the labels alone achieve.

Each run uses one draw of the training labels, the same recordings that a probe of that fraction and seed is fitted on. The
logits of its own head are scored: macro AUROC over the test split, mean over the draws, with the probe's interval over
patients. A class with a single label value in a draw cannot be learned from it: as in the probe its scores are constant, it
counts as 0.5, and the result names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import labelled_rows
from leadwise.evaluate.embed import embed_cohort, usable
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.score import Floats, Score
from leadwise.progress import Progress
from leadwise.run import Run

PART = "scores"  # the part of the supervised method that holds its logits


class SupervisedError(ValueError):
    """A run that was not trained on this task; the message names the run and the remedy."""


@dataclass(frozen=True)
class SupervisedResult:
    """Scores of the runs of one fraction of the labels."""

    score: Score  # on the test split, mean over the draws
    unlearnable: tuple[str, ...]  # classes with a single label value in at least one draw


def score_supervised(
    runs: Sequence[Run], cohort: Cohort, task: str, progress: Progress | None = None
) -> SupervisedResult:
    """Return the test score of runs trained on this task of this cohort, one run per draw of its labels.

    Raises:
        SupervisedError: no run is given, or one was not trained on this task of this cohort.
    """
    if not runs:
        raise SupervisedError(f"no run to score on task '{task}' of {cohort.name}")
    rows = cohort.rows(split="test", task=task)
    for run in runs:
        rows, _ = usable(run, cohort, rows)
    per_run = [_logits(run, cohort, task, rows, progress) for run in runs]
    patients = np.array(cohort.patients.take(rows))
    logits = np.stack([run_logits for run_logits, _ in per_run])
    test_score = auroc_score(cohort.labels(task, rows), logits, patients, cohort.tasks[task])
    return SupervisedResult(test_score, tuple(sorted({name for _, unlearnable in per_run for name in unlearnable})))


def _logits(
    run: Run, cohort: Cohort, task: str, rows: np.ndarray, progress: Progress | None
) -> tuple[Floats, list[str]]:
    """Return a run's logits (N, K) of rows, and the classes it could not learn."""
    # the run must be trained on this task, with these classes, from this cohort
    classes, data = cohort.tasks[task], run.config.data
    if PART not in run.method.parts or data.task != task or tuple(run.config.method["classes"]) != tuple(classes):
        raise SupervisedError(
            f"run {run.name} was not trained on task '{task}': pretrain method 'supervised' with data.task={task}"
        )
    if run.provenance.get("fingerprint", cohort.fingerprint) != cohort.fingerprint:
        raise SupervisedError(
            f"run {run.name} was trained on the labels of another cohort than {cohort.name}: train it again on this one"
        )

    # a class with a single label value among the training labels gets constant scores
    available, _ = usable(run, cohort, cohort.rows(split=data.train_split, task=task))
    train_rows = labelled_rows(cohort, task, data.train_split, data.label_fraction, data.label_seed, available)
    train_labels = cohort.labels(task, train_rows)
    unlearnable = train_labels.min(axis=0) == train_labels.max(axis=0)  # (K,)
    logits = embed_cohort(run, cohort, PART, rows, progress).astype(np.float64)
    return np.where(unlearnable, 0.0, logits), [name for name, lost in zip(classes, unlearnable) if lost]
