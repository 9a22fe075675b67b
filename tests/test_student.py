"""The distilled student: its losses, its teacher, and a run that needs the teacher no longer."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, config_table, make_batch
from test_methods import build

import leadwise as lw
from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import Config, ConfigError, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate.embed import embed_cohort
from leadwise.hub import HubError
from leadwise.nn.heads import Head, described_layers, layers_of
from leadwise.nn.losses import distillation
from leadwise.run import TEACHER_FILE, Run
from leadwise.training import dry_run
from leadwise.training import loop as training
from leadwise.training import teacher as teaching

STUDENT = {"name": "student", "resnet_width": 8}


def student_config(cohort: Path, teacher: Path | str, **optim: object) -> Config:
    table = config_table(cohort, **optim)
    table["data"] |= {"teacher": str(teacher), "min_report_words": 0}
    table["log"] |= {"validate_every": 20}
    return typed(Config, table | {"method": STUDENT})


@pytest.fixture(scope="module")
def cohort_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 recordings of 120 patients with the four reports of the tests."""
    home, batch = tmp_path_factory.mktemp("beats"), make_batch(240)
    rows = []
    for number, (ecg, report) in enumerate(zip(batch.ecg.numpy(), batch.report)):
        np.save(home / f"{number}.npy", ecg.T)
        split = "train" if number < 200 else "val" if number < 220 else "test"
        row = Row(f"r{number}", home / f"{number}.npy", f"p{number // 2}", split, report)
        rows.append(dataclasses.replace(row, leads=LEADS, rate_hz=100, units="mV"))
    write(Source("made", rows, {}), home / "cohort")
    return home / "cohort"


@pytest.fixture(scope="module")
def teacher(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    table = config_table(cohort_folder, steps=60, lr=3e-3)
    table["log"] |= {"validate_every": 0}
    return training.pretrain(typed(Config, table), tmp_path_factory.mktemp("teacher") / "teacher")


@pytest.fixture(scope="module")
def student(cohort_folder: Path, teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A student whose teacher's folder is gone."""
    home = tmp_path_factory.mktemp("student")
    shutil.copytree(teacher.folder, home / "teacher")
    config = student_config(cohort_folder, home / "teacher", steps=160, batch_size=16, lr=5e-3)
    run = training.pretrain(config, home / "run")
    shutil.rmtree(home / "teacher")
    return run


# ---------------------------------------------------------------------------------------------------------- the losses


def test_losses_equal_slow_loops() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = (torch.nn.functional.normalize(torch.randn(6, 4, generator=g), dim=1) for _ in range(2))
    distance = sum(float((a - b) @ (a - b)) for a, b in zip(s, t)) / 6
    assert float(distillation.unexplained(s, t, torch.tensor(0.5))) == pytest.approx(2 * distance, rel=1e-5)
    pairs = [(float(s[i] @ s[j] - t[i] @ t[j])) ** 2 for i in range(6) for j in range(6) if i != j]
    expected = sum(pairs) / len(pairs) / 0.25
    assert float(distillation.relations(s, t, torch.tensor(0.25))) == pytest.approx(expected, rel=1e-5)
    halves = [distillation.relations(s, t, torch.tensor(0.25), rows) for rows in (slice(0, 3), slice(3, 6))]
    assert float(sum(halves)) / 2 == pytest.approx(expected, rel=1e-5)  # the mean over two processes


def test_terms_are_0_for_the_teachers_vectors_and_1_for_their_mean() -> None:
    method, batch = build("student").eval(), make_batch(64)
    method.take_teacher(build("cg_dmer", width=8, heads=2).eval(), batch.target)
    shared = batch.target[:, :16]
    mean = shared.mean(0).expand_as(shared)
    assert float(distillation.unexplained(mean, shared, method.shared_variance)) == pytest.approx(1.0, rel=1e-4)
    assert float(distillation.unexplained(shared, shared, method.shared_variance)) == 0.0
    assert float(distillation.relations(shared, shared, method.relation_variance)) == 0.0


def test_a_text_head_is_described_and_built_again() -> None:
    head = Head(32, 16)
    described = described_layers(head)
    assert described == ["linear 32", "gelu", "norm", "linear 16"]
    built = torch.nn.Sequential(*layers_of(described, 32))
    built.load_state_dict(head.state_dict())
    x = torch.randn(3, 32)
    torch.testing.assert_close(built(x), head(x))
    for name in ("merl", "etp", "c_melt", "melp", "merit", "student"):
        method = build(name)
        if method.embeds_text:
            assert described_layers(method.text_branch[1])
    with pytest.raises(ValueError, match="layer Dropout cannot be copied"):
        described_layers(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()))
    with pytest.raises(ValueError, match="layer 'linaer 4' is unknown"):
        layers_of(["linaer 4"], 8)


def test_a_batch_without_vectors_is_an_error_with_the_remedy() -> None:
    method, batch = build("student"), make_batch(4)
    with pytest.raises(ValueError, match=r"no vectors of a teacher: set data\.teacher"):
        method(dataclasses.replace(batch, target=None))
    with pytest.raises(ValueError, match="have width 23, and the student expects 24"):
        method(dataclasses.replace(batch, target=batch.target[:, 1:]))


# ------------------------------------------------------------------------------------------------------------- the run


def test_a_student_reaches_its_teacher_on_held_out_records(student: Run, teacher: Run, cohort_folder: Path) -> None:
    cohort = Cohort.open(cohort_folder)
    rows = cohort.rows("test")
    own, taught = (embed_cohort(run, cohort, "shared", rows) for run in (student, teacher))
    assert (own * taught).sum(1).mean() > 0.95
    lines = [json.loads(line) for line in (student.folder / "metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if line["split"] == "val"]
    assert held_out[-1]["cos_teacher_centred"] > held_out[0]["cos_teacher_centred"]
    assert held_out[-1]["term/L_shared"] < 0.8, [one["term/L_shared"] for one in held_out]


def test_the_run_needs_no_teacher(student: Run, teacher: Run, cohort_folder: Path, tmp_path: Path) -> None:
    texts = ["sinus rhythm", "atrial fibrillation"]
    original = lw.load(teacher.folder)
    loaded = lw.load(student.folder)
    np.testing.assert_allclose(loaded.embed_text(texts), original.embed_text(texts), atol=1e-6)
    shared = loaded.save_pretrained(tmp_path / "shared")
    assert TEACHER_FILE not in {path.name for path in shared.iterdir()}
    config = (shared / "config.toml").read_text()
    assert 'teacher = ""' in config
    assert str(cohort_folder.parent) not in config
    again = lw.load(shared)
    assert again.fingerprint == loaded.fingerprint
    assert again.parts == ("backbone", "shared")
    ecg = make_batch(1).ecg[0].numpy()
    facts = {"rate_hz": 100, "leads": loaded.signal.leads, "units": "mV"}
    table = again.zeroshot(ecg, texts, **facts)
    assert table["cosine"].notna().all()
    np.testing.assert_allclose(again.embed(ecg, part="shared", **facts), loaded.embed(ecg, part="shared", **facts))


def test_a_student_can_teach(student: Run, cohort_folder: Path, tmp_path: Path) -> None:
    config = student_config(cohort_folder, student.folder, steps=1)
    run = training.pretrain(config, tmp_path / "run")
    np.testing.assert_allclose(lw.Model(run).embed_text("a"), lw.Model(student).embed_text("a"), atol=1e-6)


def test_an_interrupted_student_resumes_exactly_and_without_its_teacher(
    teacher: Run, cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("pretrain") and done == 6:
            raise KeyboardInterrupt

    shutil.copytree(teacher.folder, tmp_path / "teacher")
    config = student_config(cohort_folder, tmp_path / "teacher", steps=8)
    whole = training.pretrain(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        training.pretrain(config, tmp_path / "torn", progress=stop)
    shutil.rmtree(tmp_path / "teacher")
    monkeypatch.setattr(teaching, "embed", None)  # the stored vectors are used
    resumed = training.pretrain(config, tmp_path / "torn", resume=True)
    assert resumed.fingerprint == whole.fingerprint == runs.load(tmp_path / "torn").fingerprint
    (tmp_path / "torn" / TEACHER_FILE).unlink()
    with pytest.raises(HubError, match="no run"):
        training.pretrain(config, tmp_path / "torn", resume=True)


def test_a_run_that_ended_before_its_first_step_starts_again(teacher: Run, cohort_folder: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("pretrain"):
            raise KeyboardInterrupt

    config = student_config(cohort_folder, teacher.folder, steps=2)
    with pytest.raises(KeyboardInterrupt):
        training.pretrain(config, tmp_path / "run", progress=stop)
    assert (tmp_path / "run" / TEACHER_FILE).is_file()
    steps: list[str] = []
    training.pretrain(config, tmp_path / "run", progress=lambda what, done, total: steps.append(what.split("|")[0]))
    assert set(steps) == {"pretrain"}  # the stored vectors are used


def test_the_teachers_patients_count_as_trained_on(cohort_folder: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(cohort_folder)
    table = config_table(cohort_folder, steps=1)
    table["data"] |= {"train_split": "test"}
    other = training.pretrain(typed(Config, table), tmp_path / "teacher")
    run = training.pretrain(student_config(cohort_folder, other.folder, steps=1), tmp_path / "run")
    tested = cohort.patients.distinct(cohort.rows("test"))
    assert run.trained_on(cohort.source, tested) == tested
    own = cohort.patients.distinct(cohort.rows("train"))
    assert run.trained_on(cohort.source, own) == own
    assert run.provenance["teacher"]["method"] == "cg_dmer"


def test_a_changed_teacher_is_an_error_whose_remedy_works(teacher: Run, cohort_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher.folder, tmp_path / "teacher")
    path = tmp_path / "teacher" / "config.toml"
    path.write_text(path.read_text().replace("gain = 0.0", "gain = 0.1"))
    config = student_config(cohort_folder, tmp_path / "teacher", steps=1)
    with pytest.raises(runs.RunError, match=r"method\.gain changed.*accept_changes=True"):
        training.pretrain(config, tmp_path / "run")
    training.pretrain(config, tmp_path / "run", accept_changes=True)


def test_a_dry_run_includes_the_teacher(teacher: Run, cohort_folder: Path) -> None:
    plan = dry_run.plan(student_config(cohort_folder, teacher.folder), n_timed=1)
    assert any("teacher" in row["what"] for row in plan.estimate)
    assert "text_head = [" in plan.config


# ------------------------------------------------------------------------------------------------------ a wrong teacher


def test_a_teacher_that_does_not_fit_is_one_error(teacher: Run, cohort_folder: Path, tmp_path: Path) -> None:
    def refused(config: Config, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            training.pretrain(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    fits = student_config(cohort_folder, teacher.folder, steps=1)
    refused(student_config(cohort_folder, ""), ConfigError, r"set data\.teacher to a run folder")
    refused(student_config(cohort_folder, tmp_path / "none"), HubError, "no run")
    (tmp_path / "empty").mkdir()
    refused(student_config(cohort_folder, tmp_path / "empty"), runs.RunError, "is not a run folder")

    # another signal, by each of its properties
    changes = ({"rate_hz": 50}, {"duration_s": 2.0}, {"leads": ("I", "II")})
    for change, name in zip(changes, ("rate_hz = 100", "duration_s = 4", r"leads = \[I, II, III")):
        other = dataclasses.replace(fits, signal=dataclasses.replace(fits.signal, **change))
        refused(other, ConfigError, rf"data\.teacher = .*it has signal\.{name}.*set signal\.")

    # no text encoder, other settings, and a method without a teacher
    table = config_table(cohort_folder, steps=1)
    table["method"] = {"name": "simclr", **TINY["simclr"]}
    deaf = training.pretrain(typed(Config, table), tmp_path / "simclr")
    refused(student_config(cohort_folder, deaf.folder), ConfigError, "'simclr' has no text encoder; choose a run")
    other = dataclasses.replace(fits, method={**STUDENT, "text_width": 64})
    refused(other, ConfigError, r"method\.text_width = 64, but the teacher has 32; leave the setting out")
    table["data"] |= {"teacher": str(teacher.folder)}
    refused(typed(Config, table), ConfigError, r"method 'simclr' has no teacher; leave the setting empty")
