"""Retrieval between ECGs and heart images: pools, scores of planted similarity, the sum over phases, the oracle's file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from test_ecg_cmr import VOLUME, make_folder, options_for

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.simulator.paired.cohort import INFARCT_NOTE
from leadwise.data.sources import ecg_cmr
from leadwise.evaluate.retrieve import RetrievalError
from leadwise.evaluate.volume_retrieval import directions, draw_pools, has_phases, image_parts, read_oracle, score_pools


def vectors(n: int = 120, width: int = 16, noise: float = 0.6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of ECGs and of the images of the same people, which agree up to noise."""
    rng = np.random.default_rng(seed)
    ecg = rng.normal(size=(n, width))
    return ecg, ecg + noise * rng.normal(size=(n, width))


def test_a_pool_has_each_patient_once_and_all_take_part() -> None:
    patients = np.array([f"p{row // 2}" for row in range(120)])
    pools = draw_pools(patients, 16)
    assert pools.shape == (20, 16)
    assert all(len(set(patients[pool])) == 16 for pool in pools)
    counts = np.bincount(np.unique(patients, return_inverse=True)[1][pools.ravel()], minlength=60)
    assert 3 <= counts.min() <= counts.max() <= 8
    assert np.array_equal(pools, draw_pools(patients, 16))
    assert not np.array_equal(pools, draw_pools(patients, 16, seed=1))


def test_scores_of_the_same_embeddings_are_perfect_and_of_shuffled_ones_at_chance() -> None:
    ecg, image = vectors()
    patients = np.arange(120).astype(str)
    pools = draw_pools(patients, 64)
    same = score_pools(ecg, ecg, pools, patients)
    assert (same.recall, same.median_rank) == ({1: 1.0, 5: 1.0, 10: 1.0}, 1.0)

    # noise lowers recall; shuffled pairs are at chance
    noisy = score_pools(ecg, vectors(noise=2.0)[1], pools, patients)
    low, high = noisy.recall_interval[1]
    assert 0.1 < low < noisy.recall[1] < high < 1
    shuffled = score_pools(ecg, np.roll(image, 1, axis=0), pools, patients)
    assert shuffled.chance == {1: 1 / 64, 5: 5 / 64, 10: 10 / 64}
    assert shuffled.recall[10] < 0.3
    assert 20 < shuffled.median_rank < 45


def test_recall_is_that_of_a_double_loop() -> None:
    ecg, image = vectors(40, noise=2.0)
    patients = np.arange(40).astype(str)
    pools = draw_pools(patients, 10, n_pools=3)
    hits = []
    for pool in pools:
        a = ecg[pool] / np.linalg.norm(ecg[pool], axis=1, keepdims=True)
        b = image[pool] / np.linalg.norm(image[pool], axis=1, keepdims=True)
        cosine = a @ b.T
        hits += [int((cosine[i] > cosine[i, i]).sum() < 5) for i in range(10)]
    assert score_pools(ecg, image, pools, patients).recall[5] == pytest.approx(np.mean(hits))


def test_the_phases_together_are_searched_by_the_sum_of_their_similarities() -> None:
    ecg, first = vectors(30, noise=1.0)
    second = vectors(30, noise=1.0)[0] * 3 + np.random.default_rng(1).normal(size=(30, 16))
    pairs = directions(ecg.astype(np.float32), {"ed": first.astype(np.float32), "es": second.astype(np.float32)})
    assert list(pairs) == ["ECG → ED", "ED → ECG", "ECG → ES", "ES → ECG", "ECG → ED + ES", "ED + ES → ECG"]
    queries, items = pairs["ECG → ED + ES"]
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (ecg, first, second)]
    expected = unit[0] @ unit[1].T + unit[0] @ unit[2].T
    assert queries @ items.T == pytest.approx(expected, abs=1e-5)
    assert list(directions(ecg.astype(np.float32), {"ed": first.astype(np.float32)})) == ["ECG → ED", "ED → ECG"]


def test_the_parts_to_search_are_the_phases() -> None:
    assert image_parts(("ed", "es", "both")) == ("ed", "es")
    assert image_parts(("both",)) == ("both",)
    assert image_parts(()) == ("shared",)


def test_a_cohort_in_another_shape_is_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    write(ecg_cmr.read_source(make_folder(tmp_path / "source", 4), options_for()), tmp_path / "cohort")
    cohort = Cohort.open(tmp_path / "cohort")
    assert has_phases(cohort, np.arange(4), VOLUME).all()
    with pytest.raises(CohortError, match=r"volume.rows = 24, not 25; set volume.slices"):
        has_phases(cohort, np.arange(4), dataclasses.replace(VOLUME, rows=25))


def test_the_oracle_is_read_from_the_file_of_a_simulation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "oracle.json"
    path.write_text(json.dumps({"auroc": {}, "retrieval": {"64": {"r_at_1": 0.25, "r_at_10": 0.82}}}))
    assert read_oracle(path) == {64: {1: 0.25, 10: 0.82}}
    assert not caplog.records
    path.write_text(json.dumps({"retrieval": {"64": {"r_at_1": 0.25}}, "note": INFARCT_NOTE}))
    assert read_oracle(path) == {64: {1: 0.25}}
    assert "may exceed it" in caplog.text
    path.write_text('{"lvedv": 0.5}')
    with pytest.raises(
        RetrievalError, match=r"oracle.json has no recall of an oracle; give the oracle.json that `leadwise"
    ):
        read_oracle(path)
