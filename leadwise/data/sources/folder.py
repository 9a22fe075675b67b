"""Your own ECGs: a CSV table beside the recordings, with one row per recording.

The column `path` (relative to the table) is required; `record`, `patient`, `report`, `split`, `age`, `sex` and labels are
optional. `label.afib` is class afib of task 'own', `label.rhythm.afib` is class afib of task 'rhythm'. A label is 0, 1, or
empty if it is not known. Without a column `split`, a hash of the patient's name assigns each patient to train (80 %), val
(10 %) or test (10 %).
"""

from __future__ import annotations

import csv
import difflib
import logging
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from leadwise.data.cohort.layout import SPLITS, CohortError, inside
from leadwise.data.formats.given import check_lead_names
from leadwise.data.formats.reading import possible_files, suffixes
from leadwise.data.messages import first_few, quoted_cell, short_cell
from leadwise.data.sources.source import Row, Source, split_by_hash
from leadwise.data.tasks import Task

log = logging.getLogger(__name__)

TASKS: tuple[Task, ...] = ()  # the tasks are the label columns of each table

_COLUMNS = ("path", "record", "patient", "report", "split", "age", "sex")
_LABEL = "label."
_OWN_TASK = "own"


@dataclass(frozen=True)
class Options:
    """Options of `leadwise prepare folder`: facts about files that do not state them.

    Raises:
        RecordError: `leads` names one that is none of the twelve.
    """

    leads: tuple[str, ...] | None = field(
        default=None, metadata={"help": "lead names of the columns of .npy, .mat and .csv files, such as I,II,V1"}
    )
    rate_hz: float | None = field(default=None, metadata={"help": "sampling rate of files that do not state it"})
    units: str | None = field(default=None, metadata={"help": "unit of files that do not state it: mV, uV or V"})

    def __post_init__(self) -> None:
        check_lead_names(self.leads, "given leads")


def read_source(folder: Path, options: Options | None = None) -> Source:
    """The recordings that a CSV table lists; `folder` is the table, or a folder with one table. No recording is opened.

    Raises:
        CohortError: the table is absent or is not a table, or a column or cell of it cannot be used.
    """
    # a row for each recording
    path = _find_table(Path(folder))
    header, lines = _read_lines(path)
    tasks = _tasks(path, header)
    rows = [_row(path, number, line, tasks, options or Options()) for number, line in lines]

    # warn of what weakens scores: unknown patients and partly known labels
    n_nameless = sum(not line.get("patient", "").strip() for _, line in lines)
    if n_nameless:
        log.warning(
            "%s: %d recordings name no patient; each counts as a patient of its own, so a person may be in two splits",
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


def _row(path: Path, number: int, line: dict[str, str], tasks: dict[str, dict[str, str]], options: Options) -> Row:
    # the file; it must be inside the folder of the table
    where = f"{path.name} row {number}"
    place = line["path"].strip()
    if len(place.split()) > 1 and PurePosixPath(place).suffix.lower() not in suffixes():
        raise CohortError(f"{where}: path is a text with spaces that names no file ending in {', '.join(suffixes())}")
    file = inside(path.parent, place, where)
    for other in possible_files(file):  # a header beside it may be read instead
        if other != file:
            inside(path.parent, str(other.relative_to(path.parent)), where)

    # names and split; a record without a name is named by its path
    record = line.get("record", "").strip() or str(PurePosixPath(place).with_suffix(_name_suffix(place)))
    patient = line.get("patient", "").strip() or record
    split = line["split"].strip() if "split" in line else split_by_hash(patient, train=8)
    if split not in SPLITS:
        raise CohortError(f"{where}: split is {quoted_cell(split)}; it must be one of {', '.join(SPLITS)}")

    # labels, age and sex
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
    given = (options.leads, options.rate_hz, options.units)
    return Row(record, file, patient, split, line.get("report", ""), labels, extra, *given)


def _name_suffix(place: str) -> str:
    """The part of a path's suffix that belongs to the record's name: none of it if it is the suffix of a format."""
    suffix = PurePosixPath(place).suffix
    return "" if suffix.lower() in suffixes() else suffix


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
        raise CohortError(f"{where}: age is {quoted_cell(cell)}; it must be years (0 to 150) or empty")
    return age


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
            raise CohortError(f"{path}: class {name!r} of task {task} has two columns; remove one")
        tasks[task][column] = name
    return tasks


def _find_table(path: Path) -> Path:
    """The table itself, or the only CSV file in a folder."""
    if not path.is_dir():
        if not path.is_file():
            raise CohortError(f"no table at {path}; give a CSV with a column path, or the folder that contains it")
        return path
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv")
    if len(tables) != 1:
        content = f"{len(tables)} CSV files ({first_few(table.name for table in tables)})" if tables else "no CSV file"
        raise CohortError(f"{path} contains {content}; name the table itself")
    return tables[0]


def _read_lines(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The column names, and each line with its row number as a text editor counts it."""
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
                    f"{path}: its first row contains a longer text; it must be the column names, such as path, report"
                )
            near = difflib.get_close_matches(name, [*_COLUMNS, _LABEL + name], n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_COLUMNS)} and label.*"
            raise CohortError(f"{path}: unknown column {name!r}; {advice}")
        if header.count(name) > 1:
            raise CohortError(f"{path}: column {name!r} appears twice; remove one")
    if "path" not in header:
        raise CohortError(f"{path}: it has no column 'path', which names the file of each recording; add it")
