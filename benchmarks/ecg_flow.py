"""benchmarks/results/ecg_flow.md: phenotypes and heart images drawn from ECGs by ecg_flow_cmr, beside another person's ECG.

    python benchmarks/ecg_flow.py -o flow --minutes 10 --seeds 0,1,2
    python benchmarks/ecg_flow.py -o flow-try --people 80 --minutes 0.2 --page try/ecg_flow.md       # a few minutes, to try it

One run for each target and seed, of `--minutes` of one core each, or of `--steps` for phenotypes and images. Without --cohort,
the simulated pairs of `leadwise reproduce dual_phase` are written to the folder. Runs and scores are stored in it: a call that
was interrupted, or that adds seeds, continues from there. The test people are scored once, and nothing is selected on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.batch import Signal
from leadwise.config import Config, LogConfig, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.evaluate.embed import frozen
from leadwise.evaluate.export import markdown
from leadwise.evaluate.flow_scores import ECG, MEASURES, SHUFFLED, TEMPLATE, TRUE_IMAGES, WITHOUT, judge_draws
from leadwise.files import replacing
from leadwise.methods.catalogue import small_optim_settings, small_settings, volume_setting, with_defaults
from leadwise.pictures.ink import INK, blank, save
from leadwise.reproduce import budget as budgets
from leadwise.reproduce import training_runs
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.dual_phase_data import PAIRED, paired_data
from leadwise.reproduce.variants import Variant
from leadwise.run import Run

RESULTS = Path(__file__).parent / "results"
PHENOTYPES = ("lvedv", "lvesv", "lvef", "lvmass")
N_DRAWS = {"phenotype": 99, "volume": 9}  # with which the 80 % interval is between two draws
PAPER = "ECG, the paper's alpha and guidance"
FURTHER = {PAPER: {"alpha": 0.6, "guidance": 2.0}}
TOLERANCE = 0.05  # above the bound

_TITLE = "Hearts drawn from ECGs: rectified flow, simulated pairs"
_INTRODUCTION = """\
`ecg_flow_cmr` (ECGFlowCMR, arXiv 2601.20904) draws phenotypes, or short-axis images at end-diastole and end-systole, from an ECG.
The people are simulated, so that the largest R² that any method can reach from the ECG is known ("bound"). The table shows how
the method works, and nothing about patients. Each row is beside the same draws with the ECGs of the test people exchanged: a flow
that starts at the mean of the training targets gives good images without any use of the ECG.

r2: squared correlation of the mean of the draws with the truth, with its 95 % interval over people. explained: 1 - squared error
/ variance. one_draw: squared correlation of one draw. coverage: share of truths in the central 80 % of the draws. crps: in mL, %
or g, lower is better."""
_COUNTS = """\
The blood of the left ventricle is counted in each drawn image by brightness, and converted to mL by a line fitted to the true
images of the validation people. The row "true images" is the limit of this count; the one below, that of the autoencoder."""
_PUBLISHED = """\
## Published figures

The paper's figures are on 42,129 people of UK Biobank with cine MRI of 50 frames, and are not comparable with those above: FID
37.3, FVD 14.4, LPIPS 0.27; mean R² of phenotypes predicted from ECGs 0.454, and 0.470 with as many generated hearts added (0.499
with three times as many). It has no row with another person's ECG."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("flow"))
    parser.add_argument("--cohort", type=Path, help="a cohort with heart images; default: simulated pairs")
    parser.add_argument("--people", type=int, default=4000, help="of the simulated pairs")
    parser.add_argument("--minutes", type=float, default=10.0, help="of one core for each run")
    parser.add_argument(
        "--steps", help="steps of the runs of phenotypes and of images, such as 600,450, in place of --minutes"
    )
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--init", default="", help="the run of the ECG encoder from which all runs start")
    parser.add_argument("--page", type=Path, default=RESULTS / "ecg_flow.md")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    began, cpu = time.perf_counter(), time.process_time()
    cohort = args.cohort or paired_data(args.out, args.people, _report).folders[PAIRED]

    # the runs and their scores
    scores: dict[str, list[dict[str, Any]]] = {"phenotype": [], "volume": []}
    first: Run | None = None
    for seed in map(int, args.seeds.split(",")):
        for number, target in enumerate(scores):
            budget = (
                Budget(steps=int(args.steps.split(",")[number])) if args.steps else budgets.parse(f"{args.minutes}min")
            )
            run = train(args.out, cohort, target, seed, budget, args.init)
            scores[target].append(judge(args.out, run, Cohort.open(cohort), target))
            first = run if target == "volume" and first is None else first
    assert first is not None

    # the picture and the page
    seconds = f"{time.perf_counter() - began:,.0f} s, {time.process_time() - cpu:,.0f} s of processor time"
    page = args.page
    page.parent.mkdir(parents=True, exist_ok=True)
    save(picture(first, Cohort.open(cohort)), page.with_suffix(".png"), dpi=110)
    command = shlex.join(["python", "benchmarks/ecg_flow.py", *sys.argv[1:]])
    note = (
        f"`{command}`\n\n{describe()}. The last call took {seconds}; an earlier one may have done a part of the work."
    )
    with replacing(page) as part:
        part.write_text(text(scores, note, page.with_suffix(".png").name), encoding="utf-8")
    print(page)


def _report(what: str, done: int, total: int) -> None:
    if done % max(1, total // 10) == 0 or done == total:
        logging.info("%s: %d of %d", what, done, total)


# ---------------------------------------------------------------------------------------------------- runs and scores


def train(out: Path, cohort: Path, target: str, seed: int, budget: Budget, init: str = "") -> Run:
    """Return the trained run of a target; what is stored in `out` is loaded or continued."""
    method = small_settings("ecg_flow_cmr") | {
        "target": target,
        "phenotypes": list(PHENOTYPES) if target == "phenotype" else [],
    }
    config = Config(
        signal=Signal(rate_hz=100, duration_s=10.0),
        method=method,
        optim=OptimConfig(seed=seed, **small_optim_settings("ecg_flow_cmr")),
        log=LogConfig(validate_every=130, validate_records=256),
    )
    variant = training_runs.with_cohort(Variant(f"flow to {target}", with_defaults(config)), cohort)
    if init:
        data = dataclasses.replace(variant.config.data, init=init)
        variant = dataclasses.replace(variant, config=dataclasses.replace(variant.config, data=data))
    out.mkdir(parents=True, exist_ok=True)
    variant = training_runs.with_budget(budget, out, variant)
    return training_runs.load_or_train(out / "runs", variant, _report)


def judge(out: Path, run: Run, cohort: Cohort, target: str) -> dict[str, Any]:
    """Return the scores of a run on the test people, as stored or computed now."""
    path = out / "scores" / f"{target}-{run.fingerprint[:16]}-{cohort.fingerprint[:16]}.json"
    if not path.is_file():
        report = judge_draws(run, cohort, N_DRAWS[target], further=FURTHER, progress=_report)
        table = {**report.to_json(), "steps": run.config.optim.steps, "batch_size": run.config.optim.batch_size}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored


# ----------------------------------------------------------------------------------------------------------- the page


def text(scores: dict[str, list[dict[str, Any]]], note: str, picture_name: str) -> str:
    """Return the page, from the scores of each target and seed."""
    steps = "; ".join(
        f"{name}: {each[0]['steps']:,} steps of {each[0]['batch_size']} people" for name, each in scores.items()
    )
    parts = [
        f"# {_TITLE}",
        f"![Test hearts and hearts drawn from ECGs]({picture_name})",
        note,
        _INTRODUCTION,
        f"Seeds: {len(scores['volume'])}. {steps}. {scores['volume'][0]['n_recordings']:,} test people.",
        "## Phenotypes",
        markdown(lines(scores["phenotype"])),
        "## Images",
        _COUNTS,
        markdown(lines(scores["volume"])),
        "## Acceptance",
        markdown(verdicts(scores)),
        _PUBLISHED,
    ]
    return "\n\n".join(parts) + "\n"


def lines(seeds: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return one line for each kind of draws and target: means over the seeds, and the first seed's interval of r²."""
    table = []
    for name, row in seeds[0]["rows"].items():
        for target in row["targets"]:
            cells = {}
            for measure in MEASURES:
                value = mean_of(seeds, name, target, measure)
                cells[measure] = "" if np.isnan(value) else f"{value:.2f}"
            interval = row["targets"][target]["r2"]["interval"]
            if cells["r2"] and None not in interval:
                cells["r2"] += f" ({interval[0]:.2f}–{interval[1]:.2f})"
            bound = seeds[0]["bounds"].get(target)
            table.append({"draws": name, "target": target, **cells, "bound": "" if bound is None else f"{bound:.2f}"})
    return table


def mean_of(seeds: Sequence[dict[str, Any]], name: str, target: str, measure: str) -> float:
    """Return the mean of a score over the seeds, NaN where it is undefined."""
    values = [seed["rows"][name]["targets"][target][measure]["value"] for seed in seeds]
    return float("nan") if None in values else float(np.mean(values))


def verdicts(scores: dict[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    """Return what the draws have to fulfil, with the figures and whether they do."""
    table = []

    def add(what: str, figures: dict[str, float], reached: bool) -> None:
        listed = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
        table.append({"line": what, "figures": listed, "verdict": "reached" if reached else "not reached"})

    for kind, targets in (("phenotype", PHENOTYPES), ("volume", ("lvedv", "lvef"))):
        seeds = scores[kind]
        bounds = seeds[0]["bounds"]
        what = "phenotypes" if kind == "phenotype" else "counted EDV and EF"
        r2 = {name: mean_of(seeds, ECG, name, "r2") for name in targets}
        lows = [seed["rows"][ECG]["targets"][name]["r2"]["interval"][0] for seed in seeds for name in targets]
        add(
            f"{what}: r² above 0.02, also the lower end of its interval, and at most the bound + {TOLERANCE}",
            r2,
            min(lows) > 0.02 and all(value <= bounds.get(name, 1.0) + TOLERANCE for name, value in r2.items()),
        )
        other = {name: mean_of(seeds, SHUFFLED, name, "r2") for name in targets}
        add(f"{what}: r² with another person's ECG below 0.02", other, max(other.values()) < 0.02)
        share = {name: mean_of(seeds, ECG, name, "coverage") for name in targets}
        add(f"{what}: coverage from 0.7 to 0.9", share, all(0.7 <= value <= 0.9 for value in share.values()))
        ratio = {
            name: mean_of(seeds, ECG, name, "crps")
            / min(mean_of(seeds, row, name, "crps") for row in (SHUFFLED, WITHOUT))
            for name in targets
        }
        add(f"{what}: CRPS below that without ECG and with another's (ratio below 1)", ratio, max(ratio.values()) < 1)
    limit = {name: mean_of(scores["volume"], TRUE_IMAGES, name, "r2") for name in ("lvedv", "lvef")}
    add("counted EDV and EF of the true images: r² above 0.8", limit, min(limit.values()) > 0.8)
    return table


# -------------------------------------------------------------------------------------------------------- the picture


def picture(run: Run, cohort: Cohort) -> Figure:
    """Return a montage: a small, a middle and a large test heart, true, drawn from its ECG, from another ECG, and the mean."""
    volume = volume_setting(run.config)
    assert volume is not None
    rows = np.sort(cohort.rows("test"))
    rows = rows[cohort.has_volume(rows).all(axis=1)]
    size = cohort.phenotypes(("lvedv",), rows)[:, 0]
    order = np.argsort(size)
    people = [int(order[int(q * (len(order) - 1))]) for q in (0.05, 0.5, 0.95)]
    others = [people[2], people[0], people[0]]  # the ECG of a heart of another size
    recordings = Recordings(cohort, run.config.signal, rows, volume=volume)
    own, other = recordings.batch(people), recordings.batch(others)
    assert own.volume is not None
    with frozen(run.method):
        drawn = [run.method.draw(batch, 2, torch.Generator().manual_seed(3)).numpy() for batch in (own, other)]
        template = run.method.draw(own, 1, guidance=0.0, alpha=0.0)[0].numpy()
        rebuilt = run.method.rebuild_volume(own).numpy()
    kinds = [
        ("true", own.volume.numpy()),
        ("true, through\nthe autoencoder", rebuilt),
        ("drawn from\nits ECG", drawn[0][0]),
        ("a second draw", drawn[0][1]),
        ("drawn from another\nperson's ECG", drawn[1][0]),
        (TEMPLATE, template),
    ]
    titles = [f"EDV {size[one]:.0f} mL" for one in people]
    return montage(kinds, titles)


def montage(kinds: Sequence[tuple[str, NDArray[Any]]], titles: Sequence[str]) -> Figure:
    """Return a figure with a row for each kind (N, P, D, H, W) and a column for each person: three slices of ED, then of ES."""
    left, wide, tall, top = 1.35, 3.3, 0.62, 0.55
    figure = blank(left + len(titles) * wide, top + len(kinds) * tall + 0.1)
    width, height = figure.get_size_inches()
    for number, title in enumerate(titles):
        middle = (left + (number + 0.5) * wide) / width
        figure.text(middle, 1 - 0.2 / height, title, fontsize=9, color=INK, ha="center", fontweight="bold")
        figure.text(middle, 1 - 0.42 / height, "ED, base to apex      |      ES", fontsize=7.5, color=INK, ha="center")
    for line, (name, images) in enumerate(kinds):
        bottom = (height - top - (line + 1) * tall) / height
        figure.text(0.08 / width, bottom + 0.5 * tall / height, name, fontsize=8, color=INK, va="center")
        for number in range(len(titles)):
            slices = np.linspace(0, images.shape[2] - 1, 3).astype(int)
            strip = np.concatenate([images[number, phase, k] for phase in (0, 1) for k in slices], axis=1)
            axes = figure.add_axes(
                ((left + number * wide) / width, bottom, (wide - 0.08) / width, (tall - 0.05) / height)
            )
            axes.imshow(strip, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axes.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
