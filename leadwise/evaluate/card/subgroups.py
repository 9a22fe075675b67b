"""Scores by who the patients are: age band, sex and site, each beside all patients on the same classes.

A macro mean over fewer classes is another quantity: a class rare in a group drops out of it. So each group's score
stands beside that of everybody over the very classes that could be scored in the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.metrics.auroc import auroc, auroc_score
from leadwise.evaluate.metrics.score import Floats

GROUP_COLUMNS = ("age", "sex", "site")  # index columns
AGE_BANDS = ((0, 40, "< 40"), (40, 60, "40-59"), (60, 80, "60-79"), (80, 1000, "80+"))
MIN_RECORDS = 20
MIN_LABELS = 5  # positives and negatives a class must have in a group
UNKNOWN = "not known"

_MAX_SITES = 6  # the others are scored together


@dataclass(frozen=True)
class Group:
    """One group's score by one reader."""

    by: str  # age, sex or site
    name: str
    reader: str
    n_records: int
    n_patients: int
    classes: tuple[str, ...]  # scored in the group
    macro: float | None  # None: too small to score
    interval: tuple[float, float] | None
    everybody: float | None  # macro of all patients over the same classes

    def row(self) -> dict[str, Any]:
        low, high = self.interval or (None, None)
        return {
            "by": self.by, "group": self.name, "reader": self.reader, "records": self.n_records,
            "patients": self.n_patients, "classes scored": len(self.classes), "macro": self.macro, "low": low,
            "high": high, "everybody, same classes": self.everybody,
        }  # fmt: skip


def group_names(cohort: Cohort, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """For each of age, sex and site that the index has, the group's name of each row; columns with nothing known are left out."""
    found = {}
    for by in GROUP_COLUMNS:
        if by not in cohort.column_names:
            continue
        column = cohort.column(by, rows)
        known = column.notna().to_numpy() & (column.astype(str).str.strip() != "").to_numpy()
        if not known.any():
            continue
        if by == "age":
            names = np.array([age_band(age) if there else UNKNOWN for age, there in zip(column, known)])
        else:
            names = np.where(known, column.astype(str).str.strip().to_numpy(dtype=np.str_), UNKNOWN)
        found[by] = _merge_small_sites(names) if by == "site" else names
    return found


def age_band(age: float) -> str:
    """The band of an age in years."""
    return next((name for low, high, name in AGE_BANDS if low <= float(age) < high), UNKNOWN)


def _merge_small_sites(names: NDArray[Any]) -> NDArray[Any]:
    """Small sites under one name, so that none is named with a handful of patients."""
    values, counts = np.unique(names, return_counts=True)
    ranked = sorted(zip(values, counts), key=lambda pair: (-pair[1], pair[0]))
    kept = {name for name, count in ranked[:_MAX_SITES] if count >= MIN_RECORDS}
    n_others = len(values) - len(kept)
    if not n_others:
        return names
    return np.array([name if name in kept else f"{n_others} small sites" for name in names])


def score_groups(
    labels: NDArray[np.int8],
    scores: dict[str, Floats],
    patients: Sequence[str],
    classes: Sequence[str],
    groups: dict[str, NDArray[Any]],
) -> list[Group]:
    """The score of each group by each reader.

    Args:
        labels: (N, K).
        scores: reader -> (N, K).
        groups: as `members` gives them.
    """
    people, found = np.asarray(patients), []
    for by, names in groups.items():
        for name in _ordered_names(by, names):
            inside = names == name
            n_positive = labels[inside].sum(axis=0)
            enough = (n_positive >= MIN_LABELS) & (inside.sum() - n_positive >= MIN_LABELS)
            counted = np.flatnonzero(enough) if inside.sum() >= MIN_RECORDS else np.empty(0, dtype=np.int64)
            told = tuple(classes[int(k)] for k in counted)
            for reader, values in scores.items():
                macro = interval = everybody = None
                if len(counted):
                    at = auroc_score(labels[inside][:, counted], values[inside][:, counted], people[inside], told)
                    macro, interval = at.macro, at.interval
                    everybody = float(np.mean(auroc(labels[:, counted], values[:, counted])))
                size = int(inside.sum()), len(np.unique(people[inside]))
                found.append(Group(by, name, reader, *size, told, macro, interval, everybody))
    return found


def _ordered_names(by: str, names: NDArray[Any]) -> list[str]:
    """Age bands from young to old, other groups from large to small, what is not known last."""
    values, counts = np.unique(names, return_counts=True)
    if by == "age":
        bands = [name for *_, name in AGE_BANDS]
        return sorted(
            (str(name) for name in values), key=lambda name: bands.index(name) if name in bands else len(bands)
        )
    ranked = sorted(zip(values, counts), key=lambda pair: (pair[0] == UNKNOWN, -pair[1], pair[0]))
    return [str(name) for name, _ in ranked]
