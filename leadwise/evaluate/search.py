"""The recordings nearest to a text, for a person: a list, and a page that draws them on paper grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data import reports
from leadwise.data.cohort import Cohort
from leadwise.evaluate.embed import Progress, embed_cohort, named
from leadwise.evaluate.words import embed_texts, unit
from leadwise.pictures import paper
from leadwise.pictures.page import Page
from leadwise.run import Run


class SearchError(ValueError):
    """A text or cohort that cannot be searched; the message names the remedy."""


@dataclass(frozen=True)
class Found:
    """A recording that a text found."""

    row: int
    record: str
    split: str
    cosine: float
    labels: dict[str, tuple[str, ...]]  # task -> classes that hold, for the tasks that the recording is in


def search(
    run: Run, cohort: Cohort, text: str, split: str | None = None, top: int = 9, progress: Progress | None = None
) -> list[Found]:
    """The recordings nearest to a text, nearest first; of the whole cohort, or one split.

    Raises:
        WordlessError: the run has no text encoder.
        SearchError: the text says nothing, or there is nothing to search.
    """
    if not reports.clean(text):
        raise SearchError("the text says nothing; write it as a report would, such as 'atrial fibrillation.'")
    rows = cohort.rows(split)
    if not len(rows):
        raise SearchError(f"cohort {cohort.name}: no recording in split '{split}'")
    vector = embed_texts(run, [text])
    scores = (unit(embed_cohort(run, cohort, "shared", rows, named(progress, "embed"))) @ unit(vector)[0]).astype(float)
    chosen = np.argsort(-scores, kind="stable")[:top]
    nearest = rows[chosen]
    labels = _labels(cohort, nearest)
    records, splits = cohort.records.take(nearest), cohort.splits(nearest)
    return [
        Found(int(row), records[at], str(splits[at]), float(scores[place]), labels[at])
        for at, (row, place) in enumerate(zip(nearest, chosen))
    ]


def rows(found: Sequence[Found]) -> list[dict[str, object]]:
    """The table, a dict a line: place, record, split, cosine and the classes that hold, by task."""
    tasks = list(dict.fromkeys(task for one in found for task in one.labels))
    return [
        {"place": at, "record": one.record, "split": one.split, "cosine": one.cosine}
        | {task: ", ".join(one.labels[task]) or "none" if task in one.labels else "-" for task in tasks}
        for at, one in enumerate(found, 1)
    ]


def page(found: Sequence[Found], cohort: Cohort, text: str, run: Run, show_reports: bool = False) -> Page:
    """One offline page: the table, and each ECG on paper grid. Report texts only where `show_reports` asks for them."""
    made = Page("The ECGs nearest to a text")
    made.text(f"Text: {text}")
    made.text(
        f"Read by {run.name}, searched in {cohort.name}: {len(found)} of {len(cohort)} recordings, nearest first. The cosine "
        "is between the text and the ECG in the shared space; labels are the cohort's and were not looked at."
    )
    if show_reports:
        made.text("This page shows report texts: it is patient data.")
    made.table(rows(found), "nearest recordings")
    for at, one in enumerate(found, 1):
        ecg, rate_hz = cohort.signal(one.row)  # (T, 12) mV
        held = "; ".join(f"{task}: {', '.join(names) or 'none'}" for task, names in one.labels.items())
        title = f"{at}. record {one.record}, cosine {one.cosine:.3f}"
        figure = paper.draw(ecg.T, rate_hz, LEADS, title=title, notes=[held] if held else [])
        said = f" Report: {cohort.reports[one.row]}" if show_reports else ""
        made.figure(figure, f"{title}.{said}", alt=f"12-lead ECG of record {one.record} on paper grid")
    return made


def _labels(cohort: Cohort, rows: NDArray[np.integer]) -> list[dict[str, tuple[str, ...]]]:
    """For each row the classes that hold, by task; without the tasks that a recording is not in."""
    found: list[dict[str, tuple[str, ...]]] = [{} for _ in rows]
    for task, classes in cohort.tasks.items():
        inside = np.flatnonzero(np.isin(rows, cohort.rows(task=task)))
        for at, values in zip(inside, cohort.labels(task, rows[inside])):
            found[at][task] = tuple(name for name, value in zip(classes, values) if value)
    return found
