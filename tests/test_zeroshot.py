import json

import numpy as np
import pytest
from planted import WORDS, PlantedCohort, PlantedRun, SeeingMethod

from leadwise.evaluate.metrics.score import ScoreError
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.text_embeddings import class_vector
from leadwise.evaluate.zeroshot import ZeroShotError, run_zeroshot
from leadwise.nn.text import train_tokenizer

PROMPTS = {word: [f"Sinus rhythm; {word} pattern", f"possible {word}. abnormal ecg."] for word in WORDS}


def write(path, prompts, source="nowhere", task="finding"):
    tables = [f'source = "{source}"\ntask = "{task}"']
    tables += [f'[classes."{c}"]\nname = "the {c}"\nprompts = {json.dumps(texts)}' for c, texts in prompts.items()]
    path.write_text("\n\n".join(tables))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "prompts.toml", PROMPTS)


def test_planted_findings_are_detected_and_references_reported(file):
    run = PlantedRun()
    report = run_zeroshot(run, PlantedCohort(), "finding", file)
    # the trained run embeds both sets of the file; the untrained run, with its own text encoder, only the scored one
    assert (run.method.n_texts, run.twin.method.n_texts) == (8 + 4, 8)
    assert report.trained.macro > 0.95
    assert min(report.trained.per_class.values()) > 0.9
    assert 0.3 < report.untrained.macro < 0.7
    assert report.shuffled.mean == pytest.approx(0.5, abs=0.02)
    assert report.shuffled.interval[0] < 0.5 < report.shuffled.interval[1]
    assert report.shuffled.interval[1] < report.trained.interval[0]
    assert [row["features"] for row in report.rows()] == ["trained", "untrained", "shuffled pairs"]
    assert len(report.single_prompts) == 2
    assert min(report.single_prompts) > 0.9
    assert report.trained.n_records == 48  # the test split alone


def test_only_the_thresholds_of_f1_come_from_validation(file):
    cohort = PlantedCohort()
    report = run_zeroshot(PlantedRun(), cohort, "finding", file)
    assert list(report.measures) == ["auprc", "f1_val", "f1_max", "f2_val"]  # a cosine has no calibration
    assert report.measures["auprc"].macro > 0.9 > report.measures_untrained["auprc"].macro
    assert report.measures["f1_val"].macro > 0.8
    assert report.trained.n_records == report.measures["f1_val"].n_records == 48
    blind = PlantedCohort()
    val = blind.rows("val")
    blind.truth[val] = 0
    without = run_zeroshot(PlantedRun(), blind, "finding", file)
    assert list(without.measures) == ["auprc"]
    assert without.trained.per_class == report.trained.per_class
    blind.truth[val, 0] = cohort.truth[val, 0]
    one = run_zeroshot(PlantedRun(), blind, "finding", file)
    assert one.measures["f1_val"].macro == report.measures["f1_val"].per_class["alpha"]
    assert one.rows()[0]["no threshold"] == "beta, gamma, delta"
    assert "f1_val" not in run_zeroshot(PlantedRun(), cohort, "finding", file, split="val").measures  # not on itself
    lines = report.long_rows()
    assert len(lines) == 2 * 5 * 5
    assert {line["measure"] for line in lines} == {"auroc", "auprc", "f1_val", "f1_max", "f2_val"}
    result = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert result["measures"]["trained"]["f1_val"]["macro"] == report.measures["f1_val"].macro


def test_labels_of_other_patients_score_at_chance(file):
    report = run_zeroshot(PlantedRun(), PlantedCohort(n_patients=600, shuffled_test_labels=True), "finding", file)
    assert report.trained.macro == pytest.approx(0.5, abs=0.07)


def test_split_is_respected(file):
    cohort = PlantedCohort()
    cohort.truth[cohort.rows("test")] = 0
    assert run_zeroshot(PlantedRun(), cohort, "finding", file, split="val").trained.macro > 0.95
    with pytest.raises(ScoreError, match="none of alpha, beta, gamma, delta has both"):
        run_zeroshot(PlantedRun(), cohort, "finding", file)


def test_order_in_the_file_does_not_matter(file, tmp_path):
    turned = write(tmp_path / "turned.toml", dict(reversed(PROMPTS.items())))
    one = run_zeroshot(PlantedRun(), PlantedCohort(), "finding", file).to_json()
    other = run_zeroshot(PlantedRun(), PlantedCohort(), "finding", turned).to_json()
    assert one.pop("prompts")["sha256"] != other.pop("prompts")["sha256"]
    assert one == other
    assert list(one["classes"]) == list(WORDS)


def test_prompts_belong_to_their_class(file, tmp_path):
    """With the prompts of two classes exchanged, those two score below chance and the others do not change."""
    crossed = {**PROMPTS, "alpha": PROMPTS["beta"], "beta": PROMPTS["alpha"]}
    report = run_zeroshot(PlantedRun(), PlantedCohort(), "finding", write(tmp_path / "x.toml", crossed))
    straight = run_zeroshot(PlantedRun(), PlantedCohort(), "finding", file)
    assert max(report.trained.per_class["alpha"], report.trained.per_class["beta"]) < 0.6
    assert report.trained.per_class["gamma"] == pytest.approx(straight.trained.per_class["gamma"])


def test_class_vector_is_the_mean_direction():
    vectors = np.array([[3.0, 0, 0], [0, 0.1, 0]])
    np.testing.assert_allclose(class_vector(vectors), [0.5**0.5, 0.5**0.5, 0])


def test_missing_and_unknown_classes_are_named_at_once(tmp_path):
    wrong = {"alpha": PROMPTS["alpha"], "gama": PROMPTS["gamma"], "delta": PROMPTS["delta"]}
    with pytest.raises(
        PromptError, match=r"no prompts for beta, gamma; unknown classes gama.*alpha, beta, gamma, delta"
    ):
        run_zeroshot(PlantedRun(), PlantedCohort(), "finding", write(tmp_path / "p.toml", wrong))
    with pytest.raises(PromptError, match="no prompts are shipped for source 'nowhere', task 'finding'"):
        run_zeroshot(PlantedRun(), PlantedCohort(), "finding")


def test_class_undefined_on_the_split_is_skipped_and_named(file):
    cohort = PlantedCohort()
    cohort.truth[cohort.rows("test"), 2] = 0
    report = run_zeroshot(PlantedRun(), cohort, "finding", file)
    assert report.trained.skipped == ("gamma",)
    rows = {row["class"]: row for row in report.class_rows()}
    assert rows["gamma"]["auroc"] is None
    assert rows["gamma"]["low"] is None
    assert rows["alpha"]["name"] == "the alpha"
    assert rows["alpha"]["low"] <= rows["alpha"]["auroc"] <= rows["alpha"]["high"]
    json.dumps(report.to_json(), allow_nan=False)


def test_a_last_batch_of_one_record(file):
    """The batch axis must not be squeezed."""
    cohort = PlantedCohort(n_patients=170)
    cohort.index["split"] = np.where(np.arange(340) < 275, "train", "test")  # 65 = 64 + 1
    report = run_zeroshot(PlantedRun(), cohort, "finding", file)
    assert report.trained.n_records == 65
    assert report.trained.macro > 0.95


def test_a_method_without_text_encoder_is_refused(file):
    class NoTextEncoder(SeeingMethod):
        embeds_text = False

    run = PlantedRun()
    run.method = NoTextEncoder()
    with pytest.raises(ZeroShotError, match="trained on ECGs alone"):
        run_zeroshot(run, PlantedCohort(), "finding", file)
    cohort = PlantedCohort()
    cohort.index["split"] = "train"
    with pytest.raises(ZeroShotError, match="no recording of task 'finding' in split 'test'"):
        run_zeroshot(PlantedRun(), cohort, "finding", file)


def test_json_contains_the_settings(file):
    result = json.loads(
        json.dumps(run_zeroshot(PlantedRun(), PlantedCohort(), "finding", file).to_json(), allow_nan=False)
    )
    assert result["command"] == "zeroshot"
    assert result["prompts"]["n_prompts"] == 8
    assert len(result["prompts"]["sha256"]) == 64
    assert result["gain_over_untrained"]["interval"][0] > 0.1
    assert result["single_prompts"]["min"] <= result["single_prompts"]["max"]
    assert (result["protocol"], result["window"]) == ("strict", None)
    report = run_zeroshot(PlantedRun(), PlantedCohort(), "finding", file, window="center_10s")
    assert report.to_json()["window"] == "center_10s"
    assert {(line["protocol"], line["window"]) for line in report.long_rows()} == {("strict", "center_10s")}


def test_leaked_patients_are_counted_and_logged(file, caplog):
    cohort, run = PlantedCohort(), PlantedRun()
    assert run_zeroshot(run, cohort, "finding", file).overlap.n_patients == 0
    assert not caplog.records
    run.known = {cohort.patients[cohort.rows("test")[0]], cohort.patients[cohort.rows("train")[0]]}
    leaked = run_zeroshot(run, cohort, "finding", file)
    assert leaked.to_json()["n_people_seen_in_pretraining"] == 1
    assert "1 of the 24 persons of the test split were trained on" in caplog.text


def test_prompts_of_another_task_are_refused(tmp_path):
    other = write(tmp_path / "other.toml", PROMPTS, task="rhythm")
    with pytest.raises(PromptError, match="the file is for task 'rhythm', not for the requested task 'finding'"):
        run_zeroshot(PlantedRun(), PlantedCohort(), "finding", other)


THREE_SETS = """source = "nowhere"
task = "finding"
""" + "".join(
    f'[classes.{word}]\nname = "{word}"\nshort = ["{other}. {other}."]\nrich = ["possible {word}.", "{word}. abnormal ecg."]\n'
    for word, other in zip(WORDS, (*WORDS[1:], WORDS[0]))
)  # the short prompts speak of another class, so that which set was scored shows


def test_the_requested_set_is_scored_and_every_set_reported(tmp_path):
    path = tmp_path / "sets.toml"
    path.write_text(THREE_SETS)
    rich = run_zeroshot(PlantedRun(), PlantedCohort(), "finding", path)
    short = run_zeroshot(PlantedRun(), PlantedCohort(), "finding", path, prompt_set="short")
    assert (rich.prompt_set, rich.n_prompts, short.prompt_set, short.n_prompts) == ("rich", 8, "short", 4)
    assert rich.trained.macro > 0.95
    assert short.trained.macro < 0.6
    assert short.to_json()["prompts"]["set"] == "short"
    assert short.to_json()["prompts"]["classes"]["alpha"] == ["beta. beta."]
    for report in (rich, short):
        result = json.loads(json.dumps(report.to_json(), allow_nan=False))["sensitivity"]
        assert result["chosen"] == report.prompt_set
        assert result["sets"]["rich"]["macro"] == rich.trained.macro
        assert result["sets"]["short"]["macro"] == short.trained.macro
        assert result["spread"]["over_sets"] == pytest.approx(
            max(at["macro"] for at in result["sets"].values()) - short.trained.macro
        )
        singles = [macro for at in result["sets"].values() for macro in at["single_prompts"]["macro"]]
        assert len(singles) == 1 + 1 + 2
        assert result["spread"]["over_single_prompts"] == pytest.approx(max(singles) - min(singles))
        assert result["sets"][report.prompt_set]["above_chosen"] == {"macro": 0.0, "interval": [0.0, 0.0]}
        assert [row["set"].rstrip(" *") for row in report.sensitivity.rows()] == ["name", "short", "rich"]
        assert "sets differ by" in report.sensitivity.line()
    with pytest.raises(PromptError, match="no set 'own'; it has name, short, rich"):
        run_zeroshot(PlantedRun(), PlantedCohort(), "finding", path, prompt_set="own")


def test_single_prompts_are_each_classs_first_second_and_so_on(tmp_path):
    """Where only the first prompt of each class speaks of it, the first single score is high and the second is not."""
    crossed = {word: [f"{word}.", f"{other}."] for word, other in zip(WORDS, (*WORDS[1:], WORDS[0]))}
    report = run_zeroshot(PlantedRun(), PlantedCohort(), "finding", write(tmp_path / "x.toml", crossed))
    first, second = report.single_prompts
    assert first > 0.95
    assert second < 0.6


def test_prompts_of_another_data_set_are_warned_of(tmp_path, caplog):
    other = write(tmp_path / "other.toml", PROMPTS, source="elsewhere")
    run_zeroshot(PlantedRun(), PlantedCohort(), "finding", other)
    assert "written for source 'elsewhere', the cohort is of 'nowhere'" in caplog.text


def test_prompts_with_words_that_the_run_does_not_know_are_named(file):
    cohort, run = PlantedCohort(), PlantedRun()
    assert "unknown_words" not in run_zeroshot(run, cohort, "finding", file).to_json()
    run.method.tokenizer = train_tokenizer(["alpha. beta. gamma. possible pattern with of"] * 3, 1000)
    report = run_zeroshot(run, cohort, "finding", file)
    assert "delta" in report.to_json()["unknown_words"]["delta"]
    assert "'delta'" in report.remark
    assert "means little" in report.remark
