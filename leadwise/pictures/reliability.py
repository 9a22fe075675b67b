"""Whether probabilities mean what they say: a small panel per class, what was said against what came."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leadwise.pictures.ink import (
    GREY,
    INK,
    PALE,
    PALETTE,
    blank,
    tidy,
)

COLUMNS = 4


def draw(curves: Sequence[Mapping[str, Any]], title: str = "", caution: str = "") -> Figure:
    """A figure of `curves`, each with `name` and, for its B bins, `said`, `came` and `count`, optionally `low`, `high`.

    `said` is the mean probability of a bin and `came` its share of positives, in [0, 1], with `low` and `high` its
    interval; the area of a dot grows with `count`. Perfect calibration is the dashed diagonal. An optional `note` stands
    in the panel's corner, an optional `caution` small below the title. Axes reach as far as the class's probabilities and
    shares do, alike on both.

    Raises:
        ValueError: no curves, or one whose bins do not match.
    """
    if not curves:
        raise ValueError(f"no reliability to draw for '{title}'; pass at least one class")
    n_columns = min(COLUMNS, len(curves))
    n_rows = math.ceil(len(curves) / n_columns)
    width_in = max(5.0, 0.3 + 2.4 * n_columns)
    lines = textwrap.wrap(caution, int(18 * width_in))
    head_in = 0.62 + 0.14 * len(lines)
    height_in = head_in + 0.08 + 2.3 * n_rows
    figure = blank(width_in, height_in)
    figure.text(0.012, 1 - 0.12 / height_in, title, fontsize=10, fontweight="bold", color=INK, va="top",
                parse_math=False)  # fmt: skip
    figure.text(0.012, 1 - 0.32 / height_in, "\n".join(lines), fontsize=7.5, color=INK, va="top",
                parse_math=False)  # fmt: skip
    for position, curve in enumerate(curves):
        if not len(curve["said"]) == len(curve["came"]) == len(curve["count"]) > 0:
            raise ValueError(f"reliability of '{curve['name']}': said, came and count must have a value for each bin")
        axes = figure.add_subplot(n_rows, n_columns, position + 1)
        _panel(axes, curve)
        if position >= len(curves) - n_columns:
            axes.set_xlabel("probability said", fontsize=8, color=INK)
        if position % n_columns == 0:
            axes.set_ylabel("share of positives", fontsize=8, color=INK)
    figure.subplots_adjust(left=0.6 / figure.get_figwidth(), right=0.985, top=1 - head_in / height_in,
                           bottom=0.45 / height_in, hspace=0.42, wspace=0.32)  # fmt: skip
    return figure


def _panel(axes: Axes, curve: Mapping[str, Any]) -> None:
    tidy(axes, str(curve["name"]))
    said, came, count = curve["said"], curve["came"], curve["count"]
    reach = min(1.0, 1.08 * max(*said, *came, *curve.get("high", ()), 0.05))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1, gid="perfect")
    axes.plot(said, came, color=PALETTE[0], linewidth=1.0, zorder=2, gid="curve")
    if "low" in curve and "high" in curve:
        axes.vlines(said, curve["low"], curve["high"], color=PALETTE[0], linewidth=1.2, alpha=0.5, zorder=2)
    axes.scatter(said, came, s=[4 + 22 * n / max(count) for n in count], color=PALETTE[0], zorder=3, linewidths=0)
    axes.set(xlim=(-0.02 * reach, reach), ylim=(-0.02 * reach, reach))
    axes.grid(color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    if curve.get("note"):
        axes.text(0.04, 0.96, str(curve["note"]), transform=axes.transAxes, fontsize=7, color=INK, va="top", parse_math=False,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip
