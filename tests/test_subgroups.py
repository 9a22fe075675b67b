"""Scores by age, sex and site."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import PlantedCohort

from leadwise.evaluate.card import subgroups
from leadwise.evaluate.metrics.auroc import auroc


def test_bands_and_small_sites_and_what_is_not_known() -> None:
    cohort = PlantedCohort()  # 240 rows
    n = len(cohort)
    cohort.index["age"] = np.resize([39.9, 40.0, 59.0, 79.0, 80.0, 300.0, np.nan], n)
    cohort.index["sex"] = np.resize(["M", "F", ""], n)
    cohort.index["site"] = ["a"] * 150 + ["b"] * 80 + ["c"] * 6 + ["d"] * 3 + [None]
    groups = subgroups.group_names(cohort, np.arange(n))
    assert groups["age"][:7].tolist() == ["< 40", "40-59", "40-59", "60-79", "80+", "80+", "not known"]
    assert groups["sex"][:3].tolist() == ["M", "F", "not known"]
    assert set(groups["site"]) == {"a", "b", "3 small sites"}
    assert subgroups.group_names(PlantedCohort(), np.arange(n)) == {}
    cohort.index["age"] = np.nan
    assert list(subgroups.group_names(cohort, np.arange(n))) == ["sex", "site"]


def test_each_group_is_scored_beside_all_patients_on_the_same_classes() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 3)) < 0.4).astype(np.int8)
    young = np.arange(200) < 100
    labels[young, 2] = 0  # the young never have the third class
    values = labels + np.where(young, 0.1, 3.0)[:, None] * rng.normal(size=(200, 3))  # and are classified better
    names = {"age": np.where(young, "< 40", "80+")}
    patients = [f"p{row // 2}" for row in range(200)]
    groups = {
        group.name: group
        for group in subgroups.score_groups(labels, {"probe": values}, patients, ("a", "b", "c"), names)
    }
    assert list(groups) == ["< 40", "80+"]
    assert groups["< 40"].classes == ("a", "b")
    assert groups["80+"].classes == ("a", "b", "c")
    assert groups["< 40"].macro == pytest.approx(auroc(labels[young, :2], values[young, :2]).mean())
    assert groups["< 40"].macro > 0.95 > groups["80+"].macro
    assert groups["< 40"].all_patients == pytest.approx(auroc(labels[:, :2], values[:, :2]).mean())
    assert (groups["80+"].n_records, groups["80+"].n_patients) == (100, 50)
    low, high = groups["80+"].interval
    assert low < groups["80+"].macro < high


def test_a_group_too_small_has_no_score() -> None:
    labels = np.tile(np.array([[0], [1]], dtype=np.int8), (30, 1))
    names = {"sex": np.array(["M"] * 10 + ["F"] * 50)}
    groups = subgroups.score_groups(labels, {"probe": labels * 1.0}, [str(row) for row in range(60)], ("a",), names)
    by_name = {group.name: group for group in groups}
    assert by_name["M"].macro is None
    assert by_name["M"].n_records == 10
    assert by_name["F"].macro == 1.0
    json.dumps([group.row() for group in groups], allow_nan=False)
    labels[12:] = 0  # F has enough records, but too few positives
    assert all(
        group.macro is None
        for group in subgroups.score_groups(labels, {"p": labels * 1.0}, list("ab") * 30, ("a",), names)
    )
