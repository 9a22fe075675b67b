"""What every pre-trained row is to be read against: the same encoders without pre-training, and features without learning.

    Random Init   an encoder that learnt nothing, probed like any other
    Supervised    the same encoder with the task's labels from the start, its own head scored: a run for each task, share of
                  the labels and draw, the draws being the probe's
    hand-crafted  statistics of the signal, probed

Supervised runs have 600 steps, but no more than 100 passes over a small draw, and a budget can only lower them; they keep
the weights of the lowest held-out loss on the task's validation split, where the probe chooses its penalty. A config of
method `supervised` changes all but the passes. A task takes seven runs of each encoder: three draws of each share below 1.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from leadwise import run as runs
from leadwise.config import Config, LogConfig, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.published_splits import tasks as published_tasks
from leadwise.evaluate.embed import count_training_patients
from leadwise.evaluate.handcrafted import Handcrafted
from leadwise.evaluate.probe import SEEDS
from leadwise.evaluate.supervised import score_supervised
from leadwise.methods.catalogue import all_small_settings
from leadwise.progress import Progress
from leadwise.reproduce import paper, trained
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.score import (
    SUPERVISED,
    Cell,
    Scores,
    cells,
    once,
)
from leadwise.reproduce.variants import Variant
from leadwise.run import Run

log = logging.getLogger(__name__)

METHOD, HANDCRAFTED = "supervised", "hand-crafted features"
STEPS = 600  # of a supervised run where no config says
PASSES = 100  # over a draw at most: a small one is known by heart sooner


class Reference(NamedTuple):
    """A row that is no pre-trained method."""

    name: str  # what tables call it
    what: str
    how: str  # to get it


_ROWS = "leadwise reproduce table1"
REFERENCES = (
    Reference("Random Init (CNN)", "ResNet that learnt nothing, probed", _ROWS),
    Reference("Random Init (Trans)", "ViT that learnt nothing, probed", _ROWS),
    Reference(HANDCRAFTED, "statistics of leads and rhythm, probed", f"{_ROWS}, or leadwise probe"),
    Reference(
        "Supervised (CNN)", "ResNet with the labels from the start, its own scores", f"{_ROWS}, or method {METHOD}"
    ),
    Reference(
        "Supervised (Trans)", "ViT with the labels from the start, its own scores", f"{_ROWS}, or method {METHOD}"
    ),
)


@dataclass(frozen=True)
class References:
    """The settings behind the rows: one base for each encoder, of no task yet."""

    bases: tuple[Variant, ...]

    @staticmethod
    def of(given: Sequence[Config], shared: Config) -> References:
        """Bases from configs of method `supervised`, and small ones that share signal and device where none is given."""
        found = {paper.name(config.method): config for config in map(runs.resolve, given)}
        few = OptimConfig(
            steps=STEPS, batch_size=64, lr=1e-3, weight_decay=0.01, device=shared.optim.device, seed=shared.optim.seed
        )
        often = LogConfig(every=20, validate_every=25, save_every=100, keep="best")
        for method in all_small_settings(METHOD):
            small = runs.resolve(Config(signal=shared.signal, method=method, optim=few, log=often))
            found.setdefault(paper.name(small.method), small)
        return References(tuple(Variant(row, config) for row, config in sorted(found.items())))

    def __str__(self) -> str:
        told = []
        for base in self.bases:
            kept = "lowest held-out loss" if base.config.log.keep == "best" else "last weights"
            optim = base.config.optim
            told.append(f"{base.label} at most {optim.steps:,} steps of {optim.batch_size} on each draw, {kept}")
        return "; ".join(told)

    def check(self) -> None:
        """Nothing, if they can be made as far as can be told.

        Raises:
            ConfigError: a setting that the encoder cannot use.
        """
        for base in self.bases:
            trained.check(base)

    def within(self, budget: Budget, out: Path, cohorts: Sequence[Cohort]) -> References:
        """The same with no more steps than the budget has; minutes are timed on the first task."""
        if budget.steps is None and budget.minutes is None:
            return self
        cohort = cohorts[0]
        bases = []
        for base in self.bases:
            one = _learning(base, cohort, next(iter(cohort.tasks)), 1.0, SEEDS[0])
            optim = trained.within(budget, out, one).config.optim
            steps = min(base.config.optim.steps, optim.steps)
            bases.append(dataclasses.replace(base, config=Budget(steps=steps).of(base.config)))
        return References(tuple(bases))


def reference_cells(
    asked: References, cohorts: Sequence[Cohort], out: Path, wanted: Scores, seeds: Sequence[int], progress: Progress
) -> tuple[list[Cell], list[Variant]]:
    """The cells of every reference row, and the supervised runs behind them."""
    supervised, behind = supervised_cells(asked, cohorts, out, wanted, seeds, progress)
    return [*unlearnt_cells(asked, cohorts, out, wanted, seeds, progress), *supervised], behind


def unlearnt_cells(
    asked: References, cohorts: Sequence[Cohort], out: Path, wanted: Scores, seeds: Sequence[int], progress: Progress
) -> list[Cell]:
    """The cells of the rows that learnt nothing: random encoders and hand-crafted features, probed."""
    wanted = dataclasses.replace(wanted, zero_shot=False, untrained=False, legacy=False)
    found: list[Cell] = []
    for base in asked.bases:
        for one in trained.seeded(base, seeds):
            row = base.label.replace("Supervised", "Random Init")
            found += _probed(row, _untrained(one.config), cohorts, out, wanted, progress)
    config = dataclasses.replace(asked.bases[0].config, method={"name": HANDCRAFTED})
    statistics = Run(config, Handcrafted(config.signal.rate_hz))
    return found + _probed(HANDCRAFTED, statistics, cohorts, out, wanted, progress)


def supervised_cells(
    asked: References, cohorts: Sequence[Cohort], out: Path, wanted: Scores, seeds: Sequence[int], progress: Progress
) -> tuple[list[Cell], list[Variant]]:
    """The cells of encoders that had the labels from the start, and the runs behind them."""
    found: list[Cell] = []
    behind: list[Variant] = []
    for base in asked.bases:
        for one in trained.seeded(base, seeds):
            bench = _Supervised(one, out, wanted, progress)
            for cohort in cohorts:
                for task in paper.tasks_of(cohort.source, tuple(cohort.tasks)):
                    found += bench.cells(cohort, task)
            behind += bench.variants
    return found, behind


def _probed(row: str, run: Run, cohorts: Sequence[Cohort], out: Path, wanted: Scores, progress: Progress) -> list[Cell]:
    kept = out / "scores" / "references" / Variant(row, run.config).folder
    found = cells(row, run, cohorts, kept, wanted, progress)
    return [dataclasses.replace(cell, features="reference") for cell in found]


def _untrained(config: Config) -> Run:
    """A supervised run's encoder as it begins; its head is of no task, and no probe reads it."""
    run = runs.create(dataclasses.replace(config, method={**config.method, "classes": ["none"]}), [])
    run.method.to(runs.choose_device(config.optim.device)).eval()
    return run


def _learning(base: Variant, cohort: Cohort, task: str, fraction: float, seed: int) -> Variant:
    """The run of a base on a draw of a task's labels."""
    config = base.config
    data = dataclasses.replace(
        config.data, cohort=str(cohort.folder), task=task, label_fraction=fraction, label_seed=seed
    )
    method = {**config.method, "classes": list(cohort.tasks[task])}
    n = int(len(cohort.rows("train", task)) * fraction)
    enough = math.ceil(PASSES * n / config.optim.batch_size)
    config = Budget(steps=max(1, min(config.optim.steps, enough))).of(config)
    drawn = "" if fraction == 1 else f", draw {seed}"
    label = f"{base.label}, {cohort.name} {task} {fraction:.0%}{drawn}"
    return Variant(label, dataclasses.replace(config, data=data, method=method))


class _Supervised:
    """One encoder and seed, trained and scored on task after task."""

    def __init__(self, base: Variant, out: Path, wanted: Scores, progress: Progress) -> None:
        self.base, self.out, self.wanted, self.progress = base, out, wanted, progress
        self.variants: list[Variant] = []

    def cells(self, cohort: Cohort, task: str) -> list[Cell]:
        """A cell for each share of the labels that is not too small to draw."""
        if self.wanted.splits is not None and task in published_tasks():
            log.warning(
                "%s: not on the published splits of %s: a run learns from its cohort's own", self.base.label, task
            )
            return []
        found = []
        for fraction in self.wanted.fractions:
            if int(len(cohort.rows("train", task)) * fraction) < 1:
                log.warning("%s: no run on %.0f%% of %s: too few train", self.base.label, 100 * fraction, task)
                continue
            seeds = SEEDS if fraction < 1 else SEEDS[:1]
            variants = [_learning(self.base, cohort, task, fraction, seed) for seed in seeds]
            self.variants += variants
            learnt = [trained.trained(self.out / "runs", one, self.progress) for one in variants]
            name = f"{cohort.name}-{task}-{SUPERVISED}-{fraction:g}"
            path = self.out / "scores" / "references" / self.base.folder / f"{name}.json"
            made = {"runs": " ".join(run.fingerprint for run in learnt), "cohort": cohort.fingerprint}
            found += once(path, made, self._scored(learnt, cohort, task, fraction))
        return found

    def _scored(self, learnt: Sequence[Run], cohort: Cohort, task: str, fraction: float) -> Callable[[], list[Cell]]:
        def make() -> list[Cell]:
            result = score_supervised(learnt, cohort, task, self.progress)
            test = cohort.rows("test", task)
            low, high = result.score.interval
            cell = Cell(
                self.base.label, self.base.config.optim.seed, cohort.name, cohort.source, task, SUPERVISED, fraction,
                "reference", result.score.macro, low, high, result.score.n_records, result.score.skipped,
                result.unlearnable, max(count_training_patients(run, cohort, test) for run in learnt),
            )  # fmt: skip
            return [cell]

        return make
