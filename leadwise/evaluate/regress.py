"""Regression of numbers of a cohort, such as ventricular volumes or age, on frozen features, with controls and bounds.

A probe of numbers must be fitted on people outside pre-training: an encoder that was trained with the values, or with images
that show them, has memorised pairs of its own training, and the fit does not carry over. So the validation split is used if
the run was trained on this cohort's training split. The penalty is chosen by cross-validation over the patients of that
split. The test split is scored once: R², mean absolute error and Pearson's r, with 95 % intervals over patients.

Rows beside the trained encoder: the same encoder with random weights, hand-crafted features, heart rate alone, further runs
(compared on the same resamplings of patients), and facts of the patient such as age. A simulated cohort knows the largest R²
that any predictor from the ECG can have. A score that is more than `TOLERANCE` above it is reported as a leak.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate.embed import embed_cohort, scored_recordings, split_parts, training_overlap, usable
from leadwise.evaluate.handcrafted import HEART_RATE, handcrafted_features
from leadwise.evaluate.metrics.bootstrap import (
    N_REPLICATES,
    mean_of_defined,
    mean_of_drawn_repeats,
    percentile_interval,
    resample_patients,
)
from leadwise.evaluate.metrics.regression import MEASURES, weighted_measures
from leadwise.evaluate.metrics.score import Floats, Interval
from leadwise.evaluate.mlp_regression import predict_mlp
from leadwise.evaluate.ridge import fit_ridge
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.trained_on import TrainingOverlap

log = logging.getLogger(__name__)

MODELS = ("ridge", "mlp")
FIT_SPLITS = ("train", "val")
SEEDS = (0, 1, 2)  # of the network
TRAINED, UNTRAINED, HANDCRAFTED, RATE = "trained", "untrained", "handcrafted", "heart rate"
COVARIATES, WITH_COVARIATES = "covariates", "trained + covariates"
TOLERANCE = 0.05  # an R² further above its bound is a leak

_LEAST_FIT = 20  # recordings with a value
_MAX_CATEGORIES = 20  # distinct texts of a covariate
_OWN_COLUMNS = ("report_words", "rate_hz", "n_samples", "shard", "offset", "volume_shard", "volume_offset")
_OWN_PREFIXES = ("label.", "lead_", "n_short_", "n_long_")


class RegressError(ValueError):
    """A target that cannot be predicted; the message names the cohort, column or split and the remedy."""


@dataclass(frozen=True)
class IntervalEstimate:
    """A measure and its 95 % interval over patients."""

    value: float  # NaN where it is undefined
    interval: Interval

    def to_json(self) -> dict[str, Any]:
        numbers = [float(number) if np.isfinite(number) else None for number in (self.value, *self.interval)]
        return {"value": numbers[0], "interval": numbers[1:]}


@dataclass(frozen=True)
class RegressTask:
    """Numbers of N recordings for Q targets, and the recordings that probes are fitted and scored on."""

    targets: tuple[str, ...]
    values: Floats  # (N, Q), NaN where unknown
    patient: NDArray[Any]  # (N,)
    fit: NDArray[np.int64]  # positions of the recordings that a probe is fitted on
    test: NDArray[np.int64]  # positions of the recordings that are scored

    def __post_init__(self) -> None:
        shared = np.intersect1d(self.patient[self.fit], self.patient[self.test])
        if len(shared):
            raise RegressError(
                f"{len(shared)} patients are in the recordings to fit on and in the test split (first: {shared[0]}); split by "
                "patient"
            )
        for q, name in enumerate(self.targets):
            fitted, tested = (self.values[rows, q][np.isfinite(self.values[rows, q])] for rows in (self.fit, self.test))
            for what, values, least in (("fit on", fitted, _LEAST_FIT), ("test", tested, 2)):
                if len(values) < least or np.ptp(values) == 0:
                    raise RegressError(
                        f"target {name}: {len(values)} recordings to {what} have a value, with "
                        f"{len(np.unique(values))} distinct ones; {least} with different values are needed: choose another "
                        "target or split"
                    )


@dataclass(frozen=True)
class FeatureScores:
    """Scores of one kind of features on the test split, of Q targets."""

    name: str
    width: int
    targets: tuple[str, ...]
    mean_r2: IntervalEstimate  # over the targets
    scores: dict[str, dict[str, IntervalEstimate]]  # target -> measure -> estimate; means over repeats
    settings: dict[str, Any]  # of the fits: penalty or epochs of each target
    repeat_r2: tuple[float, ...]  # mean R² of each repeat
    predictions: Floats = field(repr=False, compare=False)  # (S, M, Q) one repeat per seed
    r2: Floats = field(repr=False, compare=False)  # (Q,)
    replicates: Floats = field(repr=False, compare=False)  # (R, Q) R² of each resampling

    def to_json(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "mean_r2": self.mean_r2.to_json(),
            "targets": {name: {m: one.to_json() for m, one in each.items()} for name, each in self.scores.items()},
            "repeat_r2": list(self.repeat_r2),
            **self.settings,
        }

    def on(self, targets: Sequence[str]) -> tuple[float, Floats]:
        """Return the mean R² over some of the targets, and the same of each resampling (R,)."""
        columns = [self.targets.index(name) for name in targets]
        return float(np.nanmean(self.r2[columns])), mean_of_defined(self.replicates[:, columns])


def difference(a: FeatureScores, b: FeatureScores, targets: Sequence[str] | None = None) -> IntervalEstimate:
    """Return the mean R² of a minus that of b over some targets (default: all), with its paired interval.

    Both must be scores of the same task.
    """
    names = a.targets if targets is None else targets
    (value_a, replicates_a), (value_b, replicates_b) = a.on(names), b.on(names)
    return IntervalEstimate(value_a - value_b, percentile_interval(replicates_a - replicates_b))


def score_predictions(
    name: str,
    predictions: Floats,
    task: RegressTask,
    width: int,
    settings: dict[str, Any] | None = None,
    draw_repeats: bool = False,
) -> FeatureScores:
    """Score predictions (S, M, Q) of the test recordings: means over S repeats, on the same resamplings of patients.

    With `draw_repeats`, each resampling also draws repeats with replacement: intervals are over patients and repeats.
    """
    truth, patients = task.values[task.test], task.patient[task.test]
    ones, weights = np.ones((1, len(truth))), resample_patients(patients, N_REPLICATES, 0)
    each = [weighted_measures(truth, one, ones) for one in predictions]
    resampled = [weighted_measures(truth, one, weights) for one in predictions]
    values = {measure: np.mean([one[measure][0] for one in each], axis=0) for measure in MEASURES}
    stacks = {measure: np.stack([one[measure] for one in resampled]) for measure in MEASURES}
    replicates: dict[str, Floats] = {
        measure: mean_of_drawn_repeats(stack) if draw_repeats else stack.mean(axis=0)
        for measure, stack in stacks.items()
    }
    return FeatureScores(
        name=name,
        width=width,
        targets=task.targets,
        mean_r2=IntervalEstimate(
            float(np.nanmean(values["r2"])), percentile_interval(mean_of_defined(replicates["r2"]))
        ),
        scores={
            target: {
                measure: IntervalEstimate(float(values[measure][q]), _interval(replicates[measure][:, q]))
                for measure in MEASURES
            }
            for q, target in enumerate(task.targets)
        },
        settings=settings or {},
        repeat_r2=tuple(float(np.nanmean(one["r2"])) for one in each),
        predictions=predictions,
        r2=values["r2"],
        replicates=replicates["r2"],
    )


def predict(
    features: NDArray[np.floating], task: RegressTask, model: str = "ridge", seeds: Sequence[int] = SEEDS
) -> tuple[Floats, dict[str, Any]]:
    """Fit a model on the recordings to fit on; return its predictions (S, M, Q) of the test recordings, and its settings.

    Args:
        features: (N, D), in the order of the task's recordings.
        seeds: of the network, one repeat each; the ridge has one repeat.

    Raises:
        RegressError: the model is unknown, or the number of features differs from the number of recordings.
    """
    if model not in MODELS:
        raise RegressError(f"no model {model!r}; choose from {', '.join(MODELS)}")
    if len(features) != len(task.values):
        raise RegressError(f"{len(features)} features for {len(task.values)} recordings")
    fitted, others = features[task.fit], features[task.test]
    values, patients = task.values[task.fit], task.patient[task.fit]
    if model == "ridge":
        ridge = fit_ridge(fitted, values, patients)
        return ridge.predict(others)[None], {"penalty": dict(zip(task.targets, ridge.penalties))}
    repeats = [predict_mlp(fitted, values, patients, others, seed) for seed in seeds]
    epochs = {name: [epochs[q] for _, epochs in repeats] for q, name in enumerate(task.targets)}
    return np.stack([predicted for predicted, _ in repeats]), {"epochs": epochs}


def regress(
    name: str,
    features: NDArray[np.floating],
    task: RegressTask,
    model: str = "ridge",
    seeds: Sequence[int] = SEEDS,
) -> FeatureScores:
    """Fit a model on features (N, D) and score it; see `predict` and `score_predictions`."""
    predictions, settings = predict(features, task, model, seeds)
    return score_predictions(name, predictions, task, features.shape[1], settings)


def above_bounds(scores: Sequence[FeatureScores], bounds: Mapping[str, float]) -> list[str]:
    """Return a sentence for each R² that is more than TOLERANCE above the largest possible one."""
    return [
        f"{each.name}: R² of {target} is {each.r2[q]:.3f}, and no predictor from the ECG has more than {bounds[target]:.3f}."
        for each in scores
        for q, target in enumerate(each.targets)
        if target in bounds and each.r2[q] > bounds[target] + TOLERANCE
    ]


# ------------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class RegressReport:
    """Scores of a run, its controls and further runs, on the test split of a cohort."""

    cohort: str
    run: str
    part: str
    model: str
    fit_split: str
    targets: tuple[str, ...]
    bounds: dict[str, float]  # target -> largest R² from the ECG, where it is known
    fingerprints: dict[str, str]
    overlap: TrainingOverlap  # of the test split with the training of the run: must be empty
    n_fit_seen: int  # people or signals of the recordings to fit on that the run was trained on
    n_recordings: dict[str, int]  # fit and test
    n_known: dict[str, int]  # target -> test recordings with a value
    spread: dict[str, float]  # target -> standard deviation on the test split, in its unit
    results: dict[str, FeatureScores]  # by features
    beside: tuple[str, ...] = ()  # the names in `results` that are further runs
    beside_overlap: dict[str, TrainingOverlap] = field(default_factory=dict)  # of the test split, by further run
    beside_fit_seen: dict[str, int] = field(default_factory=dict)  # as `n_fit_seen`, by further run
    window: str | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    truth: Floats = field(default_factory=lambda: np.empty((0, 0)), repr=False, compare=False)  # (M, Q)
    pretraining_data: str = "unknown"  # of the run: its data sets, "none" or "unknown"

    @property
    def above_bound(self) -> list[str]:
        """Sentences on scores from the ECG that are too high to be true; covariates may contain more than the ECG."""
        from_ecg = [one for name, one in self.results.items() if name not in (COVARIATES, WITH_COVARIATES)]
        return above_bounds(from_ecg, self.bounds)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the table must know."""
        lines = [f"LEAK? {sentence} Check what the features contain." for sentence in self.above_bound]
        for name, n_seen in {self.run: self.n_fit_seen, **self.beside_fit_seen}.items():
            if n_seen:
                lines.append(
                    f"{n_seen} of the people that the probes are fitted on were in the pre-training of {name}: its "
                    "scores may be too low, since what an encoder has memorised does not carry over"
                    + (" (--fit val avoids it)." if self.fit_split == "train" else ".")
                )
        leaks = [f"{name}: {one.sentence}" for name, one in self.beside_overlap.items() if one.is_leak]
        return [*lines, *filter(None, [self.left_out.line, self.overlap.remark, *leaks])]

    def gain(self, name: str, targets: Sequence[str] | None = None) -> IntervalEstimate:
        """Return the mean R² of the trained features minus that of other ones, with the paired interval."""
        return difference(self.results[TRAINED], self.results[name], targets)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table by features: mean R² over the targets, and the difference of the trained features to the others."""
        rows = []
        for name, result in self.results.items():
            low, high = result.mean_r2.interval
            line: dict[str, Any] = {"features": name, "feature width": result.width}
            line |= {"r2": result.mean_r2.value, "low": low, "high": high}
            if name != TRAINED:
                above = self.gain(name)
                text = f"{above.value:+.3f} ({above.interval[0]:+.3f} to {above.interval[1]:+.3f})"
            rows.append({**line, "trained - this": "" if name == TRAINED else text})
        return rows

    def class_rows(self) -> list[dict[str, Any]]:
        """Return the table by target: R² with interval, MAE and r of the trained features, the bound, R² of the others."""
        rows = []
        for q, target in enumerate(self.targets):
            trained = self.results[TRAINED].scores[target]
            low, high = trained["r2"].interval
            line: dict[str, Any] = {"target": target, "n": self.n_known[target], "SD": self.spread[target]}
            line |= {"r2": _number(trained["r2"].value), "low": low, "high": high}
            line |= {"mae": _number(trained["mae"].value), "r": _number(trained["r"].value)}
            if self.bounds:
                line["bound"] = self.bounds.get(target)
            others = [(name, result) for name, result in self.results.items() if name != TRAINED]
            rows.append({**line, **{name: _number(float(result.r2[q])) for name, result in others}})
        return rows

    def panels(self, n: int = 6) -> list[dict[str, Any]]:
        """Return the panels of `pictures.predicted` for the first n targets: means over the repeats."""
        predicted = self.results[TRAINED].predictions.mean(axis=0)
        return [
            {
                "name": f"{target} (SD {self.spread[target]:.3g})",
                "true": self.truth[:, q],
                "predicted": predicted[:, q],
                "note": f"R² {self.results[TRAINED].r2[q]:.2f}"
                + (f", bound {self.bounds[target]:.2f}" if target in self.bounds else ""),
            }
            for q, target in enumerate(self.targets[:n])
        ]

    def long_rows(self) -> list[dict[str, Any]]:
        """Return one row per features, target and measure, with its interval, as written to CSV."""
        about: dict[str, Any] = {"command": "regress", "cohort": self.cohort, "run": self.run, "window": self.window}
        about |= {"part": self.part, "model": self.model, "fit_split": self.fit_split}
        rows = []
        for name, result in self.results.items():
            settings = {**about, "features": name, "feature_width": result.width}
            cells: list[tuple[str, str, IntervalEstimate]] = [("mean", "r2", result.mean_r2)]
            cells += [(target, measure, one) for target, each in result.scores.items() for measure, one in each.items()]
            for target, measure, one in cells:
                numbers = dict(zip(("value", "low", "high"), map(_number, (one.value, *one.interval))))
                bound = self.bounds.get(target) if measure == "r2" else None
                rows.append({**settings, "target": target, "measure": measure, **numbers, "bound": bound})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        others = [name for name in self.results if name != TRAINED]
        differences = {
            name: {"mean": self.gain(name), **{target: self.gain(name, [target]) for target in self.targets}}
            for name in others
        }
        return {
            "command": "regress",
            "cohort": self.cohort,
            "run": self.run,
            "part": self.part,
            "window": self.window,
            "model": self.model,
            "fit_split": self.fit_split,
            "targets": list(self.targets),
            "bounds": dict(self.bounds),
            "fingerprints": dict(self.fingerprints),
            "pretraining_data": self.pretraining_data,
            **self.overlap.to_json(),
            "n_fit_seen_in_pretraining": self.n_fit_seen,
            **{f"n_{name}": n for name, n in self.n_recordings.items()},
            "n_known": dict(self.n_known),
            "spread": dict(self.spread),
            "results": {name: result.to_json() for name, result in self.results.items()},
            "trained_minus": {name: {t: one.to_json() for t, one in d.items()} for name, d in differences.items()},
            "beside": list(self.beside),
            "beside_seen_in_pretraining": {
                name: {**one.to_json(), "n_fit_seen_in_pretraining": self.beside_fit_seen[name]}
                for name, one in self.beside_overlap.items()
            },
            "above_bound": self.above_bound,
            **self.left_out.to_json(),
        }


def run_regress(
    run: Run,
    cohort: Cohort,
    targets: Sequence[str] | None = None,
    part: str = "backbone",
    fit: str | None = None,
    model: str = "ridge",
    beside: Sequence[Run] = (),
    covariates: Sequence[str] = (),
    window: str | None = None,
    seeds: Sequence[int] = SEEDS,
    progress: Progress | None = None,
) -> RegressReport:
    """Predict numbers of a cohort from a run's frozen features, from those of its controls, and of further runs.

    Args:
        targets: numeric columns of the index; default: the cohort's own targets.
        fit: split that probes are fitted on; default: val if one of the runs was trained on the cohort's training split, else
            train.
        beside: further runs, each a row; a run without `part` is scored on its backbone.
            As `run`, they may be encoders of other programs (`foreign.opening`).
        covariates: columns of the index, such as age and sex: a row of them alone, and one with the trained features.
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.

    Raises:
        RegressError: no such target, split or model, or too few recordings with a value.
        EmbedError: the run has no such part, or a run can embed none of the recordings.
    """
    # check the request, and choose the recordings
    crops.check_strict(window)
    names = check_targets(cohort, targets)
    if model not in MODELS:
        raise RegressError(f"no model {model!r}; choose from {', '.join(MODELS)}")
    _check_names(run, beside)
    for one in (run, *beside):
        if not one.method.embeds_ecg:
            raise RegressError(f'run {one.name} has no ECG encoder, as in stage = "cmr"; choose a run that embeds ECGs')
    split_parts(run, part)
    unknown = [name for name in covariates if name not in cohort.column_names]
    if unknown:
        raise RegressError(f"cohort {cohort.name} has no column {unknown[0]!r} to use as a covariate")
    both = [name for name in covariates if name in names]
    if both:
        raise RegressError(f"{both[0]} is a target and a covariate; leave it out of one of them")
    splits = {choose_fit_split(one, cohort) for one in (run, *beside)}
    split = fit or ("val" if "val" in splits else "train")
    rows, task, left_out = make_regress_task(cohort, names, split, [run, *beside], window)

    # features of the run, of its controls and of the other runs
    cache = run.cache_folder
    recordings, of_row = crops.crop_recordings(cohort, run.config.signal, rows, window)
    crafted = crops.average_crops(handcrafted_features(recordings, progress=progress), of_row)
    features: dict[str, NDArray[Any]] = {
        TRAINED: embed_cohort(run, cohort, part, rows, relabel(progress, "embed, trained"), cache, window),
    }
    if run.has_untrained:
        report = relabel(progress, "embed, untrained")
        features[UNTRAINED] = embed_cohort(run.untrained(), cohort, part, rows, report, cache, window)
    features |= {HANDCRAFTED: crafted, RATE: rate_features(crafted)}
    if covariates:
        facts = covariate_features(cohort, covariates, rows, task.fit)
        features[COVARIATES] = facts
        features[WITH_COVARIATES] = np.concatenate([features[TRAINED], facts], axis=1)
    for other in beside:
        its_part = part if all(one in other.method.parts for one in part.split("+")) else "backbone"
        report = relabel(progress, f"embed, {other.name}")
        features[other.name] = embed_cohort(other, cohort, its_part, rows, report, window=window)

    # fit and score
    results = {}
    for done, (name, values) in enumerate(features.items(), start=1):
        results[name] = regress(name, values, task, model, seeds)
        if progress is not None:
            progress("regress", done, len(features))
    truth = task.values[task.test]
    scored_fit = scored_recordings(cohort, rows[task.fit], split)
    result = RegressReport(
        cohort=cohort.name,
        run=run.name,
        part=part,
        model=model,
        fit_split=split,
        targets=names,
        bounds={name: bound for name, bound in cohort.bounds.items() if name in names},
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        overlap=training_overlap(run, cohort, rows[task.test]),
        n_fit_seen=run.overlap(scored_fit).n_leaked,
        n_recordings={"fit": len(task.fit), "test": len(task.test)},
        n_known={name: int(np.isfinite(truth[:, q]).sum()) for q, name in enumerate(names)},
        spread={name: float(np.nanstd(truth[:, q])) for q, name in enumerate(names)},
        results=results,
        beside=tuple(other.name for other in beside),
        beside_overlap={other.name: training_overlap(other, cohort, rows[task.test]) for other in beside},
        beside_fit_seen={other.name: other.overlap(scored_fit).n_leaked for other in beside},
        window=window,
        left_out=left_out,
        truth=truth,
        pretraining_data=run.pretraining_data,
    )
    for sentence in result.above_bound:
        log.warning("%s", sentence)
    return result


# -------------------------------------------------------------------------------------------------------- the inputs


def numeric_columns(cohort: Cohort) -> tuple[str, ...]:
    """Return the numeric columns of a cohort's index that describe a recording or a patient."""
    return tuple(
        column.name
        for column in pq.read_schema(cohort.index_file)
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        if column.name not in _OWN_COLUMNS and not column.name.startswith(_OWN_PREFIXES)
    )


def check_targets(cohort: Cohort, targets: Sequence[str] | None) -> tuple[str, ...]:
    """Return the targets to predict; default: the cohort's own.

    Raises:
        RegressError: there is none, one is named twice, or one is no numeric column.
    """
    known = numeric_columns(cohort)
    names = tuple(targets) if targets is not None else cohort.targets
    listed = ", ".join(known) or "none"
    if not names:
        raise RegressError(f"cohort {cohort.name} names no targets; name some of its numeric columns ({listed})")
    if len(set(names)) < len(names):
        raise RegressError(f"target {max(names, key=names.count)} is named twice; name it once")
    wrong = [name for name in names if name not in known]
    if wrong:
        raise RegressError(f"cohort {cohort.name}: no numeric column {wrong[0]!r}; it has {listed}")
    return names


def choose_fit_split(run: Run, cohort: Cohort) -> str:
    """Return the split to fit probes on: val if the run was, or may have been, trained on this cohort's training split."""
    overlap = run.overlap(scored_recordings(cohort, cohort.rows("train"), "train"))
    if overlap.is_leak:
        return "val"
    is_unknown = overlap.n_patients is None and not overlap.n_signals
    same_source = is_unknown and run.may_contain(cohort.source)
    return "val" if same_source and overlap.n_signals is None else "train"


def make_regress_task(
    cohort: Cohort, targets: Sequence[str], fit: str, runs: Sequence[Run], window: str | None = None
) -> tuple[NDArray[np.int64], RegressTask, LeftOut]:
    """Return the rows of the split to fit on and of the test split that all runs can embed and that have a value, and the task.

    Raises:
        RegressError: `fit` is no split, or there are too few values.
    """
    if fit not in FIT_SPLITS:
        raise RegressError(f"probes cannot be fitted on split {fit!r}; choose from {', '.join(FIT_SPLITS)}")
    rows = np.sort(np.concatenate([cohort.rows(fit), cohort.rows("test")]))
    values = target_values(cohort, targets, rows)
    rows = rows[np.isfinite(values).any(axis=1)]
    left_out = LeftOut()
    for run in runs:
        rows, of_run = usable(run, cohort, rows, window)
        left_out |= of_run
    split = cohort.splits(rows)
    task = RegressTask(
        tuple(targets),
        target_values(cohort, targets, rows),
        np.array(cohort.patients.take(rows)),
        np.flatnonzero(split == fit),
        np.flatnonzero(split == "test"),
    )
    return rows, task, left_out


def target_values(cohort: Cohort, targets: Sequence[str], rows: NDArray[np.int64]) -> Floats:
    """Return the values (n, Q) of numeric columns, NaN where there is none."""
    columns = [cohort.column(name, rows).to_numpy(dtype=np.float64, na_value=np.nan) for name in targets]
    values = np.stack(columns, axis=1)
    return np.asarray(np.where(np.isfinite(values), values, np.nan))


def rate_features(crafted: NDArray[np.floating]) -> Floats:
    """Return heart rate, its inverse and its logarithm (N, 3), from hand-crafted features."""
    rate = np.asarray(crafted[:, HEART_RATE], dtype=np.float64)
    return np.stack([rate, 60 / rate, np.log(rate)], axis=1)


def covariate_features(cohort: Cohort, names: Sequence[str], rows: NDArray[np.int64], fit: NDArray[np.int64]) -> Floats:
    """Return covariates as features (N, C): a number, with the mean where there is none; a text as 0 or 1 per value.

    Args:
        fit: positions of the recordings whose mean and values are used.

    Raises:
        RegressError: a text column has more than `_MAX_CATEGORIES` values.
    """
    columns: list[Floats] = []
    numeric = numeric_columns(cohort)
    for name in names:
        series = cohort.column(name, rows)
        if name in numeric:
            values = series.to_numpy(dtype=np.float64, na_value=np.nan)
            missing = ~np.isfinite(values)
            known = values[fit][~missing[fit]]
            columns += [np.where(missing, known.mean() if len(known) else 0.0, values)]
            columns += [missing.astype(np.float64)] if missing.any() else []
            continue
        texts = series.fillna("").astype(str).to_numpy()
        categories = np.unique(texts[fit])
        if len(categories) > _MAX_CATEGORIES:
            raise RegressError(
                f"covariate {name} has {len(categories)} different texts, more than {_MAX_CATEGORIES}; choose a number or a "
                "column with fewer"
            )
        columns += [(texts == category).astype(np.float64) for category in categories]
    return np.stack(columns, axis=1)


def _check_names(run: Run, beside: Sequence[Run]) -> None:
    names = [TRAINED, UNTRAINED, HANDCRAFTED, RATE, COVARIATES, WITH_COVARIATES, *(other.name for other in beside)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RegressError(
            f"two rows are named {twice[0]}; rename the folder or the file of one of the encoders beside {run.name}"
        )


def _interval(replicates: Floats) -> Interval:
    return percentile_interval(replicates) if np.isfinite(replicates).any() else (float("nan"), float("nan"))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
