"""MERL's trainer compared with torch's own modules, the effect of each fault, and both protocols side by side."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPORTS, TINY, config_table
from planted import WORDS, PlantedCohort, PlantedRun, SeeingMethod
from split_files import named, own_splits
from torch import Tensor, nn
from typer.testing import CliRunner

from leadwise.batch import Batch, Signal
from leadwise.cli import app
from leadwise.cli.output import out
from leadwise.cli.protocol import print_report, published_splits_json
from leadwise.cli.result_files import write_tables
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import subset
from leadwise.data.published_splits import PublishedError, read_published
from leadwise.data.sources.ptbxl import PTBXL
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.merl_legacy.legacy_task import inapplicable_faults, load_legacy_task, with_published_splits
from leadwise.evaluate.merl_legacy.probe_heads import (
    FAULT_DESCRIPTIONS,
    NOT_REPRODUCED,
    EpochLogits,
    Fault,
    FrozenFeatures,
    HeadSettings,
    TrainerSettings,
    best_epoch,
    known_column_orders,
    labels_by_position,
    parse_faults,
    train_heads,
)
from leadwise.evaluate.merl_legacy.unfrozen_batchnorm import UnfrozenFeatures, find_batchnorms, restored_state
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.protocol import LegacySettings, run_protocol
from leadwise.run import create

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SPLITS = SHARED / "data" / "merl-splits"
FEW = TrainerSettings(epochs=8)
FAST = TrainerSettings(epochs=40, lr=0.05)  # with features of a few tenths of a mV, training is slow at MERL's rate


class NormedMethod(SeeingMethod):
    """Embeds as its parent does, followed by a BatchNorm with the initial running statistics."""

    def __init__(self, seeing: bool = True) -> None:
        super().__init__(seeing)
        self.norm = nn.BatchNorm1d(len(WORDS), momentum=0.1)

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        return self.norm(super().embed_ecg(batch, part))


class NormedRun(PlantedRun):
    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.method = NormedMethod()


def features(n: int = 90, width: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < 0.4).astype(np.int8)
    values = rng.normal(size=(n, width)).astype(np.float32)
    values[:, :3] += labels
    return values, labels


def train_with_torch(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, trainer: TrainerSettings, early: bool
) -> np.ndarray:
    """Return (E, n_test, K) logits of torch's own layer, loss, optimiser and schedule."""
    torch.manual_seed(trainer.seed)
    layer = nn.Linear(train.shape[1], labels.shape[1])
    adam = torch.optim.Adam(layer.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, milestones=[40], gamma=0.1)
    order = torch.Generator().manual_seed(trainer.seed)
    x, y = torch.from_numpy(train), torch.from_numpy(labels).float()
    logits = []
    for _ in range(trainer.epochs):
        for positions in torch.randperm(len(x), generator=order).split(16):
            adam.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(layer(x[positions]), y[positions]).backward()
            adam.step()
            if early:
                schedule.step()
        schedule.step()
        with torch.no_grad():
            logits.append(layer(torch.from_numpy(test)).numpy())
    return np.stack(logits)


@pytest.mark.parametrize("early", [False, True])
def test_the_trainer_equals_torchs_own_modules(early: bool) -> None:
    train, labels = features()
    val, test = features(20, seed=1)[0], features(30, seed=2)[0]
    trainer = TrainerSettings(epochs=45)
    [logits] = train_heads(FrozenFeatures(train, val, test), [HeadSettings(labels, early)], trainer)
    assert (logits.val.shape, logits.test.shape) == ((45, 20, 3), (45, 30, 3))
    np.testing.assert_allclose(logits.test, train_with_torch(train, labels, test, trainer, early), atol=2e-5)
    np.testing.assert_allclose(logits.val, train_with_torch(train, labels, val, trainer, early), atol=2e-5)


def test_the_rate_drops_after_forty_epochs_or_with_the_fault_after_forty_steps_of_the_schedule() -> None:
    trainer = TrainerSettings()
    assert [trainer.rate(epoch, 5, 100, False) for epoch in (0, 39, 40)] == pytest.approx([1e-3, 1e-3, 1e-4])
    assert [trainer.rate(0, batch, 100, True) for batch in (0, 39, 40)] == pytest.approx([1e-3, 1e-3, 1e-4])
    # with one batch an epoch the schedule is stepped twice an epoch
    assert [trainer.rate(epoch, 0, 1, True) for epoch in (19, 20)] == pytest.approx([1e-3, 1e-4])


def test_heads_trained_together_equal_those_trained_alone() -> None:
    train, labels = features()
    inputs = FrozenFeatures(train, train[:20], train[20:50])
    heads = [HeadSettings(labels), HeadSettings(labels, True), HeadSettings(1 - labels)]
    together = train_heads(inputs, heads, TrainerSettings(epochs=15))
    for head, logits in zip(heads, together):
        [alone] = train_heads(inputs, [head], TrainerSettings(epochs=15))
        np.testing.assert_array_equal(alone.test, logits.test)
    assert np.abs(together[0].test - together[1].test).max() > 1e-3
    [other] = train_heads(inputs, heads[:1], TrainerSettings(epochs=15, seed=43))
    assert np.abs(together[0].test - other.test).max() > 1e-3
    with pytest.raises(ProbeError, match="labels for other than the 90 training recordings"):
        train_heads(inputs, [HeadSettings(labels[1:])], FEW)
    with pytest.raises(ProbeError, match="0 epochs train nothing"):
        TrainerSettings(epochs=0)


def test_the_epoch_is_chosen_on_validation_or_with_the_fault_on_test() -> None:
    val = test = np.array([[0], [0], [1], [1]], dtype=np.int8)
    good, fair, bad = ([0.0, 1, 2, 3], [0.0, 2, 1, 3], [3.0, 2, 1, 0])
    logits = EpochLogits(
        np.array([fair, good, bad, good], np.float32)[..., None],
        np.array([good, fair, bad, bad], np.float32)[..., None],
    )
    assert best_epoch(logits, val, test, on_test=False) == 1
    assert best_epoch(logits, val, test, on_test=True) == 0
    with pytest.raises(ProbeError, match="no class has both label values in split 'val'"):
        best_epoch(logits, val * 0, test, on_test=False)
    assert best_epoch(logits, val * 0, test, on_test=True) == 0  # validation is not used


def test_positional_columns_compare_a_class_with_the_one_in_its_position() -> None:
    labels = np.eye(4, dtype=np.int8)
    moved = labels_by_position(
        labels, ("a", "b", "c", "d"), train_order=("b", "a", "c", "d"), scored_order=("b", "c", "d", "a")
    )
    # b has the same position in both files; a has the position of c in the scored file, c that of d, d that of a
    np.testing.assert_array_equal(moved, labels[:, [2, 1, 3, 0]])
    assert known_column_orders("ptbxl", "super", tuple(PTBXL["super"])) is None
    assert known_column_orders("csn", "sub", tuple(PTBXL["sub"])) is None


@pytest.mark.real
@pytest.mark.skipif(not SPLITS.is_dir(), reason="the published splits are not beside this checkout")
def test_a_perfect_classifier_under_positional_columns() -> None:
    published = read_published(SPLITS, "sub")
    known = known_column_orders("ptbxl", "sub", published.classes)
    assert known is not None
    for split, expected in (("test", 93.37), ("val", 93.44)):
        truth = published.splits[split].labels
        columns = published.columns
        moved = labels_by_position(truth, published.classes, columns["train"], columns[split])
        assert 100 * auroc(moved, truth).mean() == pytest.approx(expected, abs=0.005)
        # without the files the same classes are compared
        np.testing.assert_array_equal(moved, labels_by_position(truth, published.classes, known["train"], known[split]))


def test_moving_batchnorm_uses_each_batchs_statistics_and_is_restored() -> None:
    run, cohort = NormedRun(), PlantedCohort()
    method = run.method
    method.weight.requires_grad_(False)
    method.eval()
    method.norm.train()  # an unusual state that must be restored
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    rows = {"train": cohort.rows("train"), "val": cohort.rows("val"), "test": cohort.rows("test")}
    with restored_state(method):
        inputs = UnfrozenFeatures(run, cohort, rows, "backbone", None)
        positions = torch.tensor([3, 1, 40, 7])
        embedded = inputs.train(positions)
        signal = cohort.steps[rows["train"][positions.numpy()], : len(WORDS)].astype(np.float32) / 1000
        spread = signal.std(axis=-1, ddof=1)
        np.testing.assert_allclose(
            embedded, (spread - spread.mean(axis=0)) / np.sqrt(spread.var(axis=0) + 1e-5), rtol=1e-3, atol=1e-4
        )
        np.testing.assert_allclose(method.norm.running_mean, 0.1 * spread.mean(axis=0), rtol=1e-4)
        first, _ = inputs.held_out()
        again, _ = inputs.held_out()
        torch.testing.assert_close(first, again, rtol=0, atol=0)  # held-out recordings do not change it
        inputs.train(torch.arange(16))
        assert (inputs.held_out()[0] - first).abs().max() > 1e-2
    assert [module.training for module in method.modules()] == modes
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert find_batchnorms(method) == [method.norm]
    assert not find_batchnorms(SeeingMethod())


def test_a_last_batch_of_one_does_not_stop_a_batchnorm_over_recordings() -> None:
    run, cohort = NormedRun(), PlantedCohort()
    rows = {split: cohort.rows(split) for split in ("train", "val", "test")}
    with restored_state(run.method):
        inputs = UnfrozenFeatures(run, cohort, rows, "backbone", None)
        inputs.train(torch.arange(16))
        running_mean = run.method.norm.running_mean.clone()
        alone = inputs.train(torch.tensor([3]))
        assert torch.equal(run.method.norm.running_mean, running_mean)
        inputs.train(torch.arange(16))  # the next batch changes it again
        assert not torch.equal(run.method.norm.running_mean, running_mean)
    assert torch.isfinite(alone).all()
    assert not run.method.norm._forward_pre_hooks
    report = run_protocol(run, cohort, "finding", (17 / 144,), legacy=LegacySettings((Fault.MOVING_BATCHNORM,), FEW))
    assert {line.n_train % 16 for line in report.lines} == {1}


def test_moving_batchnorm_applies_to_a_part_that_runs_one(cohort_folder: Path) -> None:
    def reason(settings: str, part: str) -> str | None:
        table = config_table(cohort_folder) | {"method": {"name": "merl", **TINY[settings]}}
        run = create(typed(Config, table), REPORTS)
        return inapplicable_faults(run, load_legacy_task(cohort, "own"), None, part).get(Fault.MOVING_BATCHNORM)

    cohort = Cohort.open(cohort_folder)
    assert reason("merl vit", "backbone") == "the method's 'backbone' embedding uses no BatchNorm"
    assert reason("merl vit", "shared") is None
    assert reason("merl", "backbone") is None


def test_the_backbone_is_restored_after_an_error() -> None:
    method = NormedMethod()

    def cut_short() -> None:
        with restored_state(method):
            method.norm.running_mean.fill_(7.0)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cut_short()
    assert method.norm.running_mean.abs().max() == 0


def test_both_protocols_side_by_side(tmp_path: Path) -> None:
    run, cohort = NormedRun(tmp_path), PlantedCohort()
    before = {name: tensor.clone() for name, tensor in run.method.state_dict().items()}
    result: list[tuple[str, int, int]] = []
    report = run_protocol(
        run,
        cohort,
        "finding",
        (0.5, 1.0),
        legacy=LegacySettings(trainer=TrainerSettings(epochs=4)),
        progress=lambda *at: result.append(at),
    )
    applied = ["best_test_epoch", "moving_batchnorm", "early_lr_drop"]
    names = ["strict probe", "MERL's trainer, no fault", "no fault, seed 43", *applied, "all of them"]
    assert [(line.fraction, line.probe) for line in report.lines] == [(f, name) for f in (0.5, 1.0) for name in names]
    assert [line.comparable for line in report.lines] == ([True] + [False] * 6) * 2
    assert [row["comparable"] for row in report.rows()] == (["comparable"] + ["not comparable"] * 6) * 2
    assert {row["n_train"] for row in report.rows()} == {72, 144}
    assert set(report.not_applicable) == {
        Fault.POSITIONAL_COLUMNS, Fault.SUBSTRING_LABELS, Fault.FIVE_SECOND_WINDOW,
    }  # fmt: skip
    lines = {line.probe: line for line in report.lines if line.fraction == 1.0}
    base = lines["MERL's trainer, no fault"]
    for name in ("strict probe", *applied, "all of them"):
        line = lines[name]
        assert line.difference == pytest.approx(line.score.macro - base.score.macro)
        low, high = line.difference_interval
        expected = np.percentile(line.score.replicates - base.score.replicates, (2.5, 97.5))
        np.testing.assert_allclose((low, high), expected)
    assert base.difference is None
    assert lines["best_test_epoch"].score.macro >= base.score.macro
    assert lines["moving_batchnorm"].score.macro != base.score.macro
    assert lines["all of them"].faults == tuple(Fault(name) for name in applied)
    for name, tensor in run.method.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert {what for what, *_ in result} >= {
        "MERL's trainer, 1 of the labels, seed 42", "MERL's trainer, 1 of the labels, moving BatchNorm, seed 42",
        "MERL's trainer, 0.5 of the labels, seed 43",
    }  # fmt: skip


def test_classes_absent_from_a_draw_are_named_and_both_protocols_scored_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cohort = PlantedCohort()
    train, drawn = cohort.rows("train"), subset(144, 0.1, 42)
    rare = cohort.truth[:, 1]
    rare[train] = 0
    rare[train[np.setdiff1d(np.arange(144), np.concatenate([subset(144, 0.1, seed) for seed in (42, 43, 44)]))]] = 1
    assert not rare[train[drawn]].any()
    legacy = LegacySettings((Fault.EARLY_LR_DROP,), TrainerSettings(epochs=3))
    report = run_protocol(PlantedRun(), cohort, "finding", (0.1, 1.0), legacy=legacy)
    few, all_labels = report.lines[:4], report.lines[4:]
    assert [line.unlearnable for line in report.lines] == [("beta",)] + [()] * 7
    assert few[0].score.per_class["beta"] == 0.5
    for line in few:
        others = [line.score.per_class[name] for name in ("alpha", "gamma", "delta")]
        assert line.learnable_only == pytest.approx(np.mean(others))
    assert few[0].learnable_only > few[0].score.macro
    for line in all_labels:
        assert line.learnable_only == pytest.approx(line.score.macro)
    row, result = report.rows()[0], report.to_json()["lines"][0]
    assert (row["unlearnable"], row["learnable only"]) == ("beta", few[0].learnable_only)
    assert (result["unlearnable"], result["learnable_only"]) == (["beta"], few[0].learnable_only)
    with out.capture() as printed:
        print_report(report)
    text = " ".join(printed.get().split())
    assert "0.1 strict probe: unlearnable beta unlearnable: the class has" in text
    assert f"{few[1].learnable_only:.3f}" in text
    with out.capture() as printed:
        print_report(dataclasses.replace(report, lines=all_labels))
    assert "learnable" not in printed.get()


def test_every_legacy_number_is_marked_in_every_output() -> None:
    report = run_protocol(PlantedRun(), PlantedCohort(), "finding", (1.0,), legacy=LegacySettings(trainer=FEW))
    result = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (result["command"], result["protocol"], result["comparable"]) == ("probe", "both", False)
    assert [line["comparable"] for line in result["lines"]] == [
        line["probe"] == "strict probe" for line in result["lines"]
    ]
    assert result["trainer"]["epochs"] == 8
    assert result["trainer"]["lr"] == 1e-3
    assert "fp16" in result["trainer"]["precision"]
    assert result["not_applicable"]["moving_batchnorm"] == "the method has no BatchNorm"
    assert set(result["faults"]) == {"best_test_epoch", "early_lr_drop"}
    assert result["left_out"] == NOT_REPRODUCED
    assert not set(NOT_REPRODUCED) & set(Fault)
    with out.capture() as printed:
        print_report(report)
    text = " ".join(printed.get().split())
    assert all(f"{what} ({reason})" in text for what, reason in NOT_REPRODUCED.items())
    assert result["lines"][1]["macro"] == report.lines[1].score.macro
    for rows in (report.rows(), report.class_rows(), report.long_rows()):
        for row in rows:
            assert row["comparable"] == ("comparable" if row["probe"] == "strict probe" else "not comparable")
    long = report.long_rows()
    assert len(long) == len(report.lines) * (1 + len(WORDS))
    assert [row["class"] for row in long[:5]] == ["macro", *WORDS]
    assert long[0]["value"] == report.lines[0].score.macro
    assert len({tuple(row) for row in long}) == 1  # the same columns in every line


def test_merl_legacy_is_one_number_with_all_applicable_or_the_requested_faults() -> None:
    run, cohort = PlantedRun(), PlantedCohort()
    report = run_protocol(run, cohort, "finding", (0.1, 1.0), "merl-legacy", LegacySettings(trainer=FEW))
    assert [line.probe for line in report.lines] == ["MERL's probe: best_test_epoch + early_lr_drop"] * 2
    assert [line.n_train for line in report.lines] == [14, 144]
    assert not any(line.comparable for line in report.lines)
    [line] = run_protocol(
        run, cohort, "finding", (1.0,), "merl-legacy", LegacySettings((Fault.EARLY_LR_DROP,), trainer=FEW)
    ).lines
    assert line.faults == (Fault.EARLY_LR_DROP,)
    [none] = run_protocol(run, cohort, "finding", (1.0,), "merl-legacy", LegacySettings((), trainer=FEW)).lines
    assert none.probe == "MERL's probe: no fault"
    both = run_protocol(run, cohort, "finding", (1.0,), legacy=LegacySettings(trainer=FEW)).lines
    assert none.score == both[1].score


def test_latex_of_both_protocols_gives_each_number_its_own_interval(tmp_path: Path) -> None:
    report = run_protocol(PlantedRun(), PlantedCohort(), "finding", (1.0,), legacy=LegacySettings(trainer=FEW))
    write_tables(None, tmp_path / "t.tex", report, per_class=False)
    lines = [line for line in (tmp_path / "t.tex").read_text().splitlines() if line.endswith(r"\\")]
    header = lines[0].removesuffix(r" \\").split(" & ")
    assert header == ["fraction", "probe", "n\\_train", "epoch", "macro", "difference", "learnable only", "comparable"]
    for row, line in zip(report.rows(), lines[1:], strict=True):
        cells = dict(zip(header, line.removesuffix(r" \\").replace("$-$", "-").split(" & "), strict=True))
        assert cells["macro"].endswith(f"[{row['low']:.3f}, {row['high']:.3f}]}}")
        apart = row["difference"]
        ends = "--" if apart is None else f"[{row['difference_low']:.3f}, {row['difference_high']:.3f}]}}"
        assert cells["difference"].endswith(ends)


def test_the_same_training_with_and_without_a_seed_is_the_same() -> None:
    first, second = (
        run_protocol(
            NormedRun(), PlantedCohort(), "finding", (0.2,), legacy=LegacySettings(trainer=TrainerSettings(epochs=3))
        ).to_json()
        for _ in range(2)
    )
    assert first == second


class SubCohort(PlantedCohort):
    """PTB-XL's sub-classes by name, three of them planted."""

    planted = ("AVB", "RAO/RAE", "ISC", "NORM")

    def __init__(self) -> None:
        super().__init__()
        self.source, self.tasks = "ptbxl", {"sub": self.planted}

    def rows(self, split: str | None = None, task: str | None = None, min_report_words: int = 0) -> np.ndarray:
        return super().rows(split)


def test_positional_columns_score_three_classes_against_others_without_any_file() -> None:
    report = run_protocol(PlantedRun(), SubCohort(), "sub", (1.0,), legacy=LegacySettings(trainer=FAST))
    lines = {line.probe: line for line in report.lines}
    honest = lines["MERL's trainer, no fault"].score.per_class
    wrong = lines["positional_columns"].score.per_class
    assert wrong["NORM"] > 0.95
    for name in ("AVB", "RAO/RAE", "ISC"):
        assert honest[name] > 0.95
        assert wrong[name] < 0.75
    true, compared_with = (lines[name].score.positives for name in ("MERL's trainer, no fault", "positional_columns"))
    for trained, scored in {"AVB": "ISC", "RAO/RAE": "AVB", "ISC": "RAO/RAE", "NORM": "NORM"}.items():
        assert compared_with[trained] == true[scored]
    assert lines["positional_columns"].difference_interval[1] < -0.1


class LongCohort(PlantedCohort):
    """Eight seconds each, the finding in the last three; named as CPSC2018, which MERL cuts after five."""

    def __init__(self) -> None:
        super().__init__()
        self.source = "cpsc2018"
        quiet = np.random.default_rng(1).normal(scale=20, size=(len(self), 12, 800)).astype(np.int16)
        quiet[:, :, 550:750] += self.steps
        self.steps = quiet


def test_five_seconds_lose_what_comes_later() -> None:
    run = PlantedRun()
    run.config = dataclasses.replace(run.config, signal=Signal(rate_hz=100, duration_s=8.0))
    legacy = LegacySettings((Fault.FIVE_SECOND_WINDOW,), FAST)
    report = run_protocol(run, LongCohort(), "finding", (1.0,), legacy=legacy)
    lines = {line.probe: line for line in report.lines}
    assert lines["MERL's trainer, no fault"].score.macro > 0.9
    assert abs(lines["five_second_window"].score.macro - 0.5) < 0.15
    assert "all of them" not in lines  # a single fault has no such line
    windows = {row["probe"]: row["window"] for row in report.long_rows()}
    assert windows == {name: "merl_5s_pad" if name == "five_second_window" else None for name in lines}
    assert report.to_json()["window"] is None


def test_substring_labels_come_from_the_acronyms_or_from_the_files(cohort_folder: Path, tmp_path: Path) -> None:
    cohort = PlantedCohort()
    cohort.tasks, cohort.source = {"csn": ("alpha", "alphabet", "beta", "gamma")}, "csn"
    cohort.rows = lambda split=None, task=None, min_report_words=0: PlantedCohort.rows(cohort, split)
    assert load_legacy_task(cohort, "csn").substring is None
    assert "acronyms" in inapplicable_faults(PlantedRun(), load_legacy_task(cohort, "csn"))[Fault.SUBSTRING_LABELS]
    names = np.array(cohort.tasks["csn"])
    cohort.index["acronyms"] = [",".join(names[row.astype(bool)]) or None for row in cohort.truth]
    legacy_task = load_legacy_task(cohort, "csn")
    expected = cohort.truth.copy()
    expected[:, 0] |= cohort.truth[:, 1]  # "alpha" is in "alphabet"
    np.testing.assert_array_equal(legacy_task.substring, expected)
    assert Fault.SUBSTRING_LABELS not in inapplicable_faults(PlantedRun(), legacy_task)
    legacy = LegacySettings((Fault.SUBSTRING_LABELS,), FEW)
    lines = run_protocol(PlantedRun(), cohort, "csn", (1.0,), legacy=legacy).lines
    test = cohort.rows("test")
    assert lines[1].score.positives["alpha"] == cohort.truth[test, 0].sum()
    assert lines[-1].score.positives["alpha"] == expected[test, 0].sum() > cohort.truth[test, 0].sum()

    real = named(cohort_folder)
    real.tasks["csn"] = real.tasks["own"]
    from_files = load_legacy_task(real, "csn", own_splits(tmp_path, real))
    np.testing.assert_array_equal(from_files.substring, from_files.task.labels)  # no name of these is in another
    assert from_files.task.rows("test").tolist() == list(range(34, 40))
    assert Fault.POSITIONAL_COLUMNS in inapplicable_faults(PlantedRun(), from_files)


def test_published_splits_replace_the_cohorts_own(cohort_folder: Path, tmp_path: Path) -> None:
    cohort = named(cohort_folder)
    cohort.tasks["csn"] = cohort.tasks["own"]
    splits = own_splits(tmp_path, cohort)
    path = splits / "chapman" / "chapman_test.csv"
    table = pd.read_csv(path)
    table[[*table.columns[:3], *table.columns[:2:-1]]].to_csv(path, index=False)  # classes in another order
    report = run_protocol(PlantedRun(), cohort, "csn", (1.0,), legacy=LegacySettings(trainer=FEW, splits=splits))
    result = report.to_json()
    assert (result["n_train"], result["n_val"], result["n_test"]) == (30, 4, 6)
    assert result["published_records_missing"] == {"train": 0, "val": 0, "test": 0}
    assert result["splits"] == "published"
    with out.capture() as printed:
        print_report(report)
    assert "cohort's own" not in printed.get()
    assert result["fingerprints"]["splits"] == read_published(splits, "csn").fingerprint
    assert "positional_columns" in result["faults"]
    by_probe = {line.probe: line.score.positives for line in report.lines}
    classes = cohort.tasks["own"]
    assert list(by_probe["positional_columns"].values()) == list(by_probe["strict probe"].values())[::-1]
    assert by_probe["strict probe"] == dict(
        zip(classes, [2 * (c in ("normal", "mi")) + 4 * (c == "afib") for c in classes])
    )
    with pytest.raises(PublishedError, match=r"chapman_train\.csv is missing"):
        load_legacy_task(cohort, "csn", tmp_path / "nowhere")


@pytest.mark.parametrize("protocol", ["merl-legacy", "both"])
def test_without_the_published_splits_the_report_names_the_cohorts_own(
    protocol: Literal["merl-legacy", "both"],
) -> None:
    for cohort, task, there_are in (
        (PlantedCohort(), "finding", "MERL published none of this task"),
        (SubCohort(), "sub", "pass the folder of MERL's files as --splits"),
    ):
        legacy = LegacySettings((Fault.EARLY_LR_DROP,), FEW)
        report = run_protocol(PlantedRun(), cohort, task, (1.0,), protocol, legacy)
        assert report.to_json()["splits"] == "cohort"
        with out.capture() as printed:
            print_report(report)
        text = " ".join(printed.get().split())
        assert text.count("splits and labels are the cohort's own, not MERL's published ones") == 1
        assert there_are in text


def test_faults_go_by_name() -> None:
    assert parse_faults(["early_lr_drop", "positional_columns"]) == (Fault.POSITIONAL_COLUMNS, Fault.EARLY_LR_DROP)
    with pytest.raises(ProbeError, match="no fault 'late'; choose from positional_columns, best_test_epoch"):
        parse_faults(["late"])
    assert set(FAULT_DESCRIPTIONS) == set(Fault)


@pytest.fixture
def planted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an empty folder "run"; what it holds is planted."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def probe_verb(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """`leadwise probe` on the planted run and cohort, as typed."""
    from leadwise import run as runs

    monkeypatch.setattr(runs, "load", lambda folder, *_, **_options: PlantedRun())
    monkeypatch.setattr(Cohort, "open", lambda folder: PlantedCohort())
    with out.capture() as printed:
        done = CliRunner().invoke(app, ["probe", "run", "cohort", "--task", "finding", *words])
    return done.exit_code, printed.get() + done.output


@pytest.mark.usefixtures("planted_folder")
@pytest.mark.slow
def test_the_verb_shows_both_protocols(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = tmp_path / "both.json"
    words = ("--protocol", "both", "--fractions", "1", "--epochs", "3", "--json", str(target), "--per-class")
    code, text = probe_verb(monkeypatch, *words)
    assert code == 0, text
    assert text.count("not comparable") >= 5
    assert "moving_batchnorm does not apply: the method has no BatchNorm" in text
    assert "delta" in text
    assert json.loads(target.read_text())["trainer"]["epochs"] == 3
    code, text = probe_verb(monkeypatch, "--protocol", "merl-legacy", "--faults", "early_lr_drop", "--epochs", "2")
    assert code == 0, text
    assert "MERL's probe: early_lr_drop" in text
    assert "strict" not in text.replace("protocol strict", "")
    code, text = probe_verb(monkeypatch, "--protocol", "merl-legacy", "--epochs", "2", "--window", "merl_5s_pad")
    assert code == 0, text
    assert "task finding, window merl_5s_pad, macro AUROC" in text
    code, text = probe_verb(monkeypatch, "--fractions", "1", "--window", "center_10s")
    assert code == 0, text
    assert "task finding, window center_10s: macro AUROC" in text


def test_the_verb_refuses_what_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = probe_verb(monkeypatch, "--protocol", "loose")
    assert code == 2
    assert "must be one of strict, merl-legacy, both" in text
    for words, message in (
        (("--faults", "early_lr_drop"), "--faults needs --protocol merl-legacy or both"),
        (("--epochs", "100"), "--epochs is for the legacy trainer"),
        (("--protocol", "merl-legacy", "--seeds", "42"), "--seeds is for the strict probe"),
    ):
        code, text = probe_verb(monkeypatch, *words)
        assert code == 2
        assert message in " ".join(text.replace("│", " ").split())


@pytest.mark.usefixtures("planted_folder")
@pytest.mark.slow
def test_the_given_seeds_are_those_of_the_strict_probe_beside_merls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cohort = PlantedCohort()
    result = {}
    for name, seeds in (("some", ("--seeds", "7,8")), ("usual", ())):
        files = ("--json", str(tmp_path / "both.json"))
        code, text = probe_verb(
            monkeypatch, "--protocol", "both", "--fractions", "0.1", "--epochs", "2", *seeds, *files
        )
        assert code == 0, text
        result[name] = json.loads((tmp_path / "both.json").read_text())
    alone = run_probe(PlantedRun(), cohort, "finding", fractions=(0.1,), seeds=(7, 8)).results[0.1]["trained"]
    assert result["some"]["lines"][0]["macro"] == alone.score.macro != result["usual"]["lines"][0]["macro"]
    assert result["some"]["lines"][1] == result["usual"]["lines"][1]  # the seed of MERL's trainer does not change
    assert (result["some"]["strict_seeds"], result["usual"]["strict_seeds"]) == ([7, 8], [42, 43, 44])
    legacy = LegacySettings(trainer=FEW)
    assert (
        run_protocol(PlantedRun(), cohort, "finding", (1.0,), "merl-legacy", legacy).to_json()["strict_seeds"] is None
    )


def test_the_strict_probe_takes_the_published_splits_too(cohort_folder: Path, tmp_path: Path) -> None:
    cohort = named(cohort_folder)
    cohort.tasks["csn"] = cohort.tasks["own"]
    splits = own_splits(tmp_path, cohort)
    report = run_probe(PlantedRun(), with_published_splits(cohort, "csn", splits), "csn", fractions=(1.0,))
    assert report.n_recordings == {"train": 30, "val": 4, "test": 6}
    assert report.results[1.0]["trained"].score.positives == {"normal": 2, "afib": 4, "mi": 2}
    assert with_published_splits(cohort, "csn", None) is cohort
    assert published_splits_json(cohort) == {}
    assert published_splits_json(with_published_splits(cohort, "csn", splits)) == {
        "published_splits": {
            "fingerprint": read_published(splits, "csn").fingerprint,
            "records_missing": {"train": 0, "val": 0, "test": 0},
        }
    }


@pytest.mark.usefixtures("planted_folder")
def test_zeroshot_takes_the_published_splits_too(
    monkeypatch: pytest.MonkeyPatch, cohort_folder: Path, tmp_path: Path
) -> None:
    from leadwise import run as runs

    cohort = named(cohort_folder)
    classes = cohort.tasks["csn"] = cohort.tasks["own"]
    splits = own_splits(tmp_path, cohort)
    tables = [f'[classes.{name}]\nname = "{name}"\nprompts = ["possible {name}."]' for name in classes]
    (tmp_path / "mine.toml").write_text("\n".join(['source = "nowhere"\ntask = "csn"', *tables]))
    monkeypatch.setattr(runs, "load", lambda folder, *_, **_options: PlantedRun())
    monkeypatch.setattr(Cohort, "open", lambda folder: cohort)
    target = tmp_path / "z.json"
    words = ["run", "cohort", "--task", "csn", "--prompts", str(tmp_path / "mine.toml"), "--json", str(target)]
    with out.capture():
        done = CliRunner().invoke(app, ["zeroshot", *words, "--splits", str(splits)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(target.read_text())
    assert result["trained"]["positives"] == {"normal": 2, "afib": 4, "mi": 2}  # of the six that the test file lists
    assert result["n_records"] == 6
    assert result["published_splits"]["fingerprint"] == read_published(splits, "csn").fingerprint


def test_merls_resnet_is_unfrozen_and_restored(cohort_folder: Path) -> None:
    table = config_table(cohort_folder) | {"method": {"name": "merl", **TINY["merl"]}}
    run = create(typed(Config, table), REPORTS)
    run.method.eval()
    before = run.fingerprint
    legacy = LegacySettings((Fault.MOVING_BATCHNORM,), TrainerSettings(epochs=2))
    report = run_protocol(run, Cohort.open(cohort_folder), "own", (1.0,), legacy=legacy)
    base, moved = report.lines[1], report.lines[-1]
    assert (base.probe, moved.probe) == ("MERL's trainer, no fault", "moving_batchnorm")
    assert moved.score.per_class != base.score.per_class
    assert run.fingerprint == before  # of every weight and buffer
    assert not any(module.training for module in run.method.modules())


def test_the_best_epoch_on_test_is_reported_only_with_the_fault() -> None:
    legacy = LegacySettings((Fault.BEST_TEST_EPOCH,), TrainerSettings(epochs=8, lr=0.01))
    _, base, _, best = run_protocol(PlantedRun(), PlantedCohort(), "finding", (0.05,), legacy=legacy).lines
    assert best.epoch != base.epoch
    assert best.score.macro > base.score.macro
