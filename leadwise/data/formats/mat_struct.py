"""MATLAB's `.mat` files of one recording: the struct `ECG` with the fields `data`, `sex` and `age`, as CPSC2018 has it."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from leadwise.data.recordings.recording import RecordError

_STRUCT = "ECG"


@dataclass(frozen=True)
class Struct:
    """What a struct held; it states neither leads, rate nor unit."""

    data: np.ndarray  # numbers, as the file has them: (12, T0) in CPSC2018
    age: str  # as text, "" where there is none
    sex: str


def struct(path: Path) -> Struct:
    """The struct `ECG` in a `.mat` file of MATLAB 4 ... 7.

    Raises:
        RecordError: the file cannot be read, or holds something else.
    """
    from scipy.io import loadmat

    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise RecordError(f"record {path}: no such file; check the path") from None
    try:
        held = loadmat(BytesIO(raw), simplify_cells=True)  # type: ignore[arg-type]  # its stubs know names only
    except NotImplementedError:  # HDF5
        raise RecordError(f"record {path}: a .mat of MATLAB 7.3, which is not read; save it with -v7") from None
    except Exception as error:  # what scipy raises for a damaged byte is anything, UnboundLocalError too
        raise RecordError(f"record {path}: a damaged or truncated .mat file ({error}); fetch it again") from error
    found = held.get(_STRUCT)
    if not isinstance(found, dict) or not isinstance(found.get("data"), np.ndarray):
        names = ", ".join(sorted(name for name in held if not name.startswith("__"))) or "nothing"
        raise RecordError(
            f"record {path}: it holds {names[:80]} and not the struct {_STRUCT} with a field data; a WFDB record needs its "
            f"header {path.with_suffix('.hea').name} beside it"
        )
    return Struct(found["data"], _told(found.get("age")), _told(found.get("sex")))


def _told(value: object) -> str:
    """A field that holds one number or word, as text; '' for anything else."""
    return str(value).strip() if isinstance(value, str | int | float | np.number) else ""
