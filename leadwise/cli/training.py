"""The commands that train: demo and pretrain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    AcceptChanges,
    Json,
    bars,
    out,
    print_table,
    progress_bars,
    rank,
    write_json,
)


def demo(
    folder: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")] = Path("demo"),
    records: Annotated[
        int | None, typer.Option(min=1, help="Number of ECGs to simulate; default: as many as the demo needs.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; default: as many as the demo needs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated ECGs and of the training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in that folder.")] = False,
    json_file: Json = None,
) -> None:
    """Run everything on simulated ECGs: simulate, prepare, pretrain, embed, probe, zero-shot, and write a report page."""
    from leadwise import demo as pipeline

    with progress_bars() as progress:
        result = pipeline.demo(
            folder, n_records=records, steps=steps, seed=seed, overwrite=overwrite, progress=bars(progress)
        )
    for title, rows in result.tables.items():
        print_table(rows, title)
    write_json(json_file, result.to_json())
    out.print(f"open {result.page}", highlight=False, soft_wrap=True)


def pretrain(
    config: Annotated[Path, typer.Argument(help="TOML file such as configs/ptbxl_cpu.toml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change: method.mask_ratio=0.6")] = None,
    target: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder to write.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out exactly where it stopped; optim.steps may be larger."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, counts, parameters, time and memory; train nothing.")
    ] = False,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Train a method on the ECGs and reports of a cohort and write a run folder."""
    from leadwise import config as settings
    from leadwise.training import dry_run as planning
    from leadwise.training import loop as training

    # a dry run prints the plan and trains nothing
    typed, first = settings.read(config, overrides), rank() == 0
    if dry_run:
        plan = planning.plan(typed)
        if not first:
            return
        out.print(plan.config, highlight=False, markup=False, soft_wrap=True)
        print_table(plan.parameters, "parameters")
        print_table(plan.estimate, "estimated time and memory, from a few timed steps")
        estimate = {row["what"]: row["value"] for row in plan.estimate}
        entries = {"command": "pretrain", "dry_run": True, "cohort": typed.data.cohort, "config": plan.config}
        write_json(json_file, {**entries, "parameters": plan.parameters, "estimate": estimate})
        return

    # train; only rank 0 prints and draws
    if target is None:
        raise typer.BadParameter("no run folder given: pass -o runs/NAME (or --dry-run)")
    with progress_bars(visible=first) as progress:
        training.pretrain(typed, target, resume, bars(progress) if first else None, accept_changes)
    if not first:
        return
    from leadwise.pictures import curves, ink

    metrics = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    result = {"command": "pretrain", "cohort": typed.data.cohort, "run": str(target), "last": metrics[-1]}
    write_json(json_file, result)
    ink.save(curves.draw(metrics, title=target.name), target / "curves.png")
    out.print(f"run written to {target}; curves: {target / 'curves.png'}", soft_wrap=True)
