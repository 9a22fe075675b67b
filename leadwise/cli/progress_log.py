"""Progress as plain lines, for output that goes to a file or a pipe, where an animated bar cannot be drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

_APART_S = 10.0  # least time between two lines of one task, apart from its first and its last line
_SILENCE_S = 60.0  # a task that progresses slowly still writes a line this often
_SHARE = 0.1  # of the task's total: a faster task writes a line whenever this much more is done


@dataclass
class _TaskState:
    began: float  # seconds on the clock
    first: int  # units done at the first call
    printed_at: float
    printed: int  # units done in the last printed line
    line: str = ""  # the current state, if it is not printed yet
    finished: bool = False


class ProgressLog:
    """Print a line when a task starts, some while it runs, and one when it ends.

    While a task runs, its lines are at least 10 s apart. One is due when another tenth of the task is done or when a
    minute has passed.
    """

    def __init__(
        self, write: Callable[[str], None], rate: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`write` prints one line; with `rate`, lines include the number of records per second."""
        self._write, self._rate, self._clock = write, rate, clock
        self._tasks: dict[str, _TaskState] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Print the last state of every task that did not reach its total."""
        for task in self._tasks.values():
            if task.line:
                self._print(task.line)

    def update(self, what: str, done: int, total: int) -> None:
        """Take a progress report: `done` of `total` units of the task `what`, a name or "name|details"."""
        now = self._clock()
        name, _, details = what.partition("|")
        title = f"{name} {details}".rstrip()
        task = self._tasks.get(name)

        # the first report of a task, or of a task that starts again under the same name
        is_new = task is None or (task.finished and done < total)
        if task is None or is_new:
            task = self._tasks[name] = _TaskState(now, done, now, done)
        elif task.finished:
            return

        # the line for this state, printed at once or stored until `__exit__`
        share = f" ({done / total:.0%})" if total else ""
        task.line = f"{title}: {done:,} of {total:,}{share}"
        if is_new and done < total:
            task.line += ", started"
        else:
            task.line += f", {'finished' if done >= total else 'running'} after {self._elapsed(task, done, now)}"
        task.finished = done >= total
        if is_new or task.finished or self._is_due(task, done, total, now):
            self._print(task.line)
            task.line, task.printed_at, task.printed = "", now, done

    def _elapsed(self, task: _TaskState, done: int, now: float) -> str:
        seconds = now - task.began
        speed = f", {(done - task.first) / seconds:,.0f} records/s" if self._rate and seconds > 0 else ""
        return f"{timedelta(seconds=round(seconds))}{speed}"

    @staticmethod
    def _is_due(task: _TaskState, done: int, total: int, now: float) -> bool:
        waited_s = now - task.printed_at
        return waited_s >= _APART_S and (done - task.printed >= _SHARE * total or waited_s >= _SILENCE_S)

    def _print(self, line: str) -> None:
        self._write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")
