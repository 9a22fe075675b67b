"""Write files and folders whole: under a temporary name first, flushed to the disk, then renamed.

A process that is killed, a power cut or a full disk leaves the previous file or the new one under the final name.

Also read the arrays of an .npz, with one kind of error for every damage, and the reason of an error in one line.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import re
import secrets
import shutil
import sys
import zipfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_FULL = (errno.ENOSPC, errno.EDQUOT)
# of writers that give no error number: safetensors and tokenizers (Rust), torch.save, and numpy's tofile
_FULL_TEXT = re.compile(
    r"No space left on device|[Qq]uota exceeded|\(os error 28\)|PytorchStreamWriter failed writing|inline_container\.cc"
    r"|basic_ios::clear: iostream error"
    r"|\d+ requested and \d+ written"
)
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fs.h
_MOST_SYNCED = 64  # files of a folder that are waited for one by one; for more, one call that waits for all writes
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)  # of folders on some file systems


class DiskFullError(OSError):
    """A file cannot be written because the disk or the user's quota is full; the message names the file and the remedy."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ENOSPC, "the disk is full")
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.path} cannot be written: the disk is full, or your quota is used up; free some space and run the command "
            "again, with --resume where it has that option"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` if the block succeeds and deleted if it raises.

    File and name are on the disk when the block has ended. A killed process leaves its temporary file, which the next one that
    writes to `path` uses again.

    Raises:
        DiskFullError: the disk is full; the block may raise what its writer raises then.
    """
    with naming_full_disk(path), ExitStack() as stack:
        make_folder(path.parent)
        part = _claim(stack, path, is_folder=False)
        try:
            yield part
            sync(part)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, to be renamed to it or emptied; what is left of it is deleted when the block ends.

    What a killed process left there is deleted first.
    """
    make_folder(path.parent)
    with ExitStack() as stack:
        part = _claim(stack, path, is_folder=True)
        identity = part.stat().st_ino
        try:
            yield part
        finally:
            if part.is_dir() and part.stat().st_ino == identity:
                shutil.rmtree(part, ignore_errors=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Re-raise an error of a full disk as DiskFullError, which names `path`."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(path) from error


def is_disk_full(error: Exception) -> bool:
    """Return whether an operation failed because the disk or the user's quota is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return _FULL_TEXT.search(str(error)) is not None


def make_folder(folder: Path) -> None:
    """Create a folder and its parents if they do not exist, on the disk as well.

    Raises:
        DiskFullError: the disk is full.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    with naming_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for one in missing:
            sync(one.parent)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders in one step; return False, with nothing changed, where that is not possible."""
    if sys.platform != "linux":
        return False
    try:
        call = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library before 2018, or another one
        return False
    failed: int = call(_HERE, os.fsencode(one.absolute()), _HERE, os.fsencode(other.absolute()), _EXCHANGE)
    return not failed


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Raises:
        DiskFullError: there is no space for it, which some file systems notice only now.
    """
    is_windows = os.name == "nt"
    if is_windows and path.is_dir():
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        with naming_full_disk(path):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until every file in a folder is on the disk; for files that other code has written."""
    paths = [path for path in sorted(folder.rglob("*")) if not path.is_symlink()]
    if len(paths) > _MOST_SYNCED and sys.platform == "linux":  # elsewhere it does not wait
        os.sync()
        return
    for path in [*paths, folder, folder.parent]:
        sync(path)


# ------------------------------------------------------------------------------------------------------- temporary names


def _claim(stack: ExitStack, path: Path, is_folder: bool) -> Path:
    """Create a temporary file or folder for `path`, and return its path.

    It has the same name in every process of this machine, and is locked until `stack` ends: one that exists and is not locked
    is a killed process's. Another name where it is locked, or where there are no such locks.
    """
    machine = _machine()
    usual = path.with_name(f".{path.name}.{machine}.part")
    for _ in range(3 if machine and fcntl is not None else 0):
        descriptor = _lock(usual, is_folder)
        if descriptor is None:
            break
        stack.callback(os.close, descriptor)
        if _is_same(usual, descriptor):  # else its owner renamed or deleted it before the lock was free
            if is_folder:
                for entry in usual.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            return usual
    other = path.with_name(
        f".{path.name}.{secrets.token_hex(4)}.part"
    )  # unique, also among processes on other machines
    if is_folder:
        other.mkdir()
    return other


def _lock(part: Path, is_folder: bool) -> int | None:
    """Create and lock a file or folder; None if another process has the lock, or if there are no locks here."""
    try:
        if is_folder:
            part.mkdir(exist_ok=True)
            descriptor = os.open(part, os.O_RDONLY)
        else:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    except (FileNotFoundError, FileExistsError, IsADirectoryError, PermissionError):
        return None  # deleted meanwhile, or another user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _machine() -> str:
    """Return digits that no other running machine has, as locks may not reach beyond this one; '' if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""


# ------------------------------------------------------------------------------------------------------------------- .npz


def first_line(error: Exception, most: int = 200) -> str:
    """The first line of an error's text, cut to `most` characters; the name of its type if it has no text."""
    line = next(iter(str(error).strip().splitlines()), "")
    return line[:most] + ("..." if len(line) > most else "") or type(error).__name__


class DamagedNpzError(ValueError):
    """The reason why a file is no .npz of arrays of numbers and texts."""


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz, or those of them that have one of these names.

    No object is unpickled, and nothing is allocated for an array that promises more than the file holds.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedNpzError: the file cannot be read, or is no .npz.
    """
    arrays = {}
    what = "it is damaged or no .npz"
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                what = f"its array '{name}' is damaged"
                if name != member.filename and (names is None or name in names):
                    _check_npy_header(archive, member)
                    with archive.open(member) as file:
                        arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize and numpy raise a dozen types for a damaged file
        raise DamagedNpzError(f"{what} ({first_line(error)})") from None
    return arrays


def npz_names(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in an .npz.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedNpzError: the file is no .npz.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except FileNotFoundError:
        raise
    except Exception as error:  # as in `read_npz`
        raise DamagedNpzError(f"it is damaged or no .npz ({first_line(error)})") from None
    return tuple(name.removesuffix(".npy") for name in names if name.endswith(".npy"))


def _check_npy_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise ValueError unless a member has as many bytes as its shape and type need."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        n_bytes, needed = member.file_size - file.tell(), math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    if n_bytes != needed:
        raise ValueError(f"{member.filename} has {n_bytes} bytes, and its header needs {needed}")
