"""Cells -> figures: bars for tables, curves for sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from leadwise.pictures import bars, lines
from leadwise.reproduce import paper, tables
from leadwise.reproduce.score import Cell
from leadwise.reproduce.variants import Variant

Figures = list[tuple[Figure, str]]

UNIT = "macro AUROC"
INTERVALS = "Dots: ours, with 95 % intervals over patients (of several seeds: their means)."


def methods(cells: Sequence[Cell]) -> Figures:
    """For each way of scoring, the methods on each task, the untrained encoders and the paper's numbers."""
    figures: Figures = []
    for how in dict.fromkeys(tables.how(cell) for cell in cells):
        rows: list[dict[str, Any]] = []
        for line in tables.averaged([cell for cell in cells if tables.how(cell) == how]):
            rows.append(
                {"name": line.task, "group": line.method, "value": line.ours, "low": line.low, "high": line.high}
            )
            printed = tables.printed(line.cell)
            if printed is not None:
                rows.append({"name": line.task, "group": f"{line.method}, paper", "value": printed / 100})
        figures.append((bars.draw(rows, how, unit=UNIT), f"{how}. {INTERVALS}"))
    return figures


def components(cells: Sequence[Cell], variants: Sequence[Variant]) -> Figures:
    """Table 3 as dots: each variant's mean over the tasks, ours with the range of the seeds, and the paper's."""
    rows: list[dict[str, Any]] = []
    for variant in variants:
        for how, printed in zip(("probe 1%", "zero-shot"), paper.TABLE3[variant.label]):
            values = [value / 100 for value in tables.by_seed(cells, variant.label, how)]
            if values:
                value = sum(values) / len(values)
                rows.append(
                    {"name": variant.label, "group": how, "value": value, "low": min(values), "high": max(values)}
                )
            rows.append({"name": variant.label, "group": f"{how}, paper", "value": printed / 100})
    figure = bars.draw(rows, "Components added one by one, mean over the tasks", unit=UNIT)
    return [(figure, "Bars: the range over seeds. The paper averages six tasks; ours are the tasks that were scored.")]


def sweeps(cells: Sequence[Cell], variants: Sequence[Variant]) -> Figures:
    """Figure 2: score over the number of patches and over the mask ratio."""
    names = {"n_patches": "patches a lead", "mask_ratio": "mask ratio"}
    panels = {name: tables.points(cells, variants, axis) for axis, name in names.items()}
    marked = {names["n_patches"]: float(paper.BEST_N_PATCHES), names["mask_ratio"]: paper.BEST_MASK_RATIO}
    figure = lines.draw(panels, marked, "Patch number and mask ratio, mean over the tasks")
    return [(figure, "Dashed: what the paper finds best. Bars: the range over seeds.")]
