"""The self-check: findings read off the signal by clinical rules, compared with the simulator's labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from leadwise.batch import LEADS
from leadwise.data.simulator.acquisition import draw_device
from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.simulator.heart import twelve_leads
from leadwise.data.simulator.measure import RATE_HZ, Reading, measure
from leadwise.data.simulator.patients import populate
from leadwise.data.simulator.tracing import Tracing, stream, trace

TOLERANCE = {"rate_bpm": 5.0, "pr_ms": 25.0, "qrs_ms": 15.0, "qtc_ms": 35.0, "axis_deg": 15.0, "st_mv": 0.05}
"""How far a measured quantity may be from the true one and still agree."""

_AT = {lead: k for k, lead in enumerate(LEADS)}
_INFERIOR, _ANTERIOR = ("II", "III", "aVF"), ("V2", "V3", "V4")
_LIMB, _CHEST = slice(0, 6), slice(6, 12)


def self_check(n_records: int, seed: int) -> pd.DataFrame:
    """Agreement of rule-based readings with the truth, on the clean signal of the ECGs that `simulate` writes.

    One row a finding (`n` ECGs labelled with it, `agreement` over all ECGs, `sensitivity` and `precision` of the
    reading) and one a quantity (`n` ECGs where it is defined, `agreement` within TOLERANCE; not read is not agreed).
    """
    truths, readings = [], []
    for person in populate(n_records, seed):
        for k in range(person.n_ecgs):
            rng = stream(person, k, seed)
            draw_device(rng)
            tracing = trace(person, rng, RATE_HZ)
            truths.append(tracing)
            readings.append(measure(twelve_leads(tracing.seen)))
    read = [interpret(reading) for reading in readings]
    rows = []
    for code in FINDINGS:
        true = np.array([code in tracing.shown.findings for tracing in truths])
        said = np.array([code in found for found in read])
        both = float((true & said).sum())
        rows.append(
            {
                "item": code,
                "kind": "finding",
                "n": int(true.sum()),
                "agreement": float((true == said).mean()),
                "sensitivity": both / true.sum() if true.any() else np.nan,
                "precision": both / said.sum() if said.any() else np.nan,
            }
        )
    rows += [_quantity(name, truths, readings) for name in TOLERANCE]
    return pd.DataFrame(rows)


def _quantity(name: str, truths: list[Tracing], readings: list[Reading]) -> dict[str, object]:
    if name == "st_mv":
        true = np.stack([tracing.st_mv for tracing in truths])
        read = np.stack([reading.st_mv for reading in readings])
        off = np.abs(read - true).max(axis=1)
    else:
        true = np.array([tracing.truth[name] for tracing in truths])
        off = np.abs(np.array([getattr(reading, name) for reading in readings]) - true)
        if name == "axis_deg":
            off = np.minimum(off, 360 - off)
        off = np.where(np.isnan(off), np.inf, off)[~np.isnan(true)]  # not read is not agreed
    return {"item": name, "kind": "quantity", "n": len(off), "agreement": float((off <= TOLERANCE[name]).mean())}


def interpret(reading: Reading) -> frozenset[str]:
    """The findings that clinical rules read off the measurements."""
    if reading.paced:
        return frozenset({"PACE"})
    found = {_rhythm(reading)}
    if "SR" in found:
        if reading.rate_bpm < 60:
            found.add("SBRAD")
        if reading.rate_bpm > 100:
            found.add("STACH")
        if reading.pr_ms > 200:
            found.add("LPR")
        if reading.pr_ms < 120 and reading.qrs_ms >= 108:
            found.add("WPW")
        if reading.n_narrow_early:
            found.add("PAC")
        if reading.qtc_ms > 462 and reading.qrs_ms < 120:
            found.add("LNGQT")
    if found & {"SR", "AFIB"} and reading.n_wide_early:
        found.add("PVC")
    if "AVB3" in found and reading.qrs_ms >= 120:
        return frozenset(found)  # a ventricular escape: nothing more can be said
    found |= _conduction(reading, found)
    found |= _axis_and_voltage(reading, found)
    found |= _infarct(reading, found)
    found |= _repolarisation(reading, found)
    return frozenset(found | {"NORM"} if found == {"SR"} else found)


def _rhythm(reading: Reading) -> str:
    if reading.atrial == "flutter":
        return "AFLT"
    if 134 < reading.rate_bpm < 158 and reading.rr_spread < 0.05 and reading.atrial == "waves":
        return "AFLT"  # regular at half of a flutter's rate, and never still: 2:1 conduction until shown otherwise
    if reading.p_present and reading.rate_bpm < 145:
        return "SR"
    if reading.rr_spread > 0.10:
        return "AFIB"
    if reading.rate_bpm > 145:
        return "SVTAC"
    return "AVB3" if reading.rate_bpm < 56 else "AFIB"


def _conduction(reading: Reading, so_far: set[str]) -> set[str]:
    found: set[str] = set()
    if reading.qrs_ms >= 120 and "WPW" not in so_far:
        found.add("CRBBB" if reading.late_v1_mv > 0 and reading.late_i_mv < 0 else "CLBBB")
    if reading.axis_deg < -45 and "CLBBB" not in found and reading.first_r_mv[_AT["III"]] > 0.05:
        found.add("LAFB")
    return found


def _axis_and_voltage(reading: Reading, so_far: set[str]) -> set[str]:
    found: set[str] = set()
    if reading.axis_deg < -30:
        found.add("LAD")
    if reading.axis_deg > 90:
        found.add("RAD")
    span = reading.r_mv + reading.s_mv
    if span[_LIMB].max() < 0.5 and span[_CHEST].max() < 1.0:
        found.add("LVOLT")
    if so_far & {"CLBBB", "CRBBB", "WPW"}:
        return found
    sokolow = reading.s_mv[_AT["V1"]] + max(reading.r_mv[_AT["V5"]], reading.r_mv[_AT["V6"]])
    if sokolow >= 3.5:
        found.add("LVH")
    if "RAD" in found and reading.r_mv[_AT["V1"]] > max(reading.s_mv[_AT["V1"]], 0.5):
        found.add("RVH")
    return found


def _infarct(reading: Reading, so_far: set[str]) -> set[str]:
    found: set[str] = set()
    if so_far & {"CLBBB", "WPW", "RVH"}:
        return found
    inferior = [k for k in map(_AT.get, _INFERIOR) if k is not None]
    deep = reading.q_mv[inferior] > np.maximum(0.25 * reading.r_mv[inferior], 0.05)
    if (deep & (reading.q_ms[inferior] >= 28)).sum() >= 2 and reading.first_r_mv[_AT["III"]] < 0.05:
        found.add("IMI")
    septal = [_AT["V1"], _AT["V2"], _AT["V3"]]
    if (reading.q_mv[septal] > 0.05).sum() >= 2:
        found.add("AMI")
    return found


def _repolarisation(reading: Reading, so_far: set[str]) -> set[str]:
    found: set[str] = set()
    if so_far & {"CLBBB", "WPW", "AFLT", "SVTAC"}:
        return found
    inferior, anterior = [_AT[lead] for lead in _INFERIOR], [_AT[lead] for lead in _ANTERIOR]
    if (reading.st_mv[inferior] >= 0.10).sum() >= 2:
        found.add("STEI")
    if (reading.st_mv[anterior] >= 0.15).sum() >= 2:
        found.add("STEA")
    if found:
        return found
    lateral = [_AT[lead] for lead in ("I", "II", "V4", "V5", "V6")]
    if (reading.st_mv[lateral] <= -0.07).sum() >= 3 and "RVH" not in so_far:
        found.add("STD")
    inverted = reading.t_mv < -0.07
    if not so_far & {"CRBBB", "RVH"} and (
        inverted[[_AT[lead] for lead in ("V3", "V4", "V5", "V6", "I")]].sum() >= 2 or inverted[inferior].sum() >= 2
    ):
        found.add("INVT")
    return found
