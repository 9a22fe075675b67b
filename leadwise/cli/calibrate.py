"""The command calibrate: probabilities for the zero-shot scores of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    CohortFolder,
    Json,
    RunFolder,
    WindowName,
    bars,
    out,
    print_table,
    progress_bars,
    write_json,
)


def calibrate(
    run: RunFolder,
    cohort: CohortFolder,
    split: Annotated[str, typer.Option(help="Split to fit on: not the one that will be scored.")] = "val",
    tasks: Annotated[str | None, typer.Option(help="Tasks, such as super,sub. Default: all that have prompts.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Your own prompt file (TOML); default: the shipped ones.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="platt, isotonic, or best: whichever has the lower Brier score in cross-validation.")
    ] = "platt",
    window: WindowName = None,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Fit probabilities for zero-shot scores on labelled recordings; writes calibration.json in the run folder."""
    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import prompt_calibration
    from leadwise.evaluate.calibrate import run_calibration

    # fit and write
    names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    loaded = hub.load(run, accept_changes=accept_changes)
    prompt_calibration.check_writable(loaded)  # before minutes of embedding
    with progress_bars() as progress:
        fitted = run_calibration(loaded, Cohort.open(cohort), split, names, prompts, method, window, bars(progress))
    path = prompt_calibration.write(loaded, fitted)

    # one line per prompt set; the classes without a probability by name
    rows = [
        {
            "task": one.task,
            "set": one.prompt_set,
            "records": one.n_records,
            "classes": len(one.classes),
            "no probability": ", ".join(one.without) or "-",
        }
        for one in fitted
    ]
    print_table(rows, f"calibration of {loaded.name} on {fitted[0].cohort}, split {split}")
    reasons = {f"{one.task} {code}: {reason}" for one in fitted for code, reason in one.without.items()}
    for line in sorted(reasons):
        out.print(line, highlight=False, soft_wrap=True)
    result = {"command": "calibrate", "run": str(run), "fingerprint": loaded.fingerprint, "file": str(path)}
    write_json(json_file, {**result, "sets": [one.to_json() for one in fitted]})
    out.print(f"calibration written to {path}", highlight=False, soft_wrap=True)
