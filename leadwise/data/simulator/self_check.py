"""Compare the findings that clinical rules derive from the clean signal with the simulator's labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from leadwise.batch import LEADS
from leadwise.data.simulator.acquisition import draw_device
from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.simulator.heart import twelve_leads
from leadwise.data.simulator.measure import RATE_HZ, EcgMeasurements, measure_ecg
from leadwise.data.simulator.patients import draw_patients
from leadwise.data.simulator.tracing import Tracing, draw_tracing, random_stream

TOLERANCE = {"rate_bpm": 5.0, "pr_ms": 25.0, "qrs_ms": 15.0, "qtc_ms": 35.0, "axis_deg": 15.0, "st_mv": 0.05}
"""Largest difference between a measured and a true quantity that counts as agreement."""

_AT = {lead: k for k, lead in enumerate(LEADS)}
_INFERIOR, _ANTERIOR = ("II", "III", "aVF"), ("V2", "V3", "V4")
_LIMB, _CHEST = slice(0, 6), slice(6, 12)


def self_check(n_records: int, seed: int) -> pd.DataFrame:
    """Return the agreement of rule-based findings with the labels, on the clean signals of the ECGs that `simulate` writes.

    One row per finding (`n` ECGs labelled with it, `agreement` over all ECGs, `sensitivity` and `precision` of the rules)
    and one per quantity (`n` ECGs where it is defined, `agreement` within TOLERANCE; a missing measurement disagrees).
    """
    # simulate and measure the ECGs with the random numbers of `simulate`
    tracings, measurements = [], []
    for patient in draw_patients(n_records, seed):
        for k in range(patient.n_ecgs):
            rng = random_stream(patient, k, seed)
            draw_device(rng)
            tracing = draw_tracing(patient, rng, RATE_HZ)
            tracings.append(tracing)
            measurements.append(measure_ecg(twelve_leads(tracing.leads)))
    detected = [interpret(measured) for measured in measurements]

    # one row per finding, then one per quantity
    rows = []
    for code in FINDINGS:
        true = np.array([code in tracing.presentation.findings for tracing in tracings])
        rule = np.array([code in findings for findings in detected])
        both = float((true & rule).sum())
        rows.append(
            {
                "item": code,
                "kind": "finding",
                "n": int(true.sum()),
                "agreement": float((true == rule).mean()),
                "sensitivity": both / true.sum() if true.any() else np.nan,
                "precision": both / rule.sum() if rule.any() else np.nan,
            }
        )
    rows += [_quantity(name, tracings, measurements) for name in TOLERANCE]
    return pd.DataFrame(rows)


def _quantity(name: str, tracings: list[Tracing], measurements: list[EcgMeasurements]) -> dict[str, object]:
    if name == "st_mv":
        true = np.stack([tracing.st_mv for tracing in tracings])
        estimate = np.stack([measured.st_mv for measured in measurements])
        off = np.abs(estimate - true).max(axis=1)
    else:
        true = np.array([tracing.truth[name] for tracing in tracings])
        off = np.abs(np.array([getattr(measured, name) for measured in measurements]) - true)
        if name == "axis_deg":
            off = np.minimum(off, 360 - off)
        off = np.where(np.isnan(off), np.inf, off)[~np.isnan(true)]  # a missing measurement disagrees
    return {"item": name, "kind": "quantity", "n": len(off), "agreement": float((off <= TOLERANCE[name]).mean())}


def interpret(measured: EcgMeasurements) -> frozenset[str]:
    """Return the findings that clinical rules derive from the measurements."""
    if measured.paced:
        return frozenset({"PACE"})
    findings = {_rhythm(measured)}
    if "SR" in findings:
        if measured.rate_bpm < 60:
            findings.add("SBRAD")
        if measured.rate_bpm > 100:
            findings.add("STACH")
        if measured.pr_ms > 200:
            findings.add("LPR")
        if measured.pr_ms < 120 and measured.qrs_ms >= 108:
            findings.add("WPW")
        if measured.n_narrow_early:
            findings.add("PAC")
        if measured.qtc_ms > 462 and measured.qrs_ms < 120:
            findings.add("LNGQT")
    if findings & {"SR", "AFIB"} and measured.n_wide_early:
        findings.add("PVC")
    if "AVB3" in findings and measured.qrs_ms >= 120:
        return frozenset(findings)  # a ventricular escape rhythm: no other finding can be derived
    findings |= _conduction(measured, findings)
    findings |= _axis_and_voltage(measured, findings)
    findings |= _infarct(measured, findings)
    findings |= _repolarisation(measured, findings)
    return frozenset(findings | {"NORM"} if findings == {"SR"} else findings)


def _rhythm(measured: EcgMeasurements) -> str:
    if measured.atrial == "flutter":
        return "AFLT"
    if 134 < measured.rate_bpm < 158 and measured.rr_spread < 0.05 and measured.atrial == "waves":
        return "AFLT"  # regular at half of a flutter's rate with a moving baseline: 2:1 conduction
    if measured.p_present and measured.rate_bpm < 145:
        return "SR"
    if measured.rr_spread > 0.10:
        return "AFIB"
    if measured.rate_bpm > 145:
        return "SVTAC"
    return "AVB3" if measured.rate_bpm < 56 else "AFIB"


def _conduction(measured: EcgMeasurements, so_far: set[str]) -> set[str]:
    findings: set[str] = set()
    if measured.qrs_ms >= 120 and "WPW" not in so_far:
        findings.add("CRBBB" if measured.late_v1_mv > 0 and measured.late_i_mv < 0 else "CLBBB")
    if measured.axis_deg < -45 and "CLBBB" not in findings and measured.first_r_mv[_AT["III"]] > 0.05:
        findings.add("LAFB")
    return findings


def _axis_and_voltage(measured: EcgMeasurements, so_far: set[str]) -> set[str]:
    findings: set[str] = set()
    if measured.axis_deg < -30:
        findings.add("LAD")
    if measured.axis_deg > 90:
        findings.add("RAD")
    span = measured.r_mv + measured.s_mv
    if span[_LIMB].max() < 0.5 and span[_CHEST].max() < 1.0:
        findings.add("LVOLT")
    if so_far & {"CLBBB", "CRBBB", "WPW"}:
        return findings
    sokolow = measured.s_mv[_AT["V1"]] + max(measured.r_mv[_AT["V5"]], measured.r_mv[_AT["V6"]])
    if sokolow >= 3.5:
        findings.add("LVH")
    if "RAD" in findings and measured.r_mv[_AT["V1"]] > max(measured.s_mv[_AT["V1"]], 0.5):
        findings.add("RVH")
    return findings


def _infarct(measured: EcgMeasurements, so_far: set[str]) -> set[str]:
    findings: set[str] = set()
    if so_far & {"CLBBB", "WPW", "RVH"}:
        return findings
    inferior = [k for k in map(_AT.get, _INFERIOR) if k is not None]
    deep = measured.q_mv[inferior] > np.maximum(0.25 * measured.r_mv[inferior], 0.05)
    if (deep & (measured.q_ms[inferior] >= 28)).sum() >= 2 and measured.first_r_mv[_AT["III"]] < 0.05:
        findings.add("IMI")
    septal = [_AT["V1"], _AT["V2"], _AT["V3"]]
    if (measured.q_mv[septal] > 0.05).sum() >= 2:
        findings.add("AMI")
    return findings


def _repolarisation(measured: EcgMeasurements, so_far: set[str]) -> set[str]:
    findings: set[str] = set()
    if so_far & {"CLBBB", "WPW", "AFLT", "SVTAC"}:
        return findings
    inferior, anterior = [_AT[lead] for lead in _INFERIOR], [_AT[lead] for lead in _ANTERIOR]
    if (measured.st_mv[inferior] >= 0.10).sum() >= 2:
        findings.add("STEI")
    if (measured.st_mv[anterior] >= 0.15).sum() >= 2:
        findings.add("STEA")
    if findings:
        return findings
    lateral = [_AT[lead] for lead in ("I", "II", "V4", "V5", "V6")]
    if (measured.st_mv[lateral] <= -0.07).sum() >= 3 and "RVH" not in so_far:
        findings.add("STD")
    inverted = measured.t_mv < -0.07
    if not so_far & {"CRBBB", "RVH"} and (
        inverted[[_AT[lead] for lead in ("V3", "V4", "V5", "V6", "I")]].sum() >= 2 or inverted[inferior].sum() >= 2
    ):
        findings.add("INVT")
    return findings
