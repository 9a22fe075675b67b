"""The verb retrieve: recordings by a text, or how well a run retrieves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    CohortFolder,
    Json,
    RunFolder,
    bars,
    out,
    print_table,
    progress_bars,
    write_json,
)

PAGE = "found.html"


def retrieve(
    run: RunFolder,
    cohort: CohortFolder,
    text: Annotated[
        str | None, typer.Argument(help="What to look for, as a report would say it; without it, the run is scored.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="With a text: how many recordings.")] = 9,
    target: Annotated[
        Path | None,
        typer.Option("-o", "--out", help=f"With a text: HTML page with the ECGs on paper grid [{PAGE}]."),
    ] = None,
    show_reports: Annotated[
        bool, typer.Option("--show-reports", help="Let that page show the reports too. They are patient data.")
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Only train, val or test [with a text: all; for scores: test].")
    ] = None,
    json_file: Json = None,
) -> None:
    """Find and draw the ECGs nearest to a text; without a text, score ECG to report and report to ECG retrieval."""
    if text is None and (target is not None or show_reports):
        raise typer.BadParameter("-o and --show-reports go with a text to look for")
    target = target or Path(PAGE)
    if target.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"-o {target}: the page ends in .html")
    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import retrieve as scoring
    from leadwise.evaluate import search as searching
    from leadwise.pages.search import build_page

    loaded, opened = runs.load(run), Cohort.open(cohort)
    if text is None:
        with progress_bars() as progress:
            report = scoring.run_retrieval(loaded, opened, split or "test", bars(progress))
        title = f"retrieval of {report.run} on {report.cohort}, {report.split}: "
        left_out = f", {report.n_without_report} without a report left out" if report.n_without_report else ""
        print_table(report.rows(), f"{title}{report.n_records} ECGs, {report.n_reports} distinct reports{left_out}")
        write_json(json_file, report.to_json())
        return
    with progress_bars() as progress:
        found = searching.search(loaded, opened, text, split, top, bars(progress))
    print_table(searching.rows(found), f"nearest of {opened.name}")
    build_page(found, opened, text, loaded, show_reports).write(target)
    out.print(f"open {target}", highlight=False, soft_wrap=True)
    told = [{"record": one.record, "split": one.split, "cosine": one.cosine, "labels": one.labels} for one in found]
    write_json(
        json_file, {"command": "retrieve", "run": loaded.name, "cohort": opened.name, "text": text, "found": told}
    )
