"""Two ECGs side by side: measurements and median beats of each lead, with their differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.delineation.conditioning import RATE_HZ
from leadwise.data.measurements import Measurements
from leadwise.ecg import ECG
from leadwise.serve.median_beat import median_beat
from leadwise.serve.samples import packed
from leadwise.serve.settings import Limits
from leadwise.serve.tracing import number, read_answer

# quantity -> its name in words, its unit, and the change that is named: about the scatter of repeated measurements
_QUANTITIES: dict[str, tuple[str, str, float]] = {
    "heart_rate_bpm": ("heart rate", "beats/min", 10.0),
    "pr_ms": ("PR interval", "ms", 20.0),
    "qrs_ms": ("QRS duration", "ms", 12.0),
    "qt_ms": ("QT interval", "ms", 30.0),
    "qtc_ms": ("QTc (Bazett)", "ms", 30.0),
    "axis_deg": ("frontal axis", "degrees", 20.0),
}
_UV_PER_MV = 1000.0


def compare_ecgs(first: ECG, second: ECG, limits: Limits) -> dict[str, Any]:
    """Return the answer of /api/compare without the cosine of the embeddings."""
    measured = first.measure(), second.measure()
    return {
        "first": read_answer(first, limits),
        "second": read_answer(second, limits),
        "differences": [_difference(name, *measured) for name in _QUANTITIES],
        "leads": _leads(first, second, measured),
    }


def _difference(name: str, first: Measurements, second: Measurements) -> dict[str, Any]:
    """Return both values of a quantity, their change, and a sentence if it is larger than repeated measurements scatter."""
    words, unit, notable = _QUANTITIES[name]
    before, after = float(getattr(first, name)), float(getattr(second, name))
    change = after - before
    if name == "axis_deg":
        change = (change + 180.0) % 360.0 - 180.0  # the shorter way round
    text = ""
    if math.isfinite(before) != math.isfinite(after):
        text = f"the {words} is measurable only in the {'first' if math.isfinite(before) else 'second'} ECG"
    elif math.isfinite(change) and abs(change) >= notable:
        text = f"the {words} {'increased' if change > 0 else 'decreased'} by {abs(change):.0f} {unit}"
    row = {"name": name, "first": number(before), "second": number(after), "change": number(change), "unit": unit}
    return {**row, "is_notable": bool(text), "text": text}


def _leads(first: ECG, second: ECG, measured: tuple[Measurements, Measurements]) -> list[dict[str, Any]]:
    """Return the median beat of each lead in both ECGs, and the root mean square of their difference in uV."""
    beats = [median_beat(ecg, one) for ecg, one in zip((first, second), measured)]
    rows = []
    for k, lead in enumerate(LEADS):
        pair = [None if beat is None else beat[k] for beat in beats]
        rms = None
        if pair[0] is not None and pair[1] is not None:
            both = np.isfinite(pair[0]) & np.isfinite(pair[1])
            difference = pair[1][both] - pair[0][both]
            rms = number(float(np.sqrt((difference**2).mean())) * _UV_PER_MV) if both.any() else None
        packs = [None if beat is None else packed(beat) for beat in pair]
        rows.append(
            {"name": lead, "rms_uv": rms, "median_beat": {"first": packs[0], "second": packs[1], "rate_hz": RATE_HZ}}
        )
    return rows
