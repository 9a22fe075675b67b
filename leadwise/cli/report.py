"""The commands about reports that are written from ECGs: report, train-writer and score-writer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leadwise.cli.ecg_arguments import EcgFiles, Leads, RateHz, Units, file_inputs, given_of
from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Json,
    RunFolder,
    bars,
    out,
    print_line,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.cli.table_files import check_target, write_table

if TYPE_CHECKING:
    from leadwise.generate.writers.server import ServerOptions

WriterName = Annotated[
    str,
    typer.Option("--writer", help="majority, retrieve, server, or a folder that `leadwise train-writer` wrote."),
]
ServerUrl = Annotated[
    str | None,
    typer.Option(
        help="Address of the server, an OpenAI-compatible one such as http://localhost:8000/v1. It gets probabilities, "
        "measurements and training reports of similar ECGs, never names or samples. No other address is contacted."
    ),
]
ServerModel = Annotated[str, typer.Option(help="Name of the model on the server.")]
_TABLES = (".csv", ".parquet")


def chat_server(
    writer: str, url: str | None, model: str, cache: Path | None, option: str = "--writer server"
) -> ServerOptions | None:
    """Return the server of the options; None without one."""
    if (writer == "server") != (url is not None):
        raise typer.BadParameter(f"{option} and --server-url belong together: pass both or none")
    from leadwise.generate.writers.server import ServerOptions

    return None if url is None else ServerOptions(url, model, cache=cache)


def report(
    run: RunFolder,
    files: EcgFiles,
    target: Annotated[Path, typer.Option("-o", "--out", help=".csv or .parquet file: one row per ECG.")],
    writer: WriterName = "retrieve",
    bank: Annotated[
        Path | None,
        typer.Option(
            help="Cohort whose training reports are returned or sent [the cohort that reports are written for]."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a cohort: only train, val or test [all].")] = None,
    server_url: ServerUrl = None,
    server_model: ServerModel = "default",
    leads: Leads = None,
    rate_hz: RateHz = None,
    units: Units = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Write a report for each ECG. Machine-written, research use only: no report supports a decision about a patient."""
    # check the options before anything is loaded
    check_target(target, _TABLES)
    server = chat_server(writer, server_url, server_model, target.with_name(f"{target.name}.answers"))
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.ecg_inputs import Inputs
    from leadwise.generate.reporting import NAMES, open_writer, write_reports
    from leadwise.generate.writer import NOTE

    ecgs = file_inputs(files, given_of(leads, rate_hz, units))
    opened: Cohort | Inputs = ecgs if isinstance(ecgs, Inputs) else Cohort.open(ecgs)
    if isinstance(opened, Inputs) and split is not None:
        raise typer.BadParameter("--split belongs to a cohort; omit it with ECG files")
    if bank is not None and writer not in NAMES and Path(writer).is_dir():
        raise typer.BadParameter("--bank belongs to majority, retrieve and server; a trained writer needs no reports")
    own = opened if isinstance(opened, Cohort) else None
    source = own if bank is None else Cohort.open(bank)

    # write
    loaded = hub.load(run, accept_changes=accept_changes)
    with progress_bars() as progress:
        chosen = open_writer(writer, loaded, source, server, bars(progress))
        table = write_reports(loaded, chosen, opened, split, bars(progress))
    write_table(table, target)

    # the reports are in the file only: they are patient data
    refused = int((table["refused"] != "").sum())
    if refused:
        print_line(f"{refused} of {len(table)} ECGs have no report; the column refused has the reason")
    result = {"command": "report", "note": NOTE, "run": str(run), "writer": chosen.name, "file": str(target)}
    write_json(json_file, {**result, "recordings": len(table), "refused": refused})
    out.print(f"{len(table)} rows written to {target}: {NOTE}", highlight=False, soft_wrap=True)


def train_writer(
    run: RunFolder,
    cohort: CohortFolder,
    target: Annotated[Path, typer.Option("-o", "--out", help="Writer folder to write.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change: writer.fusion=kv")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the training in --out exactly where it stopped; optim.steps may be larger."
        ),
    ] = False,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Train a writer of reports on the training split of a cohort; the run is frozen and reads the ECGs."""
    import json

    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.generate.training import train_writer as train

    loaded, opened = hub.load(run, accept_changes=accept_changes), Cohort.open(cohort)
    with progress_bars() as progress:
        train(loaded, opened, target, overrides or (), resume, bars(progress))
    lines = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    last = {split: next((x for x in reversed(lines) if x["split"] == split), None) for split in ("train", "val")}
    write_json(
        json_file, {"command": "train-writer", "run": str(run), "cohort": str(cohort), "writer": str(target), **last}
    )
    out.print(f"writer written to {target}", highlight=False, soft_wrap=True)


def score_writer(
    run: RunFolder,
    cohort: CohortFolder,
    writer: WriterName,
    split: Annotated[
        str, typer.Option(help="Split to score: test, or val, which has chosen a trained writer's weights.")
    ] = "test",
    target: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help=".csv or .parquet file with all reports and references. They are patient data."
        ),
    ] = None,
    server_url: ServerUrl = None,
    server_model: ServerModel = "default",
    bert_model: Annotated[
        Path | None, typer.Option(help="Also BERTScore, with the model in this local folder; nothing is downloaded.")
    ] = None,
    bert_layer: Annotated[
        int, typer.Option(help="Hidden states that BERTScore compares; 0 is the embedding layer.")
    ] = 9,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Score a writer beside its controls: shuffled ECG, zero ECG, random encoder, majority and retrieval."""
    # check the options before anything is loaded
    if split not in ("test", "val"):
        raise typer.BadParameter(f"--split {split}: must be test or val; a writer is trained on the rest")
    if target is not None:
        check_target(target, _TABLES)
    cache = None if target is None else target.with_name(f"{target.name}.answers")
    server = chat_server(writer, server_url, server_model, cache)
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.generate import evaluate_writer as scoring
    from leadwise.generate.bert_score import BertLayer
    from leadwise.generate.reporting import open_writer
    from leadwise.generate.writer import NOTE

    bert = None if bert_model is None else BertLayer(bert_model, bert_layer)
    loaded, opened = hub.load(run, accept_changes=accept_changes), Cohort.open(cohort)
    with progress_bars() as progress:
        chosen = open_writer(writer, loaded, opened, server, bars(progress))
        scores = scoring.score_writer(loaded, opened, chosen, split, bert=bert, progress=bars(progress))
    if target is not None:
        write_table(scores.texts(), target)
    title = (
        f"reports by {scores.writer} with {scores.run} on {scores.cohort}, {split}: {len(scores.records)} ECGs. {NOTE}"
    )
    print_table(scores.rows(), title)
    print_table(scores.gains(), "macro F1 of findings: gain of the right ECG, 95 % over patients")
    for remark in scores.remarks:
        print_line(remark)
    if scores.n_without_report:
        print_line(f"{scores.n_without_report} recordings without a report skipped")
    print_line(scores.left_out.line)
    for name, overlap in scores.overlaps.items():
        print_line(f"{name}: {overlap.remark}" if overlap.remark else "")
    write_json(json_file, scores.to_json())
