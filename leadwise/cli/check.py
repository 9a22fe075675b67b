"""The command `check`: audit a cohort before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
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
        Path | None,
        typer.Option(help="Another cohort folder. Report patients, recordings and signals that both contain."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A run folder or shipped name. Report patients of this cohort that the run was trained on."),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            min=0, help="Number of recordings whose samples are measured (0: all). The index is always read in full."
        ),
    ] = 2000,
    target: Annotated[
        Path | None, typer.Option("-o", "--out", help="Also write an HTML page with the worst tracings.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also print the number of recordings of each class by split.")
    ] = False,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Audit a cohort: splits, copies, leads, units, sampling rates, classes. Exit code 1 if there is an error, else 0."""
    from leadwise import hub
    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.pages import audit as audit_page

    # the audit needs what a run was trained on, and not its weights
    opened = Cohort.open(cohort)
    other = None if against is None else Cohort.open(against)
    trained = None if run is None else runs.open_without_weights(hub.find(run), accept_changes)
    with progress_bars() as progress:
        report = audit_page.check_cohort(opened, other, trained, sample, bars(progress))
    # the table always; page and JSON on request; the exit code for scripts
    print_table(report.rows(), f"check of {cohort}")
    if per_class:
        print_table(report.class_rows(), "classes by split: recordings with (+) and without (−)")
    if report.origin:
        out.print(report.origin, soft_wrap=True, highlight=False, markup=False)
    write_json(json_file, report.to_json())
    if target is not None:
        audit_page.write_page(report, target)
    out.print(f"{report.summary}" + (f"; page in {target}" if target else ""), soft_wrap=True, highlight=False)
    raise typer.Exit(1 if report.failed else 0)
