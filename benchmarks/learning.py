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
import time
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
from leadwise.data.loader import Sampler
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
from leadwise.training import inputs
from leadwise.training import loop as training
from leadwise.training.dry_run import peak_memory
from leadwise.training.gradient_step import Objective, backward
from leadwise.training.optimizer import make_optimizer

FRACTIONS = (0.01, 0.1, 1.0)
UNLEARNT, SUPERVISED = "without learning", "supervised"  # references that are made together
WARM, TIMED = 4, 10  # steps before the clock runs, and while it does
Json = dict[str, Any]


def settings_of(asked: argparse.Namespace) -> dict[str, Config]:
    """Row -> settings: every method's small ones, on one signal, batch and schedule."""
    base = Config(
        signal=Signal(rate_hz=100, duration_s=10.0),
        data=DataConfig(cohort=str(asked.cohort), min_report_words=2),
        optim=OptimConfig(batch_size=64, lr=asked.lr, weight_decay=0.01, seed=asked.seed, device="cpu"),
        log=LogConfig(every=5, validate_every=0, save_every=10**9),
    )
    rows = {}
    chosen = asked.methods.split(",") if asked.methods else method_names()
    for name in filter(lambda name: not learns_labels(name), chosen):
        for method in all_small_settings(name):
            optim = dataclasses.replace(base.optim, **small_optim_settings(name))
            config = with_defaults(dataclasses.replace(base, method=method, optim=optim))
            rows[paper_numbers.row_name(config.method)] = config
    for text in asked.also:
        name, *overrides = text.split()
        optim = dataclasses.replace(base.optim, **small_optim_settings(name))
        config = settings.override(dataclasses.replace(base, method=small_settings(name), optim=optim), overrides)
        config = with_defaults(config)
        rows[paper_numbers.row_name(config.method)] = config
    return rows


# -------------------------------------------------------------------------------------------- one row, one process


def steps_in(config: Config, minutes: float) -> tuple[int, float]:
    """How many steps fit into so many minutes of one core, and the seconds that one takes."""
    data = inputs.open_data(config)
    run = runs.create(config, data.texts)
    model, optimizer = Objective(run.method), make_optimizer(run.method, config.optim)
    sampler = Sampler(len(data.train), config.optim.batch_size, 0)
    for step in range(WARM + TIMED):
        if step == WARM:
            began = time.process_time()
        backward(model, [data.train.batch(sampler.positions(step))], step, run.config.optim)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = (time.process_time() - began) / TIMED
    return max(20, round(60 * minutes / seconds)), seconds


def made(row: str, config: Config, asked: argparse.Namespace) -> Json:
    """Train and score one row."""
    torch.set_num_threads(1)
    steps, seconds = steps_in(config, asked.budget_min)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=steps))
    folder = asked.out / "runs" / f"{_folder(row)}-seed{asked.seed}"
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
        "cells": scored(run, asked),
    }


def scored(run: Run, asked: argparse.Namespace) -> list[Json]:
    """Macro AUROC x 100 with its interval, of each task and way of scoring; of the untrained twin, too."""
    cohort, cells = Cohort.open(asked.cohort), []
    twin = run.untrained(seed=run.config.optim.seed)
    for task in cohort.tasks:
        rows = cohort.rows(task=task)
        asks = probing.make_probe_task(cohort, task, rows)
        features = {"trained": embed_cohort(run, cohort, "backbone", rows, None, None)}
        if asked.untrained:
            features["untrained"] = embed_cohort(twin, cohort, "backbone", rows, None, None)
        for fraction in FRACTIONS:
            found = {name: probing.probe(values, asks, fraction) for name, values in features.items()}
            cells += [_cell(task, f"{fraction:.0%}", name, result.score) for name, result in found.items()]
            if "untrained" in found:
                above, interval = gain(found["trained"].score, found["untrained"].score)
                cells[-2] |= {"gain": 100 * above, "gain interval": [100 * edge for edge in interval]}
        if run.method.embeds_text:
            zero = run_zeroshot(run, cohort, task)
            cells.append(_cell(task, "zero-shot", "trained", zero.trained))
    return cells


def references(asked: argparse.Namespace, supervised: bool) -> list[Json]:
    """Random encoders and hand-crafted features, probed; or encoders that have the labels from the start, their own scores."""
    torch.set_num_threads(1)
    signal = Signal(rate_hz=100, duration_s=10.0)
    shared = Config(signal=signal, optim=OptimConfig(seed=asked.seed, device="cpu"))
    make = against.supervised_cells if supervised else against.untrained_cells
    wanted, cohort = ScoringOptions(fractions=FRACTIONS, zero_shot=False), Cohort.open(asked.cohort)
    made = make(
        against.References.from_configs([], shared), [cohort], asked.out, wanted, (asked.seed,), lambda *_: None
    )
    rows: dict[str, list[Json]] = {}
    for cell in made[0] if isinstance(made, tuple) else made:
        low, macro, high = (100 * value for value in (cell.low, cell.macro, cell.high))
        told = {
            "task": cell.task,
            "how": f"{cell.fraction:.0%}",
            "features": "trained",
            "macro": macro,
            "low": low,
            "high": high,
        }
        rows.setdefault(cell.row, []).append(told)
    return [{"row": row, "reads": "labels" if supervised else "", "cells": cells} for row, cells in rows.items()]


def _cell(task: str, how: str, features: str, found: Any) -> Json:
    low, high = found.interval
    return {
        "task": task,
        "how": how,
        "features": features,
        "macro": 100 * found.macro,
        "low": 100 * low,
        "high": 100 * high,
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _folder(row: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", row.lower()).strip("_")


# -------------------------------------------------------------------------------------------------------- the page


def lines(found: list[Json]) -> list[Json]:
    """One line for each row, the best mean probe first."""
    tasks = list(dict.fromkeys(cell["task"] for cell in found[0]["cells"]))

    def mean(one: Json, how: str, features: str = "trained") -> float | None:
        values = [c["macro"] for c in one["cells"] if c["how"] == how and c["features"] == features]
        return _mean(values) if len(values) == len(tasks) else None

    def probe(one: Json) -> float:
        return _mean([mean(one, f"{fraction:.0%}") or 0.0 for fraction in FRACTIONS])

    texts = sorted((mean(one, "zero-shot") for one in found if mean(one, "zero-shot")), reverse=True)
    table = []
    rank = 0
    for one in sorted(found, key=probe, reverse=True):
        rank += "steps" in one  # references stand where they belong, without a rank
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


def by_task(found: list[Json], order: list[str]) -> list[Json]:
    """Every cell with its interval, a line for each row and way of scoring."""
    table = []
    any_gains = any("gain" in cell for one in found for cell in one["cells"])
    for how in ("zero-shot", *(f"{fraction:.0%}" for fraction in FRACTIONS)):
        for row in order:
            one = next(one for one in found if one["row"] == row)
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
    asked = parser.parse_args()
    if not asked.cohort.is_dir():  # by its name alone
        asked.cohort = Path("cohorts") / asked.cohort
    rows = settings_of(asked)
    if asked.only:
        known = {UNLEARNT: lambda: references(asked, False), SUPERVISED: lambda: references(asked, True)}
        result = known.get(asked.only, lambda: [made(asked.only, rows[asked.only], asked)])()
        with replacing(asked.out / f"{_folder(asked.only)}-seed{asked.seed}.json") as part:
            part.write_text(json.dumps(result, indent=1) + "\n")
        return

    asked.out.mkdir(parents=True, exist_ok=True)

    def ask(row: str) -> list[Json] | None:
        path = asked.out / f"{_folder(row)}-seed{asked.seed}.json"
        if not path.exists():
            with (asked.out / f"{_folder(row)}.log").open("w") as log:
                command = [sys.executable, *sys.argv, "--only", row]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
            print(f"{row}: {'done' if done.returncode == 0 else f'FAILED, see {log.name}'}", flush=True)
        return json.loads(path.read_text()) if path.exists() else None

    wanted = [*rows, UNLEARNT, *([SUPERVISED] if asked.supervised else [])]
    with ThreadPoolExecutor(asked.at_once) as pool:
        found = list(pool.map(ask, wanted))
    failed = [row for row, one in zip(wanted, found) if one is None]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the logs in {asked.out}. Nothing was written")
    page(asked, [one for several in found if several is not None for one in several])


def _command() -> str:
    """The command line without its note, which stands below."""
    words = list(sys.argv)
    if "--note" in words:
        at = words.index("--note")
        del words[at : at + 2]
    return shlex.join(words)


def _others() -> str:
    """The methods with an [optim] of their own."""
    found = {name: small_optim_settings(name) for name in method_names()}
    told = (f"{name} {', '.join(f'{key} {value}' for key, value in own.items())}" for name, own in found.items() if own)
    return "; ".join(told) or "none"


def _where(ranked: list[Json], row: str) -> str:
    """Where a row stands, in a sentence."""
    line = next((line for line in ranked if line["method"] == row), None)
    if line is None:
        return ""
    readers = [other["method"] for other in ranked if other["zero-shot"]]
    return (
        f"**{row}: rank {line['rank']} of {len(ranked)} by the mean probe, {readers.index(row) + 1} of {len(readers)} among "
        f"the methods that read reports; zero-shot {line['zero-shot']}.**"
    )


def page(asked: argparse.Namespace, found: list[Json]) -> None:
    """benchmarks/results/NAME.md."""
    ranked = lines(found)
    order = [line["method"] for line in ranked]
    cohort = Cohort.open(asked.cohort)
    counts = ", ".join(f"{split} {len(cohort.rows(split=split)):,}" for split in ("train", "val", "test"))
    where = _where([line for line in ranked if line["rank"]], "CG-DMER")
    beside = "The difference from the same encoder untrained is in brackets. " if asked.untrained else ""
    text = f"""# Every method under one budget: {cohort.source}

Command: `python {_command()}`. {describe()}.

{asked.note}

{where}

Each method: {asked.budget_min:g} minutes of one core (steps counted by processor time), AdamW with cosine, seed {asked.seed},
small sizes (`SMALL` in its file), batches of 64 at {asked.lr:g} unless its file says otherwise (`SMALL_OPTIM`): {_others()}.
12 leads x 10 s at 100 Hz. Recordings: {counts} ({cohort.source}). Macro AUROC x 100 on the test split,
means over the tasks ({", ".join(cohort.tasks)}); scores below 100 % of the labels are means over three draws. {beside}Peak memory
is the whole process's, libraries and data included.

## Sorted by the mean probe
{table(ranked)}

## Each task, with 95 % intervals over patients
{table(by_task(found, order))}
"""
    print(write(asked.name, text))


if __name__ == "__main__":
    main()
