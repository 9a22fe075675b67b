"""Tests of the list of methods, which `leadwise methods` prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leadwise.batch import Signal
from leadwise.cli import app
from leadwise.methods import catalogue
from leadwise.methods.catalogue import find_method, method_names

NAMES = method_names()


@pytest.mark.parametrize("name", NAMES)
def test_every_method_names_its_paper_and_its_objective(name: str) -> None:
    (entry,) = catalogue.entries([name])
    assert len(entry.title) > 5
    if name == "supervised":  # a reference without a paper
        return
    assert re.search(r"arXiv \d{4}\.\d{4,5}|doi|\d{4}", entry.source), entry.source
    assert re.search(r"depart|ours", entry.objective), "the docstring does not state its departures from the paper"
    assert any(term in entry.objective for term in _terms(name)), "the docstring names no term of the loss"
    assert entry.n_small is not None
    assert 0 < entry.n_small < entry.n_parameters


def _terms(name: str) -> list[str]:
    from test_methods import CASES, build

    return [term for case in CASES if case.split()[0] == name for term in build(case).weights]


def test_methods_with_zero_shot_read_reports() -> None:
    for entry in catalogue.entries():
        assert (entry.reads == "ECG + report") >= entry.zero_shot
    assert {entry.name for entry in catalogue.entries() if entry.zero_shot} >= {"cg_dmer", "merl"}


def test_the_parameter_count_is_that_of_a_built_method() -> None:
    file = find_method("simclr")
    built = file.method_class(file.config_class(**file.small), Signal(rate_hz=100, duration_s=10.0))
    (entry,) = catalogue.entries(["simclr"])
    assert entry.n_small == sum(p.numel() for p in built.parameters())


def test_the_command_lists_all_methods_and_prints_one(tmp_path: Path) -> None:
    table = CliRunner().invoke(app, ["methods", "--json", str(tmp_path / "all.json")])
    assert table.exit_code == 0, table.output
    assert [one["name"] for one in json.loads((tmp_path / "all.json").read_text())["methods"]] == NAMES
    details = CliRunner().invoke(app, ["methods", "merl"])
    assert details.exit_code == 0, details.output
    assert "L_UMA" in details.output
    assert "temperature" in details.output
    wrong = CliRunner().invoke(app, ["methods", "simcrl"])
    assert isinstance(wrong.exception, ValueError)
    assert "did you mean 'simclr'" in str(wrong.exception)
