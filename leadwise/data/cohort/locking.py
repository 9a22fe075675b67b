"""Lock the folder in which a cohort is prepared: one `prepare` at a time, or any number of different shares of it.

The locks belong to processes, not to files: a file that a killed process left behind locks nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from leadwise.data.cohort.layout import CohortError

_PROBE_S = 1.0  # a share holds the lock of the whole for an instant, to see that it is free
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def locked(partial: Path, share: tuple[int, int] | None = None) -> Iterator[None]:
    """Hold the lock of a whole preparation in `partial`, or of one share of it.

    A whole preparation excludes every other one and all shares; a share excludes the whole and the same share.

    Raises:
        CohortError: another process prepares the same.
    """
    name = "whole" if share is None else f"share-{share[0]}-of-{share[1]}"
    own = _file(partial, name)
    own.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        _acquire(stack, own, partial)
        for other in _others(partial, share):
            if other != own:
                with ExitStack() as probe:
                    _acquire(probe, other, partial)
        yield


def _others(partial: Path, share: tuple[int, int] | None) -> list[Path]:
    """The lock files that may not be locked by another process meanwhile."""
    if share is not None:
        return [path for path in [_file(partial, "whole")] if path.exists()]
    beginning, ending = f".{partial.name}.", ".lock"
    names = (path.name for path in partial.parent.iterdir())
    return sorted(partial.with_name(name) for name in names if name.startswith(beginning) and name.endswith(ending))


def _file(partial: Path, name: str) -> Path:
    return partial.with_name(f".{partial.name}.{name}.lock")


def _acquire(stack: ExitStack, path: Path, partial: Path) -> None:
    """Lock a file until the stack ends, which deletes it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_PROBE_S)
    except Timeout:
        raise CohortError(
            f"another `leadwise prepare` is writing {partial}; wait until it ends, or choose another folder with -o"
        ) from None
    except NotImplementedError:
        return  # filelock raises it for a file system without locks
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return
        raise
    stack.callback(lock.release)
    stack.callback(path.unlink, missing_ok=True)  # called first: deleted while it is locked
