"""A prepared data set on disk: an index table (one row per recording) beside packed samples.

    index.parquet        record, patient, split, report, labels by name, rate, quality per lead, checksum of the source
    samples-00000.npy    int16, each recording lead-major (12, T0) at its native rate, -32768 = missing
    dropped.csv          what was left out, and why
    cohort.json          source, tasks, ledger, sizes and checksums; written last

`write` (in `prepare.py`) makes one; `Cohort.open` reads it and checks that it is what was written.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leadwise.batch import LEADS
from leadwise.data import packing
from leadwise.data.packing import FORMAT, Ledger, label_column
from leadwise.data.prepare import write
from leadwise.data.rows import SPLITS, CohortError, Row, Source, inside

__all__ = ["Cohort", "CohortError", "Ledger", "Row", "Source", "write"]


class Cohort:
    """A cohort that `write` made, opened for reading; samples come by memory map."""

    def __init__(self, folder: Path, description: dict[str, Any], table: pa.Table) -> None:
        """Use `Cohort.open`, which checks before it trusts."""
        self.folder = folder
        self.name = folder.resolve().name
        self.source: str = description["source"]
        self.tasks: dict[str, tuple[str, ...]] = {task: tuple(names) for task, names in description["tasks"].items()}
        self.ledger = Ledger(**description["ledger"])
        checksums = [description["index"]["sha256"], *(shard["sha256"] for shard in description["shards"])]
        self.fingerprint = hashlib.sha256("".join(checksums).encode()).hexdigest()[:16]
        self.records: list[str] = table["record"].to_pylist()
        self.patients: list[str] = table["patient"].to_pylist()
        self.reports: list[str] = table["report"].to_pylist()
        self._table = table
        self._files: dict[int, str] = {shard["number"]: shard["file"] for shard in description["shards"]}
        self._maps: dict[int, np.ndarray] = {}
        # what a sample is found by, as plain arrays: no table is touched when a signal is read
        self._shard, self._offset = table["shard"].to_numpy(), table["offset"].to_numpy()
        self._n_samples, self._rate_hz = table["n_samples"].to_numpy(), table["rate_hz"].to_numpy()
        self._uv_per_step = _matrix(table["uv_per_step"])
        self._baseline = _matrix(table["baseline"])

    @classmethod
    def open(cls, folder: Path, verify: bool = False) -> Cohort:
        """The cohort in a folder, its sizes and the checksum of its index checked; with `verify`, every shard's too.

        Raises:
            CohortError: not a cohort, of another format, incomplete or changed since it was written.
        """
        folder = Path(folder)
        description = _description(folder)
        try:
            _check_file(folder, description["index"], verify=True)
            for shard in description["shards"]:
                _check_file(folder, shard, verify)
            table = pq.read_table(folder / description["index"]["file"])
            cohort = cls(folder, description, table)
        except (KeyError, TypeError, pa.ArrowException) as error:
            raise CohortError(
                f"cohort {folder}: cohort.json or its index is damaged ({error!r}); prepare it again"
            ) from None
        cohort._check_places({shard["number"]: shard["size"] for shard in description["shards"]})
        return cohort

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # a worker process maps the shards itself

    @cached_property
    def index(self) -> pd.DataFrame:
        """The index table: one row per recording; labels are Int8, <NA> where a recording is not in the task."""
        table: pd.DataFrame = self._table.to_pandas(types_mapper={pa.int8(): pd.Int8Dtype()}.get)
        return table

    def signal(self, row: int) -> tuple[np.ndarray, float]:
        """One recording as (T0, 12) float32 mV in LEADS order, NaN = missing, and its rate in Hz."""
        number, begin = int(self._shard[row]), int(self._offset[row])
        if number not in self._maps:
            self._maps[number] = np.load(self.folder / self._files[number], mmap_mode="r", allow_pickle=False)
        flat = self._maps[number][begin : begin + len(LEADS) * int(self._n_samples[row])]
        block = np.asarray(flat).reshape(len(LEADS), -1)
        return packing.unpack(block, self._uv_per_step[row], self._baseline[row]), float(self._rate_hz[row])

    def rows(self, split: str | None = None, task: str | None = None, min_report_words: int = 0) -> np.ndarray:
        """Row numbers in index order: of a split, with every label of a task known, with so many words of report."""
        chosen = np.ones(len(self), dtype=bool)
        if split is not None:
            if split not in SPLITS:
                raise CohortError(f"cohort {self.name}: no split {split!r}; it is one of {', '.join(SPLITS)}")
            chosen &= np.array(self._table["split"].to_pylist()) == split
        if task is not None:
            for column in self._label_table(task):
                chosen &= ~column.is_null().to_numpy()
        if min_report_words > 0:
            chosen &= self._table["report_words"].to_numpy() >= min_report_words
        return np.flatnonzero(chosen)

    def labels(self, task: str, rows: np.ndarray) -> np.ndarray:
        """Labels (n, K) int8 in {0, 1} of the given rows, classes in the order of `tasks[task]`.

        Raises:
            CohortError: no such task, or a row that is not in it.
        """
        filled = [column.fill_null(-1).to_numpy()[rows] for column in self._label_table(task)]
        table: np.ndarray = np.stack(filled, axis=1).astype(np.int8)
        outside = np.flatnonzero((table < 0).any(axis=1))
        if len(outside):
            name = self.records[int(np.asarray(rows)[outside[0]])]
            raise CohortError(
                f"cohort {self.name}: {len(outside)} rows are not in task {task} (first: record {name}); "
                f"take those of rows(task={task!r})"
            )
        return table

    def _label_table(self, task: str) -> list[pa.ChunkedArray]:
        if task not in self.tasks:
            known = ", ".join(self.tasks) or "none"
            raise CohortError(f"cohort {self.name}: no task {task!r}; it has {known}")
        return [self._table[label_column(task, name)] for name in self.tasks[task]]

    def _check_places(self, sizes: dict[int, int]) -> None:
        """Every recording must lie inside its shard, so that a wrong index cannot read beside it."""
        n_bytes = 2 * len(LEADS) * self._n_samples
        ends = 2 * len(LEADS) * self._n_samples + 2 * self._offset
        for number in np.unique(self._shard):
            here = self._shard == number
            room = sizes.get(int(number), 0)
            if (n_bytes[here] <= 0).any() or (self._offset[here] < 0).any() or (ends[here] > room).any():
                raise CohortError(f"cohort {self.folder}: its index points outside shard {number}; prepare it again")


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A list column as an array (n, 12)."""
    values: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return values.reshape(-1, len(LEADS))


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "cohort.json"
    if not path.is_file():
        unfinished = folder.with_name(folder.name + ".partial").is_dir()
        advice = (
            "preparing it was not finished: run the same `leadwise prepare` again"
            if unfinished
            else "see `leadwise prepare`"
        )
        raise CohortError(f"no cohort at {folder}; {advice}")
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CohortError(f"cohort {folder}: cohort.json is damaged ({error}); prepare it again") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CohortError(f"cohort {folder}: not of format {FORMAT}, which this version reads; prepare it again")
    return description


def _check_file(folder: Path, facts: dict[str, Any], verify: bool) -> None:
    path = inside(folder, facts["file"], f"cohort {folder}")
    if not path.is_file():
        raise CohortError(f"cohort {folder}: {facts['file']} is missing; prepare it again")
    size = path.stat().st_size
    if size != facts["size"]:
        raise CohortError(f"cohort {folder}: {facts['file']} has {size} bytes, not {facts['size']}; prepare it again")
    if verify and packing.sha256([path]) != facts["sha256"]:
        raise CohortError(f"cohort {folder}: {facts['file']} has changed (checksum differs); prepare it again")
