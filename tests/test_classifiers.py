"""A reader gives the very scores of the verbs that it stands for."""

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


def test_a_kept_probe_scores_as_the_probe_does() -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    rows = cohort.rows()
    task, features = make_probe_task(cohort, "finding", rows), embed_cohort(run, cohort, "backbone", rows)
    features = features + np.random.default_rng(0).normal(scale=0.2, size=features.shape).astype(np.float32)
    test = task.rows("test")
    reader = classifiers.probe_classifier(features, task)
    here = auroc_score(task.labels[test], reader.scores(features[test]), task.patient[test], task.classes)
    there = probe(features, task, 1.0).score
    assert here.per_class == pytest.approx(there.per_class, abs=1e-9)
    assert here.interval == pytest.approx(there.interval, abs=1e-9)


def test_a_class_that_cannot_be_learnt_scores_zero_and_no_class_is_an_error() -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    rows = cohort.rows()
    features = embed_cohort(run, cohort, "backbone", rows)
    cohort.truth[cohort.rows("train"), 1] = 0
    reader = classifiers.probe_classifier(features, make_probe_task(cohort, "finding", rows))
    assert not reader.scores(features)[:, 1].any()
    assert reader.scores(features)[:, 0].std() > 0
    cohort.truth[cohort.rows("val")] = 1
    with pytest.raises(ProbeError, match="no strength can be chosen"):
        classifiers.probe_classifier(features, make_probe_task(cohort, "finding", rows))


def test_kept_words_score_as_zeroshot_does(tmp_path) -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    file = write(tmp_path / "p.toml", PROMPTS)
    rows = cohort.rows("test")
    reader = classifiers.zeroshot_classifier(run, cohort, "finding", file)
    values = reader.scores(embed_cohort(run, cohort, "shared", rows))
    here = auroc_score(cohort.labels("finding", rows), values, cohort.patients.take(rows), reader.classes)
    assert here == run_zeroshot(run, cohort, "finding", file).trained


def test_a_file_for_another_task_leaves_the_shipped_ones(tmp_path) -> None:
    file = write(tmp_path / "p.toml", PROMPTS, task="other")
    with pytest.raises(PromptError, match="no prompts are shipped for source 'nowhere'"):
        classifiers.zeroshot_classifier(PlantedRun(), PlantedCohort(), "finding", file)
