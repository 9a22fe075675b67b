"""The time of a training step: by a clock that the tests move, so that no load on the machine changes a result."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import config_table

from leadwise import run as runs
from leadwise.config import Config, override, typed
from leadwise.reproduce.budget import Budget
from leadwise.training import dry_run, inputs, step_time


class FakeTime:
    """A wall clock and a processor clock. Each training step takes the next (wall, processor) seconds of `steps`."""

    def __init__(self, steps: list[tuple[float, float]]) -> None:
        self.wall, self.processor, self.steps = 0.0, 0.0, iter(steps)
        self.threads: list[int] = []

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.processor

    def step(self, *_: object) -> FakeTime:
        wall, processor = next(self.steps)
        self.wall, self.processor = self.wall + wall, self.processor + processor
        self.threads.append(torch.get_num_threads())
        return self

    def read(self, *_: object) -> dict[str, float]:
        """The terms of a queued step."""
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[tuple[float, float]]], FakeTime]:
    def install(steps: list[tuple[float, float]]) -> FakeTime:
        fake = FakeTime(steps)
        monkeypatch.setattr(step_time, "time", fake)
        monkeypatch.setattr(step_time, "queue_backward", fake.step)
        return fake

    return install


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(cohort_folder: Path) -> Config:
    return typed(Config, config_table(cohort_folder))


def test_a_step_is_the_median_of_the_timed_steps(config: Config, clock: Callable[..., FakeTime]) -> None:
    clock([(60.0, 30.0), (1.0, 0.5), (9.0, 0.5), (2.0, 0.25)])
    data = inputs.open_data(config)
    measured = step_time.time_steps(runs.create(config, data.texts), data.train, n_timed=3, n_warmup=1)
    assert measured == step_time.StepTime(wall=2.0, processor=0.5)
    assert measured.cores == 0.25


def test_phases_count_by_their_share_of_the_steps(config: Config, clock: Callable[..., FakeTime]) -> None:
    config = override(config, ["method.final_view=full", "method.final_share=0.25"])
    first, last = [(9.0, 9.0), (1.0, 0.5), (1.0, 0.5)], [(9.0, 9.0), (3.0, 1.5), (3.0, 1.5)]
    clock(first + last)
    data = inputs.open_data(config)
    run = runs.create(config, data.texts)
    measured = step_time.time_steps(run, data.train, n_timed=2, n_warmup=1)
    assert measured == step_time.StepTime(wall=0.75 * 1.0 + 0.25 * 3.0, processor=0.75 * 0.5 + 0.25 * 1.5)
    assert run.method.phase_ends == (0.75, 1.0)


def test_a_budget_in_minutes_counts_processor_time_of_one_thread(
    config: Config, clock: Callable[..., FakeTime], two_threads: None
) -> None:
    idle, loaded = [(0.1, 0.1)] * 7, [(0.8, 0.1)] * 7  # seven steps of the same work, alone and beside other processes
    fake = clock(idle)
    assert Budget(minutes=1).of(config).optim.steps == 600
    assert set(fake.threads) == {1}
    assert torch.get_num_threads() == 2
    clock(loaded)
    assert Budget(minutes=1).of(config).optim.steps == 600
    clock(loaded)
    assert Budget(minutes=0.0001).of(config).optim.steps == 1


def test_threads_are_restored_after_an_error(config: Config, clock: Callable[..., FakeTime], two_threads: None) -> None:
    clock([])
    with pytest.raises(StopIteration):
        step_time.seconds_a_step(config)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("wall", "is_warned"), [(0.1, False), (0.12, False), (0.5, True)])
def test_a_dry_run_estimates_wall_time_and_warns_where_the_process_waited(
    config: Config, clock: Callable[..., FakeTime], caplog: pytest.LogCaptureFixture, wall: float, is_warned: bool
) -> None:
    clock([(3.0, 3.0)] + [(wall, 0.1)] * 4 + [(30.0, 0.1)])  # the last step was interrupted
    long = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=7200))
    with caplog.at_level(logging.WARNING):
        facts = {row["what"]: row["value"] for row in dry_run.plan(long).estimate}
    assert facts["seconds a step"] == str(wall)
    assert facts["processor seconds a step"] == "0.1"
    assert facts["hours in all"] == str(round(2 * wall, 2))
    assert ("computed for 20 % of the timed steps" in caplog.text) == is_warned


def test_the_steps_of_a_minute_go_with_the_seconds_of_a_step(config: Config) -> None:
    steps, seconds = step_time.steps_in(config, 1.0, n_timed=2, n_warmup=1)
    assert seconds > 0
    assert steps == max(1, round(60 / seconds))
