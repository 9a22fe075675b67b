"""Embeddings that another program has computed, in files: a vector for each record name.

.npz       record (N,), embedding (N, D); left_out (M,), if there is one: names of records that have no embedding
.parquet   record or ecg, and the embedding as one column of lists, or as columns embedding0, embedding1, ...

These are the files that `leadwise embed` writes for a cohort. Other arrays and columns are not read. In both kinds, a text
`refused` that is not empty marks a record without an embedding. Only the rows that are scored are checked: a file may have more.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.messages import first_few, short_name
from leadwise.data.usable_rows import NO_EMBEDDING, LeftOut
from leadwise.files import DamagedNpzError, first_line, read_npz

log = logging.getLogger(__name__)

SUFFIXES = (".npz", ".parquet")


class StoredEmbeddingsError(ValueError):
    """A file of embeddings that cannot be used; the message names the file, the value and the remedy."""


@dataclass(frozen=True)
class EmbeddingTable:
    """The content of one file."""

    path: Path
    names: NDArray[Any]  # (N,) str, records
    vectors: NDArray[Any]  # (N, D)
    refused: frozenset[str]  # records without an embedding
    other_widths: Mapping[str, int]  # records whose list has another width than most, by name; their vector is NaN
    digest: str  # of the file

    def positions(self, records: list[str]) -> NDArray[np.int64]:
        """Return the row of each of these records: (n,).

        Raises:
            StoredEmbeddingsError: a record is absent or there twice, or its embedding is not finite.
        """
        # absent records
        order = np.argsort(self.names, kind="stable")
        ordered = self.names[order]
        wanted = np.array(records, dtype=np.str_)
        first, last = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
        absent = [name for name, count in zip(records, last - first) if not count]
        if len(absent) == len(records):
            raise StoredEmbeddingsError(
                f"{self.path}: none of its {len(self.names)} records is one of the {len(records)} that are scored (first in the "
                f"file: {short_name(str(self.names[0]))}, first that is scored: {short_name(records[0])}); name the records as "
                "the cohort does: column `record` of its index.parquet"
            )
        if absent:
            raise StoredEmbeddingsError(
                f"{self.path}: no embedding of {len(absent)} of the {len(records)} records that are scored (first: "
                f"{short_name(absent[0])}); add them, or list those that have none in an array `left_out` (.npz) or with a text "
                "in the column `refused`"
            )

        # records that are there twice, and values that are not finite
        twice = np.flatnonzero(last - first > 1)
        if len(twice):
            raise StoredEmbeddingsError(
                f"{self.path}: {len(twice)} of the records that are scored have several rows (first: "
                f"{short_name(records[twice[0]])}); keep one row for each record"
            )
        rows: NDArray[np.int64] = order[first]
        narrow = [name for name in records if name in self.other_widths]
        if narrow:
            raise StoredEmbeddingsError(
                f"{self.path}: the embedding of record {short_name(narrow[0])} has width {self.other_widths[narrow[0]]}, and "
                f"others have {self.vectors.shape[1]}; write all with the same encoder"
            )
        invalid = np.flatnonzero(~np.isfinite(_float32(self.vectors[rows])).all(axis=1))
        if len(invalid):
            raise StoredEmbeddingsError(
                f"{self.path}: {len(invalid)} of the embeddings that are scored are not finite (first: record "
                f"{short_name(records[invalid[0]])}); compute them again, or list these records in an array `left_out` (.npz) or "
                "with a text in the column `refused`"
            )
        return rows


class StoredEmbeddings:
    """Embeddings of the records of one or more cohorts."""

    def __init__(self, tables: Mapping[str, EmbeddingTable]) -> None:
        """`tables` by the name of their cohort, its folder's; "" for a file that serves every cohort.

        Raises:
            StoredEmbeddingsError: the files have different widths.
        """
        self.tables = dict(tables)
        first, *others = self.tables.values()
        self.width = int(first.vectors.shape[1])
        for table in others:
            if table.vectors.shape[1] != self.width:
                raise StoredEmbeddingsError(
                    f"{table.path} has embeddings of width {table.vectors.shape[1]}, and {first.path} of width {self.width}; "
                    "write both with the same encoder"
                )

    @property
    def digest(self) -> str:
        """A hash of the content of all files."""
        return "+".join(f"{name}:{table.digest}" for name, table in sorted(self.tables.items()))

    def usable(self, cohort: Cohort, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], LeftOut]:
        """Return those of the rows that have an embedding, in their order, and a ledger of those that the file leaves out.

        Raises:
            StoredEmbeddingsError: a record is absent or there twice, or its embedding is not finite.
        """
        table = self._table(cohort)
        requested = np.asarray(rows, dtype=np.int64)
        records = cohort.records.take(requested)
        refused = np.array([name in table.refused for name in records], dtype=bool)
        chosen = requested[~refused]
        if len(chosen):
            table.positions(cohort.records.take(chosen))
        names = tuple(cohort.records.take(requested[refused]))
        return chosen, LeftOut({NO_EMBEDDING: names} if names else {})

    def take(self, cohort: Cohort, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the embeddings (n, D) of rows of a cohort; those of val and test that are in train too are logged.

        Raises:
            StoredEmbeddingsError: as for `usable`.
        """
        table = self._table(cohort)
        positions = table.positions(cohort.records.take(np.asarray(rows, dtype=np.int64)))
        vectors = _float32(table.vectors[positions])
        _warn_of_shared(table.path, cohort, np.asarray(rows, dtype=np.int64), vectors)
        return vectors

    def _table(self, cohort: Cohort) -> EmbeddingTable:
        table = self.tables.get("", self.tables.get(cohort.name))
        if table is None:
            raise StoredEmbeddingsError(
                f"no file of embeddings is named for cohort {cohort.name}, only for {', '.join(self.tables)}; add "
                f'{cohort.name} = "FILE" to [embeddings]'
            )
        return table


def _warn_of_shared(path: Path, cohort: Cohort, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
    """Log a warning if val or test recordings have exactly the vector of a training recording."""
    scored = cohort.splits(rows) != "train"
    if not scored.any() or scored.all():
        return
    # digests: the vectors themselves would be in memory twice
    digests = [hashlib.blake2b(vector.tobytes(), digest_size=16).digest() for vector in vectors]
    of_training = {digest: row for digest, row, other in zip(digests, rows.tolist(), scored) if not other}
    copies = [
        (row, of_training[digest])
        for digest, row, other in zip(digests, rows.tolist(), scored)
        if other and digest in of_training
    ]
    if copies:
        one, other = (short_name(cohort.records[row]) for row in copies[0])
        log.warning(
            "%s: %d of the %d recordings of val and test have exactly the embedding of a training recording (first: %s, as %s): "
            "copies, or an encoder that does not read the ECG; scores are too high. leadwise check %s finds copies",
            path, len(copies), int(scored.sum()), one, other, cohort.folder,
        )  # fmt: skip


def read_embeddings(path: Path) -> EmbeddingTable:
    """Return the content of a .npz or .parquet file.

    Raises:
        StoredEmbeddingsError: the file is absent or damaged, or has no such columns or shapes.
    """
    if not path.is_file():
        raise StoredEmbeddingsError(f"{path}: no such file; write one with: leadwise embed RUN COHORT -o {path}")
    if path.suffix.lower() not in SUFFIXES:
        raise StoredEmbeddingsError(
            f"{path}: its name must end in {' or '.join(SUFFIXES)}; write it in one of these forms"
        )
    read = _read_npz if path.suffix.lower() == ".npz" else _read_parquet
    names, vectors, refused, other_widths = read(path)

    # names and vectors belong to each other, and the vectors are numbers
    if vectors.ndim != 2 or len(vectors) != len(names) or not vectors.shape[1]:
        raise StoredEmbeddingsError(
            f"{path}: embeddings of shape {vectors.shape} for {len(names)} records; they must be (N, D), one row for each record"
        )
    if vectors.dtype.kind not in "fiu":
        raise StoredEmbeddingsError(
            f"{path}: embeddings of type {vectors.dtype}; they must be numbers, such as float32"
        )
    if not len(names):
        raise StoredEmbeddingsError(f"{path}: it has no row; write it again")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return EmbeddingTable(path, names, vectors, frozenset(refused), other_widths, digest)


_Content = tuple[NDArray[Any], NDArray[Any], set[str], dict[str, int]]


def _read_npz(path: Path) -> _Content:
    """Return names (N,), vectors (N, D), the records without an embedding, and no vector of another width."""
    try:
        columns = read_npz(path, ("record", "embedding", "left_out", "refused"))
    except DamagedNpzError as error:
        raise StoredEmbeddingsError(
            f"{path} cannot be read as .npz without pickled objects ({error}); write it with numpy.savez, names as an array of "
            "texts: numpy.array(names, dtype=numpy.str_)"
        ) from None
    for name in ("record", "embedding"):
        if name not in columns:
            raise StoredEmbeddingsError(
                f"{path}: it has no array `{name}`; write it with numpy.savez(file, record=names, embedding=vectors)"
            )
    names = _texts(columns["record"])
    refused = set(_texts(columns["left_out"]).tolist()) if "left_out" in columns else set()
    if "refused" in columns and len(columns["refused"]) == len(names):
        refused |= set(names[_texts(columns["refused"]) != ""].tolist())
    return names, columns["embedding"], refused, {}


def _read_parquet(path: Path) -> _Content:
    """Return names (N,), vectors (N, D), the records without an embedding, and those with a vector of another width."""
    try:
        columns = pq.read_schema(path).names
        numbered = [name for name in columns if name.startswith("embedding") and name[9:].isdecimal()]
        numbered.sort(key=lambda name: int(name[9:]))
        record = next((name for name in ("record", "ecg") if name in columns), None)
        if record is None or not ("embedding" in columns or numbered):
            raise StoredEmbeddingsError(
                f"{path}: it needs a column record (or ecg), and a column embedding of lists or columns embedding0, embedding1, "
                f"...; it has {first_few(columns, 8)}"
            )
        wanted = [record, *(["refused"] if "refused" in columns else [])]
        table = pq.read_table(path, columns=[*wanted, *(["embedding"] if "embedding" in columns else numbered)])
    except StoredEmbeddingsError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoredEmbeddingsError(f"{path} cannot be read as Parquet ({first_line(error)}); write it again") from None
    names = _texts(np.array(table[record].to_pylist(), dtype=object))
    refused: set[str] = set()
    if "refused" in table.column_names:
        reasons = table["refused"].to_pylist()
        refused = {name for name, reason in zip(names.tolist(), reasons) if reason}
    if "embedding" in columns:
        vectors, other_widths = _lists(path, table["embedding"], names)
        return names, vectors, refused, other_widths
    return names, np.stack([table[name].to_numpy() for name in numbered], axis=1), refused, {}


def _lists(path: Path, column: pa.ChunkedArray, names: NDArray[Any]) -> tuple[NDArray[Any], dict[str, int]]:
    """Return a column of lists as (N, D), NaN where there is none or one of another width; and these widths by record.

    Raises:
        StoredEmbeddingsError: the column has no lists.
    """
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise StoredEmbeddingsError(
            f"{path}: column embedding has type {kind}; it must hold one list of numbers in each row"
        )
    rows = [None if values is None else np.asarray(values) for values in column.to_numpy(zero_copy_only=False)]
    widths = Counter(len(values) for values in rows if values is not None)
    width = max(widths, key=lambda one: widths[one], default=0)
    vectors, others = np.full((len(rows), width), np.nan), {}
    for position, values in enumerate(rows):
        if values is not None and len(values) == width:
            vectors[position] = values
        elif values is not None:
            others[str(names[position])] = len(values)
    return vectors, others


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return values as float32, infinite where they are too large."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    """Return names as an array of texts: numbers as they are written, bytes as UTF-8."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind == "O":
        return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values], dtype=np.str_)
    return values.astype(np.str_)
