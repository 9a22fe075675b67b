"""Cases of load: a data set of many records, and runs of many processes of which one hangs, is slow or dies.

Each function returns rows for `evidence`: what was tried, how large, what it took, and what did not go as it must.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from evidence import Row, logged
from mimic_tree import REPORT_FLAWS, SIGNAL_FLAWS, write_tree

from leadwise import config as settings
from leadwise import run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings, Sampler
from leadwise.serve.search_index import NearestSearch

REPOSITORY = Path(__file__).resolve().parents[1]
_LOOK_S = 0.1  # between two looks at the memory of a command


@dataclass(frozen=True)
class Usage:
    """What a command took: seconds, and the most memory of it and of all processes that it started."""

    seconds: float
    resident_mb: float  # pages of mapped files included; pages that processes share count more than once
    own_mb: float  # without pages of files, which the system may drop at any time

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.own_mb:,.0f} MB of its own, {self.resident_mb:,.0f} MB with mapped files"


def memory_mb(root: int) -> tuple[float, float]:
    """Return the megabytes that a process and all its descendants hold: resident, and of that without mapped files."""
    parents: dict[int, int] = {}
    sizes: dict[int, tuple[float, float]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = dict(
                line.split(":", 1)
                for line in (entry / "status").read_text(errors="replace").splitlines()
                if ":" in line
            )
        except OSError:
            continue  # it has just ended
        parents[int(entry.name)] = int(fields["PPid"])
        kilobytes = (int(fields.get(name, "0 kB").split()[0]) for name in ("VmRSS", "RssAnon"))
        sizes[int(entry.name)] = tuple(value * 1024 / 1e6 for value in kilobytes)  # type: ignore[assignment]
    family = {root}
    while True:
        more = {child for child, parent in parents.items() if parent in family} - family
        if not more:
            held = [sizes[member] for member in family if member in sizes]
            return sum(one for one, _ in held), sum(own for _, own in held)
        family |= more


@contextlib.contextmanager
def watched_memory(pid: int) -> Iterator[list[float]]:
    """A block in which the memory of a process and its descendants is looked at; yields the two maxima of `memory_mb`."""
    most, is_over = [0.0, 0.0], threading.Event()

    def look() -> None:
        while not is_over.wait(_LOOK_S):
            most[:] = map(max, most, memory_mb(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        is_over.set()
        thread.join()


def environment() -> dict[str, str]:
    paths = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class CommandError(RuntimeError):
    """A command of a case failed; the message is the end of what it printed."""


def measured(*commands: list[object], codes: tuple[int, ...] = (0,)) -> tuple[Usage, list[str]]:
    """Run Python modules side by side and return what they took together, and what each printed.

    Raises:
        CommandError: one ended with a status that is not in `codes`.
    """
    began = time.perf_counter()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(),
        )
        for command in commands
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        most = [stack.enter_context(watched_memory(child.pid)) for child in children]
        texts = [child.communicate() for child in children]
    seconds = time.perf_counter() - began
    for child, (_, error) in zip(children, texts):
        if child.returncode not in codes:
            raise CommandError(error[-600:])
    return Usage(seconds, sum(one for one, _ in most), sum(own for _, own in most)), [text for text, _ in texts]


# ------------------------------------------------------------------------------------------------ many records

N_MIMIC = 800_035
N_FLAWED = 3  # records of each flaw
LIMITS_MB = {  # memory of all processes of a command, without mapped files: megabytes, and bytes for each record
    "prepare": (900, 500),
    "verify": (500, 1000),
    "open": (600, 800),
    "check": (600, 1500),
    "embed": (1100, 1500),
    "join": (600, 1500),
    "index": (600, 2500),
}


def data_rows(folder: Path, n_records: int, n_samples: int = 1000, n_parts: int = 4, n_made_up: int = 0) -> list[Row]:
    """Prepare, verify, open, check, embed and search a data set in the shape of MIMIC-IV-ECG.

    Simulated: both tables and a header for each record; the records of a subject are windows, 14 ms apart, of one file of
    `n_samples` at 500 Hz and a little more. What exists of it in `folder` is used again.
    """
    tree, cohort, run = folder / "tree", folder / "cohort", folder / "run"
    if not tree.is_dir():
        write_tree(tree, n_records, n_samples=n_samples, n_flawed=N_FLAWED, shared_files=True)
    size = f"{n_records:,} records of {n_samples / 500:g} s"
    rows = []

    # prepare, and check each checksum
    if not cohort.is_dir():
        words = ["prepare", "mimic_iv_ecg", tree, "-o", cohort, "--allow-missing", "--allow-unreadable", "--workers", 2]
        usage, _ = measured(["leadwise", *words])
        ledger = Cohort.open(cohort).ledger
        n_dropped = N_FLAWED * (len(REPORT_FLAWS) + len(SIGNAL_FLAWS))
        faults = _over("prepare", usage, n_records)
        if ledger.n_total != n_records or not n_records - n_dropped <= ledger.kept < n_records:
            faults += (f"ledger of {ledger.n_total} records with {ledger.kept} kept",)
        rows.append(logged(f"prepared by two processes: {size}", n_records, faults, f"{usage}; {ledger.kept:,} kept"))
    usage, _ = measured(["leadwise", "prepare", "--verify", cohort])
    rows.append(logged("each checksum of the cohort", n_records, _over("verify", usage, n_records), str(usage)))

    # open it, and read batches; splits and reports of all records
    usage, (text,) = measured(["loads", "open", cohort])
    rows.append(
        logged("opened, 50 random batches read", n_records, _over("open", usage, n_records), f"{usage}; {text.strip()}")
    )
    usage, (text,) = measured(["leadwise", "check", cohort, "--json", "-"], codes=(0, 1))
    findings = {line["check"]: line["n"] for line in json.loads(text)["findings"]}
    faults = _over("check", usage, n_records)
    if "duplicate reports" not in findings:
        faults += ("the reports that are there several times are not found",)
    n_same = findings.get("duplicate reports", 0)
    details = f"{usage}; {n_same:,} reports are there several times; samples of 2,000 measured"
    rows.append(logged("check: patients, splits, reports, copies", n_records, faults, details))

    # embed in parts, by two processes at a time, and join
    write_run(run, cohort)
    rows += embedding_rows(folder, run, cohort, n_parts, n_made_up)
    usage, (text,) = measured(["loads", "index", folder / "joined.npz"])
    result = json.loads(text)
    faults = _over("index", usage, n_records)
    if result["recall"] < 0.95:
        faults += (f"{result['recall']:.3f} of the ten nearest",)
    details = f"{usage}; {result['name']}, {result['width']} wide, recall of ten {result['recall']:.3f}, "
    details += f"{result['ms']:.2f} ms a query"
    return [*rows, logged("index of neighbours", result["n"], faults, details)]


def embedding_rows(folder: Path, run: Path, cohort: Path, n_parts: int, n_made_up: int = 0) -> list[Row]:
    """Embed a cohort in parts, two at a time, and join them. The last `n_made_up` parts get numbers without an encoder."""
    from leadwise.evaluate import embed_parts
    from leadwise.evaluate.embed import usable

    target, n_records = folder / "joined.npz", len(Cohort.open(cohort))
    shutil.rmtree(embed_parts.parts_folder(target), ignore_errors=True)
    most, seconds, n_embedded = Usage(0, 0, 0), 0.0, 0
    for first in range(1, n_parts - n_made_up + 1, 2):
        shares = [f"{which}/{n_parts}" for which in range(first, min(first + 2, n_parts - n_made_up + 1))]
        usage, texts = measured(
            *(["leadwise", "embed", run, cohort, "-o", target, "--shard", share, "--json", "-"] for share in shares)
        )
        most, seconds = max(most, usage, key=lambda one: one.own_mb), seconds + usage.seconds
        n_embedded += sum(json.loads(text)["recordings"] for text in texts)
    faults = _over("embed", most, n_records)
    about = (
        f"{seconds:.0f} s, {n_embedded / seconds:,.0f} records/s; at most {most.own_mb:,.0f} MB of the two processes"
    )
    rows = [logged(f"embedded, two of {n_parts} parts at a time", n_embedded, faults, about)]

    # parts without an encoder: what is measured is how they are joined
    if n_made_up:
        opened = Cohort.open(cohort)
        loaded = runs.load(run)
        usable_rows, _ = usable(loaded, opened, opened.rows())
        patch, rng = pytest.MonkeyPatch(), np.random.default_rng(0)
        with np.load(next(embed_parts.parts_folder(target).glob("*.npz"))) as first_part:
            width = first_part["embedding"].shape[1]
        axes = rng.standard_normal((8, width))  # embeddings vary in few directions: far fewer than numbers

        def made_up(run: object, cohort: object, part: str, rows: np.ndarray, *_: object, **__: object) -> np.ndarray:
            noise = 0.1 * rng.standard_normal((len(rows), width))
            return (rng.standard_normal((len(rows), 8)) @ axes + noise).astype(np.float32)

        patch.setattr(embed_parts, "embed_cohort", made_up)
        for which in range(n_parts - n_made_up + 1, n_parts + 1):
            embed_parts.embed_share(embed_parts.EmbeddingJob(loaded, opened, usable_rows), target, (which, n_parts))
        patch.undo()
    usage, _ = measured(["leadwise", "embed", run, cohort, "-o", target, "--join"])
    what = f"parts joined, {n_made_up} of {n_parts} made up" if n_made_up else "parts joined"
    return [*rows, logged(what, n_records, _over("join", usage, n_records), str(usage))]


def _over(what: str, usage: Usage, n_records: int) -> tuple[str, ...]:
    """Return a fault if a command took more memory than LIMITS_MB states."""
    base, per_record = LIMITS_MB[what]
    limit_mb = base + per_record * n_records / 1e6
    return (f"{usage.own_mb:,.0f} MB, above {limit_mb:,.0f}",) if usage.own_mb > limit_mb else ()


def write_run(folder: Path, cohort: Path) -> None:
    """Write an untrained run of the smallest MERL, which reads 2 s at 100 Hz."""
    if folder.is_dir():
        return
    config = settings.typed(settings.Config, config_table(cohort, "merl"))
    opened = Cohort.open(cohort)
    texts = opened.reports.take(np.arange(500))
    facts = {"cohort": opened.name, "source": opened.source, "fingerprint": "0" * 16}
    runs.create(config, texts, folder, facts).save_weights()


def config_table(cohort: Path, method: str, **optim: object) -> dict[str, dict[str, object]]:
    from conftest import TINY  # imports all methods: too long for a process that reads a cohort

    return {
        "signal": {"rate_hz": 100, "duration_s": 2.0},
        "data": {"cohort": str(cohort)},
        "method": {"name": method, **TINY[method]},
        "optim": {"steps": 12, "batch_size": 16, "lr": 1e-3, **optim},
        "log": {"every": 1, "validate_every": 0, "validate_records": 8, "save_every": 4},
    }


def open_cohort(folder: Path) -> None:
    """Open a cohort, list its splits, and read fifty random batches of 64."""
    began = time.perf_counter()
    cohort = Cohort.open(folder)
    seconds = time.perf_counter() - began
    counts = {split: len(cohort.rows(split)) for split in ("train", "val")}
    recordings = Recordings(
        cohort, settings.Signal(rate_hz=100, duration_s=2.0), cohort.rows("train", min_report_words=4)
    )
    sampler = Sampler(len(recordings), 64, 0)
    for step in range(50):
        recordings.batch(sampler.positions(step))
    print(f"opened in {seconds:.2f} s; {counts['train']:,} train, {counts['val']:,} val")


def search_embeddings(file: Path) -> None:
    """Build the index of embeddings, and compare its ten nearest with the exact ones."""
    with np.load(file) as content:
        vectors = content["embedding"]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    search, exact = NearestSearch(vectors), NearestSearch(vectors, large=len(vectors))
    queries = vectors[np.random.default_rng(0).integers(0, len(vectors), 50)]
    began = time.perf_counter()
    nearest = [search.nearest(query, 10)[1] for query in queries]
    ms = (time.perf_counter() - began) * 1000 / len(queries)
    # by the cosines: equal ones may be of different records
    hits = [(cosines >= exact.nearest(query, 10)[1][-1] - 1e-6).mean() for query, cosines in zip(queries, nearest)]
    about = {
        "n": len(vectors),
        "width": vectors.shape[1],
        "name": search.name,
        "recall": float(np.mean(hits)),
        "ms": ms,
    }
    print(json.dumps(about))


# --------------------------------------------------------------------------------------------------- many processes

FAULT_STEP = 6
SLOW_S = 1.5
STEPS_OF = {"hangs": "hangs in reading a batch", "dies": "dies in a collective", "slow": "is slow"}
WEIGHTS_DIFFER = (
    5e-4  # most by which a weight of many processes differs from that of one process after 12 steps at rate 1e-3
)


def train_with_fault(config: Path, out: Path, fault: str, faulty_rank: int) -> None:
    """Under `torchrun`: train, with a fault on one rank."""
    if int(os.environ["RANK"]) == faulty_rank:
        batch, step = Recordings.batch, [0]

        def faulty_batch(recordings: Recordings, positions: np.ndarray) -> object:
            step[0] += 1
            if fault == "slow":
                time.sleep(SLOW_S)
            if fault == "hangs" and step[0] == FAULT_STEP + 1:
                time.sleep(3600)
            if fault == "dies" and step[0] == FAULT_STEP + 1:
                torch.distributed.all_gather = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
            return batch(recordings, positions)

        Recordings.batch = faulty_batch  # type: ignore[method-assign, assignment]
    from leadwise import cli

    sys.argv = ["leadwise", "pretrain", str(config), "-o", str(out)]
    torch.set_num_threads(1)
    cli.main()


def torchrun(n_ranks: int, *words: object, timeout_s: float) -> tuple[int, str, float, set[int]]:
    """Run on processes of this machine; return status, standard error, seconds, and which processes are left."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(n_ranks),
        "--master-port",
        str(port),
    ]
    began = time.perf_counter()
    child = subprocess.Popen(
        [*command, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
        start_new_session=True,
    )  # fmt: skip
    try:
        error = child.communicate(timeout=timeout_s)[1]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        error = f"not ended after {timeout_s:g} s"
        child.communicate()
    seconds = time.perf_counter() - began
    time.sleep(0.2)
    return child.returncode, error, seconds, _session(child.pid)


def _session(leader: int) -> set[int]:
    """Return the processes of a session that still run."""
    left = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, _, _, session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            if int(session) == leader and state != "Z":
                left.add(int(entry.name))
    return left


def process_rows(folder: Path, cohort: Path, n_ranks: int, timeout_s: float, faults: tuple[str, ...]) -> list[Row]:
    """Train with many processes: the weights of one process; one that is slow, hangs or dies is named, and the run resumes."""
    from leadwise.training import loop

    config, program = folder / "config.toml", Path(__file__)
    config.write_text(tomli_w.dumps(config_table(cohort, "cg_dmer", batch_size=2 * n_ranks, timeout_s=timeout_s)))
    one = settings.read(config, [f"optim.accumulate={n_ranks}"])
    shutil.rmtree(folder / "one", ignore_errors=True)
    weights = loop.pretrain(one, folder / "one").method.state_dict()
    rows = []
    for fault in faults:
        out, faulty = folder / fault, n_ranks - 1
        shutil.rmtree(out, ignore_errors=True)
        most_s = 60 + 15 * n_ranks + 3 * timeout_s
        code, error, seconds, left = torchrun(n_ranks, program, "train", config, out, fault, faulty, timeout_s=most_s)
        problems = [f"process {pid} is left" for pid in sorted(left)]
        name = rf"rank {faulty} of {n_ranks} on {re.escape(socket.gethostname())} \(process \d+\)"
        plain = " ".join(error.split())
        if fault == "slow":
            expected, ends_well = rf"{name} is slow: its own work in a step takes [1-9]", True
        else:
            what = f"hangs at step {FAULT_STEP}" if fault == "hangs" else "has ended; its last record is of step"
            expected, ends_well = rf"error: step {FAULT_STEP}: {name} {what}.* --resume", False
        if not re.search(expected, plain):
            problems.append(f"not named: {plain[:300]} ... {plain[plain.find('error:') :][:600]}")
        if (code == 0) != ends_well:
            problems.append(f"exit status {code}")

        # what the others saved goes on, with one process
        resumed_at, largest = 12, float("nan")
        try:
            if not ends_well:
                resumed_at = runs.load_state(out)["step"]
                loop.pretrain(one, out, resume=True)
            after = runs.load(out).method.state_dict()
            largest = max(float((after[key].float() - x.float()).abs().max()) for key, x in weights.items())
        except runs.RunError as failure:
            problems.append(str(failure))
        if not largest <= WEIGHTS_DIFFER:
            problems.append(f"a weight differs by {largest:.2g} from that of one process")
        details = f"{seconds:.0f} s"
        details += "" if ends_well else f" with imports and a timeout of {timeout_s:g} s; resumed at step {resumed_at}"
        details += f"; weights differ from those of one process by {largest:.1e} at most"
        rows.append(logged(f"{n_ranks} processes, one {STEPS_OF[fault]}", 1, tuple(problems), details))
    return rows


def rows(
    folder: Path, n_records: int = N_MIMIC, n_ranks: int = 8, timeout_s: float = 30.0, n_parts: int = 8
) -> list[Row]:
    """All cases of load; `folder` holds 30 GB with 800,035 records, and what exists in it is used again."""
    folder.mkdir(parents=True, exist_ok=True)
    data = data_rows(folder, n_records, n_parts=n_parts)
    return [*data, *process_rows(folder, folder / "cohort", n_ranks, timeout_s, ("slow", "hangs", "dies"))]


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "open":
        open_cohort(Path(words[0]))
    elif what == "index":
        search_embeddings(Path(words[0]))
    else:
        train_with_fault(Path(words[0]), Path(words[1]), words[2], int(words[3]))
