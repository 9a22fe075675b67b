"""Ways of doing one thing, timed in turns in one process; the peak memory of each way in a process of its own.

A round runs every way once, one after the other, so that a busy spell of the machine falls on all of them. The first round
warms up and does not count. A ratio is the median over the rounds of the two times of that round.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

MIB = 1 << 20


class NotGivenError(Exception):
    """A row needs something that is missing; the message names it."""


@dataclass(frozen=True)
class BenchmarkArgs:
    """The command-line arguments."""

    rounds: int
    seconds: float  # a row that has taken longer ends with the round it is in, if it has two
    batch: int  # 0: each row's own
    records: int
    ptbxl: Path | None
    run: Path | None
    scratch: Path  # where rows keep what they wrote, for all processes to find
    root: Path = Path(__file__).parent.parent

    @property
    def small(self) -> Path:
        return self.root / "configs" / "cg_dmer_small.toml"


@dataclass(frozen=True)
class Way:
    """One way: `call` does the work of `items` items, of which the whole has `times` as many."""

    call: Callable[[], object]
    items: float = 1
    times: float = 1
    warm: bool = False  # a first call makes what stays; memory is that of the second

    def per_item(self, seconds: float) -> float:
        return seconds * self.times / self.items


@dataclass(frozen=True)
class Against:
    """A comparison that makes a line: seconds of `plain` over seconds of `ours`."""

    ours: str
    plain: str
    aim: float | None = None
    below_s: float | None = None  # an aim for the seconds of `ours` themselves


@dataclass
class Case:
    """Ways that belong together, and which of them are compared."""

    what: str  # what an item is, "record" or "step"
    ways: dict[str, Way]
    against: list[Against]
    note: Callable[[], str]  # sizes, what each way returns; checks what is to be equal and says so
    gflop: dict[str, Callable[[], float]] = field(default_factory=dict)  # products of a way, for each item
    gbytes: dict[str, float] = field(default_factory=dict)  # read and written, for each item
    dtype: dict[str, str] = field(default_factory=dict)  # in which a way multiplies, where it is not float32
    several: bool = False  # ways start processes of their own
    memory: bool = True  # whether peaks are measured
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


Build = Callable[[BenchmarkArgs], Case]


@dataclass(frozen=True)
class Ratio:
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})" if self.median < 10 else self._coarse()

    def _coarse(self) -> str:
        return f"{self.median:.0f} ({self.low:.0f}-{self.high:.0f})"


def interleave(ways: dict[str, Way], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each way in each round, an item."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    began = time.perf_counter()
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way.call()
            took[name].append(way.per_item(time.perf_counter() - start))
        if turn >= 2 and time.perf_counter() - began > seconds:
            break
    return {name: values[1:] for name, values in took.items()}


def ratio(ours: list[float], plain: list[float]) -> Ratio:
    each = [b / a for a, b in zip(ours, plain)]
    return Ratio(statistics.median(each), min(each), max(each))


# -------------------------------------------------------------------------------------------------------------- memory


def peak_mib(way: Way, several: bool) -> float:
    """MiB that a first call of `way` holds at its peak above what was held before it; call it in a fresh process.

    Pages of mapped files are left out: the kernel reclaims them when it needs memory. Where a way starts processes, the
    memory of all of them is looked at every few milliseconds, pages that they share counted once.

    Raises:
        OSError: no /proc/self/clear_refs, which Linux has.
    """
    if way.warm:
        way.call()
    _give_back()
    if several:
        return _peak_of_all(way)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the set-up
    before = _status()
    way.call()
    after = _status()
    files = max(0, after["RssFile"] - before["RssFile"])
    return (after["VmHWM"] - before["VmRSS"] - files) / 1024


def _give_back() -> None:
    """Hand the memory that the set-up has freed back to the kernel, so that it is not taken for the call's own."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


def _status() -> dict[str, int]:
    """This process's memory in KiB, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "kB" in value}


def _peak_of_all(way: Way) -> float:
    root = Path("/proc/self").resolve().name
    before = peak = _held_by(root)
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, _held_by(root))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        way.call()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 1024


def _held_by(process: str) -> int:
    """KiB held by a process and all that it started, without pages of mapped files."""
    held = 0
    with contextlib.suppress(OSError):  # one may end while it is looked at
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                held += int(line.split()[1])
        for thread in Path(f"/proc/{process}/task").iterdir():
            held += sum(_held_by(child) for child in (thread / "children").read_text().split())
    return held


def peak_elsewhere(build: Build, way: str, args: BenchmarkArgs) -> float | None:
    """`peak_mib` of one way of a case in a fresh process; None where it cannot be measured."""
    context = multiprocessing.get_context(
        "forkserver"
    )  # it imports once; a process that has computed must not be forked
    context.set_forkserver_preload(["leadwise.training.loop", "leadwise.evaluate.probe", "wfdb"])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as alone:
            return alone.submit(_peak_of, build, way, args).result()
    except OSError as error:
        print(f"memory of {way}: {error}", file=sys.stderr)
        return None


def _peak_of(build: Build, way: str, args: BenchmarkArgs) -> float:
    with quiet():
        case = build(args)
        with case.closing:
            return peak_mib(case.ways[way], case.several)


# --------------------------------------------------------------------------------------------------------------- floor


def stream_rate(times: int = 12) -> float:
    """GB/s that this machine reads and writes at best, both counted, when 256 MiB are copied or scaled in place."""
    source = torch.ones(64 * MIB)
    target, best = torch.empty_like(source), 0.0
    for _ in range(times):
        for work in (partial(target.copy_, source), partial(source.mul_, 1.0)):
            began = time.perf_counter()
            work()
            best = max(best, 2 * source.numel() * source.element_size() / (time.perf_counter() - began) / 1e9)
    return best


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing below an error is logged in the block."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
