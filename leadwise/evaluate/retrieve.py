"""ECG <-> report retrieval in the shared space: the right report for an ECG, the right ECG for a report, by cosine.

Reports that read the same after cleaning are one report. An ECG looks among the distinct reports for its own; a distinct
report looks among the ECGs for any that has it, the first found counts. Recall@k is the share of queries that find it
among the first k, the rank is its place from 1. Ties are broken by chance, in expectation: an encoder that gives every
pair the same cosine scores what chance does. Beside it stand the chance level, the untrained twin, and pairs shuffled
between patients, which show what always naming the commonest reports would find. Intervals are 95 %, by bootstrap over
patients; a distinct report weighs the same however many ECGs have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import Features, count_training_patients, embed_cohort
from leadwise.evaluate.metrics.bootstrap import N_REPLICATES, permute_across_patients, resample_patients
from leadwise.evaluate.metrics.score import Floats, Interval
from leadwise.evaluate.text_embeddings import embed_texts, unit
from leadwise.progress import Progress, relabel
from leadwise.run import Run

KS = (1, 5, 10)
N_SHUFFLES = 100
_QUERIES_AT_ONCE = 512
_DECIMALS = 9  # cosines that differ by less are a tie: the order of a sum is no evidence

Ints = NDArray[np.int64]


class RetrievalError(ValueError):
    """A split that retrieval cannot be scored on; the message says which and why."""


@dataclass(frozen=True)
class MatchRanks:
    """Where Q queries find their first right item: above, m right and t wrong ones that tie at its score."""

    above: Ints
    right: Ints
    wrong: Ints

    def hits(self, k: int) -> Floats:
        """(Q,) chance of a right item among the first k, over the order of ties."""
        left = np.clip(k - self.above, 0, None)  # places left for the tie
        certain = left > self.wrong  # then a right one must be among them
        drawn = np.where(certain, 0, left)
        missed = np.exp(_log_choose(self.wrong, drawn) - _log_choose(self.wrong + self.right, drawn))
        result: Floats = np.where(certain, 1.0, 1.0 - missed)
        return result

    def ranks(self) -> Floats:
        """(Q,) expected place from 1 of the first right item."""
        return self.above + (self.right + self.wrong + 1) / (self.right + 1)


@dataclass(frozen=True)
class DirectionScores:
    """One direction's scores."""

    n_queries: int
    n_items: int
    recall: dict[int, float]  # by k
    recall_interval: dict[int, Interval]
    median_rank: float
    median_rank_interval: Interval
    chance_recall: dict[int, float]
    chance_median_rank: float
    shuffled_recall: dict[int, float] | None  # None: one patient holds over half of the recordings
    shuffled_interval: dict[int, Interval] | None
    shuffled_median_rank: float | None
    untrained_recall: dict[int, float]
    untrained_median_rank: float

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = dict(vars(self))
        for key, value in told.items():
            if isinstance(value, dict):
                told[key] = {str(k): list(at) if isinstance(at, tuple) else at for k, at in value.items()}
            elif isinstance(value, tuple):
                told[key] = list(value)
        return told

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The table's lines: trained with intervals, and what it is to be held against."""
        lines: list[tuple[str, dict[int, float], float]] = [
            ("untrained", self.untrained_recall, self.untrained_median_rank),
            ("chance", self.chance_recall, self.chance_median_rank),
        ]
        if self.shuffled_recall is not None and self.shuffled_median_rank is not None:
            lines.insert(1, ("shuffled pairs", self.shuffled_recall, self.shuffled_median_rank))
        low, high = self.median_rank_interval
        trained: dict[str, Any] = {"direction": name, "features": "trained"}
        for k, value in self.recall.items():
            trained[f"recall@{k}"] = f"{value:.3f} ({self.recall_interval[k][0]:.3f}-{self.recall_interval[k][1]:.3f})"
        trained["median rank"] = f"{self.median_rank:g} ({low:g}-{high:g}) of {self.n_items}"
        rest = [
            {"direction": name, "features": what}
            | {f"recall@{k}": f"{value:.3f}" for k, value in recall.items()}
            | {"median rank": f"{rank:.4g}"}
            for what, recall, rank in lines
        ]
        return [trained, *rest]


@dataclass(frozen=True)
class RetrievalReport:
    """A run's retrieval scores on one split of a cohort."""

    cohort: str
    run: str
    split: str
    fingerprints: dict[str, str]
    n_training_patients: int  # people of the split that the run was pre-trained on: must be 0
    n_records: int
    n_without_report: int  # left out
    n_reports: int  # distinct after cleaning
    directions: dict[str, DirectionScores]  # ecg_to_report, report_to_ecg

    def to_json(self) -> dict[str, Any]:
        told = {key: value for key, value in vars(self).items() if key not in ("directions", "n_training_patients")}
        sides = {name: side.to_json() for name, side in self.directions.items()}
        return {"command": "retrieve", **told, "n_people_seen_in_pretraining": self.n_training_patients, **sides}

    def rows(self) -> list[dict[str, Any]]:
        """The table, both directions."""
        arrows = {"ecg_to_report": "ECG → report", "report_to_ecg": "report → ECG"}
        return [row for name, side in self.directions.items() for row in side.rows(arrows[name])]


def run_retrieval(run: Run, cohort: Cohort, split: str = "test", progress: Progress | None = None) -> RetrievalReport:
    """Retrieval scores in both directions, with untrained twin, shuffled control and chance level.

    Raises:
        NoTextEncoderError: the run has no text encoder.
        RetrievalError: fewer than two distinct reports in the split.
    """
    every = cohort.rows(split)
    cleaned = [reports.clean(text) for text in cohort.reports.take(every)]
    there = np.array([bool(text) for text in cleaned], dtype=bool)
    rows = every[there]
    distinct, report_of = np.unique([text for text in cleaned if text], return_inverse=True)
    if len(distinct) < 2:
        raise RetrievalError(
            f"cohort {cohort.name}: {len(distinct)} distinct reports in split '{split}'; retrieval needs two or more"
        )
    texts = [str(text) for text in distinct]
    patients = np.array(cohort.patients.take(rows))
    cache = run.folder / "embeddings" if run.folder else None
    twin = run.untrained()
    sides = {}
    for name, one in (("trained", run), ("untrained", twin)):
        of_texts = embed_texts(one, texts, relabel(progress, f"read, {name}"))
        sides[name] = embed_cohort(one, cohort, "shared", rows, relabel(progress, f"embed, {name}"), cache), of_texts
    return RetrievalReport(
        cohort=cohort.name,
        run=run.name,
        split=split,
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        n_training_patients=count_training_patients(run, cohort, rows),
        n_records=len(rows),
        n_without_report=int((~there).sum()),
        n_reports=len(distinct),
        directions=score_directions(sides["trained"], sides["untrained"], report_of.astype(np.int64), patients),
    )


def score_directions(
    trained: tuple[Features, Features], untrained: tuple[Features, Features], report_of: Ints, patients: NDArray[Any]
) -> dict[str, DirectionScores]:
    """Scores of both directions.

    Args:
        trained: embeddings of N ECGs (N, D) and of U distinct reports (U, D); untrained: the same of the twin.
        report_of: (N,) which report each ECG has; every report has one ECG or more.
        patients: N names.
    """
    n = np.arange(len(report_of), dtype=np.int64)
    of_patient = np.unique(patients, return_inverse=True)[1]
    shuffles = []
    if 2 * int(np.bincount(of_patient).max()) <= len(n):
        rng = np.random.default_rng(0)
        shuffles = [report_of[permute_across_patients(of_patient, rng)] for _ in range(N_SHUFFLES)]
    counts = np.bincount(report_of)
    by_record: Floats = resample_patients(patients, N_REPLICATES, seed=0).astype(np.float64)  # (R, N)
    by_report: Floats = np.stack(  # (R, U)
        [np.bincount(report_of, row / counts[report_of], len(counts)) for row in by_record]
    ).astype(np.float64)

    def side(turned: bool, weight: Floats) -> DirectionScores:
        def places(of: tuple[Features, Features], truths: Sequence[Ints]) -> list[MatchRanks]:
            pairs = [(truth, n) if turned else (n, truth) for truth in truths]
            return rank_matches(*(of[::-1] if turned else of), pairs)

        found, *shuffled = places(trained, [report_of, *shuffles])
        right = counts if turned else np.ones(len(n), dtype=np.int64)
        chance = MatchRanks(np.zeros_like(right), right, (len(n) if turned else len(counts)) - right)
        return _direction(found, chance, shuffled, places(untrained, [report_of])[0], weight)

    return {"ecg_to_report": side(False, by_record), "report_to_ecg": side(True, by_report)}


def rank_matches(queries: Features, items: Features, truths: Sequence[tuple[Ints, Ints]]) -> list[MatchRanks]:
    """For each of several truths, where Q queries (Q, D) find their first right item among G (G, D), by cosine.

    Args:
        truths: each (P,) query numbers and (P,) item numbers: pairs that belong together, each query in one or more.
    """
    asked, offered = unit(queries), unit(items)
    parts: list[list[tuple[Ints, Ints, Ints]]] = [[] for _ in truths]
    for begin in range(0, len(asked), _QUERIES_AT_ONCE):
        scores = np.round(asked[begin : begin + _QUERIES_AT_ONCE] @ offered.T, _DECIMALS)  # (q, G)
        ordered = np.sort(scores, axis=1)
        for truth, part in zip(truths, parts):
            inside = (truth[0] >= begin) & (truth[0] < begin + len(scores))
            query, item = truth[0][inside] - begin, truth[1][inside]
            of_pair = scores[query, item]
            best = np.full(len(scores), -np.inf)
            np.maximum.at(best, query, of_pair)
            above = np.array([len(row) - np.searchsorted(row, at, "right") for row, at in zip(ordered, best)])
            reached = np.array([len(row) - np.searchsorted(row, at, "left") for row, at in zip(ordered, best)])
            right = np.bincount(query[of_pair == best[query]], minlength=len(scores))
            part.append((above, right, reached - above - right))
    return [MatchRanks(*(np.concatenate(column) for column in zip(*part))) for part in parts]


def _direction(
    found: MatchRanks, chance: MatchRanks, shuffled: Sequence[MatchRanks], untrained: MatchRanks, weight: Floats
) -> DirectionScores:
    """The scores of one direction; weight (R, Q) are the queries' weights in each resampling of patients."""
    total = weight.sum(axis=1)
    shuffled_hits = {k: np.array([places.hits(k).mean() for places in shuffled]) for k in KS}
    return DirectionScores(
        n_queries=len(found.above),
        n_items=int(chance.right[0] + chance.wrong[0]),
        recall={k: float(found.hits(k).mean()) for k in KS},
        recall_interval={k: _interval(weight @ found.hits(k) / total) for k in KS},
        median_rank=float(np.median(found.ranks())),
        median_rank_interval=_interval(_weighted_medians(found.ranks(), weight)),
        chance_recall={k: float(chance.hits(k).mean()) for k in KS},
        chance_median_rank=float(np.median(chance.ranks())),
        shuffled_recall={k: float(shuffled_hits[k].mean()) for k in KS} if shuffled else None,
        shuffled_interval={k: _interval(shuffled_hits[k]) for k in KS} if shuffled else None,
        shuffled_median_rank=float(np.mean([np.median(at.ranks()) for at in shuffled])) if shuffled else None,
        untrained_recall={k: float(untrained.hits(k).mean()) for k in KS},
        untrained_median_rank=float(np.median(untrained.ranks())),
    )


def _weighted_medians(values: Floats, weight: Floats) -> Floats:
    """(R,) the median of values (Q,) under each row of weights (R, Q)."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[:, order], axis=1)
    half = np.argmax(reached >= reached[:, -1:] / 2, axis=1)
    medians: Floats = values[order][half]
    return medians


def _log_choose(n: Ints, k: Ints) -> Floats:
    """log of n over k, elementwise; -inf where k > n."""
    inside = k <= n
    values = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(np.where(inside, n - k, 0) + 1.0)
    result: Floats = np.where(inside, values, -np.inf)
    return result


def _interval(values: Floats) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
