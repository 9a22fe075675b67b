"""Writers of reports: training, resume, what they return, and what leaves the machine."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from api_run import write_csv_files, write_run
from command_line import invoke
from conftest import REPORTS, make_batch
from safetensors.torch import load_file

from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import ConfigError
from leadwise.data.cohort.cohort import Cohort
from leadwise.generate import evaluate_writer, facts, training
from leadwise.generate import folder as folders
from leadwise.generate.bank import ReportBank
from leadwise.generate.examples import compare, report_examples
from leadwise.generate.reporting import open_writer, write_reports
from leadwise.generate.training import train_writer
from leadwise.generate.writer import NOTE, WriterError, WriterInput
from leadwise.generate.writers import majority
from leadwise.generate.writers.local import LocalModel, LocalSettings
from leadwise.generate.writers.majority import MajorityWriter
from leadwise.generate.writers.retrieve import RetrieveWriter
from leadwise.generate.writers.server import KEY_VARIABLE, ServerOptions, ServerWriter
from leadwise.generate.writers.tiny import TinyModel, TinySettings
from leadwise.nn.text import train_tokenizer
from leadwise.pages.html import Page
from leadwise.pages.report_examples import ReportExamples, add_examples
from leadwise.run import Run

STATED = ("--rate-hz", 100, "--units", "mV")
SMALL = (
    "writer.width=16", "writer.depth=1", "writer.heads=2", "writer.vectors=2", "writer.vocabulary=320",
    "writer.max_tokens=24", "writer.positions=32", "optim.batch_size=8", "optim.steps=6", "log.validate_every=3",
    "log.save_every=3", "log.every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """48 recordings of 24 patients; every report names its split, and some are empty."""
    return write_cohort(tmp_path_factory.mktemp("reports"))


def write_cohort(home: Path, more: str = "") -> Cohort:
    """Write the recordings; `more` is added to each report."""
    from leadwise.data.cohort.prepare import write
    from leadwise.data.sources import folder

    home.mkdir(exist_ok=True)
    batch = make_batch(48, seed=5)
    lines = ["path,patient,report,split,label.afib"]
    for i, split in enumerate(["train"] * 32 + ["val"] * 8 + ["test"] * 8):
        np.save(home / f"secret{i:02d}.npy", batch.ecg[i].numpy())
        text = "" if i in (3, 35, 43) else f"{REPORTS[i % 4]} of the {split} part.{more}"
        lines.append(f'secret{i:02d}.npy,person{i // 2:02d},"{text}",{split},{i % 4 == 1:d}')
    (home / "ecgs.csv").write_text("\n".join(lines) + "\n")
    source = folder.read_source(home / "ecgs.csv", folder.Options(LEADS, 100, "mV"))
    write(source, home / "cohort")
    return Cohort.open(home / "cohort")


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return runs.load(write_run(tmp_path_factory.mktemp("run") / "run", cohort.folder))


@pytest.fixture(scope="module")
def folder(run: Run, cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained writer."""
    folder = tmp_path_factory.mktemp("writer") / "mine"
    train_writer(run, cohort, folder, SMALL)
    return folder


# ------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("fusion", ["prefix", "kv"])
def test_a_writer_learns_eight_reports_and_reads_the_ecg(fusion: str) -> None:
    texts = [f"{REPORTS[i % 4]} study {'abcdefgh'[i]}." for i in range(8)]
    settings = TinySettings(fusion, 2, 32, 2, 2, 64, 400, 40, 0.0)
    torch.manual_seed(0)
    features = torch.randn(8, 12) * 3 + 1
    model = TinyModel(settings, TinyModel.make_tokenizer(settings, texts), 12)
    model.fit_scale(features)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(120):
        total, n_tokens = model.losses(features, texts)
        optimizer.zero_grad()
        (total / n_tokens).backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        assert [text.strip() for text in model.generate(features)] == texts
        assert [text.strip() for text in model.generate(features.flip(0))] == texts[::-1]
        # decoding token by token is the same as the whole text at once
        together, apart = (
            model.losses(features, texts),
            [model.losses(features[i : i + 1], texts[i : i + 1]) for i in range(8)],
        )
        assert float(together[0]) == pytest.approx(sum(float(loss) for loss, _ in apart), rel=1e-3)
        assert together[1] == sum(n for _, n in apart)


def test_the_ecg_reaches_every_layer_through_its_own_projections() -> None:
    settings = TinySettings("kv", 3, 16, 2, 2, 64, 300, 16, 0.0)
    model = TinyModel(settings, TinyModel.make_tokenizer(settings, REPORTS), 5).eval()
    vectors = torch.randn(1, 3, 16)
    for (keys, values), block in zip(model.lm.key_values(vectors), model.lm.blocks):
        _, k, v = block.attention.query_key_value(vectors).chunk(3, dim=-1)
        assert keys.shape == (1, 2, 3, 8)
        torch.testing.assert_close(keys.transpose(1, 2).reshape(1, 3, 16), k)
        torch.testing.assert_close(values.transpose(1, 2).reshape(1, 3, 16), v)


def test_a_token_does_not_depend_on_later_ones() -> None:
    settings = TinySettings("prefix", 2, 16, 2, 2, 64, 300, 16, 0.0)
    model = TinyModel(settings, TinyModel.make_tokenizer(settings, REPORTS), 5).eval()
    ids = torch.randint(40, 300, (1, 6))
    changed = ids.clone()
    changed[0, 4] = 41 if ids[0, 4] != 41 else 42
    states = [model.lm(model._begin(torch.ones(1, 5), one)[0], 0)[0] for one in (ids, changed)]
    torch.testing.assert_close(states[0][:, :6], states[1][:, :6])  # two places of the ECG, four tokens
    assert not torch.allclose(states[0][:, 6:], states[1][:, 6:])


@pytest.mark.parametrize("fusion", ["prefix", "kv"])
def test_the_loss_does_not_depend_on_the_other_reports_of_a_batch(fusion: str) -> None:
    settings = TinySettings(fusion, 2, 16, 1, 2, 64, 300, 40, 0.0)
    texts = [" ".join(REPORTS[i % 4].split()[: 1 + i % 7]) for i in range(20)]
    model, features = TinyModel(settings, TinyModel.make_tokenizer(settings, REPORTS), 5).eval(), torch.randn(20, 5)
    total, n_tokens = model.losses(features, texts)
    apart = [model.losses(features[i : i + 1], texts[i : i + 1]) for i in range(20)]
    assert float(total.detach()) == pytest.approx(sum(float(loss.detach()) for loss, _ in apart), rel=1e-5)
    assert n_tokens == sum(n for _, n in apart)


def test_settings_that_do_not_fit() -> None:
    for overrides, message in (
        (("writer.fusion=cross",), "writer.fusion"),
        (("writer.positions=100",), "writer.positions = 100 is too small for 144"),
        (("writer.heads=3",), "must be a multiple of writer.heads"),
        (("writer.kind=large",), "writer.kind = 'large' is unknown; it must be tiny or local"),
        (("writer.fussion=kv",), "did you mean 'writer.fusion'"),
        (("writer.numbers=none",), "writer.numbers"),
        (
            ("writer.kind=local", "writer.model=m", "writer.projection_steps=5", "optim.steps=5"),
            "writer.projection_steps = 5 leaves no step of 5 to the second stage",
        ),
        (("optim.accumulate=2",), "optim.accumulate of a writer is always 1"),
        (("optim.optimizer=muon",), "optim.optimizer of a writer is always 'adamw'"),
    ):
        with pytest.raises(ConfigError, match=message):
            training._requested(Path("no folder"), overrides, False)


# ---------------------------------------------------------------------------------------------------------- training


def test_a_writer_folder_is_complete_and_belongs_to_the_training_patients(
    folder: Path, run: Run, cohort: Cohort
) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "writer.toml",
        "data.json",
        "trained_on.json",
        "selected_on.json",
        "tokenizer",
        "model.safetensors",
        "metrics.jsonl",
        "resume",
    }
    writer = folders.load(folder)
    assert writer.provenance["run"]["fingerprint"] == run.fingerprint
    assert (writer.provenance["n_people"], writer.provenance["n_signals"]) == (16, 31)  # one recording has no report
    scored = {split: training.Examples(cohort.rows(split), torch.zeros(0), []) for split in ("train", "test")}
    overlaps = {
        split: writer.overlap(evaluate_writer.scored_recordings(cohort, one.rows, split))
        for split, one in scored.items()
    }
    assert overlaps["train"].n_patients == 16
    assert not overlaps["test"].is_leak
    tokens = "".join(json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    assert "train" in tokens
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "val"] == [3, 6]


@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_killed_training_resumes_to_the_same_weights(
    folder: Path, run: Run, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    def stop(_: str, done: int, total: int) -> None:
        if total == 6 and done == killed_at + 1:
            raise KeyboardInterrupt

    dropout = "writer.dropout=0.1"
    with pytest.raises(KeyboardInterrupt):
        train_writer(run, cohort, tmp_path / "w", (*SMALL, dropout), progress=stop)
    with pytest.raises(WriterError, match="continue that training with --resume"):
        train_writer(run, cohort, tmp_path / "w", SMALL)
    torch.manual_seed(99)  # nothing depends on the caller's random state
    train_writer(run, cohort, tmp_path / "w", resume=True)
    one, other = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "w"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [runs.load_state(path)["model"] for path in (folder, tmp_path / "w")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    steps = [json.loads(line)["step"] for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]


def test_a_training_that_was_killed_before_its_first_state_starts_again(
    folder: Path, run: Run, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save_state", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_writer(run, cohort, tmp_path / "w", SMALL)
    assert (tmp_path / "w" / "writer.toml").is_file()
    train_writer(run, cohort, tmp_path / "w", resume=True)
    one, other = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "w"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_a_resumed_training_may_change(folder: Path, run: Run, cohort: Cohort, tmp_path: Path) -> None:
    copy = tmp_path / "w"
    shutil.copytree(folder, copy)
    with pytest.raises(ConfigError, match=r"other settings: writer\.width"):
        train_writer(run, cohort, copy, ("writer.width=32",), resume=True)
    with pytest.raises(ConfigError, match="it may only grow"):
        train_writer(run, cohort, copy, ("optim.steps=3",), resume=True)
    other = runs.load(write_run(tmp_path / "other", seed=1))
    with pytest.raises(WriterError, match="has other weights or settings; pass that run"):
        train_writer(other, cohort, copy, resume=True)
    train_writer(run, cohort, copy, ("optim.steps=8",), resume=True)
    assert folders.load(copy).config.optim.steps == 8
    with pytest.raises(runs.RunError, match="this run cannot be resumed"):
        train_writer(run, cohort, tmp_path / "new", SMALL, resume=True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(WriterError, match="is not empty; choose another folder"):
        train_writer(run, cohort, tmp_path / "full", SMALL)


def test_a_writer_is_trained_and_resumed_by_the_command(run: Run, cohort: Cohort, folder: Path, tmp_path: Path) -> None:
    words = ("train-writer", run.folder, cohort.folder, "-o", tmp_path / "w")
    done = invoke(*words, *SMALL, "optim.steps=3", "--json", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "t.json").read_text())["val"]["step"] == 3
    assert "of the train part" not in done.stdout + done.stderr
    done = invoke(*words)
    assert done.returncode == 1
    assert "continue that training with --resume" in done.stderr
    done = invoke(*words, "optim.steps=6", "--resume")
    assert done.returncode == 0, done.stderr
    assert folders.load(tmp_path / "w").config == folders.load(folder).config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("writer.toml", "is not a writer folder: it has no writer.toml; train one with"),
        ("data.json", "data.json is missing or damaged; copy the writer folder again"),
        ("tokenizer", "tokenizer is missing or damaged; copy the writer folder again"),
        ("model.safetensors", "saved no weights yet"),
    ],
)
def test_a_missing_or_damaged_part_is_one_error(
    folder: Path, run: Run, cohort: Cohort, tmp_path: Path, name: str, message: str
) -> None:
    copy = tmp_path / "w"
    shutil.copytree(folder, copy)
    (shutil.rmtree if name == "tokenizer" else Path.unlink)(copy / name)
    with pytest.raises(WriterError, match=message):
        open_writer(str(copy), run, cohort)
    if name == "tokenizer":
        (copy / name).mkdir()
        (copy / name / "tokenizer.json").write_text('{"sinus rhythm')
        message = "tokenizer is missing or damaged"
    else:
        (copy / name).write_text('{"sinus rhythm')
        message = "copy the writer folder again"
    with pytest.raises(WriterError, match=message) as failed:
        open_writer(str(copy), run, cohort)
    assert "sinus" not in str(failed.value)


def test_a_changed_setting_is_noticed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "w")
    path = tmp_path / "w" / "writer.toml"
    path.write_text(path.read_text().replace("max_tokens = 24", "max_tokens = 20"))
    with pytest.raises(WriterError, match="not as it was when the weights were saved"):
        folders.load(tmp_path / "w")


def test_a_folder_of_before_a_setting_existed_is_still_valid(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "w")
    path = tmp_path / "w" / "writer.toml"
    assert 'numbers = "keep"\n' in path.read_text()
    path.write_text(path.read_text().replace('numbers = "keep"\n', ""))
    assert folders.load(tmp_path / "w").config.has_numbers
    path.write_text(path.read_text().replace("[writer]\n", '[writer]\nnumbers = "remove"\n'))
    with pytest.raises(WriterError, match="not as it was when the weights were saved"):
        folders.load(tmp_path / "w")


def test_a_writer_of_reports_without_numbers(run: Run, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "c", " rate 4711 bpm. qrs duration 97 ms.")
    own = runs.load(write_run(tmp_path / "run", cohort.folder))
    words = {}
    for numbers in ("keep", "remove"):
        target = tmp_path / numbers
        train_writer(own, cohort, target, (*SMALL, f"writer.numbers={numbers}", "optim.steps=2"))
        texts = training._examples(own, own, cohort, folders.read_config(target), None)[0].texts
        words[numbers] = texts
    assert all("qrs duration 97 ms" in text for text in words["keep"])
    assert not any("97" in text or "4711" in text for text in words["remove"])
    assert all("of the train part" in text for text in words["remove"])

    # the references have their numbers, and so do the rows that are training reports
    scores = evaluate_writer.score_writer(own, cohort, folders.load(tmp_path / "remove"), "test")
    assert all("97 ms" in text for text in scores.references)
    rows = scores.to_json()["rows"]
    assert [name for name, row in rows.items() if row["findings"]["numbers"] is None] == [
        "right ECG", "shuffled ECG", "zero ECG", "random encoder",
    ]  # fmt: skip
    assert rows["majority"]["findings"]["numbers"]["qrs_ms"]["n_both"] == 7
    assert any("errors of its numbers are not applicable" in line for line in scores.remarks)
    control = folders.read_config(tmp_path / "remove" / folders.CONTROL)
    assert not control.has_numbers


# ------------------------------------------------------------------------------------------------------------ local


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a causal language model of two layers and random weights."""
    pytest.importorskip("peft", reason="the extra 'reports-llm' is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llm") / "llm"
    tokenizer = train_tokenizer(REPORTS, 320)
    tokenizer.eos_token = "[SEP]"
    torch.manual_seed(0)
    sizes = {
        "initializer_range": 0.3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=128)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


def local_settings(language_model: Path) -> tuple[str, ...]:
    own = ("writer.kind=local", f"writer.model={language_model}", "writer.vectors=2", "writer.max_tokens=24")
    return (*own, "writer.lora_rank=2", *(text for text in SMALL if not text.startswith("writer.")))


def test_a_local_model_learns_eight_reports_and_reads_the_ecg(language_model: Path) -> None:
    texts = [f"{REPORTS[i % 4]} study {'abcdefgh'[i]}." for i in range(8)]
    torch.manual_seed(0)
    features = torch.randn(8, 12)
    model = LocalModel(LocalSettings(str(language_model), 4, 40, 8, 32, 0.0), 12)
    model.fit_scale(features)
    before = {name: x.clone() for name, x in model.state_dict().items() if name not in model.own_state()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(60):
        total, n_tokens = model.losses(features, texts)
        optimizer.zero_grad()
        (total / n_tokens).backward()
        optimizer.step()
        losses.append(float(total.detach()) / n_tokens)
    assert losses[-1] < 0.6 * losses[0]
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in before.items())  # the language model is frozen
    model.eval()
    with torch.inference_mode():
        right, wrong = (float(model.losses(one, texts)[0]) for one in (features, features.flip(0)))
        assert right < wrong
        apart = sum(float(model.losses(features[i : i + 1], texts[i : i + 1])[0]) for i in range(8))
        assert right == pytest.approx(apart, rel=1e-3)

        # greedy decoding is the most probable token after another
        x, ids = model._begin(features[:1]), []
        for _ in range(40):
            ids.append(int(model.lm(inputs_embeds=x).logits[0, -1].argmax()))
            if ids[-1] == model.end:
                break
            x = torch.cat([x, model._words(torch.tensor([[ids[-1]]]))], dim=1)
        assert model.generate(features[:1]) == [model.tokenizer.decode(ids, skip_special_tokens=True)]


def test_a_local_writer_resumes_and_writes(language_model: Path, run: Run, cohort: Cohort, tmp_path: Path) -> None:
    def stop(_: str, done: int, total: int) -> None:
        if total == 6 and done == 5:
            raise KeyboardInterrupt

    settings = local_settings(language_model)
    train_writer(run, cohort, tmp_path / "a", settings)
    with pytest.raises(KeyboardInterrupt):
        train_writer(run, cohort, tmp_path / "b", settings, progress=stop)
    train_writer(run, cohort, tmp_path / "b", resume=True)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {name.partition(".")[0] for name in one} == {"lm", "project", "mean", "inverse_std"}
    assert all("lora" in name for name in one if name.startswith("lm"))
    table = write_reports(run, open_writer(str(tmp_path / "a"), run), cohort, "test")
    assert len(table) == 8

    # the language model may be elsewhere, but it must be the same
    moved = tmp_path / "moved"
    shutil.copytree(language_model, moved)
    path = tmp_path / "a" / "writer.toml"
    path.write_text(path.read_text().replace(str(language_model), str(moved)))
    again = write_reports(run, open_writer(str(tmp_path / "a"), run), cohort, "test")
    assert again["report"].tolist() == table["report"].tolist()
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    with pytest.raises(WriterError, match=r"is not the language model .*; set writer\.model in writer\.toml"):
        folders.load(tmp_path / "a")


def test_only_report_tokens_have_a_loss_and_training_draws_the_instruction(language_model: Path) -> None:
    settings = LocalSettings(str(language_model), 2, 24, 2, 2, 0.0, paraphrase=True)
    torch.manual_seed(0)
    model, features = LocalModel(settings, 12), torch.randn(8, 12)
    plain = LocalModel(dataclasses.replace(settings, paraphrase=False), 12)
    plain.load_state_dict(model.state_dict())
    texts = [REPORTS[i % 4] for i in range(8)]
    assert len(set(settings.instructions)) == 8
    assert settings.instructions[0] == settings.instruction

    def loss(one: LocalModel, seed: int) -> tuple[float, int]:
        torch.manual_seed(seed)
        total, n_tokens = one.losses(features, texts)
        return float(total.detach()), n_tokens

    # drawn in training, by the seed alone; fixed where reports are written or held out
    model.train()
    assert loss(model, 1) == loss(model, 1)
    assert loss(model, 1)[0] != loss(model, 2)[0]
    model.eval(), plain.eval()
    assert loss(model, 1) == loss(model, 2) == loss(plain, 3)
    with torch.inference_mode():
        assert model.generate(features) == plain.generate(features)

    # the tokens of the report and its end, whatever the instruction: one report at a time, by hand
    n_tokens = sum(min(len(model._ids(text)), 23) + 1 for text in texts)
    assert loss(plain, 0)[1] == n_tokens
    model.train()
    assert loss(model, 1)[1] == n_tokens
    torch.manual_seed(1)
    drawn, by_hand = model._drawn_instructions(8), 0.0
    assert len({tuple(one) for one in drawn}) > 2
    for row, (before, text) in enumerate(zip(drawn, texts)):
        report = [*model._ids(text)[:23], model.end]
        x = torch.cat([model._ecg(features[row : row + 1]), model._words(torch.tensor([before + report]))], dim=1)
        logits = model.lm(inputs_embeds=x).logits[0, -len(report) - 1 : -1]
        by_hand += float(torch.nn.functional.cross_entropy(logits, torch.tensor(report), reduction="sum").detach())
    assert loss(model, 1)[0] == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("killed_at", [2, 5])
def test_two_stages_train_the_projection_first_and_resume_in_both(
    language_model: Path, run: Run, cohort: Cohort, tmp_path: Path, killed_at: int
) -> None:
    def stop(_: str, done: int, total: int) -> None:
        if total == 7 and done == killed_at + 1:
            raise KeyboardInterrupt

    own = local_settings(language_model)
    settings = (*own, "writer.projection_steps=4", "writer.paraphrase=true", "optim.steps=7", "log.save_every=1")
    train_writer(run, cohort, tmp_path / "a", settings)
    with pytest.raises(KeyboardInterrupt):
        train_writer(run, cohort, tmp_path / "b", settings, progress=stop)
    state = runs.load_state(tmp_path / "b")
    maps = {name: x for name, x in state["model"].items() if "lora_B" in name}  # they begin at 0
    assert maps
    assert any(bool(x.any()) for x in maps.values()) == (killed_at > 4)
    with pytest.raises(ConfigError, match=r"other settings: writer\.projection_steps"):
        train_writer(run, cohort, tmp_path / "b", ("writer.projection_steps=3",), resume=True)
    train_writer(run, cohort, tmp_path / "b", resume=True)
    states = [runs.load_state(tmp_path / name)["model"] for name in "ab"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    # each stage has its own rise and fall of the rate; the second has the lower rate
    config = folders.read_config(tmp_path / "a")
    rates = [training._rates(step, config) for step in range(7)]
    assert [low == 0 for _, low in rates] == [True] * 4 + [False] * 3
    assert rates[0][0] == config.optim.lr
    assert rates[4] == (config.optim.lr * config.optim.pretrained_lr_scale,) * 2
    assert rates[3][0] < rates[0][0]


def test_a_folder_without_a_language_model_is_one_error(run: Run, cohort: Cohort, tmp_path: Path) -> None:
    for name, message in (("none", "has no config.json; set it to a folder"), ("other", "is no causal language model")):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "config.json").write_text('{"model_type": "nothing"}')
        with pytest.raises(WriterError, match=message):
            train_writer(run, cohort, tmp_path / "w", local_settings(tmp_path / name))
        assert not (tmp_path / "w").exists()
    with pytest.raises(ConfigError, match=r"writer\.model"):
        train_writer(run, cohort, tmp_path / "w", ("writer.kind=local",))


def test_a_report_longer_than_the_language_model_is_refused_before_training(language_model: Path) -> None:
    with pytest.raises(WriterError, match=r"has 128 positions, and a report needs \d+; lower writer\.max_tokens"):
        LocalModel(LocalSettings(str(language_model), vectors=4, max_tokens=128, lora_rank=2), 12)
    LocalModel(LocalSettings(str(language_model), vectors=4, max_tokens=40, lora_rank=2), 12)


# ----------------------------------------------------------------------------------------- majority, retrieve, reports


def test_the_majority_of_equally_frequent_reports_is_the_first_in_the_alphabet(monkeypatch: pytest.MonkeyPatch) -> None:
    for texts in (["c.", "b.", "a.", "b.", "c."], ["b.", "c.", "c.", "a.", "b."]):
        monkeypatch.setattr(majority, "training_reports", lambda cohort, texts=texts: (None, texts))
        assert MajorityWriter(None).report == "b."  # type: ignore[arg-type]


def test_majority_and_retrieve_return_training_reports_only(run: Run, cohort: Cohort) -> None:
    for name in ("majority", "retrieve"):
        table = write_reports(run, open_writer(name, run, cohort), cohort, "test")
        assert len(table) == 8
        assert all("of the train part" in text for text in table["report"])
        assert set(table["note"]) == {NOTE}
    texts = cohort.reports.take(cohort.rows("train"))
    assert texts.count(MajorityWriter(cohort).report) == max(map(texts.count, filter(None, texts)))


def test_retrieve_never_returns_a_report_of_the_same_patient(run: Run, cohort: Cohort) -> None:
    bank = ReportBank.open(run, cohort)
    train = bank.patient_of
    vectors, names = bank.vectors, list(bank.patients)
    own = [names[number] for number in train]
    for k, (patients, source) in enumerate(((own, cohort.source), (own, "another data set"), (None, ""))):
        texts = RetrieveWriter(run, bank).write(WriterInput(vectors.astype(np.float32), source, patients))
        if k:
            assert texts == bank.texts
    unique = dataclasses.replace(bank, texts=[f"r{i}" for i in range(len(own))])
    nearest = unique.nearest(WriterInput(vectors.astype(np.float32), cohort.source, own), 3)
    assert all(train[int(text[1:])] != train[i] for i, texts in enumerate(nearest) for text in texts)
    alone = ReportBank(cohort, ["r"], vectors[:1], train[:1], bank.patients, bank.checksums[:1])
    with pytest.raises(WriterError, match="training reports of other patients"):
        RetrieveWriter(run, alone).write(WriterInput(vectors[:1].astype(np.float32), cohort.source, own[:1]))


def test_retrieve_never_returns_a_report_of_a_copy(run: Run, cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    bank = ReportBank.open(run, cohort)
    unique = dataclasses.replace(bank, texts=[f"r{i}" for i in range(len(bank.texts))])
    ecgs = WriterInput(bank.vectors.astype(np.float32), "elsewhere", checksums=bank.checksums.tolist())
    texts = [one for one, *_ in unique.nearest(ecgs, 1)]
    assert not [i for i, text in enumerate(texts) if text == f"r{i}"]
    n = len(texts)
    assert f"{n} of the {n} ECGs are in the training split of {cohort.name} under another patient" in caplog.text
    # the right ECG of a shuffled row is no copy, and a flat line has no checksum
    shifted = ecgs.with_ecgs_of(np.roll(np.arange(n), 1))
    assert list(shifted.checksums or ()) == np.roll(bank.checksums, 1).tolist()
    assert ecgs.without_ecg(bank.vectors).checksums is None
    # the own patient's recordings are known, and no copies
    caplog.clear()
    names = list(bank.patients)
    own = [names[number] for number in bank.patient_of]
    unique.nearest(dataclasses.replace(ecgs, source=cohort.source, patients=own), 1)
    assert "under another patient" not in caplog.text


def test_reports_of_files_by_the_command(run: Run, cohort: Cohort, folder: Path, tmp_path: Path) -> None:
    files, _ = write_csv_files(tmp_path / "ecgs", 3)
    (tmp_path / "ecgs" / "bad.csv").write_text("I,II\nx,y\n")
    words = ("report", run.folder, *files, tmp_path / "ecgs" / "bad.csv", *STATED, "-o", tmp_path / "r.csv")
    for writer in (("--writer", folder), ("--writer", "retrieve", "--bank", cohort.folder)):
        done = invoke(*words, *writer, "--json", tmp_path / "r.json")
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(tmp_path / "r.csv", keep_default_na=False)
        assert list(table.columns) == ["ecg", "refused", "report", "writer", "note"]
        assert [bool(reason) for reason in table["refused"]] == [False, False, False, True]
        assert set(table["note"]) == {NOTE}
        assert NOTE in done.stdout
        assert json.loads((tmp_path / "r.json").read_text())["note"] == NOTE
        assert not any(text and text in done.stdout + done.stderr for text in table["report"])
    done = invoke(*words, "--writer", "majority")
    assert done.returncode == 1
    assert "pass the cohort that has them (--bank COHORT)" in done.stderr
    done = invoke(*words, "--writer", "tiny")
    assert done.returncode == 1
    assert "leadwise train-writer RUN COHORT -o FOLDER" in done.stderr
    other = write_run(tmp_path / "other", seed=1)
    done = invoke("report", other, *files, *STATED, "-o", tmp_path / "s.csv", "--writer", folder)
    assert done.returncode == 1
    assert "has other weights or settings" in done.stderr
    assert not (tmp_path / "s.csv").exists()


def test_a_cohort_without_training_reports_is_one_error(run: Run, tmp_path: Path) -> None:
    from leadwise.data.cohort.prepare import write
    from leadwise.data.sources import folder as source

    np.save(tmp_path / "a.npy", make_batch(1).ecg[0].numpy())
    (tmp_path / "ecgs.csv").write_text("path,patient,report,split\na.npy,p,,train\n")
    write(source.read_source(tmp_path / "ecgs.csv", source.Options(LEADS, 100, "mV")), tmp_path / "c")
    empty = Cohort.open(tmp_path / "c")
    for name in ("majority", "retrieve"):
        with pytest.raises(WriterError, match="has no report in split 'train'"):
            open_writer(name, run, empty)
    with pytest.raises(WriterError, match="has no report in split 'train'"):
        train_writer(run, empty, tmp_path / "w", SMALL)
    assert not (tmp_path / "w").exists()


# ----------------------------------------------------------------------------------------------------------- scoring


def test_scores_have_every_control(run: Run, cohort: Cohort, folder: Path, tmp_path: Path) -> None:
    words = ("score-writer", run.folder, cohort.folder, "--writer", folder)
    done = invoke(*words, "-o", tmp_path / "t.csv", "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "s.json").read_text())
    rows = ["right ECG", "shuffled ECG", "zero ECG", "random encoder", "majority", "retrieve"]
    assert list(result["rows"]) == rows
    assert (result["n_records"], result["n_without_report"], result["note"]) == (7, 1, NOTE)
    assert result["overlap"]["writer"]["n_people_seen_in_pretraining"] == 0
    table = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert list(table.columns) == ["ecg", "refused", "reference", *rows, "note"]
    assert "of the test part" in table["reference"][0]
    assert not table[rows].map(lambda text: "of the test part" in text).any().any()
    assert len(set(table["zero ECG"])) == 1
    assert "of the" not in (tmp_path / "s.json").read_text()
    control = folders.load(folder / folders.CONTROL)
    assert control.config.ecg.encoder == "untrained"
    before = (folder / folders.CONTROL / "model.safetensors").stat().st_mtime_ns
    again = evaluate_writer.score_writer(run, cohort, folders.load(folder), "test")
    assert (folder / folders.CONTROL / "model.safetensors").stat().st_mtime_ns == before
    assert again.to_json()["rows"] == result["rows"]
    assert [gain["right ECG minus"] for gain in result["gains"]] == rows[1:]
    assert all(gain["low"] <= gain["difference"] <= gain["high"] for gain in result["gains"])
    for text in ("The labeller that reads the findings has F1", "gain of the right ECG", NOTE, "hallucinated"):
        assert text in done.stdout


def test_the_split_that_chose_the_weights_is_reported(
    run: Run, cohort: Cohort, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = folders.load(folder)
    val, test = (evaluate_writer.scored_recordings(cohort, cohort.rows(one), one) for one in ("val", "test"))
    chosen = writer.selection_overlap(val)
    assert (chosen.n_patients, chosen.n_signals) == (4, 7)  # one recording has no report
    assert not writer.selection_overlap(test).is_leak
    assert not writer.overlap(val).is_leak

    # by the command's table and JSON; none with the last weights, and unknown without the list
    scores = evaluate_writer.score_writer(run, cohort, writer, "val")
    assert any(line.startswith("SELECTED: 4 of the 4 persons of the val split") for line in scores.remarks)
    assert scores.to_json()["overlap"]["selection"] == {"n_people": 4, "n_signals": 7}
    last = dataclasses.replace(writer.config, log=dataclasses.replace(writer.config.log, keep="last"))
    monkeypatch.setattr(writer, "config", last)
    assert writer.selection_overlap(val) is None
    shutil.copytree(folder, tmp_path / "w", ignore=shutil.ignore_patterns(folders.CONTROL))
    (tmp_path / "w" / folders.SELECTED_ON).unlink()
    unknown = dataclasses.replace(scores, selected_on=folders.load(tmp_path / "w").selection_overlap(val))
    assert any("chose the writer's weights is unknown" in line for line in unknown.remarks)


def test_a_trained_control_is_used_on_another_cohort(
    folder: Path, run: Run, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "w", ignore=shutil.ignore_patterns(folders.CONTROL))
    writer = folders.load(tmp_path / "w")
    with monkeypatch.context() as patch:
        patch.setitem(writer.provenance, "fingerprint", "of another cohort")
        with pytest.raises(WriterError, match="score it on its own cohort first"):
            evaluate_writer.random_control(run, cohort, writer)
    evaluate_writer.random_control(run, cohort, writer)

    # the remedy: its own cohort is scored, then another one
    with monkeypatch.context() as patch:
        patch.setitem(writer.provenance, "fingerprint", "of another cohort")
        assert evaluate_writer.random_control(run, cohort, writer).config.ecg.encoder == "untrained"
        longer = dataclasses.replace(writer.config.optim, steps=writer.config.optim.steps + 1)
        patch.setattr(writer, "config", dataclasses.replace(writer.config, optim=longer))
        with pytest.raises(WriterError, match="score it on its own cohort first"):  # it has fewer steps than the writer
            evaluate_writer.random_control(run, cohort, writer)


def test_a_bank_for_a_trained_writer_is_refused(run: Run, cohort: Cohort, folder: Path, tmp_path: Path) -> None:
    words = ("report", run.folder, cohort.folder, "--writer", folder, "--bank", cohort.folder, "-o", tmp_path / "r.csv")
    done = invoke(*words)
    assert done.returncode == 2
    assert "a trained writer needs no reports" in " ".join(done.stderr.split())


def test_empty_and_copied_reports_count(monkeypatch: pytest.MonkeyPatch) -> None:
    references, patients = ["atrial fibrillation.", "sinus rhythm."], ["a", "b"]
    row = evaluate_writer.score_row("r", ["atrial fibrillation.", ""], references, patients, references[:1])
    assert (row.findings.n_empty, row.n_copied, row.n_distinct) == (1, 1, 2)
    assert row.findings.with_uncertain.omission_rate.value == 0.5
    assert row.findings.with_uncertain.macro_f1.value == 0.5
    assert row.cells()["empty"] == 1
    monkeypatch.setattr(evaluate_writer, "_has_text_metrics", lambda: False)
    row = evaluate_writer.score_row("r", references, references, patients, references)
    assert (row.words, "ROUGE-L" in row.cells()) == (None, False)


# ---------------------------------------------------------------------------------------------------- examples on a card


def test_findings_that_differ_are_marked() -> None:
    example = compare(
        "r1",
        "sinus bradycardia. possible left axis deviation. lovely weather.",
        "sinus rhythm. right bundle branch block with left axis deviation. <b>nothing.",
    )
    assert [(one.text, one.difference) for one in example.reference] == [
        ("sinus bradycardia", "omitted"),  # the rhythm agrees, the rate does not
        ("possible left axis deviation", "agrees"),
        ("lovely weather", ""),
    ]
    assert [one.difference for one in example.written] == ["agrees", "invented", ""]
    assert {one.text: one.difference for one in example.findings} == {
        "sinus rhythm": "agrees",
        "sinus bradycardia": "omitted",
        "complete right bundle branch block": "invented",
        "left axis deviation": "agrees",
    }
    page = Page("card")
    add_examples(page, ReportExamples("<writer>", NOTE, 20, 0, [example], ["LEAK: all"]))
    html = page.html()
    assert "&lt;b&gt;nothing" in html
    assert "&lt;writer&gt;" in html
    assert "<b>" not in html
    for mark, tone, text in (
        ("=", "plain", "possible left axis deviation"),
        ("−", "poor", "sinus bradycardia (omitted)"),
        ("+", "bad", "complete right bundle branch block (invented)"),
    ):
        assert f'<span class="{tone}">{mark} {text}</span>' in html
    assert "<span>lovely weather</span>" in html
    assert "it is patient data" in html
    assert NOTE in html


@pytest.mark.slow
def test_a_card_has_reports_only_where_a_writer_is_named(
    run: Run, cohort: Cohort, folder: Path, tmp_path: Path
) -> None:
    words = ("card", run.folder, cohort.folder, "--quick", "-o", tmp_path / "card.html", "--json", tmp_path / "c.json")
    for writer in ((), ("--writer", folder), ("--writer", "retrieve")):
        done = invoke(*words, *writer)
        assert done.returncode == 0, done.stderr
        html, result = (tmp_path / "card.html").read_text(), json.loads((tmp_path / "c.json").read_text())
        assert ("of the test part" in html) == bool(writer)
        assert ("machine-written, research use only" in html) == bool(writer)
        assert ("report_examples" in result) == bool(writer)
        assert "part." not in done.stdout + done.stderr + json.dumps(result)
    assert result["report_examples"]["n"] == 7  # of the eight test recordings, one has no report
    assert "of the train part" in html  # the report that was retrieved
    for options, message in (
        (("--writer", "server"), "a card sends nothing"),
        (("--map", "x.toml"), "belongs to --test"),
    ):
        done = invoke(*words, *options)
        assert done.returncode == 2
        assert message in " ".join(done.stderr.split())
    done = invoke(*words, "--writer", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "leadwise train-writer RUN COHORT -o FOLDER" in done.stderr


def test_examples_are_drawn_without_their_scores_and_a_leak_is_reported(
    run: Run, cohort: Cohort, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = folders.load(folder)
    drawn = [report_examples(run, cohort, one, 3) for one in (writer, MajorityWriter(cohort), writer)]
    records = [[example.record for example in one.examples] for one in drawn]
    assert records[0] == records[1] == records[2]
    assert (len(records[0]), drawn[0].n_reports, drawn[0].warnings) == (3, 7, [])
    original = cohort.rows
    monkeypatch.setattr(cohort, "rows", lambda split=None, **options: original("train", **options))
    (warning,) = report_examples(run, cohort, writer, 3).warnings
    assert warning.startswith("LEAK: The writer: 16 of the 16 persons")


# ------------------------------------------------------------------------------------------------------------ server


class StandIn(HTTPServer):
    """An OpenAI-compatible server that remembers requests and answers from a list, then always with a report."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str], str]] = []
        self.answers: list[tuple[int, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.requests.append((self.path, dict(self.headers), body))
        report = json.dumps({"report": "Sinus rhythm"})
        status, text = self.server.answers.pop(0) if self.server.answers else (200, completion(report))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


def completion(content: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("no_proxy", "*")
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def server_writer(run: Run, cohort: Cohort, server: StandIn, **options: Any) -> ServerWriter:
    return ServerWriter(run, ServerOptions(server.url, "m", wait_s=0.0, **options), ReportBank.open(run, cohort))


def test_a_server_gets_facts_and_no_names(run: Run, cohort: Cohort, stand_in: StandIn, tmp_path: Path) -> None:
    words = ("report", run.folder, cohort.folder, "--split", "test", "--writer", "server", "--server-model", "m")
    for _ in range(2):  # the second time, every answer is stored
        done = invoke(*words, "--server-url", stand_in.url, "-o", tmp_path / "r.csv")
        assert done.returncode == 0, done.stderr
        table = pd.read_csv(tmp_path / "r.csv")
        assert set(table["report"]) == {"sinus rhythm."}
        assert len(stand_in.requests) <= 8
    names = [*cohort.records, *cohort.patients, "secret", "person", "own", str(cohort.folder), "test part"]
    for path, headers, body in stand_in.requests:
        assert path == "/v1/chat/completions"
        assert not [name for name in names if name in body + json.dumps(headers)]
        request = json.loads(body)
        assert (request["temperature"], request["seed"], request["model"]) == (0, 0, "m")
        sent = json.loads(request["messages"][1]["content"])
        assert sent.keys() == {"reports_of_similar_ecgs", "measurements"}
        assert sent["measurements"].keys() <= set(facts.MEASURED)
        assert "heart_rate_bpm" in sent["measurements"]
        assert len(sent["reports_of_similar_ecgs"]) == 3


def test_a_shuffled_ecg_takes_its_measurements_along(
    run: Run, cohort: Cohort, stand_in: StandIn, tmp_path: Path
) -> None:
    scores = evaluate_writer.score_writer(run, cohort, server_writer(run, cohort, stand_in, cache=tmp_path), "test")
    assert [row.name for row in scores.written] == ["right ECG", "shuffled ECG", "zero ECG", "majority", "retrieve"]
    sent = [json.loads(json.loads(body)["messages"][1]["content"]) for _, _, body in stand_in.requests]
    measured = [one.get("measurements") for one in sent]
    assert sum(one is None for one in measured) <= 7  # flat lines have none
    rates = [one["heart_rate_bpm"] for one in measured if one]
    expected = facts.measure_cohort(cohort, cohort.rows("test", min_report_words=1))
    assert sorted(rates[:7]) == sorted(facts.round_values(one)["heart_rate_bpm"] for one in expected)


def test_facts_leave_out_reports_that_identify(run: Run, cohort: Cohort) -> None:
    names = frozenset({"secret01", "records/a-1_hr"})
    for text in ("seen on 3.4.2019.", "study 2019-04-03.", "number 1234567.", "ecg SECRET01.", "see records/a-1_hr."):
        assert facts.is_identifying(text, names), text
    for text in ("sinus rhythm. rate 72 bpm. pr 160 ms.", "st elevation in v1-v3, 2/10 mv."):
        assert not facts.is_identifying(text, names), text
    numbers = frozenset({"72", "4711"})
    assert facts.is_identifying("sinus rhythm. 4711.", numbers)
    assert not facts.is_identifying("sinus rhythm. rate 72 bpm.", numbers)
    ecgs = WriterInput(
        np.zeros((1, 4), dtype=np.float32), measurements=[{"qrs_ms": 91.6, "pr_ms": np.nan, "name": 3.0}]
    )
    assert facts.collect_facts(run, ecgs, None) == [{"measurements": {"qrs_ms": 92}}]
    with pytest.raises(WriterError, match="there are no facts about these ECGs"):
        facts.collect_facts(run, WriterInput(np.zeros((1, 4), dtype=np.float32)), None)


def test_an_ecg_without_facts_is_marked_and_the_others_are_written(
    run: Run, cohort: Cohort, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = [{} if number == 2 else {"qrs_ms": 90.0 + number} for number in range(8)]
    monkeypatch.setattr("leadwise.generate.reporting.measure_cohort", lambda *_: measured)
    writer = ServerWriter(run, ServerOptions(stand_in.url, "m", wait_s=0.0))
    table = write_reports(run, writer, cohort, "test")
    assert len(stand_in.requests) == 7
    assert table["report"].tolist() == ["sinus rhythm."] * 2 + [""] + ["sinus rhythm."] * 5
    assert [number for number, reason in enumerate(table["refused"]) if reason] == [2]
    assert "there are no facts about this ECG" in table["refused"][2]


def test_invalid_answers_and_busy_servers_are_tried_again(run: Run, cohort: Cohort, stand_in: StandIn) -> None:
    fenced = '```json\n{"report": "AFIB; abnormal EKG"}\n```'
    stand_in.answers = [(503, ""), (200, completion("Sinus rhythm")), (200, completion(fenced))]
    writer = server_writer(run, cohort, stand_in)
    ecgs = WriterInput(writer.bank.vectors[:1].astype(np.float32))
    assert writer.write(ecgs) == ["afib. abnormal ecg."]
    assert [json.loads(body)["seed"] for _, _, body in stand_in.requests] == [0, 1, 2]


@pytest.mark.parametrize(
    ("answer", "reason", "n_requests"),
    [
        ((401, "sinus rhythm"), "status 401", 1),
        ((302, "sinus rhythm"), "status 302", 1),
        ((500, "sinus rhythm"), "status 500", 2),
        ((200, "sinus rhythm"), "no chat completion", 2),
        ((200, completion('{"report": ""}')), "its report is empty", 2),
        ((200, completion('{"report": ["sinus rhythm"]}')), "its report is empty, no text", 2),
        ((200, completion('["sinus rhythm"]')), "no JSON object with a report", 2),
    ],
)
def test_a_server_without_reports_is_one_error(
    run: Run, cohort: Cohort, stand_in: StandIn, answer: tuple[int, str], reason: str, n_requests: int
) -> None:
    stand_in.answers = [answer] * 2
    writer = server_writer(run, cohort, stand_in, tries=2)
    with pytest.raises(WriterError, match=reason) as failed:
        writer.write(WriterInput(writer.bank.vectors[:1].astype(np.float32)))
    assert "sinus" not in str(failed.value)
    assert "--server-url" in str(failed.value)
    assert len(stand_in.requests) == n_requests


def test_a_server_is_used_only_if_it_is_named(
    run: Run, cohort: Cohort, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = invoke("report", run.folder, cohort.folder, "--writer", "server", "-o", tmp_path / "r.csv")
    assert done.returncode == 2
    assert "belong together" in done.stderr
    with pytest.raises(WriterError, match="belong together"):
        open_writer("majority", run, cohort, ServerOptions(stand_in.url))
    with pytest.raises(WriterError, match="is no address; write it as"):
        ServerOptions("file:///etc/hostname")
    done = invoke(
        "report", run.folder, cohort.folder, "--writer", "server", "--server-url", "http://[", "-o", tmp_path / "r.csv"
    )
    assert (done.returncode, "error: --server-url http://[ is no address" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    assert not stand_in.requests
    monkeypatch.setenv(KEY_VARIABLE, "key-of-the-test")
    writer = server_writer(run, cohort, stand_in, cache=tmp_path / "answers")
    ecgs = WriterInput(writer.bank.vectors[:1].astype(np.float32))
    writer.write(ecgs)
    assert stand_in.requests[0][1]["Authorization"] == "Bearer key-of-the-test"
    (stored,) = (tmp_path / "answers").iterdir()
    stored.write_text("{")  # a damaged answer is replaced
    assert writer.write(ecgs) == ["sinus rhythm."]
    assert len(stand_in.requests) == 2


def test_names_of_several_words_are_found_in_reports_whole_and_for_patients_in_parts() -> None:
    names = facts.searched_names(["ward 7 file 12"], ["Doe, Jane", "O'Neil Ann"])
    for text in (
        "sinus rhythm. jane doe.",
        "Mr Doe, known.",
        "sinus rhythm (neil).",
        "see ward 7, file 12.",
        "ann: normal.",
    ):
        assert facts.is_identifying(text, names), text
    for text in ("sinus rhythm. normal ecg.", "ward round. file closed.", "annual control. rate 72."):
        assert not facts.is_identifying(text, names), text


def test_a_server_on_this_machine_is_not_reached_through_a_proxy(
    run: Run, cohort: Cohort, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    writer = server_writer(run, cohort, stand_in, cache=tmp_path)
    ecgs = WriterInput(np.zeros((1, 16), dtype=np.float32), measurements=[{"qrs_ms": 90.0}])
    monkeypatch.setattr("leadwise.generate.writers.server.collect_facts", lambda *_: [{"measurements": {"qrs_ms": 90}}])
    assert writer.write(ecgs) == ["sinus rhythm."]
    assert len(stand_in.requests) == 1
