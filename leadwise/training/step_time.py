"""How long one training step takes, measured on a few steps: for dry runs, and for training budgets in minutes."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from leadwise import distributed
from leadwise import run as runs
from leadwise.config import Config
from leadwise.data.loader import Recordings, Sampler
from leadwise.run import Run
from leadwise.training.deterministic import deterministic_algorithms
from leadwise.training.gradient_step import Objective, device_of, queue_backward
from leadwise.training.inputs import TrainingData, give_phenotypes, open_data, with_classes
from leadwise.training.optimizer import make_optimizer
from leadwise.training.start import open_start
from leadwise.training.teacher import embed_teacher, open_teacher, with_teacher

_N_TEACHER = 64  # recordings on which the time of the teacher's embeddings is measured


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step: medians over the timed steps, averaged over the phases of training."""

    wall: float  # time that passed; other work on the machine makes it longer
    processor: float  # time that all threads of this process computed, added up

    @property
    def cores(self) -> float:
        """The cores that the process used on average. Below 1, it waited: for other processes, or for its data."""
        return self.processor / self.wall if self.wall > 0 else 1.0


def seconds_a_step(config: Config, n_timed: int = 5, n_warmup: int = 2) -> StepTime:
    """Return the time of a training step of a config on one thread, so that its processor time is that of one core.

    This does not depend on the number of threads with which the run is trained later, nor on other work on the machine. On a
    GPU, whose work is not in the processor time of the process, both times are the wall time.
    """
    with _one_thread():
        run, data, _ = open_in_memory(config)
        return time_steps(run, data.train, n_timed, n_warmup)


def open_in_memory(config: Config) -> tuple[Run, TrainingData, float | None]:
    """Return a new run without a folder, on its device, and its data; and the time of its teacher's embeddings in seconds.

    The teacher embeds a few recordings, whose embeddings are the targets of all; None if the method has no teacher.
    """
    data = open_data(config)
    teacher = open_teacher(config)
    config = with_teacher(with_classes(config, data.train.cohort), teacher)
    run = runs.create(config, data.texts, teacher=teacher, start=open_start(config))
    give_phenotypes(run.method, data)
    run.method.to(runs.choose_device(config.optim.device))
    if teacher is None:
        return run, data, None

    # the second of two equal passes is timed
    train = data.train
    few = Recordings(train.cohort, train.signal, train.rows[:_N_TEACHER])
    embed_teacher(run, teacher, few)
    timer_start = time.perf_counter()
    targets = embed_teacher(run, teacher, few)
    seconds = (time.perf_counter() - timer_start) / len(few) * len(train)
    with_targets = train.with_targets(targets[np.arange(len(train)) % len(few)])
    return run, dataclasses.replace(data, train=with_targets), seconds


def steps_in(config: Config, minutes: float, n_timed: int = 5, n_warmup: int = 2) -> tuple[int, float]:
    """Return how many steps fit into `minutes` of one core (of the GPU, if the config uses one), and the seconds of a step."""
    seconds = seconds_a_step(config, n_timed, n_warmup).processor
    return max(1, round(60 * minutes / max(seconds, 1e-6))), seconds


def time_steps(run: Run, train: Recordings, n_timed: int = 5, n_warmup: int = 1) -> StepTime:
    """Train `run`, in memory, for a few steps and return the mean time of one over the whole training.

    So many steps are timed in each phase of the method (`phase_ends`), after a warm-up that is not counted; the median of a
    phase counts by its share of the steps. Of several processes that `torchrun` started, each times its own share of the
    batch, without communication.
    """
    # what a step of the training loop needs
    method, optim = run.method.train(), run.config.optim
    model, optimizer = Objective(method), make_optimizer(method, optim)
    sampler = Sampler(len(train), optim.batch_size, optim.seed, 0, distributed.n_launched())
    on_gpu = device_of(method).type == "cuda"

    # the same steps as in the loop, each with its data
    mean_wall = mean_processor = phase_start = 0.0
    first = 0  # number of steps of the earlier phases
    with deterministic_algorithms(optim.deterministic):
        for phase_end in method.phase_ends:
            share, middle = phase_end - phase_start, (phase_start + phase_end) / 2
            method.after_step(middle)
            wall, processor = [], []
            for step in range(first, first + n_warmup + n_timed):
                wall_start, processor_start = time.perf_counter(), time.process_time()
                passes = np.split(sampler.positions(step), optim.accumulate)
                queued = queue_backward(model, [train.batch(positions) for positions in passes], step, optim)
                queued.read(torch.nn.utils.clip_grad_norm_(method.parameters(), optim.clip))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                method.after_step(middle)
                if on_gpu:
                    torch.cuda.synchronize()  # the step was only queued until here
                wall.append(time.perf_counter() - wall_start)
                processor.append(time.process_time() - processor_start)
            mean_wall += share * statistics.median(wall[n_warmup:])
            mean_processor += share * statistics.median(processor[n_warmup:])
            phase_start, first = phase_end, first + n_warmup + n_timed
    return StepTime(mean_wall, mean_wall if on_gpu else mean_processor)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A block in which torch computes on one thread; the number of threads is restored when it ends."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
