"""Figure 3: a t-SNE map of the embeddings of five classes, with two measures of separation computed in the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.evaluate.embed import embed_cohort, project, usable
from leadwise.pictures import scatter
from leadwise.progress import Progress, relabel
from leadwise.run import Run

N_CLASSES = 5
N_NEIGHBOURS = 10
MAX_RECORDS = 2000  # t-SNE and the silhouette take time quadratic in the number of recordings


@dataclass(frozen=True)
class MapRecordings:
    """The recordings of Figure 3: those of the test split with exactly one of the five classes."""

    cohort: Cohort
    task: str
    rows: NDArray[np.int64]  # (n,)
    names: tuple[str, ...]  # n class names

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(sorted(self.names)))


def choose_recordings(cohort: Cohort, task: str, seed: int = 0) -> MapRecordings:
    """Return the test recordings with exactly one of the five classes that have the most training positives.

    The paper does not name its five classes.

    Raises:
        CohortError: fewer than two classes have test recordings.
    """
    train, test = cohort.rows("train", task), cohort.rows("test", task)
    counts = cohort.labels(task, train).sum(axis=0)
    columns = np.argsort(-counts, kind="stable")[:N_CLASSES]
    labels = cohort.labels(task, test)[:, columns]
    single = np.flatnonzero(labels.sum(axis=1) == 1)
    if len(single) > MAX_RECORDS:
        single = np.sort(np.random.default_rng(seed).choice(single, MAX_RECORDS, replace=False))
    names = tuple(cohort.tasks[task][columns[k]] for k in labels[single].argmax(axis=1))
    if len(set(names)) < 2:
        raise CohortError(
            f"cohort {cohort.name}: task {task} has fewer than two classes on its test split, so there is nothing to map; "
            "choose another cohort with --cohorts"
        )
    return MapRecordings(cohort, task, test[single], names)


def draw_map(
    row: str, run: Run, recordings: MapRecordings, progress: Progress | None = None
) -> tuple[Figure, list[dict[str, Any]]]:
    """Return the map of a run, and a table row each for the trained and the untrained encoder."""
    lines, figure = [], None
    rows, _ = usable(run, recordings.cohort, recordings.rows)
    names = [name for name, is_usable in zip(recordings.names, np.isin(recordings.rows, rows)) if is_usable]
    recordings = replace(recordings, rows=rows, names=tuple(names))
    for which, one in (("trained", run), ("untrained", run.untrained())):
        cache = run.cache_folder
        report = relabel(progress, f"{row}, {which}: embed")
        vectors = embed_cohort(one, recordings.cohort, "backbone", recordings.rows, report, cache)
        lines.append(
            {
                "method": row if which == "trained" else f"{row}, untrained",
                "silhouette": round(silhouette(vectors, recordings.names), 3),
                f"{N_NEIGHBOURS} nearest agree": f"{100 * neighbour_agreement(vectors, recordings.names):.1f}%",
                "by chance": f"{100 * chance_agreement(recordings.names):.1f}%",
                "recordings": len(recordings.rows),
            }
        )
        if which == "trained":
            title = f"{row}: {recordings.task} of {recordings.cohort.name}"
            figure = scatter.draw(project(vectors), recordings.names, title)
    assert figure is not None
    return figure, lines


def silhouette(vectors: NDArray[np.floating], names: Sequence[str]) -> float:
    """Return the mean silhouette in the embedding (cosine distance), -1 to 1; distances in a t-SNE map have no meaning."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(_unit(vectors), np.asarray(names), metric="cosine"))


def neighbour_agreement(vectors: NDArray[np.floating], names: Sequence[str], n: int = N_NEIGHBOURS) -> float:
    """Return the fraction of a recording's n nearest neighbours (cosine) with its class, 0 to 1.

    The fractions are averaged over classes, so that a frequent class does not dominate.
    """
    unit, classes = _unit(vectors), np.asarray(names)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    n = min(n, len(classes) - 1)
    nearest = np.argpartition(-similarity, n - 1, axis=1)[:, :n]
    agreement = (classes[nearest] == classes[:, None]).mean(axis=1)
    return float(np.mean([agreement[classes == name].mean() for name in np.unique(classes)]))


def chance_agreement(names: Sequence[str]) -> float:
    """Return the expected `neighbour_agreement` of randomly drawn neighbours."""
    counts = np.unique(np.asarray(names), return_counts=True)[1]
    return float(np.mean((counts - 1) / (len(names) - 1)))


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    doubles = np.asarray(vectors, dtype=np.float64)
    unit: NDArray[np.float64] = doubles / np.maximum(np.linalg.norm(doubles, axis=1, keepdims=True), 1e-12)
    return unit
