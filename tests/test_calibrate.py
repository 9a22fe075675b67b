"""Calibration of zero-shot scores: the fit against slow plain versions, the file, and where probabilities appear."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import plain_metrics
import pytest
from api_run import write_csv_files, write_run
from command_line import invoke

import leadwise as lw
from leadwise import weights
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate import prompt_calibration
from leadwise.evaluate.calibrate import run_calibration
from leadwise.evaluate.embed import scored_recordings
from leadwise.evaluate.metrics.calibration import brier, calibration_error
from leadwise.evaluate.prompt_calibration import CalibrationError, ClassCalibration, fit_class, prompt_digest
from leadwise.evaluate.prompts import ClassPrompts, PromptError
from leadwise.evaluate.zeroshot import run_zeroshot
from leadwise.trained_on import TrainedOn

PROMPTS = """
source = "folder"
task = "own"
[classes.normal]
name = "normal ecg"
short = ["normal ecg. regular p waves."]
rich = ["normal sinus rhythm. normal ecg.", "normal ecg."]
[classes.afib]
name = "atrial fibrillation"
short = ["atrial fibrillation. irregular."]
rich = ["atrial fibrillation. abnormal ecg."]
[classes.mi]
name = "infarct"
short = ["infarct. q waves."]
rich = ["inferior infarct, age undetermined. abnormal ecg."]
"""


def draw(n: int = 400, seed: int = 0, slope: float = 6.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Cosines (n,), labels whose log-odds are `slope` times the cosine minus 2, and patients of two recordings each."""
    rng = np.random.default_rng(seed)
    cosine = rng.normal(0.2, 0.3, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-(slope * cosine - 2)))
    return cosine, labels.astype(int), [f"p{i // 2}" for i in range(n)]


def test_platt_scaling_is_the_maximum_of_the_likelihood() -> None:
    cosine, labels, patients = draw(60)
    fitted = fit_class(cosine, labels, patients)
    assert isinstance(fitted, ClassCalibration)
    np.testing.assert_allclose([fitted.slope, fitted.intercept], plain_metrics.fit_platt(cosine, labels), rtol=1e-4)
    separated = fit_class(np.linspace(0, 1, 40), np.arange(40) >= 20, patients[:40])
    assert isinstance(separated, ClassCalibration)
    assert 1e-3 < separated.probability(np.array([0.0]))[0] < 0.2  # a perfect ranking of 40 gives no certainty


def test_isotonic_regression_is_pool_adjacent_violators() -> None:
    cosine, labels, patients = draw(80, seed=1)
    fitted = fit_class(cosine, labels, patients, "isotonic")
    assert isinstance(fitted, ClassCalibration)
    order = np.argsort(cosine)
    expected = np.clip(plain_metrics.fit_isotonic(labels[order].tolist()), 1 / 82, 81 / 82)
    np.testing.assert_allclose(fitted.probability(cosine[order]), expected, atol=1e-9)


def test_best_takes_isotonic_only_where_it_is_better() -> None:
    cosine, labels, patients = draw(300)
    best = fit_class(cosine, labels, patients, "best")
    assert isinstance(best, ClassCalibration)
    assert best.method == "platt"  # the labels were drawn from that family
    steps = np.tile(np.linspace(-1, 1, 100), 4)
    rng = np.random.default_rng(0)
    stairs = rng.random(400) < np.where(steps < -0.9, 0.02, np.where(steps < 0.9, 0.5, 0.98))
    chosen = fit_class(steps, stairs, [f"p{i}" for i in range(400)], "best")
    assert isinstance(chosen, ClassCalibration)
    assert chosen.method == "isotonic"


def test_new_recordings_have_a_small_calibration_error() -> None:
    cosine, labels, patients = draw(2000)
    fitted = fit_class(cosine, labels, patients)
    assert isinstance(fitted, ClassCalibration)
    new, truth, _ = draw(2000, seed=9)
    probability = fitted.probability(new)[:, None]
    assert calibration_error(truth[:, None], probability)[0] < 0.05
    constant = np.full_like(probability, truth.mean())
    assert brier(truth[:, None], probability)[0] < brier(truth[:, None], constant)[0]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([1] * 4 + [0] * 36, "4 positives; 5 are needed"),
        ([1] * 37 + [0] * 3, "3 negatives; 5 are needed"),
        ([1] * 20 + [0] * 20, "not higher with the finding"),
    ],
)
def test_a_class_that_cannot_be_calibrated_has_a_reason(labels: list[int], reason: str) -> None:
    assert reason in fit_class(np.linspace(0, 1, 40), np.array(labels), [f"p{i}" for i in range(40)])  # type: ignore[operator]


def test_the_digest_is_of_the_texts_and_not_of_their_order() -> None:
    one = {"a": ClassPrompts("A", ("x.", "y.")), "b": ClassPrompts("B", ("z.",))}
    same = {"b": ClassPrompts("other name", ("Z",)), "a": ClassPrompts("A", ("y.", "x."))}
    assert prompt_digest(one) == prompt_digest(same)
    assert prompt_digest(one) != prompt_digest(one | {"b": ClassPrompts("B", ("z. abnormal ecg.",))})
    assert prompt_digest(one) != prompt_digest({"a": one["a"]})


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "own.toml"
    path.write_text(PROMPTS)
    return path


@pytest.fixture(scope="module")
def calibrated(cohort_folder: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a calibration of the train split: the only one of the cohort with five positives of each class."""
    run = write_run(tmp_path_factory.mktemp("calibrated") / "run", cohort_folder)
    done = invoke("calibrate", run, cohort_folder, "--split", "train", "--prompts", prompts, "--json", run / "c.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "c.json").read_text())
    (run / "c.json").unlink()
    assert [line["prompt_set"] for line in result["sets"]] == ["name", "short", "rich"]
    fitted = {code for line in result["sets"] for code in line["classes"]}
    assert fitted  # the weights are random, so some classes have cosines that fall with the label
    for line in result["sets"]:
        assert {*line["classes"], *line["without"]} == {"normal", "afib", "mi"}
    assert "calibration written to" in done.stdout
    return run


def fitted_set(run: Path) -> tuple[str, list[str]]:
    """The name of a prompt set of the run's calibration with probabilities, and its classes that have one."""
    one = next(one for one in prompt_calibration.read(lw.load(run).run) if one.classes)
    return one.prompt_set, list(one.classes)


def test_zero_shot_has_ece_and_brier_of_the_probabilities(
    calibrated: Path, cohort_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    prompt_set, fitted = fitted_set(calibrated)
    words = ("zeroshot", calibrated, cohort_folder, "--task", "own", "--prompts", prompts, "--set", prompt_set)
    done = invoke(*words, "--per-class", "--json", tmp_path / "z.json")
    assert done.returncode == 0, done.stderr
    assert "Probabilities by Platt scaling, fitted on 40 recordings of own (folder), split train" in done.stdout
    result = json.loads((tmp_path / "z.json").read_text())
    assert result["calibration"]["n_records"] == 40

    # the same figures from the API's probabilities
    cohort = Cohort.open(cohort_folder)
    rows, model = cohort.rows("test", "own"), lw.load(calibrated)
    texts = dict(zip(("normal", "afib", "mi"), _texts(prompts, prompt_set)))
    table = model.zeroshot(cohort, texts)
    assert table.attrs["calibration"]["split"] == "train"
    wide = table.pivot(index="ecg", columns="class", values="probability").loc[[cohort.records[row] for row in rows]]
    truth = pd.DataFrame(cohort.labels("own", rows), columns=["normal", "afib", "mi"])
    measured = result["measures"]["trained"]
    for code in fitted:
        expected = brier(truth[[code]].to_numpy(), wide[[code]].to_numpy())[0]
        assert measured["brier"]["per_class"][code] == pytest.approx(expected)
    assert {code for code, value in measured["ece"]["per_class"].items() if value is not None} == set(fitted)
    assert wide.drop(columns=fitted).isna().all().all()
    own = run_zeroshot(model.run, cohort, "own", prompts, "train", prompt_set=prompt_set)
    assert "ece and brier are too low" in own.calibration_remark


def _texts(prompts: Path, prompt_set: str) -> list[tuple[str, ...]]:
    from leadwise.evaluate.prompts import load

    return [entry.prompts for entry in load(prompts).for_classes(["normal", "afib", "mi"], prompt_set)]


def test_other_texts_windows_and_weights_have_no_probability(
    calibrated: Path, prompts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ecgs = write_csv_files(tmp_path / "ecgs")[0]
    model = lw.load(calibrated)
    given = {"rate_hz": 100, "units": "mV"}
    assert "probability" not in model.zeroshot(ecgs, ["normal ecg."], **given)
    assert "probability" in model.zeroshot(ecgs, prompts, **given)
    assert "probability" not in model.zeroshot(ecgs, prompts, window="first_10s", **given)
    other = write_run(tmp_path / "other", seed=1)
    shutil.copy(calibrated / "calibration.json", other)
    assert "probability" not in lw.load(other).zeroshot(ecgs, prompts, **given)
    assert "was fitted on other weights" in caplog.text


def test_predict_writes_probabilities(calibrated: Path, cohort_folder: Path, tmp_path: Path) -> None:
    _, fitted = fitted_set(calibrated)
    prompt_set, _ = fitted_set(calibrated)
    texts = (
        PROMPTS if prompt_set == "rich" else PROMPTS.replace("rich = ", "# ")
    )  # the last set of a file is its default
    if prompt_set == "name":
        texts = texts.replace("short = ", "# ")
    (tmp_path / "one.toml").write_text(texts)
    words = ("predict", calibrated, cohort_folder, "--prompts", tmp_path / "one.toml", "-o", tmp_path / "p.csv")
    done = invoke(*words, "--json", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    assert "highest scores of run: probability" in " ".join(done.stdout.split())
    assert "fitted on 40 recordings of own" in done.stdout
    table = pd.read_csv(tmp_path / "p.csv")
    assert [name for name in table if name.endswith(".probability")] == [
        f"{code}.probability" for code in ("normal", "afib", "mi") if code in fitted
    ]
    assert table.filter(like=".probability").to_numpy().min() > 0
    assert json.loads((tmp_path / "p.json").read_text())["calibration"]["cohort"] == "own"


def test_a_second_calibration_replaces_its_own_prompts_only(
    calibrated: Path, cohort_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(calibrated, copy)
    run, cohort = lw.load(copy).run, Cohort.open(cohort_folder)
    again = run_calibration(run, cohort, "train", ["own"], prompts, "isotonic")
    prompt_calibration.write(run, again[:1])
    sets = {one.prompt_set: one for one in prompt_calibration.read(run)}
    assert set(sets) == {"name", "short", "rich"}
    assert {one.method for one in sets["name"].classes.values()} <= {"isotonic"}
    assert {one.method for one in sets["rich"].classes.values()} <= {"platt"}
    assert prompt_calibration.read(run)[-1].to_json() == again[0].to_json()


def test_what_a_calibration_was_fitted_on_is_compared_by_person_and_signal(
    calibrated: Path, cohort_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(calibrated, copy)
    run, cohort = lw.load(copy).run, Cohort.open(cohort_folder)
    fitted, test = cohort.rows("train"), cohort.rows("test")
    one = prompt_calibration.read(run)[0]
    own, other = (one.overlap(run, scored_recordings(cohort, rows)) for rows in (fitted, test))
    assert own is not None
    assert other is not None
    assert (own.n_patients, own.n_signals, other.n_patients, other.n_signals) == (20, 40, 0, 0)
    # another table, in which three signals are the same
    scored = dataclasses.replace(scored_recordings(cohort, fitted[:3]), source="elsewhere")
    partly = one.overlap(run, scored)
    assert partly is not None
    assert (partly.n_patients, partly.n_signals) == (None, 3)

    # a calibration of other prompts on fewer recordings of the same split has a list of its own
    few = fitted[:6]
    hashes = TrainedOn.of(cohort.source, cohort.patients.take(few), cohort.checksums(few))
    fewer = dataclasses.replace(one, prompts="others", n_records=len(few), hashes=hashes)
    prompt_calibration.write(run, [fewer])
    for calibration, expected in ((one, (20, 40)), (fewer, (3, 6))):
        overlap = calibration.overlap(run, scored_recordings(cohort, fitted))
        assert overlap is not None
        assert (overlap.n_patients, overlap.n_signals) == expected
    # one that is replaced leaves no list behind
    sets = prompt_calibration.read(run)
    prompt_calibration.write(run, [dataclasses.replace(each, hashes=hashes) for each in sets])
    lists = json.loads((copy / "calibrated_on.json").read_text())
    assert len(lists) == len(sets) == 4
    assert all(len(each["signals"]) == 6 for each in lists.values())

    # names of patients are hashed with a salt of their own; a damaged list is one error
    text = (copy / "calibrated_on.json").read_text()
    assert not [name for name in cohort.patients.take(fitted) if f'"{name}"' in text]
    for damaged in ("{", "[]", '{"a": {"people": 3}}'):
        (copy / "calibrated_on.json").write_text(damaged)
        with pytest.raises(CalibrationError, match=r"calibrated_on\.json is damaged"):
            run_zeroshot(run, cohort, "own", prompts, "test", prompt_set=fitted_set(calibrated)[0])
    (copy / "calibrated_on.json").unlink()
    assert one.overlap(run, scored) is None


def test_a_shared_run_has_its_calibration(calibrated: Path, tmp_path: Path) -> None:
    model = lw.load(calibrated)
    expected = prompt_calibration.read(model.run)
    for dtype in (None, "float16"):
        shared = lw.load(model.save_pretrained(tmp_path / str(dtype), dtype=dtype))
        assert [one.to_json() for one in prompt_calibration.read(shared.run)] == [one.to_json() for one in expected]
        # without the list of what it was fitted on
        assert not (tmp_path / str(dtype) / "calibrated_on.json").exists()
    (calibrated / "calibration.json").rename(tmp_path / "good.json")
    (calibrated / "calibration.json").write_text('{"weights": "another"}')
    assert not (model.save_pretrained(tmp_path / "stale") / "calibration.json").exists()
    shutil.copy(tmp_path / "good.json", calibrated / "calibration.json")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "x"}', '{"format": "leadwise calibration 1", "sets": [{}]}']
)
def test_a_damaged_file_is_one_error(calibrated: Path, tmp_path: Path, content: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(calibrated, copy)
    (copy / "calibration.json").write_text(content)
    run = lw.load(copy).run
    with pytest.raises(CalibrationError, match=r"calibration\.json is damaged"):
        prompt_calibration.read(run)
    with pytest.raises(CalibrationError, match="delete it"):  # before anything is embedded
        prompt_calibration.check_writable(run)
    (copy / "calibration.json").unlink()
    assert prompt_calibration.check_writable(run) == copy / "calibration.json"
    (copy / "calibrated_on.json").write_text(content)
    with pytest.raises(CalibrationError, match=r"calibrated_on\.json is damaged .*; delete it"):
        prompt_calibration.check_writable(run)


def test_errors_of_the_command(calibrated: Path, cohort_folder: Path, prompts: Path, tmp_path: Path) -> None:
    for words, message in (
        (("--method", "beta"), "choose platt, isotonic, best"),
        (("--tasks", "super"), "no task 'super'; it has own"),
        (("--split", "nothing", "--prompts", prompts), "no split 'nothing'; it is one of"),
        (("--prompts", tmp_path / "absent.toml"), "absent.toml cannot be read"),
    ):
        done = invoke("calibrate", calibrated, cohort_folder, *words)
        assert done.returncode == 1
        assert message in done.stderr, done.stderr
    with pytest.raises(PromptError):
        run_calibration(lw.load(calibrated).run, Cohort.open(cohort_folder), tasks=["own"], prompts_path=tmp_path)


def test_weights_that_ship_are_not_written_to(
    calibrated: Path, cohort_folder: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(calibrated, tmp_path / "weights" / "mini")
    shutil.rmtree(tmp_path / "weights" / "mini" / "embeddings", ignore_errors=True)
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = sorted(path.name for path in (tmp_path / "weights" / "mini").iterdir())
    done = invoke("calibrate", "mini", cohort_folder, "--split", "train", "--prompts", prompts, cwd=tmp_path)
    assert done.returncode == 1
    assert 'calibrate a copy: leadwise.load("mini").save_pretrained("runs/mini")' in done.stderr
    assert sorted(path.name for path in (tmp_path / "weights" / "mini").iterdir()) == before
    cache = tmp_path / "cache" / "leadwise" / "mini"
    assert not cache.exists()  # refused before anything is embedded
    words = ("zeroshot", "mini", cohort_folder, "--task", "own", "--prompts", prompts)
    done = invoke(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(cache.glob("shared-*.npz"))
    assert sorted(path.name for path in (tmp_path / "weights" / "mini").iterdir()) == before
    monkeypatch.chdir(tmp_path)
    lw.load("mini").save_pretrained("runs/mini")
    done = invoke("calibrate", "runs/mini", cohort_folder, "--split", "train", "--prompts", prompts, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
