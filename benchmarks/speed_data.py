"""Rows of the data: preparing records, and reading them at random from a cohort and from other stores."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import wfdb
from speed_pair import Against, BenchmarkArgs, Build, Case, NotGivenError, Way
from torch.utils.data import DataLoader, Dataset

from leadwise.batch import LEADS, Signal
from leadwise.data.cohort import executors
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.loader import Recordings
from leadwise.data.sources.source import Row, Source

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
IN_ORDER = [MIMIC_LEADS.index(lead) for lead in LEADS]
N_SAMPLES, RATE_HZ, STEPS_PER_MV = 5000, 500, 200
BATCH = 64
N_RDSAMP = 100  # records that are read by wfdb in a turn: it is slow
SHARD_RECORDS = 250
RAW, MV = "int16", "float32 mV"

Read = Callable[[np.ndarray], np.ndarray]  # positions (B,) -> samples (B, 12, T)


# ------------------------------------------------------------------------------------------------- what there is to read


def samples_of(number: int) -> np.ndarray:
    """Made-up samples (12, T) int16 at 5 uV, leads in MIMIC-IV-ECG's order: beats of bumps, wander, noise."""
    rng = np.random.default_rng(number)
    time = np.arange(N_SAMPLES) / RATE_HZ
    phase = (time + rng.uniform(0, 1)) / rng.uniform(0.6, 1.1) % 1.0
    shapes = [
        np.exp(-(((phase - at) / wide) ** 2)) for at, wide in ((0.2, 0.03), (0.37, 0.01), (0.4, 0.008), (0.65, 0.06))
    ]
    heart = rng.normal([0.1, 1.0, -0.3, 0.3], 0.1, (12, 4)) @ np.stack(shapes)
    heart += 0.1 * np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * time) + rng.normal(0, 0.01, heart.shape)
    one, two = heart[0], heart[1]
    heart[2:6] = two - one, -(one + two) / 2, two - one / 2, one - two / 2
    return (heart * STEPS_PER_MV).round().astype(np.int16)


def wfdb_tree(args: BenchmarkArgs) -> Path:
    """A folder of `records` WFDB records of format 16, 12 x 5,000 samples, each with its own file, as MIMIC-IV-ECG has them."""
    folder = args.scratch / "wfdb"
    if folder.is_dir():
        return folder
    partial_folder = folder.with_suffix(".partial")
    partial_folder.mkdir()
    for number in range(args.records):
        samples, name = samples_of(number), f"{number:07d}"
        (partial_folder / f"{name}.dat").write_bytes(samples.T.astype("<i2").tobytes())
        head = [f"{name} {len(samples)} {RATE_HZ} {N_SAMPLES}"]
        for lead, row in zip(MIMIC_LEADS, samples):
            checksum = int(row.astype(np.int64).sum()) & 0xFFFF
            head.append(f"{name}.dat 16 {STEPS_PER_MV}.0(0)/mV 16 0 {row[0]} {checksum} 0 {lead}")
        (partial_folder / f"{name}.hea").write_text("\n".join(head) + "\n")
    partial_folder.rename(folder)
    return folder


def source_of(tree: Path) -> Source:
    splits = itertools.cycle(("train", "train", "val", "test"))
    rows = [
        Row(path.stem, path.with_suffix(""), path.stem, split, report="sinus rhythm. normal ecg.")
        for path, split in zip(sorted(tree.glob("*.hea")), splits)
    ]
    return Source("simulated", rows)


def cohort_of(args: BenchmarkArgs) -> Cohort:
    """The same records as a cohort, in the order of their names."""
    folder = args.scratch / "cohort"
    if not folder.is_dir():
        write(source_of(wfdb_tree(args)), folder)
    return Cohort.open(folder)


# -------------------------------------------------------------------------------------------------------------- preparing


def prepare(args: BenchmarkArgs) -> Case:
    """`cohort.write`, against `wfdb.rdrecord` and an `.npy` for each record."""
    tree = wfdb_tree(args)
    source, closing = source_of(tree), contextlib.ExitStack()
    paths = [row.path for row in source.rows]
    n = len(paths)

    def fresh() -> Path:
        folder = tempfile.mkdtemp(dir=args.scratch)  # empty, which `write` allows
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def plain() -> None:
        folder = fresh()
        for path in paths:
            record = wfdb.rdrecord(str(path))
            np.save(folder / f"{path.name}.npy", record.p_signal.T.astype(np.float32))

    write_cohort = partial(write, source, shard_records=SHARD_RECORDS)
    ways = {"ours": Way(lambda: write_cohort(fresh()), n)}
    pool = closing.enter_context(executors.processes(2))
    ways["ours, 2 processes"] = Way(lambda: write_cohort(fresh(), pool=pool), n)
    ways["rdrecord + .npy"] = Way(plain, n)
    return Case(
        what="record",
        ways=ways,
        against=[Against(name, "rdrecord + .npy", 8.0 if name == "ours" else None) for name in ways if "ours" in name],
        gbytes={"ours": 2 * 2 * 12 * N_SAMPLES / 1e9},
        note=lambda: (
            f"{n} records of 12 x {N_SAMPLES} int16, WFDB format 16, one file each, all in the page cache. ours: `cohort.write`, "
            f"shards of {SHARD_RECORDS}: samples unchanged in int16, checksums of every file and record, quality of each "
            "lead, lead order audited, index; flushed to disk. rdrecord + .npy: `wfdb.rdrecord`, millivolts as float32, one "
            "file each, not flushed. Starting processes is not counted"
        ),
        several=True,
        closing=closing,
    )


# ---------------------------------------------------------------------------------------------------------------- reading


def _open_h5(path: Path) -> Any:
    import h5py

    return h5py.File(path, "r")["ecg"]


def h5_store(args: BenchmarkArgs, compression: str | None) -> Any:
    h5py = _wanted("h5py")
    path = args.scratch / f"{compression or 'plain'}.h5"
    if not path.is_file():
        partial_path = path.with_suffix(".partial")
        with h5py.File(partial_path, "w") as file:
            shape = (args.records, 12, N_SAMPLES)
            chunks = (1, 12, N_SAMPLES) if compression else None
            dataset = file.create_dataset("ecg", shape, "<i2", chunks=chunks, compression=compression)
            for number, block in enumerate(_blocks(args)):
                dataset[number] = block
        partial_path.rename(path)
    return partial(_open_h5, path)


def zarr_store(args: BenchmarkArgs) -> Any:
    zarr = _wanted("zarr")
    path = args.scratch / "ecg.zarr"
    if not path.is_dir():
        shape = (args.records, 12, N_SAMPLES)
        array = zarr.create_array(store=str(path), shape=shape, chunks=(1, 12, N_SAMPLES), dtype="<i2", zarr_format=3)
        for number, block in enumerate(_blocks(args)):
            array[number] = block
    return partial(zarr.open_array, store=str(path), mode="r")


def _blocks(args: BenchmarkArgs) -> Any:
    """Each record (12, T) int16 in LEADS order."""
    return (samples_of(number)[IN_ORDER] for number in range(args.records))


def _wanted(name: str) -> ModuleType:
    """Import a package that only this benchmark needs.

    Raises:
        NotGivenError: it is not installed.
    """
    try:
        return __import__(name)
    except ImportError:
        raise NotGivenError(f"it needs {name}: pip install {name}") from None


class Store(Dataset[Any]):
    """A store as a map-style data set that hands out whole batches; it is opened where it is first read."""

    def __init__(self, open_store: Callable[[], Any], gives: str) -> None:
        self.open_store, self.gives = open_store, gives
        self.opened: Any = None

    def __len__(self) -> int:
        return len(self.opened)

    def read(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        if self.opened is None:
            self.opened = self.open_store()
        if self.gives == RAW:
            return np.stack([self.opened[int(place)] for place in positions])
        out = np.empty((len(positions), 12, N_SAMPLES), dtype=np.float32)
        for number, place in enumerate(positions):
            out[number] = self.opened[int(place)]
            out[number] /= STEPS_PER_MV  # in two steps, twice as fast as numpy's casting product
        return out

    __getitems__ = read  # what a DataLoader calls with a batch's positions


class OurStore(Store):
    """A cohort: `Recordings.batch`, or the mapped samples as they lie there."""

    def read(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        if self.opened is None:
            self.opened = Recordings(self.open_store(), Signal())
        if self.gives == RAW:
            cohort = self.opened.cohort
            return np.stack([cohort.block(int(row)) for row in self.opened.rows[np.asarray(positions)]])
        return self.opened.batch(positions).ecg.numpy()

    __getitems__ = read


class Rdsamp(Store):
    def read(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        paths = self.open_store()
        blocks = [wfdb.rdsamp(paths[int(place)])[0].T[IN_ORDER] for place in positions]
        return np.stack(blocks).astype(np.float32)

    __getitems__ = read


def stores(args: BenchmarkArgs, gives: str) -> dict[str, Store]:
    cohort_of(args)
    names = [str(row.path) for row in source_of(wfdb_tree(args)).rows]
    readers: dict[str, Store] = {
        "ours": OurStore(partial(Cohort.open, args.scratch / "cohort"), gives),
        "HDF5": Store(h5_store(args, None), gives),
        "HDF5, gzip": Store(h5_store(args, "gzip"), gives),
        "zarr v3": Store(zarr_store(args), gives),
    }
    return readers | ({"wfdb.rdsamp": Rdsamp(partial(list, names), gives)} if gives == MV else {})


def batches(args: BenchmarkArgs, n: int) -> list[np.ndarray]:
    """Positions of the first n records of one random order, in batches."""
    order = np.random.default_rng(0).permutation(args.records)[:n]
    return [order[begin : begin + BATCH] for begin in range(0, n, BATCH)]


AIMS = {"HDF5": 1.5, "HDF5, gzip": 10.0, "zarr v3": 10.0, "wfdb.rdsamp": 100.0}
GIVEN = {
    RAW: "int16 samples (64, 12, 5000) as stored, copied into one array",
    MV: "float32 mV (64, 12, 5000); ours is `Recordings.batch`, which also checks for missing samples and returns "
    "`observed`, names and reports; the others scale by one known factor",
}


def reads(args: BenchmarkArgs, gives: str, worker: bool) -> Case:
    """Random batches of 64 from each store."""

    def pass_over(store: Store, order: list[np.ndarray]) -> Callable[[], object]:
        if not worker:
            return lambda: deque(map(store.read, order), maxlen=0)
        loader = DataLoader(
            store, batch_sampler=order, num_workers=1, persistent_workers=True, collate_fn=torch.from_numpy
        )
        return lambda: deque(loader, maxlen=0)

    readers = stores(args, gives)
    ways = {}
    for name, store in readers.items():
        n = min(N_RDSAMP, args.records) if isinstance(store, Rdsamp) else args.records
        ways[name] = Way(pass_over(store, batches(args, n)), n)

    def note() -> str:
        first = batches(args, 16)[0]
        ours = readers["ours"].read(first)
        for name, store in readers.items():
            if not np.allclose(store.read(first), ours, rtol=0, atol=1e-6):
                raise RuntimeError(f"{name} gives other samples than the cohort")
            if worker:
                store.opened = None  # a worker opens its own
        how = "a DataLoader with one worker process, already started" if worker else "in one process"
        return (
            f"{args.records} records in one random order, {how}; all in the page cache. Given: {GIVEN[gives]}. HDF5: one data "
            "set, contiguous, or a gzip chunk a record; zarr: a chunk a record, its default codec. Checked: the same samples"
        )

    return Case(
        what="record",
        ways=ways,
        against=[Against("ours", name, None if worker else AIMS[name]) for name in ways if name != "ours"],
        gbytes={"ours": (2 + (2 if gives == RAW else 5)) * 12 * N_SAMPLES / 1e9},
        note=note,
        several=worker,
    )


ROWS: dict[str, Build] = {
    "prepare": prepare,
    "reads": partial(reads, gives=MV, worker=False),
    "reads-int16": partial(reads, gives=RAW, worker=False),
    "reads-worker": partial(reads, gives=MV, worker=True),
    "reads-worker-int16": partial(reads, gives=RAW, worker=True),
}
