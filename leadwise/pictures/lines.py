"""Figure of scores over the values of a setting: one panel per setting, one line per group, with intervals."""

from __future__ import annotations

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
    panels: Mapping[str, Sequence[Mapping[str, Any]]],
    marked: Mapping[str, float] | None = None,
    title: str = "",
    unit: str = "macro AUROC x 100",
) -> Figure:
    """Return a figure with a panel per setting; its points have `x`, `group`, `y`, and optionally `low` and `high`.

    The x values of a panel are spaced evenly, in rising order, because sweeps often double. `marked` maps a panel to the x
    of a reference result, drawn as a dashed line.

    Raises:
        ValueError: there is no panel, or a panel has no points.
    """
    if not panels or not all(panels.values()):
        raise ValueError(f"no points to draw for '{title}'; pass at least one for each panel")
    groups = list(dict.fromkeys(str(point["group"]) for points in panels.values() for point in points))
    figure = blank(4.6 * len(panels) + 0.6, 3.9)
    figure.text(0.012, 0.985, title, fontsize=11, fontweight="bold", color=INK, va="top", parse_math=False)
    # a panel per setting
    for number, (name, points) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1)
        tidy(axes, name)
        ticks = {x: tick for tick, x in enumerate(sorted({float(point["x"]) for point in points}))}
        for rank, group in enumerate(groups):
            line = sorted((p for p in points if str(p["group"]) == group), key=lambda p: float(p["x"]))
            positions = [ticks[float(point["x"])] for point in line]
            style: dict[str, Any] = {"color": PALETTE[rank % len(PALETTE)], "zorder": 3}
            axes.plot(
                positions, [p["y"] for p in line], marker=MARKERS[rank % len(MARKERS)], markersize=5, linewidth=1.3,
                label=group, gid=f"{name}-{group}", **style,
            )  # fmt: skip
            for position, point in zip(positions, line):
                if point.get("low") is not None and point["high"] > point["low"]:
                    axes.plot([position, position], [point["low"], point["high"]], linewidth=1.0, **style)
        best = (marked or {}).get(name)
        if best is not None and best in ticks:
            axes.axvline(ticks[best], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1, gid=f"marked-{name}")
        axes.set_xticks(list(ticks.values()), [f"{x:g}" for x in ticks])
        axes.set_xlim(-0.4, len(ticks) - 0.6)
        axes.set_ylabel(unit, fontsize=8.5, color=INK)
        axes.grid(axis="y", color=PALE, linewidth=0.5)
        axes.set_axisbelow(True)
    # one legend for all panels
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="upper right", ncols=len(groups), frameon=False, fontsize=8, labelcolor=INK
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.83, bottom=0.12, wspace=0.25)
    return figure
