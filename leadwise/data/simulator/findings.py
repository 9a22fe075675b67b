"""The findings of the simulator: codes, names, and which of them exclude each other."""

from __future__ import annotations

FINDINGS: dict[str, str] = {
    # rhythm: exactly one of SR, AFIB, AFLT, SVTAC, PACE, AVB3; SBRAD and STACH are rates of a sinus rhythm
    "SR": "sinus rhythm",
    "SBRAD": "sinus bradycardia",
    "STACH": "sinus tachycardia",
    "AFIB": "atrial fibrillation",
    "AFLT": "atrial flutter",
    "SVTAC": "supraventricular tachycardia",
    "PACE": "ventricular paced rhythm",
    "AVB3": "third degree av block",
    "PAC": "premature atrial complexes",
    "PVC": "premature ventricular complexes",
    # conduction
    "LPR": "first degree av block",
    "WPW": "ventricular pre-excitation",
    "CRBBB": "complete right bundle branch block",
    "CLBBB": "complete left bundle branch block",
    "LAFB": "left anterior fascicular block",
    # axis and voltage
    "LAD": "left axis deviation",
    "RAD": "right axis deviation",
    "LVH": "left ventricular hypertrophy",
    "RVH": "right ventricular hypertrophy",
    "LVOLT": "low qrs voltage",
    # infarction and repolarisation
    "IMI": "old inferior myocardial infarction",
    "AMI": "old anterior myocardial infarction",
    "STEI": "acute inferior st elevation",
    "STEA": "acute anterior st elevation",
    "STD": "st depression",
    "INVT": "t wave inversion",
    "LNGQT": "prolonged qt interval",
    "NORM": "normal ecg",
}
"""Code and name of every finding, in the order of the label columns."""

RHYTHMS = ("SR", "AFIB", "AFLT", "SVTAC", "PACE", "AVB3")
"""Exactly one of these holds in every ECG."""

_HIDDEN_BY_WIDE_QRS = ("LVH", "RVH", "LVOLT", "IMI", "AMI", "STEI", "STEA", "STD", "INVT", "LNGQT")

EXCLUDES: dict[str, tuple[str, ...]] = {
    "SBRAD": ("STACH",),
    "STACH": ("LPR", "PAC", "PVC", "LNGQT"),  # P, T and early beats overlap, so they cannot be recognised
    "CLBBB": (
        "CRBBB",
        "LAFB",
        "WPW",
        *_HIDDEN_BY_WIDE_QRS,
    ),  # hidden by the wide QRS, as on real tracings
    # with a right bundle branch block, the axis is left only if the left anterior fascicle is blocked too (LAFB)
    "CRBBB": ("LAD", "RVH", "LVH", "AMI", "STEA", "STD", "INVT", "LNGQT"),
    "WPW": ("LPR", "CRBBB", "LAFB", *_HIDDEN_BY_WIDE_QRS),
    "LAFB": ("RAD", "RVH", "IMI"),
    "LAD": ("RAD", "RVH", "AMI"),  # an anterior infarct with left axis would have inferior Q waves too
    "LVH": ("RAD", "RVH", "LVOLT", "STEI", "STEA"),
    "RVH": ("LVOLT", "IMI", "AMI", "STEI", "STEA", "STD", "INVT"),
    "LVOLT": ("STEI", "STEA", "STD"),
    "IMI": ("AMI", "STEI"),
    "AMI": ("STEA",),
    "STEI": ("STEA", "STD", "INVT", "LNGQT"),  # reciprocal changes of an acute infarct are not labelled as findings
    "STEA": ("STD", "INVT", "LNGQT"),
    "PACE": ("PAC", "PVC", "LPR", "WPW", "CRBBB", "CLBBB", "LAFB", "LAD", "RAD", *_HIDDEN_BY_WIDE_QRS),
    "AVB3": ("PAC", "PVC", "LPR", "WPW", "CLBBB", "CRBBB", "STEI", "STEA", "STD", "LNGQT"),
    "AFIB": ("PAC", "LPR", "WPW", "LNGQT"),
    "AFLT": ("PAC", "PVC", "LPR", "WPW", "STEI", "STEA", "STD", "INVT", "LNGQT"),
    "SVTAC": ("CRBBB", "CLBBB", "PAC", "PVC", "LPR", "WPW", "STEI", "STEA", "STD", "INVT", "LNGQT"),
}


def compatible(code: str, others: frozenset[str]) -> bool:
    """Return whether `code` may occur together with all of `others`."""
    return not any(other in EXCLUDES.get(code, ()) or code in EXCLUDES.get(other, ()) for other in others)


def with_implied_findings(drawn: frozenset[str]) -> frozenset[str]:
    """Return `drawn` with the findings it implies: LAFB implies LAD, and RVH implies RAD.

    An ECG with sinus rhythm at a normal rate and nothing else is NORM.
    """
    findings = set(drawn)
    if "LAFB" in findings:
        findings.add("LAD")
    if "RVH" in findings:
        findings.add("RAD")
    if findings == {"SR"}:
        findings.add("NORM")
    return frozenset(findings)
