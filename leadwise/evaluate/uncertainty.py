"""Retrieval by the uncertainty of the queries, for methods whose embeddings are Gaussians (`ranks_by_distance`).

With unit means, the expected squared distance of two Gaussians is 2 - 2 cos + v_i + v_j, where v is the total variance, the
uncertainty. An item's place in the ranking of a query therefore depends on cos - v_j / 2. Queries are divided into thirds by
their own uncertainty: where it means something, recall falls from the first third to the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.metrics.bootstrap import percentile_interval
from leadwise.evaluate.metrics.score import Floats, Interval
from leadwise.progress import Progress
from leadwise.run import Run

PART = "uncertainty"
DISTANCE = "expected squared distance"  # of Gaussians, in JSON
THIRDS = ("least uncertain third", "middle third", "most uncertain third")


@dataclass(frozen=True)
class ThirdScores:
    """Scores of the queries of one third by uncertainty."""

    name: str
    n_queries: int
    uncertainty: Interval  # least and largest
    recall: dict[int, float]  # by k
    recall_interval: dict[int, Interval]
    median_rank: float

    def to_json(self) -> dict[str, Any]:
        return {
            "third": self.name,
            "n_queries": self.n_queries,
            "uncertainty": list(self.uncertainty),
            "recall": {str(k): value for k, value in self.recall.items()},
            "recall_interval": {str(k): list(interval) for k, interval in self.recall_interval.items()},
            "median_rank": self.median_rank,
        }

    def row(self) -> dict[str, Any]:
        """Return the row of a table."""
        low, high = self.uncertainty
        cells = {
            f"recall@{k}": f"{value:.3f} ({self.recall_interval[k][0]:.3f}-{self.recall_interval[k][1]:.3f})"
            for k, value in self.recall.items()
        }
        return {
            "queries": self.name, "n": self.n_queries, PART: f"{low:.3g}-{high:.3g}", **cells,
            "median rank": f"{self.median_rank:.4g}",
        }  # fmt: skip


def ecg_uncertainties(
    run: Run,
    cohort: Cohort,
    rows: NDArray[np.int64],
    progress: Progress | None = None,
    window: str | None = None,
) -> Floats:
    """Return the uncertainties (n,) of the ECGs of a cohort's rows."""
    cache = run.cache_folder
    return embed_cohort(run, cohort, PART, rows, progress, cache, window)[:, 0].astype(np.float64)


def by_thirds(
    uncertainty: Floats, hits: Mapping[int, Floats], ranks: Floats, weights: Floats, counts: Floats | None = None
) -> tuple[ThirdScores, ...]:
    """Return the scores of the queries in thirds of their uncertainty; none for fewer than three queries.

    Args:
        uncertainty: (Q,) of the queries. Equal ones are divided in their order.
        hits: k -> (Q,) hits of each query; of several rankings of a query their sum.
        ranks: (Q,) rank of the correct item.
        weights: (R, Q) of the queries in each resampling of patients.
        counts: (Q,) number of rankings of each query; default: 1.
    """
    if len(uncertainty) < len(THIRDS):
        return ()
    counts = np.ones(len(uncertainty)) if counts is None else counts
    result = []
    for name, chosen in zip(THIRDS, np.array_split(np.argsort(uncertainty, kind="stable"), len(THIRDS))):
        total = np.maximum(weights[:, chosen] @ counts[chosen], 1e-12)
        values = uncertainty[chosen]
        result.append(
            ThirdScores(
                name,
                len(chosen),
                (float(values.min()), float(values.max())),
                {k: float(each[chosen].sum() / counts[chosen].sum()) for k, each in hits.items()},
                {k: percentile_interval(weights[:, chosen] @ each[chosen] / total) for k, each in hits.items()},
                float(np.median(ranks[chosen])),
            )
        )
    return tuple(result)


def percentiles(values: Floats, chosen: Sequence[int] | NDArray[np.integer]) -> Floats:
    """Return the share of all `values` (n,) below each chosen one, in percent."""
    ordered = np.sort(values)
    shares: Floats = 100 * np.searchsorted(ordered, values[np.asarray(chosen)]) / len(values)
    return shares
