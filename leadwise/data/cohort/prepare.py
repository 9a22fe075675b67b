"""A source -> a cohort on disk, built shard by shard in `OUT.partial/` and renamed when whole.

Shards are packed by any `concurrent.futures.Executor`, or one by one here. Run again after a crash, a full disk or a
mended file, it goes on from the shards that are finished and still true; several machines may each pack a share.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

from leadwise.data.cohort import index
from leadwise.data.cohort.layout import CohortError, Ledger
from leadwise.data.cohort.shard import (
    Shard,
    ShardJob,
    is_disk_full,
    pack_shard,
)
from leadwise.data.messages import first_few
from leadwise.data.sources.source import Source, check
from leadwise.progress import Progress

log = logging.getLogger(__name__)

_OURS = re.compile(r"\.?(samples-\d{5}\.npy|parts|index\.parquet|dropped\.csv|cohort\.json)(\.tmp|\.\w+\.part)?")


@dataclass(frozen=True)
class WorkerPool:
    """Who packs the shards, and how many may be under way at once: their rows are what is held in memory."""

    executor: Executor
    in_flight: int = 8


def write(
    source: Source,
    out: Path,
    *,
    shard_records: int = 2048,
    min_report_words: int | None = None,
    allow_missing: bool = False,
    allow_unreadable: bool = False,
    allow_copies: bool = False,
    overwrite: bool = False,
    pool: WorkerPool | None = None,
    progress: Progress | None = None,
) -> Ledger:
    """The ledger of the cohort written to the folder `out`; `progress` hears (recordings done, recordings in all).

    `min_report_words` unsaid is the source's own. Without a `pool`, shards are packed one by one in this process.

    Raises:
        CohortError: `out` exists and is not empty, the source contradicts itself, two patients have the same samples,
            files are missing or unreadable, and it is not allowed to leave them out; or the disk is full. What is
            finished stays in `OUT.partial` and is used when the same call is made again.
    """
    partial = _check_and_create(source, out, overwrite, allow_missing)
    works = ShardJobs(source, partial.folder, shard_records, _min_report_words(source, min_report_words), partial.extra)
    _clear_leftovers(partial.folder, len(works))
    try:
        shards = _pack_shards(works, range(len(works)), pool, progress)
        _refuse_dropped(source, shards, partial.folder, allow_missing, allow_unreadable)
        settings = source.settings | {"shard_records": shard_records, "min_report_words": works.min_report_words}
        ledger = index.write_index(partial.folder, source, shards, settings, allow_copies)
    except OSError as error:
        raise _disk_full_error(error, partial.folder) from error
    _move_into_place(partial.folder, Path(out))
    return ledger


def write_share(
    source: Source,
    out: Path,
    share: tuple[int, int],
    *,
    shard_records: int = 2048,
    min_report_words: int | None = None,
    allow_missing: bool = False,
    pool: WorkerPool | None = None,
    progress: Progress | None = None,
) -> int:
    """How many shards are packed after this: every n-th, from the i-th, of `share` = (i, n) with 1 <= i <= n.

    For a job array: every job takes its share, in any order, on any machine; `write` with the same settings then finds
    all shards finished and makes the cohort of them.

    Raises:
        CohortError: as `write`; what is missing or unreadable is said by `write` in the end.
    """
    which, n_shares = share
    if not 1 <= which <= n_shares:
        raise CohortError(f"the share {which}/{n_shares} is none; say 1/{n_shares} to {n_shares}/{n_shares}")
    partial = _check_and_create(source, out, False, allow_missing)
    works = ShardJobs(source, partial.folder, shard_records, _min_report_words(source, min_report_words), partial.extra)
    try:
        return len(_pack_shards(works, range(which - 1, len(works), n_shares), pool, progress))
    except OSError as error:
        raise _disk_full_error(error, partial.folder) from error


@dataclass(frozen=True)
class _Partial:
    folder: Path
    extra: dict[str, bool]


@dataclass(frozen=True)
class ShardJobs:
    """The shards of a source, each made when it is asked for."""

    source: Source
    folder: Path
    shard_records: int
    min_report_words: int
    extra: dict[str, bool]

    def __len__(self) -> int:
        return -(-len(self.source.rows) // self.shard_records)

    def __getitem__(self, number: int) -> ShardJob:
        begin = number * self.shard_records
        rows = list(self.source.rows[begin : begin + self.shard_records])
        return ShardJob(self.folder, number, rows, self.min_report_words, self.extra, self.source.tasks)


def _check_and_create(source: Source, out: Path, overwrite: bool, allow_missing: bool) -> _Partial:
    """The folder to build in, made only when the source and the target are fit."""
    out = Path(out).absolute()  # other processes may stand elsewhere
    _check_target(out, overwrite)
    facts = check(source)
    if facts.n_absent and not allow_missing:
        raise CohortError(_missing_message(source, facts.n_absent, facts.absent))
    partial = out.with_name(out.name + ".partial")
    (partial / "parts").mkdir(parents=True, exist_ok=True)
    return _Partial(partial, facts.extra)


def _min_report_words(source: Source, min_report_words: int | None) -> int:
    return source.min_report_words if min_report_words is None else min_report_words


def _missing_message(source: Source, n: int, files: Sequence[str]) -> str:
    return (
        f"source {source.name}: {n} of {len(source.rows)} recordings have a missing file ({first_few(files)}); fetch them, "
        "or leave them out with --allow-missing"
    )


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
            raise CohortError(f"{partial} holds {first_few(foreign)}, which is not ours; move it away")


def _clear_leftovers(partial: Path, n_shards: int) -> None:
    """Take away what a killed run left half-written, and shards beyond those of this run."""
    for path in [*partial.iterdir(), *(partial / "parts").iterdir()]:
        number = re.search(r"-(\d{5})\.", path.name)
        if path.suffix in (".tmp", ".part") or (number and int(number[1]) >= n_shards):
            path.unlink(missing_ok=True)


def _pack_shards(works: ShardJobs, numbers: range, pool: WorkerPool | None, progress: Progress | None) -> list[Shard]:
    """The shards of these numbers, in order."""
    n_rows = sum(min(works.shard_records, len(works.source.rows) - n * works.shard_records) for n in numbers)
    n_done, shards = 0, []
    for shard in _pack_here(works, numbers, n_rows, progress) if pool is None else _pack_by_pool(works, numbers, pool):
        shards.append(shard)
        n_done += min(works.shard_records, len(works.source.rows) - shard.number * works.shard_records)
        if progress is not None:
            progress("prepare", n_done, n_rows)
    return sorted(shards, key=lambda shard: shard.number)


def _pack_here(works: ShardJobs, numbers: range, n_rows: int, progress: Progress | None) -> Iterator[Shard]:
    n_before = 0
    for number in numbers:
        work = works[number]

        def heard(n_done: int, n_before: int = n_before) -> None:
            if progress is not None:
                progress("prepare", n_before + n_done, n_rows)

        yield pack_shard(work, heard)
        n_before += len(work.rows)


def _pack_by_pool(works: ShardJobs, numbers: range, pool: WorkerPool) -> Iterator[Shard]:
    """Shards as they are finished; never more rows in memory than those under way."""
    waiting = iter(numbers)
    under_way: set[Future[Shard]] = set()
    try:
        while True:
            for number in waiting:
                under_way.add(pool.executor.submit(pack_shard, works[number]))
                if len(under_way) >= pool.in_flight:
                    break
            if not under_way:
                return
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
    except BrokenExecutor as error:
        raise CohortError(
            f"a worker process was killed, perhaps for want of memory; what is finished is kept in {works.folder}: run the "
            "same command again, with fewer workers"
        ) from error
    finally:
        for future in under_way:
            future.cancel()


def _refuse_dropped(
    source: Source, shards: list[Shard], partial: Path, allow_missing: bool, allow_unreadable: bool
) -> None:
    dropped = [entry for shard in shards for entry in shard.dropped]
    missing = [entry for entry in dropped if entry.reason == "missing_file"]
    if missing and not allow_missing:
        raise CohortError(
            f"{_missing_message(source, len(missing), [entry.detail for entry in missing])}; the rest is kept in {partial} for "
            "the next run"
        )
    unreadable = [entry for entry in dropped if entry.reason == "unreadable"]
    if unreadable and not allow_unreadable:
        raise CohortError(
            f"source {source.name}: {len(unreadable)} recordings are unreadable ({unreadable[0].detail}; "
            f"records {first_few(entry.record for entry in unreadable)}); mend them, or leave them out with "
            f"--allow-unreadable; the rest is kept in {partial} for the next run"
        )


def _disk_full_error(error: OSError, partial: Path) -> OSError | CohortError:
    """A full disk in words of its own; another error as it is."""
    if not is_disk_full(error):
        return error
    n_kept = len(list((partial / "parts").glob("part-*.json")))
    return CohortError(
        f"cohort {partial.with_suffix('')}: the disk is full; {n_kept} finished shards are kept in {partial}: make room and "
        "run the same command again, it goes on from there"
    )


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
