"""AUPRC, F1 and calibration: compared with scikit-learn and with slow reference versions, and what they must refuse."""

import json
import time

import numpy as np
import plain_metrics
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, fbeta_score

from leadwise.evaluate.metrics import (
    all_metrics,
    auprc,
    auroc,
    bootstrap,
    calibration,
    f1,
)
from leadwise.evaluate.metrics.score import ScoreError


def make(n=300, k=4, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, k)) < [0.1, 0.3, 0.5, 0.7][:k]).astype(int)
    scores = rng.normal(size=(n, k)) + 0.7 * labels
    return labels, scores if decimals is None else scores.round(decimals)


def chances(scores):
    return 1 / (1 + np.exp(-scores))


def repeated(weights, function):
    """The definition of a weight: the record is repeated that many times."""
    return np.stack([function(np.repeat(np.arange(len(counts)), counts)) for counts in weights])


# ---- average precision ----


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["no ties", "some ties", "many ties"])
def test_average_precision_is_sklearns(decimals):
    labels, scores = make(decimals=decimals)
    expected = [average_precision_score(labels[:, k], scores[:, k]) for k in range(4)]
    np.testing.assert_allclose(auprc.average_precision(labels, scores), expected, rtol=1e-12)


@pytest.mark.parametrize("decimals", [None, 0], ids=["no ties", "many ties"])
def test_weighted_average_precision_repeats_rows(decimals):
    labels, scores = make(n=60, decimals=decimals)
    weights = np.random.default_rng(1).integers(0, 4, size=(20, 60))
    expected = repeated(weights, lambda rows: auprc.average_precision(labels[rows], scores[rows]))
    np.testing.assert_allclose(auprc.weighted_average_precision(labels, scores, weights), expected, rtol=1e-12)


def test_average_precision_by_hand():
    labels = np.array([1, 0, 1, 0, 0])[:, None]
    precision = auprc.average_precision(labels, np.array([5.0, 4, 3, 2, 1])[:, None])
    assert precision[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert auprc.average_precision(labels, np.zeros((5, 1)))[0] == pytest.approx(2 / 5)  # ties: the prevalence


def test_one_label_value_has_no_average_precision():
    labels, scores = make()
    labels[:, 0], labels[:, 1] = 0, 1
    assert np.isnan(auprc.average_precision(labels, scores)).tolist() == [True, True, False, False]
    weights = np.ones((2, 300), dtype=int)
    weights[0, labels[:, 2] > 0] = 0  # the first resampling has no positive of class 2, and none negative of class 3
    weights[0, labels[:, 3] == 0] = 0
    assert np.isnan(auprc.weighted_average_precision(labels, scores, weights)).tolist() == [
        [True, True, True, True],
        [True, True, False, False],
    ]


def test_a_thousand_resamplings_are_counted_in_a_moment():
    labels, scores = make(n=2000)
    weights = bootstrap.resample_patients(np.arange(2000).astype(str), 1000, 0)
    began = time.perf_counter()
    auroc.weighted_auroc(labels, scores, weights)
    known = time.perf_counter() - began
    began = time.perf_counter()
    auprc.weighted_average_precision(labels, scores, weights)
    assert time.perf_counter() - began < 5 * known + 1.0


# ---- thresholds and F1 ----


@pytest.mark.slow
@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["no ties", "some ties", "many ties"])
def test_thresholds_are_the_best_of_all(decimals):
    labels, scores = make(n=120, decimals=decimals)
    thresholds = f1.best_thresholds(labels, scores)
    for k in range(4):
        each = {at: f1_score(labels[:, k], scores[:, k] >= at) for at in np.unique(scores[:, k])}
        best = max(each.values())
        assert each[thresholds[k]] == pytest.approx(best)
        assert thresholds[k] == max(at for at, value in each.items() if value > best - 1e-12)


def test_f1_is_sklearns_at_the_thresholds_of_another_split():
    val, test = make(seed=1), make(seed=2)
    at = f1.best_thresholds(*val)
    expected = [f1_score(test[0][:, k], test[1][:, k] >= at[k]) for k in range(4)]
    np.testing.assert_allclose(f1.f1(*test, at), expected, rtol=1e-12)


def test_f2_is_sklearns_and_its_threshold_is_the_best():
    val, test = make(seed=1), make(seed=2)
    at = f1.best_thresholds(*val, beta=2)
    for k in range(4):
        truth, scores = val[0][:, k], val[1][:, k]
        every = [fbeta_score(truth, scores >= one, beta=2) for one in np.unique(scores)]
        assert fbeta_score(truth, scores >= at[k], beta=2) == pytest.approx(max(every))
    expected = [fbeta_score(test[0][:, k], test[1][:, k] >= at[k], beta=2) for k in range(4)]
    np.testing.assert_allclose(f1.f1(*test, at, beta=2), expected, rtol=1e-12)


def test_f1_with_thresholds_of_the_scored_split_is_never_below_that_with_validation_s():
    for seed in range(20):
        val, test = make(seed=seed), make(seed=100 + seed)
        at = f1.Thresholds.choose(*val)
        at.f1[0, seed % 4] = np.nan  # a class without positives in validation
        patients = np.arange(len(test[0])).astype(str)
        metrics = all_metrics.compute_metrics(test[0], test[1][None], patients, list("abcd"), at, n_replicates=20)
        assert metrics["f1_max"].macro >= metrics["f1_val"].macro
        assert metrics["f1_max"].skipped == metrics["f1_val"].skipped
        for name, value in metrics["f1_val"].per_class.items():
            assert value is None or metrics["f1_max"].per_class[name] >= value
        columns = [(t.tolist(), s.tolist()) for t, s in zip(test[0].T, test[1].T)]
        best = [plain_metrics.f_beta(*each, plain_metrics.best_threshold(*each)) for each in columns]
        for k, name in enumerate("abcd"):
            assert metrics["f1_max"].per_class[name] in (None, pytest.approx(best[k]))


def test_weighted_f1_repeats_rows():
    labels, scores = make(n=60)
    at = np.array([0.5, np.nan, -1.0, 9.0])  # no record reaches the last one: F1 is 0, not undefined
    weights = np.random.default_rng(1).integers(0, 4, size=(7, 60))
    values = f1.weighted_f1(labels, scores, at, weights)
    assert np.isnan(values[:, 1]).all()
    assert (values[:, 3] == 0).all()
    for k in (0, 2):
        expected = repeated(weights, lambda rows, k=k: f1_score(labels[rows, k], scores[rows, k] >= at[k]))
        np.testing.assert_allclose(values[:, k], expected, rtol=1e-12)


def test_a_class_without_positives_in_validation_has_no_threshold():
    labels, scores = make()
    labels[:, 1] = 0
    assert np.isnan(f1.best_thresholds(labels, scores)).tolist() == [False, True, False, False]
    scores[3, 2] = np.nan
    with pytest.raises(ScoreError, match="not finite"):
        f1.best_thresholds(labels, scores)
    with pytest.raises(ScoreError, match="not finite"):
        f1.f1(labels, scores, np.zeros(4))


# ---- calibration ----


@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["no ties", "some ties", "many ties"])
def test_calibration_error_is_the_plain_one(decimals):
    labels, scores = make(n=150, decimals=decimals)
    probabilities = chances(scores)
    for n_bins in (1, 7, 15):
        expected = [
            plain_metrics.calibration_error(labels[:, k].tolist(), probabilities[:, k], n_bins) for k in range(4)
        ]
        np.testing.assert_allclose(calibration.calibration_error(labels, probabilities, n_bins), expected, rtol=1e-9)


def test_brier_is_sklearns_and_repeats_rows():
    labels, scores = make(n=60)
    probabilities = chances(scores)
    expected = [brier_score_loss(labels[:, k], probabilities[:, k]) for k in range(4)]
    np.testing.assert_allclose(calibration.brier(labels, probabilities), expected, rtol=1e-12)
    weights = np.random.default_rng(1).integers(0, 4, size=(7, 60))
    each = repeated(weights, lambda rows: calibration.brier(labels[rows], probabilities[rows]))
    np.testing.assert_allclose(calibration.weighted_brier(labels, probabilities, weights), each, rtol=1e-12)


def test_weighted_calibration_error_uses_the_unweighted_bins():
    labels, scores = make(n=40, k=1)
    probabilities = chances(scores)
    weights = np.random.default_rng(1).integers(0, 4, size=(7, 40))
    part = np.argsort(np.argsort(probabilities[:, 0])) * 5 // 40
    for counts, error in zip(weights, calibration.weighted_calibration_error(labels, probabilities, weights, 5)[:, 0]):
        gaps = [
            abs(sum(counts[n] * (probabilities[n, 0] - labels[n, 0]) for n in np.flatnonzero(part == b)))
            for b in range(5)
        ]
        assert error == pytest.approx(sum(gaps) / counts.sum())


def test_true_probabilities_are_calibrated_and_overconfident_ones_are_not():
    rng = np.random.default_rng(0)
    probabilities = rng.random((20_000, 1))
    labels = (rng.random((20_000, 1)) < probabilities).astype(int)
    overconfident = chances(3 * np.log(probabilities / (1 - probabilities)))
    assert calibration.calibration_error(labels, probabilities)[0] < 0.02
    assert calibration.calibration_error(labels, overconfident)[0] > 0.1
    assert calibration.brier(labels, probabilities)[0] == pytest.approx(1 / 6, abs=0.01)  # the mean of p (1 - p)


def test_logits_are_no_probabilities():
    labels, scores = make()
    with pytest.raises(ScoreError, match="logits and cosines are not probabilities"):
        calibration.calibration_error(labels, scores)
    with pytest.raises(ScoreError, match="outside"):
        calibration.brier(labels, scores)


def test_the_reliability_curve_contains_every_record_once():
    labels, scores = make()
    labels[:, 1] = 0
    probabilities = chances(scores)
    curves = calibration.reliability(labels, probabilities, (np.arange(300) // 2).astype(str), list("abcd"), n_bins=6)
    assert list(curves) == ["a", "c", "d"]
    curve = curves["c"]
    assert curve.count == (50,) * 6
    assert list(curve.mean_probability) == sorted(curve.mean_probability)
    assert np.dot(curve.mean_probability, curve.count) / 300 == pytest.approx(probabilities[:, 2].mean())
    assert np.dot(curve.positive_share, curve.count) == pytest.approx(labels[:, 2].sum())
    for share, (low, high) in zip(curve.positive_share, curve.interval):
        assert low <= share <= high
        assert high - low < 0.5
    gap = sum(n * abs(s - c) for s, c, n in zip(curve.mean_probability, curve.positive_share, curve.count)) / 300
    assert calibration.calibration_error(labels, probabilities, 6)[2] == pytest.approx(gap)
    assert len(json.loads(json.dumps(curve.to_json()))["bins"]) == 6


# ---- together ----


def test_metrics_are_computed_where_their_inputs_are_given():
    labels, scores = make()
    labels[:, 3] = 1
    patients, classes = (np.arange(300) // 2).astype(str), list("abcd")
    probabilities = chances(scores)[None]
    at = f1.Thresholds(np.array([[0.5, np.nan, 0.2, 0.1]]), np.array([[0.4, np.nan, 0.1, 0.1]]))
    alone = all_metrics.compute_metrics(labels, scores[None], patients, classes, n_replicates=50)
    assert list(alone) == ["auprc"]
    metrics = all_metrics.compute_metrics(labels, scores[None], patients, classes, at, probabilities, n_replicates=200)
    assert tuple(metrics) == all_metrics.METRICS
    assert metrics["auprc"].macro == pytest.approx(np.mean(auprc.average_precision(labels[:, :3], scores[:, :3])))
    assert {name: score.skipped for name, score in metrics.items()} == {
        "auprc": ("d",), **dict.fromkeys(all_metrics.AT_THRESHOLDS, ("b", "d")), "ece": ("d",), "brier": ("d",)
    }  # fmt: skip
    for score in metrics.values():
        assert score.interval[0] <= score.macro <= score.interval[1]
        assert score.n_patients == 150
        for name in set("abc") - set(score.skipped):
            low, high = score.class_interval[name]
            assert low <= score.per_class[name] <= high
    shares = labels[:, :3].mean(axis=0)
    values = json.loads(json.dumps(all_metrics.to_json(metrics), allow_nan=False))
    assert values["auprc"]["chance"]["macro"] == pytest.approx(shares.mean())
    assert values["auprc"]["chance"]["per_class"] == pytest.approx(dict(zip("abc", shares)))
    assert all_metrics.table_cells(metrics)["chance"] == pytest.approx(shares.mean())
    assert all_metrics.table_cells(alone)["f1_val"] is None
    assert all_metrics.class_cells(metrics, "b")["f1_max"] is None
    lines = all_metrics.long_rows(metrics, {"run": "mine"})
    assert len(lines) == 6 * 5
    assert lines[0] == {
        "run": "mine", "measure": "auprc", "class": "macro", "positives": None, "value": metrics["auprc"].macro,
        "low": metrics["auprc"].interval[0], "high": metrics["auprc"].interval[1], "chance": pytest.approx(shares.mean()),
        "n_records": 300, "n_patients": 150,
    }  # fmt: skip


def test_metrics_of_several_draws_are_means_over_them():
    (labels, scores), other = make(), make(seed=5)[1]
    patients, classes = np.arange(300).astype(str), list("abcd")

    def metrics_of(*draws):
        at = f1.Thresholds.of_repeats([f1.Thresholds.choose(labels, draw) for draw in draws])
        return all_metrics.compute_metrics(
            labels, np.stack(draws), patients, classes, at, chances(np.stack(draws)), n_replicates=50
        )

    both, one, two = metrics_of(scores, other), metrics_of(scores), metrics_of(other)
    for name in all_metrics.METRICS:
        assert both[name].macro == pytest.approx((one[name].macro + two[name].macro) / 2)


def test_the_interval_of_average_precision_has_its_coverage():
    """Of 100 samples, the 95 % interval contains the value of a very large one in about 95."""
    rng = np.random.default_rng(99)
    many = (np.arange(200_000) < 80_000).astype(int)[:, None]
    true = auprc.average_precision(many, rng.normal(size=many.shape) + many)[0]
    n_covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = (np.arange(200) < 80).astype(int)[:, None]
        scores = rng.normal(size=(200, 1)) + labels
        metrics = all_metrics.compute_metrics(labels, scores[None], np.arange(200).astype(str), ["a"], n_replicates=300)
        n_covered += metrics["auprc"].interval[0] <= true <= metrics["auprc"].interval[1]
    assert 86 <= n_covered <= 100
