"""Doubts on a file: names of limb leads that break their equations, an implausible unit or rate, exchanged arm electrodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data.audit.signal_checks import POSSIBLE_BPM
from leadwise.data.delineation.beats import BEFORE
from leadwise.data.delineation.conditioning import RATE_HZ
from leadwise.data.measurements import Measurements
from leadwise.data.recordings import lead_algebra
from leadwise.data.recordings.quality import FLAT_MV
from leadwise.ecg import ECG
from leadwise.serve.median_beat import median_beat

_MIRRORED = -0.7  # correlation of the median beats of I and V6
_NEGATIVE_MV = -0.004  # mean of the P wave in I
_LEAST_P_SAMPLES = 6  # 12 ms


@dataclass(frozen=True)
class Doubt:
    """One doubt, and what to do about it."""

    kind: str  # leads, unit or rate
    text: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "text": self.text, "remedy": self.remedy}


def find(ecg: ECG, measured: Measurements) -> list[Doubt]:
    """Return the doubts on an ECG; the texts of the ECG's remarks stay as they are."""
    doubts = []
    order = ecg.twelve.lead_order
    if order not in (lead_algebra.OK, lead_algebra.UNCHECKED):
        text = next((line for line in ecg.remarks if line.endswith(order)), order)
        doubts.append(
            Doubt("leads", text, "compare the lead names with the paper tracing; state them again if they are wrong")
        )
    if ecg.unit_doubt:
        doubts.append(Doubt("unit", ecg.unit_doubt, "state the unit of the file (uV, mV), or export it again"))
    doubts += [
        Doubt("rate", line, "compare the sampling rate with the device's settings; state it again if it is wrong")
        for line in ecg.recording.remarks
        if line.startswith("rate doubt")
    ]
    low, high = POSSIBLE_BPM
    bpm = measured.heart_rate_bpm
    if math.isfinite(bpm) and not low <= bpm <= high and not any(doubt.kind == "rate" for doubt in doubts):
        text = f"the heart rate is {bpm:.0f} beats/min at the stated {ecg.rate_hz:g} Hz; is the sampling rate right?"
        doubts.append(
            Doubt("rate", text, "compare the sampling rate with the device's settings; state it again if it is wrong")
        )
    return doubts


def lead_swap(ecg: ECG, measured: Measurements) -> dict[str, str] | None:
    """Return what suggests that leads are exchanged or inverted, and a proposal; None if nothing does."""
    order = ecg.twelve.lead_order
    if order in (lead_algebra.OK, lead_algebra.UNCHECKED):
        return _exchanged_arms(ecg, measured)
    if order == lead_algebra.INCONSISTENT:
        return None
    names = order.split()[0].replace("/", " and ")
    if order.endswith("inverted"):
        return {
            "text": f"{names} looks inverted: with its sign changed, all equations of the limb leads hold",
            "proposal": f"change the sign of {names}",
        }
    return {
        "text": f"{names} look exchanged: with their names exchanged, all equations of the limb leads hold",
        "proposal": f"exchange the names {names}",
    }


def _exchanged_arms(ecg: ECG, measured: Measurements) -> dict[str, str] | None:
    """Return what suggests exchanged arm electrodes: lead I mirrors V6, and its P wave is negative.

    The equations of the limb leads hold with exchanged electrodes too. Of 90 ECGs of PTB-XL none met both conditions as they are,
    and 64 with their arm leads exchanged; most others had no measurable P wave, or a small one.
    """
    beat = median_beat(ecg, measured)
    if beat is None or not math.isfinite(measured.pr_ms):
        return None
    first, lateral = beat[LEADS.index("I")], beat[LEADS.index("V6")]
    both = np.isfinite(first) & np.isfinite(lateral)
    if both.sum() < len(first) / 2 or min(first[both].std(), lateral[both].std()) < FLAT_MV:
        return None
    if np.corrcoef(first[both], lateral[both])[0, 1] >= _MIRRORED or not _p_wave_mv(first, measured) < _NEGATIVE_MV:
        return None
    return {
        "text": "lead I mirrors V6, and its P wave is negative: the arm electrodes may be exchanged, or the heart is on the "
        "right",
        "proposal": "check the arm electrodes and record again; if they were exchanged, change the sign of I, and exchange II "
        "with III and aVR with aVL",
    }


def _p_wave_mv(beat: NDArray[np.float64], measured: Measurements) -> float:
    """Return the mean of a median beat from onset to end of the P wave, above the line between these, in mV; NaN if unknown."""
    points = measured.beats
    half_s = float(np.nanmedian(points["qrs_offset_s"] - points["qrs_onset_s"])) / 2
    begin_s, end_s = (float(np.nanmedian(points["qrs_onset_s"] - points[name])) for name in ("p_onset_s", "p_offset_s"))
    begin, end = (BEFORE - round((half_s + before_s) * RATE_HZ) for before_s in (begin_s, end_s))
    wave = beat[max(0, begin) : end]
    if len(wave) < _LEAST_P_SAMPLES or not np.isfinite(wave).all():
        return math.nan
    return float(wave.mean() - (wave[0] + wave[-1]) / 2)
