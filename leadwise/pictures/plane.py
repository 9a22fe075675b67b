"""Figure of two scores against each other: one dot per repeat, in the colour of its group, and the mean of each group."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.pictures.ink import INK, PALE, PALETTE, blank, tidy

MARKERS = "osD^vPX"


def draw(
    groups: Mapping[str, NDArray[np.floating]], x_label: str, y_label: str, title: str = "", note: str = ""
) -> Figure:
    """Return a figure of `groups`, each with points (n, 2): a small dot for each, and a large one at their mean.

    `note` is printed below the title. Numbers on both axes are those of the points.

    Raises:
        ValueError: there is no group, or points of a group are not (n, 2) with n above 0 or not finite.
    """
    if not groups:
        raise ValueError(f"no points to draw for '{title}'; pass at least one group")
    figure = blank(7.4, 5.6)
    figure.text(0.012, 0.985, title, fontsize=11, fontweight="bold", color=INK, va="top", parse_math=False)
    figure.text(0.012, 0.94, note, fontsize=8.5, color=INK, va="top", parse_math=False)
    axes = figure.add_axes((0.1, 0.1, 0.66, 0.74))
    tidy(axes)

    # the dots of each group, and their mean
    for rank, (name, points) in enumerate(groups.items()):
        values = np.asarray(points, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != 2 or not len(values) or not np.isfinite(values).all():
            raise ValueError(f"group '{name}' has points of shape {values.shape}; they must be (n, 2) and finite")
        color, marker = PALETTE[rank % len(PALETTE)], MARKERS[rank % len(MARKERS)]
        axes.scatter(
            values[:, 0], values[:, 1], s=26, color=color, marker=marker, alpha=0.55, linewidths=0, zorder=2,
        )  # fmt: skip
        x, y = values.mean(axis=0)
        axes.scatter(
            [x], [y], s=95, color=color, marker=marker, edgecolors="white", linewidths=0.8, label=name, zorder=3
        )

    # labels and legend
    axes.set_xlabel(x_label, fontsize=8.5, color=INK)
    axes.set_ylabel(y_label, fontsize=8.5, color=INK)
    axes.grid(color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.margins(0.12)
    legend = figure.legend(loc="upper left", bbox_to_anchor=(0.77, 0.85), frameon=False, fontsize=8.5, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
