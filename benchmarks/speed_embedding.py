"""Rows of embedding against MERL's ResNet-18: at 500 Hz, and a cohort like PTB-XL at 100 Hz with reading it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from speed_data import cohort_of
from speed_evaluation import cosine_gap
from speed_pair import Against, BenchmarkArgs, Build, Case, Way
from speed_training import make_method

from leadwise import run as runs
from leadwise.batch import LEADS, Signal
from leadwise.config import Config, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.loader import Recordings
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate.embed import embed
from leadwise.evaluate.speed import bfloat16_is_faster
from leadwise.methods import catalogue
from leadwise.run import Run

TEXTS = ("normal ecg.", "sinus rhythm.")
MERL = "MERL, ResNet-18 of the paper's width"
MERL_SMALL = "MERL, small ResNet"
N_100_HZ = 128  # recordings of the cohort at 100 Hz


def fresh(method: dict[str, object], rate_hz: int) -> Run:
    """A run with fresh weights: the time does not depend on them."""
    torch.manual_seed(0)
    return runs.create(Config(signal=Signal(rate_hz=rate_hz), method=method, optim=OptimConfig(device="cpu")), TEXTS)


def at_500_hz(args: BenchmarkArgs) -> Case:
    """cg_dmer_small against MERL's ResNet-18, both by `embed` from one cohort."""
    n = args.batch or 8
    ours, config = make_method(args, TEXTS), make_method(args, TEXTS, "optim.precision=bfloat16")
    recordings = Recordings(cohort_of(args), ours.config.signal, np.arange(n))
    work = {"ours": config, "ours, float32": ours, MERL: fresh({"name": "merl"}, 500)}
    return Case(
        what="record",
        ways={name: Way(partial(embed, run, recordings), n) for name, run in work.items()},
        against=[Against("ours", MERL), Against("ours, float32", MERL)],
        note=lambda: (
            f"{n} recordings of 12 x 5,000 samples, reading included, fresh weights. ours: cg_dmer_small, whose config asks for "
            f"bfloat16; on this processor `embed` multiplies in {'bfloat16' if bfloat16_is_faster() else 'float32'}. MERL: the "
            "feature of its probe"
        ),
    )


def at_100_hz(args: BenchmarkArgs) -> Case:
    """The small settings of CG-DMER and the student against MERL's ResNets, from a cohort at 100 Hz."""
    cohort = cohort_at_100_hz(args)
    small = catalogue.small_settings
    work = {
        "ours, CG-DMER small": fresh(small("cg_dmer"), 100),
        "ours, student": fresh({"name": "student"}, 100),
        MERL_SMALL: fresh(small("merl"), 100),
        MERL: fresh({"name": "merl"}, 100),
    }
    recordings = Recordings(cohort, Signal(rate_hz=100))
    calls: dict[str, Callable[[], np.ndarray]] = {
        f"{name}, part {part}": partial(embed, run, recordings, part)
        for name, run in work.items()
        for part in ("backbone", "shared")
    }

    def note() -> str:
        gaps = (cosine_gap(embed(run, recordings, batch_size=8), embed(run, recordings)) for run in work.values())
        return (
            f"{len(cohort)} recordings of 12 x 1,000 samples, reading and scaling included, as `leadwise embed` does; fresh "
            "weights, float32. Times are of part backbone or shared. Records per second: 1 over the time. Largest 1 - cosine to "
            f"batches of 8: {max(gaps):.0e}"
        )

    pairs = [("ours, CG-DMER small", MERL), ("ours, CG-DMER small", MERL_SMALL), ("ours, student", MERL_SMALL)]
    return Case(
        what="record",
        ways={name: Way(call, len(cohort)) for name, call in calls.items()},
        against=[
            Against(f"{ours}, part {part}", f"{plain}, part {part}", 1.0 if "student" in ours else None)
            for ours, plain in pairs
            for part in ("backbone", "shared")
        ],
        note=note,
    )


def cohort_at_100_hz(args: BenchmarkArgs) -> Cohort:
    """A cohort of beats with noise, 10 s at 100 Hz, as PTB-XL's small version has them; or the one of --ptbxl."""
    if args.ptbxl is not None:
        return Cohort.open(args.ptbxl)
    folder = args.scratch / "cohort100"
    if not folder.is_dir():
        rng, time_s = np.random.default_rng(0), np.arange(1000) / 100
        rows = []
        for number in range(N_100_HZ):
            beat = np.exp(-((((time_s * rng.uniform(0.8, 2) + rng.random()) % 1 - 0.5) / 0.02) ** 2) / 2)
            ecg = beat[:, None] * rng.normal(size=12) + 0.02 * rng.normal(size=(1000, 12))
            ecg[:, 2:6] = ecg[:, :2] @ np.array([[-1, -0.5, 1, -0.5], [1, -0.5, -0.5, 1]])
            path = args.scratch / f"ecg{number}.npy"
            np.save(path, ecg.astype(np.float32))
            row = Row(f"r{number}", path, f"p{number}", "train", TEXTS[number % 2])
            rows.append(dataclasses.replace(row, leads=LEADS, rate_hz=100, units="mV"))
        write(Source("beats", rows, {}), folder)
    return Cohort.open(folder)


ROWS: dict[str, Build] = {"embed-500hz": at_500_hz, "embed-100hz": at_100_hz}
