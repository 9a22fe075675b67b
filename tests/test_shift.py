"""Distribution shift: common findings by name, drops on the same recordings, and changed ECGs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import WORDS, PlantedCohort, PlantedRun
from test_methods import make_batch

from leadwise.batch import LEADS, Signal
from leadwise.data.sources import cpsc2018, csn, ptbxl
from leadwise.evaluate import shift
from leadwise.evaluate.card import robustness
from leadwise.evaluate.shift_labels import FILE, LabelMap, ShiftError, joined_labels

TASKS = {f"{module.__name__.rpartition('.')[2]}.{task.name}": tuple(task.classes) for module in (ptbxl, cpsc2018, csn)
         for task in module.TASKS}  # fmt: skip


class Other(PlantedCohort):
    """A data set with other names of the same findings, and one class more."""

    def __init__(self, seed: int = 5) -> None:
        super().__init__(seed=seed)
        self.name, self.source = "other", "elsewhere"
        self.tasks = {"label": ("A", "B1", "B2", "X")}

    def rows(self, split: str | None = None, task: str | None = None, *args: object) -> np.ndarray:
        return super().rows(split, None if task is None else "finding", *args)

    def labels(self, task: str, rows: np.ndarray) -> np.ndarray:
        truth = super().labels("finding", rows)  # alpha, beta, gamma, delta
        half = (np.asarray(rows) % 2).astype(np.int8)
        return np.stack([truth[:, 0], truth[:, 1] * half, truth[:, 1] * (1 - half), truth[:, 2]], axis=1)


MAP = f"""
[fine."nowhere.finding"]
first = ["{WORDS[0]}"]
second = ["{WORDS[1]}"]
third = ["{WORDS[3]}"]

[fine."elsewhere.label"]
first = ["A"]
second = ["B1", "B2"]
"""


@pytest.fixture
def label_map(tmp_path: Path) -> LabelMap:
    (tmp_path / "map.toml").write_text(MAP)
    return LabelMap.load(tmp_path / "map.toml")


def test_the_shipped_map_names_classes_that_exist_once() -> None:
    levels = LabelMap.load(FILE).levels
    assert {task for tasks in levels.values() for task in tasks} <= set(TASKS)
    for tasks in levels.values():
        for task, findings in tasks.items():
            classes = [one for names in findings.values() for one in names]
            assert set(classes) <= set(TASKS[task]), task
            assert len(set(classes)) == len(classes), task


@pytest.mark.parametrize(
    ("train", "test", "level", "n"),
    [("ptbxl.super", "cpsc2018.cpsc2018", "coarse", 3), ("ptbxl.super", "csn.csn", "coarse", 5),
     ("ptbxl.all", "cpsc2018.cpsc2018", "fine", 9), ("cpsc2018.cpsc2018", "csn.csn", "fine", 8),
     ("csn.csn", "ptbxl.super", "coarse", 5), ("cpsc2018.cpsc2018", "ptbxl.super", "coarse", 3)],
)  # fmt: skip
def test_six_pairs_of_public_data_sets_have_findings_in_common(train: str, test: str, level: str, n: int) -> None:
    def cohort(name: str) -> PlantedCohort:
        planted = PlantedCohort()
        planted.source, task = name.split(".")
        planted.tasks = {task: TASKS[name]}
        return planted

    common = LabelMap.load().common(cohort(train), train.split(".")[1], cohort(test), test.split(".")[1])
    assert common is not None
    assert (common.level, len(common.names)) == (level, n)


def test_labels_are_joined_by_name(label_map: LabelMap) -> None:
    ours, theirs = PlantedCohort(), Other()
    task, common = label_map.best_task(ours, "finding", theirs)
    assert (task, common.names) == ("label", ("first", "second"))
    assert common.unmapped_train == (WORDS[2], WORDS[3])
    assert common.unmapped_test == ("X",)
    rows = np.arange(20)
    joined = joined_labels(theirs, "label", rows, common.test)
    np.testing.assert_array_equal(joined, PlantedCohort.labels(theirs, "finding", rows)[:, :2])


def test_a_probe_is_scored_on_another_data_set(label_map: LabelMap) -> None:
    report = shift.run_shift(
        PlantedRun(), PlantedCohort(), "finding", [Other()], (0.5, 1.0), label_map=label_map, changes=False
    )
    (pair,) = report.data
    assert pair.train == "planted, finding"
    assert pair.n_test == len(Other().rows("test"))
    drop = pair.drops["trained"][1.0]
    assert drop.score("auroc", "clean").macro > 0.9
    assert drop.score("auroc", "shifted").macro > 0.9  # the findings are drawn in the same way
    assert drop.score("auroc", "shifted").macro > pair.drops["untrained"][1.0].score("auroc", "shifted").macro
    change, (low, high) = drop.change("auroc")
    assert change == pytest.approx(drop.shifted.score.macro - drop.clean.score.macro)
    assert low <= change <= high
    assert drop.score("f1_max", "shifted").macro >= drop.score("f1_val", "shifted").macro
    json.dumps(report.to_json(), allow_nan=False)
    assert len(report.rows()) == 3 * 2
    assert "2 fine findings in common (first, second)" in next(iter(shift.summary(report)))
    assert report.figure().axes


def test_a_data_set_with_test_recordings_alone_has_no_drop(label_map: LabelMap) -> None:
    alone = Other()
    alone.index["split"] = "test"
    report = shift.run_shift(PlantedRun(), PlantedCohort(), "finding", [alone], label_map=label_map, changes=False)
    row = report.rows()[0]
    assert row["auroc"] > 0.9
    assert row["auroc clean"] is None
    assert row["auroc change"] is None
    assert report.figure().axes


def test_a_data_set_without_test_recordings_is_one_error(label_map: LabelMap) -> None:
    other = Other()
    other.index["split"] = "train"
    with pytest.raises(ShiftError, match="cohort other has no recording of task label in split 'test'; prepare it"):
        shift.run_shift(PlantedRun(), PlantedCohort(), "finding", [Other(), other], label_map=label_map, changes=False)


def test_without_a_common_finding_the_error_names_the_tasks(tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(MAP.replace("elsewhere.label", "elsewhere.other"))
    with pytest.raises(ShiftError, match=r"map\.toml: no task of other \(elsewhere: label\) has a finding in common"):
        shift.run_shift(
            PlantedRun(), PlantedCohort(), "finding", [Other()], label_map=LabelMap.load(tmp_path / "map.toml")
        )
    (tmp_path / "map.toml").write_text(MAP.replace('"B2"', '"B3"'))
    with pytest.raises(ShiftError, match="cohort other, task label has no class 'B3'; it has A, B1, B2, X"):
        shift.run_shift(
            PlantedRun(), PlantedCohort(), "finding", [Other()], label_map=LabelMap.load(tmp_path / "map.toml")
        )
    for text, message in (
        ("[middle.x]", "must be a table"),
        ('[fine."a.b"]\nc = "d"', "must be a list"),
        ("x", "cannot be read"),
    ):
        (tmp_path / "map.toml").write_text(text)
        with pytest.raises(ShiftError, match=message):
            LabelMap.load(tmp_path / "map.toml")


def test_muscle_noise_has_its_power_and_its_band() -> None:
    signal = Signal(rate_hz=500, duration_s=10.0)
    ecg = torch.sin(2 * torch.pi * 1.0 * torch.arange(5000) / 500).expand(2, len(LEADS), 5000)
    batch = dataclasses.replace(make_batch(2), ecg=ecg.clone(), observed=torch.ones_like(ecg, dtype=torch.bool))
    noise = (robustness.add_muscle_noise(batch, 6, signal).ecg - ecg).numpy()
    assert 10 * np.log10(0.5 / (noise**2).mean()) == pytest.approx(6, abs=0.1)
    power = np.abs(np.fft.rfft(noise, axis=-1)) ** 2
    hz = np.fft.rfftfreq(5000, 1 / 500)
    assert power[..., (hz > 18) & (hz < 122)].sum() > 0.98 * power.sum()
    np.testing.assert_array_equal(robustness.add_muscle_noise(batch, 6, signal).ecg.numpy() - ecg.numpy(), noise)


def test_changed_ecgs_lower_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    report = shift.run_shift(PlantedRun(), PlantedCohort(), "finding", fractions=(1.0,))
    by_name = {change.name: drops[1.0] for change, drops in report.changes}
    assert [name for name in by_name if "dB" in name] == [
        f"{what}, {db} dB" for what in ("baseline wander", "muscle noise") for db in (12, 6, 0)
    ]
    assert {"limb leads only", "lead I only"} <= by_name.keys()
    assert "100 Hz and back" not in by_name  # the run's own rate
    at_500_hz = shift.shift_changes(Signal(rate_hz=500, duration_s=10.0), LEADS)
    assert "100 Hz and back" in [change.name for change in at_500_hz]
    assert "lead I only" not in [change.name for change in shift.shift_changes(Signal(), ("I",))]
    lead_i, limb = (
        by_name["lead I only"].score("auroc", "shifted"),
        by_name["limb leads only"].score("auroc", "shifted"),
    )
    assert lead_i.macro < by_name["lead I only"].score("auroc", "clean").macro - 0.1
    assert limb.macro > lead_i.macro
    with pytest.raises(ShiftError, match="nothing to measure"):
        shift.run_shift(PlantedRun(), PlantedCohort(), "finding", changes=False)


def test_means_over_different_findings_are_not_subtracted(label_map: LabelMap) -> None:
    report = shift.run_shift(PlantedRun(), PlantedCohort(), "finding", [Other()], label_map=label_map, changes=False)
    drop = report.data[0].drops["trained"][1.0]
    assert drop.change("f1_val") is not None
    one_less = dataclasses.replace(drop.shifted.measures["f1_val"], skipped=("second",))
    shifted = dataclasses.replace(drop.shifted, measures={**drop.shifted.measures, "f1_val": one_less})
    drop = dataclasses.replace(drop, shifted=shifted)
    assert drop.change("f1_val") is None
    assert drop.change("auroc") is not None


@pytest.mark.parametrize(("source", "n"), [("elsewhere", 0), ("nowhere", 24)])
def test_equal_names_of_patients_are_counted_in_one_source(source: str, n: int, tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(MAP.replace("elsewhere.label", f"{source}.label"))
    other = Other()
    other.source, other.name = source, "planted"  # as if of two folders with the same name
    other.index["split"] = other.index["split"].replace({"test": "val", "val": "test"})
    report = shift.run_shift(
        PlantedRun(), PlantedCohort(), "finding", [other], label_map=LabelMap.load(tmp_path / "map.toml"), changes=False
    )
    assert report.data[0].n_same_names == report.to_json()["pairs"][0]["n_same_patient_names"] == n
    assert any("if they are the same people" in sentence for sentence in shift.summary(report)) == bool(n)
