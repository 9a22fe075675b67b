"""MATLAB's `.mat` files of one recording: versions 4, 5 ... 7 (scipy) and 7.3, which is HDF5 (h5py).

The samples are the field `data` of the struct `ECG`, as in CPSC2018, or the variable `val`, or the only matrix of numbers.
Other variables may state rate, leads and units (see `named_arrays`); what is not stated, the caller gives. A `.mat` file with
a `.hea` file beside it is a WFDB record and is read by `wfdb`, which applies the gain of its header.
"""

from __future__ import annotations

import dataclasses
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.formats.given import Given
from leadwise.data.formats.mat_elements import check_elements
from leadwise.data.formats.named_arrays import FACTS, MAX_VALUES, facts, from_named, signal_name
from leadwise.data.formats.parsing import library_errors
from leadwise.data.formats.stated import stated
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".mat",)

_STRUCT = "ECG"
_VERSION_7_3 = b"MATLAB 7.3"
_V4_TYPES = frozenset(10 * number for number in range(6))  # little-endian; the last digit 0 = a matrix of numbers


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes was written by MATLAB 5 or later, or is a matrix of MATLAB 4."""
    return first_bytes.startswith(b"MATLAB ") or _is_version_4(first_bytes)


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The recording in a `.mat` file.

    Raises:
        RecordError: the file is damaged, has no matrix of samples, or something that it does not state is not given.
    """
    variables = _variables(path, content)
    values, person = variables, stated()
    ecg = _ecg_struct(variables)
    if ecg is not None:
        values, array = ecg, ecg["data"]
        age, sex = _text(ecg.get("age")), _text(ecg.get("sex"))
        person = stated(float(age) if age.replace(".", "", 1).isdecimal() else None, sex)
    else:
        shapes = {
            name: value.shape
            for name, value in variables.items()
            if isinstance(value, np.ndarray) and value.dtype.kind in "iuf"
        }
        array = variables[signal_name(path, shapes, (2,))]
    recording = from_named(
        path, array, facts({name: value for name, value in values.items() if name.casefold() in FACTS}), given
    )
    return dataclasses.replace(recording, stated=person) if person else recording


def _is_version_4(first_bytes: bytes) -> bool:
    """Whether a file begins with the header of a matrix: type, rows, columns, imaginary, length of the name; the name."""
    if len(first_bytes) < 22:
        return False
    kind, n_rows, n_columns, imaginary, n_name = struct.unpack_from("<5i", first_bytes)
    name = first_bytes[20 : 19 + n_name]
    return (
        kind in _V4_TYPES and n_rows > 0 < n_columns and imaginary == 0 and 1 < n_name <= 64
        and name.isascii() and name.decode("ascii").isidentifier() and first_bytes[19 + n_name : 20 + n_name] == b"\0"
    )  # fmt: skip


def _variables(path: Path, content: bytes) -> dict[str, Any]:
    """The variables of a file, structs as dicts."""
    is_hdf5 = content.startswith(_VERSION_7_3)
    return _variables_of_hdf5(path, content) if is_hdf5 else _variables_by_scipy(path, content)


def _variables_by_scipy(path: Path, content: bytes) -> dict[str, Any]:
    """The variables of a file of MATLAB 4 ... 7, structs as dicts."""
    from scipy.io import loadmat, whosmat

    with library_errors(path, ".mat"):
        # types and shapes first: a header may promise more than memory holds
        check_elements(content)
        for name, shape, _ in whosmat(BytesIO(content)):  # type: ignore[arg-type]  # its stubs know names only
            _check_promise(path, name, shape)
        variables = loadmat(BytesIO(content), simplify_cells=True)  # type: ignore[arg-type]
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def _check_promise(path: Path, name: str, shape: tuple[int, ...]) -> None:
    n_values = 1
    for side in shape:
        n_values *= int(side)
    if n_values > MAX_VALUES:
        raise RecordError(
            f"record {path}: its variable {name!r} promises {n_values:,} values, which is implausible; check the file"
        )


def _variables_of_hdf5(path: Path, content: bytes) -> dict[str, Any]:
    """The variables of a file of MATLAB 7.3, structs as dicts; HDF5 has the axes of MATLAB's arrays in reverse order."""
    import h5py

    def value(node: Any) -> Any:
        if isinstance(node, h5py.Group):
            return {name: value(child) for name, child in node.items() if not name.startswith("#")}
        _check_promise(path, node.name.strip("/"), node.shape)
        if node.dtype.kind == "O":  # a cell array: references to its cells
            return np.array([value(file[reference]) for reference in node[()].T.reshape(-1)], dtype=object)
        array = node[()].T
        if node.attrs.get("MATLAB_class") == b"char":
            return "".join(map(chr, array.reshape(-1)))
        return array

    with library_errors(path, ".mat"), h5py.File(BytesIO(content), "r") as file:
        variables: dict[str, Any] = value(file)
    return variables


def age_and_sex(path: Path) -> tuple[str, str]:
    """Age and sex in the struct `ECG` of a `.mat` file, as text; "" where it has none.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: the file cannot be read, or has no such struct.
    """
    ecg = _ecg_struct(_variables(path, path.read_bytes()))
    if ecg is None:
        raise RecordError(f"record {path}: it has no struct {_STRUCT} with a field data; check the path")
    return _text(ecg.get("age")), _text(ecg.get("sex"))


def _ecg_struct(variables: dict[str, Any]) -> dict[str, Any] | None:
    """The struct `ECG` with an array in the field `data`; None if there is none."""
    ecg = variables.get(_STRUCT)
    return ecg if isinstance(ecg, dict) and isinstance(ecg.get("data"), np.ndarray) else None


def _text(value: object) -> str:
    """A field that holds one number or word, as text; '' for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1:  # of MATLAB 7.3
        value = value.item()
    return str(value).strip() if isinstance(value, str | int | float | np.number) else ""
