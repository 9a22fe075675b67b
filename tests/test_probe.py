import dataclasses
import json
import logging

import numpy as np
import pytest
from planted import WORDS, PlantedCohort, PlantedRun
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score
from sklearn.model_selection import train_test_split

from leadwise.data.label_subset import DrawError, subset
from leadwise.evaluate import logistic_regression
from leadwise.evaluate import probe as probing
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.metrics.f1 import Thresholds
from leadwise.evaluate.probe import ProbeTask, probe, run_probe


def make(n=600, width=20, noise=1.0, seed=0):
    """Noisy features whose first columns contain the classes; two records per patient."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < [0.5, 0.3, 0.2]).astype(np.int8)
    features = rng.normal(scale=noise, size=(n, width)).astype(np.float32)
    features[:, :3] += labels
    split = np.array(["train", "train", "val", "test"])[np.arange(n) // 2 % 4]
    return features, ProbeTask(("a", "b", "c"), labels, split, (np.arange(n) // 2).astype(str))


def test_scores_equal_a_plain_logistic_regression():
    features, task = make()
    result = probe(features, task, 1.0)
    train, test = task.rows("train"), task.rows("test")
    mean, spread = features[train].mean(axis=0), features[train].std(axis=0)
    inputs = (features.astype(float) - mean) / spread
    for k, name in enumerate(task.classes):
        model = LogisticRegression(C=result.draws[0].strength, tol=1e-8, max_iter=10_000)
        scores = model.fit(inputs[train], task.labels[train, k]).decision_function(inputs[test])
        expected = auroc(task.labels[test][:, [k]], scores[:, None])[0]
        assert result.score.per_class[name] == pytest.approx(expected, abs=2e-3)


def test_strength_is_the_best_on_validation():
    features, task = make()
    train, val = task.rows("train"), task.rows("val")
    inputs = (features.astype(float) - features[train].mean(axis=0)) / features[train].std(axis=0)
    macros = []
    for strength in logistic_regression.STRENGTHS:
        scores = [
            LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
            .fit(inputs[train], task.labels[train, k])
            .decision_function(inputs[val])
            for k in range(3)
        ]
        macros.append(auroc(task.labels[val], np.stack(scores, axis=1)).mean())
    draw = probe(features, task, 1.0).draws[0]
    assert draw.val_macro == pytest.approx(max(macros), abs=1e-3)
    assert macros[logistic_regression.STRENGTHS.index(draw.strength)] == pytest.approx(max(macros), abs=1e-3)


def test_the_test_split_does_not_affect_the_fit():
    features, task = make()
    labels = task.labels.copy()
    test = task.rows("test")
    labels[test] = np.random.default_rng(3).permutation(labels[test])
    blind = dataclasses.replace(task, labels=labels)
    changed = features.copy()
    changed[test] = 1000 * np.random.default_rng(4).normal(size=changed[test].shape)
    for fraction in (0.1, 1.0):
        honest = probe(features, task, fraction).draws
        for other in (probe(features, blind, fraction).draws, probe(changed, task, fraction).draws):
            assert [d.strength for d in other] == [d.strength for d in honest]
            assert [d.val_macro for d in other] == [d.val_macro for d in honest]
            assert [d.thresholds for d in other] == [d.thresholds for d in honest]
            assert [d.test_macro for d in other] != [d.test_macro for d in honest]


def test_validation_records_are_not_used_for_fitting():
    """With random labels, only a record used for fitting could score above chance."""
    features, task = make(n=400, width=300)
    rng = np.random.default_rng(0)
    noise = dataclasses.replace(task, labels=rng.integers(0, 2, size=task.labels.shape).astype(np.int8))
    result = probe(features, noise, 1.0)
    assert abs(result.draws[0].val_macro - 0.5) < 0.15
    assert abs(result.score.macro - 0.5) < 0.12


def test_subsets_follow_the_published_rule():
    expected, _ = train_test_split(np.arange(17084), train_size=0.01, random_state=42)
    assert subset(17084, 0.01, 42).tolist() == expected.tolist()
    assert len(expected) == 170
    assert len(subset(17084, 0.1, 43)) == 1708
    assert subset(5, 1.0, 42).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DrawError, match=r"0\.01 of 99 training recordings is none"):
        subset(99, 0.01, 42)
    with pytest.raises(DrawError, match="not within"):
        subset(99, 10, 42)


def test_a_class_without_positives_in_the_draw_is_unlearnable_and_counts_as_a_half():
    features, task = make()
    labels = task.labels.copy()
    labels[task.rows("train"), 1] = 0
    result = probe(features, dataclasses.replace(task, labels=labels), 0.1)
    assert [draw.unlearnable for draw in result.draws] == [("b",)] * 3
    assert result.score.per_class["b"] == 0.5
    assert result.score.skipped == ()
    prevalence = labels[task.rows("test"), 1].mean()
    assert result.measures["auprc"].per_class["b"] == pytest.approx(prevalence)
    for name in ("ece", "brier"):  # the draw's share, none, is its probability
        assert result.measures[name].per_class["b"] == pytest.approx(prevalence)
    assert result.score.macro == pytest.approx((result.score.per_class["a"] + 0.5 + result.score.per_class["c"]) / 3)


def test_thresholds_come_from_validation_and_probabilities_from_the_regression(monkeypatch):
    features, task = make()
    calls = []

    class Logged(Thresholds):
        @classmethod
        def choose(cls, labels, scores):
            calls.append((labels, scores))
            return super().choose(labels, scores)

    monkeypatch.setattr(probing, "Thresholds", Logged)
    result = probe(features, task, 1.0)
    ((val_labels, val_scores),) = calls
    train, val, test = (task.rows(split) for split in ("train", "val", "test"))
    inputs = (features.astype(float) - features[train].mean(axis=0)) / features[train].std(axis=0)
    for k, name in enumerate(task.classes):
        model = LogisticRegression(C=result.draws[0].strength, tol=1e-8, max_iter=10_000)
        model.fit(inputs[train], task.labels[train, k])
        np.testing.assert_array_equal(val_labels[:, k], task.labels[val, k])
        np.testing.assert_allclose(val_scores[:, k], model.decision_function(inputs[val]), atol=0.05)
        at = result.draws[0].thresholds[name]
        by_threshold = [f1_score(val_labels[:, k], val_scores[:, k] >= t) for t in val_scores[:, k]]
        assert f1_score(val_labels[:, k], val_scores[:, k] >= at) == pytest.approx(max(by_threshold))
        probability, truth = model.predict_proba(inputs[test])[:, 1], task.labels[test, k]
        assert result.measures["brier"].per_class[name] == pytest.approx(brier_score_loss(truth, probability), abs=1e-3)
        expected = average_precision_score(truth, probability)
        assert result.measures["auprc"].per_class[name] == pytest.approx(expected, abs=5e-3)
        predicted = result.test_scores[0, :, k] >= at
        assert result.measures["f1_val"].per_class[name] == pytest.approx(f1_score(truth, predicted))
        assert np.dot(result.reliability[name].mean_probability, result.reliability[name].count) == pytest.approx(
            probability.sum(), rel=1e-2
        )


def test_a_class_without_positives_in_validation_is_reported_and_has_no_f1():
    features, task = make()
    labels = task.labels.copy()
    labels[task.rows("val"), 1] = 0
    result = probe(features, dataclasses.replace(task, labels=labels), 1.0)
    assert result.without_threshold == ("b",)
    assert result.measures["f1_val"].per_class["b"] is None
    f1s = result.measures["f1_val"].per_class
    assert result.measures["f1_val"].macro == pytest.approx((f1s["a"] + f1s["c"]) / 2)
    assert result.measures["auprc"].per_class["b"] is not None
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["without_threshold"] == ["b"]


def test_draws_are_averaged_and_their_spread_reported():
    features, task = make(noise=2.0)
    result = probe(features, task, 0.05)
    macros = [draw.test_macro for draw in result.draws]
    assert [draw.seed for draw in result.draws] == [42, 43, 44]
    assert result.score.macro == pytest.approx(np.mean(macros))
    assert result.spread == pytest.approx(np.std(macros, ddof=1))
    assert result.spread > 0
    assert len(probe(features, task, 1.0).draws) == 1
    alone = probe(features, task, 0.05, seeds=(43,))
    assert alone.score.macro == pytest.approx(macros[1])
    assert alone.spread == 0


def test_features_that_do_not_vary_in_the_draw_are_left_out():
    features, task = make()
    plain = probe(features, task, 1.0)
    extra = np.full((len(features), 2), 7.3, dtype=np.float32)
    extra[task.rows("test")] = 1e6  # varies on test only: no effect
    widened = probe(np.concatenate([features, extra], axis=1), task, 1.0)
    assert widened.score.macro == pytest.approx(plain.score.macro, abs=1e-6)


def test_bad_tasks_are_refused():
    features, task = make()
    with pytest.raises(ProbeError, match="no recording of the task in split 'val'"):
        dataclasses.replace(task, split=np.where(task.split == "val", "train", task.split))
    with pytest.raises(ProbeError, match="1 patients are in 'train' and in 'val' "):
        dataclasses.replace(task, patient=np.array(["same"] * len(features)))
    with pytest.raises(ProbeError, match="599 features for 600 recordings"):
        probe(features[1:], task, 1.0)


def test_unconverged_fits_are_logged_once(monkeypatch, caplog, recwarn):
    monkeypatch.setattr(logistic_regression, "_MAX_ITERATIONS", 2)
    features, task = make()
    with caplog.at_level(logging.WARNING):
        probe(features, task, 1.0)
    assert len(caplog.records) == 1
    assert "stopped at 2 iterations" in caplog.text
    assert not list(recwarn)


def test_report_contains_three_kinds_of_features(tmp_path):
    run, cohort = PlantedRun(tmp_path), PlantedCohort()
    calls = []
    report = run_probe(run, cohort, "finding", fractions=(0.1, 1.0), progress=lambda *call: calls.append(call))
    assert [(row["fraction"], row["features"], row["n_train"]) for row in report.rows()] == [
        (fraction, name, n)
        for fraction, n in ((0.1, 14), (1.0, 144))
        for name in ("trained", "untrained", "handcrafted")
    ]
    for row in report.rows():
        assert row["low"] <= row["macro"] <= row["high"]
    trained, untrained, handcrafted = report.results[1.0].values()
    assert trained.score.macro > 0.99
    assert handcrafted.score.macro > 0.95
    assert 0.3 < untrained.score.macro < 0.7
    above, (low, _) = report.gain(1.0)
    assert above == pytest.approx(trained.score.macro - untrained.score.macro)
    assert trained.measures["auprc"].macro > 0.95 > untrained.measures["auprc"].macro
    assert trained.measures["f1_val"].macro > 0.85 > untrained.measures["f1_val"].macro
    assert trained.measures["brier"].macro < untrained.measures["brier"].macro
    row = report.rows()[3]
    assert (row["f1_val"], row["auprc"]) == (trained.measures["f1_val"].macro, trained.measures["auprc"].macro)
    assert row["chance"] == pytest.approx(np.mean(list(trained.score.positives.values())) / 48)
    lines = report.long_rows()
    assert len(lines) == 2 * 3 * 7 * 5  # fractions, features, measures, classes and macro
    (line,) = (
        line for line in lines
        if [line[k] for k in ("fraction", "features", "measure", "class")] == [1.0, "trained", "f1_val", "beta"]
    )  # fmt: skip
    assert line["value"] == trained.measures["f1_val"].per_class["beta"]
    assert line["positives"] == trained.score.positives["beta"]
    assert low > 0.2
    assert {name for name, *_ in calls} == {"embed, trained", "embed, untrained", "hand-crafted features", "probe"}
    assert calls[-1] == ("probe", 6, 6)
    by_class = report.class_rows()
    assert [(row["fraction"], row["class"]) for row in by_class] == [(f, word) for f in (0.1, 1.0) for word in WORDS]
    assert by_class[4]["trained"] == trained.score.per_class["alpha"]
    assert by_class[4]["handcrafted"] == handcrafted.score.per_class["alpha"]
    assert len(list((tmp_path / "embeddings").iterdir())) == 2  # the untrained encoder's are cached too

    assert {(line["protocol"], line["window"]) for line in lines} == {("strict", None)}

    result = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (result["protocol"], result["window"]) == ("strict", None)
    assert (result["command"], result["cohort"], result["run"], result["task"]) == (
        "probe",
        "planted",
        "seeing",
        "finding",
    )
    assert (result["n_train"], result["n_val"], result["n_test"]) == (144, 48, 48)
    assert result["classes"] == list(WORDS)
    assert list(result["fractions"]) == ["0.1", "1"]
    cell = result["fractions"]["0.1"]["trained"]
    assert cell["macro"] == report.results[0.1]["trained"].score.macro
    assert cell["measures"]["ece"]["macro"] == report.results[0.1]["trained"].measures["ece"].macro
    assert [draw["seed"] for draw in cell["draws"]] == [42, 43, 44]


def test_a_report_names_its_window():
    report = run_probe(PlantedRun(), PlantedCohort(), "finding", fractions=(1.0,), window="center_10s")
    assert report.to_json()["window"] == "center_10s"
    assert {line["window"] for line in report.long_rows()} == {"center_10s"}
