import logging

import numpy as np
import pytest
import torch
from planted import SIGNAL, PlantedCohort, PlantedRun

from leadwise.data.loader import Recordings
from leadwise.evaluate import embed
from leadwise.evaluate.embed import EmbedError
from leadwise.evaluate.handcrafted import ecg_statistics, handcrafted_features


def test_embedding_is_frozen_ordered_and_independent_of_the_batch_size():
    run, cohort = PlantedRun(), PlantedCohort(n_patients=20)
    run.method.train()
    rows = np.array([5, 3, 30, 7, 11])
    calls = []
    embedding = embed.embed(
        run, Recordings(cohort, SIGNAL, rows), batch_size=2, progress=lambda *call: calls.append(call)
    )
    assert embedding.shape == (5, 4)
    assert embedding.dtype == np.float32
    assert calls == [("embed backbone", 2, 5), ("embed backbone", 4, 5), ("embed backbone", 5, 5)]
    assert run.method.training  # restored
    np.testing.assert_allclose(embedding, cohort.steps[rows][:, :4].std(axis=-1, ddof=1) / 1000, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(embedding, embed.embed(run, Recordings(cohort, SIGNAL, rows), batch_size=1), rtol=1e-6)


def test_parts_are_concatenated_and_unknown_parts_refused():
    run, cohort = PlantedRun(), PlantedCohort(n_patients=4)
    recordings = Recordings(cohort, SIGNAL)
    both = embed.embed(run, recordings, "backbone+shared")
    np.testing.assert_array_equal(both[:, 4:], embed.embed(run, recordings, "shared"))
    with pytest.raises(EmbedError, match="no part 'backbon'; it has backbone, shared"):
        embed.embed(run, recordings, "backbon")
    with pytest.raises(EmbedError, match="no recordings"):
        embed.embed(run, Recordings(cohort, SIGNAL, np.array([], dtype=int)))


def test_an_embedding_that_is_not_finite_names_its_record():
    run, cohort = PlantedRun(), PlantedCohort(n_patients=4)
    with torch.no_grad():
        run.method.weight[0, 0] = torch.inf
    with pytest.raises(EmbedError, match="record r000: its 'backbone' embedding"):
        embed.embed(run, Recordings(cohort, SIGNAL))


def test_the_cache_is_used_for_its_rows(tmp_path):
    run, cohort = PlantedRun(tmp_path), PlantedCohort(n_patients=10)
    first = embed.embed_cohort(run, cohort, rows=np.array([9, 2, 4]))
    assert run.method.n_embedded == 3
    np.testing.assert_array_equal(embed.embed_cohort(run, cohort, rows=np.array([4, 9])), first[[2, 0]])
    assert run.method.n_embedded == 3
    every = embed.embed_cohort(run, cohort)
    assert run.method.n_embedded == 20  # the other 17
    np.testing.assert_allclose(every, embed.embed(PlantedRun(), Recordings(cohort, SIGNAL)), rtol=1e-6)
    assert [path.suffix for path in (tmp_path / "embeddings").iterdir()] == [".npz"]


def test_interrupted_work_is_cached_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "_ROWS_PER_PIECE", 6)
    run, cohort, calls = PlantedRun(tmp_path), PlantedCohort(n_patients=10), []
    embed.embed_cohort(run, cohort, rows=np.array([3, 17]))

    def interrupt(name, done, total):
        calls.append((name, done, total))
        if done > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed.embed_cohort(run, cohort, progress=interrupt)
    assert calls == [("embed backbone", done, 18) for done in (6, 12, 18)]
    path, *pieces = sorted((tmp_path / "embeddings").iterdir(), key=lambda file: "piece" in file.name)
    rows = []
    for file in (path, *sorted(pieces)):
        with np.load(file) as content:
            rows.append(content["row"].tolist())
    assert rows == [[3, 17], [0, 1, 2, 4, 5, 6], [7, 8, 9, 10, 11, 12]]  # those cached before, and two pieces of six
    before = run.method.n_embedded
    every = embed.embed_cohort(run, cohort)
    assert run.method.n_embedded == before + 6
    assert [*(tmp_path / "embeddings").iterdir()] == [path]  # one file again
    assert np.load(path)["row"].tolist() == [*range(20)]
    np.testing.assert_allclose(every, embed.embed(PlantedRun(), Recordings(cohort, SIGNAL)), rtol=1e-6)


def test_the_cache_depends_on_weights_cohort_and_part(tmp_path):
    run, cohort = PlantedRun(tmp_path), PlantedCohort(n_patients=10)
    embed.embed_cohort(run, cohort)
    other = PlantedCohort(n_patients=10, seed=1)
    np.testing.assert_allclose(embed.embed_cohort(run, other), embed.embed(run, Recordings(other, SIGNAL)), rtol=1e-6)
    run.fingerprint = "weights-one-step-later"
    with torch.no_grad():
        run.method.weight.mul_(2)
    np.testing.assert_allclose(embed.embed_cohort(run, cohort), embed.embed(run, Recordings(cohort, SIGNAL)), rtol=1e-6)
    shared = embed.embed_cohort(run, cohort, "shared")
    np.testing.assert_allclose(np.linalg.norm(shared, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("damage", ["torn", "other width", "other keys", "rows out of range"])
def test_a_damaged_cache_is_logged_and_rewritten(tmp_path, caplog, damage):
    run, cohort = PlantedRun(tmp_path), PlantedCohort(n_patients=10)
    good = embed.embed_cohort(run, cohort, rows=np.arange(5))
    (path,) = (tmp_path / "embeddings").iterdir()
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "other width":
        np.savez(path, row=np.arange(3), embedding=np.zeros((3, 9), np.float32))
    elif damage == "other keys":
        np.savez(path, rows=np.arange(3))
    else:
        np.savez(path, row=np.arange(30), embedding=np.zeros((30, 4), np.float32))
    with caplog.at_level(logging.WARNING):
        again = embed.embed_cohort(run, cohort, rows=np.arange(5))
    np.testing.assert_allclose(again, good, rtol=1e-6)
    assert "rewriting it" in caplog.text
    with np.load(path) as file:
        assert file["embedding"].shape == (5, 4)


def test_npz_contains_record_patient_split_and_row(tmp_path):
    cohort, rows = PlantedCohort(n_patients=10), np.array([12, 3])
    embed.write_npz(tmp_path / "out" / "e.npz", np.ones((2, 4)), cohort, rows)
    with np.load(tmp_path / "out" / "e.npz", allow_pickle=False) as file:
        assert {key: file[key].tolist() for key in file if key != "embedding"} == {
            "record": ["r012", "r003"],
            "patient": ["p006", "p001"],
            "split": [cohort.index["split"][12], cohort.index["split"][3]],
            "row": [12, 3],
        }
        assert file["embedding"].shape == (2, 4)
        assert file["embedding"].dtype == np.float32


@pytest.mark.parametrize("n", [1, 2, 9, 10, 60])
def test_projection_of_few_and_many_recordings(n):
    features = np.random.default_rng(0).normal(size=(n, 7)) + np.arange(n)[:, None] // 30 * 20
    positions = embed.project(features, seed=1)
    assert positions.shape == (n, 2)
    assert np.isfinite(positions).all()
    if n == 60:  # two distant groups stay separate
        a, b = positions[:30], positions[30:]
        assert np.linalg.norm(a.mean(0) - b.mean(0)) > 2 * max(a.std(), b.std())
        np.testing.assert_array_equal(positions, embed.project(features, seed=1))


def beats(rate_bpm, rate_hz=250, duration_s=10, n_leads=2):
    time_s = np.arange(rate_hz * duration_s) / rate_hz
    away_s = (time_s - 0.3) % (60 / rate_bpm)
    away_s = np.minimum(away_s, 60 / rate_bpm - away_s)
    after_s = (time_s - 0.3 - 0.29) % (60 / rate_bpm)
    after_s = np.minimum(after_s, 60 / rate_bpm - after_s)
    lead = np.exp(-((away_s / 0.02) ** 2)) + 0.4 * np.exp(-((after_s / 0.04) ** 2))  # a QRS and a T wave
    lead = lead + np.random.default_rng(0).normal(scale=0.01, size=len(time_s))
    ecg = torch.tensor(np.stack([lead, -0.5 * lead][:n_leads]), dtype=torch.float32)[None]
    return ecg, torch.ones_like(ecg, dtype=torch.bool)


@pytest.mark.parametrize("rate_bpm", [42, 60, 75, 100, 150, 180])
def test_handcrafted_rate(rate_bpm):
    rate, after_one, after_two = ecg_statistics(*beats(rate_bpm), 250)[0, -3:]
    assert rate == pytest.approx(rate_bpm, rel=0.03)
    assert min(after_one, after_two) > 0.7


def test_handcrafted_statistics_count_observed_samples_only():
    ecg, observed = beats(75)
    whole = ecg_statistics(ecg, observed, 250)[0]
    padded = torch.cat([ecg, torch.zeros_like(ecg)], dim=-1)
    mask = torch.cat([observed, torch.zeros_like(observed)], dim=-1)
    half = ecg_statistics(padded, mask, 250)[0]
    np.testing.assert_allclose(half[:18], whole[:18], rtol=0.02, atol=0.02)  # spread, range, percentiles
    assert whole[-4] == pytest.approx(-1, abs=0.01)  # the second lead is the first inverted


def test_handcrafted_missing_lead_has_an_indicator_and_zeros():
    ecg, observed = beats(75)
    observed[:, 1] = False
    ecg[:, 1] = 1e6  # must not be read
    features = ecg_statistics(ecg, observed, 250)
    assert np.isfinite(features).all()
    per_lead = features[0, : -1 - 3].reshape(-1, 2)
    assert per_lead[-1].tolist() == [0, 1]  # the indicator is last
    assert not per_lead[:-1, 1].any()
    assert features[0, -4] == 0  # no correlation with it


def test_handcrafted_of_a_cohort():
    cohort = PlantedCohort(n_patients=10)
    features = handcrafted_features(Recordings(cohort, SIGNAL), batch_size=7)
    assert len(features) == 20
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[:, :4], cohort.steps[:, :4].std(axis=-1) / 1000, rtol=0.05)
