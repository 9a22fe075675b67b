"""The paired test of two runs: detected differences, equal runs, and pairs that it refuses."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from planted import WORDS, PlantedCohort, PlantedRun, SeeingMethod
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from leadwise import run as runs
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.compare import (
    CompareError,
    ProbeScorer,
    RunScores,
    ZeroShotScorer,
    compare,
    holm,
    run_compare,
)
from leadwise.evaluate.metrics.bootstrap import resample_patients
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.zeroshot import ZeroShotError, run_zeroshot

CLASSES = ("a", "b", "c")


def scored(strength=1.0, n=300, seed=0, noise_seed=1, name="first", per_patient=2):
    """Scores of `strength` standard deviations between positives and negatives, on the same labels for one seed."""
    labels = (np.random.default_rng(seed).random((n, 3)) < [0.2, 0.4, 0.5]).astype(np.int8)
    scores = np.random.default_rng(noise_seed).normal(size=(n, 3)) + strength * labels
    records = tuple(f"r{at}" for at in range(n))
    return RunScores(name, CLASSES, records, (np.arange(n) // per_patient).astype(str), labels, scores[None])


def test_a_run_does_not_differ_from_itself():
    one = scored()
    result = compare(one, one, n_replicates=200)
    assert (result.macro.difference, result.macro.interval, result.macro.p) == (0, (0, 0), 1)
    assert all((at.p, at.p_holm) == (1, 1) for at in result.per_class.values())


def test_the_better_run_is_detected_and_the_sign_changes_with_the_order():
    good, poor = scored(1.5), scored(0.3, noise_seed=2, name="second")
    result, turned = compare(good, poor, n_replicates=500), compare(poor, good, n_replicates=500)
    assert result.macro.difference > 0.1
    assert 0 < result.macro.interval[0] < result.macro.difference < result.macro.interval[1]
    assert result.macro.p == pytest.approx(2 / 501)  # no resampling on the other side: the smallest that 500 allow
    assert turned.macro.difference == pytest.approx(-result.macro.difference)
    assert turned.macro.interval == pytest.approx(tuple(-x for x in reversed(result.macro.interval)))
    assert turned.macro.p == result.macro.p
    assert (result.a, result.b, result.n_records, result.n_patients) == ("first", "second", 300, 150)
    assert result.per_class["a"].positives == good.labels[:, 0].sum()


def test_differences_equal_a_plain_loop():
    a, b = scored(n=80), scored(0.6, n=80, noise_seed=2)
    result = compare(a, b, n_replicates=60, seed=5)
    gaps = []
    for counts in resample_patients(a.patients, 60, 5):
        rows = np.repeat(np.arange(80), counts)
        gaps.append([
            roc_auc_score(a.labels[rows, k], a.scores[0, rows, k])
            - roc_auc_score(b.labels[rows, k], b.scores[0, rows, k])
            for k in range(3)
        ])  # fmt: skip
    gaps = np.array(gaps)
    assert result.macro.interval == pytest.approx(tuple(np.percentile(gaps.mean(axis=1), (2.5, 97.5))))
    for k, name in enumerate(CLASSES):
        at = result.per_class[name]
        assert at.a == pytest.approx(roc_auc_score(a.labels[:, k], a.scores[0, :, k]))
        assert at.interval == pytest.approx(tuple(np.percentile(gaps[:, k], (2.5, 97.5))))
        rarer = min((gaps[:, k] <= 0).sum(), (gaps[:, k] >= 0).sum())
        assert at.p == pytest.approx(min(1, 2 * (rarer + 1) / 61))


def test_equally_good_runs_seldom_differ():
    seldom = [
        compare(scored(seed=s, noise_seed=1000 + s), scored(seed=s, noise_seed=2000 + s), n_replicates=200).macro.p
        for s in range(100)
    ]
    assert sum(p < 0.05 for p in seldom) <= 12
    assert 0.3 < np.mean(seldom) < 0.7


def test_holms_rule_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.6])), [1, 1])
    assert len(holm(np.array([]))) == 0


def test_all_blocks_of_resamplings_are_used(monkeypatch):
    a, b = scored(n=60), scored(0.5, n=60, noise_seed=2)
    calls = []
    monkeypatch.setattr("leadwise.evaluate.compare._RESAMPLINGS_AT_ONCE", 30)
    result = compare(a, b, n_replicates=100, progress=lambda *call: calls.append(call))
    assert [done for _, done, _ in calls] == [30, 60, 90, 100]
    assert result.n_replicates == 100


def test_draws_are_averaged_before_they_are_compared():
    a, b = scored(), scored(0.5, noise_seed=2)
    twice = dataclasses.replace(a, scores=np.concatenate([a.scores, b.scores]))
    both, one = compare(twice, b, n_replicates=100), compare(a, b, n_replicates=100)
    assert both.macro.difference == pytest.approx(one.macro.difference / 2)
    assert both.macro.interval == pytest.approx(tuple(x / 2 for x in one.macro.interval))


def test_rare_classes_are_not_tested_and_undefined_ones_skipped():
    a, b = scored(), scored(0.2, noise_seed=2)
    labels = a.labels.copy()
    labels[:, 1] = 0
    labels[:, 0] = np.arange(300) < 18  # nine patients with two records each
    a, b = (dataclasses.replace(s, labels=labels) for s in (a, b))
    result = compare(a, b, n_replicates=200)
    assert (result.skipped, result.untested) == (("b",), ("a",))
    assert result.per_class["b"] is None
    assert result.per_class["a"].interval[0] < result.per_class["a"].interval[1]
    assert (result.per_class["a"].p, result.per_class["a"].p_holm) == (None, None)
    assert result.per_class["c"].p_holm == result.per_class["c"].p  # the only one of its family
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (written["skipped"], written["untested"]) == (["b"], ["a"])
    assert [row["class"] for row in result.long_rows()] == ["macro", *CLASSES]
    assert result.rows()[0]["untested"] == "a"


def test_a_mean_of_classes_with_too_few_patients_is_not_tested():
    a, b = (scored(s, n=20, noise_seed=n, per_patient=10) for s, n in ((1.5, 1), (0.3, 2)))  # two patients
    result = compare(a, b, n_replicates=200)
    assert result.macro.p is None
    assert result.untested == ("macro", *CLASSES)
    assert result.macro.interval[0] <= result.macro.difference <= result.macro.interval[1]
    assert result.n_usable == 200
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (written["macro"]["p"], written["untested"][0], written["n_usable_replicates"]) == (None, "macro", 200)
    assert result.long_rows()[0]["p"] is None
    few = np.zeros((300, 3), dtype=np.int8)
    few[:2, 0] = 1  # both of one patient: a third of the resamplings has no positive patient
    rare = compare(
        *(dataclasses.replace(s, labels=few) for s in (scored(), scored(0.5, noise_seed=2))), n_replicates=200
    )
    assert 100 < rare.n_usable < 160
    assert rare.untested == ("macro", "a")
    many = compare(scored(), scored(0.5, noise_seed=2), n_replicates=200)
    assert many.macro.p is not None
    assert many.untested == ()


def test_another_measure():
    a, b = scored(1.5), scored(0.3, noise_seed=2)
    assert compare(a, b, "auprc", 100).macro.a != compare(a, b, "auroc", 100).macro.a
    with pytest.raises(CompareError, match="measure 'accuracy' is unknown; choose from auroc, auprc"):
        compare(a, b, "accuracy")


def test_scores_that_cannot_be_paired_are_refused():
    a, b = scored(), scored(0.5, noise_seed=2, name="second")
    shorter = dataclasses.replace(
        b, records=b.records[1:], patients=b.patients[1:], labels=b.labels[1:], scores=b.scores[:, 1:]
    )
    with pytest.raises(CompareError, match=r"first and second are not scored on the same records: 1 only in the first, "
                                           r"0 only in the second \(first: r0\)"):  # fmt: skip
        compare(a, shorter)
    turned = dataclasses.replace(b, records=b.records[::-1])
    with pytest.raises(CompareError, match=r"not scored on the same records.*the order"):
        compare(a, turned)
    with pytest.raises(CompareError, match="other labels or patients"):
        compare(a, dataclasses.replace(b, labels=1 - b.labels))
    with pytest.raises(CompareError, match=r"on a, b, c but second on x, y, z"):
        compare(a, dataclasses.replace(b, classes=("x", "y", "z")))
    with pytest.raises(CompareError, match="do not fit labels"):
        compare(a, dataclasses.replace(b, scores=b.scores[0]))
    nothing = np.zeros_like(a.labels)
    with pytest.raises(CompareError, match="none of a, b, c has both"):
        compare(dataclasses.replace(a, labels=nothing), dataclasses.replace(b, labels=nothing))


# ---- with runs ----


@pytest.fixture
def prompt_file(tmp_path):
    tables = [f'[classes."{w}"]\nname = "the {w}"\nprompts = ["possible {w}. abnormal ecg."]' for w in WORDS]
    (tmp_path / "prompts.toml").write_text('source = "nowhere"\ntask = "finding"\n' + "\n".join(tables))
    return tmp_path / "prompts.toml"


@pytest.mark.slow
def test_probe_scores_equal_those_of_run_probe():
    run, cohort = PlantedRun(), PlantedCohort()
    report = run_probe(run, cohort, "finding", fractions=(0.5,))
    pair = (run, PlantedRun(seeing=False))
    result = run_compare(pair, cohort, "finding", ProbeScorer(fraction=0.5), n_replicates=200)
    assert result.macro.a == pytest.approx(report.results[0.5]["trained"].score.macro)
    assert result.macro.b == pytest.approx(report.results[0.5]["untrained"].score.macro)
    assert result.macro.p < 0.02
    assert result.settings["fingerprints"] == {
        "cohort": cohort.fingerprint,
        "a": "weights-seeing",
        "b": "weights-blind",
    }


def test_zeroshot_scores_equal_those_of_run_zeroshot(prompt_file):
    run, cohort = PlantedRun(), PlantedCohort()
    report = run_zeroshot(run, cohort, "finding", prompt_file)
    result = run_compare(
        (run, PlantedRun(seeing=False)), cohort, "finding", ZeroShotScorer(prompt_file), "auprc", n_replicates=200
    )
    assert result.macro.a == pytest.approx(report.measures["auprc"].macro)
    assert result.macro.b == pytest.approx(report.measures_untrained["auprc"].macro)
    written = {"file": "prompts.toml", "set": "own", "sha256": hashlib.sha256(prompt_file.read_bytes()).hexdigest()}
    assert result.to_json()["prompts"] == written
    for line in result.long_rows():
        assert {key: line[f"prompt_{key}"] for key in written} == written
    cohort.index["split"] = "train"
    with pytest.raises(CompareError, match="no recording of task 'finding' in split 'test'"):
        run_compare((run, run), cohort, "finding", ZeroShotScorer(prompt_file))


def test_a_method_without_text_encoder_is_refused(prompt_file):
    class NoTextEncoder(SeeingMethod):
        embeds_text = False

    run = PlantedRun()
    run.method = NoTextEncoder()
    with pytest.raises(ZeroShotError, match="trained on ECGs alone"):
        run_compare((PlantedRun(), run), PlantedCohort(), "finding", ZeroShotScorer(prompt_file))


def test_the_command_prints_and_writes(monkeypatch, tmp_path, prompt_file):
    from leadwise.cli import app

    monkeypatch.setattr(runs, "load", lambda folder, *_, **__: PlantedRun(seeing=folder.name == "good"))
    monkeypatch.setattr(Cohort, "open", lambda folder: PlantedCohort())
    for name in ("good", "poor"):  # both exist; what they hold is planted
        (tmp_path / name).mkdir()
    words = [
        "compare",
        str(tmp_path / "good"),
        str(tmp_path / "poor"),
        "cohort",
        "--task",
        "finding",
        "--resamplings",
        "200",
    ]
    files = [x for kind in ("json", "csv", "latex") for x in (f"--{kind}", str(tmp_path / f"c.{kind}"))]
    done = CliRunner().invoke(app, [*words, *files, "--fraction", "0.5", "--seeds", "1,2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "c.json").read_text())
    assert (written["how"], written["fraction"], written["seeds"], written["task"]) == ("probe", 0.5, [1, 2], "finding")
    assert written["macro"]["difference"] > 0.2
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert len(lines) == 2 + len(WORDS)
    assert lines[0].startswith(
        "command,cohort,task,fraction,part,how,run_a,run_b,measure,class,positives,a,b,difference"
    )
    latex = (tmp_path / "c.latex").read_text()
    assert latex.startswith(r"\begin{tabular}")
    assert latex.count(r"\textbf") == 1 + len(WORDS)
    done = CliRunner().invoke(
        app, [*words, "--how", "zeroshot", "--prompts", str(prompt_file), "--json", str(tmp_path / "z.json")]
    )
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "z.json").read_text())["how"] == "zeroshot"
    for wrong in (["--how", "guess"], ["--measure", "accuracy"], ["--seeds", "1,1"], ["--seeds", "one"]):
        assert CliRunner().invoke(app, [*words, *wrong]).exit_code == 2
