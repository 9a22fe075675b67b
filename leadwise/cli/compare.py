"""The command compare: a paired test of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leadwise.cli.output import (
    REMARKS,
    AcceptChanges,
    CohortFolder,
    Csv,
    Json,
    Latex,
    TaskName,
    WindowName,
    bars,
    out,
    print_line,
    print_table,
    progress_bars,
    window_suffix,
    write_json,
)
from leadwise.cli.result_files import read_seeds


def compare(
    run_a: Annotated[
        Path,
        typer.Argument(
            help="Run folder, shipped name or your own encoder, as for `leadwise probe`; a positive difference favours it."
        ),
    ],
    run_b: Annotated[Path, typer.Argument(help="The same, to compare it with.")],
    cohort: CohortFolder,
    task: TaskName,
    how: Annotated[str, typer.Option(help="probe or zeroshot.")] = "probe",
    fraction: Annotated[float, typer.Option(help="Probe: fraction of the training labels.")] = 1.0,
    seeds: Annotated[str, typer.Option(help="Probe: seeds, one draw of the labels each.")] = "42,43,44",
    part: Annotated[str, typer.Option(help="Probe: backbone, shared, specific or both.")] = "backbone",
    prompts: Annotated[Path | None, typer.Option(help="Zero-shot: your own prompt file (TOML).")] = None,
    prompt_set: Annotated[str | None, typer.Option("--set", help="Zero-shot: name, short or rich [rich].")] = None,
    window: WindowName = None,
    measure: Annotated[str, typer.Option(help="auroc or auprc.")] = "auroc",
    resamplings: Annotated[
        int, typer.Option(min=100, help="Patient resamplings R; the smallest p-value is 2/(R+1).")
    ] = 10_000,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
    csv_file: Csv = None,
    latex_file: Latex = None,
) -> None:
    """Test whether one run scores higher than another on the same patients, macro and each class."""
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.data.usable_rows import left_out_line
    from leadwise.evaluate import compare as comparing
    from leadwise.evaluate import export
    from leadwise.foreign.opening import open_encoder

    # check the options and choose the scorer
    if how not in comparing.SCORERS:
        raise typer.BadParameter(f"--how {how}: must be probe or zeroshot")
    if measure not in comparing.MEASURES:
        raise typer.BadParameter(f"--measure {measure}: must be {' or '.join(comparing.MEASURES)}")
    scorer: comparing.ProbeScorer | comparing.ZeroShotScorer
    if how == "zeroshot":
        scorer = comparing.ZeroShotScorer(prompts, prompt_set, window)
    else:
        scorer = comparing.ProbeScorer(fraction, read_seeds(seeds), part, window)

    # compare, print the tables and write the files
    with progress_bars() as progress:
        pair = (open_encoder(run_a, accept_changes=accept_changes), open_encoder(run_b, accept_changes=accept_changes))
        result = comparing.run_compare(pair, Cohort.open(cohort), task, scorer, measure, resamplings, bars(progress))
    method = "zero-shot" if how == "zeroshot" else f"probe on {fraction:.0%} of labels"
    data = f"{result.settings['cohort']}, task {task}{window_suffix(window)}"
    title = f"{run_a} (a) against {run_b} (b), {data}, {method}: {measure} on test"
    print_table([_format_p_values(row) for row in result.rows() + result.class_rows()], title)
    if result.n_usable < result.n_replicates:
        out.print(
            f"{result.n_usable} of {result.n_replicates} resamplings could be used: "
            "the others have no class with both label values"
        )
    print_line(left_out_line(result.settings.get("left_out", {})))
    for side, one in zip("ab", pair):
        if one.origin:
            print_line(
                f"{side}, {one.name}: {one.origin}; pre-training data: {one.pretraining_data}. "
                f"{result.settings['training_overlap'][side]}"
            )
    write_json(json_file, result.to_json())
    if csv_file is not None:
        export.write(csv_file, export.to_csv(result.long_rows()))
    if latex_file is not None:
        export.write(latex_file, _latex(result.rows() + result.class_rows()))


def _format_p_values(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with p-values at two significant digits, where three decimals would print 0.000."""
    return row | {name: f"{row[name]:.2g}" for name in ("p", "p_holm") if row[name] is not None}


def _latex(rows: list[dict[str, Any]]) -> str:
    """Return the LaTeX table with the higher of a and b in bold in each row."""
    from leadwise.evaluate import export

    return export.to_latex(rows, across=("a", "b"), hidden=REMARKS)
