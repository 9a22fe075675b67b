"""The tasks' label sets, the verb that lists them, and CSN's map of codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leadwise.cli import app
from leadwise.data import tasks

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
PUBLISHED = ("super", "sub", "form", "rhythm", "cpsc2018", "csn")  # the paper's six tasks


def test_every_task_has_its_own_name_and_says_what_its_classes_mean() -> None:
    names = [task.name for task in tasks.TASKS]
    assert len(set(names)) == len(names)
    assert [len(tasks.find(name).classes) for name in PUBLISHED] == [5, 23, 19, 12, 9, 38]
    for task in tasks.TASKS:
        assert task.definition.endswith(".")
        assert all(task.classes.values())
        assert len(set(task.classes.values())) == len(task.classes), task.name
        assert set(task.snomed) <= set(task.classes)
    assert list(tasks.classes_of("ptbxl")) == ["super", "sub", "form", "rhythm"]
    assert tasks.classes_of("nobody") == {}


def test_csn_has_one_class_per_code() -> None:
    assert (len(tasks.CSN_ACRONYM_CODES), len(tasks.CSN_ACRONYMS), len(tasks.CSN_FULL)) == (63, 55, 55)
    assert tasks.CSN_ACRONYMS["164909002"] == "LBBB"
    assert tasks.CSN_ACRONYMS["164865005"] == "MI"
    assert tasks.CSN_ACRONYMS["698252002"] == "IDC"
    assert tasks.CSN_ACRONYMS["195101003"] == "WAVN"
    assert "SB" in tasks.CSN_FULL
    assert "SB" not in tasks.CSN
    assert set(tasks.CSN) < set(tasks.CSN_FULL)
    assert set(tasks.CSN) - set(tasks.CSN_MERGED) == {"AF", "AFIB"}
    assert set(tasks.CSN_MERGED) - set(tasks.CSN) == {"AFIB/AF"}
    assert tasks.CSN["AF"] == "atrial flutter"
    assert tasks.CSN_MERGED["AFIB/AF"] == "atrial fibrillation or flutter"
    assert set(tasks.find("csn_full").snomed.values()) == set(tasks.CSN_ACRONYMS)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no task 'rythm'; did you mean 'rhythm'"):
        tasks.find("rythm")
    with pytest.raises(ValueError, match="no task '12345'; known: super, sub"):
        tasks.find("12345")


def test_the_verb_lists_tasks_and_classes(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["tasks", "--json", str(tmp_path / "all.json")])
    assert listed.exit_code == 0, listed.output
    told = json.loads((tmp_path / "all.json").read_text())["tasks"]
    assert [task["task"] for task in told] == [task.name for task in tasks.TASKS]
    assert all(task["definition"] for task in told)
    for task in tasks.TASKS:
        assert f" {task.name} " in listed.output
    shown = CliRunner().invoke(app, ["tasks", "csn", "--json", str(tmp_path / "csn.json")])
    assert shown.exit_code == 0, shown.output
    assert "sinus tachycardia" in shown.output
    assert "csn_full has it" in shown.output
    (told,) = json.loads((tmp_path / "csn.json").read_text())["tasks"]
    assert told["classes"][20] == {"class": "AF", "name": "atrial flutter", "snomed": "164890007"}
    assert isinstance(CliRunner().invoke(app, ["tasks", "cns"]).exception, ValueError)


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="the protocol's facts do not lie beside this checkout")
def test_golden_classes_and_codes() -> None:
    facts = json.loads((SHARED / "reference" / "protocol_facts.json").read_text())
    assert list(tasks.CSN_ACRONYM_CODES.items()) == list(facts["snomed_condition_map_63_rows"].items())
    assert list(tasks.CSN) == facts["tasks"]["csn"]["label_order"]["test"]
    assert set(tasks.CPSC2018) == set(facts["tasks"]["cpsc2018"]["positives"])
    with (SHARED / "data" / "cpsc_2018" / "labels.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            codes = {tasks.CPSC2018_SNOMED[name] for name in line["merl_labels"].split(";")}
            assert codes == set(line["dx_snomed"].split(",")), line["record"]
