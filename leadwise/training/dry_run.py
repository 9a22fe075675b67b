"""What a run would be, before it begins: `leadwise pretrain --dry-run`."""

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
from leadwise.data.loader import Sampler
from leadwise.training.gradient_step import Objective, backward
from leadwise.training.inputs import open_data, refuse_unequal_shares, with_classes
from leadwise.training.optimizer import make_optimizer


@dataclass(frozen=True)
class Plan:
    """What a run would be, as text and table rows."""

    config: str  # every setting, as TOML
    parameters: list[dict[str, Any]]
    estimate: list[dict[str, Any]]


def plan(config: Config, n_timed: int = 3) -> Plan:
    """What `pretrain` would do: settings, parameters, counts, and time and memory from a few timed steps.

    Of several processes that `torchrun` started, this one times its own share, and hears nothing of the others.
    """
    n_ranks = distributed.n_launched()
    refuse_unequal_shares(config, n_ranks)
    data = open_data(config)
    run = runs.create(with_classes(config, data.train.cohort), data.texts)
    config, method = run.config, run.method.to(runs.choose_device(config.optim.device))
    optim, model = config.optim, Objective(method)
    sampler = Sampler(len(data.train), optim.batch_size, 0, 0, n_ranks)
    optimizer = make_optimizer(method, optim)
    for step in range(n_timed + 1):  # the first step also warms up
        if step == 1:
            began = time.perf_counter()
        parts = np.split(sampler.positions(step), optim.accumulate)
        backward(model, [data.train.batch(part) for part in parts], step, optim)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    per_step = (time.perf_counter() - began) / n_timed
    facts: dict[str, Any] = {
        "training recordings": len(data.train),
        f"left out, {'not drawn or without labels' if config.data.task else 'report too short'}": data.n_left_out,
        "held-out recordings watched": len(data.held_out),
        "distinct training reports": len(data.texts),
        **({"processes": n_ranks} if n_ranks > 1 else {}),
        **({"passes a step": optim.accumulate} if optim.accumulate > 1 else {}),
        "steps": optim.steps,
        "passes over the data": round(optim.steps * optim.batch_size / len(data.train), 1),
        "seconds a step": round(per_step, 3),
        "records a second": round(optim.batch_size / per_step, 1),
        "hours in all": round(per_step * optim.steps / 3600, 2),
        "peak memory, GB": round(peak_memory() / 1e9, 2),
    }
    return Plan(
        config=settings.dumps(config),
        parameters=parameter_table(method),
        estimate=[{"what": name, "value": str(value)} for name, value in facts.items()],
    )


def parameter_table(method: nn.Module) -> list[dict[str, Any]]:
    """Trainable and frozen parameters of each part of a method, and their sum."""
    rows: dict[str, dict[str, Any]] = {}
    for name, p in method.named_parameters():
        row = rows.setdefault(name.split(".")[0], {"part": name.split(".")[0], "trainable": 0, "frozen": 0})
        row["trainable" if p.requires_grad else "frozen"] += p.numel()
    table = list(rows.values())
    total = {"part": "all", **{key: sum(row[key] for row in table) for key in ("trainable", "frozen")}}
    return [*table, total]


def peak_memory() -> float:
    """The most memory held so far, in bytes: the card's where there is one, else this process's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows has no such count
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)  # macOS counts bytes, Linux kilobytes
