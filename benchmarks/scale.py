"""Memory and time of preparing many records, and of opening an index of 800,035.

    python benchmarks/scale.py --records 2000 20000 100000 --workers 2

Trees in the shape of MIMIC-IV-ECG are simulated (12 leads, 10 s at 500 Hz; the records of a subject are windows of one
file, so that they fit this disk) and prepared by the command line. Memory is the sum of the resident memory of all
processes of the command, looked at twenty times a second; pages that they share count more than once. The index of
800,035 rows is the smallest cohort repeated under other names, its shards linked as often; a fresh process opens it and
reads random batches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe, table, write

from leadwise.data.cohort.layout import sha256

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from loads import memory_mb
from mimic_tree import write_tree

N_MIMIC = 800_035
OPENING = """
import json, resource, sys, time
import numpy as np
from leadwise.batch import Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings, Sampler

def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

imports = held()
began = time.perf_counter()
cohort = Cohort.open(sys.argv[1])
opened = time.perf_counter() - began
at_open = held()
recordings = Recordings(cohort, Signal(), cohort.rows(split="train", min_report_words=4))
sampler = Sampler(len(recordings), 64, 0)
sampler.positions(0)
began = time.perf_counter()
for step in range(50):
    recordings.batch(sampler.positions(step))
rate = 50 * 64 / (time.perf_counter() - began)
print(json.dumps({"rows": len(cohort), "imports": imports, "seconds": opened, "open": at_open, "read": held(), "rate": rate}))
"""


def prepare(tree: Path, out: Path, workers: int) -> dict[str, object]:
    command = [sys.executable, "-m", "leadwise", "prepare", "mimic_iv_ecg", str(tree), "-o", str(out)]
    command += ["--allow-missing", "--allow-unreadable", "--workers", str(workers)]
    began, peak = time.perf_counter(), 0.0
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while child.poll() is None:
        peak = max(peak, memory_mb(child.pid)[0])
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if child.returncode:
        raise SystemExit(child.stderr.read() if child.stderr else "")
    ledger = json.loads((out / "cohort.json").read_text())["ledger"]
    size = sum(path.stat().st_size for path in out.iterdir())
    n = ledger["n_total"]
    return {
        "records": f"{n:,}",
        "kept": f"{ledger['kept']:,}",
        "peak memory, MB, all processes": round(peak),
        "seconds": round(seconds, 1),
        "records/s": round(n / seconds),
        "GB written": round(size / 1e9, 2),
    }


def repeated(small: Path, big: Path) -> None:
    """A cohort of N_MIMIC rows out of a small one."""
    big.mkdir()
    part = pq.read_table(small / "index.parquet")
    description = json.loads((small / "cohort.json").read_text())
    shards, n_written = [], 0
    n_shards = len(description["shards"])
    with pq.ParquetWriter(big / "index.parquet", part.schema, compression="zstd") as writer:
        for turn in range(-(-N_MIMIC // len(part))):
            rows = part.slice(0, N_MIMIC - n_written)
            n_written += len(rows)
            for name in ("record", "patient"):
                values = [f"{value}-{turn}" for value in rows[name].to_pylist()]
                rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
            numbers = [number + turn * n_shards for number in rows["shard"].to_pylist()]
            rows = rows.set_column(rows.column_names.index("shard"), "shard", pa.array(numbers, pa.int32()))
            writer.write_table(rows)
            for shard in description["shards"]:
                file = f"samples-{shard['number'] + turn * n_shards:05d}.npy"
                os.link(small / shard["file"], big / file)
                shards.append({"number": shard["number"] + turn * n_shards, "file": file, "size": shard["size"]})
    index = big / "index.parquet"
    facts = {"file": index.name, "size": index.stat().st_size, "sha256": sha256([index])}
    (big / "cohort.json").write_text(json.dumps({**description, "index": facts, "shards": shards}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, nargs="+", default=[2000, 20_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where trees and cohorts may lie for a while")
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(dir=args.folder) as home:
        for n in sorted(args.records):
            write_tree(Path(home) / f"tree-{n}", n, shared_files=True)
            lines.append(prepare(Path(home) / f"tree-{n}", Path(home) / f"cohort-{n}", args.workers))
            print(lines[-1], flush=True)
        estimate = [sys.executable, "-m", "leadwise", "prepare", "mimic_iv_ecg", str(Path(home) / f"tree-{n}"), "-o"]
        estimate += [str(Path(home) / "never"), "--dry-run", "--workers", str(args.workers)]
        dry_run = subprocess.run(estimate, capture_output=True, text=True, check=True).stdout
        small = Path(home) / f"cohort-{min(args.records)}"
        repeated(small, Path(home) / "big")
        opening = [sys.executable, "-c", OPENING, str(Path(home) / "big")]
        result = json.loads(subprocess.run(opening, capture_output=True, text=True, check=True).stdout)
        index_gb = (Path(home) / "big" / "index.parquet").stat().st_size / 1e9
    text = f"""# Many records

Command: `python {" ".join(sys.argv)}`. {describe()}.

## Preparing, {args.workers} workers

{table(lines)}

The output of `--dry-run` for the largest folder, from a sample of 512 recordings:

```
{dry_run.strip()}
```

## An index of {result["rows"]:,} rows ({index_gb:.2f} GB on disk)

Opened in {result["seconds"]:.2f} s (aim: below 5), checksum of the index included. Memory:
{result["imports"]:.2f} GB with imports alone
(torch is one of them), {result["open"]:.2f} GB at most while opening (aim: below 1.5), {result["read"]:.2f} GB after fifty random
batches of 64, mapped samples included. Batches came at {result["rate"]:,.0f} records/s (the files are few, so all in the page
cache).
"""
    print(write("scale", text))


if __name__ == "__main__":
    main()
