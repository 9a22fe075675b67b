"""Pack rows of a source into a shard: a file of samples and a table with one line per recording.

A shard's samples are a flat int16 `.npy`. Each recording is lead-major (12, T0) at its native rate, -32768 = missing. A
shard is finished when its marker file exists in `parts/`, so a crash leaves whole shards only. Shards are independent of
each other: any process on any machine can pack one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leadwise.batch import Volume
from leadwise.data import reports
from leadwise.data.cohort.layout import FORMAT, label_column
from leadwise.data.cohort.packing import implausible_amplitude, pack, unusable_reason
from leadwise.data.cohort.volume_shard import FIELDS as VOLUME_FIELDS
from leadwise.data.cohort.volume_shard import VolumeShardWriter, masks_file, volumes_file
from leadwise.data.formats.reading import files as files_of
from leadwise.data.formats.reading import read
from leadwise.data.recordings import twelve_leads
from leadwise.data.recordings.recording import RecordError
from leadwise.data.sources.source import Row
from leadwise.files import is_disk_full, replacing

_SOURCE_FIELDS = pa.schema(
    [
        ("record", pa.string()),
        ("patient", pa.string()),
        ("split", pa.string()),
        ("report", pa.string()),
        ("report_words", pa.int32()),
        ("statements", pa.list_(pa.string())),
    ]
)
_FILE_FIELDS = pa.schema(
    [
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
        ("unused_leads", pa.list_(pa.string())),
        ("source_sha256", pa.string()),
        ("samples_sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class Dropped:
    """A recording that is left out of the cohort, and why."""

    record: str
    reason: str  # a field of the ledger
    detail: str = ""  # never report text


@dataclass(frozen=True)
class Shard:
    """A finished shard."""

    number: int
    n_records: int
    size: int  # bytes
    dropped: tuple[Dropped, ...]
    volumes_size: int = 0  # bytes of its heart images; 0 where the source has none
    masks_size: int = 0  # bytes of their masks; 0 where none has one
    volume_problems: tuple[Dropped, ...] = ()  # phases of heart images that are left out, of recordings that are not

    @property
    def file(self) -> str:
        """The name of its samples file in the cohort's folder."""
        return f"samples-{self.number:05d}.npy"


@dataclass(frozen=True)
class ShardJob:
    """One shard to pack, with everything that another process needs for it."""

    folder: Path
    number: int
    rows: list[Row]
    min_report_words: int
    extra: dict[str, bool]  # extra column -> whether it holds text
    tasks: dict[str, tuple[str, ...]]
    volume: Volume | None = None  # the heart images to store


def pack_shard(job: ShardJob, progress: Callable[[int], None] | None = None) -> Shard:
    """Return the finished shard of a job: the one that an earlier run wrote if it is still valid, else write it now.

    `progress` is called with the number of rows that are done.
    """
    files = [files_of(row.path) for row in job.rows]
    plan = _plan_hash(job, files)
    return _load_finished(job, plan) or _write_shard(job, files, plan, progress)


def _load_finished(job: ShardJob, plan: str) -> Shard | None:
    """The shard that an earlier run finished under the same plan, if it exists and is whole."""
    marker = part_file(job.folder, job.number, "json")
    try:
        fields = json.loads(marker.read_text(encoding="utf-8"))
        if fields.pop("plan") != plan:
            return None
        lists = {
            name: tuple(Dropped(**entry) for entry in fields.get(name, ())) for name in ("dropped", "volume_problems")
        }
        shard = Shard(**{**fields, **lists})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # written by another version of this code: pack it again
    sizes = {
        shard.file: shard.size,
        volumes_file(shard.number): shard.volumes_size,
        masks_file(shard.number): shard.masks_size,
    }
    for name, size in sizes.items():
        path = job.folder / name
        if size and (not path.is_file() or path.stat().st_size != size):
            return None
    return shard if part_file(job.folder, job.number).is_file() else None


def _plan_hash(job: ShardJob, files: list[tuple[Path, ...]]) -> str:
    """A hash of everything that determines a shard: the source's rows, and size and modification time of their files."""
    columns = [*_SOURCE_FIELDS.names, *job.extra.items(), *_FILE_FIELDS.names]  # differ between versions of this code
    about_volumes = [] if job.volume is None else [dataclasses.asdict(job.volume), VOLUME_FIELDS.names]
    digest = hashlib.sha256(json.dumps([FORMAT, columns, job.min_report_words, job.tasks, *about_volumes]).encode())
    for row, paths in zip(job.rows, files):
        stats = _stats(paths)
        values = (row.record, str(row.path), row.patient, row.split, row.report, row.statements, row.labels, row.extra)
        digest.update(
            json.dumps((*values, row.leads, row.rate_hz, row.units, row.item, row.facts_from_file, stats)).encode()
            + b"\n"
        )
        if row.volumes:
            images = {phase: (repr(file), _stats(file.files())) for phase, file in row.volumes.items()}
            digest.update(json.dumps(images).encode() + b"\n")
    return digest.hexdigest()


def _stats(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """Size and modification time of each file; (-1, -1) for one that is missing."""
    stats = []
    for path in paths:
        try:
            stat = path.stat()
            stats.append((stat.st_size, stat.st_mtime_ns))
        except OSError:
            stats.append((-1, -1))
    return stats


def part_file(folder: Path, number: int, kind: str = "parquet") -> Path:
    """The path of a shard's table, or with kind "json" of its marker."""
    return folder / "parts" / f"part-{number:05d}.{kind}"


def _write_shard(
    job: ShardJob, files: list[tuple[Path, ...]], plan: str, progress: Callable[[int], None] | None
) -> Shard:
    """Write a shard's samples, table and marker; in memory are one recording and the table's lines."""
    lines: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    path = job.folder / Shard(job.number, 0, 0, ()).file
    part_file(job.folder, job.number, "json").unlink(missing_ok=True)  # of another plan, whose files are replaced now

    # the samples, one recording after the other, behind a header whose count is filled in at the end
    with ExitStack() as stack:
        out = stack.enter_context(stack.enter_context(replacing(path)).open("w+b"))
        volumes = None
        if job.volume is not None:
            volumes = stack.enter_context(VolumeShardWriter(job.folder, job.number, job.volume))
        n_written = 0
        _write_header(out, 0)
        for n_done, (row, paths) in enumerate(zip(job.rows, files)):
            if progress is not None:
                progress(n_done)
            packed = _pack_row(row, paths, job.min_report_words)
            if isinstance(packed, Dropped):
                dropped.append(packed)
                continue
            line, samples = packed
            images = {} if volumes is None else volumes.add(row.record, row.volumes)
            lines.append({**line, "shard": job.number, "offset": n_written, **images})
            _append(out, samples)
            n_written += len(samples) // 2
        out.seek(0)
        _write_header(out, n_written)  # its length does not depend on the count

    # the table, then the marker: the shard is finished once the marker exists
    shard = Shard(job.number, len(lines), path.stat().st_size, tuple(dropped))
    if volumes is not None:
        sizes = [job.folder / name for name in (volumes_file(job.number), masks_file(job.number))]
        shard = dataclasses.replace(
            shard,
            volumes_size=sizes[0].stat().st_size,
            masks_size=sizes[1].stat().st_size if volumes.has_masks else 0,
            volume_problems=tuple(
                Dropped(record, one.reason, f"{one.phase}: {one.detail}") for record, one in volumes.problems
            ),
        )
    write_table(part_file(job.folder, job.number), _table(job, lines))
    marker = {"plan": plan, **dataclasses.asdict(shard)}
    write_text(part_file(job.folder, job.number, "json"), json.dumps(marker))
    return shard


def _pack_row(row: Row, files: tuple[Path, ...], min_report_words: int) -> tuple[dict[str, Any], bytes] | Dropped:
    """A recording's line of the table and its samples as little-endian int16, or the reason why it is dropped."""
    # its report; one that the file may hold is checked when the file has been read
    statements = reports.statements(row.report) if row.statements is None else list(row.statements)
    text = reports.join_statements(statements) if row.statements is None else row.report
    is_in_file = row.facts_from_file and not text
    if not is_in_file and len(text.split()) < min_report_words:
        return _without_report(row, len(text.split()))

    # its samples; an error that is not about this recording's files is raised
    try:
        recording = read(row.path, leads=row.leads, rate_hz=row.rate_hz, units=row.units, item=row.item)
        twelve = twelve_leads.to_twelve_leads(dataclasses.replace(recording, name=row.record))
        checksum = recording.sha256
        too_large = implausible_amplitude(twelve)
        if too_large:
            raise RecordError(too_large)
    except (RecordError, OSError) as error:
        if isinstance(error, OSError) and is_disk_full(error):
            raise
        absent = [path for path in files if not path.is_file()]
        if absent:
            return Dropped(row.record, "missing_file", str(absent[0]))
        return Dropped(row.record, "unreadable", str(error))
    extra = row.extra
    if row.facts_from_file:
        facts = {name: recording.stated.get(name) for name in row.extra if row.extra[name] is None}
        extra = row.extra | facts
        if is_in_file:
            statements = reports.statements(". ".join(recording.statements))
            text = reports.join_statements(statements)
            if len(text.split()) < min_report_words:
                return _without_report(row, len(text.split()))
    reason = unusable_reason(twelve)
    if reason is not None:
        return Dropped(row.record, *reason)

    # its line of the table
    packed = pack(twelve)
    samples = packed.samples.T.astype("<i2", copy=False).tobytes()
    line = {
        "record": row.record,
        "patient": row.patient,
        "split": row.split,
        "report": text,
        "report_words": len(text.split()),
        "statements": statements,
        **extra,
        "rate_hz": twelve.rate_hz,
        "n_samples": twelve.n_samples,
        "uv_per_step": packed.uv_per_step,
        "baseline": packed.baseline,
        "lead_origin": [quality.origin for quality in twelve.quality],
        "lead_missing": [quality.n_missing for quality in twelve.quality],
        "n_short_gaps": [quality.n_short_gaps for quality in twelve.quality],
        "n_long_gaps": [quality.n_long_gaps for quality in twelve.quality],
        "lead_flat": [quality.flat for quality in twelve.quality],
        "lead_max_mv": [quality.max_abs_mv for quality in twelve.quality],
        "lead_order": twelve.lead_order,
        "unused_leads": list(twelve.unused),
        "source_sha256": checksum,
        "samples_sha256": hashlib.sha256(samples).hexdigest(),
        "labels": row.labels,
    }
    return line, samples


def _without_report(row: Row, n_words: int) -> Dropped:
    return Dropped(row.record, "short_report", f"{n_words} words") if n_words else Dropped(row.record, "no_report")


def _table(job: ShardJob, lines: list[dict[str, Any]]) -> pa.Table:
    """The lines with the columns of the index: from the source, extra ones, from the files, then labels by name."""
    extra = [(name, pa.string() if is_text else pa.float64()) for name, is_text in job.extra.items()]
    fields = [*_SOURCE_FIELDS, *pa.schema(extra), *_FILE_FIELDS, *(() if job.volume is None else VOLUME_FIELDS)]
    columns = {
        field.name: pa.array([_cell(line.get(field.name), field.type) for line in lines], field.type)
        for field in fields
    }
    for task, classes in job.tasks.items():
        for name in classes:
            values = [line["labels"].get(task, {}).get(name) for line in lines]
            columns[label_column(task, name)] = pa.array(values, pa.int8())
    return pa.table(columns)


def _cell(value: Any, kind: pa.DataType) -> Any:
    """The value, converted to text in a text column: a source may have both numbers and text there."""
    return str(value) if value is not None and kind == pa.string() else value


# ------------------------------------------------------------------------------------------------------------ files


def write_text(path: Path, text: str) -> None:
    """Write a text file; under its own name it is never incomplete."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table to a parquet file, never incomplete under its own name; the same table gives the same bytes."""
    with replacing(path) as part:
        pq.write_table(table.combine_chunks(), part, compression="zstd")


def _append(out: BinaryIO, samples: bytes) -> None:
    out.write(samples)


def _write_header(out: BinaryIO, n_samples: int) -> None:
    header = {"descr": "<i2", "fortran_order": False, "shape": (n_samples,)}
    np.lib.format.write_array_header_1_0(out, header)
