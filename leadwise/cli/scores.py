"""The commands that evaluate a run: embed, probe and zeroshot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadwise.cli.ecg_arguments import EcgFiles, Leads, RateHz, Units, file_inputs, given_of
from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Csv,
    Encoder,
    Json,
    Latex,
    RunFolder,
    TaskName,
    WindowName,
    bars,
    out,
    parse_share,
    print_line,
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
    print_training_data,
    read_fractions,
    read_seeds,
    write_tables,
)
from leadwise.cli.table_files import check_target, write_embeddings

if TYPE_CHECKING:
    from leadwise.ecg_inputs import Inputs


def embed(
    run: Encoder,
    ecgs: EcgFiles,
    target: Annotated[
        Path, typer.Option("-o", "--out", help=".npz file (embedding (N, D), record, ...), .csv or .parquet.")
    ],
    part: Annotated[str, typer.Option(help="backbone, shared, specific or both.")] = "backbone",
    split: Annotated[str | None, typer.Option(help="Only train, val or test of a cohort.")] = None,
    window: WindowName = None,
    leads: Leads = None,
    rate_hz: RateHz = None,
    units: Units = None,
    on_error: Annotated[
        str, typer.Option(help="A file that cannot be embedded: raise an error, or nan: a row without numbers.")
    ] = "raise",
    shard: Annotated[
        str | None,
        typer.Option(help="Embed only the i-th of n parts of a cohort, as i/n: for a job array. Then --join."),
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="Write the file from the parts that --shard embedded.")] = False,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Write an embedding for every recording of a cohort, or for ECG files."""
    # ECG files
    check_target(target, (".npz", ".csv", ".parquet"))
    share = None if shard is None else parse_share(shard)
    if share is not None and join:
        raise typer.BadParameter("give --shard or --join, not both: --join comes after the last part")
    source = file_inputs(ecgs, given_of(leads, rate_hz, units))
    if not isinstance(source, Path):
        for option, given in (("--split", split is not None), ("--shard", share is not None), ("--join", join)):
            if given:
                raise typer.BadParameter(f"{option} belongs to a cohort; omit it with ECG files")
        embed_files(run, source, target, part, window, on_error, accept_changes, json_file)
        return
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import embed as embedding
    from leadwise.evaluate import embed_parts
    from leadwise.foreign.opening import open_encoder

    # a cohort, or one of n parts of it
    loaded, opened = open_encoder(run, accept_changes=accept_changes), Cohort.open(source)
    rows, left_out = embedding.usable(loaded, opened, opened.rows(split=split), window)
    settings = {"command": "embed", "cohort": str(source), "run": str(run), "part": part, "window": window}
    job = embed_parts.EmbeddingJob(loaded, opened, rows, part, window)
    with progress_bars() as progress:
        if share is not None:
            n_embedded = embed_parts.embed_share(job, target, share, bars(progress))
        elif join:
            features = embed_parts.join(job, target)
        else:
            features = embedding.embed_cohort(loaded, opened, part, rows, bars(progress), window=window)
    if share is not None:
        write_json(json_file, {**settings, "file": str(target), "shard": shard, "recordings": n_embedded})
        out.print(f"part {shard}: {n_embedded} embeddings; when all parts are there, use --join", soft_wrap=True)
        return
    if target.suffix.lower() == ".npz":
        embedding.write_npz(target, features, opened, rows, left_out)
    else:
        about: dict[str, Any] = {"patient": opened.patients.take(rows), "split": opened.splits(rows)}
        write_embeddings(target, features, opened.records.take(rows), [""] * len(rows), about)
    sizes = {"recordings": features.shape[0], "width": features.shape[1]}
    write_json(json_file, {**settings, "file": str(target), **sizes, **left_out.to_json()})
    print_line(left_out.line)
    out.print(f"{features.shape[0]} embeddings of width {features.shape[1]} written to {target}", soft_wrap=True)


def embed_files(
    run: Path,
    inputs: Inputs,
    target: Path,
    part: str,
    window: str | None,
    on_error: str,
    accept_changes: bool,
    json_file: Path | None,
) -> None:
    """Embed ECG files and write the table; with on_error "nan", say which files have no embedding."""
    from leadwise.model import load

    # embed
    if on_error not in ("raise", "nan"):
        raise typer.BadParameter(f"--on-error {on_error}: choose raise or nan")
    model = load(run, accept_changes=accept_changes)
    with progress_bars() as progress:
        features = model.embed(
            inputs, part=part, window=window, on_error="nan" if on_error == "nan" else "raise", progress=bars(progress)
        )

    # write and report
    dropped = {one["row"]: one["reason"] for one in features.attrs["dropped"]}
    write_embeddings(target, features, inputs.names, [dropped.get(row, "") for row in range(len(inputs))])
    settings = {"command": "embed", "run": str(run), "part": part, "window": window, "file": str(target)}
    write_json(json_file, {**settings, "recordings": len(inputs), "width": features.shape[1], "refused": len(dropped)})
    for reason in list(dropped.values())[:10]:
        out.print(reason, highlight=False, soft_wrap=True)
    without = f"; {len(dropped)} have no embedding" if dropped else ""
    out.print(f"{len(inputs)} embeddings of width {features.shape[1]} written to {target}{without}", soft_wrap=True)


def probe(
    run: Encoder,
    cohort: CohortFolder,
    task: TaskName,
    part: Annotated[str, typer.Option(help="Feature: backbone, shared, specific or both.")] = "backbone",
    fractions: Annotated[str, typer.Option(help="Fractions of the training labels.")] = "0.01,0.05,0.1,1",
    seeds: SeedsOfStrict = None,
    width: Annotated[
        int | None,
        typer.Option(
            help="Reduce wider features to so many principal components of the training split [no reduction]."
        ),
    ] = None,
    window: WindowName = None,
    protocol: ProtocolName = "strict",
    splits: Splits = None,
    faults: FaultNames = None,
    epochs: EpochsOfLegacy = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print each class.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw a reliability diagram to this file (.png, .svg or .pdf).")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Also write the probe on all training labels to this file, for `predict`.")
    ] = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
    csv_file: Csv = None,
    latex_file: Latex = None,
) -> None:
    """Linear probe on frozen features, with the untrained encoder and hand-crafted features as references."""
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import probe as probing
    from leadwise.evaluate import saved_probe
    from leadwise.evaluate.merl_legacy.legacy_task import with_published_splits
    from leadwise.evaluate.metrics import all_metrics
    from leadwise.foreign.opening import open_encoder

    # check the options before anything is loaded
    check_protocol(protocol, faults, epochs, seeds, width)
    parsed_fractions = read_fractions(fractions)
    parsed_seeds = probing.SEEDS if seeds is None else read_seeds(seeds)
    if picture is not None:
        check_picture(picture)
    if save is not None:
        check_probe_file(save)

    # the legacy protocol, or both
    if protocol != "strict":
        if save is not None:
            raise typer.BadParameter("--save writes the probe of the strict protocol; omit --protocol")
        if picture is not None:
            raise typer.BadParameter("--picture draws the probabilities of the strict probe; omit --protocol")
        settings = legacy_settings(faults, epochs, part, splits, window, parsed_seeds)
        protocol_report = run_legacy_probe(
            run, cohort, task, parsed_fractions, protocol, settings, json_file, accept_changes
        )
        print_table(protocol_report.class_rows() if per_class else [], "AUROC per class")
        write_tables(csv_file, latex_file, protocol_report, per_class)
        return

    # the strict protocol
    loaded = open_encoder(run, accept_changes=accept_changes)
    if save is not None and loaded.origin:
        raise typer.BadParameter(
            f"--save writes a probe for `leadwise predict`, which embeds files with a run; {loaded.name} is none: omit it, and "
            "fit a classifier of yours on the vectors of `leadwise embed`"
        )
    opened = with_published_splits(Cohort.open(cohort), task, splits)
    with progress_bars() as progress:
        report = probing.run_probe(
            loaded,
            opened,
            task,
            fractions=parsed_fractions,
            seeds=parsed_seeds,
            part=part,
            progress=bars(progress),
            window=window,
            width=width,
        )
        if save is not None:
            saved_probe.fit_probe(loaded, opened, task, part, window, bars(progress), width).save(save)
    subject = f"{report.run} on {report.cohort}, task {task}{window_suffix(window)}"
    print_table(report.rows(), f"probe of {subject}: macro AUROC on test")
    if per_class:
        print_table(report.class_rows(), "AUROC per class; the other metrics of the trained encoder")
    print_line(all_metrics.F1_VARIANTS)
    print_line(report.left_out.line)
    print_training_data(loaded, report)
    write_json(json_file, {**report.to_json(), **published_splits_json(opened)})
    write_tables(csv_file, latex_file, report, per_class)
    if picture is not None:
        draw_reliability(report, picture)
    if save is not None:
        out.print(f"probe written to {save}", highlight=False, soft_wrap=True)


def check_probe_file(path: Path) -> None:
    """Check that a probe can be written to `path`: it does not exist, or is a probe."""
    from leadwise.evaluate.logistic_regression import ProbeError
    from leadwise.evaluate.saved_probe import load_probe

    if path.exists():
        try:
            load_probe(path)
        except (ProbeError, OSError):
            raise typer.BadParameter(f"--save {path}: it exists, and is no probe; choose another name") from None


def zeroshot(
    run: RunFolder,
    cohort: CohortFolder,
    task: TaskName,
    prompts: Annotated[Path | None, typer.Option(help="Your own prompt file (TOML); default: the shipped one.")] = None,
    prompt_set: Annotated[
        str | None, typer.Option("--set", help="Prompt set: name, short or rich [rich, or that of your own file].")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "test",
    window: WindowName = None,
    splits: Splits = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print each class.")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Also print each prompt set, and each class by set.")
    ] = False,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
    csv_file: Csv = None,
    latex_file: Latex = None,
) -> None:
    """Classify by prompts, without labels; the untrained encoder and a shuffled control are references."""
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import zeroshot as zero
    from leadwise.evaluate.merl_legacy.legacy_task import with_published_splits
    from leadwise.evaluate.metrics import all_metrics

    # score the run on the split, or on the published split
    loaded, opened = (
        hub.load(run, accept_changes=accept_changes),
        with_published_splits(Cohort.open(cohort), task, splits),
    )
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

    # print the tables and write the files
    subject = f"{report.run} on {report.cohort}, task {task}{window_suffix(window)}"
    print_table(report.rows(), f"zero-shot of {subject}: macro AUROC on {split}")
    if per_class:
        print_table(report.class_rows(), "AUROC per class; the other metrics of the trained encoder")
    if report.measures.keys() & all_metrics.AT_THRESHOLDS:
        print_line(all_metrics.F1_VARIANTS)
    if sensitivity:
        print_table(report.sensitivity.rows(), "macro AUROC by prompt set (*: the reported one)")
        print_table(report.sensitivity.class_rows(), "AUROC per class by prompt set")
    out.print(report.sensitivity.line(), highlight=False)
    print_line(report.calibration_remark)
    print_line(report.remark)
    print_line(report.left_out.line)
    print_line(report.overlap.remark)
    write_json(json_file, {**report.to_json(), **published_splits_json(opened)})
    write_tables(csv_file, latex_file, report, per_class)
