"""NumPy's `.npy` files: an array (samples, leads) or (leads, samples) of numbers, or (N, leads, samples) of N recordings.

The file states neither leads, sampling rate nor unit; the caller gives all three. Of N recordings, `item` is the row.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np

from leadwise.data.formats.arrays import array_items, choose_item, from_array
from leadwise.data.formats.given import Given
from leadwise.data.formats.parsing import library_errors
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".npy",)

_BEGINS = b"\x93NUMPY"


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is an `.npy` file."""
    return first_bytes.startswith(_BEGINS)


def items(path: Path) -> tuple[str, ...]:
    """The row numbers of an array of several recordings; () for one recording."""
    return array_items(_map(path))


def read(path: Path, given: Given) -> Recording:
    """The recording in an `.npy` file; in an int16 array, -32768 = missing.

    Raises:
        RecordError: the file is absent, damaged or holds no numbers, or leads, rate or unit are not given.
    """
    return _recording(path, _map(path), given)


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The recording in the content of an `.npy` file.

    Raises:
        RecordError: it is damaged or holds no numbers, or leads, rate or unit are not given.
    """
    with library_errors(path, ".npy"):
        array = np.load(BytesIO(_checked(path, content)), allow_pickle=False)
    return _recording(path, array, given)


def _recording(path: Path, array: np.ndarray, given: Given) -> Recording:
    recording = from_array(path, choose_item(path, array, given), given)
    # of several recordings, only the samples of this one are hashed
    return recording if array.ndim < 3 else replace(recording, contents=(recording.signal.tobytes(),))


def _map(path: Path) -> np.ndarray:
    """The array, mapped: a header that promises more than the file holds fails here, before memory is allocated."""
    if not path.is_file():
        raise RecordError(f"record {path}: no such file; check the path")
    with library_errors(path, ".npy"):
        with path.open("rb") as file:
            _checked(path, file.read(len(_BEGINS)))
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _checked(path: Path, content: bytes) -> bytes:
    """The content of a file that begins as an `.npy` file does; numpy would take others for pickled objects."""
    if not matches(content):
        raise RecordError(
            f"record {path}: not an .npy file (it does not begin with \\x93NUMPY); save it again with numpy"
        )
    return content
