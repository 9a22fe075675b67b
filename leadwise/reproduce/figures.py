"""Figures of a reproduction, drawn from cells: dots for tables, curves for sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from leadwise.pictures import bars, lines
from leadwise.reproduce import paper_numbers, tables
from leadwise.reproduce.cells import PROBE, SUPERVISED, Cell
from leadwise.reproduce.variants import Variant

Figures = list[tuple[Figure, str]]

UNIT = "macro AUROC"
INTERVALS = "Dots: ours, with 95 % intervals over patients (of several seeds: their means)."


def method_figures(cells: Sequence[Cell]) -> Figures:
    """Return one figure for each way of scoring: each method on each task, the untrained encoder and the paper's number.

    Methods that are trained on labels appear with the probes of the same fraction of labels.
    """
    figures: Figures = []
    for label in dict.fromkeys(map(_figure_label, cells)):
        means = tables.average_seeds([cell for cell in cells if _figure_label(cell) == label])
        rows: dict[str, list[dict[str, Any]]] = {"trained": [], "untrained": [], "reference": [], "paper": []}
        for task in dict.fromkeys(mean.task for mean in means):  # group the methods by task
            for mean in (mean for mean in means if mean.task == task):
                name, group = f"{task}: {mean.cell.row}", mean.cell.features
                rows[group].append(
                    {"name": name, "group": group, "value": mean.ours, "low": mean.low, "high": mean.high}
                )
                printed = tables.paper_value(mean.cell)
                if printed is not None and group != "untrained":
                    rows["paper"].append({"name": name, "group": "paper", "value": printed / 100})
        figure = bars.draw([row for group in rows.values() for row in group], label, unit=UNIT)
        figures.append((figure, f"{label}. {INTERVALS}"))
    return figures


def mean_figures(cells: Sequence[Cell]) -> Figures:
    """Return one figure for each way of scoring: the mean over the tasks of each method, best first, and untrained."""
    figures: Figures = []
    means = tables.task_means(cells)
    for label in dict.fromkeys(one.label for one in means):
        ordered = sorted((one for one in means if one.label == label), key=lambda one: -one.value)
        best = {one.row: number for number, one in reversed(list(enumerate(ordered)))}
        rows = [
            {"name": one.row, "group": one.features, "value": one.value / 100, "low": min(one.seeds) / 100,
             "high": max(one.seeds) / 100}
            for features in ("trained", "untrained", "reference")
            for one in sorted(ordered, key=lambda one: best[one.row])
            if one.features == features
        ]  # fmt: skip
        figure = bars.draw(rows, f"{label}, mean over the tasks", unit=UNIT)
        figures.append(
            (figure, f"{label}: mean over the tasks. Lines: the range of the seeds, where there are several.")
        )
    return figures


def _figure_label(cell: Cell) -> str:
    """Return the way of scoring, with supervised runs counted as probes."""
    return tables.scoring_label(dataclasses.replace(cell, how=PROBE) if cell.how == SUPERVISED else cell)


def component_figures(cells: Sequence[Cell], variants: Sequence[Variant]) -> Figures:
    """Return Table 3 as a dot plot: each variant's mean over the tasks with the range of the seeds, and the paper's mean."""
    rows: list[dict[str, Any]] = []
    for variant in variants:
        for label, printed in zip(("probe 1%", "zero-shot"), paper_numbers.table3(variant.label)):
            values = [value / 100 for value in tables.seed_means(cells, variant.label, label)]
            if values:
                value = sum(values) / len(values)
                rows.append(
                    {"name": variant.label, "group": label, "value": value, "low": min(values), "high": max(values)}
                )
            if printed is not None:
                rows.append({"name": variant.label, "group": f"{label}, paper", "value": printed / 100})
    figure = bars.draw(rows, "Components added one by one, mean over the tasks", unit=UNIT)
    return [(figure, "Bars: the range over seeds. The paper averages six tasks; ours are the tasks that were scored.")]


def sweep_figures(cells: Sequence[Cell], variants: Sequence[Variant]) -> Figures:
    """Return Figure 2: the score against the number of patches and against the mask ratio."""
    names = {"n_patches": "patches a lead", "mask_ratio": "mask ratio"}
    panels = {name: tables.sweep_points(cells, variants, axis) for axis, name in names.items()}
    marked = {
        names["n_patches"]: float(paper_numbers.BEST_N_PATCHES),
        names["mask_ratio"]: paper_numbers.BEST_MASK_RATIO,
    }
    figure = lines.draw(panels, marked, "Patch number and mask ratio, mean over the tasks")
    return [(figure, "Dashed: the paper's best value. Bars: the range over seeds.")]
