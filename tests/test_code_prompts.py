"""The shared dictionary of findings: codes, names, and prompts for every task without a prompt file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from planted import PlantedCohort, PlantedRun

from leadwise.data import codes, ecgbench_labels
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.sources import csn
from leadwise.evaluate import prompts
from leadwise.evaluate.prompts import PromptError, dictionary
from leadwise.evaluate.zeroshot import load_prompts, run_zeroshot

CHALLENGE_2021 = """
164889003 164890007 6374002 426627000 733534002 713427006 270492004 713426002 39732003 445118002 164909002 164947007
251146004 111975006 698252002 426783006 284470004 10370003 365413008 427172004 164917005 47665007 59118001 427393009
426177001 427084000 63593006 164934002 59931005 17338001
"""
"""The 30 codes that the challenge of 2021 scored."""
SPH = """
1 21 22 23 30 31 36 37 50 51 54 60 80 81 82 83 84 85 86 87 88 101 102 104 105 106 108 120 121 125 140 142 143 145 146 147
148 152 153 155 160 161 165 166
"""
"""The 44 primary statements of SPH."""


@pytest.mark.parametrize("entry", codes.entries().values(), ids=lambda entry: entry.name)
def test_the_texts_are_in_the_style_of_reports(entry: codes.CodeEntry) -> None:
    for text in (*entry.short, *entry.rich):
        assert prompts.style_problem(text) is None, text
    assert len(set(entry.rich)) == len(entry.rich) >= 2


def test_a_code_and_a_spelling_have_one_finding() -> None:
    entries = codes.entries().values()
    counts = Counter(code for entry in entries for code in entry.codes)
    assert not [code for code, n in counts.items() if n > 1]
    assert all(re.fullmatch(r"snomed:\d{6,18}|aha:\d{1,3}|scp:\S+", code) for code in counts)
    spellings = Counter(codes.plain(text) for entry in entries for text in entry.alias)
    assert not [text for text, n in spellings.items() if n > 1 or text in codes.entries()]
    assert not [text for text in spellings if len(text) < 5], "an acronym has another meaning in another data set"


def test_no_two_findings_have_the_same_prompts() -> None:
    owners = Counter(entry.rich for entry in codes.entries().values())
    assert max(owners.values()) == 1


def test_the_codes_of_the_large_data_sets_are_there() -> None:
    assert not [code for code in CHALLENGE_2021.split() if codes.by_code("snomed", code) is None]
    assert not [code for code in set(csn.CSN_ACRONYM_CODES.values()) if codes.by_code("snomed", code) is None]
    assert not [code for code in SPH.split() if codes.by_code("aha", code) is None]


def test_the_names_that_ecgbench_s_labels_become_are_there() -> None:
    given = [
        name for sets in ecgbench_labels.LABEL_SETS.values() for one in sets for name in one.names.values() if name
    ]
    assert given
    assert not [name for name in given if codes.by_name(name) is None]
    flags = [column for one in ecgbench_labels.LABEL_SETS["echonext"] for column in one.names]
    assert len(flags) == 12
    assert not [column for column in flags if codes.by_name(column) is None]


def test_the_codes_of_the_challenges_in_ecgbench_are_there() -> None:
    pandas = pytest.importorskip("pandas")
    library = pytest.importorskip("ecgbench", reason="the extra `datasets` is not installed")
    for year in (2020, 2021):
        table = pandas.read_csv(Path(library.__file__).parent / "data" / f"challenge{year}_dx_mapping.csv", dtype=str)
        assert not [code for code in table["snomed_code"] if codes.by_code("snomed", code) is None]


def test_names_are_looked_up_and_acronyms_are_not() -> None:
    assert codes.by_name(" Atrial  fibrillation. ") is codes.by_code("snomed", "164889003")
    assert codes.by_name("164889003") is codes.by_code("scp", "AFIB")
    assert codes.by_name("1st degree AV block") is codes.by_code("scp", "1AVB")
    assert codes.by_name("AF") is codes.by_name("ST") is codes.by_name("50") is None


def test_a_task_without_a_file_has_the_prompts_of_the_dictionary(caplog: pytest.LogCaptureFixture) -> None:
    classes = ("atrial fibrillation", "426177001", "grade 7 wobble")
    loaded = dictionary.task_prompts("ecgbench.x", "diagnoses", classes)
    assert loaded.sets == ("name", "short", "rich")
    assert loaded.by_name == ("grade 7 wobble",)
    assert "no prompts for grade 7 wobble; scored by their name" in caplog.text
    first, second, third = loaded.for_classes(classes)
    assert "atrial fibrillation with rapid ventricular response. abnormal ecg." in first.prompts
    assert second.name == "sinus bradycardia"
    assert third.prompts == ("grade 7 wobble.",)
    assert loaded.provenance()["file"] == "codes.toml"
    assert len(loaded.sha256) == 64


def test_a_shipped_file_comes_first() -> None:
    loaded = dictionary.task_prompts("ptbxl", "super", ("NORM", "MI", "STTC", "CD", "HYP"))
    assert loaded.path.name == "ptbxl_super.toml"
    assert loaded.by_name == ()


def test_classes_of_which_none_is_known_are_an_error(cohort_folder: Path) -> None:
    with pytest.raises(PromptError, match=r"pass your own TOML file as --prompts.*has none of its classes either"):
        dictionary.task_prompts("mine", "t", ("a", "b"))
    cohort = Cohort.open(cohort_folder)  # a task with the classes normal, afib and mi
    with pytest.raises(PromptError, match="no prompts are shipped for source 'folder', task 'own'"):
        load_prompts(cohort, "own", None)


def test_zero_shot_without_a_prompt_file_marks_what_is_scored_by_name() -> None:
    cohort = PlantedCohort()
    cohort.tasks = {"finding": ("atrial fibrillation", "sinus rhythm", "wobble", "left bundle branch block")}
    result = run_zeroshot(PlantedRun(), cohort, "finding").to_json()
    assert result["prompts"]["file"] == "codes.toml"
    assert result["prompts"]["set"] == "rich"
    assert result["prompts"]["scored_by_name"] == ["wobble"]
    assert result["classes"]["left bundle branch block"] == "left bundle branch block"
    cohort.tasks = {
        "finding": ("atrial fibrillation", "sinus rhythm", "left axis deviation", "left bundle branch block")
    }
    assert "scored_by_name" not in run_zeroshot(PlantedRun(), cohort, "finding").to_json()["prompts"]
