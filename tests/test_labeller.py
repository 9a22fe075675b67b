"""The labeller of reports: hand-written sentences, simulated reports, and texts of the 12SL program."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from leadwise.data import codes
from leadwise.data.simulator.findings import FINDINGS
from leadwise.generate.labeller import ReportLabels, label_report
from leadwise.generate.labeller_accuracy import simulated_accuracy, twelve_sl_accuracy, twelve_sl_statements
from leadwise.generate.lexicon import findings_of_code, lexicon
from leadwise.generate.report_numbers import read_numbers, remove_numbers

PLUS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "ptb-xl-plus"


def mentioned(labels: ReportLabels, status: str) -> set[str]:
    return {key for key, value in labels.findings.items() if value == status}


def states(text: str) -> set[str]:
    return mentioned(label_report(text), "yes")


# ------------------------------------------------------------------------------------------------------ negation


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("no st elevation", set(), {"STE"}),
        ("sinus rhythm without st elevation", {"SR"}, {"STE"}),
        ("inferior infarct ruled out", set(), {"IMI"}),
        ("inferior infarct has been ruled out", set(), {"IMI"}),
        ("st depression is absent", set(), {"STD"}),
        ("no lvh but left atrial enlargement", {"LAO/LAE"}, {"LVH"}),
        ("no lvh, left atrial enlargement", {"LAO/LAE"}, {"LVH"}),
        ("no evidence of lvh, t wave inversion, or st elevation", set(), {"LVH", "INVT", "STE"}),
        ("no st elevation or depression, left bundle branch block", {"CLBBB"}, {"STE", "STD"}),
        ("ischemia or inferior infarct ruled out", set(), {"ISC", "IMI"}),
        ("irregular rhythm without p waves, atrial fibrillation", {"AFIB"}, set()),
        ("no significant change in st depression", {"STD"}, set()),
        ("not normal ecg", set(), {"NORM"}),
        ("atrial fibrillation has replaced sinus rhythm", {"AFIB"}, {"SR"}),
        ("sinus rhythm has been replaced by atrial fibrillation", {"AFIB"}, {"SR"}),
        ("nonspecific t wave abnormality has replaced inverted t waves in inferior leads", {"NT"}, {"INVT"}),
    ],
)
def test_a_negation_reaches_its_findings(text: str, yes: set[str], no: set[str]) -> None:
    labels = label_report(text)
    assert mentioned(labels, "yes") == yes
    assert mentioned(labels, "no") == no


@pytest.mark.parametrize(("words", "status"), [(5, "no"), (6, "yes")])
def test_a_negation_reaches_a_finding_that_begins_within_six_tokens(words: int, status: str) -> None:
    assert label_report(f"no {'sign ' * words}st elevation").findings["STE"] == status


# ------------------------------------------------------------------------------------------------------ doubt


@pytest.mark.parametrize(
    "text",
    [
        "possible inferior infarct",
        "probable inferior infarct",
        "consider inferior infarct",
        "cannot rule out inferior infarct",
        "q waves suggestive of inferior infarct",
        "inferior infarct cannot be ruled out",
        "inferior infarct, not certain",
        "inferior infarct possible.",
        "inferior infarct?",
        "Possible; Inferior infarct; , age undetermined",
    ],
)
def test_a_hedge_makes_a_finding_uncertain(text: str) -> None:
    labels = label_report(text)
    assert labels.findings["IMI"] == "uncertain"
    assert "IMI" in labels.stated()
    assert "IMI" not in labels.stated(uncertain=False)


def test_a_hedge_ends_at_with_and_at_punctuation() -> None:
    assert label_report("possible left atrial enlargement with left bundle branch block").findings == {
        "LAO/LAE": "uncertain",
        "CLBBB": "yes",
    }
    assert label_report("possible lvh, left bundle branch block").findings["CLBBB"] == "yes"
    assert label_report("inferior infarct, possible lateral ischemia").findings["IMI"] == "yes"


def test_alternatives_are_uncertain() -> None:
    assert mentioned(label_report("right bundle branch block or left bundle branch block"), "uncertain") == {
        "CRBBB",
        "CLBBB",
    }
    assert mentioned(label_report("consider early repolarization, pericarditis, or injury"), "uncertain") == {
        "EREP",
        "PERI",
        "INJ",
    }


def test_a_negation_is_stronger_than_a_hedge() -> None:
    assert label_report("possible inferior infarct without st elevation").findings == {
        "IMI": "uncertain",
        "STE": "no",
    }


# ------------------------------------------------------------------------------------------------------ side, territory


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("left bundle branch block", {"CLBBB"}),
        ("right bundle branch block", {"CRBBB"}),
        ("incomplete right bundle branch block", {"IRBBB"}),
        ("inferior infarct, age undetermined", {"IMI"}),
        ("old anterior myocardial infarction", {"AMI"}),
        ("antero-septal infarct", {"ASMI"}),
        ("inferior-posterior infarct", {"IPMI"}),
        ("acute inferior infarct", {"STEI", "STE", "ACUTE"}),
        ("acute inferior stemi", {"STEI", "STE", "ACUTE"}),
        ("inferior stemi", {"STEI", "STE", "ACUTE"}),
        ("acute anterior wall st elevation myocardial infarction", {"STEA", "STE", "ACUTE"}),
        ("inferolateral stemi", {"STEI", "STEL", "STE", "ACUTE"}),
        ("inferior st elevation", {"STEI", "STE"}),
        ("nstemi", {"ACUTE"}),
        ("anterior injury pattern", {"STEA", "STE"}),
        ("inferior and lateral ischemia", {"ISCIN", "ISCLA"}),
        ("inferior, lateral and anterior ischemia", {"ISCIN", "ISCLA", "ISCAN"}),
        ("left and right atrial enlargement", {"LAO/LAE", "RAO/RAE"}),
        ("left axis deviation", {"LAD"}),
        ("qrs axis deviated to the right", {"RAD"}),
        ("left anterior fascicular block", {"LAFB"}),
        ("left posterior fascicular block", {"LPFB"}),
        ("voltage criteria for lvh", {"VCLVH"}),
        ("nonspecific st and t wave abnormality", {"NST", "NT"}),
        ("t wave abnormality, consider lateral ischemia", {"TAB"}),
    ],
)
def test_side_and_territory_are_part_of_the_finding(text: str, yes: set[str]) -> None:
    assert states(text) == yes


def test_the_longest_phrase_wins() -> None:
    assert states("lafb, marked left axis with qr in avl") == {"LAFB"}
    assert states("sinus rhythm, rate within normal limits") == {"SR"}
    assert states("second degree av block, mobitz type i") == {"2AVB"}


def test_a_sinus_rate_implies_sinus_rhythm() -> None:
    assert states("sinus bradycardia") == {"SBRAD", "SR"}
    assert label_report("possible sinus tachycardia").findings["SR"] == "uncertain"


# ------------------------------------------------------------------------------------------------------ normal


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("Sinus rhythm with ventricular rate of 72 bpm. Left axis deviation.", "sinus rhythm. left axis deviation."),
        ("sinus rhythm, rate 72, left axis deviation", "sinus rhythm, left axis deviation."),
        ("ventricular rate 150 bpm, qrs duration 120 ms, qtc 450 ms. qt/qtc 400/420 ms", ""),
        ("p-r-t axes 45 -30 60. axis −45°. normal ecg", "normal ecg."),
        ("prolonged qtc interval (qtc 490 ms). 1st degree av block, pr 240 ms", "prolonged qtc interval. 1st degree av block."),
        ("wide qrs (140 ms), left bundle branch block", "wide qrs, left bundle branch block."),
        ("st depression of 2 mm in v4-v6; 2:1 av block", "st depression in v4-v6. 2:1 av block."),
        ("pr interval longer than 200 ms. rate below 60 bpm", "pr interval longer than 200 ms. rate below 60 bpm."),
        ("sinus rhythm 72/min. heart rate is about 72 beats per minute and qtc was 0.42 s", "sinus rhythm."),
    ],
)  # fmt: skip
def test_numbers_are_removed_and_findings_remain(text: str, without: str) -> None:
    assert remove_numbers(text) == without
    assert not read_numbers(without)
    assert remove_numbers(without) == without
    if without:
        assert label_report(without).findings == label_report(text).findings


def test_a_normal_ecg_sets_the_rest_to_no() -> None:
    labels = label_report("Normal sinus rhythm. Normal ECG.")
    assert mentioned(labels, "yes") == {"SR", "NORM"}
    assert mentioned(labels, "no") == set(lexicon().findings) - {"SR", "NORM"}
    assert not labels.contradictions


def test_an_otherwise_normal_ecg_has_only_what_it_names() -> None:
    labels = label_report("sinus bradycardia. first degree av block. otherwise normal ecg.")
    assert mentioned(labels, "yes") == {"SR", "SBRAD", "1AVB"}
    assert labels.findings["NORM"] == labels.findings["CLBBB"] == "no"
    assert not labels.contradictions


@pytest.mark.parametrize("text", ["abnormal ecg", "borderline ecg", "normal ecg except for rate"])
def test_other_conclusions_are_not_a_normal_ecg(text: str) -> None:
    assert label_report(text).findings["NORM"] == "no"


def test_a_doubtful_normal_ecg_sets_nothing() -> None:
    assert label_report("probably normal ecg").findings == {"NORM": "uncertain"}


# ------------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("heart rate 72 bpm", {"heart_rate_bpm": 72}),
        ("atrial fibrillation at 140/min", {"heart_rate_bpm": 140}),
        ("Vent. rate: 55 BPM", {"heart_rate_bpm": 55}),
        ("ventricular rate 140, atrial rate 280", {"heart_rate_bpm": 140}),
        ("PR interval 160 ms, QRS duration: 98 ms", {"pr_ms": 160, "qrs_ms": 98}),
        ("PR interval 0.16 s; QRS 0.09 sec", {"pr_ms": 160, "qrs_ms": 90}),
        ("QT/QTc 380/420 ms", {"qt_ms": 380, "qtc_ms": 420}),
        ("qt 400 msec, qtc (bazett) = 455 ms", {"qt_ms": 400, "qtc_ms": 455}),
        ("qrs axis -30 degrees", {"axis_deg": -30}),
        ("axis 270°", {"axis_deg": -90}),
        ("P-R-T axes 64 -30 45", {"axis_deg": -30}),
        ("p axis 60", {}),
        ("rate below 60, pr interval longer than 200 ms", {}),
        ("leftward axis beyond -30", {}),
        ("sinus tachycardia, rate above 100 bpm", {}),
        ("qrs 2000 ms", {}),
        ("atrial flutter with 2:1 a-v conduction", {}),
    ],
)
def test_numbers_are_read_with_their_units(text: str, numbers: dict[str, float]) -> None:
    assert label_report(text).numbers == pytest.approx(numbers)


# ------------------------------------------------------------------------------------------------------ contradictions


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("sinus rhythm. atrial fibrillation.", {("SR", "AFIB")}),
        ("left bundle branch block. right bundle branch block.", {("CRBBB", "CLBBB")}),
        ("left bundle branch block. normal ecg.", {("NORM", "CLBBB")}),
        ("left axis deviation. right axis deviation.", {("LAD", "RAD")}),
        ("st elevation. no st elevation.", {("STE", "STE")}),
        ("sinus rhythm. possible atrial fibrillation.", set()),
        ("sinus rhythm with first degree av block. left bundle branch block.", set()),
        ("sinus rhythm. compared to the last tracing, previously atrial fibrillation.", set()),
    ],
)
def test_contradictions_are_pairs_of_findings(text: str, pairs: set[tuple[str, str]]) -> None:
    assert set(label_report(text).contradictions) == pairs


# ------------------------------------------------------------------------------------------------------ coverage, form


@pytest.mark.parametrize("text", ["", "  \n ", ".", ";;"])
def test_an_empty_text_states_nothing(text: str) -> None:
    labels = label_report(text)
    assert not labels.findings
    assert not labels.numbers
    assert not labels.contradictions
    assert labels.coverage == 1.0


def test_coverage_is_the_share_of_sentences_with_a_match() -> None:
    labels = label_report("sinus rhythm. the weather is fine. rate 70 bpm. unconfirmed report.")
    assert labels.n_sentences == 4
    assert labels.unmatched == ("the weather is fine",)
    assert labels.coverage == 0.75
    assert "weather" not in repr(labels)
    assert "weather" not in str(labels.to_json())


def test_the_lexicon_is_consistent() -> None:
    book = lexicon()
    keys = set(book.findings)
    for group in book.exclusive.values():
        assert set(group) <= keys
    for lines in book.codes.values():
        assert all(set(names) <= keys for names in lines.values())
    assert {key for states in book.twelve_sl.values() for key, _ in states} <= keys
    assert all(set(one.implies) <= keys for one in book.findings.values())
    assert {one.weight for one in book.findings.values()} <= {1, 2, 4}
    assert all(findings_of_code("simulated", code) for code in FINDINGS)


def test_every_ptbxl_statement_has_a_finding_of_the_same_meaning() -> None:
    statements = {code[4:] for entry in codes.entries().values() for code in entry.codes if code.startswith("scp:")}
    assert len(statements) > 65
    for code in statements:
        assert findings_of_code("ptbxl", code.strip("_")), code
        if code not in ("LPR", "PSVT", "PACE"):
            (key,) = findings_of_code("ptbxl", code.strip("_"))
            assert lexicon().findings[key].name == codes.by_code("scp", code).name, code


@pytest.mark.parametrize("key", [key for key in lexicon().findings if key not in ("ESC", "PACE")])
def test_the_name_of_a_finding_states_it(key: str) -> None:
    name = lexicon().findings[key].name
    assert key in label_report(name).stated(), name


# ------------------------------------------------------------------------------------------------------ acceptance


def test_simulated_reports_are_read_right() -> None:
    accuracy = simulated_accuracy(1200, seed=7)
    print(accuracy)
    assert accuracy.f1 >= 0.98
    assert accuracy.n_reports == 1200
    assert accuracy.n_statements > 2400


def test_statements_of_12sl_acronyms() -> None:
    assert twelve_sl_statements("SBRAD PO LAE CRO IMI AU LT AB") == {
        "SBRAD yes",
        "SR yes",
        "LAO/LAE uncertain",
        "IMI uncertain",
        "TAB yes",
        "ISCLA uncertain",
    }


@pytest.mark.real
def test_12sl_texts_are_read_as_their_acronyms_mean() -> None:
    path = PLUS / "ptbxl_12sl_text.csv"
    if not path.is_file():
        pytest.skip("PTB-XL+ is not here")
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["acronyms"].strip()]
    chosen = [rows[k] for k in np.random.default_rng(15).permutation(len(rows))[:200]]
    accuracy = twelve_sl_accuracy([row["text"] for row in chosen], [row["acronyms"] for row in chosen])
    print(accuracy)
    assert accuracy.f1 >= 0.98
    assert accuracy.exact >= 0.95
    known = set(re.findall(r"\S+", " ".join(row["acronyms"] for row in chosen)))
    assert len(known & set(lexicon().twelve_sl)) > 50
