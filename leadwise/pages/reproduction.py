"""The folder of a reproduction: the table as Markdown, CSV and LaTeX, figures, configs, and an HTML page of all of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leadwise.evaluate import export
from leadwise.evaluate.export import markdown
from leadwise.files import replacing
from leadwise.pages.html import Page as HtmlPage
from leadwise.pictures import ink

NOTE = (
    "Our numbers follow the strict protocol: labels are selected by name, windows have full length, the encoder is frozen and in "
    "evaluation mode, every choice is made on the validation split, the test split is scored once, and confidence intervals "
    "resample patients. The paper's numbers are as printed; they were measured under another protocol. At 1 % of the labels, a "
    "class without a positive in the drawn labels counts as 0.5 here, while the published probe ranks it anyway. Our numbers are "
    "therefore lower there by construction (docs/legacy-protocol.md)."
)


@dataclass(frozen=True)
class ReproductionPage:
    """The result of one reproduction target."""

    title: str
    lines: list[dict[str, Any]]  # the table
    each: list[dict[str, Any]]  # every task behind the table, with confidence intervals
    figures: list[tuple[Figure, str]]  # figure and caption
    scale: str = ""  # sentence on the scale of the numbers
    note: str = NOTE  # on the protocol
    more: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)  # further tables: heading and lines


def write_result(folder: Path, page: ReproductionPage, configs: Mapping[str, str]) -> None:
    """Write the tables, figures, configs and page of a result; files of an earlier call are replaced."""
    # configs, and no figures of an earlier call
    config_folder = folder / "configs"
    shutil.rmtree(config_folder, ignore_errors=True)
    config_folder.mkdir(parents=True)
    for old_figure in folder.glob("figure*.png"):
        old_figure.unlink()
    for name, text in configs.items():
        _write(config_folder / f"{name}.toml", text)

    # the table in three formats
    further = [*page.more, *([("Each task", page.each)] if page.each else [])]
    details = "".join(f"\n## {heading}\n\n{markdown(lines)}\n" for heading, lines in further)
    _write(folder / "table.md", f"# {page.title}\n\n{page.scale}\n\n{page.note}\n\n{markdown(page.lines)}\n{details}")
    _write(folder / "table.csv", export.to_csv(page.lines))
    _write(folder / "table.tex", f"% {page.title}. {page.scale}\n{export.to_latex(page.lines)}")

    # the page
    html = HtmlPage(page.title)
    html.text(page.scale)
    html.text(page.note)
    for number, (figure, caption) in enumerate(page.figures, start=1):
        html.figure(figure, caption)
        ink.save(figure, folder / ("figure.png" if number == 1 else f"figure{number}.png"))
    html.table(page.lines)
    for heading, lines in further:
        html.heading(heading)
        html.table(lines)
    html.heading("Configs")
    html.text("Every setting of every run, as in the folder configs/ next to this page.")
    for name, text in configs.items():
        with html.folded(f"{name}.toml"):
            html.preformatted(text)
    html.write(folder / "page.html")


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
