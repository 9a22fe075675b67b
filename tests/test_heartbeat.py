"""Which process made a run fail: from the records of all, without a run; and which one is slow."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from leadwise import heartbeat
from leadwise.heartbeat import Heartbeat, Record

HERE = f"on {socket.gethostname()} (process {os.getpid()})"


@pytest.fixture
def store() -> dist.Store:
    return dist.TCPStore("127.0.0.1", 0, None, True, timeout=timedelta(seconds=5), wait_for_workers=False)


def ranks(store: dist.Store, n: int = 3, timeout_s: float = 1.0) -> list[Heartbeat]:
    """Heartbeats of one process, as if they were of several; each has written its first record."""
    all_ranks = [Heartbeat(store, rank, n, timeout_s) for rank in range(n)]
    for one in all_ranks:
        one._write()
    return all_ranks


def change(store: dist.Store, rank: int, **values: object) -> None:
    record = Record(**json.loads(store.get(str(rank))))
    store.set(str(rank), json.dumps(dataclasses.asdict(dataclasses.replace(record, **values))))


def beating(store: dist.Store, monkeypatch: pytest.MonkeyPatch, of: tuple[int, ...]) -> None:
    """Let these ranks write a record whenever the judge looks again, as their threads do."""
    sleep = time.sleep

    def beat(seconds: float) -> None:
        sleep(seconds)
        for rank in of:
            change(store, rank, beat=json.loads(store.get(str(rank)))["beat"] + 1)

    monkeypatch.setattr(heartbeat.time, "sleep", beat)


def test_a_process_that_did_not_come_to_a_collective_hangs(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = ranks(store)
    for one in (first, second, third):
        one.begin_step(4)
    first.begin_collective()
    third.begin_collective()
    for one in (first, second, third):
        one._write()
    beating(store, monkeypatch, (1, 2))
    text = first.verdict(timed_out=True)
    assert text.startswith(f"rank 1 of 3 {HERE} hangs at step 4, in ")
    assert text.endswith("the others waited for it 1 s (optim.timeout_s)")
    assert third.verdict(timed_out=False) == text  # all say the same


def test_in_a_collective_of_torch_the_place_decides(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many collectives of our own everywhere: rank 2 is in none, the others wait in one of DDP."""
    first = ranks(store)[0]
    change(store, 1, waits=True)
    change(store, 2, place="read (loader.py:7)")
    beating(store, monkeypatch, (1, 2))
    assert "rank 2 of 3" in first.verdict(timed_out=True)
    assert "in read (loader.py:7)" in first.verdict(timed_out=True)


def test_who_waits_behind_a_hanging_process_is_not_blamed(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broadcast has reached rank 0, which waits in the next collective, and not rank 1, which waits for rank 2."""
    first = ranks(store)[0]
    first.begin_collective()
    change(store, 1, waits=True)
    beating(store, monkeypatch, (1, 2))
    text = first.verdict(timed_out=True)
    assert text.startswith("rank 2 of 3")
    assert "rank 1" not in text


def test_a_process_that_has_ended_or_is_silent_is_named(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ranks(store)[0]
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    change(store, 2, pid=child.pid, step=8, place="read (loader.py:7)")
    name = f"rank 2 of 3 on {socket.gethostname()} (process {child.pid})"
    assert first._judge(timed_out=False) == f"{name} has ended; its last record is of step 8, in read (loader.py:7)"
    change(store, 2, host="elsewhere", pid=1)  # its processes cannot be seen from here, and it writes no record
    beating(store, monkeypatch, (0, 1))
    assert first.verdict(timed_out=False).startswith(
        "rank 2 of 3 on elsewhere (process 1) gives no sign of life since "
    )


def test_nobody_is_blamed_if_all_are_terminated(store: dist.Store) -> None:
    first = ranks(store)[0]
    change(store, 1, leaves=True)
    change(store, 2, leaves=True)
    assert first.verdict(timed_out=False) == ""
    assert not store.check(["verdict"])


def test_without_the_store_that_is_the_message() -> None:
    own = dist.TCPStore("127.0.0.1", 0, None, True, timeout=timedelta(seconds=2), wait_for_workers=False)
    one = Heartbeat(dist.TCPStore("127.0.0.1", own.port, None, False, wait_for_workers=False), 1, 2, 1.0)
    del own
    assert (
        one.verdict(timed_out=False)
        == "the store of the run, which rank 0 or torchrun holds, does not answer rank 1 of 2"
    )


def test_a_slow_process_is_logged_once(store: dist.Store, caplog: pytest.LogCaptureFixture) -> None:
    first = ranks(store)[0]
    for rank, work_s in enumerate((0.2, 0.25, 0.9)):
        change(store, rank, step=4, work_s=work_s)
    first._warn_of_slow(first._read())
    assert caplog.text == ""  # the first steps are slower
    for rank in range(3):
        change(store, rank, step=5)
    with caplog.at_level(logging.WARNING):
        first._warn_of_slow(first._read())
        first._warn_of_slow(first._read())
    (line,) = caplog.messages
    assert line == (
        f"rank 2 of 3 {HERE} is slow: its own work in a step takes 0.90 s, that of the others 0.23 s (median); all wait for it"
    )


def test_own_work_is_counted_outside_of_collectives(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second in a collective, half a second outside. A validation, which only one step has, does not count."""
    first = Heartbeat(store, 0, 1, 10.0)
    waits = [True]
    monkeypatch.setattr(heartbeat, "_is_in_collective", lambda frame: waits[0])
    first.start()
    for step, waits[0] in enumerate((True, False, False)):
        first.begin_step(step)
        time.sleep(0.5)
    first.stop()
    waited, worked = first._recent
    assert waited < 0.2
    assert 0.3 < worked < 0.8
    first._recent.extend([worked] * 4 + [60.0])
    first._write()
    assert first._read()[0].work_s == worked


def test_a_collective_is_told_from_other_code() -> None:
    def frame_of(path: str, name: str) -> object:
        return SimpleNamespace(f_code=SimpleNamespace(co_filename=path, co_name=name))

    assert heartbeat._is_in_collective(frame_of("/p/torch/distributed/distributed_c10d.py", "all_gather"))
    assert heartbeat._is_in_collective(frame_of("/p/torch/nn/parallel/distributed.py", "_sync_buffers"))
    assert heartbeat._is_in_collective(frame_of("/p/torch/autograd/graph.py", "_engine_run_backward"))
    assert not heartbeat._is_in_collective(frame_of("/p/torch/nn/functional.py", "linear"))
    assert not heartbeat._is_in_collective(frame_of("/p/leadwise/distributed.py", "gather"))


def test_a_process_that_the_others_wait_for_is_logged_at_half_the_timeout(
    store: dist.Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ranks(store, 3, timeout_s=20.0)[0]
    change(store, 1, n_marks=5)
    change(store, 0, n_marks=5)
    since: dict[int, tuple[int, float]] = {}
    now = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    for now[0] in (100.0, 109.0):
        first._warn_of_late(first._read(), since)
    assert caplog.text == ""
    now[0] = 111.0
    with caplog.at_level(logging.WARNING):
        first._warn_of_late(first._read(), since)
    (line,) = caplog.messages
    assert line.startswith(f"the others wait for rank 2 of 3 {HERE} since 11 s: it is at step -1, in ")
