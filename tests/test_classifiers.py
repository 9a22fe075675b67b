"""Classifiers reproduce the scores of `probe` and `zeroshot`."""

from __future__ import annotations

import numpy as np
import pytest
from planted import PlantedCohort, PlantedRun
from test_zeroshot import PROMPTS, write

from leadwise.evaluate import classifiers
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.probe import make_probe_task, probe
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.zeroshot import run_zeroshot


def test_a_probe_classifier_reproduces_the_probe() -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    rows = cohort.rows()
    task, features = make_probe_task(cohort, "finding", rows), embed_cohort(run, cohort, "backbone", rows)
    features = features + np.random.default_rng(0).normal(scale=0.2, size=features.shape).astype(np.float32)
    test = task.rows("test")
    classifier = classifiers.probe_classifier(features, task)
    actual = auroc_score(task.labels[test], classifier.scores(features[test]), task.patient[test], task.classes)
    expected = probe(features, task, 1.0).score
    assert actual.per_class == pytest.approx(expected.per_class, abs=1e-9)
    assert actual.interval == pytest.approx(expected.interval, abs=1e-9)


def test_an_unlearnable_class_scores_zero_and_no_learnable_class_is_an_error() -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    rows = cohort.rows()
    features = embed_cohort(run, cohort, "backbone", rows)
    cohort.truth[cohort.rows("train"), 1] = 0
    classifier = classifiers.probe_classifier(features, make_probe_task(cohort, "finding", rows))
    assert not classifier.scores(features)[:, 1].any()
    assert classifier.scores(features)[:, 0].std() > 0
    cohort.truth[cohort.rows("val")] = 1
    with pytest.raises(ProbeError, match="no strength can be chosen"):
        classifiers.probe_classifier(features, make_probe_task(cohort, "finding", rows))


def test_a_zeroshot_classifier_reproduces_zeroshot(tmp_path) -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    file = write(tmp_path / "p.toml", PROMPTS)
    rows = cohort.rows("test")
    classifier = classifiers.zeroshot_classifier(run, cohort, "finding", file)
    values = classifier.scores(embed_cohort(run, cohort, "shared", rows))
    actual = auroc_score(cohort.labels("finding", rows), values, cohort.patients.take(rows), classifier.classes)
    assert actual == run_zeroshot(run, cohort, "finding", file).trained


def test_shipped_prompts_are_used_if_the_file_is_for_another_task(tmp_path) -> None:
    file = write(tmp_path / "p.toml", PROMPTS, task="other")
    with pytest.raises(PromptError, match="no prompts are shipped for source 'nowhere'"):
        classifiers.zeroshot_classifier(PlantedRun(), PlantedCohort(), "finding", file)
