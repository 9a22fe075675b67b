"""Figure of histograms: one panel per quantity, with the expected range shaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import NDArray

from leadwise.pictures.ink import (
    GREY,
    INK,
    PALE,
    PALETTE,
    blank,
    tidy,
)

ACROSS = 2  # panels in a row
N_BINS = 60
FEW = 8  # distinct values that get a bar each


@dataclass(frozen=True)
class Panel:
    """One quantity of the figure."""

    title: str  # with its unit
    values: NDArray[Any]  # any shape; values that are not finite are counted and not drawn
    expected: tuple[float, float] | None = None
    log: bool = False  # logarithmic scale; only positive values are drawn


def draw(panels: Sequence[Panel]) -> Figure:
    """Return a figure with a histogram of counts per panel; if there are few distinct values, each gets a bar.

    Raises:
        ValueError: `panels` is empty.
    """
    if not panels:
        raise ValueError("no histogram to draw; pass at least one panel")
    n_down = math.ceil(len(panels) / ACROSS)
    figure = blank(9.0, 2.3 * n_down)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(n_down, ACROSS, number + 1)
        tidy(axes, panel.title)
        # the values that can be drawn
        values = np.asarray(panel.values, dtype=np.float64).ravel()
        drawn = values[np.isfinite(values) & ((values > 0) | (not panel.log))]
        distinct, counts = np.unique(drawn, return_counts=True)
        # nothing, a bar for each of a few values, or a histogram
        if not len(drawn):
            axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", fontsize=8, color=GREY)
            axes.set(xticks=[], yticks=[])
        elif len(distinct) <= FEW:
            axes.bar(np.arange(len(distinct)), counts, width=0.6, color=PALETTE[0], gid=f"bars-{number}")
            axes.set_xticks(
                np.arange(len(distinct)),
                [
                    f"{value:.3g}" if value < 1 else f"{value:g}"
                    for value in distinct.round(2 if distinct[0] >= 1 else 9)
                ],
            )
            axes.set_xlim(-1.0, max(len(distinct), 4))
        else:
            _draw_spread(axes, panel, drawn, number)
        if len(drawn) < len(values):
            note = f"{len(values) - len(drawn)} not drawn"
            axes.text(1.0, 1.02, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color=INK)
    figure.tight_layout(pad=0.8)
    return figure


def _draw_spread(axes: Axes, panel: Panel, values: NDArray[np.float64], number: int) -> None:
    low, high = float(values.min()), float(values.max())
    edges = np.geomspace(low, high, N_BINS + 1) if panel.log else np.linspace(low, high, N_BINS + 1)
    axes.hist(values, bins=edges.tolist(), color=PALETTE[0], gid=f"bars-{number}")
    if panel.log:
        axes.set_xscale("log")
        labelled = high / low < 30  # about a decade: 2 and 5 are labelled as well
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if labelled else ""))
        axes.tick_params(which="minor", labelsize=7.5, colors=INK, color=PALE, length=2)
    if panel.expected is not None:
        axes.axvspan(*panel.expected, color=PALETTE[2], alpha=0.10, linewidth=0, zorder=0, gid=f"expected-{number}")
    margin = (high / low) ** 0.04 if panel.log else 0.04 * (high - low)
    axes.set_xlim((low / margin, high * margin) if panel.log else (low - margin, high + margin))
