"""Rows of evaluation: embedding a cohort, the linear probe, and the command line's start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from speed_data import cohort_of
from speed_pair import Against, BenchmarkArgs, Build, Case, NotGivenError, Way
from speed_plain import gigaflop, written_out
from speed_training import make_method
from torch import nn

from leadwise import config as settings
from leadwise import run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.embed import embed, frozen
from leadwise.evaluate.probe import ProbeTask, probe
from leadwise.run import Run

EPOCHS = 100  # over which MERL's probe encodes every recording anew
PROBE_BATCH, PROBE_EVAL_BATCH = 16, 256  # MERL's
HELP_LIMIT_S = 0.5

PLAIN_EMBEDDING = "at once, written out"

Features = np.ndarray


def embedding(args: BenchmarkArgs) -> Case:
    """A cohort's recordings through `embed` as it comes, against all tokens at once, attention written out, float32."""
    n = args.batch or 8
    texts = ("normal ecg.", "sinus rhythm.")
    precision = settings.read(args.small).optim.precision
    run = make_method(args, texts, f"optim.precision={precision}")
    in_float32, at_once = make_method(args, texts), make_method(args, texts, "method.embed_passes=1")
    cohort = cohort_of(args)
    n = min(n, len(cohort))
    recordings, one = (Recordings(cohort, run.config.signal, np.arange(count)) for count in (n, 1))

    def written(which: Run) -> Features:
        with written_out():
            return embed(which, recordings)

    work: dict[str, Callable[[], Features]] = {
        "ours": partial(embed, run, recordings),
        "ours, float32": partial(embed, in_float32, recordings),
        "at once, fused": partial(embed, at_once, recordings),
        "as ours, written out": partial(written, in_float32),
        PLAIN_EMBEDDING: partial(written, at_once),
    }

    def note() -> str:
        gaps = {
            f"{name} to {other}": cosine_gap(work[name](), work[other]())
            for name, other in (
                ("ours, float32", "as ours, written out"),
                ("at once, fused", PLAIN_EMBEDDING),
                ("ours", "ours, float32"),
            )
        }
        close = ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items())
        work_of = [f"{gigaflop(partial(embed, which, one)):.1f}" for which in (in_float32, at_once)]
        return (
            f"{n} recordings in one batch, cg_dmer_small with fresh weights, all 1,200 tokens, reading them from the cohort "
            f"included. ours: `embed` with the config's settings, in {precision} and in "
            f"{run.config.method['embed_passes']} parts that together contain every patch once, averaged (scores are as good: "
            f"NOTES.md); at once: embed_passes = 1, float32. GFLOP a record {' and '.join(work_of)}. Largest 1 - cosine: {close}"
        )

    return Case(
        what="record",
        ways={name: Way(call, n) for name, call in work.items()},
        against=[
            Against("ours", PLAIN_EMBEDDING, 3.0),
            Against("ours, float32", PLAIN_EMBEDDING),
            Against("at once, fused", PLAIN_EMBEDDING),
            Against("ours, float32", "as ours, written out"),
        ],
        gflop={
            name: partial(gigaflop, partial(embed, at_once if "at once" in name else in_float32, one)) for name in work
        },
        dtype={"ours": precision},
        note=note,
    )


def cosine_gap(a: Features, b: Features) -> float:
    """The largest 1 - cosine between rows of a and b (N, D)."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.abs(1 - (a * b).sum(axis=1, dtype=np.float64) / norms).max())


def linear_probe(args: BenchmarkArgs) -> Case:
    """One task at all labels: extract once and fit, against encoding anew in each of 100 epochs.

    Raises:
        NotGivenError: no cohort with labels was named.
    """
    if args.ptbxl is None:
        raise NotGivenError("it needs --ptbxl, a prepared cohort with labels")
    cohort = Cohort.open(args.ptbxl)
    run = runs.load(args.run) if args.run else _untrained(args, cohort)
    task_name = "super" if "super" in cohort.tasks else next(iter(cohort.tasks))
    rows = _some_of(cohort.rows(task=task_name), 2 * args.records)
    table = cohort.index.iloc[rows]
    task = ProbeTask(
        tuple(cohort.tasks[task_name]),
        cohort.labels(task_name, rows),
        table["split"].astype(str).to_numpy(),
        table["patient"].astype(str).to_numpy(),
    )
    everything = Recordings(cohort, run.config.signal, rows)
    train = Recordings(cohort, run.config.signal, rows[task.rows("train")], task=task_name)
    held_out = np.concatenate([task.rows("val"), task.rows("test")])
    watched = Recordings(cohort, run.config.signal, rows[held_out])

    def ours() -> float:
        return probe(embed(run, everything), task, 1.0).score.macro

    head = nn.Linear(embed(run, Recordings(cohort, run.config.signal, rows[:1])).shape[1], len(task.classes))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)

    def learn_once() -> None:
        order = np.random.default_rng(0).permutation(len(train))
        for begin in range(0, len(order), PROBE_BATCH):
            batch = train.batch(order[begin : begin + PROBE_BATCH])
            with frozen(run.method):
                features = run.method.embed_ecg(batch)
            loss = nn.functional.binary_cross_entropy_with_logits(head(features.clone()), batch.label)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def epoch() -> None:
        learn_once()
        with frozen(run.method):
            for batch in watched.batches(PROBE_EVAL_BATCH):
                head(run.method.embed_ecg(batch))

    config = run.config.method
    return Case(
        what="probe",
        ways={
            "ours": Way(ours),
            "100 epochs, as MERL": Way(epoch, times=EPOCHS),
            "100 epochs, training part alone": Way(learn_once, times=EPOCHS),
        },
        against=[
            Against("ours", "100 epochs, as MERL", 100.0),
            Against("ours", "100 epochs, training part alone"),
        ],
        note=lambda: (
            f"task {task_name} of {cohort.name}, {len(rows)} recordings, {len(train)} of them for training; network {run.name}, "
            f"{config['width']} wide, {config['depth']} deep, frozen. ours: train, validation and test extracted once (no "
            "cache), every strength fitted, validation and test scored with intervals. As MERL: one epoch times "
            f"{EPOCHS}, training recordings through the network in batches of {PROBE_BATCH}, then validation and test in batches "
            f"of {PROBE_EVAL_BATCH}; scores not counted"
        ),
    )


def _untrained(args: BenchmarkArgs, cohort: Cohort) -> Run:
    config = settings.read(args.root / "configs" / "ptbxl_cpu.toml")
    return runs.create(config, list(dict.fromkeys(cohort.reports))[:2000])


def _some_of(rows: np.ndarray, n: int) -> np.ndarray:
    """n rows, evenly over all."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int)]


def start_up(args: BenchmarkArgs) -> Case:
    """`leadwise --help` in a process of its own, beside Python that does nothing."""
    command = [sys.executable, "-m", "leadwise", "--help"]

    def torch_imports() -> int:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *command[1:]], capture_output=True, text=True, check=True
        )
        return sum(line.rpartition("|")[2].strip().split(".")[0] == "torch" for line in done.stderr.splitlines())

    return Case(
        what="start",
        ways={
            "ours": Way(partial(subprocess.run, command, capture_output=True, check=True)),
            "python -c pass": Way(partial(subprocess.run, [sys.executable, "-c", "pass"], check=True)),
            "python -c 'import torch'": Way(
                partial(subprocess.run, [sys.executable, "-c", "import torch"], check=True)
            ),
        },
        against=[
            Against("ours", "python -c pass", below_s=HELP_LIMIT_S),
            Against("ours", "python -c 'import torch'"),
        ],
        note=lambda: f"`leadwise --help`; it imports {torch_imports() or 'no'} modules of torch",
        several=True,
    )


ROWS: dict[str, Build] = {"probe": linear_probe, "embed": embedding, "start-up": start_up}
