"""Pairs of ECG and heart images: a row for each person with some leads, and slices in each phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.pictures.ink import GREY, INK, PALETTE, blank

_ROW_IN, _ECG_IN, _GAP_IN, _LEFT_IN, _TOP_IN = 1.5, 3.6, 0.12, 0.35, 0.62
_LEAD_MV = 1.8  # distance of two leads
_PART_COLOURS = {1: PALETTE[4], 3: PALETTE[5]}  # blood of the left and of the right ventricle


@dataclass(frozen=True)
class Pair:
    """One person: ECG (L, T) in mV of some leads, and volumes (P, D, H, W) with their masks."""

    title: str
    ecg: NDArray[Any]
    rate_hz: float
    volumes: NDArray[Any]
    masks: NDArray[Any] | None = None  # 1 LV blood, 3 RV blood are outlined


def draw(
    pairs: Sequence[Pair],
    leads: Sequence[str],
    phases: Sequence[str],
    slices: Sequence[int],
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    title: str = "",
) -> Figure:
    """Return a figure with a row for each pair: the leads, then these slices of each phase, base first.

    Raises:
        ValueError: there is no pair, or a shape does not fit `leads` and `phases`.
    """
    if not pairs:
        raise ValueError(f"no pairs to draw for '{title}'; pass at least one")
    for pair in pairs:
        if len(pair.ecg) != len(leads) or len(pair.volumes) != len(phases):
            raise ValueError(
                f"{pair.title}: ECG {np.shape(pair.ecg)} and volumes {np.shape(pair.volumes)} do not fit {len(leads)} leads "
                f"and {len(phases)} phases"
            )
    # the widths of the columns follow from the shape of a slice
    n_rows, n_columns = pairs[0].volumes.shape[2:]
    slice_in = _ROW_IN * (n_columns * pixel_mm[1]) / (n_rows * pixel_mm[0])
    phase_in = slice_in * len(slices) + _GAP_IN
    width, height = _LEFT_IN + _ECG_IN + len(phases) * phase_in + 0.1, _TOP_IN + len(pairs) * (_ROW_IN + 0.3)
    figure = blank(width, height)
    figure.text(0.08 / width, 1 - 0.08 / height, title, fontsize=10, fontweight="bold", color=INK, va="top")

    for number, pair in enumerate(pairs):
        # the ECG, one lead above the other
        bottom = height - _TOP_IN - (number + 1) * (_ROW_IN + 0.3) + 0.3
        axes = figure.add_axes((_LEFT_IN / width, bottom / height, (_ECG_IN - _GAP_IN) / width, _ROW_IN / height))
        seconds = np.arange(pair.ecg.shape[1]) / pair.rate_hz
        for rank, (lead, samples) in enumerate(zip(leads, pair.ecg)):
            axes.plot(seconds, samples - rank * _LEAD_MV, color=INK, linewidth=0.7)
            axes.text(-0.05, -rank * _LEAD_MV, lead, fontsize=7.5, color=GREY, ha="right", va="center")
        axes.set(xlim=(0, seconds[-1]), ylim=(-(len(leads) - 0.45) * _LEAD_MV, 0.85 * _LEAD_MV))
        axes.axis("off")
        figure.text(_LEFT_IN / width, (bottom + _ROW_IN + 0.04) / height, pair.title, fontsize=8.5, color=INK)

        # the slices of each phase, side by side
        for place, phase in enumerate(phases):
            left = _LEFT_IN + _ECG_IN + place * phase_in
            box = (left / width, bottom / height, (phase_in - _GAP_IN) / width, _ROW_IN / height)
            axes = figure.add_axes(box)
            axes.axis("off")
            image = np.concatenate([pair.volumes[place, k] for k in slices], axis=1)
            axes.imshow(image, cmap="gray", aspect="auto", interpolation="nearest")
            if pair.masks is not None:
                mask = np.concatenate([pair.masks[place, k] for k in slices], axis=1)
                for part, colour in _PART_COLOURS.items():
                    if (mask == part).any():
                        axes.contour(mask == part, levels=[0.5], colors=[colour], linewidths=0.9)
            if number == 0:
                axes.set_title(phase.upper(), fontsize=9, color=INK, loc="left", pad=6)
    return figure
