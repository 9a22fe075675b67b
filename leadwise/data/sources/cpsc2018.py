"""CPSC2018: its 6,877 public recordings, in either of two forms, each with up to three of nine labels.

The challenge's own form is `A0001.mat ...` (the struct `ECG`) and `REFERENCE.csv` with the classes as 1 ... 9; these
`.mat` files are opened to read age and sex. The form of PhysioNet/CinC is `A0001.hea` and `.mat`, in one folder or in g1
... g7, with `#Dx` as SNOMED CT codes or, in its first release, as names. Patients are not known: each recording counts as
a patient of its own, and a hash of its name assigns it to train (70 %), val (10 %) or test (20 %).
"""

from __future__ import annotations

import contextlib
import csv
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leadwise.batch import LEADS
from leadwise.data.cohort.layout import CohortError
from leadwise.data.formats import mat, wfdb_header
from leadwise.data.messages import first_few, quoted_cell
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.source import Row, Source, split_by_hash
from leadwise.data.tasks import Task, class_names

log = logging.getLogger(__name__)

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

_SNOMED = {
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
"""Class -> SNOMED CT code, as the PhysioNet/CinC form of the data writes it."""

TASKS = (
    Task(
        "cpsc2018",
        "CPSC2018: each of a record's up to three labels counts; every record that has one.",
        CPSC2018,
        _SNOMED,
        "Patients are not known: each record counts as a patient of its own.",
    ),
)

_NAME = re.compile(r"A\d{4}")
_REFERENCE = "REFERENCE.csv"
_COLUMNS = ("Recording", "First_label", "Second_label", "Third_label")
_RATE_HZ, _UNITS = 500.0, "mV"  # of the challenge's own files, which do not state them
_CLASS_OF_NUMBER = {str(number): name for number, name in enumerate(CPSC2018, start=1)}
_CLASS_OF_NAME = dict(
    zip(("Normal", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE"), CPSC2018)
)  # the first release of the CinC form
_CLASS_OF_DX = {code: name for name, code in _SNOMED.items()} | _CLASS_OF_NAME


@dataclass(frozen=True)
class Options:
    """CPSC2018 has no options."""


def read_source(folder: Path, options: Options | None = None) -> Source:
    """CPSC2018 in `folder` and the folders in it as rows, by record name.

    A `REFERENCE.csv`, where there is one, determines the labels and the list of recordings; else the headers do.

    Raises:
        CohortError: there is no recording, a recording appears twice, or a table or a header has a class that is none of
            the nine.
    """
    folder = Path(folder)
    references = sorted(folder.rglob(_REFERENCE))
    if len(references) > 1:
        raise CohortError(
            f"{folder} contains {len(references)} tables {_REFERENCE} ({first_few(map(str, references))}); give the folder of one"
        )
    rows = _by_reference(folder, references[0]) if references else _by_headers(folder)
    return Source("cpsc2018", rows, class_names(TASKS))


def _by_reference(folder: Path, reference: Path) -> list[Row]:
    """The rows of the recordings that REFERENCE.csv lists."""
    labels = _read_reference(reference)
    paths = _files(folder, ".mat")
    unlisted = [name for name in paths if name not in labels]
    if unlisted:
        log.warning(
            "%s does not list %d of the recordings; they are left out: %s",
            reference,
            len(unlisted),
            first_few(unlisted),
        )
    log.info("%s: age and sex are read from %d files", folder, len(paths))
    return [
        _reference_row(name, paths.get(name, reference.parent / f"{name}.mat"), classes)
        for name, classes in labels.items()
    ]


def _reference_row(name: str, path: Path, classes: Sequence[str]) -> Row:
    header = path.with_suffix(".hea")
    if header.is_file():  # converted to WFDB, with the challenge's own table beside it
        return _row(name, header, classes, wfdb_header.person(wfdb_header.comments(header.read_bytes())))
    age, sex = "", ""
    # preparation opens the file again and reports the error
    with contextlib.suppress(RecordError, FileNotFoundError, ModuleNotFoundError):
        age, sex = mat.age_and_sex(path)
    row = _row(name, path, classes, wfdb_header.person({"age": age, "sex": sex}))
    return replace(row, leads=LEADS, rate_hz=_RATE_HZ, units=_UNITS)


def _by_headers(folder: Path) -> list[Row]:
    """The rows of all WFDB headers."""
    headers = _files(folder, ".hea")
    if not headers:
        n_matlab = len(_files(folder, ".mat"))
        content = f"{n_matlab} .mat files and no {_REFERENCE}" if n_matlab else "no recording A0001 ... A6877"
        raise CohortError(f"{folder} contains {content}; give the folder that contains CPSC2018 as it was downloaded")
    rows, unlabelled = [], []
    for name, path in headers.items():
        comments = wfdb_header.comments(path.read_bytes())
        classes = [_class(code, _CLASS_OF_DX, f"{path.name}: #Dx") for code in _split_codes(comments.get("dx", ""))]
        unlabelled += [] if classes else [name]
        rows.append(_row(name, path, classes, wfdb_header.person(comments)))
    if unlabelled:
        log.warning(
            "%s: %d headers have no #Dx and are not in the task: %s",
            folder,
            len(unlabelled),
            first_few(unlabelled, most=10),
        )
    return rows


def _row(name: str, path: Path, classes: Sequence[str], extra: dict[str, float | str | None]) -> Row:
    labels = {"cpsc2018": {known: int(known in classes) for known in CPSC2018}} if classes else {}
    return Row(name, path, name, split_by_hash(name), labels=labels, extra=extra)


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Record name -> its file, by name."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"A*{suffix}"), key=lambda path: path.stem):
        if not _NAME.fullmatch(path.stem):
            continue
        if path.stem in paths:
            raise CohortError(
                f"record {path.stem} appears twice ({paths[path.stem]}, {path}); give the folder of one copy"
            )
        paths[path.stem] = path
    return paths


def _read_reference(path: Path) -> dict[str, list[str]]:
    """Record name -> its classes, from REFERENCE.csv."""
    # the table and its columns
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            lines = list(table)
            columns = [name.strip() for name in table.fieldnames or ()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path} is not a CSV table in UTF-8 ({type(error).__name__}); download it again") from None
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise CohortError(f"{path}: it has no column {first_few(missing)}; download it again")

    # one to three labels for each recording
    labels: dict[str, list[str]] = {}
    for line in lines:
        cells = {name.strip(): (cell or "").strip() for name, cell in line.items() if isinstance(cell, str)}
        record = cells.get("Recording", "")
        where = f"{path.name}: record {quoted_cell(record)}"
        if not _NAME.fullmatch(record) or record in labels:
            raise CohortError(f"{where} is not A0001 ... A6877, or appears twice; download it again")
        numbers = [cells[column] for column in _COLUMNS[1:] if cells.get(column)]
        labels[record] = [
            _class(number.removesuffix(".0"), _CLASS_OF_NUMBER, f"{where}: a label") for number in numbers
        ]
        if not labels[record]:
            raise CohortError(f"{where} has no label; download it again")
    return labels


def _class(code: str, known: dict[str, str], where: str) -> str:
    if code not in known:
        raise CohortError(
            f"{where} is {quoted_cell(code)}, which is none of the nine classes: {', '.join(known)}; correct it"
        )
    return known[code]


def _split_codes(codes: str) -> list[str]:
    return [code.strip() for code in codes.split(",") if code.strip()]
