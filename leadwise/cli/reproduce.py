"""The verb that repeats the paper: reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    Json,
    bars,
    out,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.cli.result_files import read_seeds


def reproduce(
    target: Annotated[str, typer.Argument(help="table1, table2, table3, fig2 or fig3 of CG-DMER's paper.")],
    folder: Annotated[
        Path, typer.Option("-o", "--out", help="Where everything is left; runs are shared by all targets in it.")
    ] = Path("reproduced"),
    cohorts: Annotated[
        str | None,
        typer.Option(
            help="Cohort folders to score, with commas; the first is learnt from, unless a config names another. "
            "Default: simulated ECGs."
        ),
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="Settings of a method (again for each); default: small ones for a CPU.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods to compare, with commas [all that the target has; `leadwise methods`].")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Training of each run: steps, such as 400, or minutes, such as 10min.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds to train each run with, such as 0,1,2 [the config's own].")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="Folder of the published split files, to be scored on instead of the cohorts'.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="strict, or both: in table1 also the published protocol's probe, not comparable.")
    ] = "strict",
    references: Annotated[
        bool,
        typer.Option(help="table1: rows of untrained encoders, of labels from the start, of hand-crafted features."),
    ] = True,
    json_file: Json = None,
) -> None:
    """A table or figure of the paper: train what is missing, score it, and put the paper's numbers beside ours."""
    from leadwise.reproduce import budget as budgets
    from leadwise.reproduce import reproduction

    numbers = read_seeds(seeds) if seeds else ()
    if protocol not in ("strict", "both"):
        raise typer.BadParameter(f"--protocol {protocol}: say strict or both")
    paths = tuple(Path(path.strip()) for path in cohorts.split(",")) if cohorts else ()
    asked = reproduction.ReproduceRequest(
        target,
        folder,
        paths,
        tuple(config or ()),
        budgets.parse(budget),
        numbers,
        protocol == "both",
        splits,
        tuple(name.strip() for name in methods.split(",")) if methods else (),
        references,
    )
    with progress_bars() as progress:
        result = reproduction.reproduce(asked, bars(progress))
    unit = "cosine silhouette and neighbours" if target == "fig3" else "macro AUROC x 100"
    print_table(result.lines, f"{target}, {unit}")
    out.print(result.scale, highlight=False, soft_wrap=True)
    told = {"command": "reproduce", "target": target, "scale": result.scale, "lines": result.lines}
    write_json(json_file, {**told, "folder": str(result.folder)})
    out.print(f"open {result.folder / 'page.html'}", highlight=False, soft_wrap=True)
