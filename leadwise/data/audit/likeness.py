"""Recordings that are the same but for scale, offset, rate or rounding: found without comparing each with each.

A recording becomes a shape: its first ten seconds in blocks of 1/16 s, eight leads, each about its mean and of unit
size. Signs of random projections of the shape (Charikar 2002) make a few keys; the same key twice makes two
candidates, whose shapes are then compared. Kept of a recording are 32 bytes. A copy that begins at another time is
not found.
"""

from __future__ import annotations

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.cohort import Cohort

LIKE = 0.995  # correlation of shapes; two ECGs of one person lie far below, a resampled or rounded copy above
BLOCKS_HZ = 16
SHAPE_S = 10
N_TABLES, N_BITS = 8, 22
_LEADS = tuple(LEADS.index(lead) for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"))


class Sketcher:
    """Makes keys of shapes; the same in every process."""

    def __init__(self) -> None:
        n = len(_LEADS) * BLOCKS_HZ * SHAPE_S
        rng = np.random.default_rng(20_02)
        self._planes = rng.standard_normal((N_TABLES * N_BITS, n)).astype(np.float32)
        self._weights = (1 << np.arange(N_BITS)).astype(np.uint32)

    def sketch(self, ecg: np.ndarray, rate_hz: float) -> np.ndarray:
        """Keys (tables,) uint32 of ECGs (12, T) about their medians, 0 = missing."""
        above = self._planes @ shape(ecg, rate_hz) > 0
        keys: np.ndarray = (above.reshape(N_TABLES, N_BITS) * self._weights).sum(axis=1, dtype=np.uint32)
        return keys


def shape(ecg: np.ndarray, rate_hz: float) -> np.ndarray:
    """The shape (leads * blocks,) float32 of unit length of ECGs (12, T); all 0 where nothing moves."""
    n_blocks = BLOCKS_HZ * SHAPE_S
    edges = np.minimum(np.rint(np.arange(n_blocks + 1) * rate_hz / BLOCKS_HZ).astype(int), ecg.shape[1])
    total = np.concatenate([np.zeros((len(_LEADS), 1)), np.cumsum(ecg[list(_LEADS)], axis=1, dtype=np.float64)], axis=1)
    n_samples = np.diff(edges)
    blocks = np.diff(total[:, edges], axis=1) / np.maximum(n_samples, 1)
    there = n_samples > 0
    blocks[:, there] -= blocks[:, there].mean(axis=1, keepdims=True)
    size = np.linalg.norm(blocks, axis=1, keepdims=True)
    blocks = np.divide(blocks, size, out=np.zeros_like(blocks), where=size > 1e-6)
    length = float(np.linalg.norm(blocks))
    flat: np.ndarray = (blocks / length if length > 0 else blocks).astype(np.float32).ravel()
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


def alike(one: tuple[Cohort, int], other: tuple[Cohort, int]) -> float:
    """The correlation of the shapes of two recordings, each a cohort and its row."""
    return float(_shape_of(*one) @ _shape_of(*other))


def _shape_of(cohort: Cohort, row: int) -> np.ndarray:
    signal, rate_hz = cohort.signal(row)
    return shape(centred(signal.T[:, : round(SHAPE_S * rate_hz)]), rate_hz)


def centred(ecg: np.ndarray) -> np.ndarray:
    """ECGs (12, T) in mV about their medians, 0 where they are missing."""
    observed = np.isfinite(ecg).any(axis=1)
    values = np.zeros_like(ecg)
    values[observed] = np.nan_to_num(ecg[observed] - np.nanmedian(ecg[observed], axis=1, keepdims=True))
    return values
