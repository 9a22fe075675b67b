"""Figure of scores against costs: a row of panels per way of scoring, a column per cost, a line per method, levels to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from leadwise.pictures.ink import GREY, INK, PALE, PALETTE, blank, tidy
from leadwise.pictures.lines import MARKERS

_DASHES = ((0, (6, 2)), (0, (1, 1.5)), (0, (4, 2, 1, 2)), (0, (2, 2)))


def draw(
    points: Sequence[Mapping[str, Any]],
    costs: Sequence[str],
    levels: Sequence[Mapping[str, Any]] = (),
    title: str = "",
    unit: str = "macro AUROC x 100",
) -> Figure:
    """Return a figure with a panel for each way of scoring (rows) and cost (columns).

    Args:
        points: with `group` (the line), `how` (the row of panels), a positive number for each cost, `y`, and optionally the
            interval `low` and `high`.
        costs: keys of the points and titles of the columns; their axes are logarithmic, because methods differ by factors.
        levels: with `group`, `how` and `y`: horizontal lines of what has no cost, such as untrained encoders.

    Raises:
        ValueError: there are no points or no costs.
    """
    if not points or not costs:
        raise ValueError(f"no points to draw for '{title}'; pass at least one, and the name of its cost")
    ways = list(dict.fromkeys(str(point["how"]) for point in points))
    groups = list(dict.fromkeys(str(point["group"]) for point in points))
    names = list(dict.fromkeys(str(level["group"]) for level in levels))
    height = 0.9 + 2.9 * len(ways)
    margin = max(2.1, 0.6 + 0.062 * max(len(name) for name in (*groups, *names)))  # inches, for the legend
    figure = blank(4.7 * len(costs) + 0.3 + margin, height)
    figure.text(0.012, 1 - 0.12 / height, title, fontsize=11, fontweight="bold", color=INK, va="top", parse_math=False)

    # the panels of a row share their scale of scores
    first_of_row: Axes | None = None
    for number, (way, cost) in enumerate((way, cost) for way in ways for cost in costs):
        is_first = number % len(costs) == 0
        axes = figure.add_subplot(len(ways), len(costs), number + 1, sharey=None if is_first else first_of_row)
        first_of_row = axes if is_first else first_of_row
        tidy(axes, way)
        _draw_levels(axes, [level for level in levels if level["how"] == way], names)
        _draw_lines(axes, [point for point in points if point["how"] == way], groups, cost)
        axes.set_xlabel(cost, fontsize=8.5, color=INK)
        if is_first:
            axes.set_ylabel(unit, fontsize=8.5, color=INK)

    # one legend for all panels, at the right
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    labels = [label for label in (*groups, *names) if label in entries]
    legend = figure.legend(
        [entries[label] for label in labels], labels, loc="center right", frameon=False, fontsize=8, labelcolor=INK
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    right = 1 - margin / figure.get_figwidth()
    figure.subplots_adjust(
        left=0.62 / figure.get_figwidth(),
        right=right,
        top=1 - 0.65 / height,
        bottom=0.5 / height,
        hspace=0.45,
        wspace=0.16,
    )
    return figure


def _draw_lines(axes: Axes, points: Sequence[Mapping[str, Any]], groups: Sequence[str], cost: str) -> None:
    """Draw a line for each group over a logarithmic cost, with thin intervals."""
    axes.set_xscale("log")
    for rank, group in enumerate(groups):
        line = sorted((p for p in points if str(p["group"]) == group), key=lambda p: float(p[cost]))
        if not line:
            continue
        style: dict[str, Any] = {"color": PALETTE[rank % len(PALETTE)], "zorder": 3}
        x = [float(point[cost]) for point in line]
        axes.plot(
            x, [point["y"] for point in line], marker=MARKERS[rank % len(MARKERS)], markersize=4, linewidth=1.2,
            label=group, gid=f"{group}-{cost}", **style,
        )  # fmt: skip
        for position, point in zip(x, line):
            if point.get("low") is not None:
                axes.plot([position, position], [point["low"], point["high"]], linewidth=0.8, alpha=0.4, **style)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    # the ends of an axis of less than a decade would otherwise have no number
    costs = sorted(float(point[cost]) for point in points)
    if costs and costs[-1] < 30 * costs[0]:
        axes.set_xticks(_halvings(costs[0], costs[-1]))
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)


def _halvings(low: float, high: float) -> list[float]:
    """Return the upper end, halved again and again down to the lower end."""
    ticks = [high]
    while ticks[-1] / 2 >= 0.9 * low:
        ticks.append(ticks[-1] / 2)
    return ticks


def _draw_levels(axes: Axes, levels: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Draw a grey horizontal line for each level."""
    for level in levels:
        dash = _DASHES[names.index(str(level["group"])) % len(_DASHES)]
        axes.axhline(
            level["y"], color=GREY, linewidth=1.1, linestyle=dash, zorder=1, label=str(level["group"]),
            gid=f"level-{level['group']}",
        )  # fmt: skip
