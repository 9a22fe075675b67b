"""Read recordings of a cohort as batches for a model, and determine the order in which training uses them."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from leadwise.batch import LEADS, SEXES, Batch, Signal, Volume, Wordings
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.packing import scale_into, unpack
from leadwise.data.cohort.volume_store import minmax
from leadwise.data.recordings.recording import MISSING
from leadwise.data.recordings.twelve_leads import conform

_AT_ONCE = 8  # recordings that are scaled together: their samples stay in the processor's cache


class Recordings:
    """Rows of a cohort, read with the leads, rate and duration of a `Signal`."""

    def __init__(
        self,
        cohort: Cohort,
        signal: Signal,
        rows: np.ndarray | None = None,
        task: str | None = None,
        statements: bool = False,
        starts_s: np.ndarray | None = None,
        retained_s: float | None = None,
        wordings: bool = False,
        volume: Volume | None = None,
        phenotypes: Sequence[str] = (),
        person: bool = False,
    ) -> None:
        """
        Args:
            rows: row numbers of the cohort; by default those of the task, or all.
            task: batches contain the labels of this task.
            statements: batches contain the statements of the reports.
            starts_s: (n,) where the part to read begins in each row, in seconds; NaN: where `signal.window` puts it.
            retained_s: only so many seconds are read; the zeros after them count as observed.
            wordings: batches contain the statements, and other wordings of each (`leadwise.data.wordings`).
            volume: batches contain these heart images; phases, shape and spacing must be those of the cohort.
            phenotypes: batches contain these phenotypes of the cohort.
            person: batches contain age and sex, unknown where the cohort does not have them.

        Raises:
            CohortError: the cohort has no such heart images or phenotypes.
        """
        self.cohort = cohort
        self.signal = signal
        self.rows = np.asarray(cohort.rows(task=task) if rows is None else rows, dtype=np.int64)
        self._with_statements, self._with_wordings = statements or wordings, wordings
        self._starts_s, self._retained_s = starts_s, retained_s
        self._labels = None if task is None else cohort.labels(task, self.rows).astype(np.float32)
        self._targets: np.ndarray | None = None
        self.volume, self.phenotypes = volume, tuple(phenotypes)
        self._phases = [] if volume is None else cohort.volume_store.places(volume)
        self._phenotypes = cohort.phenotypes(self.phenotypes, self.rows) if self.phenotypes else None
        self._person = person_table(cohort, self.rows) if person else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> np.ndarray | None:
        """The targets (n, D) of `with_targets`; None without them."""
        return self._targets

    @property
    def phenotype_table(self) -> np.ndarray:
        """The phenotypes (n, Q) float32 of all recordings, NaN where unknown."""
        return np.zeros((len(self), 0), dtype=np.float32) if self._phenotypes is None else self._phenotypes

    @property
    def has_volume(self) -> np.ndarray:
        """Which of the phases of `volume` each recording has: (n, P) bool."""
        has: np.ndarray = self.cohort.has_volume(self.rows)[:, self._phases]
        return has

    def with_targets(self, targets: np.ndarray) -> Recordings:
        """Return the same recordings with `Batch.target`, given one row of `targets` (n, D) float32 per recording."""
        if len(targets) != len(self):
            raise ValueError(f"{len(targets)} targets for {len(self)} recordings")
        out = copy.copy(self)
        out._targets = targets
        return out

    def batch(self, positions: Sequence[int] | np.ndarray) -> Batch:
        """The recordings at these positions of `rows`, in this order."""
        places = np.asarray(positions, dtype=np.int64)
        shape = (len(places), len(self.signal.leads), self.signal.n_samples)
        ecg, observed = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=bool)  # (B, L, T)
        rows = self.rows[places]
        if self._starts_s is None and self._retained_s is None:
            for begin in range(0, len(rows), _AT_ONCE):
                some = slice(begin, begin + _AT_ONCE)
                self._read_rows(rows[some], ecg[some], observed[some])
        else:
            for number, place in enumerate(places.tolist()):
                if self._starts_s is not None and np.isnan(self._starts_s[place]):
                    self._read(int(rows[number]), ecg[number], observed[number])
                    continue
                self._read_part(place, ecg[number], observed[number])
        statements = tuple(map(tuple, self.cohort.statements(rows))) if self._with_statements else None
        return Batch(
            ecg=torch.from_numpy(ecg),
            observed=torch.from_numpy(observed),
            record=tuple(self.cohort.records.take(rows)),
            patient=tuple(self.cohort.patients.take(rows)),
            report=tuple(self.cohort.reports.take(rows)),
            label=None if self._labels is None else torch.from_numpy(self._labels[places]),
            statements=statements,
            wordings=self._wordings(statements) if statements and self._with_wordings else None,
            target=None if self._targets is None else torch.from_numpy(self._targets[places]),
            volume=None if self.volume is None else torch.from_numpy(self._read_volumes(rows, self.volume)),
            has_volume=None if self.volume is None else torch.from_numpy(self._present(rows)),
            phenotype=None if self._phenotypes is None else torch.from_numpy(self._phenotypes[places]),
            person=None if self._person is None else torch.from_numpy(self._person[places]),
        )

    def _present(self, rows: np.ndarray) -> np.ndarray:
        """Which of the requested phases each row has: (B, P) bool."""
        return np.ascontiguousarray(self.cohort.has_volume(rows)[:, self._phases])

    def _read_volumes(self, rows: np.ndarray, volume: Volume) -> np.ndarray:
        """The heart images (B, P, D, H, W) float32 of rows, 0 where absent."""
        store, out = self.cohort.volume_store, np.empty((len(rows), *volume.shape), dtype=np.float32)
        for number, row in enumerate(rows.tolist()):
            out[number] = store.read(row, self._phases)
        if volume.normalize == "minmax":
            minmax(out)
        return out

    @staticmethod
    def _wordings(statements: Sequence[Sequence[str]]) -> tuple[tuple[Wordings, ...], ...]:
        """Other wordings of each statement of each report; the dictionary is read with the first batch that needs it."""
        from leadwise.data.wordings import wordings

        return tuple(tuple(map(wordings, report)) for report in statements)

    def _read_rows(self, rows: np.ndarray, ecg: np.ndarray, observed: np.ndarray) -> None:
        """`_read` of a few recordings, into ecg and observed (B, L, T): together if all of them are complete."""
        uv_per_step, baseline, rate_hz, n_samples = self.cohort.scales(rows)
        signal = self.signal
        if signal.leads == LEADS and (rate_hz == signal.rate_hz).all() and (n_samples == signal.n_samples).all():
            for row, samples in zip(rows.tolist(), ecg):
                samples[:] = self.cohort.block(row)
            if ecg.min() != MISSING:
                scale_into(ecg, ecg, uv_per_step, baseline)
                observed[:] = True
                return
        for number, row in enumerate(rows.tolist()):
            self._read(row, ecg[number], observed[number])

    def _read(self, row: int, ecg: np.ndarray, observed: np.ndarray) -> None:
        """Read one recording into ecg (L, T) float32 and observed (L, T) bool."""
        block, (uv_per_step, baseline, rate_hz) = self.cohort.block(row), self.cohort.scale(row)
        signal = self.signal
        n_read = min(block.shape[1], signal.n_samples)
        start = (block.shape[1] - n_read) // 2 if signal.window == "center" else 0
        samples = block[:, start : start + n_read]
        if signal.leads != LEADS:
            columns = [LEADS.index(lead) for lead in signal.leads]
            samples, uv_per_step, baseline = samples[columns], uv_per_step[columns], baseline[columns]
        if rate_hz != signal.rate_hz or samples.min() == MISSING:
            ecg[:], observed[:] = conform(unpack(block, *self.cohort.scale(row)[:2]), rate_hz, signal)
            return
        # the usual case in large cohorts, without resampling or gaps: the same numbers in a quarter of the time
        scale_into(ecg[:, :n_read], samples, uv_per_step, baseline)
        ecg[:, n_read:] = 0.0
        observed[:, :n_read], observed[:, n_read:] = True, False

    def _read_part(self, place: int, ecg: np.ndarray, observed: np.ndarray) -> None:
        """The same for a part that begins at `starts_s`, or that is cut at `retained_s` and padded."""
        row = int(self.rows[place])
        uv_per_step, baseline, rate_hz = self.cohort.scale(row)
        signal = unpack(self.cohort.block(row), uv_per_step, baseline)
        if self._retained_s is None:
            start_s = None if self._starts_s is None else float(self._starts_s[place])
            ecg[:], observed[:] = conform(signal, rate_hz, self.signal, start_s)
            return
        cropped = replace(self.signal, duration_s=min(self._retained_s, self.signal.duration_s))
        part, real = conform(signal, rate_hz, cropped)
        n_real = min(cropped.n_samples, math.ceil(len(signal) * self.signal.rate_hz / rate_hz))
        ecg[:, : cropped.n_samples], ecg[:, cropped.n_samples :] = part, 0.0
        observed[:, :n_real], observed[:, n_real:] = real[:, :n_real], real.any(axis=1, keepdims=True)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over all recordings in order; the last batch may be smaller."""
        for begin in range(0, len(self), batch_size):
            yield self.batch(np.arange(begin, min(begin + batch_size, len(self))))


def person_table(cohort: Cohort, rows: np.ndarray) -> np.ndarray:
    """Return age in years and sex (0 male, 1 female) of rows of a cohort: (n, 2) float32, NaN where unknown."""
    table = np.full((len(rows), 2), np.nan, dtype=np.float32)
    if "age" in cohort.column_names:
        table[:, 0] = cohort.column("age", rows).to_numpy(dtype=np.float32, na_value=np.nan)
    if "sex" in cohort.column_names:
        number = {sex: float(i) for i, sex in enumerate(SEXES)}
        table[:, 1] = [number.get(text, np.nan) for text in cohort.column("sex", rows)]
    return table


class Sampler:
    """The positions of each step's batch, a pure function of the step: a resumed run starts at another step.

    Each epoch is a new permutation of all positions, and a batch may extend over the end of an epoch: every recording is
    used exactly once per epoch, and no incomplete batch is dropped. With several processes, each takes an equal share of
    every batch; the batch does not depend on their number.

    As the sampler of a torch DataLoader, it iterates over a process's positions in the epoch set by `set_epoch`.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, n_ranks: int = 1) -> None:
        if n < 1 or batch_size < 1:
            raise ValueError(f"a sampler needs recordings and a batch size of at least 1; got {n} and {batch_size}")
        if not 0 <= rank < n_ranks or batch_size % n_ranks:
            raise ValueError(
                f"rank {rank} of {n_ranks} has no equal share of a batch of {batch_size}; use a multiple of {n_ranks}"
            )
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.n_ranks = rank, n_ranks
        self.epoch = 0
        self._orders: dict[int, np.ndarray] = {}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of this process's positions in an epoch; the first processes have one more if it does not divide."""
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
        """The permutation (n,) of an epoch."""
        if epoch not in self._orders:
            while len(self._orders) > 1:  # a batch can contain two epochs; older ones are not needed again
                self._orders.pop(min(self._orders))
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.n)
        return self._orders[epoch]


def prefetch_batches(
    recordings: Recordings,
    sampler: Sampler,
    start: int,
    stop: int,
    n_threads: int = 0,
    n_parts: int = 1,
    pin: bool = False,
) -> Generator[Batch]:
    """Yield the batches of the steps [start, stop) in order, each in `n_parts` equal parts; threads read ahead.

    Without threads, each part is read when it is requested. An error in a thread is raised when its part is due. `pin`: the
    batches are `Batch.pinned`, for a GPU.
    """

    def read(positions: np.ndarray) -> Batch:
        batch = recordings.batch(positions)
        return batch.pinned() if pin else batch

    parts = (part for step in range(start, stop) for part in np.split(sampler.positions(step), n_parts))
    if not n_threads:
        yield from map(read, parts)
        return
    pool, waiting = ThreadPoolExecutor(n_threads), deque[Future[Batch]]()
    try:
        for part in parts:
            waiting.append(pool.submit(read, part))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
