"""The command bench-qa: questions about ECGs, answered by a probe, a trained writer or a server, beside controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Json,
    RunFolder,
    bars,
    print_line,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.cli.report import ServerModel, ServerUrl, chat_server
from leadwise.cli.result_files import check_picture


def bench_qa(
    run: RunFolder,
    cohort: CohortFolder,
    answers: Annotated[
        str, typer.Option(help="Who answers: probe, tiny (needs --writer) or server (needs --server-url).")
    ] = "probe",
    task: Annotated[str | None, typer.Option(help="Labels that questions are made from [the first task].")] = None,
    split: Annotated[str, typer.Option(help="Split that questions are about: test or val.")] = "test",
    kinds: Annotated[
        str | None, typer.Option(help="Kinds of questions with commas: presence, choice, range, list, change [all].")
    ] = None,
    part: Annotated[str, typer.Option(help="--answers probe: feature that it reads.")] = "backbone",
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Table of true values: record, and heart_rate_bpm or rate_bpm, pr_ms, qrs_ms; truth.csv of simulated ECGs is "
            "one [they are measured]."
        ),
    ] = None,
    writer: Annotated[
        Path | None, typer.Option(help="--answers tiny: folder that `leadwise train-writer` wrote.")
    ] = None,
    server_url: ServerUrl = None,
    server_model: ServerModel = "default",
    seed: Annotated[int, typer.Option(help="Of the drawn questions and the order of options.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Ask about at most so many recordings [all].")] = None,
    questions: Annotated[Path | None, typer.Option(help="Also write the questions to this file (.jsonl).")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Also write a page (.html) with the scores and their picture.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the scores to this file (.png, .svg or .pdf).")
    ] = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Answer questions about ECGs with known answers, beside shuffled and zero ECG, majority and chance. Research use only."""
    # check the options before anything is loaded
    if split not in ("test", "val"):
        raise typer.BadParameter(f"--split {split}: must be test or val; answers are learned from the rest")
    if limit is not None and limit < 2:
        raise typer.BadParameter(f"--limit {limit}: must be 2 or more")
    if picture is not None:
        check_picture(picture)
    cache = None if questions is None else questions.with_name(f"{questions.name}.answers")
    server = chat_server("server" if answers == "server" else "", server_url, server_model, cache, "--answers server")
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.generate import folder as folders
    from leadwise.questions.bench import NOTE, run_bench
    from leadwise.questions.question import GROUPS, KINDS, write_questions
    from leadwise.questions.truth import read_truth_table

    chosen = [kind for kind in KINDS if kinds is None or kind in kinds.split(",")]
    if kinds is not None and set(kinds.split(",")) - set(KINDS):
        raise typer.BadParameter(f"--kinds {kinds}: must be of {', '.join(KINDS)}")
    table = None if truth is None else read_truth_table(truth)
    loaded, opened = hub.load(run, accept_changes=accept_changes), Cohort.open(cohort)
    with progress_bars() as progress:
        result = run_bench(
            loaded,
            opened,
            answers,
            task,
            split,
            part,
            table,
            None if writer is None else folders.load(writer),
            server,
            seed,
            limit,
            chosen,
            bars(progress),
        )

    # print the tables and write the files
    subject = f"questions on {result.cohort}, {split}, task {result.task}"
    title = f"{subject}, answered by {result.rows[0].name} with {result.run}: {NOTE}"
    print_table(result.table(), title)
    for remark in result.remarks():
        print_line(remark)
    print_line(result.left_out.line)
    for name, overlap in result.overlaps.items():
        print_line(f"{name}: {overlap.remark}" if overlap.remark else "")
    if questions is not None:
        write_questions(questions, result.questions)
    scores = result.to_json()
    write_json(json_file, scores)
    if page is not None or picture is not None:
        from leadwise.pages import questions as pages
        from leadwise.pictures import ink

        figure = pages.draw(
            scores["rows"], {kind: GROUPS[kind] for kind in result.kinds()}, f"Questions about ECGs of {result.cohort}"
        )
        if picture is not None:
            ink.save(figure, picture, dpi=150)
        if page is not None:
            pages.write(page, title, figure, result.table(), result.gains(), result.remarks())
