"""Every task that records are labelled for: its classes by name, in the order that every table and head uses.

Labels are found by these names, never by column number. A class is scoped by its source: AF is atrial flutter in CSN,
where ST is sinus tachycardia and STE is not the STE of CPSC2018.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from leadwise.data.simulator.findings import FINDINGS


@dataclass(frozen=True)
class Task:
    """A label set: which records are in it, and what each class means."""

    source: str  # the data set, by the name of its file in data/sources
    name: str
    definition: str  # one sentence: how a record gets its labels, and which records are in the task
    classes: dict[str, str]  # class -> what it means, in canonical order
    snomed: dict[str, str] = field(default_factory=dict)  # class -> SNOMED CT code, where the source writes one
    remark: str = ""  # what a person should know before comparing scores


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

CPSC2018 = {
    "NORM": "normal ECG",
    "AFIB": "atrial fibrillation",
    "1AVB": "first-degree atrioventricular block",
    "CLBBB": "left bundle branch block",
    "CRBBB": "right bundle branch block",
    "PAC": "premature atrial contraction",
    "VPC": "premature ventricular contraction",
    "STD": "ST-segment depression",
    "STE": "ST-segment elevation",
}
"""The nine classes of the challenge, in the order of its numbers 1 ... 9."""

CPSC2018_SNOMED = {
    "NORM": "426783006",
    "AFIB": "164889003",
    "1AVB": "270492004",
    "CLBBB": "164909002",
    "CRBBB": "59118001",
    "PAC": "284470004",
    "VPC": "164884008",
    "STD": "429622005",
    "STE": "164931005",
}
"""What the PhysioNet/CinC form of the data writes for each class."""

_CSN_ROWS = (  # acronym, SNOMED CT code, meaning; where acronyms share a code, the first of them is the class
    ("1AVB", "270492004", "first-degree atrioventricular block"),
    ("2AVB", "195042002", "second-degree atrioventricular block"),
    ("2AVB1", "54016002", "second-degree atrioventricular block, type I"),
    ("2AVB2", "28189009", "second-degree atrioventricular block, type II"),
    ("3AVB", "27885002", "third-degree atrioventricular block"),
    ("ABI", "251173003", "atrial bigeminy"),
    ("ALS", "39732003", "left axis deviation"),
    ("APB", "284470004", "premature atrial beats"),
    ("AQW", "164917005", "abnormal Q wave"),
    ("ARS", "47665007", "right axis deviation"),
    ("AVB", "233917008", "atrioventricular block, degree not stated"),
    ("CCR", "251199005", "counterclockwise rotation of the heart"),
    ("CR", "251198002", "clockwise rotation of the heart"),
    ("ERV", "428417006", "early repolarisation"),
    ("FQRS", "164942001", "fragmented QRS complex"),
    ("IDC", "698252002", "unspecific intraventricular conduction delay"),
    ("IVB", "698252002", "intraventricular block"),
    ("JEB", "426995002", "junctional escape beat"),
    ("JPT", "251164006", "junctional premature beat"),
    ("LBBB", "164909002", "left bundle branch block"),
    ("LBBBB", "164909002", "left posterior fascicular block"),
    ("LFBBB", "164909002", "left anterior fascicular block"),
    ("LVH", "164873001", "left ventricular hypertrophy"),
    ("LVQRSAL", "251146004", "low QRS voltage in all leads"),
    ("LVQRSCL", "251148003", "low QRS voltage in the chest leads"),
    ("LVQRSLL", "251147008", "low QRS voltage in the limb leads"),
    ("MI", "164865005", "myocardial infarction"),
    ("MIBW", "164865005", "posterior myocardial infarction"),
    ("MIFW", "164865005", "anterior myocardial infarction"),
    ("MILW", "164865005", "inferior myocardial infarction"),
    ("MISW", "164865005", "lateral myocardial infarction"),
    ("PRIE", "164947007", "long PR interval"),
    ("PWC", "164912004", "P-wave change"),
    ("QTIE", "111975006", "long QT interval"),
    ("RAH", "446358003", "right atrial hypertrophy"),
    ("RBBB", "59118001", "right bundle branch block"),
    ("RVH", "89792004", "right ventricular hypertrophy"),
    ("STDD", "429622005", "ST depression"),
    ("STE", "164930006", "ST-segment abnormality, written 'ST extension'"),
    ("STTC", "428750005", "unspecific ST-T change"),
    ("STTU", "164931005", "ST elevation, written 'ST tilt up'"),
    ("TWC", "164934002", "T-wave change"),
    ("TWO", "59931005", "T-wave inversion"),
    ("UW", "164937009", "U wave"),
    ("VB", "11157007", "ventricular bigeminy"),
    ("VEB", "75532003", "ventricular escape beat"),
    ("VFW", "13640000", "ventricular fusion beat"),
    ("VPB", "17338001", "premature ventricular beats"),
    ("VPE", "195060002", "ventricular pre-excitation"),
    ("VET", "251180001", "ventricular trigeminy"),
    ("WAVN", "195101003", "wandering atrial pacemaker, towards the atrioventricular node"),
    ("WPW", "74390002", "Wolff-Parkinson-White pattern"),
    ("SB", "426177001", "sinus bradycardia"),
    ("SR", "426783006", "sinus rhythm"),
    ("AFIB", "164889003", "atrial fibrillation"),
    ("ST", "427084000", "sinus tachycardia"),
    ("AF", "164890007", "atrial flutter"),
    ("SA", "427393009", "sinus arrhythmia"),
    ("SVT", "426761007", "supraventricular tachycardia"),
    ("AT", "713422000", "atrial tachycardia"),
    ("AVNRT", "233896004", "atrioventricular nodal re-entrant tachycardia"),
    ("AVRT", "233897008", "atrioventricular re-entrant tachycardia"),
    ("SAAWR", "195101003", "wandering atrial pacemaker, from the sinus node"),
)

CSN_ACRONYM_CODES = {acronym: code for acronym, code, _ in _CSN_ROWS}
"""The 63 acronyms of CSN's own table -> their 55 SNOMED CT codes."""

CSN_ACRONYMS: dict[str, str] = {}
"""SNOMED CT code -> the acronym that stands for it: the first of those that share it."""
for _acronym, _code, _ in _CSN_ROWS:
    CSN_ACRONYMS.setdefault(_code, _acronym)

CSN_FULL = {acronym: meaning for acronym, code, meaning in _CSN_ROWS if CSN_ACRONYMS[code] == acronym}
"""The 55 classes that the codes can tell apart: a fixed list, so that cohorts can be compared."""

CSN_PUBLISHED = (
    "AQW", "UW", "SR", "WPW", "2AVB", "AT", "VB", "ARS", "STTC", "SA", "STE", "VPB", "TWO", "STTU", "ALS",
    "APB", "2AVB1", "PRIE", "CCR", "CR", "AF", "AVB", "QTIE", "LBBB", "VEB", "SVT", "RBBB", "1AVB", "STDD",
    "MI", "AFIB", "TWC", "PWC", "ERV", "RVH", "LVH", "ST", "JEB",
)  # fmt: skip
CSN = {acronym: CSN_FULL[acronym] for acronym in CSN_PUBLISHED}
"""The 38 classes of the published tables, in their order. Sinus bradycardia (SB) is not among them."""

CSN_MERGES = {"AF": "AFIB/AF", "AFIB": "AFIB/AF"}
CSN_MERGED = {CSN_MERGES.get(acronym, acronym): meaning for acronym, meaning in CSN.items()} | {
    "AFIB/AF": "atrial fibrillation or flutter"
}
"""The 38 with atrial fibrillation and flutter as one class: 37."""

_PTBXL_RULE = "any SCP code listed counts, whatever its likelihood; records with at least one"
_LIKELIHOOD = "leadwise prepare ptbxl --min-likelihood 50 counts a diagnosis from that likelihood on, and no other."
_CSN_RULE = "each #Dx code of the header by exact match; records with at least one of the classes"
_CSN_SNOMED = {acronym: CSN_ACRONYM_CODES[acronym] for acronym in CSN_FULL}

TASKS = (
    Task("ptbxl", "super", f"PTB-XL diagnostic superclasses: {_PTBXL_RULE}.", PTBXL_SUPER, remark=_LIKELIHOOD),
    Task("ptbxl", "sub", f"PTB-XL diagnostic subclasses: {_PTBXL_RULE}.", PTBXL_SUB, remark=_LIKELIHOOD),
    Task("ptbxl", "form", f"PTB-XL form statements: {_PTBXL_RULE}.", PTBXL_FORM),
    Task("ptbxl", "rhythm", f"PTB-XL rhythm statements: {_PTBXL_RULE}.", PTBXL_RHYTHM),
    Task(
        "cpsc2018",
        "cpsc2018",
        "CPSC2018: each of a record's up to three labels counts; every record that has one.",
        CPSC2018,
        CPSC2018_SNOMED,
        "No patients are known: each record counts as a person of its own.",
    ),
    Task(
        "csn",
        "csn",
        f"Chapman-Shaoxing-Ningbo, the 38 published classes: {_CSN_RULE}.",
        CSN,
        {acronym: _CSN_SNOMED[acronym] for acronym in CSN},
        "AF is atrial flutter, ST sinus tachycardia, SA sinus arrhythmia. Sinus bradycardia is not a published class: "
        "csn_full has it. Matched exactly, VB is so rare that a test split may hold none.",
    ),
    Task(
        "csn",
        "csn_full",
        f"Chapman-Shaoxing-Ningbo, all 55 classes that its codes tell apart: {_CSN_RULE}.",
        CSN_FULL,
        _CSN_SNOMED,
        "With sinus bradycardia (SB), the most frequent finding. Rare classes may be missing from a split; scores name them.",
    ),
    Task(
        "csn",
        "csn_merged",
        f"Chapman-Shaoxing-Ningbo, the published classes with fibrillation and flutter as one: {_CSN_RULE}.",
        CSN_MERGED,
        {acronym: _CSN_SNOMED[acronym] for acronym in CSN_MERGED if acronym in _CSN_SNOMED},
        "Ningbo's part has no fibrillation and far too much flutter: fibrillation seems to be coded as flutter there.",
    ),
    Task("simulated", "findings", "Simulated hearts: what was drawn; every record.", FINDINGS),
)


def find(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    for task in TASKS:
        if task.name == name:
            return task
    near = difflib.get_close_matches(name, [task.name for task in TASKS], n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(task.name for task in TASKS)}"
    raise ValueError(f"no task {name!r}; {advice}")


def classes_of(source: str) -> dict[str, tuple[str, ...]]:
    """The tasks of a data set, each with its classes in canonical order, as a Source takes them."""
    return {task.name: tuple(task.classes) for task in TASKS if task.source == source}
