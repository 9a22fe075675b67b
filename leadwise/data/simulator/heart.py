"""The vector model: Gaussian waves of the heart vector in X (left), Y (down), Z (back), and its projection on the leads.

A wave rises along a Gaussian flank, holds its maximum for some time (zero for a plain Gaussian) and falls along another
flank. One shape therefore serves P, Q, R, S, T, a delta wave and an ST segment. Eight leads are linear transforms of the
vector; the other four limb leads are computed from I and II, so Einthoven's law holds by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS

Array = NDArray[np.float64]

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The leads that are transforms of the heart vector, in the order of the transform's rows; the others follow from them."""

# Dower's published weights of the X, Y, Z (left, down, back) components, one row per lead of INDEPENDENT_LEADS.
DOWER: Array = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

REACH = 4.2  # a flank ends after this many sigmas, where it is below 0.15 ‰ of the wave
EDGE = 0.06  # a QRS starts and ends where the vector's speed passes this share of its maximum


@dataclass(frozen=True)
class Waves:
    """G waves of the heart vector; times are relative to one instant (the QRS onset in a complete beat)."""

    at_ms: Array  # (G,) start of the maximum
    rise_ms: Array  # (G,) sigma of the rising flank
    fall_ms: Array  # (G,) sigma of the falling flank
    hold_ms: Array  # (G,) duration of the maximum
    vector_mv: Array  # (G, 3) X, Y, Z of the maximum

    def __len__(self) -> int:
        return len(self.at_ms)

    def __add__(self, other: Waves) -> Waves:
        return Waves(
            np.concatenate([self.at_ms, other.at_ms]),
            np.concatenate([self.rise_ms, other.rise_ms]),
            np.concatenate([self.fall_ms, other.fall_ms]),
            np.concatenate([self.hold_ms, other.hold_ms]),
            np.concatenate([self.vector_mv, other.vector_mv]),
        )

    def area(self) -> Array:
        """Return the time integral of the vector, (3,) mV ms."""
        weight = (self.rise_ms + self.fall_ms) * np.sqrt(np.pi / 2) + self.hold_ms
        return np.asarray(weight @ self.vector_mv)

    def along(self, at_ms: Array) -> Array:
        """Return the vector at the given times, (T, 3) mV."""
        since = at_ms[:, None] - self.at_ms
        return _flanks(since, self.rise_ms, self.fall_ms, self.hold_ms) @ self.vector_mv

    def stretched(self, factor: float) -> Waves:
        """Return the same loop, slower by `factor`."""
        times = (self.at_ms, self.rise_ms, self.fall_ms, self.hold_ms)
        at, rise, fall, hold = (part * factor for part in times)
        return Waves(at, rise, fall, hold, self.vector_mv)

    def delayed(self, by_ms: float) -> Waves:
        """Return the same loop, `by_ms` later."""
        return replace(self, at_ms=self.at_ms + by_ms)

    def scaled(self, factor: float | Array) -> Waves:
        """Return the same loop, larger by `factor` (a number, (3,) or (G, 3))."""
        return replace(self, vector_mv=self.vector_mv * factor)

    def rotated(self, by_deg: float) -> Waves:
        """Return the same loop, rotated clockwise in the frontal plane (like the axis: from lead I towards aVF)."""
        cos, sin = np.cos(np.deg2rad(by_deg)), np.sin(np.deg2rad(by_deg))
        rotation = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
        return replace(self, vector_mv=self.vector_mv @ rotation)

    def rotated_horizontally(self, by_deg: float) -> Waves:
        """Return the same loop, rotated in the horizontal plane from left towards the back."""
        cos, sin = np.cos(np.deg2rad(by_deg)), np.sin(np.deg2rad(by_deg))
        rotation = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
        return replace(self, vector_mv=self.vector_mv @ rotation)


def waves(rows: Sequence[Sequence[float]]) -> Waves:
    """Return waves from rows of (time ms, rise ms, fall ms, hold ms, x mV, y mV, z mV)."""
    table = np.asarray(rows, dtype=float).reshape(-1, 7)
    return Waves(table[:, 0], table[:, 1], table[:, 2], table[:, 3], table[:, 4:])


def bounds_ms(qrs: Waves) -> tuple[float, float]:
    """Return onset and end of a QRS loop in ms: where its speed first and last exceeds EDGE of its maximum."""
    grid = np.arange((qrs.at_ms - 4 * qrs.rise_ms).min(), (qrs.at_ms + qrs.hold_ms + 4 * qrs.fall_ms).max(), 1.0)
    speed = np.linalg.norm(np.diff(qrs.along(grid), axis=0), axis=1)
    moving = np.flatnonzero(speed > EDGE * speed.max())
    return float(grid[moving[0]] + 0.5), float(grid[moving[-1]] + 0.5)


def axis_deg(i_mv: float, ii_mv: float) -> float:
    """Return the frontal axis in degrees, -180 to 180, from the net deflections (or areas) of leads I and II."""
    return float(np.rad2deg(np.arctan2((2 * ii_mv - i_mv) / np.sqrt(3), i_mv)))


def twelve_leads(independent: Array) -> Array:
    """Return all leads in the order of LEADS, (T, 12) mV, from those of INDEPENDENT_LEADS, (T, 8) mV."""
    i, ii = independent[:, 0], independent[:, 1]
    leads = np.empty((len(independent), len(LEADS)))
    leads[:, 0], leads[:, 1] = i, ii
    leads[:, 2] = ii - i
    leads[:, 3] = -(i + ii) / 2
    leads[:, 4] = i - ii / 2
    leads[:, 5] = ii - i / 2
    leads[:, 6:] = independent[:, 2:]
    return leads


def render(events: Waves, n_samples: int, rate_hz: float) -> Array:
    """Return the vector over time, (n_samples, 3) mV: the sum of all events, whose times count from the first sample."""
    step_ms = 1000 / rate_hz
    first = np.floor((events.at_ms - REACH * events.rise_ms) / step_ms).astype(np.int64)
    last = np.ceil((events.at_ms + events.hold_ms + REACH * events.fall_ms) / step_ms).astype(np.int64)
    length = last - first + 1
    vector = np.zeros((3, n_samples + 2))  # one extra sample at either end collects what is outside
    narrow = length <= np.median(length)
    for group in (narrow, ~narrow):  # two tables instead of one, because T waves are much longer than Q waves
        if not group.any():
            continue
        index = first[group, None] + np.arange(length[group].max())
        since = index * step_ms - events.at_ms[group, None]
        parts = (events.rise_ms[group, None], events.fall_ms[group, None], events.hold_ms[group, None])
        height = _flanks(since, *parts)
        place = (np.clip(index, -1, n_samples) + 1).ravel()
        for k in range(3):
            share = (height * events.vector_mv[group, k, None]).ravel()
            vector[k] += np.bincount(place, weights=share, minlength=n_samples + 2)
    return vector[:, 1:-1].T


def _flanks(since: Array, rise: Array, fall: Array, hold: Array) -> Array:
    sigmas = np.where(since < 0, since / rise, np.maximum(since - hold, 0.0) / fall)
    height: Array = np.exp(-0.5 * sigmas * sigmas)
    return height
