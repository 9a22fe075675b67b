"""Other wordings of statements: which findings a phrase has, what a negation does, the hierarchy, and the view of a report."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import invoke
from conftest import SIGNAL, make_batch
from test_methods import build

from leadwise import config as settings
from leadwise import run as runs
from leadwise.batch import LEADS, Batch, Signal
from leadwise.data import codes, reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.loader import Recordings
from leadwise.data.sources.source import Row, Source
from leadwise.data.wordings import _book, _same, all_texts, coverage, findings, spelled, wider, wordings
from leadwise.methods import catalogue
from leadwise.nn import text
from leadwise.nn.views import PairViewSettings, pair_view, report_ids, report_view
from leadwise.training.inputs import open_data

REPORTS = (
    ("sinus rhythm with first degree av block", "inferior infarct", "abnormal ecg"),
    ("normal sinus rhythm", "normal ecg"),
    ("left bundle branch block", "the patient moved"),
    (),
)
# every method with the setting, reports or not
REWORDING = [
    name
    for name in catalogue.method_names()
    if "rewording" in {field.name for field in dataclasses.fields(catalogue.find_method(name).config_class)}
]


def with_wordings(batch: Batch, statements: tuple[tuple[str, ...], ...]) -> Batch:
    report = tuple(reports.join_statements(list(one)) for one in statements)
    words = tuple(tuple(map(wordings, one)) for one in statements)
    return dataclasses.replace(batch, report=report, statements=statements, wordings=words)


def matched(statement: str) -> list[str]:
    """Findings as text: a modifier that may be dropped in brackets."""
    return [
        f"[{finding.modifier}] {finding.name}"
        if finding.modifier and finding.droppable
        else f"{finding.modifier} {finding.name}".strip()
        for finding in findings(statement)
    ]


# ------------------------------------------------------------------------------------------------------ findings


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("Sinus rhythm", ["sinus rhythm"]),
        ("otherwise normal ECG", ["otherwise normal ecg"]),
        ("abnormal ecg", ["abnormal ecg"]),
        ("within normal limits", ["normal ecg"]),
        ("old inferior wall infarct", ["inferior myocardial infarction"]),
        ("Anteroseptal MI, age unknown", ["anteroseptal myocardial infarction"]),
        ("inferior-posterior infarct", ["inferoposterior myocardial infarction"]),
        ("first-degree A-V block", ["first degree av block"]),
        ("sinus tachycardia with 1st degree av block", ["sinus tachycardia", "first degree av block"]),
        ("2nd degree AV block (Mobitz I)", ["second degree av block mobitz type i"]),
        ("mobitz ii block", ["second degree av block mobitz type ii"]),
        ("iii degree av block", ["third degree av block"]),
        ("RBBB with left anterior fascicular block", ["right bundle branch block", "left anterior fascicular block"]),
        ("incomplete left bundle-branch block", ["incomplete left bundle branch block"]),
        ("non-specific IV conduction delay", ["intraventricular conduction delay"]),
        ("Ventricular premature complex(es)", ["premature ventricular beats"]),
        ("frequent PVC(s) and PACs", ["premature ventricular beats", "premature atrial beats"]),
        ("minimal voltage criteria for LVH, may be normal variant", ["left ventricular high voltage"]),
        ("LVH with ST-T changes", ["left ventricular hypertrophy", "st-t change"]),
        ("biatrial enlargement", ["left atrial enlargement", "right atrial enlargement"]),
        ("lateral ST-T changes are nonspecific", ["nonspecific st-t change"]),
        ("nonspecific T-wave abnormality", ["nonspecific t wave change"]),
        ("ST & T abnormality", ["st-t change"]),
        ("long QTc interval", ["prolonged qt interval"]),
        ("generalized low QRS voltages", ["low qrs voltage"]),
        ("atrial sensed ventricular-paced rhythm", ["atrial sensed ventricular paced rhythm"]),
        ("t wave abnormality without diagnosis", ["t wave abnormality without diagnosis"]),
        ("the patient moved", []),
        ("", []),
    ],
)
def test_a_phrase_has_its_findings(statement: str, expected: list[str]) -> None:
    assert matched(statement) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("possible left atrial enlargement", ["[possible] left atrial enlargement"]),
        ("probable lateral infarct", ["[probable] lateral myocardial infarction"]),
        ("cannot rule out anterior infarct", ["cannot rule out anterior myocardial infarction"]),
        ("right ventricular hypertrophy cannot be excluded", ["cannot rule out right ventricular hypertrophy"]),
        ("ST depression, probably normal", ["possible st depression"]),
        ("T wave abnormality, consider inferior ischemia", ["t wave abnormality", "[consider] inferior ischemia"]),
        (
            "inferior infarct, possibly acute",
            ["inferior myocardial infarction", "[possible] acute myocardial infarction"],
        ),
        (
            "possible junctional rhythm with right axis deviation",
            ["[possible] junctional rhythm", "right axis deviation"],
        ),
        ("borderline prolonged pr interval", ["[borderline] prolonged pr interval"]),
    ],
)
def test_words_of_doubt_stay_with_their_finding(statement: str, expected: list[str]) -> None:
    assert matched(statement) == expected
    droppable, texts = expected[-1].startswith("["), all_texts([f"{statement}."])
    name = expected[-1].split("] ")[-1] if droppable else ""
    if droppable:
        modifier = expected[-1].split("]")[0][1:]
        assert {f"{name}.", f"{modifier} {name}."} <= set(texts)
    elif len(expected) == 1:
        modifier = findings(statement)[0].modifier
        assert all(text.startswith(modifier) for text in texts)


@pytest.mark.parametrize(
    "statement",
    [
        "no st elevation", "sinus rhythm without atrial enlargement", "inferior infarct no longer present",
        "absence of left ventricular hypertrophy", "atrial fibrillation has resolved", "not atrial flutter",
        "negative for ischemia", "anterior infarct is ruled out", "t wave inversion less evident in lateral leads",
        "left bundle branch block unlikely", "never any pvcs",
    ],
)  # fmt: skip
def test_a_negation_is_never_matched(statement: str) -> None:
    assert findings(statement) == ()
    assert wordings(statement).findings == ()
    assert coverage([statement]).n_negated == 1


def test_every_name_and_every_wording_belongs_to_its_finding() -> None:
    """Names of both files are recognised. A further wording has this finding, or names what it consists of."""
    joint = {"bifascicular block", "fascicular block", "atrial enlargement", "ischemia in anterior or lateral leads"}
    for name, entry in _book().entries.items():
        assert [finding.name for finding in findings(name)] == [name], name
        assert entry.criterion, name
        for same in _same(name):
            others = {finding.name for finding in findings(same)} - {name}
            assert name in joint or all(name in wider(other) or other in wider(name) for other in others), (name, same)


# ----------------------------------------------------------------------------------------------------- hierarchy


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inferior myocardial infarction", {"myocardial infarction"}),
        ("left bundle branch block", {"complete left bundle branch block", "conduction disturbance"}),
        ("left ventricular hypertrophy", {"hypertrophy", "high qrs voltage"}),
        ("left atrial enlargement", {"hypertrophy"}),
        ("nonspecific t wave change", {"t wave abnormality", "st-t change"}),
        ("first degree av block", {"atrioventricular block", "prolonged pr interval", "conduction disturbance"}),
        ("inferior ischemia", {"ischemia in inferior leads", "st-t change"}),
        ("atrial bigeminy", {"bigeminy", "premature atrial beats", "premature beats"}),
    ],
)
def test_a_finding_has_its_wider_ones(name: str, expected: set[str]) -> None:
    assert expected <= {link for link, modifier in wider(name).items() if not modifier}


def test_the_hierarchy_ends_and_names_known_findings() -> None:
    for name in _book().entries:
        assert name not in wider(name)
        assert set(wider(name)) <= set(_book().entries)
    assert wider("left ventricular high voltage")["hypertrophy"] == "possible"
    assert wider("sinus rhythm") == {}
    assert not {"normal ecg", "sinus rhythm"} & {link for name in _book().entries for link in wider(name)}


def test_a_finding_is_reworded_in_every_form() -> None:
    (forms,) = wordings("first degree av block").findings
    texts = {text for form in forms for text in form}
    entry = codes.entries()["first degree av block"]
    assert {entry.name, entry.short[0].rstrip("."), "1st degree av block"} <= texts
    assert {"atrioventricular block", "long pr interval", "conduction disturbance"} <= texts
    assert any(text.startswith("conduction disturbance. ") for text in texts)
    assert not any("sinus rhythm" in text for text in texts)  # another finding, though the dictionary lists it
    assert wordings("the patient moved").findings == ()
    assert not wordings("abnormal ecg").is_prompt
    assert spelled("ST-T & A-V Non-Specific (PVC(s))") == "st t and av nonspecific (pvcs)"


def test_texts_for_a_tokenizer_are_sorted_and_of_the_reports_findings() -> None:
    texts = all_texts(["left bundle branch block. the patient moved."])
    assert texts == sorted(set(texts)) == all_texts(["the patient moved. left bundle branch block."])
    assert "conduction disturbance." in texts
    assert not any("infarct" in one or "moved" in one for one in texts)


# ---------------------------------------------------------------------------------------------------------- view


def test_a_view_is_of_the_reports_own_findings() -> None:
    batch, texts = with_wordings(make_batch(4), REPORTS), [set(all_texts([". ".join(one)])) for one in REPORTS]
    torch.manual_seed(0)
    views = [report_view(batch, 0.0, 0.8) for _ in range(300)]
    for number, statements in enumerate(REPORTS):
        known = {one.rstrip(".") for one in texts[number]} | set(statements)
        parts = sorted(known, key=len, reverse=True)
        for view in {view[number] for view in views}:
            remainder = view
            for part in parts:
                remainder = re.sub(rf"(?<![\w-]){re.escape(part)}\. ?", "", remainder)
            assert remainder == "", (view, remainder)
    assert {view[3] for view in views} == {""}
    assert {"left bundle branch block. the patient moved.", "conduction disturbance."} <= {view[2] for view in views}
    assert "abnormal ecg." not in {view[0] for view in views}  # a verdict is never the one finding


def test_the_share_of_reworded_statements_is_the_setting() -> None:
    statements, words = (
        ("left bundle branch block", "atrial flutter"),
        (wordings("left bundle branch block"), wordings("atrial flutter")),
    )
    torch.manual_seed(0)
    views = [text.reword(statements, words, 0.4) for _ in range(2000)]
    one = sum(len(view) == 1 for view in views) / 2000
    assert one == pytest.approx(0.4 * text.ONE_FINDING, abs=0.03)
    whole = [view for view in views if len(view) == 2]
    unchanged = sum(view[1] == "atrial flutter" for view in whole) / len(whole)
    assert unchanged == pytest.approx(0.6 + 0.4 / 5, abs=0.05)  # one of the five forms is the name itself
    assert text.reword((), (), 1.0) == ()


def test_the_view_reads_no_label_and_depends_on_torchs_seed_alone() -> None:
    batch = with_wordings(make_batch(4), REPORTS)
    views = []
    for label in (None, torch.zeros(4, 3), torch.ones(4, 3)):
        torch.manual_seed(7)
        random.seed(len(views))
        views.append(report_view(dataclasses.replace(batch, label=label), 0.3, 0.5))
    assert views[0] == views[1] == views[2]
    torch.manual_seed(8)
    assert report_view(batch, 0.3, 0.5) != views[0]


def test_without_the_setting_nothing_changes_and_with_it_wordings_are_needed() -> None:
    batch = with_wordings(make_batch(4), REPORTS)
    plain = dataclasses.replace(batch, wordings=None)
    for drop in (0.0, 0.5):
        torch.manual_seed(0)
        first = report_view(batch, drop, 0.0)
        torch.manual_seed(0)
        assert first == report_view(plain, drop, 0.0)
    assert report_view(batch, 0.0, 0.0) == batch.report
    with pytest.raises(ValueError, match=r"rewording > 0 needs the wordings"):
        report_view(plain, 0.0, 0.5)


def test_reports_keep_their_identity_in_a_view() -> None:
    batch = with_wordings(make_batch(4), REPORTS)
    view = pair_view(batch, PairViewSettings(rewording=1.0), SIGNAL)
    assert view.report != batch.report
    assert torch.equal(report_ids(batch, view)[:, 0], report_ids(batch, batch)[:, 0])


@pytest.mark.parametrize("name", REWORDING)
def test_the_range_of_the_setting_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match=r"rewording = 1.5 is out of range: it must be in \[0, 1\]"):
        build(name, rewording=1.5)


@pytest.mark.parametrize("name", ["cg_dmer", "merl", "etp", "melp", "c_melt", "merit"])
def test_methods_with_reports_train_on_other_wordings(name: str) -> None:
    method = build(name, rewording=1.0).train()
    batch = with_wordings(make_batch(4), REPORTS)
    torch.manual_seed(0)
    assert all(bool(term.isfinite()) for term in method(batch).values())
    with pytest.raises(ValueError, match=r"rewording > 0 needs the wordings"):
        method(dataclasses.replace(batch, wordings=None))
    assert method.eval().training_view(batch).report == batch.report


# ------------------------------------------------------------------------------------------------- cohort and run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wordings")
    rows = []
    for number, statements in enumerate(("Sinus rhythm; LBBB", "Normal ECG; no PVCs", "Sinus rhythm; odd words", "")):
        np.save(folder / f"{number}.npy", np.random.default_rng(number).normal(size=(1000, 12)))
        rows.append(
            Row(f"r{number}", folder / f"{number}.npy", f"p{number}", "train", statements, {}, {}, LEADS, 100, "mV")
        )
    write(Source("own", rows, {}), folder / "cohort")
    return folder / "cohort"


def test_batches_have_wordings_on_request(folder: Path) -> None:
    recordings = Recordings(Cohort.open(folder), Signal(rate_hz=100), wordings=True)
    batch = recordings.batch([0, 3])
    assert batch.statements == (("sinus rhythm", "lbbb"), ())
    assert batch.wordings == ((wordings("sinus rhythm"), wordings("lbbb")), ())
    assert batch.to("cpu").wordings == batch.wordings
    assert Recordings(Cohort.open(folder), Signal(rate_hz=100), statements=True).batch([0]).wordings is None


def test_the_tokenizer_of_a_run_knows_the_wordings() -> None:
    def tokens(rewording: float) -> list[str]:
        config = settings.Config(
            signal=SIGNAL,
            method={"name": "cg_dmer", **catalogue.find_method("cg_dmer").tiny[""], "rewording": rewording},
        )
        run = runs.create(config, ["left bundle branch block. abnormal ecg."] * 3)
        out: list[str] = run.method.tokenizer.tokenize("conduction disturbance")
        return out

    assert len(tokens(0.5)) < len(tokens(0.0))
    assert tokens(0.5) == tokens(0.5)


def test_coverage_counts_occurrences() -> None:
    counts = {"lbbb": 5, "no lbbb": 2, "odd words": 1, "baseline wander": 3, "artifact": 1}
    out = coverage(counts)
    assert (out.n_statements, out.n_matched, out.n_negated, out.n_ignored, out.distinct) == (12, 5, 2, 4, 5)
    assert out.share == pytest.approx(5 / 6)
    assert out.unmatched == (("odd words", 1),)
    assert coverage([]).share == 0.0


def test_the_command_prints_no_statement_unless_requested(folder: Path, tmp_path: Path) -> None:
    done = invoke("prompts", "coverage", folder, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert "odd words" not in done.stdout + done.stderr
    table = json.loads((tmp_path / "out.json").read_text())
    assert (table["matched"], table["negated"], table["statements"]) == (4, 1, 6)
    assert table["share"] == pytest.approx(0.8)
    assert "odd words" not in json.dumps(table)
    assert "odd words" in invoke("prompts", "coverage", folder, "--unmatched", 5).stdout


def test_training_reads_wordings_only_with_the_setting(folder: Path) -> None:
    for rewording, expected in ((0.0, True), (0.5, False)):
        method = {"name": "cg_dmer", **catalogue.find_method("cg_dmer").tiny[""], "rewording": rewording}
        config = settings.Config(
            signal=Signal(rate_hz=100),
            data=settings.DataConfig(cohort=str(folder)),
            method=method,
            optim=settings.OptimConfig(batch_size=2),
            log=settings.LogConfig(validate_every=0),
        )
        assert (open_data(config).train.batch([0]).wordings is None) == expected
