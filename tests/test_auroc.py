import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from leadwise.evaluate.metrics import auroc, bootstrap
from leadwise.evaluate.metrics.score import ScoreError


def make(n=300, k=4, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, k)) < [0.1, 0.3, 0.5, 0.7][:k]).astype(int)
    scores = rng.normal(size=(n, k)) + 0.7 * labels
    return labels, scores if decimals is None else scores.round(decimals)


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["no ties", "some ties", "many ties"])
def test_auroc_is_sklearns(decimals):
    labels, scores = make(decimals=decimals)
    expected = [roc_auc_score(labels[:, k], scores[:, k]) for k in range(4)]
    np.testing.assert_allclose(auroc.auroc(labels, scores), expected, rtol=1e-12)


def test_constant_scores_have_auroc_one_half():
    labels, _ = make()
    np.testing.assert_allclose(auroc.auroc(labels, np.zeros(labels.shape)), 0.5)


@pytest.mark.parametrize("decimals", [None, 0], ids=["no ties", "many ties"])
def test_weighted_auroc_repeats_rows(decimals):
    labels, scores = make(n=60, decimals=decimals)
    weights = np.random.default_rng(1).integers(0, 4, size=(7, 60))
    weighted = auroc.weighted_auroc(labels, scores, weights)
    for r, counts in enumerate(weights):
        repeated = np.repeat(np.arange(60), counts)
        np.testing.assert_allclose(weighted[r], auroc.auroc(labels[repeated], scores[repeated]), rtol=1e-12)


def test_weighted_auroc_in_blocks_is_the_same(monkeypatch):
    labels, scores = make(n=60)
    weights = np.random.default_rng(1).integers(0, 4, size=(50, 60))
    whole = auroc.weighted_auroc(labels, scores, weights)
    monkeypatch.setattr(bootstrap, "_CHUNK_CELLS", 7 * 60)
    np.testing.assert_array_equal(auroc.weighted_auroc(labels, scores, weights), whole)


def test_class_without_both_values_is_skipped_and_named():
    labels, scores = make()
    labels[:, 2] = 1
    result = auroc.auroc_score(labels, scores, np.arange(300).astype(str), ["a", "b", "c", "d"], n_replicates=50)
    assert result.skipped == ("c",)
    assert result.per_class["c"] is None
    assert result.class_interval["c"] is None
    assert result.positives["c"] == 300
    assert result.macro == pytest.approx(np.mean([result.per_class[name] for name in "abd"]))
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["skipped"] == ["c"]


def test_a_class_degenerate_in_a_resampling_is_left_out_of_it_only():
    labels, scores = make(n=40)
    labels[:, 0] = 0
    labels[3, 0] = 1  # one positive: absent from over a third of the resamplings
    patients = np.arange(40).astype(str)
    result = auroc.auroc_score(labels, scores, patients, list("abcd"), n_replicates=200)
    each = auroc.weighted_auroc(labels, scores, bootstrap.resample_patients(patients, 200, 0))
    assert 0.2 < np.isnan(each[:, 0]).mean() < 0.6
    np.testing.assert_allclose(result.replicates, np.nanmean(each, axis=1))
    assert np.isfinite(result.interval).all()


def test_resampling_draws_whole_patients_and_their_number_is_constant():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    weights = bootstrap.resample_patients(patients, 500, seed=3)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)
    assert weights[:, 3].mean() == pytest.approx(1, abs=0.15)
    np.testing.assert_array_equal(weights, bootstrap.resample_patients(patients, 500, seed=3))


def test_copies_of_a_patients_record_do_not_narrow_the_interval():
    labels, scores = make(n=120, k=1)
    labels, scores = np.tile(labels, (4, 1)), np.tile(scores, (4, 1))
    clustered = auroc.auroc_score(labels, scores, np.tile(np.arange(120), 4).astype(str), ["a"])
    independent = auroc.auroc_score(labels, scores, np.arange(480).astype(str), ["a"])
    once = auroc.auroc_score(labels[:120], scores[:120], np.arange(120).astype(str), ["a"])

    def width(result):
        return result.interval[1] - result.interval[0]

    assert clustered.macro == pytest.approx(independent.macro)
    assert (clustered.n_patients, independent.n_patients, clustered.n_records) == (120, 480, 480)
    assert width(clustered) == pytest.approx(width(once))
    assert width(clustered) > 1.6 * width(independent)  # twice, in expectation


def test_the_interval_has_its_coverage():
    """Of 100 samples of known AUROC, about 95 have it inside the 95 % interval."""
    true = 0.760250  # normal scores one apart: Phi(1 / sqrt 2)
    n_covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = (np.arange(200) < 80).astype(int)[:, None]
        scores = rng.normal(size=(200, 1)) + labels
        low, high = auroc.auroc_score(
            labels, scores, np.arange(200).astype(str), ["a"], n_replicates=300, seed=seed
        ).interval
        n_covered += low <= true <= high
    assert 88 <= n_covered <= 100


def test_several_draws_are_averaged_on_the_same_patients():
    labels, scores = make()
    patients = np.arange(300).astype(str)
    same = auroc.auroc_score(labels, np.stack([scores, scores]), patients, list("abcd"), n_replicates=100)
    one = auroc.auroc_score(labels, scores, patients, list("abcd"), n_replicates=100)
    assert same.interval == pytest.approx(one.interval)
    other = make(seed=5)[1]
    both = auroc.auroc_score(labels, np.stack([scores, other]), patients, list("abcd"), n_replicates=100)
    alone = auroc.auroc_score(labels, other, patients, list("abcd"), n_replicates=100)
    assert both.macro == pytest.approx((one.macro + alone.macro) / 2)
    np.testing.assert_allclose(both.replicates, (one.replicates + alone.replicates) / 2)


def test_gain_is_paired():
    labels, scores = make()
    patients = np.arange(300).astype(str)
    better = auroc.auroc_score(labels, scores, patients, list("abcd"))
    worse = auroc.auroc_score(
        labels, scores + np.random.default_rng(1).normal(scale=0.1, size=scores.shape), patients, list("abcd")
    )
    above, (low, high) = bootstrap.gain(better, worse)
    assert above == pytest.approx(better.macro - worse.macro)
    assert low <= above <= high
    assert high - low < 0.5 * (better.interval[1] - better.interval[0])
    with pytest.raises(ScoreError, match="same records"):
        bootstrap.gain(better, auroc.auroc_score(labels[:200], scores[:200], patients[:200], list("abcd")))


def test_shuffled_pairs_have_auroc_one_half():
    labels, _ = make()
    patients = (np.arange(300) // 3).astype(str)
    control = auroc.shuffled_pairs(labels, labels + 0.0, patients)
    assert control.mean == pytest.approx(0.5, abs=0.01)
    assert control.interval[0] < 0.5 < control.interval[1]
    assert control.interval[1] < 0.6


def test_shuffled_pairs_never_use_their_own_patient():
    """The scores identify the patient, so a record paired with its own patient would change the control."""
    patients = np.array(["x"] * 3 + ["y"] * 3 + ["z"] * 4)
    labels = (patients == "z").astype(int)[:, None]
    control = auroc.shuffled_pairs(labels, labels.astype(float), patients, n_permutations=50)
    assert control.interval == (pytest.approx(1 / 6), pytest.approx(1 / 6))  # z's four high scores on x and y always
    assert auroc.shuffled_pairs(labels[3:], labels[3:].astype(float), patients[3:]) is None


def test_invalid_scores_and_labels_are_refused():
    labels, scores = make()
    patients = np.arange(300).astype(str)
    scores[7, 1] = np.nan
    with pytest.raises(ScoreError, match=r"1 scores are not finite, first: record 7, class b = nan"):
        auroc.auroc_score(labels, scores, patients, list("abcd"))
    scores[7, 1] = np.inf
    with pytest.raises(ScoreError, match="not finite"):
        auroc.auroc(labels, scores)
    scores[7, 1] = 0
    with pytest.raises(ScoreError, match="none of a, b, c, d has both"):
        auroc.auroc_score(np.zeros_like(labels), scores, patients, list("abcd"))
    with pytest.raises(ScoreError, match="0 or 1"):
        auroc.auroc(labels * 2, scores)
    with pytest.raises(ScoreError, match="299 patients for 300 records"):
        auroc.auroc_score(labels, scores, patients[:-1], list("abcd"))
    with pytest.raises(ScoreError, match="do not fit 3 classes"):
        auroc.auroc_score(labels, scores, patients, list("abc"))
