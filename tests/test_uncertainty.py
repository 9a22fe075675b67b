"""Retrieval of Gaussians: ranking by the expected squared distance, and recall by the uncertainty of the queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from planted import PlantedCohort, PlantedRun, SeeingMethod
from torch import Tensor

from leadwise.batch import Batch
from leadwise.data.cohort.cohort import TextColumn
from leadwise.evaluate.retrieve import rank_matches, run_retrieval, score_directions
from leadwise.evaluate.search import rows, search
from leadwise.evaluate.uncertainty import THIRDS, by_thirds, percentiles
from leadwise.evaluate.volume_retrieval import (
    directions,
    draw_pools,
    score_pools,
    uncertainties_of_directions,
)
from leadwise.pages.search import build_page


class GaussianMethod(SeeingMethod):
    """A method with Gaussians, whose ECGs are the more uncertain the smaller their embedding is."""

    parts = ("backbone", "shared", "uncertainty")
    ranks_by_distance = True

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        if part != "uncertainty":
            return super().embed_ecg(batch, part)
        return 1 / (1 + 20 * super().embed_ecg(batch).abs().sum(1, keepdim=True))

    def text_uncertainty(self, texts: list[str]) -> Tensor:
        return torch.tensor([0.1 * len(text.split()) for text in texts])


class GaussianRun(PlantedRun):
    def __init__(self, folder: Path | None = None, seeing: bool = True) -> None:
        super().__init__(folder, seeing)
        self.method = GaussianMethod(seeing)

    def untrained(self) -> GaussianRun:
        return GaussianRun(seeing=False)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_items_are_ranked_by_the_expected_squared_distance() -> None:
    rng = np.random.default_rng(0)
    queries, items, v = rng.normal(size=(7, 4)), rng.normal(size=(9, 4)), rng.random(9)
    truth = np.arange(7), rng.integers(9, size=7)
    (ranks,) = rank_matches(queries, items, [truth], v)
    for q, wanted in zip(*truth):
        distance = [float(((unit(queries)[q] - unit(items)[j]) ** 2).sum() + v[j]) for j in range(9)]
        assert ranks.n_above[q] == sum(one < distance[wanted] for one in distance)
    assert (rank_matches(queries, items, [truth])[0].n_above != ranks.n_above).any()


def test_thirds_are_of_the_queries_in_the_order_of_their_uncertainty() -> None:
    uncertainty = np.array([0.5, 0.1, 0.9, 0.2, 0.8, 0.4])
    hits = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    counts = np.array([1.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    thirds = by_thirds(uncertainty, {1: hits * counts}, np.arange(6.0), np.ones((3, 6)), counts)
    assert [third.name for third in thirds] == list(THIRDS)
    assert [third.uncertainty for third in thirds] == [(0.1, 0.2), (0.4, 0.5), (0.8, 0.9)]
    assert [third.recall[1] for third in thirds] == [1.0, 0.5, 0.0]
    assert [third.median_rank for third in thirds] == [2.0, 2.5, 3.0]
    assert thirds[0].recall_interval[1] == (1.0, 1.0)
    assert by_thirds(uncertainty[:2], {1: hits[:2]}, np.arange(2.0), np.ones((3, 2))) == ()
    assert percentiles(uncertainty, [1, 2]).tolist() == [0.0, pytest.approx(500 / 6)]


def planted(n: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of ECGs and images that agree the less the larger the uncertainty (n,) is."""
    rng = np.random.default_rng(1)
    uncertainty = np.linspace(0.05, 1.5, n)
    image = rng.normal(size=(n, 16))
    ecg = image + 2 * uncertainty[:, None] * rng.normal(size=(n, 16))
    return ecg, image, uncertainty, np.arange(n).astype(str)


def test_recall_falls_with_the_uncertainty_of_the_query() -> None:
    ecg, image, uncertainty, people = planted()
    flat = np.full(90, 0.3)
    scores = score_pools(ecg, image, draw_pools(people, 30), people, (uncertainty, flat))
    plain = score_pools(ecg, image, draw_pools(people, 30), people)
    assert scores.recall == plain.recall  # items are equally uncertain
    recall = [third.recall[1] for third in scores.by_uncertainty]
    assert recall[0] > recall[1] > recall[2]
    assert sum(third.n_queries for third in scores.by_uncertainty) == 90
    assert len(scores.to_json()["by_uncertainty"]) == 3
    assert "by_uncertainty" not in plain.to_json()

    # of both directions with reports; an uncertain item comes later
    pair = (ecg, image)
    sides = score_directions(pair, pair, np.arange(90), people, (uncertainty, flat), (flat, flat))
    recall = [third.recall[1] for third in sides["ecg_to_report"].by_uncertainty]
    assert recall[0] > recall[2]
    last = flat.copy()
    last[0] = 5.0
    sides = score_directions(pair, pair, np.arange(90), people, (flat, last), (flat, flat))
    without = score_directions(pair, pair, np.arange(90), people)
    assert sides["ecg_to_report"].recall[1] == pytest.approx(without["ecg_to_report"].recall[1] - 1 / 90)
    assert "by_uncertainty" not in without["ecg_to_report"].to_json()


def test_the_uncertainty_of_summed_phases_is_their_mean() -> None:
    ecg, first, second = np.array([0.1, 0.2]), np.array([0.3, 0.5]), np.array([0.5, 0.5])
    vectors = np.eye(2, dtype=np.float32)
    both = uncertainties_of_directions(ecg, {"ed": first, "es": second})
    assert list(both) == list(directions(vectors, {"ed": vectors, "es": vectors}))
    assert [one.tolist() for one in both["ECG → ED + ES"]] == [[0.1, 0.2], [0.4, 0.5]]
    assert [one.tolist() for one in both["ES → ECG"]] == [[0.5, 0.5], [0.1, 0.2]]


@pytest.fixture
def cohort() -> PlantedCohort:
    cohort = PlantedCohort()
    words = np.array(cohort.tasks["finding"])
    texts = [" ".join(words[labels > 0]) or "nothing" for labels in cohort.truth]
    cohort.reports = TextColumn(pa.chunked_array([texts]))
    return cohort


def test_a_report_has_the_ranking_and_the_thirds(cohort: PlantedCohort) -> None:
    report = run_retrieval(GaussianRun(), cohort)
    table = report.to_json()
    assert table["ranked_by"] == "expected squared distance"
    assert len(table["ecg_to_report"]["by_uncertainty"]) == 3
    assert len(report.uncertainty_rows()) == 6
    assert {"direction", "queries", "n", "uncertainty", "recall@1", "median rank"} <= set(report.uncertainty_rows()[0])
    plain = run_retrieval(PlantedRun(), cohort)
    assert "ranked_by" not in plain.to_json()
    assert plain.uncertainty_rows() == []


def test_a_search_has_the_uncertainty_of_the_text_and_of_each_ecg(cohort: PlantedCohort) -> None:
    result = search(GaussianRun(), cohort, "alpha beta", top=5)
    assert result.text_uncertainty == pytest.approx(0.2)
    for hit in result.hits:
        assert hit.distance == pytest.approx(2 - 2 * hit.cosine + hit.uncertainty + 0.2, abs=1e-6)
        assert 0 <= hit.percentile < 100
    distances = [hit.distance for hit in result.hits]
    assert distances == sorted(distances)
    assert list(rows(result.hits)[0])[3:7] == ["cosine", "distance", "uncertainty", "percentile"]
    table = result.to_json()
    assert table["text_uncertainty"] == pytest.approx(0.2)
    assert table["found"][0]["uncertainty"] == result.hits[0].uncertainty

    # a run that ranks by cosine has none of it
    plain = search(PlantedRun(), cohort, "alpha beta", top=5)
    assert set(plain.to_json()["found"][0]) == {"record", "split", "cosine", "labels"}
    assert "text_uncertainty" not in plain.to_json()
    assert plain.uncertainty_line == ""


def test_the_page_names_the_uncertainty(cohort: PlantedCohort) -> None:
    cohort.signal = lambda row: (np.zeros((200, 12), np.float32), 100.0)
    run = GaussianRun()
    page = build_page(search(run, cohort, "alpha", top=2), cohort, run).html()
    assert "The text has an uncertainty of 0.1" in page
    assert "percentile" in page
