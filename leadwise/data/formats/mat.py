"""MATLAB's `.mat` files of one recording: the struct `ECG` with the fields `data`, `sex` and `age`, as in CPSC2018.

A `.mat` file with a `.hea` file beside it is a WFDB record and is read by `wfdb`.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from leadwise.data.formats.arrays import from_array
from leadwise.data.formats.given import Given
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".mat",)

_STRUCT = "ECG"


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes was written by MATLAB 5 or later."""
    return first_bytes.startswith(b"MATLAB ")


def read(path: Path, given: Given) -> Recording:
    """The recording in the struct `ECG` of a `.mat` file, which states neither leads, rate nor unit.

    Raises:
        RecordError: the file cannot be read or holds something else, or leads, rate or unit are not given.
    """
    return from_array(path, read_struct(path).data, given)


@dataclass(frozen=True)
class Struct:
    """The content of a struct `ECG`; it states neither leads, rate nor unit."""

    data: np.ndarray  # numbers, as in the file: (12, T0) in CPSC2018
    age: str  # as text, "" where there is none
    sex: str


def read_struct(path: Path) -> Struct:
    """The struct `ECG` in a `.mat` file of MATLAB 4 ... 7.

    Raises:
        RecordError: the file cannot be read, or holds something else.
    """
    from scipy.io import loadmat

    # read the bytes first, so that a missing file and a damaged one give different errors
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise RecordError(f"record {path}: no such file; check the path") from None
    try:
        variables = loadmat(BytesIO(raw), simplify_cells=True)  # type: ignore[arg-type]  # its stubs know names only
    except NotImplementedError:  # HDF5
        raise RecordError(f"record {path}: a .mat of MATLAB 7.3, which is not supported; save it with -v7") from None
    except Exception as error:  # for a damaged byte scipy raises any error, UnboundLocalError too
        raise RecordError(f"record {path}: a damaged or truncated .mat file ({error}); download it again") from error

    # the only layout that is read: a struct with an array in the field `data`
    content = variables.get(_STRUCT)
    if not isinstance(content, dict) or not isinstance(content.get("data"), np.ndarray):
        names = ", ".join(sorted(name for name in variables if not name.startswith("__"))) or "nothing"
        raise RecordError(
            f"record {path}: it contains {names[:80]} and not the struct {_STRUCT} with a field data; a WFDB record needs its "
            f"header {path.with_suffix('.hea').name} beside it"
        )
    return Struct(content["data"], _text(content.get("age")), _text(content.get("sex")))


def _text(value: object) -> str:
    """A field that holds one number or word, as text; '' for anything else."""
    return str(value).strip() if isinstance(value, str | int | float | np.number) else ""
