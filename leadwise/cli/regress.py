"""The command regress: numbers such as ventricular volumes or age from the frozen features of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Csv,
    Encoder,
    Json,
    Latex,
    WindowName,
    bars,
    print_line,
    print_table,
    progress_bars,
    window_suffix,
    write_json,
)
from leadwise.cli.result_files import check_picture, read_seeds, write_tables


def regress(
    run: Encoder,
    cohort: CohortFolder,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Numeric columns of the cohort, such as lvedv,lvef or age [those that the cohort names as targets]."
        ),
    ] = None,
    part: Annotated[str, typer.Option(help="Feature: backbone, shared, specific or both.")] = "backbone",
    fit: Annotated[
        str | None,
        typer.Option(
            help="Split to fit on: train or val [val if one of the runs was trained on this cohort's train, else train]."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="ridge, or mlp: a network D, D/2, D/4, 1 for each target.")] = "ridge",
    beside: Annotated[
        list[str] | None,
        typer.Option(help="Further run or encoder to compare with, on the same patients; repeat for more."),
    ] = None,
    covariates: Annotated[
        str | None, typer.Option(help="Columns such as age,sex: a row of them alone, and one with the features.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="mlp: seeds, one repeat each.")] = "0,1,2",
    window: WindowName = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw predicted against true values to this file (.png, .svg or .pdf).")
    ] = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
    csv_file: Csv = None,
    latex_file: Latex = None,
) -> None:
    """Predict numbers from frozen features: R², MAE and r beside a random encoder, hand-crafted features and heart rate."""
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import regress as regression
    from leadwise.foreign.opening import open_encoder

    # check the options before anything is loaded
    parsed_seeds = read_seeds(seeds)
    if picture is not None:
        check_picture(picture)
    loaded, opened = open_encoder(run, accept_changes=accept_changes), Cohort.open(cohort)
    others = [open_encoder(one, accept_changes=accept_changes) for one in beside or ()]
    with progress_bars() as progress:
        report = regression.run_regress(
            loaded,
            opened,
            None if targets is None else _names(targets),
            part=part,
            fit=fit,
            model=model,
            beside=others,
            covariates=_names(covariates or ""),
            window=window,
            seeds=parsed_seeds,
            progress=bars(progress),
        )

    # print the tables and write the files
    subject = f"{report.run} on {report.cohort}{window_suffix(window)}"
    fitted = f"{report.model} on {report.n_recordings['fit']} recordings of split {report.fit_split}"
    print_table(report.rows(), f"{subject}: mean R² of {len(report.targets)} targets on test, {fitted}")
    print_table(report.class_rows(), "R², MAE and r of the trained encoder by target; R² of the others")
    for one in (loaded, *others):
        if one.origin:
            print_line(f"{one.name}: {one.origin}; pre-training data: {one.pretraining_data}")
    for remark in report.remarks:
        print_line(remark)
    write_json(json_file, report.to_json())
    write_tables(csv_file, latex_file, report, per_class=True)
    if picture is not None:
        from leadwise.pictures import ink, predicted

        ink.save(predicted.draw(report.panels(), f"{subject}: predicted against true"), picture, dpi=150)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
