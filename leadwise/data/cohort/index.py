"""Combine finished shards into the index of a cohort: one table, the ledger, and a check for copied recordings."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leadwise.batch import LEADS, Volume
from leadwise.data.cohort import left_out
from leadwise.data.cohort import shard as files
from leadwise.data.cohort.layout import (
    FORMAT,
    CohortError,
    Ledger,
    sha256,
)
from leadwise.data.cohort.left_out import LeftOutError
from leadwise.data.cohort.shard import Dropped, Shard
from leadwise.data.cohort.volume_shard import masks_file, volumes_file
from leadwise.data.cohort.volume_store import stored_geometry
from leadwise.data.messages import first_few
from leadwise.data.sources.source import Source
from leadwise.files import replacing

log = logging.getLogger(__name__)

_ORIGINS = ("recorded", "derived", "missing")


def write_index(
    partial: Path,
    source: Source,
    shards: list[Shard],
    settings: dict[str, float],
    digest: str,
    allow_copies: bool = False,
) -> Ledger:
    """Write index.parquet, dropped.csv and cohort.json to `partial` and return the ledger.

    One shard's rows are in memory at a time. With `allow_copies`, a recording with the samples of another patient's
    recording is left out; the first of them is retained. `digest` identifies the source's rows (`Facts.digest`).

    Raises:
        CohortError: two patients have the same samples.
        LeftOutError: no recording can be used; `dropped.csv` has the reasons.
    """
    # shards that contribute rows
    used = [shard for shard in shards if shard.n_records]
    dropped = [Dropped(row.record, "bad_row", row.reason) for row in source.bad_rows]
    dropped += [entry for shard in shards for entry in shard.dropped]
    n_total = len(source.rows) + len(source.bad_rows)
    if not used:
        left_out.write(partial / left_out.FILE, dropped)
        reasons = Counter(entry.reason for entry in dropped)
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        raise LeftOutError(
            f"source {source.name}: none of its {n_total} recordings can be used ({why}); correct the source or the "
            f"options; {partial / left_out.FILE} has the reason of each",
            partial / left_out.FILE,
        )

    # the table without copies, and the ledger
    copies = _find_copies(source, partial, used, allow_copies)
    dropped += copies.values()
    counts = _write_table(partial, used, copies)
    ledger = Ledger(
        n_total,
        sum(shard.n_records for shard in used) - len(copies),
        without_report=counts.n_without_report,
        **Counter(entry.reason for entry in dropped),
        **{f"n_leads_{origin}": counts.origins[origin] for origin in _ORIGINS},
    )

    # the other files; cohort.json comes last because it holds the index's checksum
    left_out.write(partial / left_out.FILE, dropped)
    if source.volume is not None:
        left_out.write(partial / left_out.VOLUMES_FILE, [entry for shard in shards for entry in shard.volume_problems])
    for shard in shards:
        if not shard.n_records:
            for name in (shard.file, volumes_file(shard.number), masks_file(shard.number)):
                (partial / name).unlink(missing_ok=True)
    description = _description(partial, source, used, settings, ledger) | {"rows": digest}
    files.write_text(partial / "cohort.json", json.dumps(description, indent=1) + "\n")
    return ledger


@dataclasses.dataclass(frozen=True)
class _TableCounts:
    """Counts over the rows of the written table."""

    origins: Counter[str]  # leads by origin
    n_without_report: int  # recordings


def _write_table(partial: Path, shards: list[Shard], left_out: Collection[int]) -> _TableCounts:
    """Write index.parquet without the rows numbered in `left_out`, shard by shard."""
    origins: Counter[str] = Counter()
    n_without_report, n_before = 0, 0
    with replacing(partial / "index.parquet") as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for shard in shards:
                part = pq.read_table(files.part_file(partial, shard.number)).combine_chunks()
                is_retained = [row not in left_out for row in range(n_before, n_before + len(part))]
                n_before += len(part)
                part = part if all(is_retained) else part.filter(is_retained).combine_chunks()
                if writer is None:
                    writer = pq.ParquetWriter(temporary, part.schema, compression="zstd")
                writer.write_table(part)
                for entry in pc.value_counts(pc.list_flatten(part["lead_origin"])).to_pylist():
                    origins[entry["values"]] += entry["counts"]
                n_without_report += pc.sum(pc.equal(part["report_words"], 0)).as_py() or 0
        finally:
            if writer is not None:
                writer.close()
    return _TableCounts(origins, n_without_report)


def _find_copies(source: Source, partial: Path, shards: list[Shard], allowed: bool) -> dict[int, Dropped]:
    """Return the rows of the table that have the samples of an earlier row of another patient or split.

    A model could train on one of them and be scored on the other. That is an error, unless `allowed`: then they are left
    out. There was no such pair in 4,961 recordings of PTB-XL; CSN has some. Copies within one patient, whose recordings
    are all in one split, only count twice: they give one warning.
    """
    # each row with the samples of an earlier row, and the first row of the run of equal samples
    samples, owners = _sample_and_owner_hashes(partial, shards)
    order = np.argsort(samples, kind="stable")
    first_of_run = np.concatenate(([True], samples[order][1:] != samples[order][:-1]))
    first = order[np.maximum.accumulate(np.where(first_of_run, np.arange(len(order)), 0))]
    copies, originals = order[~first_of_run], first[~first_of_run]

    # of these, the pairs of different patients or splits
    foreign = owners[copies] != owners[originals]
    names = _row_names(partial, shards)
    pairs = sorted(zip(originals[foreign].tolist(), copies[foreign].tolist()))
    if pairs and not allowed:
        listed = ("{} ({}) and {} ({})".format(*names(one), *names(other)) for one, other in pairs[:4])
        raise CohortError(
            f"source {source.name}: {len(pairs)} recordings have the same samples as one of another patient (records "
            f"{first_few(listed)}); leave out the copies with --allow-copies, or give both the same patient and split"
        )
    n_own = int(len(copies) - foreign.sum())
    if n_own:
        log.warning("source %s: %d recordings are copies of another of the same patient", source.name, n_own)
    return {other: Dropped(names(other)[0], "copy", f"the samples of record {names(one)[0]}") for one, other in pairs}


def _sample_and_owner_hashes(partial: Path, shards: list[Shard]) -> tuple[np.ndarray, np.ndarray]:
    """For each row of the table, the first digits of its samples' checksum and a hash of patient and split: (n,) int64 each."""
    samples, owners = [], []
    for shard in shards:
        part = pq.read_table(files.part_file(partial, shard.number), columns=["samples_sha256", "patient", "split"])
        heads = (int(checksum[:15], 16) for checksum in part["samples_sha256"].to_pylist())
        samples.append(np.fromiter(heads, dtype=np.int64))
        pairs = zip(part["patient"].to_pylist(), part["split"].to_pylist())
        owners.append(np.fromiter((hash(pair) for pair in pairs), dtype=np.int64))
    return np.concatenate(samples), np.concatenate(owners)


def _row_names(partial: Path, shards: list[Shard]) -> Callable[[int], tuple[str, str]]:
    """A function that returns the record and the split of a row of the table."""
    ends = np.cumsum([shard.n_records for shard in shards])

    def name(row: int) -> tuple[str, str]:
        at = int(np.searchsorted(ends, row, side="right"))
        part = pq.read_table(files.part_file(partial, shards[at].number), columns=["record", "split"])
        place = row - int(ends[at]) + shards[at].n_records
        return part["record"][place].as_py(), part["split"][place].as_py()

    return name


def _description(
    partial: Path, source: Source, shards: list[Shard], settings: dict[str, float], ledger: Ledger
) -> dict[str, Any]:
    path = partial / "index.parquet"
    return {
        "format": FORMAT,
        "source": source.name,
        **({"about": source.about} if source.about else {}),
        "leads": list(LEADS),
        "tasks": {task: list(classes) for task, classes in source.tasks.items()},
        **({"details": list(source.details)} if source.details else {}),
        "settings": settings,
        "ledger": dataclasses.asdict(ledger),
        "index": {"file": path.name, "size": path.stat().st_size, "sha256": sha256([path])},
        "shards": [{"number": shard.number, "file": shard.file, "size": shard.size} for shard in shards],
        **({"targets": list(source.targets)} if source.targets else {}),
        **({"bounds": source.bounds} if source.bounds else {}),
        **({} if source.volume is None else _volumes_description(source.volume, shards)),
    }


def _volumes_description(volume: Volume, shards: list[Shard]) -> dict[str, Any]:
    """The entries of cohort.json about heart images; further keys than these do not change the format."""
    entries = []
    for shard in shards:
        entry: dict[str, Any] = {"number": shard.number, "file": volumes_file(shard.number), "size": shard.volumes_size}
        if shard.masks_size:
            entry |= {"masks": masks_file(shard.number), "masks_size": shard.masks_size}
        entries.append(entry)
    problems = Counter(entry.reason for shard in shards for entry in shard.volume_problems)
    left = {"volumes_left_out": dict(sorted(problems.items()))} if problems else {}
    return {"volume": stored_geometry(volume), "volume_shards": entries, **left}
