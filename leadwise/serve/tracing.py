"""An ECG as the page draws it: leads with their quality, what was missing, derived, repaired or doubtful, and measurements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS, Signal
from leadwise.data.audit.leads import LARGEST_MV
from leadwise.data.measurements import Measurements
from leadwise.data.recordings import lead_algebra
from leadwise.data.recordings.quality import LeadQuality
from leadwise.data.recordings.twelve_leads import bridge_short_gaps, conform
from leadwise.ecg import ECG
from leadwise.serve import doubts
from leadwise.serve.samples import packed
from leadwise.serve.settings import Limits

DRAWN_HZ = 500  # the highest rate of an answer
_MISSING_SHARE = 0.2  # of the samples: with more, a lead is bad
_QUANTITIES = ("heart_rate_bpm", "pr_ms", "qrs_ms", "qt_ms", "qtc_ms", "axis_deg")


def read_answer(ecg: ECG, limits: Limits) -> dict[str, Any]:
    """Return the answer of /api/read."""
    measured = ecg.measure()
    signal, rate_hz = drawn(ecg, limits)
    problems = doubts.find(ecg, measured)
    texts = {problem.text for problem in problems}
    remarks = [line for line in ecg.remarks if line not in texts]
    drawn_s = signal.shape[1] / rate_hz
    if drawn_s < ecg.duration_s - 1e-6:
        remarks.append(f"the first {drawn_s:g} of {ecg.duration_s:g} s are drawn; the measurements are of all of it")
    if rate_hz != ecg.rate_hz:
        remarks.append(f"drawn at {rate_hz:g} Hz; the file has {ecg.rate_hz:g} Hz")
    return {
        "format": ecg.format,
        "rate_hz": rate_hz,
        "file_rate_hz": ecg.rate_hz,
        "duration_s": ecg.duration_s,
        "leads": _leads(ecg, measured, signal),
        "remarks": remarks,
        "doubts": [problem.to_json() for problem in problems],
        "stated": {name: value for name, value in ecg.stated.items() if isinstance(value, str | int | float)},
        "statements": list(ecg.statements),
        "measurements": {name: number(getattr(measured, name)) for name in _QUANTITIES},
        "beats_s": r_peaks_s(ecg, measured),
        "interpretable": not ecg.refusal,
        "refusal": ecg.refusal,
        "lead_swap": doubts.lead_swap(ecg, measured),
    }


def drawn(ecg: ECG, limits: Limits) -> tuple[NDArray[np.floating], float]:
    """Return samples (12, T) in mV with short gaps bridged and NaN in long ones, and their rate in Hz.

    At most the first `drawn_s` seconds, at the file's rate or at DRAWN_HZ.
    """
    if ecg.rate_hz <= DRAWN_HZ:
        n = min(ecg.twelve.n_samples, math.ceil(limits.drawn_s * ecg.rate_hz))
        values, observed = bridge_short_gaps(ecg.twelve)
        values, observed, rate_hz = values[:, :n], observed[:, :n], ecg.rate_hz
    else:
        signal = Signal(LEADS, DRAWN_HZ, min(limits.drawn_s, ecg.duration_s))
        values, observed = conform(ecg.twelve.signal, ecg.rate_hz, signal)
        rate_hz = float(DRAWN_HZ)
    return np.where(observed, values, np.nan), rate_hz


def _leads(ecg: ECG, measured: Measurements, signal: NDArray[np.floating]) -> list[dict[str, Any]]:
    """Return name, origin, quality, remarks and samples of each of the twelve leads."""
    pair = lead_algebra.lead_pair([lead for lead, one in zip(LEADS, ecg.twelve.quality) if one.origin == "recorded"])
    rows = []
    for lead, quality, samples in zip(LEADS, ecg.twelve.quality, signal):
        is_noisy = bool(measured.leads) and lead not in measured.leads
        grade, remarks = grade_lead(quality, ecg.twelve.n_samples, is_noisy)
        if quality.origin == "derived" and pair is not None:
            remarks.insert(0, f"derived from {pair[0]} and {pair[1]}")
        row = {"name": lead, "origin": quality.origin, "quality": grade, "remarks": remarks, "samples": packed(samples)}
        rows.append(row)
    return rows


def grade_lead(quality: LeadQuality, n_samples: int, is_noisy: bool) -> tuple[str, list[str]]:
    """Return the quality of a lead (good, poor, bad or missing), and the reasons in words.

    Args:
        n_samples: of the recording.
        is_noisy: its beats are not clear enough for the measurements.
    """
    if quality.origin == "missing" or quality.n_missing >= n_samples:
        return "missing", ["not recorded" if quality.origin == "missing" else "no sample was observed"]
    bad, poor, remarks = [], [], []
    if quality.flat:
        bad.append("flat: no signal")
    if quality.n_missing > _MISSING_SHARE * n_samples:
        bad.append(f"{quality.n_missing / n_samples:.0%} of the samples are missing")
    if quality.max_abs_mv > LARGEST_MV:
        bad.append(f"reaches {quality.max_abs_mv:.3g} mV: an offset, a spike or a wrong unit")
    if quality.n_long_gaps:
        poor.append(f"{quality.n_long_gaps} gap{'s' if quality.n_long_gaps > 1 else ''} longer than 40 ms left open")
    if is_noisy and not quality.flat:
        poor.append("too noisy for the measurements")
    if quality.n_short_gaps:
        remarks.append(f"{quality.n_short_gaps} gap{'s' if quality.n_short_gaps > 1 else ''} of at most 40 ms bridged")
    return "bad" if bad else "poor" if poor else "good", [*bad, *poor, *remarks]


def r_peaks_s(ecg: ECG, measured: Measurements) -> list[float]:
    """Return the time of the largest deflection of each beat's QRS over all leads, in seconds from the first sample."""
    signal = np.nan_to_num(ecg.signal - np.nanmedian(np.where(ecg.observed, ecg.signal, 0.0), axis=1, keepdims=True))
    activity = np.abs(signal).sum(axis=0)
    times = []
    for onset, offset in zip(measured.beats["qrs_onset_s"], measured.beats["qrs_offset_s"]):
        if math.isfinite(onset) and math.isfinite(offset):
            begin, end = round(onset * ecg.rate_hz), round(offset * ecg.rate_hz) + 1
            if activity[begin:end].size:
                times.append(round((begin + int(activity[begin:end].argmax())) / ecg.rate_hz, 4))
    return sorted(times)


def number(value: float, digits: int = 1) -> float | None:
    """Return a number for JSON; null where it is not measurable."""
    return round(float(value), digits) if math.isfinite(value) else None
