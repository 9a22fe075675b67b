"""The page of `leadwise bench-qa`: scores by kind of question, differences, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leadwise.pages.html import Page
from leadwise.pictures import bars


def draw(rows: Mapping[str, Mapping[str, Mapping[str, float]]], names: Mapping[str, str], title: str) -> Figure:
    """Return a figure of the scores: one line per kind of question, one dot and interval per row.

    Args:
        rows: row -> kind -> score, low, high.
        names: kind -> what it is called.
    """
    points = [
        {
            "name": names.get(kind, "mean of kinds"),
            "group": row,
            "value": one["score"],
            "low": one["low"],
            "high": one["high"],
        }
        for row, kinds in rows.items()
        for kind, one in kinds.items()
    ]
    return bars.draw(points, title, baseline=None, unit="share of right answers; of lists, F1")


def write(
    path: Path,
    title: str,
    figure: Figure,
    table: Sequence[Mapping[str, Any]],
    gains: Sequence[Mapping[str, Any]],
    remarks: Sequence[str],
) -> None:
    """Write the page, one offline HTML file."""
    page = Page(title)
    page.figure(figure, alt="scores by kind of question, with 95 % intervals")
    for remark in remarks:
        page.text(remark)
    page.table([dict(line) for line in table], "scores, 95 % over patients")
    page.table([dict(line) for line in gains], "differences to the controls, paired, 95 % over patients")
    page.write(path)
