"""`leadwise finetune`: scores of an encoder that is trained further on the labels of a task."""

from __future__ import annotations

from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Csv,
    Encoder,
    Json,
    Latex,
    TaskName,
    bars,
    print_line,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.cli.result_files import print_training_data, read_fractions, read_seeds, write_tables


def finetune(
    run: Encoder,
    cohort: CohortFolder,
    task: TaskName,
    part: Annotated[
        str, typer.Option(help="Feature under the linear map: backbone, shared, specific or both.")
    ] = "backbone",
    fractions: Annotated[str, typer.Option(help="Fractions of the training labels.")] = "1",
    seeds: Annotated[str, typer.Option(help="Seeds of the drawn labels and of the batches.")] = "42",
    epochs: Annotated[int, typer.Option(help="Passes over the training recordings.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Recordings of a step.")] = 64,
    encoder_lr: Annotated[float, typer.Option(help="Highest learning rate of the encoder.")] = 1e-4,
    head_lr: Annotated[float, typer.Option(help="Highest learning rate of the linear map.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of both.")] = 1e-4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print each class.")] = False,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
    csv_file: Csv = None,
    latex_file: Latex = None,
) -> None:
    """Fine-tune an encoder on the labels of a task, and the same encoder from random weights; the test split is scored once.

    An interrupted call continues after its last finished epoch.
    """
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate.metrics import all_metrics
    from leadwise.foreign.opening import open_encoder
    from leadwise.training import finetune as tuning

    # check the options before anything is loaded
    parsed_fractions = read_fractions(fractions)
    settings = tuning.FinetuneSettings(
        epochs=epochs, batch_size=batch_size, encoder_lr=encoder_lr, head_lr=head_lr, weight_decay=weight_decay, device=device
    )  # fmt: skip
    parsed_seeds = read_seeds(seeds)

    # train, score, print
    loaded = open_encoder(run, accept_changes=accept_changes)
    opened = Cohort.open(cohort)
    with progress_bars() as progress:
        report = tuning.finetune(
            loaded, opened, task, parsed_fractions, parsed_seeds, part, settings, progress=bars(progress)
        )
    print_table(report.rows(), f"fine-tuning of {report.run} on {report.cohort}, task {task}: macro AUROC on test")
    if per_class:
        print_table(report.class_rows(), "AUROC per class; the other metrics of the trained encoder")
    print_line(all_metrics.F1_VARIANTS)
    print_line(report.left_out.line)
    print_training_data(loaded, report)
    write_json(json_file, report.to_json())
    write_tables(csv_file, latex_file, report, per_class)
