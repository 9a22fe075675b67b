"""Regression on frozen features: the measures, the ridge, the network, and the command with its controls."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources.source import Row, Source
from leadwise.evaluate import regress as regression
from leadwise.evaluate.embed import embed_cohort, write_npz
from leadwise.evaluate.metrics.regression import weighted_measures
from leadwise.evaluate.mlp_regression import predict_mlp
from leadwise.evaluate.regress import RegressError, RegressTask, choose_fit_split, regress, run_regress
from leadwise.evaluate.ridge import MAX_FEATURE, PENALTIES, fit_ridge, patient_folds
from leadwise.foreign.opening import open_encoder
from leadwise.training.loop import pretrain
from tests.command_line import invoke
from tests.conftest import TINY, config_table, make_batch


def planted(n: int = 300, width: int = 12, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, RegressTask]:
    """Features that contain two targets in noise; two recordings of each patient."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 2))
    features = rng.normal(size=(n, width))
    features[:, :2] = hidden + noise * rng.normal(size=(n, 2))
    values = np.array([150.0, 60.0]) + hidden * [40.0, 10.0]
    patient = np.array([f"p{row // 2}" for row in range(n)])
    return features, RegressTask(("edv", "ef"), values, patient, np.arange(n // 2), np.arange(n // 2, n))


def test_the_measures_are_the_textbook_ones_with_weights_as_repetitions() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(100, 10, size=(40, 2))
    predicted = truth + rng.normal(size=truth.shape) * 6
    truth[:5, 1] = np.nan
    weights = rng.integers(0, 3, size=(3, 40))
    got = weighted_measures(truth, predicted, weights)
    for number, weight in enumerate(weights):
        rows = np.repeat(np.arange(40), weight)
        for q in range(2):
            y, z = truth[rows, q], predicted[rows, q]
            y, z = y[np.isfinite(truth[rows, q])], z[np.isfinite(truth[rows, q])]
            assert got["r2"][number, q] == pytest.approx(1 - ((y - z) ** 2).sum() / ((y - y.mean()) ** 2).sum())
            assert got["mae"][number, q] == pytest.approx(np.abs(y - z).mean())
            assert got["r"][number, q] == pytest.approx(np.corrcoef(y, z)[0, 1])
    constant = weighted_measures(np.ones((4, 1)), np.ones((4, 1)), np.ones((1, 4)))
    assert np.isnan(constant["r2"]).all()
    assert np.isnan(constant["r"]).all()


@pytest.mark.parametrize("width", [8, 200])
def test_the_ridge_is_scikit_learns_at_its_penalty_with_missing_values_left_out(width: int) -> None:
    features, task = planted(120, width)
    values = task.values.copy()
    values[:10, 1] = np.nan
    model = fit_ridge(features, values, task.patient)
    for q in range(2):
        known = np.isfinite(values[:, q])
        inputs = np.clip((features - features.mean(axis=0)) / features.std(axis=0), -MAX_FEATURE, MAX_FEATURE)
        reference = Ridge(alpha=model.penalties[q] * known.sum()).fit(inputs[known], values[known, q])
        assert model.predict(features)[:, q] == pytest.approx(reference.predict(inputs), rel=1e-5)
    assert set(model.penalties) <= set(PENALTIES)


def test_the_penalty_is_strong_for_noise_and_weak_for_a_clear_target() -> None:
    features, task = planted(200, 100, noise=0.01)
    noise = np.random.default_rng(1).normal(size=(200, 1))
    model = fit_ridge(features, np.concatenate([task.values[:, :1], noise], axis=1), task.patient)
    assert model.penalties[0] < 0.1 < 1 <= model.penalties[1]


def test_a_patient_is_in_one_fold() -> None:
    patients = np.array([f"p{row % 30}" for row in range(90)])
    folds = patient_folds(patients, 5)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[patients == one])) == 1 for one in set(patients))


def test_a_feature_that_explodes_outside_the_fit_does_not_ruin_r2() -> None:
    features, task = planted()
    constant = 1 + 1e-3 * np.random.default_rng(0).normal(size=(300, 1))
    constant[task.test[0]] = 1e6
    assert (regress("x", np.hstack([features, constant]), task).r2 > 0.5).all()


def test_scores_have_intervals_and_a_paired_difference_of_equal_features_is_zero() -> None:
    features, task = planted()
    good, bad = regress("good", features, task), regress("bad", features[:, 2:], task)
    low, high = good.mean_r2.interval
    assert 0.6 < low < good.mean_r2.value < high < 0.95
    assert abs(bad.mean_r2.value) < 0.1
    assert good.scores["edv"]["mae"].value < 0.7 * 40
    above = regression.difference(good, bad, ["ef"])
    assert above.interval[0] > 0.4
    same = regression.difference(good, regress("again", features, task))
    assert (same.value, same.interval) == (0.0, (0.0, 0.0))
    assert good.scores["ef"]["r"].value ** 2 == pytest.approx(good.r2[1], abs=0.05)


def test_scores_above_the_bound_are_named() -> None:
    features, task = planted()
    scores = [regress("x", features, task)]
    assert regression.above_bounds(scores, {"edv": 0.99, "ef": 0.75}) == []
    (sentence,) = regression.above_bounds(scores, {"edv": 0.4})
    assert sentence.startswith("x: R² of edv is 0.")
    assert sentence.endswith("no predictor from the ECG has more than 0.400.")


@pytest.mark.slow
def test_the_network_learns_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 4))
    values = np.abs(features[:, :1]) * 30 + 100
    task = RegressTask(("size",), values, np.arange(400).astype(str), np.arange(250), np.arange(250, 400))
    assert regress("line", features, task).mean_r2.value < 0.2
    network = regress("network", features, task, "mlp", seeds=(0,))
    assert network.mean_r2.value > 0.6
    again, epochs = predict_mlp(features[:250], values[:250], task.patient[:250], features[250:], 0)
    assert np.array_equal(again, network.predictions[0])
    assert network.settings["epochs"] == {"size": epochs}


def test_a_task_that_cannot_be_scored_is_refused() -> None:
    _, task = planted()
    with pytest.raises(RegressError, match="1 patients are in the recordings to fit on and in the test split"):
        RegressTask(task.targets, task.values, task.patient, np.arange(151), task.test)
    few = task.values.copy()
    few[19:150, 0] = np.nan
    with pytest.raises(RegressError, match="target edv: 19 recordings to fit on have a value, with 19 distinct ones"):
        RegressTask(task.targets, few, task.patient, task.fit, task.test)
    constant = task.values.copy()
    constant[150:, 1] = 3.0
    with pytest.raises(RegressError, match="target ef: 150 recordings to test have a value, with 1 distinct ones"):
        RegressTask(task.targets, constant, task.patient, task.fit, task.test)


# ------------------------------------------------------------------------------------------------- on a cohort


@pytest.fixture(scope="module")
def heart_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 recordings of 90 patients, whose number `size` is the amplitude of the ECG; in some, `mass` is unknown."""
    folder = tmp_path_factory.mktemp("hearts")
    rows = []
    for number in range(90):
        size = 0.5 + (number * 7 % 30) / 20
        ecg = size * make_batch(4, seed=number).ecg[0].numpy()
        np.save(folder / f"{number}.npy", ecg.T)
        split = ("train", "val", "test")[number % 3]
        extra: dict[str, float | str | None] = {
            "size": size,
            "mass": None if number % 10 == 4 else 100 * size + number % 7,
        }
        extra |= {"age": 40.0 + number % 40, "sex": "female" if number % 2 else "male"}
        rows.append(
            Row(
                f"r{number}", folder / f"{number}.npy", f"p{number}", split, "normal ecg.", {}, extra,
                leads=LEADS, rate_hz=100, units="mV",
            )
        )  # fmt: skip
    write(Source("hearts", rows, {}), folder / "cohort")
    return folder / "cohort"


@pytest.fixture(scope="module")
def heart_runs(heart_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that were trained on the cohort, by two methods."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("st_mem", "simclr"):
        table = {**config_table(heart_cohort, steps=2), "method": {"name": name, **TINY[name]}}
        pretrain(typed(Config, table), folder / name)
    return folder / "st_mem", folder / "simclr"


def test_probes_are_fitted_on_people_outside_the_pre_training(
    heart_cohort: Path, heart_runs: tuple[Path, Path]
) -> None:
    run, cohort = runs.load(heart_runs[0]), Cohort.open(heart_cohort)
    report = run_regress(run, cohort, ["size", "mass"])
    assert (report.fit_split, report.n_fit_seen, report.overlap.n_leaked) == ("val", 0, 0)
    assert report.n_recordings == {"fit": 30, "test": 30}
    assert report.n_known == {"size": 30, "mass": 27}
    assert list(report.results) == ["trained", "untrained", "handcrafted", "heart rate"]
    assert report.results["handcrafted"].r2[0] > 0.8  # the amplitude is one of its features
    assert report.results["heart rate"].r2[0] < 0.3

    # on request on those of the pre-training, with a remark
    on_train = run_regress(run, cohort, ["size"], fit="train")
    assert on_train.n_fit_seen == 30
    assert "30 of the people that the probes are fitted on were in the pre-training" in on_train.remarks[0]


def test_encoders_of_other_programs_are_regressed_like_runs(
    heart_cohort: Path, heart_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    run, cohort = runs.load(heart_runs[0]), Cohort.open(heart_cohort)
    write_npz(tmp_path / "mine.npz", embed_cohort(run, cohort), cohort, np.arange(len(cohort)))
    signal = run.config.signal
    about = f"[signal]\nrate_hz = {signal.rate_hz}\nduration_s = {signal.duration_s}\n"
    opened = {}
    for name, stated in (("unknown", ""), ("seen", 'trained_on = ["hearts"]'), ("elsewhere", 'trained_on = ["csn"]')):
        (tmp_path / f"{name}.toml").write_text(f'embeddings = "mine.npz"\n{stated}\n{about}')
        opened[name] = open_encoder(tmp_path / f"{name}.toml")
    # where people of the training split may have been in the training, probes are fitted on others
    fit = {name: choose_fit_split(one, cohort) for name, one in opened.items()}
    assert fit == {"unknown": "val", "seen": "val", "elsewhere": "train"}

    expected = run_regress(run, cohort, ["size", "mass"])
    report = run_regress(opened["unknown"], cohort, ["size", "mass"], beside=[opened["elsewhere"]])
    assert list(report.results) == ["trained", "handcrafted", "heart rate", "elsewhere"]
    for name in ("trained", "handcrafted"):
        assert np.array_equal(report.results[name].predictions, expected.results[name].predictions)
    assert report.gain("elsewhere").value == 0
    assert (report.to_json()["pretraining_data"], expected.to_json()["pretraining_data"]) == ("unknown", "hearts")

    done = invoke(
        "regress", tmp_path / "unknown.toml", heart_cohort, "--targets", "size", "--beside", heart_runs[0],
        "--beside", tmp_path / "elsewhere.toml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "unknown: embeddings file mine.npz; pre-training data: unknown" in words
    assert "elsewhere: embeddings file mine.npz; pre-training data: csn" in words


def test_other_runs_and_covariates_are_rows(heart_cohort: Path, heart_runs: tuple[Path, Path]) -> None:
    first, second = (runs.load(path) for path in heart_runs)
    cohort = Cohort.open(heart_cohort)
    report = run_regress(first, cohort, ["mass"], part="backbone", beside=[second], covariates=["age", "sex", "size"])
    assert list(report.results)[4:] == ["covariates", "trained + covariates", "simclr"]
    assert report.results["covariates"].r2[0] > 0.9
    assert report.results["covariates"].width == 4  # two numbers, two values of sex
    assert report.to_json()["trained_minus"]["covariates"]["mass"]["interval"][1] < 0
    with pytest.raises(RegressError, match="two rows are named simclr; rename the folder"):
        run_regress(first, cohort, ["mass"], beside=[second, second])
    with pytest.raises(RegressError, match="no column 'height' to use as a covariate"):
        run_regress(first, cohort, ["mass"], covariates=["height"])


def test_what_runs_beside_were_trained_on_counts_too(
    heart_cohort: Path, heart_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    """A run that was trained on other people, beside one of the training split and one of the test split."""
    cohort = Cohort.open(heart_cohort)
    table = {**config_table(heart_cohort, steps=1), "method": {"name": "simclr", **TINY["simclr"]}}
    pretrain(typed(Config, {**table, "data": {**table["data"], "train_split": "test"}}), tmp_path / "on_test")
    shutil.copytree(heart_runs[0], tmp_path / "elsewhere")
    data = json.loads((heart_runs[0] / "data.json").read_text())
    (tmp_path / "elsewhere" / "data.json").write_text(json.dumps({**data, "source": "another"}))
    (tmp_path / "elsewhere" / "trained_on.json").write_text('{"salt": "", "people": [], "signals": []}')
    elsewhere, on_train, on_test = (
        runs.load(path) for path in (tmp_path / "elsewhere", heart_runs[1], tmp_path / "on_test")
    )
    assert choose_fit_split(elsewhere, cohort) == "train"

    report = run_regress(elsewhere, cohort, ["size"], beside=[on_train])
    assert (report.fit_split, report.beside_fit_seen) == ("val", {"simclr": 0})
    fitted_on_train = run_regress(elsewhere, cohort, ["size"], fit="train", beside=[on_train, on_test])
    assert fitted_on_train.beside_fit_seen == {"simclr": 30, "on_test": 0}
    remarks = " ".join(fitted_on_train.remarks)
    assert "were in the pre-training of simclr: its scores may be too low" in remarks
    assert "on_test: 30 of the 30 persons of the test split were trained on" in remarks
    counts = fitted_on_train.to_json()["beside_seen_in_pretraining"]
    assert counts["on_test"]["n_people_seen_in_pretraining"] == 30
    assert counts["simclr"]["n_fit_seen_in_pretraining"] == 30


def test_covariates_may_exceed_the_bound_of_the_ecg_and_are_no_targets(
    heart_cohort: Path, heart_runs: tuple[Path, Path]
) -> None:
    run, cohort = runs.load(heart_runs[0]), Cohort.open(heart_cohort)
    cohort.bounds = {"mass": 0.1}
    report = run_regress(run, cohort, ["mass"], covariates=["size"])
    assert report.results["covariates"].r2[0] > 0.9
    assert any(sentence.startswith("handcrafted") for sentence in report.above_bound)
    assert not any("covariates" in sentence for sentence in report.above_bound)
    with pytest.raises(RegressError, match="mass is a target and a covariate"):
        run_regress(run, cohort, ["mass"], covariates=["mass"])
    images_only = runs.load(heart_runs[1])
    images_only.method.embeds_ecg = False
    with pytest.raises(RegressError, match="run simclr has no ECG encoder"):
        run_regress(run, cohort, ["mass"], beside=[images_only])


def test_regress_prints_tables_and_writes_its_files(
    heart_cohort: Path, heart_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    files = {name: tmp_path / f"r.{name}" for name in ("json", "csv", "latex")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    done = invoke(
        "regress", heart_runs[0], heart_cohort, "--targets", "size,mass", "--picture", tmp_path / "r.png", *options
    )
    assert done.returncode == 0, done.stderr
    assert "mean R² of 2 targets on test, ridge on 30 recordings of split val" in " ".join(done.stdout.split())
    result = json.loads(files["json"].read_text())
    assert result["command"] == "regress"
    assert result["n_people_seen_in_pretraining"] == 0
    assert set(result["results"]["trained"]["targets"]["mass"]) == {"r2", "mae", "r"}
    with files["csv"].open() as file:
        lines = list(csv.DictReader(file))
    assert {line["target"] for line in lines} == {"mean", "size", "mass"}
    assert {line["features"] for line in lines} == {"trained", "untrained", "handcrafted", "heart rate"}
    assert r"\toprule" in files["latex"].read_text()
    assert (tmp_path / "r.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), r"cohort cohort names no targets; name some of its numeric columns \(size, mass, age\)"),
        (("--targets", "size,sex"), "no numeric column 'sex'; it has size, mass, age"),
        (("--targets", "size,size"), "target size is named twice; name it once"),
        (("--targets", "size", "--fit", "test"), "cannot be fitted on split 'test'; choose from train, val"),
        (("--targets", "size", "--model", "forest"), "no model 'forest'; choose from ridge, mlp"),
        (("--targets", "size", "--part", "ed"), "run st_mem has no part 'ed'; it has backbone"),
    ],
)
def test_a_wrong_request_is_one_line(
    heart_cohort: Path,
    heart_runs: tuple[Path, Path],
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, before any recording is read."""

    def read(self: Cohort, row: int) -> None:
        raise AssertionError("a recording was read")

    monkeypatch.setattr(Cohort, "block", read)
    done = invoke("regress", heart_runs[0], heart_cohort, *options)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
