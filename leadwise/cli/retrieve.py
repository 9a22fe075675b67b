"""The command retrieve: search recordings by a text, or score the retrieval of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    to: Annotated[
        str, typer.Option("--to", help="Without a text: report, or volume: heart images, in pools of fixed size.")
    ] = "report",
    pools: Annotated[str, typer.Option(help="--to volume: sizes of the pools.")] = "64,256",
    oracle: Annotated[
        Path | None, typer.Option(help="--to volume: oracle.json of a simulated cohort, printed as a row.")
    ] = None,
    window: WindowName = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Search and draw the ECGs nearest to a text. Without a text: score retrieval between ECGs and reports or heart images."""
    if text is None and (target is not None or show_reports):
        raise typer.BadParameter("-o and --show-reports need a text to search for")
    if to not in ("report", "volume"):
        raise typer.BadParameter(f"--to {to}: choose report or volume")
    if to == "volume":
        if text is not None:
            raise typer.BadParameter("--to volume scores retrieval; omit the text")
        _score_volumes(run, cohort, split or "test", _sizes(pools), oracle, window, accept_changes, json_file)
        return
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
        _print_thirds(report.uncertainty_rows())
        print_line(report.left_out.line)
        print_line(report.overlap.remark)
        write_json(json_file, report.to_json())
        return

    # with a text: search, print and draw the nearest recordings
    with progress_bars() as progress:
        result = search(loaded, opened, text, split, top, bars(progress), window)
    print_table(rows(result.hits), f"nearest recordings of {opened.name}{window_suffix(window)}")
    print_line(result.uncertainty_line)
    print_line(f"words of the text that were {result.remark}" if result.remark else "")
    print_line(result.left_out.line)
    build_page(result, opened, loaded, show_reports).write(target)
    out.print(f"open {target}", highlight=False, soft_wrap=True)
    about = {"command": "retrieve", "run": loaded.name, "cohort": opened.name}
    write_json(json_file, {**about, **({"window": window} if window else {}), **result.to_json()})


def _sizes(text: str) -> tuple[int, ...]:
    """Return the sizes of a list such as "64,256"."""
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 2:
        raise typer.BadParameter(f"--pools {text}: must be whole numbers from 2, such as 64,256")
    return sizes


def _print_thirds(rows: list[dict[str, Any]]) -> None:
    """Print recall in thirds of the queries' uncertainty, for a run that ranks by the distance of Gaussians."""
    if rows:
        print_table(rows, "by the uncertainty of the query; ranked by the expected squared distance")


def _score_volumes(
    run: Path,
    cohort: Path,
    split: str,
    pools: tuple[int, ...],
    oracle: Path | None,
    window: str | None,
    accept_changes: bool,
    json_file: Path | None,
) -> None:
    """Score retrieval between ECGs and heart images, print the table and write the JSON file."""
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import volume_retrieval as scoring

    known = None if oracle is None else scoring.read_oracle(oracle)
    loaded, opened = hub.load(run, accept_changes=accept_changes), Cohort.open(cohort)
    with progress_bars() as progress:
        report = scoring.run_volume_retrieval(loaded, opened, split, pools, known, bars(progress), window)
    title = f"retrieval of {report.run} on {report.cohort}, {report.split}{window_suffix(window)}: "
    print_table(report.rows(), f"{title}{report.n_records} ECGs with heart images, means over {scoring.N_POOLS} pools")
    _print_thirds(report.uncertainty_rows())
    for remark in (report.remark, report.left_out.line, report.overlap.remark):
        print_line(remark)
    write_json(json_file, report.to_json())
