"""The page of the learning curves: tables and a picture from the stored rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from curve_scores import CHANGES, MEAN, TEST_FRACTIONS, VAL_FRACTIONS, ZERO_SHOT
from machine import describe, table, write
from rows import Json, command_line, mean, own_settings, width_sentence

from leadwise.data.cohort.cohort import Cohort
from leadwise.pictures import ink, score_curves

RECORDINGS, SECONDS = "recordings used", "processor seconds of training"


def read_rows(args: argparse.Namespace) -> tuple[list[Json], list[str]]:
    """Return every stored row that is complete, the best mean probe first, and the names of the others."""
    complete, others = [], []
    for path in sorted(args.out.glob(f"*-seed{args.seed}/row.json")):
        row = json.loads(path.read_text())
        if not (path.parent / "test.json").exists():
            others.append(row["row"])
            continue
        row["test"] = json.loads((path.parent / "test.json").read_text())["cells"]
        row["points"] = [json.loads(one.read_text()) for one in sorted(path.parent.glob("step-*.json"))]
        complete.append(row)
    return sorted(complete, key=_mean_probe, reverse=True), others


def find(cells: Sequence[Json], how: str, task: str = MEAN, change: str = "") -> Json | None:
    """Return the cell of a way of scoring, or None."""
    return next(
        (c for c in cells if (c["how"], c["task"], c.get("change", "")) == (how, task, change)),
        None,
    )


def _mean_probe(row: Json) -> float:
    return mean(cell["macro"] for cell in row["test"] if cell["task"] == MEAN and cell["how"] != ZERO_SHOT)


def _with_interval(cell: Json | None) -> str:
    return "" if cell is None else f"{cell['macro']:.1f} ({cell['low']:.1f}-{cell['high']:.1f})"


def main_table(rows: Sequence[Json], n_train: int) -> list[Json]:
    """Return a line for each row: what its training cost, and its scores on the test split as means over the tasks."""
    lines = []
    for row in rows:
        line: Json = {"method": row["row"]}
        last = row["points"][-1]
        trained = row["steps"] > 0
        line["steps"] = f"{row['steps']:,}" if trained else ""
        line["passes over the data"] = f"{last['recordings'] / n_train:.1f}" if trained else ""
        line["seconds"] = f"{last['seconds']:.0f}" if trained else ""
        line["parameters, M"] = f"{last['parameters'] / 1e6:.2f}" if trained else ""
        for how in (ZERO_SHOT, *(f"probe {fraction:.0%}" for fraction in TEST_FRACTIONS)):
            line[how] = _with_interval(find(row["test"], how))
        for change in CHANGES:
            for how in (ZERO_SHOT, "probe 10%"):
                line[f"{change}: {how}"] = _with_interval(find(row["test"], how, change=change))
        lines.append(line)
    return lines


def point_table(rows: Sequence[Json]) -> list[Json]:
    """Return a line for each point of the curves: costs, and scores on the validation split as means over the tasks."""
    lines = []
    for row in rows:
        for point in row["points"]:
            trained = row["steps"] > 0
            line: Json = {"method": row["row"], "steps": f"{point['step']:,}" if trained else ""}
            line[RECORDINGS] = f"{point['recordings']:,}" if trained else ""
            line["seconds"] = f"{point['seconds']:.0f}" if trained else ""
            for how in (ZERO_SHOT, *(f"probe {fraction:.0%}" for fraction in VAL_FRACTIONS)):
                line[how] = _with_interval(find(point["cells"], how))
            lines.append(line)
    return lines


def task_table(rows: Sequence[Json], tasks: Sequence[str]) -> list[Json]:
    """Return a line for each row and way of scoring on the unchanged test recordings, with the score of each task."""
    lines = []
    for how in (ZERO_SHOT, *(f"probe {fraction:.0%}" for fraction in TEST_FRACTIONS)):
        for row in rows:
            if find(row["test"], how):
                line: Json = {"how": how, "method": row["row"]}
                lines.append(line | {task: _with_interval(find(row["test"], how, task)) for task in tasks})
    return lines


def draw(rows: Sequence[Json], path: Path) -> None:
    """Draw the curves, and the rows without training as levels."""
    points, levels = [], []
    ways = (ZERO_SHOT, *(f"probe {fraction:.0%}" for fraction in VAL_FRACTIONS))
    for how in ways:
        for row in rows:
            for point in row["points"]:
                cell = find(point["cells"], how)
                if cell is None:
                    continue
                entry = {"group": row["row"], "how": how, "y": cell["macro"]}
                if row["steps"]:
                    costs = {RECORDINGS: point["recordings"], SECONDS: point["seconds"]}
                    points.append({**entry, **costs, "low": cell["low"], "high": cell["high"]})
                else:
                    levels.append(entry)
    title = "Score against recordings used and processor time (validation split, mean over the tasks)"
    ink.save(score_curves.draw(points, (RECORDINGS, SECONDS), levels, title), path, dpi=110)


def page(args: argparse.Namespace) -> None:
    """Write benchmarks/results/NAME.md and NAME.png from the stored rows."""
    rows, others = read_rows(args)
    if not any(row["steps"] for row in rows):
        sys.exit(f"{args.out}: no row of seed {args.seed} is complete; compute one with --row NAME")
    cohort = Cohort.open(args.cohort)
    counts = {split: len(cohort.rows(split=split)) for split in ("train", "val", "test")}
    native = {
        row["row"]: next((c["feature width"] for c in row["test"] if c.get("feature width")), None) for row in rows
    }
    missing = f"\nNot complete, so not here: {', '.join(others)}.\n" if others else ""
    n_fit = min(args.fit_records, counts["train"])
    text = f"""# Learning curves: {cohort.source}

Command: `python {command_line()}`. {describe()}.

{args.note}
{missing}
Each method: {args.budget_min:g} minutes of one core, in one run with a cosine schedule (steps counted by processor time, training
alone, one thread), seed {args.seed}; small sizes (`SMALL` in its file), Muon and batches of 64 at {args.lr:g} unless its file
says otherwise (`SMALL_OPTIM`): {own_settings(args)}. 12 leads x 10 s at 100 Hz.
Recordings: {", ".join(f"{split} {n:,}" for split, n in counts.items())}.
Macro AUROC x 100, means over the tasks ({", ".join(cohort.main_tasks)}) with 95 % intervals over patients, who are drawn once
for all tasks. Below 100 % of the labels, scores are means over three draws.
{width_sentence(args.width, native)}

## Test split, after all steps
Probes are fitted on all training recordings, which have all leads; the test recordings have all leads, only I and II, or
no V leads.

{table(main_table(rows, counts["train"]))}

## Validation split, during training
Points after 1/8, 1/4, 1/2, 3/4 and all of the steps. The rate falls only towards the end of the schedule, so that an early
point is lower than a run that ends there. Probes are fitted on a fixed subset of {n_fit:,} training recordings; their
strength is chosen on the scored split, which raises the scores of all rows a little.

![Score against recordings used and processor time]({Path(args.name).name}.png)

{table(point_table(rows))}

## Test split, each task
{table(task_table(rows, list(cohort.main_tasks)))}
"""
    path = write(args.name, text)
    draw(rows, path.with_suffix(".png"))
    print(path)
