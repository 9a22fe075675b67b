"""Calibrate a run's zero-shot scores on one split of a cohort: one calibration for each task and prompt set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import prompt_calibration, prompts
from leadwise.evaluate.embed import embed_cohort, training_overlap, usable
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.prompt_calibration import (
    METHODS,
    CalibrationError,
    ClassCalibration,
    PromptSetCalibration,
)
from leadwise.evaluate.prompts import ClassPrompts, PromptError, Prompts
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts
from leadwise.evaluate.zeroshot import ZeroShotError, load_prompts
from leadwise.progress import Progress
from leadwise.run import Run
from leadwise.trained_on import TrainedOn

log = logging.getLogger(__name__)


def run_calibration(
    run: Run,
    cohort: Cohort,
    split: str = "val",
    tasks: Sequence[str] | None = None,
    prompts_path: Path | None = None,
    method: str = "platt",
    window: str | None = None,
    progress: Progress | None = None,
) -> list[PromptSetCalibration]:
    """Return calibrations fitted on one split, for every prompt set of each task. `prompt_calibration.write` stores them.

    Args:
        tasks: default: all tasks of the cohort that have prompts; with `prompts_path`, the task of that file.
        prompts_path: a prompt file; default: the shipped one for the cohort's source and the task, else the dictionary.
        method: platt, isotonic or best, see `prompt_calibration.fit_class`.
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.

    Raises:
        CalibrationError: an unknown method, or the cohort has no such task, or no task with prompts and recordings.
        ZeroShotError: the run has no text encoder.
        PromptError: a requested task has no prompts.
    """
    # the run, the tasks and their prompts
    if method not in METHODS:
        raise CalibrationError(f"method {method!r} does not exist; choose {', '.join(METHODS)}")
    if not run.method.embeds_text:
        raise ZeroShotError(f"run {run.name} was trained on ECGs alone: it has no zero-shot scores to calibrate")
    crops.check_strict(window)
    loaded = _prompts_of_tasks(cohort, tasks, prompts_path)
    rows_of = {task: cohort.rows(split, task) for task in loaded}
    rows_of = {task: rows for task, rows in rows_of.items() if len(rows)}
    if not rows_of:
        raise CalibrationError(
            f"cohort {cohort.name}: split '{split}' has no recording of {', '.join(loaded) or 'a task with prompts'}; choose "
            "another split (--split)"
        )
    overlap = training_overlap(run, cohort, cohort.rows(split), split)
    if overlap.is_leak:
        log.warning("%s The calibration will be too confident; calibrate on another split.", overlap.sentence)

    # embed each recording once, then fit every set of every task
    embedded, _ = usable(run, cohort, np.unique(np.concatenate(list(rows_of.values()))), window)
    features = embed_cohort(run, cohort, "shared", embedded, progress, window=window)
    calibrations = []
    for task, rows in rows_of.items():
        rows = rows[np.isin(rows, embedded)]
        hashes = TrainedOn.of(cohort.source, set(cohort.patients.take(rows)), cohort.checksums(rows))
        ecg = features[np.searchsorted(embedded, rows)]
        classes = tuple(cohort.tasks[task])
        for prompt_set in loaded[task].sets:
            wordings = dict(zip(classes, loaded[task].for_classes(classes, prompt_set)))
            vectors = [class_vector(texts) for texts in embed_prompts(run, list(wordings.values()))]
            about = (task, prompt_set, loaded[task].path.name, split, window)
            calibrations.append(_fit_set(cohort, rows, cosines(ecg, vectors), wordings, about, method, hashes))
    return calibrations


def _prompts_of_tasks(cohort: Cohort, tasks: Sequence[str] | None, path: Path | None) -> dict[str, Prompts]:
    """Return the prompts of the tasks; without `tasks`, of all main tasks that have prompts."""
    unknown = [task for task in tasks or () if task not in cohort.tasks]
    if unknown:
        raise CalibrationError(
            f"cohort {cohort.name}: no task '{unknown[0]}'; it has {', '.join(cohort.tasks) or 'none'}"
        )
    if path is not None and tasks is None:
        tasks = [prompts.load(path).task]
        if tasks[0] not in cohort.tasks:
            raise CalibrationError(f"{path}: its prompts are for task '{tasks[0]}', which cohort {cohort.name} has not")
    loaded = {}
    for task in tasks or cohort.main_tasks:
        try:
            loaded[task] = load_prompts(cohort, task, path)
        except PromptError as error:
            if tasks is not None:
                raise
            log.info("task %s is not calibrated: %s", task, error)
    return loaded


def _fit_set(
    cohort: Cohort,
    rows: NDArray[np.integer],
    scores: Floats,
    wordings: Mapping[str, ClassPrompts],
    about: tuple[str, str, str, str, str | None],
    method: str,
    hashes: TrainedOn,
) -> PromptSetCalibration:
    """Return the calibrations of the classes of one prompt set from cosines (N, K) of the rows."""
    task, prompt_set, prompt_file, split, window = about
    labels, patients = cohort.labels(task, rows), list(cohort.patients.take(rows))
    results = {
        code: prompt_calibration.fit_class(scores[:, k], labels[:, k], patients, method)
        for k, code in enumerate(wordings)
    }
    return PromptSetCalibration(
        prompts=prompt_calibration.prompt_digest(wordings),
        task=task,
        prompt_set=prompt_set,
        prompt_file=prompt_file,
        source=cohort.source,
        cohort=cohort.name,
        cohort_fingerprint=cohort.fingerprint,
        split=split,
        window=window,
        n_records=len(rows),
        n_split=len(cohort.rows(split)),
        n_patients=len(set(patients)),
        classes={code: one for code, one in results.items() if isinstance(one, ClassCalibration)},
        positives={code: int(labels[:, k].sum()) for k, code in enumerate(wordings)},
        without={code: one for code, one in results.items() if isinstance(one, str)},
        hashes=hashes,
    )
