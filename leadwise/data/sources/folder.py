"""Your own ECGs: a CSV table with one row per recording, or a folder of ECG files without a table.

The column `path` is required. It is relative to the folder of the table, or to the option `root`. `record`, `item`,
`patient`, `report`, `split`, `age`, `sex`, `leads`, `rate_hz`, `units` and labels are optional. `label.afib` is class afib
of task 'own', `label.rhythm.afib` is class afib of task 'rhythm'. Every other column is stored in the index under its
name. Without a column `split`, a hash of the patient's name assigns each patient to train (80 %), val (10 %) or test
(10 %).
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from leadwise.data import cells, ecg_files, table_file
from leadwise.data.cohort.layout import SPLITS, CohortError, inside
from leadwise.data.formats.given import check_lead_names
from leadwise.data.formats.reading import items, possible_files, suffixes
from leadwise.data.messages import first_few, quoted_cell, short_cell, short_name
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.source import FACTS, RESERVED, BadRow, Row, Source, split_by_hash
from leadwise.data.table_file import TableFile
from leadwise.data.tasks import Task

log = logging.getLogger(__name__)

TASKS: tuple[Task, ...] = ()  # the tasks are the label columns of each table

_COLUMNS = (
    *("path", "record", "item", "patient", "report", "split", "age", "sex"),
    *("leads", "rate_hz", "units"),  # of this row's file; the options apply where the cell is empty
)
_LABEL = "label."
_OWN_TASK = "own"
_CATEGORIES = ("site", "device")  # texts, even where each is a number
_SPLIT_OF = {split: split for split in SPLITS} | {"training": "train", "validation": "val", "valid": "val"}
_MOST_WORDS, _MOST_LETTERS = 6, 48  # of a column's name; a longer text may be a report


@dataclass(frozen=True)
class Options:
    """Options of `leadwise prepare folder`: facts about files that do not state them, and where the files are.

    Raises:
        RecordError: `leads` names one that is none of the twelve.
    """

    leads: tuple[str, ...] | None = field(
        default=None, metadata={"help": "lead names of the columns of .npy, .mat and .csv files, such as I,II,V1"}
    )
    rate_hz: float | None = field(default=None, metadata={"help": "sampling rate of files that do not state it"})
    units: str | None = field(default=None, metadata={"help": "unit of files that do not state it: mV, uV or V"})
    root: Path | None = field(
        default=None, metadata={"help": "folder that the paths are relative to; default: the folder of the table"}
    )

    file_facts: bool = field(
        default=False,
        metadata={
            "help": "read age, sex, device, year and report from the files where the table has none; the report is the "
            "statements of a device or a reader, without signatures, names and dates"
        },
    )

    def __post_init__(self) -> None:
        check_lead_names(self.leads, "given leads")


def read_source(folder: Path, options: Options | None = None) -> Source:
    """The recordings that a table lists, or without a table all ECG files beneath a folder. No signal is read.

    `folder` is the table, or a folder with one table. A row that cannot be used is one of the source's `bad_rows`.

    Raises:
        CohortError: the table or the root is absent, the table is not a table, a column of it cannot be used, or there
            is neither a table nor an ECG file.
    """
    folder, options = Path(folder), options or Options()
    path = _find_table(folder)
    root = options.root if options.root is not None else folder if path is None else path.parent
    if not root.is_dir():
        raise CohortError(f"there is no folder {root}; pass the folder that contains the ECG files (--root, root=)")
    if path is None:
        return _from_files(folder, root, options)
    return source_of_table(path, table_file.read(path, "path"), root, options)


# ------------------------------------------------------------------------------------------------------- one table


def source_of_table(path: Path, table: TableFile, root: Path, options: Options) -> Source:
    """The recordings of a table that was read from `path`, with files beneath `root`; no file of them is opened.

    Raises:
        CohortError: a column of the table cannot be used.
    """
    # the columns; an extra one is a number or a text for all rows
    names = _column_names(path, table)
    tasks = _tasks(path, names)
    lines = [(number, dict(zip(names, line))) for number, line in table.lines]
    extra_columns = _extra_columns(path, names, lines, table.separator != ",")

    # a row for each recording, or the reason why there is none
    notes: Counter[str] = Counter()
    rows, bad_rows = [], []
    checked_root = _Root(root)
    for at, (number, line) in enumerate(lines):
        extra = {name: values[at] for name, values in extra_columns.items()}
        try:
            _check_number_of_cells(path, number, len(names), table.lines[at][1])
            rows.append(_row(f"{path.name} row {number}", checked_root, line, tasks, options, extra, notes))
        except (CohortError, RecordError) as error:
            name = line.get("record", "").strip() or line.get("path", "").strip()
            bad_rows.append(BadRow(short_name(name) if name else f"row {number}", str(error)))

    # warn of what weakens scores or was changed
    nameless = [f"row {number}" for number, line in lines if _is_blank(line.get("patient", ""))]
    _warn_of_unknown_patients(path.name, nameless)
    _warn_of_partial_labels(path.name, rows, tasks)
    for note, n in notes.items():
        log.warning("%s: %d recordings %s", path.name, n, note)
    classes = {task: tuple(names_of.values()) for task, names_of in tasks.items()}
    return Source("folder", rows, classes, bad_rows=tuple(bad_rows))


def _is_blank(cell: str) -> bool:
    """Whether a cell has no visible character."""
    return not cell.strip()


def _row(
    where: str,
    root: _Root,
    line: Mapping[str, str],
    tasks: dict[str, dict[str, str]],
    options: Options,
    extra: dict[str, float | str | None],
    notes: Counter[str],
) -> Row:
    # the file; it must be inside the root
    place, file = _file(where, root, line["path"])

    # names and split; a record without a name is named by its path and item
    item = (
        re.sub(r"^(\d+)\.0$", r"\1", line.get("item", "").strip()) or None
    )  # pandas writes 3 as 3.0 beside empty cells
    default = str(PurePosixPath(place).with_suffix(_name_suffix(place)))
    record = line.get("record", "").strip() or (f"{default}/{item}" if item else default)
    patient = line.get("patient", "").strip() or record
    split = split_by_hash(patient, train=8)
    if "split" in line:
        split = _SPLIT_OF.get(line["split"].strip().casefold(), "")
        if not split:
            cell = quoted_cell(line["split"].strip())
            raise CohortError(f"{where}: split is {cell}; it must be one of {', '.join(SPLITS)}")

    # labels, age and sex
    labels: dict[str, dict[str, int]] = {}
    for task, classes in tasks.items():
        for column, name in classes.items():
            value = _label(where, column, line[column])
            if value is not None:
                labels.setdefault(task, {})[name] = value
    values: dict[str, float | str | None] = dict.fromkeys(FACTS) if options.file_facts else {}
    if "age" in line:
        values["age"] = _age(where, line["age"], notes)
    if "sex" in line:
        values["sex"] = _sex(line["sex"], notes)
    given = _given(where, line, options)
    return Row(
        record, file, patient, split, line.get("report", ""), labels, values | extra, *given, item=item,
        facts_from_file=options.file_facts,
    )  # fmt: skip


def _file(where: str, root: _Root, cell: str) -> tuple[str, Path]:
    """The path of a row relative to the root, with slashes between folders, and the file."""
    place = cell.strip()
    if len(place.split()) > 1 and PurePosixPath(place).suffix.lower() not in suffixes():
        raise CohortError(f"{where}: path is a text with spaces that names no file ending in {', '.join(suffixes())}")
    if "\\" in place:  # Windows
        place = place.replace("\\", "/")
    if Path(place).is_absolute():
        for base in root.spellings:
            if Path(place).is_relative_to(base):
                place = str(Path(place).relative_to(base))
                break
    if not place:
        raise CohortError(f"{where}: path is empty; name the file, or remove the row")
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise CohortError(
            f"{where}: the path {place!r} leaves {root.folder}; use paths inside the folder of the table, or inside "
            "another folder that is passed (--root, root=)"
        )
    file = root.folder / place
    for other in possible_files(file):  # a header beside it may be read instead
        if not root.contains(other):
            inside(root.folder, str(other.relative_to(root.folder)), where)  # raises the error
    return place, file


class _Root:
    """The folder that paths are relative to; links of each folder in it are resolved once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spellings = tuple(dict.fromkeys((folder, folder.absolute(), folder.resolve())))
        self._real = os.path.realpath(folder)
        self._real_parents: dict[str, str] = {}

    def contains(self, file: Path) -> bool:
        """Whether a file is inside the folder, links followed."""
        text = str(file)
        parent, name = os.path.split(text)
        if parent not in self._real_parents:
            self._real_parents[parent] = os.path.realpath(parent)
        is_link = os.path.islink(text)  # noqa: PTH114  # once for each row of a large table
        real = os.path.realpath(text) if is_link else os.path.join(self._real_parents[parent], name)  # noqa: PTH118
        return real.startswith(self._real.rstrip(os.sep) + os.sep)


def _name_suffix(place: str) -> str:
    """The part of a path's suffix that belongs to the record's name: none of it if it is the suffix of a format."""
    suffix = PurePosixPath(place).suffix
    return "" if suffix.lower() in suffixes() else suffix


def _given(
    where: str, line: Mapping[str, str], options: Options
) -> tuple[tuple[str, ...] | None, float | None, str | None]:
    """Leads, rate and unit of a row's file: from its cells, and from the options where these are empty."""
    leads, rate_hz, units = options.leads, options.rate_hz, options.units
    if not cells.is_empty(line.get("leads", "")):
        leads = tuple(name for name in re.split(r"[\s,;|]+", line["leads"].strip()) if name)
        if any(short_cell(name) != name for name in leads):
            raise CohortError(f"{where}: leads contains a longer text; write lead names such as I II V1")
        check_lead_names(leads, where)
    if not cells.is_empty(line.get("rate_hz", "")):
        cell = line["rate_hz"]
        try:
            rate_hz = cells.number(cell.casefold().removesuffix("hz"), decimal_comma=True)
        except ValueError:
            rate_hz = 0.0
        if rate_hz <= 0:
            raise CohortError(f"{where}: rate_hz is {quoted_cell(cell.strip())}; it must be a number of Hz or empty")
    if not cells.is_empty(line.get("units", "")):
        units = line["units"].strip()
        if short_cell(units) != units:
            raise CohortError(f"{where}: units is a longer text; it must be mV, uV, V or empty")
    return leads, rate_hz, units


def _label(where: str, column: str, cell: str) -> int | None:
    try:
        return cells.label(cell)
    except ValueError:
        name = short_cell(column, 64)
        raise CohortError(f"{where}: {name} is {quoted_cell(cell.strip())}; a label is 0, 1 or empty") from None


def _age(where: str, cell: str, notes: Counter[str]) -> float | None:
    try:
        years, is_above = cells.age(cell)
    except ValueError:
        raise CohortError(
            f"{where}: age is {quoted_cell(cell.strip())}; it must be years (0 to 150) or empty"
        ) from None
    if is_above:
        notes[f"have an age above 89 without its number; it is stored as {cells.OLDEST:g}"] += 1
    return years


def _sex(cell: str, notes: Counter[str]) -> str | None:
    sex, is_code = cells.sex(cell)
    if is_code:
        notes["have a number as sex, which may mean either; it is stored as unknown: write male or female"] += 1
    return sex


def _check_number_of_cells(path: Path, number: int, n_columns: int, line: tuple[str, ...]) -> None:
    """Check that a line has a cell for each column; empty cells behind the last column are those of a spreadsheet."""
    if len(line) < n_columns or any(not _is_blank(cell) for cell in line[n_columns:]):
        raise CohortError(
            f"{path.name} row {number}: {len(line)} cells under {n_columns} columns; quote cells that contain the separator"
        )


def _warn_of_unknown_patients(name: str, recordings: list[str]) -> None:
    if recordings:
        log.warning(
            "%s: %d recordings name no patient (%s); each counts as a patient of its own, so a person may be in two splits",
            name,
            len(recordings),
            first_few(recordings),
        )


def _warn_of_partial_labels(name: str, rows: list[Row], tasks: dict[str, dict[str, str]]) -> None:
    for task, classes in tasks.items():
        n_partial = sum(0 < len(row.labels.get(task, ())) < len(classes) for row in rows)
        if n_partial:
            log.warning(
                "%s: %d recordings have some labels of task %s and not others; they are left out of that task",
                name,
                n_partial,
                task,
            )


# --------------------------------------------------------------------------------------------------------- columns


def _column_names(path: Path, table: TableFile) -> list[str]:
    """The names of the columns; those that this source knows in lower case.

    Raises:
        CohortError: the first line is no header, a name is absent or appears twice, or there is no column `path`.
    """
    if any(len(name.split()) > _MOST_WORDS or len(name) > _MOST_LETTERS for name in table.header):
        raise CohortError(
            f"{path}: its first row contains a longer text; it must be the column names, such as path, report"
        )
    names = []
    for number, name in enumerate(table.header, start=1):
        lower = name.casefold()
        if not name:
            raise CohortError(f"{path}: column {number} has no name in the first row; name or remove it")
        known = lower in _COLUMNS
        names.append(lower if known else _LABEL + name[len(_LABEL) :] if lower.startswith(_LABEL) else name)
    doubled = [name for name, n in Counter(names).items() if n > 1]
    if doubled:
        raise CohortError(f"{path}: column {short_name(doubled[0])!r} appears twice; remove one")
    if "path" not in names:
        near = [name for name in names if name.casefold() in _PATH_SYNONYMS or _resembles(name, ["path"])]
        advice = f"rename {near[0]!r} to path" if near else "add it, or move other tables out of a folder of ECG files"
        raise CohortError(f"{path}: it has no column 'path', which names the file of each recording; {advice}")
    return names


_PATH_SYNONYMS = frozenset(
    ("file", "files", "filename", "file_name", "filepath", "file_path", "ecg_path", "filename_hr", "filename_lr")
)


def _resembles(name: str, known: list[str]) -> str:
    """The known name that differs by a letter or two; '' if there is none."""
    return next(iter(difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.8)), "")


_MOST_TITLE_WORDS = 3


def _extra_columns(
    path: Path, names: list[str], lines: list[tuple[int, dict[str, str]]], decimal_comma: bool
) -> dict[str, list[float | None] | list[str | None]]:
    """Index column -> its values, for the columns that this source does not know."""
    absent = [name for name in _COLUMNS if name not in names]
    extra = {}
    for name in names:
        if name in _COLUMNS or name.startswith(_LABEL):
            continue
        is_title = len(name.split()) <= _MOST_TITLE_WORDS  # more words may be a report, if the table has no titles
        near = is_title and _resembles(name, [*absent, _LABEL + re.sub(r"^labels?[._]?", "", name.casefold())])
        if near:
            log.warning("%s: column %r is stored as an extra column; if it is %r, rename it", path.name, name, near)
        target = name
        if name in RESERVED:
            target = f"table.{name}"
            log.warning("%s: column %r is stored as %r; the index has a column of its own", path.name, name, target)
        values = [line.get(name, "") for _, line in lines]
        extra[target] = cells.texts(values) if name.casefold() in _CATEGORIES else cells.column(values, decimal_comma)
    return extra


def _tasks(path: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """Task -> column -> class, in the order of the columns."""
    tasks: dict[str, dict[str, str]] = {}
    for column in names:
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


# ------------------------------------------------------------------------------------------------- without a table


def _find_table(path: Path) -> Path | None:
    """The table itself, or the only one in a folder; None for a folder that has ECG files only.

    A table has a column `path`. Any other CSV file may be an ECG, or a table whose column names are wrong.
    """
    if not path.is_dir():
        if not path.is_file():
            raise CohortError(f"no table at {path}; give a CSV with a column path, or the folder that contains it")
        if ecg_files.is_ecg(path):
            raise CohortError(f"{path} is an ECG file and no table; pass its folder, or a table with the column path")
        return path
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in table_file.SUFFIXES and file.is_file())
    tables = [file for file in files if "path" in map(str.casefold, table_file.header_of(file, "path"))]
    candidates = tables or [file for file in files if not ecg_files.is_ecg(file)]
    if len(candidates) > 1:
        names = first_few(table.name for table in candidates)
        raise CohortError(f"{path} contains {len(candidates)} CSV files ({names}); name the table itself")
    return candidates[0] if candidates else None


def _from_files(folder: Path, root: Path, options: Options) -> Source:
    """A row for each recording in the ECG files beneath `folder`; patients are not known."""
    files = ecg_files.beneath(folder)
    if not files.paths:
        raise CohortError(
            f"{folder} contains no table and no ECG file that can be read ({files.left_out or 'it has no files'}; formats: "
            f"{', '.join(suffixes())}); name the table itself, or another folder"
        )
    rows, bad_rows = [], []
    checked_root = _Root(root)
    for file in files.paths:
        name = file.relative_to(folder).as_posix()
        try:
            if not checked_root.contains(file):
                raise CohortError(
                    f"{name} is a link that leads out of {root}; pass a folder that contains its target (--root, root=)"
                )
            records: dict[str, str | None] = {f"{name}/{item}": item for item in items(file)}
        except (CohortError, RecordError) as error:
            bad_rows.append(BadRow(short_name(name), str(error)))
            continue
        for record, item in (records or {name: None}).items():
            split = split_by_hash(record, train=8)
            given = (options.leads, options.rate_hz, options.units)
            facts: dict[str, float | str | None] = dict.fromkeys(FACTS) if options.file_facts else {}
            rows.append(
                Row(record, file, record, split, "", {}, facts, *given, item=item, facts_from_file=options.file_facts)
            )
    log.info("%s: no table; %d ECG files", folder, len(files.paths))
    if files.left_out:
        log.warning("%s: %s", folder, files.left_out)
    _warn_of_unknown_patients(str(folder), [short_name(row.record) for row in rows])
    return Source("folder", rows, bad_rows=tuple(bad_rows))
