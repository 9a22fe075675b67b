"""The target dual_phase: the exchanged images, the verdicts on planted scores, and the whole command with tiny settings."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from page_order import assert_pictures_first

from leadwise.config import ConfigError
from leadwise.evaluate.metrics.auroc import auroc_score
from leadwise.evaluate.metrics.score import Score
from leadwise.evaluate.regress import RegressTask, score_predictions
from leadwise.reproduce import dual_phase_scores as scoring
from leadwise.reproduce.budget import Budget
from leadwise.reproduce.dual_phase_data import half, shuffled
from leadwise.reproduce.dual_phase_scores import DIRECTION, PHENOTYPES, DualPhaseScores, Recall
from leadwise.reproduce.reproduction import ReproduceRequest, reproduce
from tests.command_line import invoke
from tests.conftest import TINY

# correlation of the prediction with the truth, whose square is about R²
STRENGTH = {
    scoring.RATE: 0.1, scoring.CRAFTED: 0.4, scoring.RANDOM: 0.5, scoring.MASKED: 0.55, scoring.ED: 0.62, scoring.ES: 0.63,
    scoring.BOTH: 0.7, scoring.WITHOUT_DS: 0.69, scoring.FROM_RANDOM: 0.69, scoring.SHUFFLED: 0.54,
    scoring.HALF: 0.69,
}  # fmt: skip


N_PEOPLE = 400
N_SEEDS = 2


@pytest.fixture(autouse=True)
def _few_resamplings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadwise.evaluate.regress.N_REPLICATES", 60)


@functools.cache
def planted_task() -> tuple[RegressTask, np.ndarray]:
    """The true values of the people, and an error of each prediction (S, N, Q)."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(N_PEOPLE, len(PHENOTYPES)))
    shared, own = rng.normal(size=truth.shape), rng.normal(size=(N_SEEDS, *truth.shape))
    patients = np.arange(N_PEOPLE).astype(str)
    task = RegressTask(PHENOTYPES, truth, patients, np.arange(50), np.arange(50, N_PEOPLE))
    return task, 0.99 * shared + np.sqrt(1 - 0.99**2) * own


@functools.cache
def planted_arm(name: str, r: float) -> scoring.FeatureScores:
    task, noise = planted_task()
    predictions = r * (r * task.values + np.sqrt(1 - r**2) * noise)[:, 50:]
    return score_predictions(name, predictions, task, 16, draw_repeats=True)


@functools.cache
def planted_outcomes(r: float) -> Score:
    rng = np.random.default_rng(0)
    labels = (rng.random((N_PEOPLE, 1)) < 0.3).astype(np.int8)
    logits = labels + r * rng.normal(size=labels.shape)
    patients = np.arange(N_PEOPLE).astype(str)
    return scoring.over_seeds([auroc_score(labels, logits + k, patients, ("hf",), 50) for k in range(N_SEEDS)])


def planted(**strength: float) -> DualPhaseScores:
    """Scores in which every acceptance line holds, with the strength of some arms replaced."""
    named = {"both": scoring.BOTH, "masked": scoring.MASKED, "shuffled": scoring.SHUFFLED, "images": scoring.CMR}
    levels = {**STRENGTH, scoring.CMR: 0.95, scoring.CMR_HALF: 0.94} | {named[k]: v for k, v in strength.items()}

    good, chance = Recall({1: 0.05, 5: 0.2, 10: 0.35}, {1: 0.01, 5: 0.01, 10: 0.02}, 30.0), Recall(
        {1: 0.004, 5: 0.02, 10: 0.04}, {1: 0.01, 5: 0.01, 10: 0.01}, 128.0
    )  # fmt: skip
    return DualPhaseScores(
        {name: planted_arm(name, levels[name]) for name in STRENGTH},
        {name: planted_arm(name, levels[name]) for name in (scoring.CMR, scoring.CMR_HALF)},
        {scoring.BOTH: {(DIRECTION, 256): good}, scoring.SHUFFLED: {(DIRECTION, 256): chance}},
        {name: planted_outcomes(levels[name]) for name in STRENGTH},
        dict.fromkeys(PHENOTYPES, 0.53),
        {256: {1: 0.106, 5: 0.32, 10: 0.48}},
        -5.3,
    )


def by_number(scores: DualPhaseScores) -> dict[str, bool | None]:
    return {line.criterion.split(".")[0]: line.holds for line in scoring.verdicts(scores)}


def test_planted_scores_meet_every_line_and_planted_failures_do_not() -> None:
    scores = planted()
    assert by_number(scores) == dict.fromkeys(("1", "2a", "2b", "3", "4", "5a", "5b", "6", "7", "8"), True)
    assert scoring.summary(scoring.verdicts(scores)) == "10 of 10 acceptance lines hold."

    # each failure alone
    assert by_number(planted(images=0.8))["1"] is False
    assert by_number(planted(both=0.57))["2a"] is False
    assert by_number(planted(masked=0.45))["2b"] is False
    assert by_number(planted(both=0.85))["3"] is False
    assert by_number(planted(shuffled=0.7))["5a"] is False
    leak = Recall({1: 0.5, 5: 0.8, 10: 0.9}, {1: 0.01, 5: 0.01, 10: 0.02}, 2.0)
    leaky = dataclasses.replace(scores, retrieval={name: {(DIRECTION, 256): leak} for name in scores.retrieval})
    assert (by_number(leaky)["4"], by_number(leaky)["5b"]) == (False, False)
    assert by_number(dataclasses.replace(scores, ef_shift=-0.5))["7"] is False
    assert by_number(dataclasses.replace(scores, n_in_training=3))["8"] is False

    # small cohorts have no pool of 256
    small = dataclasses.replace(scores, retrieval={name: {} for name in scores.retrieval})
    assert by_number(small)["4"] is None
    assert scoring.summary(scoring.verdicts(small)) == "8 of 10 acceptance lines hold."


def test_a_leak_of_one_phenotype_in_any_row_and_an_arm_above_the_oracle_are_named() -> None:
    scores = planted()
    low = dataclasses.replace(scores, bounds={**scores.bounds, "rvef": 0.3})
    line = next(one for one in scoring.verdicts(low) if one.criterion.startswith("3."))
    assert line.holds is False
    assert "rvef by ED + ES, w_DS = 0" in line.measured
    assert "lvef" not in line.measured
    line = next(one for one in scoring.verdicts(scores) if one.criterion.startswith("3."))
    assert re.fullmatch(r"none is; the closest is \w+ by .*, bound 0.530", line.measured)
    assert by_number(dataclasses.replace(scores, bounds={}))["3"] is None

    # another arm than ED + ES reaches more than any method can
    leak = Recall({1: 0.3, 5: 0.6, 10: 0.6}, {1: 0.01, 5: 0.01, 10: 0.02}, 5.0)
    leaky = {**scores.retrieval, scoring.ES: {("ECG → ES", 256): leak}}
    line = next(
        one for one in scoring.verdicts(dataclasses.replace(scores, retrieval=leaky)) if one.criterion.startswith("4.")
    )
    assert line.holds is False
    assert line.measured.endswith("above the oracle: ES only, ECG → ES")


def test_intervals_are_wider_when_seeds_differ() -> None:
    task, noise = planted_task()
    test = task.values[50:]
    alike, apart = np.stack([0.6 * test, 0.6 * test]), np.stack([0.9 * test, 0.3 * test])
    widths = []
    for predictions in (alike, apart):
        one = score_predictions("arm", predictions + 0.1 * noise[:, 50:], task, 4, draw_repeats=True)
        low, high = one.mean_r2.interval
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]
    single = {"recall": {"10": 0.3}, "standard_error": {"10": 0.02}, "median_rank": 9}
    assert scoring.recall_of([single, single]).standard_error[10] == pytest.approx(0.02)
    other = {"recall": {"10": 0.4}, "standard_error": {"10": 0.02}, "median_rank": 9}
    pooled = scoring.recall_of([single, other])
    assert pooled.values[10] == pytest.approx(0.35)
    assert pooled.standard_error[10] == pytest.approx(np.sqrt(0.02**2 + 0.005 / 2))


def test_tables_have_the_bound_the_differences_and_the_papers_numbers() -> None:
    scores = planted()
    lines = scoring.phenotype_lines(scores)
    assert lines[-1]["arm"] == "bound: the best from any ECG"
    assert lines[-1]["lvef"] == "0.53"
    names = [line["difference"] for line in scoring.ablation_lines(scores)]
    assert "ED + ES minus ED only" in names
    assert {line["seeds"] for line in scoring.ablation_lines(scores)} == {"2"}
    retrieval = scoring.retrieval_lines(scores)
    assert {line["arm"] for line in retrieval} == {scoring.BOTH, scoring.SHUFFLED, "chance", "likelihood oracle"}
    paper = {line["quantity"]: line["paper"] for line in scoring.paper_lines(scores)}
    assert paper == {"functional phenotypes": "+9.2 %", "structural phenotypes": "", "outcomes": "+0.7 %"}


def test_an_arm_of_one_seed_is_compared_with_the_same_seed_of_the_other() -> None:
    scores, (task, _) = planted(), planted_task()
    first = [score_predictions(n, planted_arm(n, 0.6).predictions[:1], task, 16) for n in (scoring.BOTH, scoring.HALF)]
    arms = {**scores.phenotypes, scoring.HALF: first[1]}
    lines = scoring.ablation_lines(dataclasses.replace(scores, phenotypes=arms, both_first=first[0]))
    by_name = {line["difference"]: line for line in lines}
    assert by_name["ED + ES minus ED only"]["seeds"] == "2"
    line = by_name[f"ED + ES minus {scoring.HALF}"]
    assert (line["seeds"], line["EF"]) == ("the first", "+0.000 (+0.000 to +0.000)")


def test_every_training_person_gets_the_images_of_another_one() -> None:
    rows, others = shuffled(np.arange(3, 11))
    assert sorted(rows) == sorted(others) == list(range(3, 11))
    assert not (rows == others).any()


def test_the_systolic_image_may_be_the_middle_frame() -> None:
    subjects = [{"record": f"r{k}", "ed": f"{k}_ed", "es": f"{k}_es", "half": f"{k}_half"} for k in range(3)]
    assert [(row["ed"], row["es"]) for row in half(subjects)] == [(row["ed"], row["half"]) for row in subjects]


def request(out: Path, **settings: object) -> ReproduceRequest:
    return dataclasses.replace(ReproduceRequest("dual_phase", out), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("merl",)}, "dual_phase simulates its cohort and has its own arms: leave out"),
        ({"finetune_epochs": 2}, "dual_phase simulates its cohort and has its own arms: leave out"),
        ({"n_people": 10}, "--people 10: give 120 or more"),
        ({"target": "table1", "n_people": 100}, "the number of simulated people belongs to the target dual_phase"),
    ],
)
def test_options_of_other_targets_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reproduce(request(tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_writes_every_table_and_computes_nothing_twice(tmp_path: Path) -> None:
    signal = {"rate_hz": 100, "duration_s": 10.0}
    optim, log = {"steps": 2, "batch_size": 8}, {"validate_records": 8, "validate_every": 2}
    configs = []
    volume = {"volume_widths": [4, 8], "volume_width": 8, "shared_width": 16}
    methods = {"st_mem": TINY["st_mem"], "dual_phase_cmr": {"encoder": "resnet", "resnet_width": 8, **volume}}
    for name, method in methods.items():
        path = tmp_path / f"{name}.toml"
        path.write_text(
            tomli_w.dumps({"signal": signal, "optim": optim, "log": log, "method": {"name": name, **method}})
        )
        configs.append(path)
    out = tmp_path / "out"
    wanted = request(out, configs=tuple(configs), budget=Budget(steps=2), n_people=120)
    result = reproduce(wanted)
    assert [line["arm"] for line in result.lines][-1] == "bound: the best from any ECG"
    assert len(result.more["Acceptance"]) == 10
    assert set(result.more) == {
        "Acceptance", "Differences: what each part adds", "Retrieval, test people",
        "The paper's readable numbers beside ours",
    }  # fmt: skip
    page = (result.folder / "page.html").read_text()
    assert_pictures_first(page)
    assert "Simulated." in page
    assert not (out / "dual_phase_pairs").exists()

    # again, from what is stored
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    again = invoke(
        "reproduce", "dual_phase", "-o", out, "--people", "120", "--budget", "2", "--config", configs[0], "--config",
        configs[1], "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()} == before
    assert json.loads((tmp_path / "r.json").read_text())["lines"] == result.lines
    assert "has 120 simulated people, not 130" in " ".join(
        invoke("reproduce", "dual_phase", "-o", out, "--people", "130").stderr.split()
    )
