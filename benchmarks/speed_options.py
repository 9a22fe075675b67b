"""Rows beyond the aims: the options of a whole step, and what the C library does with memory that is freed."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from speed_pair import Against, BenchmarkArgs, Build, Case, NotGivenError, Way
from speed_plain import learn, written_out
from speed_reports import write_reports
from speed_training import ecg_branch, gradient, make_method, noise
from torch import Tensor, nn

from leadwise.batch import Batch
from leadwise.training.gradient_step import Objective, backward
from leadwise.training.optimizer import make_optimizer

BFLOAT16, COMPILED, DEFAULT_ADAMW = "bfloat16 autocast", "torch.compile", "default AdamW"


def options(args: BenchmarkArgs) -> Case:
    """The whole step, loss to optimiser, with one option changed."""
    n = args.batch or 4
    texts = write_reports(2000, args.ptbxl)
    ways, gradients = {}, {}
    for name in ("float32", BFLOAT16, "checkpointing", "two passes", COMPILED, DEFAULT_ADAMW):
        run = make_method(args, texts, *(("method.checkpointing=true",) if name == "checkpointing" else ()))
        if name == COMPILED:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(args.scratch / "inductor")  # not what another run has compiled
            for part in run.method.compilable_modules:
                part.compile()
        batch, optimizer = noise(run.config.signal, n, texts), _optimizer(run, name)
        ways[name] = Way(partial(_whole_step, run, batch, optimizer, name), n, warm=True)
        gradients[name] = partial(gradient, run.method, partial(_total, run.method, batch, name))

    def note() -> str:
        wanted = gradients["float32"]()
        gaps = []
        for name in (BFLOAT16, "checkpointing", COMPILED):
            began = time.perf_counter()
            gaps.append(f"{name} {float((gradients[name]() - wanted).norm() / wanted.norm()):.0e}")
        return (
            f"cg_dmer_small, batch {n}, all terms, clipping and fused AdamW included; memory is that of a second step. "
            f"Difference of loss and gradient from float32: {', '.join(gaps)}. two passes: optim.accumulate = 2, "
            "the gradient of the whole batch (tests/test_gradient_step.py), with other masks. "
            "torch.compile: each block; the first step took "
            f"{time.perf_counter() - began:.0f} s"
        )

    return Case("record", ways, [Against(name, "float32") for name in ways if name != "float32"], note)


def _optimizer(run: Any, name: str) -> torch.optim.Optimizer:
    ours = make_optimizer(run.method, run.config.optim)
    if name != DEFAULT_ADAMW:
        return ours
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in ours.param_groups]
    return torch.optim.AdamW(groups, lr=run.config.optim.lr, betas=run.config.optim.betas)


def _total(method: Any, batch: Batch, name: str) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=name == BFLOAT16):
        terms = method(batch)
    return torch.stack([term.float() for term in terms.values()]).sum()


def _whole_step(run: Any, batch: Batch, optimizer: torch.optim.Optimizer, name: str) -> None:
    if name == "two passes":
        _in_two_passes(run, batch)
    else:
        _total(run.method, batch, name).backward()
    nn.utils.clip_grad_norm_(run.method.parameters(), run.config.optim.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _in_two_passes(run: Any, batch: Batch) -> None:
    half = len(batch.record) // 2
    rows = (slice(0, half), slice(half, None))
    names = ("ecg", "observed", "record", "patient", "report")
    halves = [replace(batch, **{name: getattr(batch, name)[row] for name in names}) for row in rows]
    backward(Objective(run.method), halves, 0, replace(run.config.optim, accumulate=2))


def allocator(args: BenchmarkArgs) -> Case:
    """A step while the C library keeps what is freed, against handing it back to the kernel and asking for it anew.

    Raises:
        NotGivenError: another C library than GNU's.
    """
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"):
        raise NotGivenError("it needs GNU's C library")
    n, closing = args.batch or 8, contextlib.ExitStack()
    ways = {
        f"{what}, {'memory retained' if retain else 'default memory'}": Way(
            _stepper(args, n, retain, written, closing), n
        )
        for what, written in (("fused", False), ("written out", True))
        for retain in (True, False)
    }
    fused, fused_plain, written_kept, written_plain = ways
    return Case(
        what="record",
        ways=ways,
        against=[Against(fused, fused_plain), Against(written_kept, written_plain), Against(fused, written_kept)],
        note=lambda: (
            f"the ECG branch, batch {n}, float32, visible tokens, each variant in its own process; retained: mallopt without "
            "mapped blocks and no trimming. Each newly mapped block costs a page fault for every 4 KiB"
        ),
        memory=False,
        closing=closing,
    )


def _stepper(
    args: BenchmarkArgs, n: int, retain: bool, written: bool, closing: contextlib.ExitStack
) -> Callable[[], object]:
    """A call that lets a process of its own take a step."""
    context = multiprocessing.get_context("forkserver")
    ours, its = context.Pipe()
    process = context.Process(target=_take_steps, args=(its, args, n, retain, written))
    process.start()
    its.close()  # its end is with the process alone, so that waiting for one that died ends

    def step() -> object:
        ours.send("step")
        return ours.recv()

    closing.callback(process.join)
    closing.callback(ours.close)  # first: it ends the process
    return step


def _take_steps(pipe: Connection, args: BenchmarkArgs, n: int, retain: bool, written: bool) -> None:
    if retain:
        library, most_maps, trim, top = ctypes.CDLL(None), -4, -1, -2  # names of mallopt's settings
        library.mallopt(most_maps, 0)
        library.mallopt(trim, -1)
        library.mallopt(top, 64 << 20)
    branch = ecg_branch(args, n)
    with written_out() if written else contextlib.nullcontext(), contextlib.suppress(EOFError):
        while pipe.recv():
            learn(branch.method, branch.loss)
            pipe.send("done")


ROWS: dict[str, Build] = {"options": options, "allocator": allocator}
