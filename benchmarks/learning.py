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
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from machine import describe, table, write

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import Signal
from leadwise.config import (
    Config,
    DataConfig,
    LogConfig,
    OptimConfig,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import probe as probing
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.files import replacing
from leadwise.methods.catalogue import (
    all_small_settings,
    learns_labels,
    method_names,
    small_optim_settings,
    small_settings,
    with_defaults,
)
from leadwise.reproduce import paper_numbers
from leadwise.reproduce import references as against
from leadwise.reproduce.cells import ScoringOptions
from leadwise.run import Run
from leadwise.training import loop as training
from leadwise.training.dry_run import peak_memory
from leadwise.training.step_time import steps_in

FRACTIONS = (0.01, 0.1, 1.0)
UNTRAINED, SUPERVISED = "without learning", "supervised"  # references that are computed together
WARM, TIMED = 4, 10  # steps before the clock runs, and while it does
Json = dict[str, Any]


def settings_of(args: argparse.Namespace) -> dict[str, Config]:
    """Row -> settings: every method's small ones, on one signal, batch and schedule."""
    base = Config(
        signal=Signal(rate_hz=100, duration_s=10.0),
        data=DataConfig(cohort=str(args.cohort), min_report_words=2),
        optim=OptimConfig(batch_size=64, lr=args.lr, weight_decay=0.01, seed=args.seed, device="cpu"),
        log=LogConfig(every=5, validate_every=0, save_every=10**9),
    )
    rows = {}
    chosen = args.methods.split(",") if args.methods else method_names()
    for name in filter(lambda name: not learns_labels(name), chosen):
        for method in all_small_settings(name):
            optim = dataclasses.replace(base.optim, **small_optim_settings(name))
            config = with_defaults(dataclasses.replace(base, method=method, optim=optim))
            rows[paper_numbers.row_name(config.method)] = config
    for text in args.also:
        name, *overrides = text.split()
        optim = dataclasses.replace(base.optim, **small_optim_settings(name))
        config = settings.override(dataclasses.replace(base, method=small_settings(name), optim=optim), overrides)
        config = with_defaults(config)
        rows[paper_numbers.row_name(config.method)] = config
    return rows


# -------------------------------------------------------------------------------------------- one row, one process


def train_and_score(row: str, config: Config, args: argparse.Namespace) -> Json:
    """Train and score one row."""
    torch.set_num_threads(1)
    steps, seconds = steps_in(config, args.budget_min, TIMED, WARM)
    steps = max(20, steps)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=steps))
    folder = args.out / "runs" / f"{_folder(row)}-seed{args.seed}"
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
        "loss": [_mean(loss[:3]), _mean(loss[-3:])],
        "cells": scored(run, args),
    }


def scored(run: Run, args: argparse.Namespace) -> list[Json]:
    """Macro AUROC x 100 with its interval, of each task and way of scoring; of the untrained twin, too."""
    cohort, cells = Cohort.open(args.cohort), []
    twin = run.untrained(seed=run.config.optim.seed)
    for task in cohort.tasks:
        rows = cohort.rows(task=task)
        asks = probing.make_probe_task(cohort, task, rows)
        features = {"trained": embed_cohort(run, cohort, "backbone", rows, None, None)}
        if args.untrained:
            features["untrained"] = embed_cohort(twin, cohort, "backbone", rows, None, None)
        for fraction in FRACTIONS:
            probes = {name: probing.probe(values, asks, fraction) for name, values in features.items()}
            cells += [_cell(task, f"{fraction:.0%}", name, result.score) for name, result in probes.items()]
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
    wanted, cohort = ScoringOptions(fractions=FRACTIONS, zero_shot=False), Cohort.open(args.cohort)
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
        }
        rows.setdefault(cell.row, []).append(entry)
    return [{"row": row, "reads": "labels" if supervised else "", "cells": cells} for row, cells in rows.items()]


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


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _folder(row: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", row.lower()).strip("_")


# -------------------------------------------------------------------------------------------------------- the page


def lines(results: list[Json]) -> list[Json]:
    """One line for each row, the best mean probe first."""
    tasks = list(dict.fromkeys(cell["task"] for cell in results[0]["cells"]))

    def mean(one: Json, how: str, features: str = "trained") -> float | None:
        values = [c["macro"] for c in one["cells"] if c["how"] == how and c["features"] == features]
        return _mean(values) if len(values) == len(tasks) else None

    def probe(one: Json) -> float:
        return _mean([mean(one, f"{fraction:.0%}") or 0.0 for fraction in FRACTIONS])

    texts = sorted((mean(one, "zero-shot") for one in results if mean(one, "zero-shot")), reverse=True)
    table = []
    rank = 0
    for one in sorted(results, key=probe, reverse=True):
        rank += "steps" in one  # references are listed at their score, without a rank
        line: Json = {
            "rank": str(rank) if "steps" in one else "",
            "method": one["row"],
            "reads": one["reads"],
            "probe, mean": f"{probe(one):.1f}",
        }
        for fraction in FRACTIONS:
            before = mean(one, f"{fraction:.0%}", "untrained")
            gain = "" if before is None else f" ({mean(one, f'{fraction:.0%}') - before:+.1f})"
            line[f"{fraction:.0%}"] = f"{mean(one, f'{fraction:.0%}'):.1f}{gain}"
        zero = mean(one, "zero-shot")
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
    parser.add_argument("--cohort", type=Path, required=True, help="a folder, or the name of one in cohorts/")
    parser.add_argument(
        "--budget-min", type=float, required=True, help="minutes of one core for each method's training"
    )
    parser.add_argument("--methods", help="names with commas [all]")
    parser.add_argument("--also", action="append", default=[], help="a row more: a method, then settings as KEY=VALUE")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of all [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--at-once", type=int, default=os.cpu_count() or 1, help="rows trained side by side, a core each"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--name", default="learning_ptbxl", help="name of the page in benchmarks/results")
    parser.add_argument("--untrained", action="store_true", help="probe each method's untrained encoder, too")
    parser.add_argument(
        "--supervised", action="store_true", help="encoders that have the labels from the start, too: long"
    )
    parser.add_argument("--note", default="", help="a sentence on what was trained")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.cohort.is_dir():  # by its name alone
        args.cohort = Path("cohorts") / args.cohort
    rows = settings_of(args)
    if args.only:
        known = {UNTRAINED: lambda: references(args, False), SUPERVISED: lambda: references(args, True)}
        result = known.get(args.only, lambda: [train_and_score(args.only, rows[args.only], args)])()
        with replacing(args.out / f"{_folder(args.only)}-seed{args.seed}.json") as part:
            part.write_text(json.dumps(result, indent=1) + "\n")
        return

    args.out.mkdir(parents=True, exist_ok=True)

    def ask(row: str) -> list[Json] | None:
        path = args.out / f"{_folder(row)}-seed{args.seed}.json"
        if not path.exists():
            with (args.out / f"{_folder(row)}.log").open("w") as log:
                command = [sys.executable, *sys.argv, "--only", row]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
            print(f"{row}: {'done' if done.returncode == 0 else f'FAILED, see {log.name}'}", flush=True)
        return json.loads(path.read_text()) if path.exists() else None

    wanted = [*rows, UNTRAINED, *([SUPERVISED] if args.supervised else [])]
    with ThreadPoolExecutor(args.at_once) as pool:
        results = list(pool.map(ask, wanted))
    failed = [row for row, one in zip(wanted, results) if one is None]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the logs in {args.out}. Nothing was written")
    page(args, [one for several in results if several is not None for one in several])


def _command() -> str:
    """The command line without --note, whose text is printed below it."""
    words = list(sys.argv)
    if "--note" in words:
        at = words.index("--note")
        del words[at : at + 2]
    return shlex.join(words)


def _others() -> str:
    """The methods with an [optim] of their own."""
    settings_of = {name: small_optim_settings(name) for name in method_names()}
    lines = (
        f"{name} {', '.join(f'{key} {value}' for key, value in own.items())}"
        for name, own in settings_of.items()
        if own
    )
    return "; ".join(lines) or "none"


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
    where = _where([line for line in ranked if line["rank"]], "CG-DMER")
    beside = "The difference from the same encoder untrained is in brackets. " if args.untrained else ""
    text = f"""# Every method under one budget: {cohort.source}

Command: `python {_command()}`. {describe()}.

{args.note}

{where}

Each method: {args.budget_min:g} minutes of one core (steps counted by processor time), AdamW with cosine, seed {args.seed},
small sizes (`SMALL` in its file), batches of 64 at {args.lr:g} unless its file says otherwise (`SMALL_OPTIM`): {_others()}.
12 leads x 10 s at 100 Hz. Recordings: {counts} ({cohort.source}). Macro AUROC x 100 on the test split,
means over the tasks ({", ".join(cohort.tasks)}); scores below 100 % of the labels are means over three draws. {beside}Peak memory
is the whole process's, libraries and data included.

## Sorted by the mean probe
{table(ranked)}

## Each task, with 95 % intervals over patients
{table(by_task(results, order))}
"""
    print(write(args.name, text))


if __name__ == "__main__":
    main()
