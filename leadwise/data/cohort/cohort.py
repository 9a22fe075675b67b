"""`Cohort` reads a prepared data set on disk: an index table (one row per recording) and packed samples.

    index.parquet        record, patient, split, report, labels by name, rate, quality per lead, checksums
    samples-00000.npy    int16, each recording lead-major (12, T0) at its native rate, -32768 = missing
    dropped.csv          recordings that were left out, and why
    cohort.json          source, tasks, ledger, sizes and checksums; written last

A cohort with heart images has further files, see `volume_store.py`.

`write` (in `prepare.py`) writes a cohort; `Cohort.open` opens it and checks that it has not changed. Only the columns of
the index that a batch needs are in memory, as Arrow columns without a Python object per recording. The others are read
on demand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leadwise.batch import LEADS, Volume
from leadwise.data.cohort.layout import (
    FORMAT,
    SPLITS,
    CohortError,
    Ledger,
    inside,
    label_column,
    map_shard,
    sha256,
)
from leadwise.data.cohort.packing import unpack
from leadwise.data.cohort.volume_store import VolumeStore
from leadwise.files import first_line

_Content = TypeVar("_Content")
_SIMULATED = {  # data set -> files in a folder that `leadwise simulate` wrote
    "simulated": ("records.csv", "truth.csv"),
    "ecg_cmr": ("subjects.csv", "truth.csv"),
}


class TextColumn(Sequence[str]):
    """A column of texts as a sequence of str, held in Arrow memory; a text becomes a Python string when it is read."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column: pa.Array = column.combine_chunks()

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, row: Any) -> Any:  # an int gives a str, a slice a list
        if isinstance(row, slice):
            return self.column[row].to_pylist()
        return self.column[int(row)].as_py()

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), 4096):
            yield from self.column.slice(begin, 4096).to_pylist()

    def take(self, rows: np.ndarray) -> list[str]:
        """The texts of the given rows, in their order."""
        texts: list[str] = self.column.take(pa.array(rows)).to_pylist()
        return texts

    def distinct(self, rows: np.ndarray) -> list[str]:
        """The distinct texts of the given rows, in order of first appearance."""
        texts: list[str] = pc.unique(self.column.take(pa.array(rows))).to_pylist()
        return texts


class Cohort:
    """A prepared cohort, opened for reading; its samples are memory-mapped."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        """Use `Cohort.open`, which checks the folder first."""
        self.folder = folder
        self.name = folder.resolve().name
        self.source: str = description["source"]
        self.about: dict[str, str] = dict(
            description.get("about", {})
        )  # title, licence, citation, url ... of the source
        self.tasks: dict[str, tuple[str, ...]] = {task: tuple(names) for task, names in description["tasks"].items()}
        self.details: tuple[str, ...] = tuple(description.get("details", ()))  # tasks with the classes of others
        self.ledger = Ledger(**description["ledger"])
        self.fingerprint: str = description["index"]["sha256"][:16]  # the index holds the checksum of every recording
        self._index_file = folder / description["index"]["file"]
        self._files: dict[int, str] = {shard["number"]: shard["file"] for shard in description["shards"]}
        self._maps: dict[int, np.ndarray] = {}
        self._labels: dict[str, list[pa.ChunkedArray]] = {}  # by task, read on demand
        self._n_rows = self._read_index(lambda file: pq.read_metadata(file).num_rows, "the footer")
        # one column at a time, so that at most one of them is in memory twice
        self.records, self.patients, self.reports = (
            TextColumn(self._column(key)) for key in ("record", "patient", "report")
        )
        self._split = self._column("split").combine_chunks().dictionary_encode()
        # where each recording's samples are, as plain arrays: reading a signal reads no table
        self._report_words = self._column("report_words").to_numpy()
        self._shard, self._offset = self._column("shard").to_numpy(), self._column("offset").to_numpy()
        self._n_samples, self._rate_hz = self._column("n_samples").to_numpy(), self._column("rate_hz").to_numpy()
        self._uv_per_step, self._baseline = _matrix(self._column("uv_per_step")), _matrix(self._column("baseline"))
        # heart images and phenotypes; most cohorts have none
        self.targets: tuple[str, ...] = tuple(description.get("targets", ()))  # numeric columns that can be predicted
        self.bounds: dict[str, float] = dict(
            description.get("bounds", {})
        )  # target -> highest R² from the ECG, if known
        self._store = VolumeStore(folder, description, self._column, len(self)) if "volume" in description else None

    @property
    def main_tasks(self) -> dict[str, tuple[str, ...]]:
        """The tasks without `details`: those of a command that is given no task."""
        return {task: classes for task, classes in self.tasks.items() if task not in self.details}

    @classmethod
    def open(cls, folder: Path, verify: bool = False) -> Cohort:
        """Open a cohort after checking the sizes of its files and the checksum of its index.

        With `verify`, the checksum of every recording is checked too.

        Raises:
            CohortError: the folder is not a cohort, has another format, is incomplete or has changed.
        """
        folder = Path(folder)
        description = _description(folder)
        try:
            _check_file(folder, description["index"], verify=True)
            for shard in [*description["shards"], *_volume_files(description)]:
                _check_file(folder, shard, verify=False)
            cohort = cls(folder, description)
        except CohortError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CohortError(
                f"cohort {folder}: cohort.json or its index is damaged ({type(error).__name__}: {first_line(error)}); "
                "prepare it again"
            ) from None
        cohort._check_places({shard["number"]: shard["size"] for shard in description["shards"]})
        if cohort._store is not None:
            cohort._store.check_places()
        if verify:
            cohort._check_samples()
        if verify and cohort._store is not None:
            cohort._store.check_samples(cohort.records.__getitem__)
        return cohort

    @property
    def index_file(self) -> Path:
        """The file of the index table."""
        return Path(self._index_file)

    @property
    def shard_files(self) -> tuple[Path, ...]:
        """The files of the samples, by number."""
        return tuple(self.folder / self._files[number] for number in sorted(self._files))

    @property
    def volume_files(self) -> tuple[Path, ...]:
        """The files of the heart images and of their masks, by number; () for a cohort without."""
        shards = {} if self._store is None else self._store.files
        names = [name for number in sorted(shards) for name in (shards[number]["file"], shards[number].get("masks"))]
        return tuple(self.folder / name for name in names if name is not None)

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # another process maps the shards itself

    @cached_property
    def index(self) -> pd.DataFrame:
        """The whole index table, one row per recording; labels are Int8, <NA> where a recording is not in the task."""
        table: pd.DataFrame = pq.read_table(self._index_file).to_pandas(types_mapper={pa.int8(): pd.Int8Dtype()}.get)
        return table

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """The columns of the index."""
        return tuple(pq.read_schema(self._index_file).names)

    def columns(self, names: Sequence[str], n_rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Iterate over some columns of the index in index order, with at most `n_rows` rows in memory at a time."""
        yield from pq.ParquetFile(self._index_file).iter_batches(n_rows, columns=list(names))

    def column(self, name: str, rows: np.ndarray) -> pd.Series:
        """One column of the index for the given rows, in their order and as in `index`; no other column is read.

        Raises:
            CohortError: the index has no such column.
        """
        if name not in self.column_names:
            raise CohortError(f"cohort {self.name}: its index has no column {name!r}; see its column_names")
        table = pq.read_table(self._index_file, columns=[name]).take(pa.array(rows, type=pa.int64()))
        values: pd.Series = table.to_pandas(types_mapper={pa.int8(): pd.Int8Dtype()}.get)[name]
        return values

    def checksums(self, rows: np.ndarray) -> list[str]:
        """The SHA-256 checksum of the samples of each of the given rows: equal for equal samples, whatever their source."""
        column = pa.chunked_array([batch.column(0) for batch in self.columns(["samples_sha256"])])
        checksums: list[str] = column.take(pa.array(rows, type=pa.int64())).to_pylist()
        return checksums

    def _column(self, name: str) -> pa.ChunkedArray:
        def read(file: Path) -> pa.ChunkedArray:
            column = pq.read_table(file, columns=[name])[name]
            if len(column) != self._n_rows:
                raise ValueError(f"it has {len(column)} rows of {self._n_rows}")
            return column

        return self._read_index(read, f"column {name!r}")

    def _read_index(self, read: Callable[[Path], _Content], what: str) -> _Content:
        try:
            return read(self._index_file)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise CohortError(
                f"cohort {self.folder}: {what} of its index cannot be read ({first_line(error)}); prepare it again"
            ) from None

    @cached_property
    def _statements(self) -> pa.ListArray:
        return self._column("statements").combine_chunks()

    def statements(self, rows: np.ndarray) -> list[list[str]]:
        """The statements of the given rows' reports, as the source lists them, else as split from the report's text."""
        statements: list[list[str]] = self._statements.take(pa.array(rows)).to_pylist()
        return statements

    def block(self, row: int) -> np.ndarray:
        """One recording's samples (12, T0) int16 as stored, -32768 = missing: a view of the memory-mapped shard."""
        number, begin = int(self._shard[row]), int(self._offset[row])
        shard = self._maps.get(number)
        if shard is None:
            shard = self._maps[number] = map_shard(self.folder, self._files[number], "<i2")
        n_samples = int(self._n_samples[row])
        values = shard[begin : begin + len(LEADS) * n_samples]
        if len(values) != len(LEADS) * n_samples:
            raise CohortError(
                f"cohort {self.folder}: {self._files[number]} ends before record {self.records[row]}; prepare it again"
            )
        return values.reshape(len(LEADS), n_samples)

    def scale(self, row: int) -> tuple[np.ndarray, np.ndarray, float]:
        """What converts a block to mV: uV per step (12,) and baseline (12,); and the rate in Hz."""
        return self._uv_per_step[row], self._baseline[row], float(self._rate_hz[row])

    def scales(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`scale` of several rows, (n, 12), (n, 12) and (n,), and the number of samples of each lead, (n,)."""
        return self._uv_per_step[rows], self._baseline[rows], self._rate_hz[rows], self._n_samples[rows]

    def duration_s(self, row: int) -> float:
        """The duration of a recording in seconds."""
        return float(self._n_samples[row] / self._rate_hz[row])

    def signal(self, row: int) -> tuple[np.ndarray, float]:
        """One recording as (T0, 12) float32 mV in LEADS order, NaN = missing, and its rate in Hz."""
        uv_per_step, baseline, rate_hz = self.scale(row)
        return unpack(self.block(row), uv_per_step, baseline), rate_hz

    @property
    def volumes(self) -> Volume | None:
        """The stored heart images: phases, shape and spacing; None for a cohort without them."""
        return None if self._store is None else self._store.geometry

    @property
    def volume_store(self) -> VolumeStore:
        """What reads the heart images.

        Raises:
            CohortError: the cohort has none.
        """
        if self._store is None:
            raise CohortError(
                f"cohort {self.name}: it has no heart images; prepare one with `leadwise prepare ecg_cmr`, which reads ECGs "
                "with heart images"
            )
        return self._store

    def volume(self, row: int) -> np.ndarray:
        """One recording's heart images (P, D, H, W) float32 as the files have them, 0 where absent.

        Raises:
            CohortError: the cohort has no heart images.
        """
        return self.volume_store.read(row)

    def volume_mask(self, row: int) -> np.ndarray:
        """Masks (P, D, H, W) uint8 of these: 0 background, 1 LV blood, 2 myocardium, 3 RV blood; 0 where unknown.

        Raises:
            CohortError: the cohort has no heart images.
        """
        return self.volume_store.mask(row)

    def has_volume(self, rows: np.ndarray) -> np.ndarray:
        """Which phases of the stored heart images each of the given rows has: (n, P) bool; (n, 0) without heart images."""
        if self._store is None:
            return np.zeros((len(rows), 0), dtype=bool)
        present: np.ndarray = self._store.present[np.asarray(rows, dtype=np.int64)]
        return present

    def phenotypes(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Phenotypes (n, Q) float32 of the given rows in the source's units, NaN where unknown.

        Raises:
            CohortError: a name is not in `targets`.
        """
        for name in names:
            if name not in self.targets:
                known = f"it has {', '.join(self.targets)}" if self.targets else "it has none"
                raise CohortError(f"cohort {self.name}: no phenotype '{name}'; {known}")
        columns = [self.column(name, rows).to_numpy(dtype=np.float32, na_value=np.nan) for name in names]
        return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), dtype=np.float32)

    def rows(self, split: str | None = None, task: str | None = None, min_report_words: int = 0) -> np.ndarray:
        """Row numbers in index order: those of a split, in a task, and with at least so many words of report.

        Raises:
            CohortError: no such split or task.
        """
        chosen = np.ones(len(self), dtype=bool)
        if split is not None:
            if split not in SPLITS:
                raise CohortError(f"cohort {self.name}: no split {split!r}; it is one of {', '.join(SPLITS)}")
            chosen &= pc.equal(self._split, split).to_numpy(zero_copy_only=False)
        if task is not None:
            for column in self._label_table(task):
                chosen &= ~column.is_null().to_numpy()
        if min_report_words > 0:
            chosen &= self._report_words >= min_report_words
        return np.flatnonzero(chosen)

    def splits(self, rows: np.ndarray) -> np.ndarray:
        """The split of each of the given rows, as text (n,)."""
        return np.array(self._split.take(pa.array(rows)).to_pylist(), dtype=np.str_)

    def labels(self, task: str, rows: np.ndarray) -> np.ndarray:
        """Labels (n, K) int8 in {0, 1} of the given rows, classes in the order of `tasks[task]`.

        Raises:
            CohortError: no such task, or one of the rows is not in it.
        """
        filled = [column.fill_null(-1).to_numpy()[rows] for column in self._label_table(task)]
        table: np.ndarray = np.stack(filled, axis=1).astype(np.int8)
        outside = np.flatnonzero((table < 0).any(axis=1))
        if len(outside):
            name = self.records[int(np.asarray(rows)[outside[0]])]
            raise CohortError(
                f"cohort {self.name}: {len(outside)} rows are not in task {task} (first: record {name}); "
                f"use rows(task={task!r})"
            )
        return table

    def _label_table(self, task: str) -> list[pa.ChunkedArray]:
        if task not in self.tasks:
            known = ", ".join(self.tasks) or "none"
            raise CohortError(f"cohort {self.name}: no task {task!r}; it has {known}")
        if task not in self._labels:
            self._labels[task] = [self._column(label_column(task, name)) for name in self.tasks[task]]
        return self._labels[task]

    def _check_places(self, sizes: dict[int, int]) -> None:
        """Raise CohortError unless every recording is inside its shard: a wrong index must not read beyond it."""
        n_bytes = 2 * len(LEADS) * self._n_samples
        numbers, places = np.unique(self._shard, return_inverse=True)
        available = np.array([sizes.get(int(number), 0) for number in numbers])[places]
        wrong = (n_bytes <= 0) | (self._offset < 0) | (n_bytes + 2 * self._offset > available)
        if wrong.any():
            number = int(self._shard[np.flatnonzero(wrong)[0]])
            raise CohortError(f"cohort {self.folder}: its index points outside shard {number}; prepare it again")

    def _check_samples(self) -> None:
        checksums = TextColumn(self._column("samples_sha256"))
        for row, checksum in enumerate(checksums):
            if hashlib.sha256(self.block(row).tobytes()).hexdigest() != checksum:
                file = self._files[int(self._shard[row])]
                raise CohortError(
                    f"cohort {self.folder}: {file} has changed at record {self.records[row]} (checksum differs); prepare it "
                    "again"
                )


def _volume_files(description: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Name and size of each file of heart images and of masks."""
    for shard in description.get("volume_shards", ()):
        yield {"file": shard["file"], "size": shard["size"]}
        if "masks" in shard:
            yield {"file": shard["masks"], "size": shard["masks_size"]}


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A list column as an array (n, 12)."""
    values: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return values.reshape(-1, len(LEADS))


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "cohort.json"
    if not path.is_file():
        raise CohortError(f"no cohort at {folder}; {_advice(folder)}")
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CohortError(f"cohort {folder}: cohort.json is damaged ({error}); prepare it again") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CohortError(f"cohort {folder}: not of format {FORMAT}, which this version reads; prepare it again")
    return description


def _advice(folder: Path) -> str:
    """Return what to do about a folder that is no cohort."""
    if folder.with_name(folder.name + ".partial").is_dir():
        return "its preparation is not finished: run the same `leadwise prepare` again"
    for source, files in _SIMULATED.items():
        if all((folder / name).is_file() for name in files):
            return (
                f"it holds simulated ECGs that are not prepared: run `leadwise prepare {source} {folder} -o COHORT` and open "
                "COHORT"
            )
    return "see `leadwise prepare`"


def _check_file(folder: Path, facts: dict[str, Any], verify: bool) -> None:
    path = inside(folder, facts["file"], f"cohort {folder}")
    if not path.is_file():
        raise CohortError(f"cohort {folder}: {facts['file']} is missing; prepare it again")
    size = path.stat().st_size
    if size != facts["size"]:
        raise CohortError(f"cohort {folder}: {facts['file']} has {size} bytes, not {facts['size']}; prepare it again")
    if verify and sha256([path]) != facts["sha256"]:
        raise CohortError(f"cohort {folder}: {facts['file']} has changed (checksum differs); prepare it again")
