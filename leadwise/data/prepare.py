"""A source -> a cohort on disk, built in `OUT.partial/` and renamed when whole.

Run again after a crash, a full disk or a mended file, it goes on from the shards that are finished and still true.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from leadwise.batch import LEADS
from leadwise.data import packing, record, reports
from leadwise.data.packing import FORMAT, Dropped, Ledger, Shard, label_column
from leadwise.data.rows import CohortError, Row, Source, check, listed

log = logging.getLogger(__name__)

_OURS = re.compile(r"\.?(samples-\d{5}\.npy|parts|index\.parquet|dropped\.csv|cohort\.json)(\.tmp|\.\d+\.part)?")


def write(
    source: Source,
    out: Path,
    *,
    shard_records: int = 2048,
    min_report_words: int = 0,
    allow_missing: bool = False,
    allow_unreadable: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Ledger:
    """The ledger of the cohort written to the folder `out`; `progress` hears (recordings done, recordings in all).

    Raises:
        CohortError: `out` exists and is not empty, the source contradicts itself, two patients have the same samples,
            files are missing or unreadable and not allowed to be, or the disk is full. What is finished stays in
            `OUT.partial` and is used when the same call is made again.
    """
    out = Path(out)
    check(source)
    _check_target(out, overwrite)
    rows, dropped = _worded(source.rows, min_report_words)
    rows, missing = _present(rows)
    if missing and not allow_missing:
        raise CohortError(
            f"source {source.name}: {len(missing)} of {len(rows) + len(missing)} recordings have a missing file "
            f"({listed(entry.detail for entry in missing)}); fetch them, or leave them out with --allow-missing"
        )
    dropped += missing
    partial = out.with_name(out.name + ".partial")
    try:
        shards = _write_shards(partial, rows, shard_records, progress)
        dropped += [entry for shard in shards for entry in shard.dropped]
        unreadable = [entry for entry in dropped if entry.reason == "unreadable"]
        if unreadable and not allow_unreadable:
            raise CohortError(
                f"source {source.name}: {len(unreadable)} recordings are unreadable ({unreadable[0].detail}; "
                f"records {listed(entry.record for entry in unreadable)}); mend them, or leave them out with "
                f"--allow-unreadable; the rest is kept in {partial} for the next run"
            )
        settings = {"shard_records": shard_records, "min_report_words": min_report_words}
        ledger = _write_index(partial, source, shards, dropped, settings)
    except OSError as error:
        if not packing.is_disk_full(error):
            raise
        n_kept = len(list((partial / "parts").glob("part-*.json")))
        raise CohortError(
            f"cohort {out}: the disk is full; {n_kept} finished shards are kept in {partial}: make room and run the "
            "same command again, it goes on from there"
        ) from error
    _move_into_place(partial, out)
    return ledger


def _check_target(out: Path, overwrite: bool) -> None:
    taken = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if taken and not overwrite:
        raise CohortError(f"cohort {out} exists already; say --overwrite to replace it, or name another folder")
    if taken and not (out / "cohort.json").is_file():
        raise CohortError(f"{out} is not a cohort and is not overwritten; remove it yourself or name another folder")
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        foreign = sorted(entry.name for entry in partial.iterdir() if not _OURS.fullmatch(entry.name))
        if foreign:
            raise CohortError(f"{partial} holds {listed(foreign)}, which is not ours; move it away")


def _worded(rows: list[Row], min_report_words: int) -> tuple[list[Row], list[Dropped]]:
    """Rows with reports long enough, and the others."""
    kept, dropped = [], []
    for row in rows:
        n_words = reports.n_words(row.report) if min_report_words > 0 else 0
        if n_words >= min_report_words:
            kept.append(row)
        elif n_words == 0:
            dropped.append(Dropped(row.record, "no_report"))
        else:
            dropped.append(Dropped(row.record, "short_report", f"{n_words} words"))
    return kept, dropped


def _present(rows: list[Row]) -> tuple[list[Row], list[Dropped]]:
    """Rows whose files are all there, and the others."""
    kept, dropped = [], []
    for row in rows:
        absent = [path for path in record.files(row.path) if not path.is_file()]
        if absent:
            dropped.append(Dropped(row.record, "missing_file", str(absent[0])))
        else:
            kept.append(row)
    return kept, dropped


def _write_shards(
    partial: Path, rows: list[Row], shard_records: int, progress: Callable[[int, int], None] | None
) -> list[Shard]:
    (partial / "parts").mkdir(parents=True, exist_ok=True)
    n_shards = -(-len(rows) // shard_records)
    _clear_leftovers(partial, n_shards)
    shards = []
    for number in range(n_shards):
        part = rows[number * shard_records : (number + 1) * shard_records]
        plan = packing.plan(part)
        shard = packing.finished_shard(partial, number, plan)
        if shard is None:
            shard = packing.write_shard(
                partial, number, part, plan, _shifted(progress, number * shard_records, len(rows))
            )
        else:
            log.info("shard %d of %d was finished by an earlier run", number + 1, n_shards)
        shards.append(shard)
    if progress is not None:
        progress(len(rows), len(rows))
    return shards


def _shifted(progress: Callable[[int, int], None] | None, n_before: int, n_rows: int) -> Callable[[int], None] | None:
    """A shard's own count as the count over all shards."""
    return None if progress is None else lambda n_done: progress(n_before + n_done, n_rows)


def _clear_leftovers(partial: Path, n_shards: int) -> None:
    """Take away what a killed run left half-written, and shards beyond those of this run."""
    for path in [*partial.iterdir(), *(partial / "parts").iterdir()]:
        number = re.search(r"-(\d{5})\.", path.name)
        if path.suffix in (".tmp", ".part") or (number and int(number[1]) >= n_shards):
            path.unlink()


def _write_index(
    partial: Path, source: Source, shards: list[Shard], dropped: list[Dropped], settings: dict[str, int]
) -> Ledger:
    parts = packing.read_parts(partial, shards) if shards else None
    if parts is None or len(parts) == 0:
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(Counter(entry.reason for entry in dropped).items()))
        raise CohortError(f"source {source.name}: none of its {len(source.rows)} recordings can be kept ({why})")
    by_record = {row.record: row for row in source.rows}
    rows = [by_record[name] for name in parts["record"].to_pylist()]
    _check_copies(source, rows, parts["samples_sha256"].to_pylist())
    index = pa.table(
        {**_source_columns(rows), **{name: parts[name] for name in parts.column_names if name != "record"}}
    )
    for name, column in _label_columns(rows, source.tasks).items():
        index = index.append_column(name, column)
    reasons = Counter(entry.reason for entry in dropped)
    n_silent = sum(n == 0 for n in index["report_words"].to_pylist())
    origins = Counter(origin for leads in parts["lead_origin"].to_pylist() for origin in leads)
    n_leads = {f"n_leads_{origin}": origins[origin] for origin in ("recorded", "derived", "missing")}
    ledger = Ledger(len(source.rows), len(rows), without_report=n_silent, **reasons, **n_leads)
    packing.write_table(partial / "index.parquet", index)
    packing.write_text(partial / "dropped.csv", _dropped_csv(source, dropped))
    for shard in shards:
        if not shard.n_records:
            (partial / shard.file).unlink(missing_ok=True)
    description = {
        "format": FORMAT,
        "source": source.name,
        "leads": list(LEADS),
        "tasks": {task: list(classes) for task, classes in source.tasks.items()},
        "settings": settings,
        "ledger": dataclasses.asdict(ledger),
        "index": _file_facts(partial / "index.parquet"),
        "shards": [
            {"number": shard.number, "file": shard.file, "size": shard.size, "sha256": shard.sha256}
            for shard in shards
            if shard.n_records
        ],
    }
    packing.write_text(partial / "cohort.json", json.dumps(description, indent=1) + "\n")
    return ledger


def _check_copies(source: Source, rows: list[Row], checksums: list[str]) -> None:
    """The same samples under two patients would be learnt in one split and scored in another: that is an error.

    Looked for in 4,961 recordings of PTB-XL, there was no such pair. Within one patient, whose recordings all stand in
    one split, copies only weigh double: one warning.
    """
    first: dict[str, Row] = {}
    shared = []
    n_copies = 0
    for row, checksum in zip(rows, checksums):
        owner = first.setdefault(checksum, row)
        if (owner.patient, owner.split) != (row.patient, row.split):
            shared.append(f"{owner.record} ({owner.split}) and {row.record} ({row.split})")
        elif owner is not row:
            n_copies += 1
    if shared:
        raise CohortError(
            f"source {source.name}: {len(shared)} recordings have the same samples as one of another patient (records "
            f"{listed(shared)}); leave out the copy, or give both the same patient and split"
        )
    if n_copies:
        log.warning("source %s: %d recordings are copies of another of the same patient", source.name, n_copies)


def _source_columns(rows: list[Row]) -> dict[str, pa.Array]:
    cleaned = [reports.clean(row.report) for row in rows]
    columns = {
        "record": pa.array([row.record for row in rows], pa.string()),
        "patient": pa.array([row.patient for row in rows], pa.string()),
        "split": pa.array([row.split for row in rows], pa.string()),
        "report": pa.array(cleaned, pa.string()),
        "report_words": pa.array([len(text.split()) for text in cleaned], pa.int32()),
    }
    for name in dict.fromkeys(name for row in rows for name in row.extra):
        values = [row.extra.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            columns[name] = pa.array([None if value is None else str(value) for value in values], pa.string())
        else:
            columns[name] = pa.array(values, pa.float64())
    return columns


def _label_columns(rows: list[Row], tasks: dict[str, tuple[str, ...]]) -> dict[str, pa.Array]:
    return {
        label_column(task, name): pa.array([row.labels.get(task, {}).get(name) for row in rows], pa.int8())
        for task, classes in tasks.items()
        for name in classes
    }


def _dropped_csv(source: Source, dropped: list[Dropped]) -> str:
    place = {row.record: number for number, row in enumerate(source.rows)}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["record", "reason", "detail"])
    table.writerows(dataclasses.astuple(entry) for entry in sorted(dropped, key=lambda entry: place[entry.record]))
    return text.getvalue()


def _file_facts(path: Path) -> dict[str, Any]:
    return {"file": path.name, "size": path.stat().st_size, "sha256": packing.sha256([path])}


def _move_into_place(partial: Path, out: Path) -> None:
    shutil.rmtree(partial / "parts")
    if out.exists():
        replaced = out.with_name(out.name + ".replaced")
        if replaced.exists():
            shutil.rmtree(replaced)  # a killed run left it
        out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced)
    else:
        partial.rename(out)
