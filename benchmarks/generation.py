"""ECGs generated from text: an autoencoder and a generator, trained on simulated ECGs and scored by an independent encoder.

    python benchmarks/generation.py --out out/generation --minutes 20         everything, then the page
    python benchmarks/generation.py --out out/quick --records 120 --minutes 0.1 --page-name quick    a minute, for trying
    python benchmarks/generation.py --out out/generation --page               the page from the stored scores

--minutes are processor minutes of one core for both trainings together, a third of them for the autoencoder. The data are
simulated ECGs, stored at 100 Hz. --judge is the encoder that scores, and --text the run with the text encoder: names that ship,
or run folders. Every step is stored in --out and is not repeated; a training is resumed where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, table, write
from matplotlib.figure import Figure
from rows import Json, command_line, steps_in

from leadwise import hub
from leadwise import run as runs
from leadwise.batch import LEADS, Signal
from leadwise.config import Config, DataConfig, LogConfig, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import creating_folder
from leadwise.data.cohort.prepare import write as write_cohort
from leadwise.data.loader import Recordings
from leadwise.data.sources import folder as table_source
from leadwise.data.sources import simulated
from leadwise.files import replacing
from leadwise.methods.contract import Conditions
from leadwise.pictures import ink
from leadwise.run import Run
from leadwise.synthesis import generation
from leadwise.synthesis import generation_scores as scoring
from leadwise.synthesis.written import NOTE
from leadwise.training.loop import pretrain

TASK = "findings"
RATE_HZ = 100
SIGNAL = Signal(rate_hz=RATE_HZ, duration_s=5.0)
VAE: Json = {"name": "se_diff", "stage": "vae", "vae_widths": [16, 32, 48, 64], "beat_width": 32, "w_kl": 3e-5}
GENERATOR: Json = {
    "name": "se_diff", "stage": "diffusion", "objective": "flow", "statement_dropout": 0.2, "unet_widths": [48, 96, 96],
    "unet_kernel": 5, "token_width": 96, "guidance": 2.0, "sampling_steps": 20,
}  # fmt: skip
TEXT_SIZES: Json = {"text_width": 128, "text_depth": 2, "vocab_size": 1200, "max_tokens": 64}
VAE_SHARE = 1 / 3  # of the minutes
PROMPTS = (  # of the picture: text and heart rate, two ECGs each
    ("sinus rhythm. normal ecg.", 72.0),
    ("atrial fibrillation. abnormal ecg.", 115.0),
    ("sinus rhythm. complete left bundle branch block. abnormal ecg.", 75.0),
    ("sinus bradycardia. left ventricular hypertrophy. abnormal ecg.", 48.0),
)
DRAWN_LEADS = ("II", "V1", "V5")
LEAD_STEP_MV = 3.2  # from lead to lead in the picture


# --------------------------------------------------------------------------------------------------------- the data


def make_cohort(out: Path, n_records: int) -> Cohort:
    """Return simulated ECGs as a cohort at 100 Hz, so that reading them resamples nothing."""
    if not (out / "cohort" / "cohort.json").is_file():
        if not (out / "simulated").exists():
            simulated.simulate(out / "simulated", n_records, seed=17)
        if not (out / "native" / "cohort.json").is_file():
            write_cohort(simulated.read_source(out / "simulated"), out / "native")
        if not (out / "at_100_hz").exists():
            copy_at_rate(Cohort.open(out / "native"), out / "at_100_hz")
        options = table_source.Options(LEADS, RATE_HZ, "mV")
        write_cohort(table_source.read_source(out / "at_100_hz" / "ecgs.csv", options), out / "cohort")
    return Cohort.open(out / "cohort")


def copy_at_rate(cohort: Cohort, folder: Path) -> None:
    """Write all recordings at 100 Hz to a new folder, with a table of them."""
    signal = dataclasses.replace(SIGNAL, duration_s=10.0)
    recordings, index, classes = Recordings(cohort, signal, np.arange(len(cohort))), cohort.index, cohort.tasks[TASK]
    with creating_folder(folder) as partial, (partial / "ecgs.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(
            [
                "path",
                "record",
                "patient",
                "split",
                "report",
                "age",
                "sex",
                *(f"label.{TASK}.{name}" for name in classes),
            ]
        )
        row = 0
        for batch in recordings.batches(64):
            for ecg, observed in zip(batch.ecg.numpy(), batch.observed.numpy()):
                np.save(partial / f"{row:05d}.npy", np.where(observed, ecg, np.nan))
                facts = [index[name][row] for name in ("record", "patient", "split", "report", "age", "sex")]
                labels = [index[f"label.{TASK}.{name}"][row] for name in classes]
                lines.writerow([f"{row:05d}.npy", *facts, *labels])
                row += 1


# -------------------------------------------------------------------------------------------------------- trainings


def config_of(args: argparse.Namespace, stage: str) -> Config:
    """Return the config of a stage, "vae" or "generator", without its number of steps."""
    data = DataConfig(cohort=str(args.out / "cohort"))
    method, lr = {**TEXT_SIZES, **VAE}, 2e-3
    if stage == "generator":
        method, lr = {**TEXT_SIZES, **GENERATOR}, 1e-3
        data = dataclasses.replace(data, init=str(args.out / "vae"), init_text=args.text)
    optim = OptimConfig(batch_size=32, lr=lr, device="cpu")
    log = LogConfig(every=50, validate_every=250, validate_records=128, save_every=100)
    return Config(signal=SIGNAL, data=data, method=method, optim=optim, log=log)


def train(args: argparse.Namespace, stage: str) -> Run:
    """Return the trained run of a stage; its steps are measured once and stored."""
    folder, path = args.out / stage, args.out / "steps.json"
    stored: Json = json.loads(path.read_text()) if path.is_file() else {}
    config = config_of(args, stage)
    if stage not in stored:
        share = VAE_SHARE if stage == "vae" else 1 - VAE_SHARE
        steps, seconds = steps_in(config, args.minutes * share)
        stored[stage] = {"steps": steps, "seconds_a_step": seconds}
        write_json(path, stored)
    steps = stored[stage]["steps"]
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=steps))
    done = args.out / f"{stage}.json"
    if done.is_file():
        return runs.load(folder, "cpu")
    print(f"{stage}: {steps} steps in {folder}", flush=True)
    began = time.process_time()
    run = pretrain(config, folder, resume=folder.exists(), progress=print_progress)
    write_json(done, {"processor_min": (time.process_time() - began) / 60})
    return run


def print_progress(what: str, done: int, total: int) -> None:
    """Print a line for every twentieth part."""
    if done % max(1, total // 20) == 0:
        print(f"{time.strftime('%H:%M:%S')} {what}: {done} of {total}", flush=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False, default=float) + "\n")


# ------------------------------------------------------------------------------------------------------------ scores


def score(args: argparse.Namespace, cohort: Cohort, run: Run) -> Json:
    """Return the scores of the generator, and of the rare class with its ECGs; both are computed once and stored."""
    path, rare_path = args.out / "scores.json", args.out / "rare.json"
    if not (path.is_file() and rare_path.is_file()):
        judged = scoring.Judged.of(hub.load(args.judge), SIGNAL, cohort, TASK, print_progress)
        if not path.is_file():
            scores, _, _ = scoring.score_generator(run, judged, most=args.most, progress=print_progress)
            print(json.dumps(scores.rows(), indent=1, default=str), flush=True)
            counts = {split: len(rows) for split, rows in judged.rows.items()}
            write_json(path, scores.to_json() | {"counts": counts})
        rare = scoring.rare_class_rows(run, judged, scoring.rarest_class(judged), progress=print_progress)
        write_json(rare_path, rare)
    stored: Json = json.loads(path.read_text())
    return stored | {"rare": json.loads(rare_path.read_text())}


# -------------------------------------------------------------------------------------------------------- the picture


def draw(run: Run) -> Figure:
    """Return a figure of two generated ECGs for each of PROMPTS, three leads each."""
    prompts = [
        generation.Prompt(f"{number}{letter}", text, Conditions(heart_rate_bpm=rate))
        for number, (text, rate) in enumerate(PROMPTS)
        for letter in "ab"
    ]
    ecgs = generation.generate(run, prompts, seed=3)
    rates = generation.rates_of(ecgs, run.config.signal)
    leads = run.config.signal.leads
    figure = ink.blank(11.0, 8.6)
    grid = figure.add_gridspec(len(PROMPTS), 2, left=0.04, right=0.99, top=0.93, bottom=0.03, hspace=0.22, wspace=0.05)
    figure.text(0.04, 0.965, "Eight generated ECGs, two for each prompt", fontsize=12, color=ink.INK, weight="bold")
    figure.text(0.99, 0.965, "synthetic: no ECG was recorded", fontsize=9, color=ink.PALETTE[1], ha="right")
    seconds = np.arange(ecgs.shape[-1]) / run.config.signal.rate_hz
    for place, (prompt, ecg, rate) in enumerate(zip(prompts, ecgs, rates)):
        axes = figure.add_subplot(grid[place // 2, place % 2])
        wanted = prompt.conditions.heart_rate_bpm
        ink.tidy(axes)
        title = f"{prompt.text.removesuffix(' abnormal ecg.')} {wanted:.0f} bpm (measured: {rate:.0f})"
        axes.set_title(title, fontsize=8, color=ink.INK, loc="left", fontweight="bold")
        for number, lead in enumerate(DRAWN_LEADS):
            axes.plot(seconds, ecg[leads.index(lead)] - LEAD_STEP_MV * number, color=ink.PALETTE[0], linewidth=0.8)
            axes.text(-0.06, -LEAD_STEP_MV * number, lead, fontsize=8, ha="right", va="center", color=ink.INK)
        axes.set_xlim(0, seconds[-1])
        axes.set_ylim(-LEAD_STEP_MV * len(DRAWN_LEADS) + 1.0, 3.4)
        axes.set_yticks([])
        axes.set_xticks([])
        axes.plot([0.05, 0.05], [0.6, 1.6], color=ink.GREY, linewidth=1.5)  # 1 mV
    return figure


# ----------------------------------------------------------------------------------------------------------- the page

_PAPER = """## The paper's figures

SE-Diff (arXiv 2511.09895) states for MIMIC-IV-ECG a heart-rate error of 8.43 bpm (DiffuSETS: 13.29), a mean absolute error
of 0.0923 and a Frechet distance of 0.951 in a CLIP space, and for PTB-XL a heart-rate error of 8.24 bpm. Other data, sizes,
encoders and text: only the heart-rate error has the same unit, and these ECGs are simulated. The mean absolute error compares
a generated ECG with a recorded one of the same text, sample by sample, and depends on where the beats are; it is not computed
here. The released code trains its physical losses without gradient, with weights of 0 and 3e-7."""


def page(args: argparse.Namespace, run: Run, scores: Json) -> None:
    """Write the page and its picture."""
    steps = json.loads((args.out / "steps.json").read_text())
    minutes = {
        stage: json.loads((args.out / f"{stage}.json").read_text())["processor_min"] for stage in ("vae", "generator")
    }
    rows = [{**row, "holds": "yes" if row["holds"] else "**no**"} for row in scores["acceptance"]]
    classes = scores["recovery"]["per_class"]
    recorded = scores["recorded"]["per_class"]
    by_class = [
        {"finding": name, "generated": value, "recorded": recorded[name]}
        for name, value in sorted(classes.items(), key=lambda item: -(item[1] or 0))
        if value is not None
    ]
    rare = [
        {
            "training": row["training"], "F1": row["f1"],
            "difference to oversampling": f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
        }
        for row in scores["rare"]
    ]  # fmt: skip
    name = args.page_name
    held_out = _last_validation(args.out / "vae" / "metrics.jsonl")
    text = f"""# ECGs generated from text

![Eight generated ECGs for four prompts]({Path(name).name}.png)

Rectified flow in the latents of an autoencoder (`se_diff`), conditioned on a frozen text encoder, age, sex and heart rate. Eight
leads are generated and four derived. {scores["n"]} ECGs, one for each report of the test split of simulated ECGs
({scores["counts"]["train"]} for training), {SIGNAL.duration_s:g} s at {RATE_HZ} Hz. The judge is the run `{scores["judge"]}`,
which was trained on other data; its probe was fitted on recorded training ECGs. "Recorded" means: from the simulator.
{NOTE[0].upper()}{NOTE[1:]}.

Command: `python {command_line()}`. {describe()}.
Autoencoder: {steps["vae"]["steps"]} steps, {minutes["vae"]:.1f} processor minutes, correlation of decoded with
recorded samples {held_out:.3f}. Generator: {steps["generator"]["steps"]} steps, {minutes["generator"]:.1f} processor minutes.

{table(rows)}

Simulated ECGs are easier than real ones: this shows that the method works, and is no evidence about patients. Frechet distances
depend on the number of ECGs; all sets here have {scores["n"]}. Training ECGs in two halves:
{scores["frechet"]["training ECGs in halves"]:.3g}.

## A rare class

F1 on recorded test ECGs for `{scores["rare"][0]["class"]}`, the class nearest to 5 % of the training ECGs of those whose F1 on
validation is below {scoring.LARGEST_F1:g}, so that there is something to gain. Three ECGs were generated from the report of each
of its training ECGs; oversampling repeats each three times. Generated ECGs {_rare_verdict(scores["rare"])}

{table(rare)}

## Findings

AUROC of the judge's probe, with the labels of the prompts.

{table(by_class)}

{_PAPER}
"""
    path = write(name, text)
    ink.save(draw(run), path.with_suffix(".png"), dpi=110)
    print(path)


def _rare_verdict(rows: list[Json]) -> str:
    """Return the end of a sentence: whether generated ECGs raise F1 above that of oversampling."""
    row = rows[-1]
    if row["low"] > 0:
        return "raise F1 above that of oversampling."
    return (
        "lower F1." if row["high"] < 0 else "do **not** raise F1 above that of oversampling: the interval contains 0."
    )


def _last_validation(path: Path) -> float:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return float([line["decoded_r"] for line in lines if line["split"] == "val"][-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--judge", default="ptbxl-fast")
    parser.add_argument("--text", default="ptbxl")
    parser.add_argument("--most", type=int, default=None, help="test reports to generate from [all]")
    parser.add_argument("--page", action="store_true", help="only the page")
    parser.add_argument("--page-name", default="generation", help="of the page in benchmarks/results")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    cohort = make_cohort(args.out, args.records)
    if not args.page:
        train(args, "vae")
        train(args, "generator")
    run = runs.load(args.out / "generator", "cpu")
    page(args, run, score(args, cohort, run))


if __name__ == "__main__":
    main()
