"""Figure 3: where an encoder lays the recordings of five classes, as pictures and as two numbers that do not need eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.evaluate.embed import embed_cohort, project
from leadwise.pictures import scatter
from leadwise.progress import Progress, relabel
from leadwise.run import Run

N_CLASSES = 5
N_NEIGHBOURS = 10
MOST_RECORDS = 2000  # t-SNE and the silhouette grow with their square


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
    """The five classes with most training positives (the paper does not name its five), and whom they belong to.

    Raises:
        CohortError: fewer than two classes have test recordings.
    """
    train, test = cohort.rows("train", task), cohort.rows("test", task)
    counts = cohort.labels(task, train).sum(axis=0)
    columns = np.argsort(-counts, kind="stable")[:N_CLASSES]
    labels = cohort.labels(task, test)[:, columns]
    alone = np.flatnonzero(labels.sum(axis=1) == 1)
    if len(alone) > MOST_RECORDS:
        alone = np.sort(np.random.default_rng(seed).choice(alone, MOST_RECORDS, replace=False))
    names = tuple(cohort.tasks[task][columns[k]] for k in labels[alone].argmax(axis=1))
    if len(set(names)) < 2:
        raise CohortError(
            f"cohort {cohort.name}: task {task} has fewer than two classes to draw apart on its test split"
        )
    return MapRecordings(cohort, task, test[alone], names)


def draw_map(row: str, run: Run, chosen: MapRecordings, progress: Progress | None = None) -> tuple[Figure, list[dict[str, Any]]]:
    """The map of a run, and a line for the trained and one for the untrained encoder: silhouette and neighbours."""
    lines, figure = [], None
    for which, one in (("trained", run), ("untrained", run.untrained())):
        cache = run.folder / "embeddings" if run.folder else None
        told = relabel(progress, f"{row}, {which}: embed")
        vectors = embed_cohort(one, chosen.cohort, "backbone", chosen.rows, told, cache)
        lines.append(
            {
                "method": row if which == "trained" else f"{row}, untrained",
                "silhouette": round(silhouette(vectors, chosen.names), 3),
                f"{N_NEIGHBOURS} nearest agree": f"{100 * neighbour_agreement(vectors, chosen.names):.1f}%",
                "by chance": f"{100 * chance_agreement(chosen.names):.1f}%",
                "recordings": len(chosen.rows),
            }
        )
        if which == "trained":
            figure = scatter.draw(project(vectors), chosen.names, f"{row}: {chosen.task} of {chosen.cohort.name}")
    assert figure is not None
    return figure, lines


def silhouette(vectors: NDArray[np.floating], names: Sequence[str]) -> float:
    """Mean silhouette in the embedding itself (cosine distance), -1 to 1; t-SNE's own distances mean nothing."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(_unit(vectors), np.asarray(names), metric="cosine"))


def neighbour_agreement(vectors: NDArray[np.floating], names: Sequence[str], n: int = N_NEIGHBOURS) -> float:
    """How many of a recording's n nearest others (cosine) have its class, 0 to 1; the mean over classes, so that a
    frequent one does not decide."""
    unit, of = _unit(vectors), np.asarray(names)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    n = min(n, len(of) - 1)
    nearest = np.argpartition(-alike, n - 1, axis=1)[:, :n]
    same = (of[nearest] == of[:, None]).mean(axis=1)
    return float(np.mean([same[of == name].mean() for name in np.unique(of)]))


def chance_agreement(names: Sequence[str]) -> float:
    """What `agreement` would be if neighbours were drawn at random."""
    counts = np.unique(np.asarray(names), return_counts=True)[1]
    return float(np.mean((counts - 1) / (len(names) - 1)))


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = np.asarray(vectors, dtype=np.float64)
    unit: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit
