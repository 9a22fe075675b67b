"""The readable numbers of MERIT's paper, and ours where a cohort has the cell.

Only the paper's abstract and first page are accessible. The numbers come from a page that collects results of papers; it has 10
of 21 rows. They are at the level of fine-tuning: supervised networks reach 92.9 on PTB-XL's sub, 93.6 after fine-tuning. So
they are printed with this level, in a column of their own, and no difference to a probe is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import embed_cohort, training_overlap, usable
from leadwise.evaluate.metrics.all_metrics import AT_THRESHOLDS
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.probe import make_probe_task, probe
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.progress import Progress, relabel
from leadwise.reproduce.cells import Cell, load_or_compute, mean
from leadwise.run import Run
from leadwise.training.finetune import FinetuneSettings, finetune

log = logging.getLogger(__name__)

Line = dict[str, Any]

AGGREGATOR = "fine-tune level, aggregator row"
FINE_TUNED, FROM_RANDOM, PROBED, ZERO_SHOT = "fine-tuned", "fine-tuned from random weights", "probe", "zero-shot"
AUROC, F1 = "AUROC", "F1"


@dataclass(frozen=True)
class PaperNumber:
    """One number of the paper, x 100."""

    source: str
    task: str
    metric: str  # AUROC or F1
    value: float
    level: str = AGGREGATOR
    remark: str = ""


PAPER = (
    PaperNumber("ptbxl", "super", AUROC, 93.26),
    PaperNumber("ptbxl", "sub", AUROC, 93.79),
    PaperNumber("ptbxl", "form", AUROC, 87.76),
    PaperNumber("ptbxl", "all", AUROC, 92.7, remark='the row is named "PTB-XL"; probably All'),
    PaperNumber("csn", "csn", AUROC, 96.46),
    PaperNumber("cpsc2018", "cpsc2018", AUROC, 96.46, remark="printed as 0.9646, the number of CSN"),
    PaperNumber("cpsc2018", "cpsc2018", F1, 52.18, remark="which F1 is not stated"),
    PaperNumber(
        "ptbxl", "super", AUROC, 73.44, "probably zero-shot, aggregator row", 'the row is named "Super macro AUC"'
    ),
)


def scored_cells(
    row: str, run: Run, cohorts: Sequence[Cohort], folder: Path, finetune_epochs: int, progress: Progress | None = None
) -> list[Cell]:
    """Return our cells for the tasks of PAPER: probe, zero-shot where the paper has it, and fine-tuned.

    Args:
        folder: where computed cells are stored; cells of the same weights, data and settings are read from it.
        finetune_epochs: passes over the training recordings; 0 leaves fine-tuning out.
    """
    cells: list[Cell] = []
    for cohort in cohorts:
        for task in dict.fromkeys(one.task for one in PAPER if one.source == cohort.source):
            if task not in cohort.tasks:
                log.warning("%s has no task '%s': prepare it again to score it", cohort.name, task)
                continue
            cells += _TaskScorer(row, run, cohort, task, folder, progress).cells(finetune_epochs)
    return cells


def table(cells: Sequence[Cell]) -> list[Line]:
    """Return a table row for each number of the paper, ours beside it; a cell that was not scored is empty."""
    lines: list[Line] = []
    for number in PAPER:
        zero_shot = number.level != AGGREGATOR
        line: Line = {
            "task": f"{number.source} {number.task}",
            "metric": number.metric,
            "paper": f"{number.value:.2f}",
            "level of the paper's number": number.level,
        }
        ways = (ZERO_SHOT,) if zero_shot else (FINE_TUNED, FROM_RANDOM, PROBED)
        for way in (FINE_TUNED, FROM_RANDOM, PROBED, ZERO_SHOT):
            line[f"ours, {way}"] = _ours(cells, number, way) if way in ways else ""
        of_task = [cell for cell in cells if (cell.source, cell.task) == (number.source, number.task)]
        line["test recordings"] = of_task[0].n_records if of_task else ""
        line["not scored"] = ", ".join(of_task[0].skipped) if of_task else ""
        lines.append({**line, "remark": number.remark})
    return lines


def details(cells: Sequence[Cell]) -> list[Line]:
    """Return a table row for each task and way of scoring, with every metric; means over the seeds."""
    lines: list[Line] = []
    for source, task, way in dict.fromkeys((cell.source, cell.task, _way(cell)) for cell in cells):
        group = [cell for cell in cells if (cell.source, cell.task, _way(cell)) == (source, task, way)]
        line: Line = {"task": f"{source} {task}", "ours": way}
        for metric in ("auroc", *AT_THRESHOLDS):
            line[metric] = _mean_of([cell for cell in group if cell.how.endswith(f" {metric}")])
        lines.append({**line, "test recordings": group[0].n_records, "not scored": ", ".join(group[0].skipped)})
    return lines


def _ours(cells: Sequence[Cell], number: PaperNumber, way: str) -> str:
    of_task = [c for c in cells if (c.source, c.task, _way(c)) == (number.source, number.task, way)]
    if number.metric == AUROC:
        return _mean_of([cell for cell in of_task if cell.how.endswith(" auroc")])
    values = {name: _mean_of([cell for cell in of_task if cell.how.endswith(f" {name}")]) for name in AT_THRESHOLDS}
    return "; ".join(f"{name} {value}" for name, value in values.items() if value)


def _mean_of(cells: Sequence[Cell]) -> str:
    """Return the mean over seeds with the mean bounds of the intervals, x 100; empty without cells."""
    if not cells:
        return ""
    macro, low, high = (100 * mean([getattr(cell, key) for cell in cells]) for key in ("macro", "low", "high"))
    return f"{macro:.2f} ({low:.1f}-{high:.1f})"


def _way(cell: Cell) -> str:
    return cell.how.rpartition(" ")[0]


class _TaskScorer:
    """Computes the cells of one run on one task."""

    def __init__(self, row: str, run: Run, cohort: Cohort, task: str, folder: Path, progress: Progress | None) -> None:
        self.row, self.run, self.cohort, self.task, self.folder = row, run, cohort, task, folder
        self.progress = progress
        self.rows, _ = usable(run, cohort, cohort.rows(task=task))
        test = self.rows[cohort.splits(self.rows) == "test"]
        self.n_leaked = training_overlap(run, cohort, test).n_leaked
        self.inputs = {"run": run.fingerprint, "cohort": cohort.fingerprint}

    def cells(self, finetune_epochs: int) -> list[Cell]:
        """Return the cells of this task."""
        cells = self._stored("probe", {}, self._probe)
        if any(one.level != AGGREGATOR for one in PAPER if (one.source, one.task) == (self.cohort.source, self.task)):
            try:
                cells += self._stored("zero-shot", {}, self._zero_shot)
            except PromptError as error:
                log.warning("%s: no zero-shot on %s (%s)", self.row, self.task, error)
        if finetune_epochs:
            cells += self._stored("finetune", {"epochs": str(finetune_epochs)}, lambda: self._finetune(finetune_epochs))
        return cells

    def _probe(self) -> list[Cell]:
        progress = relabel(self.progress, f"{self.row}, {self.task}: embed")
        cache = (self.run.folder or self.folder) / "embeddings"  # tasks of a cohort share recordings
        features = embed_cohort(self.run, self.cohort, "backbone", self.rows, progress, cache)
        result = probe(features, make_probe_task(self.cohort, self.task, self.rows), 1.0)
        return self._cells(PROBED, {"auroc": result.score, **result.measures})

    def _zero_shot(self) -> list[Cell]:
        progress = relabel(self.progress, f"{self.row}, {self.task}: zero-shot")
        report = run_zeroshot(self.run, self.cohort, self.task, progress=progress)
        return self._cells(ZERO_SHOT, {"auroc": report.trained})

    def _finetune(self, epochs: int) -> list[Cell]:
        progress = relabel(self.progress, f"{self.row}, {self.task}: fine-tune")
        settings = FinetuneSettings(epochs=epochs, device=self.run.config.optim.device)
        report = finetune(
            self.run, self.cohort, self.task, settings=settings, folder=self.folder / "finetune", progress=progress
        )
        results = report.results[1.0]
        ways = {FINE_TUNED: results["trained"], FROM_RANDOM: results["untrained"]}
        return [
            cell
            for way, result in ways.items()
            for cell in self._cells(way, {"auroc": result.score, **result.measures})
        ]

    def _cells(self, way: str, scores: dict[str, Score]) -> list[Cell]:
        """Return one cell per metric of AUROC and the variants of F1; `how` is the way of scoring and the metric."""
        return [
            Cell(
                self.row, self.run.config.optim.seed, self.cohort.name, self.cohort.source, self.task, f"{way} {metric}",
                None, "trained", score.macro, *score.interval, score.n_records, score.skipped, n_seen=self.n_leaked,
            )
            for metric, score in scores.items()
            if metric in ("auroc", *AT_THRESHOLDS)
        ]  # fmt: skip

    def _stored(self, name: str, settings: dict[str, str], compute: Callable[[], list[Cell]]) -> list[Cell]:
        path = self.folder / f"{self.cohort.name}-{self.task}-merit-{name}.json"
        return load_or_compute(path, {**self.inputs, **settings}, compute)
