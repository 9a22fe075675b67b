"""ECG tokens: how much of the codebook is used, what the tokens rebuild, continue and contain.

    python benchmarks/beat_tokens.py --cohort simulated=cohorts/sim --cohort ptbxl=cohorts/ptbxl --minutes 12 --out OUT
    python benchmarks/beat_tokens.py ... --page                       the page in benchmarks/results from the stored results
    python benchmarks/beat_tokens.py ... --minutes 0.3 --records 60   a try of about a minute

For each cohort, `beat_tokenizer` is trained with its small settings for --minutes of one core, once per seed; a training that
was interrupted goes on where it stopped, and a result that exists is not computed again. On the test split:

perplexity       exp(entropy) of the codes, as a share of the book, for each level
r                Pearson correlation of each lead, rebuilt from its tokens, with what was recorded
continuation     squared error of the second after each window, predicted from the window's tokens, beside: the last beat
                 repeated (its RR interval is that of the last two beats recorded before, in the whole record), the same with
                 the best factor of the validation split, and 0, the mean of a lead
probe            macro AUROC of a logistic regression on how often each code occurs, beside: a random encoder with random
                 codes, and a random encoder whose codes were fitted to its own output
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rows import Json, command_line, steps_in

from leadwise.batch import Signal
from leadwise.config import Config, DataConfig, LogConfig, OptimConfig
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.delineation.beats import clear_leads, detect_beats
from leadwise.data.delineation.conditioning import condition
from leadwise.data.loader import Recordings
from leadwise.evaluate.embed import embed_cohort, usable
from leadwise.evaluate.metrics.bootstrap import gain, percentile_interval, resample_patients
from leadwise.evaluate.probe import make_probe_task, probe
from leadwise.files import replacing
from leadwise.methods.catalogue import small_optim_settings, small_settings, with_defaults
from leadwise.nn.quantize import perplexity
from leadwise.pictures import ink
from leadwise.run import Run
from leadwise.training.loop import pretrain

NAME = "beat_tokenizer"
PAGE = Path(__file__).resolve().parent / "results" / "beat_tokens.md"
TASKS = {"simulated": "findings", "ptbxl": "super"}
N_FITTED = 60  # batches to which the codes of the random encoder are fitted
MODELS = ("tokens", "random encoder, fitted codes", "random encoder, random codes")
Floats = NDArray[np.float64]


# ------------------------------------------------------------------------------------------------------- training


def settings(args: argparse.Namespace, folder: Path, seed: int) -> Config:
    """Return the settings of a training, without its steps."""
    method = {**small_settings(NAME), **dict(one.split("=") for one in args.set)}
    method = {key: _value(value) for key, value in method.items()}
    optim = OptimConfig(seed=seed, device="cpu", **small_optim_settings(NAME))
    return with_defaults(
        Config(
            signal=Signal(rate_hz=100, duration_s=10.0, normalize="lead_zscore"),
            data=DataConfig(cohort=str(folder)),
            method=method,
            optim=optim,
            log=LogConfig(every=20, validate_every=0, save_every=100),
        )
    )


def _value(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


def trained(args: argparse.Namespace, name: str, folder: Path, seed: int) -> Run:
    """Return the run of a cohort and seed, trained now, or as far as it still has to be."""
    target, steps_file = args.out / f"{name}-seed{seed}", args.out / f"steps-{name}.json"
    config = settings(args, folder, seed)
    if not steps_file.exists():
        steps, seconds = steps_in(config, args.minutes)
        steps_file.write_text(json.dumps({"steps": steps, "seconds a step": seconds}) + "\n")
    steps = json.loads(steps_file.read_text())["steps"]
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=steps))

    def show(what: str, done: int, total: int) -> None:
        if what.startswith("pretrain") and (done % max(1, total // 20) == 0 or done == 1):
            print(f"{name} seed {seed}: step {done} of {total}: {what.partition('|')[2]}", flush=True)

    return pretrain(config, target, resume=target.exists(), progress=show)


def with_fitted_codes(run: Run, cohort: Cohort, rows: NDArray[np.int64]) -> Run:
    """Return the run with random weights, its codes fitted to the output of its random encoder."""
    fresh = run.untrained(run.config.optim.seed)
    rng = np.random.default_rng(0)
    recordings = Recordings(cohort, run.config.signal, rows)
    fresh.method.train()
    for _ in range(N_FITTED):
        places = np.sort(rng.choice(len(rows), min(32, len(rows)), replace=False))
        fresh.method.local_terms(recordings.batch(places))
        fresh.method.after_step(1.0)
    fresh.method.eval()
    return fresh


# --------------------------------------------------------------------------------------------------------- scores


def batches(run: Run, cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """Yield the rows of a cohort by 64, and their batches."""
    recordings = Recordings(cohort, run.config.signal, rows)
    for begin in range(0, len(rows), 64):
        places = np.arange(begin, min(begin + 64, len(rows)))
        yield rows[places], recordings.batch(places)


def last_beat_repeated(ecg: Floats, beats: NDArray[np.int64], begin: int, n: int) -> Floats:
    """Return N samples after `begin` that repeat the last beat before it: (L, N).

    Args:
        ecg: (L, T) samples.
        beats: samples of the beats in the record. With fewer than two of them before `begin`, the last two seconds repeat.
    """
    before = beats[beats < begin]
    period = int(before[-1] - before[-2]) if len(before) > 1 else min(begin, 200)
    return ecg[:, begin - period + np.arange(n) % period]


def find_beats(ecg_mv: Floats, observed: NDArray[np.bool_], signal: Signal) -> NDArray[np.int64]:
    """Return the samples of the beats of an ECG (L, T); none if it cannot be measured."""
    conditioned = condition(ecg_mv.astype(np.float64), signal.leads, signal.rate_hz, observed)
    if conditioned is None:
        return np.empty(0, dtype=np.int64)
    conditioned = conditioned.subset(clear_leads(conditioned.signal))
    middles = np.asarray(detect_beats(conditioned.signal)[0], dtype=np.float64)
    n_conditioned = conditioned.signal.shape[-1]
    return np.unique(np.round(middles * ecg_mv.shape[1] / n_conditioned).astype(np.int64))


def waveform_scores(run: Run, cohort: Cohort, rows: NDArray[np.int64]) -> Json:
    """Return for each record r, the errors of the continuations, and the sums for a factor of the repeated beat."""
    method, signal, config = run.method.eval(), run.config.signal, run.method.config
    size = signal.n_samples // config.windows
    n = round(config.ahead * size)
    out: dict[str, list[float]] = {name: [] for name in ("r", "continued", "repeated", "zero", "cross", "square")}
    counts = torch.zeros(config.levels, config.codes, dtype=torch.long)
    for _, batch in batches(run, cohort, rows):
        with torch.no_grad():
            codes, is_seen = method.encode(batch)
            result = method.rebuild_and_continue(batch)
        for level in range(config.levels):
            counts[level] += torch.bincount(codes[is_seen][..., level].flatten(), minlength=config.codes)
        for k in range(len(batch)):
            ecg, rebuilt, known = (x[k].double().numpy() for x in (result.ecg, result.rebuilt, batch.observed))
            out["r"].append(correlation(ecg, rebuilt, known.astype(bool)))
            beats = find_beats(batch.ecg[k].numpy(), batch.observed[k].numpy(), signal)
            repeated = np.zeros_like(ecg)
            for begin in range(size, signal.n_samples, size):
                repeated[:, begin : begin + n] = last_beat_repeated(ecg, beats, begin, n)
            some = result.is_continued[k].numpy()
            truth, ours, theirs = ecg[some], result.continued[k].numpy()[some], repeated[some]
            out["continued"].append(float(np.square(ours - truth).mean()))
            out["repeated"].append(float(np.square(theirs - truth).mean()))
            out["zero"].append(float(np.square(truth).mean()))
            out["cross"].append(float((theirs * truth).mean()))
            out["square"].append(float(np.square(theirs).mean()))
    share = (perplexity(counts) / config.codes).tolist()
    return {**{name: np.array(values) for name, values in out.items()}, "perplexity": share}


def correlation(ecg: Floats, rebuilt: Floats, known: NDArray[np.bool_]) -> float:
    """Return the mean Pearson correlation over the leads (L, T) that vary."""
    values = []
    for a, b, some in zip(ecg, rebuilt, known):
        if some.sum() > 2 and a[some].std() > 1e-6 and b[some].std() > 1e-6:
            values.append(np.corrcoef(a[some], b[some])[0, 1])
    return float(np.mean(values)) if values else np.nan


def with_interval(values: Floats, patients: list[str]) -> list[float]:
    """Return the mean of the values, and its 95 % interval over patients."""
    weights = resample_patients(patients, 1000, 0)
    known = np.isfinite(values)
    draws = (weights[:, known] @ values[known]) / weights[:, known].sum(1)
    return [float(values[known].mean()), *percentile_interval(draws)]


def scored(args: argparse.Namespace, name: str, run: Run, cohort: Cohort) -> Json:
    """Return all figures of a run, and write the picture of one test record."""
    # recordings
    started = time.process_time()
    task = TASKS[name]
    parts = {}
    for split in ("train", "val", "test"):
        rows = usable(run, cohort, cohort.rows(split, task))[0]
        parts[split] = rows[: args.records] if args.records else rows
    patients = cohort.patients.take(parts["test"])

    # waveforms; the factor of the repeated beat is that of the validation split
    val, test = (waveform_scores(run, cohort, parts[split]) for split in ("val", "test"))
    factor = float(val["cross"].sum() / val["square"].sum())
    shrunk = test["zero"] - 2 * factor * test["cross"] + factor**2 * test["square"]
    errors = {
        "tokens": test["continued"],
        "last beat repeated": test["repeated"],
        "last beat repeated, best factor": shrunk,
        "0, the mean of a lead": test["zero"],
    }
    result: Json = {
        "r": with_interval(test["r"], patients),
        "perplexity": test["perplexity"],
        "factor": factor,
        "continuation": {key: with_interval(values, patients) for key, values in errors.items()},
        "continuation gains": {
            key: with_interval(values - test["continued"], patients)
            for key, values in errors.items()
            if key != "tokens"
        },
    }
    print(f"{name}: r {result['r'][0]:.3f}, perplexity {result['perplexity']}", flush=True)

    # probes
    rows = np.concatenate([*parts.values()])
    probe_task = make_probe_task(cohort, task, rows)
    models = dict(
        zip(MODELS, (run, with_fitted_codes(run, cohort, parts["train"]), run.untrained(run.config.optim.seed)))
    )
    result["probe"], scores = {}, {}
    for part in ("codes", "backbone"):
        for label, model in models.items():
            features = embed_cohort(model, cohort, part, rows, cache=args.out / "cache" / label.replace(" ", "_"))
            scores[part, label] = probe(features, probe_task, 1.0).score
            score = scores[part, label]
            result["probe"][f"{part}|{label}"] = [score.macro, *score.interval]
            print(f"{name}: probe {part} {label}: {score.macro:.3f}", flush=True)
        for label in MODELS[1:]:
            value, interval = gain(scores[part, MODELS[0]], scores[part, label])
            result["probe"][f"{part}|gain over {label}"] = [value, *interval]
    result |= {"n": {split: len(own) for split, own in parts.items()}, "n_patients": len(set(patients))}
    return {**result, "seconds": time.process_time() - started}


# ------------------------------------------------------------------------------------------------- picture and page


def examples(run: Run, cohort: Cohort, n: int = 2) -> list[tuple[str, Floats, Floats, Floats, int]]:
    """Return test records of middle r: name, and recorded, rebuilt and continued samples of leads II, V1 and V5."""
    rows = usable(run, cohort, cohort.rows("test"))[0][:64]
    _, batch = next(batches(run, cohort, rows))
    with torch.no_grad():
        out = run.method.eval().rebuild_and_continue(batch)
    quality = [
        correlation(*(x[k].double().numpy() for x in (out.ecg, out.rebuilt)), batch.observed[k].numpy())
        for k in range(len(batch))
    ]
    middle = np.argsort(quality)[len(quality) // 2 :][:n]
    leads = [run.config.signal.leads.index(lead) for lead in ("II", "V1", "V5")]
    chosen = []
    for k in middle.tolist():
        continued = np.where(out.is_continued[k].numpy(), out.continued[k].numpy(), np.nan)
        traces = (out.ecg[k].numpy(), out.rebuilt[k].numpy(), continued)
        chosen.append((batch.record[k], *(x[leads] for x in traces), run.config.signal.rate_hz))
    return chosen


def draw(panels: dict[str, list[tuple[str, Floats, Floats, Floats, int]]]) -> Figure:
    """Return a figure: for each record, leads II, V1 and V5 as recorded, rebuilt from tokens, and continued."""
    records = [(name, one) for name, some in panels.items() for one in some]
    figure = ink.blank(11.0, 2.6 * len(records) + 0.6)
    axes = figure.subplots(len(records), 3, squeeze=False)
    styles = (
        ("recorded", ink.INK, 1.0),
        ("rebuilt from tokens", ink.PALETTE[0], 1.0),
        ("continued", ink.PALETTE[1], 1.2),
    )
    for row, (name, (_, *traces, rate)) in enumerate(records):
        for column, lead in enumerate(("II", "V1", "V5")):
            panel = axes[row, column]
            ink.tidy(panel, f"{name}, lead {lead}")
            for number, ((label, colour, width), samples) in enumerate(zip(styles, traces)):
                seconds = np.arange(samples.shape[1]) / rate
                shift = -7.0 * number  # one below the other, on one scale
                panel.plot(seconds, samples[column] + shift, color=colour, linewidth=width, label=label)
                if number == 2:
                    panel.plot(seconds, traces[0][column] + shift, color=ink.PALE, linewidth=0.8, zorder=1)
            panel.set_yticks([])
            panel.set_xlim(0, 10)
            panel.set_xlabel("s", fontsize=7.5)
    height = figure.get_figheight()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="upper center", frameon=False, ncols=3)
    figure.subplots_adjust(left=0.02, right=0.985, top=1 - 0.65 / height, bottom=0.45 / height, hspace=0.4, wspace=0.06)
    return figure


def cell(values: list[float], digits: int = 3) -> str:
    """Return a value with its interval."""
    return f"{values[0]:.{digits}f} ({values[1]:.{digits}f} to {values[2]:.{digits}f})"


def page(args: argparse.Namespace, results: dict[str, Json]) -> str:
    """Return the page: picture, what holds and what does not, then the tables."""
    first = next(iter(results.values()))
    lines = [
        "# ECG tokens: rebuilt, continued, probed",
        "",
        "![Recorded, rebuilt from tokens, and continued from the tokens of the window before](beat_tokens.png)",
        "",
        "Black: recorded. Blue: rebuilt from the tokens of each 2 s window. Orange: the second after each window, predicted from "
        "that window's tokens alone, over the recorded signal in grey.",
        "",
        f"Command: `python {command_line()}`. {machine.describe()}. {first['about']}",
        "",
        "| criterion | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]

    def verdicts(check: Any) -> str:
        return " | ".join(check(one) for one in results.values())

    def yes(holds: bool, text: str) -> str:
        return f"{text}: {'holds' if holds else 'does not hold'}"

    lines += [
        "| codes in use (perplexity) above 50 % of each book | "
        + verdicts(lambda x: yes(min(x["perplexity"]) > 0.5, ", ".join(f"{p:.0%}" for p in x["perplexity"])))
        + " |",
        "| rebuilt with r > 0.9 | " + verdicts(lambda x: yes(x["r"][1] > 0.9, cell(x["r"]))) + " |",
        "| continuation: squared error below the last beat repeated | "
        + verdicts(
            lambda x: yes(x["continuation gains"]["last beat repeated"][1] > 0, _errors(x, "last beat repeated"))
        )
        + " |",
        "| ... and below the last beat with the best factor | "
        + verdicts(
            lambda x: yes(
                x["continuation gains"]["last beat repeated, best factor"][1] > 0,
                _errors(x, "last beat repeated, best factor"),
            )
        )
        + " |",
        "| probe on code histogram above random encoder and codes | "
        + verdicts(
            lambda x: yes(
                x["probe"][f"codes|gain over {MODELS[2]}"][1] > 0, cell(x["probe"][f"codes|gain over {MODELS[2]}"])
            )
        )
        + " |",
        "| ... and above a random encoder with fitted codes | "
        + verdicts(
            lambda x: yes(
                x["probe"][f"codes|gain over {MODELS[1]}"][1] > 0, cell(x["probe"][f"codes|gain over {MODELS[1]}"])
            )
        )
        + " |",
        "",
        "Each criterion is judged by the lower end of the 95 % interval over patients (1,000 resamplings), on the test split.",
        "",
        "## Continuation: squared error of the next second, in deviations of the lead",
        "",
        "| prediction | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]
    lines += [
        f"| {key} | " + " | ".join(cell(one["continuation"][key]) for one in results.values()) + " |"
        for key in first["continuation"]
    ]
    lines += [
        "",
        "The repeated beat has the RR interval of the last two beats in the whole record before it; the tokens are those of one "
        "window of 2 s. The best factor ("
        + ", ".join(f"{name} {one['factor']:.2f}" for name, one in results.items())
        + ") is that of the validation split: it shrinks the repeated beat towards the mean, as least squares do.",
        "",
        "## Probe: macro AUROC on all labels of the training split",
        "",
        "| features | " + " | ".join(f"{name}, {TASKS[name]}" for name in results) + " |",
        "|---|" + "---|" * len(results),
    ]
    lines += [
        f"| {key.replace('|', ': ')} | " + " | ".join(cell(one["probe"][key]) for one in results.values()) + " |"
        for key in first["probe"]
    ]
    lines += [
        "",
        "codes: how often each code occurs. backbone: the mean over windows of the quantised queries.",
        "",
        *_other_settings(args.also),
        "## What cannot be compared",
        "",
        "The paper trains on 12 leads of 2 s at 250 Hz, each z-scored, for 50 epochs. It gives no error of the reconstruction or "
        "the prediction, no use of the codebook and no probe of the tokens; its figures are accuracies of a language model on "
        "its own questions. So there is no published figure beside these.",
        "",
    ]
    return "\n".join(lines)


def _other_settings(folders: list[Path]) -> list[str]:
    """Return the lines of a table of the results in other folders."""
    lines = ["## Other settings", "", "| trained | r | perplexity | continuation |", "|---|---|---|---|"]
    for path in (path for folder in folders for path in sorted(folder.glob("*-seed*.json"))):
        result = json.loads(path.read_text())
        about = str(result["about"]).removeprefix("One training per cohort: ")
        levels = ", ".join(f"{share:.0%}" for share in result["perplexity"])
        lines.append(f"| {about} | {cell(result['r'])} | {levels} | {_errors(result, 'last beat repeated')} |")
    return [*lines, ""] if folders else []


def _errors(result: Json, other: str) -> str:
    errors = result["continuation"]
    return f"{errors['tokens'][0]:.3f} against {errors[other][0]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", action="append", required=True, help="NAME=FOLDER, NAME one of " + ", ".join(TASKS))
    parser.add_argument("--minutes", type=float, default=12.0, help="of one core, for each training [%(default)s]")
    parser.add_argument("--seeds", default="0", help="with commas [%(default)s]; the page shows the first")
    parser.add_argument("--set", action="append", default=[], help="a setting of the method, KEY=VALUE")
    parser.add_argument("--records", type=int, default=0, help="at most so many of each split are scored [all]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        type=Path,
        help="--out of a call with other settings; a table of the page",
    )
    parser.add_argument("--page", action="store_true", help="write the page from the stored results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)

    # train and score
    results: dict[str, Json] = {}
    panels = {}
    for name, _, folder in (one.partition("=") for one in args.cohort):
        cohort = Cohort.open(Path(folder))
        for number, seed in enumerate(map(int, args.seeds.split(","))):
            path = args.out / f"{name}-seed{seed}.json"
            run = trained(args, name, Path(folder), seed)
            if not path.exists():
                result = scored(args, name, run, cohort)
                steps = run.config.optim.steps
                result["about"] = (
                    f"One training per cohort: {args.minutes:g} minutes of one core ({steps} steps of "
                    f"{run.config.optim.batch_size} on {name}), {run.method.config.windows} windows of "
                    f"{run.method.config.queries} queries and "
                    f"{run.method.config.levels} levels of {run.method.config.codes} codes, 100 Hz, each lead z-scored."
                )
                with replacing(path) as part:
                    part.write_text(json.dumps(result, indent=1) + "\n")
            if number == 0:
                results[name] = json.loads(path.read_text())
                panels[name] = examples(run, cohort, 1)
    if args.page:
        ink.save(draw(panels), PAGE.with_suffix(".png"), dpi=120)
        with replacing(PAGE) as part:
            part.write_text(page(args, results))


if __name__ == "__main__":
    main()
