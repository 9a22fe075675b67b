"""Measurements on the samples of recordings that reveal a wrong unit or sampling rate, and noise.

The spectrum contains mains hum and the highest frequency with power, which is lower than the sampling rate allows if the
recording was upsampled or strongly filtered. The heart rate reveals a wrong sampling rate: at five times the true
sampling rate, the heart beats five times as fast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.signal import welch

from leadwise.batch import LEADS
from leadwise.data.audit.beat_matching import Beats, find_beats
from leadwise.data.audit.near_duplicates import Sketcher, centred
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.packing import unpack
from leadwise.data.recordings import lead_algebra
from leadwise.data.recordings.quality import FLAT_MV
from leadwise.data.recordings.recording import MISSING

MAINS_HZ = (50.0, 60.0)
MEASURED_S = 30.0  # of each recording, at most
SEGMENT_S = 2.0  # of a spectrum: a resolution of 0.5 Hz
LOWEST_HZ = 1.0  # lower frequencies are baseline wander
END_SHARE = 1e-5  # of the power above LOWEST_HZ: the signal ends where less than this remains
SMOOTH_S = 0.08  # about the length of a QRS, over which slopes are summed
STEEP = 0.4  # threshold of a beat, between the median slope (0) and that of a QRS (1)


@dataclass(frozen=True)
class Measures:
    """Measurements of n recordings, (n,) each."""

    row: np.ndarray  # of the cohort's index
    range_mv: np.ndarray  # 1st to 99th percentile, median over the leads that are not flat; NaN if all are
    end_hz: np.ndarray  # highest frequency with power
    hum_hz: np.ndarray  # 50 or 60, 0 if neither is clearly present
    hum_share: np.ndarray  # of the power above 1 Hz, median over the leads
    beats_bpm: np.ndarray  # heart rate, NaN if it cannot be estimated
    order: np.ndarray  # result of the lead order test on the stored samples
    twins: np.ndarray  # names of two recorded leads with the same samples, '' if there are none
    sketch: np.ndarray  # (n, tables) uint32, see `near_duplicates`
    beats: tuple[Beats, ...]  # see `beat_matching`


def measure(cohort: Cohort, rows: np.ndarray, progress: Callable[[int, int], None] | None = None) -> Measures:
    """Return the measurements of some rows, with one recording in memory at a time."""
    sketcher = Sketcher()
    recorded = _recorded(cohort, rows)
    results = []
    for done, row in enumerate(rows):
        results.append(_measure(cohort, int(row), recorded[done], sketcher))
        if progress is not None:
            progress(done + 1, len(rows))
    columns = list(zip(*results)) if results else [()] * 9
    numbers = [np.array(column, dtype=np.float64) for column in columns[:5]]
    order, twins = (np.array(column, dtype=np.str_) for column in columns[5:7])
    sketches = np.array(columns[7], dtype=np.uint32).reshape(len(rows), -1)
    range_mv, end_hz, hum_hz, hum_share, beats_bpm = numbers
    beats = tuple(columns[8])
    return Measures(rows, range_mv, end_hz, hum_hz, hum_share, beats_bpm, order, twins, sketches, beats)


def _recorded(cohort: Cohort, rows: np.ndarray) -> np.ndarray:
    """Return which leads the files of some ascending rows contained, (n, 12) bool."""
    parts, begin = [], 0
    for batch in cohort.columns(["lead_origin"]):
        inside = rows[(rows >= begin) & (rows < begin + len(batch))] - begin
        origins = batch.column(0).take(inside).to_pylist() if len(inside) else []
        parts += [[origin == "recorded" for origin in line] for line in origins]
        begin += len(batch)
    return np.array(parts, dtype=bool).reshape(-1, len(LEADS))


def _measure(cohort: Cohort, row: int, recorded: np.ndarray, sketcher: Sketcher) -> tuple[object, ...]:
    # the first MEASURED_S in mV, with the recorded leads that are not flat
    block = cohort.block(row)
    uv_per_step, baseline, rate_hz = cohort.scale(row)
    n = min(block.shape[1], int(MEASURED_S * rate_hz))
    ecg = unpack(block[:, :n], uv_per_step, baseline).T  # (12, T) mV, NaN = missing
    order = lead_algebra.check_limb_leads(
        {lead: trace for lead, trace, present in zip(LEADS, ecg, recorded) if present}
    )
    centred_ecg = centred(ecg)
    moving = recorded & (centred_ecg.std(axis=1) >= FLAT_MV)
    sketch = sketcher.sketch(centred_ecg, rate_hz)
    beats = find_beats(centred_ecg, rate_hz)
    twins = _twins(block, moving)
    if not moving.any():
        return np.nan, np.nan, 0.0, 0.0, np.nan, order, twins, sketch, beats

    # range, spectrum and heart rate
    low, high = np.percentile(centred_ecg[moving], (1, 99), axis=1)
    end_hz, hum_hz, hum_share = _spectrum(centred_ecg[moving], rate_hz)
    return (
        float(np.median(high - low)),
        end_hz,
        hum_hz,
        hum_share,
        _beats_bpm(centred_ecg[moving], rate_hz),
        order,
        twins,
        sketch,
        beats,
    )


def _spectrum(ecg: np.ndarray, rate_hz: float) -> tuple[float, float, float]:
    """Return the highest frequency with power of L leads (L, T) in mV, the mains line in Hz (0 if none) and its share."""
    hz, power = welch(ecg, rate_hz, nperseg=min(ecg.shape[1], round(SEGMENT_S * rate_hz)), axis=1)
    above = hz >= LOWEST_HZ
    hz, power = hz[above], power[:, above]
    power = power[power.sum(axis=1) > 0]
    if not power.size:
        return float("nan"), 0.0, 0.0
    share = np.median(power / power.sum(axis=1, keepdims=True), axis=0)
    left = np.cumsum(share[::-1])[::-1] / share.sum()
    end_hz = float(hz[np.flatnonzero(left >= END_SHARE)[-1]])

    # a mains line is present if its peak is ten times the median of the frequencies around it
    best = (0.0, 0.0)
    for line in MAINS_HZ:
        near = np.abs(hz - line)
        if line + 5 > rate_hz / 2 or not (near <= 1.0).any() or not ((near > 2) & (near <= 5)).any():
            continue  # too close to the Nyquist frequency, or the recording is too short to resolve the line
        floor = np.median(share[(near > 2) & (near <= 5)])
        peak = share[near <= 1.0]
        if peak.max() > 10 * floor:
            best = max(best, (float(peak.sum() - floor * len(peak)), line))
    return end_hz, best[1], best[0]


def _beats_bpm(ecg: np.ndarray, rate_hz: float) -> float:
    """Return the heart rate of L leads (L, T) in mV: from the median time between steep segments; NaN below three."""
    width = max(1, round(SMOOTH_S * rate_hz))
    if ecg.shape[1] <= 4 * width + 1:
        return float("nan")
    # slope summed over the leads and about the length of a QRS
    slope = np.abs(np.diff(ecg / ecg.std(axis=1, keepdims=True), axis=1)).sum(axis=0)
    slope = np.minimum(slope, np.percentile(slope, 99.5))  # limits the effect of a single spike
    steep = np.convolve(slope, np.ones(width), mode="valid")
    # segments above the threshold are beats
    usual, beat = np.percentile(steep, (50, 97))
    inside = np.concatenate(([False], steep > usual + STEEP * (beat - usual), [False]))
    edges = np.flatnonzero(np.diff(inside.astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    apart = np.concatenate(([True], begins[1:] - ends[:-1] > width / 2))  # a notched QRS is one beat
    begins = begins[apart]
    return float(60 * rate_hz / np.median(np.diff(begins))) if len(begins) >= 3 else float("nan")


def _twins(block: np.ndarray, moving: np.ndarray) -> str:
    """Return two leads of a block (12, T) with the same samples, such as 'aVR = aVF', or ''."""
    first_lead: dict[bytes, str] = {}
    for lead, samples, usable in zip(LEADS, block, moving):
        if usable and (samples != MISSING).any():
            first = first_lead.setdefault(hashlib.blake2b(samples.tobytes(), digest_size=12).digest(), lead)
            if first != lead:
                return f"{first} = {lead}"
    return ""
