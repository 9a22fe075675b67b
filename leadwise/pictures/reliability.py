"""Figure of calibration: a panel per class with the predicted probability against the observed share of positives."""

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
    """Return a figure of `curves`, one panel each.

    A curve has `name` and, per bin, `mean_probability` and `positive_share` in [0, 1] and `count`; optionally also the
    confidence interval of the share (`low`, `high`) and a `note` for the corner of the panel. The area of a dot grows with
    `count`. The dashed diagonal is perfect calibration. `caution` is printed small below the title. Both axes reach as far
    as the probabilities and shares of the class.

    Raises:
        ValueError: `curves` is empty, or the bins of a curve do not match.
    """
    if not curves:
        raise ValueError(f"no reliability to draw for '{title}'; pass at least one class")
    # an empty figure with space for the title and the caution
    n_columns = min(COLUMNS, len(curves))
    n_rows = math.ceil(len(curves) / n_columns)
    width_in = max(5.0, 0.3 + 2.4 * n_columns)
    titles = textwrap.wrap(title, int(11.5 * width_in))
    lines = textwrap.wrap(caution, int(18 * width_in))
    caution_in = 0.12 + 0.19 * len(titles)  # from the top
    head_in = caution_in + 0.3 + 0.14 * len(lines)
    height_in = head_in + 0.08 + 2.3 * n_rows
    figure = blank(width_in, height_in)
    figure.text(0.012, 1 - 0.12 / height_in, "\n".join(titles), fontsize=10, fontweight="bold", color=INK, va="top",
                parse_math=False)  # fmt: skip
    figure.text(0.012, 1 - caution_in / height_in, "\n".join(lines), fontsize=7.5, color=INK, va="top",
                parse_math=False)  # fmt: skip
    # a panel per class
    for position, curve in enumerate(curves):
        if not len(curve["mean_probability"]) == len(curve["positive_share"]) == len(curve["count"]) > 0:
            raise ValueError(
                f"reliability of '{curve['name']}': mean_probability, positive_share and count must have a value for each bin"
            )
        axes = figure.add_subplot(n_rows, n_columns, position + 1)
        _panel(axes, curve)
        if position >= len(curves) - n_columns:
            axes.set_xlabel("predicted probability", fontsize=8, color=INK)
        if position % n_columns == 0:
            axes.set_ylabel("share of positives", fontsize=8, color=INK)
    figure.subplots_adjust(left=0.6 / figure.get_figwidth(), right=0.985, top=1 - head_in / height_in,
                           bottom=0.45 / height_in, hspace=0.42, wspace=0.32)  # fmt: skip
    return figure


def _panel(axes: Axes, curve: Mapping[str, Any]) -> None:
    tidy(axes, str(curve["name"]))
    probability, share, count = curve["mean_probability"], curve["positive_share"], curve["count"]
    reach = min(1.0, 1.08 * max(*probability, *share, *curve.get("high", ()), 0.05))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1, gid="perfect")
    axes.plot(probability, share, color=PALETTE[0], linewidth=1.0, zorder=2, gid="curve")
    if "low" in curve and "high" in curve:
        axes.vlines(probability, curve["low"], curve["high"], color=PALETTE[0], linewidth=1.2, alpha=0.5, zorder=2)
    axes.scatter(
        probability, share, s=[4 + 22 * n / max(count) for n in count], color=PALETTE[0], zorder=3, linewidths=0
    )
    axes.set(xlim=(-0.02 * reach, reach), ylim=(-0.02 * reach, reach))
    axes.grid(color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    if curve.get("note"):
        axes.text(0.04, 0.96, str(curve["note"]), transform=axes.transAxes, fontsize=7, color=INK, va="top", parse_math=False,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip
