"""Findings metrics of generated reports, by hand and against plain loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from leadwise.evaluate.metrics.bootstrap import resample_patients
from leadwise.generate.finding_metrics import macro_gain, score_reports
from leadwise.generate.labeller import label_report
from leadwise.generate.labeller_accuracy import simulated_accuracy
from leadwise.generate.lexicon import lexicon
from leadwise.generate.pairs import ReportScoreError
from leadwise.generate.text_metrics import rouge_l

LEFT = "sinus rhythm. left bundle branch block. abnormal ecg."
RIGHT = "sinus rhythm. right bundle branch block. abnormal ecg."
REFERENCES = [
    "sinus rhythm. left bundle branch block.",
    "atrial fibrillation. inferior infarct. possible left atrial enlargement.",
    "sinus rhythm. normal ecg.",
    "complete heart block. left axis deviation.",
]
GENERATED = [
    "sinus rhythm. left bundle branch block. right bundle branch block.",
    "atrial fibrillation. left atrial enlargement.",
    "",
    "complete heart block. no left axis deviation.",
]
PATIENTS = ["a", "b", "c", "c"]


def test_right_for_left_bundle_branch_block_has_f1_0_though_words_overlap() -> None:
    pytest.importorskip("rouge_score", reason="needs the extra reports")
    score = score_reports([LEFT] * 3, [RIGHT] * 3, list("abc"), n_replicates=10)
    for scores in (score.with_uncertain, score.without_uncertain):
        assert scores.per_finding["CLBBB"].f1 == 0
        assert scores.per_finding["CRBBB"].f1 == 0
        assert scores.per_finding["SR"].f1 == 1
        assert scores.exact_match.value == 0
    assert min(rouge_l([LEFT], [RIGHT])) > 0.8


def test_measures_by_hand() -> None:
    # stated with doubt counts. references: SR CLBBB | AFIB IMI LAE | SR NORM | 3AVB LAD; generated: SR CLBBB CRBBB | AFIB LAE |
    # nothing | 3AVB. Common: SR CLBBB AFIB LAE 3AVB
    scores = score_reports(REFERENCES, GENERATED, PATIENTS, n_replicates=20).with_uncertain
    assert scores.micro_f1.value == pytest.approx(2 * 5 / (9 + 6))
    f1 = {"SR": 2 / 3, "CLBBB": 1, "AFIB": 1, "IMI": 0, "LAO/LAE": 1, "NORM": 0, "3AVB": 1, "LAD": 0}
    assert scores.macro_f1.value == pytest.approx(np.mean(list(f1.values())))
    assert {key: counts.f1 for key, counts in scores.per_finding.items()} == pytest.approx({**f1, "CRBBB": 0})
    assert scores.hallucination_rate.value == pytest.approx(1 / 6)
    assert scores.omission_rate.value == pytest.approx(4 / 9)
    weight = {key: lexicon().findings[key].weight for key in f1}
    omitted = weight["IMI"] + weight["SR"] + weight["NORM"] + weight["LAD"]
    assert scores.weighted_omission_rate.value == pytest.approx(omitted / (sum(weight.values()) + weight["SR"]))
    assert scores.exact_match.value == 0


def test_doubt_counts_or_not() -> None:
    score = score_reports(["possible lvh."], ["lvh."], ["a"], n_replicates=5)
    assert score.with_uncertain.micro_f1.value == score.with_uncertain.exact_match.value == 1
    assert score.without_uncertain.micro_f1.value == 0
    assert score.without_uncertain.hallucination_rate.value == 1
    assert score.without_uncertain.omission_rate.value == 0  # the reference states nothing without doubt


def test_contradictions_coverage_and_empty_reports() -> None:
    score = score_reports(REFERENCES, GENERATED, PATIENTS, n_replicates=20)
    assert score.contradictions_per_report.value == pytest.approx(1 / 4)
    assert (score.n_reports, score.n_patients, score.n_empty) == (4, 3, 1)
    assert score.coverage_of_references == score.coverage_of_generated == 1
    unknown = score_reports(["sinus rhythm."], ["sinus rhythm. lovely weather."], ["a"], n_replicates=2)
    assert unknown.coverage_of_generated == 0.5


def test_intervals_are_those_of_a_plain_bootstrap_over_patients() -> None:
    rng = np.random.default_rng(0)
    pool = [*REFERENCES, *GENERATED[:2], LEFT, RIGHT, "normal ecg.", "sinus tachycardia. st depression."]
    references = [pool[k] for k in rng.integers(len(pool), size=40)]
    generated = [pool[k] for k in rng.integers(len(pool), size=40)]
    patients = [f"p{k // 2}" for k in range(40)]
    scores = score_reports(references, generated, patients, n_replicates=30, seed=3).with_uncertain

    for r, counts in enumerate(resample_patients(patients, 30, 3)):
        drawn = [k for k, n in enumerate(counts) for _ in range(n)]
        pairs = [(label_report(references[k]).stated(), label_report(generated[k]).stated()) for k in drawn]
        by_finding = []
        for key in lexicon().findings:
            n_truth, n_stated = (sum(key in pair[side] for pair in pairs) for side in (0, 1))
            if n_truth:
                by_finding.append(2 * sum(key in a and key in b for a, b in pairs) / (n_truth + n_stated))
        assert scores.macro_f1.replicates[r] == pytest.approx(np.mean(by_finding))
        exact = np.mean([a == b for a, b in pairs])
        assert scores.exact_match.replicates[r] == pytest.approx(exact)
    assert scores.macro_f1.interval == pytest.approx(np.percentile(scores.macro_f1.replicates, (2.5, 97.5)))


def test_the_gain_is_paired() -> None:
    right = score_reports(REFERENCES * 5, REFERENCES * 5, PATIENTS * 5, n_replicates=50)
    shuffled = score_reports(REFERENCES * 5, (REFERENCES[1:] + REFERENCES[:1]) * 5, PATIENTS * 5, n_replicates=50)
    gain, (low, high) = macro_gain(right, shuffled)
    assert right.with_uncertain.macro_f1.value == 1
    assert gain == pytest.approx(1 - shuffled.with_uncertain.macro_f1.value)
    assert 0 < low <= gain + 1e-9
    assert high <= 1
    with pytest.raises(ReportScoreError, match="same reports"):
        macro_gain(right, score_reports(REFERENCES, REFERENCES, PATIENTS, n_replicates=50))


def test_errors_of_numbers() -> None:
    references = ["rate 60 bpm, pr 200 ms, axis 175 degrees.", "rate 100 bpm.", "sinus rhythm."]
    generated = ["rate 66 bpm, pr 150 ms, axis -180 degrees.", "rate 80 bpm.", "rate 70 bpm."]
    numbers = score_reports(references, generated, list("abc"), n_replicates=2).numbers
    rate = numbers["heart_rate_bpm"]
    assert (rate.n_reference, rate.n_generated, rate.n_both) == (2, 3, 2)
    assert rate.mean_absolute == pytest.approx(13)
    assert rate.share_near == 0.5
    assert numbers["pr_ms"].mean_absolute == pytest.approx(50)
    assert numbers["pr_ms"].share_near == 0
    assert numbers["axis_deg"].mean_absolute == pytest.approx(5)
    assert numbers["axis_deg"].share_near == 1
    assert numbers["qt_ms"].mean_absolute is None


def test_errors_of_numbers_are_not_applicable_to_a_writer_without_them() -> None:
    score = score_reports(["sinus rhythm. rate 60 bpm."], ["sinus rhythm."], ["a"], has_numbers=False, n_replicates=2)
    assert score.numbers is None
    assert score.to_json()["numbers"] is None


def test_rare_findings_are_counted() -> None:
    score = score_reports([LEFT] * 12 + [RIGHT], [LEFT] * 13, [f"p{k}" for k in range(13)], n_replicates=2)
    assert score.n_findings == (3, 1)  # sinus rhythm, and one block of each side


def test_numbers_are_compared_with_measurements_if_given() -> None:
    measured = [{"heart_rate_bpm": 72.0, "pr_ms": math.nan}, {}]
    generated = ["rate 70 bpm. pr 160 ms.", "rate 70 bpm."]
    numbers = score_reports(["sinus rhythm."] * 2, generated, ["a", "b"], measured=measured, n_replicates=2).numbers
    assert numbers["heart_rate_bpm"].mean_absolute == pytest.approx(2)
    assert (numbers["heart_rate_bpm"].n_both, numbers["pr_ms"].n_both) == (1, 0)


def test_the_result_is_json_and_a_row_with_the_accuracy_of_the_labeller() -> None:
    accuracy = simulated_accuracy(60)
    score = score_reports(REFERENCES, GENERATED, PATIENTS, labeller=(accuracy,), n_replicates=5)
    again = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert again["with_uncertain"]["per_finding"]["IMI"] == {"n_reference": 1, "n_generated": 0, "n_both": 0, "f1": 0.0}
    assert again["labeller"][0]["f1"] == accuracy.f1
    row = score.row()
    assert row["labeller_f1_simulated_reports"] == accuracy.f1
    assert row["macro_f1_low"] <= row["macro_f1"] + 1e-9
    assert "macro_f1_firm" in row
    assert score.rows()[0]["finding"] == "SR"
    assert score.rows()[0]["n_reference"] == 2


def test_all_reports_empty_score_0() -> None:
    score = score_reports(REFERENCES, [""] * 4, PATIENTS, n_replicates=5)
    assert score.with_uncertain.macro_f1.value == score.with_uncertain.micro_f1.value == 0
    assert score.with_uncertain.omission_rate.value == 1
    assert score.with_uncertain.hallucination_rate.value == 0


def test_lists_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ReportScoreError, match="4 references and 1 generated"):
        score_reports(REFERENCES, GENERATED[:1], PATIENTS)
    with pytest.raises(ReportScoreError, match="give a patient"):
        score_reports(REFERENCES, GENERATED, PATIENTS[:2])
