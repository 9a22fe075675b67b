"""One run -> its cells: probe and zero-shot on every task of every cohort, each kept in a file so that it is made once."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.published_splits import PublishedCohort, tasks
from leadwise.evaluate import probe as probing
from leadwise.evaluate import prompts
from leadwise.evaluate.embed import count_training_patients, embed_cohort
from leadwise.evaluate.merl_legacy.legacy_task import with_published
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.protocol import LegacySettings, run_protocol
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.files import replacing
from leadwise.progress import Progress, relabel
from leadwise.reproduce import paper
from leadwise.run import Run

log = logging.getLogger(__name__)

ZERO_SHOT, PROBE, LEGACY, SUPERVISED = "zero-shot", "probe", "merl-legacy probe, not comparable,", "supervised"


@dataclass(frozen=True)
class Cell:
    """A score of one run on one task; AUROCs in [0, 1]."""

    row: str  # what the table calls the run
    seed: int
    cohort: str
    source: str
    task: str
    how: str  # ZERO_SHOT, or PROBE, LEGACY or SUPERVISED at a fraction of the labels
    fraction: float | None
    features: str  # trained or untrained; reference: a row that is no pre-trained method
    macro: float
    low: float  # of the 95 % interval over patients
    high: float
    n_records: int
    skipped: tuple[str, ...]  # classes that the test split does not define
    unlearnable: tuple[str, ...] = ()  # classes that some draw of the labels does not show: counted as 0.5
    n_seen: int = 0  # people of the test split that the run was pre-trained on: must be 0


@dataclass(frozen=True)
class Scores:
    """Which cells are wanted."""

    fractions: tuple[float, ...] = ()  # of the training labels; none: no probe
    zero_shot: bool = True
    untrained: bool = False  # the same encoder that never learnt, beside it
    legacy: bool = False  # the published protocol's probe, faults included, beside the strict one
    splits: Path | None = (
        None  # folder of the published split files, to stand in for the cohorts' own where there are any
    )


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
            seen = with_published(cohort, task, asked.splits) if task in tasks() else cohort
            found += _CellScorer(row, run, seen, task, folder, progress).cells(asked)
    return found


def check(cohorts: Sequence[Cohort], asked: Scores) -> None:
    """Nothing, if every cell that is asked for can be made, as far as can be told without a run.

    Raises:
        ProbeError: a split is empty or shares patients with another.
        PublishedError: split files that cannot be used.
        PromptError: zero-shot alone is asked for, and no task has prompts.
    """
    wordless: list[prompts.PromptError] = []
    n_tasks = 0
    for cohort in cohorts:
        for task in paper.tasks_of(cohort.source, tuple(cohort.tasks)):
            n_tasks += 1
            seen = with_published(cohort, task, asked.splits) if task in tasks() else cohort
            if asked.fractions:
                probing.make_probe_task(seen, task, seen.rows(task=task))
            try:
                prompts.find(cohort.source, task)
            except prompts.PromptError as error:
                wordless.append(error)
    if not asked.fractions and len(wordless) == n_tasks:
        raise wordless[0]


class _CellScorer:
    """One run and one task."""

    def __init__(self, row: str, run: Run, cohort: Cohort, task: str, folder: Path, progress: Progress | None) -> None:
        self.row, self.run, self.cohort, self.task = row, run, cohort, task
        self.folder, self.progress = folder, progress
        self.rows = cohort.rows(task=task)
        test = self.rows[cohort.splits(self.rows) == "test"]
        self.n_seen = count_training_patients(run, cohort, test)  # a leak is a warning
        self.made = {"run": run.fingerprint, "cohort": cohort.fingerprint}
        if isinstance(cohort, PublishedCohort):
            self.made["splits"] = cohort.published.fingerprint
        self.features: dict[str, np.ndarray] = {}

    def cells(self, asked: Scores) -> list[Cell]:
        """What is asked, in the order of the paper's columns."""
        found: list[Cell] = []
        which = ("trained", "untrained") if asked.untrained else ("trained",)
        for fraction in asked.fractions:
            if int((self.cohort.splits(self.rows) == "train").sum()) * fraction < 1:
                log.warning(
                    "%s: no probe on %.0f%% of %s: too few recordings train", self.row, 100 * fraction, self.task
                )
                continue
            for name in which:
                found += self._once(f"{PROBE}-{fraction:g}-{name}", self.made, self._probe_of(fraction, name))
            if asked.legacy:
                found += self._once(f"merl-legacy-{fraction:g}", self.made, self._legacy_of(fraction, asked.splits))
        if asked.zero_shot and hasattr(self.run.method, "embed_text"):
            found += [cell for cell in self._words() if cell.features in which]
        return found

    def _words(self) -> list[Cell]:
        try:
            loaded = prompts.load(prompts.find(self.cohort.source, self.task))
        except prompts.PromptError as error:
            log.warning("%s: no zero-shot on %s (%s)", self.row, self.task, error)
            return []
        return self._once(ZERO_SHOT, {**self.made, "prompts": loaded.sha256}, self._zero_shot)

    def _probe_of(self, fraction: float, which: str) -> Callable[[], list[Cell]]:
        def made() -> list[Cell]:
            result = probing.probe(
                self._embedded(which), probing.make_probe_task(self.cohort, self.task, self.rows), fraction
            )
            lost = tuple(sorted({name for draw in result.draws for name in draw.unlearnable}))
            return [self._cell(PROBE, fraction, which, result.score, lost)]

        return made

    def _legacy_of(self, fraction: float, splits: Path | None) -> Callable[[], list[Cell]]:
        def made() -> list[Cell]:
            published = isinstance(self.cohort, PublishedCohort)
            settings = LegacySettings(splits=splits if published else None)
            told = relabel(self.progress, f"{self.row}, {self.task}: merl-legacy {fraction:.0%}")
            report = run_protocol(self.run, self.cohort, self.task, (fraction,), "merl-legacy", settings, progress=told)
            return [self._cell(LEGACY, fraction, "trained", report.lines[0].score)]

        return made

    def _zero_shot(self) -> list[Cell]:
        told = relabel(self.progress, f"{self.row}, {self.task}: zero-shot")
        report = run_zeroshot(self.run, self.cohort, self.task, progress=told)
        scored = (("trained", report.trained), ("untrained", report.untrained))
        return [self._cell(ZERO_SHOT, None, which, score) for which, score in scored]

    def _embedded(self, which: str) -> np.ndarray:
        if which not in self.features:
            one = self.run if which == "trained" else self.run.untrained()
            cache = (self.run.folder or self.folder) / "embeddings"  # tasks of a cohort share recordings
            told = relabel(self.progress, f"{self.row}, {self.task}: embed")
            self.features[which] = embed_cohort(one, self.cohort, "backbone", self.rows, told, cache)
        return self.features[which]

    def _cell(
        self, how: str, fraction: float | None, which: str, score: Score, unlearnable: tuple[str, ...] = ()
    ) -> Cell:
        low, high = score.interval
        return Cell(
            self.row, self.run.config.optim.seed, self.cohort.name, self.cohort.source, self.task, how, fraction, which,
            score.macro, low, high, score.n_records, score.skipped, unlearnable, self.n_seen,
        )  # fmt: skip

    def _once(self, name: str, made: dict[str, str], make: Callable[[], list[Cell]]) -> list[Cell]:
        return once(self.folder / f"{self.cohort.name}-{self.task}-{name}.json", made, make)


def once(path: Path, made: dict[str, str], make: Callable[[], list[Cell]]) -> list[Cell]:
    """The cells of a file: kept ones of the same weights, data and prompts (`made`), or made now and kept."""
    kept = _read(path, made)
    if kept is None:
        kept = make()
        _write(path, made, kept)
    return kept


def _read(path: Path, made: dict[str, Any]) -> list[Cell] | None:
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text())
        if table["of"] != made:
            return None
        return [
            Cell(**{**cell, "skipped": tuple(cell["skipped"]), "unlearnable": tuple(cell["unlearnable"])})
            for cell in table["cells"]
        ]
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
