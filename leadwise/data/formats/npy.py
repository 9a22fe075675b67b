"""NumPy's `.npy` files of one recording: an array (samples, leads) or (leads, samples) of numbers.

The file states neither leads, sampling rate nor unit; the caller gives all three.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadwise.data.formats.arrays import from_array
from leadwise.data.formats.given import Given
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".npy",)


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is an `.npy` file."""
    return first_bytes.startswith(b"\x93NUMPY")


def read(path: Path, given: Given) -> Recording:
    """The recording in an `.npy` file; in an int16 array, -32768 = missing.

    Raises:
        RecordError: the file is absent, damaged or holds no numbers, or leads, rate or unit are not given.
    """
    if not path.is_file():
        raise RecordError(f"record {path}: no such file; check the path")
    try:  # mapped first: a header that promises more than the file holds fails here, before memory is allocated
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordError(f"record {path}: not a readable .npy array of numbers ({error}); save it again") from None
    return from_array(path, array, given)
