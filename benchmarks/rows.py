"""What the benchmarks of many methods share: the rows and their settings, steps from minutes, and one process for each row."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from leadwise import config as settings
from leadwise.batch import Signal
from leadwise.config import Config, DataConfig, LogConfig, OptimConfig
from leadwise.methods.catalogue import (
    all_small_settings,
    learns_labels,
    method_names,
    reads_volumes,
    small_optim_settings,
    small_settings,
    with_defaults,
)
from leadwise.reproduce import paper_numbers
from leadwise.training import step_time

WIDTH = 64  # of the probes: no row of the small settings has narrower features
WARM, TIMED = 4, 10  # steps before the clock runs, and while it does
Json = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on which the rows and their training depend."""
    parser.add_argument("--cohort", type=Path, required=True, help="a folder, or the name of one in cohorts/")
    parser.add_argument("--methods", help="names with commas [all]")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        help="a row more: a method, then settings as KEY=VALUE; 'NAME: METHOD KEY=VALUE' gives the row a name",
    )
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of all [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--width", type=probe_width, default=WIDTH, help="of all probes, by PCA; native: each row's own [%(default)s]"
    )
    parser.add_argument(
        "--at-once", type=int, default=os.cpu_count() or 1, help="rows trained side by side, a core each"
    )
    parser.add_argument("--note", default="", help="a sentence on what was trained")


def probe_width(text: str) -> int | None:
    """Return the value of --width: a positive number, or None for native."""
    if text == "native":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be native or a number from 1")
    return int(text)


def cohort_folder(path: Path) -> Path:
    """Return the folder of a cohort from its path or its name in cohorts/."""
    return path if path.is_dir() else Path("cohorts") / path


def settings_of(args: argparse.Namespace, names: Sequence[str] = ()) -> dict[str, Config]:
    """Row -> settings: every method's small ones, on one signal, batch and schedule, and the rows of --also.

    Args:
        names: only these rows of the methods; default: all.
    """
    base = Config(
        signal=Signal(rate_hz=100, duration_s=10.0),
        data=DataConfig(cohort=str(args.cohort), min_report_words=2),
        optim=OptimConfig(  # Muon for every row: CG-DMER and MERL gain from it (NOTES.md)
            optimizer="muon", batch_size=64, lr=args.lr, weight_decay=0.01, seed=args.seed, device="cpu"
        ),
        log=LogConfig(every=5, validate_every=0, save_every=10**9),
    )
    rows = {}
    chosen = args.methods.split(",") if args.methods else method_names()
    for name in filter(lambda name: not (learns_labels(name) or reads_volumes(name)), chosen):
        for method in all_small_settings(name):
            optim = dataclasses.replace(base.optim, **small_optim_settings(name))
            config = with_defaults(dataclasses.replace(base, method=method, optim=optim))
            row = paper_numbers.row_name(config.method)
            if not names or row in names:
                rows[row] = config
    for text in args.also:
        label, _, setting = text.rpartition(": ")
        name, *overrides = setting.split()
        optim = dataclasses.replace(base.optim, **small_optim_settings(name))
        config = settings.override(dataclasses.replace(base, method=small_settings(name), optim=optim), overrides)
        config = with_defaults(config)
        rows[label or paper_numbers.row_name(config.method)] = config
    return rows


def steps_in(config: Config, minutes: float) -> tuple[int, float]:
    """Return how many steps fit into so many minutes of one core, and the processor seconds that one takes."""
    steps, seconds = step_time.steps_in(config, minutes, TIMED, WARM)
    return max(20, steps), seconds


def run_each(rows: Sequence[str], option: str, is_done: Callable[[str], bool], out: Path, at_once: int) -> list[str]:
    """Run this script once for each row that is not done, in a process of its own; return the rows that failed.

    Args:
        option: the option that names the row to such a process.
    """
    out.mkdir(parents=True, exist_ok=True)

    def run(row: str) -> bool:
        if is_done(row):
            return True
        with (out / f"{slug(row)}.log").open("w") as log:
            command = [sys.executable, *sys.argv, option, row]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
        print(f"{row}: {'done' if done.returncode == 0 else f'FAILED, see {log.name}'}", flush=True)
        return is_done(row)

    with ThreadPoolExecutor(at_once) as pool:
        results = list(pool.map(run, rows))
    return [row for row, succeeded in zip(rows, results) if not succeeded]


def width_sentence(width: int | None, native: dict[str, int | None]) -> str:
    """Return a sentence on the width of all probes and of the features of each row."""
    rows = ", ".join(f"{row} {n}" for row, n in native.items() if n)
    if width is None:
        return f"Each probe uses all features of its row: {rows}."
    return (
        f"All probes use {width} features: wider ones are reduced to so many principal components, by PCA of the training "
        f"features without labels; narrower ones stay as they are. Widths before: {rows}."
    )


def result_folder(args: argparse.Namespace, row: str) -> Path:
    """Return the folder of a row's results."""
    return Path(args.out / f"{slug(row)}-seed{args.seed}")


def slug(row: str) -> str:
    """Return a row's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "_", row.lower()).strip("_")


def mean(values: Iterable[float]) -> float:
    """Return the mean of at least one value."""
    numbers = list(values)
    return sum(numbers) / len(numbers)


def own_settings(args: argparse.Namespace) -> str:
    """Return those of the chosen methods that have settings of [optim] of their own, as one line."""
    methods = {str(config.method["name"]) for config in settings_of(args).values()}
    settings_by_method = {name: small_optim_settings(name) for name in sorted(methods)}
    lines = (
        f"{name} {', '.join(f'{key} {value}' for key, value in own.items())}"
        for name, own in settings_by_method.items()
        if own
    )
    return "; ".join(lines) or "none"


def command_line() -> str:
    """Return the command line without --note, whose text is printed below it."""
    words = list(sys.argv)
    if "--note" in words:
        at = words.index("--note")
        del words[at : at + 2]
    return shlex.join(words)
