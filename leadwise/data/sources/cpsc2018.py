"""CPSC2018, its 6,877 public recordings: a folder in either of its two forms -> rows, labelled with up to three of nine classes.

The challenge's own form is `A0001.mat ...` (the struct `ECG`) and `REFERENCE.csv` with the classes as 1 ... 9; of that,
`.mat` files are opened for age and sex. The form of PhysioNet/CinC is `A0001.hea` and `.mat`, in one folder or in g1 ...
g7, with `#Dx` as SNOMED CT codes or, in its first release, as names. No patients are known: each recording counts as a
person of its own, and its name alone deals it to train (70 %), val (10 %) or test (20 %).
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from leadwise.batch import LEADS
from leadwise.data.cohort.layout import CohortError
from leadwise.data.formats import mat_struct, wfdb_header
from leadwise.data.messages import first_few, quoted_cell
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.source import Row, Source, dealt
from leadwise.data.tasks import CPSC2018, CPSC2018_SNOMED, classes_of

log = logging.getLogger(__name__)

_NAME = re.compile(r"A\d{4}")
_REFERENCE = "REFERENCE.csv"
_COLUMNS = ("Recording", "First_label", "Second_label", "Third_label")
_RATE_HZ, _UNITS = 500.0, "mV"  # of the challenge's own files, which do not say so themselves
_CLASS_OF_NUMBER = {str(number): name for number, name in enumerate(CPSC2018, start=1)}
_CLASS_OF_NAME = dict(
    zip(("Normal", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE"), CPSC2018)
)  # the first release of the CinC form
_CLASS_OF_DX = {code: name for name, code in CPSC2018_SNOMED.items()} | _CLASS_OF_NAME


def read_source(folder: Path) -> Source:
    """CPSC2018 in `folder` and the folders in it as rows, by record name.

    Where there is a `REFERENCE.csv`, it says the labels and which recordings there are; else the headers do.

    Raises:
        CohortError: no recording is found, one is found twice, or a table or a header gives a class that is none of
            the nine.
    """
    folder = Path(folder)
    references = sorted(folder.rglob(_REFERENCE))
    if len(references) > 1:
        raise CohortError(
            f"{folder} holds {len(references)} tables {_REFERENCE} ({first_few(map(str, references))}); give the folder of one"
        )
    rows = _by_reference(folder, references[0]) if references else _by_headers(folder)
    return Source("cpsc2018", rows, classes_of("cpsc2018"))


def _by_reference(folder: Path, reference: Path) -> list[Row]:
    labels = _reference(reference)
    found = _files(folder, ".mat")
    unlisted = [name for name in found if name not in labels]
    if unlisted:
        log.warning(
            "%s lists not %d of the recordings, which are left out: %s", reference, len(unlisted), first_few(unlisted)
        )
    log.info("%s: age and sex are read from %d files", folder, len(found))
    return [
        _original(name, found.get(name, reference.parent / f"{name}.mat"), classes) for name, classes in labels.items()
    ]


def _original(name: str, path: Path, classes: Sequence[str]) -> Row:
    header = path.with_suffix(".hea")
    if header.is_file():  # converted to WFDB, with the challenge's own table beside
        said = wfdb_header.person(wfdb_header.comments(header.read_bytes()))
        return _row(name, header, classes, said)
    age, sex = "", ""
    try:
        held = mat_struct.struct(path)
        age, sex = held.age, held.sex
    except RecordError:
        pass  # preparation opens the file again, and says what is wrong with it
    row = _row(name, path, classes, wfdb_header.person({"age": age, "sex": sex}))
    return replace(row, leads=LEADS, rate_hz=_RATE_HZ, units=_UNITS)


def _by_headers(folder: Path) -> list[Row]:
    found = _files(folder, ".hea")
    if not found:
        n_matlab = len(_files(folder, ".mat"))
        what = f"{n_matlab} .mat files and no {_REFERENCE}" if n_matlab else "no recording A0001 ... A6877"
        raise CohortError(f"{folder} holds {what}; give the folder that holds CPSC2018 as it was downloaded")
    rows, silent = [], []
    for name, path in found.items():
        said = wfdb_header.comments(path.read_bytes())
        classes = [_class(code, _CLASS_OF_DX, f"{path.name}: #Dx") for code in _split(said.get("dx", ""))]
        silent += [] if classes else [name]
        rows.append(_row(name, path, classes, wfdb_header.person(said)))
    if silent:
        log.warning(
            "%s: %d headers say no #Dx and are not in the task: %s", folder, len(silent), first_few(silent, most=10)
        )
    return rows


def _row(name: str, path: Path, classes: Sequence[str], extra: dict[str, float | str | None]) -> Row:
    labels = {"cpsc2018": {known: int(known in classes) for known in CPSC2018}} if classes else {}
    return Row(name, path, name, dealt(name), labels=labels, extra=extra)


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """Record name -> its file, by name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"A*{suffix}"), key=lambda path: path.stem):
        if not _NAME.fullmatch(path.stem):
            continue
        if path.stem in found:
            raise CohortError(f"record {path.stem} is there twice ({found[path.stem]}, {path}); give the folder of one")
        found[path.stem] = path
    return found


def _reference(path: Path) -> dict[str, list[str]]:
    """Record name -> its classes, from REFERENCE.csv."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            lines = list(table)
            columns = [name.strip() for name in table.fieldnames or ()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path} is not a CSV table in UTF-8 ({type(error).__name__}); fetch it again") from None
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise CohortError(f"{path}: it has no column {first_few(missing)}; fetch it again")
    labels: dict[str, list[str]] = {}
    for line in lines:
        cells = {name.strip(): (cell or "").strip() for name, cell in line.items() if isinstance(cell, str)}
        record = cells.get("Recording", "")
        where = f"{path.name}: record {quoted_cell(record)}"
        if not _NAME.fullmatch(record) or record in labels:
            raise CohortError(f"{where} is not A0001 ... A6877, or stands there twice; fetch it again")
        numbers = [cells[column] for column in _COLUMNS[1:] if cells.get(column)]
        labels[record] = [_class(number.removesuffix(".0"), _CLASS_OF_NUMBER, where) for number in numbers]
        if not labels[record]:
            raise CohortError(f"{where} has no label; fetch it again")
    return labels


def _class(code: str, known: dict[str, str], where: str) -> str:
    if code not in known:
        raise CohortError(f"{where} says {quoted_cell(code)}, which is none of the nine classes: {', '.join(known)}")
    return known[code]


def _split(codes: str) -> list[str]:
    return [code.strip() for code in codes.split(",") if code.strip()]
