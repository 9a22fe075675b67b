"""Select the part of a recording that a model reads when the recording is longer than the model's input.

first_10s        the beginning; a shorter recording is padded, and the padding is marked as not observed
center_10s       the middle
best             where most samples are observed in the leads that the model reads; where several windows have as many,
                 the model's own window if it is one of them, else the first
multi_crop_mean  windows in equal steps over the whole recording, whose embeddings are averaged. A window without a lead
                 that is observed for two seconds without a gap is skipped; if all windows of the recording are like that, the
                 one with the longest such part is used
merl_5s_pad      the first 5 s, then zeros that count as signal, as MERL's code does with CPSC2018. Only for the legacy
                 protocol: it discards half of the signal, and the scale of a record depends on the padding

The names contain 10 s, the input length in every paper of the field. A model with another input length uses its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from leadwise.batch import LEADS, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.data.recordings.quality import bridgeable, find_gaps
from leadwise.data.recordings.recording import MISSING

Window = Literal["first_10s", "center_10s", "best", "multi_crop_mean", "merl_5s_pad"]
WINDOWS: tuple[str, ...] = get_args(Window)

MERL_WINDOW = "merl_5s_pad"
MERL_S = 5.0

_LEAST_S = 2.0  # a window is used if one lead is observed this long without a gap; at most half of the window


class WindowError(ValueError):
    """The window is unknown, or the protocol does not allow it; the message lists the allowed ones."""


def check(window: str | None) -> None:
    """Raise WindowError if `window` is unknown. None means the run's own setting."""
    if window is not None and window not in WINDOWS:
        raise WindowError(f"no window {window!r}; choose from {', '.join(WINDOWS)}")


def check_strict(window: str | None) -> None:
    """Raise WindowError if `window` is unknown or MERL's, which the strict protocol does not allow."""
    check(window)
    if window == MERL_WINDOW:
        others = ", ".join(name for name in WINDOWS if name != MERL_WINDOW)
        raise WindowError(
            f"window {MERL_WINDOW} is a fault of MERL's code and its scores are not comparable: only `leadwise probe` with "
            f"--protocol merl-legacy accepts it; otherwise choose from {others}"
        )


def crop_recordings(
    cohort: Cohort, signal: Signal, rows: np.ndarray, window: str | None = None
) -> tuple[Recordings, np.ndarray]:
    """Return the recordings of the given rows cropped to a window, and each one's position in `rows`: (n,).

    Only `multi_crop_mean` gives more than one recording per row; these are consecutive.

    Raises:
        WindowError: the window is unknown.
    """
    check(window)
    each = np.arange(len(rows))
    if window is None:
        return Recordings(cohort, signal, rows), each
    if window == MERL_WINDOW:
        from_begin = dataclasses.replace(signal, window="first")  # regardless of the run's own setting
        return Recordings(cohort, from_begin, rows, retained_s=MERL_S), each
    if window == "best":
        best_s = [best_start(_observed(cohort, signal, row), cohort.scale(row)[2], signal) for row in map(int, rows)]
        return Recordings(cohort, signal, rows, starts_s=np.array(best_s, dtype=np.float64)), each
    if window != "multi_crop_mean":
        named = dataclasses.replace(signal, window="center" if window == "center_10s" else "first")
        return Recordings(cohort, named, rows), each
    starts = [_observed_crops(cohort, signal, int(row)) for row in rows]
    of_row = np.repeat(each, [len(some) for some in starts])
    every = np.array([start for some in starts for start in some])
    return Recordings(cohort, signal, np.asarray(rows)[of_row], starts_s=every), of_row


def average_crops(features: np.ndarray, of_row: np.ndarray) -> np.ndarray:
    """The mean (n, D) of the features (m, D) of each row's windows; `of_row` (m,) rises from 0 in steps of 0 or 1."""
    begins = np.flatnonzero(np.diff(of_row, prepend=-1))
    if len(begins) == len(features):
        return features
    counts = np.diff(begins, append=len(features))
    total: np.ndarray = np.add.reduceat(features, begins, axis=0, dtype=np.float64)
    return (total / counts[:, None]).astype(features.dtype)


def crop_starts(duration_s: float, window_s: float) -> Sequence[float]:
    """Start times in seconds of the fewest windows that cover a recording, in equal steps from its start to its end."""
    n = max(1, math.ceil(duration_s / window_s - 1e-9))
    return [0.0] if n == 1 else np.linspace(0.0, duration_s - window_s, n).tolist()


def best_start(observed: np.ndarray, rate_hz: float, signal: Signal) -> float | None:
    """Start in seconds of the window with the most observed samples, from those (L, T0) of the signal's leads.

    None if no window has more than the signal's own.
    """
    n_samples, n_window = observed.shape[1], math.ceil(signal.duration_s * rate_hz)
    if n_samples <= n_window or observed.all():
        return None
    n_before = np.concatenate(([0], np.cumsum(observed.sum(axis=0))))
    n_observed = n_before[n_window:] - n_before[:-n_window]  # by the first sample of the window
    own = (n_samples - n_window) // 2 if signal.window == "center" else 0
    best = int(n_observed.argmax())
    return None if n_observed[own] == n_observed[best] else best / rate_hz


def _observed_crops(cohort: Cohort, signal: Signal, row: int) -> Sequence[float]:
    """Start times of the windows in which one lead of the signal is observed long enough; else of the best window."""
    starts = crop_starts(cohort.duration_s(row), signal.duration_s)
    if len(starts) == 1 or cohort.block(row).min() != MISSING:
        return starts
    return observed_starts(_observed(cohort, signal, row), cohort.scale(row)[2], signal)


def _observed(cohort: Cohort, signal: Signal, row: int) -> np.ndarray:
    """The observed samples (L, T0) bool of the signal's leads."""
    observed: np.ndarray = cohort.block(row)[[LEADS.index(lead) for lead in signal.leads]] != MISSING
    return observed


def observed_starts(observed: np.ndarray, rate_hz: float, signal: Signal) -> Sequence[float]:
    """Start times of the windows of `multi_crop_mean`, from the observed samples (L, T0) of the signal's leads."""
    starts = crop_starts(observed.shape[1] / rate_hz, signal.duration_s)
    stretches = np.concatenate([_observed_stretches(lead, rate_hz) for lead in observed])  # (n, 2)
    least_s = min(_LEAST_S, signal.duration_s / 2)
    longest_s = [
        max(
            np.minimum(stretches[:, 1], start_s + signal.duration_s) - np.maximum(stretches[:, 0], start_s), default=0.0
        )
        for start_s in starts
    ]
    usable = [start_s for start_s, length_s in zip(starts, longest_s) if length_s >= least_s]
    return usable or [starts[int(np.argmax(longest_s))]]


def _observed_stretches(real: np.ndarray, rate_hz: float) -> np.ndarray:
    """Stretches in which one lead is observed, from `real` (T0,), short gaps bridged: (n, 2) start and end in seconds."""
    gaps = find_gaps(real)
    long = gaps[~bridgeable(gaps, len(real), rate_hz)]
    edges = np.concatenate(([0], long.reshape(-1), [len(real)])).reshape(-1, 2)
    return np.asarray(edges[edges[:, 0] < edges[:, 1]] / rate_hz)
