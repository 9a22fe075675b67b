"""Are the limb leads named rightly? Their algebra tells.

III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2. A file whose
rows were shuffled under unchanged names breaks these laws. Swapped electrodes do not: they obey them too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

LIMB_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF")
OK, UNCHECKED, INCONSISTENT = "ok", "unchecked", "inconsistent"

# Each derived lead as (weight of I, weight of II).
EINTHOVEN = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
# Their residuals, doubled so that all weights are whole: (4, 6), to be multiplied with the limb leads (6, T).
_TWICE_RESIDUAL = np.hstack([-2 * np.array(list(EINTHOVEN.values())), 2 * np.eye(len(EINTHOVEN))]).astype(np.float32)
_TWICE_REACH = np.abs(_TWICE_RESIDUAL).sum(axis=1)  # the sum of the weights of each

_TOLERANCE_MV = 0.05  # residuals below this are rounding, filtering or noise, not a wrong name
_TOLERANCE_SHARE = 0.3  # of the larger of the two sides of the equation
_PERCENTILE = 98.0  # of |residual|: high enough to see the QRS, blind to a lone spike
_MIN_SAMPLES = 50


def check_limb_leads(leads: Mapping[str, np.ndarray]) -> str:
    """The verdict on limb leads given as arrays (T,) in mV: 'ok', 'unchecked', 'inconsistent' or the likely fault.

    Every equation whose leads are there is checked; 'unchecked' where there is none, or too little is observed. A likely
    fault reads 'aVL/aVF swapped' or 'aVR inverted' and is named only where all six leads are there and that single change
    makes all four equations hold.
    """
    names = [name for name in LIMB_LEADS if name in leads and np.isfinite(leads[name]).any()]
    if "I" not in names or "II" not in names or len(names) < 3:
        return UNCHECKED
    table = np.stack([leads[name] for name in names])  # (3 to 6, T)
    table = table[:, np.isfinite(table).all(axis=0)]
    if table.shape[1] < _MIN_SAMPLES:
        return UNCHECKED
    table = table - np.median(table, axis=1, keepdims=True)  # offsets differ harmlessly between leads
    if _equations_hold_mv(table, names):
        return OK
    fault = _find_single_fault(table) if len(names) == len(LIMB_LEADS) else None
    return fault or INCONSISTENT


def equations_hold(limb: np.ndarray, middle: np.ndarray, mv_per_step: float, off_by_mv: float) -> bool:
    """Whether all four equations hold, as `audit` would find; where `off_by_mv` is not 0, False decides nothing.

    `limb` is (6, T) int16 in LIMB_LEADS order, nothing missing, one step for all. `middle` (6,) is in steps; no lead's
    median is farther from it than `off_by_mv`. Of too few samples nothing holds.
    """
    n_samples = limb.shape[1]
    if n_samples < _MIN_SAMPLES:
        return False
    # Most equations hold within the tolerance itself. Counting sees that; whole numbers are exact, in float32 too.
    twice = _TWICE_RESIDUAL @ limb.astype(np.float32)  # (4, T)
    centre = _TWICE_RESIDUAL @ middle.astype(np.float32)
    limit = (2 * _TOLERANCE_MV - off_by_mv * _TWICE_REACH) * ((1 - 1e-6) / mv_per_step)  # a hair inside all rounding
    twice -= centre[:, None]
    outside = np.abs(twice, out=twice) > limit[:, None]
    n_allowed = n_samples - 1 - math.ceil(_PERCENTILE / 100 * (n_samples - 1))
    for row, lead in enumerate(outside, start=2):
        if np.count_nonzero(lead) > n_allowed:
            rows = [0, 1, row]
            table = (limb[rows] - middle[rows, None]) * mv_per_step
            if off_by_mv or not _equations_hold_mv(table, [LIMB_LEADS[k] for k in rows]):
                return False
    return True


def _equations_hold_mv(table: np.ndarray, names: Sequence[str] = LIMB_LEADS) -> bool:
    given = dict(zip(names, table))
    for name, (of_i, of_ii) in EINTHOVEN.items():
        if name not in given:
            continue
        expected = of_i * given["I"] + of_ii * given["II"]
        residual = _amplitude(given[name] - expected)
        if residual > _TOLERANCE_MV and residual > _TOLERANCE_SHARE * max(
            _amplitude(expected), _amplitude(given[name])
        ):
            return False
    return True


def _amplitude(values: np.ndarray) -> float:
    return float(np.percentile(np.abs(values), _PERCENTILE))


def _find_single_fault(table: np.ndarray) -> str | None:
    found = []
    for first, second in combinations(range(len(LIMB_LEADS)), 2):
        swapped = table.copy()
        swapped[[first, second]] = table[[second, first]]
        if _equations_hold_mv(swapped):
            found.append(f"{LIMB_LEADS[first]}/{LIMB_LEADS[second]} swapped")
    for row, name in enumerate(LIMB_LEADS):
        inverted = table.copy()
        inverted[row] *= -1
        if _equations_hold_mv(inverted):
            found.append(f"{name} inverted")
    return found[0] if len(found) == 1 else None  # two explanations are none
