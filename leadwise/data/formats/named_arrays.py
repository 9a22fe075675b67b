"""Recordings in files of named arrays (.npz, .hdf5, .mat): which array has the samples, and what the others state about it.

Beside the samples a file may have arrays or attributes for the sampling rate, the names of the leads, their units and the
names of its recordings. What it does not state, the caller gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.formats.arrays import from_array, from_table
from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_size, check_stated, mv_per_unit
from leadwise.data.messages import channel_names, first_few, short_cell
from leadwise.data.recordings.recording import RecordError, Recording

MAX_VALUES = 200_000_000  # of an array that is read whole
_RATES = ("rate_hz", "fs", "sampling_rate", "sampling_frequency", "sample_rate", "samplingrate", "samplefrequency", "srate",
          "frequency", "freq")  # fmt: skip
_LEADS = ("leads", "sig_name", "lead_names", "lead_name", "channel_names", "channels", "ch_names", "lead")
_UNITS = ("units", "unit")
_SIGNALS = ("signal", "signals", "ecg", "tracings", "tracing", "p_signal", "x", "data", "val")
FACTS = (*_RATES, *_LEADS, *_UNITS)  # names of what is read beside the samples


@dataclass(frozen=True)
class ArrayFacts:
    """What a file states about its samples."""

    leads: tuple[str, ...] | None = None
    rate_hz: float | None = None
    units: tuple[str, ...] = ()  # one for all leads, or one for each; () if it states none


def signal_name(path: Path, shapes: Mapping[str, tuple[int, ...]], n_dimensions: tuple[int, ...] = (2, 3)) -> str:
    """The name of the array of samples, from the shapes of a file's numeric arrays.

    It is the only one with so many dimensions, or that with a usual name.

    Raises:
        RecordError: no array or several arrays may have the samples.
    """
    fitting = [
        name
        for name, shape in shapes.items()
        if len(shape) in n_dimensions
        and max(shape[-2:], default=0) > 1
        and name.rpartition("/")[2].casefold() not in FACTS
    ]
    if len(fitting) != 1:
        plain = {name.rpartition("/")[2].casefold(): name for name in fitting}
        usual = [plain[name] for name in _SIGNALS if name in plain]
        if not usual:
            listed = (
                first_few([f"{short_cell(name, most=24)} {shape}" for name, shape in shapes.items()], 8)
                if shapes
                else "no array of numbers"
            )
            raise RecordError(
                f"record {path}: it contains {listed}; the samples must be the only array (samples, leads), or be named "
                f"{first_few(_SIGNALS, 12)}"
            )
        return usual[0]
    return fitting[0]


def facts(values: Mapping[str, Any]) -> ArrayFacts:
    """What named values state about rate, leads and units; values that cannot be that are passed over."""
    by_name = {name.rpartition("/")[2].casefold(): value for name, value in values.items()}
    rate_hz = next((rate for rate in (_number(by_name.get(name)) for name in _RATES) if rate is not None), None)
    leads = next((names for names in (_texts(by_name.get(name)) for name in _LEADS) if names), ())
    units = next((names for names in (_texts(by_name.get(name)) for name in _UNITS) if names), ())
    return ArrayFacts(leads or None, rate_hz, units)


def from_named(path: Path, array: np.ndarray, stated: ArrayFacts, given: Given) -> Recording:
    """The recording in an array (T0, L0) or (L0, T0), with what its file states; the caller's leads replace the file's.

    Raises:
        RecordError: the shape does not fit the leads, or something is neither stated nor given.
    """
    given = replace(given, rate_hz=stated.rate_hz if stated.rate_hz is not None else given.rate_hz)
    if stated.leads is None and len(set(stated.units)) <= 1:  # the caller names the leads
        if stated.units:
            mv_per_unit(path, stated.units[0], None)  # raises
            given = replace(given, units=stated.units[0])
        return from_array(path, array, given)
    check_stated(path, given, *[] if stated.leads is not None else ["leads"])
    names = stated.leads if stated.leads is not None else ("",) * len(given.leads or ())
    if array.ndim == 1 and len(names) == 1:
        array = array[:, None]
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise RecordError(
            f"record {path}: it contains {array.dtype} of shape {array.shape}; it must be numbers of shape (samples, leads)"
        )

    # the side of the leads
    n_rows, n_columns = array.shape
    if not names or (n_rows == len(names)) == (n_columns == len(names)):
        what = (
            f"{len(names)} leads ({channel_names(names, 12)})"
            if any(names)
            else "so many leads as are given (--leads, leads=)"
        )
        raise RecordError(
            f"record {path}: shape {array.shape} has no single side of {what}; save it as (samples, leads)"
        )
    if n_rows == len(names):
        array = array.T
    check_size(path, *array.shape)
    channels = choose_channels(path, names, given)

    # one unit for all, or one for each lead
    if len(set(stated.units)) <= 1:
        return from_table(path, np.asarray(array), channels, given, unit=stated.units[0] if stated.units else None)
    if len(stated.units) != len(names):
        raise RecordError(
            f"record {path}: it has {len(stated.units)} units for {len(names)} leads; save one for each lead"
        )
    used = list(channels.used)
    factors = [mv_per_unit(path, stated.units[number], given.units) for number in used]
    channels = replace(channels, used=tuple(range(len(used))))
    return from_table(path, np.asarray(array, dtype=np.float64)[:, used] * factors, channels, given, unit="mV")


def _number(value: Any) -> float | None:
    """One number, as a scalar, an array of one or a text."""
    try:
        array = np.asarray(value)
        return float(array.reshape(-1)[0]) if value is not None and array.size == 1 else None
    except (TypeError, ValueError):
        return None


def _texts(value: Any) -> tuple[str, ...]:
    """Texts, as one text with commas, a list or an array of texts or bytes; () for anything else."""
    if value is None:
        return ()
    if isinstance(value, bytes | str):
        text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
        return tuple(part.strip() for part in text.split(",") if part.strip())
    array = np.asarray(value).reshape(-1)
    if array.dtype.kind not in "USO" or not all(isinstance(item, bytes | str) for item in array.tolist()):
        return ()
    if array.size == 1:
        return _texts(array.tolist()[0])
    return tuple(
        (item.decode("utf-8", errors="replace") if isinstance(item, bytes) else item).strip() for item in array.tolist()
    )
