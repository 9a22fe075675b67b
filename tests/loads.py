"""Cases of load: a data set of many records, and runs of many processes of which one hangs, is slow or dies.

Each function returns rows for `evidence`: what was tried, how large, what it took, and what did not go as it must.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
_LOOK_S = 0.1  # between two looks at the memory of a command


@dataclass(frozen=True)
class Usage:
    """What a command took: seconds, and the most memory of it and of all processes that it started."""

    seconds: float
    resident_mb: float  # pages of mapped files included; pages that processes share count more than once
    own_mb: float  # without pages of files, which the system may drop at any time

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.own_mb:,.0f} MB of its own, {self.resident_mb:,.0f} MB with mapped files"


def memory_mb(root: int) -> tuple[float, float]:
    """Return the megabytes that a process and all its descendants hold: resident, and of that without mapped files."""
    parents: dict[int, int] = {}
    sizes: dict[int, tuple[float, float]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = dict(
                line.split(":", 1)
                for line in (entry / "status").read_text(errors="replace").splitlines()
                if ":" in line
            )
        except OSError:
            continue  # it has just ended
        parents[int(entry.name)] = int(fields["PPid"])
        kilobytes = (int(fields.get(name, "0 kB").split()[0]) for name in ("VmRSS", "RssAnon"))
        sizes[int(entry.name)] = tuple(value * 1024 / 1e6 for value in kilobytes)  # type: ignore[assignment]
    family = {root}
    while True:
        more = {child for child, parent in parents.items() if parent in family} - family
        if not more:
            held = [sizes[member] for member in family if member in sizes]
            return sum(one for one, _ in held), sum(own for _, own in held)
        family |= more


@contextlib.contextmanager
def watched_memory(pid: int) -> Iterator[list[float]]:
    """A block in which the memory of a process and its descendants is looked at; yields the two maxima of `memory_mb`."""
    most, is_over = [0.0, 0.0], threading.Event()

    def look() -> None:
        while not is_over.wait(_LOOK_S):
            most[:] = map(max, most, memory_mb(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, _PYTHON_PATH))}


_PYTHON_PATH = [REPOSITORY, REPOSITORY / "tests", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


class CommandError(RuntimeError):
    """A command of a case failed; the message is the end of what it printed."""


def measured(*commands: list[object]) -> Usage:
    """Run commands of leadwise side by side and return what they took together.

    Raises:
        CommandError: one failed.
    """
    began = time.perf_counter()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=environment(),
        )
        for command in commands
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        most = [stack.enter_context(watched_memory(child.pid)) for child in children]
        errors = [child.communicate()[1] for child in children]
    seconds = time.perf_counter() - began
    for child, error in zip(children, errors):
        if child.returncode:
            raise CommandError(error[-600:])
    return Usage(seconds, sum(one for one, _ in most), sum(own for _, own in most))
