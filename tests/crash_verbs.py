"""The commands that write, each with small inputs, its readers, and what a user runs again after a crash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from api_run import write_csv_files, write_run
from command_line import Completed, invoke
from conftest import REPORTS, TINY, make_batch
from matplotlib.figure import Figure

from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.data.cohort import prepare
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.formats import reading
from leadwise.data.recordings.recording import RecordError
from leadwise.data.stored_embeddings import StoredEmbeddingsError, read_embeddings
from leadwise.generate import folder as writers
from leadwise.generate.writer import WriterError
from leadwise.pictures import curves
from leadwise.run import RunError
from leadwise.serve import search_index
from leadwise.serve.search_index import IndexFileError

OURS = (CohortError, RunError, RecordError, StoredEmbeddingsError, WriterError, IndexFileError)

Unit = tuple[Path, ...]  # files that belong to each other
Reads = list[tuple[Unit, Callable[[], object]]]


@dataclass(frozen=True)
class Verb:
    """A command that writes into a folder."""

    name: str
    first: Callable[[Path], Completed]
    again: tuple[
        Callable[[Path], Completed], ...
    ]  # tried in turn after a crash; each is named by the docs or by an error
    readers: Callable[[Path], Reads]  # each raises one of OURS, or what it accepts is whole
    set_up: Callable[[Path], object] = lambda folder: None  # what is there before
    has_old: bool = False  # an earlier result is replaced


def verbs(home: Path) -> list[Verb]:
    """Write the inputs of all commands to `home`, and return the commands."""
    manifest, other = _manifest(home / "raw", 12), _manifest(home / "raw2", 8)
    cohort = home / "cohort"
    _prepare(manifest, cohort)
    run = write_run(home / "run", cohort)
    config = _config(home / "config.toml", cohort)
    ecgs = home / "ecgs"
    write_csv_files(ecgs, 3)
    return [
        Verb(
            "prepare", lambda f: _prepare(manifest, f / "out"),
            (lambda f: _prepare(manifest, f / "out"), lambda f: _prepare(manifest, f / "out", "--resume")),
            lambda f: _cohort_reads(f / "out"),
        ),
        Verb(
            "prepare --overwrite", lambda f: _prepare(manifest, f / "out", "--overwrite"),
            (lambda f: _prepare(manifest, f / "out", "--overwrite"),),
            lambda f: _cohort_reads(f / "out"), lambda f: _prepare(other, f / "out"), has_old=True,
        ),
        Verb(
            "pretrain", lambda f: _pretrain(config, f),
            (lambda f: _pretrain(config, f), lambda f: _pretrain(config, f, "--resume")),
            lambda f: _run_reads(f / "run"),
        ),
        Verb(
            "embed", lambda f: invoke("embed", f / "run", cohort, "-o", f / "emb.npz"),
            (lambda f: invoke("embed", f / "run", cohort, "-o", f / "emb.npz"),),
            lambda f: _embedding_reads(f),
            lambda f: (
                shutil.copytree(run, f / "run", ignore=shutil.ignore_patterns("embeddings")),
                np.savez(f / "emb.npz", record=np.array(["a"]), embedding=np.zeros((1, 4), np.float32)),
            ),
            has_old=True,
        ),
        Verb(
            "index", lambda f: _build_index(f / "index.bin"), (lambda f: _build_index(f / "index.bin"),),
            lambda f: [((f / "index.bin",), lambda: _read_index(f / "index.bin"))],
        ),
        Verb(
            "convert", lambda f: _convert(ecgs, f),
            (
                lambda f: _convert(ecgs, f),
                lambda f: _convert(ecgs, f, "--overwrite"),
            ),
            lambda f: _record_reads(f / "wfdb", ecgs),
        ),
        Verb(
            "convert --overwrite", lambda f: _convert(ecgs, f, "--overwrite"),
            (lambda f: _convert(ecgs, f, "--overwrite"),),
            lambda f: _record_reads(f / "wfdb", ecgs),
            lambda f: _convert_others(f, ecgs), has_old=True,
        ),
        Verb(
            "train-writer", lambda f: _train_writer(run, cohort, f),
            (lambda f: _train_writer(run, cohort, f), lambda f: _train_writer(run, cohort, f, "--resume")),
            lambda f: _writer_reads(f / "writer"),
        ),
    ]  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of each file that a command wrote, without speeds, pictures and random salts."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.suffix == ".png" or path.name in ("trained_on.json", "selected_on.json"):
            continue
        content = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in content.decode().splitlines()]
            content = repr([{k: v for k, v in line.items() if k != "records_per_s"} for line in lines]).encode()
        if path.name == "state.pt":  # the order of its values differs after a resume
            content = "\n".join(sorted(_values("", torch.load(path, weights_only=True)))).encode()
        digests[name] = hashlib.sha256(content).hexdigest()[:16]
    return digests


def _values(name: str, value: Any) -> Iterator[str]:
    """Every tensor and number of a resume state as a line, exact to the bit."""
    if isinstance(value, torch.Tensor):
        yield f"{name} {hashlib.sha256(value.numpy().tobytes()).hexdigest()}"
    elif isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _values(f"{name}.{key}", inner)
    else:
        yield f"{name} {value!r}"


def digest_of(unit: Unit) -> str:
    """Return a digest of files that belong to each other."""
    joined = hashlib.sha256()
    for path in unit:
        joined.update(hashlib.sha256(path.read_bytes()).digest())
    return joined.hexdigest()[:16]


def _manifest(home: Path, n: int) -> Path:
    home.mkdir(parents=True)
    lines = ["path,patient,report,split,label.normal"]
    splits = ["train"] * (n - 4) + ["val"] * 2 + ["test"] * 2
    for i, split in enumerate(splits):
        np.save(home / f"ecg{i:02d}.npy", make_batch(4, seed=i + 100 * n).ecg[i % 4].numpy())
        lines.append(f'ecg{i:02d}.npy,p{i:02d},"{REPORTS[i % 4]}",{split},{i % 4 == 0:d}')
    (home / "ecgs.csv").write_text("\n".join(lines) + "\n")
    return home / "ecgs.csv"


def _prepare(manifest: Path, out: Path, *options: str) -> Completed:
    """`leadwise prepare`, with several shards."""
    defaults = prepare.write.__kwdefaults__, prepare.finished_ledger.__kwdefaults__
    stored = [dict(one) for one in defaults]
    for one in defaults:
        one["shard_records"] = 4
    try:
        given = ("--leads", ",".join(LEADS), "--rate-hz", 100, "--units", "mV")
        return invoke("prepare", "folder", manifest, "-o", out, *given, *options)
    finally:
        for one, before in zip(defaults, stored):
            one.update(before)


def _cohort_reads(out: Path) -> Reads:
    def read(verify: bool) -> object:
        cohort = Cohort.open(out, verify=verify)
        return [cohort.signal(row) for row in range(len(cohort))]

    files = tuple(sorted(path for path in out.rglob("*") if path.is_file())) if out.is_dir() else ()
    return [(files, lambda: read(False)), (files, lambda: read(True))]


def _config(path: Path, cohort: Path) -> Path:
    table = {
        "signal": {"rate_hz": 100, "duration_s": 4.0},
        "data": {"cohort": str(cohort)},
        "method": {"name": "cg_dmer", **TINY["cg_dmer"]},
        "optim": {"steps": 4, "batch_size": 4, "lr": 1e-3},
        "log": {"every": 1, "validate_every": 2, "save_every": 2},
    }
    path.write_text(tomli_w.dumps(table))
    return path


def _pretrain(config: Path, folder: Path, *options: str) -> Completed:
    """`leadwise pretrain` with an empty picture: drawing the curves takes longer than the training."""
    draw = curves.draw
    curves.draw = lambda *_, **__: Figure(figsize=(1, 1))  # type: ignore[assignment]
    try:
        return invoke("pretrain", config, "-o", folder / "run", *options)
    finally:
        curves.draw = draw


def _run_reads(folder: Path) -> Reads:
    state = folder / "resume" / "state.pt"
    return [
        ((folder / "model.safetensors",), lambda: runs.load(folder, "cpu")),
        ((state,), lambda: runs.load_state(folder)),
    ]


def _embedding_reads(folder: Path) -> Reads:
    target = folder / "emb.npz"
    return [((target,), lambda: read_embeddings(target))]


def _vectors() -> np.ndarray:
    values = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _build_index(path: Path) -> Completed:
    """The index that `leadwise serve` stores; a stand-in of faiss where it is not installed, as only its bytes count."""
    _ensure_faiss()
    vectors = _vectors()
    try:
        search_index.write_index(path, search_index.build_index(vectors), vectors)
    except OSError as error:
        return Completed(1, "", f"error: {error}")
    return Completed(0, "", "")


def _read_index(path: Path) -> object:
    _ensure_faiss()
    if not path.is_file():
        raise IndexFileError(f"{path} is absent")  # as `stored_index` sees it, which builds it then
    return search_index.read_index(path, _vectors())


def _ensure_faiss() -> None:
    with contextlib.suppress(ImportError):
        import faiss  # noqa: F401
    sys.modules.setdefault("faiss", _stand_in())


def _stand_in() -> types.ModuleType:
    class Index:
        def __init__(self, *_: object) -> None:
            self.hnsw = types.SimpleNamespace()

        def add(self, vectors: np.ndarray) -> None:
            self.vectors = vectors

    module: Any = types.ModuleType("faiss")
    module.METRIC_INNER_PRODUCT, module.IndexHNSWFlat = 0, Index
    module.serialize_index = lambda index: np.frombuffer(index.vectors.tobytes(), dtype=np.uint8)
    module.deserialize_index = bytes
    return module  # type: ignore[no-any-return]


def _record_reads(folder: Path, ecgs: Path) -> Reads:
    headers = [folder / f"{path.stem}.hea" for path in sorted(ecgs.glob("*.csv"))]
    return [((header, header.with_suffix(".dat")), lambda header=header: reading.read(header)) for header in headers]  # type: ignore[misc]


def _convert(ecgs: Path, folder: Path, *options: str) -> Completed:
    return invoke("convert", ecgs, folder / "wfdb", "--rate-hz", 100, "--units", "mV", *options)


def _convert_others(folder: Path, ecgs: Path) -> None:
    """Records with the names of the later ones, and other samples."""
    home = folder.with_name(folder.name + "-others")
    for path in sorted(ecgs.glob("*.csv")):
        home.mkdir(exist_ok=True)
        header, *lines = path.read_text().splitlines()
        (home / path.name).write_text("\n".join([header, *lines[::-1]]) + "\n")
    _convert(home, folder)
    shutil.rmtree(home)


def _train_writer(run: Path, cohort: Path, folder: Path, *options: str) -> Completed:
    small = (
        "writer.width=16", "writer.depth=1", "writer.heads=2", "writer.vectors=2", "writer.vocabulary=300",
        "writer.max_tokens=24", "writer.positions=32", "optim.batch_size=4", "optim.steps=4", "log.validate_every=2",
        "log.save_every=2", "log.every=1",
    )  # fmt: skip
    return invoke("train-writer", run, cohort, *small, "-o", folder / "writer", *options)


def _writer_reads(folder: Path) -> Reads:
    state = folder / "resume" / "state.pt"
    return [
        ((folder / "model.safetensors",), lambda: writers.load(folder, "cpu")),
        ((state,), lambda: runs.load_state(folder)),
    ]
