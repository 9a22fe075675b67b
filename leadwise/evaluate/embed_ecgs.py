"""Embeddings of ECGs that are in no cohort: files, arrays and tables. Each is opened when its turn comes.

An ECG that cannot be embedded is an error, or a row of NaN with its reason: a file that cannot be read, an ECG that is not
interpretable (`ECG.refusal`), or one of which the run's window contains too little.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from leadwise.batch import LEADS, Batch, Signal
from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.recordings.recording import RecordError
from leadwise.data.recordings.twelve_leads import conform
from leadwise.data.usable_rows import REASONS
from leadwise.ecg import ECG
from leadwise.ecg_inputs import InputEntry, Inputs
from leadwise.evaluate.embed import EmbedError, Features, embed_batch, embed_cohort, split_parts, usable
from leadwise.progress import Progress
from leadwise.run import Run

OnError = Literal["raise", "nan"]


class Embeddings(np.ndarray):
    """An array (N, D) with `attrs`: "dropped" lists the rows of NaN, each as row, ecg and reason."""

    attrs: dict[str, Any]

    def __array_finalize__(self, source: Any) -> None:
        self.attrs = getattr(source, "attrs", {})


class _UnusableECGError(RecordError):
    """An ECG was read, and a run cannot use it. The message has no remedy: the caller adds those that it offers."""

    remedies: tuple[str, ...] = ("leave it out", "pass on_error='nan' (--on-error nan)")


class _UnobservedWindowError(_UnusableECGError):
    """Nothing of an ECG was observed in the window that the run reads."""

    remedies = ("choose another window (--window best, window='best')", *_UnusableECGError.remedies)


@dataclass(frozen=True)
class DroppedECG:
    """An ECG without an embedding."""

    position: int
    row: Hashable  # label of its row
    name: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return row, ecg and reason, as in `attrs["dropped"]`."""
        return {"row": self.row, "ecg": self.name, "reason": self.reason}


@dataclass(frozen=True)
class _Windows:
    """The windows of several ECGs, ready for the model."""

    ecg: list[np.ndarray]  # each (L, T) float32
    observed: list[np.ndarray]  # each (L, T) bool
    owner: list[int]  # the position of the ECG of each window, not falling
    names: list[str]


def embed_ecgs(
    run: Run,
    inputs: Inputs,
    part: str = "backbone",
    window: str | None = None,
    batch_size: int = 64,
    on_error: OnError = "raise",
    progress: Progress | None = None,
) -> tuple[Features, list[DroppedECG]]:
    """Return embeddings (N, D) of N ECGs in their order, and the ECGs whose row is NaN.

    Args:
        part: a part of the method, or several joined by "+".
        window: the part of longer recordings, see `data/crops.py`; default: the run's own setting.
        on_error: "raise" the first error, or "nan": a row of NaN for each ECG that cannot be embedded.

    Raises:
        RecordError: an ECG cannot be read or is not interpretable.
        EmbedError: no such part, or the run needs more of an ECG than was observed.
        WindowError: the window is unknown, or MERL's.
    """
    # the options
    parts = split_parts(run, part)
    crops.check_strict(window)
    check_on_error(on_error)
    if batch_size < 1:
        raise EmbedError(f"batch_size={batch_size} is too small; it must be 1 or more")

    # a batch of ECGs at a time, so that a folder of any size fits into memory
    rows: dict[int, Features] = {}
    dropped: list[DroppedECG] = []
    for begin in range(0, len(inputs), batch_size):
        windows = _Windows([], [], [], [])
        for position in range(begin, min(begin + batch_size, len(inputs))):
            entry = inputs.entries[position]
            try:
                _append(windows, position, entry, run.config.signal, window)
            except (ValueError, OSError) as error:
                if on_error == "raise" and isinstance(error, _UnusableECGError):
                    raise RecordError(f"{error}; {', or '.join(error.remedies)}") from None
                if on_error == "raise":
                    raise
                dropped.append(DroppedECG(position, entry.row, entry.name, str(error)))
        embedded, failures = _embed_windows(run, windows, parts, batch_size, on_error)
        rows |= embedded
        for position, reason in failures.items():
            dropped.append(DroppedECG(position, inputs.entries[position].row, inputs.entries[position].name, reason))
        if progress is not None:
            progress(f"embed {part}", min(begin + batch_size, len(inputs)), len(inputs))

    # rows in the order of the input, NaN where there is no embedding
    width = len(next(iter(rows.values()))) if rows else sum(width_of(run, name) for name in parts)
    features = np.full((len(inputs), width), np.nan, dtype=np.float32)
    for position, row in rows.items():
        features[position] = row
    return features, sorted(dropped, key=lambda one: one.position)


def embed_whole_cohort(
    run: Run,
    cohort: Cohort,
    part: str = "backbone",
    window: str | None = None,
    on_error: OnError = "raise",
    progress: Progress | None = None,
) -> tuple[Features, list[DroppedECG]]:
    """Return embeddings (N, D) of all N recordings of a cohort, and those whose row is NaN; the run folder caches them.

    Raises:
        EmbedError: the run cannot embed some recordings, and on_error is "raise".
    """
    check_on_error(on_error)
    rows, left_out = usable(run, cohort, np.arange(len(cohort)), window)
    if len(left_out) and on_error == "raise":
        raise EmbedError(
            f"cohort {cohort.name}: {left_out.line}; pass on_error='nan' for rows without numbers, or window='best'"
        )
    embedded = embed_cohort(run, cohort, part, rows, progress, window=window)
    if not len(left_out):
        return embedded, []

    # rows of NaN for the others, with their reasons
    features = np.full((len(cohort), embedded.shape[1]), np.nan, dtype=np.float32)
    features[rows] = embedded
    reasons = {record: REASONS[reason] for reason, records in left_out.records.items() for record in records}
    others = np.setdiff1d(np.arange(len(cohort)), rows)
    names = cohort.records.take(others)
    return features, [DroppedECG(int(row), int(row), name, reasons[name]) for row, name in zip(others, names)]


def check_on_error(on_error: str) -> None:
    """Raise EmbedError unless `on_error` is "raise" or "nan"."""
    if on_error not in ("raise", "nan"):
        raise EmbedError(f"on_error={on_error!r} is not known; choose 'raise' or 'nan'")


def width_of(run: Run, part: str) -> int:
    """Return D, the width of the embedding of one part, by embedding a sine wave."""
    if run.stored is not None:
        return run.stored.width
    signal = run.config.signal
    time_s = np.arange(signal.n_samples) / signal.rate_hz
    ecg = np.tile(np.sin(2 * math.pi * time_s), (1, len(signal.leads), 1)).astype(np.float32)
    return int(embed_batch(run, _batch(ecg, np.ones(ecg.shape, dtype=bool), ["sine"]), [part]).shape[1])


def batch_of(ecg: ECG, signal: Signal) -> Batch:
    """Return the batch of one ECG, with the leads, rate, duration and window of `signal`.

    Raises:
        RecordError: the ECG is not interpretable, or nothing of it was observed in that window.
    """
    values, observed = _conform(ecg, ecg.name, signal, None)
    return _batch(values[None], observed[None], [ecg.name])


def _append(windows: _Windows, position: int, entry: InputEntry, signal: Signal, window: str | None) -> None:
    """Open an ECG and append its windows."""
    ecg = entry.open()
    named, starts = _starts(ecg, signal, window)
    for start_s in starts:
        values, observed = _conform(ecg, entry.name, named, start_s)
        windows.ecg.append(values)
        windows.observed.append(observed)
        windows.owner.append(position)
        windows.names.append(entry.name)


def _starts(ecg: ECG, signal: Signal, window: str | None) -> tuple[Signal, Sequence[float | None]]:
    """Return the signal with the window's position, and where its windows begin in seconds; None: as the signal states."""
    if window is None:
        return signal, [None]
    columns = [LEADS.index(lead) for lead in signal.leads]
    if window == "best":
        return signal, [crops.best_start(ecg.observed[columns], ecg.rate_hz, signal)]
    if window != "multi_crop_mean":
        return dataclasses.replace(signal, window="center" if window == "center_10s" else "first"), [None]
    return signal, crops.observed_starts(ecg.observed[columns], ecg.rate_hz, signal)


def _conform(ecg: ECG, name: str, signal: Signal, start_s: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return one window as ecg (L, T) and observed (L, T)."""
    if ecg.refusal:
        raise _UnusableECGError(f"record {name}: not interpretable: {ecg.refusal}")
    values, observed = conform(ecg.twelve.signal, ecg.rate_hz, signal, start_s)
    if not observed.any():
        raise _UnobservedWindowError(
            f"record {name}: nothing was observed in the window of the run ({signal.window} {signal.duration_s:g} s, leads "
            f"{', '.join(signal.leads)})"
        )
    return values, observed


def _embed_windows(
    run: Run, windows: _Windows, parts: Sequence[str], batch_size: int, on_error: OnError
) -> tuple[dict[int, Features], dict[int, str]]:
    """Return the mean embedding (D,) of each ECG's windows by position, and the reason for each ECG that has none."""
    if not windows.owner:
        return {}, {}
    owner = np.array(windows.owner)
    failures: dict[int, str] = {}
    features: list[Features] = []
    for begin in range(0, len(owner), batch_size):
        piece = slice(begin, begin + batch_size)
        batch = _batch(np.stack(windows.ecg[piece]), np.stack(windows.observed[piece]), windows.names[piece])
        try:
            features.append(embed_batch(run, batch, parts))
        except ValueError as error:
            if on_error == "raise":
                raise EmbedError(str(error)) from None
            # one by one, to find the ECGs of which the run needs more
            for position, values, observed, name in zip(
                windows.owner[piece], windows.ecg[piece], windows.observed[piece], windows.names[piece]
            ):
                try:
                    features.append(embed_batch(run, _batch(values[None], observed[None], [name]), parts))
                except ValueError as reason:
                    failures.setdefault(position, str(reason))
                    features.append(np.empty((1, 0), dtype=np.float32))
    vectors = [row for piece in features for row in piece]
    means: dict[int, Features] = {}
    for position in sorted(set(windows.owner) - failures.keys()):
        own = np.stack([vectors[k] for k in np.flatnonzero(owner == position)])
        means[position] = own.mean(axis=0, dtype=np.float64).astype(np.float32)
    return means, failures


def _batch(ecg: np.ndarray, observed: np.ndarray, names: Sequence[str]) -> Batch:
    blank = ("",) * len(names)
    return Batch(torch.from_numpy(ecg), torch.from_numpy(observed), tuple(names), tuple(names), blank)
