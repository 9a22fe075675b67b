"""Scores of the learning curves: zero-shot and probes of one run on all tasks of a cohort, and their mean over the tasks.

The interval of the mean resamples patients for all tasks together, because tasks share patients.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rows import Json

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.card.robustness import Change, ChangedRecordings, complete_rows, keep_leads
from leadwise.evaluate.classifiers import zeroshot_classifier
from leadwise.evaluate.embed import Features, embed, embed_cohort, usable
from leadwise.evaluate.logistic_regression import LogisticModel
from leadwise.evaluate.metrics.auroc import auroc, weighted_auroc
from leadwise.evaluate.metrics.bootstrap import N_REPLICATES, mean_of_defined, percentile_interval, resample_patients
from leadwise.evaluate.metrics.score import Floats
from leadwise.evaluate.principal_axes import principal_axes
from leadwise.evaluate.probe import fit_draws
from leadwise.evaluate.prompts import PromptError
from leadwise.run import Run

MEAN = "mean"  # the "task" of a cell that is a mean over the tasks
ZERO_SHOT = "zero-shot"
VAL_FRACTIONS, TEST_FRACTIONS = (0.1, 1.0), (0.01, 0.1, 1.0)
CHANGES = {"I and II only": ("I", "II"), "without V leads": LEADS[:6]}


class TaskScores(NamedTuple):
    """Scores (S, N, K) of S draws, labels (N, K) and patients (N,) of one task."""

    scores: Floats
    labels: NDArray[np.int8]
    patients: NDArray[Any]


class Embedded(NamedTuple):
    """Embeddings of a cohort's rows, in ascending order of the rows."""

    rows: NDArray[np.int64]
    backbone: Features
    shared: Features | None  # None: the method embeds no text

    def of(self, rows: NDArray[np.int64], part: str = "backbone") -> Features:
        """Return the embeddings of some of the rows."""
        values = self.backbone if part == "backbone" else self.shared
        assert values is not None
        return values[np.searchsorted(self.rows, rows)]


def embed_rows(
    run: Run, cohort: Cohort, rows: NDArray[np.integer], text: bool, change: Change | None = None
) -> Embedded:
    """Return the embeddings of rows, from the run's cache if the recordings are unchanged.

    Args:
        text: also embed the part that is compared with texts, if the method has it.
    """
    ordered = np.sort(np.asarray(rows, dtype=np.int64))
    parts = ["backbone", *(["shared"] if text and run.method.embeds_text else [])]
    if change is None:
        values = [embed_cohort(run, cohort, part, ordered) for part in parts]
    else:
        recordings = ChangedRecordings(cohort, run.config.signal, ordered, change)
        values = [embed(run, recordings, part) for part in parts]
    return Embedded(ordered, values[0], values[1] if len(values) > 1 else None)


class Probes:
    """The probes of every task, fitted on rows of the training split; strengths are chosen on the validation split."""

    def __init__(
        self, cohort: Cohort, fitted_on: Embedded, val: Embedded, fractions: Sequence[float], width: int | None
    ) -> None:
        self.feature_width = self.probe_width = fitted_on.backbone.shape[1]
        self.models: dict[tuple[str, float], list[LogisticModel]] = {}
        for task in cohort.main_tasks:
            # every task has its own labelled recordings, and so its own axes
            train_rows = np.intersect1d(cohort.rows("train", task), fitted_on.rows)
            val_rows = np.intersect1d(cohort.rows("val", task), val.rows)
            train, labels = fitted_on.of(train_rows), cohort.labels(task, train_rows)
            basis = principal_axes(train, width)
            if basis is not None:
                self.probe_width = basis.shape[1]
            for fraction in fractions:
                draws = fit_draws(train, labels, val.of(val_rows), cohort.labels(task, val_rows), fraction, basis=basis)
                self.models[task, fraction] = [model for _, _, model in draws]

    def cells(self, cohort: Cohort, split: str, scored: Embedded, fractions: Iterable[float]) -> list[Json]:
        """Return the cells of a split's embedded rows."""
        widths = {"feature width": self.feature_width, "probe width": self.probe_width}
        cells: list[Json] = []
        for fraction in fractions:
            tasks = {}
            for task in cohort.main_tasks:
                rows = np.intersect1d(cohort.rows(split, task), scored.rows)
                features = scored.of(rows)
                logits = np.stack([model.scores(features) for model in self.models[task, fraction]])
                tasks[task] = _task_scores(cohort, task, rows, logits)
            cells += [cell | widths for cell in score_tasks(tasks, f"probe {fraction:.0%}")]
        return cells


def zeroshot_cells(run: Run, cohort: Cohort, split: str, scored: Embedded) -> list[Json]:
    """Return the zero-shot cells of a split's embedded rows: of the tasks with prompts, none for a method without text."""
    if scored.shared is None:
        return []
    tasks = {}
    for task in cohort.main_tasks:
        try:
            classifier = zeroshot_classifier(run, cohort, task)
        except PromptError:
            continue
        rows = np.intersect1d(cohort.rows(split, task), scored.rows)
        cosines = classifier.scores(scored.of(rows, "shared"))
        tasks[task] = _task_scores(cohort, task, rows, cosines[None])
    return score_tasks(tasks, ZERO_SHOT) if tasks else []


def _task_scores(cohort: Cohort, task: str, rows: NDArray[np.int64], scores: Floats) -> TaskScores:
    return TaskScores(scores, cohort.labels(task, rows), np.array(cohort.patients.take(rows)))


def score_tasks(tasks: Mapping[str, TaskScores], how: str, n_replicates: int = N_REPLICATES) -> list[Json]:
    """Return a cell with macro AUROC x 100 and its 95 % interval for each task, and one for their mean."""
    # each resampling draws the same patients for all tasks
    patients = np.unique(np.concatenate([one.patients for one in tasks.values()]))
    counts = resample_patients(patients, n_replicates, 0)  # (R, P)
    cells: list[Json] = []
    macros, replicates = [], []
    for task, one in tasks.items():
        weights = counts[:, np.searchsorted(patients, one.patients)]
        macros.append(float(np.nanmean(np.mean([auroc(one.labels, draw) for draw in one.scores], axis=0))))
        of_classes = np.mean([weighted_auroc(one.labels, draw, weights) for draw in one.scores], axis=0)  # (R, K)
        replicates.append(mean_of_defined(of_classes))
        cells.append(_cell(task, how, macros[-1], replicates[-1], len(one.labels)))
    cells.append(_cell(MEAN, how, float(np.mean(macros)), np.mean(replicates, axis=0), len(patients)))
    return cells


def _cell(task: str, how: str, macro: float, replicates: Floats, n_records: int) -> Json:
    low, high = percentile_interval(replicates)
    return {"task": task, "how": how, "macro": 100 * macro, "low": 100 * low, "high": 100 * high, "n": n_records}


class Scorer:
    """Scores runs on one cohort; which rows are used does not depend on the run, except those that it cannot embed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.cohort = args, Cohort.open(args.cohort)
        rows = {
            split: np.unique(np.concatenate([self.cohort.rows(split, task) for task in self.cohort.main_tasks]))
            for split in ("train", "val", "test")
        }
        drawn = np.random.default_rng(0).permutation(rows["train"])[: args.fit_records]
        self.rows = rows | {"fit": np.sort(drawn)}

    def validation(self, run: Run, fractions: Sequence[float] = VAL_FRACTIONS, split: str = "val") -> list[Json]:
        """Return the cells of a split: zero-shot, and probes fitted on the fixed subset, with strengths chosen on "val"."""
        fitted_on, val = self._embedded(run, "fit"), self._embedded(run, "val", text=True)
        scored = val if split == "val" else self._embedded(run, split, text=True)
        probes = Probes(self.cohort, fitted_on, val, fractions, self.args.width)
        return zeroshot_cells(run, self.cohort, split, scored) + probes.cells(self.cohort, split, scored, fractions)

    def test(self, run: Run) -> list[Json]:
        """Return the cells of the test split: probes on all labels, zero-shot, and both with fewer leads."""
        # the recordings as they are
        fitted_on, val = self._embedded(run, "train"), self._embedded(run, "val")
        probes = Probes(self.cohort, fitted_on, val, TEST_FRACTIONS, self.args.width)
        test = self._embedded(run, "test", text=True)
        cells = zeroshot_cells(run, self.cohort, "test", test) + probes.cells(self.cohort, "test", test, TEST_FRACTIONS)
        cells = [{"change": "", **cell} for cell in cells]

        # fewer leads, on the recordings that have all of them; the probes are the same
        complete, _ = complete_rows(self.cohort, run.config.signal, test.rows)
        for name, leads in CHANGES.items():
            change = Change("leads", name, partial(keep_leads, leads=leads, signal=run.config.signal))
            changed = embed_rows(run, self.cohort, complete, text=True, change=change)
            scored = zeroshot_cells(run, self.cohort, "test", changed)
            scored += probes.cells(self.cohort, "test", changed, (0.1,))
            cells += [{"change": name, **cell} for cell in scored]
        return cells

    def _embedded(self, run: Run, split: str, text: bool = False) -> Embedded:
        rows, _ = usable(run, self.cohort, self.rows[split])
        return embed_rows(run, self.cohort, rows, text)
