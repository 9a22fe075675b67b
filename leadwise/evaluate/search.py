"""The recordings nearest to a text, for a person: a list, and a page that draws them on paper grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.text_embeddings import embed_texts, unit
from leadwise.progress import Progress, relabel
from leadwise.run import Run


class SearchError(ValueError):
    """A text or cohort that cannot be searched; the message names the remedy."""


@dataclass(frozen=True)
class SearchHit:
    """A recording that a text found."""

    row: int
    record: str
    split: str
    cosine: float
    labels: dict[str, tuple[str, ...]]  # task -> classes that hold, for the tasks that the recording is in


def search(
    run: Run, cohort: Cohort, text: str, split: str | None = None, top: int = 9, progress: Progress | None = None
) -> list[SearchHit]:
    """The recordings nearest to a text, nearest first; of the whole cohort, or one split.

    Raises:
        NoTextEncoderError: the run has no text encoder.
        SearchError: the text says nothing, or there is nothing to search.
    """
    if not reports.clean(text):
        raise SearchError("the text says nothing; write it as a report would, such as 'atrial fibrillation.'")
    rows = cohort.rows(split)
    if not len(rows):
        raise SearchError(f"cohort {cohort.name}: no recording in split '{split}'")
    vector = embed_texts(run, [text])
    scores = (unit(embed_cohort(run, cohort, "shared", rows, relabel(progress, "embed"))) @ unit(vector)[0]).astype(
        float
    )
    chosen = np.argsort(-scores, kind="stable")[:top]
    nearest = rows[chosen]
    labels = _labels(cohort, nearest)
    records, splits = cohort.records.take(nearest), cohort.splits(nearest)
    return [
        SearchHit(int(row), records[at], str(splits[at]), float(scores[place]), labels[at])
        for at, (row, place) in enumerate(zip(nearest, chosen))
    ]


def rows(found: Sequence[SearchHit]) -> list[dict[str, object]]:
    """The table, a dict a line: place, record, split, cosine and the classes that hold, by task."""
    tasks = list(dict.fromkeys(task for one in found for task in one.labels))
    return [
        {"place": at, "record": one.record, "split": one.split, "cosine": one.cosine}
        | {task: ", ".join(one.labels[task]) or "none" if task in one.labels else "-" for task in tasks}
        for at, one in enumerate(found, 1)
    ]


def _labels(cohort: Cohort, rows: NDArray[np.integer]) -> list[dict[str, tuple[str, ...]]]:
    """For each row the classes that hold, by task; without the tasks that a recording is not in."""
    found: list[dict[str, tuple[str, ...]]] = [{} for _ in rows]
    for task, classes in cohort.tasks.items():
        inside = np.flatnonzero(np.isin(rows, cohort.rows(task=task)))
        for at, values in zip(inside, cohort.labels(task, rows[inside])):
            found[at][task] = tuple(name for name, value in zip(classes, values) if value)
    return found
