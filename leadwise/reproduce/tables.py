"""Table rows computed from cells: our score, the paper's number, and the difference. All macro AUROC x 100."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from leadwise.reproduce import paper_numbers
from leadwise.reproduce.cells import SUPERVISED, Cell, mean
from leadwise.reproduce.variants import Variant

Line = dict[str, Any]
T = TypeVar("T")

UNTRAINED = "Random Init"


def task_name(cell: Cell) -> str:
    """Return the paper's name of a task, or cohort and task if it is not in the paper."""
    return paper_numbers.TASKS.get((cell.source, cell.task), f"{cell.cohort} {cell.task}")


@dataclass(frozen=True)
class SeedMean:
    """A cell averaged over its seeds: mean score, mean interval bounds, and the score of each seed; in [0, 1]."""

    cell: Cell  # of the first seed
    method: str
    task: str
    ours: float
    low: float
    high: float
    seeds: tuple[float, ...]
    unlearnable: tuple[str, ...]  # for any of the seeds


def average_seeds(cells: Sequence[Cell]) -> list[SeedMean]:
    """Return one SeedMean for all cells of the same row, task and way of scoring."""
    means = []
    for group in _groups(cells, lambda c: (c.row, c.features, c.cohort, c.task, c.how, c.fraction)):
        first = group[0]
        method = f"{first.row}, untrained" if first.features == "untrained" else first.row
        ours, low, high = (mean([getattr(cell, key) for cell in group]) for key in ("macro", "low", "high"))
        unlearnable = tuple(sorted({name for cell in group for name in cell.unlearnable}))
        seeds = tuple(cell.macro for cell in group)
        means.append(SeedMean(first, method, task_name(first), ours, low, high, seeds, unlearnable))
    return means


def per_task(cells: Sequence[Cell]) -> list[Line]:
    """Return a table row for each method, task and way of scoring."""
    lines = []
    for one in average_seeds(cells):
        paper = paper_value(one.cell)
        line = {
            "method": one.method,
            "task": one.task,
            "how": scoring_label(one.cell),
            "ours": f"{100 * one.ours:.2f} ({100 * one.low:.1f}-{100 * one.high:.1f})",
            "seeds": _range([100 * macro for macro in one.seeds]),
            "paper": "" if paper is None else f"{paper:.2f}",
            "ours - paper": "" if paper is None else f"{100 * one.ours - paper:+.2f}",
            "feature width": one.cell.feature_width or "",
            "probe width": one.cell.probe_width or "",
            "pre-training data": one.cell.pretraining_data,
            "records": one.cell.n_records,
            "not scored": ", ".join(one.cell.skipped),
            "counted as 0.5": ", ".join(one.unlearnable),
        }
        lines.append(line)
    return lines


def table3(cells: Sequence[Cell], variants: Sequence[Variant]) -> list[Line]:
    """Return a table row for each variant: means over the tasks, and the difference to the row above.

    A row of ours alone has no number of the paper. The paper prints means over six tasks. They are compared with ours only
    if ours are over the same six tasks. For the complete method, the paper's mean over our tasks is computed from its other
    tables.
    """
    lines: list[Line] = []
    previous: dict[str, float] = {}
    scored = list(
        dict.fromkeys(
            (cell.source, cell.task) for cell in cells if paper_numbers.counts_in_mean(cell.source, cell.task)
        )
    )
    same_tasks = set(scored) == set(paper_numbers.TASKS)
    for variant in variants:
        line: Line = {"objective": variant.label}
        for column, label, six_tasks in zip(
            ("linear 1%", "zero-shot"), ("probe 1%", "zero-shot"), paper_numbers.table3(variant.label)
        ):
            # Our mean, its range over seeds, and the difference to the row above.
            seeds = seed_means(cells, variant.label, label)
            if not seeds:
                continue
            ours = mean(seeds)
            line |= {
                column: f"{ours:.2f}",
                f"{column}, seeds": _range(seeds),
                f"{column}, step": f"{ours - previous[column]:+.2f}" if column in previous else "",
                f"{column}, paper (six tasks)": "" if six_tasks is None else f"{six_tasks:.2f}",
            }

            # The paper's mean over the same tasks, where it is known.
            is_last = variant is variants[-1]
            paper = six_tasks if same_tasks else paper_numbers.mean_of_cg_dmer(label, scored) if is_last else None
            if paper is not None:
                line |= {f"{column}, paper (these tasks)": f"{paper:.2f}"} if not same_tasks else {}
                line |= {f"{column}, ours - paper": f"{ours - paper:+.2f}"}
            previous[column] = ours
        lines.append(line)
    return lines


def fig2(cells: Sequence[Cell], variants: Sequence[Variant]) -> list[Line]:
    """Return a table row for each point of the two curves: means over the tasks."""
    lines: list[Line] = []
    for variant in variants:
        line: Line = {"setting": variant.axis, "value": variant.value}
        for label in _labels(cells):
            seeds = seed_means(cells, variant.label, label)
            line |= {label: f"{mean(seeds):.2f}", f"{label}, seeds": _range(seeds)} if seeds else {}
        best = {"n_patches": paper_numbers.BEST_N_PATCHES, "mask_ratio": paper_numbers.BEST_MASK_RATIO}[variant.axis]
        line["paper"] = "best" if variant.value == best else ""
        lines.append(line)
    return lines


def sweep_points(cells: Sequence[Cell], variants: Sequence[Variant], axis: str) -> list[dict[str, Any]]:
    """Return the points of a curve of Figure 2: x, y and the range over the seeds, for each way of scoring."""
    points = []
    for variant in (variant for variant in variants if variant.axis == axis):
        for label in _labels(cells):
            seeds = seed_means(cells, variant.label, label)
            if seeds:
                points.append(
                    {"x": variant.value, "group": label, "y": mean(seeds), "low": min(seeds), "high": max(seeds)}
                )
    return points


def seed_means(cells: Sequence[Cell], row: str, label: str) -> list[float]:
    """Return a trained row's mean over the tasks, x 100, for each of its seeds.

    Args:
        label: the way of scoring, as `scoring_label` returns it.
    """
    selected = [
        cell
        for cell in cells
        if cell.row == row
        and cell.features == "trained"
        and scoring_label(cell) == label
        and paper_numbers.counts_in_mean(cell.source, cell.task)
    ]
    return [100 * mean([cell.macro for cell in group]) for group in _groups(selected, lambda c: c.seed)]


@dataclass(frozen=True)
class TaskMean:
    """The mean over the tasks of one row and way of scoring, x 100, for each seed."""

    row: str
    features: str
    label: str  # way of scoring
    seeds: tuple[float, ...]

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return mean(self.seeds)


def task_means(cells: Sequence[Cell]) -> list[TaskMean]:
    """Return the mean over the tasks that count, for each row and way of scoring."""
    counted = [cell for cell in cells if paper_numbers.counts_in_mean(cell.source, cell.task)]
    means = []
    for group in _groups(counted, lambda c: (c.row, c.features, scoring_label(c))):
        seeds = [100 * mean([cell.macro for cell in one]) for one in _groups(group, lambda c: c.seed)]
        means.append(TaskMean(group[0].row, group[0].features, scoring_label(group[0]), tuple(seeds)))
    return means


def means_table(cells: Sequence[Cell]) -> list[Line]:
    """Return a table row for each method, with the mean over the tasks and the range of its seeds; best at few labels first."""
    lines = []
    labels = _labels(cells)
    for group in _groups(task_means(cells), lambda one: (one.row, one.features)):
        by_label = {one.label: one for one in group}
        line: Line = {"method": f"{group[0].row}, untrained" if group[0].features == "untrained" else group[0].row}
        for label in labels:
            one = by_label.get(label)
            spread = f" ({_range(one.seeds)})" if one is not None and len(set(one.seeds)) > 1 else ""
            line[label] = "" if one is None else f"{one.value:.1f}{spread}"
        lines.append((by_label[labels[0]].value if labels[0] in by_label else -math.inf, line))
    return [line for _, line in sorted(lines, key=lambda pair: -pair[0])]


def _labels(cells: Iterable[Cell]) -> list[str]:
    return list(dict.fromkeys(scoring_label(cell) for cell in cells))


def scoring_label(cell: Cell) -> str:
    """Return the way of scoring as it is printed in tables, such as "probe 1%"."""
    return cell.how if cell.fraction is None else f"{cell.how} {cell.fraction:.0%}"


def paper_value(cell: Cell) -> float | None:
    """Return the paper's number for a cell; None if it has none, as for supervised rows."""
    if cell.features == "untrained":
        kind = "CNN" if "ResNet" in cell.row else "Trans" if "ViT" in cell.row or cell.row == "CG-DMER" else ""
        if cell.fraction is None or not kind:
            return None
        return paper_numbers.linear_probe(f"{UNTRAINED} ({kind})", cell.source, cell.task, cell.fraction)
    if cell.how == SUPERVISED:
        return None
    if cell.fraction is None:
        return paper_numbers.zero_shot(cell.row, cell.source, cell.task)
    return paper_numbers.linear_probe(cell.row, cell.source, cell.task, cell.fraction)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f}-{max(values):.1f}" if len(values) > 1 else ""


def _groups(cells: Iterable[T], key: Callable[[T], Any]) -> list[list[T]]:
    """Return the cells grouped by key, in the order in which the keys first occur."""
    groups: dict[Any, list[T]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())
