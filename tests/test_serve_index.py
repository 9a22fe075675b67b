"""The nearest embeddings by the exact product and by the index, whose file is refused if it is of other embeddings."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from leadwise.serve import search_index
from leadwise.serve.embedding_map import MOST_POINTS, compute_map, outlier_scores, principal_components, stored_map
from leadwise.serve.search_index import IndexFileError, NearestSearch


def unit_vectors(n: int = 3000, width: int = 16, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_the_exact_search_is_a_plain_loop() -> None:
    vectors, query = unit_vectors(200), unit_vectors(1, seed=1)[0]
    vectors[7] = vectors[90] = query  # equal cosines: the first position first
    places, scores = NearestSearch(vectors).nearest(query, 5)
    plain = sorted(range(200), key=lambda k: (-round(float(vectors[k] @ query), 5), k))[:5]
    assert places.tolist() == plain
    assert places[:2].tolist() == [7, 90]
    np.testing.assert_allclose(scores, [vectors[k] @ query for k in plain], rtol=1e-5)
    assert len(NearestSearch(vectors[:3]).nearest(query, 5)[0]) == 3


def test_without_the_library_a_large_cohort_is_searched_exactly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(search_index.importlib.util, "find_spec", lambda name: None)
    assert NearestSearch(unit_vectors(100), large=50).name == "exact"
    assert "pip install 'leadwise[index]'" in caplog.text


def test_the_index_agrees_with_the_exact_search_and_belongs_to_its_embeddings(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs the extra index")
    vectors, path = unit_vectors(), tmp_path / "index.bin"
    search, exact = NearestSearch(vectors, path, large=100), NearestSearch(vectors)
    assert search.name.startswith("faiss")
    queries = unit_vectors(50, seed=2)
    n_equal = sum(len(set(search.nearest(q, 10)[0]) & set(exact.nearest(q, 10)[0])) for q in queries)
    assert n_equal >= 0.95 * 500

    # read again; refused for other embeddings, or if damaged
    again = NearestSearch(vectors, path, large=100)
    for query in queries[:5]:
        np.testing.assert_array_equal(again.nearest(query, 10)[0], search.nearest(query, 10)[0])
    with pytest.raises(IndexFileError, match="other embeddings"):
        search_index.read_index(path, unit_vectors(seed=5))
    content = path.read_bytes()
    for damaged in (content[:20], b"x" + content[1:], content[:200]):
        path.write_bytes(damaged)
        with pytest.raises(IndexFileError):
            search_index.read_index(path, vectors)
    assert NearestSearch(vectors, path, large=100).nearest(vectors[3], 1)[0].tolist() == [3]
    search_index.read_index(path, vectors)  # it was built and written again


def test_principal_components_are_those_of_the_singular_values() -> None:
    vectors = unit_vectors(60, 5).astype(float)
    components, variances = principal_components(vectors)
    left, size, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(components), np.abs(left * size), atol=1e-10)
    np.testing.assert_allclose(variances, size**2 / 59)
    scores = outlier_scores(components, variances)
    n = int(np.searchsorted(np.cumsum(variances) / variances.sum(), 0.95)) + 1
    plain = [np.sqrt(np.mean([components[k, c] ** 2 / variances[c] for c in range(n)])) for k in range(60)]
    np.testing.assert_allclose(scores, plain, rtol=1e-5)


def test_a_map_is_stored_and_computed_again_if_it_does_not_fit(tmp_path: Path) -> None:
    path, vectors = tmp_path / "map.npz", unit_vectors(60, 5)
    first = stored_map(path, vectors)
    assert first.method == "t-SNE"
    np.testing.assert_array_equal(stored_map(path, vectors).positions, first.positions)
    assert len(stored_map(path, vectors[:40]).places) == 40
    path.write_bytes(b"no file")
    np.testing.assert_array_equal(stored_map(path, vectors).positions, first.positions)


def test_a_large_map_is_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    from leadwise.serve import embedding_map

    monkeypatch.setattr(embedding_map, "MOST_POINTS", 50)
    mapped = compute_map(unit_vectors(90, 5))
    assert len(mapped.places) == len(set(mapped.places.tolist())) == 50
    assert (np.diff(mapped.places) > 0).all()
    assert MOST_POINTS == 20_000


def test_rare_names_of_very_many_become_one_and_are_counted() -> None:
    from leadwise.serve import embedding_map

    values = [
        f"site {k}" for k in range(260) for _ in range(2 + (k % 130 < 70))
    ]  # 140 frequent names and 120 rare ones
    column = embedding_map._category(values, ["site 5"])
    codes = np.frombuffer(base64.b64decode(column["codes"]), np.uint8)
    assert column["names"][0] == "site 5"
    assert column["names"][-1] == "other"
    assert len(column["names"]) == 200
    assert column["grouped"] == 260 - 199
    named = [column["names"][code] for code in codes]
    assert all(name in (value, "other") for name, value in zip(named, values))
    assert named.count("other") == 2 * 61  # only rare ones
    assert embedding_map._category(["a", "b", "a"], [])["grouped"] == 0


def test_few_recordings_are_placed_by_their_neighbours_and_many_by_principal_components(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from leadwise.serve import embedding_map

    rng = np.random.default_rng(0)
    centres = 5 * unit_vectors(4, 12)
    cluster = np.arange(120) % 4
    vectors = centres[cluster] + 0.1 * rng.standard_normal((120, 12)).astype(np.float32)
    near = compute_map(vectors)
    assert near.method == "t-SNE"
    distance = np.linalg.norm(near.positions[:, None] - near.positions[None], axis=2) + 1e9 * np.eye(120)
    assert (cluster[distance.argmin(axis=1)] == cluster).all()
    monkeypatch.setattr(embedding_map, "_MOST_BY_NEIGHBOURS", 119)
    many = compute_map(vectors)
    assert many.method == "PCA"
    np.testing.assert_allclose(
        many.positions, principal_components(vectors.astype(float))[0][:, :2], rtol=1e-5, atol=1e-6
    )
