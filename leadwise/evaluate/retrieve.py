"""Retrieval between ECGs and reports in the shared space, by cosine, in both directions. A method whose embeddings are
Gaussians ranks by their expected squared distance, and recall is also reported in thirds of the queries' uncertainty.

Reports with the same text after cleaning count as one report. ECG to report: the items are the distinct reports, one of
which is correct. Report to ECG: the items are the ECGs, and every ECG with that report is correct; the first one counts.
Recall@k is the share of queries with a correct item among the first k; the rank counts from 1. Ties are broken at random, in
expectation: an encoder with the same cosine for every pair scores at chance level. The references are the chance level, the
untrained encoder, and pairs shuffled between patients, which measure the score of always ranking the commonest reports
first. Intervals are 95 %, by bootstrap over patients; a distinct report has the same weight however many ECGs have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from leadwise.data import crops, reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import LeftOut
from leadwise.evaluate import uncertainty
from leadwise.evaluate.embed import Features, embed_cohort, training_overlap, usable
from leadwise.evaluate.metrics.bootstrap import N_REPLICATES, permute_across_patients, resample_patients
from leadwise.evaluate.metrics.score import Floats, Interval
from leadwise.evaluate.text_embeddings import embed_texts, text_uncertainties, unit
from leadwise.evaluate.uncertainty import ThirdScores
from leadwise.progress import Progress, relabel
from leadwise.run import Run
from leadwise.trained_on import TrainingOverlap

KS = (1, 5, 10)
N_SHUFFLES = 100
_QUERIES_AT_ONCE = 512
_DECIMALS = 9  # cosines that differ by less are ties: such differences come from the summation order

_ARROWS = {"ecg_to_report": "ECG → report", "report_to_ecg": "report → ECG"}

Ints = NDArray[np.int64]
Uncertainties = tuple[Floats, Floats]  # of N ECGs and of U distinct reports


class RetrievalError(ValueError):
    """A split on which retrieval cannot be scored; the message names it and the reason."""


@dataclass(frozen=True)
class MatchRanks:
    """Ranks of the first correct item of Q queries, with ties at its score."""

    n_above: Ints  # (Q,) items with a higher score
    n_correct: Ints  # (Q,) correct items at its score
    n_wrong: Ints  # (Q,) wrong items at its score

    def hits(self, k: int) -> Floats:
        """Return the probability (Q,) of a correct item among the first k, over the random order of ties."""
        free = np.clip(k - self.n_above, 0, None)  # of the first k ranks, those left for the tied items
        certain = free > self.n_wrong  # then at least one of them is correct
        drawn = np.where(certain, 0, free)
        missed = np.exp(_log_choose(self.n_wrong, drawn) - _log_choose(self.n_wrong + self.n_correct, drawn))
        result: Floats = np.where(certain, 1.0, 1.0 - missed)
        return result

    def ranks(self) -> Floats:
        """Return the expected rank (Q,) of the first correct item, counted from 1."""
        return self.n_above + (self.n_correct + self.n_wrong + 1) / (self.n_correct + 1)


@dataclass(frozen=True)
class DirectionScores:
    """Scores of one direction."""

    n_queries: int
    n_items: int
    recall: dict[int, float]  # by k
    recall_interval: dict[int, Interval]
    median_rank: float
    median_rank_interval: Interval
    chance_recall: dict[int, float]
    chance_median_rank: float
    shuffled_recall: dict[int, float] | None  # None: one patient has over half of the recordings
    shuffled_interval: dict[int, Interval] | None
    shuffled_median_rank: float | None
    untrained_recall: dict[int, float]
    untrained_median_rank: float
    by_uncertainty: tuple[ThirdScores, ...] = ()  # of the trained run, if it ranks by distance

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = dict(vars(self))
        thirds = result.pop("by_uncertainty")
        for key, value in result.items():
            if isinstance(value, dict):
                result[key] = {str(k): list(item) if isinstance(item, tuple) else item for k, item in value.items()}
            elif isinstance(value, tuple):
                result[key] = list(value)
        return result | ({"by_uncertainty": [third.to_json() for third in thirds]} if thirds else {})

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the table rows: the trained run with intervals, and its references."""
        references: list[tuple[str, dict[int, float], float]] = [
            ("untrained", self.untrained_recall, self.untrained_median_rank),
            ("chance", self.chance_recall, self.chance_median_rank),
        ]
        if self.shuffled_recall is not None and self.shuffled_median_rank is not None:
            references.insert(1, ("shuffled pairs", self.shuffled_recall, self.shuffled_median_rank))
        low, high = self.median_rank_interval
        trained: dict[str, Any] = {"direction": name, "features": "trained"}
        for k, value in self.recall.items():
            trained[f"recall@{k}"] = f"{value:.3f} ({self.recall_interval[k][0]:.3f}-{self.recall_interval[k][1]:.3f})"
        trained["median rank"] = f"{self.median_rank:g} ({low:g}-{high:g}) of {self.n_items}"
        reference_rows = [
            {"direction": name, "features": reference}
            | {f"recall@{k}": f"{value:.3f}" for k, value in recall.items()}
            | {"median rank": f"{rank:.4g}"}
            for reference, recall, rank in references
        ]
        return [trained, *reference_rows]


@dataclass(frozen=True)
class RetrievalReport:
    """A run's retrieval scores on one split of a cohort."""

    cohort: str
    run: str
    split: str
    fingerprints: dict[str, str]
    overlap: TrainingOverlap  # of the split with the training of the run: must be empty
    n_records: int
    n_without_report: int  # left out
    n_reports: int  # distinct after cleaning
    directions: dict[str, DirectionScores]  # ecg_to_report, report_to_ecg
    window: str | None = None  # window of longer recordings; None: the run's own setting
    left_out: LeftOut = field(default_factory=LeftOut)  # recordings with a report that the run cannot embed
    by_distance: bool = False  # ranked by the distance of Gaussians instead of the cosine

    def to_json(self) -> dict[str, Any]:
        names = ("cohort", "run", "split", "fingerprints", "n_records", "n_without_report", "n_reports")
        fields = {name: getattr(self, name) for name in names}
        fields |= {"ranked_by": uncertainty.DISTANCE} if self.by_distance else {}
        window = {} if self.window is None else {"window": self.window}
        directions = {name: scores.to_json() for name, scores in self.directions.items()}
        return {
            "command": "retrieve", **fields, **window, **self.overlap.to_json(), **directions, **self.left_out.to_json()
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of both directions."""
        return [row for name, scores in self.directions.items() for row in scores.rows(_ARROWS[name])]

    def uncertainty_rows(self) -> list[dict[str, Any]]:
        """Return the table of recall in thirds of the queries' uncertainty; empty for a run that ranks by cosine."""
        return [
            {"direction": _ARROWS[name], **third.row()}
            for name, scores in self.directions.items()
            for third in scores.by_uncertainty
        ]


def run_retrieval(
    run: Run, cohort: Cohort, split: str = "test", progress: Progress | None = None, window: str | None = None
) -> RetrievalReport:
    """Score retrieval in both directions, with untrained encoder, shuffled control and chance level.

    Args:
        window: part of each recording that is embedded, see `data/crops.py`; default: the run's own setting.

    Raises:
        EmbedError: the run can embed none of the recordings.
        WindowError: `window` is unknown, or MERL's, which only the legacy protocol uses.
        NoTextEncoderError: the run has no text encoder.
        RetrievalError: fewer than two distinct reports in the split.
    """
    # recordings with a report that the run can embed, and the distinct reports after cleaning
    crops.check_strict(window)
    split_rows = cohort.rows(split)
    has_report = np.array([bool(reports.clean(text)) for text in cohort.reports.take(split_rows)], dtype=bool)
    rows, left_out = usable(run, cohort, split_rows[has_report], window)
    cleaned = [reports.clean(text) for text in cohort.reports.take(rows)]
    distinct, report_of = np.unique(cleaned, return_inverse=True)
    if len(distinct) < 2:
        raise RetrievalError(
            f"cohort {cohort.name}: {len(distinct)} distinct reports in split '{split}'; retrieval needs two or more"
        )

    # embed ECGs and reports with the trained and the untrained run
    texts = [str(text) for text in distinct]
    patients = np.array(cohort.patients.take(rows))
    cache, by_distance = run.cache_folder, run.method.ranks_by_distance
    embeddings, uncertainties = {}, {}
    for name, encoder in (("trained", run), ("untrained", run.untrained())):
        text_embedding = embed_texts(encoder, texts, relabel(progress, f"embed reports, {name}"))
        ecg_progress = relabel(progress, f"embed, {name}")
        ecg_embedding = embed_cohort(encoder, cohort, "shared", rows, ecg_progress, cache, window)
        embeddings[name] = ecg_embedding, text_embedding
        if by_distance:
            of_ecgs = uncertainty.ecg_uncertainties(encoder, cohort, rows, ecg_progress, window)
            uncertainties[name] = of_ecgs, text_uncertainties(encoder, texts)
    return RetrievalReport(
        cohort=cohort.name,
        run=run.name,
        split=split,
        fingerprints={"cohort": cohort.fingerprint, "run": run.fingerprint},
        overlap=training_overlap(run, cohort, rows, split),
        n_records=len(rows),
        n_without_report=int((~has_report).sum()),
        n_reports=len(distinct),
        directions=score_directions(
            embeddings["trained"],
            embeddings["untrained"],
            report_of.astype(np.int64),
            patients,
            uncertainties.get("trained"),
            uncertainties.get("untrained"),
        ),
        window=window,
        left_out=left_out,
        by_distance=by_distance,
    )


def score_directions(
    trained: tuple[Features, Features],
    untrained: tuple[Features, Features],
    report_of: Ints,
    patients: NDArray[Any],
    trained_uncertainty: Uncertainties | None = None,
    untrained_uncertainty: Uncertainties | None = None,
) -> dict[str, DirectionScores]:
    """Score both directions.

    Args:
        trained: embeddings of N ECGs (N, D) and of U distinct reports (U, D); untrained: the same of the untrained run.
        report_of: (N,) the report of each ECG; every report has at least one ECG.
        patients: N names.
        trained_uncertainty: uncertainties of the ECGs (N,) and of the reports (U,): the ranking is by distance;
            untrained_uncertainty: the same of the untrained run.
    """
    # control: each ECG gets the report of another patient's ECG, unless one patient has over half of the recordings
    ecgs = np.arange(len(report_of), dtype=np.int64)
    patient_of = np.unique(patients, return_inverse=True)[1]
    shuffles = []
    if 2 * int(np.bincount(patient_of).max()) <= len(ecgs):
        rng = np.random.default_rng(0)
        shuffles = [report_of[permute_across_patients(patient_of, rng)] for _ in range(N_SHUFFLES)]

    # resampled weights: of an ECG, its patient's count; of a report, the mean over its ECGs
    counts = np.bincount(report_of)
    ecg_weights: Floats = resample_patients(patients, N_REPLICATES, seed=0).astype(np.float64)  # (R, N)
    report_weights: Floats = np.stack(  # (R, U)
        [np.bincount(report_of, row / counts[report_of], len(counts)) for row in ecg_weights]
    ).astype(np.float64)

    def score_direction(from_report: bool, weights: Floats) -> DirectionScores:
        def ranks(
            embeddings: tuple[Features, Features], truths: Sequence[Ints], of_both: Uncertainties | None
        ) -> list[MatchRanks]:
            pairs = [(truth, ecgs) if from_report else (ecgs, truth) for truth in truths]
            of_items = None if of_both is None else of_both[0 if from_report else 1]
            return rank_matches(*(embeddings[::-1] if from_report else embeddings), pairs, of_items)

        trained_ranks, *shuffled = ranks(trained, [report_of, *shuffles], trained_uncertainty)
        n_correct = counts if from_report else np.ones(len(ecgs), dtype=np.int64)
        n_items = len(ecgs) if from_report else len(counts)
        chance = MatchRanks(np.zeros_like(n_correct), n_correct, n_items - n_correct)
        (untrained_ranks,) = ranks(untrained, [report_of], untrained_uncertainty)
        of_queries = None if trained_uncertainty is None else trained_uncertainty[1 if from_report else 0]
        return _direction_scores(trained_ranks, chance, shuffled, untrained_ranks, weights, of_queries)

    return {
        "ecg_to_report": score_direction(False, ecg_weights),
        "report_to_ecg": score_direction(True, report_weights),
    }


def rank_matches(
    queries: Features,
    items: Features,
    truths: Sequence[tuple[Ints, Ints]],
    item_uncertainty: Floats | None = None,
) -> list[MatchRanks]:
    """Rank items (G, D) for queries (Q, D) by cosine and return the ranks of the first correct item, per set of pairs.

    Args:
        truths: sets of correct pairs, each as query numbers (P,) and item numbers (P,); every query is in at least one pair.
        item_uncertainty: (G,) total variances of the items: the ranking is by the expected squared distance.
    """
    query_vectors, item_vectors = unit(queries), unit(items)
    penalty = 0.0 if item_uncertainty is None else item_uncertainty / 2
    parts: list[list[tuple[Ints, Ints, Ints]]] = [[] for _ in truths]
    for begin in range(0, len(query_vectors), _QUERIES_AT_ONCE):
        # cosines of a block of queries, sorted once for all sets of pairs
        scores = np.round(
            query_vectors[begin : begin + _QUERIES_AT_ONCE] @ item_vectors.T - penalty, _DECIMALS
        )  # (q, G)
        ordered = np.sort(scores, axis=1)
        for truth, part in zip(truths, parts):
            # the score of each query's best correct item
            inside = (truth[0] >= begin) & (truth[0] < begin + len(scores))
            query, item = truth[0][inside] - begin, truth[1][inside]
            pair_scores = scores[query, item]
            best = np.full(len(scores), -np.inf)
            np.maximum.at(best, query, pair_scores)

            # items above that score, and correct and wrong items at it
            n_above = np.array([len(row) - np.searchsorted(row, at, "right") for row, at in zip(ordered, best)])
            n_reached = np.array([len(row) - np.searchsorted(row, at, "left") for row, at in zip(ordered, best)])
            n_correct = np.bincount(query[pair_scores == best[query]], minlength=len(scores))
            part.append((n_above, n_correct, n_reached - n_above - n_correct))
    return [MatchRanks(*(np.concatenate(column) for column in zip(*part))) for part in parts]


def _direction_scores(
    trained: MatchRanks,
    chance: MatchRanks,
    shuffled: Sequence[MatchRanks],
    untrained: MatchRanks,
    weights: Floats,
    query_uncertainty: Floats | None = None,
) -> DirectionScores:
    """Return the scores of one direction; `weights` (R, Q) are the query weights in each resampling of patients."""
    thirds: tuple[ThirdScores, ...] = ()
    if query_uncertainty is not None:
        hits = {k: trained.hits(k) for k in KS}
        thirds = uncertainty.by_thirds(query_uncertainty, hits, trained.ranks(), weights)
    total = weights.sum(axis=1)
    shuffled_hits = {k: np.array([ranks.hits(k).mean() for ranks in shuffled]) for k in KS}
    return DirectionScores(
        n_queries=len(trained.n_above),
        n_items=int(chance.n_correct[0] + chance.n_wrong[0]),
        recall={k: float(trained.hits(k).mean()) for k in KS},
        recall_interval={k: _interval(weights @ trained.hits(k) / total) for k in KS},
        median_rank=float(np.median(trained.ranks())),
        median_rank_interval=_interval(_weighted_medians(trained.ranks(), weights)),
        chance_recall={k: float(chance.hits(k).mean()) for k in KS},
        chance_median_rank=float(np.median(chance.ranks())),
        shuffled_recall={k: float(shuffled_hits[k].mean()) for k in KS} if shuffled else None,
        shuffled_interval={k: _interval(shuffled_hits[k]) for k in KS} if shuffled else None,
        shuffled_median_rank=float(np.mean([np.median(ranks.ranks()) for ranks in shuffled])) if shuffled else None,
        untrained_recall={k: float(untrained.hits(k).mean()) for k in KS},
        untrained_median_rank=float(np.median(untrained.ranks())),
        by_uncertainty=thirds,
    )


def _weighted_medians(values: Floats, weights: Floats) -> Floats:
    """Return the medians (R,) of values (Q,) under each row of weights (R, Q), as `np.median` of whole repetitions.

    Where half of the weight is on each side of a gap, it is the middle of the gap.
    """
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[:, order], axis=1)
    half, near = cumulative[:, -1:] / 2, 1e-9 * cumulative[:, -1:]
    lower = np.argmax(cumulative >= half - near, axis=1)
    upper = np.argmax(cumulative > half + near, axis=1)
    medians: Floats = (values[order][lower] + values[order][upper]) / 2
    return medians


def _log_choose(n: Ints, k: Ints) -> Floats:
    """Return the logarithm of the binomial coefficient (n, k), elementwise; -inf where k > n."""
    inside = k <= n
    values = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(np.where(inside, n - k, 0) + 1.0)
    result: Floats = np.where(inside, values, -np.inf)
    return result


def _interval(values: Floats) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
