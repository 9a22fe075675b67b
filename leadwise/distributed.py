"""Functions for a run of several processes started by `torchrun`: ranks, gathering tensors, barriers and errors.

All communication between processes is in this module. With one process, and inside `single_process()`, gathering returns
its input and a barrier does nothing.
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

from leadwise import heartbeat
from leadwise.heartbeat import Heartbeat

LOST_PEER_MESSAGES = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Socket Timeout",
    "gloo",
    "NCCL",
)

_is_single = False  # inside `single_process()`
_heartbeat: Heartbeat | None = None  # inside `process_group()`


class DistributedError(RuntimeError):
    """A process of the run failed or was terminated; the message names the rank and the reason."""


def n_launched() -> int:
    """The number of processes that `torchrun` starts; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_rank() -> int:
    """The rank of this process on its own machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def n_ranks() -> int:
    """The number of processes that share this run's batches."""
    return dist.get_world_size() if dist.is_initialized() and not _is_single else 1


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() and not _is_single else 0


@contextmanager
def single_process() -> Iterator[None]:
    """A block in which this process has rank 0 of 1: for work of one rank while the others wait."""
    global _is_single
    before, _is_single = _is_single, True
    try:
        yield
    finally:
        _is_single = before


def gather(x: Tensor) -> Tensor:
    """Concatenate every rank's x (b, ...) in rank order: (n_ranks * b, ...). The gradient flows back to every rank.

    Each rank receives the sum of the gradients of all ranks. If each rank's loss is the mean over its own anchors, the
    mean of the parameters' gradients over ranks, which DDP computes, is the gradient of the mean over all anchors.
    """
    if n_ranks() == 1:
        return x
    out: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return out


def gather_features(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """`gather` each tensor, converting floating-point tensors to float32 first."""
    return {name: gather(x.float() if x.is_floating_point() else x) for name, x in features.items()}


def local_rows(n_rows: int) -> slice:
    """The slice of `n_rows` gathered rows that belongs to this rank."""
    share = n_rows // n_ranks()
    return slice(rank() * share, (rank() + 1) * share)


class _Gather(torch.autograd.Function):
    """all_gather whose backward pass sums the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(n_ranks())]
        _begin_collective()
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        _begin_collective()
        dist.all_reduce(total)
        return total[local_rows(len(total))]


@contextmanager
def process_group(device: torch.device, timeout_s: float) -> Iterator[None]:
    """A block in which the processes that `torchrun` started communicate: NCCL between GPUs, gloo between CPUs.

    An existing process group is used. After an error the group is not closed, because closing it would need all ranks.

    Args:
        timeout_s: how long a process waits for the others in a collective before it raises an error.

    Raises:
        DistributedError: another process hangs or has ended, outside of the steps of training; the message names it.
    """
    global _heartbeat
    if n_launched() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend, card = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), device_id=card)
    _heartbeat = heartbeat.connect(dist.get_rank(), dist.get_world_size(), timeout_s)
    _heartbeat.start()
    with _raise_on_sigterm():
        try:
            yield
            dist.barrier()
        except RuntimeError as error:
            reason = "" if isinstance(error, DistributedError) else describe_lost_peer(error)
            if not reason:
                raise
            raise DistributedError(reason) from error
    _heartbeat.stop()
    _heartbeat = None
    dist.destroy_process_group()


def begin_step(step: int) -> None:
    """Note that this process begins a step of training."""
    if _heartbeat is not None:
        _heartbeat.begin_step(step)


def _begin_collective() -> None:
    if _heartbeat is not None:
        _heartbeat.begin_collective()


@contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """A block that raises DistributedError on SIGTERM, which `torchrun` sends to the other processes when one dies."""

    def stop(*_: object) -> None:
        raise DistributedError(f"rank {rank()} of {n_ranks()} was terminated (SIGTERM)")

    if threading.current_thread() is not threading.main_thread():  # Python handles signals only there
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:  # the process already ends: a first SIGTERM must not cut the message short
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, before))
        raise
    signal.signal(signal.SIGTERM, before)


@contextmanager
def all_ranks_or_none() -> Iterator[None]:
    """A block that raises on every rank if it raises on any rank; at its end the ranks wait for each other.

    Raises:
        DistributedError: the block failed on another rank; the message contains that rank's message.
    """
    try:
        yield
    except Exception as error:
        _exchange_errors(str(error))
        raise
    for number, message in enumerate(_exchange_errors("")):
        if message:
            raise DistributedError(f"rank {number} of {n_ranks()} stopped: {message}")


def _exchange_errors(message: str) -> list[str]:
    """The error message of every rank, in rank order; '' for a rank without an error."""
    if n_ranks() == 1:
        return [""]
    messages = [""] * n_ranks()
    _begin_collective()
    dist.all_gather_object(messages, message)
    return messages


def describe_lost_peer(error: BaseException) -> str:
    """A message if `error` means that another process hangs, died or was terminated, else ''; with its name if it is known."""
    is_lost = n_ranks() > 1 and (
        isinstance(error, dist.DistError) or any(word in str(error) for word in LOST_PEER_MESSAGES)
    )
    if not isinstance(error, DistributedError) and not is_lost:
        return ""
    reason = str(error) if isinstance(error, DistributedError) else f"rank {rank()} of {n_ranks()} lost its connection"
    culprit = (
        "" if _heartbeat is None else _heartbeat.verdict(timed_out="imed out" in str(error) or "imeout" in str(error))
    )
    return culprit or f"another process of this run has ended, or the run was stopped ({reason})"
