"""benchmarks/results/questions.md: questions about ECGs with known answers, by probes, beside answers without the right ECG.

    python benchmarks/questions.py --cohort simulated=cohorts/simulated --truth simulated=simulated/truth.csv \\
        --cohort ptbxl=cohorts/ptbxl --run ptbxl --run ptbxl-fast -o questions
    python benchmarks/questions.py ... --limit 60 --page questions/page.md        a try of a minute

Each run answers the questions of each cohort by `leadwise bench-qa --answers probe`, on the test split. Results are stored in the
folder: a call that was interrupted continues from there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from machine import describe
from matplotlib.figure import Figure
from rows import Json, command_line, slug

from leadwise import hub
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.export import markdown
from leadwise.files import replacing
from leadwise.pictures import ink
from leadwise.questions.bench import MAJORITY, run_bench
from leadwise.questions.question import GROUPS
from leadwise.questions.truth import read_truth_table

RESULTS = Path(__file__).parent / "results"
PAPER = (
    "HeartcareGPT (arXiv 2506.05831) states an accuracy of 83.3 % (3.8B) and 83.4 % (7B) on closed questions, and of 72.7 % and "
    "77.2 % on comparisons. These are other questions, with other options, about ECGs of which a part was never published, and "
    "the paper has no line of chance, of shuffled ECGs or of an answer without ECG. So no figure here can be compared with it."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", action="append", required=True, metavar="NAME=FOLDER", help="repeat for more")
    parser.add_argument("--truth", action="append", default=[], metavar="NAME=TABLE", help="true values of a cohort")
    parser.add_argument("--task", action="append", default=[], metavar="NAME=TASK", help="labels [the first task]")
    parser.add_argument("--run", action="append", required=True, help="a run that answers; repeat for more")
    parser.add_argument("--limit", type=int, help="number of test recordings [all]")
    parser.add_argument("-o", "--out", type=Path, default=Path("questions"))
    parser.add_argument("--page", type=Path, default=RESULTS / "questions.md")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = [answered(args, one, run) for one in args.cohort for run in args.run]
    write_page(args, results)


def answered(args: argparse.Namespace, cohort: str, run: str) -> Json:
    """Return the scores of a run on the questions of a cohort, from the folder if they are there."""
    name, _, folder = cohort.partition("=")
    tables, tasks = (dict(one.split("=", 1) for one in given) for given in (args.truth, args.task))
    loaded, opened = hub.load(run), Cohort.open(Path(folder))
    stated = {"run": loaded.fingerprint, "cohort": opened.fingerprint, "truth": name in tables, "task": tasks.get(name)}
    stated |= {"limit": args.limit}
    path = args.out / f"{slug(name)}-{slug(run)}.json"
    if path.exists() and (stored := json.loads(path.read_text()))["of"] == stated:
        return dict(stored)
    table = read_truth_table(Path(tables[name])) if name in tables else None
    result = run_bench(loaded, opened, "probe", tasks.get(name), truth_table=table, limit=args.limit)
    overlap = result.overlaps["run"].remark
    scores = {"of": stated, "name": name, **result.to_json(), "table": result.table(), "remarks": result.remarks()}
    scores["remarks"] += [overlap] if overlap else []
    with replacing(path) as part:
        part.write_text(json.dumps(scores, indent=1) + "\n")
    print(f"{path}", flush=True)
    return scores


def draw(results: list[Json]) -> Figure:
    """Return a figure: a panel for each result, a line for each kind of question, a dot and interval for each row."""
    n_rows = (len(results) + 1) // 2
    figure = ink.blank(11.0, 4.1 * n_rows + 0.4)
    for number, result in enumerate(results):
        axes = figure.add_subplot(n_rows, 2, number + 1)
        kinds = list(next(iter(result["rows"].values())))
        for k, (row, scores) in enumerate(result["rows"].items()):
            values = np.array([[scores[kind][part] for part in ("score", "low", "high")] for kind in kinds])
            y = -np.arange(len(kinds)) - 0.15 * k
            axes.errorbar(
                values[:, 0], y, xerr=np.abs(values[:, 1:] - values[:, :1]).T, fmt="o", markersize=4, linewidth=1.2,
                color=ink.PALETTE[k] if k else ink.INK, label="probe" if not k else row,
            )  # fmt: skip
        axes.set_yticks(-np.arange(len(kinds)) - 0.3, [GROUPS.get(kind, "mean of kinds") for kind in kinds])
        axes.set_xlim(0, 1.02)
        axes.set_xlabel("share of right answers; of lists, F1", fontsize=8)
        ink.tidy(axes, f"{result['name']}, probe of {result['run']}")
        if number == 0:
            figure.legend(*axes.get_legend_handles_labels(), fontsize=8, frameon=False, loc="upper center", ncols=5)
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.15, right=0.99, top=1 - 0.75 / height, bottom=0.55 / height, wspace=0.45, hspace=0.4)
    return figure


def write_page(args: argparse.Namespace, results: list[Json]) -> None:
    """Write the page and its picture."""
    picture = args.page.with_suffix(".png")
    ink.save(draw(results), picture, dpi=120)
    parts = [
        "# Questions about ECGs",
        f"![Scores by kind of question]({picture.name})",
        "`leadwise bench-qa`: questions with known answers, options shuffled, test split. The answers are those of logistic "
        "regressions on frozen embeddings. Below them: the same with another patient's ECG, with a flat line, the most frequent "
        "answer of the training split, and chance. The probe minus the most frequent answer, mean of kinds, paired, 95 % over "
        "patients:",
        "\n".join(f"- {one['name']}, {one['run']}: {_gain(one)}." for one in results),
        f"Command: `python {command_line()}`. {describe()}.",
    ]
    for one in results:
        parts += [f"## {one['name']}, task {one['task']}, answered by a probe of {one['run']}", markdown(one["table"])]
        parts += [" ".join(one["remarks"])]
    parts += ["## What cannot be compared", PAPER]
    with replacing(args.page) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(args.page)


def _gain(result: Json) -> str:
    """Return the difference to the most frequent answers, the mean of kinds, and whether its interval is above 0."""
    one = next(one for one in result["gains"] if MAJORITY in one.values() and one["on"] == "mean of kinds")
    verdict = "above" if one["low"] > 0 else "NOT above"
    return f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}], {verdict} it"


if __name__ == "__main__":
    main()
