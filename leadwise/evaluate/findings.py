"""The most probable findings of ECGs, over all tasks that a run is calibrated for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from leadwise.evaluate import prompt_calibration
from leadwise.evaluate.embed import Features
from leadwise.evaluate.prompt_calibration import CalibrationError, PromptSetCalibration
from leadwise.evaluate.prompts import SETS, ClassPrompts, PromptError
from leadwise.evaluate.prompts.dictionary import task_prompts
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_prompts
from leadwise.run import Run


@dataclass(frozen=True)
class CalibratedTask:
    """A task with probabilities: the texts of its classes, and their calibration."""

    wordings: dict[str, ClassPrompts]
    calibration: PromptSetCalibration


def calibrated_tasks(run: Run) -> dict[str, CalibratedTask]:
    """Return the tasks that a run has a calibration for, each with its richest prompt set.

    Left out are tasks that were calibrated with a prompt file of your own, which is not part of a run, and tasks whose labels
    only a part of the recordings has: their probabilities do not hold for any ECG.

    Raises:
        CalibrationError: there is none; the message names the command that fits one.
    """
    tasks: dict[str, CalibratedTask] = {}
    for one in prompt_calibration.read(run):
        best = tasks.get(one.task)
        is_richer = best is None or SETS.index(one.prompt_set) > SETS.index(best.calibration.prompt_set)
        if one.window is not None or not one.is_of_all or not is_richer:
            continue
        classes = list(one.positives)
        try:
            wordings = dict(
                zip(classes, task_prompts(one.source, one.task, classes).for_classes(classes, one.prompt_set))
            )
        except PromptError:
            continue
        if prompt_calibration.prompt_digest(wordings) == one.prompts:
            tasks[one.task] = CalibratedTask(wordings, one)
    if not tasks:
        raise CalibrationError(
            f"run {run.name} has no calibration for prompts that ship with leadwise; fit one on labelled ECGs: leadwise "
            "calibrate RUN COHORT"
        )
    return tasks


def top_findings(
    run: Run, tasks: Mapping[str, CalibratedTask], ecg: Features, names: Sequence[str], top: int
) -> pd.DataFrame:
    """Return the `top` most probable findings of each ECG: ecg, place, finding, probability, share, task, class.

    share is the share of the finding among the recordings of the calibration. A finding that several tasks have counts once,
    with its highest probability.

    Args:
        tasks: those of `calibrated_tasks`.
        ecg: shared embeddings (N, D); a row of NaN gives no findings.
        names: N names of the ECGs.
    """
    # probabilities (N, K) over the classes of all tasks
    columns, blocks = [], []
    for task, one in tasks.items():
        vectors = [class_vector(texts) for texts in embed_prompts(run, list(one.wordings.values()))]
        blocks.append(one.calibration.probabilities(cosines(ecg, vectors), list(one.wordings)))
        n_records = one.calibration.n_records
        for code, entry in one.wordings.items():
            columns.append((entry.name, one.calibration.positives[code] / n_records, task, code))
    probabilities = np.concatenate(blocks, axis=1)

    # the highest of each ECG, each name once
    rows = []
    for position, values in enumerate(probabilities):
        order = [int(k) for k in np.argsort(-values, kind="stable") if np.isfinite(values[k])]
        first = {columns[k][0]: k for k in reversed(order)}
        for place, k in enumerate(sorted(first.values(), key=order.index)[:top], start=1):
            name, share, task, code = columns[k]
            rows.append((position, names[position], place, name, float(values[k]), share, task, code))
    table = pd.DataFrame(rows, columns=["row", "ecg", "place", "finding", "probability", "share", "task", "class"])
    return table.set_index("row")
