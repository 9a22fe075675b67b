"""The simulated reports: short statements, rhythm first, then findings, and a conclusion last.

Texts are noisy on purpose: every finding has several wordings, some are hedged, one in ten is omitted, and some reports
contain an irrelevant statement. Lower case, statements joined by ". ", like the reports of a cohort.

Reports without measurements leave out every finding that is a statement on the PR interval, the QRS duration, the frontal axis,
the QT interval or the T wave (MEASURED), every wording of another finding that mentions one of them, and the conclusion, since
"normal" and "abnormal" judge them too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.simulator.patients import Presentation

OMISSION = 0.10  # share of findings (except the rhythm) that the report omits
HEDGE = 0.15  # share of findings that it mentions with a hedge
IRRELEVANT = 0.25  # share of reports with an irrelevant statement

PHRASES: dict[str, tuple[str, ...]] = {
    "SR": ("sinus rhythm", "normal sinus rhythm", "sinus rhythm, rate within normal limits", "regular sinus rhythm"),
    "SBRAD": ("sinus bradycardia", "slow sinus rhythm, rate below 60", "sinus bradycardia, rate below 60"),
    "STACH": ("sinus tachycardia", "rapid sinus rhythm, rate above 100", "sinus tachycardia, rate above 100"),
    "AFIB": (
        "atrial fibrillation",
        "atrial fibrillation, irregular ventricular response",
        "coarse atrial fibrillation",
        "irregular rhythm without p waves, atrial fibrillation",
    ),
    "AFLT": (
        "atrial flutter",
        "atrial flutter, saw-tooth baseline",
        "typical atrial flutter",
        "flutter waves present, atrial flutter",
    ),
    "SVTAC": (
        "supraventricular tachycardia",
        "narrow complex tachycardia, probably supraventricular",
        "regular supraventricular tachycardia, no p waves found",
        "paroxysmal supraventricular tachycardia",
    ),
    "PACE": (
        "ventricular paced rhythm",
        "electronic ventricular pacemaker",
        "ventricular pacing, no further analysis",
        "pacemaker rhythm, ventricular capture",
    ),
    "AVB3": (
        "third degree a-v block",
        "complete heart block with slow escape rhythm",
        "complete a-v block, a-v dissociation",
        "3rd degree a-v block, idioventricular or junctional escape",
    ),
    "PAC": (
        "premature atrial complexes",
        "atrial premature beats",
        "occasional supraventricular premature complexes",
        "pacs noted",
    ),
    "PVC": (
        "premature ventricular complexes",
        "ventricular premature beats",
        "frequent ventricular ectopy",
        "occasional pvcs",
        "ventricular extrasystoles",
    ),
    "LPR": (
        "first degree a-v block",
        "1st degree a-v block",
        "prolonged pr interval",
        "pr interval longer than 200 ms, first degree a-v block",
    ),
    "WPW": (
        "ventricular pre-excitation, wpw pattern",
        "wolff-parkinson-white pattern",
        "short pr interval with delta wave, pre-excitation",
        "wpw type ventricular pre-excitation",
    ),
    "CRBBB": (
        "right bundle branch block",
        "complete right bundle branch block",
        "rbbb, wide qrs with rsr' in v1",
        "complete rbbb",
    ),
    "CLBBB": (
        "left bundle branch block",
        "complete left bundle branch block",
        "lbbb, wide notched qrs in lateral leads",
        "complete lbbb, no further interpretation of st segments",
    ),
    "LAFB": (
        "left anterior fascicular block",
        "left anterior hemiblock",
        "lafb, marked left axis with qr in avl",
        "left anterior fascicular block, rs in inferior leads",
    ),
    "LAD": ("left axis deviation", "abnormal left axis", "qrs axis deviated to the left", "leftward axis beyond -30"),
    "RAD": (
        "right axis deviation",
        "abnormal right axis",
        "qrs axis deviated to the right",
        "rightward axis beyond 90",
    ),
    "LVH": (
        "left ventricular hypertrophy",
        "lvh by voltage",
        "voltage criteria for left ventricular hypertrophy",
        "high left ventricular voltage, lvh",
    ),
    "RVH": (
        "right ventricular hypertrophy",
        "rvh, tall r wave in v1",
        "right ventricular hypertrophy with secondary t wave changes",
        "dominant r in v1, right ventricular hypertrophy",
    ),
    "LVOLT": (
        "low voltage qrs",
        "low qrs voltages in limb and precordial leads",
        "generalized low voltage",
        "reduced qrs amplitude in all leads",
    ),
    "IMI": (
        "inferior infarct, age undetermined",
        "old inferior myocardial infarction",
        "q waves in ii, iii and avf, inferior infarct of undetermined age",
        "prior inferior infarct",
    ),
    "AMI": (
        "anterior infarct, age undetermined",
        "old anteroseptal myocardial infarction",
        "q waves in v1 to v3, anterior infarct of undetermined age",
        "loss of r waves in anterior leads, prior anterior infarct",
    ),
    "STEI": (
        "inferior st elevation, acute infarct",
        "acute inferior myocardial infarction",
        "st elevation in ii, iii and avf, acute inferior injury",
        "inferior injury pattern, acute mi",
    ),
    "STEA": (
        "anterior st elevation, acute infarct",
        "acute anterior myocardial infarction",
        "st elevation in v2 to v4, acute anterior injury",
        "anteroseptal injury pattern, acute mi",
    ),
    "STD": (
        "st depression",
        "st depression, possible subendocardial injury",
        "depressed st segments in lateral and inferior leads",
        "st depression consistent with ischemia",
    ),
    "INVT": (
        "t wave inversion",
        "inverted t waves, consider ischemia",
        "abnormal t waves, inverted in two or more leads",
        "t wave abnormality with inversion",
    ),
    "LNGQT": (
        "prolonged qt interval",
        "prolonged qt",
        "long qtc interval",
        "qtc prolonged, check drugs and electrolytes",
    ),
    "NORM": ("normal ecg", "within normal limits", "normal tracing, no abnormality found"),
}

_HEDGES = ("possible {}", "probable {}", "consider {}", "cannot rule out {}", "{}, not certain", "suggests {}")
_IRRELEVANT = (
    "compared to the previous tracing no significant change",
    "baseline wander present",
    "clinical correlation suggested",
    "unconfirmed report",
    "reviewed at the bedside",
    "standard speed and gain",
    "some artifact, interpretation not affected",
    "no earlier tracing for comparison",
)
MEASURED = frozenset({"LPR", "WPW", "CRBBB", "CLBBB", "LAFB", "LAD", "RAD", "INVT", "LNGQT", "NORM"})
"""The findings that state an interval, the axis or the T wave, or that all of them are normal."""

_MENTIONS = re.compile(
    r"\b(pr|pq|qtc?|axis|t waves?|wide|narrow|interval|bundle|[lr]bbb|fascicular|hemiblock|pre-excitation|wolff)\b"
    r"|\b(first|1st) degree|\b(ab)?normal (ecg|tracing)\b|borderline ecg|(^|\. )within normal limits"
)
_BORDERLINE = frozenset({"SR", "LAD", "RAD", "LPR", "PAC"})


@dataclass(frozen=True)
class SimulatedReport:
    """A report, and which findings it states and omits."""

    text: str
    stated: tuple[str, ...]  # codes of the findings it states, in its order
    omitted: tuple[str, ...]  # codes of the findings it omits


def mentions_measurement(text: str) -> bool:
    """Return whether a text mentions PR, QRS duration, frontal axis, QT or T wave, or judges the whole ECG."""
    return _MENTIONS.search(text) is not None


def write_report(
    presentation: Presentation, rate_bpm: float, rng: np.random.Generator, measurements: bool = True
) -> SimulatedReport:
    """Return a report on the findings of an ECG; without `measurements`, it states nothing of MEASURED."""
    findings = presentation.findings
    # rhythm
    rhythm = next((code for code in ("SBRAD", "STACH") if code in findings), presentation.rhythm)
    statements = [_rhythm_statement(rhythm, rate_bpm, rng, measurements)]
    stated, omitted = [code for code in (presentation.rhythm, rhythm) if code in findings], []
    if len(stated) == 2 and stated[0] == stated[1]:
        stated.pop()

    # the other findings: omitted, hedged or plain
    for code in FINDINGS:
        if code not in findings or code in (presentation.rhythm, rhythm, "NORM"):
            continue
        if (code in MEASURED and not measurements) or rng.random() < OMISSION:
            omitted.append(code)
            continue
        phrase = _one_of(_phrases(code, measurements), rng)
        stated.append(code)
        if code in ("PAC", "PVC", "LPR") and len(statements) == 1 and "," not in statements[0] and rng.random() < 0.7:
            statements[0] += f" with {phrase}"
        else:
            statements.append(_one_of(_HEDGES, rng).format(phrase) if rng.random() < HEDGE else phrase)

    # an irrelevant statement and the conclusion
    if rng.random() < IRRELEVANT:
        statements.insert(int(rng.integers(1, len(statements) + 1)), _one_of(_IRRELEVANT, rng))
    if measurements:
        if "NORM" in findings:
            stated.append("NORM")
        statements.append(_conclusion(findings, rng))
    elif "NORM" in findings:
        omitted.append("NORM")
    return SimulatedReport(". ".join(statements) + ".", tuple(stated), tuple(omitted))


def _phrases(code: str, measurements: bool) -> tuple[str, ...]:
    """Return the wordings of a finding; without `measurements`, those that mention none."""
    if measurements:
        return PHRASES[code]
    return tuple(phrase for phrase in PHRASES[code] if not mentions_measurement(phrase))


def _rhythm_statement(code: str, rate_bpm: float, rng: np.random.Generator, measurements: bool) -> str:
    statement = _one_of(_phrases(code, measurements), rng)
    if code == "AFIB" and rng.random() < 0.7:
        if rate_bpm > 110:
            return f"{statement} with rapid ventricular response"
        if rate_bpm < 65:
            return f"{statement} with slow ventricular response"
    if code == "AFLT" and "block" not in statement and rng.random() < 0.5:
        conduction = "2:1" if rate_bpm > 125 else "4:1" if rate_bpm < 80 else "variable"
        return f"{statement} with {conduction} a-v conduction"
    return statement


def _conclusion(findings: frozenset[str], rng: np.random.Generator) -> str:
    if "NORM" in findings:
        return _one_of(PHRASES["NORM"], rng)
    if findings <= {"SR", "SBRAD", "STACH"}:
        return _one_of(("normal ecg except for rate", "otherwise normal ecg"), rng)
    if findings <= _BORDERLINE and rng.random() < 0.7:
        return "borderline ecg"
    return "abnormal ecg"


def _one_of(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
