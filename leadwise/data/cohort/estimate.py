"""Estimate the time and disk space that preparing a source takes, by packing some of its recordings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from leadwise.data.cohort.shard import ShardJob, pack_shard, part_file
from leadwise.data.sources.source import Source, check


@dataclass(frozen=True)
class Estimate:
    """Figures measured on some recordings of a source, and their extrapolation to all recordings."""

    n_rows: int
    n_absent: int  # of all rows: the main file does not exist
    n_sampled: int
    n_kept: int  # retained recordings of those sampled
    records_per_s: float  # on one process
    bytes_per_record: float  # samples, table and heart images

    def table(self, n_workers: int, sizes: tuple[int, ...] = ()) -> list[dict[str, Any]]:
        """Table rows for all recordings of the source, and for other numbers of recordings."""
        lines: list[dict[str, Any]] = [
            {"what": "recordings that the source lists", "value": f"{self.n_rows:,}"},
            {"what": "their file is missing", "value": f"{self.n_absent:,}"},
            {"what": "packed as a sample", "value": f"{self.n_sampled:,}, {self.n_kept:,} retained"},
            {"what": "recordings a second, one process", "value": f"{self.records_per_s:,.0f}"},
        ]
        for n in dict.fromkeys((self.n_rows, *sizes)):
            minutes = n / self.records_per_s / 60
            size = n * self.n_kept / max(1, self.n_sampled) * self.bytes_per_record
            lines += [
                {"what": f"minutes for {n:,}, one process", "value": f"{minutes:,.1f}"},
                {
                    "what": f"minutes for {n:,}, {n_workers} workers if disks keep up",
                    "value": f"{minutes / n_workers:,.1f}",
                },
                {"what": f"gigabytes on disk for {n:,}", "value": f"{size / 1e9:,.2f}"},
            ]
        return lines


def estimate(source: Source, out: Path, min_report_words: int | None = None, n_sampled: int = 512) -> Estimate:
    """Pack `n_sampled` recordings spread evenly over the source and return an estimate for all of them.

    They are packed in a temporary folder beside `out`, on the same disk, and removed.

    Raises:
        CohortError: the source contradicts itself.
    """
    facts = check(source)
    n = min(n_sampled, len(source.rows))
    rows = [source.rows[place * len(source.rows) // n] for place in range(n)]
    n_words = source.min_report_words if min_report_words is None else min_report_words
    parent = Path(out).absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".estimate-", dir=parent) as name:
        folder = Path(name)
        (folder / "parts").mkdir()
        warm_up = ShardJob(
            folder, 0, rows[:1], n_words, facts.extra, source.tasks, source.volume
        )  # imports take time only once
        pack_shard(warm_up)
        began = time.perf_counter()
        shard = pack_shard(ShardJob(folder, 1, rows, n_words, facts.extra, source.tasks, source.volume))
        seconds = time.perf_counter() - began
        size = shard.size + part_file(folder, 1).stat().st_size + shard.volumes_size + shard.masks_size
    return Estimate(len(source.rows), facts.n_absent, n, shard.n_records, n / seconds, size / max(1, shard.n_records))
