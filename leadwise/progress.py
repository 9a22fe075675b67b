"""The type of the progress callback that every long operation accepts, and functions that adapt one."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (task name, units done, units in total). A name of the form "task|details" updates the details of a task."""


def relabel(progress: Progress | None, what: str) -> Progress | None:
    """A callback that reports to `progress` under the task name `what`, whatever name it is called with."""
    return None if progress is None else lambda _, done, total: progress(what, done, total)


def partial_progress(progress: Progress | None, begin: int, n: int, total: int) -> Progress | None:
    """A callback for one part of a longer task: it reports `begin` plus the finished share of `n`, out of `total`.

    The part may count other units than the task, such as windows instead of recordings.
    """
    if progress is None:
        return None
    return lambda what, done, n_part: progress(what, begin + n * done // n_part, total)
