"""Paired test over patients: whether one run scores higher than another on the same recordings.

Both runs are scored on the same resamplings of patients, so that the difficulty of the test set cancels. The interval contains
the middle 95 % of the resampled differences. The two-sided p-value is the smallest level at which such an interval excludes
zero: 2 x (resamplings on the rarer side of zero + 1) / (R + 1), at most 1. P-values of single classes are corrected by Holm's
step-down rule, so that the probability of any false claim among them stays at the level. Draws of the training labels are
averaged first: the test generalises to other patients, not to other draws.

A bootstrap is unreliable for a class with few patients: with equally good runs, p < 0.05 occurred in 18 % of simulated
comparisons with 3 positive patients, 13 % with 4, 9 % with 10 and 5 % with 20 or more. A class with fewer than ten positive
(or negative) patients is therefore not tested, and the result names it; its interval is reported, and is too narrow. If this
applies to every class, their mean is not tested either. A resampling in which every class has a single label value cannot be
used; the number of usable resamplings is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate import probe as probing
from leadwise.evaluate import zeroshot
from leadwise.evaluate.embed import Rows, embed_cohort, split_parts, training_overlap, usable
from leadwise.evaluate.metrics.auprc import weighted_average_precision
from leadwise.evaluate.metrics.auroc import weighted_auroc
from leadwise.evaluate.metrics.bootstrap import percentile_interval, resample_patients
from leadwise.evaluate.metrics.score import Floats, Interval
from leadwise.progress import Progress, relabel
from leadwise.run import Run

N_REPLICATES = 10_000  # enough for p-values that stay small after the correction for a few dozen classes
MIN_PATIENTS = 10  # positive, and negative, for a class to be tested
SCORERS = ("probe", "zeroshot")
WeightedMeasure = Callable[[ArrayLike, ArrayLike, ArrayLike], Floats]
"""labels (N, K), scores (N, K), weights (R, N) -> values (R, K)"""
MEASURES: dict[str, WeightedMeasure] = {"auroc": weighted_auroc, "auprc": weighted_average_precision}

_RESAMPLINGS_AT_ONCE = 1000  # limits the memory that large cohorts need


class CompareError(ValueError):
    """Two runs that cannot be compared; the message states the difference and the remedy."""


@dataclass(frozen=True)
class RunScores:
    """Scores of one run on N test recordings for K classes, in S repeats."""

    run: str
    classes: tuple[str, ...]
    records: tuple[str, ...]
    patients: NDArray[Any]  # (N,)
    labels: NDArray[np.int8]  # (N, K)
    scores: Floats  # (S, N, K)


@dataclass(frozen=True)
class Difference:
    """A measure of both runs and the difference a - b, with its paired interval and two-sided p-value."""

    a: float
    b: float
    interval: Interval
    p: float | None  # None: too few patients
    p_holm: float | None = None  # of a class: corrected for the number of classes
    positives: int | None = None  # of a class

    @property
    def difference(self) -> float:
        return self.a - self.b

    def to_json(self) -> dict[str, Any]:
        return {"difference": self.difference, **vars(self), "interval": list(self.interval)}


@dataclass(frozen=True)
class Comparison:
    """Comparison of run a with run b, macro and per class."""

    a: str
    b: str
    measure: str
    macro: Difference
    per_class: dict[str, Difference | None]  # None: the class has a single label value
    n_records: int
    n_patients: int
    n_replicates: int
    n_usable: int  # resamplings in which at least one class has both label values; the macro interval uses them
    settings: dict[str, Any]  # cohort, task, how and so on, as written to files

    @property
    def skipped(self) -> tuple[str, ...]:
        """Classes with a single label value."""
        return tuple(name for name, difference in self.per_class.items() if difference is None)

    @property
    def untested(self) -> tuple[str, ...]:
        """Classes with too few patients for a p-value, preceded by "macro" if that applies to all of them."""
        differences = [("macro", self.macro), *self.per_class.items()]
        return tuple(name for name, difference in differences if difference is not None and difference.p is None)

    def to_json(self) -> dict[str, Any]:
        return {
            "command": "compare",
            **self.settings,
            "a": self.a,
            "b": self.b,
            "measure": self.measure,
            "macro": self.macro.to_json(),
            "per_class": {
                name: None if difference is None else difference.to_json()
                for name, difference in self.per_class.items()
            },
            "skipped": list(self.skipped),
            "untested": list(self.untested),
            "n_records": self.n_records,
            "n_patients": self.n_patients,
            "n_replicates": self.n_replicates,
            "n_usable_replicates": self.n_usable,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the macro row of the table."""
        return [
            self._row("macro", self.macro) | {"skipped": ", ".join(self.skipped), "untested": ", ".join(self.untested)}
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """Return one row per class."""
        return [self._row(name, difference) for name, difference in self.per_class.items()]

    def long_rows(self) -> list[dict[str, Any]]:
        """Return the macro and class rows with the settings of the comparison, as written to CSV."""
        rows = [self._row("macro", self.macro), *self.class_rows()]
        settings = {key: value for key, value in self.settings.items() if isinstance(value, str | int | float)}
        settings |= {f"prompt_{key}": value for key, value in self.settings.get("prompts", {}).items()}
        first = {"command": "compare", **settings, "run_a": self.a, "run_b": self.b, "measure": self.measure}
        last = {"n_records": self.n_records, "n_patients": self.n_patients}
        last |= {f"pretraining_data_{side}": text for side, text in self.settings.get("pretraining_data", {}).items()}
        return [{**first, **row, **last} for row in rows]

    def _row(self, name: str, difference: Difference | None) -> dict[str, Any]:
        if difference is None:
            empty = ("positives", "a", "b", "difference", "low", "high", "p", "p_holm")
            return {"class": name, **dict.fromkeys(empty)}
        low, high = difference.interval
        return {
            "class": name,
            "positives": difference.positives,
            "a": difference.a,
            "b": difference.b,
            "difference": difference.difference,
            "low": low,
            "high": high,
            "p": difference.p,
            "p_holm": difference.p_holm,
        }


def run_compare(
    runs: tuple[Run, Run],
    cohort: Cohort,
    task: str,
    scorer: ProbeScorer | ZeroShotScorer,
    measure: str = "auroc",
    n_replicates: int = N_REPLICATES,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two runs on the test split of a task, both scored by the same probe or zero-shot settings.

    Raises:
        CompareError: the measure is unknown, or no class of the split has both label values.
        EmbedError, ProbeError, ZeroShotError, PromptError, WindowError: as in `run_probe` and `run_zeroshot`.
    """
    # the request, checked before anything is computed, and the recordings that both runs can embed
    crops.check_strict(scorer.window)
    if isinstance(scorer, ProbeScorer):
        for run in runs:
            split_parts(run, scorer.part)
    else:
        for run in runs:
            zeroshot.check_text_encoder(run)
    rows, left_out = cohort.rows(task=task), LeftOut()
    for run in runs:
        rows, of_run = usable(run, cohort, rows, scorer.window)
        left_out |= of_run

    # their scores by both runs
    a, b = (
        scorer(run, cohort, task, relabel(progress, f"embed, {side}"), rows)
        for run, side in zip(runs, ("first", "second"))
    )
    test = rows[np.isin(rows, cohort.rows("test", task))]
    overlaps = {side: training_overlap(run, cohort, test) for run, side in zip(runs, "ab")}
    settings = {
        "cohort": cohort.name,
        "task": task,
        **scorer.settings(cohort, task),
        "how": scorer.how,
        "fingerprints": {"cohort": cohort.fingerprint, "a": runs[0].fingerprint, "b": runs[1].fingerprint},
        "n_people_seen_in_pretraining": {side: overlap.n_patients for side, overlap in overlaps.items()},
        "n_signals_seen_in_pretraining": {side: overlap.n_signals for side, overlap in overlaps.items()},
        "pretraining_data": {side: run.pretraining_data for run, side in zip(runs, "ab")},
        "training_overlap": {side: overlap.sentence for side, overlap in overlaps.items()},
        **left_out.to_json(),
    }
    return compare(a, b, measure, n_replicates, settings=settings, progress=progress)


@dataclass(frozen=True)
class ProbeScorer:
    """Scores a run on the test split by the linear probe."""

    fraction: float = 1.0
    seeds: Sequence[int] = probing.SEEDS
    part: str = "backbone"
    window: str | None = None  # part of each recording that is embedded; None: the run's own setting
    how = "probe"

    def __call__(
        self, run: Run, cohort: Cohort, task: str, progress: Progress | None = None, rows: Rows | None = None
    ) -> RunScores:
        """Return the scores, computed from `rows` of the task; default: those that the run can embed."""
        if rows is None:
            rows, _ = usable(run, cohort, cohort.rows(task=task), self.window)
        probe_task = probing.make_probe_task(cohort, task, rows)
        features = embed_cohort(run, cohort, self.part, rows, progress, window=self.window)
        result = probing.probe(features, probe_task, self.fraction, self.seeds)
        return _run_scores(run, cohort, task, rows[probe_task.rows("test")], result.test_scores)

    def settings(self, cohort: Cohort, task: str) -> dict[str, Any]:
        """Return the settings written to results."""
        return dict(vars(self))


@dataclass(frozen=True)
class ZeroShotScorer:
    """Scores a run on the test split by zero-shot classification."""

    prompts_path: Path | None = None
    prompt_set: str | None = None  # default: that of `run_zeroshot`
    window: str | None = None
    how = "zeroshot"

    def __call__(
        self, run: Run, cohort: Cohort, task: str, progress: Progress | None = None, rows: Rows | None = None
    ) -> RunScores:
        """Return the scores of the test recordings among `rows` of the task; default: those that the run can embed."""
        loaded = zeroshot.load_prompts(cohort, task, self.prompts_path)
        test = cohort.rows("test", task)
        rows = usable(run, cohort, test, self.window)[0] if rows is None else test[np.isin(test, rows)]
        if not len(rows):
            raise CompareError(f"cohort {cohort.name}: no recording of task '{task}' in split 'test'")
        class_prompts = loaded.for_classes(tuple(cohort.tasks[task]), self.prompt_set or loaded.sets[-1])
        scores = zeroshot.zeroshot_scores(run, cohort, rows, class_prompts, progress, self.window)
        return _run_scores(run, cohort, task, rows, scores[None])

    def settings(self, cohort: Cohort, task: str) -> dict[str, Any]:
        """Return the settings written to results: window, and file, hash and set of the prompts."""
        loaded = zeroshot.load_prompts(cohort, task, self.prompts_path)
        return {"prompts": loaded.provenance(self.prompt_set), "window": self.window}


def _run_scores(run: Run, cohort: Cohort, task: str, rows: NDArray[np.integer], scores: Floats) -> RunScores:
    return RunScores(
        run=run.name,
        classes=tuple(cohort.tasks[task]),
        records=tuple(cohort.records.take(rows)),
        patients=np.array(cohort.patients.take(rows)),
        labels=cohort.labels(task, rows),
        scores=scores,
    )


def compare(
    a: RunScores,
    b: RunScores,
    measure: str = "auroc",
    n_replicates: int = N_REPLICATES,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Test whether run a scores higher than run b, on the same resamplings of patients.

    Raises:
        CompareError: records, classes, labels or patients differ; the measure is unknown; no class has both label values.
    """
    # the measure of both runs on all records
    _check_pair(a, b, measure)
    weighted_measure = MEASURES[measure]
    once = np.ones((1, len(a.records)))
    values_a, values_b = (_mean_over_repeats(weighted_measure, run, once)[0] for run in (a, b))
    if not np.isfinite(values_a).any():
        raise CompareError(f"none of {', '.join(a.classes)} has both label values among {len(a.records)} test records")

    # differences on the same resamplings, block by block
    blocks = []
    for block, start in enumerate(range(0, n_replicates, _RESAMPLINGS_AT_ONCE)):
        weights = resample_patients(a.patients, min(_RESAMPLINGS_AT_ONCE, n_replicates - start), seed + block)
        resampled_a, resampled_b = (_mean_over_repeats(weighted_measure, run, weights) for run in (a, b))
        blocks.append(resampled_a - resampled_b)
        if progress is not None:
            progress("resample patients", start + len(weights), n_replicates)
    gaps = np.concatenate(blocks)  # (R, K), nan where a class of a resampling has a single label value

    # the macro difference is tested if at least one class has enough patients
    usable = gaps[np.isfinite(gaps).any(axis=1)]
    defined = np.isfinite(values_a)
    interval, p = _interval_and_p(np.nanmean(usable, axis=1))
    enough = any(_n_rarer_patients(a, int(k)) >= MIN_PATIENTS for k in np.flatnonzero(defined))
    macro_a, macro_b = float(values_a[defined].mean()), float(values_b[defined].mean())
    return Comparison(
        a=a.run,
        b=b.run,
        measure=measure,
        macro=Difference(macro_a, macro_b, interval, p if enough else None),
        per_class=_class_differences(a, values_a, values_b, gaps),
        n_records=len(a.records),
        n_patients=len(np.unique(a.patients)),
        n_replicates=n_replicates,
        n_usable=len(usable),
        settings=settings or {},
    )


def _mean_over_repeats(measure: WeightedMeasure, run: RunScores, weights: NDArray[Any]) -> Floats:
    """Return a measure (R, K) under weights (R, N), averaged over a run's repeats."""
    return np.asarray(np.mean([measure(run.labels, scores, weights) for scores in run.scores], axis=0))


def _class_differences(
    run: RunScores, values_a: Floats, values_b: Floats, gaps: Floats
) -> dict[str, Difference | None]:
    """Return the difference of each class from the values (K,) and the resampled gaps (R, K).

    P-values are corrected over the classes that are tested.
    """
    defined = [k for k in range(len(run.classes)) if np.isfinite(values_a[k])]
    tests = {k: _interval_and_p(gaps[np.isfinite(gaps[:, k]), k]) for k in defined}
    tested = [k for k in defined if _n_rarer_patients(run, k) >= MIN_PATIENTS]
    corrected = dict(zip(tested, holm(np.array([tests[k][1] for k in tested])).tolist()))
    differences: dict[str, Difference | None] = dict.fromkeys(run.classes)
    for k, (interval, p) in tests.items():
        differences[run.classes[k]] = Difference(
            a=float(values_a[k]),
            b=float(values_b[k]),
            interval=interval,
            p=p if k in corrected else None,
            p_holm=corrected.get(k),
            positives=int(run.labels[:, k].sum()),
        )
    return differences


def _n_rarer_patients(run: RunScores, k: int) -> int:
    """Return the number of patients with a positive record of class k, or with a negative one, whichever is smaller."""
    positive = run.labels[:, k] > 0
    return min(len(np.unique(run.patients[positive])), len(np.unique(run.patients[~positive])))


def holm(p_values: Floats) -> Floats:
    """Return p-values (K,) corrected by Holm's step-down rule, in the given order."""
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * (len(p_values) - np.arange(len(p_values))))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(1.0, steps)
    return corrected


def _interval_and_p(gaps: Floats) -> tuple[Interval, float]:
    """Return the 95 % interval and the two-sided p-value of resampled differences (R,)."""
    rarer = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))
    return percentile_interval(gaps), min(1.0, 2 * (rarer + 1) / (len(gaps) + 1))


def _check_pair(a: RunScores, b: RunScores, measure: str) -> None:
    """Raise CompareError if the two runs are not scored on the same records, labels and classes."""
    if measure not in MEASURES:
        raise CompareError(f"measure '{measure}' is unknown; choose from {', '.join(MEASURES)}")
    if a.classes != b.classes:
        raise CompareError(
            f"{a.run} is scored on {', '.join(a.classes)} but {b.run} on {', '.join(b.classes)}: choose one task"
        )
    if a.records != b.records:
        only_a, only_b = set(a.records) - set(b.records), set(b.records) - set(a.records)
        first = min(only_a or only_b, default="the order")
        raise CompareError(
            f"{a.run} and {b.run} are not scored on the same records: {len(only_a)} only in the first, {len(only_b)} "
            f"only in the second (first: {first}); score both on one cohort, split and task"
        )
    if not (np.array_equal(a.labels, b.labels) and np.array_equal(a.patients, b.patients)):
        raise CompareError(
            f"{a.run} and {b.run} are scored on the same records with other labels or patients: prepare the cohort once"
        )
    for run in (a, b):
        if run.scores.ndim != 3 or run.scores.shape[1:] != run.labels.shape:
            raise CompareError(f"{run.run}: scores {run.scores.shape} do not fit labels {run.labels.shape}: (S, N, K)")
