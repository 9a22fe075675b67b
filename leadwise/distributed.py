"""The processes of a run that `torchrun` started: who am I, what do the others hold, and what if one of them is gone.

Every room may stand on this stone, and every word between processes is spoken here. With one process, and inside `alone()`,
all of it is the identity.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=30)  # how long a process waits for the others before it takes them for lost
LOST_PEER_MESSAGES = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Socket Timeout",
    "gloo",
    "NCCL",
)

_by_itself = False  # inside `alone()`


class RanksError(RuntimeError):
    """A process of the run failed or was told to stop; the message says which and why."""


def n_launched() -> int:
    """How many processes `torchrun` was told to start; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_rank() -> int:
    """The number of this process on its own machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def n_ranks() -> int:
    """How many processes share this run's batches."""
    return dist.get_world_size() if dist.is_initialized() and not _by_itself else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() and not _by_itself else 0


@contextmanager
def single_process() -> Iterator[None]:
    """A block in which this process is the only one: what one rank does while the others wait."""
    global _by_itself
    was, _by_itself = _by_itself, True
    try:
        yield
    finally:
        _by_itself = was


def gather(x: Tensor) -> Tensor:
    """The rows of every rank's x (b, ...), in rank order: (n_ranks * b, ...). The gradient flows back to every rank.

    It comes back as the sum over ranks. So where each rank's loss is the mean over its own anchors, the mean over ranks
    of the parameters' gradients, which DDP takes, is the gradient of the mean over all anchors.
    """
    if n_ranks() == 1:
        return x
    out: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return out


def gathered(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """What records of every rank show each other: `gather` of each tensor, floating ones as float32."""
    return {name: gather(x.float() if x.is_floating_point() else x) for name, x in features.items()}


def local_rows(n_rows: int) -> slice:
    """Which of `n_rows` gathered rows are this rank's own."""
    share = n_rows // n_ranks()
    return slice(rank() * share, (rank() + 1) * share)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(n_ranks())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[local_rows(len(total))]


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """A block in which the processes that `torchrun` started are one run: NCCL between GPUs, gloo between CPUs.

    A group that stands already is used as it is. After an error the group is left as it lies: to close it, all would be
    needed.
    """
    if n_launched() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend, card = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    dist.init_process_group(backend, timeout=TIMEOUT, device_id=card)
    with _raise_on_sigterm():
        yield
        dist.barrier()
    dist.destroy_process_group()


@contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """A block that ends with a RanksError on SIGTERM, which `torchrun` sends to those that a dead process leaves behind."""

    def stop(*_: object) -> None:
        raise RanksError(f"rank {rank()} of {n_ranks()} was told to stop (SIGTERM)")

    if threading.current_thread() is not threading.main_thread():  # only there can a signal be heard
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:  # on the way out already: a first SIGTERM must not cut the message short
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, before))
        raise
    signal.signal(signal.SIGTERM, before)


@contextmanager
def all_ranks_or_none() -> Iterator[None]:
    """A block that ends well on every rank or on none; it is also where they wait for each other.

    Raises:
        RanksError: it failed on another rank; the message is that rank's.
    """
    try:
        yield
    except Exception as error:
        _exchange_errors(str(error))
        raise
    for number, fault in enumerate(_exchange_errors("")):
        if fault:
            raise RanksError(f"rank {number} of {n_ranks()} stopped: {fault}")


def _exchange_errors(fault: str) -> list[str]:
    """What every rank has to say, by rank."""
    if n_ranks() == 1:
        return [""]
    faults = [""] * n_ranks()
    dist.all_gather_object(faults, fault)
    return faults


def describe_lost_peer(error: BaseException) -> str:
    """Who lost whom, where the error means that another process is gone; '' for any other error."""
    if isinstance(error, RanksError):
        return str(error)
    if n_ranks() > 1 and (isinstance(error, dist.DistError) or any(word in str(error) for word in LOST_PEER_MESSAGES)):
        return f"rank {rank()} of {n_ranks()} lost its peer"
    return ""
