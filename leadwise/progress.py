"""The progress callback that every long operation takes."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (task name, units done, units in total). A name of the form "task|details" updates the details of a task."""


def relabel(progress: Progress | None, what: str) -> Progress | None:
    """The same callback, told `what` whatever the work calls itself."""
    return None if progress is None else lambda _, done, total: progress(what, done, total)


def partial_progress(progress: Progress | None, begin: int, n: int, total: int) -> Progress | None:
    """The same callback for a piece of `n` out of `total`: it counts on from `begin`, a recording of several windows once."""
    if progress is None:
        return None
    return lambda what, done, of: progress(what, begin + n * done // of, total)
