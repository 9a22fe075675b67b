"""Heart images as a montage: a row for each phase, its slices from base to apex, with the contours of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from leadwise.pictures.ink import GREY, INK, PALETTE, blank

PARTS = {1: "LV blood", 2: "myocardium", 3: "RV blood"}
"""The parts of a mask that are outlined."""

_COLOURS = {1: PALETTE[4], 2: PALETTE[2], 3: PALETTE[5]}
_SLICE_IN = 1.15  # width of a slice
_MOST_IN = 12.0
_LEFT_IN, _TOP_IN, _BOTTOM_IN = 0.7, 0.4, 0.3


def draw(
    volumes: NDArray[Any],
    phases: Sequence[str],
    masks: NDArray[Any] | None = None,
    present: Sequence[bool] | None = None,
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    title: str = "",
) -> Figure:
    """Return a montage of heart images (P, D, H, W), each phase in its own range of grey.

    Args:
        phases: P names.
        masks: (P, D, H, W) with the numbers of PARTS, which are outlined; 0 elsewhere.
        present: which of the P phases there are; default: all.
        pixel_mm: spacing of rows and of columns.

    Raises:
        ValueError: the shapes do not fit.
    """
    values = np.asarray(volumes, dtype=np.float64)
    if values.ndim != 4 or len(values) != len(phases) or (masks is not None and np.shape(masks) != values.shape):
        raise ValueError(f"volumes {values.shape} and masks do not fit {len(phases)} phases: (P, D, H, W)")
    n_phases, n_slices, n_rows, n_columns = values.shape
    has = [True] * n_phases if present is None else list(present)

    # one picture per phase: its slices side by side
    width_in = min(_SLICE_IN, _MOST_IN / n_slices)
    tall_in = width_in * (n_rows * pixel_mm[0]) / (n_columns * pixel_mm[1])
    size_in = (_LEFT_IN + n_slices * width_in + 0.1, _TOP_IN + n_phases * (tall_in + 0.05) + _BOTTOM_IN)
    figure = blank(*size_in)
    figure.text(
        0.08 / size_in[0], 1 - 0.22 / size_in[1], title, fontsize=9, color=INK, fontweight="bold", parse_math=False
    )
    for number, phase in enumerate(phases):
        bottom_in = size_in[1] - _TOP_IN - (number + 1) * (tall_in + 0.05) + 0.05
        box = (_LEFT_IN / size_in[0], bottom_in / size_in[1], n_slices * width_in / size_in[0], tall_in / size_in[1])
        axes = figure.add_axes(box)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(phase.upper(), fontsize=9, color=INK, rotation=0, ha="right", va="center")
        for spine in axes.spines.values():
            spine.set_visible(False)
        if not has[number]:
            axes.text(0.5, 0.5, "no image", transform=axes.transAxes, ha="center", va="center", fontsize=9, color=GREY)
            continue
        axes.imshow(np.concatenate(list(values[number]), axis=1), cmap="gray", aspect="auto", interpolation="nearest")
        if masks is not None:
            _outline(axes, np.concatenate(list(np.asarray(masks)[number]), axis=1))
    foot = 0.1 / size_in[1]
    figure.text(_LEFT_IN / size_in[0], foot, "base", fontsize=7.5, color=GREY)
    figure.text((_LEFT_IN + n_slices * width_in) / size_in[0], foot, "apex", fontsize=7.5, color=GREY, ha="right")
    if masks is not None and np.any(masks):
        handles = [Line2D([], [], color=_COLOURS[part], linewidth=1.2, label=name) for part, name in PARTS.items()]
        figure.legend(
            handles=handles, loc="lower center", ncols=len(handles), fontsize=7.5, frameon=False, labelcolor=INK,
            bbox_to_anchor=(0.5, 0.0), borderaxespad=0.1,
        )  # fmt: skip
    return figure


def _outline(axes: Axes, mask: NDArray[Any]) -> None:
    """Draw the contour of each part of a mask (H, D * W)."""
    for part, colour in _COLOURS.items():
        inside = (mask == part) | ((mask == 1) if part == 2 else False)  # the outer border of the muscle only
        if inside.any() and not inside.all():
            axes.contour(inside.astype(float), levels=[0.5], colors=[colour], linewidths=0.9)
