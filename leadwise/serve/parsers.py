"""A pool of processes that read uploads. One that hangs, dies or needs too much memory is replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from leadwise.serve.frames import FrameError, read_frame, write_frame
from leadwise.serve.settings import Limits

log = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")  # a file system in memory, on Linux
_START_S = 60.0  # to import the readers, on a loaded machine
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT")  # passed on


class ParserError(RuntimeError):
    """An upload that was not answered; `status` is that of HTTP, the message is for the user."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Parser:
    """One process with its scratch folder."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        place = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="leadwise-", dir=place))
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        settings = {"limits": dataclasses.asdict(limits), "folder": str(self.folder)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "leadwise.serve.parser_process", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, **threads, "TMPDIR": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,  # Ctrl-C is for the server, which ends its parsers itself
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until the process can answer.

        Raises:
            ParserError: it ended, or needs too long.
        """
        with self._killed_after(_START_S):
            frame = self._next_frame()
        if frame is None:
            raise ParserError(503, "the process that reads files did not start; start the server again")

    def ask(self, table: dict[str, Any], content: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Return the answer to a question about an upload.

        Raises:
            ParserError: the process ended without an answer: by a limit, or by a fault of a reader.
        """
        assert self._process.stdin is not None
        with self._killed_after(self._limits.parse_s) as expired:
            try:
                write_frame(self._process.stdin, table, [content])
                frame = self._next_frame()
            except OSError:
                frame = None
        if frame is None:
            reason = f"took longer than {self._limits.parse_s:g} s" if expired.is_set() else "exceeded a limit"
            raise ParserError(503, f"reading the file {reason} and was given up; export it again in another format")
        return frame

    def _next_frame(self) -> tuple[dict[str, Any], list[bytes]] | None:
        """Return the next message; None if the process ended, or wrote something else."""
        assert self._process.stdout is not None
        try:
            return read_frame(self._process.stdout)
        except (FrameError, ValueError):
            return None

    @contextlib.contextmanager
    def _killed_after(self, seconds: float) -> Iterator[threading.Event]:
        """Kill the process if the block takes longer, which ends the block; the event is then set."""
        expired = threading.Event()

        def kill() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield expired
        finally:
            timer.cancel()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process and remove its scratch folder."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class ParserPool:
    """`limits.parsers` processes, each with one upload at a time. Its methods may be called from several threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._idle: queue.Queue[Parser] = queue.Queue()
        self._all: set[Parser] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._starting: list[threading.Thread] = []  # that start a process in place of another

    def start(self) -> None:
        """Start the processes and wait until they can answer."""
        parsers = [self._start_one() for _ in range(self._limits.parsers)]
        for parser in parsers:
            parser.wait_ready()
            self._idle.put(parser)

    def __enter__(self) -> ParserPool:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def parsers(self) -> tuple[Parser, ...]:
        """The processes that run now."""
        with self._lock:
            return tuple(self._all)

    def ask(self, table: dict[str, Any], content: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Return the answer of a free process to a question about an upload: a table with `status` 200, and blobs.

        Raises:
            ParserError: the upload cannot be read, or no process is free in time.
        """
        parser = self._take()
        is_usable = False
        try:
            answer, blobs = parser.ask(table, content)
            is_usable = not answer.get("is_last", False)
        finally:
            if is_usable:
                self._idle.put(parser)
            else:
                self._replace(parser)
        if answer["status"] != 200:
            raise ParserError(int(answer["status"]), str(answer["error"]))
        return answer, blobs

    def _take(self) -> Parser:
        """Return a free process that is alive."""
        while True:
            try:
                parser = self._idle.get(timeout=self._limits.parse_s)
            except queue.Empty:
                raise ParserError(503, "too many files are read at the moment; try again in a few seconds") from None
            if parser.is_alive:
                return parser
            self._replace(parser)

    def _start_one(self) -> Parser:
        parser = Parser(self._limits)
        with self._lock:
            self._all.add(parser)
        return parser

    def _replace(self, parser: Parser) -> None:
        """End a process and start another one, without waiting for it."""
        self._drop(parser)
        if not self._closing.is_set():
            thread = threading.Thread(target=self._start_until_ready, daemon=True)
            with self._lock:
                self._starting = [one for one in self._starting if one.is_alive()] + [thread]
            thread.start()

    def _start_until_ready(self) -> None:
        for pause_s in (0.0, 1.0, 5.0, 30.0):
            if self._closing.wait(pause_s):
                return
            parser = self._start_one()
            try:
                if not self._closing.is_set():  # else nothing ends this process
                    parser.wait_ready()
            except ParserError:
                self._drop(parser)
                continue
            if self._closing.is_set():
                self._drop(parser)
            else:
                self._idle.put(parser)
            return
        log.error("a process that reads files does not start; start the server again")

    def _drop(self, parser: Parser) -> None:
        with self._lock:
            self._all.discard(parser)
        parser.close()

    def close(self) -> None:
        """End all processes, also those that are being started."""
        self._closing.set()
        for parser in self.parsers:
            self._drop(parser)
        for thread in tuple(self._starting):
            if thread.ident is not None:
                thread.join()
        for parser in self.parsers:
            self._drop(parser)
