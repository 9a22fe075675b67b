"""What the samples of a recording say of its unit, its rate and its noise: numbers that `verdicts` judges.

A spectrum shows mains hum and where the signal ends, which is lower than the rate allows where it was upsampled or
filtered hard. The beat rate shows a wrong sampling rate: ECGs stated at five times their rate beat five times as fast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.signal import welch

from leadwise.batch import LEADS
from leadwise.data.audit.near_duplicates import Sketcher, centred
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.packing import unpack
from leadwise.data.recordings import lead_algebra
from leadwise.data.recordings.quality import FLAT_MV
from leadwise.data.recordings.recording import MISSING

MAINS_HZ = (50.0, 60.0)
LOOKED_AT_S = 30.0  # of a recording, at most
SEGMENT_S = 2.0  # of a spectrum: half a hertz apart
LOWEST_HZ = 1.0  # below it lies the wander of the baseline
END_SHARE = 1e-5  # of the power above LOWEST_HZ: where no more is left above, the signal ends
SMOOTH_S = 0.08  # about a QRS, over which slopes are summed
STEEP = 0.4  # of the way from the usual slope to that of a QRS: above it is a beat


@dataclass(frozen=True)
class Measures:
    """Of the recordings looked at, (n,) each."""

    row: np.ndarray  # of the cohort's index
    range_mv: np.ndarray  # 1st to 99th percentile, the median of the leads that move; NaN where none does
    end_hz: np.ndarray  # above it there is next to no power
    hum_hz: np.ndarray  # 50 or 60, 0 where neither stands out
    hum_share: np.ndarray  # of the power above 1 Hz, the median of the leads
    beats_bpm: np.ndarray  # NaN where none can be told
    order: np.ndarray  # verdict on the lead order of the samples as they are now
    twins: np.ndarray  # names of two recorded leads with the same samples, '' where there are none
    sketch: np.ndarray  # (n, tables) uint32, see `likeness`


def measure(cohort: Cohort, rows: np.ndarray, progress: Callable[[int, int], None] | None = None) -> Measures:
    """Look at the samples of some rows, one recording in memory at a time."""
    sketcher = Sketcher()
    recorded = _recorded(cohort, rows)
    lines = []
    for done, row in enumerate(rows):
        lines.append(_measure(cohort, int(row), recorded[done], sketcher))
        if progress is not None:
            progress(done + 1, len(rows))
    columns = list(zip(*lines)) if lines else [()] * 8
    numbers = [np.array(column, dtype=np.float64) for column in columns[:5]]
    order, twins = (np.array(column, dtype=np.str_) for column in columns[5:7])
    sketches = np.array(columns[7], dtype=np.uint32).reshape(len(rows), -1)
    range_mv, end_hz, hum_hz, hum_share, beats_bpm = numbers
    return Measures(rows, range_mv, end_hz, hum_hz, hum_share, beats_bpm, order, twins, sketches)


def _recorded(cohort: Cohort, rows: np.ndarray) -> np.ndarray:
    """Which leads the files of some ascending rows held (n, 12) bool."""
    parts, begin = [], 0
    for batch in cohort.columns(["lead_origin"]):
        inside = rows[(rows >= begin) & (rows < begin + len(batch))] - begin
        origins = batch.column(0).take(inside).to_pylist() if len(inside) else []
        parts += [[origin == "recorded" for origin in line] for line in origins]
        begin += len(batch)
    return np.array(parts, dtype=bool).reshape(-1, len(LEADS))


def _measure(cohort: Cohort, row: int, recorded: np.ndarray, sketcher: Sketcher) -> tuple[object, ...]:
    block = cohort.block(row)
    uv_per_step, baseline, rate_hz = cohort.scale(row)
    n = min(block.shape[1], int(LOOKED_AT_S * rate_hz))
    ecg = unpack(block[:, :n], uv_per_step, baseline).T  # (12, T) mV, NaN = missing
    order = lead_algebra.check_limb_leads({lead: trace for lead, trace, own in zip(LEADS, ecg, recorded) if own})
    heart = centred(ecg)
    moving = recorded & (heart.std(axis=1) >= FLAT_MV)
    sketch = sketcher.sketch(heart, rate_hz)
    twins = _twins(block, moving)
    if not moving.any():
        return np.nan, np.nan, 0.0, 0.0, np.nan, order, twins, sketch
    low, high = np.percentile(heart[moving], (1, 99), axis=1)
    end_hz, hum_hz, hum_share = _spectrum(heart[moving], rate_hz)
    return (
        float(np.median(high - low)),
        end_hz,
        hum_hz,
        hum_share,
        _beats_bpm(heart[moving], rate_hz),
        order,
        twins,
        sketch,
    )


def _spectrum(ecg: np.ndarray, rate_hz: float) -> tuple[float, float, float]:
    """Where the power of ECGs (L, T) in mV ends in Hz; the mains line that stands out in Hz, or 0; its share."""
    hz, power = welch(ecg, rate_hz, nperseg=min(ecg.shape[1], round(SEGMENT_S * rate_hz)), axis=1)
    above = hz >= LOWEST_HZ
    hz, power = hz[above], power[:, above]
    power = power[power.sum(axis=1) > 0]
    if not power.size:
        return float("nan"), 0.0, 0.0
    share = np.median(power / power.sum(axis=1, keepdims=True), axis=0)
    left = np.cumsum(share[::-1])[::-1] / share.sum()
    end_hz = float(hz[np.flatnonzero(left >= END_SHARE)[-1]])
    best = (0.0, 0.0)
    for line in MAINS_HZ:
        near = np.abs(hz - line)
        if line + 5 > rate_hz / 2 or not (near <= 1.0).any() or not ((near > 2) & (near <= 5)).any():
            continue  # above what the rate holds, or of too short a recording to stand out
        floor = np.median(share[(near > 2) & (near <= 5)])
        peak = share[near <= 1.0]
        if peak.max() > 10 * floor:
            best = max(best, (float(peak.sum() - floor * len(peak)), line))
    return end_hz, best[1], best[0]


def _beats_bpm(ecg: np.ndarray, rate_hz: float) -> float:
    """Beats a minute of ECGs (L, T) in mV, from the median time between steep stretches; NaN where fewer than three are."""
    width = max(1, round(SMOOTH_S * rate_hz))
    if ecg.shape[1] <= 4 * width + 1:
        return float("nan")
    slope = np.abs(np.diff(ecg / ecg.std(axis=1, keepdims=True), axis=1)).sum(axis=0)
    slope = np.minimum(slope, np.percentile(slope, 99.5))  # deaf to a lone spike
    steep = np.convolve(slope, np.ones(width), mode="valid")
    usual, beat = np.percentile(steep, (50, 97))
    inside = np.concatenate(([False], steep > usual + STEEP * (beat - usual), [False]))
    edges = np.flatnonzero(np.diff(inside.astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    apart = np.concatenate(([True], begins[1:] - ends[:-1] > width / 2))  # a QRS of two humps is one beat
    begins = begins[apart]
    return float(60 * rate_hz / np.median(np.diff(begins))) if len(begins) >= 3 else float("nan")


def _twins(block: np.ndarray, moving: np.ndarray) -> str:
    """Two leads of a block (12, T) that hold the same samples, such as 'aVR = aVF'."""
    seen: dict[bytes, str] = {}
    for lead, samples, looked_at in zip(LEADS, block, moving):
        if looked_at and (samples != MISSING).any():
            first = seen.setdefault(hashlib.blake2b(samples.tobytes(), digest_size=12).digest(), lead)
            if first != lead:
                return f"{first} = {lead}"
    return ""
