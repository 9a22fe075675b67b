"""Write files atomically: under a temporary name first, then renamed, so that an incomplete file never has the final name.

Also read the arrays of an .npz, with one kind of error for every damage, and the reason of an error in one line.
"""

from __future__ import annotations

import math
import secrets
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is renamed to `path` if the block succeeds and deleted if it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")  # unique, also among processes on other machines
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
