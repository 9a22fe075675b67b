"""The verb that looks at a cohort before anyone trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    CohortFolder,
    Json,
    bars,
    out,
    print_table,
    progress_bars,
    write_json,
)


def check(
    cohort: CohortFolder,
    against: Annotated[
        Path | None, typer.Option(help="Another cohort: patients, recordings and signals in both are found.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A run folder: people it learnt from are found.")] = None,
    sample: Annotated[
        int,
        typer.Option(min=0, help="Recordings whose samples are looked at (0: all); the index is always read in full."),
    ] = 2000,
    target: Annotated[Path | None, typer.Option("-o", "--out", help="Also write an HTML page with pictures.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print the count of each class by split too.")] = False,
    json_file: Json = None,
) -> None:
    """Audit a cohort: splits, copies, leads, units, rates, classes. Exit code 1 if there is an error, else 0."""
    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.pages import audit as checks

    opened = Cohort.open(cohort)
    other = None if against is None else Cohort.open(against)
    known = None if run is None else runs.reopen(run)
    with progress_bars() as progress:
        result = checks.check(opened, other, known, sample, bars(progress))
    print_table(result.rows(), f"check of {cohort}")
    if per_class:
        print_table(result.class_rows(), "classes by split: recordings with (+) and without (−)")
    write_json(json_file, result.to_json())
    if target is not None:
        checks.write_page(result, target)
    out.print(f"{result.summary}" + (f"; page in {target}" if target else ""), soft_wrap=True, highlight=False)
    raise typer.Exit(1 if result.failed else 0)
