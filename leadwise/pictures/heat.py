"""Occlusion maps: colours behind the traces of an ECG, and a plain map of leads over time.

Orange: hiding the region lowers the score of the class. Blue: hiding it raises the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from leadwise.pictures.ink import (
    GREY,
    INK,
    PALE,
    blank,
    tidy,
)

FOR, AGAINST = "#D55E00", "#0072B2"
COLOURS = LinearSegmentedColormap.from_list("heat", [AGAINST, "#a9cfe6", "#ffffff", "#f6c9a3", FOR])

_FAINT = 0.08  # share of the strongest value, below which nothing is drawn
_STRONGEST_ALPHA = 0.75  # grid and trace stay readable


def relative(heat: NDArray[Any]) -> NDArray[np.float64]:
    """Return `heat` divided by its largest absolute value, in [-1, 1]; NaN stays NaN, and all 0 stays 0."""
    values = np.asarray(heat, dtype=np.float64)
    known = np.abs(values[np.isfinite(values)])
    largest = float(known.max()) if known.size else 0.0
    return values / largest if largest > 0 else values


def paint(
    grid: Axes,
    x: NDArray[np.float64],
    width: float,
    band: tuple[float, float],
    heat: NDArray[np.float64],
    gid: str = "",
) -> None:
    """Colour the band of a lead by `heat` (n,) in [-1, 1].

    Args:
        x: (n,) horizontal positions of the samples, which are `width` apart.
        band: lower edge and height.
    """
    if not len(heat):
        return
    filled = np.nan_to_num(heat)
    # one rectangle for each stretch of equal values
    edges = np.flatnonzero(np.diff(filled)) + 1
    first, past = np.concatenate([[0], edges]), np.concatenate([edges, [len(filled)]])
    stretches = [(begin, end) for begin, end in zip(first, past) if abs(filled[begin]) >= _FAINT]
    if not stretches:
        return
    colours = [(FOR if filled[begin] > 0 else AGAINST, _STRONGEST_ALPHA * abs(filled[begin])) for begin, _ in stretches]
    spans = [(x[begin], (end - begin) * width) for begin, end in stretches]
    grid.broken_barh(spans, band, facecolors=colours, linewidth=0, gid=gid, zorder=0.5)


def handles() -> list[Artist]:
    """Return the legend entries of the two colours."""
    style: dict[str, Any] = {"alpha": _STRONGEST_ALPHA, "linewidth": 0}
    return [
        Patch(facecolor=FOR, label="supports the class", **style),
        Patch(facecolor=AGAINST, label="opposes it", **style),
    ]


def draw(
    heat: NDArray[Any],
    window_s: float,
    leads: Sequence[str],
    whole: NDArray[Any] | None = None,
    title: str = "",
    unit: str = "drop",
) -> Figure:
    """Return a map of `heat` (L, W) over leads and windows, with bars of `whole` (L,), the effect of each whole lead.

    Grey: nothing was observed.

    Raises:
        ValueError: the shapes do not fit the leads.
    """
    table = np.asarray(heat, dtype=np.float64)
    alone = np.empty(0) if whole is None else np.asarray(whole, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(leads) or len(alone) not in (0, len(leads)):
        raise ValueError(f"heat {table.shape} and whole {alone.shape} do not fit {len(leads)} leads: (L, W) and (L,)")
    # the map
    height_in = 1.3 + 0.22 * len(leads)
    figure = blank(9.4, height_in)
    low, tall = 0.5 / height_in, 1 - 0.95 / height_in
    axes = figure.add_axes((0.06, low, 0.6, tall))
    tidy(axes, title)
    known = np.abs(table[np.isfinite(table)])
    largest = float(known.max()) if known.size and known.max() > 0 else 1.0
    colours = COLOURS.with_extremes(bad=PALE)
    across = (0.0, table.shape[1] * window_s)
    image = axes.imshow(
        np.ma.masked_invalid(table), aspect="auto", cmap=colours, norm=Normalize(-largest, largest),
        extent=(*across, len(leads) - 0.5, -0.5), interpolation="nearest",
    )  # fmt: skip
    axes.set(yticks=range(len(leads)))
    axes.set_yticklabels(list(leads), fontsize=7.5, parse_math=False)
    axes.set_xlabel("s", fontsize=8, color=INK)
    bar = figure.colorbar(image, cax=figure.add_axes((0.672, low, 0.012, tall)))
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.ax.locator_params(nbins=5)
    bar.outline.set_visible(False)
    bar.set_label(unit, fontsize=7.5, color=INK)
    # a bar per lead
    if len(alone):
        beside = figure.add_axes((0.83, low, 0.15, tall))
        tidy(beside, "whole lead hidden")
        values = np.nan_to_num(alone)
        beside.barh(range(len(leads)), values, color=[FOR if value > 0 else AGAINST for value in values], height=0.7)
        beside.axvline(0.0, color=GREY, linewidth=0.8)
        beside.set(ylim=(len(leads) - 0.5, -0.5), yticks=range(len(leads)))
        beside.set_yticklabels(list(leads), fontsize=7.5, parse_math=False)
        beside.locator_params(axis="x", nbins=3)
    return figure
