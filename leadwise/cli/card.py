"""The command card: one page that describes a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Json,
    RunFolder,
    bars,
    out,
    print_line,
    print_table,
    progress_bars,
    write_json,
)


def card(
    run: RunFolder,
    cohort: CohortFolder,
    target: Annotated[Path, typer.Option("-o", "--out", help="HTML page to write.")] = Path("card.html"),
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks, such as super,sub; robustness and parts use the first. Default: all."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Your own prompt file (TOML), for the task it names; default: the shipped one.")
    ] = None,
    records: Annotated[
        int | None,
        typer.Option(min=20, help="Test recordings scored again after each change [500, with --quick 100]."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A page in a minute or two: fewer changes, no untrained encoder.")
    ] = False,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Write one offline page about a run: training, scores by group, robustness, its parts, occlusion maps."""
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate.card import card as cards
    from leadwise.pages.card import build_page

    if target.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"-o {target}: a card is an HTML page; use a name such as card.html")
    names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    loaded = hub.load(run, accept_changes=accept_changes)
    with progress_bars() as progress:
        result = cards.make_card(loaded, Cohort.open(cohort), names, records, quick, prompts, bars(progress))
    target.parent.mkdir(parents=True, exist_ok=True)
    build_page(result).write(target)
    columns = ("task", "how", "macro", "low", "high", "untrained", "skipped")
    lines = [{key: value for key, value in row.line().items() if key in columns} for row in result.scores]
    print_table(lines, f"{result.run.name} on {result.cohort.name}: macro AUROC on test")
    print_line(result.left_out.line)
    print_line(result.facts["tested_and_trained_on"])
    write_json(json_file, result.to_json())
    out.print(f"card written to {target}", soft_wrap=True)
