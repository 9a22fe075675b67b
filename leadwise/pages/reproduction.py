"""A reproduction's folder: the table as Markdown, CSV and LaTeX, figures, the configs, and one page of all of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leadwise.evaluate import export
from leadwise.evaluate.export import markdown
from leadwise.files import replacing
from leadwise.pages.html import Page as HtmlPage
from leadwise.pictures import ink

NOTE = (
    "Ours: strict protocol (labels by name, whole windows, encoder frozen in eval mode, every choice on validation, the test "
    "split scored once; intervals resample patients). The paper's numbers are as printed; they were made under another protocol. "
    "At 1 % of the labels a class that the draw does not show counts as 0.5 here, while the published probe ranks it anyhow: "
    "there ours are lower by construction (docs/legacy-protocol.md)."
)


@dataclass(frozen=True)
class ReproductionPage:
    """What a target comes to."""

    title: str
    lines: list[dict[str, Any]]  # the table
    each: list[dict[str, Any]]  # behind it: every task, with intervals
    figures: list[tuple[Figure, str]]  # with their captions
    scale: str = ""


def write_result(folder: Path, page: ReproductionPage, configs: Mapping[str, str]) -> None:
    """Write everything that a page comes to; what an earlier call left is replaced."""
    kept = folder / "configs"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for earlier in folder.glob("figure*.png"):
        earlier.unlink()
    for name, text in configs.items():
        _write(kept / f"{name}.toml", text)
    behind = f"\n## Each task\n\n{markdown(page.each)}\n" if page.each else ""
    _write(folder / "table.md", f"# {page.title}\n\n{page.scale}\n\n{NOTE}\n\n{markdown(page.lines)}\n{behind}")
    _write(folder / "table.csv", export.to_csv(page.lines))
    _write(folder / "table.tex", f"% {page.title}. {page.scale}\n{export.to_latex(page.lines)}")
    html = HtmlPage(page.title)
    html.text(page.scale)
    html.text(NOTE)
    html.table(page.lines)
    for number, (figure, caption) in enumerate(page.figures, start=1):
        html.figure(figure, caption)
        ink.save(figure, folder / ("figure.png" if number == 1 else f"figure{number}.png"))
    if page.each:
        html.heading("Each task")
        html.table(page.each)
    html.heading("Configs")
    html.text(
        "Every setting of every run stands in configs/ beside this page: "
        + ", ".join(f"{name}.toml" for name in configs)
    )
    html.write(folder / "page.html")


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
