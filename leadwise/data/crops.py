"""Which part of a recording is looked at, when it is longer than what a model was promised.

first_10s        the beginning; what is shorter is padded, and the padding marked as not observed
center_10s       the middle
multi_crop_mean  the whole recording in equal steps, window by window; their embeddings are averaged. A window in which no
                 lead was observed for two seconds on end is left out, unless all of the recording's are like that
merl_5s_pad      the first 5 s, then zeros that count as signal: what MERL's code does to CPSC2018. For the legacy
                 protocol alone: half of the signal is thrown away, and the scale of a record depends on the padding

The names say 10 s, the length that every paper of the field promises; a model with another promise gets its own length.
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

Window = Literal["first_10s", "center_10s", "multi_crop_mean", "merl_5s_pad"]
WINDOWS: tuple[str, ...] = get_args(Window)

MERL_WINDOW = "merl_5s_pad"

_MERL_S = 5.0
_LEAST_S = 2.0  # of one lead on end, for a window to be worth an embedding; of a shorter promise, half of it


class WindowError(ValueError):
    """No such window, or one that this protocol does not allow; the message names those there are."""


def check(window: str | None) -> None:
    """Nothing, if there is such a window; None is what the run was promised.

    Raises:
        WindowError: there is none.
    """
    if window is not None and window not in WINDOWS:
        raise WindowError(f"no window {window!r}; choose from {', '.join(WINDOWS)}")


def check_strict(window: str | None) -> None:
    """Nothing, if the strict protocol may look through this window: any but MERL's, which throws half of a signal away.

    Raises:
        WindowError: it may not, or there is none.
    """
    check(window)
    if window == MERL_WINDOW:
        others = ", ".join(name for name in WINDOWS if name != MERL_WINDOW)
        raise WindowError(
            f"window {MERL_WINDOW} is a fault of MERL's code and its scores are not comparable: only `leadwise probe` with "
            f"--protocol merl-legacy takes it; otherwise choose from {others}"
        )


def crop_recordings(
    cohort: Cohort, signal: Signal, rows: np.ndarray, window: str | None = None
) -> tuple[Recordings, np.ndarray]:
    """The recordings of some rows through a window, and for each of them its place (n,) in `rows`.

    Only `multi_crop_mean` makes more than one of a row; they follow each other.

    Raises:
        WindowError: no such window.
    """
    check(window)
    each = np.arange(len(rows))
    if window is None:
        return Recordings(cohort, signal, rows), each
    if window == MERL_WINDOW:
        from_begin = dataclasses.replace(signal, window="first")  # whatever the run was promised
        return Recordings(cohort, from_begin, rows, kept_s=_MERL_S), each
    if window != "multi_crop_mean":
        named = dataclasses.replace(signal, window="center" if window == "center_10s" else "first")
        return Recordings(cohort, named, rows), each
    starts = [_observed_crops(cohort, signal, int(row)) for row in rows]
    of_row = np.repeat(each, [len(some) for some in starts])
    every = np.array([start for some in starts for start in some])
    return Recordings(cohort, signal, np.asarray(rows)[of_row], starts_s=every), of_row


def average_crops(made: np.ndarray, of_row: np.ndarray) -> np.ndarray:
    """(n, D) the mean of what was made (m, D) of each row's windows; `of_row` (m,) rises from 0 without a gap."""
    begins = np.flatnonzero(np.diff(of_row, prepend=-1))
    if len(begins) == len(made):
        return made
    counts = np.diff(begins, append=len(made))
    total: np.ndarray = np.add.reduceat(made, begins, axis=0, dtype=np.float64)
    return (total / counts[:, None]).astype(made.dtype)


def crop_starts(duration_s: float, window_s: float) -> Sequence[float]:
    """Where, in seconds, as few windows begin as cover a recording, in equal steps from its begin to its end."""
    n = max(1, math.ceil(duration_s / window_s - 1e-9))
    return [0.0] if n == 1 else np.linspace(0.0, duration_s - window_s, n).tolist()


def _observed_crops(cohort: Cohort, signal: Signal, row: int) -> Sequence[float]:
    """Those of a recording's windows in which a promised lead was observed long enough; the first if none is like that."""
    starts = crop_starts(cohort.duration_s(row), signal.duration_s)
    block = cohort.block(row)
    if len(starts) == 1 or block.min() != MISSING:
        return starts
    _, _, rate_hz = cohort.scale(row)
    stretches = np.concatenate(
        [_observed_stretches(block[LEADS.index(lead)], rate_hz) for lead in signal.leads]
    )  # (n, 2)
    least_s = min(_LEAST_S, signal.duration_s / 2)
    kept = []
    for start_s in starts:
        seen_s = np.minimum(stretches[:, 1], start_s + signal.duration_s) - np.maximum(stretches[:, 0], start_s)
        if len(seen_s) and seen_s.max() >= least_s:
            kept.append(start_s)
    return kept or starts[:1]


def _observed_stretches(samples: np.ndarray, rate_hz: float) -> np.ndarray:
    """Where one lead (T0,) int16 was observed on end, short gaps bridged: (n, 2) begin and end in seconds."""
    real = samples != MISSING
    gaps = find_gaps(real)
    long = gaps[~bridgeable(gaps, len(real), rate_hz)]
    edges = np.concatenate(([0], long.reshape(-1), [len(real)])).reshape(-1, 2)
    return np.asarray(edges[edges[:, 0] < edges[:, 1]] / rate_hz)
