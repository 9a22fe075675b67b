"""Protocol comparison: the strict probe, MERL's probe as its code runs it, and the effect of each of its faults.

For each fraction of the labels: the strict probe; MERL's trainer without faults, and once more with another seed (the
reference for the effect of chance alone); the trainer with each fault that applies, one at a time; and with all of them.

A class with a single label value in a draw of the strict probe counts as 0.5 there, while MERL's trainer scores it like any
other class. With few labels this causes much of the difference between the two, so each line also contains the mean over the
classes that are learnable in every draw of the strict probe ("learnable only"). Differences are to the trainer without
faults, with intervals that resample the same patients for both; the epoch is not chosen again in a resampling. Every number
except that of the strict probe is marked as not comparable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leadwise.data import crops
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import subset
from leadwise.data.published_splits import PublishedCohort
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate.embed import Features, embed_cohort, split_parts, training_overlap, usable
from leadwise.evaluate.merl_legacy.legacy_task import (
    FIVE_SECOND_SOURCE,
    LegacyTask,
    inapplicable_faults,
    load_legacy_task,
)
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
from leadwise.trained_on import TrainingOverlap

Protocol = Literal["merl-legacy", "both"]  # for the strict protocol alone, see `probe.run_probe`
Faults = frozenset[Fault]
NO_FAULTS: Faults = frozenset()
NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class LegacySettings:
    """Settings of the legacy protocol."""

    faults: tuple[Fault, ...] = tuple(Fault)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    part: str = "backbone"
    splits: Path | None = None  # folder of the published splits; None: the cohort's own
    window: str | None = None  # window of longer recordings; None: the run's own setting
    seeds: tuple[int, ...] = SEEDS  # draws of the strict probe; MERL's trainer has its own seed

    def window_for(self, faults: Collection[Fault]) -> str | None:
        """Return the window under these faults; the five-second fault has its own."""
        return crops.MERL_WINDOW if Fault.FIVE_SECOND_WINDOW in faults else self.window


@dataclass(frozen=True)
class ProtocolLine:
    """One line of the table: the score of one probe."""

    fraction: float
    probe: str  # name of the probe, with its faults
    score: Score
    n_train: int
    faults: tuple[Fault, ...] = ()
    comparable: bool = False
    epoch: int | None = None  # the epoch that is scored, counted from 1
    difference: float | None = None  # to MERL's trainer without a fault
    difference_interval: Interval | None = None
    unlearnable: tuple[str, ...] = ()  # of the strict probe: classes with a single label value in at least one draw
    learnable_only: float | None = None  # macro without the strict probe's unlearnable classes

    @property
    def comparability(self) -> str:
        """ "comparable" or "not comparable", as printed in the table."""
        return "comparable" if self.comparable else NOT_COMPARABLE

    def to_row(self) -> dict[str, Any]:
        """Return the line as flat values; AUROCs in [0, 1]."""
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
        """Return one row per class: test positives under this probe's labels, AUROC with its interval."""
        rows = []
        for name, value in self.score.per_class.items():
            low, high = self.score.class_interval[name] or (None, None)
            row = {"fraction": self.fraction, "probe": self.probe, "class": name}
            row |= {"positives": self.score.positives[name], "auroc": value, "low": low, "high": high}
            rows.append(row | {"comparable": self.comparability})
        return rows

    def to_json(self) -> dict[str, Any]:
        return {
            "fraction": self.fraction,
            "probe": self.probe,
            "faults": [fault.value for fault in self.faults],
            "comparable": self.comparable,
            "n_train": self.n_train,
            "epoch": self.epoch,
            **self.score.to_json(),
            "difference": self.difference,
            "difference_interval": list(self.difference_interval or ()) or None,
            "unlearnable": list(self.unlearnable),
            "learnable_only": self.learnable_only,
        }


@dataclass(frozen=True)
class ProtocolReport:
    """The protocol comparison of a run on a task."""

    run: str
    protocol: str
    legacy_task: LegacyTask
    legacy: LegacySettings
    fingerprints: dict[str, str]  # of the cohort's data, the run's weights and the split files
    overlap: TrainingOverlap  # of the test split with the training of the run: must be empty
    not_applicable: dict[Fault, str]  # requested faults that do not apply, with the reason
    lines: tuple[ProtocolLine, ...]
    pretraining_data: str  # the data sets that the encoder was trained on, "none" or "unknown"
    left_out: LeftOut = field(default_factory=LeftOut)  # recordings that the run cannot embed

    @property
    def published(self) -> bool:
        """Whether records, splits and labels are from MERL's published files, not from the cohort."""
        return isinstance(self.legacy_task.cohort, PublishedCohort)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Faults that are active in at least one line."""
        return tuple(fault for fault in Fault if any(fault in line.faults for line in self.lines))

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, one dict per line; each states whether it is comparable."""
        return [line.to_row() for line in self.lines]

    def class_rows(self) -> list[dict[str, Any]]:
        """Return one row per line and class."""
        return [row for line in self.lines for row in line.class_rows()]

    def long_rows(self) -> list[dict[str, Any]]:
        """Return one row per line and class, macro first, with the settings, as written to CSV."""
        task = self.legacy_task
        settings = {"command": "probe", "protocol": self.protocol, "cohort": task.cohort.name, "run": self.run}
        settings |= {"task": task.name, "part": self.legacy.part}
        rows: list[dict[str, Any]] = []
        for line in self.lines:
            low, high = line.score.interval
            macro = {"class": "macro", "positives": None, "auroc": line.score.macro, "low": low, "high": high}
            line_settings = {"window": self.legacy.window_for(line.faults), "faults": "+".join(line.faults)}
            for row in (line.class_rows()[0] | macro, *line.class_rows()):
                value = {"measure": "auroc", "value": row.pop("auroc")}
                rows.append({**settings, **line_settings, **row, **value})
        return rows

    def to_json(self) -> dict[str, Any]:
        task = self.legacy_task
        missing = dict(task.cohort.matched.missing) if isinstance(task.cohort, PublishedCohort) else None
        counts = {f"n_{split}": len(task.task.rows(split)) for split in ("train", "val", "test")}
        return {
            "command": "probe",
            "protocol": self.protocol,
            "comparable": False,  # except the lines that state so
            "cohort": task.cohort.name,
            "run": self.run,
            "task": task.name,
            "part": self.legacy.part,
            "window": self.legacy.window,  # except the lines with the fault five_second_window
            "fingerprints": dict(self.fingerprints),
            "pretraining_data": self.pretraining_data,
            **self.overlap.to_json(),
            "classes": list(task.task.classes),
            **counts,
            "splits": "published" if self.published else "cohort",
            "published_records_missing": missing,
            "strict_seeds": list(self.legacy.seeds) if self.protocol == "both" else None,
            "trainer": {**vars(self.legacy.trainer), "precision": "float32 (MERL: fp16 autocast)"},
            "faults": dict(describe_faults(self.faults)),
            "left_out": dict(NOT_REPRODUCED),
            "not_applicable": {fault.value: reason for fault, reason in self.not_applicable.items()},
            "lines": [line.to_json() for line in self.lines],
            **({"left_out_recordings": self.left_out.to_json()["left_out"]} if self.left_out else {}),
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
    """Score the legacy protocol alone, or both protocols with the effect of each fault.

    With "merl-legacy" the result has one line per fraction: MERL's probe with all requested faults that apply.

    Raises:
        PublishedError: split files that cannot be used.
        ProbeError: a split is empty, or no epoch can be chosen.
        DrawError: a fraction leaves no training recording.
        EmbedError: no such part.
        WindowError: `window` is unknown, or MERL's window is requested for "both", which includes the strict probe.
    """
    # the request, then labels, splits and records of the task, from MERL's files or from the cohort
    legacy = legacy or LegacySettings()
    if protocol == "both":
        crops.check_strict(legacy.window)
    split_parts(run, legacy.part)  # checked before anything is computed
    legacy_task, left_out = _usable_task(run, load_legacy_task(cohort, task, legacy.splits), legacy)

    # all lines, one fraction after the other
    runner = _ProtocolRunner(run, legacy_task, legacy, progress)
    lines: list[ProtocolLine] = []
    for fraction in fractions:
        lines += runner.legacy_line(fraction) if protocol == "merl-legacy" else runner.all_lines(fraction)

    # provenance, leaked patients and the faults that do not apply
    fingerprints = {"cohort": cohort.fingerprint, "run": run.fingerprint}
    if isinstance(legacy_task.cohort, PublishedCohort):
        fingerprints["splits"] = legacy_task.cohort.published.fingerprint
    overlap = training_overlap(run, cohort, legacy_task.rows[legacy_task.task.rows("test")])
    reasons = {fault: runner.reasons[fault] for fault in legacy.faults if fault in runner.reasons}
    return ProtocolReport(
        run.name, protocol, legacy_task, legacy, fingerprints, overlap, reasons, tuple(lines), run.pretraining_data, left_out
    )  # fmt: skip


def _usable_task(run: Run, task: LegacyTask, legacy: LegacySettings) -> tuple[LegacyTask, LeftOut]:
    """Return the task without the recordings that the run cannot embed in a window of the protocol, and their ledger."""
    rows, left_out = task.rows, LeftOut()
    faults = legacy.faults if task.cohort.source == FIVE_SECOND_SOURCE and run.stored is None else ()
    for window in dict.fromkeys([legacy.window, legacy.window_for(faults)]):
        rows, of_window = usable(run, task.cohort, rows, window)
        left_out |= of_window
    return task.restricted(np.isin(task.rows, rows)), left_out


class _ProtocolRunner:
    """Trains and scores probes of one run and task under any set of faults."""

    def __init__(self, run: Run, legacy_task: LegacyTask, legacy: LegacySettings, progress: Progress | None) -> None:
        self.run, self.legacy_task, self.legacy, self.progress = run, legacy_task, legacy, progress
        self.reasons = inapplicable_faults(run, legacy_task, legacy.window, legacy.part)
        self.faults = tuple(fault for fault in legacy.faults if fault not in self.reasons)
        self.features: dict[str | None, Features] = {}  # by window

    def legacy_line(self, fraction: float) -> list[ProtocolLine]:
        """Return one line: MERL's trainer with every requested fault that applies."""
        faults = frozenset(self.faults)
        return [self._lines(fraction, {"MERL's probe: " + (" + ".join(self.faults) or "no fault"): faults})[0]]

    def all_lines(self, fraction: float) -> list[ProtocolLine]:
        """Return the lines strict probe, no fault, another seed, each fault, all faults."""
        # the strict probe and its unlearnable classes
        task = self.legacy_task.task
        strict = probe(self._features(self.legacy.window), task, fraction, self.legacy.seeds)
        unlearnable = tuple(name for name in task.classes if any(name in draw.unlearnable for draw in strict.draws))
        n_train = strict.draws[0].n_train
        first = ProtocolLine(fraction, "strict probe", strict.score, n_train, comparable=True, unlearnable=unlearnable)

        # MERL's trainer without faults, with each fault and with all; the second seed measures the effect of chance
        fault_sets = {
            "MERL's trainer, no fault": NO_FAULTS,
            **{fault.value: frozenset({fault}) for fault in self.faults},
        }
        if len(self.faults) > 1:
            fault_sets["all of them"] = frozenset(self.faults)
        base, *others = self._lines(fraction, fault_sets)
        other_seed = self.legacy.trainer.seed + 1
        again = self._lines(fraction, {f"no fault, seed {other_seed}": NO_FAULTS}, other_seed)[0]
        lines = [_with_difference(line, base) for line in (first, base, again, *others)]
        return [replace(line, learnable_only=_macro_without(unlearnable, line.score)) for line in lines]

    def _lines(self, fraction: float, fault_sets: dict[str, Faults], seed: int | None = None) -> list[ProtocolLine]:
        """Return one line per set of faults; sets with the same input signals are trained together."""
        trainer = self.legacy.trainer if seed is None else replace(self.legacy.trainer, seed=seed)
        drawn = subset(len(self.legacy_task.task.rows("train")), fraction, trainer.seed)
        logits = self._train(fraction, fault_sets.values(), drawn, trainer)
        return [self._line(fraction, name, faults, logits[faults], len(drawn)) for name, faults in fault_sets.items()]

    def _train(
        self, fraction: float, fault_sets: Iterable[Faults], drawn: np.ndarray, trainer: TrainerSettings
    ) -> dict[Faults, EpochLogits]:
        """Train the heads of all sets of faults and return their logits of each epoch.

        The scoring faults do not change the training; sets that differ only in them share one training.
        """
        trained: dict[Faults, EpochLogits] = {}
        scoring_faults = {Fault.POSITIONAL_COLUMNS, Fault.BEST_TEST_EPOCH}
        signal_faults = {Fault.MOVING_BATCHNORM, Fault.FIVE_SECOND_WINDOW}
        training_sets = list(dict.fromkeys(faults - scoring_faults for faults in fault_sets))

        # one training per kind of input signals, with one head for each set of faults
        for signals in dict.fromkeys(faults & signal_faults for faults in training_sets):
            together = [faults for faults in training_sets if faults & signal_faults == signals]
            heads = [
                HeadSettings(self._labels(faults)[self._train_indices(drawn)], Fault.EARLY_LR_DROP in faults)
                for faults in together
            ]
            moving = Fault.MOVING_BATCHNORM in signals
            name = f"{fraction:g} of the labels{', moving BatchNorm' if moving else ''}"
            progress = _epoch_progress(self.progress, f"MERL's trainer, {name}, seed {trainer.seed}")
            with restored_state(self.run.method) if moving else contextlib.nullcontext():
                trained.update(zip(together, train_heads(self._inputs(signals, drawn), heads, trainer, progress)))
        return {faults: trained[faults - scoring_faults] for faults in fault_sets}

    def _line(self, fraction: float, name: str, faults: Faults, logits: EpochLogits, n_train: int) -> ProtocolLine:
        """Return the line of a training: its score on test after the chosen epoch."""
        task, labels = self.legacy_task.task, self._labels(faults)
        val, test = (self._scoring_labels(labels[task.rows(split)], split, faults) for split in ("val", "test"))
        epoch = best_epoch(logits, val, test, Fault.BEST_TEST_EPOCH in faults)
        test_score = auroc_score(test, logits.test[epoch], task.patient[task.rows("test")], task.classes)
        ordered = tuple(fault for fault in Fault if fault in faults)
        return ProtocolLine(fraction, name, test_score, n_train, ordered, epoch=epoch + 1)

    def _scoring_labels(self, labels: Labels, split: str, faults: Faults) -> Labels:
        """Return the labels that a split is scored against; by column position under that fault."""
        columns = self.legacy_task.columns
        if Fault.POSITIONAL_COLUMNS not in faults or columns is None:
            return labels
        return labels_by_position(labels, self.legacy_task.task.classes, columns["train"], columns[split])

    def _labels(self, faults: Faults) -> Labels:
        if Fault.SUBSTRING_LABELS in faults and self.legacy_task.substring is not None:
            return self.legacy_task.substring
        return self.legacy_task.task.labels

    def _train_indices(self, drawn: np.ndarray) -> np.ndarray:
        indices: np.ndarray = self.legacy_task.task.rows("train")[drawn]
        return indices

    def _inputs(self, faults: Faults, drawn: np.ndarray) -> FeatureSource:
        """Return the source of features of the drawn training recordings, validation and test."""
        task = self.legacy_task.task
        indices = {"train": self._train_indices(drawn), **{split: task.rows(split) for split in ("val", "test")}}
        window = self.legacy.window_for(faults)
        if Fault.MOVING_BATCHNORM in faults:
            rows = {split: self.legacy_task.rows[at] for split, at in indices.items()}
            return UnfrozenFeatures(self.run, self.legacy_task.cohort, rows, self.legacy.part, window)
        features = self._features(window)
        return FrozenFeatures(features[indices["train"]], features[indices["val"]], features[indices["test"]])

    def _features(self, window: str | None) -> Features:
        """Return the embeddings of all recordings of the task, computed once per window."""
        if window not in self.features:
            progress = relabel(self.progress, f"embed, {window}" if window else "embed")
            cohort, rows = self.legacy_task.cohort, self.legacy_task.rows
            self.features[window] = embed_cohort(self.run, cohort, self.legacy.part, rows, progress, window=window)
        return self.features[window]


def _epoch_progress(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    """Return a callback (epochs done, epochs in total) that calls `progress` with this task name."""
    return None if progress is None else lambda done, total: progress(name, done, total)


def _macro_without(unlearnable: Collection[str], score: Score) -> float | None:
    """Return the macro over the scored classes that are learnable; None if there is none."""
    values = [value for name, value in score.per_class.items() if value is not None and name not in unlearnable]
    return float(np.mean(values)) if values else None


def _with_difference(line: ProtocolLine, base: ProtocolLine) -> ProtocolLine:
    """Return the line with its difference to `base`, on the same resampled patients, even where labels or classes differ."""
    if line is base:
        return line
    differences = line.score.replicates - base.score.replicates
    low, high = np.nanpercentile(differences, (2.5, 97.5))
    interval = float(low), float(high)
    return replace(line, difference=line.score.macro - base.score.macro, difference_interval=interval)
