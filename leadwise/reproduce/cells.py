"""The cells of one run: probe and zero-shot on every task of every cohort, each stored in a file and computed once."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.published_splits import PublishedCohort, tasks
from leadwise.evaluate import probe as probing
from leadwise.evaluate import prompts
from leadwise.evaluate.embed import embed_cohort, training_overlap, usable
from leadwise.evaluate.merl_legacy.legacy_task import with_published_splits
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.protocol import LegacySettings, run_protocol
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.files import replacing
from leadwise.progress import Progress, relabel
from leadwise.reproduce import paper_numbers
from leadwise.run import Run

log = logging.getLogger(__name__)

ZERO_SHOT, PROBE, LEGACY, SUPERVISED = "zero-shot", "probe", "merl-legacy probe, not comparable,", "supervised"


@dataclass(frozen=True)
class Cell:
    """A score of one run on one task; AUROCs in [0, 1]. The field names are the keys of the stored JSON."""

    row: str  # row name in tables
    seed: int
    cohort: str
    source: str
    task: str
    how: str  # ZERO_SHOT, or PROBE, LEGACY or SUPERVISED at a fraction of the labels
    fraction: float | None
    features: str  # trained or untrained; reference: a row that is not a pre-trained method
    macro: float
    low: float  # of the 95 % interval over patients
    high: float
    n_records: int
    skipped: tuple[str, ...]  # classes with one label value only on the test split
    unlearnable: tuple[str, ...] = ()  # classes with one label value only in some draw of the labels: counted as 0.5
    n_seen: int = 0  # test patients that were in the pre-training: must be 0
    feature_width: int | None = None  # PROBE: the run's own width
    probe_width: int | None = None  # PROBE: the number of principal components of the features that were probed
    pretraining_data: str = ""  # of a trained encoder: its data sets, "none" or "unknown"


@dataclass(frozen=True)
class ScoringOptions:
    """Which cells to compute."""

    fractions: tuple[float, ...] = ()  # of the training labels; none: no probe
    zero_shot: bool = True
    untrained: bool = False  # also score the same encoder without training
    width: int | None = None  # PROBE: to which wider features are reduced; None: no reduction
    legacy: bool = False  # also run the published protocol's probe, faults included
    splits: Path | None = (
        None  # folder of the published split files, used instead of the cohorts' splits where they exist
    )


def score_run(
    row: str,
    run: Run,
    cohorts: Sequence[Cohort],
    folder: Path,
    options: ScoringOptions,
    progress: Progress | None = None,
) -> list[Cell]:
    """Return every cell of a run on the test splits; cells of the same weights and data are read from `folder`."""
    cells: list[Cell] = []
    for cohort in cohorts:
        for task in paper_numbers.scored_tasks(cohort.source, tuple(cohort.main_tasks)):
            scorer = _CellScorer(row, run, _with_splits(cohort, task, options), task, folder, progress)
            for cell in scorer.cells(options):
                # not those of a stored cell: what is stated about an encoder may have changed
                known = run.pretraining_data if cell.features == "trained" else ""
                cells.append(replace(cell, row=row, n_seen=scorer.n_seen, pretraining_data=known))
    return cells


def check_scoring(cohorts: Sequence[Cohort], options: ScoringOptions) -> None:
    """Check, as far as possible without a run, that every requested cell can be computed.

    Raises:
        ProbeError: a split is empty or shares patients with another.
        PublishedError: split files that cannot be used.
        PromptError: only zero-shot is requested, and no task has prompts.
    """
    errors: list[prompts.PromptError] = []
    n_tasks = 0
    for cohort in cohorts:
        for task in paper_numbers.scored_tasks(cohort.source, tuple(cohort.main_tasks)):
            n_tasks += 1
            split_cohort = _with_splits(cohort, task, options)
            if options.fractions:
                probing.make_probe_task(split_cohort, task, split_cohort.rows(task=task))
            try:
                prompts.find(cohort.source, task)
            except prompts.PromptError as error:
                errors.append(error)
    if not options.fractions and len(errors) == n_tasks:
        raise errors[0]


def _with_splits(cohort: Cohort, task: str, options: ScoringOptions) -> Cohort:
    """Return the cohort with the published splits of a task, if there are any and `options` names their folder."""
    return with_published_splits(cohort, task, options.splits) if task in tasks() else cohort


class _CellScorer:
    """Computes the cells of one run on one task."""

    def __init__(self, row: str, run: Run, cohort: Cohort, task: str, folder: Path, progress: Progress | None) -> None:
        self.row, self.run, self.cohort, self.task = row, run, cohort, task
        self.folder, self.progress = folder, progress
        self.rows, _ = usable(run, cohort, cohort.rows(task=task))
        test = self.rows[cohort.splits(self.rows) == "test"]
        self.n_seen = training_overlap(run, cohort, test).n_leaked  # a leak is a warning
        self.inputs = {"run": run.fingerprint, "cohort": cohort.fingerprint}
        if isinstance(cohort, PublishedCohort):
            self.inputs["splits"] = cohort.published.fingerprint
        self.features: dict[str, np.ndarray] = {}

    def cells(self, options: ScoringOptions) -> list[Cell]:
        """Return the requested cells in the order of the paper's columns."""
        cells: list[Cell] = []
        encoders = ("trained", "untrained") if options.untrained and self.run.has_untrained else ("trained",)

        # The probes, by fraction of the labels.
        for fraction in options.fractions:
            if int((self.cohort.splits(self.rows) == "train").sum()) * fraction < 1:
                log.warning(
                    "%s: no probe on %.0f%% of %s: too few training recordings", self.row, 100 * fraction, self.task
                )
                continue
            inputs = self.inputs if options.width is None else {**self.inputs, "width": str(options.width)}
            for encoder in encoders:
                compute = self._probe(fraction, encoder, options.width)
                cells += self._stored(f"{PROBE}-{fraction:g}-{encoder}", inputs, compute)
            if options.legacy:
                legacy = self._legacy_probe(fraction, options.splits)
                cells += self._stored(f"merl-legacy-{fraction:g}", self.inputs, legacy)

        # Zero-shot, if the method embeds text.
        if options.zero_shot and self.run.method.embeds_text:
            cells += [cell for cell in self._zero_shot_cells() if cell.features in encoders]
        return cells

    def _zero_shot_cells(self) -> list[Cell]:
        """Return the zero-shot cells of both encoders; none if the task has no prompts."""
        try:
            loaded = prompts.load(prompts.find(self.cohort.source, self.task))
        except prompts.PromptError as error:
            log.warning("%s: no zero-shot on %s (%s)", self.row, self.task, error)
            return []
        return self._stored(ZERO_SHOT, {**self.inputs, "prompts": loaded.sha256}, self._zero_shot)

    def _probe(self, fraction: float, encoder: str, width: int | None) -> Callable[[], list[Cell]]:
        def compute() -> list[Cell]:
            task = probing.make_probe_task(self.cohort, self.task, self.rows)
            result = probing.probe(self._embedded(encoder), task, fraction, width=width)
            unlearnable = tuple(sorted({name for draw in result.draws for name in draw.unlearnable}))
            cell = self._cell(PROBE, fraction, encoder, result.score, unlearnable)
            return [replace(cell, feature_width=result.feature_width, probe_width=result.probe_width)]

        return compute

    def _legacy_probe(self, fraction: float, splits: Path | None) -> Callable[[], list[Cell]]:
        def compute() -> list[Cell]:
            published = isinstance(self.cohort, PublishedCohort)
            settings = LegacySettings(splits=splits if published else None)
            progress = relabel(self.progress, f"{self.row}, {self.task}: merl-legacy {fraction:.0%}")
            report = run_protocol(
                self.run, self.cohort, self.task, (fraction,), "merl-legacy", settings, progress=progress
            )
            return [self._cell(LEGACY, fraction, "trained", report.lines[0].score)]

        return compute

    def _zero_shot(self) -> list[Cell]:
        progress = relabel(self.progress, f"{self.row}, {self.task}: zero-shot")
        report = run_zeroshot(self.run, self.cohort, self.task, progress=progress)
        scores = (("trained", report.trained), ("untrained", report.untrained))
        return [self._cell(ZERO_SHOT, None, encoder, score) for encoder, score in scores]

    def _embedded(self, encoder: str) -> np.ndarray:
        """Return the embeddings (n, D) of the task's recordings, computed once for all fractions."""
        if encoder not in self.features:
            run = self.run if encoder == "trained" else self.run.untrained()
            cache = self.run.cache_folder or self.folder / "embeddings"  # tasks of a cohort share recordings
            progress = relabel(self.progress, f"{self.row}, {self.task}: embed")
            self.features[encoder] = embed_cohort(run, self.cohort, "backbone", self.rows, progress, cache)
        return self.features[encoder]

    def _cell(
        self, how: str, fraction: float | None, encoder: str, score: Score, unlearnable: tuple[str, ...] = ()
    ) -> Cell:
        low, high = score.interval
        return Cell(
            self.row, self.run.config.optim.seed, self.cohort.name, self.cohort.source, self.task, how, fraction, encoder,
            score.macro, low, high, score.n_records, score.skipped, unlearnable, self.n_seen,
        )  # fmt: skip

    def _stored(self, name: str, inputs: dict[str, str], compute: Callable[[], list[Cell]]) -> list[Cell]:
        return load_or_compute(self.folder / f"{self.cohort.name}-{self.task}-{name}.json", inputs, compute)


def load_or_compute(path: Path, inputs: dict[str, str], compute: Callable[[], list[Cell]]) -> list[Cell]:
    """Return the cells stored in a file for these inputs; compute and store them if there are none.

    Args:
        inputs: fingerprints of the weights, data and prompts that the cells depend on.
    """
    cells = _read(path, inputs)
    if cells is None:
        cells = compute()
        _write(path, inputs, cells)
    return cells


def _read(path: Path, inputs: dict[str, Any]) -> list[Cell] | None:
    """Return the stored cells; None if there is no file, or one for other inputs, or a damaged one."""
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text())
        if table["of"] != inputs:
            return None
        return [
            Cell(**{**cell, "skipped": tuple(cell["skipped"]), "unlearnable": tuple(cell["unlearnable"])})
            for cell in table["cells"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be used (%r): scored again", path, error)
        return None


def _write(path: Path, inputs: dict[str, Any], cells: list[Cell]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps({"of": inputs, "cells": [vars(cell) for cell in cells]}, indent=1) + "\n")


def mean(values: Sequence[float]) -> float:
    """Return the mean, or nan without values."""
    return sum(values) / len(values) if values else math.nan
