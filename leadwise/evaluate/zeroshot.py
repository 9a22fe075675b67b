"""Zero-shot classification: the score of a class is the cosine of the ECG embedding to the class's mean prompt embedding.

A class vector is the mean of the unit embeddings of its prompts, scaled to unit length. The report also contains the scores of
the same encoder untrained; a control that pairs each ECG with another patient's labels, which must be at 0.5; and the
scores of every other prompt set and of single prompts, which measure how much the wording matters. Only F1 uses labels: its
thresholds are fixed on the validation split. A cosine is not a probability: calibration error and Brier score are only reported
if the run has a calibration for exactly these prompts (`leadwise calibrate`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import LeftOut, usable_rows
from leadwise.evaluate import prompt_calibration, prompts, vocabulary
from leadwise.evaluate.embed import embed_cohort, scored_recordings, training_overlap, usable
from leadwise.evaluate.metrics import all_metrics
from leadwise.evaluate.metrics.auroc import Control, auroc_score, shuffled_pairs
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.f1 import Thresholds
from leadwise.evaluate.metrics.score import Floats, Score
from leadwise.evaluate.prompt_calibration import PromptSetCalibration
from leadwise.evaluate.prompts import ClassPrompts, Prompts
from leadwise.evaluate.prompts.dictionary import task_prompts
from leadwise.evaluate.sensitivity import PromptSensitivity, measure_sensitivity
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts
from leadwise.methods.catalogue import patch_samples
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.trained_on import TrainingOverlap

log = logging.getLogger(__name__)


class ZeroShotError(ValueError):
    """A run or task without zero-shot classification; the message names it and the reason."""


@dataclass(frozen=True)
class ZeroShotReport:
    """A run's zero-shot scores for one task."""

    cohort: str
    run: str
    task: str
    split: str
    fingerprints: dict[str, str]  # of the cohort's data and of the run's weights
    overlap: TrainingOverlap  # of the split with the training of the run: must be empty
    pretraining_data: str  # the data sets that the encoder was trained on, "none" or "unknown"
    classes: dict[str, str]  # class -> plain name
    prompts: dict[str, tuple[str, ...]]  # class -> its prompts
    prompt_file: str
    prompt_sha256: str
    prompt_set: str  # name, short, rich or own
    n_prompts: int
    trained: Score
    untrained: Score
    # of the trained run, in addition to AUROC: auprc, the variants of f1, and with a calibration ece and brier
    measures: dict[str, Score]
    measures_untrained: dict[str, Score]
    shuffled: Control | None  # None: one patient has over half of the recordings
    sensitivity: PromptSensitivity  # to the wording: every prompt set of the file, and single prompts
    window: str | None = None  # window of longer recordings; None: the run's own setting
    scored_by_name: tuple[str, ...] = ()  # classes without prompts of their own
    unknown_words: dict[str, tuple[str, ...]] = field(default_factory=dict)  # class -> words rare or absent in training
    left_out: LeftOut = field(default_factory=LeftOut)  # recordings that the run cannot embed, with those of validation
    calibration: PromptSetCalibration | None = None  # of the run, for exactly these prompts
    calibration_overlap: TrainingOverlap | None = None  # of the split with what that was fitted on; None: not listed

    @property
    def single_prompts(self) -> tuple[float, ...]:
        """Macro AUROC with only the first, the second ... prompt of each class."""
        return self.sensitivity.by_set[self.prompt_set].single

    def to_json(self) -> dict[str, Any]:
        above, interval = gain(self.trained, self.untrained)
        return {
            "command": "zeroshot",
            "protocol": "strict",
            "cohort": self.cohort,
            "run": self.run,
            "window": self.window,
            "fingerprints": dict(self.fingerprints),
            "pretraining_data": self.pretraining_data,
            **self.overlap.to_json(),
            "task": self.task,
            "split": self.split,
            "prompts": {
                "file": self.prompt_file,
                "sha256": self.prompt_sha256,
                "set": self.prompt_set,
                "n_prompts": self.n_prompts,
                "classes": {code: list(texts) for code, texts in self.prompts.items()},
                **({"scored_by_name": list(self.scored_by_name)} if self.scored_by_name else {}),
            },
            "trained": self.trained.to_json(),
            "untrained": self.untrained.to_json(),
            "measures": {
                "trained": all_metrics.to_json(self.measures),
                "untrained": all_metrics.to_json(self.measures_untrained),
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
            **({"calibration": self.calibration.about() | self._calibration_counts} if self.calibration else {}),
            **(
                {"unknown_words": {code: list(words) for code, words in self.unknown_words.items()}}
                if self.unknown_words
                else {}
            ),
            **self.left_out.to_json(),
        }

    @property
    def remark(self) -> str:
        """A remark on words of the prompts that the run does not know, else ''."""
        words = list(dict.fromkeys(word for of_class in self.unknown_words.values() for word in of_class))
        if not words:
            return ""
        n = len(self.unknown_words)
        return f"words in the prompts of {n} of {len(self.classes)} classes were {vocabulary.remark(words)}"

    @property
    def calibration_remark(self) -> str:
        """What the probabilities behind ece and brier were fitted on; '' without a calibration."""
        if self.calibration is None:
            return ""
        fitted = (self.calibration.cohort_fingerprint, self.calibration.split)
        if fitted == (self.fingerprints["cohort"], self.split):
            own = "They were fitted on the recordings that are scored here, so ece and brier are too low."
        elif self.calibration_overlap is not None and self.calibration_overlap.is_leak:
            counts = self.calibration_overlap
            unknown = f"an unknown number ({counts.unknown})"  # not 0: names of two data sets cannot be compared
            people = unknown if counts.n_patients is None else counts.n_patients
            own = f"They were fitted on {people} of the {counts.n_tested} persons that are scored here, and on "
            own += f"{counts.n_signals} identical signals, so ece and brier are too low."
        else:
            return self.calibration.sentence
        return f"{self.calibration.sentence} {own}"

    @property
    def _calibration_counts(self) -> dict[str, int | None]:
        counts = self.calibration_overlap
        return {} if counts is None else {"n_people_scored": counts.n_patients, "n_signals_scored": counts.n_signals}

    @property
    def _measure_names(self) -> tuple[str, ...]:
        without = (*all_metrics.RANKING, *all_metrics.AT_THRESHOLDS)
        return without if self.calibration is None else all_metrics.METRICS

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, one dict per row; AUROCs in [0, 1]."""
        lines = [("trained", self.trained.macro, self.trained.interval)]
        lines.append(("untrained", self.untrained.macro, self.untrained.interval))
        if self.shuffled:
            lines.append(("shuffled pairs", self.shuffled.mean, self.shuffled.interval))
        skipped = ", ".join(self.trained.skipped)
        others = {"trained": self.measures, "untrained": self.measures_untrained}
        return [
            {"features": name, "macro": macro, "low": low, "high": high}
            | all_metrics.table_cells(others.get(name, {}), self._measure_names)
            | {"skipped": skipped, "no threshold": self._without_threshold()}
            for name, macro, (low, high) in lines
        ]

    def _without_threshold(self) -> str:
        """Return the classes that have an AUROC but no F1, because validation has no positive."""
        if "f1_val" not in self.measures:
            return ""
        return ", ".join(name for name in self.measures["f1_val"].skipped if name not in self.trained.skipped)

    def class_rows(self) -> list[dict[str, Any]]:
        """Return one row per class: name, positives, AUROC with interval, and the AUROC of the untrained encoder."""
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
                    **all_metrics.class_cells(self.measures, code, self._measure_names),
                }
            )
        return rows

    def long_rows(self) -> list[dict[str, Any]]:
        """Return one row per encoder, measure and class, with its interval, as written to CSV."""
        about: dict[str, Any] = {"command": "zeroshot", "protocol": "strict", "cohort": self.cohort, "run": self.run}
        about |= {"window": self.window, "task": self.task, "split": self.split}
        return [
            line
            for name, auc, others in (
                ("trained", self.trained, self.measures),
                ("untrained", self.untrained, self.measures_untrained),
            )
            for line in all_metrics.long_rows({"auroc": auc, **others}, {**about, "features": name})
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
    """Score zero-shot classification on one split of a task, with the untrained encoder and the shuffled control.

    Args:
        prompts_path: a prompt file; default: the one shipped for the cohort's source and the task, else the dictionary.
        prompt_set: name, short or rich; default: rich, or the single list of your own file.
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.

    Raises:
        ZeroShotError: the run has no text encoder, or the split has no recording of the task.
        PromptError: the prompt file does not match the task.
        ScoreError: no class of the task has both label values in the split.
        WindowError: `window` is unknown, or MERL's, which only the legacy protocol uses.
    """
    # recordings, labels and prompts of the task
    check_text_encoder(run)
    crops.check_strict(window)
    rows = cohort.rows(split, task)
    if not len(rows):
        raise ZeroShotError(f"cohort {cohort.name}: no recording of task '{task}' in split '{split}'")
    rows, left_out = usable(run, cohort, rows, window)
    classes = tuple(cohort.tasks[task])
    loaded = load_prompts(cohort, task, prompts_path)
    chosen = prompt_set or loaded.sets[-1]
    class_prompts = loaded.for_classes(classes, chosen)
    labels = cohort.labels(task, rows)
    patients = np.array(cohort.patients.take(rows))

    # embed the split and validation, which serves only to fix F1's thresholds
    cache = run.cache_folder
    untrained = run.untrained()
    val = cohort.rows("val", task) if split != "val" else rows[:0]
    val, val_left_out = usable_rows(cohort, run.config.signal, val, window, patch_samples(run.config))
    all_rows = np.concatenate([rows, val])
    ecg = embed_cohort(run, cohort, "shared", all_rows, relabel(progress, "embed, trained"), cache, window)
    ecg_untrained = embed_cohort(
        untrained, cohort, "shared", all_rows, relabel(progress, "embed, untrained"), cache, window
    )

    # cosines to the class vectors; each encoder is paired with its own text encoder
    texts = {name: embed_prompts(run, loaded.for_classes(classes, name)) for name in loaded.sets}
    vectors_untrained = [class_vector(vectors) for vectors in embed_prompts(untrained, class_prompts)]
    all_scores = cosines(ecg, [class_vector(vectors) for vectors in texts[chosen]])
    all_scores_untrained = cosines(ecg_untrained, vectors_untrained)
    scores, scores_untrained = all_scores[: len(rows)], all_scores_untrained[: len(rows)]
    sensitivity = measure_sensitivity(labels, ecg[: len(rows)], texts, patients, classes, chosen)

    def other_measures(values: Floats) -> dict[str, Score]:
        thresholds = Thresholds.choose(cohort.labels(task, val), values[len(rows) :]) if len(val) else None
        return all_metrics.compute_metrics(labels, values[None, : len(rows)], patients, classes, thresholds)

    # a calibration of exactly these prompts gives probabilities, and with them ece and brier
    calibration = prompt_calibration.find(run, dict(zip(classes, class_prompts)), window)
    of_probabilities = _probability_measures(labels, scores, patients, classes, calibration) if calibration else {}
    scored = scored_recordings(cohort, rows, split)

    return ZeroShotReport(
        cohort=cohort.name,
        run=run.name,
        task=task,
        split=split,
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        overlap=training_overlap(run, cohort, rows, split),
        pretraining_data=run.pretraining_data,
        classes={code: entry.name for code, entry in zip(classes, class_prompts)},
        prompts={code: entry.prompts for code, entry in zip(classes, class_prompts)},
        prompt_file=loaded.path.name,
        prompt_sha256=loaded.sha256,
        prompt_set=chosen,
        n_prompts=sum(len(entry.prompts) for entry in class_prompts),
        trained=sensitivity.by_set[chosen].score,
        untrained=auroc_score(labels, scores_untrained, patients, classes),
        measures=other_measures(all_scores) | of_probabilities,
        measures_untrained=other_measures(all_scores_untrained),
        shuffled=shuffled_pairs(labels, scores, patients),
        sensitivity=sensitivity,
        window=window,
        scored_by_name=loaded.by_name,
        unknown_words=_unknown_words(run, classes, class_prompts),
        left_out=left_out | val_left_out,
        calibration=calibration,
        calibration_overlap=None if calibration is None else calibration.overlap(run, scored),
    )


def _probability_measures(
    labels: NDArray[Any],
    scores: Floats,
    patients: NDArray[Any],
    classes: Sequence[str],
    calibration: PromptSetCalibration,
) -> dict[str, Score]:
    """Return ece and brier of the calibrated probabilities; classes without a calibration are skipped."""
    known = [k for k, code in enumerate(classes) if code in calibration.classes]
    names = [classes[k] for k in known]
    if not known:
        return {}
    probabilities = calibration.probabilities(scores[:, known], names)[None]
    computed = all_metrics.compute_metrics(
        labels[:, known], scores[None][:, :, known], patients, names, probabilities=probabilities
    )
    positives = dict(zip(classes, labels.sum(axis=0).astype(int).tolist()))
    return {
        name: replace(
            score,
            per_class={code: score.per_class.get(code) for code in classes},
            class_interval={code: score.class_interval.get(code) for code in classes},
            skipped=tuple(code for code in classes if score.per_class.get(code) is None),
            positives=positives,
        )
        for name, score in computed.items()
        if name in all_metrics.OF_PROBABILITIES
    }


def _unknown_words(run: Run, classes: Sequence[str], prompts: Sequence[ClassPrompts]) -> dict[str, tuple[str, ...]]:
    """Return the words of each class's prompts that were rare or absent in training; classes without any are left out."""
    by_class = {
        code: tuple(dict.fromkeys(word for text in entry.prompts for word in vocabulary.unknown_words(run, text)))
        for code, entry in zip(classes, prompts)
    }
    return {code: words for code, words in by_class.items() if words}


def zeroshot_scores(
    run: Run,
    cohort: Cohort,
    rows: NDArray[np.integer],
    class_prompts: Sequence[ClassPrompts],
    progress: Progress | None = None,
    window: str | None = None,
) -> Floats:
    """Return cosines (n, K) of a cohort's rows to K classes, as `run_zeroshot` computes them for the trained run.

    Raises:
        ZeroShotError: the run has no text encoder.
    """
    check_text_encoder(run)
    ecg = embed_cohort(run, cohort, "shared", rows, progress, window=window)
    return cosines(ecg, [class_vector(vectors) for vectors in embed_prompts(run, class_prompts)])


def check_text_encoder(run: Run) -> None:
    """Raise ZeroShotError if the run has no text encoder."""
    if run.origin:
        raise ZeroShotError(
            f"{run.name} ({run.origin}) has no text encoder for prompts; leadwise probe scores it from labels"
        )
    if not run.method.embeds_text:
        raise ZeroShotError(
            f"run {run.name} was trained on ECGs alone: its method has no text encoder (embed_text) for prompts"
        )


def load_prompts(cohort: Cohort, task: str, path: Path | None) -> Prompts:
    """Return the prompts of a task: of a file, by default the shipped one of the cohort's source, else of the dictionary.

    Logs a warning if the file is for another source.

    Raises:
        PromptError: the file cannot be used, or is for another task.
    """
    if path is None:
        return task_prompts(cohort.source, task, cohort.tasks[task])
    loaded = prompts.load(path)
    if loaded.task != task:
        raise prompts.PromptError(
            f"{loaded.path}: the file is for task '{loaded.task}', not for the requested task '{task}'"
        )
    if loaded.source != cohort.source:
        log.warning(
            "%s was written for source '%s', the cohort is of '%s': the same acronym can have another meaning in each",
            loaded.path, loaded.source, cohort.source,
        )  # fmt: skip
    return loaded
