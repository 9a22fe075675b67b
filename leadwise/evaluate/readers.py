"""What reads classes out of embeddings, kept so that it can be asked again: of groups, of changed ECGs, of hidden leads.

A probe is fitted once, on clean training recordings, by the rules of `probe`; its strength is chosen on validation.
Words are the mean prompt embeddings of `zeroshot`. Both give the very scores of those verbs on the recordings they saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort import Cohort
from leadwise.evaluate import prompts
from leadwise.evaluate.embed import Features
from leadwise.evaluate.metrics import Floats, auroc
from leadwise.evaluate.probe import STRENGTHS, ProbeError, Task
from leadwise.evaluate.words import class_vector, cosines, embed_prompts
from leadwise.run import Run

PROBE, WORDS = "probe", "zero-shot"

_MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Reader:
    """Scores classes from embeddings of one part of a run."""

    name: str  # PROBE or WORDS
    part: str  # of the method, whose embedding it reads
    classes: tuple[str, ...]
    scores: Callable[[Features], Floats]  # (N, D) -> (N, K): logits, or cosines
    unit: str  # of the scores, in words
    prompts: dict[str, str] | None = None  # of WORDS: file, sha256 and set


def has_part(run: Run, part: str) -> bool:
    """Whether the run can embed this part: the method has it, and these settings gave it a head."""
    return part in run.method.parts and (
        part not in ("specific", "both") or bool(getattr(run.method, "has_specific", True))
    )


def reads_text(run: Run) -> bool:
    """Whether the run has a text encoder, so that words can be set against ECGs."""
    return hasattr(run.method, "embed_text")


def task_of(cohort: Cohort, task: str, rows: NDArray[np.integer]) -> Task:
    """What a task asks of these rows.

    Raises:
        ProbeError: a split is empty, or two share a patient.
    """
    return Task(
        classes=tuple(cohort.tasks[task]),
        labels=cohort.labels(task, rows),
        split=cohort.splits(rows),
        patient=np.array(cohort.patients.take(rows)),
    )


def fit_probe(features: NDArray[np.floating], task: Task, part: str = "backbone") -> Reader:
    """A logistic regression per class on all training recordings; features (N, D) in the order of the task.

    A class with one label value among the training recordings cannot be learnt: its scores are 0 for all.

    Raises:
        ProbeError: no class has both label values on validation.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    train, val = task.rows("train"), task.rows("val")
    wide = np.asarray(features, dtype=np.float64)
    mean, spread = wide[train].mean(axis=0), wide[train].std(axis=0)
    varies = spread > 1e-6 * np.maximum(1e-6, np.abs(mean))  # beyond rounding, as `probe` does

    def standard(values: NDArray[np.floating]) -> Floats:
        return np.where(varies, (np.asarray(values, np.float64) - mean) / np.where(varies, spread, 1.0), 0.0)

    known = task.labels[train]
    learnable = np.flatnonzero(known.min(axis=0) < known.max(axis=0))
    models = {k: LogisticRegression(warm_start=True, max_iter=_MAX_ITERATIONS) for k in learnable}
    inputs, best = standard(wide[train]), -np.inf
    slopes, level = np.zeros((wide.shape[1], len(task.classes))), np.zeros(len(task.classes))
    with threadpool_limits(1, user_api="blas"):  # products this small take longer when threads wait for each other
        for strength in STRENGTHS:  # from strong to weak penalty, each from where the last one ended
            new_slopes, new_level = np.zeros_like(slopes), np.zeros_like(level)
            for k, model in models.items():
                model.set_params(C=strength).fit(inputs, known[:, k])
                new_slopes[:, k], new_level[k] = model.coef_[0], model.intercept_[0]
            each = auroc(task.labels[val], standard(wide[val]) @ new_slopes + new_level)
            if not np.isfinite(each).any():
                raise ProbeError("no class has both label values in split 'val', so no strength can be chosen")
            if (macro := float(np.nanmean(each))) > best:
                best, slopes, level = macro, new_slopes, new_level

    def scores(values: Features) -> Floats:
        return np.asarray(standard(values) @ slopes + level)

    return Reader(PROBE, part, task.classes, scores, "logit")


def read_words(run: Run, cohort: Cohort, task: str, prompt_file: Path | None = None) -> Reader:
    """The class vectors of a task's prompts: those of the file where it is for this task, else those that are shipped.

    Raises:
        PromptError: the file cannot be used, or none are shipped.
    """
    classes = tuple(cohort.tasks[task])
    loaded = prompts.load(prompt_file) if prompt_file else None
    if loaded is None or loaded.task != task:
        loaded = prompts.load(prompts.find(cohort.source, task))
    vectors = [class_vector(texts) for texts in embed_prompts(run, loaded.of(classes))]
    return Reader(WORDS, "shared", classes, lambda ecg: cosines(ecg, vectors), "cosine", loaded.told())
