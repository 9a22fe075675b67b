"""benchmarks/results/dual_phase.md: the target `dual_phase` of `leadwise reproduce`, with the machine and the time.

    python benchmarks/dual_phase.py -o reproduced --budget 6min --seeds 0

Every run and score is stored in the folder: a call that was interrupted, or that adds seeds, continues from there.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from machine import describe

from leadwise.evaluate.export import markdown
from leadwise.files import replacing
from leadwise.reproduce import budget as budgets
from leadwise.reproduce import dual_phase
from leadwise.reproduce.reproduction import ReproduceRequest, reproduce

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("reproduced"))
    parser.add_argument("--budget", default="6min")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--people", type=int, default=dual_phase.N_PEOPLE)
    parser.add_argument("--config", type=Path, action="append", default=[])
    parser.add_argument("--page", type=Path, default=RESULTS / "dual_phase.md")
    args = parser.parse_args()
    began, cpu = time.perf_counter(), time.process_time()
    request = ReproduceRequest(
        "dual_phase", args.out, configs=tuple(args.config), budget=budgets.parse(args.budget),
        seeds=tuple(map(int, args.seeds.split(","))), n_people=args.people,
    )  # fmt: skip
    result = reproduce(request, lambda what, done, total: None)
    seconds = f"{time.perf_counter() - began:,.0f} s, {time.process_time() - cpu:,.0f} s of processor time"

    # the page: the command, the machine, and the tables of the target
    command = shlex.join(["python", "benchmarks/dual_phase.py", *sys.argv[1:]])
    note = (
        f"`{command}`\n\n{describe()}. The last call took {seconds}; an earlier one may have done a part of the work."
    )
    parts = [
        f"# {dual_phase.TITLE}",
        note,
        result.scale,
        dual_phase.NOTE,
        "## R² of phenotypes",
        markdown(result.lines),
    ]
    for heading, lines in result.more.items():
        parts += [f"## {heading}", markdown(lines)]
    with replacing(args.page) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"{args.page}; figure: {args.out / 'dual_phase' / 'figure.png'}")


if __name__ == "__main__":
    main()
