"""Cohort -> Batch: recordings as a Signal promises them, and the order in which training sees them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from leadwise.batch import LEADS, Batch, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.packing import scale_into, unpack
from leadwise.data.recordings.recording import MISSING
from leadwise.data.recordings.twelve_leads import conform


class Recordings:
    """Rows of a cohort as a Signal promises them."""

    def __init__(
        self,
        cohort: Cohort,
        signal: Signal,
        rows: np.ndarray | None = None,
        task: str | None = None,
        statements: bool = False,
        starts_s: np.ndarray | None = None,
        kept_s: float | None = None,
    ) -> None:
        """`rows` are row numbers of the cohort: by default those of the task, or all. A task gives labels.

        With `statements`, batches have the reports' statements as lists, too. `starts_s` (n,) says where in each row the
        promised part begins. With `kept_s` only so many seconds stay, and zeros after them count as observed.
        """
        self.cohort = cohort
        self.signal = signal
        self.rows = np.asarray(cohort.rows(task=task) if rows is None else rows, dtype=np.int64)
        self._with_statements = statements
        self._starts_s, self._kept_s = starts_s, kept_s
        self._labels = None if task is None else cohort.labels(task, self.rows).astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Sequence[int] | np.ndarray) -> Batch:
        """The recordings at these positions of `rows`, in this order."""
        places = np.asarray(positions, dtype=np.int64)
        shape = (len(places), len(self.signal.leads), self.signal.n_samples)
        ecg, observed = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=bool)  # (B, L, T)
        rows = self.rows[places]
        if self._starts_s is None and self._kept_s is None:
            for number, row in enumerate(rows.tolist()):
                self._read(row, ecg[number], observed[number])
        else:
            for number, place in enumerate(places.tolist()):
                self._read_part(place, ecg[number], observed[number])
        return Batch(
            ecg=torch.from_numpy(ecg),
            observed=torch.from_numpy(observed),
            record=tuple(self.cohort.records.take(rows)),
            patient=tuple(self.cohort.patients.take(rows)),
            report=tuple(self.cohort.reports.take(rows)),
            label=None if self._labels is None else torch.from_numpy(self._labels[places]),
            statements=tuple(map(tuple, self.cohort.statements(rows))) if self._with_statements else None,
        )

    def _read(self, row: int, ecg: np.ndarray, observed: np.ndarray) -> None:
        """One recording into ecg (L, T) float32 and observed (L, T) bool."""
        block, (uv_per_step, baseline, rate_hz) = self.cohort.block(row), self.cohort.scale(row)
        promised = self.signal
        n_kept = min(block.shape[1], promised.n_samples)
        start = (block.shape[1] - n_kept) // 2 if promised.window == "center" else 0
        kept = block[:, start : start + n_kept]
        if promised.leads != LEADS:
            columns = [LEADS.index(lead) for lead in promised.leads]
            kept, uv_per_step, baseline = kept[columns], uv_per_step[columns], baseline[columns]
        if rate_hz != promised.rate_hz or kept.min() == MISSING:
            ecg[:], observed[:] = conform(unpack(block, *self.cohort.scale(row)[:2]), rate_hz, promised)
            return
        # the common case at scale, nothing to resample or to bridge: the same numbers in a quarter of the time
        scale_into(ecg[:, :n_kept], kept, uv_per_step, baseline)
        ecg[:, n_kept:] = 0.0
        observed[:, :n_kept], observed[:, n_kept:] = True, False

    def _read_part(self, place: int, ecg: np.ndarray, observed: np.ndarray) -> None:
        """The same for a part that begins elsewhere, or that is cut short and padded."""
        row = int(self.rows[place])
        uv_per_step, baseline, rate_hz = self.cohort.scale(row)
        signal = unpack(self.cohort.block(row), uv_per_step, baseline)
        if self._kept_s is None:
            start_s = None if self._starts_s is None else float(self._starts_s[place])
            ecg[:], observed[:] = conform(signal, rate_hz, self.signal, start_s)
            return
        short = replace(self.signal, duration_s=min(self._kept_s, self.signal.duration_s))
        part, real = conform(signal, rate_hz, short)
        n_real = min(short.n_samples, math.ceil(len(signal) * self.signal.rate_hz / rate_hz))
        ecg[:, : short.n_samples], ecg[:, short.n_samples :] = part, 0.0
        observed[:, :n_real], observed[:, n_real:] = real[:, :n_real], real.any(axis=1, keepdims=True)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All recordings in order; the last batch may be smaller."""
        for begin in range(0, len(self), batch_size):
            yield self.batch(np.arange(begin, min(begin + batch_size, len(self))))


class Sampler:
    """The positions of each step's batch, a pure function of the step: to resume is to begin at another step.

    Each epoch is a fresh permutation of all positions, and batches run on over its end: every recording is seen exactly
    once an epoch, and none is left out because the last batch would be small. Of several processes, each takes an equal
    share of every batch; the batch itself does not depend on how many they are.

    As the sampler of a torch DataLoader it gives a process's positions of the epoch that `set_epoch` named.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, n_ranks: int = 1) -> None:
        if n < 1 or batch_size < 1:
            raise ValueError(f"a sampler needs recordings and a batch size of at least 1; got {n} and {batch_size}")
        if not 0 <= rank < n_ranks or batch_size % n_ranks:
            raise ValueError(f"rank {rank} of {n_ranks} has no equal share in batches of {batch_size}")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.n_ranks = rank, n_ranks
        self.epoch = 0
        self._orders: dict[int, np.ndarray] = {}

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration goes through."""
        self.epoch = epoch

    def __len__(self) -> int:
        """This process's positions of an epoch; what does not divide goes to the first ones, one more each."""
        return len(range(self.rank, self.n, self.n_ranks))

    def __iter__(self) -> Iterator[int]:
        yield from self._order(self.epoch)[self.rank :: self.n_ranks].tolist()

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size / n_ranks,) int64 of this process's share of a step's batch; steps count from 0."""
        share = self.batch_size // self.n_ranks
        begin = step * self.batch_size + self.rank * share
        places = np.arange(begin, begin + share)
        epochs = places // self.n
        chosen: np.ndarray = np.concatenate(
            [self._order(int(epoch))[places[epochs == epoch] % self.n] for epoch in np.unique(epochs)]
        )
        return chosen

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            while len(self._orders) > 1:  # two epochs can meet in a batch; older ones are not needed again
                self._orders.pop(min(self._orders))
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.n)
        return self._orders[epoch]


def prefetch_batches(
    recordings: Recordings, sampler: Sampler, start: int, stop: int, n_threads: int = 0, n_parts: int = 1
) -> Generator[Batch]:
    """The batches of the steps [start, stop), in order, each in `n_parts` equal parts; threads prepare the next ones.

    Without threads each is read when it is asked for. What a thread raises is raised here, in its batch's turn.
    """
    parts = (part for step in range(start, stop) for part in np.split(sampler.positions(step), n_parts))
    if not n_threads:
        yield from map(recordings.batch, parts)
        return
    pool, waiting = ThreadPoolExecutor(n_threads), deque[Future[Batch]]()
    try:
        for part in parts:
            waiting.append(pool.submit(recordings.batch, part))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
