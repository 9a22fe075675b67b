import re

import pytest

from leadwise.data import labels, reports
from leadwise.evaluate import prompts
from leadwise.evaluate.prompts import PromptError

TASKS = sorted(labels.PTBXL)


@pytest.fixture(params=TASKS)
def shipped(request):
    return prompts.load(prompts.find("ptbxl", request.param))


def test_a_file_for_every_task_says_what_it_is(shipped):
    assert shipped.source == "ptbxl"
    assert shipped.path.name == f"ptbxl_{shipped.task}.toml"


def test_every_class_of_the_task_has_prompts_and_no_other(shipped):
    assert (
        len(shipped.of(labels.PTBXL[shipped.task])) == {"super": 5, "sub": 23, "form": 19, "rhythm": 12}[shipped.task]
    )


def test_prompts_read_like_cleaned_reports(shipped):
    for code, entry in shipped.classes.items():
        assert 3 <= len(entry.prompts) <= 6, code
        for prompt in entry.prompts:
            assert prompt == reports.clean(prompt), (code, prompt)
            assert re.fullmatch(r"[a-z0-9 .,&/()':-]+\.", prompt), (code, prompt)
            assert 2 <= len(prompt.split()) <= 18, (code, prompt)
            assert 1 <= len(reports.statements(prompt)) <= 4, (code, prompt)
        assert entry.name == entry.name.lower()
        assert 1 <= len(entry.name.split()) <= 9


def test_no_chatter(shipped):
    chatter = re.compile(
        r"\b(is|are|was|shows?|showing|patient|this|that|here|sure|certainly|please|you|e\.g|i\.e|etc)\b"
    )
    for code, entry in shipped.classes.items():
        for prompt in entry.prompts:
            assert not chatter.search(prompt), (code, prompt)


def test_no_two_classes_are_told_apart_by_nothing(shipped):
    said = [frozenset(entry.prompts) for entry in shipped.classes.values()]
    assert len(set(said)) == len(said)


GOOD = 'source = "s"\ntask = "t"\n[classes.A]\nname = "an a"\nprompts = ["one a.", "two a."]\n'


def load(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return prompts.load(path)


def test_own_file(tmp_path):
    own = load(tmp_path, GOOD)
    assert own.classes["A"].prompts == ("one a.", "two a.")
    assert own.sha256 != load(tmp_path, GOOD + "# changed\n").sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('source = "s"\n', "", "'source' must be a text"),
        ('task = "t"', "task = 3", "'task' must be a text, not 3"),
        ('"one a."', '"  "', r"\[classes.A\]: prompts must be a list of one or more texts"),
        ('["one a.", "two a."]', "[]", "one or more texts"),
        ('["one a.", "two a."]', '"one a."', "'prompts' must be a list"),
        ('"two a."', '"one a."', "the same prompt twice"),
        ("prompts", "promts", "unknown key 'promts'"),
        ('name = "an a"\n', "", "'name' must be a text"),
        ('task = "t"', 'task = "t"\nextra = 1', "unknown key 'extra'"),
        ('"an a"', '"an a', "not TOML"),
    ],
)
def test_a_wrong_file_is_told_where(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(PromptError, match=message):
        load(tmp_path, GOOD.replace(old, new))


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(PromptError, match="cannot be read: No such file"):
        prompts.load(tmp_path / "none.toml")
    with pytest.raises(PromptError, match="did you mean ptbxl_rhythm"):
        prompts.find("ptbxl", "rythm")
