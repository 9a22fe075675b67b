"""Classifiers on embeddings that can be applied again: to subgroups, changed ECGs and hidden leads.

A probe is fitted once, on unchanged training recordings, by the rules of `probe`; its strength is chosen on validation.
A zero-shot classifier uses the class vectors of `zeroshot`. Both reproduce the scores of those commands on the same recordings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import logistic_regression, prompts
from leadwise.evaluate.embed import Features
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.probe import ProbeTask
from leadwise.evaluate.prompts.dictionary import task_prompts
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts
from leadwise.run import Run

PROBE, ZERO_SHOT = "probe", "zero-shot"


@dataclass(frozen=True)
class Classifier:
    """Class scores from the embeddings of one part of a run."""

    name: str  # PROBE or ZERO_SHOT
    part: str  # the part of the method whose embedding is the input
    classes: tuple[str, ...]
    scores: Callable[[Features], Floats]  # (N, D) -> (N, K): logits, or cosines
    unit: str  # of the scores, as plain text
    prompts: dict[str, str] | None = None  # of ZERO_SHOT: file, sha256 and set


def has_part(run: Run, part: str) -> bool:
    """Return whether the run can embed this part: its method, with the run's settings, has it."""
    return part in run.method.parts


def has_text_encoder(run: Run) -> bool:
    """Return whether the run has a text encoder, so that texts and ECGs can be compared."""
    return run.method.embeds_text


def probe_classifier(features: NDArray[np.floating], task: ProbeTask, part: str = "backbone") -> Classifier:
    """Fit one logistic regression per class on all training recordings.

    A class with a single label value among the training recordings cannot be learned: all its scores are 0.

    Args:
        features: (N, D), in the order of the task's recordings.

    Raises:
        ProbeError: no class has both label values on validation.
    """
    train, val = task.rows("train"), task.rows("val")
    model = logistic_regression.fit(features[train], task.labels[train], features[val], task.labels[val])
    return Classifier(PROBE, part, task.classes, model.scores, "logit")


def zeroshot_classifier(run: Run, cohort: Cohort, task: str, prompt_file: Path | None = None) -> Classifier:
    """Return the zero-shot classifier of a task's prompts.

    Uses `prompt_file` if it belongs to this task, else the task's shipped prompts, else the dictionary of findings.

    Raises:
        PromptError: the file cannot be used, or there are no prompts for the task.
    """
    classes = tuple(cohort.tasks[task])
    loaded = prompts.load(prompt_file) if prompt_file else None
    if loaded is None or loaded.task != task:
        loaded = task_prompts(cohort.source, task, classes)
    vectors = [class_vector(texts) for texts in embed_prompts(run, loaded.for_classes(classes))]
    return Classifier(ZERO_SHOT, "shared", classes, lambda ecg: cosines(ecg, vectors), "cosine", loaded.provenance())
