"""Figure of predicted against true values: one panel per target, one dot per recording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from leadwise.pictures.ink import GREY, INK, PALE, PALETTE, blank, tidy

_COLUMNS = 3


def draw(panels: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Return a figure of panels, each with `name`, `true` (M,), `predicted` (M,) and a `note` below the name.

    A recording without a true value (NaN) is left out. The dashed line is perfect prediction; both axes have one scale.

    Raises:
        ValueError: there is no panel, or one has no finite pair of values.
    """
    if not panels:
        raise ValueError(f"no targets to draw for '{title}'; pass at least one")
    n_rows, n_columns = math.ceil(len(panels) / _COLUMNS), min(_COLUMNS, len(panels))
    figure = blank(3.1 * n_columns + 0.2, 3.3 * n_rows + 0.5)
    width, height = figure.get_size_inches()
    figure.text(0.08 / width, 1 - 0.08 / height, title, fontsize=11, fontweight="bold", color=INK, va="top",
                parse_math=False)  # fmt: skip
    for number, panel in enumerate(panels):
        # the values, without recordings that have none
        true = np.asarray(panel["true"], dtype=np.float64)
        predicted = np.asarray(panel["predicted"], dtype=np.float64)
        finite = np.isfinite(true) & np.isfinite(predicted)
        if not finite.any():
            raise ValueError(f"target '{panel['name']}' has no recording with a true and a predicted value")
        true, predicted = true[finite], predicted[finite]

        # axes in inches, then the dots and the line of perfect prediction
        row, column = divmod(number, _COLUMNS)
        left, bottom = 0.62 + 3.1 * column, height - 0.95 - 2.35 - 3.3 * row
        axes = figure.add_axes((left / width, bottom / height, 2.35 / width, 2.35 / height))
        tidy(axes, str(panel["name"]))
        axes.title.set_position((0, 1.0))
        axes.text(0.03, 0.97, str(panel.get("note", "")), transform=axes.transAxes, fontsize=7.5, color=INK, va="top",
                  parse_math=False)  # fmt: skip
        low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
        margin = 0.05 * (high - low) or 1.0
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        area = float(np.clip(3000 / len(true), 3, 20))  # pt²
        axes.scatter(true, predicted, s=area, color=PALETTE[0], alpha=0.5, linewidths=0, zorder=2,
                     rasterized=len(true) > 3000)  # fmt: skip
        axes.set(xlim=ends, ylim=ends)
        axes.set_aspect("equal")
        axes.grid(color=PALE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_xlabel("true", fontsize=8, color=INK)
        axes.set_ylabel("predicted", fontsize=8, color=INK)
    return figure
