"""Writers that read the code numbers of an ECG tokenizer: the codes' vectors train, and numbers belong to records by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPORTS, SIGNAL, TINY
from test_writers import SMALL, write_cohort

from leadwise import run as runs
from leadwise.config import Config, ConfigError
from leadwise.data import reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.loader import Recordings
from leadwise.generate import folder as folders
from leadwise.generate import training
from leadwise.generate.evaluate_writer import RANDOM, SHUFFLED, ZERO, score_writer
from leadwise.generate.reporting import open_writer, write_reports
from leadwise.generate.training import train_writer
from leadwise.generate.writer import WriterError
from leadwise.generate.writers.local import LocalModel, LocalSettings
from leadwise.generate.writers.tiny import TinyModel, TinySettings
from leadwise.nn.text import train_tokenizer
from leadwise.run import Run

NAME = "beat_tokenizer"
N_TOKENS, N_IDS = 20, 33  # of an ECG with the tiny settings: 2 windows, 5 queries, 2 levels of 16 codes
TOKENS = (
    *(one for one in SMALL if not one.startswith("writer.positions")),
    "writer.positions=48",
    "writer.input=tokens",
)


def write_tokenizer(folder: Path | None) -> Run:
    config = Config(signal=SIGNAL, method={"name": NAME, **TINY[NAME]})
    provenance = {"cohort": "own", "source": "folder", "fingerprint": "0" * 16}
    run = runs.create(config, [], folder, provenance)
    if folder is not None:
        run.save_weights()
        return runs.load(folder)
    return run


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def tokenizer_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_tokenizer(tmp_path_factory.mktemp("run") / "run")


def numbers(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 17, (n, 6), generator=torch.Generator().manual_seed(seed)).float()


# --------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("fusion", ["prefix", "kv"])
def test_a_tiny_writer_learns_eight_reports_from_code_numbers(fusion: str) -> None:
    texts = [f"{REPORTS[i % 4]} study {'abcdefgh'[i]}." for i in range(8)]
    settings = TinySettings(fusion, 2, 32, 2, 2, 64, 400, 40, 0.0, input="tokens")
    torch.manual_seed(0)
    model, codes = TinyModel(settings, TinyModel.make_tokenizer(settings, texts), 6, 17), numbers(8)
    model.fit_scale(codes)
    assert not model.mean.any()  # code numbers have no mean
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    before = model.project[0].code.weight.detach().clone()
    for _ in range(100):
        total, n_tokens = model.losses(codes, texts)
        optimizer.zero_grad()
        (total / n_tokens).backward()
        optimizer.step()
    used = torch.unique(codes).long()
    moved = (model.project[0].code.weight.detach() - before).abs().amax(1) > 1e-3
    assert bool(moved[used].all())
    model.eval()
    with torch.inference_mode():
        assert [text.strip() for text in model.generate(codes)] == texts
        assert [text.strip() for text in model.generate(codes.flip(0))] == texts[::-1]


def test_the_new_vectors_of_a_local_model_train(tmp_path: Path) -> None:
    """The released code adds tokens to the vocabulary of a model whose embeddings its low-rank training leaves frozen."""
    pytest.importorskip("peft", reason="the extra 'reports-llm' is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(REPORTS, 320)
    tokenizer.eos_token = "[SEP]"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = LlamaConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=96)
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    model = LocalModel(LocalSettings(str(tmp_path / "llm"), 4, 24, 2, input="tokens"), 6, n_token_ids=17)
    assert {"project.0.code.weight", "project.0.place.weight"} <= set(model.own_state())  # stored with the writer
    assert not {id(p) for p in model.pretrained_parameters} & {id(p) for p in model.project.parameters()}
    before = {name: x.clone() for name, x in model.state_dict().items()}
    codes, texts = numbers(4), list(REPORTS)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    for _ in range(3):
        total, n_tokens = model.losses(codes, texts)
        (total / n_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    used = torch.unique(codes).long()
    changed = (after["project.0.code.weight"] - before["project.0.code.weight"]).abs().amax(1) > 1e-4
    assert bool(changed[used].all())
    assert not bool(changed[[k for k in range(17) if k not in used]].any())
    words = next(name for name in before if name.endswith("embed_tokens.weight"))
    assert torch.equal(after[words], before[words])
    assert len(model.eval().generate(codes)) == 4


# ----------------------------------------------------------------------------------------- training, scores and reports


def test_code_numbers_belong_to_reports_by_name(records: Cohort, tokenizer_run: Run) -> None:
    """The released code assigns the tokens of a shuffled loader to reports in the order of rows."""
    config = folders.config_of({"writer": {"kind": "tiny", "input": "tokens"}, "optim": {"batch_size": 8}})
    assert config.ecg.part == "tokens"
    for examples in training._examples(tokenizer_run, tokenizer_run, records, config, None):
        assert examples.features.shape[1] == N_TOKENS
        for row, own, text in zip(examples.rows, examples.features, examples.texts, strict=True):
            batch = Recordings(records, SIGNAL, np.array([row])).batch([0])
            assert torch.equal(tokenizer_run.method.embed_ecg(batch, "tokens")[0], own), batch.record
            assert reports.clean(batch.report[0]) == text


def test_a_token_writer_trains_is_loaded_scored_and_writes(records: Cohort, tokenizer_run: Run, tmp_path: Path) -> None:
    train_writer(tokenizer_run, records, tmp_path / "w", TOKENS)
    writer = folders.load(tmp_path / "w")
    assert (writer.part, writer.model.n_token_ids) == ("tokens", N_IDS)
    assert writer.provenance["n_token_ids"] == N_IDS
    table = write_reports(tokenizer_run, open_writer(str(tmp_path / "w"), tokenizer_run), records, "test")
    assert len(table) == 8
    scores = score_writer(tokenizer_run, records, writer, controls=(SHUFFLED, ZERO, RANDOM))
    assert [row.name for row in scores.written] == ["right ECG", SHUFFLED, ZERO, RANDOM]

    # an interrupted training goes on to the bit
    def stop(_: str, done: int, total: int) -> None:
        if total == 6 and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_writer(tokenizer_run, records, tmp_path / "torn", TOKENS, progress=stop)
    resumed = train_writer(tokenizer_run, records, tmp_path / "torn", resume=True)
    assert all(torch.equal(x, writer.model.own_state()[name]) for name, x in resumed.model.own_state().items())


def test_settings_that_do_not_go_together(records: Cohort, tokenizer_run: Run, tmp_path: Path) -> None:
    for overrides, message in (
        (("writer.input=tokens", "ecg.part=codes"), "writer.input=tokens reads the part 'tokens' and no other"),
        (("ecg.part=tokens",), "do not go together"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_writer(tokenizer_run, records, tmp_path / "w", (*SMALL, *overrides))
    with pytest.raises(
        WriterError, match=r"too small for the 20 tokens of an ECG and a report; set writer.positions=44"
    ):
        train_writer(tokenizer_run, records, tmp_path / "w", (*SMALL, "writer.input=tokens"))
    other = runs.create(Config(signal=SIGNAL, method={"name": "simclr", **TINY["simclr"]}), REPORTS, None)
    with pytest.raises(
        WriterError, match=r"has no tokens for writer.input=tokens; train one with method.name=beat_tok"
    ):
        train_writer(other, records, tmp_path / "w", TOKENS)
    assert not (tmp_path / "w").exists()


def test_folders_of_earlier_writers_load(records: Cohort, tokenizer_run: Run, tmp_path: Path) -> None:
    """A folder without the setting writer.input has the digest that it was written with."""
    train_writer(tokenizer_run, records, tmp_path / "w", SMALL)
    path = tmp_path / "w" / "writer.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("input")))
    assert folders.load(tmp_path / "w").config.settings.input == "vectors"
