"""TODO."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.config import Config, ConfigError
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import DrawError, labelled_rows
from leadwise.data.loader import Recordings
from leadwise.methods.catalogue import learns_labels, method_settings
from leadwise.run import person_hash


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is watched on."""

    train: Recordings
    held_out: Recordings
    texts: list[str]  # the training reports, one each
    n_left_out: int  # training recordings whose report is too short, or whose labels are not learnt from

    @property
    def provenance(self) -> dict[str, Any]:
        """What ties a run to its data: the cohort's fingerprint, and a hash of each person it learns from."""
        cohort = self.train.cohort
        people = sorted(person_hash(cohort.source, patient) for patient in cohort.patients.distinct(self.train.rows))
        return {"cohort": cohort.name, "source": cohort.source, "fingerprint": cohort.fingerprint, "people": people}


def open_data(config: Config) -> TrainingData:
    """The recordings that a config names: those with a report, or of a task a share of those with its labels.

    A draw of labels may be smaller than a batch, which then holds its recordings more than once.

    Raises:
        ConfigError: no cohort is named, it has no such task, or a split has too few recordings.
    """
    asked = config.data
    if not asked.cohort:
        raise ConfigError("setting 'data.cohort' is empty: name a folder that `leadwise prepare` wrote")
    cohort = Cohort.open(Path(asked.cohort))
    task, words = asked.task or None, 0 if asked.task else asked.min_report_words
    kind = f"labels of task '{task}'" if task else f"a report of {words} words or more"
    if task:
        train = _labelled_rows(cohort, config)
    else:
        train = cohort.rows(split=asked.train_split, min_report_words=words)
        if len(train) < config.optim.batch_size:
            raise ConfigError(
                f"optim.batch_size = {config.optim.batch_size}, but {asked.cohort} has {len(train)} recordings in "
                f"split '{asked.train_split}' with {kind}"
            )
    held_out = cohort.rows(split=asked.val_split, task=task, min_report_words=words)[: config.log.validate_records]
    if config.log.validate_every and not len(held_out):
        raise ConfigError(
            f"{asked.cohort} has no recording in split '{asked.val_split}' with {kind}, so a run cannot be watched on people "
            "it does not learn from: split the cohort anew, or set log.validate_every=0 and log.keep=last"
        )
    n_all = len(cohort.rows(split=asked.train_split))
    texts = cohort.reports.distinct(train)
    learnt = Recordings(cohort, config.signal, train, task, statements=True)
    return TrainingData(learnt, Recordings(cohort, config.signal, held_out, task), texts, n_all - len(train))


def _labelled_rows(cohort: Cohort, config: Config) -> np.ndarray:
    """The rows whose labels are learnt from, the very ones that a probe of this fraction and seed is fitted on."""
    asked = config.data
    if asked.task not in cohort.tasks:
        near = difflib.get_close_matches(asked.task, cohort.tasks, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(cohort.tasks) or 'none'}"
        raise ConfigError(f"data.task = '{asked.task}' is no task of {asked.cohort}; {hint}")
    try:
        rows = labelled_rows(cohort, asked.task, asked.train_split, asked.label_fraction, asked.label_seed)
    except DrawError as error:
        raise ConfigError(f"data.label_fraction: {error}") from None
    if not len(rows):
        raise ConfigError(
            f"{asked.cohort} has no recording in split '{asked.train_split}' with labels of '{asked.task}'"
        )
    return rows


def with_classes(config: Config, cohort: Cohort) -> Config:
    """The config with the task's classes, where its method learns them: a run knows what its scores are of.

    Raises:
        ConfigError: it names other classes, or classes without a task.
    """
    if not learns_labels(str(config.method["name"])):
        return config
    task, named = config.data.task, list(config.method.get("classes", ()))
    if not task:
        raise ConfigError(
            f"method '{config.method['name']}' learns from labels: name a task of {config.data.cohort} in data.task "
            f"({', '.join(cohort.tasks) or 'it has none'})"
        )
    classes = list(cohort.tasks[task])
    if named and named != classes:
        raise ConfigError(
            f"method.classes = {named}, but task '{task}' of {config.data.cohort} has {classes}: leave the setting empty"
        )
    return dataclasses.replace(config, method={**config.method, "classes": classes})


def refuse_unequal_shares(config: Config, n_ranks: int) -> None:
    """A mean over shares is the batch's mean only where the shares are equal; and some methods want theirs in one pass.

    Raises:
        ConfigError: the batch does not divide, or the method does not want it divided.
    """
    optim = config.optim
    if optim.batch_size % (n_ranks * optim.accumulate):
        raise ConfigError(
            f"optim.batch_size = {optim.batch_size} does not divide among {n_ranks} processes with optim.accumulate = "
            f"{optim.accumulate}; choose a multiple of {n_ranks * optim.accumulate}"
        )
    whole = method_settings(config)[1].whole_batch
    if whole and optim.accumulate > 1:
        raise ConfigError(f"{whole} needs a process's records in one pass; change that, or set optim.accumulate=1")
