"""`leadwise generate` and the scores of a generator: an untrained run, planted features, and plain formulas."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import REPORTS, SIGNAL
from typer.testing import CliRunner

from leadwise import run as runs
from leadwise.batch import LEADS, Signal
from leadwise.cli import app
from leadwise.config import Config
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.formats.reading import read
from leadwise.data.sources import folder as table_source
from leadwise.methods.catalogue import find_method
from leadwise.methods.contract import Conditions
from leadwise.run import Run
from leadwise.synthesis import generation, generation_scores
from leadwise.synthesis.generation import GenerationError, Prompt, prompts_of_cohort, prompts_of_text


def new_run(folder: Path, name: str = "se_diff", variant: str = "", signal: Signal = SIGNAL) -> Run:
    method = {"name": name, **find_method(name).tiny[variant]}
    run = runs.create(Config(signal=signal, method=method), REPORTS, folder)
    run.save_weights()
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return new_run(tmp_path_factory.mktemp("runs") / "maker")


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def error_of(result) -> str:
    return f"{result.exception} {result.output}"


# ------------------------------------------------------------------------------------------------------- generation


def test_a_text_gives_marked_files_that_prepare_reads(run: Run, tmp_path: Path) -> None:
    result = invoke(
        "generate", run.folder, "--text", "atrial fibrillation", "--n", 2, "--age", 70, "--sex", "female",
        "--heart-rate", 120, "--seed", 5, "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, error_of(result)
    names = sorted(path.name for path in (tmp_path / "out" / "ecg").iterdir())
    assert names == sorted(f"ecg-00{n}_synthetic{end}" for n in (1, 2) for end in (".dat", ".hea", ".npz", ".png"))
    header = (tmp_path / "out" / "ecg" / "ecg-001_synthetic.hea").read_text()
    assert "synthetic leads: I, II, III, aVR" in header
    assert "prompt: atrial fibrillation" in header
    assert "seed: 5" in header
    rows = list(csv.DictReader((tmp_path / "out" / "ecgs.csv").open()))
    assert [(row["synthetic"], row["age"], row["sex"], row["heart_rate_bpm"]) for row in rows] == [
        ("1", "70.0", "female", "120.0")
    ] * 2

    # the same ECGs again, through the files: the limb-lead law holds up to rounding
    generated = generation.generate(
        run, prompts_of_text("atrial fibrillation", 2, Conditions(70.0, "female", 120.0)), 5
    )
    recording = read(tmp_path / "out" / "ecg" / "ecg-002_synthetic.hea")
    np.testing.assert_allclose(recording.signal.T, generated[1], atol=2e-3)
    law = generated[:, LEADS.index("II")] - generated[:, LEADS.index("I")] - generated[:, LEADS.index("III")]
    assert float(np.abs(law).max()) < 1e-6
    write(table_source.read_source(tmp_path / "out" / "ecgs.csv"), tmp_path / "cohort")
    assert Cohort.open(tmp_path / "cohort").index["synthetic"].tolist() == [1.0, 1.0]


def test_more_ecgs_do_not_change_the_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_AT_ONCE", 2)
    few = generation.generate(run, prompts_of_text("normal ecg", 2, Conditions()), 1)
    many = generation.generate(run, prompts_of_text("normal ecg", 5, Conditions()), 1)
    np.testing.assert_allclose(many[:2], few, atol=1e-5)
    assert not np.allclose(many[:2], many[2:4])


def test_a_cohort_gives_an_ecg_for_each_report_with_its_labels_and_split(
    run: Run, cohort_folder: Path, tmp_path: Path
) -> None:
    result = invoke("generate", run.folder, "--cohort", cohort_folder, "--split", "val", "-o", tmp_path / "out")
    assert result.exit_code == 0, error_of(result)
    cohort = Cohort.open(cohort_folder)
    write(table_source.read_source(tmp_path / "out"), tmp_path / "generated")
    generated, rows = Cohort.open(tmp_path / "generated"), cohort.rows(split="val")
    assert len(generated) == len(rows) == 10
    assert list(generated.reports) == cohort.reports.take(rows)
    assert list(generated.patients) == cohort.patients.take(rows)
    assert set(generated.index["split"]) == {"val"}
    np.testing.assert_array_equal(generated.labels("own", np.arange(10)), cohort.labels("own", rows))
    header = next((tmp_path / "out" / "ecg").glob("*.hea")).read_text()
    assert not any(report in header for report in REPORTS)  # a report is in the table alone
    assert not list((tmp_path / "out" / "ecg").glob("*.png"))


def test_heart_rates_of_a_cohort_are_measured(cohort_folder: Path) -> None:
    prompts = prompts_of_cohort(Cohort.open(cohort_folder), SIGNAL, "test")
    rates = [prompt.conditions.heart_rate_bpm for prompt in prompts]
    expected = [60 * (0.8 + 0.7 * (i % 4)) for i in range(50, 60)]  # conftest.make_batch
    assert all(rate is None or abs(rate - truth) < 8 for rate, truth in zip(rates, expected))
    assert sum(rate is not None for rate in rates) >= 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "pass --text or --cohort"),
        (("--text", "normal", "--cohort", "x"), "pass --text or --cohort"),
        (("--cohort", "x", "--age", "50"), "belong to --text"),
        (("--text", " "), "--text is empty"),
        (("--text", "normal", "--n", "0"), "0 ECGs cannot be generated"),
        (("--text", "normal", "--sex", "x"), "must be male or female"),
        (("--text", "normal", "--heart-rate", "900"), "must be from 15 to 300"),
    ],
)
def test_options_that_cannot_be_used(run: Run, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    result = invoke("generate", run.folder, *words, "-o", tmp_path / "out")
    assert result.exit_code != 0
    assert message in " ".join(error_of(result).replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_runs_that_generate_nothing(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match=r'train a run of stage "diffusion" with data\.init='):
        generation.check_generates(new_run(tmp_path / "vae", variant="vae"))
    with pytest.raises(GenerationError, match="its method simclr generates no ECGs; use a run of a method that does"):
        generation.check_generates(new_run(tmp_path / "simclr", "simclr", next(iter(find_method("simclr").tiny))))


def test_a_folder_that_exists_is_not_touched(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    result = invoke("generate", run.folder, "--text", "normal", "-o", tmp_path)
    assert result.exit_code != 0
    assert "exists already" in error_of(result)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_ecg_that_is_not_finite_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(type(run.method), "generate", lambda *_: torch.full((1, 12, 5), math.nan))
    with pytest.raises(GenerationError, match="the ECG of ecg-001 is not finite; train the run longer"):
        generation.generate(run, prompts_of_text("normal", 1, Conditions()))
    with pytest.raises(GenerationError, match="no prompt"):
        generation.generate(run, [])


# ----------------------------------------------------------------------------------------------------------- scores


def test_the_frechet_distance_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20_000, 3))
    b = 2 * rng.standard_normal((20_000, 3)) + np.array([3.0, 0.0, 0.0])
    assert generation_scores.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-8)
    assert generation_scores.frechet_distance(a, b) == pytest.approx(9.0 + 3.0, rel=0.03)  # |m|^2 + 3 (2 - 1)^2


def test_the_nearest_distance_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((5, 4)), rng.standard_normal((7, 4))
    plain = [min(math.dist(x, y) for y in b) for x in a]
    np.testing.assert_allclose(generation_scores.nearest_distance(a, b), plain, atol=1e-6)


def test_noise_is_so_far_below_the_signal() -> None:
    ecg = np.sin(np.linspace(0, 300, 4000)).astype(np.float32)[None, None].repeat(2, axis=1)
    ecg[:, 1] *= 3
    clean = generation_scores.EcgSet(ecg, np.ones(ecg.shape, dtype=bool))
    noise = clean.with_noise(10.0, 0).ecg - ecg
    db = 10 * np.log10(np.square(ecg).mean(-1) / np.square(noise).mean(-1))
    np.testing.assert_allclose(db, 10.0, atol=0.3)


@pytest.mark.slow
def test_a_perfect_and_a_blind_generator(tmp_path: Path, cohort_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ECGs that are the recorded ones recover their labels; ECGs that are all equal recover nothing."""
    judge, cohort = (
        new_run(tmp_path / "judge", "simclr", next(iter(find_method("simclr").tiny))),
        Cohort.open(cohort_folder),
    )
    maker = new_run(tmp_path / "maker")
    judged = generation_scores.Judged.of(judge, SIGNAL, cohort, "own")
    recorded = generation_scores.read_set(cohort, SIGNAL, judged.rows["test"]).ecg
    monkeypatch.setattr(generation_scores, "generate", lambda _run, prompts, *_: recorded[: len(prompts)])
    scores, prompts, _ = generation_scores.score_generator(maker, judged)
    assert len(prompts) == scores.n == len(recorded)
    assert scores.recovery.macro == pytest.approx(scores.recorded.macro, abs=1e-6)
    assert scores.frechet["generated"] == pytest.approx(scores.frechet["recorded"], rel=1e-3)
    assert scores.mean_rate_error == pytest.approx(0.0, abs=1e-6)
    equal = np.repeat(recorded[:1], len(recorded), axis=0)
    # features of equal ECGs differ by rounding within a batch, which would give their scores an order
    exact = type(judged.probe).scores
    monkeypatch.setattr(type(judged.probe), "scores", lambda probe, features: exact(probe, features).round(3))
    monkeypatch.setattr(generation_scores, "generate", lambda _run, prompts, *_: equal[: len(prompts)])
    blind, _, _ = generation_scores.score_generator(maker, judged)
    assert blind.recovery.macro == pytest.approx(0.5)
    json.dumps(blind.to_json(), allow_nan=False)
    with pytest.raises(GenerationError, match="has no task 'x'; it has own"):
        generation_scores.Judged.of(judge, SIGNAL, cohort, "x")


def test_the_rare_class_can_gain() -> None:
    """Of 100 ECGs, "a" (5) and "b" (10) are separated by the probe's scores, "c" (20) is not, and "d" has no test ECG."""
    labels = np.zeros((100, 4), dtype=np.int8)
    for column, n in enumerate((5, 10, 20, 4)):
        labels[:n, column] = 1
    scores = labels + np.array([0.0, 0.0, 1.0, 0.0]) * np.random.default_rng(0).standard_normal((100, 1))
    held_out = labels * np.array([1, 1, 1, 0], dtype=np.int8)

    class Known:
        name, tasks = "known", {"own": ["a", "b", "c", "d"]}
        scores = staticmethod(lambda features: features)

    splits = {"train": labels, "val": labels, "test": held_out}
    judged = generation_scores.Judged(Known, SIGNAL, Known, "own", {}, {"val": scores}, splits, Known)  # type: ignore[arg-type]
    assert generation_scores.rarest_class(judged) == "c"
    judged.features["val"] = labels.astype(np.float32)  # no class can gain
    assert generation_scores.rarest_class(judged) == "a"


def test_a_prompt_without_labels_and_patient_has_its_own_name(run: Run, tmp_path: Path) -> None:
    ecg = np.zeros((1, len(LEADS), SIGNAL.n_samples), dtype=np.float32)
    prompts = [dataclasses.replace(Prompt("a b", "normal"), split="test")]
    table = generation.write_folder(tmp_path / "out", run, prompts, ecg, 0, pictures=False)
    row = next(csv.DictReader(table.open()))
    assert (row["record"], row["patient"], row["split"], row["age"]) == ("a_b_synthetic", "a_b_synthetic", "test", "")
