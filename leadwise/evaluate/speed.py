"""How embeddings are computed on this machine: precision, batch size and threads. None of them changes a result noticeably.

precision   on a GPU that of the training. On a CPU float32, except where the training used bfloat16 and this processor
            multiplies faster in it: many processors have no bfloat16 products, and need several times as long as in float32.
            Measured once per processor and version of torch, and stored in the user's cache folder. The cosine of an embedding
            in one precision to that in the other is above 0.999.
batch size  by the size of the activations, so that they stay in a processor's cache, or fit into a GPU's memory.
threads     no more than the processors that this process may use, for example in a container. Numbers that the user has set
            (OMP_NUM_THREADS, MKL_NUM_THREADS, torch.set_num_threads to less) stay.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leadwise.batch import Batch
from leadwise.files import replacing
from leadwise.methods.contract import PretrainingMethod
from leadwise.run import Run
from leadwise.weights import cache_home

log = logging.getLogger(__name__)

LARGEST_BATCH, LARGEST_BATCH_GPU = 64, 512
_UNMEASURED = 32  # records of a batch that are embedded at once whatever their size
_ACTIVATION_BYTES = 4 << 20  # of a batch's largest activation on a CPU: more is slower, by up to a factor of two
_GPU_SHARE = 0.05  # of the free memory of a GPU for the largest activation; several exist at once

_FILE = (
    "bfloat16.json"  # in the cache folder: by processor and version of torch, seconds of a product in each precision
)
_PRODUCT = (512, 256, 1024)  # rows, inputs and outputs of the linear maps that are measured
_REPEATS = 5


# ------------------------------------------------------------------------------------------------------------- precision


def device_of(run: Run) -> torch.device:
    """Return the device of a run's weights; the CPU for a run without weights."""
    return next((weight.device for weight in run.method.parameters()), torch.device("cpu"))


def embedding_precision(run: Run) -> torch.autocast:
    """Return an autocast context of the precision in which this machine computes the run's embeddings."""
    device = device_of(run)
    bfloat16 = run.config.optim.precision == "bfloat16"
    return torch.autocast(
        device.type, torch.bfloat16, enabled=bfloat16 and (device.type != "cpu" or bfloat16_is_faster())
    )


@functools.cache
def bfloat16_is_faster() -> bool:
    """Return whether this processor multiplies matrices faster in bfloat16 than in float32; measured once and stored."""
    path, key = cache_home() / _FILE, f"{_processor()}, torch {torch.__version__}"
    stored = _read(path)
    times = stored.get(key)
    if not isinstance(times, dict) or not all(isinstance(times.get(name), float) for name in ("float32", "bfloat16")):
        times = {name: _seconds(name == "bfloat16") for name in ("float32", "bfloat16")}
        log.info(
            "this processor needs %.2g times as long in bfloat16 as in float32", times["bfloat16"] / times["float32"]
        )
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps({**stored, key: times}, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            log.debug("%s cannot be written: %s", path, error)
    return float(times["bfloat16"]) < float(times["float32"])


def _read(path: Path) -> dict[str, Any]:
    """Return the stored times; empty if there are none or the file is damaged."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _seconds(bfloat16: bool) -> float:
    """Return the shortest time of one layer, in seconds; other processes can only lengthen a measurement."""
    rows, width, hidden = _PRODUCT
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=generator) / 16 for shape in ((hidden, width), (width, hidden)))
    x = torch.randn(rows, width, generator=generator)
    times = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for _ in range(_REPEATS + 1):
            start = time.perf_counter()
            F.linear(F.gelu(F.linear(x, first)), second)
            times.append(time.perf_counter() - start)
    return min(times[1:])


def _processor() -> str:
    """Return the name of the processor's model."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------------------------------------------------ batch size


def largest_batch(device: torch.device) -> int:
    """Return how many records are embedded at once at most, by default."""
    return LARGEST_BATCH_GPU if device.type == "cuda" else LARGEST_BATCH


def batch_size(method: PretrainingMethod, batch: Batch) -> int:
    """Return how many records of a batch to embed at once, at least 1.

    The size of the activations is measured once per method, on the first record of the first batch that is large enough to
    matter. So equal batches are always divided equally, and their embeddings are equal to the last bit.
    """
    if len(batch) <= _UNMEASURED:
        return max(1, len(batch))
    if method not in _activation_bytes:
        with _LargestActivation(method) as largest:
            method.embed_ecg(batch.rows(0, 1))
        _activation_bytes[method] = max(1, largest.n_bytes)
    return size_for(_activation_bytes[method], batch.ecg.device)


def size_for(n_bytes: int, device: torch.device) -> int:
    """Return how many records to embed at once, from the size of the largest activation of one record."""
    if device.type != "cuda":
        return min(LARGEST_BATCH, max(1, _ACTIVATION_BYTES // n_bytes))
    return min(LARGEST_BATCH_GPU, max(1, int(torch.cuda.mem_get_info(device)[0] * _GPU_SHARE) // n_bytes))


_activation_bytes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


class _LargestActivation:
    """Context manager: `n_bytes` is the size of the largest output of a module of `method` in the block."""

    def __init__(self, method: nn.Module) -> None:
        self.n_bytes = 0
        self._method = method
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> _LargestActivation:
        self._hooks = [module.register_forward_hook(self._measure) for module in self._method.modules()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _measure(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self.n_bytes = max(self.n_bytes, output.numel() * output.element_size())


# --------------------------------------------------------------------------------------------------------------- threads


@contextlib.contextmanager
def threads_for_processors() -> Iterator[None]:
    """Context manager: torch uses no more threads than there are processors for this process."""
    before, available = torch.get_num_threads(), available_processors()
    fewer = available < before and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys()
    if fewer:
        torch.set_num_threads(available)
    try:
        yield
    finally:
        if fewer:
            torch.set_num_threads(before)


def available_processors(quota: Callable[[], float | None] | None = None) -> int:
    """Return the number of processors that this process may use, at least 1: its affinity, and the limit of a container."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    n = len(affinity(0)) if affinity else os.cpu_count() or 1
    limit = (quota or _container_limit)()
    return n if limit is None else max(1, min(n, round(limit)))


def _container_limit() -> float | None:
    """Return the number of processors that a Linux control group allows; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None
