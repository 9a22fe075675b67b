"""Recordings from arrays of numbers that state neither rate nor unit: shared by the formats .npy, .csv and .mat."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadwise.data.formats.given import Given, check_size, checked_rate, mv_per_unit, standard_names
from leadwise.data.recordings.recording import MISSING, Digital, RecordError, Recording


def from_array(path: Path, array: np.ndarray, given: Given) -> Recording:
    """The recording in an array of shape (T0, L0) or (L0, T0) that does not name its leads.

    The side that has as many entries as `given.leads` is the side of the leads.

    Raises:
        RecordError: leads, rate or unit are not given, the array holds no numbers, or its shape does not fit.
    """
    if given.leads is None:
        raise RecordError(f"record {path}: the file does not name its leads; pass leads=")
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise RecordError(
            f"record {path}: it contains {array.dtype} of shape {array.shape}; it must be numbers of shape (samples, leads)"
        )
    n_rows, n_columns = array.shape
    n_leads = len(given.leads)
    if (n_rows == n_leads) == (n_columns == n_leads):
        reason = "could be either way round" if n_rows == n_columns else f"has no side of {n_leads} leads"
        raise RecordError(f"record {path}: shape {array.shape} {reason}; save it as (samples, leads) and check leads=")
    if n_rows == n_leads:
        array = array.T
    check_size(path, *array.shape)
    return from_table(path, np.asarray(array), given.leads, given)


def from_table(path: Path, table: np.ndarray, names: tuple[str, ...], given: Given) -> Recording:
    """The recording in numbers (T0, L0) of the given unit, one column per lead name.

    Integers that fit into int16 are stored as they are; -32768 = missing.

    Raises:
        RecordError: rate or unit are not given.
    """
    rate_hz = checked_rate(path, given.rate_hz)
    factor = mv_per_unit(path, None, given.units)
    leads = standard_names(names)
    if table.dtype.kind in "iu" and table.min() >= MISSING and table.max() < -MISSING:
        steps = np.full(len(leads), 1000.0 * factor)
        digital = Digital(table.astype(np.int16), steps, np.zeros(len(leads), dtype=np.int32))
        return Recording(path.stem, None, leads, rate_hz, digital, (path,))
    signal = table.astype(np.float64) * factor
    signal[~np.isfinite(signal)] = np.nan
    return Recording(path.stem, signal, leads, rate_hz, None, (path,))
