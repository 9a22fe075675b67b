"""Every task of a cohort, probed and classified zero-shot, as one page of tables.

python benchmarks/tasks.py runs/ptbxl cohorts/ptbxl --name ptbxl_cpu --note "what was trained, and how long"
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from machine import describe, table, write

from leadwise import run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.zeroshot import run_zeroshot


def cell(macro: float, low: float, high: float) -> str:
    return f"{100 * macro:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--name", required=True, help="name of the page in benchmarks/results")
    parser.add_argument("--note", default="", help="a sentence on the training")
    parser.add_argument("--split", default="test", help="val while choosing, test once at the end")
    args = parser.parse_args()
    run, cohort = runs.load(args.run), Cohort.open(args.cohort)
    probe_rows, zero_rows, skipped = [], [], []
    for task in cohort.main_tasks:
        probe = run_probe(run, cohort, task)
        for fraction, results in probe.results.items():
            row: dict[str, object] = {"task": task, "labels": f"{fraction:.0%}"}
            if args.split == "val":  # choices are made on validation; the test split is not scored
                row |= {name: 100 * sum(d.val_macro for d in r.draws) / len(r.draws) for name, r in results.items()}
            else:
                gain, (low, high) = probe.gain(fraction)
                row |= {name: cell(r.score.macro, *r.score.interval) for name, r in results.items()}
                row["trained - untrained"] = f"{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            probe_rows.append(row)
        zero = run_zeroshot(run, cohort, task, split=args.split)
        zero_rows.append({"task": task, **{r["features"]: cell(r["macro"], r["low"], r["high"]) for r in zero.rows()}})
        skipped.append(
            f"{task}: scored {zero.trained.n_records} recordings, skipped {', '.join(zero.trained.skipped) or 'no class'}"
        )
        print(probe_rows[-3:], zero_rows[-1], flush=True)
    counts = json.dumps({split: len(cohort.rows(split=split)) for split in ("train", "val", "test")})
    text = f"""# {args.run.name} on {args.cohort.name}

Command: `python {" ".join(sys.argv)}`. {describe()}.
{args.note}

Recordings: {counts}. Macro AUROC x 100 over the classes that the split defines, with 95 % intervals from 1,000
bootstraps of patients. Probes: strength chosen on validation, test scored once; less than 100 % are means over three draws.

## Linear probe, {args.split} split
{table(probe_rows)}

## Zero-shot, {args.split} split
{table(zero_rows)}

{"; ".join(skipped)}.
"""
    print(write(args.name, text))


if __name__ == "__main__":
    main()
