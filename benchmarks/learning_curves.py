"""Learning curves of several methods: scores against the recordings used, and against the processor seconds of training.

    python benchmarks/learning_curves.py --cohort ptbxl --budget-min 20            every row, then the page
    python benchmarks/learning_curves.py --cohort ptbxl --row CG-DMER              one row (a process, one thread)
    python benchmarks/learning_curves.py --cohort ptbxl --page                     the page from the stored rows

Each row is trained for the same processor time of one core, in one run with a cosine schedule. Weights are saved after 1/8,
1/4, 1/2, 3/4 and all of its steps. Each of these is scored on the validation split: zero-shot, and probes on 10 and 100 % of
the labels of a fixed subset of the training split. The last one is also scored on the test split with 1, 10 and 100 % of all
labels, and on the same test recordings with leads I and II only and without the V leads; training recordings keep all leads.
Hand-crafted features and untrained encoders are scored in the same way (row "without learning").

A row is resumed where it stopped, and a result that exists is not computed again: --out has a folder for each row, with one
file for each checkpoint and one for the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from curve_page import page
from curve_scores import Scorer
from rows import Json, add_options, cohort_folder, result_folder, run_each, settings_of, steps_in

from leadwise import run as runs
from leadwise.batch import Signal
from leadwise.config import Config, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.files import replacing
from leadwise.reproduce.references import References, untrained_runs
from leadwise.run import Run
from leadwise.training import loop as training

ROWS = ("CG-DMER", "MERL (ResNet)", "MERL (ViT)", "ETP", "MELP", "ST-MEM", "SimCLR")
METHODS = "cg_dmer,merl,etp,melp,st_mem,simclr"
UNTRAINED = "without learning"
PARTS = 8  # the steps of a run are a multiple of it
CHECKPOINTS = (1, 2, 4, 6, 8)  # of PARTS


# ------------------------------------------------------------------------------------------------------- training


def prepare(row: str, config: Config, args: argparse.Namespace) -> Json:
    """Return the stored facts of a row, after measuring how many steps fit into the budget if there are none yet.

    Exits if the row was stored for other settings.
    """
    path = result_folder(args, row) / "row.json"
    inputs = {"cohort": Cohort.open(args.cohort).fingerprint, "config": _without_folder(config)}
    inputs |= {"budget_min": args.budget_min, "width": args.width, "fit_records": args.fit_records}
    inputs = json.loads(json.dumps(inputs))
    if path.exists():
        facts: Json = json.loads(path.read_text())
        changed = [name for name, value in inputs.items() if facts["of"][name] != value]
        if changed:
            sys.exit(
                f"{path}: the row has other settings ({', '.join(changed)}); choose another --out or delete the folder"
            )
        return facts
    steps, seconds = steps_in(config, args.budget_min)
    facts = {"row": row, "of": inputs, "steps": max(PARTS * 3, round(steps / PARTS) * PARTS), "seconds a step": seconds}
    facts |= {"batch_size": config.optim.batch_size}
    _write_json(path, facts)
    return facts


def train(config: Config, steps: int, folder: Path, checkpoints: Path) -> None:
    """Train a run for so many steps and save its weights, with the processor seconds so far, at each checkpoint."""
    marks = {part * steps // PARTS for part in CHECKPOINTS}
    if (checkpoint(checkpoints, steps) / "seconds.json").exists():
        return
    log = dataclasses.replace(config.log, save_every=steps // PARTS)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=steps), log=log)
    first: tuple[int, float] | None = None  # number of steps and processor time after the first step of this process
    before = 0.0  # processor seconds of earlier processes

    def on_step(run: Run, n_done: int) -> None:
        nonlocal first, before
        now = time.process_time()
        if first is None:
            first = n_done, now
            if n_done > 1:  # resumed: states are saved every PARTS of the steps
                before = json.loads((checkpoints / f"seconds-{n_done - 1}.json").read_text())
        if n_done % (steps // PARTS):
            return
        # the first step, which the clock has not seen, counts as much as the others; opening the data does not count
        seconds = before + (now - first[1]) * (n_done - first[0] + 1) / (n_done - first[0])
        if n_done in marks:
            _save_checkpoint(run, checkpoint(checkpoints, n_done), seconds)
        _write_json(checkpoints / f"seconds-{n_done}.json", seconds)

    training.pretrain(config, folder, resume=folder.exists(), on_step=on_step)


def _save_checkpoint(run: Run, folder: Path, seconds: float) -> None:
    """Write a run folder with the present weights, whole."""
    assert run.folder is not None
    part = folder.with_name(f".{folder.name}.part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "*.lock", "resume", "metrics.jsonl", "model.safetensors", "embeddings")
    shutil.copytree(run.folder, part, ignore=ignored)
    Run(run.config, run.method, part).save_weights()
    _write_json(part / "seconds.json", seconds)
    part.rename(folder)


def checkpoint(checkpoints: Path, step: int) -> Path:
    """Return the folder of the weights after so many steps."""
    return checkpoints / f"step-{step:07d}"


# -------------------------------------------------------------------------------------------------------- scoring


def compute_row(row: str, config: Config, args: argparse.Namespace) -> None:
    """Train and score a row; what is stored already is not computed again."""
    facts = prepare(row, config, args)
    steps, name = facts["steps"], result_folder(args, row).name
    checkpoints = args.out / "checkpoints" / name
    checkpoints.mkdir(parents=True, exist_ok=True)
    train(config, steps, args.out / "runs" / name, checkpoints)
    scorer = Scorer(args)
    for step in (part * steps // PARTS for part in CHECKPOINTS):
        path = result_folder(args, row) / f"step-{step:07d}.json"
        if not path.exists():
            run = runs.load(checkpoint(checkpoints, step), "cpu")
            seconds = json.loads((checkpoint(checkpoints, step) / "seconds.json").read_text())
            about = {"step": step, "recordings": step * facts["batch_size"], "seconds": seconds}
            about |= {"parameters": sum(p.numel() for p in run.method.parameters())}
            _write_json(path, {**about, "split": "val", "cells": scorer.validation(run)})
    if not (path := result_folder(args, row) / "test.json").exists():
        run = runs.load(checkpoint(checkpoints, steps), "cpu")
        _write_json(path, {"split": "test", "cells": scorer.test(run)})


def compute_references(args: argparse.Namespace) -> None:
    """Score hand-crafted features and untrained encoders."""
    shared = Config(signal=Signal(rate_hz=100, duration_s=10.0), optim=OptimConfig(seed=args.seed, device="cpu"))
    scorer = Scorer(args)
    for row, run in untrained_runs(References.from_configs([], shared), (args.seed,)):
        folder = result_folder(args, row)
        if not (folder / "row.json").exists():
            val, test = scorer.validation(run), scorer.test(run)
            _write_json(folder / "step-0000000.json", {"step": 0, "split": "val", "cells": val})
            _write_json(folder / "test.json", {"split": "test", "cells": test})
            _write_json(folder / "row.json", {"row": row, "steps": 0})
    _write_json(result_folder(args, UNTRAINED) / "test.json", {})


def _without_folder(config: Config) -> Json:
    """Return the settings, without the path of the cohort, which has a fingerprint."""
    settings = dataclasses.asdict(config)
    settings["data"].pop("cohort")
    return settings


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(methods=METHODS)
    parser.add_argument("--budget-min", type=float, default=20.0, help="minutes of one core for a row [%(default)s]")
    parser.add_argument(
        "--fit-records", type=int, default=4000, help="training recordings of the checkpoints' probes [%(default)s]"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/learning_curves"))
    parser.add_argument("--name", default="learning_ptbxl_curves", help="name of the page in benchmarks/results")
    parser.add_argument("--row", help=f"compute this row alone; '{UNTRAINED}': the rows without training")
    parser.add_argument("--page", action="store_true", help="write the page from the stored rows alone")
    args = parser.parse_args()
    args.cohort = cohort_folder(args.cohort)
    rows = settings_of(args, ROWS if args.methods == METHODS else ())

    # one row
    torch.set_num_threads(1)
    if args.row == UNTRAINED:
        compute_references(args)
        return
    if args.row is not None:
        if args.row not in rows:
            parser.error(f"--row {args.row}: must be one of {', '.join([*rows, UNTRAINED])}")
        compute_row(args.row, rows[args.row], args)
        return

    # every row, each in a process of its own, then the page
    if not args.page:

        def is_done(row: str) -> bool:
            return (result_folder(args, row) / "test.json").exists()

        failed = run_each([*rows, UNTRAINED], "--row", is_done, args.out, args.at_once)
        if failed:
            sys.exit(f"failed: {', '.join(failed)}; see the logs in {args.out}. No page was written")
    page(args)


if __name__ == "__main__":
    main()
