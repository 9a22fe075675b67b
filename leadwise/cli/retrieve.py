"""The command retrieve: search recordings by a text, or score the retrieval of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Json,
    RunFolder,
    WindowName,
    bars,
    out,
    print_line,
    print_table,
    progress_bars,
    window_suffix,
    write_json,
)

PAGE = "found.html"


def retrieve(
    run: RunFolder,
    cohort: CohortFolder,
    text: Annotated[
        str | None,
        typer.Argument(help="Text to search for, worded as in a report. Without it, the run's retrieval is scored."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="With a text: number of recordings.")] = 9,
    target: Annotated[
        Path | None,
        typer.Option("-o", "--out", help=f"With a text: HTML page with the ECGs on paper grid [{PAGE}]."),
    ] = None,
    show_reports: Annotated[
        bool, typer.Option("--show-reports", help="Include the reports in that page. They are patient data.")
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Only train, val or test [with a text: all; for scores: test].")
    ] = None,
    window: WindowName = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Search and draw the ECGs nearest to a text. Without a text: score retrieval, ECG to report and report to ECG."""
    if text is None and (target is not None or show_reports):
        raise typer.BadParameter("-o and --show-reports need a text to search for")
    target = target or Path(PAGE)
    if target.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"-o {target}: the name of the page must end in .html")
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import retrieve as scoring
    from leadwise.evaluate.search import rows, search
    from leadwise.pages.search import build_page

    # without a text: score the run and print the table
    loaded, opened = hub.load(run, accept_changes=accept_changes), Cohort.open(cohort)
    if text is None:
        with progress_bars() as progress:
            report = scoring.run_retrieval(loaded, opened, split or "test", bars(progress), window)
        title = f"retrieval of {report.run} on {report.cohort}, {report.split}{window_suffix(window)}: "
        skipped = f", {report.n_without_report} without a report skipped" if report.n_without_report else ""
        print_table(report.rows(), f"{title}{report.n_records} ECGs, {report.n_reports} distinct reports{skipped}")
        print_line(report.left_out.line)
        print_line(report.overlap.remark)
        write_json(json_file, report.to_json())
        return

    # with a text: search, print and draw the nearest recordings
    with progress_bars() as progress:
        result = search(loaded, opened, text, split, top, bars(progress), window)
    print_table(rows(result.hits), f"nearest recordings of {opened.name}{window_suffix(window)}")
    print_line(f"words of the text that were {result.remark}" if result.remark else "")
    print_line(result.left_out.line)
    build_page(result, opened, loaded, show_reports).write(target)
    out.print(f"open {target}", highlight=False, soft_wrap=True)
    about = {"command": "retrieve", "run": loaded.name, "cohort": opened.name}
    write_json(json_file, {**about, **({"window": window} if window else {}), **result.to_json()})
