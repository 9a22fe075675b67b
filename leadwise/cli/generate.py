"""The command generate: ECGs from a text, or one for each report of a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import AcceptChanges, Json, RunFolder, bars, out, progress_bars, write_json


def generate(
    run: RunFolder,
    folder: Annotated[Path, typer.Option("-o", "--out", help="New folder for the ECGs and their table.")],
    text: Annotated[
        str | None, typer.Option(help='Findings, worded as in a report: "atrial fibrillation, rapid response".')
    ] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="Instead of a text: a cohort; one ECG for each report of --split.")
    ] = None,
    split: Annotated[str, typer.Option(help="With --cohort: train, val or test.")] = "train",
    n: Annotated[int, typer.Option("--n", help="With --text: number of ECGs.")] = 8,
    age: Annotated[float | None, typer.Option(help="With --text: age in years [open].")] = None,
    sex: Annotated[str | None, typer.Option(help="With --text: male or female [open].")] = None,
    heart_rate: Annotated[float | None, typer.Option(help="With --text: ventricular rate in bpm [open].")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same ECGs.")] = 0,
    pictures: Annotated[
        bool | None, typer.Option(help="A picture of each ECG [with --text: yes, with --cohort: no].")
    ] = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Generate ECGs from text. All files are marked as synthetic; research use only, no evidence about any patient."""
    # check the options before anything is loaded
    if (text is None) == (cohort is None):
        raise typer.BadParameter("pass --text or --cohort, and not both")
    if cohort is not None and not (age is None and sex is None and heart_rate is None):
        raise typer.BadParameter("--age, --sex and --heart-rate belong to --text; a cohort has its own")
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.data.cohort.layout import CohortError
    from leadwise.methods.contract import Conditions
    from leadwise.synthesis import generation
    from leadwise.synthesis.written import NOTE

    conditions = Conditions(age, sex, heart_rate)
    if folder.exists():
        raise CohortError(f"{folder} exists already; give a new folder, or delete this one first")

    # the prompts
    loaded = hub.load(run, accept_changes=accept_changes)
    generation.check_generates(loaded)
    if cohort is None:
        prompts = generation.prompts_of_text(text or "", n, conditions)
    else:
        prompts = generation.prompts_of_cohort(Cohort.open(cohort), loaded.config.signal, split)

    # the ECGs
    draws = text is not None if pictures is None else pictures
    with progress_bars() as progress:
        ecgs = generation.generate(loaded, prompts, seed, bars(progress))
        table = generation.write_folder(folder, loaded, prompts, ecgs, seed, draws, bars(progress))
    write_json(
        json_file,
        {"command": "generate", "note": NOTE, "run": str(run), "folder": str(folder), "ecgs": len(ecgs), "seed": seed},
    )
    out.print(
        f"{len(ecgs)} synthetic ECGs in {folder}; next: leadwise prepare folder {table} -o cohorts/synthetic",
        highlight=False,
        soft_wrap=True,
    )
