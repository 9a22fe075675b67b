"""benchmarks/results/speed_pairs.md: speed and memory of ECGs with heart images, from simulation to scores.

    python benchmarks/speed_pairs.py -o OUT                                4 minutes of one core
    python benchmarks/speed_pairs.py -o OUT --people 200 --simulated 20 --page OUT/page.md    a try

A part of the people is simulated; the others are the same people with their ECG turned in time, so that all recordings differ
and all files have the size of simulated ones. Each part runs in a process of its own on one thread. Times are processor seconds,
which other work on the machine hardly changes; memory is the peak of the process. Results of a part are stored in OUT: a call
that was interrupted continues.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 64
N_BATCHES = 20
Facts = dict[str, float]


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match[1]) / 1000 if match else float("nan")


class Clock:
    """Measures the processor seconds of a block."""

    def __enter__(self) -> Clock:
        self.began = time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.process_time() - self.began


# ------------------------------------------------------------------------------------------------------- the parts


def simulate(out: Path, args: argparse.Namespace) -> Facts:
    from leadwise.data.simulator.paired.cohort import simulate_pairs

    with Clock() as clock:
        simulate_pairs(out / "simulated", args.simulated, 0)
    turned_copies(out / "simulated", out / "pairs", args.people)
    return {"people": args.simulated, "seconds": clock.seconds}


def turned_copies(source: Path, folder: Path, n_people: int) -> None:
    """Write a folder of pairs in which person k is person k % n of another one, with the ECG turned in time."""
    import numpy as np

    with (source / "subjects.csv").open(newline="") as file:
        subjects = list(csv.DictReader(file))
    lines = []
    for k in range(n_people):
        line, turn = dict(subjects[k % len(subjects)]), k // len(subjects)
        name = f"q{k:05d}"
        header = (source / line["ecg"]).read_text()
        samples = np.fromfile((source / line["ecg"]).with_suffix(".dat"), "<i2").reshape(-1, 12)
        samples = np.roll(samples, 7 * turn, axis=0)
        old = Path(line["ecg"]).stem
        rows = header.replace(old, name).splitlines()
        for number, first in enumerate(samples[0], start=1):  # the header states the first sample
            cells = rows[number].split(" ")
            rows[number] = " ".join([*cells[:5], str(first), *cells[6:]])
        ecg = folder / "ecg" / f"{k // 100:02d}" / f"{name}.hea"
        ecg.parent.mkdir(parents=True, exist_ok=True)
        ecg.write_text("\n".join(rows) + "\n")
        samples.astype("<i2").tofile(ecg.with_suffix(".dat"))
        line |= {"record": name, "patient": name, "ecg": str(ecg.relative_to(folder))}
        for phase in ("ed", "es"):
            image = folder / "volumes" / f"{k // 100:02d}" / f"{name}_{phase}.npz"
            image.parent.mkdir(parents=True, exist_ok=True)
            if not image.exists():
                os.link(source / line[phase], image)
            line[phase] = str(image.relative_to(folder))
        lines.append(line)
    for name, n in (("subjects.csv", n_people), ("quarter.csv", n_people // 4)):
        with (folder / name).open("w", newline="") as file:
            table = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(lines[:n])


def prepare(out: Path, args: argparse.Namespace, table: str = "subjects.csv", name: str = "cohort") -> Facts:
    from leadwise.data.cohort.prepare import write
    from leadwise.data.sources import ecg_cmr

    with Clock() as clock:
        ledger = write(ecg_cmr.read_source(out / "pairs" / table, ecg_cmr.Options()), out / name)
    size = sum(file.stat().st_size for file in (out / name).iterdir())
    return {"people": ledger.kept, "seconds": clock.seconds, "gb": size / 1e9}


def prepare_quarter(out: Path, args: argparse.Namespace) -> Facts:
    return prepare(out, args, "quarter.csv", "quarter")


def read(out: Path, args: argparse.Namespace) -> Facts:
    import numpy as np

    from leadwise.batch import Signal, Volume
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.data.loader import Recordings

    with Clock() as opening:
        cohort = Cohort.open(out / "cohort")
    at_open = peak_mb()
    signal, rows = Signal(rate_hz=100, duration_s=10.0), cohort.rows("train")
    order = np.random.default_rng(0).permutation(len(rows))[: N_BATCHES * BATCH]
    batches = np.array_split(order, max(1, len(order) // BATCH))
    facts = {"open_seconds": opening.seconds, "open_mb": at_open}
    for name, volume in (("ecg", None), ("both", Volume())):
        recordings = Recordings(cohort, signal, rows, volume=volume)
        recordings.batch(batches[0])
        with Clock() as clock:
            for batch in batches:
                recordings.batch(batch)
        facts[name] = clock.seconds / len(batches)
    with Clock() as clock:
        for row in rows[order]:
            cohort.volume(int(row))
    facts["volumes"] = clock.seconds / len(batches)

    # the same images from the files
    records = cohort.records.take(rows[order])
    with Clock() as clock:
        for record in records:
            for phase in ("ed", "es"):
                path = out / "pairs" / "volumes" / f"{int(record[1:]) // 100:02d}" / f"{record}_{phase}.npz"
                with np.load(path) as arrays:
                    arrays["volume"].astype(np.float32)
    return {**facts, "files": clock.seconds / len(batches)}


def train(out: Path, args: argparse.Namespace, stage: str) -> Facts:
    import dataclasses

    from leadwise.reproduce.dual_phase import small_config, stage_cmr
    from leadwise.training import step_time

    config = small_config("dual_phase_cmr")
    if stage == "cmr":
        config = stage_cmr(config)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, cohort=str(out / "cohort")),
        optim=dataclasses.replace(config.optim, device="cpu"),
    )
    run, data, _ = step_time.open_in_memory(config)
    seconds = step_time.time_steps(run, data.train, n_timed=5, n_warmup=2).processor
    positions = list(range(config.optim.batch_size))
    with Clock() as clock:
        for _ in range(3):
            data.train.batch(positions)
    return {"seconds": seconds, "read": clock.seconds / 3, "batch": config.optim.batch_size}


def train_cmr(out: Path, args: argparse.Namespace) -> Facts:
    return train(out, args, "cmr")


def train_contrast(out: Path, args: argparse.Namespace) -> Facts:
    return train(out, args, "contrast")


def judge(out: Path, args: argparse.Namespace, command: str) -> Facts:
    import dataclasses

    from leadwise import run as runs
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.evaluate.regress import run_regress
    from leadwise.evaluate.volume_retrieval import run_volume_retrieval
    from leadwise.reproduce.dual_phase import small_config

    cohort, config = Cohort.open(out / "cohort"), small_config("dual_phase_cmr")
    run = runs.create(dataclasses.replace(config, optim=dataclasses.replace(config.optim, device="cpu")), ())
    with Clock() as clock:
        if command == "regress":
            run_regress(run, cohort, ["lvedv", "lvesv", "lvef", "lvmass"], fit="val")
        else:
            pools = [size for size in (64, 256) if size <= len(cohort.rows("test"))] or [8]
            run_volume_retrieval(run, cohort, pools=pools)
    return {"seconds": clock.seconds, "people": len(cohort.rows("test"))}


def regress(out: Path, args: argparse.Namespace) -> Facts:
    return judge(out, args, "regress")


def retrieve(out: Path, args: argparse.Namespace) -> Facts:
    return judge(out, args, "retrieve")


PARTS: dict[str, Callable[[Path, argparse.Namespace], Facts]] = {
    one.__name__: one
    for one in (simulate, prepare_quarter, prepare, read, train_cmr, train_contrast, regress, retrieve)
}

# -------------------------------------------------------------------------------------------------------- the page


def rows_of(parts: dict[str, Facts]) -> list[dict[str, object]]:
    """Return the rows of the page."""
    quarter, whole, reading = parts["prepare_quarter"], parts["prepare"], parts["read"]

    def row(what: str, speed: str, mb: float | None, beside: str = "") -> dict[str, object]:
        return {"what": what, "speed, one core": speed, "peak MB": "" if mb is None else f"{mb:,.0f}", "beside": beside}

    def of_people(name: str) -> str:
        one = parts[name]
        return f"{one['people'] / one['seconds']:,.0f} people/s ({one['people']:,.0f} in {one['seconds']:.1f} s)"

    lines = [
        row("simulate --paired, two phases", of_people("simulate"), parts["simulate"]["peak_mb"]),
        row("prepare ecg_cmr", of_people("prepare_quarter"), quarter["peak_mb"]),
        row("prepare ecg_cmr", of_people("prepare"), whole["peak_mb"],
            f"{whole['people'] / quarter['people']:.0f} times the people, {whole['peak_mb'] / quarter['peak_mb']:.2f} times the "
            f"memory; {whole['gb']:.2f} GB on disk"),
        row("open the cohort", f"{1e3 * reading['open_seconds']:.0f} ms", reading["open_mb"], "memory with imports"),
        row(f"read a batch of {BATCH} at random, ECG alone", f"{1e3 * reading['ecg']:.1f} ms", None),
        row(f"read a batch of {BATCH} at random, ECG and images", f"{1e3 * reading['both']:.1f} ms", reading["peak_mb"],
            f"{reading['both'] / reading['ecg']:.2f} times that of ECGs alone"),
        row("of this, the images from the cohort", f"{1e3 * reading['volumes']:.1f} ms", None,
            f"from the compressed files {1e3 * reading['files']:.0f} ms: {reading['files'] / reading['volumes']:.0f} times"),
    ]  # fmt: skip
    for name, stage in (("train_cmr", "cmr"), ("train_contrast", "contrast")):
        one = parts[name]
        share = 100 * one["read"] / one["seconds"]
        lines.append(row(f'train dual_phase_cmr, stage "{stage}", batch {one["batch"]:.0f}', f"{1 / one['seconds']:.2f} steps/s",
                         one["peak_mb"], f"{share:.0f} % of a step is reading"))  # fmt: skip
    what = {
        "regress": "regress, 4 targets, with controls",
        "retrieve": "retrieve, pools of 64 and 256, with the untrained model",
    }
    for name, text in what.items():
        one = parts[name]
        lines.append(row(f"{text}, {one['people']:,.0f} test people", f"{one['seconds']:.1f} s", one["peak_mb"]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=5000)
    parser.add_argument("--simulated", type=int, default=250, help="people that are simulated")
    parser.add_argument("--page", type=Path, default=Path(__file__).parent / "results" / "speed_pairs.md")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        facts = PARTS[args.part](args.out, args)
        (args.out / f"{args.part}.json").write_text(json.dumps({**facts, "peak_mb": peak_mb()}))
        return

    # each part in a process of its own, on one thread
    args.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {}
    for name in PARTS:
        path = args.out / f"{name}.json"
        if not path.is_file():
            print(name, flush=True)
            options = ["--people", str(args.people), "--simulated", str(args.simulated), "--part", name]
            command = [sys.executable, __file__, "-o", str(args.out), *options]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        parts[name] = json.loads(path.read_text())

    # the page
    from machine import describe, table

    from leadwise.files import replacing

    command = shlex.join(["python", "benchmarks/speed_pairs.py", *sys.argv[1:]])
    text = (
        "# Speed and memory of ECGs with heart images\n\n"
        f"`{command}`. {describe()}, beside other work.\n\n"
        f"Processor seconds of one thread; peak memory of a process of its own. {args.people:,} pairs: {args.simulated:,} "
        "simulated people, each several times with the ECG turned in time. A pair is an ECG of 10 s and two volumes "
        "of 6 slices of 46 x 42 pixels. Small settings of `dual_phase_cmr`, ECG at 100 Hz. The files are in the page "
        f"cache.\n\n{table(rows_of(parts))}\n"
    )
    args.page.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.page) as part:
        part.write_text(text, encoding="utf-8")
    print(args.page)


if __name__ == "__main__":
    main()
