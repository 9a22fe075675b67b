"""Figure of scores with their intervals: one row per name, one dot and interval per group."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from leadwise.pictures.ink import (
    GREY,
    INK,
    PALE,
    PALETTE,
    blank,
    tidy,
)

MARKERS = "osD^vPX"


def draw(
    rows: Sequence[Mapping[str, Any]], title: str = "", baseline: float | None = 0.5, unit: str = "AUROC"
) -> Figure:
    """Return a figure of `rows`, each with `name`, `group`, `value` and optionally its interval, `low` and `high`.

    Names are listed from top to bottom and groups (trained, untrained, ...) have colours, both in the order of first
    appearance. A dashed line marks `baseline`, the score of chance. A missing value or NaN is printed as "n/a".

    Raises:
        ValueError: `rows` is empty, or two rows have the same name and group.
    """
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    groups = list(dict.fromkeys(str(row["group"]) for row in rows))
    if not rows:
        raise ValueError(f"no scores to draw for '{title}'; pass at least one row")
    if len({(str(row["name"]), str(row["group"])) for row in rows}) != len(rows):
        raise ValueError(f"two scores for '{title}' have the same name and group; merge them or rename one")
    # an empty figure with a left margin that fits the longest name
    step = min(0.24, 0.8 / len(groups))  # between the groups of one name, in units of the distance of names
    height_in = 1.25 + len(names) * max(0.34, 0.21 * len(groups))
    figure = blank(9.0, height_in)
    labels = [textwrap.fill(name, 52) for name in names]
    left = (0.35 + 0.075 * max(len(line) for label in labels for line in label.splitlines())) / 9.0
    axes = figure.add_axes((left, 0.55 / height_in, 0.94 - left, 1 - 1.2 / height_in))
    tidy(axes)
    figure.text(
        0.012, 1 - 0.12 / height_in, title, fontsize=11, fontweight="bold", color=INK, va="top", parse_math=False
    )
    for position in range(0, len(names), 2):  # a light band guides the eye from the name to its dots
        axes.axhspan(position - 0.5, position + 0.5, color="#f6f6f8", linewidth=0, zorder=0)
    if baseline is not None:
        axes.axvline(baseline, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1, gid="baseline")
    # one dot and interval per row, shifted vertically by group
    for rank, group in enumerate(groups):
        colour = PALETTE[rank % len(PALETTE)]
        for row in (row for row in rows if str(row["group"]) == group):
            y = names.index(str(row["name"])) + (rank - (len(groups) - 1) / 2) * step
            value, low, high = (_number(row.get(key)) for key in ("value", "low", "high"))
            if math.isnan(value):
                axes.text(1.005, y, "n/a", transform=axes.get_yaxis_transform(), fontsize=7, color=colour, va="center")
                continue
            if not math.isnan(low + high):
                axes.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
            axes.text(
                1.005, y, f"{value:.3f}", transform=axes.get_yaxis_transform(), fontsize=7, color=colour, va="center"
            )
            axes.plot([value], [y], marker=MARKERS[rank % len(MARKERS)], markersize=5, color=colour, zorder=3)
        axes.plot([], [], marker=MARKERS[rank % len(MARKERS)], markersize=5, linewidth=1.6, color=colour, label=group)
    # names, scale and legend
    axes.set(ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)))
    axes.set_yticklabels(labels, fontsize=8.5, color=INK, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(unit, fontsize=8.5, color=INK)
    legend = axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(groups), frameon=False,
                         fontsize=8, labelcolor=INK, borderaxespad=0.1)  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
