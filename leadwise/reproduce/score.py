"""One run -> its cells: probe and zero-shot on every task of every cohort, each kept in a file so that it is made once."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.cohort import Cohort
from leadwise.evaluate import probe as probing
from leadwise.evaluate import prompts
from leadwise.evaluate.embed import Progress, embed_cohort, named, seen_in_training
from leadwise.evaluate.metrics import Score
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.files import replacing
from leadwise.reproduce import paper
from leadwise.run import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """A score of one run on one task; AUROCs in [0, 1]."""

    row: str  # what the table calls the run
    seed: int
    cohort: str
    source: str
    task: str
    how: str  # "zero-shot", or "probe" at a fraction of the labels
    fraction: float | None
    features: str  # trained or untrained
    macro: float
    low: float  # of the 95 % interval over patients
    high: float
    n_records: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """Which cells are wanted."""

    fractions: tuple[float, ...] = ()  # of the training labels; none: no probe
    zero_shot: bool = True
    untrained: bool = False  # the same encoder that never learnt, beside it


def cells(
    row: str,
    run: Run,
    cohorts: Sequence[Cohort],
    folder: Path,
    asked: Scores,
    progress: Progress | None = None,
) -> list[Cell]:
    """Every cell of a run on the test splits; what `folder` holds of the same weights and data is not made again."""
    found: list[Cell] = []
    for cohort in cohorts:
        for task in paper.tasks_of(cohort.source, tuple(cohort.tasks)):
            path = folder / f"{cohort.name}-{task}.json"
            made: dict[str, Any] = {"run": run.fingerprint, "cohort": cohort.fingerprint}
            made |= {"asked": [list(asked.fractions), asked.zero_shot, asked.untrained]}
            kept = _read(path, made)
            if kept is None:
                kept = _task(row, run, cohort, task, asked, progress)
                _write(path, made, kept)
            found += kept
    return found


def _task(
    row: str,
    run: Run,
    cohort: Cohort,
    task: str,
    asked: Scores,
    progress: Progress | None,
) -> list[Cell]:
    rows = cohort.rows(task=task)
    labelled = probing.Task(
        tuple(cohort.tasks[task]),
        cohort.labels(task, rows),
        cohort.splits(rows),
        np.array(cohort.patients.take(rows)),
    )
    seen_in_training(run, cohort, rows[labelled.rows("test")])  # a leak is a warning
    told = named(progress, f"{row}, {task}: embed")
    features = {}
    if asked.fractions:
        cache = run.folder / "embeddings" if run.folder else None
        features["trained"] = embed_cohort(run, cohort, "backbone", rows, told, cache)
        if asked.untrained:
            features["untrained"] = embed_cohort(run.untrained(), cohort, "backbone", rows, told, cache)
    found = []

    def add(how: str, fraction: float | None, which: str, scored: Score) -> None:
        low, high = scored.interval
        cell = Cell(
            row, run.config.optim.seed, cohort.name, cohort.source, task, how, fraction, which, scored.macro, low, high,
            scored.n_records, scored.skipped,
        )  # fmt: skip
        found.append(cell)

    for fraction in asked.fractions:
        if len(labelled.rows("train")) * fraction < 1:
            log.warning("%s: no probe on %.0f%% of %s: too few recordings train", row, 100 * fraction, task)
            continue
        for which, values in features.items():
            if progress:
                progress(f"{row}, {task}: probe {fraction:.0%}", 0, 1)
            add("probe", fraction, which, probing.probe(values, labelled, fraction).score)
            if progress:
                progress(f"{row}, {task}: probe {fraction:.0%}", 1, 1)
    if asked.zero_shot and hasattr(run.method, "embed_text"):
        try:
            prompts.find(cohort.source, task)
        except prompts.PromptError as error:
            log.warning("%s: no zero-shot on %s (%s)", row, task, error)
            return found
        report = run_zeroshot(run, cohort, task, progress=named(progress, f"{row}, {task}: zero-shot"))
        add("zero-shot", None, "trained", report.trained)
        if asked.untrained:
            add("zero-shot", None, "untrained", report.untrained)
    return found


def _read(path: Path, made: dict[str, Any]) -> list[Cell] | None:
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text())
        if table["of"] != made:
            return None
        return [Cell(**{**cell, "skipped": tuple(cell["skipped"])}) for cell in table["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be used (%r): scored again", path, error)
        return None


def _write(path: Path, made: dict[str, Any], found: list[Cell]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps({"of": made, "cells": [vars(cell) for cell in found]}, indent=1) + "\n")


def mean(values: Sequence[float]) -> float:
    """The mean; nan of nothing."""
    return sum(values) / len(values) if values else math.nan
