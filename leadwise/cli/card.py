"""The command card: one page that describes a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Encoder,
    Json,
    bars,
    out,
    print_line,
    print_table,
    progress_bars,
    write_json,
)


def card(
    run: Encoder,
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
    test: Annotated[
        list[Path] | None, typer.Option(help="Another cohort to score a probe on; may be given several times.")
    ] = None,
    label_map: Annotated[
        Path | None, typer.Option("--map", help="TOML file of findings that --test has in common [leadwise's].")
    ] = None,
    writer: Annotated[
        str | None,
        typer.Option(
            help="majority, retrieve, or a folder that `leadwise train-writer` wrote: the page then has ten of its reports "
            "beside the references. They are patient data [none]."
        ),
    ] = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Write one offline page about a run: training, scores by group, robustness, shifts, its parts, occlusion maps."""
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate.card import card as cards
    from leadwise.evaluate.shift_labels import LabelMap
    from leadwise.foreign.opening import open_encoder
    from leadwise.pages.card import build_page

    # check the options before anything is computed
    if target.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"-o {target}: a card is an HTML page; use a name such as card.html")
    if writer == "server":
        raise typer.BadParameter("--writer server: a card sends nothing; use majority, retrieve or a writer folder")
    if label_map is not None and not test:
        raise typer.BadParameter("--map belongs to --test: pass both or none")
    loaded_map = None if label_map is None else LabelMap.load(label_map)
    names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    loaded, opened = open_encoder(run, accept_changes=accept_changes), Cohort.open(cohort)
    tests = [Cohort.open(path) for path in test or ()]
    examples = None
    with progress_bars() as progress:
        if writer is not None:  # first, as it may fail and takes seconds
            from leadwise.generate.examples import report_examples
            from leadwise.generate.reporting import open_writer

            chosen = open_writer(writer, loaded, opened, progress=bars(progress))
            examples = report_examples(loaded, opened, chosen, progress=bars(progress))
        result = cards.make_card(
            loaded, opened, names, records, quick, prompts, bars(progress), tests=tests, label_map=loaded_map
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    build_page(result, examples).write(target)
    columns = ("task", "how", "macro", "low", "high", "untrained", "skipped")
    lines = [{key: value for key, value in row.line().items() if key in columns} for row in result.scores]
    print_table(lines, f"{result.run.name} on {result.cohort.name}: macro AUROC on test")
    print_line(result.left_out.line)
    print_line(result.facts["tested_and_trained_on"])
    written = {}
    if examples is not None:
        print_line(
            f"{len(examples.examples)} reports by {examples.writer} on the page: {examples.note}. It is patient data"
        )
        for warning in examples.warnings:
            print_line(warning)
        counts = {name: examples.count(name) for name in ("agrees", "omitted", "invented")}
        about = {"writer": examples.writer, "note": examples.note, "seed": examples.seed, "n": len(examples.examples)}
        written = {"report_examples": {**about, **counts}}
    write_json(json_file, {**result.to_json(), **written})
    out.print(f"card written to {target}", soft_wrap=True)
