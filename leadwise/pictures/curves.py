"""Figure of a pre-training run: a panel per loss term, the total loss, effective rank, gradient norm and learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.pictures.ink import (
    GREY,
    INK,
    PALE,
    PALETTE,
    blank,
    tidy,
)

COLUMNS = 3
LOG_RANGE = 50.0  # positive curves that span more than this factor get a logarithmic axis


def draw(metrics: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Return a figure with small panels over the training step, from the rows of a run's metrics.jsonl.

    A row has `step`, `split` ("train" or "val"), `loss`, and any of `raw/<term>`, `term/<term>` (weighted), `lr`,
    `grad_norm`, `effective_rank`. A term is drawn unweighted, or weighted if no raw value was logged. Training is a line,
    validation is markers. Missing values are skipped; values that are not finite leave a gap and are counted.
    """
    panels = _panels(metrics)
    n_rows = max(1, math.ceil(len(panels) / COLUMNS))
    figure = blank(10.0, 0.75 + 2.15 * n_rows)
    figure.text(0.01, 1 - 0.16 / figure.get_figheight(), title, fontsize=11, fontweight="bold", color=INK,
                va="top", parse_math=False)  # fmt: skip
    if not panels:
        figure.text(0.5, 0.4, "no steps were logged", fontsize=10, color=GREY, ha="center")
        return figure
    for position, (key, name) in enumerate(panels):
        axes = figure.add_subplot(n_rows, COLUMNS, position + 1)
        _panel(axes, metrics, key, name)
        if position >= len(panels) - COLUMNS:
            axes.set_xlabel("step", fontsize=8, color=INK)
    top = 1 - 0.55 / figure.get_figheight()
    figure.subplots_adjust(left=0.06, right=0.985, top=top - 0.02, bottom=0.45 / figure.get_figheight(), hspace=0.55)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="upper right", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _panels(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return key and title of every panel whose key occurs in at least one row."""
    keys = list(dict.fromkeys(key for row in metrics for key in row))
    terms = list(dict.fromkeys(key.partition("/")[2] for key in keys if key.startswith(("raw/", "term/"))))
    panels = [("loss", "total loss")]
    for term in terms:
        panels.append((f"raw/{term}", term) if f"raw/{term}" in keys else (f"term/{term}", f"{term} (weighted)"))
    panels += [
        ("effective_rank", "effective rank"),
        ("grad_norm", "gradient norm"),
        ("lr", "learning rate"),
    ]
    return [(key, name) for key, name in panels if key in keys]


def _series(
    metrics: Sequence[Mapping[str, Any]], key: str, split: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values of `key` in one split, sorted by step; a value that is not finite becomes NaN."""
    rows = [(row["step"], row[key]) for row in metrics if key in row and row.get("split", "train") == split]
    if not rows:
        return np.empty(0), np.empty(0)
    steps, values = (
        np.array([math.nan if v is None else v for v in column], dtype=np.float64) for column in zip(*rows)
    )
    order = np.argsort(steps, kind="stable")
    return steps[order], np.where(np.isfinite(values[order]), values[order], np.nan)


def _panel(axes: Axes, metrics: Sequence[Mapping[str, Any]], key: str, name: str) -> None:
    tidy(axes, name)
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    # training as a line, validation as markers
    styles: dict[str, dict[str, Any]] = {
        "train": {"color": PALETTE[0], "linewidth": 1.1, "marker": "", "label": "training"},
        "val": {"color": PALETTE[1], "linewidth": 0.0, "marker": "o", "markersize": 4, "label": "held-out patients"},
    }
    all_finite, n_broken, last = [np.empty(0)], 0, []
    for split, style in styles.items():
        steps, values = _series(metrics, key, split)
        finite = values[np.isfinite(values)]
        all_finite.append(finite)
        n_broken += len(values) - len(finite)
        if split == "train" and len(finite) == 1:
            style["marker"] = "."  # a line of one point would be invisible
        if len(values):
            axes.plot(steps, values, gid=f"{split}-{key}", **style)
        if len(finite):
            last.append(f"{finite[-1]:.3g}")
    # scale, and the last values in the corner
    drawn = np.concatenate(all_finite)
    if len(drawn) and drawn.min() > 0 and drawn.max() > LOG_RANGE * drawn.min() and key != "lr":
        axes.set_yscale("log")
    if key == "lr":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.yaxis.get_offset_text().set_fontsize(7)
    corner = "last " + " · ".join(last) if last else "no finite value"
    if n_broken:
        corner += f"   {n_broken} not finite"
    axes.text(1.0, 1.03, corner, transform=axes.transAxes, fontsize=7, color=GREY, ha="right", va="bottom")
