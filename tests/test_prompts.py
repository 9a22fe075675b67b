import json
import re
from pathlib import Path

import pytest

from leadwise.data import reports
from leadwise.data.sources import ptbxl
from leadwise.evaluate import prompts
from leadwise.evaluate.prompts import PromptError

FACTS = Path(__file__).resolve().parents[1].parent / "shared" / "reference" / "protocol_facts.json"
CPSC2018 = "NORM AFIB 1AVB CLBBB CRBBB PAC VPC STD STE"
CSN = (
    "AQW UW SR WPW 2AVB AT VB ARS STTC SA STE VPB TWO STTU ALS APB 2AVB1 PRIE CCR CR AF AVB QTIE LBBB VEB SVT RBBB 1AVB "
    "STDD MI AFIB TWC PWC ERV RVH LVH ST JEB"
)
SLOTS = {("ptbxl", task): tuple(classes) for task, classes in ptbxl.PTBXL.items() if task not in ptbxl.DETAILS} | {
    ("cpsc2018", "cpsc2018"): tuple(CPSC2018.split()),
    ("csn", "csn"): tuple(CSN.split()),
}  # the classes of the published tables

SHARED_TEXTS = {"ptbxl_form": 7, "ptbxl_rhythm": 1, "ptbxl_sub": 6, "ptbxl_diag": 6, "ptbxl_all": 31}
"""Texts shared by two classes; retained because reported scores were computed with them."""


@pytest.fixture(params=prompts.shipped(), ids=lambda path: path.stem)
def shipped(request):
    return prompts.load(request.param)


def test_all_106_class_slots_have_all_three_sets():
    n = 0
    for (source, task), classes in SLOTS.items():
        loaded = prompts.load(prompts.find(source, task))
        assert loaded.sets == ("name", "short", "rich")
        for which in loaded.sets:
            assert [entry.name for entry in loaded.for_classes(classes, which)] == [
                loaded.names[code] for code in classes
            ]
        n += len(classes)
    assert n == 106


@pytest.mark.real
@pytest.mark.skipif(not FACTS.is_file(), reason="the facts of the published tables are not available")
def test_the_slots_are_those_of_the_published_tables():
    facts = json.loads(FACTS.read_text())["tasks"]
    published = {
        ((key, key) if "_" not in key else tuple(key.split("_"))): set(fact["label_order"]["test"])
        for key, fact in facts.items()
    }
    assert published == {slot: set(classes) for slot, classes in SLOTS.items()}


def test_every_file_is_named_by_source_and_task(shipped):
    assert shipped.path.name == f"{shipped.source}_{shipped.task}.toml"
    assert prompts.find(shipped.source, shipped.task) == shipped.path
    assert shipped.generation is None  # by hand


def test_an_acronym_has_the_meaning_of_its_data_set():
    csn = prompts.load(prompts.find("csn", "csn")).names
    assert (csn["AF"], csn["AFIB"]) == ("atrial flutter", "atrial fibrillation")
    assert csn["ST"] == "sinus tachycardia"
    assert (csn["STDD"], csn["STTU"]) == ("st depression", "st elevation")
    assert prompts.load(prompts.find("cpsc2018", "cpsc2018")).names["STE"] == "st elevation"
    for which in ("short", "rich"):
        texts = prompts.load(prompts.find("csn", "csn")).texts[which]
        assert all("flutter" in text and "fibrillation" not in text for text in texts["AF"])
        assert all("fibrillation" in text and "flutter" not in text for text in texts["AFIB"])
        assert all("sinus tachycardia" in text for text in texts["ST"])
        assert not any("counterclockwise" in text for text in texts["CR"])


def test_the_merged_view_inherits_all_other_classes():
    one, merged, full = (prompts.load(prompts.find("csn", task)) for task in ("csn", "csn_merged", "csn_full"))
    assert set(merged.names) == set(one.names) - {"AF", "AFIB"} | {"AFIB/AF"}
    assert set(full.names) > set(one.names)
    assert len(full.names) == 55
    for which in one.sets:
        for code in one.names:
            assert full.texts[which][code] == one.texts[which][code]
            assert code in ("AF", "AFIB") or merged.texts[which][code] == one.texts[which][code]
    assert any("fibrillation" in text for text in merged.texts["rich"]["AFIB/AF"])
    assert any("flutter" in text for text in merged.texts["rich"]["AFIB/AF"])


def test_prompts_are_in_the_style_of_cleaned_reports(shipped):
    shared = [remark for remark in prompts.remarks(shipped) if "share a prompt" in remark]
    assert prompts.remarks(shipped) == shared
    assert len(shared) == SHARED_TEXTS.get(shipped.path.stem, 0)
    assert all(remark.startswith("rich: ") for remark in shared)
    for code, texts in shipped.texts["rich"].items():
        assert 3 <= len(texts) <= 6, code
        for text in texts:
            assert text == reports.clean(text), (code, text)
            assert re.fullmatch(r"[a-z0-9 .,&/()':-]+\.", text), (code, text)
            assert 2 <= len(text.split()) <= 18, (code, text)


def test_the_sets_name_a_class_and_add_one_criterion(shipped):
    for code, name in shipped.names.items():
        assert shipped.texts["name"][code] == (f"{name}.",)
        (short,) = shipped.texts["short"][code]
        first, *more = reports.statements(short)
        assert first == name, code
        assert len(more) == 1, (code, short)
        assert name == name.lower()
        assert 1 <= len(name.split()) <= 9


def test_no_two_classes_have_the_same_prompts(shipped):
    for which in shipped.sets:
        text_sets = [frozenset(texts) for texts in shipped.texts[which].values()]
        assert len(set(text_sets)) == len(text_sets), which


GOOD = 'source = "s"\ntask = "t"\n[classes.A]\nname = "an a"\nprompts = ["one a.", "two a."]\n'


def load(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return prompts.load(path)


def test_own_file(tmp_path):
    own = load(tmp_path, GOOD)
    assert own.sets == ("name", "own")
    assert [(entry.name, entry.prompts) for entry in own.for_classes(["A"])] == [("an a", ("one a.", "two a."))]
    assert own.for_classes(["A"], "name")[0].prompts == ("an a.",)
    assert own.sha256 != load(tmp_path, GOOD + "# changed\n").sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('source = "s"\n', "", "'source' must be a text"),
        ('task = "t"', "task = 3", "'task' must be a text, not 3"),
        ('"one a."', '"  "', r"\[classes.A\]: prompts must be a list of one or more texts"),
        ('["one a.", "two a."]', "[]", "one or more texts"),
        ('["one a.", "two a."]', '"one a."', "'prompts' must be a list"),
        ('"two a."', '"one a."', "prompts contains a prompt twice"),
        ("prompts", "promts", "unknown key 'promts'"),
        ('name = "an a"\n', "", "'name' must be a text"),
        ('task = "t"', 'task = "t"\nextra = 1', "unknown key 'extra'"),
        ('"an a"', '"an a', "not TOML"),
        ('name = "an a"', 'name = "-"', "'name' is empty"),
        ('task = "t"', 'task = "t"\nwithout = ["A"]', "there is no 'extends'"),
        ('task = "t"', 'task = "t"\nextends = "none"', r"none\.toml cannot be read"),
        ('task = "t"', 'task = "t"\nextends = "../x"', "the name of a file in the same folder"),
        ('task = "t"', 'task = "t"\nmade = "by hand"', "'made' must be a table"),
        ('task = "t"', 'task = "t"\n[made]\nmodel = "m"', r"\[made\]: 'host' must be a text"),
        ("prompts =", 'short = ["a."]\n[classes.B]\nname = "b"\nprompts =', "no 'short' for B, though other classes"),
    ],
)
def test_an_invalid_file_is_refused_with_its_location(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(PromptError, match=message):
        load(tmp_path, GOOD.replace(old, new))


def test_extending_is_checked_and_hashed(tmp_path):
    (tmp_path / "first.toml").write_text(GOOD + '[classes.B]\nname = "b"\nprompts = ["b."]\n')
    head = 'source = "s"\ntask = "u"\nextends = "first"\n'
    more = '[classes.C]\nname = "c"\nprompts = ["c."]\n'
    second = load(tmp_path, head + 'without = ["A"]\n' + more)
    assert second.texts == {"name": {"B": ("b.",), "C": ("c.",)}, "own": {"B": ("b.",), "C": ("c.",)}}
    (tmp_path / "first.toml").write_text(GOOD + '[classes.B]\nname = "b"\nprompts = ["changed b."]\n')
    assert load(tmp_path, head + 'without = ["A"]\n' + more).sha256 != second.sha256
    again = load(tmp_path, head + '[classes.B]\nname = "other b"\nprompts = ["other."]\n')
    assert again.texts["own"] == {"A": ("one a.", "two a."), "B": ("other.",)}
    with pytest.raises(PromptError, match=r"'without' names X, which first\.toml does not have"):
        load(tmp_path, head + 'without = ["X"]\n' + more)
    # several files: of a class that two have, the first; circles are refused
    (tmp_path / "other.toml").write_text(
        GOOD.replace("an a", "another a") + '[classes.D]\nname = "d"\nprompts = ["d."]\n'
    )
    both = load(tmp_path, head.replace('"first"', '["first", "other"]') + 'without = ["B"]\n' + more)
    assert both.names == {"A": "an a", "D": "d", "C": "c"}
    with pytest.raises(PromptError, match=r"'without' names X, which first\.toml and other\.toml do not have"):
        load(tmp_path, head.replace('"first"', '["first", "other"]') + 'without = ["X"]\n' + more)
    (tmp_path / "third.toml").write_text(head + more)
    third = load(tmp_path, head.replace('"first"', '"third"') + more)
    assert list(third.names) == ["A", "B", "C"]
    (tmp_path / "first.toml").write_text(head.replace('"first"', '"third"') + more)
    with pytest.raises(PromptError, match="; remove one of the two"):
        load(tmp_path, head + more)


def test_the_71_statements_have_the_prompts_of_their_diagnosis_form_or_rhythm():
    every, diag = (prompts.load(prompts.find("ptbxl", task)) for task in ("all", "diag"))
    assert set(every.names) == set(ptbxl.PTBXL["all"])
    assert set(diag.names) == set(ptbxl.PTBXL["diag"])
    assert every.sets == diag.sets == ("name", "short", "rich")
    rhythm, sub = (prompts.load(prompts.find("ptbxl", task)) for task in ("rhythm", "sub"))
    for name in every.sets:
        assert every.texts[name]["AFIB"] == rhythm.texts[name]["AFIB"]
        assert every.texts[name]["1AVB"] == diag.texts[name]["1AVB"]
        assert diag.texts[name]["CLBBB"] == sub.texts[name]["CLBBB"]


def test_a_missing_set_is_an_error(tmp_path):
    with pytest.raises(PromptError, match="no set 'rich'; it has name, own"):
        load(tmp_path, GOOD).for_classes(["A"], "rich")


def test_remarks_name_style_problems_and_identical_classes(tmp_path):
    own = load(
        tmp_path,
        GOOD.replace('"two a."', '"Sure, here are prompts."') + '[classes.B]\nname = "An A"\nprompts = ["b."]\n',
    )
    lines = prompts.remarks(own)
    assert any("A, own: not in the style of reports" in line for line in lines)
    assert any("name: A and B have the same prompts" in line for line in lines)
    assert prompts.style_problem("sinus rhythm. normal ecg.") is None
    assert "longer than" in prompts.style_problem("wide " * 19 + "qrs.")
    assert "'patient'" in prompts.style_problem("patient in sinus rhythm.")


def test_a_text_of_two_classes_is_a_remark(tmp_path):
    more = '[classes.B]\nname = "b"\nprompts = ["Two a", "b."]\n[classes.C]\nname = "c"\nprompts = ["c.", "two a."]\n'
    twin = '[classes.D]\nname = "d"\nprompts = ["c.", "two a."]\n'
    shared = "own: A and B and C share a prompt and are harder to distinguish: 'two a.'"
    assert [line for line in prompts.remarks(load(tmp_path, GOOD + more)) if "share" in line] == [shared]
    lines = prompts.remarks(load(tmp_path, GOOD + more + twin))
    assert [line for line in lines if "share" in line] == [shared]  # D has all prompts of C and is reported once
    assert "own: C and D have the same prompts and cannot be distinguished" in lines


def test_missing_files_are_errors(tmp_path):
    with pytest.raises(PromptError, match="cannot be read: No such file"):
        prompts.load(tmp_path / "none.toml")
    with pytest.raises(PromptError, match="did you mean ptbxl_rhythm"):
        prompts.find("ptbxl", "rythm")
