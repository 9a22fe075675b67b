"""Your own data: a CSV table beside the recordings -> rows.

One line per recording. `path` (relative to the table) is all it must have; `record`, `patient`, `report`, `split`,
`age`, `sex` and labels are welcome. `label.afib` is class afib of task 'own', `label.rhythm.afib` class afib of task
'rhythm'; a label is 0, 1, or empty where it is not known. Without a `split` column, patients are dealt out 80/10/10
by their name.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from leadwise.data.cohort.layout import SPLITS, CohortError, inside
from leadwise.data.formats.reading import check_told_leads
from leadwise.data.messages import first_few, quoted_cell, short_cell
from leadwise.data.sources.source import Row, Source

log = logging.getLogger(__name__)

_COLUMNS = ("path", "record", "patient", "report", "split", "age", "sex")
_KINDS = (".hea", ".dat", ".mat", ".npy", ".csv")
_LABEL = "label."
_OWN_TASK = "own"


def read_source(
    manifest: Path, leads: Sequence[str] | None = None, rate_hz: float | None = None, units: str | None = None
) -> Source:
    """The recordings that a CSV table lists, or the one CSV table in a folder; no recording is opened.

    `leads`, `rate_hz` and `units` are said for files that do not state them: `.npy` and `.csv`.

    Raises:
        CohortError: the table is absent or not a table, or a column or cell of it cannot be used.
        RecordError: `leads` names one that is none of the twelve.
    """
    check_told_leads(leads, "told leads")
    path = _manifest(Path(manifest))
    header, lines = _lines(path)
    tasks = _tasks(path, header)
    told = (tuple(leads) if leads is not None else None, rate_hz, units)
    rows = [_row(path, number, line, tasks, told) for number, line in lines]
    n_nameless = sum(not line.get("patient", "").strip() for _, line in lines)
    if n_nameless:
        log.warning(
            "%s: %d recordings name no patient; each counts as a person of its own, so a person may stand in two splits",
            path.name,
            n_nameless,
        )
    for task, classes in tasks.items():
        n_partial = sum(0 < len(row.labels.get(task, ())) < len(classes) for row in rows)
        if n_partial:
            log.warning(
                "%s: %d recordings have some labels of task %s and not others; they are left out of that task",
                path.name,
                n_partial,
                task,
            )
    return Source("folder", rows, {task: tuple(classes.values()) for task, classes in tasks.items()})


Told = tuple[tuple[str, ...] | None, float | None, str | None]  # leads, rate, units


def _row(path: Path, number: int, line: dict[str, str], tasks: dict[str, dict[str, str]], told: Told) -> Row:
    where = f"{path.name} row {number}"
    place = line["path"].strip()
    if len(place.split()) > 1 and PurePosixPath(place).suffix.lower() not in _KINDS:
        raise CohortError(f"{where}: path is a text with spaces that names no file ending in {', '.join(_KINDS)}")
    file = inside(path.parent, place, where)
    inside(path.parent, f"{place}.hea", where)  # the file that a WFDB name without suffix means
    record = line.get("record", "").strip() or str(PurePosixPath(place).with_suffix(_without(place)))
    patient = line.get("patient", "").strip() or record
    split = line["split"].strip() if "split" in line else _dealt(patient)
    if split not in SPLITS:
        raise CohortError(f"{where}: split is {quoted_cell(split)}; it takes {', '.join(SPLITS)}")
    labels: dict[str, dict[str, int]] = {}
    for task, classes in tasks.items():
        for column, name in classes.items():
            value = _label(where, column, line[column].strip())
            if value is not None:
                labels.setdefault(task, {})[name] = value
    extra: dict[str, float | str | None] = {}
    if "age" in line:
        extra["age"] = _age(where, line["age"].strip())
    if "sex" in line:
        extra["sex"] = line["sex"].strip() or None
    return Row(record, file, patient, split, line.get("report", ""), labels, extra, *told)


def _without(place: str) -> str:
    """What stays of a path's suffix in a record name: all of it, unless it tells the kind of file."""
    suffix = PurePosixPath(place).suffix
    return "" if suffix.lower() in _KINDS else suffix


def _label(where: str, column: str, cell: str) -> int | None:
    known = {"": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
    if cell not in known:
        raise CohortError(f"{where}: {short_cell(column, 64)} is {quoted_cell(cell)}; a label is 0, 1 or empty")
    return known[cell]


def _age(where: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        age = float(cell)
    except ValueError:
        age = -1.0
    if not 0 <= age <= 150:
        raise CohortError(f"{where}: age is {quoted_cell(cell)}; it takes years or an empty cell")
    return age


def _dealt(patient: str) -> str:
    """A patient's split, from the name alone: it stays the same when others join."""
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8]) % 10
    return "train" if place < 8 else "val" if place == 8 else "test"


def _tasks(path: Path, header: list[str]) -> dict[str, dict[str, str]]:
    """Task -> column -> class, in the order of the columns."""
    tasks: dict[str, dict[str, str]] = {}
    for column in header:
        if not column.startswith(_LABEL):
            continue
        task, dot, name = column[len(_LABEL) :].partition(".")
        if not dot:
            task, name = _OWN_TASK, task
        if not task or not name:
            raise CohortError(f"{path}: column {column!r} names no class; write label.CLASS or label.TASK.CLASS")
        if name in tasks.setdefault(task, {}).values():
            raise CohortError(f"{path}: class {name!r} of task {task} has two columns; keep one")
        tasks[task][column] = name
    return tasks


def _manifest(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise CohortError(f"no table at {path}; give a CSV with a column path, or the folder that holds it")
        return path
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv")
    if len(tables) != 1:
        found = f"{len(tables)} CSV files ({first_few(table.name for table in tables)})" if tables else "no CSV file"
        raise CohortError(f"{path} holds {found}; name the table itself")
    return tables[0]


def _lines(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The column names, and each line with its row number as an editor counts it."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.reader(file, strict=True)
            header = [name.strip() for name in next(table, [])]
            lines = [(table.line_num, cells) for cells in table if cells]
    except UnicodeDecodeError:
        raise CohortError(f"{path} is not text in UTF-8; save it as 'CSV UTF-8'") from None
    except csv.Error as error:
        raise CohortError(f"{path} is not a CSV table ({error}); save it again") from None
    _check_header(path, header)
    for number, cells in lines:
        if len(cells) != len(header):
            raise CohortError(
                f"{path.name} row {number}: {len(cells)} cells under {len(header)} columns; quote cells with commas"
            )
    return header, [(number, dict(zip(header, cells))) for number, cells in lines]


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name not in _COLUMNS and not name.startswith(_LABEL):
            if short_cell(name, 24) != name:
                raise CohortError(
                    f"{path}: its first row holds a longer text; it names the columns, such as path, report"
                )
            near = difflib.get_close_matches(name, [*_COLUMNS, _LABEL + name], n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(_COLUMNS)} and label.*"
            raise CohortError(f"{path}: unknown column {name!r}; {advice}")
        if header.count(name) > 1:
            raise CohortError(f"{path}: column {name!r} stands there twice; keep one")
    if "path" not in header:
        raise CohortError(f"{path}: it has no column 'path', which names the file of each recording")
