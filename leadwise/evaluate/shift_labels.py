"""Findings that two tasks have in common, from a TOML file: `[fine."SOURCE.TASK"]` and `[coarse."SOURCE.TASK"]`, each with a
list of classes for every finding, by name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort

FILE = Path(__file__).with_name("shift_labels.toml")
_LEVELS = ("fine", "coarse")

_Classes = dict[str, tuple[str, ...]]  # finding -> classes


class ShiftError(ValueError):
    """Tasks or labels that cannot be compared; the message names them and the remedy."""


@dataclass(frozen=True)
class CommonFindings:
    """The findings of two tasks, and the classes of each that have no counterpart."""

    level: str  # fine or coarse
    train: _Classes
    test: _Classes
    unmapped_train: tuple[str, ...]
    unmapped_test: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The findings, in the order of the file."""
        return tuple(self.train)


@dataclass(frozen=True)
class LabelMap:
    """A label map: level -> "SOURCE.TASK" -> finding -> classes."""

    path: Path
    levels: dict[str, dict[str, _Classes]]

    @classmethod
    def load(cls, path: Path = FILE) -> LabelMap:
        """Read a label map.

        Raises:
            ShiftError: the file cannot be read, or has another form than described above.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ShiftError(f"{path} cannot be read as a label map: {error}") from None
        levels: dict[str, dict[str, _Classes]] = {level: {} for level in _LEVELS}
        for level, tasks in table.items():
            if level not in _LEVELS or not isinstance(tasks, dict):
                raise ShiftError(f'{path}: [{level}] must be a table [fine."SOURCE.TASK"] or [coarse."SOURCE.TASK"]')
            for task, findings in tasks.items():
                if not isinstance(findings, dict) or "." not in task:
                    raise ShiftError(
                        f'{path}: [{level}.{task}] must have a source and a task in quotes, as "ptbxl.super"'
                    )
                for finding, classes in findings.items():
                    if not isinstance(classes, list) or not classes or not all(isinstance(one, str) for one in classes):
                        raise ShiftError(f"{path}: [{level}.{task}] '{finding}' must be a list of one or more classes")
                levels[level][task] = {finding: tuple(classes) for finding, classes in findings.items()}
        return cls(path, levels)

    def common(self, train: Cohort, train_task: str, test: Cohort, test_task: str) -> CommonFindings | None:
        """Return the findings that both tasks have; None if there is none.

        Raises:
            ShiftError: the file lists a class that the cohort's task does not have.
        """
        ours, theirs = f"{train.source}.{train_task}", f"{test.source}.{test_task}"
        for level in _LEVELS:
            first, second = self.levels[level].get(ours), self.levels[level].get(theirs)
            if ours == theirs:  # the same label set needs no map
                first = second = {name: (name,) for name in train.tasks[train_task] if name in test.tasks[test_task]}
            if not first or not second:
                continue
            names = [name for name in first if name in second]
            if not names:
                continue
            for cohort, task, classes in ((train, train_task, first), (test, test_task, second)):
                unknown = [one for name in names for one in classes[name] if one not in cohort.tasks[task]]
                if unknown:
                    raise ShiftError(
                        f"{self.path}: cohort {cohort.name}, task {task} has no class {unknown[0]!r}; it has "
                        f"{', '.join(cohort.tasks[task])}"
                    )
            of_train, of_test = ({name: one[name] for name in names} for one in (first, second))
            return CommonFindings(
                level,
                of_train,
                of_test,
                _unmapped(train.tasks[train_task], of_train),
                _unmapped(test.tasks[test_task], of_test),
            )
        return None

    def best_task(self, train: Cohort, train_task: str, test: Cohort) -> tuple[str, CommonFindings]:
        """Return the test cohort's task with the most findings in common, and these.

        Raises:
            ShiftError: no task has one.
        """
        common = {task: self.common(train, train_task, test, task) for task in test.tasks}
        choices = {task: one for task, one in common.items() if one is not None}
        if not choices:
            raise ShiftError(
                f"{self.path.name}: no task of {test.name} ({test.source}: {', '.join(test.tasks) or 'none'}) has a finding in "
                f"common with {train.source}.{train_task}; choose another --task, or pass your own file as --map"
            )
        task = max(choices, key=lambda one: len(choices[one].names))
        return task, choices[task]


def _unmapped(classes: tuple[str, ...], mapped: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    used = {one for names in mapped.values() for one in names}
    return tuple(name for name in classes if name not in used)


def joined_labels(
    cohort: Cohort, task: str, rows: NDArray[np.integer], findings: Mapping[str, tuple[str, ...]]
) -> NDArray[np.int8]:
    """Return labels (N, K) of the findings: 1 where a recording has one of a finding's classes."""
    labels, column = cohort.labels(task, rows), {name: k for k, name in enumerate(cohort.tasks[task])}
    joined = [labels[:, [column[one] for one in classes]].max(axis=1) for classes in findings.values()]
    return np.stack(joined, axis=1).astype(np.int8)
