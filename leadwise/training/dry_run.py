"""A dry run: what a run would be, without training it (`leadwise pretrain --dry-run`)."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from leadwise import config as settings
from leadwise import distributed
from leadwise import run as runs
from leadwise.config import Config
from leadwise.data.loader import Recordings, Sampler
from leadwise.run import Run
from leadwise.training.gradient_step import Objective, backward
from leadwise.training.inputs import check_batch_split, open_data, with_classes
from leadwise.training.optimizer import make_optimizer
from leadwise.training.teacher import embed_teacher, open_teacher, with_teacher

_N_TEACHER = 64  # recordings on which the time of the teacher's embeddings is measured


@dataclass(frozen=True)
class Plan:
    """The description of a run before it is trained, as text and table rows."""

    config: str  # every setting, as TOML
    parameters: list[dict[str, Any]]
    estimate: list[dict[str, Any]]


def plan(config: Config, n_timed: int = 3) -> Plan:
    """Return what `pretrain` would do: settings, parameters, counts, and time and memory estimated from `n_timed` steps.

    Of several processes that `torchrun` started, each times its own share of the batch, without communication.
    """
    # the run and its data, in memory
    n_ranks = distributed.n_launched()
    check_batch_split(config, n_ranks)
    data = open_data(config)
    teacher = open_teacher(config)
    config = with_teacher(with_classes(config, data.train.cohort), teacher)
    run = runs.create(config, data.texts, teacher=teacher)
    config, method = run.config, run.method.to(runs.choose_device(config.optim.device))
    optim, model = config.optim, Objective(method)
    sampler = Sampler(len(data.train), optim.batch_size, 0, 0, n_ranks)
    train, teacher_seconds = data.train, None
    if teacher is not None:
        train, teacher_seconds = _with_some_targets(run, teacher, train)
    optimizer = make_optimizer(method, optim)

    # timed steps, after one to warm up
    for step in range(n_timed + 1):
        if step == 1:
            timer_start = time.perf_counter()
        passes = np.split(sampler.positions(step), optim.accumulate)
        backward(model, [train.batch(positions) for positions in passes], step, optim)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    per_step = (time.perf_counter() - timer_start) / n_timed

    facts: dict[str, Any] = {
        "training recordings": len(data.train),
        f"left out, {'not drawn or without labels' if config.data.task else 'report too short'}": data.n_left_out,
        **({"left out, not readable by the method": len(data.unusable)} if data.unusable else {}),
        "held-out recordings watched": len(data.held_out),
        "distinct training reports": len(data.texts),
        **({"processes": n_ranks} if n_ranks > 1 else {}),
        **({"passes a step": optim.accumulate} if optim.accumulate > 1 else {}),
        "steps": optim.steps,
        "passes over the data": round(optim.steps * optim.batch_size / len(data.train), 1),
        "seconds a step": round(per_step, 3),
        "records a second": round(optim.batch_size / per_step, 1),
        **({} if teacher_seconds is None else {"hours for the teacher's embeddings": round(teacher_seconds / 3600, 3)}),
        "hours in all": round(((teacher_seconds or 0.0) + per_step * optim.steps) / 3600, 2),
        "peak memory, GB": round(peak_memory() / 1e9, 2),
    }
    return Plan(
        config=settings.dumps(config),
        parameters=parameter_table(method),
        estimate=[{"what": name, "value": str(value)} for name, value in facts.items()],
    )


def _with_some_targets(run: Run, teacher: Run, train: Recordings) -> tuple[Recordings, float]:
    """Return the recordings with the teacher's embeddings, those of a few for all, and the time in seconds that all take."""
    few = Recordings(train.cohort, train.signal, train.rows[:_N_TEACHER])
    embed_teacher(run, teacher, few)  # to warm up
    timer_start = time.perf_counter()
    targets = embed_teacher(run, teacher, few)
    seconds = (time.perf_counter() - timer_start) / len(few) * len(train)
    return train.with_targets(targets[np.arange(len(train)) % len(few)]), seconds


def parameter_table(method: nn.Module) -> list[dict[str, Any]]:
    """Return the numbers of trainable and frozen parameters of each part of a method, and their sums."""
    rows: dict[str, dict[str, Any]] = {}
    for name, p in method.named_parameters():
        part = name.split(".")[0]
        row = rows.setdefault(part, {"part": part, "trainable": 0, "frozen": 0})
        row["trainable" if p.requires_grad else "frozen"] += p.numel()
    table = list(rows.values())
    total = {"part": "all", **{key: sum(row[key] for row in table) for key in ("trainable", "frozen")}}
    return [*table, total]


def peak_memory() -> float:
    """Return the largest memory use so far in bytes: of the GPU if it was used, else of this process; nan if unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # on Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)  # macOS counts bytes, Linux kilobytes
