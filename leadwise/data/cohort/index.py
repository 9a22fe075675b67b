"""Finished shards -> the index of a cohort: one table written shard by shard, the ledger, and a look for copies."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leadwise.batch import LEADS
from leadwise.data.cohort import shard as files
from leadwise.data.cohort.layout import (
    FORMAT,
    CohortError,
    Ledger,
    sha256,
)
from leadwise.data.cohort.shard import Dropped, Shard
from leadwise.data.messages import first_few
from leadwise.data.sources.source import Source
from leadwise.files import replacing

log = logging.getLogger(__name__)

_ORIGINS = ("recorded", "derived", "missing")


def write_index(
    partial: Path, source: Source, shards: list[Shard], settings: dict[str, float], allow_copies: bool = False
) -> Ledger:
    """The ledger, once index.parquet, dropped.csv and cohort.json stand in `partial`; one shard's rows in memory at a time.

    With `allow_copies`, a recording that has the samples of another patient's is left out; the first one stays.

    Raises:
        CohortError: nothing is kept, or two patients have the same samples.
    """
    kept = [shard for shard in shards if shard.n_records]
    dropped = [entry for shard in shards for entry in shard.dropped]
    if not kept:
        reasons = Counter(entry.reason for entry in dropped)
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        raise CohortError(f"source {source.name}: none of its {len(source.rows)} recordings can be kept ({why})")
    copies = _find_copies(source, partial, kept, allow_copies)
    dropped += copies.values()
    found = _write_table(partial, kept, copies)
    ledger = Ledger(
        len(source.rows),
        sum(shard.n_records for shard in kept) - len(copies),
        without_report=found.n_silent,
        **Counter(entry.reason for entry in dropped),
        **{f"n_leads_{origin}": found.origins[origin] for origin in _ORIGINS},
    )
    files.write_text(partial / "dropped.csv", _dropped_csv(dropped))
    for shard in shards:
        if not shard.n_records:
            (partial / shard.file).unlink(missing_ok=True)
    files.write_text(
        partial / "cohort.json", json.dumps(_description(partial, source, kept, settings, ledger), indent=1) + "\n"
    )
    return ledger


@dataclasses.dataclass(frozen=True)
class _TableCounts:
    """What was seen while the table was written."""

    origins: Counter[str]  # leads by where they come from
    n_silent: int  # recordings without a report


def _write_table(partial: Path, shards: list[Shard], left_out: Collection[int]) -> _TableCounts:
    """index.parquet without the rows of these numbers."""
    origins: Counter[str] = Counter()
    n_silent, n_before = 0, 0
    with replacing(partial / "index.parquet") as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for shard in shards:
                part = pq.read_table(files.part_file(partial, shard.number)).combine_chunks()
                stays = [row not in left_out for row in range(n_before, n_before + len(part))]
                n_before += len(part)
                part = part if all(stays) else part.filter(stays).combine_chunks()
                if writer is None:
                    writer = pq.ParquetWriter(temporary, part.schema, compression="zstd")
                writer.write_table(part)
                for entry in pc.value_counts(pc.list_flatten(part["lead_origin"])).to_pylist():
                    origins[entry["values"]] += entry["counts"]
                n_silent += pc.sum(pc.equal(part["report_words"], 0)).as_py() or 0
        finally:
            if writer is not None:
                writer.close()
    return _TableCounts(origins, n_silent)


def _find_copies(source: Source, partial: Path, shards: list[Shard], allowed: bool) -> dict[int, Dropped]:
    """The rows of the table that have the samples of an earlier row of another patient.

    They would be learnt in one split and scored in another: that is an error, unless they may be left out. Looked for
    in 4,961 recordings of PTB-XL, there was no such pair; CSN has some. Within one patient, whose recordings all stand
    in one split, copies only weigh double: one warning.
    """
    samples, owners = _sample_and_owner_hashes(partial, shards)
    order = np.argsort(samples, kind="stable")
    first_of_run = np.concatenate(([True], samples[order][1:] != samples[order][:-1]))
    first = order[
        np.maximum.accumulate(np.where(first_of_run, np.arange(len(order)), 0))
    ]  # of each run of equal samples
    copies, originals = order[~first_of_run], first[~first_of_run]
    foreign = owners[copies] != owners[originals]
    names = _row_names(partial, shards)
    pairs = sorted(zip(originals[foreign].tolist(), copies[foreign].tolist()))
    if pairs and not allowed:
        told = ("{} ({}) and {} ({})".format(*names(one), *names(other)) for one, other in pairs[:4])
        raise CohortError(
            f"source {source.name}: {len(pairs)} recordings have the same samples as one of another patient (records "
            f"{first_few(told)}); leave out the copies with --allow-copies, or give both the same patient and split"
        )
    n_own = int(len(copies) - foreign.sum())
    if n_own:
        log.warning("source %s: %d recordings are copies of another of the same patient", source.name, n_own)
    return {other: Dropped(names(other)[0], "copy", f"the samples of record {names(one)[0]}") for one, other in pairs}


def _sample_and_owner_hashes(partial: Path, shards: list[Shard]) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of the table, the head of its samples' checksum (n,) int64 and a hash of patient and split (n,) int64."""
    samples, owners = [], []
    for shard in shards:
        part = pq.read_table(files.part_file(partial, shard.number), columns=["samples_sha256", "patient", "split"])
        heads = (int(checksum[:15], 16) for checksum in part["samples_sha256"].to_pylist())
        samples.append(np.fromiter(heads, dtype=np.int64))
        people = zip(part["patient"].to_pylist(), part["split"].to_pylist())
        owners.append(np.fromiter((hash(person) for person in people), dtype=np.int64))
    return np.concatenate(samples), np.concatenate(owners)


def _row_names(partial: Path, shards: list[Shard]) -> Callable[[int], tuple[str, str]]:
    """A function that tells the record and split of a row of the table."""
    ends = np.cumsum([shard.n_records for shard in shards])

    def name(row: int) -> tuple[str, str]:
        at = int(np.searchsorted(ends, row, side="right"))
        part = pq.read_table(files.part_file(partial, shards[at].number), columns=["record", "split"])
        place = row - int(ends[at]) + shards[at].n_records
        return part["record"][place].as_py(), part["split"][place].as_py()

    return name


def _dropped_csv(dropped: list[Dropped]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["record", "reason", "detail"])
    table.writerows((entry.record, entry.reason, entry.detail) for entry in dropped)
    return text.getvalue()


def _description(
    partial: Path, source: Source, shards: list[Shard], settings: dict[str, float], ledger: Ledger
) -> dict[str, Any]:
    path = partial / "index.parquet"
    return {
        "format": FORMAT,
        "source": source.name,
        "leads": list(LEADS),
        "tasks": {task: list(classes) for task, classes in source.tasks.items()},
        "settings": settings,
        "ledger": dataclasses.asdict(ledger),
        "index": {"file": path.name, "size": path.stat().st_size, "sha256": sha256([path])},
        "shards": [{"number": shard.number, "file": shard.file, "size": shard.size} for shard in shards],
    }
