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
_TWICE = {name: (round(2 * of_i), round(2 * of_ii)) for name, (of_i, of_ii) in EINTHOVEN.items()}  # whole numbers
_REACH = 2 + max(abs(of_i) + abs(of_ii) for of_i, of_ii in _TWICE.values())  # twice a residual, at the most, in samples

_TOLERANCE_MV = 0.05  # residuals below this are rounding, filtering or noise, not a wrong name
_TOLERANCE_SHARE = 0.3  # of the larger of the two sides of the equation
_PERCENTILE = 98.0  # of |residual|: high enough to see the QRS, blind to a lone spike
_MIN_SAMPLES = 50


def audit(leads: Mapping[str, np.ndarray]) -> str:
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
    if _holds(table, names):
        return OK
    fault = _single_fault(table) if len(names) == len(LIMB_LEADS) else None
    return fault or INCONSISTENT


def holds(limb: np.ndarray, medians: np.ndarray, mv_per_step: float) -> bool:
    """Whether all four equations hold, as `audit` sees them, many times faster.

    `limb` is (6, T) int16 in LIMB_LEADS order, nothing missing, one step for all; `medians` (6,) are in steps. Too few
    samples hold nothing.
    """
    n_samples = limb.shape[1]
    if n_samples < _MIN_SAMPLES:
        return False
    # Most equations hold within the tolerance itself. That is seen by counting, in whole numbers, twice the residual.
    fits = _REACH * max(int(limb.max()), -int(limb.min())) <= np.iinfo(limb.dtype).max
    given = dict(zip(LIMB_LEADS, limb if fits else limb.astype(np.int32)))
    middle = dict(zip(LIMB_LEADS, medians.tolist()))
    limit = 2 * _TOLERANCE_MV / mv_per_step * (1 - 1e-9)  # a hair inside, whatever rounding does to the others
    n_allowed = n_samples - 1 - math.ceil(_PERCENTILE / 100 * (n_samples - 1))
    for name, (of_i, of_ii) in _TWICE.items():
        twice = 2 * given[name] - of_i * given["I"] - of_ii * given["II"]
        centre = 2 * middle[name] - of_i * middle["I"] - of_ii * middle["II"]
        low, high = math.ceil(centre - limit), math.floor(centre + limit)
        if np.count_nonzero((twice < low) | (twice > high)) <= n_allowed:
            continue
        names = ("I", "II", name)
        table = np.stack([(limb[LIMB_LEADS.index(lead)] - middle[lead]) * mv_per_step for lead in names])
        if not _holds(table, names):
            return False
    return True


def _holds(table: np.ndarray, names: Sequence[str] = LIMB_LEADS) -> bool:
    given = dict(zip(names, table))
    for name, (of_i, of_ii) in EINTHOVEN.items():
        if name not in given:
            continue
        expected = of_i * given["I"] + of_ii * given["II"]
        residual = _size(given[name] - expected)
        if residual > _TOLERANCE_MV and residual > _TOLERANCE_SHARE * max(_size(expected), _size(given[name])):
            return False
    return True


def _size(values: np.ndarray) -> float:
    return float(np.percentile(np.abs(values), _PERCENTILE))


def _single_fault(table: np.ndarray) -> str | None:
    found = []
    for first, second in combinations(range(len(LIMB_LEADS)), 2):
        swapped = table.copy()
        swapped[[first, second]] = table[[second, first]]
        if _holds(swapped):
            found.append(f"{LIMB_LEADS[first]}/{LIMB_LEADS[second]} swapped")
    for row, name in enumerate(LIMB_LEADS):
        inverted = table.copy()
        inverted[row] *= -1
        if _holds(inverted):
            found.append(f"{name} inverted")
    return found[0] if len(found) == 1 else None  # two explanations are none
