"""Every method under one budget: the same data, batch, schedule and minutes of one core each; one table, sorted.

    python benchmarks/learning.py --cohort ptbxl --budget-min 5 --note "..."
    python benchmarks/learning.py --cohort demo/cohort --budget-min 1.5 --name methods_simulated

Minutes are turned into steps by the processor time that a few steps take on one thread: so other work on the machine takes no
steps away. Each method is trained and scored by a process of its own, whose result stays in `--out`; what is there is not made
again. Each method has its own small settings (SMALL, ALSO_SMALL); --also adds a row with others, as

    --also "etp method.encoder=lead_time_conv method.n_patches=20 optim.batch_size=32"
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from machine import describe, table, write
from rows import (
    Json,
    add_options,
    cohort_folder,
    command_line,
    mean,
    own_settings,
    run_each,
    settings_of,
    slug,
    steps_in,
    width_sentence,
)

from leadwise import run as runs
from leadwise.batch import Signal
from leadwise.config import Config, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import probe as probing
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.files import replacing
from leadwise.reproduce import references as against
from leadwise.reproduce.cells import ScoringOptions
from leadwise.run import Run
from leadwise.training import loop as training
from leadwise.training.dry_run import peak_memory

FRACTIONS = (0.01, 0.1, 1.0)
UNTRAINED, SUPERVISED = "without learning", "supervised"  # references that are computed together


# -------------------------------------------------------------------------------------------- one row, one process


def train_and_score(row: str, config: Config, args: argparse.Namespace) -> Json:
    """Train and score one row."""
    torch.set_num_threads(1)
    steps, seconds = steps_in(config, args.budget_min)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=steps))
    folder = args.out / "runs" / f"{slug(row)}-seed{args.seed}"
    if (folder / "model.safetensors").exists():
        run = runs.load(folder, "cpu")
        steps = run.config.optim.steps
    else:
        run = training.pretrain(config, folder)
    memory = peak_memory() / 1e6
    loss = [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").open()) if line["split"] == "train"]
    encoder = dict(run.method.named_children()).get("ecg")
    return {
        "row": row,
        "reads": "ECG + report" if run.method.reads_reports else "ECG",
        "steps": steps,
        "seconds a step": seconds,
        "records/s": config.optim.batch_size / seconds,
        "peak memory, MB": memory,
        "parameters": sum(p.numel() for p in run.method.parameters()),
        "ecg parameters": None if encoder is None else sum(p.numel() for p in encoder.parameters()),
        "loss": [mean(loss[:3]), mean(loss[-3:])],
        "cells": scored(run, args),
    }


def scored(run: Run, args: argparse.Namespace) -> list[Json]:
    """Macro AUROC x 100 with its interval, of each task and way of scoring; of the untrained twin, too."""
    cohort, cells = Cohort.open(args.cohort), []
    twin = run.untrained(seed=run.config.optim.seed)
    for task in cohort.main_tasks:
        rows = cohort.rows(task=task)
        asks = probing.make_probe_task(cohort, task, rows)
        features = {"trained": embed_cohort(run, cohort, "backbone", rows, None, None)}
        if args.untrained:
            features["untrained"] = embed_cohort(twin, cohort, "backbone", rows, None, None)
        for fraction in FRACTIONS:
            probes = {
                name: probing.probe(values, asks, fraction, width=args.width) for name, values in features.items()
            }
            cells += [_cell(task, f"{fraction:.0%}", name, one.score) | one.widths for name, one in probes.items()]
            if "untrained" in probes:
                above, interval = gain(probes["trained"].score, probes["untrained"].score)
                cells[-2] |= {"gain": 100 * above, "gain interval": [100 * edge for edge in interval]}
        if run.method.embeds_text:
            zero = run_zeroshot(run, cohort, task)
            cells.append(_cell(task, "zero-shot", "trained", zero.trained))
    return cells


def references(args: argparse.Namespace, supervised: bool) -> list[Json]:
    """Random encoders and hand-crafted features, probed; or encoders that have the labels from the start, their own scores."""
    torch.set_num_threads(1)
    signal = Signal(rate_hz=100, duration_s=10.0)
    shared = Config(signal=signal, optim=OptimConfig(seed=args.seed, device="cpu"))
    make = against.supervised_cells if supervised else against.untrained_cells
    wanted, cohort = ScoringOptions(FRACTIONS, zero_shot=False, width=args.width), Cohort.open(args.cohort)
    cells = make(against.References.from_configs([], shared), [cohort], args.out, wanted, (args.seed,), lambda *_: None)
    rows: dict[str, list[Json]] = {}
    for cell in cells[0] if isinstance(cells, tuple) else cells:
        low, macro, high = (100 * value for value in (cell.low, cell.macro, cell.high))
        entry = {
            "task": cell.task,
            "how": f"{cell.fraction:.0%}",
            "features": "trained",
            "macro": macro,
            "low": low,
            "high": high,
            "feature width": cell.feature_width,
            "probe width": cell.probe_width,
        }
        rows.setdefault(cell.row, []).append(entry)
    return [{"row": row, "reads": "labels" if supervised else "", "cells": cells} for row, cells in rows.items()]


def result_file(args: argparse.Namespace, row: str) -> Path:
    """Return the file of a row's result."""
    return Path(args.out / f"{slug(row)}-seed{args.seed}-width{args.width or 'native'}.json")


def native_width(one: Json) -> int | None:
    """Return the width of a row's features; None for a row without a probe."""
    return next((cell["feature width"] for cell in one["cells"] if cell.get("feature width")), None)


def _cell(task: str, how: str, features: str, score: Any) -> Json:
    low, high = score.interval
    return {
        "task": task,
        "how": how,
        "features": features,
        "macro": 100 * score.macro,
        "low": 100 * low,
        "high": 100 * high,
    }


# -------------------------------------------------------------------------------------------------------- the page


def lines(results: list[Json]) -> list[Json]:
    """One line for each row, the best mean probe first."""
    tasks = list(dict.fromkeys(cell["task"] for cell in results[0]["cells"]))

    def over_tasks(one: Json, how: str, features: str = "trained") -> float | None:
        values = [c["macro"] for c in one["cells"] if c["how"] == how and c["features"] == features]
        return mean(values) if len(values) == len(tasks) else None

    def probe(one: Json) -> float:
        return mean([over_tasks(one, f"{fraction:.0%}") or 0.0 for fraction in FRACTIONS])

    zero_shots = [over_tasks(one, "zero-shot") for one in results]
    texts = sorted((score for score in zero_shots if score is not None), reverse=True)
    table = []
    rank = 0
    for one in sorted(results, key=probe, reverse=True):
        rank += "steps" in one  # references are listed at their score, without a rank
        line: Json = {
            "rank": str(rank) if "steps" in one else "",
            "method": one["row"],
            "reads": one["reads"],
            "feature width": native_width(one) or "",
            "probe, mean": f"{probe(one):.1f}",
        }
        for fraction in FRACTIONS:
            score, before = (over_tasks(one, f"{fraction:.0%}", which) for which in ("trained", "untrained"))
            above = "" if before is None else f" ({score - before:+.1f})"
            line[f"{fraction:.0%}"] = f"{score:.1f}{above}"
        zero = over_tasks(one, "zero-shot")
        line["zero-shot"] = "" if zero is None else f"{zero:.1f} (rank {texts.index(zero) + 1} of {len(texts)})"
        trained = "steps" in one
        line["steps"] = f"{one['steps']:,}" if trained else ""
        line["records/s"] = f"{one['records/s']:.0f}" if trained else ""
        line["peak memory, MB"] = f"{one['peak memory, MB']:.0f}" if trained else ""
        line["parameters, M"] = f"{one['parameters'] / 1e6:.2f}" if trained else ""
        line["loss"] = f"{one['loss'][0]:.3g} -> {one['loss'][1]:.3g}" if trained else ""
        table.append(line)
    return table


def by_task(results: list[Json], order: list[str]) -> list[Json]:
    """Every cell with its interval, a line for each row and way of scoring."""
    table = []
    any_gains = any("gain" in cell for one in results for cell in one["cells"])
    for how in ("zero-shot", *(f"{fraction:.0%}" for fraction in FRACTIONS)):
        for row in order:
            one = next(one for one in results if one["row"] == row)
            cells = [c for c in one["cells"] if c["how"] == how and c["features"] == "trained"]
            if not cells:
                continue
            line: Json = {"how": how if how == "zero-shot" else f"probe {how}", "method": row}
            line |= {c["task"]: f"{c['macro']:.1f} ({c['low']:.1f}-{c['high']:.1f})" for c in cells}
            gains = [c for c in cells if "gain" in c]
            if not any_gains:
                table.append(line)
                continue
            if gains:
                lost = [c["task"] for c in gains if c["gain interval"][1] < 0]
                won = [c["task"] for c in gains if c["gain interval"][0] > 0]
                line["against its untrained encoder"] = f"above on {len(won)} of {len(gains)}" + (
                    f", below on {', '.join(lost)}" if lost else ""
                )
            else:
                line["against its untrained encoder"] = ""
            table.append(line)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument(
        "--budget-min", type=float, required=True, help="minutes of one core for each method's training"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--name", default="learning_ptbxl", help="name of the page in benchmarks/results")
    parser.add_argument("--untrained", action="store_true", help="probe each method's untrained encoder, too")
    parser.add_argument(
        "--supervised", action="store_true", help="encoders that have the labels from the start, too: long"
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cohort = cohort_folder(args.cohort)
    rows = settings_of(args)
    if args.only:
        known = {UNTRAINED: lambda: references(args, False), SUPERVISED: lambda: references(args, True)}
        result = known.get(args.only, lambda: [train_and_score(args.only, rows[args.only], args)])()
        with replacing(result_file(args, args.only)) as part:
            part.write_text(json.dumps(result, indent=1) + "\n")
        return

    wanted = [*rows, UNTRAINED, *([SUPERVISED] if args.supervised else [])]
    failed = run_each(wanted, "--only", lambda row: result_file(args, row).exists(), args.out, args.at_once)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the logs in {args.out}. Nothing was written")
    page(args, [one for row in wanted for one in json.loads(result_file(args, row).read_text())])


def _where(ranked: list[Json], row: str) -> str:
    """One sentence on the rank of a row."""
    line = next((line for line in ranked if line["method"] == row), None)
    if line is None:
        return ""
    readers = [other["method"] for other in ranked if other["zero-shot"]]
    return (
        f"**{row}: rank {line['rank']} of {len(ranked)} by the mean probe, {readers.index(row) + 1} of {len(readers)} among "
        f"the methods that read reports; zero-shot {line['zero-shot']}.**"
    )


def page(args: argparse.Namespace, results: list[Json]) -> None:
    """benchmarks/results/NAME.md."""
    ranked = lines(results)
    order = [line["method"] for line in ranked]
    cohort = Cohort.open(args.cohort)
    counts = ", ".join(f"{split} {len(cohort.rows(split=split)):,}" for split in ("train", "val", "test"))
    native = {one["row"]: native_width(one) for one in results}
    where = _where([line for line in ranked if line["rank"]], "CG-DMER")
    beside = "The difference from the same encoder untrained is in brackets. " if args.untrained else ""
    text = f"""# Every method under one budget: {cohort.source}

Command: `python {command_line()}`. {describe()}.

{args.note}

{where}

Each method: {args.budget_min:g} minutes of one core (steps counted by processor time), a cosine schedule, seed {args.seed},
small sizes (`SMALL` in its file), Muon and batches of 64 at {args.lr:g} unless its file says otherwise
(`SMALL_OPTIM`): {own_settings(args)}.
12 leads x 10 s at 100 Hz. Recordings: {counts} ({cohort.source}). Macro AUROC x 100 on the test split,
means over the tasks ({", ".join(cohort.main_tasks)}); scores below 100 % of the labels are means over three draws. {beside}Peak
memory is the whole process's, libraries and data included. {width_sentence(args.width, native)}

## Sorted by the mean probe
{table(ranked)}

## Each task, with 95 % intervals over patients
{table(by_task(results, order))}
"""
    print(write(args.name, text))


if __name__ == "__main__":
    main()
