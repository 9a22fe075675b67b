"""What a GPU learns in minutes: CG-DMER of several sizes and MERL's ResNet, side by side on one card for equal seconds.

Each row is a process of its own. The models are small, so one process cannot fill the card: its time goes into Python and into
starting kernels. Rows that share the card share its time, and none is alone. All are scored on the validation split: zero-shot
at eight points of the training, and at its end probes that are fitted on 4,000 recordings of the training split. The test split
is scored once, after that: no setting is chosen on it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curve_scores import MEAN, VAL_FRACTIONS, Scorer, embed_rows
from gpu_common import Json, Part, write_json

from leadwise import config as settings
from leadwise import hub
from leadwise.config import Config
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.classifiers import zeroshot_classifier
from leadwise.evaluate.embed import embed
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.methods.catalogue import small_settings, with_defaults
from leadwise.run import Run
from leadwise.training import loop
from leadwise.training.step_time import open_in_memory, time_steps

RECIPE = Path(__file__).parent.parent / "configs" / "ptbxl.toml"
N_POINTS = 8  # of the learning curve
SCORED_SPLITS = ("val", "test")
N_SCORED = {"fit": 4000, "val": 10**9}  # most recordings that probes are fitted on, and that are scored
# of a rehearsal on a CPU, whose scores do not count
CPU_POINTS, CPU_SCORED = 2, {"fit": 200, "val": 100}
SHORT_S = 40.0  # a rehearsal that is shorter trains one row
# row -> method, and settings that differ from the recipe's
ROWS: dict[str, tuple[str, list[str]]] = {
    "CG-DMER, 128 wide, 4 layers, batches of 128": ("cg_dmer", ["optim.batch_size=128"]),
    "CG-DMER, 128 wide, 4 layers": ("cg_dmer", ["optim.lr=3e-3", "method.rewording=0.5"]),
    "CG-DMER, 128 wide, 4 layers, patches of 0.2 s": ("cg_dmer", ["method.n_patches=50", "optim.batch_size=128"]),
    "CG-DMER, 192 wide, 8 layers": (
        "cg_dmer",
        ["method.width=192", "method.depth=8", "method.heads=6", "method.rewording=0.5"],
    ),
    "MERL's ResNet-18": ("merl", ["method.resnet_width=64", "method.rewording=0.3"]),
}
TINY = ["method.width=32", "method.depth=1", "method.heads=2", "method.decoder_width=16"]  # of a rehearsal on a CPU


class _OutOfTime(Exception):
    """A row has no time left; its weights so far are returned."""


def measure(part: Part) -> None:
    """Train and score all rows at once, and merge their results; in a rehearsal on a CPU one after another."""
    codes = _one_after_another(part) if part.device == "cpu" else _side_by_side(part)
    part.store("exit codes", codes)
    sys.exit(int(any(codes.values())))


def _side_by_side(part: Part) -> dict[str, int]:
    """Train each row in a process of its own, and return the exit codes."""
    env = {**os.environ, "RAYON_NUM_THREADS": "3", "TOKENIZERS_PARALLELISM": "true"}
    deadline = time.time() + part.left
    rows = list(ROWS)
    processes = {}
    for number, row in enumerate(rows):
        words = [str(Path(__file__).with_name("gpu.py")), "row", row, "--out", str(part.out / f"row{number}")]
        words += ["--cohort", str(part.cohort), "--device", part.device, "--until", str(deadline)]
        processes[row] = subprocess.Popen([sys.executable, *words], env=env)
    while any(process.poll() is None for process in processes.values()) and part.left > 0:
        time.sleep(0.2)
        _merge(part, rows)
    for process in processes.values():
        process.kill()
    _merge(part, rows)
    return {row: process.wait() for row, process in processes.items()}


def _one_after_another(part: Part) -> dict[str, int]:
    """Train the first and the last row in this process, the first alone if there is little time, and return 1 for a failure."""
    rows = [*list(ROWS)[:1], *list(ROWS)[-1:]][: 1 if part.left < SHORT_S else 2]
    codes = {}
    for number, row in enumerate(rows):
        until = time.time() + max(part.left, 0.0) / (len(rows) - number)
        try:
            train_row(row, part.out / f"row{number}", part.cohort, part.device, until)
            codes[row] = 0
        except Exception:
            traceback.print_exc()
            codes[row] = 1
        _merge(part, rows)
    return codes


def _merge(part: Part, rows: list[str]) -> None:
    """Write the results of all rows so far to one file."""
    files = {row: part.out / f"row{number}" / "row.json" for number, row in enumerate(rows)}
    part.results["rows"] = {row: json.loads(path.read_text()) for row, path in files.items() if path.exists()}
    write_json(part.out / "learn.json", part.results)


def row_config(row: str, cohort: Path, device: str) -> Config:
    """Return the settings of a row: the recipe of `ptbxl`, in larger batches and without repeatability to the bit."""
    method, overrides = ROWS[row]
    config = settings.read(RECIPE)
    if method != "cg_dmer":
        config = dataclasses.replace(config, method=small_settings(method))
    on_cpu = device == "cpu"
    optim = dataclasses.replace(config.optim, batch_size=256, deterministic=False, device=device)
    data = dataclasses.replace(config.data, cohort=str(cohort), workers=0 if on_cpu else 2)
    log = dataclasses.replace(config.log, every=20, validate_every=0, validate_records=16 if on_cpu else 256)
    config = dataclasses.replace(config, optim=optim, data=data, log=log)
    if on_cpu:
        tiny = TINY if method == "cg_dmer" else ["method.resnet_width=8"]
        overrides = [*overrides, *tiny, "optim.batch_size=16"]
    return with_defaults(settings.override(config, overrides))


def train_row(row: str, out: Path, cohort: Path, device: str, until: float) -> None:
    """Train one row, score it, and write OUT/row.json and OUT.tar.gz, which holds the weights and embeddings for probes.

    Args:
        until: time of the clock at which everything must be done.
    """
    on_cpu = device == "cpu"
    shutil.rmtree(out, ignore_errors=True)  # of an earlier run with the same folder of results
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(1 if on_cpu else 3)
    latest = time.time() + 0.88 * (until - time.time())  # the end of training: scoring and saving follow
    config = row_config(row, cohort, device)
    result: Json = {"settings": {**config.method, "batch_size": config.optim.batch_size, "lr": config.optim.lr}}

    # how many steps fit: measured beside the other rows; the last steps of CG-DMER's recipe are dearer
    began = time.time()
    run, data, _ = open_in_memory(config)
    startup = time.time() - began
    step = time_steps(run, data.train, *((1, 1) if on_cpu else (40, 10))).wall
    share = float(config.method.get("final_share", 0.0))
    # without scoring, which takes most of a rehearsal
    seconds = (0.3 if on_cpu else 0.8) * (until - time.time()) - startup - (0 if on_cpu else 8)
    steps = max(2 if on_cpu else 10, int(seconds / (1.1 * step * (1 + share))))
    result |= {"seconds a step": step, "steps": steps, "recordings": steps * config.optim.batch_size}
    result |= {"parameters": sum(p.numel() for p in run.method.parameters()), "points": []}
    write_json(out / "row.json", result)
    config = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, steps=steps),
        log=dataclasses.replace(config.log, save_every=max(1, steps // 4)),
    )

    # training, with points of the curve; the time of scoring does not count
    del run
    began, paused = time.perf_counter(), 0.0
    current: Run | None = None
    most, n_points = (CPU_SCORED, CPU_POINTS) if on_cpu else (N_SCORED, N_POINTS)
    score = _zeroshot_scorer(data.train.cohort, most["val"])

    def on_step(run: Run, n_done: int) -> None:
        nonlocal paused, current
        current = run
        if time.time() > latest and (result["points"] or not on_cpu):  # a rehearsal has at least one point
            raise _OutOfTime
        if n_done % max(1, steps // n_points) and n_done != steps:
            return
        if not on_cpu:
            torch.cuda.synchronize()
        at = time.perf_counter()
        point = {"step": n_done, "recordings": n_done * config.optim.batch_size, "seconds": at - began - paused}
        result["points"].append(point | {"zero-shot": score(run)})
        write_json(out / "row.json", result)
        print(f"{row}: {result['points'][-1]}", flush=True)
        paused += time.perf_counter() - at

    try:
        trained = loop.pretrain(config, out / "run", on_step=on_step)
    except _OutOfTime:
        assert current is not None
        trained, result["cut"] = current, True
        trained.method.eval()
        trained.save_weights()
    result["training seconds"] = time.perf_counter() - began - paused
    write_json(out / "row.json", result)

    # weights and embeddings first: probes can be fitted from them later
    hub.save_pretrained(trained, out / "weights", card=False, people=True, dtype="float16")
    scorer = Scorer(Namespace(cohort=cohort, fit_records=most["fit"], width=None))
    scorer.rows |= {split: scorer.rows[split][: most["val"]] for split in SCORED_SPLITS}
    embedded = {
        split: embed_rows(trained, scorer.cohort, scorer.rows[split], split != "fit")
        for split in ("fit", *SCORED_SPLITS)
    }
    arrays: dict[str, Any] = {f"{split}.rows": one.rows for split, one in embedded.items()}
    arrays |= {f"{split}.backbone": one.backbone.astype(np.float16) for split, one in embedded.items()}
    np.savez_compressed(out / "embeddings.npz", **arrays)
    with tarfile.open(out.with_suffix(".tar.gz.part"), "w:gz") as archive:
        archive.add(out / "weights", arcname="weights")
        archive.add(out / "embeddings.npz", arcname="embeddings.npz")
        if (out / "run" / "metrics.jsonl").exists():  # a row that ends early has logged nothing
            archive.add(out / "run" / "metrics.jsonl", arcname="metrics.jsonl")
    out.with_suffix(".tar.gz.part").rename(out.with_suffix(".tar.gz"))
    for key, split in zip(("cells", "test cells"), SCORED_SPLITS):
        result[key] = scorer.validation(trained, (1.0,) if on_cpu else VAL_FRACTIONS, split)
        write_json(out / "row.json", result)
        means = {cell["how"]: round(cell["macro"], 1) for cell in result[key] if cell["task"] == MEAN}
        print(f"{row}: {steps} steps, {split}: {means}", flush=True)


def _zeroshot_scorer(cohort: Cohort, most: int) -> Callable[[Run], dict[str, float]]:
    """Return a function that scores a run zero-shot on every task, on at most so many recordings of the validation split."""
    rows = cohort.rows("val")[:most]
    labelled = {task: np.intersect1d(rows, cohort.rows("val", task)) for task in cohort.main_tasks}
    tasks = {task: np.searchsorted(rows, some) for task, some in labelled.items()}

    def score(run: Run) -> dict[str, float]:
        run.method.eval()
        values = embed(run, Recordings(cohort, run.config.signal, rows), "shared")
        macros = {}
        for task, places in tasks.items():
            cosines = zeroshot_classifier(run, cohort, task).scores(values[places])
            macros[task] = 100 * float(np.nanmean(auroc(cohort.labels(task, rows[places]), cosines)))
        return macros | {MEAN: float(np.mean(list(macros.values())))}

    return score
