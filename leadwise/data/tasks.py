"""Task: a label set, with its classes by name in the order that every table and classifier uses.

The tasks of a data set are in its file (`data/sources/NAME.py`, `TASKS`). Labels are found by class name, never by column
number. A class has a meaning within its source only: AF is atrial flutter in CSN, where ST is sinus tachycardia and STE
is not the STE of CPSC2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """A label set: which recordings are in it, and the meaning of each class."""

    name: str
    definition: str  # one sentence: how a recording gets its labels, and which recordings are in the task
    classes: dict[str, str]  # class -> meaning, in canonical order
    snomed: dict[str, str] = field(default_factory=dict)  # class -> SNOMED CT code, where the source has one
    remark: str = ""  # to be known before scores are compared


def class_names(tasks: Iterable[Task]) -> dict[str, tuple[str, ...]]:
    """Task name -> its classes in canonical order, as a `Source` has them."""
    return {task.name: tuple(task.classes) for task in tasks}
