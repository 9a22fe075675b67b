"""Samples of a lead in an answer: int16 as base64 with its step in mV, so that 10 s of twelve leads are 160 kB."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data.recordings.recording import MISSING

_LARGEST = 32767
_LEAST_STEP_MV = 1e-6


def packed(lead_mv: NDArray[np.floating]) -> dict[str, Any] | None:
    """Return one lead (T,) in mV, NaN = missing; None if no sample is observed. The step is that of the largest sample."""
    observed = np.isfinite(lead_mv)
    if not observed.any():
        return None
    step = max(float(np.abs(lead_mv[observed]).max()) / _LARGEST, _LEAST_STEP_MV)
    values = np.full(len(lead_mv), MISSING, dtype="<i2")
    values[observed] = np.rint(lead_mv[observed] / step).astype("<i2")
    text = base64.b64encode(values.tobytes()).decode()
    return {"dtype": "int16", "mv_per_unit": step, "missing": MISSING, "base64": text}
