"""The commands predict and embed on ECG files, and saved probes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from api_run import write_csv_files, write_run
from command_line import invoke
from conftest import make_batch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy.special import expit

import leadwise as lw
from leadwise.batch import LEADS, Signal
from leadwise.data.cohort.cohort import Cohort
from leadwise.evaluate.embed import EmbedError, embed_cohort
from leadwise.evaluate.logistic_regression import ProbeError
from leadwise.evaluate.probe import make_probe_task, probe
from leadwise.evaluate.saved_probe import fit_probe, load_probe

WINDOWS = ("first_10s", "center_10s")
STATED = ("--rate-hz", 100, "--units", "mV")


@pytest.fixture(scope="module")
def run(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("predict") / "run", cohort_folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_csv_files(tmp_path_factory.mktemp("ecgs"))[0]


@pytest.fixture(scope="module")
def saved(run: Path, cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probes") / "own.safetensors"
    done = invoke("probe", run, cohort_folder, "--task", "own", "--fractions", "1", "--save", path)
    assert done.returncode == 0, done.stderr
    assert f"probe written to {path}" in done.stdout
    return path


def test_zero_shot_scores_of_files(run: Path, files: list[Path], cohort_folder: Path, tmp_path: Path) -> None:
    words = ("--prompt", "normal ecg", "--prompt", "sarcoidosis", "--reference", cohort_folder)
    done = invoke("predict", run, *files, "-o", tmp_path / "s.csv", *words, *STATED, "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "s.csv", keep_default_na=False)
    assert list(table.columns) == [
        "ecg", "refused", "normal ecg", "normal ecg.percentile", "sarcoidosis", "sarcoidosis.percentile",
    ]  # fmt: skip
    assert list(table["ecg"]) == [str(path) for path in files]
    scores = lw.load(run).zeroshot(
        files, ["normal ecg", "sarcoidosis"], rate_hz=100, units="mV", reference=cohort_folder
    )
    np.testing.assert_allclose(table["sarcoidosis"], scores["cosine"][scores["class"] == "sarcoidosis"], rtol=1e-4)
    assert "sarcoidosis: rare or absent in training: sarcoidosis" in done.stdout
    result = json.loads((tmp_path / "s.json").read_text())
    assert (result["recordings"], result["refused"], result["reference"]) == (5, 0, {"name": "own", "n": 60})
    assert result["unknown_words"] == {"sarcoidosis": "sarcoidosis"}


def test_a_task_on_a_folder_or_a_cohort(run: Path, files: list[Path], cohort_folder: Path, tmp_path: Path) -> None:
    done = invoke("predict", run, files[0].parent, "-o", tmp_path / "a.parquet", "--task", "super", *STATED)
    assert "--reference COHORT adds percentiles" in done.stdout
    assert done.returncode == 0, done.stderr
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert list(table.columns[:5]) == ["ecg", "refused", "NORM", "NORM.low", "NORM.high"]
    assert len(table) == 5
    done = invoke("predict", run, cohort_folder, "-o", tmp_path / "b.csv", "--task", "super")
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(tmp_path / "b.csv")["ecg"][:2]) == ["ecg00", "ecg01"]


def test_a_file_that_cannot_be_scored_has_a_reason(run: Path, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("I,II\nx,y\n")
    done = invoke("predict", run, files[0], tmp_path / "bad.csv", "-o", tmp_path / "s.csv", "--task", "super", *STATED)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 ECGs have no score" in done.stdout
    table = pd.read_csv(tmp_path / "s.csv")
    assert table["NORM"].isna().tolist() == [False, True]
    assert "bad" in table["refused"].iloc[1]


def test_a_saved_probe_has_the_scores_of_the_command(
    saved: Path, run: Path, cohort_folder: Path, tmp_path: Path
) -> None:
    fitted, model, cohort = load_probe(saved), lw.load(run), Cohort.open(cohort_folder)
    rows = cohort.rows(task="own")
    task, features = make_probe_task(cohort, "own", rows), embed_cohort(model.run, cohort, rows=rows)
    expected = probe(features, task, 1.0)
    test = task.rows("test")
    np.testing.assert_allclose(fitted.model.scores(features[test]), expected.test_scores[0], atol=1e-9)
    table = model.predict(cohort, saved)
    np.testing.assert_allclose(table[list(task.classes)].to_numpy()[test], expit(expected.test_scores[0]), atol=1e-6)
    again = fit_probe(model.run, cohort, "own")
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    assert (fitted.task, fitted.part, fitted.cohort, fitted.n_train) == ("own", "backbone", "own", 40)


def test_a_probe_is_used_with_its_own_window_and_part(saved: Path, run: Path) -> None:
    model, given = lw.load(run), {"rate_hz": 100, "leads": list(LEADS), "units": "mV"}
    longer = make_batch(1, signal=Signal(rate_hz=100, duration_s=9.0)).ecg.numpy()
    own = {window: load_probe(saved).probabilities(model.embed(longer, **given, window=window)) for window in WINDOWS}
    assert not np.allclose(*own.values(), atol=1e-4)
    for window, expected in own.items():
        table = model.predict(longer, dataclasses.replace(load_probe(saved), window=window), **given)
        np.testing.assert_array_equal(table[["normal", "afib", "mi"]].to_numpy(), expected)
    other = dataclasses.replace(load_probe(saved), part="nothing")
    with pytest.raises(EmbedError, match="no part 'nothing'"):
        model.predict(longer, other, **given)


def test_probabilities_of_files(saved: Path, run: Path, files: list[Path], tmp_path: Path) -> None:
    done = invoke("predict", run, *files, "-o", tmp_path / "p.csv", "--probe", saved, *STATED)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table.columns) == ["ecg", "refused", "normal", "afib", "mi"]
    assert table[["normal", "afib", "mi"]].to_numpy().min() >= 0
    assert table[["normal", "afib", "mi"]].to_numpy().max() <= 1


def test_a_probe_of_another_run_or_a_damaged_one_is_refused(
    saved: Path, run: Path, files: list[Path], tmp_path: Path
) -> None:
    other = write_run(tmp_path / "other", seed=1)
    done = invoke("predict", other, files[0], "-o", tmp_path / "p.csv", "--probe", saved, *STATED)
    assert done.returncode == 1
    assert "the probe was fitted on run run" in done.stderr
    assert not (tmp_path / "p.csv").exists()
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(saved.read_bytes()[:300])
    arrays = load_file(saved)
    save_file(arrays, tmp_path / "plain.safetensors")
    with pytest.raises(ProbeError, match="cannot be read as a probe"):
        load_probe(torn)
    with pytest.raises(ProbeError, match="no probe of this version"):
        load_probe(tmp_path / "plain.safetensors")
    for name in ("mean", "inverse_std", "coefficients", "intercepts"):
        with safe_open(saved, framework="numpy") as file:
            save_file(arrays | {name: arrays[name][:-1]}, tmp_path / "short.safetensors", metadata=file.metadata())
        with pytest.raises(ProbeError, match="a damaged probe"):
            load_probe(tmp_path / "short.safetensors")
    with pytest.raises(ProbeError, match="no such file; write it with"):
        load_probe(tmp_path / "nothing")


def test_embeddings_of_files(run: Path, files: list[Path], tmp_path: Path) -> None:
    expected = lw.load(run).embed(files, rate_hz=100, units="mV")
    for name in ("e.npz", "e.csv", "e.parquet"):
        for _ in range(2):  # a file that it wrote itself is replaced
            done = invoke("embed", run, *files, "-o", tmp_path / name, *STATED)
            assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "e.npz") as archive:
        np.testing.assert_array_equal(archive["embedding"], expected)
        assert archive["record"].tolist() == [str(path) for path in files]
    for table in (pd.read_csv(tmp_path / "e.csv"), pd.read_parquet(tmp_path / "e.parquet")):
        np.testing.assert_allclose(table.filter(like="embedding"), expected, rtol=1e-4)


def test_embeddings_of_a_cohort_as_csv(run: Path, cohort_folder: Path, tmp_path: Path) -> None:
    done = invoke("embed", run, cohort_folder, "-o", tmp_path / "c.csv", "--split", "test")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "c.csv")
    assert len(table) == 10
    assert list(table.columns[:4]) == ["ecg", "refused", "patient", "split"]
    assert set(table["split"]) == {"test"}


def test_a_file_without_an_embedding_stops_or_is_a_row(run: Path, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "flat.csv").write_text("I,II\n" + "0,0\n" * 400)
    words = ("embed", run, files[0], tmp_path / "flat.csv", "-o", tmp_path / "e.npz", *STATED)
    done = invoke(*words)
    assert done.returncode == 1
    assert "all leads are flat" in done.stderr
    assert not (tmp_path / "e.npz").exists()
    done = invoke(*words, "--on-error", "nan")
    assert done.returncode == 0, done.stderr
    assert "1 have no embedding" in done.stdout
    with np.load(tmp_path / "e.npz") as archive:
        assert np.isnan(archive["embedding"][1]).all()
        assert "all leads are flat" in archive["refused"][1]


def test_files_without_any_score_are_an_error(run: Path, tmp_path: Path) -> None:
    done = invoke("predict", run, tmp_path / "no.xml", "-o", tmp_path / "s.csv", "--prompt", "sinus rhythm")
    assert done.returncode == 1
    assert "none of the 1 ECGs has a score" in done.stderr
    assert "no.xml: no such file" in done.stderr
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("name", ["manifest.csv", "own.npz", "own.parquet", "folder.csv"])
def test_a_file_of_the_user_is_never_replaced(run: Path, files: list[Path], tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    if name == "manifest.csv":
        target.write_text("path,patient\na.hea,1\n")
    elif name == "own.npz":
        np.savez(target, weights=np.ones(3))
    elif name == "own.parquet":
        pd.DataFrame({"ecg": ["a"], "age": [3]}).to_parquet(target)
    else:
        target.mkdir()
    before = target.read_bytes() if target.is_file() else b""
    commands = [("embed", run, files[0])]
    if not name.endswith(".npz"):
        commands.append(("predict", run, files[0], "--task", "super"))
    for words in commands:
        done = invoke(*words, "-o", target, *STATED)
        assert done.returncode == 2
        assert "leadwise did not write it; choose another name" in done.stderr
        assert (target.read_bytes() if target.is_file() else b"") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "s.txt", "--task", "super"), "must end in .csv or .parquet"),
        (("-o", "s.csv"), "pass one of --task, --prompts, --prompt and --probe"),
        (("-o", "s.csv", "--task", "super", "--prompt", "x"), "pass one of"),
        (("-o", "s.csv", "--probe", "p", "--window", "best"), "belong to zero-shot"),
    ],
)
def test_options_that_do_not_fit(run: Path, files: list[Path], tmp_path: Path, words: tuple, message: str) -> None:
    done = invoke("predict", run, files[0], *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_probe_is_not_saved_over_another_file(run: Path, cohort_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    done = invoke("probe", run, cohort_folder, "--task", "own", "--save", tmp_path / "notes")
    assert done.returncode == 2
    assert "is no probe; choose another name" in done.stderr
    assert (tmp_path / "notes").read_text() == "mine"
