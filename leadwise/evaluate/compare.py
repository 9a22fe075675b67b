"""Whether one run scores higher than another on the same records: a paired test over patients.

Both runs' scores are counted on the same resamplings of patients, so that what makes a test set easy or hard cancels.
The interval holds the middle 95 % of the resampled differences. The two-sided p-value is the smallest level at which such
an interval leaves out zero: 2 x (the rarer side of zero + 1) / (R + 1), at most 1. P-values of single classes are
corrected by Holm's step-down rule, so that the chance of any false claim among them stays at the level. Draws of the
training labels are averaged first: the test tells of other patients, not of other draws.

A bootstrap knows too little of a class with few patients: with equally good runs, p < 0.05 came in 18 % of simulated
comparisons with 3 positive patients, 13 % with 4, 9 % with 10 and 5 % with 20 or more. A class with fewer than ten
positive (or negative) patients is therefore not tested, and named; its interval is shown, and is too narrow. Where that is
so of every class, neither is their mean. A resampling that leaves every class one label value cannot be used: how many
could is told.
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
from leadwise.evaluate import probe as probing
from leadwise.evaluate import prompts, zeroshot
from leadwise.evaluate.embed import count_training_patients, embed_cohort
from leadwise.evaluate.metrics.auprc import weighted_average_precision
from leadwise.evaluate.metrics.auroc import weighted_auroc
from leadwise.evaluate.metrics.bootstrap import percentile_interval, resample_patients
from leadwise.evaluate.metrics.score import Floats, Interval
from leadwise.progress import Progress, relabel
from leadwise.run import Run

N_REPLICATES = 10_000  # p-values of a few dozen classes must be able to survive their correction
MIN_PATIENTS = 10  # with the finding, and without it, for a class to be tested
SCORERS = ("probe", "zeroshot")
WeightedMeasure = Callable[
    [ArrayLike, ArrayLike, ArrayLike], Floats
]  # labels (N, K), scores (N, K), weights (R, N) -> (R, K)
MEASURES: dict[str, WeightedMeasure] = {"auroc": weighted_auroc, "auprc": weighted_average_precision}

_AT_ONCE = 1000  # resamplings, so that large cohorts do not fill the memory


class CompareError(ValueError):
    """Two runs that cannot be compared; the message says what differs and the remedy."""


@dataclass(frozen=True)
class RunScores:
    """What one run said of N test records, K classes, in S repeats."""

    run: str
    classes: tuple[str, ...]
    records: tuple[str, ...]
    patients: NDArray[Any]  # (N,)
    labels: NDArray[np.int8]  # (N, K)
    scores: Floats  # (S, N, K)


@dataclass(frozen=True)
class Difference:
    """A measure of both runs and a - b, with its paired interval and two-sided p-value."""

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
    """Run a against run b, macro and per class."""

    a: str
    b: str
    measure: str
    macro: Difference
    per_class: dict[str, Difference | None]  # None where one label value only
    n_records: int
    n_patients: int
    n_replicates: int
    n_usable: int  # of these resamplings, those with both label values of some class: the macro interval's
    settings: dict[str, Any]  # cohort, task, how and so on, as told in files

    @property
    def skipped(self) -> tuple[str, ...]:
        """Classes with one label value only."""
        return tuple(name for name, found in self.per_class.items() if found is None)

    @property
    def untested(self) -> tuple[str, ...]:
        """Classes with too few patients for a p-value; "macro" before them where that is so of all."""
        each = [("macro", self.macro), *self.per_class.items()]
        return tuple(name for name, found in each if found is not None and found.p is None)

    def to_json(self) -> dict[str, Any]:
        return {
            "command": "compare",
            **self.settings,
            "a": self.a,
            "b": self.b,
            "measure": self.measure,
            "macro": self.macro.to_json(),
            "per_class": {name: None if found is None else found.to_json() for name, found in self.per_class.items()},
            "skipped": list(self.skipped),
            "untested": list(self.untested),
            "n_records": self.n_records,
            "n_patients": self.n_patients,
            "n_replicates": self.n_replicates,
            "n_usable_replicates": self.n_usable,
        }

    def rows(self) -> list[dict[str, Any]]:
        """The macro line of the table."""
        return [
            self._line("macro", self.macro) | {"skipped": ", ".join(self.skipped), "untested": ", ".join(self.untested)}
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """A line for each class."""
        return [self._line(name, found) for name, found in self.per_class.items()]

    def long_rows(self) -> list[dict[str, Any]]:
        """Macro and classes, with what was compared: for other programs to read."""
        lines = [self._line("macro", self.macro), *self.class_rows()]
        about = {key: value for key, value in self.settings.items() if isinstance(value, str | int | float)}
        about |= {f"prompt_{key}": value for key, value in self.settings.get("prompts", {}).items()}
        told = {"command": "compare", **about, "run_a": self.a, "run_b": self.b, "measure": self.measure}
        return [{**told, **line, "n_records": self.n_records, "n_patients": self.n_patients} for line in lines]

    def _line(self, name: str, found: Difference | None) -> dict[str, Any]:
        if found is None:
            empty = ("positives", "a", "b", "difference", "low", "high", "p", "p_holm")
            return {"class": name, **dict.fromkeys(empty)}
        low, high = found.interval
        line = {"class": name, "positives": found.positives, "a": found.a, "b": found.b}
        return line | {"difference": found.difference, "low": low, "high": high, "p": found.p, "p_holm": found.p_holm}


def run_compare(
    runs: tuple[Run, Run],
    cohort: Cohort,
    task: str,
    scored_by: ProbeScorer | ZeroShotScorer,
    measure: str = "auroc",
    n_replicates: int = N_REPLICATES,
    progress: Progress | None = None,
) -> Comparison:
    """The first run against the second on the test split of a task, both probed or both zero-shot in the same way.

    Raises:
        CompareError: the measure is unknown, or the split holds no class with both label values.
        ProbeError, ZeroShotError, PromptError, WindowError: as the verbs of that name.
    """
    crops.check_strict(scored_by.window)
    a, b = (
        scored_by(run, cohort, task, relabel(progress, f"embed, {side}"))
        for run, side in zip(runs, ("first", "second"))
    )
    rows = cohort.rows("test", task)
    settings = {
        "cohort": cohort.name,
        "task": task,
        **scored_by.settings(cohort, task),
        "how": scored_by.how,
        "fingerprints": {"cohort": cohort.fingerprint, "a": runs[0].fingerprint, "b": runs[1].fingerprint},
        "n_people_seen_in_pretraining": {
            side: count_training_patients(run, cohort, rows) for side, run in zip("ab", runs)
        },
    }
    return compare(a, b, measure, n_replicates, settings=settings, progress=progress)


@dataclass(frozen=True)
class ProbeScorer:
    """Test scores by the linear probe."""

    fraction: float = 1.0
    seeds: Sequence[int] = probing.SEEDS
    part: str = "backbone"
    window: str | None = None  # which part of each recording is seen
    how = "probe"

    def __call__(self, run: Run, cohort: Cohort, task: str, progress: Progress | None = None) -> RunScores:
        rows = cohort.rows(task=task)
        asked = probing.make_probe_task(cohort, task, rows)
        features = embed_cohort(run, cohort, self.part, rows, progress, window=self.window)
        result = probing.probe(features, asked, self.fraction, self.seeds)
        return _run_scores(run, cohort, task, rows[asked.rows("test")], result.test_scores)

    def settings(self, cohort: Cohort, task: str) -> dict[str, Any]:
        """What a result says of it."""
        return dict(vars(self))


@dataclass(frozen=True)
class ZeroShotScorer:
    """Test scores by prompts alone."""

    prompts_path: Path | None = None
    prompt_set: str | None = None  # default: the one that `run_zeroshot` takes
    window: str | None = None
    how = "zeroshot"

    def __call__(self, run: Run, cohort: Cohort, task: str, progress: Progress | None = None) -> RunScores:
        loaded = zeroshot.load_prompts(cohort, task, self.prompts_path)
        rows = cohort.rows("test", task)
        if not len(rows):
            raise CompareError(f"cohort {cohort.name}: no recording of task '{task}' in split 'test'")
        of_class = loaded.for_classes(tuple(cohort.tasks[task]), self.prompt_set or loaded.sets[-1])
        scores = zeroshot.zeroshot_scores(run, cohort, rows, of_class, progress, self.window)
        return _run_scores(run, cohort, task, rows, scores[None])

    def settings(self, cohort: Cohort, task: str) -> dict[str, Any]:
        """What a result says of it: the prompts by file, hash and set."""
        loaded = prompts.load(self.prompts_path or prompts.find(cohort.source, task))
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
    """The paired test of a against b.

    Raises:
        CompareError: not the same records, classes, labels or patients; an unknown measure; nothing to compare.
    """
    _check_pair(a, b, measure)
    counted = MEASURES[measure]
    once = np.ones((1, len(a.records)))
    of_a, of_b = (_mean_over_repeats(counted, s, once)[0] for s in (a, b))
    if not np.isfinite(of_a).any():
        raise CompareError(f"none of {', '.join(a.classes)} has both label values among {len(a.records)} test records")
    pieces = []
    for piece, start in enumerate(range(0, n_replicates, _AT_ONCE)):
        weights = resample_patients(a.patients, min(_AT_ONCE, n_replicates - start), seed + piece)
        pieces.append(_mean_over_repeats(counted, a, weights) - _mean_over_repeats(counted, b, weights))
        if progress is not None:
            progress("resample patients", start + len(weights), n_replicates)
    gaps = np.concatenate(pieces)  # (R, K), nan where a resampling left a class with one label value
    usable = gaps[np.isfinite(gaps).any(axis=1)]
    defined = np.isfinite(of_a)
    between, p = _interval_and_p(np.nanmean(usable, axis=1))
    enough = any(_n_rarer_patients(a, int(k)) >= MIN_PATIENTS for k in np.flatnonzero(defined))
    macro = Difference(float(of_a[defined].mean()), float(of_b[defined].mean()), between, p if enough else None)
    return Comparison(
        a=a.run,
        b=b.run,
        measure=measure,
        macro=macro,
        per_class=_each_class(a, of_a, of_b, gaps),
        n_records=len(a.records),
        n_patients=len(np.unique(a.patients)),
        n_replicates=n_replicates,
        n_usable=len(usable),
        settings=settings or {},
    )


def _mean_over_repeats(counted: WeightedMeasure, scored: RunScores, weights: NDArray[Any]) -> Floats:
    """(R, K) of a measure under weights (R, N), the mean over a run's repeats."""
    return np.asarray(np.mean([counted(scored.labels, values, weights) for values in scored.scores], axis=0))


def _each_class(scored: RunScores, of_a: Floats, of_b: Floats, gaps: Floats) -> dict[str, Difference | None]:
    """Each class's difference from the values (K,) and resampled gaps (R, K), p-values corrected over those tested."""
    defined = [k for k in range(len(scored.classes)) if np.isfinite(of_a[k])]
    tests = {k: _interval_and_p(gaps[np.isfinite(gaps[:, k]), k]) for k in defined}
    tested = [k for k in defined if _n_rarer_patients(scored, k) >= MIN_PATIENTS]
    corrected = dict(zip(tested, holm(np.array([tests[k][1] for k in tested])).tolist()))
    found: dict[str, Difference | None] = dict.fromkeys(scored.classes)
    for k, (between, p) in tests.items():
        found[scored.classes[k]] = Difference(
            a=float(of_a[k]),
            b=float(of_b[k]),
            interval=between,
            p=p if k in corrected else None,
            p_holm=corrected.get(k),
            positives=int(scored.labels[:, k].sum()),
        )
    return found


def _n_rarer_patients(scored: RunScores, k: int) -> int:
    """How many patients have a positive record of class k, or a negative one, whichever is rarer."""
    positive = scored.labels[:, k] > 0
    return min(len(np.unique(scored.patients[positive])), len(np.unique(scored.patients[~positive])))


def holm(p_values: Floats) -> Floats:
    """(K,) p-values corrected by Holm's step-down rule, in the order given."""
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * (len(p_values) - np.arange(len(p_values))))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(1.0, steps)
    return corrected


def _interval_and_p(gaps: Floats) -> tuple[Interval, float]:
    """The interval and the two-sided p-value of resampled differences (R,)."""
    rarer = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))
    return percentile_interval(gaps), min(1.0, 2 * (rarer + 1) / (len(gaps) + 1))


def _check_pair(a: RunScores, b: RunScores, measure: str) -> None:
    if measure not in MEASURES:
        raise CompareError(f"measure '{measure}' is none of {', '.join(MEASURES)}")
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
    for s in (a, b):
        if s.scores.ndim != 3 or s.scores.shape[1:] != s.labels.shape:
            raise CompareError(f"{s.run}: scores {s.scores.shape} do not fit labels {s.labels.shape}: (S, N, K)")
