"""The command line called in this process: as `python -m leadwise` would run, without the seconds that a new process takes."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leadwise import cli


@dataclass(frozen=True)
class Completed:
    """What a command left: its exit status and all that it printed."""

    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def own_logging() -> Iterator[None]:
    """Logging as in a fresh process: `main` sets it up only where nothing has, and pytest has."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def invoke(*words: object, cwd: Path | None = None) -> Completed:
    """Run one command, such as `invoke("probe", run_folder, cohort_folder)`, in the folder `cwd`."""
    out, err = io.StringIO(), io.StringIO()
    arguments = sys.argv
    sys.argv = ["leadwise", *map(str, words)]
    status = 0
    try:
        with (
            own_logging(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(cwd or Path.cwd()),
        ):
            try:
                cli.main()
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except BaseException:
                status = 1
                traceback.print_exc()  # as the interpreter would, on the redirected stderr
    finally:
        sys.argv = arguments
    return Completed(status, out.getvalue(), err.getvalue())
