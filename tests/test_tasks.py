"""The tasks' label sets, the verb that lists them, and CSN's map of codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leadwise.cli import app
from leadwise.data.sources import catalogue, cpsc2018, csn
from leadwise.data.tasks import Task, class_names

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
PUBLISHED = ("super", "sub", "form", "rhythm", "cpsc2018", "csn")  # the paper's six tasks


def every_task() -> list[Task]:
    return [task for tasks in catalogue.tasks_by_source().values() for task in tasks]


def find_task(name: str) -> Task:
    ((task,),) = catalogue.select_tasks(name).values()
    return task


def test_every_task_has_its_own_name_and_says_what_its_classes_mean() -> None:
    names = [task.name for task in every_task()]
    assert len(set(names)) == len(names)
    assert [len(find_task(name).classes) for name in PUBLISHED] == [5, 23, 19, 12, 9, 38]
    for task in every_task():
        assert task.definition.endswith(".")
        assert all(task.classes.values())
        assert len(set(task.classes.values())) == len(task.classes), task.name
        assert set(task.snomed) <= set(task.classes)
    assert list(class_names(catalogue.find_source("ptbxl").TASKS)) == ["super", "sub", "form", "rhythm", "diag", "all"]
    assert list(catalogue.select_tasks("ptbxl")) == ["ptbxl"]
    assert catalogue.select_tasks("folder") == {"folder": ()}


def test_csn_has_one_class_per_code() -> None:
    assert (len(csn.CSN_ACRONYM_CODES), len(csn.CSN_ACRONYMS), len(csn.CSN_FULL)) == (63, 55, 55)
    assert csn.CSN_ACRONYMS["164909002"] == "LBBB"
    assert csn.CSN_ACRONYMS["164865005"] == "MI"
    assert csn.CSN_ACRONYMS["698252002"] == "IDC"
    assert csn.CSN_ACRONYMS["195101003"] == "WAVN"
    assert "SB" in csn.CSN_FULL
    assert "SB" not in csn.CSN
    assert set(csn.CSN) < set(csn.CSN_FULL)
    assert set(csn.CSN) - set(csn.CSN_MERGED) == {"AF", "AFIB"}
    assert set(csn.CSN_MERGED) - set(csn.CSN) == {"AFIB/AF"}
    assert csn.CSN["AF"] == "atrial flutter"
    assert csn.CSN_MERGED["AFIB/AF"] == "atrial fibrillation or flutter"
    assert set(find_task("csn_full").snomed.values()) == set(csn.CSN_ACRONYMS)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no task or source 'rythm'; did you mean 'rhythm'"):
        catalogue.select_tasks("rythm")
    with pytest.raises(ValueError, match=r"no task or source '12345'; known: cpsc2018, csn, .*super, sub"):
        catalogue.select_tasks("12345")


def test_the_verb_lists_tasks_and_classes(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["tasks", "--json", str(tmp_path / "all.json")])
    assert listed.exit_code == 0, listed.output
    written = json.loads((tmp_path / "all.json").read_text())["tasks"]
    assert [task["task"] for task in written] == [task.name for task in every_task()]
    assert {task["task"]: task["source"] for task in written}["rhythm"] == "ptbxl"
    assert all(task["definition"] for task in written)
    for task in every_task():
        assert f" {task.name} " in listed.output
    one = CliRunner().invoke(app, ["tasks", "csn", "--json", str(tmp_path / "csn.json")])
    assert one.exit_code == 0, one.output
    assert "sinus tachycardia" in one.output
    assert "csn_full has it" in one.output
    assert "the data set csn has more tasks: csn_full, csn_merged" in one.output
    (written,) = json.loads((tmp_path / "csn.json").read_text())["tasks"]
    assert written["classes"][20] == {"class": "AF", "name": "atrial flutter", "snomed": "164890007"}
    assert isinstance(CliRunner().invoke(app, ["tasks", "cns"]).exception, ValueError)


def test_the_verb_shows_all_tasks_of_a_data_set(tmp_path: Path) -> None:
    several = CliRunner().invoke(app, ["tasks", "ptbxl", "--json", str(tmp_path / "ptbxl.json")])
    assert several.exit_code == 0, several.output
    for task in ("super", "sub", "form", "rhythm", "diag", "all"):
        assert f"{task} of ptbxl: " in several.output
    assert len(json.loads((tmp_path / "ptbxl.json").read_text())["tasks"]) == 6
    assert "folder has no tasks of its own" in CliRunner().invoke(app, ["tasks", "folder"]).output


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="the protocol's facts do not lie beside this checkout")
def test_golden_classes_and_codes() -> None:
    facts = json.loads((SHARED / "reference" / "protocol_facts.json").read_text())
    assert list(csn.CSN_ACRONYM_CODES.items()) == list(facts["snomed_condition_map_63_rows"].items())
    assert list(csn.CSN) == facts["tasks"]["csn"]["label_order"]["test"]
    assert set(cpsc2018.CPSC2018) == set(facts["tasks"]["cpsc2018"]["positives"])
    snomed = find_task("cpsc2018").snomed
    with (SHARED / "data" / "cpsc_2018" / "labels.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            codes = {snomed[name] for name in line["merl_labels"].split(";")}
            assert codes == set(line["dx_snomed"].split(",")), line["record"]
