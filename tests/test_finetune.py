"""Fine-tuning: it learns, it is repeatable, and an interrupted call continues to the same scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPORTS, config_table

from leadwise import run as runs
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.training import finetune as tuning
from leadwise.training.finetune import FinetuneSettings, finetune

FEW = FinetuneSettings(epochs=3, batch_size=16, encoder_lr=1e-3, head_lr=1e-2, device="cpu")


@pytest.fixture
def run(cohort_folder: Path) -> runs.Run:
    return runs.create(typed(Config, config_table(cohort_folder)), REPORTS)


def scores_of(run: runs.Run, cohort_folder: Path, folder: Path | None, **changes: object) -> np.ndarray:
    report = finetune(run, Cohort.open(cohort_folder), "own", settings=FEW, folder=folder, **changes)
    return report.results[1.0]["trained"].test_scores


def test_report_has_the_form_of_a_probe_s(run: runs.Run, cohort_folder: Path) -> None:
    report = finetune(run, Cohort.open(cohort_folder), "own", (0.5, 1.0), (42, 43), settings=FEW)
    rows = report.rows()
    assert [(row["fraction"], row["features"]) for row in rows] == [
        (0.5, "trained"), (0.5, "untrained"), (1.0, "trained"), (1.0, "untrained")
    ]  # fmt: skip
    assert rows[0]["n_train"] == rows[2]["n_train"] // 2
    assert all(row["f1_max"] >= row["f1_val"] for row in rows)
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["command"] == "finetune"
    assert content["settings"]["epochs"] == 3
    draws = content["fractions"]["1"]["trained"]["draws"]
    assert [draw["seed"] for draw in draws] == [42, 43]
    assert all(1 <= draw["epoch"] <= 3 and draw["strength"] is None for draw in draws)
    assert len(report.class_rows()) == 2 * len(report.classes)


def test_the_encoder_learns_from_the_labels_and_the_run_does_not_change(run: runs.Run, cohort_folder: Path) -> None:
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    report = finetune(run, Cohort.open(cohort_folder), "own", settings=FEW)
    assert report.results[1.0]["trained"].draws[0].val_macro > 0.7
    still = dataclasses.replace(FEW, encoder_lr=1e-12, head_lr=1e-2)  # the map alone learns
    alone = finetune(run, Cohort.open(cohort_folder), "own", settings=still).results[1.0]["trained"].test_scores
    assert np.abs(alone - report.results[1.0]["trained"].test_scores).max() > 0.01
    assert all(torch.equal(value, before[name]) for name, value in run.method.state_dict().items())


def test_an_interrupted_call_continues_to_the_same_scores(
    run: runs.Run, cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scores_of(run, cohort_folder, tmp_path / "whole")
    n_steps = 0

    def stop(task: str, done: int, total: int) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scores_of(run, cohort_folder, tmp_path / "cut", progress=stop)
    starts = []
    monkeypatch.setattr(
        tuning, "seed_all", lambda seed, step, seed_all=tuning.seed_all: (starts.append(step), seed_all(seed, step))
    )
    np.testing.assert_array_equal(scores_of(run, cohort_folder, tmp_path / "cut"), whole)
    assert starts[0] > 0  # not from the first step
    starts.clear()
    np.testing.assert_array_equal(scores_of(run, cohort_folder, tmp_path / "cut"), whole)
    assert starts == []  # all of it is stored


def test_a_damaged_state_is_computed_again(run: runs.Run, cohort_folder: Path, tmp_path: Path) -> None:
    whole = scores_of(run, cohort_folder, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(scores_of(run, cohort_folder, tmp_path), whole)


def test_a_class_with_one_label_value_counts_as_chance(run: runs.Run, cohort_folder: Path) -> None:
    report = finetune(run, Cohort.open(cohort_folder), "own", (0.1,), settings=FEW)
    result = report.results[0.1]["trained"]
    assert result.draws[0].unlearnable
    for name in result.draws[0].unlearnable:
        assert result.score.per_class[name] == pytest.approx(0.5)


def test_without_a_class_of_both_values_in_validation_the_error_is_that_of_a_probe(
    run: runs.Run, cohort_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = Cohort.labels
    monkeypatch.setattr(
        Cohort, "labels", lambda self, task, rows: labels(self, task, rows) * (self.splits(rows) != "val")[:, None]
    )
    with pytest.raises(ProbeError, match="no class has both label values in split 'val', so no epoch can be chosen"):
        finetune(run, Cohort.open(cohort_folder), "own", settings=FEW)


def test_settings_and_parts_are_checked(run: runs.Run, cohort_folder: Path) -> None:
    with pytest.raises(ProbeError, match="epochs = 0: must be above 0"):
        FinetuneSettings(epochs=0)
    with pytest.raises(ProbeError, match=r"weight_decay = -1: must be 0 or above"):
        FinetuneSettings(weight_decay=-1)
    with pytest.raises(ProbeError, match="has no part 'heart'; it has backbone"):
        finetune(run, Cohort.open(cohort_folder), "own", part="heart")


def test_an_epoch_of_a_small_draw_has_each_recording_once(
    run: runs.Run, cohort_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []

    class Recorded(tuning.Sampler):
        def positions(self, step: int) -> np.ndarray:
            places = super().positions(step)
            drawn.append(sorted(places.tolist()))
            return places

    monkeypatch.setattr(tuning, "Sampler", Recorded)
    settings = FinetuneSettings(epochs=2, batch_size=1000, encoder_lr=1e-3, head_lr=1e-2, device="cpu")
    report = finetune(run, Cohort.open(cohort_folder), "own", (0.5,), settings=settings)
    n = report.results[0.5]["trained"].draws[0].n_train
    assert drawn == [list(range(n))] * 4  # two epochs of two encoders
