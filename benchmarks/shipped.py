"""The folder of weights that ship with leadwise, from a trained run: half precision, calibration, scores and the model card.

    python benchmarks/shipped.py runs/best cohorts/ptbxl --name ptbxl --work work/ptbxl -o leadwise/weights/ptbxl \\
        --external CPSC2018 cpsc2018 DIR --external Chapman csn DIR \\
        --external Georgia ecgbench DIR name=challenge2021 part=georgia \\
        --external CPSC-Extra ecgbench DIR name=challenge2021 part=cpsc_2018_extra \\
        --external LUDB ecgbench DIR name=ludb --external SPH ecgbench DIR name=sph

The weights are rounded first, so that calibration and scores are those of the file that ships. Calibration: the validation
split. Scores: the test split, once; they stay in WORK/scores.json, and a second call with the same weights and cohort only
writes the card again. --external NAME SOURCE PATH [KEY=VALUE...]: as `leadwise prepare SOURCE PATH KEY=VALUE`; files that are
not there are left out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, write
from shipped_card import card, gap_rows, sections

from leadwise import hub, weights
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write as write_cohort
from leadwise.data.sources import catalogue
from leadwise.evaluate import prompt_calibration
from leadwise.evaluate.calibrate import run_calibration
from leadwise.evaluate.card import subgroups
from leadwise.evaluate.classifiers import PROBE, ZERO_SHOT, probe_classifier
from leadwise.evaluate.embed import embed_cohort, training_overlap, usable
from leadwise.evaluate.export import markdown
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.probe import make_probe_task, run_probe
from leadwise.evaluate.zeroshot import load_prompts, run_zeroshot, zeroshot_scores
from leadwise.files import replacing
from leadwise.run import Run

FRACTIONS = (0.01, 0.1, 1.0)
MIN_POSITIVES = 5  # and negatives, of a class of an external cohort
GROUPS = ("sex", "age")

Rows = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="trained run: folder, name or hub id")
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--name", required=True, help="name of the weights, such as ptbxl")
    parser.add_argument("--work", type=Path, required=True, help="folder for caches, external cohorts and scores.json")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write, such as leadwise/weights/ptbxl")
    parser.add_argument("--method", default="platt", choices=prompt_calibration.METHODS, help="of the calibration")
    parser.add_argument("--tasks", help="tasks, such as super,sub; default: all that have prompts")
    parser.add_argument("--external", nargs="+", action="append", default=[], metavar="NAME SOURCE PATH KEY=VALUE")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    args = parser.parse_args()
    if args.out.exists() and not args.overwrite:
        parser.error(f"{args.out} exists; pass --overwrite to replace it")

    # the weights as they ship, calibrated, and their scores
    cohort = Cohort.open(args.cohort)
    tasks = args.tasks.split(",") if args.tasks else None
    run = rounded(args.run, args.work / args.name)
    fitted = run_calibration(run, cohort, "val", tasks, method=args.method)
    prompt_calibration.write(run, fitted)
    scores = read_or_score(run, cohort, list(dict.fromkeys(one.task for one in fitted)), args.external, args.work)

    # the folder and the page of results
    ship(run, args.out, card(run, cohort, scores, fitted, args.name))
    command = f"Command: `{_command(args)}`. {describe()}."
    print(write(f"shipped_{args.name}", f"# Weights `{args.name}`\n\n{command}\n\n{sections(scores)}"))
    print(markdown(gap_rows(scores)))
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB" + (" (TOO LARGE)" if size > weights.MOST_BYTES else ""))


def _command(args: argparse.Namespace) -> str:
    """Return the command without the paths of this machine."""
    external = [("--external", name, source, "DIR", *options) for name, source, _, *options in args.external]
    words = ["python", "benchmarks/shipped.py", "RUN", "COHORT", "--name", args.name, "--method", args.method]
    return shlex.join([*words, *(word for words_of_one in external for word in words_of_one)])


def rounded(run: str, folder: Path) -> Run:
    """Return the run in half precision, in `folder`; what is there is replaced unless it has the same weights."""
    trained, before = hub.load(run), None
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    hub.save_pretrained(trained, fresh, card=False, people=True, dtype="float16")
    if (folder / "model.safetensors").is_file():
        before = hub.load(folder, accept_changes=True).fingerprint
    if before == hub.load(fresh).fingerprint:
        shutil.rmtree(fresh)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return hub.load(folder)


def read_or_score(run: Run, cohort: Cohort, tasks: list[str], external: list[list[str]], work: Path) -> dict[str, Any]:
    """Return the scores in WORK/scores.json if they belong to these weights and data, else compute and store them."""
    path = work / "scores.json"
    key = {"run": run.fingerprint, "cohort": cohort.fingerprint, "tasks": tasks, "external": external}
    if path.is_file():
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return stored
    scores: dict[str, Any] = {"key": key, "n_test": len(cohort.rows("test")), "zeroshot": [], "probe": [], "groups": []}
    scores["overlap"] = training_overlap(run, cohort, cohort.rows("test")).sentence
    for task in tasks:
        scores["zeroshot"] += zeroshot_rows(run, cohort, task)
        scores["probe"] += probe_rows(run, cohort, task)
        scores["groups"] += group_rows(run, cohort, task)
        print(f"{task} scored", flush=True)
    scores["external"], scores["external_about"] = score_external(run, external, work)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return scores


def zeroshot_rows(run: Run, cohort: Cohort, task: str) -> Rows:
    """Return one row per prompt set and encoder; the untrained encoder with the last set only."""
    rows: Rows = []
    sets = load_prompts(cohort, task, None).sets
    for name in sets:
        report = run_zeroshot(run, cohort, task, prompt_set=name)
        trained = _cells(report.trained) | {
            key: report.measures[key].macro if key in report.measures else None for key in ("auprc", "ece", "brier")
        }
        rows.append({"task": task, "prompts": name, "encoder": "trained"} | trained)
        if name == sets[-1]:
            rows.append({"task": task, "prompts": name, "encoder": "untrained"} | _cells(report.untrained))
    return rows


def probe_rows(run: Run, cohort: Cohort, task: str) -> Rows:
    """Return one row per share of the labels and kind of features."""
    report = run_probe(run, cohort, task, fractions=FRACTIONS)
    return [
        {"task": task, "labels": f"{fraction:.0%}", "features": features} | _cells(result.score)
        for fraction, by_features in report.results.items()
        for features, result in by_features.items()
    ]


def group_rows(run: Run, cohort: Cohort, task: str) -> Rows:
    """Return the scores of the test recordings by sex and age group: zero-shot, and a probe on all labels."""
    # scores of the test recordings
    rows, _ = usable(run, cohort, cohort.rows(task=task))
    is_test = cohort.splits(rows) == "test"
    test = rows[is_test]
    prompts = load_prompts(cohort, task, None).for_classes(cohort.tasks[task])
    backbone = embed_cohort(run, cohort, "backbone", rows)
    classifier = probe_classifier(backbone, make_probe_task(cohort, task, rows))
    scores = {
        ZERO_SHOT: zeroshot_scores(run, cohort, test, prompts),
        PROBE: np.asarray(classifier.scores(backbone[is_test])),
    }

    # by group
    names = {by: values for by, values in subgroups.group_names(cohort, test).items() if by in GROUPS}
    labels, patients = cohort.labels(task, test), cohort.patients.take(test)
    groups = subgroups.score_groups(labels, scores, patients, cohort.tasks[task], names)
    return [
        {
            "task": task, "by": one.by, "group": one.name, "scored by": one.classifier, "recordings": one.n_records,
            "classes": len(one.classes), "macro": one.macro, "low": one.interval[0] if one.interval else None,
            "high": one.interval[1] if one.interval else None, "all patients, same classes": one.all_patients,
        }
        for one in groups
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------- external data


def score_external(run: Run, external: list[list[str]], work: Path) -> tuple[Rows, list[dict[str, str]]]:
    """Return the zero-shot scores of external data sets, one row per task, and licence and citation of each data set."""
    rows, about = [], []
    for name, source, path, *options in external:
        try:
            cohort = prepare_external(work / "external" / name, source, Path(path), options)
        except ValueError as error:
            reason = str(error).split(";")[0].replace(path, "the folder")  # paths of this machine do not go into a card
            rows.append({"data": name, "task": "-", "remark": f"not scored: {reason}"})
            continue
        known = dict(getattr(cohort, "about", None) or {})
        about.append({"data": name, "licence": known.get("licence", ""), "citation": known.get("citation", "")})
        for task in cohort.main_tasks:
            row = external_row(run, cohort, task)
            if row:
                rows.append({"data": name, "task": task} | row)
        if not any(row["data"] == name for row in rows):
            remark = f"not scored: no class has {MIN_POSITIVES} positives and a wording in the dictionary"
            rows.append({"data": name, "task": "-", "recordings": len(cohort), "remark": remark})
        print(f"{name} scored", flush=True)
    return rows, about


def prepare_external(out: Path, source: str, path: Path, options: list[str]) -> Cohort:
    """Return the cohort of an external data set, prepared if it is not there; all its recordings are scored."""
    if not (out / "cohort.json").is_file():
        pairs = [(key, value) for key, _, value in (option.partition("=") for option in options)]
        rows = catalogue.find_source(source).read_source(path, catalogue.parse_options(source, pairs))
        write_cohort(rows, out, allow_missing=True, allow_unreadable=True, allow_copies=True)
    return Cohort.open(out)


def external_row(run: Run, cohort: Cohort, task: str) -> dict[str, Any]:
    """Return the zero-shot score of a task over the classes with enough labels and a wording; {} if there is none."""
    # the classes, by name; those without a wording or with too few labels are named in the row
    loaded = load_prompts(cohort, task, None)
    rows, _ = usable(run, cohort, cohort.rows(task=task))
    classes, labels = list(cohort.tasks[task]), cohort.labels(task, rows)
    positives = labels.sum(axis=0)
    enough = (positives >= MIN_POSITIVES) & (len(rows) - positives >= MIN_POSITIVES)
    scored = [k for k, code in enumerate(classes) if enough[k] and code not in loaded.by_name]
    if not scored:
        return {}
    overlap = training_overlap(run, cohort, rows)
    names = [classes[k] for k in scored]
    prompts = loaded.for_classes(classes)
    values = zeroshot_scores(run, cohort, rows, [prompts[k] for k in scored])
    score = auroc_score(labels[:, scored], values, cohort.patients.take(rows), names)
    few = [f"{code} ({int(positives[k])})" for k, code in enumerate(classes) if positives[k] and k not in scored]
    return _cells(score) | {
        "classes": ", ".join(f"{code} ({int(positives[k])})" for k, code in zip(scored, names)),
        "remark": f"left out: {', '.join(few)}" if few else "",
        "trained on": overlap.n_signals,
    }


def _cells(score: Score) -> dict[str, Any]:
    low, high = score.interval
    cells = {"macro": score.macro, "low": low, "high": high, "recordings": score.n_records}
    return cells | ({"not scored": ", ".join(score.skipped)} if score.skipped else {})


# ------------------------------------------------------------------------------------------------------------ the folder


def ship(run: Run, out: Path, text: str) -> None:
    """Write the folder that ships: the run with the list of what it was trained on, which is public data, and its card."""
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    hub.save_pretrained(run, fresh, card=False, people=True)
    (fresh / "README.md").write_text(text, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


if __name__ == "__main__":
    main()
