"""A probe of a common width: the same scores as a plain version, and no use of validation and test for the axes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted import PlantedCohort, PlantedRun
from sklearn.linear_model import LogisticRegression
from test_probe import make

from leadwise.data.label_subset import subset
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.principal_axes import principal_axes
from leadwise.evaluate.probe import ProbeTask, probe, run_probe


def wide(width: int = 40, n: int = 240) -> tuple[np.ndarray, ProbeTask]:
    """Features of few directions and of very different scales, and one constant feature."""
    features, task = make(n=n, width=width)
    features = features + 3 * features[:, :4] @ np.random.default_rng(5).normal(size=(4, width))
    features *= 10.0 ** np.random.default_rng(6).integers(-2, 3, size=width)
    features[:, 7] = 3.0
    return features.astype(np.float32), task


def plain_axes(train: np.ndarray, n_axes: int) -> np.ndarray:
    """The axes of largest variance, one by one: power iteration on the covariance, then deflation."""
    spread = train.std(axis=0)
    inputs = np.where(spread > 0, (train - train.mean(axis=0)) / np.where(spread > 0, spread, 1), 0.0)
    covariance = inputs.T @ inputs / len(inputs)
    axes = []
    for number in range(n_axes):
        axis = np.random.default_rng(number).normal(size=len(covariance))
        for _ in range(3000):
            axis = covariance @ axis
            axis /= np.linalg.norm(axis)
        covariance = covariance - (axis @ covariance @ axis) * np.outer(axis, axis)
        axes.append(axis)
    return np.stack(axes, axis=1)


def test_the_axes_are_those_of_a_plain_version():
    features, task = wide()
    train = features[task.rows("train")].astype(np.float64)
    axes = principal_axes(train, 4)
    assert axes is not None
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(np.abs(axes.T @ plain_axes(train, 4)), np.eye(4), atol=1e-4)
    np.testing.assert_array_equal(axes, principal_axes(train, 4))


def test_scores_equal_a_plain_regression_on_the_components():
    features, task = wide()
    train, test = task.rows("train"), task.rows("test")
    axes = plain_axes(features[train].astype(np.float64), 4)
    for fraction in (0.2, 1.0):
        result = probe(features, task, fraction, seeds=(42,), width=4)
        drawn = train[subset(len(train), fraction, 42)]
        mean, spread = features[drawn].mean(axis=0, dtype=float), features[drawn].std(axis=0, dtype=float)
        inputs = (features - mean) / np.where(spread > 1e-6, spread, np.inf) @ axes
        for k, name in enumerate(task.classes):
            model = LogisticRegression(C=result.draws[0].strength, tol=1e-8, max_iter=10_000)
            scores = model.fit(inputs[drawn], task.labels[drawn, k]).decision_function(inputs[test])
            np.testing.assert_allclose(result.test_scores[0, :, k], scores, atol=0.02)
            expected = auroc(task.labels[test][:, [k]], scores[:, None])[0]
            assert result.score.per_class[name] == pytest.approx(expected, abs=2e-3)
        assert (result.feature_width, result.probe_width) == (40, 4)


def test_without_a_width_or_with_narrower_features_nothing_changes():
    features, task = wide()
    native = probe(features, task, 1.0)
    assert (native.feature_width, native.probe_width) == (40, 40)
    for width in (40, 41, 1000):
        same = probe(features, task, 1.0, width=width)
        assert (same.feature_width, same.probe_width) == (40, 40)
        np.testing.assert_array_equal(same.test_scores, native.test_scores)


def test_dropping_only_empty_directions_changes_nothing():
    """The penalty does not depend on a rotation, so a reduction that loses nothing gives the same scores."""
    features, task = make(width=6)
    doubled = np.concatenate([features, features], axis=1)
    for fraction in (0.1, 1.0):
        native, reduced = probe(doubled, task, fraction), probe(doubled, task, fraction, width=6)
        assert reduced.probe_width == 6
        np.testing.assert_allclose(reduced.test_scores, native.test_scores, atol=0.02)
        assert reduced.score.macro == pytest.approx(native.score.macro, abs=1e-3)


def test_validation_and_test_recordings_do_not_affect_the_axes():
    features, task = wide()
    changed = features.copy()
    for split in ("val", "test"):
        rows = task.rows(split)
        changed[rows] = 1000 * np.random.default_rng(4).normal(size=changed[rows].shape)
    train = task.rows("train")
    np.testing.assert_array_equal(principal_axes(features[train], 4), principal_axes(changed[train], 4))

    changed = features.copy()
    changed[task.rows("test")] *= -7.0
    honest, other = probe(features, task, 0.2, width=4), probe(changed, task, 0.2, width=4)
    assert [dataclasses.replace(d, test_macro=0.0) for d in other.draws] == [
        dataclasses.replace(d, test_macro=0.0) for d in honest.draws
    ]


def test_the_axes_use_all_training_recordings_and_no_label(monkeypatch):
    features, task = wide()
    passed = []

    def record(train, width):
        passed.append(train)
        return principal_axes(train, width)

    monkeypatch.setattr("leadwise.evaluate.probe.principal_axes", record)
    probe(features, task, 0.1, width=4)
    (train,) = passed  # once for the three draws
    np.testing.assert_array_equal(train, features[task.rows("train")])


def test_a_small_training_split_limits_the_width():
    features, task = wide(width=40, n=40)
    n_train = len(task.rows("train"))
    assert n_train < 30
    result = probe(features, task, 1.0, width=30)
    assert (result.feature_width, result.probe_width) == (40, n_train - 1)


@pytest.mark.parametrize("width", [0, -3])
def test_a_width_below_one_is_refused(width):
    features, task = wide()
    with pytest.raises(ProbeError, match=f"a probe width of {width} is below 1"):
        probe(features, task, 1.0, width=width)


def test_the_report_names_both_widths():
    report = run_probe(PlantedRun(), PlantedCohort(), "finding", fractions=(1.0,), width=3)
    by_features = {row["features"]: row for row in report.rows()}
    assert (by_features["trained"]["feature width"], by_features["trained"]["probe width"]) == (4, 3)
    assert by_features["handcrafted"]["feature width"] > by_features["handcrafted"]["probe width"] == 3
    assert {
        (line["feature_width"], line["probe_width"]) for line in report.long_rows() if line["features"] == "trained"
    } == {(4, 3)}
    result = report.to_json()
    assert result["width"] == 3
    cell = result["fractions"]["1"]["trained"]
    assert (cell["feature_width"], cell["probe_width"]) == (4, 3)
    assert run_probe(PlantedRun(), PlantedCohort(), "finding", fractions=(1.0,)).to_json()["width"] is None
