"""Figure of a map of embeddings: points in the plane, coloured by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.pictures.ink import (
    INK,
    PALE,
    PALETTE,
    blank,
    tidy,
)

MARKERS = "o^sDvPX"  # after the last colour the colours repeat with another marker
OTHER = "#c3c3ca"


def draw(points: NDArray[Any], groups: Sequence[str], title: str = "") -> Figure:
    """Return a figure of `points` (N, 2), each in the colour of its group; group "" is drawn small and grey as "other".

    Groups are listed with their counts, largest first. The axes have no numbers, because distances on such a map have no
    unit.

    Raises:
        ValueError: `points` is not (N, 2) or not finite, or `groups` has another length.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) != len(groups):
        raise ValueError(
            f"points have shape {points.shape} and {len(groups)} groups are named; they must be (N, 2) and N"
        )
    n_broken = int((~np.isfinite(points)).any(axis=1).sum())
    if n_broken:
        raise ValueError(f"{n_broken} of {len(points)} points are not finite; leave them out before drawing the map")
    counts = Counter(groups)
    n_other = counts.pop("", 0)
    ranked = sorted(counts, key=lambda group: (-counts[group], group))
    name_of = np.array(groups, dtype=object)

    # an empty map with space for the legend at the right
    n_columns = 1 if len(ranked) <= 28 else 2
    figure = blank(9.0 + 2.0 * (n_columns - 1), 6.4)
    axes = figure.add_axes((0.02, 0.03, 6.0 / figure.get_figwidth(), 0.91))
    tidy(axes, title)
    axes.title.set_fontsize(11)
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    for spine in axes.spines.values():
        spine.set(visible=True, color=PALE)
    area = float(np.clip(9000 / max(1, len(points)), 5, 34))  # pt²
    rasterized = len(points) > 3000  # an SVG with more circles than that is slow to open
    style: dict[str, Any] = {"linewidths": 0.3, "edgecolors": "white", "rasterized": rasterized}
    # the points, group by group
    if n_other:
        members = points[name_of == ""]
        label = f"other ({n_other})"
        axes.scatter(
            members[:, 0], members[:, 1], s=area * 0.6, color=OTHER, label=label, gid="group-other", zorder=1, **style
        )
    for rank, group in enumerate(ranked):  # the largest first, so that small groups are drawn on top
        members = points[name_of == group]
        axes.scatter(
            members[:, 0],
            members[:, 1],
            s=area,
            color=PALETTE[rank % len(PALETTE)],
            marker=MARKERS[rank // len(PALETTE) % len(MARKERS)],
            label=f"{group} ({counts[group]})",
            gid=f"group-{group}",
            alpha=0.85,
            zorder=2 + rank,
            **style,
        )
    # the legend, sorted by size
    if len(points):
        handles, labels = axes.get_legend_handles_labels()
        if n_other:  # last in the list, though drawn first
            handles, labels = handles[1:] + handles[:1], labels[1:] + labels[:1]
        legend = figure.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(0.03 + 6.0 / figure.get_figwidth(), 0.945),
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
            ncols=n_columns,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set(alpha=1.0, sizes=[30.0])
    return figure
