"""Several runs judged in every way that needs labels: probes and fine-tuning, by AUROC and F1 in three variants.

    python benchmarks/judging.py --cohort ptbxl --run "CG-DMER=runs/cg_dmer" --run "MERIT=runs/merit"    every row, the page
    python benchmarks/judging.py ... --row MERIT              one row (a process, one thread)
    python benchmarks/judging.py ... --page                   the page from the stored results

Probes on the backbone with 1, 10 and 100 % of the labels of each task; below 100 %, scores are means over three draws.
Fine-tuning, on the tasks of --finetune-tasks, as `leadwise finetune` does it. Beside each run there is the same encoder with
random weights, probed and fine-tuned in the same way, and hand-crafted features, probed. The test split is scored once.

--out has one JSON file for each row and task, and for each fine-tuning, which also continues after its last finished epoch.
A result that exists is not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from judging_page import page
from numpy.typing import NDArray
from rows import Json, cohort_folder, probe_width, run_each, slug

from leadwise import hub
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.embed import Features, embed_cohort, training_overlap, usable
from leadwise.evaluate.handcrafted import handcrafted_features
from leadwise.evaluate.probe import SEEDS, ProbeResult, make_probe_task, probe
from leadwise.files import replacing
from leadwise.run import Run
from leadwise.training.finetune import FEATURES, FinetuneSettings, finetune

HANDCRAFTED = "hand-crafted features"
TASKS = "super,sub,form,rhythm,diag,all"
FRACTIONS = (0.01, 0.1, 1.0)
TRAINED, RANDOM = FEATURES  # names of the two encoders in stored results
WITH_REPLICATES = ("auroc", "f1_val")  # measures whose resampled values are stored, for paired differences
METRICS = ("auroc", "auprc", "f1_val", "f1_max", "f2_val")


def cell_of(result: ProbeResult) -> Json:
    """Return the macro value of every measure with its interval, and what else the page prints of a result."""
    cell: Json = {}
    for name, score in {"auroc": result.score, **result.measures}.items():
        if name in METRICS:
            low, high = score.interval
            cell[name] = {"macro": score.macro, "low": low, "high": high}
        if name in WITH_REPLICATES:
            cell[name]["replicates"] = [round(float(value), 6) for value in score.replicates]
    cell |= {"n_test": result.score.n_records, "n_patients": result.score.n_patients, "spread": result.spread}
    cell |= {"skipped": list(result.score.skipped), "without_threshold": list(result.without_threshold)}
    cell |= {"unlearnable": max(len(draw.unlearnable) for draw in result.draws), "n_draws": len(result.draws)}
    cell |= {"n_train": result.draws[0].n_train, "epochs": [draw.epoch for draw in result.draws]}
    return cell | {"feature width": result.feature_width, "probe width": result.probe_width}


# ------------------------------------------------------------------------------------------------------- probes


def compute_probes(args: argparse.Namespace, row: str, run: Run, cohort: Cohort) -> None:
    """Probe the encoder of a run and the same encoder with random weights, or hand-crafted features, on every task."""
    features: Mapping[str, Features] = {}
    for task in args.tasks:
        path, inputs = probe_file(args, row, task), {**inputs_of(row, run, cohort), "width": args.width}
        if is_stored(path, inputs):
            continue
        features = features or embedded(args, row, run, cohort)
        rows, _ = usable(run, cohort, cohort.rows(task=task))
        probe_task = make_probe_task(cohort, task, rows)
        everything = all_rows(args, run, cohort)
        cells: Json = {}
        start = time.process_time()
        for name, values in features.items():
            own = values[np.searchsorted(everything, rows)]
            cells[name] = {f"{f:g}": cell_of(probe(own, probe_task, f, SEEDS, args.width)) for f in args.fractions}
        about: Json = {"row": row, "task": task, "of": inputs, "classes": len(probe_task.classes)}
        about |= {"n": {split: len(probe_task.rows(split)) for split in ("train", "val", "test")}}
        if row != HANDCRAFTED:
            about["overlap"] = training_overlap(run, cohort, rows[probe_task.rows("test")]).sentence
        write(path, {**about, "seconds": time.process_time() - start, "cells": cells})
        print(f"{row}: probes of {task} done", flush=True)


def all_rows(args: argparse.Namespace, run: Run, cohort: Cohort) -> NDArray[np.int64]:
    """Return the rows of all tasks that a run can embed, in ascending order."""
    rows = np.unique(np.concatenate([cohort.rows(task=task) for task in args.tasks]))
    return usable(run, cohort, rows)[0]


def embedded(args: argparse.Namespace, row: str, run: Run, cohort: Cohort) -> Mapping[str, Features]:
    """Return the features of `all_rows` by name; they are computed once and stored in --out."""
    rows, cache = all_rows(args, run, cohort), args.out / "embeddings"
    if row != HANDCRAFTED:
        encoders = {TRAINED: run, RANDOM: run.untrained()}
        return {name: embed_cohort(one, cohort, "backbone", rows, None, cache) for name, one in encoders.items()}
    path = cache / f"handcrafted-{run.config.signal.rate_hz:g}Hz-{cohort.fingerprint}-{len(rows)}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, handcrafted_features(Recordings(cohort, run.config.signal, rows)))
    return {HANDCRAFTED: np.load(path)}


# -------------------------------------------------------------------------------------------------- fine-tuning


def compute_finetuning(args: argparse.Namespace, row: str, run: Run, cohort: Cohort) -> None:
    """Fine-tune the encoder of a run, and the same encoder from random weights, on the chosen tasks and fractions."""
    settings = FinetuneSettings(epochs=args.epochs, device="cpu")
    for task in args.finetune_tasks:
        for fraction in args.finetune_fractions:
            path = finetune_file(args, row, task, fraction)
            inputs = {**inputs_of(row, run, cohort), "epochs": args.epochs, "seeds": args.seeds}
            if is_stored(path, inputs):
                continue
            start = time.process_time()
            report = finetune(
                run, cohort, task, (fraction,), args.seeds, settings=settings, folder=args.out / "finetune",
                progress=print_progress,
            )  # fmt: skip
            cells = {name: cell_of(report.results[fraction][name]) for name in FEATURES}
            about: Json = {"row": row, "task": task, "fraction": fraction, "of": inputs, "settings": report.settings}
            write(path, {**about, "seconds": time.process_time() - start, "cells": cells})
            print(f"{row}: fine-tuning on {task}, {fraction:.0%} done", flush=True)


def print_progress(what: str, done: int, total: int) -> None:
    """Print a line ten times in a training."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"{what.partition('|')[2]}: step {done} of {total}", flush=True)


# ------------------------------------------------------------------------------------------------------- results


def inputs_of(row: str, run: Run, cohort: Cohort) -> Json:
    """Return what a stored result depends on, beside its own settings."""
    fingerprint = f"{run.config.signal}" if row == HANDCRAFTED else run.fingerprint
    return {"run": fingerprint, "cohort": cohort.fingerprint}


def probe_file(args: argparse.Namespace, row: str, task: str) -> Path:
    """Return the file of a row's probes on a task."""
    return Path(args.out / f"{slug(row)}-probe-{task}.json")


def finetune_file(args: argparse.Namespace, row: str, task: str, fraction: float) -> Path:
    """Return the file of a row's fine-tuning on a fraction of a task's labels."""
    return Path(args.out / f"{slug(row)}-finetune-{task}-{fraction:g}.json")


def files_of(args: argparse.Namespace, row: str) -> list[Path]:
    """Return all files of a row."""
    probes = [probe_file(args, row, task) for task in args.tasks]
    if row == HANDCRAFTED:
        return probes
    return probes + [finetune_file(args, row, t, f) for t in args.finetune_tasks for f in args.finetune_fractions]


def is_stored(path: Path, inputs: Json) -> bool:
    """Return whether a result is stored. Exits if it belongs to other inputs."""
    if not path.exists():
        return False
    stored = json.loads(path.read_text())["of"]
    changed = [name for name, value in inputs.items() if stored.get(name) != value]
    if changed:
        sys.exit(f"{path}: stored for other inputs ({', '.join(changed)}); choose another --out or delete the file")
    return True


def write(path: Path, content: Json) -> None:
    """Write a result, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(content) + "\n")


def named_run(text: str) -> tuple[str, str]:
    """Return name and folder of a value of --run."""
    name, separator, folder = text.partition("=")
    if not separator or not slug(name) or name == HANDCRAFTED:
        raise argparse.ArgumentTypeError(f"{text}: must be NAME=FOLDER")
    return name, folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, required=True, help="a folder, or the name of one in cohorts/")
    parser.add_argument("--run", type=named_run, action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--tasks", type=names, default=names(TASKS), help=f"with commas [{TASKS}]")
    parser.add_argument("--fractions", type=numbers, default=list(FRACTIONS), help="of the probes [0.01,0.1,1]")
    parser.add_argument(
        "--width", type=probe_width, default=None, help="of all probes, by PCA [native: each row's own]"
    )
    parser.add_argument("--finetune-tasks", type=names, default=names("super,all"), help="with commas [super,all]")
    parser.add_argument("--finetune-fractions", type=numbers, default=[0.1], help="with commas [0.1]")
    parser.add_argument("--epochs", type=int, default=8, help="of fine-tuning [%(default)s]")
    parser.add_argument("--seeds", type=lambda text: [int(x) for x in names(text)], default=[SEEDS[0]],
                        help="of fine-tuning: drawn labels and batches [42]")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/judging"))
    parser.add_argument("--name", default="judging_ptbxl", help="name of the page in benchmarks/results")
    parser.add_argument("--note", default="", help="a sentence on what was trained")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="rows side by side, a core each")
    parser.add_argument("--row", help=f"compute this row alone: a name of --run, or '{HANDCRAFTED}'")
    parser.add_argument("--page", action="store_true", help="write the page from the stored results alone")
    args = parser.parse_args()
    args.cohort = cohort_folder(args.cohort)
    folders = dict(args.run)
    rows = [*folders, HANDCRAFTED]

    # one row
    torch.set_num_threads(1)
    cohort = Cohort.open(args.cohort)
    unknown = [task for task in (*args.tasks, *args.finetune_tasks) if task not in cohort.tasks]
    if unknown:
        parser.error(f"{cohort.name} has no task {unknown[0]}; it has {', '.join(cohort.tasks)}")
    if args.row is not None:
        if args.row not in rows:
            parser.error(f"--row {args.row}: must be one of {', '.join(rows)}")
        compute_row(args, args.row, hub.load(folders.get(args.row, args.run[0][1])), cohort)
        return

    # every row, each in a process of its own, then the page
    if not args.page:

        def is_done(row: str) -> bool:
            return all(path.exists() for path in files_of(args, row))

        failed = run_each(rows, "--row", is_done, args.out, args.at_once)
        if failed:
            sys.exit(f"failed: {', '.join(failed)}; see the logs in {args.out}. No page was written")
    page(args, cohort, {row: files_of(args, row) for row in rows})


def compute_row(args: argparse.Namespace, row: str, run: Run, cohort: Cohort) -> None:
    """Compute what is not stored of a row; hand-crafted features use the signal of `run`, and are not fine-tuned."""
    compute_probes(args, row, run, cohort)
    if row != HANDCRAFTED:
        compute_finetuning(args, row, run, cohort)


def names(text: str) -> list[str]:
    """Return the parts of a text between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[float]:
    """Return the numbers of a text between commas, in (0, 1]."""
    values = [float(part) for part in names(text)]
    if not values or not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: must be fractions above 0 and up to 1")
    return values


if __name__ == "__main__":
    main()
