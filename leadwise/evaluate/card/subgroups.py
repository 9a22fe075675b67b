"""Scores by patient group: age band, sex and site, each with the score of all patients on the same classes.

A macro mean over fewer classes is a different quantity: a class that is rare in a group is left out of the group's mean. So
each group's score is reported together with that of all patients over exactly the classes that are scored in the group.
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
MIN_LABELS = 5  # positives and negatives that a class must have in a group
UNKNOWN = "not known"

_MAX_SITES = 6  # the others are scored together


@dataclass(frozen=True)
class Group:
    """The score of one group by one classifier."""

    by: str  # age, sex or site
    name: str
    classifier: str
    n_records: int
    n_patients: int
    classes: tuple[str, ...]  # scored in the group
    macro: float | None  # None: too small to score
    interval: tuple[float, float] | None
    all_patients: float | None  # macro of all patients over the same classes

    def row(self) -> dict[str, Any]:
        """Return the group as a table row."""
        low, high = self.interval or (None, None)
        return {
            "by": self.by, "group": self.name, "reader": self.classifier, "records": self.n_records,
            "patients": self.n_patients, "classes scored": len(self.classes), "macro": self.macro, "low": low,
            "high": high, "everybody, same classes": self.all_patients,
        }  # fmt: skip


def group_names(cohort: Cohort, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the group name of each row, by age, sex and site; columns that are missing or empty are left out."""
    groups = {}
    for by in GROUP_COLUMNS:
        if by not in cohort.column_names:
            continue
        column = cohort.column(by, rows)
        known = column.notna().to_numpy() & (column.astype(str).str.strip() != "").to_numpy()
        if not known.any():
            continue
        if by == "age":
            names = np.array([age_band(age) if is_known else UNKNOWN for age, is_known in zip(column, known)])
        else:
            names = np.where(known, column.astype(str).str.strip().to_numpy(dtype=np.str_), UNKNOWN)
        groups[by] = _merge_small_sites(names) if by == "site" else names
    return groups


def age_band(age: float) -> str:
    """Return the band of an age in years."""
    return next((name for low, high, name in AGE_BANDS if low <= float(age) < high), UNKNOWN)


def _merge_small_sites(names: NDArray[Any]) -> NDArray[Any]:
    """Return the names with small sites under one name, so that no site is named with a handful of patients."""
    values, counts = np.unique(names, return_counts=True)
    ranked = sorted(zip(values, counts), key=lambda pair: (-pair[1], pair[0]))
    large = {name for name, count in ranked[:_MAX_SITES] if count >= MIN_RECORDS}
    n_small = len(values) - len(large)
    if not n_small:
        return names
    return np.array([name if name in large else f"{n_small} small sites" for name in names])


def score_groups(
    labels: NDArray[np.int8],
    scores: dict[str, Floats],
    patients: Sequence[str],
    classes: Sequence[str],
    groups: dict[str, NDArray[Any]],
) -> list[Group]:
    """Return the score of each group by each classifier.

    Args:
        labels: (N, K).
        scores: (N, K) by classifier.
        groups: as `group_names` returns them.
    """
    patient_names, results = np.asarray(patients), []
    for by, names in groups.items():
        for name in _ordered_names(by, names):
            # The classes with enough positives and negatives in the group.
            inside = names == name
            n_positive = labels[inside].sum(axis=0)
            enough = (n_positive >= MIN_LABELS) & (inside.sum() - n_positive >= MIN_LABELS)
            scored = np.flatnonzero(enough) if inside.sum() >= MIN_RECORDS else np.empty(0, dtype=np.int64)
            scored_classes = tuple(classes[int(k)] for k in scored)

            # The group's score, and that of all patients over the same classes.
            for classifier, values in scores.items():
                macro = interval = all_patients = None
                if len(scored):
                    score = auroc_score(
                        labels[inside][:, scored], values[inside][:, scored], patient_names[inside], scored_classes
                    )
                    macro, interval = score.macro, score.interval
                    all_patients = float(np.mean(auroc(labels[:, scored], values[:, scored])))
                size = int(inside.sum()), len(np.unique(patient_names[inside]))
                results.append(Group(by, name, classifier, *size, scored_classes, macro, interval, all_patients))
    return results


def _ordered_names(by: str, names: NDArray[Any]) -> list[str]:
    """Return the group names: age bands from young to old, other groups from large to small, unknown last."""
    values, counts = np.unique(names, return_counts=True)
    if by == "age":
        bands = [name for *_, name in AGE_BANDS]
        return sorted(
            (str(name) for name in values), key=lambda name: bands.index(name) if name in bands else len(bands)
        )
    ranked = sorted(zip(values, counts), key=lambda pair: (pair[0] == UNKNOWN, -pair[1], pair[0]))
    return [str(name) for name, _ in ranked]
