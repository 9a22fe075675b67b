"""NumPy's `.npz` files: an array of samples, and arrays that state rate, leads and units (see `named_arrays`).

The samples are (T0, L0) or (L0, T0) of one recording, or (N, L0, T0) or (N, T0, L0) of N; `item` is then the row.
"""

from __future__ import annotations

import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np

from leadwise.data.formats.arrays import array_items, choose_item
from leadwise.data.formats.given import Given
from leadwise.data.formats.named_arrays import FACTS, MAX_VALUES, facts, from_named, signal_name
from leadwise.data.formats.parsing import library_errors
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".npz",)

_MAX_BYTES = 8 * MAX_VALUES  # of one array, uncompressed


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a zip archive whose first member is an `.npy` file."""
    n_name = int.from_bytes(first_bytes[26:28], "little")
    return first_bytes.startswith(b"PK\x03\x04") and first_bytes[30 : 30 + n_name].endswith(b".npy")


def items(path: Path) -> tuple[str, ...]:
    """The row numbers of an array of several recordings; () for one recording."""
    try:
        return array_items(_samples(path, path.read_bytes())[1])
    except OSError as error:
        raise RecordError(f"record {path}: cannot be opened ({error.strerror}); check the path") from None


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The recording in an `.npz` file; in int16 samples, -32768 = missing.

    Raises:
        RecordError: the file is damaged, has no array of samples, or something that it does not state is not given.
    """
    values, array = _samples(path, content)
    recording = from_named(path, choose_item(path, array, given), facts(values), given)
    # of several recordings, only the samples of this one are hashed
    return recording if array.ndim < 3 else replace(recording, contents=(recording.signal.tobytes(),))


def _samples(path: Path, content: bytes) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays that state something, by name, and the samples."""
    with library_errors(path, ".npz"), zipfile.ZipFile(BytesIO(content)) as archive:
        shapes: dict[str, tuple[int, ...]] = {}
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            if member.file_size > _MAX_BYTES:
                raise RecordError(
                    f"record {path}: its array {member.filename[:40]} has {member.file_size / 1e9:.1f} GB; save one .npy file, "
                    "which is read in parts"
                )
            shape, dtype = _header(archive, member)
            if dtype.kind in "iuf":
                shapes[member.filename.removesuffix(".npy")] = shape
        one = [name for name, shape in shapes.items() if len(shape) == 1 and shape[0] > 128]
        name = one[0] if len(one) == 1 and len(shapes) == 1 else signal_name(path, shapes)
        arrays = np.load(BytesIO(content), allow_pickle=False)
        values = {key: arrays[key] for key in arrays.files if key.casefold() in FACTS}
        return values, arrays[name]


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a member, from its header: nothing is allocated."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype
