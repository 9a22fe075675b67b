"""Measure an ECG: heart rate, PR, QRS, QT, QTc and frontal axis, and the points of each beat that they come from.

All leads are used together: beats are detected from their common activity, beats of one shape are averaged, and the waves
are delimited on the average of the dominant shape (`leadwise.data.delineation`). A value that cannot be measured is NaN.
Research use only; no measurement supports a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadwise.batch import LEADS
from leadwise.data.delineation.beats import BEFORE, BeatGroup, average_beat, clear_leads, detect_beats, group_beats
from leadwise.data.delineation.conditioning import RATE_HZ, ConditionedEcg, condition, keep_band
from leadwise.data.delineation.p_waves import p_shifts
from leadwise.data.delineation.waves import P_HZ, WaveBounds, delineate
from leadwise.data.recordings.recording import RecordError

Floats = NDArray[np.float64]

NAN = float("nan")

QUANTITIES = (
    "heart_rate_bpm",
    "pr_ms",
    "qrs_ms",
    "qt_ms",
    "qtc_ms",
    "qtc_fridericia_ms",
    "axis_deg",
    "rr_sd_ms",
    "n_beats",
)
"""The columns of a table of measurements, in order."""

POINTS = ("p_onset_s", "p_offset_s", "qrs_onset_s", "qrs_offset_s", "t_offset_s")
"""The points of each beat, in seconds from the first sample."""

_LEAST_S = 1.5  # a shorter recording is not measured
_QUIET_SHARE = 0.4  # activity between beats as a share of that of beats; more is noise
_USUAL_RR = 0.85  # of the median interval; a beat that comes earlier is not in the average
_NOISY_SHARE = 0.35  # of a lead's QRS: a lead whose beats differ more from their average is not used
_LEAST_NET_AREA = 0.03  # of the absolute area; with less, the direction of the QRS is undefined
_FASTEST_RR, _SLOWEST_RR = 100, 1500  # samples: 300 and 20 beats/min
_SHORTEST_QRS = 20  # samples: 40 ms
_LONGEST_GAP = 75  # samples: an interval with more unobserved samples may contain a beat

# Limb leads as weights of the horizontal (lead I) and vertical component of the frontal vector (Einthoven's triangle).
_ROOT3 = float(np.sqrt(3))
_FRONTAL = {
    "I": (1.0, 0.0),
    "II": (0.5, _ROOT3 / 2),
    "III": (-0.5, _ROOT3 / 2),
    "aVR": (-0.75, -_ROOT3 / 4),
    "aVL": (0.75, -_ROOT3 / 4),
    "aVF": (0.0, _ROOT3 / 2),
}


@dataclass(frozen=True, eq=False)
class Measurements:
    """The measurements of one ECG; NaN where a measurement is not possible.

    The intervals are those of the dominant beats, over all leads: QRS and QT begin at the earliest movement in any lead.
    """

    heart_rate_bpm: float  # ventricular: 60 / mean RR
    pr_ms: float  # NaN without a P wave that recurs before the QRS, such as in atrial fibrillation
    qrs_ms: float
    qt_ms: float
    qtc_ms: float  # Bazett: QT / sqrt(RR in s)
    qtc_fridericia_ms: float  # QT / cbrt(RR in s)
    axis_deg: float  # frontal QRS axis, -180 to 180, from the net areas of the limb leads; NaN with fewer than two
    rr_sd_ms: float  # standard deviation of all RR intervals
    n_beats: int
    beats: dict[str, Floats]  # POINTS -> (n_beats,) seconds; NaN where a beat has no such point
    leads: tuple[str, ...] = ()  # that were used

    def values(self) -> dict[str, float]:
        """Return the quantities by name, without the points of the beats."""
        return {name: getattr(self, name) for name in QUANTITIES}

    def rows(self) -> list[dict[str, float]]:
        """Return one row for each beat: its number and its points in seconds."""
        return [
            {"beat": float(number), **{name: float(self.beats[name][number]) for name in POINTS}}
            for number in range(self.n_beats)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return quantities, leads and points as JSON values; null where a value is NaN."""
        points = {name: [_json_number(value, 4) for value in self.beats[name].tolist()] for name in POINTS}
        quantities = {name: _json_number(value, 2) for name, value in self.values().items()}
        return {**quantities, "n_beats": self.n_beats, "leads": list(self.leads), "beats": points}


def measure(ecg_mv: ArrayLike, leads: Sequence[str], rate_hz: float, observed: ArrayLike | None = None) -> Measurements:
    """Return the measurements of an ECG.

    Args:
        ecg_mv: samples (L, T) in mV; NaN is a missing sample.
        leads: the names of the L rows, in any order; names of batch.LEADS are used, others are ignored.
        rate_hz: sampling rate, 50 to 5000 Hz; 100 to 1000 Hz are tested.
        observed: which samples (L, T) exist; a sample that is NaN is missing in any case.

    Raises:
        RecordError: the arguments do not fit together. A signal that cannot be measured raises nothing.
    """
    signal, mask = _checked(ecg_mv, leads, rate_hz, observed)
    rows = [row for row, lead in enumerate(leads) if lead in LEADS]
    if not rows or signal.shape[1] < _LEAST_S * rate_hz:
        return _nothing()
    names = tuple(leads[row] for row in rows)
    ecg = condition(signal[rows], names, rate_hz, mask[rows])
    if ecg is None:
        return _nothing()
    ecg = ecg.subset(clear_leads(ecg.signal))
    middles, quiet = detect_beats(ecg.signal)
    if not len(middles) or quiet > _QUIET_SHARE:
        return _nothing(ecg.leads)
    return _measure_beats(ecg, middles)


def _checked(
    ecg_mv: ArrayLike, leads: Sequence[str], rate_hz: float, observed: ArrayLike | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the samples and which of them exist, both (L, T)."""
    signal = np.asarray(ecg_mv, dtype=np.float64)
    if signal.ndim != 2 or len(signal) != len(leads):
        raise RecordError(f"the ECG has shape {signal.shape}; it must be (L, T) with L = {len(leads)} lead names")
    if len(set(leads)) != len(leads):
        raise RecordError(f"leads {', '.join(leads)}: a name occurs twice; name each row differently")
    if not 50 <= rate_hz <= 5000:
        raise RecordError(f"rate_hz = {rate_hz!r} is out of range: it must be 50 to 5000")
    mask = np.isfinite(signal)
    if observed is not None:
        given = np.asarray(observed, dtype=bool)
        if given.shape != signal.shape:
            raise RecordError(f"observed has shape {given.shape}; it must be that of the ECG, {signal.shape}")
        mask &= given
    return signal, mask


def _measure_beats(ecg: ConditionedEcg, middles: NDArray[np.int64]) -> Measurements:
    """Return the measurements from detected beats."""
    # intervals between beats, without those that contain a gap in all leads
    intervals = np.diff(middles)
    n_missing = np.cumsum(~ecg.observed.any(axis=0))
    complete = np.diff(n_missing[middles]) <= _LONGEST_GAP
    regular = intervals[complete & (intervals >= _FASTEST_RR) & (intervals <= _SLOWEST_RR)]
    rr = float(np.median(regular)) if len(regular) else 500.0

    # points of the beats of each shape
    points = {name: np.full(len(middles), NAN) for name in POINTS}
    candidates: list[tuple[BeatGroup, WaveBounds, Floats]] = []
    smooth = keep_band(ecg.signal, None, P_HZ)
    for group in group_beats(ecg.signal, middles):
        beat = average_beat(ecg.signal, ecg.observed, _usual_beats(group, middles, rr))
        usable = _steady_leads(ecg, group, beat)
        beat = beat[usable]
        following = np.diff(middles, append=middles[-1] + round(rr))[group.numbers]
        next_rr = float(np.median(following))
        waves = delineate(beat, next_rr)
        if not waves.qrs_offset - waves.qrs_onset >= _SHORTEST_QRS:
            continue  # an artefact, or no observed QRS
        bridged = keep_band(np.nan_to_num(beat), None, P_HZ)
        shifts = p_shifts(smooth[usable], bridged, group.middles, waves, rr)
        _set_points(points, group, waves, shifts, ecg.signal.shape[1] / RATE_HZ)
        candidates.append((group, waves, beat))
    if not candidates:
        return _nothing(ecg.leads)

    # intervals of the dominant beats
    group, waves, _ = _dominant(candidates)
    own = group.numbers
    qrs_ms = 1000 / RATE_HZ * (waves.qrs_offset - waves.qrs_onset)
    qt_ms = 1000 / RATE_HZ * (waves.t_offset - waves.qrs_onset)
    distances = points["qrs_onset_s"][own] - points["p_onset_s"][own]
    pr_ms = 1000 * float(np.nanmedian(distances)) if np.isfinite(distances).any() else NAN
    mean_s = float(regular.mean()) / RATE_HZ if len(regular) else NAN
    return Measurements(
        heart_rate_bpm=60 / mean_s,
        pr_ms=pr_ms,
        qrs_ms=qrs_ms,
        qt_ms=qt_ms,
        qtc_ms=qt_ms / float(np.sqrt(mean_s)),
        qtc_fridericia_ms=qt_ms / float(np.cbrt(mean_s)),
        axis_deg=_axis_deg(ecg, group, waves),
        rr_sd_ms=1000 / RATE_HZ * float(regular.std()) if len(regular) > 1 else NAN,
        n_beats=len(middles),
        beats=points,
        leads=ecg.leads,
    )


def _usual_beats(group: BeatGroup, middles: NDArray[np.int64], rr: float) -> NDArray[np.int64]:
    """Return the middles of a group's beats that do not come early, if they are the majority; else all."""
    before = np.diff(middles, prepend=middles[0] - round(rr))[group.numbers]
    usual = group.middles[before >= _USUAL_RR * rr]
    return usual if 2 * len(usual) > len(group.middles) else group.middles


def _steady_leads(ecg: ConditionedEcg, group: BeatGroup, beat: Floats) -> NDArray[np.bool_]:
    """Return which leads (L,) have beats like their average; all if none has, or if there is one beat only."""
    n = ecg.signal.shape[1]
    inside = [middle for middle in group.middles if middle - 60 >= 0 and middle + 60 <= n]
    every = np.ones(len(ecg.leads), dtype=bool)
    if len(inside) < 2 or len(every) < 2:
        return every
    average = beat[:, BEFORE - 60 : BEFORE + 60]
    cuts = np.stack([ecg.signal[:, middle - 60 : middle + 60] for middle in inside])
    difference = cuts - average
    difference = difference - difference.mean(axis=2, keepdims=True)  # baseline wander is not noise
    noise = np.median(difference.std(axis=2), axis=0)
    size = average.std(axis=1)
    steady = np.isfinite(size) & (noise <= _NOISY_SHARE * np.nan_to_num(size))
    return steady if steady.any() else every


def _set_points(
    points: dict[str, Floats], group: BeatGroup, waves: WaveBounds, shifts: Floats, duration_s: float
) -> None:
    """Set the points of a group's beats, in seconds; NaN where a point is outside of the recording."""
    points["qrs_onset_s"][group.numbers] = (group.middles + waves.qrs_onset) / RATE_HZ
    points["qrs_offset_s"][group.numbers] = (group.middles + waves.qrs_offset) / RATE_HZ
    points["t_offset_s"][group.numbers] = (group.middles + waves.t_offset) / RATE_HZ
    points["p_onset_s"][group.numbers] = (group.middles + waves.p_onset + shifts) / RATE_HZ
    points["p_offset_s"][group.numbers] = (group.middles + waves.p_offset + shifts) / RATE_HZ
    for name in POINTS:  # a beat at an end of the recording has points outside of it
        points[name][(points[name] < 0) | (points[name] >= duration_s)] = NAN


def _dominant(candidates: list[tuple[BeatGroup, WaveBounds, Floats]]) -> tuple[BeatGroup, WaveBounds, Floats]:
    """Return the narrowest of the frequent shapes, because in bigeminy the premature beats are as frequent."""
    most = max(len(group.numbers) for group, _, _ in candidates)
    frequent = [entry for entry in candidates if len(entry[0].numbers) >= 0.6 * most]
    return min(frequent, key=lambda entry: entry[1].qrs_offset - entry[1].qrs_onset)


def _axis_deg(ecg: ConditionedEcg, group: BeatGroup, waves: WaveBounds) -> float:
    """Return the frontal axis of the QRS in degrees from the net areas of the limb leads; NaN with fewer than two."""
    rows = [row for row, lead in enumerate(ecg.leads) if lead in _FRONTAL]
    if len(rows) < 2:
        return NAN
    beat = average_beat(ecg.signal[rows], ecg.observed[rows], group.middles)
    onset, offset = BEFORE + int(waves.qrs_onset), BEFORE + int(waves.qrs_offset)
    level = beat[:, max(onset - 8, 0) : onset].mean(axis=1, keepdims=True)
    qrs = beat[:, onset : offset + 1] - level
    complete = np.isfinite(qrs).all(axis=1)
    if complete.sum() < 2:
        return NAN

    # the vector whose projections on the leads are nearest to the areas
    areas = qrs[complete].sum(axis=1)
    weights = np.array([_FRONTAL[ecg.leads[row]] for row, whole in zip(rows, complete) if whole])
    vector = np.linalg.lstsq(weights, areas, rcond=None)[0]
    if np.linalg.norm(vector) < _LEAST_NET_AREA * np.abs(qrs[complete]).sum(axis=1).max():
        return NAN
    return float(np.rad2deg(np.arctan2(vector[1], vector[0])))


def _nothing(leads: tuple[str, ...] = ()) -> Measurements:
    """Return measurements that are all NaN."""
    empty = {name: np.empty(0) for name in POINTS}
    return Measurements(NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, 0, empty, leads)


def _json_number(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None
