"""benchmarks/results/completion.md: missing leads by WearECG and by masked methods, beside linear maps.

    python benchmarks/completion.py --cohort ptbxl=cohorts/ptbxl --cohort simulated=cohorts/simulated --minutes 15 -o completed
    python benchmarks/completion.py ... --run ptbxl:st_mem=runs/st_mem        a run that exists, in place of a training
    python benchmarks/completion.py ... --minutes 0.2 --limit 40 --methods wear_ecg        a try of a minute

Each method is trained with its small settings for so many minutes of one core on the training split of each cohort; the number
of steps is measured once and stored. Every seed of wear_ecg is a row. Trainings, steps and scores are stored in the folder:
a call that was interrupted, or that adds seeds, continues from there. The probe of the labels uses the embeddings of --encoder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from matplotlib.figure import Figure
from rows import command_line, slug, steps_in

from leadwise import hub
from leadwise.batch import Signal
from leadwise.config import Config, DataConfig, LogConfig, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.export import markdown
from leadwise.files import replacing
from leadwise.methods.catalogue import small_optim_settings, small_settings, with_defaults
from leadwise.pictures import ink
from leadwise.run import Run
from leadwise.synthesis.completion import RunCompleter, parse_leads
from leadwise.synthesis.completion_scores import LAGS, LINEAR, PATIENT, score_completion
from leadwise.training import loop

RESULTS = Path(__file__).parent / "results"
SEEDED = "wear_ecg"  # trained once per seed
MASKED = {"st_mem": {}, "cg_dmer": {}, "merit": {"decoder": "cross"}}  # method -> settings beside its small ones
SCALE_END = 60.0  # of the figure, in %
LARGEST_R = 0.98  # of V3 by the linear map on simulated hearts: above it, a linear map is all that is needed
Json = dict[str, Any]
log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", action="append", required=True, metavar="NAME=FOLDER", help="repeat for more")
    parser.add_argument("--run", action="append", default=[], metavar="NAME:METHOD=RUN", help="a run that exists")
    parser.add_argument("--methods", default=",".join([SEEDED, *MASKED]), help="[%(default)s]")
    parser.add_argument("--leads", action="append", help="given leads; repeat for more sets [II,V1,V5 and I]")
    parser.add_argument("--minutes", type=float, default=15.0, help="of one core for each training [%(default)s]")
    parser.add_argument("--masked-minutes", type=float, help="the same of the other methods [as --minutes]")
    parser.add_argument("--seeds", default="0", help="of wear_ecg, such as 0,1,2 [%(default)s]")
    parser.add_argument(
        "--encoder", default="ptbxl", help="run that the probe of the labels reads, or none [%(default)s]"
    )
    parser.add_argument("--task", action="append", default=[], metavar="NAME=TASK", help="labels [the first task]")
    parser.add_argument("--limit", type=int, help="number of test recordings [all]")
    parser.add_argument("--only-train", action="store_true", help="train what is missing and stop")
    parser.add_argument("--note", default="", help="a sentence on the rows")
    parser.add_argument("-o", "--out", type=Path, default=Path("completed"))
    parser.add_argument("--page", type=Path, default=RESULTS / "completion.md")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)

    # train, score, write the page
    cohorts = {name: Path(folder) for name, folder in map(_pair, args.cohort)}
    runs_of = {name: train_all(args, name, folder) for name, folder in cohorts.items()}
    if args.only_train:
        return
    sets = [parse_leads(text) for text in args.leads or ("II,V1,V5", "I")]
    results = [score(args, name, folder, given, runs_of[name]) for given in sets for name, folder in cohorts.items()]
    write_page(args, results, runs_of)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


# ------------------------------------------------------------------------------------------------------------ trainings


def train_all(args: argparse.Namespace, name: str, folder: Path) -> dict[str, Path]:
    """Return the run folder of each row of a cohort, trained if it does not exist."""
    given = {key: Path(value) for key, value in map(_pair, args.run)}
    folders = {}
    for method in args.methods.split(","):
        if f"{name}:{method}" in given:
            folders[method] = given[f"{name}:{method}"]
            continue
        for seed in map(int, args.seeds.split(",") if method == SEEDED else "0"):
            row = f"{method}, seed {seed}" if method == SEEDED else method
            folders[row] = train(args, name, folder, method, seed)
    return folders


def minutes_of(args: argparse.Namespace, method: str) -> float:
    """Return how many minutes of one core a method is trained."""
    is_masked = method != SEEDED and args.masked_minutes is not None
    return float(args.masked_minutes if is_masked else args.minutes)


def train(args: argparse.Namespace, name: str, cohort: Path, method: str, seed: int) -> Path:
    """Train a method for the budget, or continue its training; return the run folder."""
    settings = small_settings(method) | MASKED.get(method, {})
    optim = OptimConfig(optimizer="muon", batch_size=64, lr=1e-3, weight_decay=0.01, seed=seed, device="cpu")
    config = with_defaults(
        Config(
            signal=Signal(rate_hz=100, duration_s=10.0),
            data=DataConfig(cohort=str(cohort)),
            method=settings,
            optim=dataclasses.replace(optim, **small_optim_settings(method)),
            log=LogConfig(every=5, validate_every=0, save_every=50),
        )
    )
    # the steps are measured once, so that a resumed training has the same number
    path = args.out / f"steps-{name}-{method}.json"
    minutes = minutes_of(args, method)
    stated = {"minutes": minutes, "method": settings}
    stored = json.loads(path.read_text()) if path.exists() else {}
    if stored.get("of") != json.loads(json.dumps(stated)):
        steps, seconds = steps_in(config, minutes)
        stored = {"of": stated, "steps": steps, "seconds a step": seconds}
        with replacing(path) as part:
            part.write_text(json.dumps(stored) + "\n")
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=stored["steps"]))

    # train, with a line a minute
    folder = args.out / "runs" / f"{name}-{method}-seed{seed}-{slug(str(minutes))}min"
    if (folder / "done").exists():
        return folder
    log.info("%s on %s, seed %d: %d steps", method, name, seed, stored["steps"])
    began, last = time.process_time(), [time.monotonic()]

    def progress(what: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            log.info(
                "%s %d of %d, %.0f s of processor time",
                what.partition("|")[0],
                done,
                total,
                time.process_time() - began,
            )

    loop.pretrain(config, folder, resume=(folder / "resume").exists(), progress=progress)
    (folder / "done").write_text(f"{time.process_time() - began:.0f}\n")
    return folder


# --------------------------------------------------------------------------------------------------------------- scores


def score(args: argparse.Namespace, name: str, folder: Path, given: Sequence[str], runs: dict[str, Path]) -> Json:
    """Return the scores of all rows of a cohort for a set of given leads, from the folder if they are there."""
    opened = Cohort.open(folder)
    loaded = {row: hub.load(path) for row, path in runs.items()}
    tasks = dict(map(_pair, args.task))
    stated = {
        "cohort": opened.fingerprint, "given": list(given), "runs": {row: run.fingerprint for row, run in loaded.items()},
        "limit": args.limit, "encoder": args.encoder, "task": tasks.get(name),
    }  # fmt: skip
    path = args.out / "scores" / f"{slug(name)}-{slug(','.join(given))}.json"
    if path.exists() and (stored := json.loads(path.read_text()))["of"] == stated:
        return dict(stored)
    log.info("score %s from %s", name, ", ".join(given))
    encoder: Run | None = None if args.encoder == "none" else hub.load(args.encoder)
    completers = [RunCompleter(run, label=row) for row, run in loaded.items()]
    last = [time.monotonic()]

    def progress(what: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 60 or done == total:
            last[0] = time.monotonic()
            log.info("%s %d of %d", what, done, total)

    report = score_completion(completers, opened, given, encoder, tasks.get(name), args.limit, progress)
    tables = {f"{what} ({int(some.sum())} recordings)": report.rows(some) for what, some in report.subsets.items()}
    result = {
        "of": stated, "name": name, "source": opened.source, "scores": report.to_json(), "rows": report.rows(), "subsets": tables,
        "leads": {measure: report.lead_rows(measure) for measure in ("mse", "r", "qrs")}, "utility": report.utility_rows(),
        "verdicts": report.verdicts(),
    }  # fmt: skip
    with replacing(path) as part:
        part.write_text(json.dumps(result, indent=1) + "\n")
    return result


# ----------------------------------------------------------------------------------------------------------------- page


def draw(results: Sequence[Json]) -> Figure:
    """Return a figure: each row's squared error relative to the linear map, with intervals, by cohort and given leads."""
    n_rows = (len(results) + 1) // 2
    most = max(len(one["scores"]["rows"]) for one in results) - 1
    height = n_rows * (0.42 * most + 1.1) + 0.4
    figure = ink.blank(11.0, height)
    for number, result in enumerate(results):
        axes = figure.add_subplot(n_rows, 2, number + 1)
        scores = result["scores"]["rows"]
        names = [row for row in scores if row != LINEAR]
        kinds = {"": ink.INK, "infarct": ink.PALETTE[1], "bundle branch block": ink.PALETTE[0]}
        for k, (subset, colour) in enumerate(kinds.items()):
            if subset and subset not in scores[LINEAR]["subsets"]:
                continue
            of_row = [scores[row]["subsets"][subset] if subset else scores[row] for row in names]
            values = np.array([one["relative_to_linear"] for one in of_row]) * 100
            y = -np.arange(len(names)) - 0.22 * k
            # errors far above the linear map's are numbers at the edge, so that the others do not shrink
            inside = values[:, 0] < SCALE_END
            axes.errorbar(
                values[inside, 0], y[inside], xerr=np.abs(values[inside, 1:] - values[inside, :1]).T, fmt="o", markersize=4,
                color=colour, linewidth=1.2, label=subset or "all recordings",
            )  # fmt: skip
            for place, value in zip(y[~inside], values[~inside, 0]):
                axes.text(SCALE_END, place, f"{value:+.0f} % >", fontsize=7.5, color=colour, ha="right", va="center")
        axes.axvline(0.0, color=ink.GREY, linewidth=0.8)
        axes.set_xlim(-90, SCALE_END)
        axes.set_ylim(-len(names) + 0.2, 0.5)
        axes.set_yticks(-np.arange(len(names)) - 0.22, names)
        axes.set_xlabel("squared error relative to the linear map, %", fontsize=8)
        ink.tidy(axes, f"{result['name']}: from {', '.join(result['scores']['given'])}")
        if number == 0:
            figure.legend(*axes.get_legend_handles_labels(), fontsize=8, frameon=False, loc="upper center", ncols=3)
    figure.subplots_adjust(left=0.15, right=0.99, top=1 - 0.7 / height, bottom=0.5 / height, wspace=0.4, hspace=0.35)
    return figure


def write_page(args: argparse.Namespace, results: Sequence[Json], runs_of: dict[str, dict[str, Path]]) -> None:
    """Write the page and its figure."""
    picture = args.page.with_suffix(".png")
    ink.save(draw(results), picture, dpi=130)
    parts = ["# Missing leads", f"![Squared error relative to the linear map]({picture.name})"]

    # what is better than the linear map, and what is not
    parts += [_summary(results)]
    parts += [
        "Squared error relative to that of the linear map, paired, 95 % over patients; in bold what is lower:",
        markdown([line for one in results for line in _relative_rows(one)]),
    ]
    parts += [
        f"Command: `python {command_line()}`. {describe()}.",
        _protocol(args, runs_of),
        *filter(None, [args.note]),
    ]
    parts += [_check(one) for one in results if one["source"] == "simulated" and "V3" in one["scores"]["synthetic"]]

    # the tables
    for one in results:
        scores = one["scores"]
        parts.append(f"## {one['name']}: {scores['recordings']} test recordings, from {', '.join(scores['given'])}")
        parts += [
            f"Mean over {', '.join(scores['synthetic'])}. Linear maps of {scores['fitted']} training recordings.",
            markdown(one["rows"]),
        ]
        for what, table in one["subsets"].items():
            parts += [f"With {what}:", markdown(table)]
        for measure, title in (("r", "Pearson's r"), ("qrs", "QRS amplitude error, mV")):
            parts += [f"{title} by lead:", markdown(one["leads"][measure])]
        if one["utility"]:
            parts += [f"Labels of task {scores['task']} from completed ECGs:", markdown(one["utility"])]
    with replacing(args.page) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    log.info("%s", args.page)


def _summary(results: Sequence[Json]) -> str:
    """Return a sentence on where the trained completer is better than the linear map, and where it is not."""
    better, others = [], []
    for one in results:
        for row, scores in one["scores"]["rows"].items():
            for subset, part in {"all": scores, **scores["subsets"]}.items():
                if row.startswith(SEEDED):
                    name = f"{one['name']} from {', '.join(one['scores']['given'])} ({subset})"
                    (better if part["relative_to_linear"][2] < 0 else others).append(name)
    text = f"{SEEDED} has a lower squared error than the linear map in {len(better)} of {len(better) + len(others)} comparisons"
    return f"{text}; **not** in: {'; '.join(others)}." if others else f"{text}."


def _relative_rows(result: Json) -> list[Json]:
    """Return a line for each row: its squared error relative to the linear map, of all recordings and of each subset."""
    lines = []
    for row, scores in result["scores"]["rows"].items():
        if row == LINEAR:
            continue
        line = {"cohort, given leads": f"{result['name']}, {', '.join(result['scores']['given'])}", "row": row}
        for subset, part in {"all": scores, **scores["subsets"]}.items():
            value, low, high = part["relative_to_linear"]
            text = f"{value:+.0%} [{low:+.0%}, {high:+.0%}]"
            line[subset] = f"**{text}**" if high < 0 else text
        lines.append(line)
    return lines


def _check(result: Json) -> str:
    """Return a sentence on whether the linear map leaves anything to complete on simulated hearts."""
    r = result["scores"]["rows"][LINEAR]["measures"]["r"]["leads"]["V3"]["value"]
    verdict = "below" if r < LARGEST_R else "NOT below"
    return (
        f"Check of the simulator ({', '.join(result['scores']['given'])} given): r of V3 by the linear map is {r:.3f}, {verdict} "
        f"{LARGEST_R}: the transform from heart to leads differs between people, and one map of all people does not suffice."
    )


def _protocol(args: argparse.Namespace, runs_of: dict[str, dict[str, Path]]) -> str:
    given = [f"{text.partition('=')[0]}" for text in args.run]
    existing = f" Runs that existed before: {', '.join(given)}." if given else ""
    rows = sorted({row for runs in runs_of.values() for row in runs})
    return (
        f"Rows: {LINEAR}: least squares over the training recordings; {LAGS}; {PATIENT}: least squares on the test recording "
        f"itself, no map of single samples is better; {', '.join(rows)}: small settings, 100 Hz, {args.minutes:g} minutes of one "
        f"core for {SEEDED} and {minutes_of(args, 'others'):g} for each other method ({_steps(args)}).{existing} Masked methods "
        "(st_mem, cg_dmer, merit) were never trained to fill in a whole lead, and predict the shape of a patch: its amplitude is "
        "that of a linear map. Limb leads satisfy their equations exactly. The QRS amplitude is peak to peak within 60 ms of the "
        "middle of a beat. In the 80 % band: share of true samples within the band of 20 draws. Published figures of WearECG "
        "cannot be compared: its released code masks no lead."
    )


def _steps(args: argparse.Namespace) -> str:
    """Return the number of steps of each training."""
    paths = sorted(args.out.glob("steps-*.json"))
    steps = [f"{path.stem.removeprefix('steps-')} {json.loads(path.read_text())['steps']}" for path in paths]
    return "steps: " + ", ".join(steps) if steps else "no training"


if __name__ == "__main__":
    main()
