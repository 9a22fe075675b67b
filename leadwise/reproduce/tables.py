"""Cells -> the lines of a table: ours, the paper's number beside it, and the difference. All macro AUROC x 100."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from leadwise.reproduce import paper
from leadwise.reproduce.score import SUPERVISED, Cell, mean
from leadwise.reproduce.variants import Variant

Line = dict[str, Any]

UNTRAINED = "Random Init"


def task_name(cell: Cell) -> str:
    """The paper's name of a task, or ours where the paper does not have it."""
    return paper.TASKS.get((cell.source, cell.task), f"{cell.cohort} {cell.task}")


@dataclass(frozen=True)
class SeedMean:
    """A cell over its seeds: the mean, the mean of the intervals, the range; in [0, 1]."""

    cell: Cell  # the first
    method: str
    task: str
    ours: float
    low: float
    high: float
    seeds: tuple[float, ...]
    unlearnable: tuple[str, ...]  # for any of the seeds


def average_seeds(cells: Sequence[Cell]) -> list[SeedMean]:
    """Cells of the same run, task and way of scoring as one."""
    found = []
    for group in _groups(cells, lambda c: (c.row, c.features, c.cohort, c.task, c.how, c.fraction)):
        first = group[0]
        method = f"{first.row}, untrained" if first.features == "untrained" else first.row
        ours, low, high = (mean([getattr(cell, key) for cell in group]) for key in ("macro", "low", "high"))
        lost = tuple(sorted({name for cell in group for name in cell.unlearnable}))
        found.append(
            SeedMean(first, method, task_name(first), ours, low, high, tuple(cell.macro for cell in group), lost)
        )
    return found


def per_task(cells: Sequence[Cell]) -> list[Line]:
    """A line for each run, task and way of scoring."""
    lines = []
    for one in average_seeds(cells):
        theirs = paper_value(one.cell)
        line = {
            "method": one.method,
            "task": one.task,
            "how": scoring_label(one.cell),
            "ours": f"{100 * one.ours:.2f} ({100 * one.low:.1f}-{100 * one.high:.1f})",
            "seeds": _range([100 * macro for macro in one.seeds]),
            "paper": "" if theirs is None else f"{theirs:.2f}",
            "ours - paper": "" if theirs is None else f"{100 * one.ours - theirs:+.2f}",
            "records": one.cell.n_records,
            "not scored": ", ".join(one.cell.skipped),
            "counted as 0.5": ", ".join(one.unlearnable),
        }
        lines.append(line)
    return lines


def table3(cells: Sequence[Cell], variants: Sequence[Variant]) -> list[Line]:
    """A line for each variant: means over the tasks, and the step from the line above.

    The paper prints means over six tasks. They are set against ours only where ours are of the same six; of the whole
    method its mean over our tasks is known from its other tables.
    """
    lines: list[Line] = []
    before: dict[str, float] = {}
    scored = list(dict.fromkeys((cell.source, cell.task) for cell in cells if paper.counts_in_mean(cell.source, cell.task)))
    same = set(scored) == set(paper.TASKS)
    for variant in variants:
        line: Line = {"objective": variant.label}
        for column, way, of_six in zip(
            ("linear 1%", "zero-shot"), ("probe 1%", "zero-shot"), paper.TABLE3[variant.label]
        ):
            seeds = seed_means(cells, variant.label, way)
            if not seeds:
                continue
            ours = mean(seeds)
            line |= {
                column: f"{ours:.2f}",
                f"{column}, seeds": _range(seeds),
                f"{column}, step": f"{ours - before[column]:+.2f}" if column in before else "",
                f"{column}, paper (six tasks)": f"{of_six:.2f}",
            }
            theirs = of_six if same else paper.mean_of_cg_dmer(way, scored) if variant is variants[-1] else None
            if theirs is not None:
                line |= {f"{column}, paper (these tasks)": f"{theirs:.2f}"} if not same else {}
                line |= {f"{column}, ours - paper": f"{ours - theirs:+.2f}"}
            before[column] = ours
        lines.append(line)
    return lines


def fig2(cells: Sequence[Cell], variants: Sequence[Variant]) -> list[Line]:
    """A line for each point of the two curves: means over the tasks."""
    lines: list[Line] = []
    for variant in variants:
        line: Line = {"setting": variant.axis, "value": variant.value}
        for way in _ways(cells):
            seeds = seed_means(cells, variant.label, way)
            line |= {way: f"{mean(seeds):.2f}", f"{way}, seeds": _range(seeds)} if seeds else {}
        best = {"n_patches": paper.BEST_N_PATCHES, "mask_ratio": paper.BEST_MASK_RATIO}[variant.axis]
        line["paper"] = "best" if variant.value == best else ""
        lines.append(line)
    return lines


def sweep_points(cells: Sequence[Cell], variants: Sequence[Variant], axis: str) -> list[dict[str, Any]]:
    """What the curves of Figure 2 are drawn from: x, y and the range over the seeds, by way of scoring."""
    drawn = []
    for variant in (variant for variant in variants if variant.axis == axis):
        for way in _ways(cells):
            seeds = seed_means(cells, variant.label, way)
            if seeds:
                drawn.append(
                    {"x": variant.value, "group": way, "y": mean(seeds), "low": min(seeds), "high": max(seeds)}
                )
    return drawn


def seed_means(cells: Sequence[Cell], row: str, way: str) -> list[float]:
    """A run's mean over the tasks, x 100, for each of its seeds."""
    mine = [
        cell
        for cell in cells
        if cell.row == row and cell.features == "trained" and scoring_label(cell) == way and paper.counts_in_mean(cell.source, cell.task)
    ]
    return [100 * mean([cell.macro for cell in group]) for group in _groups(mine, lambda c: c.seed)]


def _ways(cells: Iterable[Cell]) -> list[str]:
    return list(dict.fromkeys(scoring_label(cell) for cell in cells))


def scoring_label(cell: Cell) -> str:
    """The way of scoring, as tables call it."""
    return cell.how if cell.fraction is None else f"{cell.how} {cell.fraction:.0%}"


def paper_value(cell: Cell) -> float | None:
    """The paper's number for a cell; None where it has none, as for what learnt with labels."""
    if cell.features == "untrained":
        kind = "CNN" if "ResNet" in cell.row else "Trans" if "ViT" in cell.row or cell.row == "CG-DMER" else ""
        if cell.fraction is None or not kind:
            return None
        return paper.linear_probe(f"{UNTRAINED} ({kind})", cell.source, cell.task, cell.fraction)
    if cell.how == SUPERVISED:
        return None
    if cell.fraction is None:
        return paper.zero_shot(cell.row, cell.source, cell.task)
    return paper.linear_probe(cell.row, cell.source, cell.task, cell.fraction)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f}-{max(values):.1f}" if len(values) > 1 else ""


def _groups(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> list[list[Cell]]:
    """Cells with the same key, in the order in which keys first come."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())
