"""Two protocols side by side: the strict probe, MERL's as its code runs it, and what each of its faults is worth.

For each fraction of the labels: the strict probe; MERL's trainer without a fault, and once more with another seed (the
yardstick: what chance alone changes); the trainer with each fault that applies, one at a time; with all of them.
A class that a draw of the strict probe shows with one label value only counts 0.5 there, while MERL's trainer scores it as
any other: with few labels much of the gap between the two comes from that, so each line also has the mean over the classes
that every draw of the strict probe could learn ("learnable only").
Differences are to the trainer without a fault, with intervals that resample the same patients for both; the epoch is not
chosen anew in a resampling. Every number but the strict probe's is marked as not comparable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import subset
from leadwise.data.published_splits import PublishedCohort
from leadwise.evaluate.embed import Features, count_leaked_patients, embed_cohort
from leadwise.evaluate.merl_legacy.legacy_task import LegacyTask, inapplicable_faults, load_legacy_task
from leadwise.evaluate.merl_legacy.probe_heads import (
    NOT_REPRODUCED,
    EpochLogits,
    Fault,
    FeatureSource,
    FrozenFeatures,
    HeadSettings,
    Labels,
    TrainerSettings,
    best_epoch,
    describe_faults,
    labels_by_position,
    train_heads,
)
from leadwise.evaluate.merl_legacy.unfrozen_batchnorm import UnfrozenFeatures, restored_state
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.score import Interval, Score
from leadwise.evaluate.probe import SEEDS, probe
from leadwise.progress import Progress, relabel
from leadwise.run import Run

Protocol = Literal["merl-legacy", "both"]  # the strict one alone is `probe.run_probe`
Faults = frozenset[Fault]
NO_FAULTS: Faults = frozenset()
NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class LegacySettings:
    """What is asked of the legacy protocol."""

    faults: tuple[Fault, ...] = tuple(Fault)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    part: str = "backbone"
    splits: Path | None = None  # the folder of the published splits; None: the cohort's own
    window: str | None = None  # which part of longer recordings is seen; None: as the run was promised
    seeds: tuple[int, ...] = SEEDS  # draws of the strict probe that stands beside it; MERL's trainer has its own seed

    def window_for(self, faults: Collection[Fault]) -> str | None:
        """The window under these faults, one of which chooses its own."""
        return crops.MERL_WINDOW if Fault.FIVE_SECOND_WINDOW in faults else self.window


@dataclass(frozen=True)
class ProtocolLine:
    """One number of the table."""

    fraction: float
    probe: str  # what was done
    score: Score
    n_train: int
    faults: tuple[Fault, ...] = ()
    comparable: bool = False
    epoch: int | None = None  # the one whose scores these are, from 1
    difference: float | None = None  # to MERL's trainer without a fault
    difference_interval: Interval | None = None
    unlearnable: tuple[str, ...] = ()  # of the strict probe: classes with one label value only in some draw
    learnable_only: float | None = None  # macro without the strict probe's unlearnable classes

    @property
    def comparability(self) -> str:
        """What stands beside the number."""
        return "comparable" if self.comparable else NOT_COMPARABLE

    def to_row(self) -> dict[str, Any]:
        """The line as flat values; AUROCs in [0, 1]."""
        low, high = self.difference_interval or (None, None)
        return {
            "fraction": self.fraction,
            "probe": self.probe,
            "n_train": self.n_train,
            "epoch": self.epoch,
            "macro": self.score.macro,
            "low": self.score.interval[0],
            "high": self.score.interval[1],
            "difference": self.difference,
            "difference_low": low,
            "difference_high": high,
            "learnable only": self.learnable_only,
            "skipped": ", ".join(self.score.skipped),
            "unlearnable": ", ".join(self.unlearnable),
            "comparable": self.comparability,
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """A line for each class: test positives as this number counts them, AUROC with its interval."""
        rows = []
        for name, value in self.score.per_class.items():
            low, high = self.score.class_interval[name] or (None, None)
            at = {"fraction": self.fraction, "probe": self.probe, "class": name}
            counted = {"positives": self.score.positives[name], "auroc": value, "low": low, "high": high}
            rows.append(at | counted | {"comparable": self.comparability})
        return rows

    def to_json(self) -> dict[str, Any]:
        apart = {"difference": self.difference, "difference_interval": list(self.difference_interval or ()) or None}
        told = {"fraction": self.fraction, "probe": self.probe, "faults": [fault.value for fault in self.faults]}
        marked = {"comparable": self.comparable, "n_train": self.n_train, "epoch": self.epoch}
        learnt = {"unlearnable": list(self.unlearnable), "learnable_only": self.learnable_only}
        return {**told, **marked, **self.score.to_json(), **apart, **learnt}


@dataclass(frozen=True)
class ProtocolReport:
    """The table of a run and a task."""

    run: str
    protocol: str
    legacy_task: LegacyTask
    legacy: LegacySettings
    fingerprints: dict[str, str]  # of the cohort's data, the run's weights and the split files
    n_leaked_patients: int  # people of the test split that the run was pre-trained on: must be 0
    not_applicable: dict[Fault, str]  # of the asked faults, with the reason
    lines: tuple[ProtocolLine, ...]

    @property
    def published(self) -> bool:
        """Whether records, splits and labels are those of MERL's files; else the cohort's own."""
        return isinstance(self.legacy_task.cohort, PublishedCohort)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Those that were switched on in any line."""
        return tuple(fault for fault in Fault if any(fault in line.faults for line in self.lines))

    def rows(self) -> list[dict[str, Any]]:
        """The table, a dict a line; each says whether it is comparable."""
        return [line.to_row() for line in self.lines]

    def class_rows(self) -> list[dict[str, Any]]:
        """A line for each number and class."""
        return [row for line in self.lines for row in line.class_rows()]

    def long_rows(self) -> list[dict[str, Any]]:
        """Every figure with what it is of, macro and classes: for other programs to read."""
        about = {"command": "probe", "protocol": self.protocol, "cohort": self.legacy_task.cohort.name, "run": self.run}
        about |= {"task": self.legacy_task.name, "part": self.legacy.part}
        rows: list[dict[str, Any]] = []
        for line in self.lines:
            low, high = line.score.interval
            macro = {"class": "macro", "positives": None, "auroc": line.score.macro, "low": low, "high": high}
            for row in (line.class_rows()[0] | macro, *line.class_rows()):
                value = {"measure": "auroc", "value": row.pop("auroc")}
                of_line = {"window": self.legacy.window_for(line.faults), "faults": "+".join(line.faults)}
                rows.append({**about, **of_line, **row, **value})
        return rows

    def to_json(self) -> dict[str, Any]:
        found = getattr(self.legacy_task.cohort, "found", None)
        counts = {f"n_{split}": len(self.legacy_task.task.rows(split)) for split in ("train", "val", "test")}
        return {
            "command": "probe",
            "protocol": self.protocol,
            "comparable": False,  # but for the lines that say so
            "cohort": self.legacy_task.cohort.name,
            "run": self.run,
            "task": self.legacy_task.name,
            "part": self.legacy.part,
            "window": self.legacy.window,  # but for the lines with the fault five_second_window
            "fingerprints": dict(self.fingerprints),
            "n_people_seen_in_pretraining": self.n_leaked_patients,
            "classes": list(self.legacy_task.task.classes),
            **counts,
            "splits": "published" if self.published else "cohort",
            "published_records_missing": dict(found.missing) if found else None,
            "strict_seeds": list(self.legacy.seeds) if self.protocol == "both" else None,
            "trainer": {**vars(self.legacy.trainer), "precision": "float32 (MERL: fp16 autocast)"},
            "faults": dict(describe_faults(self.faults)),
            "left_out": dict(NOT_REPRODUCED),
            "not_applicable": {fault.value: reason for fault, reason in self.not_applicable.items()},
            "lines": [line.to_json() for line in self.lines],
        }


def run_protocol(
    run: Run,
    cohort: Cohort,
    task: str,
    fractions: Sequence[float],
    protocol: Protocol = "both",
    legacy: LegacySettings | None = None,
    progress: Progress | None = None,
) -> ProtocolReport:
    """The legacy protocol's numbers, or both protocols' with what each fault is worth.

    With "merl-legacy" one line a fraction: MERL's probe with all the asked faults that apply.

    Raises:
        PublishedError: split files that cannot be used.
        ProbeError: a split is empty, or no epoch can be chosen.
        DrawError: a fraction leaves nothing to learn from.
        WindowError: no such window, or MERL's for the strict probe that "both" holds.
    """
    legacy = legacy or LegacySettings()
    if protocol == "both":
        crops.check_strict(legacy.window)
    asked = load_legacy_task(cohort, task, legacy.splits)
    bench = _ProtocolRunner(run, asked, legacy, progress)
    lines: list[ProtocolLine] = []
    for fraction in fractions:
        lines += bench.alone(fraction) if protocol == "merl-legacy" else bench.side_by_side(fraction)
    fingerprints = {"cohort": cohort.fingerprint, "run": run.fingerprint}
    if isinstance(asked.cohort, PublishedCohort):
        fingerprints["splits"] = asked.cohort.published.fingerprint
    seen = count_leaked_patients(run, cohort, asked.rows[asked.task.rows("test")])
    reasons = {fault: bench.reasons[fault] for fault in legacy.faults if fault in bench.reasons}
    return ProtocolReport(run.name, protocol, asked, legacy, fingerprints, seen, reasons, tuple(lines))


class _ProtocolRunner:
    """One run and task, trained and judged under any set of faults."""

    def __init__(self, run: Run, asked: LegacyTask, legacy: LegacySettings, progress: Progress | None) -> None:
        self.run, self.legacy_task, self.legacy, self.progress = run, asked, legacy, progress
        self.reasons = inapplicable_faults(run, asked, legacy.window, legacy.part)
        self.faults = tuple(fault for fault in legacy.faults if fault not in self.reasons)
        self.features: dict[str | None, Features] = {}  # by window

    def alone(self, fraction: float) -> list[ProtocolLine]:
        """One line: the trainer with every asked fault that applies."""
        faults = frozenset(self.faults)
        return [self._lines(fraction, {"MERL's probe: " + (" + ".join(self.faults) or "no fault"): faults})[0]]

    def side_by_side(self, fraction: float) -> list[ProtocolLine]:
        """Strict, no fault, another seed, each fault, all faults."""
        strict = probe(self._features(self.legacy.window), self.legacy_task.task, fraction, self.legacy.seeds)
        lost = tuple(name for name in self.legacy_task.task.classes if any(name in d.unlearnable for d in strict.draws))
        n_train = strict.draws[0].n_train
        first = ProtocolLine(fraction, "strict probe", strict.score, n_train, comparable=True, unlearnable=lost)
        wanted = {"MERL's trainer, no fault": NO_FAULTS, **{fault.value: frozenset({fault}) for fault in self.faults}}
        if len(self.faults) > 1:
            wanted["all of them"] = frozenset(self.faults)
        base, *others = self._lines(fraction, wanted)
        other_seed = self.legacy.trainer.seed + 1
        again = self._lines(fraction, {f"no fault, seed {other_seed}": NO_FAULTS}, other_seed)[0]
        lines = [_with_difference(line, base) for line in (first, base, again, *others)]
        return [replace(line, learnable_only=_without(lost, line.score)) for line in lines]

    def _lines(self, fraction: float, wanted: dict[str, Faults], seed: int | None = None) -> list[ProtocolLine]:
        """A line for each set of faults, trained together where they see the same signals."""
        trainer = self.legacy.trainer if seed is None else replace(self.legacy.trainer, seed=seed)
        drawn = subset(len(self.legacy_task.task.rows("train")), fraction, trainer.seed)
        traces = self._traces(fraction, wanted.values(), drawn, trainer)
        return [self._judged(fraction, name, faults, traces[faults], len(drawn)) for name, faults in wanted.items()]

    def _traces(
        self, fraction: float, wanted: Iterable[Faults], drawn: np.ndarray, trainer: TrainerSettings
    ) -> dict[Faults, EpochLogits]:
        trained: dict[
            Faults, EpochLogits
        ] = {}  # by the faults that change the training: the others only judge it otherwise
        judging = {Fault.POSITIONAL_COLUMNS, Fault.BEST_TEST_EPOCH}
        signals = {Fault.MOVING_BATCHNORM, Fault.FIVE_SECOND_WINDOW}
        needed = list(dict.fromkeys(faults - judging for faults in wanted))
        for seen in dict.fromkeys(faults & signals for faults in needed):
            together = [faults for faults in needed if faults & signals == seen]
            lessons = [
                HeadSettings(self._labels(faults)[self._at(drawn)], Fault.EARLY_LR_DROP in faults)
                for faults in together
            ]
            what = f"{fraction:g} of the labels{', moving BatchNorm' if Fault.MOVING_BATCHNORM in seen else ''}"
            told = (
                None
                if self.progress is None
                else _counted(self.progress, f"MERL's trainer, {what}, seed {trainer.seed}")
            )
            moving = Fault.MOVING_BATCHNORM in seen
            with restored_state(self.run.method) if moving else contextlib.nullcontext():
                trained.update(zip(together, train_heads(self._inputs(seen, drawn), lessons, trainer, told)))
        return {faults: trained[faults - judging] for faults in wanted}

    def _judged(self, fraction: float, name: str, faults: Faults, trace: EpochLogits, n_train: int) -> ProtocolLine:
        """A training's line: its score on test after the epoch that is chosen."""
        task, labels = self.legacy_task.task, self._labels(faults)
        val, test = (self._scored_against(labels[task.rows(split)], split, faults) for split in ("val", "test"))
        epoch = best_epoch(trace, val, test, Fault.BEST_TEST_EPOCH in faults)
        measured = auroc_score(test, trace.test[epoch], task.patient[task.rows("test")], task.classes)
        ordered = tuple(fault for fault in Fault if fault in faults)
        return ProtocolLine(fraction, name, measured, n_train, ordered, epoch=epoch + 1)

    def _scored_against(self, labels: Labels, split: str, faults: Faults) -> Labels:
        if Fault.POSITIONAL_COLUMNS not in faults or self.legacy_task.columns is None:
            return labels
        return labels_by_position(
            labels, self.legacy_task.task.classes, self.legacy_task.columns["train"], self.legacy_task.columns[split]
        )

    def _labels(self, faults: Faults) -> Labels:
        if Fault.SUBSTRING_LABELS in faults and self.legacy_task.substring is not None:
            return self.legacy_task.substring
        return self.legacy_task.task.labels

    def _at(self, drawn: np.ndarray) -> np.ndarray:
        at: np.ndarray = self.legacy_task.task.rows("train")[drawn]
        return at

    def _inputs(self, faults: Faults, drawn: np.ndarray) -> FeatureSource:
        places = {"train": self._at(drawn), **{split: self.legacy_task.task.rows(split) for split in ("val", "test")}}
        window = self.legacy.window_for(faults)
        if Fault.MOVING_BATCHNORM in faults:
            rows = {split: self.legacy_task.rows[at] for split, at in places.items()}
            return UnfrozenFeatures(self.run, self.legacy_task.cohort, rows, self.legacy.part, window)
        features = self._features(window)
        return FrozenFeatures(features[places["train"]], features[places["val"]], features[places["test"]])

    def _features(self, window: str | None) -> Features:
        if window not in self.features:
            told = relabel(self.progress, f"embed, {window}" if window else "embed")
            cohort, rows = self.legacy_task.cohort, self.legacy_task.rows
            self.features[window] = embed_cohort(self.run, cohort, self.legacy.part, rows, told, window=window)
        return self.features[window]


def _counted(progress: Progress, what: str) -> Any:
    return lambda done, total: progress(what, done, total)


def _without(lost: Collection[str], score: Score) -> float | None:
    """The macro over the scored classes that are not lost; None if there is none."""
    kept = [value for name, value in score.per_class.items() if value is not None and name not in lost]
    return float(np.mean(kept)) if kept else None


def _with_difference(line: ProtocolLine, base: ProtocolLine) -> ProtocolLine:
    """The line with its difference to `base`: the same patients resampled, even where labels or classes are other ones."""
    if line is base:
        return line
    apart = line.score.replicates - base.score.replicates
    low, high = np.nanpercentile(apart, (2.5, 97.5))
    interval = float(low), float(high)
    return replace(line, difference=line.score.macro - base.score.macro, difference_interval=interval)
