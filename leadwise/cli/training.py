"""Verbs that train: demo and pretrain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import (
    Json,
    bars,
    out,
    print_table,
    progress_bars,
    rank,
    write_json,
)


def demo(
    folder: Annotated[Path, typer.Option("-o", "--out", help="Where everything is left.")] = Path("demo"),
    records: Annotated[
        int | None, typer.Option(min=1, help="How many ECGs to simulate; default: as many as the demo needs.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; default: as many as the demo needs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the hearts and of the training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in that folder.")] = False,
    json_file: Json = None,
) -> None:
    """The whole way on simulated ECGs: simulate, prepare, pretrain, embed, probe, zero-shot, and a report to open."""
    from leadwise import demo as whole_way

    with progress_bars() as progress:
        result = whole_way.demo(
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
        bool, typer.Option("--resume", help="Go on with the run in --out exactly where it stopped.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, counts, parameters, time and memory; train nothing.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Train a method on a cohort's ECGs and reports, leaving a run folder."""
    from leadwise import config as settings
    from leadwise.training import dry_run as planning
    from leadwise.training import loop as training

    typed, first = settings.read(config, overrides), rank() == 0
    if dry_run:
        plan = planning.plan(typed)
        if not first:
            return
        out.print(plan.config, highlight=False, markup=False, soft_wrap=True)
        print_table(plan.parameters, "parameters")
        print_table(plan.estimate, "what it will take, from a few timed steps")
        estimate = {row["what"]: row["value"] for row in plan.estimate}
        told = {"command": "pretrain", "dry_run": True, "cohort": typed.data.cohort, "config": plan.config}
        write_json(json_file, {**told, "parameters": plan.parameters, "estimate": estimate})
        return
    if target is None:
        raise typer.BadParameter("say where the run goes: -o runs/NAME (or --dry-run)")
    with progress_bars(shown=first) as progress:
        training.pretrain(typed, target, resume=resume, progress=bars(progress) if first else None)
    if not first:
        return
    from leadwise.pictures import curves, ink

    metrics = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    told = {"command": "pretrain", "cohort": typed.data.cohort, "run": str(target), "last": metrics[-1]}
    write_json(json_file, told)
    ink.save(curves.draw(metrics, title=target.name), target / "curves.png")
    out.print(f"run in {target}; its curves: {target / 'curves.png'}", soft_wrap=True)
