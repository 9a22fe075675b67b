"""Reference rows for comparison with the pre-trained methods: untrained encoders, supervised encoders, hand-crafted features.

    Random Init   an untrained encoder, probed like a pre-trained one
    Supervised    the same encoder trained on the task's labels and scored with its own head: one run for each task, fraction
                  of the labels and draw; the draws are the probe's
    hand-crafted  statistics of the signal, probed

Supervised runs have 600 steps, but at most 100 epochs over a small draw, and a budget can only lower the steps. They save the
weights of the lowest held-out loss on the task's validation split, where the probe chooses its penalty. A config of method
`supervised` changes everything but the limit on epochs. A task needs seven runs of each encoder: three draws of each fraction
below 1, and one of all labels.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from leadwise import run as runs
from leadwise.config import Config, LogConfig, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.published_splits import tasks as published_tasks
from leadwise.evaluate.embed import training_overlap
from leadwise.evaluate.handcrafted import Handcrafted
from leadwise.evaluate.probe import SEEDS
from leadwise.evaluate.supervised import score_supervised
from leadwise.methods.catalogue import all_small_settings, with_defaults
from leadwise.progress import Progress
from leadwise.reproduce import paper_numbers, training_runs
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.cells import SUPERVISED, Cell, ScoringOptions, load_or_compute, score_run
from leadwise.reproduce.variants import Variant
from leadwise.run import Run

log = logging.getLogger(__name__)

METHOD, HANDCRAFTED = "supervised", "hand-crafted features"
STEPS = 600  # of a supervised run without a config
MAX_EPOCHS = 100  # over a draw; a small draw is memorised earlier


class Reference(NamedTuple):
    """A table row that is not a pre-trained method."""

    name: str  # row name in tables
    what: str
    how: str  # command that computes it


_ROWS = "leadwise reproduce table1"
REFERENCES = (
    Reference("Random Init (CNN)", "untrained ResNet, probed", _ROWS),
    Reference("Random Init (Trans)", "untrained ViT, probed", _ROWS),
    Reference(HANDCRAFTED, "statistics of leads and rhythm, probed", f"{_ROWS}, or leadwise probe"),
    Reference("Supervised (CNN)", "ResNet trained on the labels, its own scores", f"{_ROWS}, or method {METHOD}"),
    Reference("Supervised (Trans)", "ViT trained on the labels, its own scores", f"{_ROWS}, or method {METHOD}"),
)


@dataclass(frozen=True)
class References:
    """The settings of the reference rows: one base variant for each encoder, without a task."""

    bases: tuple[Variant, ...]

    @staticmethod
    def from_configs(configs: Sequence[Config], shared: Config) -> References:
        """Return references with the given configs of method `supervised`, and small settings for the other encoders.

        Args:
            shared: config whose signal, device and seed the small settings use.
        """
        by_row = {paper_numbers.row_name(config.method): config for config in map(with_defaults, configs)}
        optim = OptimConfig(
            steps=STEPS, batch_size=64, lr=1e-3, weight_decay=0.01, device=shared.optim.device, seed=shared.optim.seed
        )
        logging_settings = LogConfig(every=20, validate_every=25, save_every=100, keep="best")
        for method in all_small_settings(METHOD):
            small = with_defaults(Config(signal=shared.signal, method=method, optim=optim, log=logging_settings))
            by_row.setdefault(paper_numbers.row_name(small.method), small)
        return References(tuple(Variant(row, config) for row, config in sorted(by_row.items())))

    def __str__(self) -> str:
        descriptions = []
        for base in self.bases:
            weights = "lowest held-out loss" if base.config.log.keep == "best" else "last weights"
            optim = base.config.optim
            descriptions.append(
                f"{base.label} at most {optim.steps:,} steps of {optim.batch_size} on each draw, {weights}"
            )
        return "; ".join(descriptions)

    def check(self) -> None:
        """Check, as far as possible without training, that every encoder can be trained.

        Raises:
            ConfigError: a setting that the encoder cannot use.
        """
        for base in self.bases:
            training_runs.check_variant(base)

    def with_budget(self, budget: Budget, out: Path, cohorts: Sequence[Cohort]) -> References:
        """Return the references with no more steps than the budget has; minutes are timed on the first task."""
        if budget.steps is None and budget.minutes is None:
            return self
        cohort = cohorts[0]
        bases = []
        for base in self.bases:
            timed = _on_draw(base, cohort, next(iter(cohort.tasks)), 1.0, SEEDS[0])
            optim = training_runs.with_budget(budget, out, timed).config.optim
            steps = min(base.config.optim.steps, optim.steps)
            bases.append(dataclasses.replace(base, config=Budget(steps=steps).of(base.config)))
        return References(tuple(bases))


def reference_cells(
    references: References,
    cohorts: Sequence[Cohort],
    out: Path,
    options: ScoringOptions,
    seeds: Sequence[int],
    progress: Progress,
) -> tuple[list[Cell], list[Variant]]:
    """Return the cells of every reference row, and the variants of their supervised runs."""
    supervised, trained = supervised_cells(references, cohorts, out, options, seeds, progress)
    return [*untrained_cells(references, cohorts, out, options, seeds, progress), *supervised], trained


def untrained_cells(
    references: References,
    cohorts: Sequence[Cohort],
    out: Path,
    options: ScoringOptions,
    seeds: Sequence[int],
    progress: Progress,
) -> list[Cell]:
    """Return the cells of the rows without training: random encoders and hand-crafted features, probed."""
    options = dataclasses.replace(options, zero_shot=False, untrained=False, legacy=False)
    return [
        cell
        for row, run in untrained_runs(references, seeds)
        for cell in _probe_cells(row, run, cohorts, out, options, progress)
    ]


def untrained_runs(references: References, seeds: Sequence[int]) -> Iterator[tuple[str, Run]]:
    """Iterate over the rows without training: the row's name, and a run that embeds with random or no weights."""
    for base in references.bases:
        for variant in training_runs.with_seeds(base, seeds):
            yield base.label.replace("Supervised", "Random Init"), _random_run(variant.config)
    config = dataclasses.replace(references.bases[0].config, method={"name": HANDCRAFTED})
    yield HANDCRAFTED, Run(config, Handcrafted(config.signal))


def supervised_cells(
    references: References,
    cohorts: Sequence[Cohort],
    out: Path,
    options: ScoringOptions,
    seeds: Sequence[int],
    progress: Progress,
) -> tuple[list[Cell], list[Variant]]:
    """Return the cells of the supervised encoders, and the variants of their runs."""
    cells: list[Cell] = []
    trained: list[Variant] = []
    for base in references.bases:
        for variant in training_runs.with_seeds(base, seeds):
            scorer = _SupervisedScorer(variant, out, options, progress)
            for cohort in cohorts:
                for task in paper_numbers.scored_tasks(cohort.source, tuple(cohort.main_tasks)):
                    cells += scorer.cells(cohort, task)
            trained += scorer.variants
    return cells, trained


def _probe_cells(
    row: str, run: Run, cohorts: Sequence[Cohort], out: Path, options: ScoringOptions, progress: Progress
) -> list[Cell]:
    folder = out / "scores" / "references" / Variant(row, run.config).folder
    cells = score_run(row, run, cohorts, folder, options, progress)
    return [dataclasses.replace(cell, features="reference", pretraining_data="") for cell in cells]


def _random_run(config: Config) -> Run:
    """Return a supervised run with its initial weights; its head has a placeholder class, and no probe reads the head."""
    run = runs.create(dataclasses.replace(config, method={**config.method, "classes": ["none"]}), [])
    run.method.to(runs.choose_device(config.optim.device)).eval()
    return run


def _on_draw(base: Variant, cohort: Cohort, task: str, fraction: float, seed: int) -> Variant:
    """Return the variant of a base that is trained on one draw of a task's labels."""
    config = base.config
    data = dataclasses.replace(
        config.data, cohort=str(cohort.folder), task=task, label_fraction=fraction, label_seed=seed
    )
    method = {**config.method, "classes": list(cohort.tasks[task])}

    # Limit the steps to MAX_EPOCHS over the draw.
    n = int(len(cohort.rows("train", task)) * fraction)
    max_steps = math.ceil(MAX_EPOCHS * n / config.optim.batch_size)
    config = Budget(steps=max(1, min(config.optim.steps, max_steps))).of(config)

    draw = "" if fraction == 1 else f", draw {seed}"
    label = f"{base.label}, {cohort.name} {task} {fraction:.0%}{draw}"
    return Variant(label, dataclasses.replace(config, data=data, method=method))


class _SupervisedScorer:
    """Trains and scores one encoder with one seed, task by task."""

    def __init__(self, base: Variant, out: Path, options: ScoringOptions, progress: Progress) -> None:
        self.base, self.out, self.options, self.progress = base, out, options, progress
        self.variants: list[Variant] = []

    def cells(self, cohort: Cohort, task: str) -> list[Cell]:
        """Return one cell for each fraction of the labels, except fractions too small to draw a recording."""
        if self.options.splits is not None and task in published_tasks():
            log.warning(
                "%s: not scored on the published splits of %s: a supervised run is trained on its cohort's own splits",
                self.base.label,
                task,
            )
            return []
        cells = []
        for fraction in self.options.fractions:
            if int(len(cohort.rows("train", task)) * fraction) < 1:
                log.warning(
                    "%s: no run on %.0f%% of %s: too few training recordings", self.base.label, 100 * fraction, task
                )
                continue
            # Train one run for each draw; all labels are one draw.
            seeds = SEEDS if fraction < 1 else SEEDS[:1]
            variants = [_on_draw(self.base, cohort, task, fraction, seed) for seed in seeds]
            self.variants += variants
            draws = [training_runs.load_or_train(self.out / "runs", one, self.progress) for one in variants]

            # Score them together.
            name = f"{cohort.name}-{task}-{SUPERVISED}-{fraction:g}"
            path = self.out / "scores" / "references" / self.base.folder / f"{name}.json"
            inputs = {"runs": " ".join(run.fingerprint for run in draws), "cohort": cohort.fingerprint}
            cells += load_or_compute(path, inputs, self._score(draws, cohort, task, fraction))
        return cells

    def _score(self, draws: Sequence[Run], cohort: Cohort, task: str, fraction: float) -> Callable[[], list[Cell]]:
        def compute() -> list[Cell]:
            result = score_supervised(draws, cohort, task, self.progress)
            test = cohort.rows("test", task)
            low, high = result.score.interval
            cell = Cell(
                self.base.label, self.base.config.optim.seed, cohort.name, cohort.source, task, SUPERVISED, fraction,
                "reference", result.score.macro, low, high, result.score.n_records, result.score.skipped,
                result.unlearnable, max(training_overlap(run, cohort, test).n_leaked for run in draws),
            )  # fmt: skip
            return [cell]

        return compute
