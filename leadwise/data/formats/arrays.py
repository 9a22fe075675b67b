"""Recordings from arrays of numbers that state neither rate nor unit: shared by the formats .npy, .npz, .csv and .mat."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadwise.data.formats.channels import Channels, choose_channels
from leadwise.data.formats.given import Given, check_size, check_stated, checked_rate, mv_per_unit
from leadwise.data.recordings.recording import MISSING, Digital, RecordError, Recording


def choose_item(path: Path, array: np.ndarray, given: Given) -> np.ndarray:
    """One recording (T0, L0) or (L0, T0) of an array that may hold several, (N, ...); `given.item` is its row number.

    An array (N, 1, ...), as EchoNext has it, is read as (N, ...).

    Raises:
        RecordError: the array holds several recordings and no item is given, or there is no such item.
    """
    array = _without_channel(array)
    if array.ndim != 3:
        if given.item is not None:
            raise RecordError(f"record {path}: its array has shape {array.shape}, one recording; leave out item")
        return array
    n_items = len(array)
    if given.item is None and n_items != 1:
        raise RecordError(
            f"record {path}: its array of shape {array.shape} holds {n_items} recordings; name one (--item, item=: 0 to "
            f"{n_items - 1}), or list them in a table with the columns path and item"
        )
    try:
        number = int(given.item or 0)
    except ValueError:
        number = -1
    if not 0 <= number < n_items:
        raise RecordError(f"record {path}: it has no item {given.item!r}; its items are 0 to {n_items - 1}")
    row: np.ndarray = np.array(array[number])
    return row


def array_items(array: np.ndarray) -> tuple[str, ...]:
    """The item names of an array (N, L, T) or (N, T, L); () for one recording."""
    array = _without_channel(array)
    return tuple(map(str, range(len(array)))) if array.ndim == 3 and len(array) != 1 else ()


def _without_channel(array: np.ndarray) -> np.ndarray:
    """The array without a second side of length 1, where it has four."""
    return array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array


def from_array(path: Path, array: np.ndarray, given: Given) -> Recording:
    """The recording in an array of shape (T0, L0) or (L0, T0) that does not name its leads.

    The side that has as many entries as `given.leads` is the side of the leads.

    Raises:
        RecordError: leads, rate or unit are not given, the array holds no numbers, or its shape does not fit.
    """
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise RecordError(
            f"record {path}: it contains {array.dtype} of shape {array.shape}; it must be numbers of shape (samples, leads)"
        )
    check_stated(path, given, "leads", "rate", "unit")
    n_rows, n_columns = array.shape
    n_leads = len(given.leads or ())
    if (n_rows == n_leads) == (n_columns == n_leads):
        reason = "could be either way round" if n_rows == n_columns else f"has no side of {n_leads} leads"
        raise RecordError(
            f"record {path}: shape {array.shape} {reason}; save it as (samples, leads) and check the given leads"
        )
    if n_rows == n_leads:
        array = array.T
    check_size(path, *array.shape)
    return from_table(path, np.asarray(array), choose_channels(path, ("",) * n_leads, given), given)


def from_table(path: Path, table: np.ndarray, channels: Channels, given: Given, unit: str | None = None) -> Recording:
    """The recording in numbers (T0, L0), one column per channel of the file; `unit` is the one that the file states.

    Integers that fit into int16 are stored as they are; -32768 = missing.

    Raises:
        RecordError: rate or unit are not known.
    """
    check_stated(path, given, *["rate"], *([] if unit else ["unit"]))
    rate_hz = checked_rate(path, given.rate_hz)
    factor = mv_per_unit(path, unit, given.units)
    table = table[:, list(channels.used)]
    samples = signal = None
    if table.dtype.kind in "iu" and table.min() >= MISSING and table.max() < -MISSING:
        steps = np.full(len(channels.leads), 1000.0 * factor)
        samples = Digital(table.astype(np.int16), steps, np.zeros(len(channels.leads), dtype=np.int32))
    else:
        with np.errstate(invalid="ignore", over="ignore"):  # of damaged numbers
            signal = table.astype(np.float64) * factor
        signal[~np.isfinite(signal)] = np.nan
    return Recording(
        path.stem, signal, channels.leads, rate_hz, samples, (path,), unused=channels.unused, remarks=channels.remarks
    )
