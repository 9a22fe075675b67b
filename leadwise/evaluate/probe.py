"""How much of a task a linear model reads out of frozen features, beside the same encoder untrained and a reference.

Features are made once. On a share of the training recordings they are standardised and an L2-penalised logistic
regression is fitted for each class. One strength for all classes is chosen by macro AUROC on the validation split,
then the test split is scored, once. A class that the drawn recordings show with one label value only cannot be learnt
from them: its scores are constant, it counts as 0.5, and it is named ("unlearnable"). Shares below 1 are drawn at
random several times; figures are means over the draws, and intervals resample patients with all draws scored on the
same ones. F1's thresholds are fixed on validation. Calibration judges the regressions' own probabilities, whose strength was
chosen by AUROC and not for them: on a small cohort the strongest penalty may win, and all probabilities then lie near the
prevalence. A class that cannot be learnt is given the share of positives that its draw showed, 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import subset
from leadwise.evaluate.embed import count_training_patients, embed_cohort
from leadwise.evaluate.handcrafted import handcrafted_features
from leadwise.evaluate.logistic_regression import ProbeError as ProbeError
from leadwise.evaluate.logistic_regression import fit
from leadwise.evaluate.metrics import all_metrics as beside
from leadwise.evaluate.metrics import calibration
from leadwise.evaluate.metrics.auroc import auroc, auroc_score
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.f1 import best_thresholds
from leadwise.evaluate.metrics.score import Floats, Interval, Score
from leadwise.progress import Progress, relabel
from leadwise.run import Run

FRACTIONS = (0.01, 0.05, 0.1, 1.0)
SEEDS = (42, 43, 44)
FEATURES = ("trained", "untrained", "handcrafted")


@dataclass(frozen=True)
class ProbeTask:
    """What is asked of N recordings: labels of K classes, with the split and the patient of each."""

    classes: tuple[str, ...]
    labels: NDArray[np.int8]  # (N, K) in {0, 1}
    split: NDArray[Any]  # (N,) "train", "val" or "test"
    patient: NDArray[Any]  # (N,)

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.split), len(self.classes)) or len(self.split) != len(self.patient):
            raise ProbeError(
                f"labels {self.labels.shape}, {len(self.split)} splits and {len(self.patient)} patients must belong to "
                f"the same recordings and {len(self.classes)} classes"
            )
        for name in ("train", "val", "test"):
            if not len(self.rows(name)):
                raise ProbeError(f"no recording of the task in split '{name}'; a probe needs train, val and test")
        for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
            both = np.intersect1d(self.patient[self.rows(a)], self.patient[self.rows(b)])
            if len(both):
                raise ProbeError(f"{len(both)} patients are in '{a}' and in '{b}' (first: {both[0]}); split by patient")

    def rows(self, split: str) -> NDArray[np.int64]:
        """Where a split's recordings stand."""
        return np.flatnonzero(self.split == split)


@dataclass(frozen=True)
class Draw:
    """One random draw of training recordings and what came of it."""

    seed: int
    n_train: int
    strength: float  # chosen on the validation split
    val_macro: float
    test_macro: float
    unlearnable: tuple[str, ...]  # classes with one label value only among the drawn recordings
    thresholds: dict[str, float | None]  # logit from which to call a class; None without positives in validation


@dataclass(frozen=True)
class ProbeResult:
    """One set of features at one fraction."""

    fraction: float
    score: Score  # on the test split, mean over the draws
    draws: tuple[Draw, ...]
    measures: dict[str, Score]  # on the test split beside AUROC: auprc, f1, ece, brier
    reliability: dict[str, calibration.Reliability]  # of the first draw, by class
    test_scores: Floats = field(repr=False, compare=False)  # (S, N, K) logits, for paired comparisons

    @property
    def without_threshold(self) -> tuple[str, ...]:
        """Classes without positives in validation, which have no F1."""
        return tuple(name for name, at in self.draws[0].thresholds.items() if at is None)

    @property
    def spread(self) -> float:
        """Standard deviation of the test macro over the draws; 0 for one."""
        return float(np.std([draw.test_macro for draw in self.draws], ddof=1)) if len(self.draws) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        draws = [{**vars(draw), "unlearnable": list(draw.unlearnable)} for draw in self.draws]
        return {
            **self.score.to_json(),
            "spread": self.spread,
            "draws": draws,
            "measures": beside.to_json(self.measures),
            "without_threshold": list(self.without_threshold),
            "reliability": {name: curve.to_json() for name, curve in self.reliability.items()},
        }


@dataclass(frozen=True)
class ProbeReport:
    """A run's table for one task: fractions by features."""

    cohort: str
    run: str
    task: str
    part: str
    classes: tuple[str, ...]
    fingerprints: dict[str, str]  # of the cohort's data and of the run's weights
    n_training_patients: int  # people of the test split that the run was pre-trained on: must be 0
    n_recordings: dict[str, int]  # by split
    results: dict[float, dict[str, ProbeResult]]  # fraction -> features -> result
    window: str | None = None  # which part of longer recordings was seen; None: as the run was promised

    def to_json(self) -> dict[str, Any]:
        fractions: dict[str, Any] = {}
        for fraction, by_features in self.results.items():
            cell: dict[str, Any] = {name: result.to_json() for name, result in by_features.items()}
            above, interval = self.gain(fraction)
            cell["gain_over_untrained"] = {"macro": above, "interval": list(interval)}
            fractions[f"{fraction:g}"] = cell
        return {
            "command": "probe",
            "protocol": "strict",
            "cohort": self.cohort,
            "run": self.run,
            "window": self.window,
            "fingerprints": dict(self.fingerprints),
            "n_people_seen_in_pretraining": self.n_training_patients,
            "task": self.task,
            "part": self.part,
            "fractions": fractions,
            "classes": list(self.classes),
            **{f"n_{split}": n for split, n in self.n_recordings.items()},
        }

    def gain(self, fraction: float) -> tuple[float, Interval]:
        """Macro AUROC of the trained encoder above the untrained one, with its paired 95 % interval."""
        return gain(self.results[fraction]["trained"].score, self.results[fraction]["untrained"].score)

    def rows(self) -> list[dict[str, Any]]:
        """The table, a dict a line; AUROCs in [0, 1]."""
        return [
            {
                "fraction": fraction,
                "features": name,
                "n_train": result.draws[0].n_train,
                "macro": result.score.macro,
                "low": result.score.interval[0],
                "high": result.score.interval[1],
                "spread": result.spread,
                **beside.table_cells(result.measures),
                "skipped": ", ".join(result.score.skipped),
                "unlearnable": ", ".join(sorted({lost for draw in result.draws for lost in draw.unlearnable})),
                "no threshold": ", ".join(n for n in result.without_threshold if n not in result.score.skipped),
            }
            for fraction, by_features in self.results.items()
            for name, result in by_features.items()
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """A line for each fraction and class: test positives, AUROC with interval, and the other features' AUROC."""
        rows = []
        for fraction, by_features in self.results.items():
            trained = by_features["trained"].score
            for name in self.classes:
                low, high = trained.class_interval[name] or (None, None)
                line = {"fraction": fraction, "class": name, "positives": trained.positives[name]}
                line |= {"trained": trained.per_class[name], "low": low, "high": high}
                line |= {other: by_features[other].score.per_class[name] for other in ("untrained", "handcrafted")}
                line |= beside.class_cells(by_features["trained"].measures, name)
                rows.append(line)
        return rows

    def long_rows(self) -> list[dict[str, Any]]:
        """A line for each fraction, features, measure and class, with its interval: for other programs to read."""
        about: dict[str, Any] = {"command": "probe", "protocol": "strict", "cohort": self.cohort, "run": self.run}
        about |= {"window": self.window, "task": self.task, "part": self.part}
        return [
            line
            for fraction, by_features in self.results.items()
            for name, result in by_features.items()
            for line in beside.long_rows(
                {"auroc": result.score, **result.measures}, {**about, "fraction": fraction, "features": name}
            )
        ]


def run_probe(
    run: Run,
    cohort: Cohort,
    task: str,
    fractions: Sequence[float] = FRACTIONS,
    seeds: Sequence[int] = SEEDS,
    part: str = "backbone",
    progress: Progress | None = None,
    window: str | None = None,
) -> ProbeReport:
    """The probe's table: the trained run, its untrained twin and hand-crafted features, at each fraction of the labels.

    `window` is which part of each recording is seen (`data/windows.py`); default: as the run was promised.

    Raises:
        ProbeError: a split is empty or shares patients with another.
        DrawError: a fraction outside (0, 1], or one that leaves nothing to learn from.
        WindowError: no such window, or MERL's, which belongs to the legacy protocol.
    """
    crops.check_strict(window)
    rows = cohort.rows(task=task)
    asked = make_probe_task(cohort, task, rows)
    cache = run.folder / "embeddings" if run.folder else None
    twin = run.untrained()
    recordings, of_row = crops.crop_recordings(cohort, run.config.signal, rows, window)
    features = {
        "trained": embed_cohort(run, cohort, part, rows, relabel(progress, "embed, trained"), cache, window),
        "untrained": embed_cohort(twin, cohort, part, rows, relabel(progress, "embed, untrained"), cache, window),
        "handcrafted": crops.average_crops(handcrafted_features(recordings, progress=progress), of_row),
    }
    results: dict[float, dict[str, ProbeResult]] = {fraction: {} for fraction in fractions}
    for done, (fraction, name) in enumerate(((f, n) for f in fractions for n in FEATURES), start=1):
        results[fraction][name] = probe(features[name], asked, fraction, seeds)
        if progress is not None:
            progress("probe", done, len(fractions) * len(FEATURES))
    return ProbeReport(
        cohort=cohort.name,
        run=run.name,
        task=task,
        part=part,
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        n_training_patients=count_training_patients(run, cohort, rows[asked.rows("test")]),
        classes=asked.classes,
        n_recordings={split: len(asked.rows(split)) for split in ("train", "val", "test")},
        results=results,
        window=window,
    )


def make_probe_task(cohort: Cohort, task: str, rows: NDArray[np.integer]) -> ProbeTask:
    """What a task asks of a cohort's rows."""
    return ProbeTask(
        classes=tuple(cohort.tasks[task]),
        labels=cohort.labels(task, rows),
        split=cohort.splits(rows),
        patient=np.array(cohort.patients.take(rows)),
    )


def probe(
    features: NDArray[np.floating], task: ProbeTask, fraction: float, seeds: Sequence[int] = SEEDS
) -> ProbeResult:
    """The test score of logistic regressions on features (N, D), fitted on a fraction of the training recordings.

    With fraction 1 there is nothing to draw, and only the first seed is used.

    Raises:
        ProbeError: features of other recordings than the task's.
        DrawError: a fraction outside (0, 1], or so small that no recording is drawn.
    """
    if len(features) != len(task.labels):
        raise ProbeError(f"{len(features)} features for {len(task.labels)} recordings")
    train, val, test = (task.rows(split) for split in ("train", "val", "test"))
    draws: list[Draw] = []
    test_scores: list[Floats] = []
    probabilities: list[Floats] = []
    for seed in seeds if fraction < 1 else seeds[:1]:
        drawn = train[subset(len(train), fraction, seed)]
        model = fit(features[drawn], task.labels[drawn], features[val], task.labels[val])
        val_scores, scores = model.scores(features[val]), model.scores(features[test])
        test_scores.append(scores)
        share = task.labels[drawn].mean(axis=0, dtype=np.float64)
        both = (share > 0) & (share < 1)
        probabilities.append(np.where(both, expit(scores), share))
        calls = best_thresholds(task.labels[val], val_scores)
        draws.append(
            Draw(
                seed=seed,
                n_train=len(drawn),
                strength=model.strength,
                val_macro=model.val_macro,
                test_macro=float(np.nanmean(auroc(task.labels[test], scores))),
                unlearnable=tuple(name for name, learnable in zip(task.classes, both) if not learnable),
                thresholds={n: None if np.isnan(at) else float(at) for n, at in zip(task.classes, calls)},
            )
        )
    return _result(fraction, task, draws, np.stack(test_scores), np.stack(probabilities))


def _result(fraction: float, task: ProbeTask, draws: list[Draw], scores: Floats, probabilities: Floats) -> ProbeResult:
    """Every measure of S draws' test scores (S, N, K) and probabilities (S, N, K)."""
    test = task.rows("test")
    labels, patients, classes = task.labels[test], task.patient[test], task.classes
    thresholds = np.array([[np.nan if (at := d.thresholds[name]) is None else at for name in classes] for d in draws])
    return ProbeResult(
        fraction,
        score=auroc_score(labels, scores, patients, classes),
        draws=tuple(draws),
        measures=beside.compute_metrics(labels, scores, patients, classes, thresholds, probabilities),
        reliability=calibration.reliability(labels, probabilities[0], patients, classes),
        test_scores=scores,
    )
