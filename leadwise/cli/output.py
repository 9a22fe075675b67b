"""Output of the commands: progress bars, tables, JSON files; and the arguments that commands share."""

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
from leadwise.versions import versions

# no markup and no emoji: names of records, runs and classes such as "ecg[/x]" or ":heart:" are printed unchanged
console = Console(stderr=True, markup=False, emoji=False)
# a file or a pipe has no width to wrap at
out = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)

RunFolder = Annotated[
    Path, typer.Argument(help="Run folder written by `leadwise pretrain`, or a name that ships with leadwise.")
]
Encoder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder or a name that ships with leadwise; or your own encoder (docs/own-encoder.md): .npz or .parquet of "
        "embeddings, .onnx, Python entry module:name (its code is run), or .toml that describes one of these; or published "
        "weights, such as merl:FOLDER (docs/public-weights.md).",
    ),
]
CohortFolder = Annotated[Path, typer.Argument(help="Cohort folder written by `leadwise prepare`.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Also write all scores to this CSV file, one per line.")]
Latex = Annotated[Path | None, typer.Option("--latex", help="Also write the tables to this file (LaTeX, booktabs).")]
STANDARD_OUTPUT = Path("-")  # as the value of --json


def _leave_standard_output(path: Path | None) -> Path | None:
    """Print tables and messages to standard error if the JSON object goes to standard output; called by typer."""
    out.stderr = path == STANDARD_OUTPUT
    return path


Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Also write the result to this file, as one JSON object. -: to standard output, all else to standard error.",
        callback=_leave_standard_output,
    ),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes", help="Use a run whose settings, tokenizer or weights were changed after they were saved."
    ),
]
TaskName = Annotated[
    str, typer.Option("--task", help="Task, such as super; `leadwise tasks` lists them. own: labels of your own table.")
]
WindowName = Annotated[
    str | None,
    typer.Option(
        "--window",
        help="Part of longer recordings: first_10s, center_10s, best or multi_crop_mean [the run's own setting]; "
        "merl_5s_pad only with probe --protocol merl-legacy.",
    ),
]

REMARKS = ("skipped", "unlearnable", "no threshold", "untested")  # columns that list classes: printed below the table


def rank() -> int:
    """Return the rank of this process under `torchrun`, else 0; only rank 0 prints and draws."""
    return int(os.environ.get("RANK", "0"))


def progress_bars(rate: bool = False, visible: bool = True) -> Progress | ProgressLog:
    """Progress bars on a terminal, plain lines where stderr is a file or a pipe; nothing unless `visible`."""
    if visible and (not console.is_terminal or console.is_dumb_terminal):
        return ProgressLog(lambda line: console.print(line, highlight=False, soft_wrap=True), rate)
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *([_Rate()] if rate else []),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=console, transient=False, disable=not visible)


class _Rate(ProgressColumn):
    """Recordings per second, over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} records/s")


def bars(progress: Progress | ProgressLog) -> Callable[[str, int, int], None]:
    """Return a callback (task, done, total) with one bar for each task; "name|details" updates the details of a task."""
    if isinstance(progress, ProgressLog):
        return progress.update
    tasks: dict[str, Any] = {}

    def update(task: str, done: int, total: int) -> None:
        name, _, details = task.partition("|")
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], completed=done, total=total, description=f"{name} {details}".rstrip())

    return update


def parse_share(text: str) -> tuple[int, int]:
    """Return '3/8' as (3, 8), the value of --shard."""
    which, slash, n = text.partition("/")
    if not slash or not which.isdecimal() or not n.isdecimal():
        raise typer.BadParameter(f"--shard {text}: it must be i/n, such as 3/8")
    return int(which), int(n)


def window_suffix(window: str | None) -> str:
    """Return the window for a title, or '' if none was requested."""
    return "" if window is None else f", window {window}"


def print_table(rows: list[dict[str, Any]], title: str) -> None:
    """Print a table; a score and its interval share a cell, and columns that list classes are printed below it."""
    # merge intervals into the cells of their scores, and collect the remarks on classes
    if not rows:
        return
    lines, remarks = [], []
    for row in rows:
        line = {name: value for name, value in row.items() if name not in ("low", "high", *REMARKS)}
        for name in ("macro", "auroc", "r2", "trained", "difference"):
            if line.get(name) is not None and row.get("low") is not None:
                line[name] = f"{row[name]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(line)
        row_name = " ".join(str(row[name]) for name in ("fraction", "features") if name in row)
        if row.get("features", "trained") == "trained":  # they are the same for all features
            remarks += [f"{row_name}: {key} {row[key]}".lstrip(": ") for key in REMARKS if row.get(key)]

    # numbers are right-aligned
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in lines[0]:
        table.add_column(str(name), justify="left" if isinstance(lines[0][name], str) else "right")
    for line in lines:
        table.add_row(*(_cell(value) for value in line.values()))
    out.print(table)
    for remark in remarks:
        out.print(remark, highlight=False, markup=False)


def print_line(line: str) -> None:
    """Print a remark below a table; nothing if it is empty."""
    if line:
        out.print(line, highlight=False, soft_wrap=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as one JSON object if a path is given: to standard output for "-", else to the file, atomically.

    The versions of the packages that computed it are added.
    """
    if path is None:
        return
    text = json.dumps({**result, "versions": versions()}, indent=2, allow_nan=False) + "\n"
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    with replacing(path) as temporary:
        temporary.write_text(text)
