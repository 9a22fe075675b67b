"""How values are spread: one small histogram per quantity, side by side, with the range that is expected shaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.pictures.ink import GREY, INK, PALETTE, blank, tidy

ACROSS = 2  # panels in a row
N_BINS = 60


@dataclass(frozen=True)
class Panel:
    """One quantity."""

    title: str  # with its unit
    values: NDArray[Any]  # any shape; what is not finite is counted and not drawn
    expected: tuple[float, float] | None = None
    log: bool = False  # a logarithmic scale; values must be positive to be drawn


def draw(panels: Sequence[Panel]) -> Figure:
    """A figure with a histogram of each panel, counts on the vertical axis.

    Raises:
        ValueError: no panel.
    """
    if not panels:
        raise ValueError("no histogram to draw; pass at least one panel")
    n_down = math.ceil(len(panels) / ACROSS)
    figure = blank(9.0, 2.3 * n_down)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(n_down, ACROSS, number + 1)
        tidy(axes, panel.title)
        values = np.asarray(panel.values, dtype=np.float64).ravel()
        drawn = values[np.isfinite(values) & ((values > 0) | (not panel.log))]
        if panel.log:
            axes.set_xscale("log")
        if len(drawn):
            axes.hist(drawn, bins=_edges(drawn, panel.log).tolist(), color=PALETTE[0], gid=f"bars-{number}")
        else:
            axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", fontsize=8, color=GREY)
        if panel.expected is not None:
            axes.axvspan(*panel.expected, color=PALETTE[2], alpha=0.10, linewidth=0, zorder=0, gid=f"expected-{number}")
        if len(drawn) < len(values):
            said = f"{len(values) - len(drawn)} not shown"
            axes.text(0.99, 0.97, said, transform=axes.transAxes, ha="right", va="top", fontsize=7, color=INK)
    figure.tight_layout(pad=0.8)
    return figure


def _edges(values: NDArray[np.float64], log: bool) -> NDArray[np.float64]:
    """Edges of bins over all values; a lone value gets a bin of its own around it."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = (low * 0.8, high * 1.25) if log else (low - 0.5, high + 0.5)
    return np.geomspace(low, high, N_BINS + 1) if log else np.linspace(low, high, N_BINS + 1)
