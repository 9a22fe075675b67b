"""benchmarks/results/shared_space.md: image, report and ECG in one space, on simulated pairs of ECG and heart volumes.

    python benchmarks/shared_space.py -o OUT --minutes 4 --seeds 0,1                 50 minutes of one core
    python benchmarks/shared_space.py -o OUT --minutes 4 --seeds 0 --images RUN      22 minutes: trained image encoders
    python benchmarks/shared_space.py -o trial --people 200 --minutes 0.02 --page trial/page.md    a try

1. CG-DMER is trained on ECGs and their reports.
2. Image encoders are trained on phenotypes (dual_phase_cmr, stage "cmr").
3. dual_phase_cmr starts from both with space = "init": ECGs are compared with images, in the space that ECGs and words share.

No image is ever compared with a text: what an image and a text have in common, they have through the ECG. The reports of the
simulator state findings of the ECG only. Here 60 % of the people with a low ejection fraction, a large or a heavy left ventricle
have a sentence of history in their report.

OUT has the cohorts of the target dual_phase of `leadwise reproduce` (simulated if they are not there), two copies with the
history, and the runs. A call that was interrupted continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import describe, table
from numpy.typing import NDArray
from shared_space_picture import SpaceEmbeddings, draw

from leadwise.config import Config
from leadwise.data.cohort.changed_copy import write_with_other_images, write_with_texts
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.text_embeddings import class_vector, cosines, embed_texts, unit
from leadwise.evaluate.volume_retrieval import Oracle, draw_pools, embed_volumes, score_pools
from leadwise.files import replacing
from leadwise.pictures import ink
from leadwise.reproduce import training_runs
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.dual_phase import N_PEOPLE, small_config, stage_cmr
from leadwise.reproduce.dual_phase_data import PAIRED, paired_data, shuffled
from leadwise.reproduce.variants import Variant
from leadwise.run import Run

RESULTS = Path(__file__).parent / "results"
HISTORY_SHARE = 0.6  # of the people with a condition
N_NEAREST = 10  # images that a word retrieves
POOLS = (64, 256)
Arrays = dict[str, NDArray[Any]]
Scores = dict[Any, Any]  # by "words on ecg", "nearest", or (query, item, size of the pool)


@dataclasses.dataclass(frozen=True)
class Concept:
    """Something that words name and the simulation knows of each person."""

    name: str
    words: tuple[str, ...]  # statements of reports
    is_history: bool  # a statement about the heart; else a finding of the ECG
    holds: Callable[[pd.DataFrame], pd.Series]  # by the phenotypes and the true features


CONCEPTS = (
    Concept(
        "EF below 50 %",
        ("known reduced ejection fraction", "heart failure with low ejection fraction", "history of poor systolic function"),
        True,
        lambda t: t.lvef < 50,
    ),
    Concept(
        "EDV above 200 mL",
        ("known dilated left ventricle", "enlarged left ventricle in an earlier study", "history of dilatation of the ventricle"),
        True,
        lambda t: t.lvedv > 200,
    ),
    Concept(
        "LV mass above 150 g",
        ("known high left ventricular mass", "thick heart muscle in an earlier study", "history of hypertensive heart disease"),
        True,
        lambda t: t.lvmass > 150,
    ),
    Concept(
        "heart rate below 60",
        ("sinus bradycardia", "slow sinus rhythm, rate below 60", "sinus bradycardia, rate below 60"),
        False,
        lambda t: t["ecg.rate_bpm"] < 60,
    ),
    Concept(
        "axis above 75°",
        ("right axis deviation", "abnormal right axis", "rightward axis beyond 90"),
        False,
        lambda t: t["ecg.axis_deg"] > 75,
    ),
)  # fmt: skip
ALONE, TEXT_TOO, IMAGES_ONLY, FROZEN, SHUFFLED = (
    "CG-DMER, before images",
    "images, reports continued (w_text = 1)",
    "images only (w_text = 0)",
    "images, ECG encoder frozen",
    "shuffled pairs, w_text = 1",
)
ARMS: dict[str, dict[str, Any]] = {
    TEXT_TOO: {"w_text": 1.0},
    IMAGES_ONLY: {"w_text": 0.0},
    FROZEN: {"ecg_frozen": True},
    SHUFFLED: {"w_text": 1.0},
}
IMAGES = "image encoders"
SHARES = {ALONE: 1.0, IMAGES: 1.0, TEXT_TOO: 1.0}  # of --minutes; all arms have the steps of the first one


# ------------------------------------------------------------------------------------------------------- the data


def cohorts(out: Path, n_people: int) -> tuple[dict[str, Path], pd.DataFrame, Oracle]:
    """Return the folders "paired" and "shuffled", the facts of each person in the order of the cohort, and the oracle."""
    data = paired_data(out, n_people, lambda what, done, total: None)
    source = data.open(PAIRED)
    facts = source.index[["record", *source.targets]].merge(pd.read_csv(out / "dual_phase_truth.csv"), on="record")
    folders = {name: out / f"shared_space_{name}" for name in ("paired", "shuffled")}
    if not (folders["paired"] / "cohort.json").is_file():
        write_with_texts(source, folders["paired"], with_history(source, facts))
    paired = Cohort.open(folders["paired"])
    if not (folders["shuffled"] / "cohort.json").is_file():
        write_with_other_images(paired, folders["shuffled"], *shuffled(paired.rows("train")))
    return folders, facts, data.oracle


def with_history(cohort: Cohort, facts: pd.DataFrame) -> list[str]:
    """Return the reports, with a sentence of history before those of some people with a condition."""
    rng = np.random.default_rng(0)
    texts = []
    conditions = [(one, one.holds(facts).to_numpy()) for one in CONCEPTS if one.is_history]
    for row, text in enumerate(cohort.reports):
        draws = [(rng.random(), int(rng.integers(3))) for _ in conditions]
        known = [one.words[k] for (one, holds), (chance, k) in zip(conditions, draws)
                 if holds[row] and chance < HISTORY_SHARE]  # fmt: skip
        texts.append(". ".join([*known, text]))
    return texts


# ---------------------------------------------------------------------------------------------------- the training


def train_all(
    out: Path, folders: dict[str, Path], minutes: float, seed: int, images: Path | None = None
) -> dict[str, Run]:
    """Return the runs of one seed by arm; those that are finished are loaded.

    Args:
        images: a run of stage "cmr" to start from; None: it is trained.
    """

    def train(label: str, config: Config, cohort: str, budget: Budget) -> Run:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, seed=seed, device="cpu"))
        variant = training_runs.with_cohort(Variant(label, config), folders[cohort])
        variant = training_runs.with_budget(budget, out, variant)
        print(f"{label}, seed {seed}: {variant.config.optim.steps} steps", flush=True)
        return training_runs.load_or_train(out / "runs", variant, lambda what, done, total: None)

    runs = {ALONE: train(ALONE, small_config("cg_dmer"), "paired", Budget(minutes=SHARES[ALONE] * minutes))}
    contrast = small_config("dual_phase_cmr")
    if images is None:
        images = train(IMAGES, stage_cmr(contrast), "paired", Budget(minutes=SHARES[IMAGES] * minutes)).folder

    # the arms, all with the steps of the first one
    start = dataclasses.replace(contrast.data, init=str(runs[ALONE].folder), init_volume=str(images))
    budget = Budget(minutes=SHARES[TEXT_TOO] * minutes)
    for name, settings in ARMS.items():
        config = dataclasses.replace(contrast, data=start, method={**contrast.method, "space": "init", **settings})
        runs[name] = train(name, config, "shuffled" if name == SHUFFLED else "paired", budget)
        budget = Budget(steps=runs[name].config.optim.steps)
    return runs


# ------------------------------------------------------------------------------------------------------ the scores


def embeddings(run: Run, cohort: Cohort, rows: NDArray[np.int64]) -> Arrays:
    """Return unit vectors of the ECGs, reports, words of each concept and, if the run embeds them, images."""
    distinct, of_row = np.unique(cohort.reports.take(rows), return_inverse=True)
    result = {
        "ecg": unit(embed_cohort(run, cohort, "shared", rows)),
        "text": unit(embed_texts(run, distinct.tolist()))[np.ravel(of_row)],
        "words": np.stack([class_vector(embed_texts(run, one.words)) for one in CONCEPTS]),
    }
    if run.method.embeds_volume:
        result["image"] = unit(embed_volumes(run, cohort, rows, parts=["both"])["both"])
    return result


def score(by_seed: list[Arrays], labels: NDArray[Any], patients: NDArray[Any]) -> Scores:
    """Return the scores of one arm, means over seeds: zero-shot AUROC, hits of the words, and recall between modalities."""
    names = [one.name for one in CONCEPTS]
    result: Scores = {}
    for kind in ("ecg", "image"):
        if kind in by_seed[0]:
            logits = np.stack([cosines(each[kind], list(each["words"])) for each in by_seed])
            result[f"words on {kind}"] = auroc_score(labels, logits, patients, names)
            if kind == "image":
                order = np.argsort(-logits, axis=1)[:, :N_NEAREST]  # (S, 10, K)
                hits = [np.take_along_axis(labels, each, axis=0).mean(axis=0) for each in order]
                result["nearest"] = dict(zip(names, np.mean(hits, axis=0)))
    pairs = [("text", "image"), ("image", "text"), ("ecg", "image"), ("image", "ecg"), ("ecg", "text")]
    for query, item in pairs:
        if query in by_seed[0] and item in by_seed[0]:
            for size in POOLS:
                if size <= len(patients):
                    pools = draw_pools(patients, size)
                    each = [score_pools(one[query], one[item], pools, patients) for one in by_seed]
                    replicates = np.mean([one.replicates[10] for one in each], axis=0)
                    low, high = np.percentile(replicates, (2.5, 97.5))
                    result[query, item, size] = (
                        float(np.mean([one.recall[10] for one in each])),
                        float(low),
                        float(high),
                    )
    return result


# -------------------------------------------------------------------------------------------------------- the page


def tables(scores: dict[str, Scores], labels: NDArray[Any], oracle: Oracle) -> list[str]:
    """Return the headings and tables of the page."""
    auroc: list[dict[str, object]] = []
    for kind, on in (("ecg", "ECGs"), ("image", "images")):
        for name, one in scores.items():
            of_words: Score | None = one.get(f"words on {kind}")
            if of_words is not None:
                cells = {c.name: _cell(of_words.per_class[c.name], of_words.class_interval[c.name]) for c in CONCEPTS}
                auroc.append({"on": on, "arm": name, **cells})
    auroc.append({"on": "", "arm": "chance", **{one.name: "0.500" for one in CONCEPTS}})

    nearest: list[dict[str, object]] = [
        {"arm": name, **{concept: f"{value:.2f}" for concept, value in one["nearest"].items()}}
        for name, one in scores.items() if "nearest" in one
    ]  # fmt: skip
    nearest.append(
        {"arm": "chance: share of all", **dict(zip((c.name for c in CONCEPTS), (f"{x:.2f}" for x in labels.mean(0))))}
    )

    titles = {("text", "image"): "report → image", ("image", "text"): "image → report", ("ecg", "image"): "ECG → image",
              ("image", "ecg"): "image → ECG", ("ecg", "text"): "ECG → report"}  # fmt: skip
    recall: list[dict[str, object]] = []
    for name, one in scores.items():
        for size in POOLS:
            cells = {title: _cell(*_split(one.get((*pair, size)))) for pair, title in titles.items()}
            if any(cells.values()):
                recall.append({"pool": size, "arm": name, **cells})
    for size in sorted({int(str(line["pool"])) for line in recall}):
        recall.append({"pool": size, "arm": "chance", **dict.fromkeys(titles.values(), f"{10 / size:.3f}")})
        best = oracle.get(size, {}).get(10)
        if best is not None:
            line = dict.fromkeys(titles.values(), "")
            recall.append({"pool": size, "arm": "likelihood oracle", **line, "ECG → image": f"{best:.3f}"})
    recall.sort(key=lambda line: int(str(line["pool"])))
    return [
        "## Zero-shot from words: AUROC on the test people",
        table(auroc),
        f"## The {N_NEAREST} images nearest to the words: share that has the condition",
        table(nearest),
        *(["## Retrieval: recall at 10", table(recall)] if recall else []),
    ]


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    return "" if value is None or interval is None else f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"


def _split(one: tuple[float, float, float] | None) -> tuple[float | None, tuple[float, float] | None]:
    return (None, None) if one is None else (one[0], one[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0, help="of one core, of each run [%(default)s]")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--images", type=Path, help='a run of stage "cmr" to start from [one is trained]')
    parser.add_argument("--people", type=int, default=N_PEOPLE)
    parser.add_argument("--page", type=Path, default=RESULTS / "shared_space.md")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    began = time.process_time()

    # train and embed
    folders, facts, oracle = cohorts(args.out, args.people)
    cohort = Cohort.open(folders["paired"])
    rows = cohort.rows("test")
    labels = np.stack([one.holds(facts).to_numpy()[rows] for one in CONCEPTS], axis=1).astype(np.int8)
    patients = np.array(cohort.patients.take(rows))
    seeds = [int(seed) for seed in args.seeds.split(",")]
    by_arm: dict[str, list[Arrays]] = {}
    steps: dict[str, int] = {}
    for seed in seeds:
        for name, run in train_all(args.out, folders, args.minutes, seed, args.images).items():
            by_arm.setdefault(name, []).append(embeddings(run, cohort, rows))
            steps[name] = run.config.optim.steps
    scores = {name: score(each, labels, patients) for name, each in by_arm.items()}

    # the picture and the page
    first = by_arm[TEXT_TOO][0]
    picture = draw(
        SpaceEmbeddings(first["ecg"], first["image"], first["text"], first["words"]),
        facts.lvef.to_numpy()[rows],
        [one.words[0] for one in CONCEPTS],
        {"ECGs, before images": scores[ALONE]["words on ecg"], "ECGs, with images": scores[TEXT_TOO]["words on ecg"],
         "images": scores[TEXT_TOO]["words on image"], "images, shuffled pairs": scores[SHUFFLED]["words on image"]},
    )  # fmt: skip
    args.page.parent.mkdir(parents=True, exist_ok=True)
    ink.save(picture, args.page.with_suffix(".png"), dpi=130)
    seconds = time.process_time() - began
    command = shlex.join(["python", "benchmarks/shared_space.py", *sys.argv[1:]])
    parts = [
        "# Image, report and ECG in one space, on simulated pairs",
        f"![Three modalities in one plane, and zero-shot from words]({args.page.stem}.png)",
        summary(scores),
        about(cohort, labels, steps, seeds),
        *tables(scores, labels, oracle),
        f"`{command}`: {describe()}. The last call took {seconds:,.0f} s of processor time; an earlier one may have done a "
        "part of the work.",
    ]
    with replacing(args.page) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(args.page)


def summary(scores: dict[str, Scores]) -> str:
    """Return the sentences that a reader looks for, from the scores."""
    history = [one.name for one in CONCEPTS if one.is_history]
    on_ecg, on_image, before, control = (
        scores[arm][f"words on {kind}"] for arm, kind in
        ((TEXT_TOO, "ecg"), (TEXT_TOO, "image"), (ALONE, "ecg"), (SHUFFLED, "image"))
    )  # fmt: skip

    def mean(one: Score) -> str:
        return f"{np.mean([one.per_class[name] or 0.5 for name in history]):.3f}"

    size = POOLS[0]
    of_text = [scores[name].get(("text", "image", size)) for name in (TEXT_TOO, IMAGES_ONLY, SHUFFLED)]
    retrieval = ""
    if all(of_text):
        both, alone, shuffled_pairs = (f"{one[0]:.3f}" for one in of_text if one)
        retrieval = (
            f" A report retrieves the image of its own heart among {size} in {both} of the cases at rank 10 or better (chance "
            f"{10 / size:.3f}; without continued reports {alone}; shuffled pairs {shuffled_pairs})."
        )
    return (
        f"Zero-shot from words on images, which were never compared with a text: mean AUROC of the three conditions of the "
        f"heart {mean(on_image)} (shuffled pairs {mean(control)}). On ECGs: {mean(on_ecg)}, and {mean(before)} before the "
        f"images.{retrieval}"
    )


def about(cohort: Cohort, labels: NDArray[Any], steps: dict[str, int], seeds: list[int]) -> str:
    """Return what was trained on what, and what the rows are."""
    positives = ", ".join(f"{one.name} {int(n)}" for one, n in zip(CONCEPTS, labels.sum(0)))
    words = "; ".join(f"{one.name}: " + ", ".join(f"'{text}'" for text in one.words) for one in CONCEPTS)
    n_train, share = len(cohort.rows("train")), f"{100 * HISTORY_SHARE:.0f} %"
    return (
        f"Simulated: {len(cohort):,} people, {n_train:,} for training, {len(labels)} test people. CG-DMER is trained on ECGs "
        f"and reports ({steps[ALONE]:,} steps of 32), then `dual_phase_cmr` starts from it with `space=init` "
        f"({steps[TEXT_TOO]:,} steps of 128 in each arm, seeds {', '.join(map(str, seeds))}). Reports state findings of the "
        f"ECG; in addition {share} of the people with one of the three conditions of the heart have a sentence of history. "
        "Images are compared with ECGs only, never with reports. The test people's images and ECGs are their own in every "
        f"row. Test people with a condition: {positives}. Words: {words}. Intervals: 95 %, over resampled test people, means "
        "over seeds. 'heart rate below 60' is a control: images contain the rate only as far as the ejection fraction does. "
        "Recall of reports is limited, since many people have the same report. In the picture each modality is centred, "
        "which removes the gap between modalities; the axes are the first two principal axes of ECGs and images."
    )


if __name__ == "__main__":
    main()
