"""CSN (Chapman-Shaoxing-Ningbo, `ecg-arrhythmia` 1.0.0): `WFDBRecords/<dd>/<ddd>/JS*.hea` -> rows, labels by exact code.

Each SNOMED CT code of `#Dx` is one of the 55 classes of `labels.CSN_FULL`, or is not mapped (column `unmapped`; the
record keeps its other labels). A record belongs to a task where it has at least one of its classes. Each recording is
a patient's only one; its name alone deals it to train (70 %), val (10 %) or test (20 %).

Two headers of release 1.0.0 (JS01052, JS23074) have lost a line break and cannot be read: they are named here, and left
out by `--allow-unreadable` with the reason in the ledger.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from leadwise.data.cohort.layout import CohortError
from leadwise.data.formats import wfdb_header
from leadwise.data.messages import first_few
from leadwise.data.sources.source import Row, Source, dealt
from leadwise.data.tasks import CSN_ACRONYMS, CSN_MERGES, classes_of

log = logging.getLogger(__name__)

_NAME = re.compile(r"JS(\d{5})")
_LAST_OF_CHAPMAN = 10_646  # JS00001 ... JS10646 come from Chapman-Shaoxing, the others from Ningbo
CHAPMAN, NINGBO = "Chapman-Shaoxing", "Ningbo"
_LEAST_POSITIVES = 10  # fewer at one site and none at the other may be chance


def read_source(folder: Path) -> Source:
    """CSN in `folder` as rows by record name, with the tasks csn, csn_full and csn_merged; headers only are read.

    Extra columns: age, sex, `site` (which of the two hospitals' data), `acronyms` (those of the codes, in the header's
    order, such as 'AFIB,RBBB,TWC') and `unmapped` (codes that have none). Headers that are malformed or say no `#Dx`,
    and classes that one site alone has, are logged as warnings.

    Raises:
        CohortError: no recording is found, or one is found twice.
    """
    folder = Path(folder)
    tasks = classes_of("csn")
    rows = []
    malformed: dict[str, str] = {}
    for name, path in _headers(folder).items():
        raw = path.read_bytes()
        try:
            wfdb_header.parse(raw)
        except wfdb_header.HeaderError as error:
            malformed[name] = str(error)
        rows.append(_row(name, path, wfdb_header.comments(raw), tasks))
    if malformed:
        log.warning(
            "%s: %d headers are malformed, and their recordings cannot be read (%s; %s): mend them, or leave them out with "
            "--allow-unreadable",
            folder,
            len(malformed),
            first_few(malformed, most=10),
            next(iter(malformed.values())),
        )
    silent = [row.record for row in rows if not row.extra["acronyms"] and not row.extra["unmapped"]]
    if silent:
        log.warning("%s: %d headers say no #Dx and are in no task: %s", folder, len(silent), first_few(silent, most=10))
    _warn_of_one_site(rows)
    return Source("csn", rows, tasks)


def acronyms(codes: Iterable[str]) -> tuple[list[str], list[str]]:
    """The acronyms of SNOMED CT codes, each once and in the order of the codes, and the codes that have none."""
    codes = list(dict.fromkeys(codes))
    known = dict.fromkeys(CSN_ACRONYMS[code] for code in codes if code in CSN_ACRONYMS)
    return list(known), [code for code in codes if code not in CSN_ACRONYMS]


def _row(name: str, path: Path, said: dict[str, str], tasks: dict[str, tuple[str, ...]]) -> Row:
    found, unmapped = acronyms(code.strip() for code in said.get("dx", "").split(",") if code.strip())
    names = {*found, *(CSN_MERGES[acronym] for acronym in found if acronym in CSN_MERGES)}
    labels = {
        task: {known: int(known in names) for known in classes}
        for task, classes in tasks.items()
        if names.intersection(classes)
    }
    site = CHAPMAN if int(name[2:]) <= _LAST_OF_CHAPMAN else NINGBO
    extra = wfdb_header.person(said) | {
        "site": site,
        "acronyms": ",".join(found) or None,
        "unmapped": ",".join(unmapped) or None,
    }
    return Row(name, path, name, dealt(name), labels=labels, extra=extra)


def _headers(folder: Path) -> dict[str, Path]:
    """Record name -> its header, by name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("JS*.hea"), key=lambda path: path.stem):
        if not _NAME.fullmatch(path.stem):
            continue
        if path.stem in found:
            raise CohortError(f"record {path.stem} is there twice ({found[path.stem]}, {path}); give the folder of one")
        found[path.stem] = path
    if not found:
        raise CohortError(
            f"{folder} holds no header JS00001.hea ...; give the folder that holds WFDBRecords as it was downloaded"
        )
    return found


def _warn_of_one_site(rows: Sequence[Row]) -> None:
    """Say which classes tell the two hospitals apart rather than two hearts."""
    counts = {CHAPMAN: Counter[str](), NINGBO: Counter[str]()}
    n_rows = Counter(str(row.extra["site"]) for row in rows)
    for row in rows:
        counts[str(row.extra["site"])].update(str(row.extra["acronyms"] or "").split(","))
    if len(n_rows) < 2:
        return
    alone = {
        acronym: f"{acronym} ({n} in {site})"
        for site, other in ((CHAPMAN, NINGBO), (NINGBO, CHAPMAN))
        for acronym, n in counts[site].items()
        if acronym and n >= _LEAST_POSITIVES and not counts[other][acronym]
    }
    if alone:
        log.warning(
            "csn: only one of its two sites has %s: a score for them may tell the hospital, not the heart%s",
            first_few(sorted(alone.values()), most=60),
            "; task csn_merged takes fibrillation and flutter as one" if CSN_MERGES.keys() & set(alone) else "",
        )
