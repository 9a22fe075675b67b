"""Verbs that judge a trained run: embed, probe and zeroshot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    CohortFolder,
    Csv,
    Json,
    Latex,
    RunFolder,
    TaskName,
    WindowName,
    bars,
    out,
    print_table,
    progress_bars,
    window_suffix,
    write_json,
)
from leadwise.cli.protocol import (
    EpochsOfLegacy,
    FaultNames,
    ProtocolName,
    SeedsOfStrict,
    Splits,
    check_protocol,
    legacy_settings,
    published_splits_json,
    run_legacy_probe,
)
from leadwise.cli.result_files import (
    check_picture,
    draw_reliability,
    read_seeds,
    write_tables,
)


def embed(
    run: RunFolder,
    cohort: CohortFolder,
    target: Annotated[Path, typer.Option("-o", "--out", help=".npz file: embedding (N, D), record, patient, split.")],
    part: Annotated[str, typer.Option(help="backbone, shared, specific or both.")] = "backbone",
    split: Annotated[str | None, typer.Option(help="Only train, val or test.")] = None,
    window: WindowName = None,
    json_file: Json = None,
) -> None:
    """Write an embedding for every recording of a cohort."""
    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import embed as embedding

    loaded, opened = runs.load(run), Cohort.open(cohort)
    rows = opened.rows(split=split)
    with progress_bars() as progress:
        features = embedding.embed_cohort(loaded, opened, part, rows, bars(progress), window=window)
    embedding.write_npz(target, features, opened, rows)
    told = {"command": "embed", "cohort": str(cohort), "run": str(run), "part": part, "window": window}
    write_json(json_file, {**told, "file": str(target), "recordings": features.shape[0], "width": features.shape[1]})
    out.print(f"{features.shape[0]} embeddings of {features.shape[1]} numbers in {target}", soft_wrap=True)


def probe(
    run: RunFolder,
    cohort: CohortFolder,
    task: TaskName,
    part: Annotated[str, typer.Option(help="Feature: backbone, shared, specific or both.")] = "backbone",
    fractions: Annotated[str, typer.Option(help="Shares of the training labels.")] = "0.01,0.05,0.1,1",
    seeds: SeedsOfStrict = None,
    window: WindowName = None,
    protocol: ProtocolName = "strict",
    splits: Splits = None,
    faults: FaultNames = None,
    epochs: EpochsOfLegacy = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print each class too.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw here (.png or .svg) how far the probabilities can be believed.")
    ] = None,
    json_file: Json = None,
    csv_file: Csv = None,
    latex_file: Latex = None,
) -> None:
    """Linear probe: how well frozen features classify, beside the untrained encoder and hand-crafted features."""
    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import probe as probing
    from leadwise.evaluate.merl_legacy.legacy_task import with_published_splits

    check_protocol(protocol, faults, epochs, seeds)
    try:
        shares = tuple(float(share) for share in fractions.split(","))
    except ValueError:
        raise typer.BadParameter(f"--fractions {fractions}: say numbers within (0, 1], such as 0.01,0.1,1") from None
    drawn = probing.SEEDS if seeds is None else read_seeds(seeds)
    if picture is not None:
        check_picture(picture)
    if protocol != "strict":
        if picture is not None:
            raise typer.BadParameter("--picture draws the strict probe's probabilities; leave out --protocol")
        settings = legacy_settings(faults, epochs, part, splits, window, drawn)
        told = run_legacy_probe(run, cohort, task, shares, protocol, settings, json_file)
        print_table(told.class_rows() if per_class else [], "AUROC per class")
        write_tables(csv_file, latex_file, told, per_class)
        return
    loaded = runs.load(run)
    opened = with_published_splits(Cohort.open(cohort), task, splits)
    with progress_bars() as progress:
        report = probing.run_probe(
            loaded,
            opened,
            task,
            fractions=shares,
            seeds=drawn,
            part=part,
            progress=bars(progress),
            window=window,
        )
    where = f"{report.run} on {report.cohort}, task {task}{window_suffix(window)}"
    print_table(report.rows(), f"probe of {where}: macro AUROC on test")
    if per_class:
        print_table(report.class_rows(), "AUROC per class; auprc, f1, ece and brier of the trained encoder")
    write_json(json_file, {**report.to_json(), **published_splits_json(opened)})
    write_tables(csv_file, latex_file, report, per_class)
    if picture is not None:
        draw_reliability(report, picture)


def zeroshot(
    run: RunFolder,
    cohort: CohortFolder,
    task: TaskName,
    prompts: Annotated[
        Path | None, typer.Option(help="Your own prompt file (TOML); default: ours for this task.")
    ] = None,
    prompt_set: Annotated[
        str | None, typer.Option("--set", help="Prompts to score by: name, short or rich [rich; your own file's].")
    ] = None,
    split: Annotated[str, typer.Option(help="Recordings to score.")] = "test",
    window: WindowName = None,
    splits: Splits = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print each class too.")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Print each set of prompts too, and each class by set.")
    ] = False,
    json_file: Json = None,
    csv_file: Csv = None,
    latex_file: Latex = None,
) -> None:
    """Classify by prompts alone, no label seen, beside the untrained encoder and a shuffled control."""
    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import zeroshot as zero
    from leadwise.evaluate.merl_legacy.legacy_task import with_published_splits

    loaded, opened = runs.load(run), with_published_splits(Cohort.open(cohort), task, splits)
    with progress_bars() as progress:
        report = zero.run_zeroshot(
            loaded,
            opened,
            task,
            prompts_path=prompts,
            split=split,
            progress=bars(progress),
            window=window,
            prompt_set=prompt_set,
        )
    where = f"{report.run} on {report.cohort}, task {task}{window_suffix(window)}"
    print_table(report.rows(), f"zero-shot of {where}: macro AUROC on {split}")
    if per_class:
        print_table(report.class_rows(), "AUROC per class; auprc and f1 of the trained encoder")
    if sensitivity:
        print_table(report.sensitivity.rows(), "macro AUROC by set of prompts (* the one reported)")
        print_table(report.sensitivity.class_rows(), "AUROC per class by set of prompts")
    out.print(report.sensitivity.line(), highlight=False)
    write_json(json_file, {**report.to_json(), **published_splits_json(opened)})
    write_tables(csv_file, latex_file, report, per_class)
