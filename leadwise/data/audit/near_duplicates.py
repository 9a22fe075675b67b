"""Recordings that are the same but for scale, offset, rate or rounding: found without comparing each with each.

A recording becomes a shape: the steps between blocks of 1/16 s of its first ten seconds, eight leads, each of unit
size. Signs of random projections of the shape (Charikar 2002) make a few keys; the same key twice makes two
candidates, whose shapes are then compared. Kept of a recording are 64 bytes. A copy that begins at another time is
not found.
"""

from __future__ import annotations

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort

LIKE = 0.97  # correlation of shapes; of 4,961 ECGs of PTB-XL the two most alike strangers reach 0.92
EQUAL = 0.999  # correlation of samples at one rate: a copy but for scale, offset and rounding
SAME, ALIKE = "same", "alike"
BLOCKS_HZ = 16
SHAPE_S = 10
N_TABLES, N_BITS = 16, 20
_LEADS = tuple(LEADS.index(lead) for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"))


class Sketcher:
    """Makes keys of shapes; the same in every process."""

    def __init__(self) -> None:
        n = len(_LEADS) * (BLOCKS_HZ * SHAPE_S - 1)
        rng = np.random.default_rng(20_02)
        self._planes = rng.standard_normal((N_TABLES * N_BITS, n)).astype(np.float32)
        self._weights = (1 << np.arange(N_BITS)).astype(np.uint32)

    def sketch(self, ecg: np.ndarray, rate_hz: float) -> np.ndarray:
        """Keys (tables,) uint32 of ECGs (12, T) about their medians, 0 = missing."""
        above = self._planes @ shape(ecg, rate_hz) > 0
        keys: np.ndarray = (above.reshape(N_TABLES, N_BITS) * self._weights).sum(axis=1, dtype=np.uint32)
        return keys


def shape(ecg: np.ndarray, rate_hz: float) -> np.ndarray:
    """The shape (leads * steps,) float32 of unit length of ECGs (12, T); all 0 where nothing moves."""
    own = ecg[list(_LEADS)]
    # a sample stands for the time from half a step before it to half a step after, so that rates line up
    edges = np.clip(np.arange(BLOCKS_HZ * SHAPE_S + 1) * (rate_hz / BLOCKS_HZ) + 0.5, 0, own.shape[1])
    total = np.concatenate([np.zeros((len(_LEADS), 1)), np.cumsum(own, axis=1, dtype=np.float64)], axis=1)
    place = np.arange(total.shape[1])
    sums = np.diff(np.stack([np.interp(edges, place, lead) for lead in total]), axis=1)
    size = np.diff(edges)
    steps = np.diff(sums / np.maximum(size, 1e-9), axis=1)  # of the blocks: deaf to a baseline that wanders
    steps[:, size[1:] < 0.99 * rate_hz / BLOCKS_HZ] = 0.0  # after the end
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    steps = np.divide(steps, length, out=np.zeros_like(steps), where=length > 1e-6)
    whole = float(np.linalg.norm(steps))
    flat: np.ndarray = (steps / whole if whole > 0 else steps).astype(np.float32).ravel()
    return flat


def candidates(sketches: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows (n, tables) that share a key: each with the first of that key and with the one before it."""
    pairs: set[tuple[int, int]] = set()
    for keys in sketches.T:
        order = np.argsort(keys, kind="stable")
        same = np.concatenate(([False], keys[order][1:] == keys[order][:-1]))
        begin = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        for place in np.flatnonzero(same).tolist():
            for earlier in (begin[place], place - 1):
                pairs.add((int(order[earlier]), int(order[place])))  # a stable sort: ascending
    return sorted(pairs)


def compare(one: tuple[Cohort, int], other: tuple[Cohort, int]) -> str:
    """How two recordings (each a cohort and its row) are alike: SAME, ALIKE or '' for not at all."""
    if float(_shape_of(*one) @ _shape_of(*other)) < LIKE:
        return ""
    (first, rate_hz), (second, other_rate_hz) = (cohort.signal(row) for cohort, row in (one, other))
    if rate_hz != other_rate_hz:
        return ALIKE
    n = min(len(first), len(second))
    return SAME if _correlation(first[:n], second[:n]) >= EQUAL else ALIKE


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The median correlation of the leads of two signals (T, 12) that both move; NaN where none does."""
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (centred(first.T), centred(second.T)))
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both = size > 1e-6
    return float(np.median((a * b).sum(axis=1)[both] / size[both])) if both.any() else float("nan")


def _shape_of(cohort: Cohort, row: int) -> np.ndarray:
    signal, rate_hz = cohort.signal(row)
    return shape(centred(signal.T[:, : round(SHAPE_S * rate_hz)]), rate_hz)


def centred(ecg: np.ndarray) -> np.ndarray:
    """ECGs (12, T) in mV about their medians, 0 where they are missing."""
    observed = np.isfinite(ecg).any(axis=1)
    values = np.zeros_like(ecg)
    values[observed] = np.nan_to_num(ecg[observed] - np.nanmedian(ecg[observed], axis=1, keepdims=True))
    return values
