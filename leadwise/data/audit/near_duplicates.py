"""Find recordings that are equal except for scale, offset, sampling rate or rounding, without comparing all pairs.

A recording becomes a shape vector: the differences between consecutive blocks of 1/16 s in its first ten seconds, of
eight leads, each scaled to unit length. The signs of random projections of this vector (Charikar 2002) form a few keys.
Two recordings that share a key are candidates, and their shape vectors are then compared. 64 bytes per recording are
held in memory. A copy that begins at another time, or whose leads were exchanged, is found by `beat_matching`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.audit.beat_matching import Aligned, overlap, refine_lag
from leadwise.data.cohort.cohort import Cohort

MIN_SHAPE_CORRELATION = 0.97  # among 4,961 ECGs of PTB-XL, the most similar ones of two patients reach 0.92
MIN_SAMPLE_CORRELATION = 0.999  # at one sampling rate: a copy except for scale, offset and rounding
SAME, ALIKE = "same", "alike"
BLOCKS_HZ = 16
SHAPE_S = 10
COMPARED_S = 30.0  # of a recording that begins at another time
_MOST_RECENT = 4096  # recordings in memory while pairs are compared, at most 0.6 MB each
N_TABLES, N_BITS = 16, 20
_LEADS = tuple(LEADS.index(lead) for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"))


class Sketcher:
    """Computes the keys of shape vectors; every process computes the same keys."""

    def __init__(self) -> None:
        n = len(_LEADS) * (BLOCKS_HZ * SHAPE_S - 1)
        rng = np.random.default_rng(20_02)
        self._planes = rng.standard_normal((N_TABLES * N_BITS, n)).astype(np.float32)
        self._weights = (1 << np.arange(N_BITS)).astype(np.uint32)

    def sketch(self, ecg: np.ndarray, rate_hz: float) -> np.ndarray:
        """Return the keys (tables,) uint32 of an ECG (12, T) centred on its medians, 0 = missing."""
        above = self._planes @ shape_vector(ecg, rate_hz) > 0
        keys: np.ndarray = (above.reshape(N_TABLES, N_BITS) * self._weights).sum(axis=1, dtype=np.uint32)
        return keys


def shape_vector(ecg: np.ndarray, rate_hz: float) -> np.ndarray:
    """Return the shape vector (leads * steps,) float32 of an ECG (12, T), of unit length; all 0 for a constant signal."""
    values = ecg[list(_LEADS)]
    # a sample covers the time from half a step before it to half a step after it, so that sampling rates line up
    edges = np.clip(np.arange(BLOCKS_HZ * SHAPE_S + 1) * (rate_hz / BLOCKS_HZ) + 0.5, 0, values.shape[1])
    total = np.concatenate([np.zeros((len(_LEADS), 1)), np.cumsum(values, axis=1, dtype=np.float64)], axis=1)
    position = np.arange(total.shape[1])
    sums = np.diff(np.stack([np.interp(edges, position, lead) for lead in total]), axis=1)
    size = np.diff(edges)
    # differences between blocks: baseline wander has little effect on them
    steps = np.diff(sums / np.maximum(size, 1e-9), axis=1)
    steps[:, size[1:] < 0.99 * rate_hz / BLOCKS_HZ] = 0.0  # after the end of the recording
    # unit length per lead, then of all leads together
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    steps = np.divide(steps, length, out=np.zeros_like(steps), where=length > 1e-6)
    whole = float(np.linalg.norm(steps))
    vector: np.ndarray = (steps / whole if whole > 0 else steps).astype(np.float32).ravel()
    return vector


def candidate_pairs(sketches: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of rows of `sketches` (n, tables) that share a key.

    Each row is paired with the first row that has the key and with the previous one.
    """
    pairs: set[tuple[int, int]] = set()
    for keys in sketches.T:
        order = np.argsort(keys, kind="stable")
        same = np.concatenate(([False], keys[order][1:] == keys[order][:-1]))
        begin = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        for position in np.flatnonzero(same).tolist():
            for earlier in (begin[position], position - 1):
                pairs.add((int(order[earlier]), int(order[position])))  # a stable sort: ascending
    return sorted(pairs)


class PairComparison:
    """Compares recordings in full; those that were read last stay in memory."""

    def __init__(self) -> None:
        self._recent: dict[tuple[Path, int], Aligned] = {}

    def kind(
        self, one: tuple[Cohort, int], other: tuple[Cohort, int], lags: Sequence[float], from_beginnings: bool
    ) -> str:
        """Return SAME, ALIKE or '' (different) for two recordings, each given as a cohort and a row.

        They are compared at `lags` (s), see `beat_matching`; if they are not alike there, also `from_beginnings`.
        """
        lag = refine_lag(self._read(*one), self._read(*other), lags) if lags else None
        if lag is None and from_beginnings and float(_shape_of(*one) @ _shape_of(*other)) >= MIN_SHAPE_CORRELATION:
            lag = 0.0
        if lag is None:
            return ""
        (first, rate_hz), (second, other_rate_hz) = (cohort.signal(row) for cohort, row in (one, other))
        if rate_hz != other_rate_hz:
            return ALIKE
        return SAME if _most_equal(first, second, lag * rate_hz) >= MIN_SAMPLE_CORRELATION else ALIKE

    def _read(self, cohort: Cohort, row: int) -> Aligned:
        key = (cohort.folder, row)
        if key not in self._recent:
            if len(self._recent) >= _MOST_RECENT:
                self._recent.clear()
            signal, rate_hz = cohort.signal(row)
            ecg = signal.T[:, : round(COMPARED_S * rate_hz)]
            self._recent[key] = Aligned(ecg if np.isfinite(ecg).all() else centred(ecg), rate_hz)
        return self._recent[key]


def _shape_of(cohort: Cohort, row: int) -> np.ndarray:
    signal, rate_hz = cohort.signal(row)
    return shape_vector(centred(signal.T[:, : round(SHAPE_S * rate_hz)]), rate_hz)


def _most_equal(one: np.ndarray, other: np.ndarray, lag: float) -> float:
    """Return the best correlation of two signals (T, 12) at whole lags near one that is known to about a sample."""
    steps = (0,) if lag == 0 else (-2, -1, 0, 1, 2)
    parts = (overlap(len(one), len(other), round(lag) + step) for step in steps)
    return max(_correlation(one[a], other[b]) for a, b in parts)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the median correlation over the leads of two signals (T, 12) that vary in both; NaN if no lead does."""
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (centred(first.T), centred(second.T)))
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both = size > 1e-6
    return float(np.median((a * b).sum(axis=1)[both] / size[both])) if both.any() else float("nan")


def centred(ecg: np.ndarray) -> np.ndarray:
    """Return an ECG (12, T) in mV minus the median of each lead, with 0 where samples are missing."""
    observed = np.isfinite(ecg).any(axis=1)
    values = np.zeros_like(ecg)
    values[observed] = np.nan_to_num(ecg[observed] - np.nanmedian(ecg[observed], axis=1, keepdims=True))
    return values
