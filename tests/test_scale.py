"""Preparing in parallel: processes, shares, a Dask cluster, kill -9, and the estimate from a sample."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_cohort import contents, source

from leadwise.data.cohort import (
    executors,
    layout,
    prepare,
    shard,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.estimate import estimate
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import WorkerPool, write, write_share


@pytest.mark.slow
def test_processes_and_threads_write_the_same_bytes(tmp_path: Path) -> None:
    data = source(tmp_path / "raw", n=12)
    write(data, tmp_path / "alone", shard_records=2)
    reports: list[tuple[int, int]] = []
    with executors.processes(2) as pool:
        write(data, tmp_path / "two", shard_records=2, pool=pool, progress=lambda _, done, n: reports.append((done, n)))
    with ThreadPoolExecutor(3) as threads:
        write(data, tmp_path / "threads", shard_records=2, pool=WorkerPool(threads, 3))
    assert contents(tmp_path / "two") == contents(tmp_path / "threads") == contents(tmp_path / "alone")
    assert reports == [(2 * done, 12) for done in range(7)]


def test_at_most_in_flight_shards_are_submitted_at_once(tmp_path: Path) -> None:
    data = source(tmp_path / "raw", n=12)
    submitted: list[int] = []
    ended: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, function, job):  # type: ignore[no-untyped-def, override]
            submitted.append(job.number)
            assert len(submitted) - len(ended) <= 3
            future = super().submit(function, job)
            future.add_done_callback(lambda _: ended.append(job.number))
            return future

    with Counting(2) as threads:
        write(data, tmp_path / "out", shard_records=1, pool=WorkerPool(threads, 3))
    assert sorted(submitted) == list(range(12))


@pytest.mark.slow
def test_a_local_dask_cluster_writes_the_same_bytes(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    data = source(tmp_path / "raw", n=8)
    write(data, tmp_path / "alone", shard_records=2)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, executors.dask(cluster.scheduler_address) as pool:
        assert pool.in_flight == 4
        write(data, tmp_path / "many", shard_records=2, pool=pool)
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")
    unreachable = executors.dask("tcp://127.0.0.1:1", seconds=0.5)
    with pytest.raises(CohortError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"), unreachable:
        pass


def test_shares_of_a_job_array_make_the_cohort_together(tmp_path: Path) -> None:
    data = source(tmp_path / "raw", n=11)
    write(data, tmp_path / "alone", shard_records=2)
    assert [write_share(data, tmp_path / "out", (i, 3), shard_records=2) for i in (3, 1, 2)] == [2, 2, 2]
    assert not (tmp_path / "out").exists()
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out.partial").glob("samples-*")}
    assert len(times) == 6
    write(data, tmp_path / "out", shard_records=2)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("samples-*")} == times
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    for share in ((0, 3), (4, 3)):
        with pytest.raises(CohortError, match=rf"there is no share {share[0]}/3; use 1/3 to 3/3"):
            write_share(data, tmp_path / "new", share)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cohort import source
from leadwise.data.cohort import executors
from leadwise.data.cohort.prepare import write

if __name__ == "__main__":
    data = source(Path({raw!r}), n=40)
    with executors.processes(2) as pool:
        report = lambda _, done, n: (print(done, flush=True), time.sleep(0.3))
        write(data, Path({out!r}), shard_records=2, pool=pool, progress=report)
"""


@pytest.mark.slow
def test_kill_9_redoes_at_most_the_shards_under_way(tmp_path: Path) -> None:
    data = source(tmp_path / "raw", n=40)
    write(data, tmp_path / "straight", shard_records=2)
    program = tmp_path / "killed.py"
    program.write_text(
        KILLED.format(tests=str(Path(__file__).parent), raw=str(tmp_path / "raw"), out=str(tmp_path / "out"))
    )
    # the program writes the same recordings again: the bytes are equal, only their times are not
    child = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 12:
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    _wait_until_unchanged(tmp_path / "out.partial")
    (tmp_path / "out.partial" / ".samples-00019.npy.0badcafe.part").write_bytes(b"half")
    finished = {path.name for path in (tmp_path / "out.partial" / "parts").glob("*.json")}
    assert 6 <= len(finished) < 20
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out.partial").glob("samples-*")}
    write(data, tmp_path / "out", shard_records=2)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("samples-*")}
    redone = [name for name in before if after[name] != before[name]]
    assert len(redone) <= 3  # two processes, and one shard between its samples and its marker
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def _wait_until_unchanged(folder: Path) -> None:
    """Wait until no worker writes: they end within a second or two of the process that started them."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        time.sleep(2.5)
        if state == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}:
            return
    raise AssertionError("a worker still writes")


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import os, time\n"
        "from leadwise.data.cohort import executors\n"
        "if __name__ == '__main__':\n"
        "    with executors.processes(1) as pool:\n"
        "        print(pool.executor.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    worker = int(child.stdout.readline())
    child.kill()
    child.wait()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").exists() and Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the worker still runs")


def die(job: shard.ShardJob) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = source(tmp_path / "raw", n=6)
    with monkeypatch.context() as patch, executors.processes(2) as pool:
        patch.setattr(prepare, "pack_shard", die)
        with pytest.raises(
            CohortError, match="a worker process was killed, perhaps because memory ran out; finished shards"
        ):
            write(data, tmp_path / "out", shard_records=2, pool=pool)
    assert write(data, tmp_path / "out", shard_records=2).kept == 6


def test_an_estimate_packs_a_sample_and_leaves_nothing(tmp_path: Path) -> None:
    data = source(tmp_path / "raw", n=10)
    result = estimate(data, tmp_path / "out", n_sampled=5)
    assert (result.n_rows, result.n_sampled, result.n_kept, result.n_absent) == (10, 5, 5, 0)
    assert result.records_per_s > 0
    assert result.bytes_per_record > 2 * 12 * 400
    table = {row["what"]: row["value"] for row in result.table(4, (800_035,))}
    one, many = (
        float(table[f"minutes for 800,035, {who}"].replace(",", ""))
        for who in ("one process", "4 workers if disks keep up")
    )
    assert many == pytest.approx(one / 4, abs=0.1)
    expected = 800_035 * result.bytes_per_record / 1e9
    assert float(table["gigabytes on disk for 800,035"]) == pytest.approx(expected, abs=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_statements_are_stored_beside_the_report(tmp_path: Path) -> None:
    import dataclasses

    data = source(tmp_path / "raw", n=3)
    listed = dataclasses.replace(
        data.rows[0], report="sinus rhythm. rate > 90; note. x.", statements=("sinus rhythm", "rate > 90; note. x")
    )
    data.rows[0] = listed
    write(data, tmp_path / "out")
    cohort = Cohort.open(tmp_path / "out")
    assert cohort.reports[0] == "sinus rhythm. rate > 90; note. x."  # unchanged from the source
    assert cohort.statements(np.array([2, 0])) == [
        ["patient says something private"],
        ["sinus rhythm", "rate > 90; note. x"],
    ]
    assert json.loads((tmp_path / "out" / "cohort.json").read_text())["format"] == layout.FORMAT
