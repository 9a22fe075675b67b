"""Reports in the manner of an ECG machine: short statements in our own words, in random number and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

STATEMENTS = (
    "sinus rhythm", "sinus bradycardia", "sinus tachycardia", "sinus arrhythmia", "atrial fibrillation",
    "atrial flutter with variable conduction", "atrial fibrillation with a rapid ventricular rate",
    "ectopic atrial rhythm", "junctional escape rhythm", "wide complex tachycardia", "ventricular pacing",
    "atrial and ventricular pacing, no further reading attempted", "frequent ventricular extrasystoles",
    "isolated atrial extrasystoles", "first degree av delay", "second degree av block, wenckebach type",
    "complete av block", "right bundle branch block", "left bundle branch block", "incomplete right bundle branch block",
    "left anterior hemiblock", "left posterior hemiblock", "nonspecific delay within the ventricles",
    "left axis deviation", "right axis deviation", "axis cannot be determined", "low voltage in the limb leads",
    "left ventricular hypertrophy by voltage alone, can be normal for age", "right ventricular hypertrophy",
    "left ventricular hypertrophy with secondary repolarization change", "probable left atrial enlargement",
    "right atrial enlargement", "old inferior infarct", "old anteroseptal infarct", "inferior infarct, possibly acute",
    "lateral infarct, age not known", "poor r wave progression across the chest leads",
    "st elevation in the anterior leads, consider acute injury", "st depression in the lateral leads, consider ischemia",
    "t wave inversion in the inferior leads", "flat t waves in many leads", "nonspecific st and t wave changes",
    "tall t waves, consider hyperkalemia", "prolonged qt interval", "short pr interval", "early repolarization",
    "pattern of acute pericarditis", "baseline wander makes the reading difficult", "lead reversal is suspected",
)  # fmt: skip
VERDICTS = ("normal ecg", "otherwise normal ecg", "borderline ecg", "abnormal ecg")


def lengths(cohort: Path | None, n: int, rng: np.random.Generator) -> np.ndarray:
    """Words of n reports (n,): drawn from a cohort's own reports, or log-normal about nine where there is none."""
    if cohort is None:
        return np.clip(np.exp(rng.normal(np.log(9.5), 0.62, n)), 4, 60).round().astype(int)
    from leadwise.data.cohort.cohort import Cohort

    words = np.array([len(report.split()) for report in Cohort.open(cohort).reports if report])
    return rng.choice(words, n)


def write_reports(n: int, cohort: Path | None = None, seed: int = 0) -> tuple[str, ...]:
    """n reports of about the lengths that are real; `cohort` lends its lengths, not its words."""
    rng = np.random.default_rng(seed)
    texts = []
    for n_words in lengths(cohort, n, rng):
        verdict = VERDICTS[rng.integers(len(VERDICTS))]
        statements: list[str] = []
        for k in rng.permutation(len(STATEMENTS)):
            missing = n_words - sum(len(part.split()) for part in statements) - len(verdict.split())
            if missing <= 0:
                break
            if len(STATEMENTS[k].split()) <= missing + 1:
                statements.append(STATEMENTS[k])
        texts.append(". ".join([*statements, verdict]) + ".")
    return tuple(texts)
