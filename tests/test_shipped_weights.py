"""Weights that ship with the package: their names, what comes before them, half precision, and the wheel that holds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from api_run import write_csv_files, write_run
from command_line import invoke
from conftest import make_batch

import leadwise as lw
from leadwise import hub, weights
from leadwise.batch import LEADS
from leadwise.evaluate import prompt_calibration
from leadwise.hub import HubError
from leadwise.model import Model
from leadwise.run import RunError

ROOT = Path(__file__).resolve().parents[1]
GIVEN = {"rate_hz": 100, "leads": list(LEADS), "units": "mV"}


@pytest.fixture(scope="module")
def run_folder(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("shipped") / "run", cohort_folder)


@pytest.fixture(scope="module")
def model(run_folder: Path) -> Model:
    return lw.load(run_folder)


@pytest.fixture
def mini(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships one run, `mini`; returns the folder of the weights."""
    model.save_pretrained(tmp_path / "weights" / "mini")
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "weights"


def test_a_name_that_does_not_exist_lists_those_that_do(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.find("mini") == mini / "mini"
    with pytest.raises(HubError, match="weights that ship with this version are: mini"):
        lw.load("ptbxl")
    with pytest.raises(HubError, match="mini ships with the package"):
        lw.load("mini", revision="main")
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "none")
    with pytest.raises(HubError, match=r"no weights are shipped with this version.*leadwise demo"):
        lw.load("ptbxl")
    with pytest.raises(RunError, match="not a run folder"):
        lw.load(tmp_path)


def test_a_run_folder_comes_before_shipped_weights_and_another_folder_does_not(
    mini: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "work" / "mini").mkdir(parents=True)  # such as the folder of a data set
    monkeypatch.chdir(tmp_path / "work")
    assert lw.load("mini").run.folder == mini / "mini"
    assert not caplog.text
    shutil.copytree(run_folder, tmp_path / "work" / "mini", dirs_exist_ok=True)
    assert lw.load("mini").run.folder == Path("mini")
    assert "not the weights of that name that ship with leadwise" in caplog.text


def test_the_commands_take_shipped_names_and_write_nothing_into_the_package(
    mini: Path, cohort_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_csv_files(tmp_path / "ecgs", 1)[0][0]
    before = sorted(mini.rglob("*"))
    given = ("--rate-hz", 100, "--units", "mV")
    for words in (
        ("predict", "mini", file, "-o", "s.csv", "--prompt", "normal ecg.", *given),
        ("embed", "mini", cohort_folder, "-o", "e.npz", "--split", "test"),
        ("retrieve", "mini", cohort_folder, "atrial fibrillation", "--top", 1, "-o", "page.html"),
        ("probe", "mini", cohort_folder, "--task", "own", "--fractions", "1"),
        ("compare", "mini", "mini", cohort_folder, "--task", "own", "--resamplings", "100"),
        ("check", cohort_folder, "--run", "mini"),
    ):
        done = invoke(*words, cwd=tmp_path)
        assert "error" not in done.stderr, done.stderr
        assert done.returncode == 0 or words[0] == "check", done.stderr
    assert sorted(mini.rglob("*")) == before
    assert list((tmp_path / "cache" / "leadwise" / "mini").glob("backbone-*.npz"))
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "none")
    done = invoke("predict", "ptbxl", file, "-o", "t.csv", "--prompt", "normal ecg.", *given, cwd=tmp_path)
    assert done.returncode == 1
    assert "no weights are shipped with this version" in done.stderr


def test_half_precision_is_half_the_file_and_nearly_the_same_embedding(model: Model, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "half", dtype="float16")
    assert model.run.folder is not None
    size, full = ((place / "model.safetensors").stat().st_size for place in (folder, model.run.folder))
    assert size < 0.6 * full
    half = lw.load(folder)  # compares the digests in the header
    stored = [weight for weight in half.run.method.state_dict().values() if weight.is_floating_point()]
    assert {weight.dtype for weight in stored} == {torch.float32}
    arrays = make_batch(5, seed=3).ecg.numpy()
    one, two = model.embed(arrays, **GIVEN), half.embed(arrays, **GIVEN)
    assert np.linalg.norm(one - two) < 1e-2 * np.linalg.norm(one)
    scores = [one.zeroshot(arrays, "super", **GIVEN)["cosine"] for one in (model, half)]
    np.testing.assert_allclose(*scores, atol=5e-3)

    # a copy of the copy is the same run, and a changed byte is noticed
    again = lw.load(half.save_pretrained(tmp_path / "again"))
    assert again.fingerprint == half.fingerprint != model.fingerprint
    with pytest.raises(RunError, match="choose 'float16'"):
        model.save_pretrained(tmp_path / "other", dtype="int8")
    assert not (tmp_path / "other").exists()
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="its weights changed"):
        lw.load(folder)


def test_values_beyond_the_range_of_float16_stay_as_they_are(model: Model, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = lw.load(model.save_pretrained(tmp_path / "copy")).run
    name = next(iter(dict(run.method.named_parameters())))
    with torch.no_grad():
        run.method.get_parameter(name).view(-1)[0] = 1e6
    run.write_weights(tmp_path / "w.safetensors", "float16")
    stored = load_file(tmp_path / "w.safetensors")
    assert stored[name].dtype == torch.float32
    assert sum(tensor.dtype == torch.float16 for tensor in stored.values()) > 10


def test_the_card_states_whether_patients_are_listed(model: Model, tmp_path: Path) -> None:
    listed = model.save_pretrained(tmp_path / "people", people=True) / "README.md"
    assert "lists hashes of the patients" in listed.read_text()
    assert "are not listed in this folder" in (model.save_pretrained(tmp_path / "plain") / "README.md").read_text()


@pytest.mark.parametrize("name", weights.names())
def test_shipped_weights_are_small_complete_and_load(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = weights.folder(name)
    assert folder is not None
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= weights.MOST_BYTES, sizes
    assert {"config.toml", "data.json", "model.safetensors", "README.md", "trained_on.json"} <= sizes.keys()
    assert not {path for path in sizes if path.startswith(("embeddings", "resume", "metrics"))}
    loaded = lw.load(name)
    assert loaded.run.training_hashes is not None
    assert not loaded.embeds_text or prompt_calibration.read(loaded.run)  # of these weights
    vectors = loaded.embed(make_batch(2, signal=loaded.signal).ecg.numpy(), rate_hz=loaded.signal.rate_hz,
                           leads=list(loaded.signal.leads), units="mV")  # fmt: skip
    assert np.isfinite(vectors).all()


@pytest.mark.slow
def test_a_wheel_holds_the_weights_and_an_installed_package_loads_them(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="pip install hatchling")
    # a copy of the project with one more shipped run, as a wheel
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "leadwise", project / "leadwise", ignore=shutil.ignore_patterns("__pycache__"))
    model.save_pretrained(project / "leadwise" / "weights" / "mini", people=True)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(command, cwd=project, check=True, capture_output=True)

    # every file of every shipped folder is in it
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    place = project / "leadwise" / "weights"
    expected = {path.relative_to(project).as_posix() for path in place.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())
        archive.extractall(tmp_path / "installed")

    # the installed package loads it by its name, from another folder
    write_csv_files(tmp_path / "ecgs", 1)
    words = (
        "predict",
        "mini",
        "ecgs/e0.csv",
        "-o",
        "s.csv",
        "--prompt",
        "normal ecg.",
        "--rate-hz",
        "100",
        "--units",
        "mV",
    )
    done = subprocess.run(
        [sys.executable, "-m", "leadwise", *words], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "installed"), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rows written to s.csv" in done.stdout
