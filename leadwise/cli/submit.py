"""The command submit: results on a leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import out, print_table


def submit(
    results: Annotated[
        list[Path], typer.Argument(help="Files that probe, finetune or zeroshot wrote with --json; one method.")
    ],
    name: Annotated[str, typer.Option(help="Name of the method on the board [the name of the run].")] = "",
    source: Annotated[str, typer.Option(help="Where the method is described: a paper or an address.")] = "",
    board: Annotated[Path, typer.Option(help="The leaderboard (.json); a new one if it does not exist.")] = Path(
        "leaderboard.json"
    ),
    page: Annotated[
        Path | None, typer.Option(help="Its page (.md), with pictures beside it [the board's name].")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Exchange scores that are on the board already.")] = False,
) -> None:
    """Put results on a leaderboard: with protocol, digests and versions, and only with their controls."""
    from leadwise.evaluate.leaderboard import Leaderboard, entries_of
    from leadwise.pages import leaderboard as pages

    # everything is checked before anything is written
    target = page or board.with_suffix(".md")
    for path, suffix, option in ((board, ".json", "--board"), (target, ".md", "--page")):
        if path.suffix != suffix:
            raise typer.BadParameter(f"{option} {path}: the name must end in {suffix}")
    opened = Leaderboard.read(board)
    submitted = [entry for path in results for entry in entries_of(path, name, source)]
    new = opened.add(submitted, replace)
    opened.write(board)
    pages.write_page(target, opened)
    print_table(pages.rows_of(submitted), f"{len(new)} new of {len(submitted)} scores")
    out.print(f"{board} has {len(opened.entries)} scores; page: {target}", highlight=False, soft_wrap=True)
