"""The supervised reference: its loss, its training recordings, and the scores of its own head."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, config_table, make_batch
from test_methods import build

from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import Config, ConfigError, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate.embed import embed_cohort
from leadwise.evaluate.metrics.auroc import auroc
from leadwise.evaluate.probe import make_probe_task, probe, run_probe
from leadwise.evaluate.supervised import SupervisedError, score_supervised
from leadwise.methods import supervised
from leadwise.run import Run
from leadwise.training import loop as training

TASK = "own"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 recordings of 48 patients without reports; task 'own' labels three of four, and one of its classes is rare."""
    home = tmp_path_factory.mktemp("labelled")
    rows = []
    for number in range(96):
        np.save(home / f"{number}.npy", make_batch(4, seed=number).ecg[number % 4].numpy().T)
        split = "train" if number < 60 else "val" if number < 76 else "test"
        known = {} if number % 4 == 3 else {TASK: {"fast": int(number % 4 == 2), "rare": int(number % 16 == 1)}}
        row = Row(f"r{number}", home / f"{number}.npy", f"p{number // 2}", split, "", known)
        rows.append(dataclasses.replace(row, leads=LEADS, rate_hz=100, units="mV"))
    write(Source("made", rows, {TASK: ("fast", "rare")}), home / "labelled", min_report_words=0)
    return home / "labelled"


def config_of(cohort: Path, fraction: float = 1.0, seed: int = 42, **optim: object) -> Config:
    table = config_table(cohort, **optim)
    table["data"] |= {"task": TASK, "label_fraction": fraction, "label_seed": seed}
    table["method"] = {"name": "supervised", "resnet_width": 8}
    return typed(Config, table)


@pytest.fixture(scope="module")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return training.pretrain(
        config_of(labelled, steps=30, batch_size=16, lr=3e-3), tmp_path_factory.mktemp("run") / "run"
    )


# ---------------------------------------------------------------------------------------------------------- method


def test_the_loss_is_the_mean_cross_entropy_over_recordings_and_classes() -> None:
    method, batch = build("supervised").eval(), make_batch(6)
    logits, total = method.embed_ecg(batch, "scores"), 0.0
    for b in range(6):
        for k in range(4):
            p = 1 / (1 + math.exp(-float(logits[b, k].detach())))
            total -= math.log(p if batch.label[b, k] else 1 - p) / 24
    assert float(method(batch)["L_bce"].detach()) == pytest.approx(total, rel=1e-5)


def test_scores_are_one_map_of_the_backbone() -> None:
    method, batch = build("supervised").eval(), make_batch(3)
    scores = method.embed_ecg(batch, "scores")
    assert scores.shape == (3, 4)
    torch.testing.assert_close(scores, method.scores(method.embed_ecg(batch)))


def test_only_training_batches_are_augmented() -> None:
    method, batch = (
        build("supervised", encoder="vit", n_patches=10, width=32, depth=1, heads=2, gain=0.5),
        make_batch(4),
    )
    torch.manual_seed(0)
    first, again = (float(method(batch)["L_bce"].detach()) for _ in range(2))
    assert first != again
    first, again = (float(method.eval()(batch)["L_bce"].detach()) for _ in range(2))
    assert first == again


def test_missing_labels_are_errors_with_a_remedy() -> None:
    method, batch = build("supervised"), make_batch(4)
    with pytest.raises(ValueError, match=r"the batch has no labels: set data\.task to a task"):
        method(dataclasses.replace(batch, label=None))
    with pytest.raises(ValueError, match="labels of 2 classes, but the method has 4"):
        method(dataclasses.replace(batch, label=batch.label[:, :2]))
    with pytest.raises(ConfigError, match=r"classes is empty.*data\.task"):
        runs.create(Config(method={"name": "supervised"}), [])


def test_its_encoders_are_those_of_the_other_small_settings() -> None:
    from leadwise.methods import merl

    cnn, trans = supervised.SMALL, supervised.ALSO_SMALL[0]
    assert cnn["resnet_width"] == merl.SMALL["resnet_width"]
    small = merl.ALSO_SMALL[0]
    assert (trans["n_patches"], trans["width"], trans["depth"]) == (
        small["n_patches"], small["vit_width"], small["vit_depth"],
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- training recordings


@pytest.mark.parametrize(("fraction", "seed"), [(0.1, 42), (0.1, 44), (1.0, 42)])
def test_it_is_trained_on_the_recordings_that_a_probe_is_fitted_on_and_no_other(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fraction: float, seed: int
) -> None:
    trained_on: set[str] = set()
    validated_on: set[str] = set()
    genuine = supervised.Method.forward

    def record_batch(self: supervised.Method, batch: object) -> object:
        (trained_on if self.training else validated_on).update(batch.record)  # type: ignore[attr-defined]
        return genuine(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(supervised.Method, "forward", record_batch)
    monkeypatch.setattr(training, "gradient_norms", lambda *_: {})
    config = config_of(labelled, fraction, seed, steps=6, batch_size=16)
    run = training.pretrain(config, tmp_path / "run")
    cohort = Cohort.open(labelled)
    rows = cohort.rows(task=TASK)
    fitted: list[np.ndarray] = []
    import leadwise.evaluate.probe as probing

    fit = probing.fit
    monkeypatch.setattr(probing, "fit", lambda train, *rest: fitted.append(train[:, 0]) or fit(train, *rest))
    numbered = np.stack([rows, np.random.default_rng(0).permutation(len(rows))], axis=1).astype(float)
    probe(numbered, make_probe_task(cohort, TASK, rows), fraction, (seed,))
    of_probe = set(cohort.records.take(fitted[0].astype(np.int64)))
    assert trained_on == of_probe
    assert len(of_probe) == int(45 * fraction)
    assert validated_on
    assert validated_on <= set(cohort.records.take(cohort.rows("val", TASK)))
    assert not (trained_on | validated_on) & set(cohort.records.take(cohort.rows("test")))
    people = set(cohort.patients.take(fitted[0].astype(np.int64)))
    assert run.provenance["n_people"] == len(run.training_hashes.people) == len(people)


def test_a_batch_may_be_larger_than_a_draw(labelled: Path, tmp_path: Path) -> None:
    run = training.pretrain(config_of(labelled, 0.03, steps=3, batch_size=64), tmp_path / "run")  # one record
    assert run.provenance["n_people"] == 1


def test_the_run_stores_its_classes_and_resumes_exactly(labelled: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    config = config_of(labelled, 0.1, steps=8)
    config = dataclasses.replace(config, log=dataclasses.replace(config.log, save_every=4))
    with pytest.raises(KeyboardInterrupt):
        training.pretrain(config, tmp_path / "torn", progress=stop)
    resumed = training.pretrain(config, tmp_path / "torn", resume=True)
    whole = training.pretrain(config, tmp_path / "whole")
    assert resumed.fingerprint == whole.fingerprint == runs.load(tmp_path / "whole").fingerprint
    assert runs.load(tmp_path / "torn").config.method["classes"] == ["fast", "rare"]
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, label_seed=43))
    with pytest.raises(ConfigError, match=r"data\.label_seed \(saved 42, requested 43\)"):
        training.pretrain(other, tmp_path / "torn", resume=True)


def test_passes_of_a_step_equal_one_batch(labelled: Path, tmp_path: Path) -> None:
    vit = {"name": "supervised", **{k: v for k, v in TINY["supervised lead_time"].items() if k != "classes"}}
    config = dataclasses.replace(config_of(labelled, 0.1, steps=3), method=vit)
    halves = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=2))
    one, two = training.pretrain(config, tmp_path / "one"), training.pretrain(halves, tmp_path / "two")
    for name, tensor in one.method.state_dict().items():
        torch.testing.assert_close(tensor, two.method.state_dict()[name], atol=2e-4, rtol=1e-3)  # of steps of 1e-3


# -------------------------------------------------------------------------------------------------------------- score


@pytest.mark.slow
def test_the_logits_of_the_head_are_scored_on_the_test_split(trained: Run, labelled: Path) -> None:
    cohort = Cohort.open(labelled)
    rows = cohort.rows("test", TASK)
    result = score_supervised([trained], cohort, TASK)
    each = auroc(cohort.labels(TASK, rows), embed_cohort(trained, cohort, "scores", rows))
    assert [result.score.per_class[name] for name in ("fast", "rare")] == pytest.approx(each.tolist())
    assert result.score.n_records == len(rows) == 15
    assert result.score.per_class["fast"] > 0.9  # the highest of three rates
    assert result.unlearnable == ()
    report = run_probe(trained, cohort, TASK, (1.0,))
    assert report.results[1.0]["trained"].score.per_class["fast"] > 0.9


def test_a_class_without_positives_in_a_draw_counts_as_a_half(labelled: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(labelled)
    draws = [
        training.pretrain(config_of(labelled, 0.05, seed, steps=2), tmp_path / f"{seed}")  # two records each
        for seed in (42, 43)
    ]
    result = score_supervised(draws, cohort, TASK)
    assert "rare" in result.unlearnable
    assert result.score.per_class["rare"] == 0.5


def test_runs_of_another_task_are_refused(trained: Run, labelled: Path, cohort_folder: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(labelled)
    with pytest.raises(SupervisedError, match="no run to score on task 'own'"):
        score_supervised([], cohort, TASK)
    with pytest.raises(SupervisedError, match=r"run run was not trained on task 'own': pretrain method 'supervised'"):
        score_supervised([trained], Cohort.open(cohort_folder), TASK)  # other classes
    other = training.pretrain(typed(Config, config_table(cohort_folder, steps=1)), tmp_path / "other")
    with pytest.raises(SupervisedError, match="run other was not trained on task 'own'"):
        score_supervised([other], cohort, TASK)
