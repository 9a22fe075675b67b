"""Exact repetition of a run: torch's deterministic algorithms while it is trained, and torch's global state restored after it.

Without them, threads and GPUs add some sums in the order in which they arrive, for example the gradient of `table[index]`.
Floating-point sums depend on their order, so two runs of one seed differ in the last bit of a gradient from the first step on.
With them, runs are equal on the same machine, versions and number of threads. docs/scale.md lists the operations of the methods.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from leadwise.training.gradient_step import TrainingError

# cuBLAS reads this when a process first uses it; ":4096:8" is one of the two values with which it repeats its results
CUBLAS_SETTING, CUBLAS_VALUE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"

# torch's errors: an operation without a deterministic version, and cuBLAS without its setting (torch before 2.10)
_NO_VERSION = re.compile(r"(.+?) does not have a deterministic implementation")
_NO_CUBLAS_SETTING = re.compile(r"not deterministic because it uses CuBLAS", re.IGNORECASE)


@contextmanager
def deterministic_algorithms(enabled: bool = True, step: Callable[[], int] = lambda: 0) -> Iterator[None]:
    """A block in which torch uses deterministic algorithms; its global state is restored when the block ends.

    Args:
        enabled: False leaves torch as the caller has set it.
        step: returns the step's number for the error message.

    Raises:
        TrainingError: an operation has no deterministic version on this device; the message names it.
    """
    if not enabled:
        yield
        return
    was_enabled = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # its attribute is a property, which mypy cannot resolve
    filled_memory = memory.fill_uninitialized_memory
    cudnn_benchmark = torch.backends.cudnn.benchmark

    os.environ.setdefault(CUBLAS_SETTING, CUBLAS_VALUE)
    try:
        # not warn_only: with it, the backward passes of CUDA's fused attention stay nondeterministic after one warning
        torch.use_deterministic_algorithms(True)
        # filling every new tensor takes up to 14 % of a small step, and no method reads memory that it has not written
        memory.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = False  # it chooses an algorithm by timing, so two runs may choose two
        yield
    except RuntimeError as error:
        reason = describe_error(error)
        if not reason:
            raise
        raise TrainingError(f"step {step()}: {reason}") from error
    finally:
        torch.use_deterministic_algorithms(was_enabled, warn_only=only_warned)
        memory.fill_uninitialized_memory = filled_memory
        torch.backends.cudnn.benchmark = cudnn_benchmark


def describe_error(error: RuntimeError) -> str:
    """Return a message with a remedy if `error` is torch's error about a nondeterministic operation, else ''."""
    text = str(error)
    operation = _NO_VERSION.search(text)
    if operation:
        return (
            f"torch has no deterministic version of {operation[1].strip()} on this device; set optim.deterministic=false, "
            "and two runs of one seed may differ in the last digits"
        )
    if _NO_CUBLAS_SETTING.search(text):
        return (
            f"cuBLAS was used in this process before training; set {CUBLAS_SETTING}={CUBLAS_VALUE} before Python starts, or "
            "set optim.deterministic=false"
        )
    return ""
