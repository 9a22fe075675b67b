"""Progress in a file or a pipe: a plain line at the start of each task, some while it runs, one at its end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from leadwise.cli.progress_log import ProgressLog

_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(n_steps: int, seconds_per_step: float) -> list[str]:
    """The lines of a task of `n_steps`, without their time of day."""
    lines: list[str] = []
    clock = Clock()
    with ProgressLog(lines.append, clock=clock) as log:
        for step in range(n_steps + 1):
            clock.now = step * seconds_per_step
            log.update(f"pretrain|loss {step}", step, n_steps)
    assert all(_STAMP.match(line) for line in lines)
    return [_STAMP.sub("", line) for line in lines]


def test_a_short_task_writes_its_start_and_its_end() -> None:
    assert lines_of(1000, 0.001) == [
        "pretrain loss 0: 0 of 1,000 (0%), started",
        "pretrain loss 1000: 1,000 of 1,000 (100%), finished after 0:00:01",
    ]


def test_lines_come_every_tenth_and_not_more_often_than_every_ten_seconds() -> None:
    lines = lines_of(200, 1.0)
    assert len(lines) == 11
    assert lines[1] == "pretrain loss 20: 20 of 200 (10%), running after 0:00:20"
    assert len(lines_of(50, 1.0)) == 6  # a tenth takes 5 s


def test_a_slow_task_writes_a_line_every_minute() -> None:
    lines = lines_of(10_000, 1.0)
    assert len(lines) == 1 + 10_000 // 60 + 1


def test_tasks_that_start_again_and_tasks_that_never_reach_their_total() -> None:
    lines: list[str] = []
    with ProgressLog(lines.append, rate=True, clock=(clock := Clock())) as log:
        for _ in range(2):
            clock.now += 1.0
            log.update("embed", 0, 4)
            clock.now += 2.0
            log.update("embed", 4, 4)
            log.update("embed", 4, 4)
        log.update("robustness|noise", 0, 2)
        log.update("robustness|filter", 1, 2)
    assert [_STAMP.sub("", line) for line in lines] == [
        "embed: 0 of 4 (0%), started",
        "embed: 4 of 4 (100%), finished after 0:00:02, 2 records/s",
        "embed: 0 of 4 (0%), started",
        "embed: 4 of 4 (100%), finished after 0:00:02, 2 records/s",
        "robustness noise: 0 of 2 (0%), started",
        "robustness filter: 1 of 2 (50%), running after 0:00:00",
    ]


def test_a_redirected_command_writes_plain_lines(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "leadwise", "simulate", "--records", "3", "-o", str(tmp_path / "ecgs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [_STAMP.sub("", line) for line in done.stderr.splitlines() if _STAMP.match(line)]
    assert lines[0] == "simulate: 1 of 3 (33%), started"
    assert lines[-1].startswith("simulate: 3 of 3 (100%), finished after 0:00:0")
    assert "\x1b" not in done.stderr
