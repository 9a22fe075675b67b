"""Linear probe: test scores of logistic regressions on frozen features, with untrained and hand-crafted features as references.

Features are computed once. On a fraction of the training recordings they are standardised and an L2-penalised logistic
regression is fitted for each class. One strength for all classes is chosen by macro AUROC on the validation split, then the
test split is scored, once. Fractions below 1 are drawn at random several times: figures are means over the draws, and
intervals resample patients, with all draws scored on the same resampling. With a `width`, the regressions use so many
principal components of wider features, see `principal_axes`.

A class with a single label value in a draw cannot be learned from it ("unlearnable"): its scores are constant, it counts as
0.5, and the report names it. Its probability is the share of positives in the draw, 0 or 1. Thresholds of F1 are fixed on
validation. Calibration is measured on the probabilities of the regressions, whose strength was chosen by AUROC and not for
calibration: on a small cohort the strongest penalty may win, and then all probabilities are close to the prevalence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import subset
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate.embed import embed_cohort, split_parts, training_overlap, usable
from leadwise.evaluate.handcrafted import handcrafted_features
from leadwise.evaluate.logistic_regression import LogisticModel, fit
from leadwise.evaluate.logistic_regression import ProbeError as ProbeError
from leadwise.evaluate.metrics import all_metrics, calibration
from leadwise.evaluate.metrics.auroc import auroc, auroc_score
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.f1 import Thresholds
from leadwise.evaluate.metrics.score import Floats, Interval, Score
from leadwise.evaluate.principal_axes import principal_axes
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.trained_on import TrainingOverlap

FRACTIONS = (0.01, 0.05, 0.1, 1.0)
SEEDS = (42, 43, 44)
FEATURES = ("trained", "untrained", "handcrafted")


@dataclass(frozen=True)
class ProbeTask:
    """Labels of N recordings for K classes, with the split and the patient of each recording."""

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
            shared = np.intersect1d(self.patient[self.rows(a)], self.patient[self.rows(b)])
            if len(shared):
                raise ProbeError(
                    f"{len(shared)} patients are in '{a}' and in '{b}' (first: {shared[0]}); split by patient"
                )

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the indices of a split's recordings."""
        return np.flatnonzero(self.split == split)


@dataclass(frozen=True)
class Draw:
    """One random draw of training recordings, and the model fitted on it."""

    seed: int
    n_train: int
    strength: float | None  # of the penalty, chosen on the validation split; None: fine-tuned
    epoch: int | None  # of a fine-tuning, chosen on the validation split; None: a probe
    val_macro: float
    test_macro: float
    unlearnable: tuple[str, ...]  # classes with a single label value among the drawn recordings
    thresholds: dict[
        str, float | None
    ]  # logit at or above which a class is predicted, with the best F1 on validation; None without positives there
    f2_thresholds: dict[str, float | None]  # the same with the best F2


@dataclass(frozen=True)
class DrawScores:
    """What one draw's model gives; N and M recordings of the validation and the test split, K classes."""

    seed: int
    n_train: int
    learnable: NDArray[np.bool_]  # (K,) False for a class with a single label value in the draw
    val: Floats  # (N, K) logits
    test: Floats  # (M, K) logits
    probabilities: Floats  # (M, K)
    val_macro: float  # by which the strength or the epoch was chosen
    strength: float | None = None
    epoch: int | None = None

    @classmethod
    def of(
        cls,
        task: ProbeTask,
        drawn: NDArray[np.int64],
        seed: int,
        val: Floats,
        test: Floats,
        val_macro: float,
        strength: float | None = None,
        epoch: int | None = None,
    ) -> DrawScores:
        """Return the scores of a model that was trained on the recordings `drawn` (n,) of a task.

        A class that cannot be learned from them has the score 0, and the share of its positives, 0 or 1, as its probability.
        """
        share = task.labels[drawn].mean(axis=0, dtype=np.float64)
        learnable = (share > 0) & (share < 1)
        val, test = np.where(learnable, val, 0.0), np.where(learnable, test, 0.0)
        probabilities = np.where(learnable, expit(test), share)
        return cls(seed, len(drawn), learnable, val, test, probabilities, val_macro, strength, epoch)


@dataclass(frozen=True)
class ProbeResult:
    """Scores of one kind of features at one fraction."""

    fraction: float
    score: Score  # on the test split, mean over the draws
    draws: tuple[Draw, ...]
    measures: dict[str, Score]  # on the test split, in addition to AUROC: `all_metrics.METRICS`
    reliability: dict[str, calibration.Reliability]  # of the first draw, by class
    feature_width: int  # of the features as they were passed
    probe_width: int  # of the components that the regressions use; equal to feature_width without a reduction
    test_scores: Floats = field(repr=False, compare=False)  # (S, N, K) logits, for paired comparisons

    @property
    def without_threshold(self) -> tuple[str, ...]:
        """Classes without positives in validation; they have no F1."""
        return tuple(name for name, at in self.draws[0].thresholds.items() if at is None)

    @property
    def widths(self) -> dict[str, int]:
        """The widths as columns of a table."""
        return {"feature width": self.feature_width, "probe width": self.probe_width}

    @property
    def spread(self) -> float:
        """Standard deviation of the test macro over the draws; 0 for one."""
        return float(np.std([draw.test_macro for draw in self.draws], ddof=1)) if len(self.draws) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        draws = [{**vars(draw), "unlearnable": list(draw.unlearnable)} for draw in self.draws]
        return {
            **self.score.to_json(),
            "feature_width": self.feature_width,
            "probe_width": self.probe_width,
            "spread": self.spread,
            "draws": draws,
            "measures": all_metrics.to_json(self.measures),
            "without_threshold": list(self.without_threshold),
            "reliability": {name: curve.to_json() for name, curve in self.reliability.items()},
        }


@dataclass(frozen=True)
class ProbeReport:
    """Results of a probe or a fine-tuning of a run on one task, by fraction and features."""

    cohort: str
    run: str
    task: str
    part: str
    classes: tuple[str, ...]
    fingerprints: dict[str, str]  # of the cohort's data and of the run's weights
    overlap: TrainingOverlap  # of the test split with the training of the run: must be empty
    pretraining_data: str  # the data sets that the encoder was trained on, "none" or "unknown"
    n_recordings: dict[str, int]  # by split
    results: dict[float, dict[str, ProbeResult]]  # fraction -> features -> result
    window: str | None = None  # window of longer recordings; None: the run's own setting
    left_out: LeftOut = field(default_factory=LeftOut)  # recordings of the task that the run cannot embed
    width: int | None = None  # to which wider features were reduced; None: no reduction
    command: str = "probe"  # or finetune: the encoder was trained on the labels too
    settings: dict[str, Any] = field(default_factory=dict)  # of a fine-tuning

    @classmethod
    def of(
        cls,
        run: Run,
        cohort: Cohort,
        task: str,
        part: str,
        rows: NDArray[np.integer],
        probe_task: ProbeTask,
        results: dict[float, dict[str, ProbeResult]],
        **more: Any,
    ) -> ProbeReport:
        """Return the report of the results on a cohort's `rows`, which are those of `probe_task`; `more` are further fields."""
        return cls(
            cohort=cohort.name,
            run=run.name,
            task=task,
            part=part,
            classes=probe_task.classes,
            fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
            overlap=training_overlap(run, cohort, rows[probe_task.rows("test")]),
            pretraining_data=run.pretraining_data,
            n_recordings={split: len(probe_task.rows(split)) for split in ("train", "val", "test")},
            results=results,
            **more,
        )

    def to_json(self) -> dict[str, Any]:
        fractions: dict[str, Any] = {}
        for fraction, by_features in self.results.items():
            cell: dict[str, Any] = {name: result.to_json() for name, result in by_features.items()}
            above = self.gain(fraction)
            cell["gain_over_untrained"] = above and {"macro": above[0], "interval": list(above[1])}
            fractions[f"{fraction:g}"] = cell
        return {
            "command": self.command,
            "protocol": "strict",
            "cohort": self.cohort,
            "run": self.run,
            "window": self.window,
            "fingerprints": dict(self.fingerprints),
            "pretraining_data": self.pretraining_data,
            **self.overlap.to_json(),
            "task": self.task,
            "part": self.part,
            "width": self.width,
            **({"settings": self.settings} if self.settings else {}),
            "fractions": fractions,
            "classes": list(self.classes),
            **{f"n_{split}": n for split, n in self.n_recordings.items()},
            **self.left_out.to_json(),
        }

    def gain(self, fraction: float) -> tuple[float, Interval] | None:
        """Return macro AUROC of the trained encoder minus the untrained one, with its paired 95 % interval.

        None for an encoder that has no untrained control.
        """
        results = self.results[fraction]
        return gain(results["trained"].score, results["untrained"].score) if "untrained" in results else None

    @property
    def control_remark(self) -> str:
        """A sentence for a table without the untrained control; '' if there is one."""
        if all("untrained" in results for results in self.results.values()):
            return ""
        return f"{self.run} gives no untrained encoder, so there is no such control."

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, one dict per row; AUROCs in [0, 1]."""
        return [
            {
                "fraction": fraction,
                "features": name,
                "n_train": result.draws[0].n_train,
                **result.widths,
                "macro": result.score.macro,
                "low": result.score.interval[0],
                "high": result.score.interval[1],
                "spread": result.spread,
                **all_metrics.table_cells(result.measures),
                "skipped": ", ".join(result.score.skipped),
                "unlearnable": ", ".join(sorted({name for draw in result.draws for name in draw.unlearnable})),
                "no threshold": ", ".join(n for n in result.without_threshold if n not in result.score.skipped),
            }
            for fraction, by_features in self.results.items()
            for name, result in by_features.items()
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """Return one row per fraction and class: test positives, AUROC with interval, and the AUROC of the other features."""
        rows = []
        for fraction, by_features in self.results.items():
            trained = by_features["trained"].score
            for name in self.classes:
                low, high = trained.class_interval[name] or (None, None)
                line = {"fraction": fraction, "class": name, "positives": trained.positives[name]}
                line |= {"trained": trained.per_class[name], "low": low, "high": high}
                line |= {
                    other: by_features[other].score.per_class[name] for other in FEATURES[1:] if other in by_features
                }
                line |= all_metrics.class_cells(by_features["trained"].measures, name)
                rows.append(line)
        return rows

    def long_rows(self) -> list[dict[str, Any]]:
        """Return one row per fraction, features, measure and class, with its interval, as written to CSV."""
        about: dict[str, Any] = {"command": self.command, "protocol": "strict", "cohort": self.cohort, "run": self.run}
        about |= {
            "window": self.window,
            "task": self.task,
            "part": self.part,
            "pretraining_data": self.pretraining_data,
        }

        def settings_of(fraction: float, name: str, result: ProbeResult) -> dict[str, Any]:
            widths = {name.replace(" ", "_"): width for name, width in result.widths.items()}
            return {**about, "fraction": fraction, "features": name, **widths}

        return [
            line
            for fraction, by_features in self.results.items()
            for name, result in by_features.items()
            for line in all_metrics.long_rows(
                {"auroc": result.score, **result.measures}, settings_of(fraction, name, result)
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
    width: int | None = None,
) -> ProbeReport:
    """Probe a run, the same encoder with random weights, and hand-crafted features, at each fraction of the labels.

    An encoder of another program may have no control with random weights (`Run.has_untrained`); then there is no such row.
    Recordings that the run cannot embed are left out of all splits.

    Args:
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.
        width: wider features are reduced to so many components, see `principal_axes`; default: no reduction.

    Raises:
        ProbeError: a split is empty or shares patients with another, or `width` is below 1.
        DrawError: a fraction outside (0, 1], or one that leaves no training recording.
        EmbedError: no such part, or the run can embed none of the recordings.
        WindowError: `window` is unknown, or MERL's, which only the legacy protocol uses.
    """
    # labels, splits and patients of the task's recordings
    crops.check_strict(window)
    split_parts(run, part)  # checked before anything is computed
    rows, left_out = usable(run, cohort, cohort.rows(task=task), window)
    probe_task = make_probe_task(cohort, task, rows)

    # embed each recording once; all fractions and draws use these features
    cache = run.cache_folder
    encoders = {"trained": run, **({"untrained": run.untrained()} if run.has_untrained else {})}
    features = {
        name: embed_cohort(encoder, cohort, part, rows, relabel(progress, f"embed, {name}"), cache, window)
        for name, encoder in encoders.items()
    }
    recordings, of_row = crops.crop_recordings(cohort, run.config.signal, rows, window)
    features["handcrafted"] = crops.average_crops(handcrafted_features(recordings, progress=progress), of_row)

    # fit and score every fraction and kind of features
    results: dict[float, dict[str, ProbeResult]] = {fraction: {} for fraction in fractions}
    for done, (fraction, name) in enumerate(((f, n) for f in fractions for n in features), start=1):
        results[fraction][name] = probe(features[name], probe_task, fraction, seeds, width)
        if progress is not None:
            progress("probe", done, len(fractions) * len(features))
    return ProbeReport.of(
        run, cohort, task, part, rows, probe_task, results, window=window, left_out=left_out, width=width
    )


def make_probe_task(cohort: Cohort, task: str, rows: NDArray[np.integer]) -> ProbeTask:
    """Read the labels, splits and patients of a cohort's rows for a task."""
    return ProbeTask(
        classes=tuple(cohort.tasks[task]),
        labels=cohort.labels(task, rows),
        split=cohort.splits(rows),
        patient=np.array(cohort.patients.take(rows)),
    )


def probe(
    features: NDArray[np.floating],
    task: ProbeTask,
    fraction: float,
    seeds: Sequence[int] = SEEDS,
    width: int | None = None,
) -> ProbeResult:
    """Fit logistic regressions on a fraction of the training recordings and score them on the test split.

    With fraction 1 there is nothing to draw, and only the first seed is used.

    Args:
        features: (N, D), in the order of the task's recordings.
        width: wider features are reduced to so many components, see `principal_axes`; default: no reduction.

    Raises:
        ProbeError: the number of features differs from the number of recordings, or `width` is below 1.
        DrawError: a fraction outside (0, 1], or so small that no recording is drawn.
    """
    if len(features) != len(task.labels):
        raise ProbeError(f"{len(features)} features for {len(task.labels)} recordings")
    train, val, test = (task.rows(split) for split in ("train", "val", "test"))
    basis = principal_axes(features[train], width)  # of the whole training split, at every fraction
    draws = []
    fitted = fit_draws(features[train], task.labels[train], features[val], task.labels[val], fraction, seeds, basis)
    for seed, positions, model in fitted:
        scores = model.scores(features[val]), model.scores(features[test])
        draws.append(DrawScores.of(task, train[positions], seed, *scores, model.val_macro, model.strength))
    widths = features.shape[1], features.shape[1] if basis is None else basis.shape[1]
    return result_of_draws(fraction, task, draws, widths)


def fit_draws(
    train: NDArray[np.floating],
    train_labels: NDArray[np.int8],
    val: NDArray[np.floating],
    val_labels: NDArray[np.int8],
    fraction: float,
    seeds: Sequence[int] = SEEDS,
    basis: Floats | None = None,
) -> Iterator[tuple[int, NDArray[np.int64], LogisticModel]]:
    """Iterate over the draws of a fraction of the training recordings: seed, drawn positions, and the fitted model.

    The strength of each model is chosen on validation. Fraction 1 is a single draw.

    Args:
        train, val: (n, D) features, not standardised; labels (n, K) in {0, 1}.
        basis: (D, N), see `logistic_regression.fit`.
    """
    for seed in seeds if fraction < 1 else seeds[:1]:
        drawn = subset(len(train), fraction, seed)
        yield seed, drawn, fit(train[drawn], train_labels[drawn], val, val_labels, basis)


def result_of_draws(
    fraction: float, task: ProbeTask, draws: Sequence[DrawScores], widths: tuple[int, int]
) -> ProbeResult:
    """Compute every measure from the scores of the draws.

    Args:
        widths: of the features, and of the components that the regressions use.
    """
    val, test = task.rows("val"), task.rows("test")
    labels, patients, classes = task.labels[test], task.patient[test], task.classes
    thresholds = [Thresholds.choose(task.labels[val], draw.val) for draw in draws]
    scores, probabilities = np.stack([draw.test for draw in draws]), np.stack([draw.probabilities for draw in draws])
    return ProbeResult(
        fraction,
        score=auroc_score(labels, scores, patients, classes),
        draws=tuple(
            Draw(
                seed=draw.seed,
                n_train=draw.n_train,
                strength=draw.strength,
                epoch=draw.epoch,
                val_macro=draw.val_macro,
                test_macro=float(np.nanmean(auroc(labels, draw.test))),
                unlearnable=tuple(name for name, fitted in zip(classes, draw.learnable) if not fitted),
                thresholds=_by_class(classes, chosen.f1[0]),
                f2_thresholds=_by_class(classes, chosen.f2[0]),
            )
            for draw, chosen in zip(draws, thresholds)
        ),
        measures=all_metrics.compute_metrics(
            labels, scores, patients, classes, Thresholds.of_repeats(thresholds), probabilities
        ),
        reliability=calibration.reliability(labels, probabilities[0], patients, classes),
        feature_width=widths[0],
        probe_width=widths[1],
        test_scores=scores,
    )


def _by_class(classes: Sequence[str], thresholds: Floats) -> dict[str, float | None]:
    """Return class -> threshold, None where it is nan."""
    return {name: None if np.isnan(at) else float(at) for name, at in zip(classes, thresholds)}
