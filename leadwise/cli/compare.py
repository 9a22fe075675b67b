"""The verb that sets two runs against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leadwise.cli.output import (
    REMARKS,
    CohortFolder,
    Csv,
    Json,
    Latex,
    TaskName,
    WindowName,
    bars,
    out,
    print_table,
    progress_bars,
    window_suffix,
    write_json,
)
from leadwise.cli.result_files import read_seeds


def compare(
    run_a: Annotated[Path, typer.Argument(help="Run folder; a positive difference speaks for it.")],
    run_b: Annotated[Path, typer.Argument(help="Run folder that it is held against.")],
    cohort: CohortFolder,
    task: TaskName,
    how: Annotated[str, typer.Option(help="probe or zeroshot.")] = "probe",
    fraction: Annotated[float, typer.Option(help="Probe: share of the training labels.")] = 1.0,
    seeds: Annotated[str, typer.Option(help="Probe: one draw of the labels each.")] = "42,43,44",
    part: Annotated[str, typer.Option(help="Probe: backbone, shared, specific or both.")] = "backbone",
    prompts: Annotated[Path | None, typer.Option(help="Zero-shot: your own prompt file (TOML).")] = None,
    prompt_set: Annotated[str | None, typer.Option("--set", help="Zero-shot: name, short or rich [rich].")] = None,
    window: WindowName = None,
    measure: Annotated[str, typer.Option(help="auroc or auprc.")] = "auroc",
    resamplings: Annotated[int, typer.Option(min=100, help="Of patients; the smallest p-value is 2 in this.")] = 10_000,
    json_file: Json = None,
    csv_file: Csv = None,
    latex_file: Latex = None,
) -> None:
    """Test whether one run scores higher than another on the same patients, macro and each class."""
    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate import compare as comparing
    from leadwise.evaluate import export

    if how not in comparing.SCORERS:
        raise typer.BadParameter(f"--how {how}: say probe or zeroshot")
    if measure not in comparing.MEASURES:
        raise typer.BadParameter(f"--measure {measure}: say {' or '.join(comparing.MEASURES)}")
    by: comparing.ProbeScorer | comparing.ZeroShotScorer
    if how == "zeroshot":
        by = comparing.ZeroShotScorer(prompts, prompt_set, window)
    else:
        by = comparing.ProbeScorer(fraction, read_seeds(seeds), part, window)
    with progress_bars() as progress:
        pair = (runs.load(run_a), runs.load(run_b))
        found = comparing.run_compare(pair, Cohort.open(cohort), task, by, measure, resamplings, bars(progress))
    way = "zero-shot" if how == "zeroshot" else f"probe on {fraction:.0%} of labels"
    data = f"{found.settings['cohort']}, task {task}{window_suffix(window)}"
    title = f"{run_a} (a) against {run_b} (b), {data}, {way}: {measure} on test"
    print_table([_format_p_values(row) for row in found.rows() + found.class_rows()], title)
    if found.n_usable < found.n_replicates:
        out.print(
            f"{found.n_usable} of {found.n_replicates} resamplings could be used: the others left no class to score"
        )
    write_json(json_file, found.to_json())
    if csv_file is not None:
        export.write(csv_file, export.to_csv(found.long_rows()))
    if latex_file is not None:
        export.write(latex_file, _latex(found.rows() + found.class_rows()))


def _format_p_values(row: dict[str, Any]) -> dict[str, Any]:
    """P-values with two digits that count, where three decimals would show 0.000."""
    return row | {name: f"{row[name]:.2g}" for name in ("p", "p_holm") if row[name] is not None}


def _latex(rows: list[dict[str, Any]]) -> str:
    """The table with the higher of a and b in bold on each line."""
    from leadwise.evaluate import export

    return export.to_latex(rows, across=("a", "b"), hidden=REMARKS)
