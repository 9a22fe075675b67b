"""Check the names of the limb leads by their algebra.

III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2. A file whose rows are in another order than its lead names
violates these equations. Swapped electrodes do not violate them, so they cannot be detected here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np

LIMB_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF")
OK, UNCHECKED, INCONSISTENT = "ok", "unchecked", "inconsistent"

# Each derived lead as (weight of I, weight of II).
EINTHOVEN = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
# Twice their residuals, so that all weights are whole numbers: (4, 6), multiplied by the limb leads (6, T).
_TWICE_RESIDUAL = np.hstack([-2 * np.array(list(EINTHOVEN.values())), 2 * np.eye(len(EINTHOVEN))]).astype(np.float32)
_TWICE_WEIGHT_SUM = np.abs(_TWICE_RESIDUAL).sum(axis=1)  # the sum of the absolute weights of each equation

_TOLERANCE_MV = 0.05  # residuals below this are rounding, filtering or noise, not a wrong name
_TOLERANCE_SHARE = 0.3  # of the larger side of the equation
_PERCENTILE = 98.0  # of |residual|: high enough to include the QRS, low enough to ignore a single spike
_MIN_SAMPLES = 50


def lead_pair(leads: Collection[str]) -> tuple[str, str] | None:
    """The two of I, II and III from which the other limb leads are derived; None if fewer than two are among `leads`."""
    present = [lead for lead in ("I", "II", "III") if lead in leads]
    return (present[0], present[1]) if len(present) >= 2 else None


def derive(lead: str, pair: Mapping[str, np.ndarray]) -> np.ndarray:
    """A limb lead (T,) in mV from two of I, II and III, arrays (T,) in mV."""
    first = pair["I"] if "I" in pair else pair["II"] - pair["III"]
    second = pair["II"] if "II" in pair else pair["I"] + pair["III"]
    of_i, of_ii = {"I": (1.0, 0.0), "II": (0.0, 1.0), **EINTHOVEN}[lead]
    if of_i == 0.0:
        return second
    if of_ii == 0.0:
        return first
    derived: np.ndarray = of_i * first + of_ii * second
    return derived


def check_limb_leads(leads: Mapping[str, np.ndarray]) -> str:
    """Check limb leads, arrays (T,) in mV; return 'ok', 'unchecked', 'inconsistent' or the likely fault.

    Every equation whose leads are present is checked. The result is 'unchecked' if there is none, or if fewer than 50
    samples are observed in all leads. A likely fault reads 'aVL/aVF swapped' or 'aVR inverted'. It is returned only if all
    six leads are present and exactly one such change makes all four equations hold.
    """
    # the samples that are observed in every limb lead
    names = [name for name in LIMB_LEADS if name in leads and np.isfinite(leads[name]).any()]
    if "I" not in names or "II" not in names or len(names) < 3:
        return UNCHECKED
    table = np.stack([leads[name] for name in names])  # (3 to 6, T)
    table = table[:, np.isfinite(table).all(axis=0)]
    if table.shape[1] < _MIN_SAMPLES:
        return UNCHECKED
    table = table - np.median(table, axis=1, keepdims=True)  # offsets may differ between leads
    if _equations_hold_mv(table, names):
        return OK
    fault = _find_single_fault(table) if len(names) == len(LIMB_LEADS) else None
    return fault or INCONSISTENT


def equations_hold(limb: np.ndarray, middle: np.ndarray, mv_per_step: float, off_by_mv: float) -> bool:
    """Whether all four equations hold by the criteria of `check_limb_leads`, computed on integers.

    If `off_by_mv` is not 0, False means undecided. With fewer than 50 samples the result is False.

    Args:
        limb: (6, T) int16 in LIMB_LEADS order, without missing samples, with the same step in all leads.
        middle: (6,) in steps, an estimate of each lead's median.
        mv_per_step: the step in mV.
        off_by_mv: no lead's median is farther from `middle` than this.
    """
    n_samples = limb.shape[1]
    if n_samples < _MIN_SAMPLES:
        return False

    # Most equations hold within _TOLERANCE_MV alone, which counting samples can show. Whole numbers are exact in float32.
    twice = _TWICE_RESIDUAL @ limb.astype(np.float32)  # (4, T)
    centre = _TWICE_RESIDUAL @ middle.astype(np.float32)
    limit = (2 * _TOLERANCE_MV - off_by_mv * _TWICE_WEIGHT_SUM) * (
        (1 - 1e-6) / mv_per_step
    )  # slightly smaller, to stay inside rounding errors
    twice -= centre[:, None]
    outside = np.abs(twice, out=twice) > limit[:, None]

    # the others are checked with both tolerances, on percentiles
    n_allowed = n_samples - 1 - math.ceil(_PERCENTILE / 100 * (n_samples - 1))
    for row, lead in enumerate(outside, start=2):
        if np.count_nonzero(lead) > n_allowed:
            rows = [0, 1, row]
            table = (limb[rows] - middle[rows, None]) * mv_per_step
            if off_by_mv or not _equations_hold_mv(table, [LIMB_LEADS[k] for k in rows]):
                return False
    return True


def _equations_hold_mv(table: np.ndarray, names: Sequence[str] = LIMB_LEADS) -> bool:
    """Whether every equation whose leads are among `names` holds; `table` (len(names), T) is in mV with medians removed."""
    leads = dict(zip(names, table))
    for name, (of_i, of_ii) in EINTHOVEN.items():
        if name not in leads:
            continue
        expected = of_i * leads["I"] + of_ii * leads["II"]
        residual = _amplitude(leads[name] - expected)
        if residual > _TOLERANCE_MV and residual > _TOLERANCE_SHARE * max(
            _amplitude(expected), _amplitude(leads[name])
        ):
            return False
    return True


def _amplitude(values: np.ndarray) -> float:
    """The 98th percentile of |values|."""
    return float(np.percentile(np.abs(values), _PERCENTILE))


def _find_single_fault(table: np.ndarray) -> str | None:
    """The swap of two leads or inversion of one lead that makes all equations hold; None unless exactly one does."""
    faults = []
    for first, second in combinations(range(len(LIMB_LEADS)), 2):
        swapped = table.copy()
        swapped[[first, second]] = table[[second, first]]
        if _equations_hold_mv(swapped):
            faults.append(f"{LIMB_LEADS[first]}/{LIMB_LEADS[second]} swapped")
    for row, name in enumerate(LIMB_LEADS):
        inverted = table.copy()
        inverted[row] *= -1
        if _equations_hold_mv(inverted):
            faults.append(f"{name} inverted")
    return faults[0] if len(faults) == 1 else None
