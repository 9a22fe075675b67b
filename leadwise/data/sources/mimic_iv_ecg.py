"""MIMIC-IV-ECG (v1.0): its folder -> rows, made when they are asked for: 800,000 recordings take little memory.

`record_list.csv` says where each study lies, `machine_measurements.csv` what the machine said of it (report_0,
report_1, ...). The two are joined by study_id, one to one; the order of their rows means nothing. A share of the
subjects validates, the others train; there is no test split and no task.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from leadwise.data.cohort.layout import CohortError
from leadwise.data.messages import first_few, quoted_cell, short_cell
from leadwise.data.sources.source import Row, Source

_LIST, _MEASUREMENTS = "record_list.csv", "machine_measurements.csv"
_IDS = ("subject_id", "study_id")
_REPORT = re.compile(r"report_(\d+)")
_MARKS = " *=-"  # what the machine puts around a statement
_BREAKS = str.maketrans("\n\r\t", "   ")
_WHOLE_NUMBER = "^[0-9]{1,18}$"
_UNSAFE_PATH = r"^/|[\\:[:space:][:cntrl:]]|(^|/)\.\.(/|$)"
_BLOCK_BYTES = 1 << 20  # of a table, read at once
_ROWS_AT_ONCE = 256  # made by an iterator; more are slower: they leave the cache


def read_source(folder: Path, min_words: int = 4, val_share: float = 0.02) -> Source:
    """MIMIC-IV-ECG in `folder` as rows in the order of record_list.csv; no waveform is opened.

    `min_words` is how many words a report needs for its recording to be kept; every recording has its row here, and
    preparation leaves out those with fewer. `val_share` of the subjects validate, chosen by a hash of the subject id: a
    subject's split stays the same when others join. The rows are made anew each time they are asked for.

    Raises:
        CohortError: a table is absent, not a table or lacks a column, an id is not a whole number, a path is empty or
            leads out of the folder, or the two tables do not list the same studies of the same subjects, each once.
    """
    folder = Path(folder)
    if min_words < 0:
        raise CohortError(f"min_words is {min_words}; it takes 0 or more")
    if not 0 <= val_share < 1:
        raise CohortError(f"val_share is {val_share}; it takes a share from 0 to below 1")
    studies = _read_list(folder / _LIST)
    measured, said = _read_statements(folder / _MEASUREMENTS)
    said = said.taken(_matched(studies.ids, measured))
    return Source("mimic_iv_ecg", _Rows(folder, studies, said, val_share), min_report_words=min_words)


def merl_report(statements: Sequence[str]) -> tuple[str, int]:
    """A study's report as MERL's pre-processing words it, and its count of words before the final period.

    The statements that are there are joined by '. '; EKG is written ECG; spaces and '*', then '=' and '-', go from the
    two ends; lower-case; line breaks and tabs become spaces; a period ends it. Where no word is left, it is 'empty'.
    """
    text = ". ".join(statements).replace("EKG", "ECG").replace("ekg", "ecg")
    text = text.strip(" *").strip("=-").lower()
    n_words = len(text.split())
    return (text.translate(_BREAKS) + ".", n_words) if n_words else ("empty", 0)


def _statement(cell: str) -> str:
    """One statement in the report's style, without marks and the period around it; '' where nothing is left."""
    text = cell.replace("EKG", "ECG").replace("ekg", "ecg").lower()
    return " ".join(text.split()).strip(_MARKS).rstrip(_MARKS + ".")


# ------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class _Ids:
    """Who and what each row of a table is."""

    table: Path
    subject: np.ndarray  # (N,) int64
    study: np.ndarray  # (N,) int64

    @classmethod
    def joined(cls, table: Path, blocks: Sequence[np.ndarray]) -> _Ids:
        """Those of all blocks (2, rows) of a table."""
        return cls(table, *np.concatenate([np.zeros((2, 0), np.int64), *blocks], axis=1))


@dataclass(frozen=True)
class _Studies:
    """record_list.csv."""

    ids: _Ids
    path: pa.Array  # (N,) text, relative to the folder
    time: pa.Array | None  # (N,) text; None where the table has no ecg_time


@dataclass(frozen=True)
class _Statements:
    """What the machine said: few statements, said often, so each study holds the numbers of its own."""

    texts: tuple[str, ...]  # each statement once, as the table has it
    lists: pa.ListArray  # (N,) lists of places in `texts`, in order

    def taken(self, places: np.ndarray) -> _Statements:
        """Those of these rows, in this order."""
        return _Statements(self.texts, self.lists.take(pa.array(places)))


class _Rows(Sequence[Row]):
    """The rows, made from columns when they are asked for; a slice is a list of them."""

    def __init__(self, folder: Path, studies: _Studies, said: _Statements, val_share: float) -> None:
        self._folder, self._studies, self._val_share = folder, studies, val_share
        self._texts, self._tidy = said.texts, [_statement(text) for text in said.texts]
        self._bounds, self._codes = said.lists.offsets.to_numpy(), said.lists.values.to_numpy()

    def __len__(self) -> int:
        return len(self._studies.path)

    @overload
    def __getitem__(self, key: int) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...
    def __getitem__(self, key: int | slice) -> Row | list[Row]:
        chosen = range(len(self))[key]
        if isinstance(chosen, int):
            return self._made(chosen, 1)[0]
        return self._made(chosen.start, len(chosen)) if chosen.step == 1 else [self[place] for place in chosen]

    def __iter__(self) -> Iterator[Row]:
        for begin in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._made(begin, min(_ROWS_AT_ONCE, len(self) - begin))

    def _made(self, begin: int, n_rows: int) -> list[Row]:
        end = begin + n_rows
        studies, bounds = self._studies, self._bounds[begin : end + 1].tolist()
        codes = self._codes[bounds[0] : bounds[-1]].tolist()
        paths = studies.path.slice(begin, n_rows).to_pylist()
        times = None if studies.time is None else studies.time.slice(begin, n_rows).to_pylist()
        numbers = zip(studies.ids.study[begin:end].tolist(), studies.ids.subject[begin:end].tolist())
        rows = []
        for place, (study, subject) in enumerate(numbers):
            own = codes[bounds[place] - bounds[0] : bounds[place + 1] - bounds[0]]
            rows.append(
                Row(
                    record=str(study),
                    path=self._folder / paths[place],
                    patient=str(subject),
                    split=_dealt(str(subject), self._val_share),
                    report=_report([self._texts[code] for code in own]),
                    extra={} if times is None else {"ecg_time": times[place]},
                    statements=tuple(filter(None, (self._tidy[code] for code in own))),
                )
            )
        return rows


def _report(statements: list[str]) -> str:
    """The report that a row has: `merl_report`'s, but '' for none, as everywhere in this house.

    A space that was left between the last word and the final period goes: it would make the period a word.
    """
    text, n_words = merl_report(statements)
    return f"{text[:-1].strip()}." if n_words else ""


def _dealt(subject: str, val_share: float) -> str:
    """A subject's split, from the id alone."""
    place = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big") / 2**64
    return "val" if place < val_share else "train"


# ----------------------------------------------------------------------------------------------------------- tables


def _read_list(path: Path) -> _Studies:
    texts = ["path", *({"ecg_time"} & set(_columns(path, (*_IDS, "path"))))]
    ids, blocks, n_before = [], [], 0
    for batch in _batches(path, dict.fromkeys((*_IDS, *texts), pa.string())):
        ids.append(_ids(path, batch, n_before))
        _check_paths(path, batch["path"], n_before)
        blocks.append(batch.select(texts))
        n_before += len(batch)
    table = pa.Table.from_batches(blocks, pa.schema([(name, pa.string()) for name in texts]))
    columns = [table[name].combine_chunks() for name in texts]
    return _Studies(_Ids.joined(path, ids), columns[0], columns[1] if len(columns) > 1 else None)


def _read_statements(path: Path) -> tuple[_Ids, _Statements]:
    found = [(int(name[1]), name[0]) for name in map(_REPORT.fullmatch, _columns(path, (*_IDS, "report_0"))) if name]
    names = [name for _, name in sorted(found)]
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
    return _Ids.joined(path, ids), _Statements(tuple(vocabulary), lists)


def _codes(cells: pa.DictionaryArray, vocabulary: dict[str, int]) -> np.ndarray:
    """The statements' numbers (rows,), -1 for an empty cell; new statements join the vocabulary."""
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
                f"{path.name} row {_row_number(n_before, bad)}: {name} is {cell}, not a whole number; fetch it again"
            )
    return np.stack([batch[name].cast(pa.int64()).to_numpy() for name in _IDS])


def _check_paths(path: Path, cells: pa.Array, n_before: int) -> None:
    """Nothing, if each path stays inside the folder by its text; to follow links takes too long for so many."""
    unsafe = pc.fill_null(pc.match_substring_regex(cells, _UNSAFE_PATH), True)
    bad = pc.index(unsafe, True).as_py()
    if bad >= 0:
        where, cell = f"{path.name} row {_row_number(n_before, bad)}", cells[bad].as_py()
        if not cell:
            raise CohortError(f"{where}: it has no path; fetch it again")
        raise CohortError(
            f"{where}: the path {short_cell(cell, 128)} leaves {path.parent}, or has a space; give one that stays inside it"
        )


def _row_number(n_before: int, place: int) -> int:
    """As a spreadsheet counts: the header is row 1."""
    return n_before + place + 2


def _columns(path: Path, needed: Sequence[str]) -> list[str]:
    """The column names, checked."""
    if not path.is_file():
        raise CohortError(
            f"{path} is missing; give the folder that holds MIMIC-IV-ECG as it was downloaded from "
            "physionet.org/content/mimic-iv-ecg"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path} is not a CSV table in UTF-8 ({type(error).__name__}); fetch it again") from None
    missing = [name for name in needed if name not in names]
    if missing:
        raise CohortError(f"{path}: it has no column {first_few(missing)}; fetch it again")
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise CohortError(f"{path}: column {short_cell(doubled[0], 24)} stands there twice; fetch it again")
    return names


def _batches(path: Path, kinds: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """The columns of `kinds`, a block of rows at a time; an empty cell is null."""
    short: list[str] = []

    def refuse(row: Any) -> str:
        short.append(f"a row of {row.actual_columns} cells under {row.expected_columns} columns")
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
    except pa.ArrowInvalid as error:  # its own words quote the row, and a row holds a report
        why = short[0] if short else "not UTF-8" if "UTF8" in str(error) else "not CSV"
        raise CohortError(f"{path} is not a CSV table in UTF-8 ({why}); fetch it again") from None


def _matched(studies: _Ids, measured: _Ids) -> np.ndarray:
    """For each row of the list, the row of the measurements that has the same study."""
    for ids in (studies, measured):
        found, counts = np.unique(ids.study, return_counts=True)
        _refuse(ids, found[counts > 1], "stand there more than once")
    for ids, other in ((studies, measured), (measured, studies)):
        _refuse(ids, ids.study[~np.isin(ids.study, other.study)], f"are not in {other.table.name}")
    order = np.argsort(measured.study)
    places: np.ndarray = order[np.searchsorted(measured.study, studies.study, sorter=order)]
    torn = studies.study[measured.subject[places] != studies.subject]
    _refuse(measured, torn, f"have another subject_id than in {studies.table.name}")
    return places


def _refuse(ids: _Ids, studies: np.ndarray, complaint: str) -> None:
    if len(studies):
        raise CohortError(
            f"{ids.table}: {len(studies)} studies {complaint} (study_id {first_few(map(str, studies.tolist()))}); use the two "
            "files of one release as they were downloaded"
        )
