"""Recordings -> shards: int16 samples as the files had them, and one table line of quality per recording.

A shard is a flat int16 `.npy`; a recording in it is lead-major (12, T0) at its native rate, -32768 = missing. A
shard is done when its marker stands in `parts/`; a crash leaves whole shards only.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leadwise.batch import LEADS
from leadwise.data import record
from leadwise.data.record import MISSING, Digital, RecordError, TwelveLead
from leadwise.data.rows import Row
from leadwise.files import replacing

FORMAT = 1  # of a cohort folder
_LARGEST = 32767
_HASHED_BYTES = 1 << 22

_FIELDS = pa.schema(
    [
        ("record", pa.string()),
        ("rate_hz", pa.float64()),
        ("n_samples", pa.int64()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("uv_per_step", pa.list_(pa.float64())),
        ("baseline", pa.list_(pa.int32())),
        ("lead_origin", pa.list_(pa.string())),
        ("lead_missing", pa.list_(pa.int64())),
        ("n_short_gaps", pa.list_(pa.int32())),
        ("n_long_gaps", pa.list_(pa.int32())),
        ("lead_flat", pa.list_(pa.bool_())),
        ("lead_max_mv", pa.list_(pa.float32())),
        ("lead_order", pa.string()),
        ("source_sha256", pa.string()),
        ("samples_sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class Ledger:
    """Where every recording of a source went."""

    n_total: int
    kept: int
    no_report: int = 0  # dropped: no report, where one was asked for
    short_report: int = 0  # dropped: fewer words than asked for
    missing_file: int = 0  # dropped: a file is not there
    unreadable: int = 0  # dropped: damaged, or something left unsaid
    nan: int = 0  # dropped: more than half of the recorded samples missing
    flat: int = 0  # dropped: every lead flat
    without_report: int = 0  # of those kept: they have no report
    n_leads_recorded: int = 0  # of those kept: leads that their files held
    n_leads_derived: int = 0  # of those kept: limb leads computed from I and II
    n_leads_missing: int = 0  # of those kept: leads that nobody has


@dataclass(frozen=True)
class Dropped:
    """A recording that is left out, and why."""

    record: str
    reason: str  # a field of the ledger
    detail: str = ""  # never report text


@dataclass(frozen=True)
class Shard:
    """A finished shard."""

    number: int
    file: str
    n_records: int
    size: int  # bytes
    sha256: str
    dropped: tuple[Dropped, ...]


# ---------------------------------------------------------------------------------------------------------- samples


def pack(recording: TwelveLead) -> Digital:
    """The recording as integers (T0, 12): the file's own where it has them, else rounded to 1 uV.

    Where a lead's range exceeds int16 at 1 uV, its step is the least whole number of uV that fits.
    """
    samples = np.full(recording.signal.shape, MISSING, dtype=np.int16)
    uv_per_step, baseline = np.ones(len(LEADS)), np.zeros(len(LEADS), dtype=np.int32)
    for lead, quality in enumerate(recording.quality):
        if quality.origin == "recorded" and recording.digital is not None:
            samples[:, lead] = recording.digital.samples[:, lead]
            uv_per_step[lead], baseline[lead] = recording.digital.uv_per_step[lead], recording.digital.baseline[lead]
            continue
        observed = np.isfinite(recording.signal[:, lead])
        if not observed.any():
            continue
        microvolts = recording.signal[observed, lead] * 1000.0
        uv_per_step[lead] = max(1.0, np.ceil(np.abs(microvolts).max() / _LARGEST))
        samples[observed, lead] = np.rint(microvolts / uv_per_step[lead]).astype(np.int16)
    return Digital(samples, uv_per_step, baseline)


def unpack(block: np.ndarray, uv_per_step: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Samples (12, T0) int16 as a signal (T0, 12) float32 in mV, NaN = missing."""
    signal = ((block - baseline[:, None]) * (uv_per_step[:, None] / 1000.0)).astype(np.float32)
    signal[block == MISSING] = np.nan
    turned: np.ndarray = signal.T
    return turned


def fault(recording: TwelveLead) -> tuple[str, str] | None:
    """Why a readable recording is of no use, as (reason, detail); None if it is."""
    recorded = [quality for quality in recording.quality if quality.origin == "recorded"]
    n_missing = sum(quality.n_missing for quality in recorded)
    share = n_missing / (len(recorded) * len(recording.signal))
    if share > 0.5:
        return "nan", f"{share:.0%} of its recorded samples are missing"
    seen = [quality for quality in recording.quality if quality.n_missing < len(recording.signal)]
    if all(quality.flat for quality in seen):
        doubt = f"; {recording.unit_doubt}" if recording.unit_doubt else ""
        return "flat", f"all {len(seen)} leads are flat{doubt}"
    return None


# ----------------------------------------------------------------------------------------------------------- shards


def write_shard(
    folder: Path, number: int, rows: Sequence[Row], plan: str, progress: Callable[[int], None] | None = None
) -> Shard:
    """The shard of these rows, written whole into `folder`; memory stays at one recording.

    `progress` hears how many of the rows are done.
    """
    file = f"samples-{number:05d}.npy"
    lines: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    temporary = folder / f"{file}.tmp"
    try:
        with temporary.open("w+b") as out:
            n_written = 0
            _write_header(out, 0)
            for n_done, row in enumerate(rows):
                if progress is not None:
                    progress(n_done)
                try:
                    line, samples = _recorded(row)
                except (RecordError, OSError) as error:
                    dropped.append(Dropped(row.record, "unreadable", str(error)))
                    continue
                if isinstance(line, Dropped):
                    dropped.append(line)
                    continue
                _append(out, samples)
                lines.append({**line, "shard": number, "offset": n_written})
                n_written += samples.size
            out.seek(0)
            _write_header(out, n_written)  # of constant length, whatever the count
            out.flush()
            os.fsync(out.fileno())
        size, digest = temporary.stat().st_size, sha256([temporary])
        temporary.replace(folder / file)
    finally:
        temporary.unlink(missing_ok=True)
    shard = Shard(number, file, len(lines), size, digest, tuple(dropped))
    parts = folder / "parts"
    write_table(parts / f"part-{number:05d}.parquet", pa.Table.from_pylist(lines, schema=_FIELDS))
    write_text(parts / f"part-{number:05d}.json", json.dumps({"plan": plan, **dataclasses.asdict(shard)}))
    return shard


def finished_shard(folder: Path, number: int, plan: str) -> Shard | None:
    """The shard that an earlier run finished under the same plan, if there is one."""
    marker = folder / "parts" / f"part-{number:05d}.json"
    if not marker.is_file():
        return None
    try:
        said = json.loads(marker.read_text())
        if said.pop("plan") != plan:
            return None
        shard = Shard(**{**said, "dropped": tuple(Dropped(**entry) for entry in said["dropped"])})
    except (ValueError, KeyError, TypeError):
        return None  # written by another version: done anew
    path = folder / shard.file
    if not path.is_file() or path.stat().st_size != shard.size or not _part(folder, number).is_file():
        return None
    return shard


def read_parts(folder: Path, shards: Iterable[Shard]) -> pa.Table:
    """The table lines of finished shards, in order."""
    return pa.concat_tables([pq.read_table(_part(folder, shard.number)) for shard in shards])


def plan(rows: Sequence[Row]) -> str:
    """A hash of everything that decides the samples of these rows: names, told facts, size and time of their files."""
    digest = hashlib.sha256(" ".join(_FIELDS.names).encode())  # a shard of another version has other columns
    for row in rows:
        stats = [path.stat() if path.is_file() else None for path in record.files(row.path)]
        known = [None if stat is None else (stat.st_size, stat.st_mtime_ns) for stat in stats]
        facts = (row.record, str(row.path), row.leads, row.rate_hz, row.units, known)
        digest.update(json.dumps(facts).encode() + b"\n")
    return digest.hexdigest()


def _part(folder: Path, number: int) -> Path:
    return folder / "parts" / f"part-{number:05d}.parquet"


def _recorded(row: Row) -> tuple[dict[str, Any] | Dropped, np.ndarray]:
    """One table line and the samples (12, T0) int16 of a recording, or why it is dropped."""
    read = record.read(row.path, leads=row.leads, rate_hz=row.rate_hz, units=row.units)
    twelve = record.twelve(dataclasses.replace(read, name=row.record))
    found = fault(twelve)
    if found is not None:
        return Dropped(row.record, *found), np.empty(0, dtype=np.int16)
    packed = pack(twelve)
    samples = np.ascontiguousarray(packed.samples.T)
    line = {
        "record": row.record,
        "rate_hz": twelve.rate_hz,
        "n_samples": len(twelve.signal),
        "uv_per_step": packed.uv_per_step.tolist(),
        "baseline": packed.baseline.tolist(),
        "lead_origin": [quality.origin for quality in twelve.quality],
        "lead_missing": [quality.n_missing for quality in twelve.quality],
        "n_short_gaps": [quality.n_short_gaps for quality in twelve.quality],
        "n_long_gaps": [quality.n_long_gaps for quality in twelve.quality],
        "lead_flat": [quality.flat for quality in twelve.quality],
        "lead_max_mv": [quality.max_abs_mv for quality in twelve.quality],
        "lead_order": twelve.lead_order,
        "source_sha256": sha256(record.files(row.path)),
        "samples_sha256": hashlib.sha256(samples.astype("<i2", copy=False).tobytes()).hexdigest(),
    }
    return line, samples


# ------------------------------------------------------------------------------------------------------------ files


def label_column(task: str, name: str) -> str:
    """The index column of a class."""
    return f"label.{task}.{name}"


def sha256(paths: Iterable[Path]) -> str:
    """The checksum of the files' contents, one after the other, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_HASHED_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """The text in a file, written whole."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_table(path: Path, table: pa.Table) -> None:
    """The table in a parquet file, written whole; the same table makes the same bytes."""
    with replacing(path) as part:
        pq.write_table(table.combine_chunks(), part, compression="zstd")


def is_disk_full(error: OSError) -> bool:
    """Whether an operation failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _append(out: BinaryIO, samples: np.ndarray) -> None:
    out.write(samples.astype("<i2", copy=False).tobytes())


def _write_header(out: BinaryIO, n_samples: int) -> None:
    header = {"descr": "<i2", "fortran_order": False, "shape": (n_samples,)}
    np.lib.format.write_array_header_1_0(out, header)
