"""Classes from words alone: an ECG is scored by the cosine of its shared embedding to a class's mean prompt embedding.

A class's vector is the mean of its prompts' unit embeddings, brought back to unit length. Beside the trained run
stand its untrained twin; a control that pairs each ECG with another patient's labels, which must sit at 0.5; and the
scores of every other set of prompts and of single prompts, which tell how much the wording matters. F1 alone needs
labels: its thresholds are fixed on the validation split. A cosine is no probability, so there is no calibration.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import prompts
from leadwise.evaluate import sensitivity as wording
from leadwise.evaluate.embed import count_training_patients, embed_cohort
from leadwise.evaluate.metrics import all_metrics as beside
from leadwise.evaluate.metrics.auroc import Control, auroc_score, shuffled_pairs
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.f1 import best_thresholds
from leadwise.evaluate.metrics.score import Floats, Score
from leadwise.evaluate.prompts import ClassPrompts, Prompts
from leadwise.evaluate.sensitivity import PromptSensitivity
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts
from leadwise.progress import Progress, relabel
from leadwise.run import Run

log = logging.getLogger(__name__)


class ZeroShotError(ValueError):
    """A run or task that cannot be classified from words; the message says which and why."""


@dataclass(frozen=True)
class ZeroShotReport:
    """A run's zero-shot scores for one task."""

    cohort: str
    run: str
    task: str
    split: str
    fingerprints: dict[str, str]  # of the cohort's data and of the run's weights
    n_training_patients: int  # people of the split that the run was pre-trained on: must be 0
    classes: dict[str, str]  # class -> plain name
    prompts: dict[str, tuple[str, ...]]  # class -> its prompts
    prompt_file: str
    prompt_sha256: str
    prompt_set: str  # name, short, rich or own
    n_prompts: int
    trained: Score
    untrained: Score
    measures: dict[str, Score]  # of the trained run beside AUROC: auprc, and f1 with thresholds from validation
    measures_untrained: dict[str, Score]
    shuffled: Control | None  # None: one patient holds over half of the recordings
    sensitivity: PromptSensitivity  # to the wording: every set of the file, and single prompts
    window: str | None = None  # which part of longer recordings was seen; None: as the run was promised

    @property
    def single_prompts(self) -> tuple[float, ...]:
        """Macro AUROC when each class has its first, second ... prompt of the set only."""
        return self.sensitivity.of_set[self.prompt_set].single

    def to_json(self) -> dict[str, Any]:
        above, interval = gain(self.trained, self.untrained)
        return {
            "command": "zeroshot",
            "protocol": "strict",
            "cohort": self.cohort,
            "run": self.run,
            "window": self.window,
            "fingerprints": dict(self.fingerprints),
            "n_people_seen_in_pretraining": self.n_training_patients,
            "task": self.task,
            "split": self.split,
            "prompts": {
                "file": self.prompt_file,
                "sha256": self.prompt_sha256,
                "set": self.prompt_set,
                "n_prompts": self.n_prompts,
                "classes": {code: list(texts) for code, texts in self.prompts.items()},
            },
            "trained": self.trained.to_json(),
            "untrained": self.untrained.to_json(),
            "measures": {
                "trained": beside.to_json(self.measures),
                "untrained": beside.to_json(self.measures_untrained),
            },
            "gain_over_untrained": {"macro": above, "interval": list(interval)},
            "shuffled": self.shuffled.to_json() if self.shuffled else None,
            "single_prompts": {
                "macro": list(self.single_prompts),
                "min": min(self.single_prompts),
                "max": max(self.single_prompts),
            },
            "sensitivity": self.sensitivity.to_json(),
            "classes": dict(self.classes),
            "n_records": self.trained.n_records,
        }

    def rows(self) -> list[dict[str, Any]]:
        """The table, a dict a line; AUROCs in [0, 1]."""
        lines = [("trained", self.trained.macro, self.trained.interval)]
        lines.append(("untrained", self.untrained.macro, self.untrained.interval))
        if self.shuffled:
            lines.append(("shuffled pairs", self.shuffled.mean, self.shuffled.interval))
        skipped = ", ".join(self.trained.skipped)
        others = {"trained": self.measures, "untrained": self.measures_untrained}
        return [
            {"features": name, "macro": macro, "low": low, "high": high}
            | beside.table_cells(others.get(name, {}), ("auprc", "f1"))
            | {"skipped": skipped, "no threshold": self._without_threshold()}
            for name, macro, (low, high) in lines
        ]

    def _without_threshold(self) -> str:
        """Classes that are scored but have no F1, because validation holds no positive."""
        if "f1" not in self.measures:
            return ""
        return ", ".join(name for name in self.measures["f1"].skipped if name not in self.trained.skipped)

    def class_rows(self) -> list[dict[str, Any]]:
        """A line for each class: its name, positives, AUROC with interval, and the untrained encoder's."""
        rows = []
        for code, name in self.classes.items():
            low, high = self.trained.class_interval[code] or (None, None)
            rows.append(
                {
                    "class": code,
                    "name": name,
                    "positives": self.trained.positives[code],
                    "auroc": self.trained.per_class[code],
                    "low": low,
                    "high": high,
                    "untrained": self.untrained.per_class[code],
                    **beside.class_cells(self.measures, code, ("auprc", "f1")),
                }
            )
        return rows

    def long_rows(self) -> list[dict[str, Any]]:
        """A line for each encoder, measure and class, with its interval: for other programs to read."""
        about: dict[str, Any] = {"command": "zeroshot", "protocol": "strict", "cohort": self.cohort, "run": self.run}
        about |= {"window": self.window, "task": self.task, "split": self.split}
        return [
            line
            for name, auc, others in (
                ("trained", self.trained, self.measures),
                ("untrained", self.untrained, self.measures_untrained),
            )
            for line in beside.long_rows({"auroc": auc, **others}, {**about, "features": name})
        ]


def run_zeroshot(
    run: Run,
    cohort: Cohort,
    task: str,
    prompts_path: Path | None = None,
    split: str = "test",
    progress: Progress | None = None,
    window: str | None = None,
    prompt_set: str | None = None,
) -> ZeroShotReport:
    """Zero-shot scores of a run on one split of a task, with the untrained twin and the shuffled control.

    Args:
        prompts_path: a prompt file; default the one shipped for the cohort's source and the task.
        prompt_set: name, short or rich; default rich, or what a file of one's own holds.
        window: which part of each recording is seen (`data/windows.py`); default: as the run was promised.

    Raises:
        ZeroShotError: the run has no text encoder, or the split holds no recording of the task.
        PromptError: the prompt file does not fit the task.
        ScoreError: no class of the task has both label values in the split.
        WindowError: no such window, or MERL's, which belongs to the legacy protocol.
    """
    _check_text_encoder(run)
    crops.check_strict(window)
    rows = cohort.rows(split, task)
    if not len(rows):
        raise ZeroShotError(f"cohort {cohort.name}: no recording of task '{task}' in split '{split}'")
    classes = tuple(cohort.tasks[task])
    loaded = load_prompts(cohort, task, prompts_path)
    chosen = prompt_set or loaded.sets[-1]
    of_class = loaded.for_classes(classes, chosen)
    labels = cohort.labels(task, rows)
    patients = np.array(cohort.patients.take(rows))

    cache = run.folder / "embeddings" if run.folder else None
    twin = run.untrained()
    val = cohort.rows("val", task) if split != "val" else rows[:0]  # fixes F1's thresholds, and nothing else
    both = np.concatenate([rows, val])
    ecg = embed_cohort(run, cohort, "shared", both, relabel(progress, "embed, trained"), cache, window)
    ecg_untrained = embed_cohort(twin, cohort, "shared", both, relabel(progress, "embed, untrained"), cache, window)
    texts = {which: embed_prompts(run, loaded.for_classes(classes, which)) for which in loaded.sets}
    of_both = cosines(ecg, [class_vector(vectors) for vectors in texts[chosen]])
    of_both_untrained = cosines(ecg_untrained, [class_vector(vectors) for vectors in embed_prompts(twin, of_class)])
    scores, scores_untrained = of_both[: len(rows)], of_both_untrained[: len(rows)]
    sensitivity = wording.measure_sensitivity(labels, ecg[: len(rows)], texts, patients, classes, chosen)

    def others(values: Floats) -> dict[str, Score]:
        calls = best_thresholds(cohort.labels(task, val), values[len(rows) :])[None] if len(val) else None
        return beside.compute_metrics(labels, values[None, : len(rows)], patients, classes, calls)

    return ZeroShotReport(
        cohort=cohort.name,
        run=run.name,
        task=task,
        split=split,
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        n_training_patients=count_training_patients(run, cohort, rows),
        classes={code: entry.name for code, entry in zip(classes, of_class)},
        prompts={code: entry.prompts for code, entry in zip(classes, of_class)},
        prompt_file=loaded.path.name,
        prompt_sha256=loaded.sha256,
        prompt_set=chosen,
        n_prompts=sum(len(entry.prompts) for entry in of_class),
        trained=sensitivity.of_set[chosen].score,
        untrained=auroc_score(labels, scores_untrained, patients, classes),
        measures=others(of_both),
        measures_untrained=others(of_both_untrained),
        shuffled=shuffled_pairs(labels, scores, patients),
        sensitivity=sensitivity,
        window=window,
    )


def zeroshot_scores(
    run: Run,
    cohort: Cohort,
    rows: NDArray[np.int64],
    of_class: Sequence[ClassPrompts],
    progress: Progress | None = None,
    window: str | None = None,
) -> Floats:
    """(n, K) cosines of a cohort's rows to K classes, those that `run_zeroshot` counts for the trained run.

    Raises:
        ZeroShotError: the run has no text encoder.
    """
    _check_text_encoder(run)
    ecg = embed_cohort(run, cohort, "shared", rows, progress, window=window)
    return cosines(ecg, [class_vector(vectors) for vectors in embed_prompts(run, of_class)])


def _check_text_encoder(run: Run) -> None:
    if not run.method.embeds_text:
        raise ZeroShotError(f"run {run.name} learnt from ECGs alone (no embed_text), so it has no words to classify by")


def load_prompts(cohort: Cohort, task: str, path: Path | None) -> Prompts:
    """The prompt file of a task, by default the one shipped for the cohort's source."""
    loaded = prompts.load(path or prompts.find(cohort.source, task))
    if loaded.task != task:
        raise prompts.PromptError(f"{loaded.path}: it is for task '{loaded.task}', but task '{task}' was asked for")
    if loaded.source != cohort.source:
        log.warning(
            "%s was written for source '%s', the cohort is of '%s': one acronym can mean another thing in each",
            loaded.path, loaded.source, cohort.source,
        )  # fmt: skip
    return loaded
