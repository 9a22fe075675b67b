"""The loop: exact resume, a stop at what is not finite, logs that can be read later."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tomli_w
import torch
from conftest import TINY, config_table

from leadwise import run as runs
from leadwise.config import (
    Config,
    ConfigError,
    OptimConfig,
    typed,
)
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.label_subset import subset
from leadwise.data.loader import Sampler, prefetch_batches
from leadwise.evaluate.probe import make_probe_task
from leadwise.training import dry_run as planning
from leadwise.training import inputs
from leadwise.training import loop as training
from leadwise.training.gradient_step import TrainingError
from leadwise.training.optimizer import learning_rate, make_optimizer


def train(cohort: Path, folder: Path, resume: bool = False, **optim: object) -> runs.Run:
    return training.pretrain(typed(Config, config_table(cohort, **optim)), folder, resume=resume)


@pytest.mark.slow
def test_ten_steps_kill_9_and_resume_equal_twenty_to_the_bit(cohort_folder: Path, tmp_path: Path) -> None:
    views = {"shift": True, "gain": 0.1, "noise_mv": 0.02, "statement_dropout": 0.3}
    table = config_table(cohort_folder, steps=20)
    table["method"] |= views
    (tmp_path / "config.toml").write_text(tomli_w.dumps(table))
    program = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from leadwise import config\n"
        "from leadwise.training import loop\n"
        "def die(what, done, total):\n"
        "    if done == 13: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"home = Path({str(tmp_path)!r})\n"
        "loop.pretrain(config.read(home / 'config.toml'), home / 'torn', progress=die)\n"
    )
    died = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    state = torch.load(tmp_path / "torn" / "resume" / "state.pt", weights_only=True)
    assert state["step"] == 10
    config = typed(Config, table)
    resumed = training.pretrain(config, tmp_path / "torn", resume=True)
    whole = training.pretrain(config, tmp_path / "whole")
    for name, tensor in whole.method.state_dict().items():
        assert torch.equal(tensor, resumed.method.state_dict()[name]), name
    a, b = (_metrics(tmp_path / name) for name in ("torn", "whole"))
    assert [(r["step"], r["split"]) for r in a] == [(r["step"], r["split"]) for r in b]
    for x, y in zip(a, b):
        assert {k: v for k, v in x.items() if k != "records_per_s"} == {
            k: v for k, v in y.items() if k != "records_per_s"
        }
    ends = [torch.load(tmp_path / n / "resume" / "state.pt", weights_only=True) for n in ("torn", "whole")]
    moments = [end["optimizer"]["state"] for end in ends]
    assert moments[0].keys() == moments[1].keys()
    for key, state in moments[0].items():
        assert all(torch.equal(value, moments[1][key][name]) for name, value in state.items()), key


def _metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_explains_itself(cohort_folder: Path, tmp_path: Path) -> None:
    run = train(cohort_folder, tmp_path / "run")
    rows = _metrics(tmp_path / "run")
    last = [r for r in rows if r["split"] == "train"][-1]
    for term, weight in run.method.weights.items():
        assert last[f"term/{term}"] == pytest.approx(weight * last[f"raw/{term}"], rel=1e-3)
    assert {"loss", "lr", "grad_norm", "records_per_s"} <= last.keys()
    held = [r for r in rows if r["split"] == "val"][-1]
    assert held["effective_rank"] >= 1.0
    assert {f"grad/{term}" for term in run.method.weights} <= held.keys()
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "rhythm" not in text  # no report text in a log
    again = runs.load(tmp_path / "run")
    assert again.fingerprint == run.fingerprint
    assert again.config == run.config


def test_a_term_that_is_not_finite_stops_the_run_and_is_named(cohort_folder: Path, tmp_path: Path, monkeypatch) -> None:
    from leadwise.methods import cg_dmer

    local_terms = cg_dmer.Method.local_terms
    calls = []

    def broken(self, batch):
        calls.append(1)
        terms, features = local_terms(self, batch)
        return terms | {"L_orth": terms["L_orth"] * (math.nan if len(calls) == 3 else 1.0)}, features

    monkeypatch.setattr(cg_dmer.Method, "local_terms", broken)
    with pytest.raises(TrainingError, match=r"step 2: L_orth is not finite"):
        train(cohort_folder, tmp_path / "run")


def test_a_hook_gets_the_run_after_every_step_and_changes_nothing(cohort_folder: Path, tmp_path: Path) -> None:
    config = typed(Config, config_table(cohort_folder, steps=6))
    plain = training.pretrain(config, tmp_path / "plain")
    steps, weights = [], {}

    def on_step(run: runs.Run, n_done: int) -> None:
        steps.append(n_done)
        weights[n_done] = {name: value.clone() for name, value in run.method.state_dict().items()}

    watched = training.pretrain(config, tmp_path / "watched", on_step=on_step)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert watched.fingerprint == plain.fingerprint
    final = plain.method.state_dict()
    assert all(torch.equal(value, final[name]) for name, value in weights[6].items())
    assert not all(torch.equal(value, final[name]) for name, value in weights[5].items())


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    optim = OptimConfig(steps=100, lr=1.0, warmup=0.1, final_lr=0.01)
    rates = [learning_rate(s, optim) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=0.001)


def test_norms_biases_and_embeddings_do_not_decay(cohort_folder: Path, tmp_path: Path) -> None:
    run = train(cohort_folder, tmp_path / "run", steps=1)
    optimizer = make_optimizer(run.method, OptimConfig(weight_decay=0.1))
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    names = {n for n, p in run.method.named_parameters() if id(p) in decayed}
    assert names
    assert not {n for n in names if "norm" in n.lower() or n.endswith("bias") or "embeddings" in n}
    assert not names & {"ecg.spatial", "ecg.temporal", "ecg_decoder.mask", "text_decoder.position"}
    assert "ecg.transformer.blocks.0.feed.0.weight" in names
    n_all = sum(len(g["params"]) for g in optimizer.param_groups)
    assert n_all == sum(p.requires_grad for p in run.method.parameters())


def test_validation_leaves_training_untouched(cohort_folder: Path, tmp_path: Path) -> None:
    table = config_table(cohort_folder)
    often, never = (
        {**table, "log": {**table["log"], "validate_every": 1}},
        {**table, "log": {**table["log"], "validate_every": 0}},
    )
    a = training.pretrain(typed(Config, often), tmp_path / "often")
    b = training.pretrain(typed(Config, never), tmp_path / "never")
    assert a.fingerprint == b.fingerprint


@pytest.mark.slow
def test_best_weights_are_chosen_by_the_held_out_loss(cohort_folder: Path, tmp_path: Path) -> None:
    table = config_table(cohort_folder, steps=9, lr=0.05)
    table["log"] = {**table["log"], "keep": "best", "validate_every": 1}
    run = training.pretrain(typed(Config, table), tmp_path / "run")
    losses = [r["loss"] for r in _metrics(tmp_path / "run") if r["split"] == "val"]
    data = inputs.open_data(run.config)
    assert training.validate(run.method, data.held_out, run.config.optim)["loss"] == pytest.approx(
        min(losses), rel=1e-4
    )


@pytest.mark.slow
def test_weights_can_be_chosen_by_the_rank_of_the_embeddings(cohort_folder: Path, tmp_path: Path) -> None:
    table = config_table(cohort_folder, steps=6, lr=0.05)
    table["log"] = {**table["log"], "keep": "rankme", "validate_every": 1}
    run = training.pretrain(typed(Config, table), tmp_path / "run")
    ranks = [r["rankme"] for r in _metrics(tmp_path / "run") if r["split"] == "val"]
    assert len(set(ranks)) == 6
    held_out = inputs.open_data(run.config).held_out
    # of the saved weights, by the definition in the paper
    with torch.no_grad():
        z = run.method.eval().embed_ecg(held_out.batch(range(run.config.optim.batch_size))).double()
    shares = torch.linalg.svdvals(z) / torch.linalg.svdvals(z).sum()
    entropy = -sum(float(p) * math.log(float(p)) for p in shares if p > 1e-12)
    assert math.exp(entropy) == pytest.approx(max(ranks), rel=1e-3)


def test_a_cohort_without_held_out_people_is_refused_unless_told(cohort_folder: Path, monkeypatch) -> None:
    rows = Cohort.rows
    monkeypatch.setattr(
        Cohort, "rows", lambda self, split=None, **k: rows(self, split, **k)[: 0 if split == "val" else None]
    )
    table = config_table(cohort_folder)
    table["log"] = {**table["log"], "validate_every": 5}
    with pytest.raises(ConfigError, match=r"no recording in split 'val'.*log\.validate_every=0"):
        inputs.open_data(typed(Config, table))
    table["log"]["validate_every"] = 0
    assert len(inputs.open_data(typed(Config, table)).held_out) == 0


def test_plan_counts_and_trains_nothing(cohort_folder: Path) -> None:
    plan = planning.plan(typed(Config, config_table(cohort_folder)), n_timed=1)
    facts = {row["what"]: row["value"] for row in plan.estimate}
    assert facts["training recordings"] == "40"
    assert facts["passes over the data"] == "1.2"
    assert plan.parameters[-1]["part"] == "all"
    assert plan.parameters[-1]["trainable"] == sum(row["trainable"] for row in plan.parameters[:-1])
    assert "mask_ratio = 0.75" in plan.config
    assert not {"processes", "passes a step"} & facts.keys()


def test_plan_says_who_shares_the_work(cohort_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = planning.plan(typed(Config, config_table(cohort_folder, accumulate=2)), n_timed=1)
    facts = {row["what"]: row["value"] for row in plan.estimate}
    assert (facts["processes"], facts["passes a step"]) == ("2", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="cannot be split equally over 3 processes"):
        planning.plan(typed(Config, config_table(cohort_folder)))


@pytest.mark.slow
def test_threads_bring_the_same_batches_in_the_same_order(cohort_folder: Path, tmp_path: Path) -> None:
    recordings = inputs.open_data(typed(Config, config_table(cohort_folder))).train
    sampler = Sampler(len(recordings), 8, 0)
    plain, threaded = ([*prefetch_batches(recordings, sampler, 3, 9, n, 2)] for n in (0, 3))
    assert [b.record for b in threaded] == [b.record for b in plain]
    whole = [*prefetch_batches(recordings, sampler, 3, 9)]
    assert [b.record for b in whole] == [a.record + b.record for a, b in zip(plain[::2], plain[1::2])]
    assert all(torch.equal(a.ecg, b.ecg) for a, b in zip(plain, threaded))
    table = config_table(cohort_folder)
    a = training.pretrain(typed(Config, table), tmp_path / "plain")
    table["data"]["workers"] = 2
    b = training.pretrain(typed(Config, table), tmp_path / "threaded")
    assert a.fingerprint == b.fingerprint


def test_an_error_of_a_thread_is_the_loops_and_no_thread_stays(cohort_folder: Path) -> None:
    recordings = inputs.open_data(typed(Config, config_table(cohort_folder))).train
    before = threading.active_count()
    with pytest.raises(IndexError):
        [*prefetch_batches(recordings, Sampler(10**6, 8, 0), 0, 3, 2)]
    left_early = prefetch_batches(recordings, Sampler(len(recordings), 8, 0), 0, 9, 2)
    next(left_early)
    left_early.close()
    assert threading.active_count() == before


@pytest.mark.slow
def test_passes_make_the_same_run_from_memory_for_time(cohort_folder: Path, tmp_path: Path) -> None:
    """Interrupted with two passes a step, taken up with four: settings that are not the science may change on the way."""

    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    config = typed(Config, config_table(cohort_folder, accumulate=2))
    config = dataclasses.replace(config, log=dataclasses.replace(config.log, save_every=2))
    with pytest.raises(KeyboardInterrupt):
        training.pretrain(config, tmp_path / "run", progress=stop)
    more = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=4))
    run = training.pretrain(more, tmp_path / "run", resume=True)
    assert run.config.optim.accumulate == 4
    assert [r["step"] for r in _metrics(tmp_path / "run") if r["split"] == "train"] == list(range(1, 7))


@pytest.mark.slow
def test_compiling_takes_the_blocks_and_nothing_that_draws(cohort_folder: Path, tmp_path: Path, monkeypatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    plain = train(cohort_folder, tmp_path / "plain")
    assert not compiled
    assert train(cohort_folder, tmp_path / "compiled", compile=True).fingerprint == plain.fingerprint
    assert sorted(compiled) == ["Block"] * 3 + ["CausalBlock"]  # encoder, decoder; the report's decoder


@pytest.mark.slow
def test_bfloat16_and_passes_go_together(cohort_folder: Path, tmp_path: Path) -> None:
    train(cohort_folder, tmp_path / "one", precision="bfloat16", steps=2)
    train(cohort_folder, tmp_path / "two", precision="bfloat16", steps=2, accumulate=2)
    assert all(math.isfinite(row["loss"]) for name in ("one", "two") for row in _metrics(tmp_path / name))


def test_a_resume_state_of_another_version_is_refused(cohort_folder: Path, tmp_path: Path) -> None:
    train(cohort_folder, tmp_path / "run", steps=5)
    torch.save({"step": 5, "model": {}}, tmp_path / "run" / "resume" / "state.pt")
    with pytest.raises(runs.RunError, match="lacks best, optimizer: another version"):
        train(cohort_folder, tmp_path / "run", resume=True, steps=5)


def of_labels(cohort: Path, **data: object) -> Config:
    table = config_table(cohort)
    table["data"] |= {"task": "own", **data}
    table["method"] = {"name": "supervised", "resnet_width": 8}
    return typed(Config, table)


def test_labels_that_are_asked_for_are_the_probes_draw(cohort_folder: Path) -> None:
    data = inputs.open_data(of_labels(cohort_folder, label_fraction=0.2, label_seed=44))
    cohort = data.train.cohort
    probe_task = make_probe_task(cohort, "own", cohort.rows(task="own"))
    places = probe_task.rows("train")[subset(40, 0.2, 44)]
    assert data.train.rows.tolist() == cohort.rows(task="own")[places].tolist()
    assert data.train.batch([3]).label.tolist() == probe_task.labels[places[3:4]].tolist()
    assert set(cohort.splits(data.held_out.rows)) == {"val"}
    assert data.held_out.batch([0]).label.shape == (1, 3)
    assert data.n_left_out == 32
    words = of_labels(cohort_folder, min_report_words=99)  # a label needs no report
    assert len(inputs.open_data(words).train) == 40
    assert inputs.open_data(typed(Config, config_table(cohort_folder))).train.batch([0]).label is None


def test_labels_that_cannot_be_had_are_refused(cohort_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.task = 'onw' is no task of .*; did you mean 'own'\?"):
        training.pretrain(of_labels(cohort_folder, task="onw"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"method 'supervised' is trained on labels: set data\.task .*\(own\)"):
        training.pretrain(of_labels(cohort_folder, task=""), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"label_fraction: fraction 0\.01 of 40 training recordings is none"):
        training.pretrain(of_labels(cohort_folder, label_fraction=0.01), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"label_fraction = 1\.5 .* must be in \(0, 1\]"):
        of_labels(cohort_folder, label_fraction=1.5)
    with pytest.raises(ConfigError, match=r"set data\.task to the task"):
        of_labels(cohort_folder, task="", label_fraction=0.5)
    other = of_labels(cohort_folder)
    other = dataclasses.replace(other, method={**other.method, "classes": ["mi", "normal", "afib"]})
    with pytest.raises(
        ConfigError, match=r"but task 'own' of .* has \['normal', 'afib', 'mi'\]; leave the setting empty"
    ):
        training.pretrain(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_plan_of_labels_names_the_classes(cohort_folder: Path) -> None:
    plan = planning.plan(of_labels(cohort_folder, label_fraction=0.1), n_timed=1)
    facts = {row["what"]: row["value"] for row in plan.estimate}
    assert (facts["training recordings"], facts["left out, not drawn or without labels"]) == ("4", "36")
    assert 'classes = [\n    "normal",' in plan.config


def test_a_batch_larger_than_the_data_is_an_error(cohort_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size = 64, but .* has 40 recordings"):
        train(cohort_folder, tmp_path / "run", batch_size=64)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_saved_before_a_setting_existed_is_resumed_with_its_default(
    cohort_folder: Path, tmp_path: Path
) -> None:
    train(cohort_folder, tmp_path / "run", steps=5)
    file = tmp_path / "run" / "config.toml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("decorrelate")))
    assert len(file.read_text().splitlines()) == len(lines) - 1
    config = typed(Config, config_table(cohort_folder, steps=7))
    run = training.pretrain(config, tmp_path / "run", resume=True, accept_changes=True)
    assert run.config.method["decorrelate"] is False


def test_a_resumed_run_keeps_its_settings_and_its_data(cohort_folder: Path, tmp_path: Path) -> None:
    train(cohort_folder, tmp_path / "run", steps=5)
    with pytest.raises(
        ConfigError, match=r"optim\.steps \(saved 5, requested 4\); optim\.steps may only grow; use the saved"
    ):
        train(cohort_folder, tmp_path / "run", resume=True, steps=4)
    with pytest.raises(
        ConfigError, match=r"other settings: optim\.lr \(saved 0\.001, requested 0\.1\); use the saved values"
    ):
        train(cohort_folder, tmp_path / "run", resume=True, steps=9, lr=0.1)
    data = tmp_path / "run" / "data.json"
    provenance = json.loads(data.read_text())
    assert provenance["n_people"] == 20
    assert "p00" not in data.read_text()
    data.write_text(json.dumps({**provenance, "fingerprint": "another"}))
    with pytest.raises(TrainingError, match="is not the cohort"):
        train(cohort_folder, tmp_path / "run", resume=True, steps=5)


def killed(cohort: Path, folder: Path, at: int, save_every: int = 5) -> None:
    """Train until an interruption after step `at`, without any handling: the folder is as a killed process leaves it."""

    def stop(what: str, done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.pretrain(saving(cohort, save_every), folder, progress=stop)


def saving(cohort: Path, save_every: int, **optim: object) -> Config:
    table = config_table(cohort, **optim)
    table["log"]["save_every"] = save_every
    return typed(Config, table)


@pytest.fixture(scope="module")
def whole(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    return train(cohort_folder, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("at", [1, 4])  # before the first weights, and after them
def test_a_run_killed_before_its_first_save_starts_again(
    cohort_folder: Path, tmp_path: Path, whole: runs.Run, resume: bool, at: int
) -> None:
    killed(cohort_folder, tmp_path / "run", at)
    assert (tmp_path / "run" / "model.safetensors").exists() == (at > 3)
    assert not runs.has_resume_state(tmp_path / "run")
    (tmp_path / "run" / ".model.safetensors.0123abcd.part").write_text("torn")
    run = train(cohort_folder, tmp_path / "run", resume=resume)
    assert run.fingerprint == runs.load(tmp_path / "run").fingerprint == whole.fingerprint  # equal to the bit
    assert [r["step"] for r in _metrics(tmp_path / "run") if r["split"] == "train"] == list(range(1, 7))
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_killed_while_its_folder_was_created_starts_again(
    cohort_folder: Path, tmp_path: Path, whole: runs.Run, resume: bool
) -> None:
    killed(cohort_folder, tmp_path / "run", 1)
    (tmp_path / "run" / "config.toml").unlink()  # it is written last
    assert train(cohort_folder, tmp_path / "run", resume=resume).fingerprint == whole.fingerprint


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_a_foreign_file_or_other_settings_is_not_started_again(
    cohort_folder: Path, tmp_path: Path, resume: bool
) -> None:
    folder = tmp_path / "run"
    killed(cohort_folder, folder, 1)
    before = (folder / "config.toml").read_text()
    with pytest.raises(ConfigError, match=r"run has other settings: optim\.lr \(saved 0\.001, requested 0\.1\)"):
        train(cohort_folder, folder, resume=resume, lr=0.1)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(runs.RunError, match=r"state\.pt is missing" if resume else "is not empty"):
        train(cohort_folder, folder, resume=resume)
    assert (folder / "config.toml").read_text() == before
    assert (folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("resume", [False, True])
def test_weights_without_the_state_that_they_once_had_are_not_overwritten(
    cohort_folder: Path, tmp_path: Path, resume: bool
) -> None:
    folder = tmp_path / "run"
    train(cohort_folder, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "resume" / "state.pt").unlink()
    with pytest.raises(runs.RunError, match=r"state\.pt is missing.*in another folder" if resume else "is not empty"):
        train(cohort_folder, folder, resume=resume)
    (folder / "metrics.jsonl").unlink()  # a copy of the weights alone
    with pytest.raises(runs.RunError, match=r"is missing|is not empty"):
        train(cohort_folder, folder, resume=resume)
    assert (folder / "model.safetensors").read_bytes() == weights


def test_two_processes_do_not_train_in_one_folder(cohort_folder: Path, tmp_path: Path) -> None:
    """The second one starts while the first one has not saved a state yet, and while it has."""
    messages = []

    def start_again(what: str, done: int, total: int) -> None:
        for resume in (False, True):
            with pytest.raises(runs.RunError) as error:
                train(cohort_folder, tmp_path / "run", resume=resume)
            messages.append(str(error.value))

    training.pretrain(saving(cohort_folder, 1, steps=2), tmp_path / "run", progress=start_again)
    assert len(messages) == 4
    assert all("another process trains the run in" in message for message in messages)
    with pytest.raises(runs.RunError, match="is not empty"):  # the lock ends with the training
        train(cohort_folder, tmp_path / "run", steps=2)


def test_steps_may_grow(cohort_folder: Path, tmp_path: Path) -> None:
    train(cohort_folder, tmp_path / "run", steps=3)
    longer = train(cohort_folder, tmp_path / "run", resume=True, steps=6)
    assert longer.config.optim.steps == runs.load(tmp_path / "run").config.optim.steps == 6
    rows = [r for r in _metrics(tmp_path / "run") if r["split"] == "train"]
    assert [r["step"] for r in rows] == list(range(1, 7))
    for row in rows:  # the schedule is that of the number of steps at the time
        optim = typed(Config, config_table(cohort_folder, steps=3 if row["step"] <= 3 else 6)).optim
        assert row["lr"] == pytest.approx(learning_rate(row["step"] - 1, optim), abs=1e-6)


@pytest.mark.slow
def test_a_run_with_more_steps_is_exact_under_interruptions(cohort_folder: Path, tmp_path: Path) -> None:
    for name in ("whole", "torn"):
        train(cohort_folder, tmp_path / name, steps=6)
    longer = train(cohort_folder, tmp_path / "whole", resume=True, steps=12)

    def stop(what: str, done: int, total: int) -> None:
        if done == 11:
            raise KeyboardInterrupt

    config = typed(Config, config_table(cohort_folder, steps=12))
    with pytest.raises(KeyboardInterrupt):
        training.pretrain(config, tmp_path / "torn", resume=True, progress=stop)
    assert train(cohort_folder, tmp_path / "torn", resume=True, steps=12).fingerprint == longer.fingerprint


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_resume_state_is_named_and_the_remedy_works(cohort_folder: Path, tmp_path: Path, how: str) -> None:
    train(cohort_folder, tmp_path / "run", steps=5)
    state = tmp_path / "run" / "resume" / "state.pt"
    intact = state.read_bytes()
    damage(state, how)
    with pytest.raises(
        runs.RunError, match=r"state\.pt is damaged \(.*\), so .*copy the file again, or train in another"
    ):
        train(cohort_folder, tmp_path / "run", resume=True, steps=5)
    runs.load(tmp_path / "run")  # the weights are not affected
    state.write_bytes(intact)
    train(cohort_folder, tmp_path / "run", resume=True, steps=5)
    train(cohort_folder, tmp_path / "another", steps=5)


def without_reports(cohort: Path, name: str, **data: object) -> Config:
    table = config_table(cohort)
    table["data"] |= data
    table["method"] = {"name": name, **TINY[name]}
    return typed(Config, table)


def test_a_method_that_reads_no_reports_trains_without_reports(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Cohort.rows
    monkeypatch.setattr(
        Cohort,
        "rows",
        lambda self, split=None, task=None, min_report_words=0: rows(self, split, task, 99 * min_report_words),
    )
    run = training.pretrain(without_reports(cohort_folder, "simclr"), tmp_path / "run")
    assert run.config.data.min_report_words == 0
    with pytest.raises(ConfigError, match=r"'simclr' reads no reports: set data\.min_report_words=0"):
        inputs.open_data(without_reports(cohort_folder, "simclr", min_report_words=1))
    with pytest.raises(ConfigError, match=r"'cg_dmer' reads reports; choose a method that reads none"):
        inputs.open_data(without_reports(cohort_folder, "cg_dmer"))


def test_a_run_of_an_earlier_version_resumes_with_its_report_words(cohort_folder: Path, tmp_path: Path) -> None:
    training.pretrain(without_reports(cohort_folder, "simclr", min_report_words=1), tmp_path / "run")
    run = training.pretrain(without_reports(cohort_folder, "simclr"), tmp_path / "run", resume=True)
    assert run.config.data.min_report_words == 1


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch_size": 1}, {"lr": 0.0}, {"device": "gpu"}, {"accumulate": 0}, {"accumulate": 3}]
)
def test_settings_out_of_range_are_refused_before_anything_is_written(
    cohort_folder: Path, tmp_path: Path, wrong: dict
) -> None:
    with pytest.raises(ConfigError, match=f"optim|{next(iter(wrong))}"):
        train(cohort_folder, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()
