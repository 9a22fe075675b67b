"""`leadwise shift`: scores under a distribution shift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    Csv,
    Encoder,
    Json,
    TaskName,
    bars,
    out,
    print_line,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.cli.result_files import check_picture, read_fractions, read_seeds


def shift(
    run: Encoder,
    train: Annotated[Path, typer.Option(help="Cohort on which the probe is fitted.")],
    task: TaskName,
    test: Annotated[list[Path] | None, typer.Option(help="Cohort to score; may be given several times.")] = None,
    changes: Annotated[
        bool | None, typer.Option(help="Also score changed ECGs of --train [if there is no --test].")
    ] = None,
    part: Annotated[str, typer.Option(help="Feature: backbone, shared, specific or both.")] = "backbone",
    fractions: Annotated[str, typer.Option(help="Fractions of the training labels.")] = "0.1,1",
    seeds: Annotated[str, typer.Option(help="Seeds of the drawn labels.")] = "42,43,44",
    label_map: Annotated[
        Path | None, typer.Option("--map", help="TOML file of findings that data sets have in common [leadwise's].")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw the changes of AUROC to this file.")] = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
    csv_file: Csv = None,
) -> None:
    """Score a probe on other data sets, over the findings that both have, and on changed ECGs: leads, rate, noise."""
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import export
    from leadwise.evaluate import shift as shifts
    from leadwise.evaluate.shift_labels import LabelMap
    from leadwise.foreign.opening import open_encoder
    from leadwise.pictures.ink import save

    # check the options before anything is loaded
    parsed_fractions = read_fractions(fractions)
    parsed_seeds = read_seeds(seeds)
    if picture is not None:
        check_picture(picture)
    loaded_map = LabelMap.load() if label_map is None else LabelMap.load(label_map)

    # measure, print and write
    loaded, opened = open_encoder(run, accept_changes=accept_changes), Cohort.open(train)
    tests = [Cohort.open(path) for path in test or ()]
    with progress_bars() as progress:
        report = shifts.run_shift(
            loaded,
            opened,
            task,
            tests,
            parsed_fractions,
            parsed_seeds,
            part,
            loaded_map,
            changes=not tests if changes is None else changes,
            progress=bars(progress),
        )
    print_table(report.short_rows(), f"{report.run}, fitted on {report.cohort}, task {task}: scores under a shift")
    for sentence in shifts.summary(report):
        print_line(sentence)
    if loaded.origin:
        print_line(f"{loaded.name}: {loaded.origin}; pre-training data: {loaded.pretraining_data}")
    for pair in report.data:
        print_line(pair.overlap.remark)
    write_json(json_file, report.to_json())
    if csv_file is not None:
        export.write(csv_file, export.to_csv(report.rows()))
    if picture is not None:
        save(report.figure(), picture)
        out.print(f"picture written to {picture}", highlight=False, soft_wrap=True)
