"""The tasks' label sets: class name -> what it means, in the order that every table and head uses.

Labels are found by these names, never by column number.
"""

from __future__ import annotations

PTBXL_SUPER = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST-T change",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}

PTBXL_SUB = {
    "NORM": "normal ECG",
    "AMI": "anterior myocardial infarction",
    "IMI": "inferior myocardial infarction",
    "LMI": "lateral myocardial infarction",
    "PMI": "posterior myocardial infarction",
    "STTC": "ST-T change, digitalis or drug effect, long QT",
    "NST": "unspecific ST change",
    "ISC": "unspecific ischaemia",
    "ISCA": "ischaemia in anterior or lateral leads",
    "ISCI": "ischaemia in inferior leads",
    "AVB": "atrioventricular block",
    "CLBBB": "complete left bundle branch block",
    "ILBBB": "incomplete left bundle branch block",
    "CRBBB": "complete right bundle branch block",
    "IRBBB": "incomplete right bundle branch block",
    "IVCD": "unspecific intraventricular conduction delay",
    "LAFB/LPFB": "left anterior or posterior fascicular block",
    "WPW": "Wolff-Parkinson-White pattern",
    "LVH": "left ventricular hypertrophy",
    "RVH": "right ventricular hypertrophy",
    "SEHYP": "septal hypertrophy",
    "LAO/LAE": "left atrial enlargement",
    "RAO/RAE": "right atrial enlargement",
}

PTBXL_FORM = {
    "ABQRS": "abnormal QRS complex",
    "QWAVE": "Q waves",
    "HVOLT": "high QRS voltage",
    "LVOLT": "low QRS voltage",
    "VCLVH": "voltage criteria of left ventricular hypertrophy",
    "LPR": "long PR interval",
    "LNGQT": "long QT interval",
    "DIG": "digitalis effect",
    "STD": "ST depression",
    "STE": "ST elevation",
    "NST": "unspecific ST change",
    "NT": "unspecific T-wave change",
    "NDT": "T-wave abnormality without diagnosis",
    "TAB": "abnormal T wave",
    "LOWT": "flat T waves",
    "INVT": "inverted T waves",
    "PAC": "premature atrial beats",
    "PVC": "premature ventricular beats",
    "PRC(S)": "premature beats of unstated origin",
}

PTBXL_RHYTHM = {
    "SR": "sinus rhythm",
    "SBRAD": "sinus bradycardia",
    "STACH": "sinus tachycardia",
    "SARRH": "sinus arrhythmia",
    "AFIB": "atrial fibrillation",
    "AFLT": "atrial flutter",
    "SVTAC": "supraventricular tachycardia",
    "PSVT": "paroxysmal supraventricular tachycardia",
    "SVARR": "supraventricular arrhythmia",
    "BIGU": "bigeminy",
    "TRIGU": "trigeminy",
    "PACE": "paced rhythm",
}

PTBXL = {"super": PTBXL_SUPER, "sub": PTBXL_SUB, "form": PTBXL_FORM, "rhythm": PTBXL_RHYTHM}
"""The four tasks of PTB-XL."""
