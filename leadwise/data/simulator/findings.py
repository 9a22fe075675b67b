"""The findings the simulator can draw: their codes and names, and which cannot stand together."""

from __future__ import annotations

FINDINGS: dict[str, str] = {
    # rhythm: exactly one of SR, AFIB, AFLT, SVTAC, PACE, AVB3; SBRAD and STACH say how fast a sinus rhythm is
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

_WIDE = ("LVH", "RVH", "LVOLT", "IMI", "AMI", "STEI", "STEA", "STD", "INVT", "LNGQT")

EXCLUDES: dict[str, tuple[str, ...]] = {
    "SBRAD": ("STACH",),
    "STACH": ("LPR", "PAC", "PVC", "LNGQT"),  # with P, T and early beats on top of each other they could not be read
    "CLBBB": ("CRBBB", "LAFB", "WPW", *_WIDE),  # the wide QRS hides them: they are not called on a real tracing either
    # the axis of a right bundle branch block is a left one only where the left anterior fascicle is blocked too (LAFB)
    "CRBBB": ("LAD", "RVH", "LVH", "AMI", "STEA", "STD", "INVT", "LNGQT"),
    "WPW": ("LPR", "CRBBB", "LAFB", *_WIDE),
    "LAFB": ("RAD", "RVH", "IMI"),
    "LAD": ("RAD", "RVH", "AMI"),  # an anterior infarct turned to the left would show inferior Q waves too
    "LVH": ("RAD", "RVH", "LVOLT", "STEI", "STEA"),
    "RVH": ("LVOLT", "IMI", "AMI", "STEI", "STEA", "STD", "INVT"),
    "LVOLT": ("STEI", "STEA", "STD"),
    "IMI": ("AMI", "STEI"),
    "AMI": ("STEA",),
    "STEI": ("STEA", "STD", "INVT", "LNGQT"),  # the reciprocal changes of an acute infarct are not counted again
    "STEA": ("STD", "INVT", "LNGQT"),
    "PACE": ("PAC", "PVC", "LPR", "WPW", "CRBBB", "CLBBB", "LAFB", "LAD", "RAD", *_WIDE),
    "AVB3": ("PAC", "PVC", "LPR", "WPW", "CLBBB", "CRBBB", "STEI", "STEA", "STD", "LNGQT"),
    "AFIB": ("PAC", "LPR", "WPW", "LNGQT"),
    "AFLT": ("PAC", "PVC", "LPR", "WPW", "STEI", "STEA", "STD", "INVT", "LNGQT"),
    "SVTAC": ("CRBBB", "CLBBB", "PAC", "PVC", "LPR", "WPW", "STEI", "STEA", "STD", "INVT", "LNGQT"),
}


def compatible(code: str, others: frozenset[str]) -> bool:
    """Whether `code` may stand beside all of `others`."""
    return not any(other in EXCLUDES.get(code, ()) or code in EXCLUDES.get(other, ()) for other in others)


def completed(drawn: frozenset[str]) -> frozenset[str]:
    """`drawn` with what follows from it: a fascicular block is a left axis, a hypertrophied right heart a right one.

    An ECG in sinus rhythm at a normal rate with nothing else is NORM.
    """
    found = set(drawn)
    if "LAFB" in found:
        found.add("LAD")
    if "RVH" in found:
        found.add("RAD")
    if found == {"SR"}:
        found.add("NORM")
    return frozenset(found)
