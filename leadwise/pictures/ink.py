"""Shared by all pictures: colours that colour-blind readers can distinguish, an empty figure, and saving to a file.

Figures are built from matplotlib's objects (`Figure` with an Agg canvas); the global state of pyplot is never changed.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from leadwise.files import replacing

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195")
"""Seven colours that can be distinguished with the common colour vision deficiencies, in the order of use."""

INK = "#1b1b1f"  # text and traces
GREY = "#8a8a92"  # absent or secondary
PALE = "#d9d9de"  # frames and rules
SUFFIXES = (".png", ".svg", ".pdf")  # of the files to which pictures are written
_DATED = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}  # metadata that differs between equal pictures
_NOTEBOOK_DPI = 90
DPI = 254  # ten pixels per millimetre, so that the lines of ECG paper fall on whole pixels


class Picture(Figure):
    """A figure that a notebook shows as the value of a cell; matplotlib does this only for figures of pyplot."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=_NOTEBOOK_DPI)
        return content.getvalue()


def blank(width_in: float, height_in: float) -> Figure:
    """Return an empty white figure; width and height in inches."""
    figure = Picture(figsize=(width_in, height_in), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, title: str = "") -> None:
    """Apply the style of all figures to axes: a title at the left, no box, small grey ticks."""
    axes.set_facecolor("white")
    axes.set_title(title, loc="left", fontsize=9, color=INK, fontweight="bold", parse_math=False)
    axes.tick_params(labelsize=7.5, colors=INK, color=PALE, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(PALE)


def save(figure: Figure, path: Path, dpi: float = DPI) -> None:
    """Write the figure as PNG, SVG or PDF, according to the suffix of `path`; the file is replaced atomically.

    The same figure gives the same bytes: no date, no random ids. In an SVG and a PDF, text is stored as text.

    Raises:
        ValueError: the suffix is none of SUFFIXES.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"cannot draw to {path.name}: the suffix '{path.suffix}' is none of {', '.join(SUFFIXES)}")
    metadata: dict[str, str | None] = {_DATED[kind]: None}
    with (
        replacing(path) as part,
        # 42 is TrueType, in which text stays text
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "leadwise", "pdf.fonttype": 42}),
    ):
        figure.savefig(part, format=kind.removeprefix("."), dpi=dpi, metadata=metadata, bbox_inches=None)
