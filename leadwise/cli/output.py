"""What a person sees of every verb: progress bars, tables, JSON files; and the arguments that verbs share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from leadwise.cli.progress_log import ProgressLog
from leadwise.files import replacing

# names of records, runs and classes are shown as they are: "ecg[/x]" is no markup, ":heart:" no picture
console = Console(stderr=True, markup=False, emoji=False)
out = Console(
    width=None if sys.stdout.isatty() else 160, markup=False, emoji=False
)  # a file or a pipe has no edge to wrap at

RunFolder = Annotated[Path, typer.Argument(help="Run folder that `leadwise pretrain` left.")]
CohortFolder = Annotated[Path, typer.Argument(help="Cohort folder that `leadwise prepare` wrote.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write every figure to this file, one to a line.")]
Latex = Annotated[Path | None, typer.Option("--latex", help="Also write the tables to this file, for booktabs.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file, as one JSON object.")]
TaskName = Annotated[
    str, typer.Option("--task", help="Label set, such as super; `leadwise tasks` lists them. own: of your own table.")
]
WindowName = Annotated[
    str | None,
    typer.Option(
        "--window",
        help="Part of longer recordings: first_10s, center_10s or multi_crop_mean [as the run was promised]; "
        "merl_5s_pad is for probe --protocol merl-legacy.",
    ),
]


REMARKS = ("skipped", "unlearnable", "no threshold", "untested")  # classes that a row names: told below the table


def rank() -> int:
    """The number of this process among those that `torchrun` started: only the first one shows and draws."""
    return int(os.environ.get("RANK", "0"))


def progress_bars(rate: bool = False, shown: bool = True) -> Progress | ProgressLog:
    """Progress bars on a terminal, plain lines where stderr is a file or a pipe; nothing unless `shown`."""
    if shown and (not console.is_terminal or console.is_dumb_terminal):
        return ProgressLog(lambda line: console.print(line, highlight=False, soft_wrap=True), rate)
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *([_Rate()] if rate else []),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=console, transient=False, disable=not shown)


class _Rate(ProgressColumn):
    """Recordings a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} records/s")


def bars(progress: Progress | ProgressLog) -> Callable[[str, int, int], None]:
    """A callback (what, done, total) with one bar for each task; "name|details" updates the details of a task."""
    if isinstance(progress, ProgressLog):
        return progress.update
    tasks: dict[str, Any] = {}

    def heard(what: str, done: int, total: int) -> None:
        name, _, details = what.partition("|")
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], completed=done, total=total, description=f"{name} {details}".rstrip())

    return heard


def window_suffix(window: str | None) -> str:
    """For a title: the window that was asked for, if one was."""
    return "" if window is None else f", window {window}"


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """A table; a score and its interval share a cell, and remarks on classes stand below it."""
    if not rows:
        return
    lines, remarks = [], []
    for row in rows:
        line = {name: value for name, value in row.items() if name not in ("low", "high", *REMARKS)}
        for name in ("macro", "auroc", "trained", "difference"):
            if line.get(name) is not None and row.get("low") is not None:
                line[name] = f"{row[name]:.3f} ({row['low']:.3f}-{row['high']:.3f})"
        lines.append(line)
        where = " ".join(str(row[name]) for name in ("fraction", "features") if name in row)
        if row.get("features", "trained") == "trained":  # the same classes for every feature
            remarks += [f"{where}: {key} {row[key]}".lstrip(": ") for key in REMARKS if row.get(key)]
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in lines[0]:
        table.add_column(str(name), justify="left" if isinstance(lines[0][name], str) else "right")
    for line in lines:
        table.add_row(*(_cell(value) for value in line.values()))
    out.print(table)
    for remark in remarks:
        out.print(remark, highlight=False, markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        with replacing(path) as part:
            part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
