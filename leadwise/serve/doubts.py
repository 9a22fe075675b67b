"""Doubts on a file: names of limb leads that break their equations, an implausible unit or rate, exchanged arm electrodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from leadwise.data.audit.signal_checks import POSSIBLE_BPM
from leadwise.data.measurements import Measurements
from leadwise.data.recordings import lead_algebra
from leadwise.ecg import ECG


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
    if order in (lead_algebra.OK, lead_algebra.UNCHECKED, lead_algebra.INCONSISTENT):
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
