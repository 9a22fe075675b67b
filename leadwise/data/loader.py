"""Cohort -> Batch: recordings as a Signal promises them, and the order in which training sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from leadwise.batch import LEADS, Batch, Signal
from leadwise.data.cohort import Cohort
from leadwise.data.packing import scale_into, unpack
from leadwise.data.record import MISSING, conform


class Recordings:
    """Rows of a cohort as a Signal promises them."""

    def __init__(
        self,
        cohort: Cohort,
        signal: Signal,
        rows: np.ndarray | None = None,
        task: str | None = None,
    ) -> None:
        """`rows` are row numbers of the cohort: by default those of the task, or all. A task gives labels."""
        self.cohort = cohort
        self.signal = signal
        self.rows = np.asarray(cohort.rows(task=task) if rows is None else rows, dtype=np.int64)
        self._labels = None if task is None else cohort.labels(task, self.rows).astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: Sequence[int] | np.ndarray) -> Batch:
        """The recordings at these positions of `rows`, in this order."""
        places = np.asarray(positions, dtype=np.int64)
        shape = (len(places), len(self.signal.leads), self.signal.n_samples)
        ecg, observed = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=bool)  # (B, L, T)
        rows = self.rows[places]
        for number, row in enumerate(rows.tolist()):
            self._read(row, ecg[number], observed[number])
        return Batch(
            ecg=torch.from_numpy(ecg),
            observed=torch.from_numpy(observed),
            record=tuple(self.cohort.records.take(rows)),
            patient=tuple(self.cohort.patients.take(rows)),
            report=tuple(self.cohort.reports.take(rows)),
            label=None if self._labels is None else torch.from_numpy(self._labels[places]),
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

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All recordings in order; the last batch may be smaller."""
        for begin in range(0, len(self), batch_size):
            yield self.batch(np.arange(begin, min(begin + batch_size, len(self))))


class Sampler:
    """The positions of each step's batch, a pure function of the step: to resume is to begin at another step.

    Each epoch is a fresh permutation of all positions, and batches run on over its end: every recording is seen exactly
    once an epoch, and none is left out because the last batch would be small.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if n < 1 or batch_size < 1:
            raise ValueError(f"a sampler needs recordings and a batch size of at least 1; got {n} and {batch_size}")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size,) int64 of the batch of a step, counted from 0."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
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
