"""What each fault of the published protocol is worth, as a page: the strict probe, MERL's trainer, fault by fault.

python benchmarks/protocol_cost.py runs/ptbxl cohorts/ptbxl --task sub --splits merl/finetune/data_split \\
    --name protocol_cost_ptbxl --note "what was trained"
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from machine import describe, table, write

from leadwise import run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.merl_legacy.probe_heads import FAULT_DESCRIPTIONS, TrainerSettings
from leadwise.evaluate.protocol import (
    LegacySettings,
    ProtocolLine,
    ProtocolReport,
    run_protocol,
)


def cell(value: float, low: float, high: float, sign: str = "") -> str:
    """AUROC x 100 with its interval."""
    return f"{100 * value:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def row(line: ProtocolLine) -> dict[str, object]:
    """A line of the page."""
    apart = "-"
    if line.difference is not None and line.difference_interval is not None:
        apart = cell(line.difference, *line.difference_interval, sign="+")
    return {
        "labels": f"{line.fraction:.0%} ({line.n_train})",
        "probe": line.probe,
        "macro AUROC": cell(line.score.macro, *line.score.interval),
        "against no fault": apart,
        "learnable only": "-" if line.learnable_only is None else f"{100 * line.learnable_only:.1f}",
        "epoch": line.epoch,
        "": line.comparability,
    }


def page(report: ProtocolReport, command: str, note: str, seconds: float) -> str:
    """The result in Markdown."""
    task = report.legacy_task
    counts = {split: len(task.task.rows(split)) for split in ("train", "val", "test")}
    skipped = sorted({name for line in report.lines for name in line.score.skipped})
    trainer = report.legacy.trainer
    lost_classes = "; ".join(
        f"{line.fraction:.0%} of labels: {', '.join(line.unlearnable)}" for line in report.lines if line.unlearnable
    ) or "none here"  # fmt: skip
    missing = report.to_json()["published_records_missing"]
    lost = f"Skipped, because the test split has no positive: {', '.join(skipped) or 'none'}."
    source = (
        "the cohort's own"
        if missing is None
        else f"the published ones; of their recordings, {missing} were not available"
    )
    faults = "\n".join(f"- `{fault}`: {FAULT_DESCRIPTIONS[fault]}" for fault in report.faults)
    without = "\n".join(f"- `{fault}` does not apply: {reason}." for fault, reason in report.not_applicable.items())
    return f"""# What each fault of the published probe changes: {report.run} on {task.cohort.name}, {task.name}

Command: `{command}`, {seconds:.0f} s. {describe()}.
{note}

Recordings: {counts}; splits are {source}. Test patients used in pre-training: {report.overlap.n_patients}.
Macro AUROC x 100 with 95 % intervals from 1,000 bootstraps of patients. Differences are to MERL's trainer without a fault, with
the same patients drawn for both; the epoch is not chosen again in a resampling. "No fault" with another seed shows the noise:
other labels (below 100 %), another order and other initial weights. "Learnable only": macro AUROC over the classes that have
both label values in every draw of the strict probe; in a draw without both, the strict probe counts a class as 0.5
({lost_classes}), while MERL's trainer scores it like any other. MERL's trainer: {trainer.epochs} epochs, batches of
{trainer.batch_size}, float32 (MERL's code: fp16 autocast). {lost}

{table([row(line) for line in report.lines])}

{faults}
{without}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--task", default="sub")
    parser.add_argument("--splits", type=Path, help="folder of the published split files")
    parser.add_argument("--epochs", type=int, default=TrainerSettings.epochs)
    parser.add_argument("--fractions", default="0.01,0.1,1")
    parser.add_argument("--name", default="protocol_cost", help="name of the page in benchmarks/results")
    parser.add_argument("--note", default="", help="a sentence on the training")
    args = parser.parse_args()
    fractions = tuple(float(share) for share in args.fractions.split(","))
    legacy = LegacySettings(trainer=TrainerSettings(epochs=args.epochs), splits=args.splits)
    began = time.perf_counter()
    printed: dict[str, int] = {}

    def progress(what: str, done: int, total: int) -> None:
        if printed.get(what, -1) != (tenth := 10 * done // total):
            printed[what] = tenth
            print(f"{time.perf_counter() - began:6.0f} s  {what}: {done} of {total}", flush=True)

    run, cohort = runs.load(args.run), Cohort.open(args.cohort)
    report = run_protocol(run, cohort, args.task, fractions, legacy=legacy, progress=progress)
    command = (
        f"python benchmarks/protocol_cost.py {args.run.name} {args.cohort.name} --task {args.task} "
        f"{'--splits SPLITS ' if args.splits else ''}--epochs {args.epochs} --fractions {args.fractions}"
    )
    print(write(args.name, page(report, command, args.note, time.perf_counter() - began)))


if __name__ == "__main__":
    main()
