"""What preparing a source would take, from some of its recordings packed for real."""

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
    """A sample's figures, and what they say of all."""

    n_rows: int
    n_absent: int  # of all rows: their main file is not there
    n_sampled: int
    n_kept: int  # of those sampled
    records_per_s: float  # on one process
    bytes_per_record: float  # samples and table

    def table(self, n_workers: int, sizes: tuple[int, ...] = ()) -> list[dict[str, Any]]:
        """Table rows for all recordings, and for other numbers of them."""
        lines: list[dict[str, Any]] = [
            {"what": "recordings that the source lists", "value": f"{self.n_rows:,}"},
            {"what": "their file is missing", "value": f"{self.n_absent:,}"},
            {"what": "packed as a sample", "value": f"{self.n_sampled:,}, {self.n_kept:,} kept"},
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
    """An estimate from `n_sampled` recordings spread evenly over the source, packed beside `out` and taken away again.

    Raises:
        CohortError: the source contradicts itself.
    """
    facts = check(source)
    n = min(n_sampled, len(source.rows))
    rows = [source.rows[place * len(source.rows) // n] for place in range(n)]
    least = source.min_report_words if min_report_words is None else min_report_words
    home = Path(out).absolute().parent
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".estimate-", dir=home) as folder:
        (Path(folder) / "parts").mkdir()
        warm_up = ShardJob(Path(folder), 0, rows[:1], least, facts.extra, source.tasks)  # imports are paid once
        pack_shard(warm_up)
        began = time.perf_counter()
        shard = pack_shard(ShardJob(Path(folder), 1, rows, least, facts.extra, source.tasks))
        seconds = time.perf_counter() - began
        size = shard.size + part_file(Path(folder), 1).stat().st_size
    return Estimate(len(source.rows), facts.n_absent, n, shard.n_records, n / seconds, size / max(1, shard.n_records))
