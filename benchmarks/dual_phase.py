"""benchmarks/results/dual_phase.md: the target `dual_phase` of `leadwise reproduce`, with the machine and the time.

    python benchmarks/dual_phase.py -o reproduced --budget 6min --seeds 0

Every run and score is stored in the folder: a call that was interrupted, or that adds seeds, continues from there. Folders of
several calls with the same --out name, budget.json and people can be merged: copy runs/ and scores/ into one of them, and call
this with all seeds. The figures are written beside the page.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
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

    # the figures, the command, the machine, and the tables of the target
    args.page.parent.mkdir(parents=True, exist_ok=True)
    figures = {"figure.png": "", "figure2.png": "_hearts"}
    for name, suffix in figures.items():
        with replacing(args.page.with_name(f"{args.page.stem}{suffix}.png")) as part:
            shutil.copyfile(result.folder / name, part)
    command = shlex.join(["python", "benchmarks/dual_phase.py", *sys.argv[1:]])
    note = (
        f"`{command}`\n\n{describe()}. The last call took {seconds}; an earlier one may have done a part of the work."
    )
    parts = [
        f"# {dual_phase.TITLE}",
        f"![R² of phenotypes from the ECG]({args.page.stem}.png)",
        f"![Three simulated pairs of ECG and heart]({args.page.stem}_hearts.png)",
        result.scale,
        "## Acceptance",
        markdown(result.more["Acceptance"]),
        dual_phase.NOTE,
        "## R² of phenotypes",
        markdown(result.lines),
    ]
    for heading, lines in result.more.items():
        if heading != "Acceptance":
            parts += [f"## {heading}", markdown(lines)]
    with replacing(args.page) as part:
        part.write_text("\n\n".join([*parts, note]) + "\n", encoding="utf-8")
    print(f"{args.page}; the whole result: {result.folder / 'page.html'}")


if __name__ == "__main__":
    main()
