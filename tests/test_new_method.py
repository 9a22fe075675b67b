"""A method file that is added to the package works everywhere, with nothing else edited."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_methods
import torch
from conftest import config_table, make_batch
from typer.testing import CliRunner

from leadwise import methods
from leadwise import run as runs
from leadwise.cli import app
from leadwise.config import Config, ConfigError, typed
from leadwise.methods import catalogue
from leadwise.methods.catalogue import find_method
from leadwise.reproduce import variants
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.reproduction import ReproduceRequest, reproduce
from leadwise.training.loop import pretrain

NEW_METHOD = '''
"""Spread: predict how large a lead is.
A journal of 2026.

    L_spread    squared error of the predicted standard deviation of each lead
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part


@dataclass(frozen=True)
class Config(EncoderSettings, MethodConfig):
    pass


TINY = {"": {"resnet_width": 8}, "vit": {"encoder": "vit", "n_patches": 10, "width": 32, "depth": 1, "heads": 4}}


class Method(PretrainingMethod):
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        self.ecg = EcgEncoder(config, signal)
        self.head = nn.Linear(self.ecg.width, len(signal.leads))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        spread = (batch.ecg * batch.observed).std(-1)
        return {"L_spread": (self.head(self.ecg(batch)) - spread).square().mean()}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        check_part(part, self.parts)
        return self.ecg(batch)
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a new method, in a folder that is part of the package `leadwise.methods` for one test."""
    folder = tmp_path / "added_methods"
    folder.mkdir()
    path = folder / "spread.py"
    path.write_text(NEW_METHOD)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    importlib.invalidate_caches()
    yield path
    sys.modules.pop("leadwise.methods.spread", None)
    vars(methods).pop("spread", None)


@pytest.mark.usefixtures("added")
def test_it_is_found_and_listed(tmp_path: Path) -> None:
    file = find_method("spread")
    assert (file.small, file.also_small, file.small_optim, file.needs) == (None, (), {}, "")  # the defaults
    result = CliRunner().invoke(app, ["methods", "--json", str(tmp_path / "all.json")])
    assert result.exit_code == 0, result.output
    (entry,) = (one for one in json.loads((tmp_path / "all.json").read_text())["methods"] if one["name"] == "spread")
    assert (entry["title"], entry["reads"], entry["n_small"]) == (
        "Spread: predict how large a lead is", "ECG", None,
    )  # fmt: skip
    assert entry["n_parameters"] > 1e6
    one = CliRunner().invoke(app, ["methods", "spread"])
    assert one.exit_code == 0, one.output
    assert "L_spread" in one.output


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("case", ["spread", "spread vit"])
def test_the_contract_tests_run_on_it(case: str) -> None:
    from conftest import tiny_settings

    assert case in tiny_settings()  # so that test_methods.CASES has it in the next session
    method = test_methods.build(case)
    assert method.weights == {}  # optional: every weight is 1
    contract_tests = [
        test
        for test in vars(test_methods).values()
        if any(mark.args[1] is test_methods.CASES for mark in getattr(test, "pytestmark", ()))
        and list(inspect.signature(test).parameters) == ["name"]
    ]
    assert len(contract_tests) >= 8
    for test in contract_tests:
        test(case)


@pytest.mark.usefixtures("added")
def test_it_is_trained_saved_and_loaded(cohort_folder: Path, tmp_path: Path) -> None:
    table = config_table(cohort_folder, steps=3) | {"method": {"name": "spread", **find_method("spread").tiny[""]}}
    run = pretrain(typed(Config, table), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["term/L_spread"] == line["raw/L_spread"] for line in lines if line["split"] == "train")
    again, batch = runs.load(tmp_path / "run"), make_batch(3)
    with torch.no_grad():
        assert torch.equal(again.method.embed_ecg(batch), run.method.embed_ecg(batch))


@pytest.mark.slow
@pytest.mark.usefixtures("added")
def test_reproduce_lists_a_method_without_small_settings_and_continues(
    cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "spread" in variants.compared_methods("table1")
    monkeypatch.setattr(variants, "method_names", lambda: ["cg_dmer", "spread"])
    path = tmp_path / "cg_dmer.toml"
    path.write_text(settings_text(cohort_folder))
    request = ReproduceRequest("table1", tmp_path / "out", configs=(path,), budget=Budget(steps=1), references=False)
    result = reproduce(request)
    assert {line["method"] for line in result.lines} == {"CG-DMER", "CG-DMER, untrained"}
    assert "No small settings, so not compared: spread" in result.scale
    with pytest.raises(ConfigError, match="no small settings: spread; give a config of the method with --config"):
        reproduce(ReproduceRequest("table1", tmp_path / "nothing", (cohort_folder,), methods=("spread",)))
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(ConfigError, match=r"'spread' has no small settings \(SMALL in its file\)"):
        catalogue.small_settings("spread")


def settings_text(cohort_folder: Path) -> str:
    import tomli_w

    return tomli_w.dumps(config_table(cohort_folder))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "class Method(PretrainingMethod)",
            "class Method(nn.Module)",
            "'Method' .* not a subclass of PretrainingMethod",
        ),
        ("class Config(EncoderSettings, MethodConfig)", "class Config(EncoderSettings)", "'Config' .* MethodConfig"),
        (
            "class Config(EncoderSettings, MethodConfig)",
            "class Settings(EncoderSettings, MethodConfig)",
            "'Config' is missing",
        ),
    ],
)
def test_a_file_that_does_not_follow_the_contract_is_refused_by_name(
    added: Path, old: str, new: str, message: str
) -> None:
    added.write_text(NEW_METHOD.replace(old, new))
    with pytest.raises(ValueError, match=rf"spread\.py: {message}"):
        find_method("spread")


def test_a_method_without_a_loss_is_an_error_that_names_its_file(added: Path) -> None:
    added.write_text(NEW_METHOD.replace("def forward", "def loss"))
    with pytest.raises(
        NotImplementedError, match=r"leadwise\.methods\.spread: implement `forward`, or set compares_records"
    ):
        test_methods.build("spread")(make_batch(2))
