"""ECGs with images of the heart: a table `subjects.csv` with one row per ECG, and heart images at the ends of filling and
contraction.

    record, patient, split, report, age, sex, leads, rate_hz, units, label.TASK.CLASS   as in the source `folder`
    ecg                    path of the ECG; required
    ed, es                 paths of the heart images: .npz, NIfTI (.nii, .nii.gz), or the folder of a DICOM short-axis series
    cine                   path of all frames of a heartbeat, of which ED and ES are chosen (option `es`)
    ed_mask, es_mask, cine_mask    paths of segmentations: 1 LV blood, 2 myocardium, 3 RV blood (option `mask_labels`)
    ed_frame, es_frame     numbers of the frames of the cine, from 0
    scar, ...              path of each further phase that the option `phases` names; "scar" may be an array of the .npz of ED
    target.NAME            a phenotype, such as target.lvef; stored as the column NAME

An empty cell means that the recording has no such image: it is retained and marked. `bounds.json` beside the table is
optional: phenotype -> highest R² that is possible from the ECG. `leadwise simulate --paired` writes such a folder.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leadwise.batch import Volume
from leadwise.data import cells, table_file
from leadwise.data.cohort.layout import CohortError, inside
from leadwise.data.messages import quoted_cell, short_name
from leadwise.data.sources import folder as table_source
from leadwise.data.sources.source import BadRow, Row, Source
from leadwise.data.table_file import TableFile
from leadwise.data.tasks import Task
from leadwise.data.volumes.heart_image import VolumeError
from leadwise.data.volumes.read_image import read_image
from leadwise.data.volumes.volume_file import HALF, LARGEST, SMALLEST, VolumeFile

log = logging.getLogger(__name__)

TASKS: tuple[Task, ...] = ()  # the tasks are the label columns of each table

_TABLE = "subjects.csv"
_TARGET = "target."
_LINE = "table.line"  # extra column while the rows are made: which line a row is from
_FROM_FILE = "file"  # of the option `shape`


@dataclass(frozen=True)
class Options(table_source.Options):
    """Options of `leadwise prepare ecg_cmr`: how ED and ES are chosen, and the shape in which images are stored.

    Raises:
        CohortError: a value cannot be used.
    """

    es: Literal["min", "half", "named"] = field(
        default="min",
        metadata={
            "help": "frame of a cine that is ES: min, the least LV blood by the masks, else es_frame; half, the middle frame; "
            "named, es_frame"
        },
    )
    phases: tuple[str, ...] = field(
        default=("ed", "es"), metadata={"help": "phases that are stored, such as ed,es,scar"}
    )
    shape: str = field(
        default="6x46x42", metadata={"help": "slices x rows x columns that are stored; file: those of the first image"}
    )
    spacing_mm: tuple[float, ...] = field(
        default=(10.0, 3.66, 3.66), metadata={"help": "mm between stored slices, rows and columns"}
    )
    mask_labels: tuple[int, ...] = field(
        default=(1, 2, 3), metadata={"help": "the masks' numbers of LV blood, myocardium and RV blood"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mask_labels) != 3 or len({*self.mask_labels, 0}) != 4:
            raise CohortError(f"mask_labels = {list(self.mask_labels)}: must be three different numbers that are not 0")
        if self.shape != _FROM_FILE:
            self.geometry()

    @property
    def labels(self) -> tuple[int, int, int]:
        """The masks' numbers of LV blood, myocardium and RV blood."""
        blood, muscle, right = self.mask_labels
        return blood, muscle, right

    def geometry(self) -> Volume:
        """The heart images that are stored, by `shape` and `spacing_mm`.

        Raises:
            CohortError: the shape is no three numbers, or a value is out of range.
        """
        numbers = self.shape.casefold().split("x")
        if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers) or len(self.spacing_mm) != 3:
            raise CohortError(
                f"shape = {self.shape!r} with spacing_mm = {list(self.spacing_mm)}: give slices x rows x columns such as "
                "6x46x42, and three distances such as 10,3.66,3.66"
            )
        slices, rows, columns = map(int, numbers)
        depth, row, column = self.spacing_mm
        try:
            return Volume(self.phases, slices, rows, columns, (depth, row, column))
        except ValueError as error:
            raise CohortError(str(error)) from None


def read_source(folder: Path, options: Options | None = None) -> Source:
    """The recordings and heart images that a table lists; `folder` is the table, or the folder of `subjects.csv`.

    No file is opened, apart from the first heart image for `shape=file`.

    Raises:
        CohortError: the table or the root is absent, a column of the table cannot be used, or no row has a heart image.
    """
    # the table, with the columns of the source `folder` alone
    options = options or Options()
    path = Path(folder) / _TABLE if Path(folder).is_dir() else Path(folder)
    if not path.is_file():
        raise CohortError(f"there is no table {path}; give it, or a folder that contains {_TABLE}")
    root = path.parent if options.root is None else options.root
    if not root.is_dir():
        raise CohortError(f"there is no folder {root}; pass the folder that contains the files (--root, root=)")
    table = table_file.read(path, "ecg")
    header = [name.casefold() if name.casefold() in _image_columns(options) else name for name in table.header]
    lines = [dict(zip(header, line)) for _, line in table.lines]
    targets = _targets(path, table, header)
    ecgs = table_source.source_of_table(path, _ecg_table(path, table, header, options, targets), root, options)

    # each row with its images, or the reason why it cannot be used
    counts: Counter[str] = Counter()
    rows, bad_rows = [], list(ecgs.bad_rows)
    for row in ecgs.rows:
        line = lines[int(row.extra[_LINE] or 0)]
        where = f"{path.name} row {table.lines[int(row.extra[_LINE] or 0)][0]}"
        try:
            files = _files(where, line, root, options, counts)
        except CohortError as error:
            bad_rows.append(BadRow(short_name(row.record), str(error)))
            continue
        counts.update(list(files))
        extra = {name: value for name, value in row.extra.items() if name != _LINE}
        rows.append(dataclasses.replace(row, extra=extra, volumes=files))
    if rows and not any(counts[phase] for phase in options.phases):
        raise CohortError(
            f"{path}: none of its {len(rows)} rows names a heart image; fill the columns {', '.join(options.phases)} or cine, "
            "or prepare the ECGs alone with `leadwise prepare folder`"
        )
    for phase in options.phases:
        log.info("%s: %d of %d recordings have a heart image of phase %s", path.name, counts[phase], len(rows), phase)
    if counts["first"]:
        log.warning("%s: %d cines name no ED frame and have no mask; frame 0 is used", path.name, counts["first"])
    volume = options.geometry() if options.shape != _FROM_FILE else _first_geometry(rows, options)
    return dataclasses.replace(
        ecgs, name="ecg_cmr", rows=rows, bad_rows=tuple(bad_rows), volume=volume, targets=tuple(targets),
        bounds=_bounds(path.with_name("bounds.json"), targets),
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- the table


def _image_columns(options: Options) -> tuple[str, ...]:
    """The columns about heart images."""
    phases = dict.fromkeys((*options.phases, "ed", "es", "half", "scar", "cine"))
    return (*phases, *(f"{phase}_mask" for phase in phases), "ed_frame", "es_frame")


def _ecg_table(path: Path, table: TableFile, header: list[str], options: Options, targets: dict[str, str]) -> TableFile:
    """The table as the source `folder` reads it: without images, phenotypes under their names, and a column of lines.

    Raises:
        CohortError: there is no column `ecg`, or a phenotype has the name of another column.
    """
    if "ecg" not in map(str.casefold, header):
        raise CohortError(
            f"{path}: it has no column 'ecg', only {', '.join(header[:12])}; name the column of ECG files ecg"
        )
    images, named = _image_columns(options), {column: name for name, column in targets.items()}
    columns = [number for number, name in enumerate(header) if name not in images]
    names = [
        "path" if header[number].casefold() == "ecg" else named.get(header[number], header[number])
        for number in columns
    ]
    for name in targets:
        if names.count(name) > 1:
            raise CohortError(f"{path}: the column {_TARGET}{name} has the name of another column, {name}; remove one")
    lines = []
    for line, (number, values) in enumerate(table.lines):
        # a line with too few or too many cells has as many here: the source reports it
        shared = tuple(values[column] for column in columns if column < len(values))
        lines.append((number, (str(line), *shared, *values[len(header) :])))
    return TableFile((_LINE, *names), tuple(lines), table.separator)


def _targets(path: Path, table: TableFile, header: list[str]) -> dict[str, str]:
    """Phenotype -> its column; every cell is a number or empty.

    Raises:
        CohortError: a cell is no number.
    """
    targets = {}
    for place, column in enumerate(header):
        if not column.casefold().startswith(_TARGET):
            continue
        name = column[len(_TARGET) :]
        if not name or name in targets:
            raise CohortError(f"{path}: the column {column!r} must be named {_TARGET}NAME, each name once")
        targets[name] = column
        for number, line in table.lines:
            cell = line[place] if place < len(line) else ""
            try:
                if not cells.is_empty(cell):
                    cells.number(cell, table.separator != ",")
            except ValueError:
                raise CohortError(
                    f"{path.name} row {number}: {column} is {quoted_cell(cell.strip())}; it must be a number or empty"
                ) from None
    return targets


def _bounds(path: Path, targets: dict[str, str]) -> dict[str, float]:
    """The bounds of the table's phenotypes from `bounds.json`; {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(stated[name]) for name in targets if name in stated}
    except (ValueError, TypeError, AttributeError) as error:
        raise CohortError(f"{path}: it must hold a number for each phenotype ({error}); correct or remove it") from None


# ------------------------------------------------------------------------------------------------------- the images


def _files(
    where: str, line: dict[str, str], root: Path, options: Options, counts: Counter[str]
) -> dict[str, VolumeFile]:
    """The heart image of each phase that a line of the table has.

    Raises:
        CohortError: a path leaves the root, a frame is no number, or the frame of a cine cannot be chosen.
    """

    def path_of(column: str) -> Path | None:
        return _path(where, root, line.get(column, ""))

    files = {}
    for phase in options.phases:
        column = "half" if phase == "es" and options.es == "half" and line.get("half", "").strip() else phase
        path, mask, item = path_of(column), path_of(f"{column}_mask"), None
        if path is None and phase == "scar" and line.get("ed", "").strip().lower().endswith(".npz"):
            path, item = path_of("ed"), "scar"
        elif phase in ("ed", "es") and (path is None or (phase == "es" and options.es == "half" and column == "es")):
            cine = path_of("cine")
            if cine is None and path is not None:
                raise CohortError(
                    f"{where}: es=half needs a cine, or an image of that moment in a column half; use es=min"
                )
            if cine is not None:
                path, mask = cine, path_of("cine_mask")
                item = _frame(where, phase, line, options, mask is not None or cine.suffix.lower() == ".npz", counts)
        if path is not None:
            named = _named_frame(where, phase, line) or ("0" if phase == "ed" else "")
            otherwise = named if item in (LARGEST, SMALLEST) and named else None
            files[phase] = VolumeFile(path, item, otherwise, mask, options.labels)
    return files


def _frame(
    where: str, phase: str, line: dict[str, str], options: Options, may_have_mask: bool, counts: Counter[str]
) -> str:
    """The frame of a cine that is a phase: a number, or the rule by which it is chosen when the file is read."""
    named = _named_frame(where, phase, line)
    if phase == "es" and options.es == "half":
        return HALF
    if may_have_mask and options.es != "named" and not (named and phase == "ed" and options.es == "half"):
        return LARGEST if phase == "ed" else SMALLEST
    if named:
        return named
    if phase == "ed":  # a cine begins with the R wave
        counts["first"] += 1
        return "0"
    raise CohortError(
        f"{where}: the ES frame of its cine is not known; name it in es_frame, give cine_mask, or use es=half"
    )


def _named_frame(where: str, phase: str, line: dict[str, str]) -> str:
    """The frame of a cine that a line names, as a number; '' if it names none."""
    cell = line.get(f"{phase}_frame", "").strip()
    if cells.is_empty(cell):
        return ""
    try:
        number = cells.number(cell)
    except ValueError:
        number = -1.0
    if number < 0 or number != int(number):
        raise CohortError(f"{where}: {phase}_frame is {quoted_cell(cell)}; it must be a whole number from 0, or empty")
    return str(int(number))


def _path(where: str, root: Path, cell: str) -> Path | None:
    """The file of a cell, inside the root; None for an empty cell."""
    place = cell.strip().replace("\\", "/")
    if cells.is_empty(place):
        return None
    if Path(place).is_absolute():
        for base in (root, root.absolute(), root.resolve()):
            if Path(place).is_relative_to(base):
                place = str(Path(place).relative_to(base))
                break
    return inside(root, place, where)


def _first_geometry(rows: list[Row], options: Options) -> Volume:
    """The shape and spacing of the first heart image, for `shape=file`."""
    for row in rows:
        for file in row.volumes.values():
            if not file.path.exists():
                continue
            try:
                image = read_image(file.path, "volume" if file.is_frame or file.item is None else file.item)
            except VolumeError as error:
                raise CohortError(f"shape=file: {error}") from None
            depth, height, width = image.frames.shape[1:]
            row_mm, column_mm = (round(step, 6) for step in image.spacing_mm[1:])
            return Volume(options.phases, depth, height, width, (round(image.spacing_mm[0], 6), row_mm, column_mm))
    raise CohortError("shape=file: none of the heart images exists; give shape=6x46x42, or fetch the images")
