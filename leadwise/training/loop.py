"""The loop: steps as the clock, plain PyTorch, no method known by name; under `torchrun`, every process of it runs this."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from leadwise import distributed
from leadwise import run as runs
from leadwise.config import Config, ConfigError, OptimConfig
from leadwise.data.loader import Recordings, Sampler, prefetch_batches
from leadwise.methods.catalogue import with_defaults
from leadwise.methods.contract import PretrainingMethod
from leadwise.progress import Progress
from leadwise.run import Run
from leadwise.training.gradient_step import (
    Objective,
    TrainingError,
    backward,
    device_of,
    forward,
    gradient_norms,
)
from leadwise.training.inputs import (
    TrainingData,
    open_data,
    refuse_unequal_shares,
    with_classes,
)
from leadwise.training.optimizer import learning_rate, make_optimizer

log = logging.getLogger(__name__)

FREE = {"optim.accumulate", "optim.compile", "optim.device", "data.workers"}  # may change on the way: not the science


def pretrain(config: Config, folder: Path, resume: bool = False, progress: Progress | None = None) -> Run:
    """Train the config's method, leaving a run in `folder`, which every process must see; rank 0 writes it.

    Raises:
        ConfigError: a setting that cannot be used, here or with this many processes.
        TrainingError: a loss term is not finite, or another process of the run is gone.
        RunError: the folder is taken, or there is nothing to resume.
    """
    device = runs.choose_device(config.optim.device)
    with distributed.process_group(device):
        run, data = _begin(config, folder, resume)
        config, first = run.config, distributed.rank() == 0
        optim, method = config.optim, run.method.to(device)
        optimizer = make_optimizer(method, optim)
        start, best = 0, math.inf
        if resume:
            with distributed.all_ranks_or_none():
                start, best = _restore(run, optimizer)
            log.info("resumed %s at step %d of %d", folder, start, optim.steps)
        if optim.compile:
            _compile(method)
        model = ddp(method)
        sampler = Sampler(len(data.train), optim.batch_size, optim.seed, distributed.rank(), distributed.n_ranks())
        ahead = prefetch_batches(data.train, sampler, start, optim.steps, config.data.workers, optim.accumulate)
        if first:
            run.forget_after(start)
        began, counted, step = time.perf_counter(), start, start

        with closing(ahead) as batches, _told_where(lambda: step):
            for step in range(start, optim.steps):
                method.train()
                rate = learning_rate(step, optim)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["scale"]
                share = [next(batches) for _ in range(optim.accumulate)]
                terms = backward(model, share, step, optim)
                norm = nn.utils.clip_grad_norm_(method.parameters(), optim.clip, error_if_nonfinite=False)
                if not bool(norm.isfinite()):  # the same on every rank
                    raise TrainingError(
                        f"step {step}: the gradient is not finite; lower optim.lr, or use precision float32"
                    )
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                method.after_step((step + 1) / optim.steps)

                done, last = step + 1, step + 1 == optim.steps
                numbers = {"lr": rate, "grad_norm": float(norm), **_numbers(method, terms)}
                numbers["records_per_s"] = optim.batch_size * (done - counted) / max(time.perf_counter() - began, 1e-9)
                if progress:
                    progress(f"pretrain|{_details(numbers)}", done, optim.steps)

                # now and then: a line of metrics
                if done % config.log.every == 0 or last:
                    if first:
                        run.log({"step": done, "split": "train", **numbers})
                    began, counted = time.perf_counter(), done

                # now and then: held-out patients, and the gradient of each term
                if last or (config.log.validate_every and done % config.log.validate_every == 0):
                    if first:
                        held = validate(method, data.held_out, optim, len(share[0]))
                        held |= gradient_norms(method, share[0], optim.precision)
                        run.log({"step": done, "split": "val", **held})
                        if config.log.keep == "last" or held.get("loss", -math.inf) < best:
                            best = min(best, held.get("loss", math.inf))
                            run.save_weights()
                    began, counted = time.perf_counter(), done

                # now and then: enough to go on after a crash
                if first and (last or done % config.log.save_every == 0):
                    state = {"model": method.state_dict(), "optimizer": optimizer.state_dict()}
                    run.save_resume({"step": done, "best": best, **state})
        with distributed.all_ranks_or_none():  # rank 0 has written what it had to
            method.eval()
        return runs.load(folder, optim.device) if config.log.keep == "best" else run


def _begin(config: Config, folder: Path, resume: bool) -> tuple[Run, TrainingData]:
    """The run of `folder` and what it learns from. Rank 0 makes a new run; the others open what it wrote."""
    refuse_unequal_shares(config, distributed.n_ranks())
    with distributed.all_ranks_or_none():
        run = runs.reopen(folder) if resume else None
        data = open_data(config)
        config = with_classes(config, data.train.cohort)
        if run is not None:
            run.config = _same_science(run.config, with_defaults(config))
        if run is None and distributed.rank() == 0:
            run = runs.create(config, data.texts, folder, data.provenance)
        elif run is not None and run.provenance.get("fingerprint") != data.provenance["fingerprint"]:
            raise TrainingError(
                f"{config.data.cohort} is not the cohort that {folder} began with: its contents changed. Prepare the old one "
                "again, or begin a new run"
            )
    with distributed.all_ranks_or_none():
        return run or runs.reopen(folder), data


def _compile(method: PretrainingMethod) -> None:
    """Let torch compile what the method names, in place: names and state stay as they are."""
    modules = method.compilable_modules
    if not modules:
        raise ConfigError("optim.compile = true, but this method names nothing to compile; leave it false")
    for module in modules:
        module.compile()


def ddp(method: PretrainingMethod) -> Objective | DistributedDataParallel:
    """The method as the loop calls it: an Objective; on several processes behind DDP, with the weights of rank 0."""
    model = Objective(method)
    if distributed.n_ranks() == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


@contextmanager
def _told_where(step: Callable[[], int]) -> Iterator[None]:
    """A block in which the loss of another process is told as what it is, with the step and the way to go on."""
    try:
        yield
    except RuntimeError as error:
        why = distributed.describe_lost_peer(error)
        if not why:
            raise
        raise TrainingError(
            f"step {step()}: another process of this run is gone, or the run was stopped ({why}). Go on with the same "
            "command and --resume"
        ) from error


def _same_science(was: Config, asked: Config) -> Config:
    """A resumed run is the same run: only where and in how many passes it computes may change on the way."""
    tables = dataclasses.asdict(was), dataclasses.asdict(asked)
    changed = [
        f"{room}.{key} (was {old!r}, asked {tables[1][room].get(key)!r})"
        for room in tables[0]
        for key, old in tables[0][room].items()
        if old != tables[1][room].get(key) and f"{room}.{key}" not in FREE
    ]
    if changed:
        raise ConfigError(f"--resume goes on with a run's own settings; these differ: {', '.join(changed[:4])}")
    return asked


def _restore(run: Run, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Put a saved state back; the step to go on from and the best held-out loss so far."""
    state: dict[str, Any] = run.load_resume()
    run.method.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["best"])


def _numbers(method: PretrainingMethod, values: dict[str, float]) -> dict[str, float]:
    """Each term weighted and raw, and their sum."""
    out = {"loss": sum(values.values())}
    for name, value in values.items():
        out[f"term/{name}"] = value
        out[f"raw/{name}"] = value / method.weights.get(name, 1.0)
    return out


def _details(numbers: dict[str, float]) -> str:
    """Every term and the rate, short enough for a progress bar."""
    terms = [
        f"{name.removeprefix('term/L_')} {value:.2f}" for name, value in numbers.items() if name.startswith("term/")
    ]
    return f"{' '.join(terms)}, {numbers['records_per_s']:.0f} records/s"


def validate(
    method: PretrainingMethod, held_out: Recordings, optim: OptimConfig, n_at_once: int = 0
) -> dict[str, float]:
    """The terms on held-out patients, the same masks every time, and what the method measures of itself. One rank does it.

    A batch is as large as in training, and seen `n_at_once` records at a time: as many as a pass of training has.
    """
    n_at_once = n_at_once or optim.batch_size
    sums: dict[str, float] = {}
    n = 0
    method.eval()
    with torch.inference_mode(), runs.side_random(), distributed.single_process():
        torch.manual_seed(optim.seed)
        for begin in range(0, len(held_out), optim.batch_size):
            size = min(optim.batch_size, len(held_out) - begin)
            if size < 2 or (n and size < optim.batch_size):
                continue  # a contrastive term depends on the batch size: whole batches only
            passes = np.array_split(np.arange(begin, begin + size), -(-size // n_at_once))
            batches = [held_out.batch(places) for places in passes]
            numbers = _numbers(method, forward(method, batches, optim.precision))
            measured = [method.measure(batch.to(device_of(method))) for batch in batches if len(batch) > 1]
            numbers |= {name: sum(one[name] for one in measured) / len(measured) for name in measured[0]}
            for name, value in numbers.items():
                sums[name] = sums.get(name, 0.0) + value
            n += 1
    method.train()
    return {name: value / n for name, value in sums.items()}
