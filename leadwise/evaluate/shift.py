"""Distribution shift: scores of a probe on the ECGs of another data set, and on changed ECGs of its own.

Data sets: a probe of the findings that two label sets have in common (`shift_labels`) is fitted on one data set and scored on
the test split of the other, beside a probe that is fitted on the other data set itself. The difference between the two, on the
same recordings, is what the shift costs. Untrained encoder and hand-crafted features are the references, as in a probe.

Changes: a probe of one task is fitted on ECGs as they are, and scored on test ECGs with fewer leads, another rate or noise.

Thresholds of F1 come from the validation split of the data that a probe was fitted on. Differences are paired: the same
patients are resampled for both scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.batch import LEADS, Signal
from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.card.robustness import (
    Change,
    ChangedRecordings,
    add_baseline_wander,
    add_muscle_noise,
    complete_rows,
    keep_leads,
    resample_through,
)
from leadwise.evaluate.embed import EmbedError, embed, embed_cohort, split_parts, training_overlap, usable
from leadwise.evaluate.handcrafted import handcrafted_features
from leadwise.evaluate.metrics import all_metrics
from leadwise.evaluate.metrics.bootstrap import gain
from leadwise.evaluate.metrics.score import Interval, Score
from leadwise.evaluate.probe import (
    SEEDS,
    DrawScores,
    ProbeResult,
    ProbeTask,
    fit_draws,
    make_probe_task,
    probe,
    result_of_draws,
)
from leadwise.evaluate.shift_labels import CommonFindings, LabelMap, ShiftError, joined_labels
from leadwise.pictures import bars
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.trained_on import TrainingOverlap

HANDCRAFTED = "handcrafted"
NOISE_DB = (12, 6, 0)
METRICS = ("f1_val", "f1_max")


@dataclass(frozen=True)
class Drop:
    """A score under a shift beside the score without it, on the same recordings."""

    clean: ProbeResult | None  # None: the other data set has no recordings to fit a probe on
    shifted: ProbeResult | None  # None: an embedding was not finite

    def score(self, metric: str, of: str) -> Score | None:
        """Return the Score of `auroc` or another metric, of the `clean` or the `shifted` result; None where undefined."""
        result = self.clean if of == "clean" else self.shifted
        if result is None:
            return None
        return result.score if metric == "auroc" else result.measures.get(metric)

    def change(self, metric: str) -> tuple[float, Interval] | None:
        """Return shifted minus clean with its paired 95 % interval; None where one of them is undefined.

        None also where they are means over different findings: F1 needs a threshold from the data that a probe was fitted on.
        """
        clean, shifted = self.score(metric, "clean"), self.score(metric, "shifted")
        if clean is None or shifted is None or set(clean.skipped) != set(shifted.skipped):
            return None
        return gain(shifted, clean)

    def row(self) -> dict[str, Any]:
        """Return the columns of a table row."""
        row: dict[str, Any] = {}
        for metric in ("auroc", *METRICS):
            clean, shifted, change = self.score(metric, "clean"), self.score(metric, "shifted"), self.change(metric)
            row |= {f"{metric} clean": clean and clean.macro, metric: shifted and shifted.macro}
            row |= {f"{metric} change": change and change[0]}
            row |= {f"{metric} low": change and change[1][0], f"{metric} high": change and change[1][1]}
        row["spread"] = None if self.shifted is None else self.shifted.spread
        return row


@dataclass(frozen=True)
class DataShift:
    """One pair of data sets."""

    train: str  # name of the cohort and its task
    test: str
    findings: CommonFindings
    n_test: int
    overlap: TrainingOverlap  # of the test recordings with the training of the run
    n_same_names: int  # patients of the test recordings whose names the fitted recordings of the same source have too
    drops: dict[str, dict[float, Drop]]  # features -> fraction -> drop; clean: fitted on the test data set itself

    def to_json(self) -> dict[str, Any]:
        return {
            "train": self.train,
            "test": self.test,
            "level": self.findings.level,
            "findings": {name: [list(self.findings.train[name]), list(self.findings.test[name])] for name in self.findings.names},
            "unmapped_train": list(self.findings.unmapped_train),
            "unmapped_test": list(self.findings.unmapped_test),
            "n_test": self.n_test,
            "n_same_patient_names": self.n_same_names,
            **self.overlap.to_json(),
        }  # fmt: skip


@dataclass(frozen=True)
class ShiftReport:
    """Shifts of one run."""

    run: str
    cohort: str
    task: str
    part: str
    fingerprints: dict[str, str]
    data: list[DataShift]
    changes: list[tuple[Change, dict[float, Drop]]]  # fraction -> drop
    n_changed: int  # test recordings of the changes: those with two seconds of every recorded lead
    pretraining_data: str  # the data sets that the encoder was trained on, "none" or "unknown"

    def rows(self) -> list[dict[str, Any]]:
        """Return a table row for each shift, features and fraction; scores in [0, 1]."""
        rows = []
        for pair in self.data:
            about = {"kind": "data", "shift": f"{pair.train} to {pair.test}", "findings": len(pair.findings.names)}
            for features, by_fraction in pair.drops.items():
                for fraction, drop in by_fraction.items():
                    rows.append({**about, "features": features, "fraction": fraction, "n": pair.n_test, **drop.row()})
        for change, by_fraction in self.changes:
            about = {"kind": change.kind, "shift": change.name, "findings": None, "features": "trained"}
            for fraction, drop in by_fraction.items():
                rows.append({**about, "fraction": fraction, "n": self.n_changed, **drop.row()})
        return rows

    def short_rows(self) -> list[dict[str, Any]]:
        """Return the table with fewer columns: scores under the shift, and their changes with intervals as text."""

        def text(row: dict[str, Any], metric: str) -> str:
            if row[f"{metric} change"] is None:
                return ""
            low, high = row[f"{metric} low"], row[f"{metric} high"]
            return f"{row[f'{metric} change']:+.3f} ({low:+.3f} to {high:+.3f})"

        columns = ("shift", "features", "fraction", "n")
        return [
            {key: row[key] for key in columns}
            | {"auroc": row["auroc"], "change": text(row, "auroc")}
            | {"f1_val": row["f1_val"], "change of f1_val": text(row, "f1_val"), "f1_max": row["f1_max"]}
            for row in self.rows()
        ]

    def to_json(self) -> dict[str, Any]:
        about = {"command": "shift", "run": self.run, "cohort": self.cohort, "task": self.task, "part": self.part}
        return {
            **about,
            "fingerprints": dict(self.fingerprints),
            "pretraining_data": self.pretraining_data,
            "pairs": [pair.to_json() for pair in self.data],
            "rows": self.rows(),
        }

    def figure(self) -> Figure:
        """Return a picture of the change of AUROC by shift: one row for each shift, one colour for features and fraction."""
        return draw_changes(self.rows(), f"{self.run}: AUROC under a shift minus AUROC without it")


def draw_changes(rows: Iterable[dict[str, Any]], title: str) -> Figure:
    """Return a picture of the changes of AUROC in rows of `ShiftReport.rows`."""
    dots = [
        {
            "name": row["shift"],
            "group": f"{row['features']}, {row['fraction']:.0%} of the labels",
            "value": row["auroc change"],
            "low": row["auroc low"],
            "high": row["auroc high"],
        }
        for row in rows
    ]
    return bars.draw(dots, title, baseline=0.0, unit="change of AUROC")


def run_shift(
    run: Run,
    train: Cohort,
    task: str,
    tests: Sequence[Cohort] = (),
    fractions: Sequence[float] = (1.0,),
    seeds: Sequence[int] = SEEDS,
    part: str = "backbone",
    label_map: LabelMap | None = None,
    changes: bool = True,
    n_records: int | None = None,
    progress: Progress | None = None,
) -> ShiftReport:
    """Measure a run under shifts: data sets `tests` that it is not fitted on, and changed ECGs of `train`.

    Args:
        task: of `train`; the probe is fitted on its train split.
        changes: also score changed ECGs of the test split of `train`.
        n_records: most test recordings that are changed, drawn at random; None: all.
        seeds: of the draws of each fraction below 1.

    Raises:
        ShiftError: no finding is in common, a data set has no test recording, or neither tests nor changes are given.
        ProbeError: a split is empty or shares patients with another.
        EmbedError: no such part.
    """
    if not tests and not changes:
        raise ShiftError("nothing to measure: give a cohort to test on, or the changes")
    if changes and run.stored is not None:
        raise ShiftError(
            f"{run.name} is an {run.origin}: without its encoder, changed ECGs cannot be embedded; give a cohort to test on "
            "(--test) and leave out the changes, or give the encoder (docs/own-encoder.md)"
        )
    split_parts(run, part)  # checked before anything is computed
    chosen = label_map or LabelMap.load()
    of_tests = [
        (test, *tested_task(train, task, test, chosen)) for test in tests
    ]  # checked before anything is computed
    data = [
        _data_shift(run, train, task, test, test_task, common, fractions, seeds, part, progress)
        for test, test_task, common in of_tests
    ]
    changed, n_changed = _changed(run, train, task, fractions, seeds, part, n_records, progress) if changes else ([], 0)
    fingerprints = {"cohort": train.fingerprint, "run": run.fingerprint}
    return ShiftReport(run.name, train.name, task, part, fingerprints, data, changed, n_changed, run.pretraining_data)


def tested_task(train: Cohort, task: str, test: Cohort, label_map: LabelMap) -> tuple[str, CommonFindings]:
    """Return the task of `test` that a probe of `task` is scored on, and the findings in common.

    Raises:
        ShiftError: no finding is in common, or `test` has no test recording of the task.
    """
    test_task, common = label_map.best_task(train, task, test)
    if not len(test.rows("test", task=test_task)):
        raise ShiftError(
            f"cohort {test.name} has no recording of task {test_task} in split 'test'; prepare it with one, or omit it"
        )
    return test_task, common


def shift_changes(signal: Signal, recorded: Sequence[str]) -> list[Change]:
    """Return the changes of ECGs that are scored: fewer leads, 100 Hz (unless the signal has it), wander and muscle noise."""
    subsets = {"limb leads only": LEADS[:6], "lead I only": ("I",)}
    changes = [
        Change("leads", name, partial(keep_leads, leads=leads, signal=signal))
        for name, leads in subsets.items()
        if set(leads) & set(recorded) and not set(recorded) <= set(leads)
    ]
    if signal.rate_hz != 100:
        changes.append(Change("rate", "100 Hz and back", partial(resample_through, rate_hz=100, signal=signal)))
    for what, add in (("baseline wander", add_baseline_wander), ("muscle noise", add_muscle_noise)):
        changes += [Change("noise", f"{what}, {db} dB", partial(add, snr_db=db, signal=signal)) for db in NOISE_DB]
    return changes


# ------------------------------------------------------------------------------------------------------- data sets


def _data_shift(
    run: Run,
    train: Cohort,
    task: str,
    test: Cohort,
    test_task: str,
    common: CommonFindings,
    fractions: Sequence[float],
    seeds: Sequence[int],
    part: str,
    progress: Progress | None,
) -> DataShift:
    # the rows of both, and their joined labels
    train_rows = usable(run, train, train.rows(task=task))[0]
    test_rows = usable(run, test, test.rows(task=test_task))[0]
    labels = np.concatenate(
        [
            joined_labels(train, task, train_rows, common.train),
            joined_labels(test, test_task, test_rows, common.test),
        ]
    )
    train_patients, test_patients = train.patients.take(train_rows), test.patients.take(test_rows)
    patients = np.array([f"train/{one}" for one in train_patients] + [f"test/{one}" for one in test_patients])
    train_split, test_split = train.splits(train_rows), test.splits(test_rows)
    fitted = {one for one, split in zip(train_patients, train_split) if split != "test"}
    same = fitted & {one for one, split in zip(test_patients, test_split) if split == "test"}

    # as one task: fitted on the one or the other, scored on the test split of the other
    def probe_task(fitted_on: NDArray[Any], others: NDArray[Any]) -> tuple[ProbeTask, NDArray[np.int64]]:
        split = np.concatenate([fitted_on, others])
        used = np.flatnonzero(split != "")
        return ProbeTask(common.names, labels[used], split[used], patients[used]), used

    shifted_task, shifted_rows = probe_task(
        np.where(train_split == "test", "", train_split), np.where(test_split == "test", "test", "")
    )
    clean_task, clean_rows = None, np.arange(0)
    if {"train", "val"} <= set(test_split.tolist()):
        clean_task, clean_rows = probe_task(np.full(len(train_rows), ""), test_split)

    # embed each recording once, then fit and score both
    drops: dict[str, dict[float, Drop]] = {}
    encoders = {"trained": run, **({"untrained": run.untrained()} if run.has_untrained else {})}
    for name in (*encoders, HANDCRAFTED):
        features = np.concatenate(
            [
                _features(encoders.get(name), run, cohort, rows, name, part, progress)
                for cohort, rows in ((train, train_rows), (test, test_rows))
            ]
        )
        drops[name] = {
            fraction: Drop(
                probe(features[clean_rows], clean_task, fraction, seeds) if clean_task else None,
                probe(features[shifted_rows], shifted_task, fraction, seeds),
            )
            for fraction in fractions
        }
    scored = test_rows[test_split == "test"]
    names = f"{train.name}, {task}", f"{test.name}, {test_task}"
    n_same = len(same) if train.source == test.source else 0
    return DataShift(*names, common, len(scored), training_overlap(run, test, scored), n_same, drops)


def _features(
    encoder: Run | None, run: Run, cohort: Cohort, rows: NDArray[Any], name: str, part: str, progress: Progress | None
) -> NDArray[np.float32]:
    """Return the features (n, D) of a cohort's rows by `encoder`; None: hand-crafted features. `run` has the cache."""
    labelled_progress = relabel(progress, f"{cohort.name}, {name}")
    if encoder is None:
        recordings, of_row = crops.crop_recordings(cohort, run.config.signal, rows, None)
        return crops.average_crops(handcrafted_features(recordings, progress=labelled_progress), of_row)
    return embed_cohort(encoder, cohort, part, rows, labelled_progress, run.cache_folder)


# --------------------------------------------------------------------------------------------------------- changes


def _changed(
    run: Run,
    cohort: Cohort,
    task: str,
    fractions: Sequence[float],
    seeds: Sequence[int],
    part: str,
    n_records: int | None,
    progress: Progress | None,
) -> tuple[list[tuple[Change, dict[float, Drop]]], int]:
    """Return the scores of changed ECGs of the test split, and the number of these recordings."""
    # the recordings: train, val, and those of test of which every change leaves something
    rows = usable(run, cohort, cohort.rows(task=task))[0]
    signal = run.config.signal
    complete, recorded = complete_rows(cohort, signal, rows[cohort.splits(rows) == "test"])
    if not len(complete):
        raise ShiftError(
            f"cohort {cohort.name}: no test recording of task {task} has two seconds of every recorded lead"
        )
    if n_records is not None and n_records < len(complete):
        complete = np.sort(np.random.default_rng(0).choice(complete, n_records, replace=False))
    used = np.union1d(rows[cohort.splits(rows) != "test"], complete)
    probe_task = make_probe_task(cohort, task, used)
    train, val, test = (probe_task.rows(split) for split in ("train", "val", "test"))
    features = embed_cohort(run, cohort, part, used, relabel(progress, "embed"), run.cache_folder)

    # the draws are fitted once, on unchanged ECGs
    labels = probe_task.labels
    fitted = {
        fraction: list(fit_draws(features[train], labels[train], features[val], labels[val], fraction, seeds))
        for fraction in fractions
    }

    def score(fraction: float, of_test: NDArray[np.floating]) -> ProbeResult:
        draws = [
            DrawScores.of(
                probe_task, train[positions], seed, model.scores(features[val]), model.scores(of_test), model.val_macro
            )
            for seed, positions, model in fitted[fraction]
        ]
        return result_of_draws(fraction, probe_task, draws, (features.shape[1], features.shape[1]))

    clean = {fraction: score(fraction, features[test]) for fraction in fractions}

    # each change: the same test recordings, embedded again
    results: list[tuple[Change, dict[float, Drop]]] = []
    changes = shift_changes(signal, recorded)
    for done, change in enumerate(changes, start=1):
        try:
            changed = embed(run, ChangedRecordings(cohort, signal, used[test], change), part)
        except EmbedError:  # the unchanged recordings have finite embeddings, so the change is the cause: a result
            results.append((change, {fraction: Drop(clean[fraction], None) for fraction in fractions}))
        else:
            results.append((change, {one: Drop(clean[one], score(one, changed)) for one in fractions}))
        if progress is not None:
            progress("changed ECGs", done, len(changes))
    return results, len(test)


def summary(report: ShiftReport) -> Iterable[str]:
    """Return sentences on each pair of data sets: findings in common, classes without a counterpart, equal patient names."""
    for pair in report.data:
        yield (
            f"{pair.train} to {pair.test}: {len(pair.findings.names)} {pair.findings.level} findings in common "
            f"({', '.join(pair.findings.names)}); without a counterpart: "
            f"{', '.join(pair.findings.unmapped_train) or 'none'} | {', '.join(pair.findings.unmapped_test) or 'none'}"
        )
        if pair.n_same_names:
            yield (
                f"{pair.n_same_names} patients of the test recordings have names that patients of the fitted recordings have "
                "too; if they are the same people, the scores are too high"
            )
    if report.data or report.changes:
        yield all_metrics.F1_VARIANTS
