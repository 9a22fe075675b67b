"""The recordings that a run is trained and validated on, and checks of the settings that depend on them."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leadwise.config import Config, ConfigError
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.label_subset import DrawError, labelled_rows
from leadwise.data.loader import Recordings
from leadwise.data.usable_rows import LeftOut, log_left_out, rows_with_inputs, usable_rows
from leadwise.methods.catalogue import (
    learns_labels,
    method_settings,
    patch_samples,
    phenotype_setting,
    reads_person,
    uses_wordings,
    volume_setting,
    with_defaults,
)
from leadwise.methods.contract import PretrainingMethod
from leadwise.trained_on import TrainedOn


@dataclass(frozen=True)
class TrainingData:
    """The recordings of a run."""

    train: Recordings
    held_out: Recordings
    texts: list[str]  # the distinct training reports
    n_left_out: int  # recordings of the training split that are not used: report too short, or labels not in the subset
    unusable: LeftOut  # recordings of both splits that the method cannot read

    @property
    def provenance(self) -> dict[str, Any]:
        """The contents of a run's data.json: the cohort's name, source and fingerprint, and counts of what is used of it."""
        cohort, rows = self.train.cohort, self.train.rows
        identity = {"cohort": cohort.name, "source": cohort.source, "fingerprint": cohort.fingerprint}
        counts = {"n_people": len(cohort.patients.distinct(rows)), "n_signals": len(rows)}
        return {**identity, **counts, **self.unusable.to_json()}

    @property
    def hashes(self) -> TrainedOn:
        """The contents of a run's trained_on.json: hashes of the training patients and signals, with a new salt."""
        cohort, rows = self.train.cohort, self.train.rows
        return TrainedOn.of(cohort.source, cohort.patients.distinct(rows), cohort.checksums(rows))


def open_data(config: Config) -> TrainingData:
    """Return the recordings that a config selects: those with a report, or a subset of those with labels of the task.

    A method that reads no reports is trained on recordings without one too, unless `data.min_report_words` is set.
    A label subset may be smaller than a batch; a batch then contains its recordings more than once.

    Raises:
        ConfigError: no cohort is given, the cohort does not have the task, or a split has too few recordings.
    """
    if not config.data.cohort:
        raise ConfigError("setting 'data.cohort' is empty; set it to a folder that `leadwise prepare` wrote")
    selection = with_defaults(config).data
    cohort = Cohort.open(Path(selection.cohort))

    # the training rows: with labels of the task, or with a report that is long enough
    task, min_words = selection.task or None, 0 if selection.task else selection.min_report_words
    kind = (
        f" with labels of task '{task}'"
        if task
        else f" with a report of {min_words} or more words"
        if min_words
        else ""
    )
    if task:
        train, unusable, n_selected = _labelled_training_rows(cohort, config)
    else:
        train = cohort.rows(split=selection.train_split, min_report_words=min_words)
        n_selected = len(train)
        train, unusable = _readable_rows(cohort, config, train)
        log_left_out(unusable, f"split '{selection.train_split}' of {selection.cohort}")
        without = f", {unusable.line}" if unusable else ""
        if len(train) < config.optim.batch_size:
            raise ConfigError(
                f"optim.batch_size = {config.optim.batch_size}, but {selection.cohort} has {len(train)} recordings in "
                f"split '{selection.train_split}'{kind}{without}; {_remedy(cohort, config, len(train))}"
            )

    # the held-out rows, selected in the same way
    held_out = cohort.rows(split=selection.val_split, task=task, min_report_words=min_words)
    held_out, held_out_unusable = _readable_rows(cohort, config, held_out)
    log_left_out(held_out_unusable, f"split '{selection.val_split}' of {selection.cohort}")
    held_out = held_out[: config.log.validate_records]
    if config.log.validate_every and not len(held_out):
        raise ConfigError(
            f"{selection.cohort} has no recording in split '{selection.val_split}'{kind}, so the run cannot be validated "
            "on other patients; prepare the cohort with such a split, or set log.validate_every=0 and log.keep=last"
        )
    n_train_split = len(cohort.rows(split=selection.train_split))
    volume, phenotypes, person = volume_setting(config), phenotype_setting(config), reads_person(config)
    return TrainingData(
        train=Recordings(
            cohort,
            config.signal,
            train,
            task,
            statements=True,
            wordings=uses_wordings(config),
            volume=volume,
            phenotypes=phenotypes,
            person=person,
        ),
        held_out=Recordings(cohort, config.signal, held_out, task, volume=volume, phenotypes=phenotypes, person=person),
        texts=cohort.reports.distinct(train),
        n_left_out=n_train_split - n_selected,
        unusable=unusable | held_out_unusable,
    )


def _readable_rows(cohort: Cohort, config: Config, rows: np.ndarray) -> tuple[np.ndarray, LeftOut]:
    """Return those of the rows that the method can read, and a ledger of the others: they would end the run later."""
    try:
        with_inputs, without = rows_with_inputs(cohort, rows, volume_setting(config), phenotype_setting(config))
    except CohortError as error:
        raise ConfigError(f"method '{config.method['name']}': {error}") from None
    usable, unusable = usable_rows(
        cohort, config.signal, with_inputs, patch_samples=patch_samples(with_defaults(config))
    )
    return usable, without | unusable


def give_phenotypes(method: PretrainingMethod, data: TrainingData) -> None:
    """Give a new run's method the phenotypes of the training recordings, if it reads any."""
    if method.reads_phenotypes:
        method.take_phenotypes(torch.from_numpy(data.train.phenotype_table))


def _remedy(cohort: Cohort, config: Config, n_usable: int) -> str:
    """Return what to do about fewer usable training recordings than a batch has."""
    batch_size = config.optim.batch_size
    rows = cohort.rows(split=config.data.train_split)
    if len(rows) < batch_size:
        return f"lower optim.batch_size{' to ' + str(n_usable) if n_usable > 1 else ', or prepare more recordings'}"
    if len(rows_with_inputs(cohort, rows, volume_setting(config), phenotype_setting(config))[0]) < batch_size:
        if n_usable > 1:
            return f"lower optim.batch_size to {n_usable}"
        return (
            f"method '{config.method['name']}' needs them: add them to the table and prepare it again, or choose a method that "
            "reads ECGs alone (`leadwise methods` lists them)"
        )
    if not method_settings(config)[0].method_class.reads_reports:
        return f"method '{config.method['name']}' reads no reports: set data.min_report_words=0"
    if n_usable < 2:
        return (
            f"method '{config.method['name']}' reads reports; choose a method that reads none (`leadwise methods` lists them), "
            "or prepare a cohort with reports"
        )
    return f"lower optim.batch_size to {n_usable}, or lower data.min_report_words"


def _labelled_training_rows(cohort: Cohort, config: Config) -> tuple[np.ndarray, LeftOut, int]:
    """Return the rows whose labels are used: those that a probe of the same fraction and seed is fitted on.

    Also return the ledger of the task's recordings that cannot be read, and how many rows both are.
    """
    selection = config.data
    if selection.task not in cohort.tasks:
        nearest = difflib.get_close_matches(selection.task, cohort.tasks, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"it has {', '.join(cohort.tasks) or 'none'}"
        raise ConfigError(f"data.task = '{selection.task}' is no task of {selection.cohort}; {hint}")
    labelled = cohort.rows(split=selection.train_split, task=selection.task)
    usable, unusable = _readable_rows(cohort, config, labelled)
    log_left_out(unusable, f"split '{selection.train_split}' of {selection.cohort}")
    try:
        rows = labelled_rows(
            cohort, selection.task, selection.train_split, selection.label_fraction, selection.label_seed, usable
        )
    except DrawError as error:
        raise ConfigError(f"data.label_fraction: {error}") from None
    if not len(rows):
        raise ConfigError(
            f"{selection.cohort} has no recording in split '{selection.train_split}' with labels of '{selection.task}'; "
            "choose another data.task or data.train_split"
        )
    return rows, unusable, len(rows) + len(unusable)


def with_classes(config: Config, cohort: Cohort) -> Config:
    """Return the config with the classes of its task, if its method is trained on labels: a run stores the classes of its scores.

    Raises:
        ConfigError: the config has other classes, or no task.
    """
    if not learns_labels(str(config.method["name"])):
        return config
    task, given_classes = config.data.task, list(config.method.get("classes", ()))
    if not task:
        raise ConfigError(
            f"method '{config.method['name']}' is trained on labels: set data.task to a task of {config.data.cohort} "
            f"({', '.join(cohort.tasks) or 'it has none'})"
        )
    classes = list(cohort.tasks[task])
    if given_classes and given_classes != classes:
        raise ConfigError(
            f"method.classes = {given_classes}, but task '{task}' of {config.data.cohort} has {classes}; leave the setting empty"
        )
    return dataclasses.replace(config, method={**config.method, "classes": classes})


def check_batch_split(config: Config, n_ranks: int) -> None:
    """Check that a batch can be split over processes and passes: in equal shares, and in one pass if the method requires it.

    The mean over shares is the batch's mean only if the shares are equal.

    Raises:
        ConfigError: the shares are not equal, or the method requires one pass.
    """
    optim = config.optim
    if optim.batch_size % (n_ranks * optim.accumulate):
        raise ConfigError(
            f"optim.batch_size = {optim.batch_size} cannot be split equally over {n_ranks} processes with optim.accumulate = "
            f"{optim.accumulate}; choose a multiple of {n_ranks * optim.accumulate}"
        )
    whole_batch = method_settings(config)[1].whole_batch
    if whole_batch and optim.accumulate > 1:
        raise ConfigError(
            f"{whole_batch} needs all records of a process in one pass; change it, or set optim.accumulate=1"
        )
