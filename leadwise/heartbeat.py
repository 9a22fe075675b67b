"""Signs of life of the processes of a run, so that an error can name the process that hangs or has ended.

A thread of each process writes a record about it to the store of the process group every second: its host, its step, how many
collectives it has come to, and where in the code it is. When a collective fails, the records tell which process did not come
to it. The thread of rank 0 also logs a process that is much slower than the others, and one that the others wait for.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

log = logging.getLogger(__name__)

GRACE_S = 10.0  # after the run has failed, in which a process must have left it; then it ends itself
SLOW = 2.0  # times the time that the others need for their own work in a step: a slow process
_SLOW_BY_S = 0.25  # and slower by so many seconds
_FIRST_STEPS = 5  # of which the first are slower
_RECENT = 9  # steps; their median does not see a validation, which rank 0 does alone
_LOOK_S = 0.05  # between two looks at what the main thread does
_AGAIN_S = 600.0  # between two warnings about one process
_SILENT = 4  # intervals without a record after which a process gives no sign of life
_VERDICT = "verdict"


@dataclass(frozen=True)
class Record:
    """What a process says about itself."""

    rank: int
    host: str
    pid: int
    beat: int  # number of this record
    step: int  # of the training; -1 before the first
    n_marks: int  # collectives that it has come to
    place: str  # where its main thread is
    waits: bool  # in a collective
    work_s: float  # own work in a step, without collectives and the backward pass; median of the last steps
    leaves: bool  # because another process failed, or because it was terminated

    def name(self, n_ranks: int) -> str:
        return f"rank {self.rank} of {n_ranks} on {self.host} (process {self.pid})"


class Heartbeat:
    """The records of all processes, and the thread that writes that of this one."""

    def __init__(self, store: Any, rank: int, n_ranks: int, timeout_s: float) -> None:
        self._store, self._rank, self._n_ranks, self._timeout_s = store, rank, n_ranks, timeout_s
        self._interval_s = min(1.0, timeout_s / 10)
        self._main = threading.get_ident()
        self._ended, self._leaves = threading.Event(), False
        self._beat, self._step, self._n_marks = 0, -1, 0
        self._own_s = 0.0  # of this step, outside of collectives
        self._recent: deque[float] = deque(maxlen=_RECENT)  # the same of the last steps
        self._last_change: dict[
            int, tuple[int, float]
        ] = {}  # rank -> its last beat, and when this process read it first
        self._warned: dict[tuple[int, str], float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------------------------------ of the main thread

    def start(self) -> None:
        """Write the first record and start the thread."""
        self._write()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it: one that is inside the store when Python ends aborts the process."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def begin_step(self, step: int) -> None:
        """Note that a step of training begins."""
        if self._step >= 0:
            self._recent.append(self._own_s)
        self._step, self._own_s = step, 0.0
        self.begin_collective()

    def begin_collective(self) -> None:
        """Note that this process comes to a collective: a process that has come to fewer is late."""
        self._n_marks += 1

    def verdict(self, timed_out: bool) -> str:
        """Return which process made the run fail, the same text on all processes; '' if none did.

        Args:
            timed_out: a collective took too long. Otherwise a connection was closed or this process was terminated, and no
                process is late.
        """
        try:
            self._leaves = True
            self._write()  # this process ends, and is not the cause
            if not self._store.check([_VERDICT]):
                text = self._judge(timed_out)
                if not text and not self._store.check([_VERDICT]):
                    return ""
                self._store.compare_set(_VERDICT, "", text)
            return str(self._store.get(_VERDICT).decode())
        except RuntimeError:  # the store ends with rank 0 or with torchrun
            return f"the store of the run, which rank 0 or torchrun holds, does not answer rank {self._rank} of {self._n_ranks}"

    # ------------------------------------------------------------------------------------------------- judgement

    def _judge(self, timed_out: bool) -> str:
        """Return which process has ended, gives no sign of life, or did not come to where the others wait; else ''."""
        late = self._late(self._read()) if timed_out else []  # now: what is only slow comes meanwhile
        # where a connection was closed, because another process timed out and judges meanwhile, that one is waited for
        deadline = time.monotonic() + (2 if timed_out else 3) * _SILENT * self._interval_s
        while time.monotonic() < deadline:
            records = [record for record in self._read() if not record.leaves]
            for record in records:
                if not _is_running(record):
                    return f"{record.name(self._n_ranks)} has ended; its last record is of step {record.step}, in {record.place}"
            silent = [(record, self._silent_s(record)) for record in records]
            for record, seconds in silent:
                if seconds > _SILENT * self._interval_s:
                    return (
                        f"{record.name(self._n_ranks)} gives no sign of life since {seconds:.0f} s; it was at step "
                        f"{record.step}, in {record.place}"
                    )
            if not records or self._store.check([_VERDICT]):
                return ""  # all leave, or another process knows
            time.sleep(self._interval_s / 4)
        return ", ".join(
            f"{record.name(self._n_ranks)} hangs at step {record.step}, in {record.place}: the others waited for it "
            f"{self._timeout_s:g} s (optim.timeout_s)"
            for record in late
        )

    def _late(self, records: Sequence[Record]) -> list[Record]:
        """Return the processes that have come to the fewest collectives, among those outside of any if there are such.

        A process in a collective is not the cause, although it may be behind others: a broadcast goes from one to the next.
        """
        candidates = [record for record in records if not record.waits] or records
        fewest = min(record.n_marks for record in candidates)
        late = [record for record in candidates if record.n_marks == fewest]
        return late if len(late) < len(records) else []

    def _silent_s(self, record: Record) -> float:
        """Return the seconds since this process read a new record of that rank, on the clock of this process."""
        now = time.monotonic()
        with self._lock:
            beat, when = self._last_change.get(record.rank, (-1, now))
            if beat != record.beat:
                self._last_change[record.rank] = record.beat, now
                return 0.0
        return now - when

    # -------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        failed_at: float | None = None
        late_since: dict[int, tuple[int, float]] = {}
        written = looked = time.monotonic()
        while not self._ended.wait(_LOOK_S):
            now = time.monotonic()
            frame = sys._current_frames().get(self._main)
            if frame is not None and not _is_in_collective(frame):
                self._own_s += now - looked
            looked = now
            if now - written < self._interval_s:
                continue
            written = now
            try:
                self._write()
                records = self._read()
                failed = self._store.check([_VERDICT])
            except RuntimeError:  # the store has ended: so has the run
                return
            for record in records:
                self._silent_s(record)  # notes when it changed
            if self._rank == 0 and not failed:
                self._warn_of_slow(records)
                self._warn_of_late(records, late_since)
            if failed and failed_at is None:
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
                log.error(
                    "rank %d of %d does not leave the run, which has failed: it is ended", self._rank, self._n_ranks
                )
                os._exit(1)

    def _warn_of_slow(self, records: Sequence[Record]) -> None:
        """Log each process whose own work in a step takes SLOW times as long as that of the others."""
        if min(record.step for record in records) < _FIRST_STEPS:
            return
        for record in records:
            typical = statistics.median(other.work_s for other in records if other.rank != record.rank)
            if record.work_s > SLOW * typical + _SLOW_BY_S and self._may_warn(record.rank, "slow"):
                log.warning(
                    "%s is slow: its own work in a step takes %.2f s, that of the others %.2f s (median); all wait for it",
                    record.name(self._n_ranks), record.work_s, typical,
                )  # fmt: skip

    def _warn_of_late(self, records: Sequence[Record], late_since: dict[int, tuple[int, float]]) -> None:
        """Log each process that the others have waited for during half of the timeout."""
        late, now = {record.rank: record for record in self._late(records)}, time.monotonic()
        for rank in list(late_since):
            if rank not in late or late_since[rank][0] != late[rank].n_marks:
                del late_since[rank]
        for rank, record in late.items():
            since = late_since.setdefault(rank, (record.n_marks, now))[1]
            if now - since > self._timeout_s / 2 and self._may_warn(rank, "late"):
                log.warning(
                    "the others wait for %s since %.0f s: it is at step %d, in %s; the run ends after %g s (optim.timeout_s)",
                    record.name(self._n_ranks), now - since, record.step, record.place, self._timeout_s,
                )  # fmt: skip

    def _may_warn(self, rank: int, about: str) -> bool:
        now = time.monotonic()
        if now - self._warned.get((rank, about), -_AGAIN_S) < _AGAIN_S:
            return False
        self._warned[rank, about] = now
        return True

    # --------------------------------------------------------------------------------------------------- the store

    def _write(self) -> None:
        place, waits = _place(sys._current_frames().get(self._main))
        waits |= self._leaves  # it waited, until the error
        self._beat += 1
        record = Record(
            self._rank, socket.gethostname(), os.getpid(), self._beat, self._step, self._n_marks, place, waits,
            statistics.median(self._recent) if self._recent else 0.0, self._leaves,
        )  # fmt: skip
        self._store.set(str(self._rank), json.dumps(asdict(record)))

    def _read(self) -> list[Record]:
        """Return the records of the processes that have written one, by rank."""
        keys = [str(rank) for rank in range(self._n_ranks)]
        return [Record(**json.loads(self._store.get(key))) for key in keys if self._store.check([key])]


def connect(rank: int, n_ranks: int, timeout_s: float) -> Heartbeat:
    """Return the heartbeat of this process, through a connection of its own to the store that `torchrun` started.

    A connection is used by one thread at a time, and that of the process group waits for minutes.
    """
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, False,
        timeout=timedelta(seconds=max(timeout_s, 10.0)), wait_for_workers=False,
    )  # fmt: skip
    # torchrun may start the processes again, with the same store
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"leadwise/heartbeat/{attempt}", store)  # type: ignore[attr-defined]
    return Heartbeat(own, rank, n_ranks, timeout_s)


def _is_running(record: Record) -> bool:
    """Return False if the process was on this machine and is no more; True also if it is on another one."""
    if record.host != socket.gethostname():
        return True
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{record.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return True  # no /proc on this system


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """Return where a thread is, such as "read (loader.py:120)", outside of torch; and whether it is in a collective."""
    if frame is None:
        return "unknown", False
    is_in_collective, inner = _is_in_collective(frame), frame
    while "torch" in Path(inner.f_code.co_filename).parts and inner.f_back is not None:
        inner = inner.f_back
    return f"{inner.f_code.co_name} ({Path(inner.f_code.co_filename).name}:{inner.f_lineno})", is_in_collective


def _is_in_collective(frame: FrameType) -> bool:
    """Return whether a frame is of the code that calls collectives, or the backward pass, in which gradients are exchanged."""
    if frame.f_code.co_name == "_engine_run_backward":
        return True
    parts = Path(frame.f_code.co_filename).parts
    return "torch" in parts and ("distributed" in parts or parts[-1] == "distributed.py")
