"""Search: the recordings whose embeddings are nearest to that of a text, by cosine or by the distance of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data import crops, reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate import vocabulary
from leadwise.evaluate.embed import embed_cohort, usable
from leadwise.evaluate.text_embeddings import embed_texts, text_uncertainties, unit
from leadwise.evaluate.uncertainty import ecg_uncertainties, percentiles
from leadwise.progress import Progress, relabel
from leadwise.run import Run


class SearchError(ValueError):
    """A text or cohort that cannot be searched; the message names the remedy."""


@dataclass(frozen=True)
class SearchHit:
    """A recording near the text."""

    row: int
    record: str
    split: str
    cosine: float
    labels: dict[str, tuple[str, ...]]  # task -> positive classes, for the tasks that the recording is labelled for
    uncertainty: float | None = None  # of the ECG; None: the run has none
    percentile: float | None = None  # share of the searched ECGs that are less uncertain, in percent
    distance: float | None = None  # expected squared distance of text and ECG, by which such a run ranks

    @property
    def numbers(self) -> dict[str, float]:
        """The cosine and, where the run has it, distance, uncertainty and its percentile, by name."""
        values = {"cosine": self.cosine, "distance": self.distance}
        values |= {"uncertainty": self.uncertainty, "percentile": self.percentile}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class SearchResult:
    """The recordings nearest to a text, and how far the text and the recordings could be used."""

    text: str
    hits: tuple[SearchHit, ...]  # nearest first
    unknown_words: tuple[str, ...]  # of the text: rare or absent in training
    left_out: LeftOut  # recordings that the run cannot embed
    text_uncertainty: float | None = None  # None: the run has none

    @property
    def uncertainty_line(self) -> str:
        """A sentence on the uncertainty of the text and on the ranking; '' for a run that ranks by cosine."""
        if self.text_uncertainty is None:
            return ""
        return (
            f"The text has an uncertainty of {self.text_uncertainty:.3g}. ECGs are ranked by the expected squared distance, "
            "which contains the uncertainty of both; percentile is the share of the searched ECGs that are less uncertain."
        )

    @property
    def remark(self) -> str:
        """A remark on words that the run does not know, else ''."""
        return vocabulary.remark(self.unknown_words)

    def to_json(self) -> dict[str, Any]:
        hits = [{"record": hit.record, "split": hit.split, **hit.numbers, "labels": hit.labels} for hit in self.hits]
        words = list(self.unknown_words)
        of_text = {} if self.text_uncertainty is None else {"text_uncertainty": self.text_uncertainty}
        return {"text": self.text, **of_text, "found": hits, "unknown_words": words, **self.left_out.to_json()}


def search(
    run: Run,
    cohort: Cohort,
    text: str,
    split: str | None = None,
    top: int = 9,
    progress: Progress | None = None,
    window: str | None = None,
) -> SearchResult:
    """Return the recordings nearest to a text, nearest first, from the whole cohort or one split.

    Args:
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.

    Raises:
        EmbedError: the run can embed none of the recordings.
        WindowError: `window` is unknown, or MERL's, which only the legacy protocol uses.
        NoTextEncoderError: the run has no text encoder.
        SearchError: the text is empty after cleaning, or the split has no recording.
    """
    if not reports.clean(text):
        raise SearchError(
            f"the text {text!r} is empty after cleaning; write it as in a report, such as 'atrial fibrillation.'"
        )
    crops.check_strict(window)
    rows = cohort.rows(split)
    if not len(rows):
        raise SearchError(f"cohort {cohort.name}: no recording in split '{split}'")

    # the cosine of each recording that can be embedded and, where embeddings are Gaussians, the distance
    vector = embed_texts(run, [text])
    rows, left_out = usable(run, cohort, rows, window)
    ecg = embed_cohort(run, cohort, "shared", rows, relabel(progress, "embed"), window=window)
    scores = (unit(ecg) @ unit(vector)[0]).astype(float)
    of_text: float | None = None
    if run.method.ranks_by_distance:
        of_text = float(text_uncertainties(run, [text])[0])
        of_ecgs = ecg_uncertainties(run, cohort, rows, relabel(progress, "embed"), window)
        distances = 2 - 2 * scores + of_ecgs + of_text
        order = np.argsort(distances, kind="stable")[:top]
        columns = [of_ecgs[order], percentiles(of_ecgs, order), distances[order]]
    else:
        order, columns = np.argsort(-scores, kind="stable")[:top], []
    numbers = np.stack(columns, axis=1).tolist() if columns else [[]] * len(order)

    # the nearest of them
    nearest = rows[order]
    labels = positive_classes(cohort, nearest)
    records, splits = cohort.records.take(nearest), cohort.splits(nearest)
    hits = tuple(
        SearchHit(int(row), records[i], str(splits[i]), float(scores[rank]), labels[i], *numbers[i])
        for i, (row, rank) in enumerate(zip(nearest, order))
    )
    return SearchResult(text, hits, vocabulary.unknown_words(run, text), left_out, of_text)


def rows(hits: Sequence[SearchHit]) -> list[dict[str, object]]:
    """Return the table, one dict per hit: place, record, split, cosine, uncertainty, and the positive classes by task."""
    tasks = list(dict.fromkeys(task for hit in hits for task in hit.labels))
    return [
        {"place": place, "record": hit.record, "split": hit.split, **hit.numbers}
        | {task: ", ".join(hit.labels[task]) or "none" if task in hit.labels else "-" for task in tasks}
        for place, hit in enumerate(hits, 1)
    ]


def positive_classes(cohort: Cohort, rows: NDArray[np.integer]) -> list[dict[str, tuple[str, ...]]]:
    """Return the positive classes of each row by task, without the tasks that a recording is not labelled for."""
    labels: list[dict[str, tuple[str, ...]]] = [{} for _ in rows]
    for task, classes in cohort.main_tasks.items():
        labelled = np.flatnonzero(np.isin(rows, cohort.rows(task=task)))
        for i, values in zip(labelled, cohort.labels(task, rows[labelled])):
            labels[i][task] = tuple(name for name, value in zip(classes, values) if value)
    return labels
