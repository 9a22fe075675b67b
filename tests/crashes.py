"""Crashes of every command that writes: killed, without power, on a full disk, twice at once, with a clock that jumps.

After each, readers accept only what is whole: the earlier result, or a later one that an uninterrupted command wrote too.
Anything else is one clear error. The command run again gives the result of an uninterrupted one, and leaves no temporary file.
Commands run in forked processes of a parent that has imported everything, so that a case takes a fraction of a second.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter as Counts
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from command_line import Completed
from crash_verbs import OURS, Verb, contents, digest_of, verbs
from evidence import Row, logged
from file_layer import Counter, FullAt, KillAt, Operation, Recorder, Recording, layer

_LIMIT_S = 120.0  # for one command
_TEMPORARY = re.compile(r"\.part$|\.partial$|\.tmp$|\.replaced$")  # a lock file locks nothing if its process was killed
_BLOCK = 4096  # bytes of a page, by which a disk of memory fills
YEAR_S = 365 * 86400.0
# kinds of crash, in the titles of rows
_KILLED, _POWER, _FULL = "killed, then run again", "power cut, then run again", "disk full at the n-th write"
_FEW_PAGES, _TWICE, _CLOCK = "on a disk of a few pages", "two at once", "the clock jumps"


# ------------------------------------------------------------------------------------------------------------ processes


@dataclass
class Ended:
    """How a forked process ended: with a value, an error's text, or neither if it was killed."""

    value: Any = None
    error: str = ""
    was_killed: bool = False
    seconds: float = 0.0


class Child:
    """A forked process that calls a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.began = time.monotonic()
        self.pipe, theirs = multiprocessing.Pipe(duplex=False)
        self.pid = os.fork()
        if self.pid == 0:
            self.pipe.close()
            _answer(function, args, theirs)
        theirs.close()

    def wait(self, kill_after: float | None = None) -> Ended:
        """Wait for its end, or kill it after so many seconds."""
        limit = _LIMIT_S if kill_after is None else kill_after
        ended = Ended()
        try:
            if self.pipe.poll(max(0.0, limit - (time.monotonic() - self.began))):
                ended.value, ended.error = self.pipe.recv()
            else:
                ended.error = "" if kill_after is not None else f"no end after {_LIMIT_S:g} s"
                os.kill(self.pid, signal.SIGKILL)
        except EOFError:
            pass
        status = os.waitpid(self.pid, 0)[1]
        self.pipe.close()
        ended.was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and ended.value is None
        ended.seconds = time.monotonic() - self.began
        return ended


def _answer(function: Callable[..., Any], args: tuple[Any, ...], pipe: Connection) -> None:
    """Send what a function returns or raises, and end this process without anything that its parent registered."""
    try:
        answer = (function(*args), "")
    except BaseException:
        answer = (None, traceback.format_exc(limit=-6))
    try:
        pipe.send(answer)
    finally:
        os._exit(0)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns in a forked process."""
    ended = Child(function, *args).wait()
    if ended.error or ended.was_killed:
        raise RuntimeError(ended.error or "the process was killed")
    return ended.value


# ------------------------------------------------------------------------------------------------------------ reference


@dataclass
class Reference:
    """What an uninterrupted command does and leaves."""

    verb: Verb
    start: Path  # the folder before it
    seconds: float
    kinds: list[str]  # of its file operations
    result: dict[str, str]
    recording: Recording
    old: dict[int, set[str]]  # digests of the units that are there before, by the reader's number
    whole: dict[int, set[str]] = field(default_factory=dict)  # and of those that may be there later

    def new(self, folder: Path) -> Path:
        """Write a folder in which the command can be run, and return it."""
        shutil.copytree(self.start, folder)
        return folder


def reference(verb: Verb, home: Path) -> Reference:
    """Run a command twice without a crash: with its file operations counted, and with the tree recorded at each."""
    folders = [home / f"{verb.name.replace(' ', '')}-{kind}" for kind in ("start", "counted", "recorded")]
    start, counted, recorded = folders
    start.mkdir(parents=True)
    in_child(_set_up, verb, start)
    for folder in folders[1:]:
        shutil.copytree(start, folder)
    old = in_child(_accepted, verb, start)[0]
    completed, kinds, seconds = in_child(_counted, verb, counted)
    if completed.returncode:
        raise RuntimeError(f"{verb.name} failed without a crash: {completed.stderr[-2000:]}")
    recording = Recording(*in_child(_recorded, verb, recorded))
    one = Reference(verb, start, seconds, kinds, contents(counted), recording, old)

    # versions that a reader may accept: a file of its own may have had several
    final, other = (in_child(_accepted, verb, folder)[0] for folder in folders[1:])
    if other != final or contents(recorded) != one.result:
        raise RuntimeError(f"{verb.name}: two uninterrupted commands leave different files")
    for number, digests in final.items():
        one.whole[number] = digests | old.get(number, set())
    for number, unit in enumerate(unit for unit, _ in verb.readers(counted)):
        if len(unit) == 1:
            one.whole.setdefault(number, set()).update(_versions(recording, unit[0].name))
    for folder in folders[1:]:
        shutil.rmtree(folder)
    return one


def _set_up(verb: Verb, folder: Path) -> None:
    verb.set_up(folder)


def _counted(verb: Verb, folder: Path) -> tuple[Completed, list[str], float]:
    counter, began = Counter(), time.monotonic()
    with layer(folder, counter):
        completed = verb.first(folder)
    return completed, counter.kinds, time.monotonic() - began


def _recorded(verb: Verb, folder: Path) -> tuple[list[Any], dict[str, bytes]]:
    recorder = Recorder(folder)
    with layer(folder, recorder):
        verb.first(folder)
    recorder.look("end")
    return recorder.moments, recorder.blobs


def _versions(recording: Recording, name: str) -> set[str]:
    """The digests of the contents that a file had under its own name; it has a new inode for each."""
    last: dict[Any, str] = {}
    for moment in recording.moments:
        for (_, entry), key in moment.look.names.items():
            if entry == name and key in moment.look.contents:
                last[key] = moment.look.contents[key]
    return {hashlib.sha256(bytes.fromhex(digest)).hexdigest()[:16] for digest in last.values()}


# ------------------------------------------------------------------------------------------------------------- judgement


def _accepted(verb: Verb, folder: Path) -> tuple[dict[int, set[str]], list[str]]:
    """Return the digest of each unit that its reader accepts, and a fault for each error that is not clear."""
    digests: dict[int, set[str]] = {}
    faults = []
    for number, (unit, read) in enumerate(verb.readers(folder)):
        try:
            read()
        except OURS as error:
            text = str(error)
            if not text.strip() or text.count("\n") > 6 or len(text) > 1500:
                faults.append(f"reader {number}: unclear error {text[:200]!r}")
        except BaseException:
            faults.append(f"reader {number}: {traceback.format_exc(limit=-2)[-600:]}")
        else:
            digests[number] = {digest_of(unit)}
    return digests, faults


def _half_taken(one: Reference, folder: Path) -> list[str]:
    """Return a fault for each unit that a reader accepts and that is not whole."""
    digests, faults = _accepted(one.verb, folder)
    for number, accepted in digests.items():
        if not accepted <= one.whole.get(number, set()):
            unit = [path.name for path in one.verb.readers(folder)[number][0]]
            faults.append(f"reader {number} took for whole what no command wrote: {', '.join(unit)}")
    return faults


def _again(one: Reference, folder: Path) -> list[str]:
    """Run the command again, as the docs or its error say; return what differs from an uninterrupted command."""
    errors = []
    for command in one.verb.again:
        completed = command(folder)
        errors += _unclear(completed)
        if completed.returncode == 0:
            break
    else:
        return [f"run again, it fails: {completed.stderr.strip()[-400:]}", *errors]
    left = [str(p.relative_to(folder)) for p in folder.rglob("*") if _TEMPORARY.search(p.name)]
    wrong = _differing(one, folder)
    faults = [f"run again, other content: {', '.join(wrong[:5])}"] if wrong else []
    faults += [f"a temporary file is left: {', '.join(left[:4])}"] if left else []
    return errors + faults


def _after_crash(one: Reference, folder: Path) -> list[str]:
    return _half_taken(one, folder) + _again(one, folder)


def _differing(one: Reference, folder: Path) -> list[str]:
    """Return the files that are not as an uninterrupted command leaves them."""
    result = contents(folder)
    names = [name for name in {**result, **one.result} if result.get(name) != one.result.get(name)]
    return sorted(name for name in names if not name.endswith((".part", ".lock")))


def _unclear(completed: Completed) -> list[str]:
    """Return a fault if a command failed otherwise than with one clear error."""
    if completed.returncode == 0:
        return []
    if "Traceback" in completed.stderr:
        return [f"a traceback: {completed.stderr.strip()[-600:]}"]
    lines = [line for line in completed.stderr.splitlines() if "error: " in line.lower()]
    return [] if len(lines) == 1 else [f"{len(lines)} lines of errors: {completed.stderr.strip()[-400:]}"]


def _row(what: str, n: int, faults: list[str], details: str) -> Row:
    return logged(what, n, tuple(faults), details)


# ------------------------------------------------------------------------------------------------------------ the suites


def killed(one: Reference, home: Path, n: int, seed: int = 0) -> Row:
    """Kill the command `n` times: at random moments, and before, after and within random file operations."""
    rng = np.random.default_rng([seed, sum(map(ord, one.verb.name))])
    faults: list[str] = []
    n_killed = n_at_operation = 0
    slowest = 0.0
    for case in range(n):
        folder = one.new(home / f"kill-{case}")
        if case % 2:
            at, when = int(rng.integers(len(one.kinds))), str(rng.choice(("before", "after", "middle")))
            what = f"killed {when} operation {at} ({one.kinds[at]})"
            ended = Child(_with_layer, one.verb, folder, KillAt(at, when)).wait()
            n_at_operation += ended.was_killed
        else:
            after = float(rng.uniform(0, 1.1 * one.seconds))
            what = f"killed after {after:.3f} s"
            ended = Child(one.verb.first, folder).wait(kill_after=after)
        n_killed += ended.was_killed
        began = time.monotonic()
        problems = in_child(_after_crash, one, folder)
        slowest = max(slowest, time.monotonic() - began)
        faults += [f"{what}: {problem}" for problem in problems]
        shutil.rmtree(folder)
    details = (
        f"{n_killed} died, {n_at_operation} of them at a file operation; slowest reading and second run {slowest:.1f} s"
    )
    return _row(f"{one.verb.name}: {_KILLED}", n, faults, details)


def _with_layer(verb: Verb, folder: Path, act: Any) -> Completed:
    with layer(folder, act):
        return verb.first(folder)


def power_cut(one: Reference, home: Path, n: int, seed: int = 0) -> Row:
    """Cut the power `n` times: names and contents that were not waited for are lost, in part or in another order."""
    rng = np.random.default_rng([seed, 1, sum(map(ord, one.verb.name))])
    moments = len(one.recording.moments)
    faults: list[str] = []
    outcomes = Counts[str]()
    cases = [(int(rng.integers(1, moments)), ("mixed", "names", "nothing")[k % 3]) for k in range(n)]
    cases[-3:] = [(moments - 1, how) for how in ("names", "nothing", "mixed")][: len(cases)]
    for at, how in cases:
        folder = home / f"power-{at}-{how}"
        one.recording.write_state(at, how, rng, folder)
        what = f"power cut at moment {at} ({one.recording.moments[at].what}), {how}"
        problems = in_child(_half_taken, one, folder)
        if at == moments - 1:
            lost = contents(folder)
            names = [name for name in one.result if lost.get(name) != one.result[name]]
            problems += [f"the command had ended, and this is lost: {', '.join(names[:4])}"] if names else []
        problems += in_child(_again, one, folder)
        outcomes["whole" if not problems else "fault"] += 1
        faults += [f"{what}: {problem}" for problem in problems]
        shutil.rmtree(folder)
    return _row(f"{one.verb.name}: {_POWER}", len(cases), faults, f"{moments} moments recorded")


def full_disk(one: Reference, home: Path, every_write: bool) -> Row:
    """Fail the n-th operation that needs space and all after it, for every n until the command succeeds."""
    faults: list[str] = []
    n, step = 0, 1 if every_write else 9
    at, n_tolerated = 0, 0
    while True:
        folder = one.new(home / f"full-{at}")

        ended = Child(_until_full, one.verb, folder, at).wait()
        if ended.value is None:
            faults.append(f"full at {at}: {ended.error[-600:]}")
            break
        completed, failed = ended.value
        if not failed:
            shutil.rmtree(folder)
            break
        n += 1
        n_tolerated += completed.returncode == 0
        faults += [f"full at {at} ({failed}): {problem}" for problem in in_child(_after_full, one, folder, completed)]
        shutil.rmtree(folder)
        at += step
    return _row(f"{one.verb.name}: {_FULL}", n, faults, f"{n_tolerated} succeeded without it")


def _until_full(verb: Verb, folder: Path, at: int) -> tuple[Completed, str]:
    act = FullAt(at)
    return _with_layer(verb, folder, act), act.failed


def _after_full(one: Reference, folder: Path, completed: Completed) -> list[str]:
    problems = _unclear(completed)
    if completed.returncode and not re.search(r"disk is full.*free some space", completed.stderr.replace("\n", " ")):
        problems.append(f"no remedy: {completed.stderr.strip()[-300:]}")
    problems += _half_taken(one, folder)
    digests = _accepted(one.verb, folder)[0]
    missing = [number for number in one.old if number not in digests]
    if missing and one.verb.has_old and completed.returncode:
        problems.append(f"the earlier result is harmed: readers {missing}")
    left = [p.name for p in folder.rglob("*") if p.name.endswith((".part", ".tmp", ".lock"))]
    problems += [f"a temporary file is left after the error: {', '.join(left[:3])}"] if left else []
    return problems + _again(one, folder)


def full_file_system(one: Reference, home: Path, every_write: bool) -> Row:
    """Run the command on disks of memory of a growing size, until one is large enough: native code is refused space too."""
    faults: list[str] = []
    n = n_failed = 0
    what = f"{one.verb.name}: {_FEW_PAGES}"
    mount = home / "disk"
    mount.mkdir()
    with _disk(mount, 1 << 26) as is_allowed:
        if not is_allowed:
            mount.rmdir()
            return _row(what, 0, [], "not run: no disk of memory may be mounted here")
        one.new(mount / "f")
        stat = os.statvfs(mount)
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        in_child(one.verb.first, mount / "f")
        stat = os.statvfs(mount)
        most = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    pages = max(1, (most - used) // _BLOCK)
    step = max(1, pages // (30 if every_write else 3))
    free = 0
    while True:
        with _disk(mount, 1 << 26):
            folder = one.new(mount / "f")
            _resize(mount, used + free * _BLOCK)
            ended = Child(one.verb.first, folder).wait()
            _resize(mount, 1 << 26)
            completed = ended.value
            n += 1
            if completed is None:
                faults.append(f"{free} pages: {ended.error[-600:]}")
            elif completed.returncode:
                n_failed += 1
                faults += [f"{free} pages: {problem}" for problem in in_child(_after_full, one, folder, completed)]
            else:
                faults += [f"{free} pages: {problem}" for problem in in_child(_half_taken, one, folder)]
        if (completed is not None and completed.returncode == 0) or free > 4 * pages + 64:
            break
        free += step
    mount.rmdir()
    return _row(
        what, n, faults, f"{n_failed} sizes were too small; {_BLOCK} bytes a page, {step} pages between two sizes"
    )


@contextmanager
def _disk(mount: Path, size: int) -> Iterator[bool]:
    """A disk of memory of this size in bytes, if this process may mount one."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)]
    try:
        is_mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(mount)], check=True, capture_output=True)


def _resize(mount: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={max(size, _BLOCK)}", str(mount)], check=True, capture_output=True)


def two_at_once(one: Reference, home: Path, n: int, seed: int = 0) -> Row:
    """Run the command twice at once on one folder: one may wait or be refused, and the result is whole."""
    rng = np.random.default_rng([seed, 2])
    faults: list[str] = []
    outcomes = Counts[str]()
    for case in range(n):
        folder = one.new(home / f"two-{case}")
        apart = 0.0 if case % 3 == 0 else float(rng.uniform(0, one.seconds))
        first = Child(one.verb.first, folder)
        time.sleep(apart)
        second = Child(one.verb.first, folder)
        ended = [first.wait(), second.wait()]
        problems = [f"no result: {one_ended.error[-600:]}" for one_ended in ended if one_ended.value is None]
        for one_ended in ended:
            problems += _unclear(one_ended.value) if one_ended.value is not None else []
        statuses = sorted(e.value.returncode for e in ended if e.value is not None)
        outcomes["both succeeded" if statuses == [0, 0] else "one was refused"] += 1
        if 0 not in statuses:
            problems.append(f"neither succeeded: {[e.value.stderr[-300:] for e in ended if e.value is not None]}")
        problems += in_child(_half_taken, one, folder)
        wrong = _differing(one, folder)
        problems += [f"other content: {', '.join(wrong[:5])}"] if wrong else []
        faults += [f"{apart:.2f} s apart: {problem}" for problem in problems]
        shutil.rmtree(folder)
    details = ", ".join(f"{count} times {outcome}" for outcome, count in sorted(outcomes.items()))
    return _row(f"{one.verb.name}: {_TWICE}", n, faults, details)


def clock_jumps(one: Reference, home: Path, n: int, seed: int = 0) -> Row:
    """Run the command while the clock jumps by up to a year at each look at it; files get times of such a clock too."""
    faults: list[str] = []
    for case in range(n):
        folder = one.new(home / f"clock-{case}")
        completed = in_child(_with_jumps, one.verb, folder, seed + case)
        problems = _unclear(completed)
        wrong = _differing(one, folder)
        problems += [f"other content: {', '.join(wrong[:5])}"] if wrong else []
        for path in folder.rglob("metrics.jsonl"):
            speeds = [float(x) for x in re.findall(r'"records_per_s": ([^,}]+)', path.read_text())]
            problems += [] if all(0 < x < 1e7 for x in speeds) else [f"speeds {speeds}"]
        problems += in_child(_half_taken, one, folder)
        faults += [f"case {case}: {problem}" for problem in problems]
        shutil.rmtree(folder)
    return _row(f"{one.verb.name}: {_CLOCK}", n, faults, "by up to a year, forward and back")


def _with_jumps(verb: Verb, folder: Path, seed: int) -> Completed:
    rng, clock = np.random.default_rng(seed), time.time
    time.time = lambda: clock() + float(rng.uniform(-YEAR_S, YEAR_S))
    time.time_ns = lambda: int(1e9 * time.time())

    def stamp(operation: Operation, do: Callable[[], Any]) -> Any:
        value = do()
        if operation.kind in ("rename", "open") and Path(operation.path).is_file():
            moment = time.time()
            os.utime(operation.path, (moment, moment))
        return value

    with layer(folder, stamp):
        return verb.first(folder)


# ---------------------------------------------------------------------------------------------------------- all of them


def rows(home: Path, kills: int, every_write: bool, kinds: Sequence[str] = ()) -> list[Row]:
    """Return a row for each command and kind of crash.

    Args:
        home: an empty folder.
        kills: how often each command is killed; as many power cuts.
        every_write: fail every write, not each ninth.
        kinds: the rows to return; all.
    """
    n_pairs = 6 if every_write else 1
    suites: dict[str, Callable[[Reference], Row]] = {
        _KILLED: lambda one: killed(one, home, kills),
        _POWER: lambda one: power_cut(one, home, max(3, kills)),
        _FULL: lambda one: full_disk(one, home, every_write),
        _FEW_PAGES: lambda one: full_file_system(one, home, every_write),
        _TWICE: lambda one: two_at_once(one, home, n_pairs),
        _CLOCK: lambda one: clock_jumps(one, home, n_pairs),
    }
    table: list[Row] = []
    for verb in verbs(home):
        wanted = [suite for kind, suite in suites.items() if not kinds or f"{verb.name}: {kind}" in kinds]
        one = reference(verb, home / "references") if wanted else None
        table += [suite(one) for suite in wanted if one]
    return table
