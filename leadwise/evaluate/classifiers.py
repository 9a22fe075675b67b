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

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import logistic_regression, prompts
from leadwise.evaluate.embed import Features
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.probe import ProbeTask
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts
from leadwise.run import Run

PROBE, ZERO_SHOT = "probe", "zero-shot"


@dataclass(frozen=True)
class Classifier:
    """Scores classes from embeddings of one part of a run."""

    name: str  # PROBE or WORDS
    part: str  # of the method, whose embedding it reads
    classes: tuple[str, ...]
    scores: Callable[[Features], Floats]  # (N, D) -> (N, K): logits, or cosines
    unit: str  # of the scores, in words
    prompts: dict[str, str] | None = None  # of WORDS: file, sha256 and set


def has_part(run: Run, part: str) -> bool:
    """Whether the run can embed this part: the method has it, and these settings gave it a head."""
    return part in run.method.parts


def has_text_encoder(run: Run) -> bool:
    """Whether the run has a text encoder, so that words can be set against ECGs."""
    return run.method.embeds_text


def probe_classifier(features: NDArray[np.floating], task: ProbeTask, part: str = "backbone") -> Classifier:
    """A logistic regression per class on all training recordings; features (N, D) in the order of the task.

    A class with one label value among the training recordings cannot be learnt: its scores are 0 for all.

    Raises:
        ProbeError: no class has both label values on validation.
    """
    train, val = task.rows("train"), task.rows("val")
    model = logistic_regression.fit(features[train], task.labels[train], features[val], task.labels[val])
    return Classifier(PROBE, part, task.classes, model.scores, "logit")


def zeroshot_classifier(run: Run, cohort: Cohort, task: str, prompt_file: Path | None = None) -> Classifier:
    """The class vectors of a task's prompts: those of the file where it is for this task, else those that are shipped.

    Raises:
        PromptError: the file cannot be used, or none are shipped.
    """
    classes = tuple(cohort.tasks[task])
    loaded = prompts.load(prompt_file) if prompt_file else None
    if loaded is None or loaded.task != task:
        loaded = prompts.load(prompts.find(cohort.source, task))
    vectors = [class_vector(texts) for texts in embed_prompts(run, loaded.for_classes(classes))]
    return Classifier(ZERO_SHOT, "shared", classes, lambda ecg: cosines(ecg, vectors), "cosine", loaded.provenance())
