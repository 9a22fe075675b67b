"""Cells -> figures: bars for tables, curves for sweeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from leadwise.pictures import bars, lines
from leadwise.reproduce import paper, tables
from leadwise.reproduce.score import PROBE, SUPERVISED, Cell
from leadwise.reproduce.variants import Variant

Figures = list[tuple[Figure, str]]

UNIT = "macro AUROC"
INTERVALS = "Dots: ours, with 95 % intervals over patients (of several seeds: their means)."


def method_figures(cells: Sequence[Cell]) -> Figures:
    """For each way of scoring, each method on each task: ours, the same encoder untrained, and the paper's number.

    What learnt with labels from the start stands among the probes of as many labels.
    """
    figures: Figures = []
    for how in dict.fromkeys(map(_beside, cells)):
        lines = tables.average_seeds([cell for cell in cells if _beside(cell) == how])
        rows: dict[str, list[dict[str, Any]]] = {"trained": [], "untrained": [], "reference": [], "paper": []}
        for task in dict.fromkeys(line.task for line in lines):  # a task's methods stand together
            for line in (line for line in lines if line.task == task):
                name, group, printed = f"{task}: {line.cell.row}", line.cell.features, tables.paper_value(line.cell)
                rows[group].append(
                    {"name": name, "group": group, "value": line.ours, "low": line.low, "high": line.high}
                )
                if printed is not None and group != "untrained":
                    rows["paper"].append({"name": name, "group": "paper", "value": printed / 100})
        figure = bars.draw([row for group in rows.values() for row in group], how, unit=UNIT)
        figures.append((figure, f"{how}. {INTERVALS}"))
    return figures


def _beside(cell: Cell) -> str:
    return tables.scoring_label(dataclasses.replace(cell, how=PROBE) if cell.how == SUPERVISED else cell)


def component_figures(cells: Sequence[Cell], variants: Sequence[Variant]) -> Figures:
    """Table 3 as dots: each variant's mean over the tasks, ours with the range of the seeds, and the paper's."""
    rows: list[dict[str, Any]] = []
    for variant in variants:
        for how, printed in zip(("probe 1%", "zero-shot"), paper.TABLE3[variant.label]):
            values = [value / 100 for value in tables.seed_means(cells, variant.label, how)]
            if values:
                value = sum(values) / len(values)
                rows.append(
                    {"name": variant.label, "group": how, "value": value, "low": min(values), "high": max(values)}
                )
            rows.append({"name": variant.label, "group": f"{how}, paper", "value": printed / 100})
    figure = bars.draw(rows, "Components added one by one, mean over the tasks", unit=UNIT)
    return [(figure, "Bars: the range over seeds. The paper averages six tasks; ours are the tasks that were scored.")]


def sweep_figures(cells: Sequence[Cell], variants: Sequence[Variant]) -> Figures:
    """Figure 2: score over the number of patches and over the mask ratio."""
    names = {"n_patches": "patches a lead", "mask_ratio": "mask ratio"}
    panels = {name: tables.sweep_points(cells, variants, axis) for axis, name in names.items()}
    marked = {names["n_patches"]: float(paper.BEST_N_PATCHES), names["mask_ratio"]: paper.BEST_MASK_RATIO}
    figure = lines.draw(panels, marked, "Patch number and mask ratio, mean over the tasks")
    return [(figure, "Dashed: what the paper finds best. Bars: the range over seeds.")]
