"""CSN (Chapman-Shaoxing-Ningbo, `ecg-arrhythmia` 1.0.0): `WFDBRecords/<dd>/<ddd>/JS*.hea`, labels by exact SNOMED CT code.

Each code of `#Dx` is one of the 55 classes of `CSN_FULL`, or is not mapped (column `unmapped`; the record has its other
labels). A record belongs to a task if it has at least one of its classes. Each patient has one recording; a hash of its
name assigns it to train (70 %), val (10 %) or test (20 %).

Two headers of release 1.0.0 (JS01052, JS23074) lack a line break and cannot be read: a warning names them, and
`--allow-unreadable` leaves them out with the reason in the ledger.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leadwise.data.cohort.layout import CohortError
from leadwise.data.formats import wfdb_header
from leadwise.data.messages import first_few
from leadwise.data.sources.source import Row, Source, split_by_hash
from leadwise.data.tasks import Task, class_names

log = logging.getLogger(__name__)

# ------------------------------------------------------------------------------------------------------------ tasks

_ROWS = (  # acronym, SNOMED CT code, meaning; the first of the acronyms that share a code is the class
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

CSN_ACRONYM_CODES = {acronym: code for acronym, code, _ in _ROWS}
"""The 63 acronyms of CSN's own table -> their 55 SNOMED CT codes."""

CSN_ACRONYMS: dict[str, str] = {}
"""SNOMED CT code -> its class: the first of the acronyms that share the code."""
for _acronym, _code, _ in _ROWS:
    CSN_ACRONYMS.setdefault(_code, _acronym)

CSN_FULL = {acronym: meaning for acronym, code, meaning in _ROWS if CSN_ACRONYMS[code] == acronym}
"""The 55 classes that differ by code: a fixed list, so that cohorts can be compared."""

_PUBLISHED = (
    "AQW", "UW", "SR", "WPW", "2AVB", "AT", "VB", "ARS", "STTC", "SA", "STE", "VPB", "TWO", "STTU", "ALS",
    "APB", "2AVB1", "PRIE", "CCR", "CR", "AF", "AVB", "QTIE", "LBBB", "VEB", "SVT", "RBBB", "1AVB", "STDD",
    "MI", "AFIB", "TWC", "PWC", "ERV", "RVH", "LVH", "ST", "JEB",
)  # fmt: skip
CSN = {acronym: CSN_FULL[acronym] for acronym in _PUBLISHED}
"""The 38 classes of the published tables, in their order. Sinus bradycardia (SB) is not among them."""

_MERGES = {"AF": "AFIB/AF", "AFIB": "AFIB/AF"}
CSN_MERGED = {_MERGES.get(acronym, acronym): meaning for acronym, meaning in CSN.items()} | {
    "AFIB/AF": "atrial fibrillation or flutter"
}
"""The 38 with atrial fibrillation and flutter as one class: 37."""

_RULE = "each #Dx code of the header by exact match; records with at least one of the classes"
_SNOMED = {acronym: CSN_ACRONYM_CODES[acronym] for acronym in CSN_FULL}

TASKS = (
    Task(
        "csn",
        f"Chapman-Shaoxing-Ningbo, the 38 published classes: {_RULE}.",
        CSN,
        {acronym: _SNOMED[acronym] for acronym in CSN},
        "AF is atrial flutter, ST sinus tachycardia, SA sinus arrhythmia. Sinus bradycardia is not a published class: "
        "csn_full has it. Matched exactly, VB is so rare that a test split may contain none.",
    ),
    Task(
        "csn_full",
        f"Chapman-Shaoxing-Ningbo, all 55 classes that differ by code: {_RULE}.",
        CSN_FULL,
        _SNOMED,
        "With sinus bradycardia (SB), the most frequent finding. Rare classes may be missing from a split; scores name them.",
    ),
    Task(
        "csn_merged",
        f"Chapman-Shaoxing-Ningbo, the published classes with fibrillation and flutter as one: {_RULE}.",
        CSN_MERGED,
        {acronym: _SNOMED[acronym] for acronym in CSN_MERGED if acronym in _SNOMED},
        "Ningbo's part has no fibrillation and far too much flutter: fibrillation seems to be coded as flutter there.",
    ),
)

# ------------------------------------------------------------------------------------------------------------- rows

_NAME = re.compile(r"JS(\d{5})")
_LAST_OF_CHAPMAN = 10_646  # JS00001 ... JS10646 come from Chapman-Shaoxing, the others from Ningbo
CHAPMAN, NINGBO = "Chapman-Shaoxing", "Ningbo"
_LEAST_POSITIVES = 10  # fewer at one site and none at the other may be chance


@dataclass(frozen=True)
class Options:
    """CSN has no options."""


def read_source(folder: Path, options: Options | None = None) -> Source:
    """CSN in `folder` as rows by record name, with the tasks csn, csn_full and csn_merged; only headers are read.

    Extra columns: age, sex, `site` (which of the two hospitals), `acronyms` (those of the codes, in the header's order,
    such as 'AFIB,RBBB,TWC') and `unmapped` (codes without an acronym). Warnings name headers that are malformed or have no
    `#Dx`, and classes that occur at one site only.

    Raises:
        CohortError: there is no recording, or a recording appears twice.
    """
    # a malformed header costs the recording, not the data set: its comments are readable
    folder = Path(folder)
    tasks = class_names(TASKS)
    rows = []
    malformed: dict[str, str] = {}
    for name, path in _headers(folder).items():
        raw = path.read_bytes()
        try:
            wfdb_header.parse(raw)
        except wfdb_header.HeaderError as error:
            malformed[name] = str(error)
        rows.append(_row(name, path, wfdb_header.comments(raw), tasks))

    # warnings about headers and about classes of one site
    if malformed:
        log.warning(
            "%s: %d headers are malformed, and their recordings cannot be read (%s; %s): repair them, or leave them out with "
            "--allow-unreadable",
            folder,
            len(malformed),
            first_few(malformed, most=10),
            next(iter(malformed.values())),
        )
    unlabelled = [row.record for row in rows if not row.extra["acronyms"] and not row.extra["unmapped"]]
    if unlabelled:
        log.warning(
            "%s: %d headers have no #Dx and are in no task: %s", folder, len(unlabelled), first_few(unlabelled, most=10)
        )
    _warn_of_one_site(rows)
    return Source("csn", rows, tasks)


def acronyms(codes: Iterable[str]) -> tuple[list[str], list[str]]:
    """The acronyms of SNOMED CT codes, each once and in the order of the codes, and the codes without an acronym."""
    codes = list(dict.fromkeys(codes))
    known = dict.fromkeys(CSN_ACRONYMS[code] for code in codes if code in CSN_ACRONYMS)
    return list(known), [code for code in codes if code not in CSN_ACRONYMS]


def _row(name: str, path: Path, comments: dict[str, str], tasks: dict[str, tuple[str, ...]]) -> Row:
    mapped, unmapped = acronyms(code.strip() for code in comments.get("dx", "").split(",") if code.strip())
    positives = {*mapped, *(_MERGES[acronym] for acronym in mapped if acronym in _MERGES)}
    labels = {
        task: {known: int(known in positives) for known in classes}
        for task, classes in tasks.items()
        if positives.intersection(classes)
    }
    site = CHAPMAN if int(name[2:]) <= _LAST_OF_CHAPMAN else NINGBO
    extra = wfdb_header.person(comments) | {
        "site": site,
        "acronyms": ",".join(mapped) or None,
        "unmapped": ",".join(unmapped) or None,
    }
    return Row(name, path, name, split_by_hash(name), labels=labels, extra=extra)


def _headers(folder: Path) -> dict[str, Path]:
    """Record name -> its header, by name."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.rglob("JS*.hea"), key=lambda path: path.stem):
        if not _NAME.fullmatch(path.stem):
            continue
        if path.stem in paths:
            raise CohortError(
                f"record {path.stem} appears twice ({paths[path.stem]}, {path}); give the folder of one copy"
            )
        paths[path.stem] = path
    if not paths:
        raise CohortError(
            f"{folder} contains no header JS00001.hea ...; give the folder that contains WFDBRecords as it was downloaded"
        )
    return paths


def _warn_of_one_site(rows: Sequence[Row]) -> None:
    """Log a warning that names the classes that only one of the two hospitals has."""
    # positives of each acronym at each site
    counts = {CHAPMAN: Counter[str](), NINGBO: Counter[str]()}
    n_rows = Counter(str(row.extra["site"]) for row in rows)
    for row in rows:
        counts[str(row.extra["site"])].update(str(row.extra["acronyms"] or "").split(","))
    if len(n_rows) < 2:
        return

    # a score for such a class may separate the hospitals instead of the hearts
    alone = {
        acronym: f"{acronym} ({n} in {site})"
        for site, other in ((CHAPMAN, NINGBO), (NINGBO, CHAPMAN))
        for acronym, n in counts[site].items()
        if acronym and n >= _LEAST_POSITIVES and not counts[other][acronym]
    }
    if alone:
        log.warning(
            "csn: only one of its two sites has %s: a score for them may separate the hospitals, not the hearts%s",
            first_few(sorted(alone.values()), most=60),
            "; task csn_merged has fibrillation and flutter as one class" if _MERGES.keys() & set(alone) else "",
        )
