"""Mutated inputs for every reader: each must give a value or one clear error of ours, within limits of time and memory.

A target has valid inputs and a function that reads one. An input is valid bytes with one to a few mutations, drawn from the
target's name and a number, so that a number reproduces it. Inputs are read in processes of their own, with a limit of memory;
a process that hangs or dies is replaced, and its input counts as a fault.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import resource
import signal
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 2.0  # of processor time, for one input
MEMORY = 500_000_000  # bytes, beyond those of the process after its first valid inputs
KILLED_AFTER = 30.0  # seconds without an answer: what waits, or computes outside of Python, does not see the alarm
MOST_FAULTS = 20  # stored with their trace
_NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"nan",
    b"inf",
    b"1e308",
    b"-1e-320",
    b"65536",
    b"2147483648",
    b"99999999999999999999",
    b"",
)


@dataclass(frozen=True)
class Target:
    """A reader to be given mutated inputs."""

    name: str
    inputs: Sequence[bytes]  # valid
    read: Callable[[bytes], object]  # raises one of `errors`, or returns a value
    errors: tuple[type[Exception], ...]  # of our own types
    wrap: Callable[[bytes], bytes] | None = (
        None  # after the mutations: states checksums anew, so that they refuse nothing
    )
    share: float = 1.0  # of the inputs; less for a reader that takes long


@dataclass
class Result:
    """Counts of the outcomes of one target: value, error, and the faults."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)  # number of the input, outcome, details
    slowest_s: float = 0.0
    seconds: float = 0.0

    @property
    def n_faults(self) -> int:
        """Inputs that gave neither a value nor an error of ours."""
        return sum(count for outcome, count in self.counts.items() if outcome not in ("value", "error"))


class TooSlow(BaseException):
    """The alarm of one input; no reader catches it."""


def mutated(target: Target, number: int) -> bytes:
    """Return the input of this number."""
    rng = np.random.default_rng([zlib.crc32(target.name.encode()), number])
    content = bytearray(target.inputs[int(rng.integers(len(target.inputs)))])
    for _ in range(int(rng.choice((1, 1, 1, 2, 3, 8)))):
        if not content:
            break
        _MUTATIONS[int(rng.integers(len(_MUTATIONS)))](content, rng, target.inputs)
    return target.wrap(bytes(content)) if target.wrap else bytes(content)


def _place(content: bytearray, rng: np.random.Generator) -> int:
    """A position; every second one is near the beginning, where headers are."""
    most = len(content) if rng.random() < 0.5 else min(len(content), 400)
    return int(rng.integers(most))


def _flip(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    content[_place(content, rng)] ^= 1 << int(rng.integers(8))


def _set(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    content[_place(content, rng)] = int(rng.choice((0, 1, 9, 10, 32, 45, 48, 60, 127, 128, 255)))


def _word(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    at, size = _place(content, rng), int(rng.choice((2, 4, 8)))
    value = int(rng.choice((0, 1, 2**7, 2**15 - 1, 2**16 - 1, 2**31 - 1)))
    content[at : at + size] = value.to_bytes(8, str(rng.choice(("little", "big"))))[:size]


def _truncate(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    del content[_place(content, rng) :]


def _delete(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    at = _place(content, rng)
    del content[at : at + int(rng.choice((1, 2, 7, 64)))]


def _insert(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    at = _place(content, rng)
    content[at:at] = rng.bytes(int(rng.choice((1, 4, 100))))


def _repeat(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    at, size = _place(content, rng), int(rng.choice((1, 8, 100, 2000)))
    content[at:at] = content[at : at + size] * int(rng.choice((1, 2, 20)))


def _splice(content: bytearray, rng: np.random.Generator, inputs: Sequence[bytes]) -> None:
    other = inputs[int(rng.integers(len(inputs)))]
    at = _place(content, rng)
    content[at:] = other[int(rng.integers(len(other))) :]


def _number(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(content[:20_000])))
    if numbers:
        chosen = numbers[int(rng.integers(len(numbers)))]
        content[chosen.start() : chosen.end()] = _NUMBERS[int(rng.integers(len(_NUMBERS)))]


def _line(content: bytearray, rng: np.random.Generator, _: Sequence[bytes]) -> None:
    lines = bytes(content).split(b"\n")
    at, other = (int(i) for i in rng.integers(len(lines), size=2))
    lines[at] = lines[other] if rng.random() < 0.7 else b""
    content[:] = b"\n".join(lines)


_MUTATIONS = (_flip, _set, _word, _truncate, _delete, _insert, _repeat, _splice, _number, _line)


# ------------------------------------------------------------------------------------------------------ processes


def run_target(target: Target, start: int, stop: int) -> Result:
    """Read the inputs from `start` to before `stop`, and return the outcomes."""
    return next(_run([(target, range(start, stop))], 1))


def _run(tasks: Sequence[tuple[Target, range]], processes: int) -> Iterator[Result]:
    """Read the inputs of each target, in several processes but one for each target, since its inputs are in one file."""
    for target, _ in tasks:
        for content in target.inputs:
            target.read(target.wrap(content) if target.wrap else content)  # valid, and imports what it needs
    waiting = [_Task(target, numbers) for target, numbers in tasks][::-1]
    workers: dict[Connection, tuple[_Worker, _Task]] = {}
    while waiting or workers:
        while waiting and len(workers) < processes:
            _start(waiting.pop(), workers)
        for pipe in wait_for(list(workers), timeout=1.0):
            worker, task = workers[pipe]  # type: ignore[index]
            try:
                number, outcome, details, seconds = worker.pipe.recv()
            except EOFError:
                yield from _end(worker, task, workers, "died")
                continue
            worker.last, worker.heard = number, time.monotonic()
            if outcome == "":  # only that it begins with this input
                continue
            _add(task.result, number, outcome, details, seconds)
        for worker, task in list(workers.values()):
            if time.monotonic() - worker.heard > KILLED_AFTER:
                worker.process.kill()
                yield from _end(worker, task, workers, "hung")


class _Task:
    """The inputs of a target that are not read yet, in parts: a part has a process of its own."""

    def __init__(self, target: Target, numbers: range) -> None:
        self.target, self.result, self.began = target, Result(target.name), time.perf_counter()
        self.parts = [range(at, min(at + 500, numbers.stop)) for at in range(numbers.start, numbers.stop, 500)][::-1]


def _start(task: _Task, workers: dict[Connection, tuple[_Worker, _Task]]) -> None:
    worker = _Worker(task.target, task.parts.pop())
    workers[worker.pipe] = worker, task


def _end(
    worker: _Worker, task: _Task, workers: dict[Connection, tuple[_Worker, _Task]], outcome: str
) -> Iterator[Result]:
    """Go on with the inputs that the process did not reach; yield the result of a target that is complete."""
    del workers[worker.pipe]
    left = worker.end(task.result, outcome)
    task.parts += [left] if left else []
    if task.parts:
        _start(task, workers)
    else:
        task.result.seconds = time.perf_counter() - task.began
        yield task.result


def _add(result: Result, number: int, outcome: str, details: str, seconds: float) -> None:
    result.counts[outcome] += 1
    result.slowest_s = max(result.slowest_s, seconds)
    if outcome not in ("value", "error") and len(result.faults) < MOST_FAULTS:
        result.faults.append((number, outcome, details))


class _Worker:
    """A process that reads a range of inputs."""

    def __init__(self, target: Target, numbers: range) -> None:
        self.numbers, self.last, self.heard = numbers, -1, time.monotonic()
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")  # targets hold functions that cannot be pickled
        self.process = context.Process(target=_read_all, args=(target, numbers, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def end(self, result: Result, outcome: str) -> range | None:
        """Wait for the end of the process; return the inputs that it did not reach, after the one that it ended at."""
        self.process.join()
        self.pipe.close()
        if self.last == self.numbers[-1] and self.process.exitcode == 0:
            return None
        _add(result, self.last, outcome, f"exit code {self.process.exitcode}", 0.0)
        left = range(self.last + 1, self.numbers.stop)
        return left if len(left) else None


def _read_all(target: Target, numbers: range, pipe: Connection) -> None:
    """Read inputs and send the number, outcome, details and seconds of each."""
    signal.signal(signal.SIGPROF, _alarm)
    logging.disable(logging.CRITICAL)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in numbers:
        content = mutated(target, number)
        pipe.send((number, "", "", 0.0))
        pipe.send((number, *outcome_of(target, content)))


_armed = False  # whether an alarm may raise: it may be delivered late, after a call that does not return to Python


def _alarm(*_: Any) -> None:
    if _armed:
        raise TooSlow


def outcome_of(target: Target, content: bytes) -> tuple[str, str, float]:
    """Return the outcome of one input, its details and the seconds it took."""
    global _armed
    began = time.process_time()
    try:
        _armed = True
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        target.read(content)
        _armed = False
        outcome, details = "value", ""
    except target.errors as error:
        _armed = False
        outcome, details = _judge(error)
    except TooSlow:
        outcome, details = "slow", ""
    except MemoryError:
        _armed = False
        outcome, details = "memory", f"more than {MEMORY / 1e6:g} MB"
    except BaseException:
        _armed = False
        outcome, details = "other error", traceback.format_exc(limit=-4)[-2000:]
    _armed = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - began
    return ("slow", f"more than {SECONDS:g} s", seconds) if seconds > SECONDS else (outcome, details, seconds)


def _judge(error: Exception) -> tuple[str, str]:
    """An error of ours has one line of a readable length."""
    text = str(error)
    if not text.strip() or len(text) > 1500 or text.count("\n") > 6:
        return "unclear", f"{type(error).__name__} of {len(text)} characters: {text[:300]!r}"
    return "error", ""


def read_every(
    targets: Sequence[Target], n_inputs: int, processes: int = 1, names: Collection[str] = ()
) -> Iterator[Result]:
    """Yield the result of each target, which together read about `n_inputs`; several targets at once.

    With `names`, only these targets read, each as many inputs as without.
    """
    total = sum(target.share for target in targets)
    numbers = [range(max(1, round(n_inputs * target.share / total))) for target in targets]
    chosen = [(target, one) for target, one in zip(targets, numbers) if not names or target.name in names]
    yield from _run(chosen, processes)
