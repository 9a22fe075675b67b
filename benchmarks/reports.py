"""Reports written from ECGs: a trained writer beside its controls, judged by the findings that they state.

    python benchmarks/reports.py --run ptbxl --cohort ptbxl --budget-min 20               every row, then the page
    python benchmarks/reports.py --run ptbxl --cohort ptbxl --row tiny --seeds 1          one row (a process, one thread)
    python benchmarks/reports.py --run ptbxl --cohort ptbxl --page                        the page from the stored rows

tiny       the writer `tiny` with prefix fusion on the run's embeddings, once per seed
kv         the same writer with the fusion of MEIT (keys and values of every layer), the first seed
random     the writer of `tiny` with the same seeds and steps, trained on the run's encoder with random weights
retrieve   the report of the nearest training ECG
majority   the most frequent training report

Every row is also written with another patient's ECG and with a flat line. A trained row takes as many steps as fit into the
budget of one core; `random` takes those of `tiny`. The weights of the lowest loss on the validation split are scored, on the
test split, once.

--out has one JSON file for each row and seed, and the writers. A row is resumed where it stopped, and one that exists is not
computed again. It holds no report.

--numbers remove leaves out the statements that state a measurement, in training and in references; both arms can be in one
--out. With --split val the validation split is scored, which is for choosing settings.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from report_page import page
from rows import Json, cohort_folder, run_each

from leadwise import hub
from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort, TextColumn
from leadwise.files import replacing
from leadwise.generate.evaluate_writer import SHUFFLED, ZERO, WriterScores, score_writer
from leadwise.generate.folder import TrainedWriter
from leadwise.generate.report_numbers import read_numbers
from leadwise.generate.reporting import open_writer
from leadwise.generate.training import train_writer
from leadwise.generate.writer import Writer
from leadwise.run import Run

TRAINED, UNTRAINED = ("tiny", "kv", "random"), ("retrieve", "majority")
WRITER = (  # settings of all trained writers, chosen on the validation split
    "ecg.part=backbone+shared",
    "writer.width=128",
    "writer.depth=2",
    "writer.vectors=4",
    "writer.dropout=0.05",
    "optim.batch_size=32",
    "optim.lr=0.004",
    "log.keep=best",
)
OF_ROW = {"tiny": (), "kv": ("writer.fusion=kv",), "random": ("ecg.encoder=untrained",)}
WARM, TIMED = 5, 30  # steps before the clock runs, and while it does
N_VALIDATIONS = 20  # of the held-out loss, which chooses the weights
RATES = ("macro_f1", "micro_f1", "hallucination_rate", "omission_rate")


# ------------------------------------------------------------------------------------------------------- the input


def without_numbers(text: str) -> str:
    """Return a report without the statements that state a measurement."""
    return reports.join_statements([one for one in reports.statements(text) if not read_numbers(one)])


def open_cohort(args: argparse.Namespace) -> Cohort:
    """Return the cohort, its reports without measurements if --numbers is remove."""
    cohort = Cohort.open(args.cohort)
    if args.numbers == "remove":
        cohort = copy.copy(cohort)
        cohort.reports = TextColumn(pa.chunked_array([[without_numbers(text) for text in cohort.reports]]))
    return cohort


def settings_of(args: argparse.Namespace, row: str, seed: int) -> list[str]:
    """Return the settings of a trained row, apart from its steps."""
    return [*WRITER, *OF_ROW[row], *args.set, f"optim.seed={seed}", "optim.device=cpu"]


def inputs_of(args: argparse.Namespace, run: Run, cohort: Cohort, row: str, seed: int) -> Json:
    """Return what a stored result depends on."""
    inputs: Json = {"run": run.fingerprint, "cohort": cohort.fingerprint, "split": args.split, "numbers": args.numbers}
    if row in TRAINED:
        inputs |= {"budget_min": args.budget_min, "settings": settings_of(args, row, seed)}
    return inputs


# -------------------------------------------------------------------------------------------------------- training


class StepClock:
    """Progress callback that measures the processor seconds of training steps."""

    def __init__(self, n_warmup: int = 1) -> None:
        self.n_warmup, self.times = n_warmup, list[float]()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what.startswith("train writer"):
            self.times.append(time.process_time())
            if done % max(1, total // 10) == 0:
                print(f"step {done} of {total}: {what.partition('|')[2]}", flush=True)

    @property
    def seconds_a_step(self) -> float:
        """Mean processor seconds of a step after the warm-up."""
        first = min(self.n_warmup, len(self.times) - 1)
        return (self.times[-1] - self.times[first - 1]) / max(1, len(self.times) - first)


def steps_in(run: Run, cohort: Cohort, settings: Sequence[str], minutes: float) -> tuple[int, float]:
    """Return how many steps of a writer fit into so many minutes of one core, and the processor seconds of one."""
    clock = StepClock(WARM)
    timed = [f"optim.steps={WARM + TIMED}", "log.validate_every=0", "log.save_every=1000000"]
    with tempfile.TemporaryDirectory() as folder:
        train_writer(run, cohort, Path(folder) / "writer", [*settings, *timed], progress=clock)
    return max(20, round(60 * minutes / clock.seconds_a_step)), clock.seconds_a_step


def steps_of(args: argparse.Namespace, run: Run, cohort: Cohort, row: str) -> Json:
    """Return the steps of a row, the same for all seeds and encoders; they are measured once and stored.

    Exits if they were stored for other settings.
    """
    # the pretrained and the random encoder share the steps
    shared = "kv" if row == "kv" else "tiny"
    path = args.out / f"steps-{shared}{arm(args)}.json"
    inputs = inputs_of(args, run, cohort, shared, 0)
    if not path.exists():
        steps, seconds = steps_in(run, cohort, settings_of(args, shared, 0), args.budget_min)
        args.out.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(json.dumps({"of": inputs, "steps": steps, "seconds a step": seconds}) + "\n")
        with contextlib.suppress(FileExistsError):  # another row has stored its measurement meanwhile: that one counts
            os.link(part, path)
        part.unlink()
    return read(path, {name: value for name, value in inputs.items() if name != "split"})


def train(args: argparse.Namespace, run: Run, cohort: Cohort, row: str, seed: int) -> tuple[TrainedWriter, Json]:
    """Return the trained writer of a row, and facts of its training."""
    measured = steps_of(args, run, cohort, row)
    steps, folder = measured["steps"], args.out / "writers" / f"{row}-seed{seed}{arm(args)}"
    every = max(1, steps // N_VALIDATIONS)
    more = [f"optim.steps={steps}", f"log.validate_every={every}", f"log.save_every={every}", f"log.every={every}"]
    clock = StepClock()
    writer = train_writer(run, cohort, folder, [*settings_of(args, row, seed), *more], folder.exists(), clock)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    held_out = {line["step"]: line["loss"] for line in lines if line["split"] == "val"}
    best = min(held_out, key=lambda step: held_out[step])
    seconds = clock.times[-1] - clock.times[0] if len(clock.times) == steps else None  # None: resumed
    facts: Json = {"steps": steps, "seconds a step": measured["seconds a step"], "seconds": seconds}
    facts |= {"best step": best, "validation loss": held_out[best], "held out": held_out}
    facts |= {"parameters": sum(p.numel() for p in writer.model.parameters()), "table": writer.config.table()}
    return writer, facts


# --------------------------------------------------------------------------------------------------------- scoring


def compute_row(args: argparse.Namespace, row: str, seed: int) -> None:
    """Train and score a row; nothing is computed again."""
    run, cohort = hub.load(args.run), open_cohort(args)
    path, inputs = result_file(args, row, seed), inputs_of(args, run, cohort, row, seed)
    if path.exists():
        read(path, inputs)
        return
    facts: Json = {}
    if row in TRAINED:
        writer: Writer
        writer, facts = train(args, run, cohort, row, seed)
    else:
        writer = open_writer(row, run, cohort)
    controls = (SHUFFLED, ZERO) if row != "majority" else ()  # it reads no ECG
    start = time.process_time()
    scores = score_writer(run, cohort, writer, args.split, seed, controls=controls)
    facts |= {"seconds of scoring": time.process_time() - start}
    write(path, {"row": row, "seed": seed, "of": inputs, "facts": facts, **stored_scores(scores)})


def stored_scores(scores: WriterScores) -> Json:
    """Return the scores, with the resampled values that paired intervals and means over seeds need."""
    replicates: Json = {}
    for written in scores.written:
        stated = written.findings.with_uncertain
        rates = {name: getattr(stated, name) for name in RATES}
        rates["contradictions"] = written.findings.contradictions_per_report
        replicates[written.name] = {
            name: [round(float(value), 6) for value in rate.replicates] for name, rate in rates.items()
        }
    overlaps = [f"{name}: {overlap.sentence}" for name, overlap in scores.overlaps.items()]
    return {"scores": scores.to_json(), "remarks": scores.remarks, "overlaps": overlaps, "replicates": replicates}


def arm(args: argparse.Namespace) -> str:
    """Return the part of file names that the arm without numbers has."""
    return "" if args.numbers == "keep" else "-without-numbers"


def result_file(args: argparse.Namespace, row: str, seed: int) -> Path:
    """Return the file of a row's results."""
    split = "" if args.split == "test" else f"-{args.split}"
    return Path(args.out / f"{row}-seed{seed}{arm(args)}{split}.json")


def seeds_of(args: argparse.Namespace, row: str) -> list[int]:
    """Return the seeds of a row: all for the controlled comparison, the first for the others."""
    return args.seeds if row in ("tiny", "random") else args.seeds[:1]


def read(path: Path, inputs: Json) -> Json:
    """Return a stored result. Exits if it belongs to other inputs."""
    stored: Json = json.loads(path.read_text())
    changed = [name for name, value in inputs.items() if stored["of"].get(name) != value]
    if changed:
        sys.exit(f"{path}: stored for other inputs ({', '.join(changed)}); choose another --out or delete the file")
    return stored


def write(path: Path, content: Json) -> None:
    """Write a result, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(content) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="trained run: folder, name or hub id")
    parser.add_argument("--cohort", type=Path, required=True, help="a folder, or the name of one in cohorts/")
    parser.add_argument("--budget-min", type=float, default=20.0, help="minutes of one core per writer [%(default)s]")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(one) for one in text.split(",")],
        default=[0, 1, 2],
        help="with commas [0,1,2]",
    )
    parser.add_argument("--numbers", choices=("keep", "remove"), default="keep", help="measurements in reports")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="that is scored [%(default)s]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the writers")
    parser.add_argument("--out", type=Path, default=Path("runs/reports"))
    parser.add_argument("--name", default="reports", help="name of the page in benchmarks/results")
    parser.add_argument("--note", default="", help="a sentence on what was trained")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="rows side by side, a core each")
    parser.add_argument("--row", choices=(*TRAINED, *UNTRAINED), help="compute this row alone")
    parser.add_argument("--page", action="store_true", help="write the page from the stored rows alone")
    args = parser.parse_args()
    args.cohort = cohort_folder(args.cohort)

    # one row
    torch.set_num_threads(1)
    if args.row is not None:
        for seed in seeds_of(args, args.row):
            compute_row(args, args.row, seed)
            print(f"{args.row}, seed {seed}: done", flush=True)
        return

    # every row, each in a process of its own, then the page
    rows = (*TRAINED, *UNTRAINED)
    if not args.page:

        def is_done(row: str) -> bool:
            return all(result_file(args, row, seed).exists() for seed in seeds_of(args, row))

        failed = run_each(rows, "--row", is_done, args.out, args.at_once)
        if failed:
            sys.exit(f"failed: {', '.join(failed)}; see the logs in {args.out}. No page was written")
    page(args, open_cohort(args), {row: [result_file(args, row, seed) for seed in seeds_of(args, row)] for row in rows})


if __name__ == "__main__":
    main()
