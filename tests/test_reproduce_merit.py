"""The target merit: the arms, the paper's numbers beside ours, and a thesis that can hold and can fail."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from page_order import assert_pictures_first

from leadwise.batch import LEADS
from leadwise.config import ConfigError, read
from leadwise.data.cohort.changed_copy import write_with_other_reports
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.prepare import write
from leadwise.data.simulator import reports
from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.sources import simulated
from leadwise.data.sources.source import Row, Source
from leadwise.methods.catalogue import with_defaults
from leadwise.pictures import plane
from leadwise.reproduce import merit, merit_table, merit_thesis, training_runs
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.cells import Cell
from leadwise.reproduce.merit_thesis import CONTRAST_ONLY, MASK_ONLY, MERIT, ThesisData
from leadwise.reproduce.reproduction import ReproduceRequest, reproduce
from tests.command_line import invoke
from tests.conftest import REPORTS, TINY, config_table

SUPER = ("NORM", "MI", "STTC", "CD", "HYP")


def config_file(folder: Path, cohort: Path | None = None, **settings: object) -> Path:
    table = config_table(cohort or Path())
    table["method"] = {"name": "merit", **TINY["merit"], **settings}
    table["data"] = {"cohort": str(cohort) if cohort else ""}
    path = folder / "merit.toml"
    path.write_text(tomli_w.dumps(table))
    return path


@pytest.fixture(scope="module")
def ptbxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort with PTB-XL's name and two of its levels, of noise."""
    folder = tmp_path_factory.mktemp("ptbxl")
    rng, rows = np.random.default_rng(0), []
    for number in range(60):
        np.save(folder / f"{number}.npy", rng.normal(size=(400, 12)))
        split = "train" if number < 30 else "val" if number < 45 else "test"
        labels = {
            "super": {name: (number >> k) % 2 for k, name in enumerate(SUPER)},
            "form": {"QWAVE": (number // 2) % 2},
        }
        rows.append(
            Row(
                f"r{number}", folder / f"{number}.npy", f"p{number}", split, REPORTS[number % 4], labels,
                leads=LEADS, rate_hz=100, units="mV",
            )
        )  # fmt: skip
    write(Source("ptbxl", rows, {"super": SUPER, "form": ("QWAVE",)}), folder / "small")
    return folder / "small"


def thesis_data(n: int = 400, seed: int = 0) -> ThesisData:
    """Recordings with random labels and values, one per patient; PR is missing in some."""
    rng = np.random.default_rng(seed)
    split = np.array(["train"] * (n // 2) + ["val"] * (n // 4) + ["test"] * (n - n // 2 - n // 4))
    labels = (rng.random((n, len(merit_thesis.STATED_FINDINGS))) < 0.4).astype(np.int8)
    angle = rng.uniform(-1, 2, n)
    pr = np.where(rng.random(n) < 0.2, np.nan, rng.normal(160, 20, n))
    values = [rng.normal(95, 10, n), np.cos(angle), np.sin(angle), pr, rng.normal(410, 20, n), rng.normal(0.3, 0.1, n)]
    return ThesisData(split, np.array([f"p{i}" for i in range(n)]), labels, np.stack(values, axis=1))


def features(data: ThesisData, stated: float, unstated: float, seed: int) -> np.ndarray:
    """Features that contain the labels and the values, each with this weight, in noise."""
    rng = np.random.default_rng(seed)
    values = np.nan_to_num((data.values - np.nanmean(data.values, axis=0)) / np.nanstd(data.values, axis=0))
    clean = np.concatenate([stated * data.labels, unstated * values], axis=1)
    return clean + 0.5 * rng.normal(size=clean.shape)


def arms(data: ThesisData, **weights: tuple[float, float]) -> dict[str, merit_thesis.ArmScore]:
    names = {"mask": MASK_ONLY, "contrast": CONTRAST_ONLY, "merit": MERIT}
    return {
        names[name]: merit_thesis.score_arm(
            [merit_thesis.predict(features(data, *pair, seed=seed), data) for seed in range(1)], data, 60
        )
        for name, pair in weights.items()
    }


# ---------------------------------------------------------------------------------------------------- the verdict


def test_a_planted_thesis_holds_and_a_planted_failure_does_not() -> None:
    data = thesis_data()
    scores = arms(data, mask=(0.1, 1.0), contrast=(1.0, 0.1), merit=(1.0, 1.0))
    sentence = merit_thesis.verdict(merit_thesis.claims(scores))
    assert sentence.startswith("MERIT's thesis holds. MERIT above mask-only on R")
    assert sentence.count(": holds.") == 2
    assert "does not hold" not in sentence

    # MERIT that lost what only the ECG has
    lost = merit_thesis.claims({**scores, **arms(data, merit=(1.0, 0.1))})
    sentence = merit_thesis.verdict(lost)
    assert sentence.startswith("MERIT's thesis does not hold here. MERIT above mask-only on R")
    assert [claim.holds for claim in lost if claim.is_criterion] == [True, False]
    assert sentence.count(": does not hold here.") == 1
    lines = merit_thesis.claim_lines(lost)
    assert [line["verdict"] for line in lines] == ["holds", "does not hold here", "", ""]
    assert [(line["difference"], line["on"]) for line in lines[:2]] == [
        ("MERIT - mask-only", "R"),
        ("MERIT - contrast-only", "U"),
    ]


def test_r_squared_is_the_textbook_one_with_weights_as_repetitions() -> None:
    data = thesis_data(60)
    rng = np.random.default_rng(1)
    predicted = data.values + rng.normal(size=data.values.shape) * np.nanstd(data.values, axis=0)
    weights = rng.integers(0, 3, size=(2, 60))
    got = merit_thesis.r_squared(data.values, predicted, weights)
    for row, weight in zip(got, weights):
        repeated = np.repeat(np.arange(60), weight)
        for k, columns in enumerate(merit_thesis.QUANTITIES.values()):
            y, z = data.values[repeated][:, list(columns)], predicted[repeated][:, list(columns)]
            known = np.isfinite(y).all(axis=1)
            y, z = y[known], z[known]
            assert row[k] == pytest.approx(1 - ((y - z) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum())
    assert np.isnan(merit_thesis.r_squared(np.ones((4, 6)), np.ones((4, 6)), np.ones((1, 4)))).all()


def test_a_feature_that_explodes_outside_training_does_not_ruin_r_squared() -> None:
    data = thesis_data()
    inputs = features(data, 1.0, 1.0, seed=0)
    constant = np.full((len(inputs), 1), 1.0) + 1e-3 * np.random.default_rng(0).normal(size=(len(inputs), 1))
    constant[data.rows("test")] = 1e6
    predicted = merit_thesis.predict_values(np.hstack([inputs, constant]), data)
    test = data.rows("test")
    assert (merit_thesis.r_squared(data.values[test], predicted, np.ones((1, len(test)))) > 0.3).all()


def test_the_interval_of_a_difference_is_paired() -> None:
    """The same predictions give a difference of exactly 0, which does not hold."""
    data = thesis_data(200)
    score = merit_thesis.score_arm([merit_thesis.predict(features(data, 1, 1, 0), data)] * 2, data, 50)
    for claim in merit_thesis.claims({MASK_ONLY: score, CONTRAST_ONLY: score, MERIT: score}):
        assert (claim.difference, claim.interval) == (0.0, (0.0, 0.0))
        assert not claim.holds


def test_rare_findings_are_left_out_of_r_and_named() -> None:
    data = thesis_data()
    test = data.rows("test")
    data.labels[test, 3] = 0
    data.labels[test[:9], 3] = 1  # one fewer than MIN_POSITIVES
    assert data.left_out == {merit_thesis.STATED_FINDINGS[3]: 9}
    predicted = merit_thesis.predict(features(data, 1.0, 1.0, 0), data)
    score = merit_thesis.score_arm([predicted], data, 20)
    assert len(score.stated.per_class) == len(merit_thesis.STATED_FINDINGS) - 1
    predicted.logits[:, 3] = -100 * data.labels[test, 3]  # what the others score does not depend on it
    assert merit_thesis.score_arm([predicted], data, 20).stated == score.stated
    data.labels[test[9], 3] = 1
    assert not data.left_out


# ---------------------------------------------------------------------------------------------------- the reports


def test_shuffled_pairs_have_reports_of_other_patients_in_training_alone(ptbxl: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(ptbxl)
    folder = merit._shuffled(tmp_path, cohort)
    shuffled = Cohort.open(folder, verify=True)
    assert merit._shuffled(tmp_path, cohort) == folder
    rows, train = cohort.rows(), cohort.rows("train")
    assert shuffled.fingerprint != cohort.fingerprint
    for name in ("records", "patients"):
        assert getattr(shuffled, name).take(rows) == getattr(cohort, name).take(rows)
    assert (shuffled.labels("super", rows) == cohort.labels("super", rows)).all()
    assert (shuffled.signal(3)[0] == cohort.signal(3)[0]).all()
    assert sorted(shuffled.reports.take(train)) == sorted(cohort.reports.take(train))
    assert shuffled.reports.take(train) != cohort.reports.take(train)
    others = np.setdiff1d(rows, train)
    assert shuffled.reports.take(others) == cohort.reports.take(others)
    assert [". ".join(one) for one in shuffled.statements(rows)] == [
        text.rstrip(".") for text in shuffled.reports.take(rows)
    ]
    with pytest.raises(CohortError, match="exists already"):
        write_with_other_reports(cohort, folder, train, train)


def test_reports_without_measurements_state_none_and_the_ecgs_are_the_same(tmp_path: Path) -> None:
    plain = simulated.simulate(tmp_path / "plain", 60, 3)
    silent = simulated.simulate(tmp_path / "silent", 60, 3, measurements=False)
    rows = {}
    for folder in (plain, silent):
        with (folder / "records.csv").open() as file:
            rows[folder] = list(csv.DictReader(file))
    assert any(reports.mentions_measurement(row["report"]) for row in rows[plain])
    for before, after in zip(rows[plain], rows[silent], strict=True):
        assert not reports.mentions_measurement(after["report"]), after["report"]
        assert {**before, "report": ""} == {**after, "report": ""}
        signal = Path(before["path"]).with_suffix(".dat")
        assert (plain / signal).read_bytes() == (silent / signal).read_bytes()
    with (silent / "truth.csv").open() as file:
        for row in csv.DictReader(file):
            assert not set(row["report_states"].split()) & reports.MEASURED
            assert -1.5 < float(row["t_mv"]) < 1.5


def test_every_wording_of_a_measured_finding_is_noticed() -> None:
    for code, phrases in reports.PHRASES.items():
        if code in reports.MEASURED:
            assert all(map(reports.mentions_measurement, phrases)), code
        else:
            assert not all(map(reports.mentions_measurement, phrases)), code
    assert not reports.mentions_measurement("sinus rhythm, rate within normal limits")
    assert set(merit_thesis.STATED_FINDINGS) | reports.MEASURED == set(FINDINGS)


def test_a_cohort_whose_reports_state_measurements_is_refused(tmp_path: Path) -> None:
    folder = simulated.simulate(tmp_path / "plain", 30, 3)
    write(simulated.read_source(folder), tmp_path / "cohort")
    cohort = Cohort.open(tmp_path / "cohort")
    with pytest.raises(CohortError, match="reports mention an interval, the axis or the T wave; delete the folder"):
        merit_thesis.load_data(cohort, folder / "truth.csv", cohort.rows())


# ---------------------------------------------------------------------------------------------------- the table


def test_the_table_has_the_papers_numbers_and_never_a_difference_to_a_probe() -> None:
    plain = Cell("MERIT-style", 0, "c", "ptbxl", "all", "probe auroc", None, "trained", 0.8, 0.7, 0.9, 90, ("X",))
    cells = [
        plain,
        dataclasses.replace(plain, seed=1, macro=0.9),
        dataclasses.replace(plain, how="fine-tuned auroc", macro=0.91),
        dataclasses.replace(plain, source="cpsc2018", task="cpsc2018", how="probe f1_val", macro=0.4),
        dataclasses.replace(plain, source="cpsc2018", task="cpsc2018", how="probe f1_max", macro=0.5),
    ]
    lines = merit_table.table(cells)
    assert [(line["task"], line["metric"], line["paper"]) for line in lines] == [
        ("ptbxl super", "AUROC", "93.26"),
        ("ptbxl sub", "AUROC", "93.79"),
        ("ptbxl form", "AUROC", "87.76"),
        ("ptbxl all", "AUROC", "92.70"),
        ("csn csn", "AUROC", "96.46"),
        ("cpsc2018 cpsc2018", "AUROC", "96.46"),
        ("cpsc2018 cpsc2018", "F1", "52.18"),
        ("ptbxl super", "AUROC", "73.44"),
    ]
    assert [line["level of the paper's number"] for line in lines[:7]] == ["fine-tune level, aggregator row"] * 7
    assert (lines[3]["ours, probe"], lines[3]["ours, fine-tuned"]) == ("85.00 (70.0-90.0)", "91.00 (70.0-90.0)")
    assert lines[6]["ours, probe"] == "f1_val 40.00 (70.0-90.0); f1_max 50.00 (70.0-90.0)"
    assert lines[0]["ours, probe"] == lines[7]["ours, zero-shot"] == ""
    assert not any("ours - paper" in column for line in lines for column in line)


# ---------------------------------------------------------------------------------------------------- end to end


def test_the_arms_differ_in_their_weights_alone_and_old_folders_stay_valid(ptbxl: Path, tmp_path: Path) -> None:
    config = with_defaults(read(config_file(tmp_path, ptbxl)))
    options = merit.MeritOptions(tmp_path, config, budget=Budget(steps=4))
    shuffled = merit._shuffled(tmp_path, Cohort.open(ptbxl))
    seeded = merit._arms(options, ptbxl, shuffled)
    assert [(one.label, one.config.optim.seed) for one in seeded] == [
        (arm, seed) for arm in ("mask-only", "contrast-only", "MERIT", "shuffled pairs") for seed in (0, 1, 2)
    ]
    assert {one.label: (one.config.method["b"], one.config.method["w_mem"]) for one in seeded} == {
        "mask-only": (0.0, 1.0),
        "contrast-only": (1.0, 0.0),
        "MERIT": (1.0, 1.0),
        "shuffled pairs": (1.0, 1.0),
    }
    assert {one.config.data.cohort for one in seeded} == {str(ptbxl), str(shuffled)}
    without_data = [dataclasses.replace(one.config, data=config.data) for one in seeded]
    assert without_data[6:9] == without_data[9:]  # the control differs from MERIT in its data alone
    assert {one.config.optim.steps for one in seeded} == {4}

    # the setting that older versions did not have is not part of the folder's name where it changes nothing
    old = dataclasses.replace(config, method={key: value for key, value in config.method.items() if key != "w_mem"})
    assert training_runs._config_hash(config) == training_runs._config_hash(old)
    assert len({training_runs._config_hash(one.config) for one in seeded}) == 12


def test_options_that_leave_nothing_to_do_are_refused(ptbxl: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for request, message in (
        (ReproduceRequest("merit", out, thesis=False), "leaves nothing to compute: give one with --cohorts"),
        (ReproduceRequest("merit", out, finetune_epochs=2), "give a cohort with --cohorts"),
        (ReproduceRequest("merit", out, methods=("merl",)), "leave out --methods"),
        (
            ReproduceRequest("merit", out, configs=(config_file(tmp_path, b=0.0),)),
            r"method.b = 0 in the config of merit",
        ),
        (ReproduceRequest("table3", out, finetune_epochs=2), "belong to the target merit"),
    ):
        with pytest.raises(ConfigError, match=message):
            reproduce(request)
    other = tmp_path / "other.toml"
    other.write_text(tomli_w.dumps(config_table(ptbxl)))
    with pytest.raises(ConfigError, match="merit takes one --config, of the method merit, not of cg_dmer"):
        reproduce(ReproduceRequest("merit", out, configs=(other,)))
    assert not out.exists()


@pytest.mark.slow
def test_the_thesis_end_to_end_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merit, "N_RECORDS", 120)
    monkeypatch.setattr(merit, "N_REPLICATES", 20)
    monkeypatch.setattr(merit_thesis, "MIN_POSITIVES", 2)
    request = ReproduceRequest(
        "merit", tmp_path / "out", configs=(config_file(tmp_path),), budget=Budget(steps=2), seeds=(0, 1)
    )
    result = reproduce(request)
    assert [line["arm"] for line in result.lines] == [
        "mask-only", "contrast-only", "MERIT", "shuffled pairs", "random encoder", "stated findings alone",
    ]  # fmt: skip
    assert result.scale.startswith(("MERIT's thesis holds.", "MERIT's thesis does not hold here."))
    assert "2 steps of 8" in result.scale
    assert "every report was checked" in result.scale
    assert list(result.more) == ["Differences", "The paper's readable numbers beside ours"]
    assert len(result.more["The paper's readable numbers beside ours"]) == len(merit_table.PAPER)
    for name in ("table.md", "table.csv", "table.tex", "figure.png", "page.html", "log.txt"):
        assert (result.folder / name).stat().st_size > 100, name
    page = (result.folder / "page.html").read_text()
    assert_pictures_first(page)
    assert page.index("<table") < page.index("93.26")
    configs = sorted(path.stem for path in (result.folder / "configs").iterdir())
    names = ("mask_only", "contrast_only", "merit", "shuffled_pairs")
    assert configs == sorted(f"{arm}-seed{seed}" for arm in names for seed in (0, 1))
    assert "with at least 2 positive test recordings; left out, with fewer test recordings:" in result.scale
    assert [(line["difference"], line["on"], line["verdict"]) for line in result.more["Differences"][4:]] == [
        ("MERIT - shuffled pairs", "R", ""),
        ("MERIT - shuffled pairs", "U", ""),
    ]
    assert read(result.folder / "configs" / "mask_only-seed0.toml").method["b"] == 0.0

    # again: nothing is trained or scored; a damaged file is scored again
    monkeypatch.setattr(training_runs.training, "pretrain", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(simulated, "simulate", lambda *_, **__: pytest.fail("simulated again"))
    original, calls = merit_thesis.predict, []
    monkeypatch.setattr(merit_thesis, "predict", lambda *given: calls.append(1) or original(*given))
    again = reproduce(request)
    assert (again.lines, again.scale, calls) == (result.lines, result.scale, [])
    next((tmp_path / "out" / "scores").rglob("thesis-*.npz")).write_bytes(b"PK damaged")
    assert (reproduce(request).lines, calls) == (result.lines, [1])


@pytest.mark.slow
def test_the_table_end_to_end_from_the_command_line(ptbxl: Path, tmp_path: Path) -> None:
    json_file = tmp_path / "result.json"
    done = invoke(
        "reproduce", "merit", "--no-thesis", "--cohorts", ptbxl, "--config", config_file(tmp_path), "--budget", "2",
        "--finetune-epochs", "1", "-o", tmp_path / "out", "--json", json_file,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(json_file.read_text())
    lines = {(line["task"], line["metric"], line["paper"]): line for line in result["lines"]}
    ours = lines["ptbxl super", "AUROC", "93.26"]
    assert all(ours[f"ours, {way}"] for way in ("probe", "fine-tuned", "fine-tuned from random weights"))
    assert ours["ours, zero-shot"] == ""
    assert lines["ptbxl super", "AUROC", "73.44"]["ours, zero-shot"]
    assert lines["ptbxl sub", "AUROC", "93.79"]["ours, probe"] == ""
    assert "fine-tuned for 1 epochs" in result["scale"]
    assert "has no task 'all': prepare it again" in (tmp_path / "out" / "merit" / "log.txt").read_text()
    assert {line["ours"] for line in result["tables"]["Ours, every metric"]} == {
        "probe", "zero-shot", "fine-tuned", "fine-tuned from random weights",
    }  # fmt: skip


def test_a_plane_of_two_scores() -> None:
    figure = plane.draw({"a": np.array([[1.0, 2.0], [2.0, 3.0]]), "b": np.array([[0.0, 1.0]])}, "R", "U", "title")
    axes = figure.axes[0]
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["R", "U"]
    assert axes.collections[0].get_offsets().tolist() == [[1.0, 2.0], [2.0, 3.0]]
    assert axes.collections[1].get_offsets().tolist() == [[1.5, 2.5]]
    with pytest.raises(ValueError, match="no points"):
        plane.draw({}, "R", "U")
    with pytest.raises(ValueError, match="group 'a'"):
        plane.draw({"a": np.array([1.0, 2.0])}, "R", "U")
