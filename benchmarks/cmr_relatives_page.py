"""The page of cmr_relatives: the acceptance lines, computed from the stored rows, the tables, and the figure."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.export import markdown
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.regress import (
    FeatureScores,
    RegressTask,
    above_bounds,
    difference,
    score_predictions,
    target_values,
)
from leadwise.files import replacing
from leadwise.pictures import bars
from leadwise.reproduce.dual_phase_data import PairedData
from leadwise.reproduce.dual_phase_scores import FOUR, PHENOTYPES, Verdict, verdict_lines

Json = dict[str, Any]

RANDOM = "random encoder"
MASKED, PHASE = "masked ECG", "masked ECG and phase target"
BOTH, RELATIONAL, SHUFFLED_PAIRS = "ED + ES, InfoNCE", "ED + ES, relational", "ED + ES, shuffled pairs"
MYO = "MyoECG"
PTACL, GLOBAL = "PTACL", "PTACL without L_local"
ECHO, ETP, ECHO_IMAGES = "EchoingECG, reports", "ETP, reports", "EchoingECG, reports and images"
INFARCT_ED_ES, INFARCT_SCAR = "infarcts: ED + ES", "infarcts: ED + ES + scar"
ORDER = (
    RANDOM, MASKED, PHASE, BOTH, RELATIONAL, SHUFFLED_PAIRS, MYO, GLOBAL, PTACL, ETP, ECHO, ECHO_IMAGES,
)  # fmt: skip
SHORT = {"lvedv": "EDV", "lvesv": "ESV", "lvef": "EF", "lvmass": "mass"}

INTRO = """\
Papers around dual-phase CMR train an ECG encoder with images of the heart, or with what is left of them: PTACL aligns phases
within a person, EchoingECG has Gaussian embeddings, MyoECG reads concepts and compares people by their phenotypes, LGE-guided
contrast has a scar image as a further anchor, and ECGFlowCMR predicts the phase of the heartbeat. None of their data is public,
so that none of their numbers can be repeated. Here all are trained on **simulated** pairs of ECG and heart
([what is simulated](../../docs/simulated-pairs.md)): the anatomy decides the ECG and the images by a model whose best possible
predictions are known. That shows what each part does, and nothing about patients.

All encoders are small and trained for minutes of one core. Rows that are compared with each other have equal steps. R² is of a
ridge on the frozen features, fitted on the validation people, who are in no pre-training; test people are scored once. Intervals
resample test people. Every row has the same small ResNet: "ED + ES", MyoECG and the infarcts start from masked ECG, the others
from random weights."""

PAPERS = [
    {"paper": "PTACL (2506.20683)", "data": "27,951 pairs of UK Biobank",
     "its claim": "better phenotype retrieval and regression than a global contrast; no table was accessible"},
    {"paper": "EchoingECG (2509.25791)", "data": "private",
     "its claim": "uncertainty of ECGs and reports; its training code was not released"},
    {"paper": "MyoECG (July 2026)", "data": "45,241 pairs",
     "its claim": "cardiomyopathy AUROC .800 to .974, subtypes macro .941"},
    {"paper": "ECGFlowCMR (2601.20904)", "data": "42,129 pairs of UK Biobank",
     "its claim": "phenotype R² .454 to .470 with synthetic images; of its phase target no ablation was accessible"},
    {"paper": "LGE-guided contrast", "data": "private", "its claim": "a scar image as teacher; images only, no ECG"},
]  # fmt: skip


class Results:
    """The stored rows of all seeds, and their scores."""

    def __init__(
        self, folder: Path, data: PairedData, infarcts: Cohort, seeds: Sequence[int], slug: Callable[[str], str]
    ) -> None:
        self.folder, self.data, self.seeds, self.slug = folder, data, tuple(seeds), slug
        self.pairs, self.infarcts = data.open(), infarcts
        self.bounds, self.oracle = dict(self.pairs.bounds), data.oracle
        self.stored = {
            name: [json.loads(self._file(name, seed, ".json").read_text(encoding="utf-8")) for seed in self.seeds]
            for name in (*ORDER, INFARCT_ED_ES, INFARCT_SCAR)
            if all(self._file(name, seed, ".json").is_file() for seed in self.seeds)
        }
        task, infarct_task = _task(self.pairs), _task(infarcts)
        self.scores = {
            name: self._scores(name, infarct_task if name in (INFARCT_ED_ES, INFARCT_SCAR) else task)
            for name in self.stored
        }

    def first(self, name: str) -> Json:
        """The stored row of the first seed; {} if it is missing."""
        return self.stored.get(name, [{}])[0]

    def mean(self, name: str, *keys: str) -> float | None:
        """The mean over seeds of a number of the stored rows; None where it is missing."""
        values = []
        for one in self.stored.get(name, []):
            value: Any = one
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                return None
            values.append(float(value))
        return float(np.mean(values)) if values else None

    def territory(self, name: str) -> Score:
        """The AUROC of the infarct's territory."""
        test = self.infarcts.rows("test")
        logits = np.stack([np.load(self._file(name, seed, ".npz"))["territory"] for seed in self.seeds])
        patients = np.array(self.infarcts.patients.take(test))
        return auroc_score(self.infarcts.labels("infarct", test), logits, patients, self.infarcts.tasks["infarct"])

    def direction(self, name: str) -> str:
        """The direction of retrieval from ECGs to the images of all phases."""
        known = self.first(name).get("retrieval", {})
        return next((one for one in ("ECG → ED + ES", "ECG → BOTH") if one in known), "")

    def _scores(self, name: str, task: RegressTask) -> FeatureScores:
        predictions = np.stack([np.load(self._file(name, seed, ".npz"))["predictions"] for seed in self.seeds])
        return score_predictions(name, predictions, task, int(self.first(name)["width"]))

    def _file(self, name: str, seed: int, suffix: str) -> Path:
        return self.folder / f"{self.slug(name)}-seed{seed}{suffix}"


def _task(cohort: Cohort) -> RegressTask:
    """Return the task of the rows' predictions: all people of the validation and test splits."""
    rows = np.sort(np.concatenate([cohort.rows("val"), cohort.rows("test")]))
    split = cohort.splits(rows)
    return RegressTask(
        PHENOTYPES, target_values(cohort, PHENOTYPES, rows), np.array(cohort.patients.take(rows)),
        np.flatnonzero(split == "val"), np.flatnonzero(split == "test"),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- the acceptance


def verdicts(r: Results) -> list[Verdict]:
    """Return the acceptance lines, numbered; a line whose rows are missing is left out."""
    return [
        dataclasses.replace(one, criterion=f"{number}. {one.criterion}") for number, one in enumerate(_verdicts(r), 1)
    ]


def _verdicts(r: Results) -> list[Verdict]:
    lines: list[Verdict] = []
    have = r.scores.__contains__
    if have(PTACL) and have(GLOBAL):
        gained = difference(r.scores[PTACL], r.scores[GLOBAL], ["lvef"])
        lines.append(
            Verdict(
                "PTACL: R² of EF not below that without L_local (interval not below 0)",
                _signed(gained),
                gained.interval[1] >= 0,
            )
        )
        own, other = r.mean(PTACL, "local", "local_top1"), r.mean(PTACL, "local", "local_top1_other")
        if own is not None and other is not None:
            lines += [
                Verdict(
                    "PTACL: the phase of an image is found among those of the ECG, top-1 above 0.75 (chance 0.5)",
                    f"{own:.3f}",
                    own > 0.75,
                ),
                Verdict(
                    "PTACL: with the ECG of another person this drops by 0.05 or more (else L_local has taught only the time)",
                    f"{own:.3f} to {other:.3f}",
                    own - other >= 0.05,
                ),
            ]
    lines += _echo_verdicts(r)
    if have(BOTH) and have(RELATIONAL):
        gained = difference(r.scores[RELATIONAL], r.scores[BOTH], FOUR)
        lines.append(
            Verdict(
                "Relational target: mean R² of EDV, ESV, EF, mass not below InfoNCE at equal steps; retrieval may drop",
                f"{_signed(gained)}; R@10 {_recall(r, BOTH)} to {_recall(r, RELATIONAL)}",
                gained.value >= 0,
            )
        )
    if have(MYO) and have(MASKED):
        gained = difference(r.scores[MYO], r.scores[MASKED], FOUR)
        beside = f"; minus InfoNCE {_signed(difference(r.scores[MYO], r.scores[BOTH], FOUR))}" if have(BOTH) else ""
        lines.append(
            Verdict(
                "MyoECG: mean R² above masked ECG, where it starts, interval above 0",
                _signed(gained) + beside,
                gained.interval[0] > 0,
            )
        )
    if have(INFARCT_SCAR) and have(INFARCT_ED_ES):
        scar, without = r.territory(INFARCT_SCAR), r.territory(INFARCT_ED_ES)
        value, (low, high) = gain(scar, without)
        lines.append(
            Verdict(
                "Scar anchor: AUROC of the infarct's territory above that with ED + ES alone, interval above 0",
                f"{without.macro:.3f} to {scar.macro:.3f}: {value:+.3f} ({low:+.3f} to {high:+.3f})",
                low > 0,
            )
        )
    if have(PHASE) and have(MASKED):
        gained = difference(r.scores[PHASE], r.scores[MASKED], FOUR)
        lines.append(
            Verdict(
                "Phase target: mean R² not below masked ECG without it (interval not below 0)",
                _signed(gained),
                gained.interval[1] >= 0,
            )
        )
    if have(SHUFFLED_PAIRS) and have(MASKED):
        lost = difference(r.scores[SHUFFLED_PAIRS], r.scores[MASKED], FOUR)
        lines.append(
            Verdict(
                "Control: shuffled pairs within 0.08 of masked ECG, where they start",
                _signed(lost),
                abs(lost.value) <= 0.08,
            )
        )
        recall, pool = _recall_value(r, SHUFFLED_PAIRS, 10), _pool(r, SHUFFLED_PAIRS)
        if recall is not None:
            lines.append(
                Verdict(
                    "Control: retrieval after shuffled pairs below twice chance, R@10",
                    f"{recall:.3f}, chance {10 / pool:.3f}",
                    recall < 20 / pool,
                )
            )
    of_pairs = [score for name, score in r.scores.items() if name in ORDER]
    too_high = above_bounds(of_pairs, r.bounds)
    lines.append(Verdict("No R² more than 0.05 above its bound", " ".join(too_high) or "none is", not too_high))
    return lines


def _echo_verdicts(r: Results) -> list[Verdict]:
    lines = []
    auroc, words = r.mean(ECHO, "vague", "auroc"), r.mean(ECHO, "vague", "auroc_of_few_words")
    if auroc is not None and words is not None:
        about = r.first(ECHO)["vague"]
        lines.append(
            Verdict(
                "EchoingECG: AUROC above 0.6 with which a report's uncertainty finds reports that several people have",
                f"{auroc:.3f} ({about['n_repeated']} of {about['n_reports']} reports; by few words alone {words:.3f})",
                auroc > 0.6,
            )
        )
    for name in (ECHO, ECHO_IMAGES):
        spearman = r.mean(name, "noise", "spearman")
        if spearman is not None:
            about = r.first(name)["noise"]
            lines.append(
                Verdict(
                    f"{name}: Spearman above 0.3 of an ECG's uncertainty with added noise, 0 to {about['largest_mv']:g} mV",
                    f"{spearman:.3f}, {about['n']} ECGs",
                    spearman > 0.3,
                )
            )
    ours = [r.mean(ECHO, "reports", side, "recall", "10") for side in ("ecg_to_report", "report_to_ecg")]
    plain = [r.mean(ETP, "reports", side, "recall", "10") for side in ("ecg_to_report", "report_to_ecg")]
    if None not in (*ours, *plain):
        one, other = float(np.mean(ours)), float(np.mean(plain))  # type: ignore[arg-type]
        lines.append(
            Verdict(
                "EchoingECG: R@10 between ECGs and reports, mean of both directions, not more than 0.02 below ETP, the same "
                "encoders with InfoNCE",
                f"{one:.3f}, ETP {other:.3f}: {one - other:+.3f}",
                one - other >= -0.02,
            )
        )
    return lines


# ------------------------------------------------------------------------------------------------------ the tables


def phenotype_table(r: Results) -> list[Json]:
    """Return R² of each row with the mean of the four and its interval, and the bound."""
    lines: list[Json] = []
    for name in (one for one in ORDER if one in r.scores):
        score = r.scores[name]
        value, replicates = score.on(FOUR)
        low, high = np.nanpercentile(replicates, (2.5, 97.5))
        cells = {SHORT[target]: f"{score.r2[PHENOTYPES.index(target)]:.2f}" for target in FOUR}
        lines.append({"row": name, "steps": "" if name == RANDOM else r.first(name)["steps"],
                      "mean of the four": f"{value:.3f} ({low:.3f} to {high:.3f})", **cells})  # fmt: skip
    if all(target in r.bounds for target in FOUR):
        mean = f"{np.mean([r.bounds[target] for target in FOUR]):.3f}"
        best = {SHORT[target]: f"{r.bounds[target]:.2f}" for target in FOUR}
        lines.append({"row": "bound: the best from any ECG", "steps": "", "mean of the four": mean, **best})
    return lines


def retrieval_table(r: Results) -> list[Json]:
    """Return recall from ECGs to the images of all phases, chance and the oracle."""
    lines: list[Json] = []
    for name in (one for one in ORDER if r.direction(one)):
        cells = {f"R@{k}": f"{_recall_value(r, name, k):.3f}" for k in (1, 5, 10)}
        rank = r.mean(name, "retrieval", r.direction(name), "median_rank")
        lines.append({"row": name, "pool": _pool(r, name), **cells, "median rank": f"{rank:.1f}"})
    for pool in dict.fromkeys(line["pool"] for line in lines):
        lines.append({"row": "chance", "pool": pool, **{f"R@{k}": f"{k / pool:.3f}" for k in (1, 5, 10)},
                      "median rank": f"{(pool + 1) / 2:.1f}"})  # fmt: skip
        if pool in r.oracle:
            best = {f"R@{k}": f"{value:.3f}" for k, value in r.oracle[pool].items()}
            lines.append({"row": "likelihood oracle", "pool": pool, **best, "median rank": ""})
    return lines


def thirds_table(r: Results) -> list[Json]:
    """Return recall by the uncertainty of the query, of the first seed."""
    lines: list[Json] = []
    for side, arrow in (("ecg_to_report", "ECG → report"), ("report_to_ecg", "report → ECG")):
        for third in r.first(ECHO).get("reports", {}).get(side, {}).get("by_uncertainty", []):
            lines.append(_third(f"{ECHO}: {arrow}", third))
    direction = r.direction(ECHO_IMAGES)
    for third in r.first(ECHO_IMAGES).get("retrieval", {}).get(direction, {}).get("thirds", []):
        lines.append(_third(f"{ECHO_IMAGES}: {direction}", third))
    return lines


def _third(name: str, third: Json) -> Json:
    low, high = third["uncertainty"]
    recall = {f"R@{k}": f"{value:.3f}" for k, value in third["recall"].items()}
    return {
        "retrieval": name,
        "queries": third["third"],
        "n": third["n_queries"],
        "uncertainty": f"{low:.3g} to {high:.3g}",
        **recall,
    }


def infarct_table(r: Results) -> list[Json]:
    """Return AUROC of each territory, and R² of the four, with and without the scar anchor."""
    lines: list[Json] = []
    for name in (INFARCT_ED_ES, INFARCT_SCAR):
        if name in r.scores:
            score = r.territory(name)
            low, high = score.interval
            lines.append(
                {"row": name, "steps": r.first(name)["steps"], "macro AUROC": f"{score.macro:.3f} ({low:.3f} to {high:.3f})",
                 **{label: "" if value is None else f"{value:.3f}" for label, value in score.per_class.items()},
                 "mean R² of the four": f"{r.scores[name].on(FOUR)[0]:.3f}"}
            )  # fmt: skip
    return lines


def draw(r: Results, path: Path) -> None:
    """Write the figure: R² of the four phenotypes of each row, and the bound."""
    rows: list[Json] = []
    for name in (one for one in ORDER if one in r.scores):
        for target in FOUR:
            one = r.scores[name].scores[target]["r2"]
            low, high = one.interval
            rows.append({"name": name, "group": SHORT[target], "value": one.value, "low": low, "high": high})
    rows += [{"name": "bound", "group": SHORT[target], "value": r.bounds.get(target)} for target in FOUR]
    figure = bars.draw(rows, "R² of phenotypes from the ECG, simulated pairs, test people", baseline=0.0, unit="R²")
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def write_page(path: Path, r: Results, command: Sequence[str], time: str) -> None:
    """Write the page and its figure."""
    lines = verdicts(r)
    failed = [one for one in lines if one.holds is False]
    n = {split: len(r.pairs.rows(split)) for split in ("train", "val", "test")}
    n_scar = {split: len(r.infarcts.rows(split)) for split in ("train", "val", "test")}
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(r, path.with_suffix(".png"))
    without = (
        f" Not: {'; '.join(one.criterion.split(':')[0] + ':' + one.criterion.split(':', 1)[-1] for one in failed)}."
        if failed
        else ""
    )
    parts = [
        "# Relatives of dual-phase CMR on simulated hearts",
        f"![R² of phenotypes of every row]({path.with_suffix('.png').name})",
        INTRO,
        f"**{len(lines) - len(failed)} of {len(lines)} acceptance lines hold.**{without}",
        "## Acceptance",
        markdown(verdict_lines(lines)),
        "## R² of phenotypes",
        markdown(phenotype_table(r)),
        "## Retrieval from ECGs to images",
        _or_none(retrieval_table(r)),
        "EchoingECG is ranked by the expected squared distance, the others by the cosine.",
        "## Retrieval by uncertainty",
        _or_none(thirds_table(r)),
        "## A scar anchor",
        _or_none(infarct_table(r)),
        f"Of other people, a fifth with an infarct: {n_scar['train']:,} to train, {n_scar['val']:,} for the fit of the probe, "
        f"{n_scar['test']:,} to test. Image encoders are trained from random weights in both rows, since no phenotype describes "
        "a scar. The bounds and the oracle are those of people without infarcts and are not compared here. Four fifths of the "
        "scar images have no scar: in the contrast they are alike, and yet negatives of each other.",
        "## The papers",
        markdown(PAPERS),
        "None of these numbers is comparable with ours: other people, real hearts, other tasks.",
        "## How it was computed",
        f"`{shlex.join(command)}`",
        f"{describe()}. {time} An earlier call may have done a part of the work. Seeds: {', '.join(map(str, r.seeds))}. Pairs: "
        f"{n['train']:,} people for pre-training, {n['val']:,} for the fit of the probes, {n['test']:,} to test. With one seed, "
        "differences below about 0.05 mean nothing.",
    ]  # fmt: skip
    with replacing(path) as part:
        part.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _or_none(lines: list[Json]) -> str:
    return markdown(lines) if lines else "No row was scored."


def _pool(r: Results, name: str) -> int:
    return int(r.first(name)["retrieval"][r.direction(name)]["pool"])


def _recall_value(r: Results, name: str, k: int) -> float | None:
    return r.mean(name, "retrieval", r.direction(name), "recall", str(k))


def _recall(r: Results, name: str) -> str:
    value = _recall_value(r, name, 10)
    return "unknown" if value is None else f"{value:.3f}"


def _signed(one: Any) -> str:
    return f"{one.value:+.3f} ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})"
