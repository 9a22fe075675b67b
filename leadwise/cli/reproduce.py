"""The command reproduce: a table or figure of CG-DMER's paper, MERIT's thesis, or dual-phase CMR."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    Json,
    bars,
    out,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.cli.result_files import read_seeds


def reproduce(
    target: Annotated[
        str,
        typer.Argument(
            help="table1, table2, table3, fig2 or fig3 of CG-DMER's paper; merit: the thesis and numbers of MERIT's paper; "
            "dual_phase: ECG encoders trained with images of the heart, on simulated pairs; peers: the strongest methods of 2026."
        ),
    ],
    folder: Annotated[
        Path, typer.Option("-o", "--out", help="Folder to write; all targets in it share their runs.")
    ] = Path("reproduced"),
    cohorts: Annotated[
        str | None,
        typer.Option(
            help="Cohort folders to score, with commas; the first is used for training unless a config names another. "
            "Default: simulated ECGs (merit: the first is trained on for the table)."
        ),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Settings of a method (repeat for each method); default: small settings for a CPU."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods to compare, with commas [all of the target; see `leadwise methods`].")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Training of each run: steps, such as 400, or minutes of one core, such as 10min."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds to train each run with, such as 0,1,2 [the config's own; peers: 0,1,2 for five rows]."
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="Folder of the published split files to score on, instead of the cohorts' splits."),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="strict, or both: in table1 also the published protocol's probe, not comparable.")
    ] = "strict",
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="table1, peers: a row of your own encoder or run, not trained here (repeat for each): .npz, .parquet, .onnx, "
            "module:name, .toml or a run folder (docs/own-encoder.md)."
        ),
    ] = None,
    references: Annotated[
        bool,
        typer.Option(help="table1, peers: rows of untrained encoders, supervised training and hand-crafted features."),
    ] = True,
    width: Annotated[
        str,
        typer.Option(
            help="Features that the probe of every row uses: a number; common: the smallest number of the rows; "
            "native: each row its own. Wider features are reduced by PCA."
        ),
    ] = "common",
    thesis: Annotated[
        bool,
        typer.Option(
            help="merit: train mask-only, contrast-only and MERIT on simulated ECGs and compare them; else the table only."
        ),
    ] = True,
    finetune_epochs: Annotated[
        int, typer.Option(min=0, help="merit: also fine-tune on each task of the table for so many epochs.")
    ] = 0,
    people: Annotated[int | None, typer.Option(help="dual_phase: simulated people; 65 % of them train [4000].")] = None,
    json_file: Json = None,
) -> None:
    """Reproduce a table or figure of the paper: train missing runs, score them, and compare with the paper's numbers."""
    from leadwise.reproduce import budget as budgets
    from leadwise.reproduce import reproduction

    # parse the options
    numbers = read_seeds(seeds) if seeds else ()
    if protocol not in ("strict", "both"):
        raise typer.BadParameter(f"--protocol {protocol}: must be strict or both")
    if width not in ("common", "native") and not (width.isdecimal() and int(width) > 0):
        raise typer.BadParameter(f"--width {width}: must be common, native or a number from 1")
    paths = tuple(Path(path.strip()) for path in cohorts.split(",")) if cohorts else ()
    request = reproduction.ReproduceRequest(
        target,
        folder,
        paths,
        tuple(config or ()),
        budgets.parse(budget),
        numbers,
        protocol == "both",
        splits,
        tuple(name.strip() for name in methods.split(",")) if methods else (),
        tuple(encoder or ()),
        references,
        "common" if width == "common" else "native" if width == "native" else int(width),
        thesis,
        finetune_epochs,
        people,
    )

    # reproduce, print the table and write the JSON file
    with progress_bars() as progress:
        result = reproduction.reproduce(request, bars(progress))
    unit = "cosine silhouette and neighbours" if target == "fig3" else "macro AUROC x 100"
    print_table(result.lines, target if target in ("merit", "dual_phase") else f"{target}, {unit}")
    for heading, lines in result.more.items():
        print_table(lines, heading)
    out.print(result.scale, highlight=False, soft_wrap=True)
    entries = {"command": "reproduce", "target": target, "scale": result.scale, "lines": result.lines}
    tables = {"tables": result.more} if result.more else {}
    write_json(json_file, {**entries, **tables, "folder": str(result.folder)})
    out.print(f"open {result.folder / 'page.html'}", highlight=False, soft_wrap=True)
