"""Write a source as a cohort on disk, shard by shard in `OUT.partial/`, which is renamed when it is complete.

Shards are packed by any `concurrent.futures.Executor`, or one by one in this process. After a crash, a full disk or a
repaired file, the same call goes on from the shards that are finished and still valid. Several machines can each pack a
share of the shards.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

from leadwise.data.cohort import index, left_out
from leadwise.data.cohort.layout import CohortError, Ledger
from leadwise.data.cohort.locking import locked
from leadwise.data.cohort.refusals import check_source, refuse_dropped
from leadwise.data.cohort.shard import (
    Shard,
    ShardJob,
    pack_shard,
)
from leadwise.data.formats.reading import files as files_of
from leadwise.data.messages import first_few
from leadwise.data.sources.source import Source, check, in_slices
from leadwise.files import exchange, is_disk_full, make_folder, naming_full_disk, sync
from leadwise.progress import Progress

log = logging.getLogger(__name__)

_CLOCKS_APART_S = 3600.0  # at most, of this machine and the one that stores the files

_OURS = re.compile(
    r"\.?((samples|volumes|volume-masks)-\d{5}\.npy|parts|index\.parquet|(dropped|volumes_left_out)\.csv|cohort\.json)"
    r"(\.tmp|\.\w+\.part)?"
)


@dataclass(frozen=True)
class WorkerPool:
    """An executor that packs shards, and the most shards it is given at once; only their rows are in memory."""

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
    """Write the cohort of a source to the folder `out` and return its ledger.

    Args:
        shard_records: recordings in a shard; the last one may have fewer.
        min_report_words: recordings whose report has fewer words are left out; None uses the source's own number.
        allow_missing: leave out recordings with a missing file.
        allow_unreadable: leave out recordings that cannot be read, and rows of the source's table that cannot be used.
        allow_copies: leave out recordings with the samples of another patient's recording.
        overwrite: replace a cohort that exists at `out`.
        pool: packs the shards; without it they are packed one by one in this process.
        progress: called with ("prepare", recordings done, recordings in total).

    Raises:
        CohortError: `out` exists and is not empty, another process prepares it, the source contradicts itself, two
            patients have the same samples, or the disk is full. Finished shards stay in `OUT.partial`, and the same call
            uses them.
        LeftOutError: files are missing or unreadable, or rows cannot be used, and may not be left out; `dropped.csv` in
            `OUT.partial` lists each with its reason.
    """
    # nothing is written before source and target are checked
    out = Path(out).absolute()  # other processes may have another working directory
    partial = out.with_name(out.name + ".partial")
    _check_target(out, overwrite)
    with naming_full_disk(out), locked(partial):
        _check_target(out, overwrite)  # another process may have finished it meanwhile
        if _is_finished(source, partial, shard_records, min_report_words):  # and killed before it had its name
            return _move_into_place(partial, out)
        facts = check_source(source, partial, allow_missing, allow_unreadable)
        make_folder(partial / "parts")
        jobs = ShardJobs(source, partial, shard_records, _min_report_words(source, min_report_words), facts.extra)
        _clear_leftovers(partial, len(jobs))
        # pack what is not finished; what may not be left out is an error only now, when all that can be packed is
        try:
            shards = _pack_shards(jobs, range(len(jobs)), pool, progress)
            refuse_dropped(source, shards, partial, allow_missing, allow_unreadable)
            settings = source.settings | {"shard_records": shard_records, "min_report_words": jobs.min_report_words}
            index.write_index(partial, source, shards, settings, facts.digest, allow_copies)
        except OSError as error:
            raise _disk_full_error(error, partial) from error
        # a cohort appears under its name only when it is whole
        return _move_into_place(partial, out)


def finished_ledger(
    source: Source, out: Path, *, shard_records: int = 2048, min_report_words: int | None = None
) -> Ledger | None:
    """The ledger of the cohort at `out` if `write` with the same source and settings finished it, else None.

    The same source: every row states the same, and no file of a recording is younger than the cohort.
    """
    path = Path(out) / "cohort.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        written = path.stat().st_mtime
        facts = check(source)
        settings = source.settings | {
            "shard_records": shard_records,
            "min_report_words": _min_report_words(source, min_report_words),
        }
        if (description["rows"], description["settings"]) != (facts.digest, settings):
            return None
        ledger = Ledger(**description["ledger"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if ledger.n_total != len(source.rows) + len(source.bad_rows) or _is_any_younger(source, written):
        return None
    if written > time.time() + _CLOCKS_APART_S:
        return None  # the clock was wrong then: times do not tell which files have changed since
    return ledger


def _is_any_younger(source: Source, written: float) -> bool:
    """Whether a file of a recording was changed after a time in seconds."""
    for row in in_slices(source.rows):
        images = (file for image in row.volumes.values() for file in image.files())
        for file in (*files_of(row.path), *images):
            try:
                if file.stat().st_mtime > written:
                    return True
            except OSError:
                continue  # gone since: the cohort has its samples
    return False


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
    """Pack every n-th shard from the i-th, for `share` = (i, n) with 1 <= i <= n, and return their number.

    For a job array: each job packs one share, in any order, on any machine. Then `write` with the same settings uses the
    finished shards and writes the cohort.

    Raises:
        CohortError: as `write`, except that unreadable files and rows that cannot be used are reported by the final
            `write`.
    """
    which, n_shares = share
    if not 1 <= which <= n_shares:
        raise CohortError(f"there is no share {which}/{n_shares}; use 1/{n_shares} to {n_shares}/{n_shares}")
    out = Path(out).absolute()
    partial = out.with_name(out.name + ".partial")
    _check_target(out, False)
    with naming_full_disk(out), locked(partial, share):
        _check_target(out, False)
        facts = check_source(source, partial, allow_missing, allow_bad_rows=True)
        make_folder(partial / "parts")
        jobs = ShardJobs(source, partial, shard_records, _min_report_words(source, min_report_words), facts.extra)
        try:
            return len(_pack_shards(jobs, range(which - 1, len(jobs), n_shares), pool, progress))
        except OSError as error:
            raise _disk_full_error(error, partial) from error


@dataclass(frozen=True)
class ShardJobs:
    """The shard jobs of a source as a sequence; a job and its rows are created when it is indexed."""

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
        source = self.source
        return ShardJob(self.folder, number, rows, self.min_report_words, self.extra, source.tasks, source.volume)


def _min_report_words(source: Source, min_report_words: int | None) -> int:
    return source.min_report_words if min_report_words is None else min_report_words


def _check_target(out: Path, overwrite: bool) -> None:
    is_used = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if is_used and not (out / "cohort.json").is_file():
        raise CohortError(
            f"{out} exists and is not a cohort, so it is not replaced; choose another folder with -o, or move it away"
        )
    if is_used and not overwrite:
        raise CohortError(
            f"cohort {out} exists already; pass --overwrite (overwrite=True) to replace it, or choose another folder with -o"
        )
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        foreign = sorted(entry.name for entry in partial.iterdir() if not _OURS.fullmatch(entry.name))
        if foreign:
            raise CohortError(
                f"{partial} contains {first_few(foreign)}, which `leadwise prepare` did not write; move it elsewhere"
            )


def _clear_leftovers(partial: Path, n_shards: int) -> None:
    """Delete incomplete files of a killed run, and shards with numbers beyond those of this run."""
    ledgers = (left_out.FILE, left_out.VOLUMES_FILE, "cohort.json")  # all written again at the end
    for path in [*partial.iterdir(), *(partial / "parts").iterdir()]:
        number = re.search(r"-(\d{5})\.", path.name)
        if path.suffix in (".tmp", ".part") or path.name in ledgers or (number and int(number[1]) >= n_shards):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _pack_shards(jobs: ShardJobs, numbers: range, pool: WorkerPool | None, progress: Progress | None) -> list[Shard]:
    """Pack the shards with these numbers and return them in order."""
    n_rows = sum(min(jobs.shard_records, len(jobs.source.rows) - n * jobs.shard_records) for n in numbers)
    n_done, shards = 0, []
    if progress is not None:
        progress("prepare", 0, n_rows)  # a pool reports only finished shards
    for shard in _pack_here(jobs, numbers, n_rows, progress) if pool is None else _pack_by_pool(jobs, numbers, pool):
        shards.append(shard)
        n_done += min(jobs.shard_records, len(jobs.source.rows) - shard.number * jobs.shard_records)
        if progress is not None:
            progress("prepare", n_done, n_rows)
    return sorted(shards, key=lambda shard: shard.number)


def _pack_here(jobs: ShardJobs, numbers: range, n_rows: int, progress: Progress | None) -> Iterator[Shard]:
    n_before = 0
    for number in numbers:
        job = jobs[number]

        def report(n_done: int, n_before: int = n_before) -> None:
            if progress is not None:
                progress("prepare", n_before + n_done, n_rows)

        yield pack_shard(job, report)
        n_before += len(job.rows)


def _pack_by_pool(jobs: ShardJobs, numbers: range, pool: WorkerPool) -> Iterator[Shard]:
    """Yield shards as they are finished; only the rows of submitted shards are in memory."""
    waiting = iter(numbers)
    submitted: set[Future[Shard]] = set()
    try:
        while True:
            for number in waiting:
                submitted.add(pool.executor.submit(pack_shard, jobs[number]))
                if len(submitted) >= pool.in_flight:
                    break
            if not submitted:
                return
            ended, submitted = wait(submitted, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
    except BrokenExecutor as error:
        raise CohortError(
            f"a worker process was killed, perhaps because memory ran out; finished shards are in {jobs.folder}: run the "
            "same command again with fewer workers"
        ) from error
    finally:
        for future in submitted:
            future.cancel()


def _disk_full_error(error: OSError, partial: Path) -> OSError | CohortError:
    """A CohortError that says how to go on if the disk is full; any other error unchanged."""
    if not is_disk_full(error):
        return error
    n_finished = len(list((partial / "parts").glob("part-*.json")))
    return CohortError(
        f"cohort {partial.with_suffix('')}: the disk is full; {n_finished} finished shards are in {partial}: free some space "
        "and run the same command again, which continues from them"
    )


def _is_finished(source: Source, partial: Path, shard_records: int, min_report_words: int | None) -> bool:
    """Whether an earlier run wrote everything in `partial` from the same source and settings, and removed its parts."""
    if (partial / "parts").exists():
        return False
    ledger = finished_ledger(source, partial, shard_records=shard_records, min_report_words=min_report_words)
    return ledger is not None


def _move_into_place(partial: Path, out: Path) -> Ledger:
    """Rename a complete cohort to `out`, and return its ledger. A cohort that is replaced is deleted last."""
    # the parts in one step: a kill between two of them would leave neither a finished cohort nor what it can be made of
    done, parts = partial / "parts.tmp", partial / "parts"
    if parts.exists():
        parts.rename(done)
    if done.exists():
        shutil.rmtree(done)
    sync(partial)
    replaced = out.with_name(f".{out.name}.replaced")
    if replaced.exists():
        shutil.rmtree(replaced)  # left by a killed run
    if not out.exists():
        partial.rename(out)
    elif exchange(partial, out):
        partial.rename(replaced)
    else:
        out.rename(replaced)
        try:
            partial.rename(out)
        except OSError:
            replaced.rename(out)
            raise
    sync(out.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
    description = json.loads((out / "cohort.json").read_text(encoding="utf-8"))
    return Ledger(**description["ledger"])
