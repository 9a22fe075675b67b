"""The card: what it gathers, what it says where something is missing, and the page that a person opens."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import REPORTS, config_table
from page_order import assert_pictures_first
from planted import SIGNAL, PlantedCohort, PlantedRun, SeeingMethod
from test_shift import MAP, Other
from test_zeroshot import PROMPTS, write

from leadwise import run as runs
from leadwise.cli.card import card as verb
from leadwise.config import Config, typed
from leadwise.evaluate.card import card as cards
from leadwise.evaluate.card.disentanglement import PartOverlap
from leadwise.evaluate.metrics.score import ScoreError
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.shift_labels import LabelMap, ShiftError
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.pages.card import build_page, interpretation
from leadwise.trained_on import TrainedOn, TrainingOverlap


class CardRun(PlantedRun):
    """A planted run that says where it comes from."""

    def __init__(self, folder: Path | None = None, seeing: bool = True) -> None:
        super().__init__(folder, seeing)
        self.config = Config(signal=SIGNAL, method={"name": "planted"})
        self.provenance = {"cohort": "elsewhere", "source": "nowhere", "fingerprint": "f00"}
        self.training_hashes = TrainedOn(frozenset({"a", "b"}), None)


@pytest.fixture
def label_map(tmp_path: Path) -> LabelMap:
    (tmp_path / "map.toml").write_text(MAP)
    return LabelMap.load(tmp_path / "map.toml")


class WithoutText(SeeingMethod):
    parts = ("backbone",)
    embeds_text = False


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "prompts.toml", PROMPTS)


def with_groups(cohort: PlantedCohort) -> PlantedCohort:
    cohort.index["age"] = np.resize([30.0, 30.0, 70.0, 70.0], len(cohort))
    cohort.index["sex"] = np.resize(["F", "F", "M", "M", "M", "M"], len(cohort))
    return cohort


def test_the_whole_card_of_a_planted_run(file: Path, tmp_path: Path) -> None:
    run, cohort = CardRun(), with_groups(PlantedCohort(n_patients=150))
    reported = []
    card = cards.make_card(
        run, cohort, prompt_file=file, progress=lambda what, done, total: reported.append(what.split("|")[0])
    )
    assert {"robustness", "occlusion", "embed backbone, untrained"} <= set(reported)
    by_how = {row.how: row for row in card.scores}
    assert by_how["zero-shot"].trained == run_zeroshot(run, cohort, "finding", file).trained
    probed = run_probe(run, cohort, "finding", fractions=(1.0,)).results[1.0]
    assert by_how["probe"].trained.macro == pytest.approx(probed["trained"].score.macro, abs=1e-9)
    assert by_how["probe"].untrained.macro == pytest.approx(probed["untrained"].score.macro, abs=1e-9)
    assert {group.by for group in card.groups["finding"]} == {"age", "sex"}
    assert card.robustness.n_records == 60
    assert card.parts.overlap is None
    assert len(card.maps) == 3
    for one in card.maps:  # class k is planted in lead k
        assert one.without_lead[:4].argmax() == ("alpha", "beta", "gamma", "delta").index(one.name)
    assert card.facts["n_people_tested_and_trained_on"] == 0
    assert card.facts["n_parameters"] == 16
    result = json.loads(json.dumps(card.to_json(), allow_nan=False))
    assert result["command"] == "card"
    assert [row["how"] for row in result["scores"]] == ["probe", "zero-shot"]
    words = {"file": "prompts.toml", "set": "own", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert [row["prompts"] for row in result["scores"]] == [None, words]

    build_page(card).write(tmp_path / "card.html")
    html = (tmp_path / "card.html").read_text()
    assert_pictures_first(html)
    for heading in (
        "Training",
        "Scores by patient group",
        "Robustness",
        "Distribution shift",
        "Shared and specific parts",
        "Important regions of the ECG",
    ):
        assert f"<h2>{heading}</h2>" in html
    assert html.index("Scores on the test split") < html.index("<h2>Training</h2>")  # the scores come first
    assert html.index("<summary>The run and the cohort") > html.index("<h2>Training</h2>")
    assert html.index("<summary>The method") > html.index("<h2>Training</h2>")
    assert "No person of the test split was trained on (30 persons, 0 identical signals)." in html
    assert "has no site" in html
    assert all(f"<td>{value}</td>" in html or f'<td class="long">{value}</td>' in html for value in words.values())
    assert "has no specific part" in html
    assert "not a medical device" in html
    assert not re.search(r'(src|href)="(?!data:)', html)  # the page loads no other file
    assert html.count("data:image/png;base64,") == 1 + 1 + 4 + 1 + 1 + 2 * 3
    (shift,) = card.shifts
    assert (shift.task, shift.n_changed) == ("finding", 60)
    assert {row["shift"] for row in result["shifts"][0]["rows"]} >= {"lead I only", "muscle noise, 0 dB"}
    assert "Examples of written reports" not in html


def test_a_card_has_the_shift_to_other_cohorts(label_map: LabelMap) -> None:
    run, other = CardRun(), Other()
    card = cards.make_card(run, PlantedCohort(), quick=True, n_records=30, tests=[other], label_map=label_map)
    changed, data = card.shifts
    assert (changed.n_changed, len(changed.data), len(data.changes)) == (30, 0, 0)
    assert data.data[0].test == "other, label"
    html = build_page(card).html()
    for text in ("planted, finding to other, label: 2 fine findings in common", "muscle noise, 6 dB", "30 test ECGs"):
        assert text in html
    assert len(json.loads(json.dumps(card.to_json(), allow_nan=False))["shifts"]) == 2
    other.source = "a source without labels in common"
    with pytest.raises(ShiftError, match="has a finding in common"):
        cards.make_card(run, PlantedCohort(), quick=True, tests=[other], label_map=label_map)


@pytest.mark.slow
def test_a_leak_is_reported_first(file: Path) -> None:
    run, cohort = CardRun(), PlantedCohort()
    run.known = {"p004", "p009"}
    card = cards.make_card(run, cohort, quick=True, prompt_file=file)
    assert card.facts["n_people_tested_and_trained_on"] == 2
    assert "LEAK: 2 of the 24 persons of the test split were trained on" in build_page(card).html()


def test_a_run_without_a_list_and_one_of_another_source_are_unknown(file: Path) -> None:
    run, cohort = CardRun(), PlantedCohort()
    for unknown, n_signals in (("trained on source a, scored on b", 3), ("the run does not list it", None)):
        run.overlap = lambda scored, why=unknown, n=n_signals: TrainingOverlap(len(scored.patients), None, n, why)
        facts = cards.describe_run(run, cohort, cohort.rows("test"))
        assert facts["n_people_tested_and_trained_on"] is None
        assert facts["n_signals_tested_and_trained_on"] == n_signals
        assert f"unknown by patient ({unknown})" in facts["tested_and_trained_on"]
        assert "No person" not in facts["tested_and_trained_on"]


@pytest.mark.slow
def test_a_run_without_text_encoder_on_a_cohort_without_groups() -> None:
    run = CardRun()
    run.method = WithoutText()
    card = cards.make_card(run, PlantedCohort(), quick=True)
    assert [row.how for row in card.scores] == ["probe"]
    assert card.scores[0].untrained is None
    assert card.groups == {"finding": []}
    assert card.maps[0].classifier == "probe"
    html = build_page(card).html()
    assert "has no text encoder" in html
    assert "has no age or sex or site" in html
    assert "<h2>Scores by patient group</h2>" not in html
    assert "This is a quick card" in html


@pytest.mark.slow
def test_a_cohort_with_a_test_split_only_is_scored_zero_shot(file: Path) -> None:
    cohort = PlantedCohort()
    cohort.index["split"] = "test"
    card = cards.make_card(CardRun(), cohort, quick=True, n_records=50, prompt_file=file)
    assert [row.how for row in card.scores] == ["zero-shot"]
    assert card.parts is None
    assert card.robustness.n_records == 50
    assert any("no recording of the task in split 'train'" in remark for remark in card.remarks)
    assert "needs a probe" in build_page(card).html()


def test_without_prompts_for_it_a_task_is_only_probed() -> None:
    card = cards.make_card(CardRun(), PlantedCohort(), quick=True)
    assert [row.how for row in card.scores] == ["probe"]
    assert any("no prompts are shipped" in remark for remark in card.remarks)
    with pytest.raises(PromptError, match="cannot be read"):
        cards.make_card(CardRun(), PlantedCohort(), prompt_file=Path("nowhere.toml"))


def test_a_cohort_that_cannot_be_scored_gives_a_page_with_remarks() -> None:
    cohort = PlantedCohort()
    cohort.truth[cohort.rows("test")] = 0
    card = cards.make_card(CardRun(), cohort, quick=True)
    assert card.scores == []
    assert card.robustness is None
    html = build_page(card).html()
    assert "nothing to score" in html
    assert "No task could be scored." in html


def test_a_wrong_task_and_a_cohort_without_test_split_are_refused() -> None:
    with pytest.raises(cards.CardError, match="cohort planted: no task 'super'; it has finding"):
        cards.make_card(CardRun(), PlantedCohort(), tasks=["super"])
    cohort = PlantedCohort()
    cohort.index["split"] = "train"
    with pytest.raises(cards.CardError, match="no recording in split 'test'"):
        cards.make_card(CardRun(), cohort)
    assert not issubclass(ScoreError, cards.CardError)


@pytest.mark.slow
def test_a_cohort_of_limb_leads_gets_a_complete_card(file: Path) -> None:
    cohort = PlantedCohort()
    cohort.steps[:, 6:] = -32768
    card = cards.make_card(CardRun(), cohort, quick=True, prompt_file=file)
    assert card.robustness.n_left_out == 0
    assert len(card.maps) == 1
    assert "None of them has V1, V2, V3, V4, V5, V6." in build_page(card).html()
    json.dumps(card.to_json(), allow_nan=False)


@pytest.mark.slow
def test_records_too_short_to_hide_anything_leave_a_remark() -> None:
    run = CardRun()
    run.config = replace(run.config, signal=replace(SIGNAL, duration_s=10.0))  # the recordings last two seconds
    card = cards.make_card(run, PlantedCohort(), quick=True)
    assert card.maps == []
    assert any("No occlusion map of" in one and "too little was observed to hide" in one for one in card.remarks)
    assert card.robustness is not None
    assert "too little was observed" in build_page(card).html()


def test_no_record_that_could_be_changed_leaves_a_remark() -> None:
    cohort = PlantedCohort()
    for row in cohort.rows("test"):
        cohort.steps[row, row % 12, 40:] = -32768  # each lacks another lead
    card = cards.make_card(CardRun(), cohort, quick=True)
    assert (card.robustness, card.maps) == (None, [])
    assert any(
        one.startswith("Robustness is not scored: cohort planted: no test recording of task finding is")
        for one in card.remarks
    )


def test_prompts_that_would_not_be_used_are_refused(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(file.read_text().replace('task = "finding"', 'task = "rhythm"'))
    with pytest.raises(
        cards.CardError, match=r"other\.toml: its prompts are for task 'rhythm', but the card is of finding"
    ):
        cards.make_card(CardRun(), PlantedCohort(), quick=True, prompt_file=other)
    foreign = tmp_path / "foreign.toml"
    foreign.write_text(file.read_text().replace('source = "nowhere"', 'source = "ptbxl"'))
    card = cards.make_card(CardRun(), PlantedCohort(), quick=True, prompt_file=foreign)
    assert [row.how for row in card.scores] == ["probe", "zero-shot"]
    assert "was written for source 'ptbxl', the cohort is of 'nowhere'" in caplog.text


def test_the_sentences_follow_the_numbers(file: Path) -> None:
    plain = cards.make_card(CardRun(), PlantedCohort(), quick=True, prompt_file=file).parts
    assert interpretation(plain) == []
    scores = {**plain.probes, "specific": plain.probes["shared"]}
    turned = replace(plain, probes=scores, overlap=PartOverlap(0.001, 0.07, 0.97, 0.95))
    assert "does not mean that the parts are disentangled" in interpretation(turned)[-1]
    assert "as well as from the shared part" in interpretation(turned)[1]
    beside = replace(turned, untrained_overlap=PartOverlap(0.06, 0.07, 0.99, 0.99))
    assert interpretation(beside)[-1].startswith("For comparison, in the untrained model a linear map predicts 99%")
    free = interpretation(replace(turned, overlap=PartOverlap(0.001, 0.07, 0.1, 0.1)))
    assert free[-1] == "A linear map predicts 10% of the specific part's variance from the shared part."


def test_the_verb_writes_a_page_and_a_json_without_a_word_of_a_report(
    cohort_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = runs.create(typed(Config, config_table(cohort_folder)), REPORTS, tmp_path / "run")
    run.save_weights()

    target, json_file = tmp_path / "out" / "card.html", tmp_path / "card.json"
    verb(tmp_path / "run", cohort_folder, target, tasks="own", quick=True, json_file=json_file)
    printed = capsys.readouterr()
    assert json.loads(json_file.read_text())["disentanglement"]["apart"]["cosine"] > 0
    for text in (target.read_text(), json_file.read_text(), printed.out, printed.err, caplog.text):
        assert "left bundle branch" not in text
        assert "age undetermined" not in text
    with pytest.raises(typer.BadParameter, match=r"use a name such as card\.html"):
        verb(tmp_path / "run", cohort_folder, tmp_path / "card.pdf")
