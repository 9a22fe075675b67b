"""Scores of draws against a posterior that is known, the blood of hearts counted in voxels, and the report of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIGNAL, TINY, make_batch
from torch import Tensor

from leadwise import run as runs
from leadwise.batch import LEADS, Batch, Volume
from leadwise.config import Config
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.simulator.paired.geometry import chambers
from leadwise.data.simulator.paired.population import draw_anatomy
from leadwise.data.simulator.paired.voxels import Grid, image, tissue
from leadwise.data.sources.source import Row, Source
from leadwise.data.volumes.volume_file import VolumeFile
from leadwise.evaluate.blood_pool import left_blood_ml
from leadwise.evaluate.flow_scores import FlowScoreError, counted, covered, crps, judge_draws, score_draws
from leadwise.run import Run


def posterior(n: int, n_draws: int, width: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truths (n, 1) of which half of the variance is known, and draws (S, n, 1) with `width` times the posterior's spread."""
    rng = np.random.default_rng(seed)
    known = rng.normal(size=(n, 1))
    truth = known + rng.normal(size=(n, 1))
    return truth, known + width * rng.normal(size=(n_draws, n, 1))


def test_draws_of_the_posterior_have_the_scores_that_follow_from_it() -> None:
    truth, draws = posterior(1500, 39)
    patients = np.arange(1500).astype(str)
    scores = score_draws("ECG", draws, truth, patients, ["y"]).scores["y"]
    assert scores["r2"].value == pytest.approx(0.5, abs=0.05)
    assert scores["explained"].value == pytest.approx(0.5, abs=0.06)
    assert scores["one_draw"].value == pytest.approx(0.25, abs=0.06)  # the square
    assert scores["coverage"].value == pytest.approx(0.8, abs=0.03)
    assert scores["crps"].value == pytest.approx(1 / np.sqrt(np.pi), abs=0.02)  # of a normal with deviation 1
    low, high = scores["r2"].interval
    assert low < scores["r2"].value < high < low + 0.2

    # too narrow, and of another person
    narrow = score_draws("", posterior(1500, 39, 0.6)[1], truth, patients, ["y"]).scores["y"]
    assert narrow["coverage"].value < 0.65
    assert narrow["crps"].value > scores["crps"].value
    other = score_draws("", np.roll(draws, 1, axis=1), truth, patients, ["y"]).scores["y"]
    assert other["r2"].value < 0.01
    assert other["explained"].value < 0
    assert other["crps"].value > scores["crps"].value

    # one constant value: nothing is explained, and the score is the absolute error
    constant = score_draws("", np.zeros((1, 1500, 1)), truth, patients, ["y"]).scores["y"]
    assert np.isnan(constant["r2"].value)
    assert np.isnan(constant["coverage"].value)
    assert constant["crps"].value == pytest.approx(np.abs(truth).mean())


def test_measures_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    draws, truth = rng.normal(size=(7, 3, 2)), rng.normal(size=(3, 2))
    for n in range(3):
        for q in range(2):
            x, y = draws[:, n, q], truth[n, q]
            pairs = [abs(x[i] - x[j]) for i in range(7) for j in range(7) if i != j]
            assert crps(draws, truth)[n, q] == pytest.approx(np.mean(np.abs(x - y)) - np.mean(pairs) / 2)
            assert covered(draws, truth, level=0.5)[n, q] == float(
                sorted(x)[1] <= y <= sorted(x)[5]
            )  # ranks 2 and 6 of 7


def test_a_few_draws_cover_as_many_truths_as_many() -> None:
    for n_draws in (9, 19, 99):
        truth, draws = posterior(20_000, n_draws)
        assert covered(draws, truth).mean() == pytest.approx(0.8, abs=0.012)


# -------------------------------------------------------------------------------------------------------- the counts


def hearts(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 2, 6, 46, 42) in [0, 1] of simulated hearts, and the LV blood in the same slices in mL (n, 2)."""
    grid, rng = Grid(), np.random.default_rng(seed)
    images, blood = [], []
    for person in draw_anatomy(rng, n):
        diastole = chambers(person, 0)
        pair = [tissue(heart, diastole, grid, rng) for heart in (diastole, chambers(person, 1))]
        raw = [image(parts, rng) for parts in pair]
        images.append([(one - one.min()) / np.ptp(one) for one in raw])
        blood.append([parts.counted_ml(grid)["lv"] for parts in pair])
    return np.array(images, dtype=np.float32), np.array(blood)


def test_the_blood_of_simulated_hearts_is_counted() -> None:
    images, blood = hearts(8)
    values = counted(images, Volume())
    assert values.shape == (8, 3)
    error = values[:, :2] / blood - 1
    assert np.abs(np.median(error, axis=0)).max() < 0.08
    assert np.abs(error).max() < 0.25  # no ventricle is taken for the other
    turned = counted(np.ascontiguousarray(np.rot90(images[:3], 1, axes=(-2, -1))), Volume(rows=42, columns=46))
    assert np.abs(turned[:, :2] / values[:3, :2] - 1).max() < 0.1
    assert np.corrcoef(values[:, 0], blood[:, 0])[0, 1] > 0.95
    assert np.corrcoef(values[:, 1], blood[:, 1])[0, 1] > 0.95
    assert values[:, 2] == pytest.approx(100 * (1 - values[:, 1] / values[:, 0]))
    # draws of several records keep their leading axes
    assert counted(images[None, :4], Volume()).shape == (1, 4, 3)


def test_images_without_blood_have_none() -> None:
    assert left_blood_ml(np.zeros((3, 12, 10)), 0.1) == 0
    assert left_blood_ml(np.random.default_rng(0).random((6, 46, 42)), 0.1) < 5  # noise has no connected region
    assert counted(np.zeros((2, 2, 6, 46, 42), dtype=np.float32), Volume())[:, 2].tolist() == [0, 0]


# -------------------------------------------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """24 people with an ECG whose amplitude is the heart's size, with images; ten of validation, twelve of test."""
    home = tmp_path_factory.mktemp("hearts")
    images, blood = hearts(24, seed=1)
    rows = []
    for number in range(24):
        batch = make_batch(1, seed=number)
        np.save(home / f"{number}.npy", batch.ecg[0].numpy().T * blood[number, 0] / 100)
        files = {}
        for p, phase in enumerate(("ed", "es")):
            spacing = np.array(Volume().spacing_mm, dtype=np.float32)
            np.savez(home / f"{number}-{phase}.npz", volume=images[number, p], spacing_mm=spacing)
            files[phase] = VolumeFile(home / f"{number}-{phase}.npz")
        split = "train" if number < 2 else "val" if number < 12 else "test"
        row = Row(f"r{number}", home / f"{number}.npy", f"p{number}", split, "", volumes=files)
        edv, esv = blood[number].tolist()
        extra = {"lvedv": edv, "lvesv": esv, "lvef": 100 * (1 - esv / edv)}
        rows.append(dataclasses.replace(row, leads=LEADS, rate_hz=100, units="mV", extra=extra))
    source = Source("made", rows, {}, volume=Volume(), targets=("lvedv", "lvesv", "lvef"), bounds={"lvedv": 0.9})
    write(source, home / "cohort", min_report_words=0)
    return Cohort.open(home / "cohort")


def new_run(name: str, **changes) -> Run:
    method = {"name": "ecg_flow_cmr", **TINY[name], **changes}
    if "volume" in method:
        method["volume"] = dataclasses.asdict(Volume())
    run = runs.create(Config(signal=SIGNAL, method=method), [])
    run.method.eval()
    return run


def knowing(run: Run, cohort: Cohort) -> Run:
    """The run with draws that are the person's own target plus noise, or without the ECG those of the first person."""
    is_volume = run.config.method["target"] == "volume"
    number = {record: row for row, record in enumerate(cohort.records)}

    def draw(
        batch: Batch,
        n_draws: int = 1,
        generator: torch.Generator | None = None,
        guidance: float | None = None,
        alpha: float | None = None,
    ) -> Tensor:
        rows = [0 if guidance == 0 else number[record] for record in batch.record]
        if is_volume:
            images = np.stack([cohort.volume(row) for row in rows])
            return torch.from_numpy(images)[None].expand(n_draws, *images.shape)
        true = torch.from_numpy(cohort.phenotypes(("lvedv", "lvesv"), np.array(rows)))
        noise = torch.randn(n_draws, *true.shape, generator=generator)
        return true + (10.0 if alpha is None else alpha) * noise

    run.method.draw = draw
    return run


def test_a_run_is_judged_beside_exchanged_ecgs(cohort: Cohort) -> None:
    run = knowing(new_run("ecg_flow_cmr phenotype"), cohort)
    steps = []
    report = judge_draws(
        run, cohort, n_draws=20, further={"wide": {"alpha": 30.0}}, progress=lambda *step: steps.append(step)
    )
    assert list(report.results) == ["ECG", "another person's ECG", "wide", "no ECG", "mean template"]
    assert report.value("ECG", "lvedv", "r2") > 0.9
    assert report.value("another person's ECG", "lvedv", "r2") < 0.6  # of twelve people
    assert report.value("another person's ECG", "lvedv", "crps") > 2 * report.value("ECG", "lvedv", "crps")
    assert report.value("wide", "lvedv", "coverage") == 1
    assert report.results["mean template"].n_draws == 1
    assert {step[0] for step in steps} == {"ECG", "wide", "no ECG"}
    table = report.rows()
    assert len(table) == 10
    assert [line["bound"] for line in table[:2]] == ["0.90", ""]
    text = json.dumps(report.to_json())
    assert "nan" not in text.lower()
    assert report.to_json()["n_recordings"] == 12


@pytest.mark.slow
def test_blood_counted_in_drawn_images_is_compared_with_the_truth(cohort: Cohort) -> None:
    run = knowing(new_run("ecg_flow_cmr"), cohort)
    report = judge_draws(run, cohort, n_draws=2)
    assert report.targets == ("lvedv", "lvesv", "lvef")
    assert list(report.results)[-2:] == ["true images", "true images through the autoencoder"]
    for target in ("lvedv", "lvesv"):
        assert report.value("true images", target, "explained") > 0.85  # converted to mL by the validation people
        assert report.value("ECG", target, "r2") > 0.85
        assert report.value("another person's ECG", target, "r2") < 0.6
    assert report.value("ECG", "lvef", "r2") > 0.6


@pytest.mark.slow
def test_draws_of_an_untrained_method_can_be_judged(cohort: Cohort) -> None:
    report = judge_draws(new_run("ecg_flow_cmr"), cohort, n_draws=2)
    assert np.isfinite(report.results["ECG"].draws).all()


def test_what_cannot_be_judged_is_an_error(cohort: Cohort, tmp_path: Path) -> None:
    other = runs.create(Config(signal=SIGNAL, method={"name": "simclr", **TINY["simclr"]}), [])
    with pytest.raises(FlowScoreError, match="choose a run of a method that does, such as ecg_flow_cmr"):
        judge_draws(other, cohort)
    with pytest.raises(FlowScoreError, match=r"has no target 'rvef'; it has lvedv, lvesv, lvef"):
        judge_draws(new_run("ecg_flow_cmr phenotype", phenotypes=["lvedv", "rvef"]), cohort)
    with pytest.raises(FlowScoreError, match="choose another split"):
        judge_draws(new_run("ecg_flow_cmr phenotype"), cohort, split="train")
    run = new_run("ecg_flow_cmr")
    run.config.method["volume"]["phases"] = ["ed"]
    with pytest.raises(FlowScoreError, match="there is no es"):
        judge_draws(run, cohort)
