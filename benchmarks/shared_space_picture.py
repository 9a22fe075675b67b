"""The picture of shared_space.py: ECGs, images and reports in one plane, and zero-shot scores from words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.evaluate.metrics.score import Floats, Score
from leadwise.pictures.ink import GREY, INK, PALE, PALETTE, blank, tidy


@dataclass(frozen=True)
class SpaceEmbeddings:
    """Unit vectors (N, D) of the same N people in the shared space, and of K words (K, D)."""

    ecg: NDArray[Any]
    image: NDArray[Any]
    report: NDArray[Any]
    words: NDArray[Any]


def plane(space: SpaceEmbeddings) -> dict[str, Floats]:
    """Return positions (N, 2) of each modality and of the words on common principal axes, each modality centred.

    The axes are those of the ECGs and images. Words are centred like reports.
    """
    centred = {name: getattr(space, name) - getattr(space, name).mean(axis=0) for name in ("ecg", "image", "report")}
    centred["words"] = space.words - space.report.mean(axis=0)
    _, _, axes = np.linalg.svd(np.concatenate([centred["ecg"], centred["image"]]), full_matrices=False)
    return {name: values @ axes[:2].T for name, values in centred.items()}


def draw(space: SpaceEmbeddings, ef: Floats, words: Sequence[str], scores: Mapping[str, Score]) -> Figure:
    """Return the figure.

    Args:
        ef: (N,) ejection fraction in %, the colour of a person.
        words: K texts, drawn in the panel of the reports.
        scores: zero-shot scores by what was classified; bars of each class.
    """
    figure = blank(11.0, 7.4)
    figure.text(0.012, 0.985, "ECGs, images and reports of the same test people in one space", fontsize=11,
                fontweight="bold", color=INK, va="top")  # fmt: skip
    positions = plane(space)
    panels = (("ecg", "ECGs"), ("image", "images (ED + ES)"), ("report", "reports, and words"))
    for number, (name, title) in enumerate(panels):
        axes = figure.add_axes((0.05 + 0.3 * number, 0.5, 0.27, 0.41))
        tidy(axes, title)
        dots = _cloud(axes, positions[name], ef)
        spread = 1.03 * max(np.abs(positions[each]).max() for each, _ in panels)
        axes.set(xlim=(-spread, spread), ylim=(-spread, spread), xticks=[], yticks=[])
        if name == "report":
            _words(axes, positions["words"], words, spread)
    bar = figure.colorbar(dots, cax=figure.add_axes((0.945, 0.5, 0.01, 0.41)))
    bar.set_label("ejection fraction, %", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7)
    _bars(figure.add_axes((0.05, 0.09, 0.93, 0.31)), scores)
    return figure


def _cloud(axes: Axes, positions: Floats, ef: Floats) -> Any:
    """Draw one dot per distinct position, in the colour of the mean ejection fraction of the people there."""
    places, of_person, counts = np.unique(positions.round(9), axis=0, return_inverse=True, return_counts=True)
    mean_ef = np.bincount(np.ravel(of_person), ef) / counts
    return axes.scatter(
        *places.T,
        c=mean_ef,
        s=9 + 3 * np.sqrt(counts - 1),
        cmap="RdYlBu",
        vmin=35,
        vmax=75,
        linewidths=0.15,
        edgecolors=GREY,
    )


def _words(axes: Axes, positions: Floats, words: Sequence[str], spread: float) -> None:
    for (x, y), text in zip(np.clip(positions, -0.97 * spread, 0.97 * spread), words):
        axes.plot([x], [y], marker="*", markersize=9, color=INK, markeredgecolor="white", markeredgewidth=0.6)
        side = "left" if x < 0 else "right"
        axes.annotate(
            text, (x, y), (4 if x < 0 else -4, 5), textcoords="offset points", fontsize=6.5, color=INK, ha=side
        )


def _bars(axes: Axes, scores: Mapping[str, Score]) -> None:
    """Draw a group of bars for each class, with intervals; the dashed line is chance."""
    tidy(axes, "Zero-shot from words: AUROC, with 95 % intervals over test people")
    classes = list(next(iter(scores.values())).per_class)
    width = 0.8 / len(scores)
    for rank, (name, one) in enumerate(scores.items()):
        places = np.arange(len(classes)) + (rank - (len(scores) - 1) / 2) * width
        values = np.array([one.per_class[each] if one.per_class[each] is not None else np.nan for each in classes])
        limits = np.array([one.class_interval[each] or (np.nan, np.nan) for each in classes])
        axes.bar(places, values, width * 0.9, color=PALETTE[rank] if rank < 3 else PALE, label=name)
        axes.vlines(places, limits[:, 0], limits[:, 1], color=INK, linewidth=0.9)
        for place, value, high in zip(places, values, limits[:, 1]):
            axes.text(place, high + 0.01, f"{value:.2f}", ha="center", fontsize=7, color=INK)
    axes.axhline(0.5, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set(xticks=range(len(classes)), ylim=(0.0, 1.12))
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xticklabels(classes, fontsize=8.5, color=INK)
    axes.legend(
        ncols=len(scores), fontsize=8, frameon=False, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.1)
    )
