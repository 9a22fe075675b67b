"""What a task's labels are worth by themselves: the test score of heads that learnt with them from nothing.

Each run is one draw of the training labels, the very recordings that a probe of that fraction and seed is fitted on, and
its own head's logits are scored: macro AUROC over the test split, mean over the draws, with the probe's interval over
patients. A class that a draw shows with one label value only cannot be learnt from it: as in the probe its scores are
constant, it counts as 0.5, and it is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import labelled_rows
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.score import Floats, Score
from leadwise.progress import Progress
from leadwise.run import Run

PART = "scores"  # of a method that learns labels: its logits


class SupervisedError(ValueError):
    """A run whose scores are not of this task; the message names the run and the remedy."""


@dataclass(frozen=True)
class SupervisedResult:
    """Heads of one fraction of the labels."""

    score: Score  # on the test split, mean over the draws
    unlearnable: tuple[str, ...]  # classes with one label value only in some draw


def score_supervised(
    runs: Sequence[Run], cohort: Cohort, task: str, progress: Progress | None = None
) -> SupervisedResult:
    """The test score of runs that learnt this task of this cohort, one for each draw of its labels.

    Raises:
        SupervisedError: no run, or one that did not learn this task from this cohort.
    """
    if not runs:
        raise SupervisedError(f"no run to score on task '{task}' of {cohort.name}")
    rows = cohort.rows(split="test", task=task)
    drawn = [_logits(run, cohort, task, rows, progress) for run in runs]
    patients = np.array(cohort.patients.take(rows))
    found = auroc_score(
        cohort.labels(task, rows), np.stack([scores for scores, _ in drawn]), patients, cohort.tasks[task]
    )
    return SupervisedResult(found, tuple(sorted({name for _, lost in drawn for name in lost})))


def _logits(
    run: Run, cohort: Cohort, task: str, rows: np.ndarray, progress: Progress | None
) -> tuple[Floats, list[str]]:
    """A run's logits (N, K) of rows, and the classes that it could not learn."""
    classes, learnt = cohort.tasks[task], run.config.data
    if PART not in run.method.parts or learnt.task != task or tuple(run.config.method["classes"]) != tuple(classes):
        raise SupervisedError(
            f"run {run.name} did not learn task '{task}': pretrain method 'supervised' with data.task={task}"
        )
    if run.provenance.get("fingerprint", cohort.fingerprint) != cohort.fingerprint:
        raise SupervisedError(
            f"run {run.name} learnt another cohort's labels than those of {cohort.name}: train it anew"
        )
    taught = cohort.labels(
        task, labelled_rows(cohort, task, learnt.train_split, learnt.label_fraction, learnt.label_seed)
    )
    lost = taught.min(axis=0) == taught.max(axis=0)  # (K,)
    scores = np.where(lost, 0.0, embed_cohort(run, cohort, PART, rows, progress).astype(np.float64))
    return scores, [name for name, gone in zip(classes, lost) if gone]
