"""MIMIC-IV-ECG (v1.0): 800,035 recordings of 10 s with the ECG machines' reports, for pre-training.

`record_list.csv` has the path of each study, `machine_measurements.csv` its report (report_0, report_1, ...). The two are
joined by study_id, one to one; the order of their rows has no meaning. A share of the subjects is val, the others are
train; there is no test split and no task. Rows are created on access, so that 800,000 recordings take little memory.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from leadwise.data.cohort.layout import CohortError
from leadwise.data.messages import first_few, quoted_cell, short_cell
from leadwise.data.sources.source import Row, Source
from leadwise.data.tasks import Task

TASKS: tuple[Task, ...] = ()

_MIN_REPORT_WORDS = 4
_N_PUBLISHED = 800_035  # recordings in release 1.0
_LIST, _MEASUREMENTS = "record_list.csv", "machine_measurements.csv"
_IDS = ("subject_id", "study_id")
_REPORT = re.compile(r"report_(\d+)")
_MARKS = " *=-"  # that machines print around a statement
_BREAKS = str.maketrans("\n\r\t", "   ")
_WHOLE_NUMBER = "^[0-9]{1,18}$"
_UNSAFE_PATH = r"^/|[\\:[:space:][:cntrl:]]|(^|/)\.\.(/|$)"
_BLOCK_BYTES = 1 << 20  # of a table, read at a time
_ROWS_AT_ONCE = 256  # created by an iterator at a time; more are slower, as they do not fit the cache


@dataclass(frozen=True)
class Options:
    """Options of `leadwise prepare mimic_iv_ecg`.

    Raises:
        CohortError: a value is out of range.
    """

    val_share: float = field(
        default=0.02,
        metadata={"help": "share of the subjects in the split val, from 0 to below 1; the others are train"},
    )

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise CohortError(f"val_share is {self.val_share}; it must be a share from 0 to below 1")


def read_source(folder: Path, options: Options | None = None) -> Source:
    """MIMIC-IV-ECG in `folder` as rows in the order of record_list.csv; no waveform is opened.

    Every recording has a row; preparation leaves out those whose report has fewer than 4 words, unless the caller changes
    this number. A hash of the subject id decides the split of a subject: it does not change when others are added. The
    rows are created again at each access.

    Raises:
        CohortError: a table is absent, not a table or lacks a column, an id is not a whole number, a path is empty or
            leads out of the folder, or the two tables do not list the same studies of the same subjects, each once.
    """
    folder, options = Path(folder), options or Options()
    studies = _read_list(folder / _LIST)
    measured, statements = _read_statements(folder / _MEASUREMENTS)
    statements = statements.take(_match_rows(studies.ids, measured))
    rows = _Rows(folder, studies, statements, options.val_share)
    return Source("mimic_iv_ecg", rows, min_report_words=_MIN_REPORT_WORDS, n_published=_N_PUBLISHED)


def merl_report(statements: Sequence[str]) -> tuple[str, int]:
    """A study's report after MERL's pre-processing, and its number of words before the final period.

    The statements are joined by '. '; EKG becomes ECG; spaces and '*', then '=' and '-', are removed from the two ends;
    lower case; line breaks and tabs become spaces; a period is added at the end. If no word is left, it is 'empty'.
    """
    text = ". ".join(statements).replace("EKG", "ECG").replace("ekg", "ecg")
    text = text.strip(" *").strip("=-").lower()
    n_words = len(text.split())
    return (text.translate(_BREAKS) + ".", n_words) if n_words else ("empty", 0)


def _statement(cell: str) -> str:
    """One statement in the report's style, without the marks and the period around it; '' if nothing is left."""
    text = cell.replace("EKG", "ECG").replace("ekg", "ecg").lower()
    return " ".join(text.split()).strip(_MARKS).rstrip(_MARKS + ".")


# ------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class _Ids:
    """The subject and the study of each row of a table."""

    table: Path
    subject: np.ndarray  # (N,) int64
    study: np.ndarray  # (N,) int64

    @classmethod
    def from_blocks(cls, table: Path, blocks: Sequence[np.ndarray]) -> _Ids:
        """The ids of a table that was read in blocks (2, rows)."""
        return cls(table, *np.concatenate([np.zeros((2, 0), np.int64), *blocks], axis=1))


@dataclass(frozen=True)
class _Studies:
    """The columns of record_list.csv."""

    ids: _Ids
    path: pa.Array  # (N,) text, relative to the folder
    time: pa.Array | None  # (N,) text; None if the table has no ecg_time


@dataclass(frozen=True)
class _Statements:
    """The statements of each study. Few statements occur often, so each study has the numbers of its statements."""

    texts: tuple[str, ...]  # each statement once, as in the table
    lists: pa.ListArray  # (N,) lists of places in `texts`, in order

    def take(self, places: np.ndarray) -> _Statements:
        """The statements of the rows `places`, in this order."""
        return _Statements(self.texts, self.lists.take(pa.array(places)))


class _Rows(Sequence[Row]):
    """The rows, created from columns on access; a slice is a list of rows."""

    def __init__(self, folder: Path, studies: _Studies, statements: _Statements, val_share: float) -> None:
        self._folder, self._studies, self._val_share = folder, studies, val_share
        self._texts, self._tidy = statements.texts, [_statement(text) for text in statements.texts]
        self._bounds, self._codes = statements.lists.offsets.to_numpy(), statements.lists.values.to_numpy()

    def __len__(self) -> int:
        return len(self._studies.path)

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    def __getitem__(self, key: int | slice) -> Row | list[Row]:
        chosen = range(len(self))[key]
        if isinstance(chosen, int):
            return self._create(chosen, 1)[0]
        return self._create(chosen.start, len(chosen)) if chosen.step == 1 else [self[place] for place in chosen]

    def __iter__(self) -> Iterator[Row]:
        for begin in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._create(begin, min(_ROWS_AT_ONCE, len(self) - begin))

    def _create(self, begin: int, n_rows: int) -> list[Row]:
        """The rows from `begin` on."""
        # slices of the columns as Python lists: much faster than one access per cell
        end = begin + n_rows
        studies, bounds = self._studies, self._bounds[begin : end + 1].tolist()
        codes = self._codes[bounds[0] : bounds[-1]].tolist()
        paths = studies.path.slice(begin, n_rows).to_pylist()
        times = None if studies.time is None else studies.time.slice(begin, n_rows).to_pylist()
        numbers = zip(studies.ids.study[begin:end].tolist(), studies.ids.subject[begin:end].tolist())

        # one row for each study
        rows = []
        for place, (study, subject) in enumerate(numbers):
            own = codes[bounds[place] - bounds[0] : bounds[place + 1] - bounds[0]]
            rows.append(
                Row(
                    record=str(study),
                    path=self._folder / paths[place],
                    patient=str(subject),
                    split=_split(str(subject), self._val_share),
                    report=_report([self._texts[code] for code in own]),
                    extra={} if times is None else {"ecg_time": times[place]},
                    statements=tuple(filter(None, (self._tidy[code] for code in own))),
                )
            )
        return rows


def _report(statements: list[str]) -> str:
    """The report of a row: that of `merl_report`, but '' instead of 'empty', as in all sources.

    A space between the last word and the final period is removed: with it, the period would count as a word.
    """
    text, n_words = merl_report(statements)
    return f"{text[:-1].strip()}." if n_words else ""


def _split(subject: str, val_share: float) -> str:
    """The split of a subject, from a hash of the id alone."""
    place = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big") / 2**64
    return "val" if place < val_share else "train"


# ----------------------------------------------------------------------------------------------------------- tables


def _read_list(path: Path) -> _Studies:
    """record_list.csv, checked block by block."""
    texts = ["path", *({"ecg_time"} & set(_columns(path, (*_IDS, "path"))))]
    ids, blocks, n_before = [], [], 0
    for batch in _batches(path, dict.fromkeys((*_IDS, *texts), pa.string())):
        ids.append(_ids(path, batch, n_before))
        _check_paths(path, batch["path"], n_before)
        blocks.append(batch.select(texts))
        n_before += len(batch)
    table = pa.Table.from_batches(blocks, pa.schema([(name, pa.string()) for name in texts]))
    columns = [table[name].combine_chunks() for name in texts]
    return _Studies(_Ids.from_blocks(path, ids), columns[0], columns[1] if len(columns) > 1 else None)


def _read_statements(path: Path) -> tuple[_Ids, _Statements]:
    """machine_measurements.csv: the ids and the statements of its rows."""
    # the report columns in the order of their numbers
    matched = map(_REPORT.fullmatch, _columns(path, (*_IDS, "report_0")))
    names = [name for _, name in sorted((int(match[1]), match[0]) for match in matched if match)]

    # statements as numbers, block by block: the texts of 800,000 reports would take gigabytes
    kinds = dict.fromkeys(_IDS, pa.string()) | dict.fromkeys(names, pa.dictionary(pa.int32(), pa.string()))
    vocabulary: dict[str, int] = {}
    ids, codes, counts, n_before = [], [np.zeros(0, np.int32)], [np.zeros(1, np.int64)], 0
    for batch in _batches(path, kinds):
        ids.append(_ids(path, batch, n_before))
        block = np.stack([_codes(batch[name], vocabulary) for name in names], axis=1)  # (rows, statements)
        codes.append(block[block >= 0])  # row by row
        counts.append((block >= 0).sum(axis=1))
        n_before += len(batch)
    bounds = np.cumsum(np.concatenate(counts)).astype(np.int32)
    lists = pa.ListArray.from_arrays(bounds, np.concatenate(codes))
    return _Ids.from_blocks(path, ids), _Statements(tuple(vocabulary), lists)


def _codes(cells: pa.DictionaryArray, vocabulary: dict[str, int]) -> np.ndarray:
    """The numbers of the statements (rows,), -1 for an empty cell; new statements are added to the vocabulary."""
    known = [vocabulary.setdefault(text, len(vocabulary)) for text in cells.dictionary.to_pylist()]
    places: np.ndarray = np.array([*known, -1], np.int32)[cells.indices.fill_null(-1).to_numpy()]
    return places


def _ids(path: Path, batch: pa.RecordBatch, n_before: int) -> np.ndarray:
    """The subject and study ids (2, rows) of a block, as int64."""
    for name in _IDS:
        whole = pc.fill_null(pc.match_substring_regex(batch[name], _WHOLE_NUMBER), False)
        bad = pc.index(whole, False).as_py()
        if bad >= 0:
            cell = quoted_cell(batch[name][bad].as_py() or "")
            raise CohortError(
                f"{path.name} row {_row_number(n_before, bad)}: {name} is {cell}, not a whole number; download it again"
            )
    return np.stack([batch[name].cast(pa.int64()).to_numpy() for name in _IDS])


def _check_paths(path: Path, cells: pa.Array, n_before: int) -> None:
    """Check by its text that each path stays inside the folder; to follow links takes too long for so many."""
    unsafe = pc.fill_null(pc.match_substring_regex(cells, _UNSAFE_PATH), True)
    bad = pc.index(unsafe, True).as_py()
    if bad >= 0:
        where, cell = f"{path.name} row {_row_number(n_before, bad)}", cells[bad].as_py()
        if not cell:
            raise CohortError(f"{where}: it has no path; download it again")
        raise CohortError(
            f"{where}: the path {short_cell(cell, 128)} leaves {path.parent}, or has a space; give one that stays inside it"
        )


def _row_number(n_before: int, place: int) -> int:
    """The row number as in a spreadsheet: the header is row 1."""
    return n_before + place + 2


def _columns(path: Path, needed: Sequence[str]) -> list[str]:
    """The column names of a table, which must contain the needed ones, each column once."""
    if not path.is_file():
        raise CohortError(
            f"{path} is missing; give the folder that contains MIMIC-IV-ECG as it was downloaded from "
            "physionet.org/content/mimic-iv-ecg"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path} is not a CSV table in UTF-8 ({type(error).__name__}); download it again") from None
    missing = [name for name in needed if name not in names]
    if missing:
        raise CohortError(f"{path}: it has no column {first_few(missing)}; download it again")
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise CohortError(f"{path}: column {short_cell(doubled[0], 24)} appears twice; download it again")
    return names


def _batches(path: Path, kinds: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """The columns of `kinds`, one block of rows at a time; an empty cell is null."""
    short_rows: list[str] = []

    def refuse(row: Any) -> str:
        short_rows.append(f"a row of {row.actual_columns} cells under {row.expected_columns} columns")
        return "error"

    try:
        yield from arrow_csv.open_csv(
            path,
            read_options=arrow_csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(kinds), column_types=kinds, null_values=[""], strings_can_be_null=True
            ),
        )
    except pa.ArrowInvalid as error:  # its message quotes the row, and a row contains a report
        reason = short_rows[0] if short_rows else "not UTF-8" if "UTF8" in str(error) else "not CSV"
        raise CohortError(f"{path} is not a CSV table in UTF-8 ({reason}); download it again") from None


def _match_rows(studies: _Ids, measured: _Ids) -> np.ndarray:
    """For each row of the list, the row of the measurements that has the same study."""
    for ids in (studies, measured):
        values, counts = np.unique(ids.study, return_counts=True)
        _raise_for(ids, values[counts > 1], "appear more than once")
    for ids, other in ((studies, measured), (measured, studies)):
        _raise_for(ids, ids.study[~np.isin(ids.study, other.study)], f"are not in {other.table.name}")
    order = np.argsort(measured.study)
    places: np.ndarray = order[np.searchsorted(measured.study, studies.study, sorter=order)]
    torn = studies.study[measured.subject[places] != studies.subject]
    _raise_for(measured, torn, f"have another subject_id than in {studies.table.name}")
    return places


def _raise_for(ids: _Ids, studies: np.ndarray, complaint: str) -> None:
    """Raise CohortError if `studies` is not empty."""
    if len(studies):
        raise CohortError(
            f"{ids.table}: {len(studies)} studies {complaint} (study_id {first_few(map(str, studies.tolist()))}); use the two "
            "files of one release as they were downloaded"
        )
