"""A layer over the file operations of a process: counts them, kills or fails at one of them, or records them for a power cut.

It is between Python and the operating system, below buffers. Code that is not Python (Parquet, safetensors, torch.save)
writes past it: its files are found when the folder is looked at, before and after each operation.
"""

# paths are those of `os`: pathlib calls the functions that are replaced here
# ruff: noqa: PTH100, PTH110, PTH112, PTH115, PTH116, PTH118, PTH119

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

WRITING = ("open", "write", "fsync", "rename", "mkdir", "link")  # what fails on a full disk
_FRESH_NS = 50_000_000  # a file changed this recently may change again without another time of modification
_KINDS = {
    "replace": "rename", "rename": "rename", "unlink": "unlink", "remove": "unlink", "mkdir": "mkdir", "rmdir": "rmdir",
    "link": "link",
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """A file operation: what it does, to which path, and the path of a rename's source."""

    kind: str
    path: str
    source: str = ""


Act = Callable[[Operation, Callable[[], Any]], Any]
"""What is done with an operation; the second argument does it, and what it returns is returned."""


@contextmanager
def layer(root: Path, act: Act) -> Iterator[None]:
    """Give every operation that writes below `root` to `act`, until the block ends."""
    top = os.path.realpath(root)

    def beneath(path: Any, dir_fd: int | None = None) -> str | None:
        if isinstance(path, int):
            text = os.readlink(f"/proc/self/fd/{path}")
        elif dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fspath(path))
        else:
            text = os.path.abspath(os.fspath(path))
        text = os.fsdecode(text)
        return text if text == top or text.startswith(top + "/") else None

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            content = bytes(data)
            path = beneath(self.fileno()) or ""

            def write_all() -> int:
                return io.FileIO.write(self, content)

            write_all.half = lambda: io.FileIO.write(self, content[: len(content) // 2])  # type: ignore[attr-defined]
            return int(act(Operation("write", path), write_all))

    opened, opened_low, synced = builtins.open, os.open, os.fsync

    def open_file(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        path = None if isinstance(file, int) or opener is not None else beneath(file)
        if path is None or not set(mode) & set("wax+"):
            return opened(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = act(Operation("open", path), lambda: Raw(path, mode.replace("b", "").replace("t", "")))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline)
        text.mode = mode
        return text

    def open_low(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = beneath(path, dir_fd) if flags & os.O_CREAT else None
        if place is None:
            return opened_low(path, flags, mode, dir_fd=dir_fd)
        return int(act(Operation("open", place), lambda: opened_low(path, flags, mode, dir_fd=dir_fd)))

    def sync(descriptor: int) -> None:
        path = beneath(descriptor)
        act(Operation("fsync", path), lambda: synced(descriptor)) if path else synced(descriptor)

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if len(args) > 1 and name in ("replace", "rename", "link"):
                place = beneath(args[1], options.get("dst_dir_fd"))
                source = beneath(args[0], options.get("src_dir_fd")) or ""
            else:
                place, source = beneath(args[0], options.get("dir_fd")), ""
            if place is None or (name == "mkdir" and os.path.exists(place)):
                return original(*args, **options)
            return act(Operation(_KINDS[name], place, source), lambda: original(*args, **options))

        return call

    originals = {name: getattr(os, name) for name in _KINDS}
    supported = set(os.supports_dir_fd)
    for name, original in originals.items():
        replacement = wrapped(name, original)
        setattr(os, name, replacement)
        if original in supported:
            os.supports_dir_fd.add(replacement)  # shutil asks for it
    builtins.open = io.open = open_file
    os.open, os.fsync = open_low, sync  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.open = io.open = opened
        os.open, os.fsync = opened_low, synced
        for name, original in originals.items():
            setattr(os, name, original)


class Counter:
    """Count the operations of each kind; nothing else."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def __call__(self, operation: Operation, do: Callable[[], Any]) -> Any:
        self.kinds.append(operation.kind)
        return do()


class KillAt:
    """Kill this process before, after, or in the middle of operation number `at`."""

    def __init__(self, at: int, when: str) -> None:
        self.left, self.when = at, when

    def __call__(self, operation: Operation, do: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left >= 0:
            return do()
        if self.when == "middle" and operation.kind == "write":
            do.half()  # type: ignore[attr-defined]
        elif self.when == "after":
            do()
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        return None


class FullAt:
    """Fail operation number `at` of those that need space, and all that follow: the disk is full from there on.

    A rename needs none where its name replaces another, or one that was deleted before.
    """

    def __init__(self, at: int) -> None:
        self.left, self.failed, self.free = at, "", set[str]()

    def __call__(self, operation: Operation, do: Callable[[], Any]) -> Any:
        if operation.kind == "unlink":
            self.free.add(operation.path)
        if operation.kind not in WRITING or (operation.kind == "fsync" and os.path.isdir(operation.path)):
            return do()
        if operation.kind == "rename" and (operation.path in self.free or os.path.exists(operation.path)):
            return do()
        self.left -= 1
        if self.left >= 0:
            return do()
        self.failed = self.failed or f"{operation.kind} {os.path.basename(operation.path)}"
        if operation.kind == "write":
            do.half()  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ------------------------------------------------------------------------------------------------------------ power cut

Key = tuple[int, int]  # inode, and how often its number was given to a new file
Entry = tuple[Key, str]  # folder and name


@dataclass
class Look:
    """The tree at a time: names in folders, and contents of files as digests."""

    names: dict[Entry, Key] = field(default_factory=dict)
    contents: dict[Key, str] = field(default_factory=dict)
    folders: set[Key] = field(default_factory=set)


@dataclass
class Moment:
    """The tree after an operation, and what the operation brought to the disk."""

    what: str
    look: Look
    synced: Key | None  # file or folder


class Recorder:
    """Record the tree before and after each operation."""

    def __init__(self, root: Path) -> None:
        self.root, self.blobs = root, dict[str, bytes]()
        self.moments: list[Moment] = []
        self._generation: dict[int, int] = {}
        self._alive: set[int] = set()
        self._known: dict[tuple[int, int, int], str] = {}
        self._opened = builtins.open
        self.look("start")

    def __call__(self, operation: Operation, do: Callable[[], Any]) -> Any:
        name = os.path.basename(operation.path)
        if operation.kind != "write":
            self.look(f"before {operation.kind} {name}")
        result = do()
        if operation.kind == "write":
            return result
        synced = self._key(os.stat(operation.path)) if operation.kind == "fsync" else None
        self.look(f"after {operation.kind} {name}", synced)
        return result

    def look(self, what: str, synced: Key | None = None) -> None:
        """Add a moment."""
        look, alive = Look(), set[int]()
        places = [(self.root, os.stat(self.root))]
        while places:
            folder, stat = places.pop()
            alive.add(stat.st_ino)
            key = self._key(stat)
            look.folders.add(key)
            for entry in os.scandir(folder):
                inner = entry.stat(follow_symlinks=False)
                alive.add(inner.st_ino)
                look.names[key, entry.name] = self._key(inner)
                if entry.is_dir(follow_symlinks=False):
                    places.append((Path(entry.path), inner))
                else:
                    look.contents[self._key(inner)] = self._content(entry.path, inner)
        for gone in self._alive - alive:
            self._generation[gone] = self._generation.get(gone, 0) + 1
        self._alive = alive
        self.moments.append(Moment(what, look, synced))

    def _key(self, stat: os.stat_result) -> Key:
        return stat.st_ino, self._generation.get(stat.st_ino, 0)

    def _content(self, path: str, stat: os.stat_result) -> str:
        mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if mark in self._known and time.time_ns() - stat.st_mtime_ns > _FRESH_NS:
            return self._known[mark]
        with self._opened(path, "rb") as file:
            content = file.read()
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        self._known[mark] = digest
        return digest


@dataclass
class Recording:
    """What a recorder hands over: moments, contents by digest, and the folder's own key."""

    moments: list[Moment]
    blobs: dict[str, bytes]

    def write_state(self, at: int, how: str, rng: np.random.Generator, target: Path) -> None:
        """Write to `target` what a disk may hold after a power cut at moment `at`.

        Names and contents that were waited for (fsync) are there. Of the others, with `how` "names": every name is there, and
        no content; "nothing": neither; "mixed": each name and each content may be there, whole, in part, or as zeros.
        """
        # what changed at each moment; a folder's sync brings its names to the disk, a file's its content
        root = self.moments[0].look
        names, contents = dict(root.names), dict(root.contents)
        pending: list[dict[Entry, Key | None]] = []
        before = root
        for moment in self.moments[1 : at + 1]:
            now = moment.look
            changed: dict[Entry, Key | None] = {e: k for e, k in now.names.items() if before.names.get(e) != k}
            changed |= {e: None for e in before.names if e not in now.names and e[0] in now.folders}
            if changed:
                pending.append(changed)
            if moment.synced in now.folders:
                for change in [one for one in pending if any(entry[0] == moment.synced for entry in one)]:
                    _apply(names, change)
                    pending.remove(change)
            elif moment.synced is not None and moment.synced in now.contents:
                contents[moment.synced] = now.contents[moment.synced]
            before = now

        # of what is only in memory, some reaches the disk
        for change in pending:
            if how == "names" or (how == "mixed" and rng.random() < 0.5):
                _apply(names, change)
        files: dict[Key, bytes] = {}
        for key in set(names.values()):
            latest, durable = before.contents.get(key), contents.get(key)
            old = self.blobs[durable] if durable else b""
            if latest is None or latest == durable:
                files[key] = old
                continue
            new = self.blobs[latest]
            n_before = len(old) if new.startswith(old) else 0  # what was appended leaves the earlier content as it is
            part = new[: int(rng.integers(n_before, len(new) + 1))]
            choices = [old, new, part, new[:n_before] + bytes(len(new) - n_before), part + bytes(len(new) - len(part))]
            files[key] = choices[int(rng.integers(len(choices)))] if how == "mixed" else old

        # the tree
        folders = set().union(*(moment.look.folders for moment in self.moments[: at + 1]))
        top = next(iter(folders - {key for m in self.moments[: at + 1] for key in m.look.names.values()}))
        places = [(top, target)]
        while places:
            folder, path = places.pop()
            path.mkdir(parents=True)
            for (inside, name), key in names.items():
                if inside == folder and key in folders:
                    places.append((key, path / name))
                elif inside == folder:
                    (path / name).write_bytes(files[key])


def _apply(names: dict[Entry, Key], change: dict[Entry, Key | None]) -> None:
    for entry, key in change.items():
        if key is None:
            names.pop(entry, None)
        else:
            names[entry] = key
