"""The list of methods, and `leadwise methods`, which lists the encoders with public weights too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leadwise.batch import Signal
from leadwise.cli import app
from leadwise.encoders.catalogue import encoder_names
from leadwise.methods import catalogue
from leadwise.methods.catalogue import find_method, method_names

NAMES = method_names()


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_a_title_a_source_and_an_objective(name: str) -> None:
    (entry,) = catalogue.entries([name])
    assert entry.title
    assert entry.source or catalogue.learns_labels(name)  # supervised training is a reference without a paper
    assert entry.objective
    assert entry.n_parameters > 0
    if entry.n_small is not None:
        assert 0 < entry.n_small < entry.n_parameters


@pytest.mark.slow
def test_methods_that_embed_texts_are_marked_and_read_reports() -> None:
    entries = catalogue.entries()
    expected = (
        "ECG + report",
        "ECG + teacher",
        "ECG + heart images",
    )  # the last with data.init, a run that embeds texts
    assert all(entry.reads in expected for entry in entries if entry.zero_shot)
    assert [entry.name for entry in entries if entry.reads == "ECG + teacher"] == ["student"]
    assert {entry.name for entry in entries if entry.zero_shot} >= {"cg_dmer", "merl"}
    assert [entry.name for entry in entries if entry.reads == "ECG + labels"] == ["supervised"]


def test_parameters_are_counted_as_a_built_method_has_them() -> None:
    file = find_method("simclr")
    built = file.method_class(file.config_class(**file.small), Signal(rate_hz=100, duration_s=10.0))
    (entry,) = catalogue.entries(["simclr"])
    assert entry.n_small == sum(p.numel() for p in built.parameters())


def test_the_command_lists_all_methods_and_describes_one(tmp_path: Path) -> None:
    all_methods = CliRunner().invoke(app, ["methods", "--json", str(tmp_path / "all.json")])
    assert all_methods.exit_code == 0, all_methods.output
    written = json.loads((tmp_path / "all.json").read_text())
    assert [one["name"] for one in written["methods"]] == NAMES
    assert [one["name"] for one in written["encoders"]] == encoder_names()
    assert all_methods.output.count("not tried with real weights") == len(encoder_names())
    merl = CliRunner().invoke(app, ["methods", "merl"])
    assert merl.exit_code == 0, merl.output
    (entry,) = catalogue.entries(["merl"])
    assert entry.objective.splitlines()[0].strip() in merl.output
    assert "temperature" in merl.output  # a setting
    wrong = CliRunner().invoke(app, ["methods", "simcrl"])
    assert isinstance(wrong.exception, ValueError)
    assert "did you mean 'simclr'" in str(wrong.exception)
