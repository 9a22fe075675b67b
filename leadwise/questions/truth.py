"""What is known about the ECGs of a cohort: the labels of a task, and heart rate, PR interval and QRS duration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.sources.catalogue import tasks_by_source
from leadwise.generate.facts import measure_cohort
from leadwise.progress import Progress
from leadwise.questions.question import QuestionError

QUANTITIES: dict[str, tuple[str, str, tuple[float, ...]]] = {  # column -> name, unit, and where its ranges begin
    "heart_rate_bpm": ("heart rate", "bpm", (60.0, 80.0, 100.0)),
    "pr_ms": ("PR interval", "ms", (140.0, 170.0, 200.0)),
    "qrs_ms": ("QRS duration", "ms", (90.0, 105.0, 120.0)),
}
ALSO_CALLED = {"rate_bpm": "heart_rate_bpm"}  # columns of a table of true values


@dataclass(frozen=True)
class Truth:
    """What is known about N recordings of a cohort."""

    rows: NDArray[np.int64]  # (N,)
    records: list[str]
    patients: list[str]
    classes: tuple[str, ...]
    meanings: Mapping[str, str]  # class -> what it means
    labels: NDArray[np.int8]  # (N, K)
    ranges: Mapping[str, NDArray[np.int64]]  # quantity -> (N,) number of the range, -1 where not known
    numbers_from: str  # "true values", "measured", or "" without numbers

    def subset(self, chosen: NDArray[np.integer]) -> Truth:
        """Return the same of some of the recordings, by their places."""
        return Truth(
            self.rows[chosen],
            [self.records[k] for k in chosen],
            [self.patients[k] for k in chosen],
            self.classes,
            self.meanings,
            self.labels[chosen],
            {name: values[chosen] for name, values in self.ranges.items()},
            self.numbers_from,
        )


def range_names(quantity: str) -> tuple[str, ...]:
    """Return the ranges of a quantity in words, from the lowest."""
    _, unit, starts = QUANTITIES[quantity]
    between = [f"{low:g} to below {high:g} {unit}" for low, high in pairwise(starts)]
    return (f"below {starts[0]:g} {unit}", *between, f"{starts[-1]:g} {unit} or more")


def range_of(quantity: str, value: float) -> int:
    """Return the number of the range of a value, from 0; -1 if the value is not known."""
    return sum(value >= start for start in QUANTITIES[quantity][2]) if math.isfinite(value) else -1


def read_truth_table(path: Path) -> pd.DataFrame:
    """Return the table of true values with the names of records as index, and columns of QUANTITIES.

    Raises:
        QuestionError: the file has no column `record`, none of the quantities, or a record twice.
    """
    table = pd.read_csv(path, dtype={"record": str})
    table = table.rename(columns={old: new for old, new in ALSO_CALLED.items() if new not in table})
    known = [name for name in QUANTITIES if name in table]
    if "record" not in table or not known:
        raise QuestionError(
            f"{path} needs the columns record and {', '.join(QUANTITIES)}; name another file with --truth"
        )
    if table["record"].duplicated().any():
        raise QuestionError(f"{path} has a record twice; name another file with --truth")
    numbers: pd.DataFrame = table.set_index("record")[known].apply(pd.to_numeric, errors="coerce")
    return numbers


def read_truth(
    cohort: Cohort,
    rows: NDArray[np.int64],
    task: str,
    table: pd.DataFrame | None = None,
    measures: bool = True,
    progress: Progress | None = None,
) -> Truth:
    """Return what is known about rows of a cohort.

    Args:
        task: the labels.
        table: true values (`read_truth_table`), read by the name of the record; None: they are measured.
        measures: whether they are measured without a table.

    Raises:
        QuestionError: the cohort has no such task, or the table has none of the records.
    """
    if task not in cohort.tasks:
        raise QuestionError(f"cohort {cohort.name} has no task '{task}'; choose --task from {', '.join(cohort.tasks)}")
    records, classes = cohort.records.take(rows), tuple(cohort.tasks[task])
    known = {one.name: one.classes for one in tasks_by_source().get(cohort.source, ())}.get(task, {})
    meanings = {name: known.get(name, name).lower() for name in classes}

    # the numbers, by the name of the record
    values: dict[str, NDArray[np.float64]] = {}
    source = ""
    if table is not None:
        if len(rows) and not table.index.isin(records).any():
            raise QuestionError(
                f"the table of true values has no record of cohort {cohort.name}; name another file with --truth"
            )
        own = table.reindex(records)
        values, source = {str(name): own[name].to_numpy(dtype=np.float64) for name in own}, "true values"
    elif measures:
        measured = measure_cohort(cohort, rows, progress)
        values = {name: np.array([one.get(name, math.nan) for one in measured]) for name in QUANTITIES}
        source = "measured"
    ranges = {name: np.array([range_of(name, x) for x in some], dtype=np.int64) for name, some in values.items()}
    patients = cohort.patients.take(rows)
    return Truth(rows, records, patients, classes, meanings, cohort.labels(task, rows), ranges, source)
