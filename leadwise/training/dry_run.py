"""A dry run: what a run would be, without training it (`leadwise pretrain --dry-run`)."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leadwise import config as settings
from leadwise import distributed
from leadwise.config import Config
from leadwise.training.inputs import check_batch_split
from leadwise.training.step_time import open_in_memory, time_steps

log = logging.getLogger(__name__)

WAITING = 0.75  # a process that uses less than this share of a core waits for other processes, or for its data


@dataclass(frozen=True)
class Plan:
    """The description of a run before it is trained, as text and table rows."""

    config: str  # every setting, as TOML
    parameters: list[dict[str, Any]]
    estimate: list[dict[str, Any]]


def plan(config: Config, n_timed: int = 5) -> Plan:
    """Return what `pretrain` would do: settings, parameters, counts, and time and memory estimated from `n_timed` steps.

    The time is wall time, the median of the steps; a warning is logged if other processes computed at the same time. Of
    several processes that `torchrun` started, each times its own share of the batch, without communication.
    """
    # the run and its data, in memory
    n_ranks = distributed.n_launched()
    check_batch_split(config, n_ranks)
    run, data, teacher_seconds = open_in_memory(config)
    config, method, optim = run.config, run.method, run.config.optim

    # timed steps, with the threads of the run; the time that passes is the time that the run will take
    measured = time_steps(run, data.train, n_timed)
    per_step = max(measured.wall, 1e-9)
    if measured.cores < WAITING:
        log.warning(
            "the process computed for %.0f %% of the timed steps and waited for the rest, for other processes or its data: "
            "alone on this machine the run takes less time than estimated",
            100 * measured.cores,
        )

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
        "processor seconds a step": round(measured.processor, 3),
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
