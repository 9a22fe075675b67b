"""The Python API: what it accepts, what it returns, and one clear error for the rest."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from api_run import write_csv_files
from conftest import REPORTS, SIGNAL, TINY, config_table, make_batch
from huggingface_hub.errors import HfHubHTTPError

import leadwise as lw
from leadwise import run as runs
from leadwise.batch import LEADS
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.recordings.recording import RecordError
from leadwise.ecg import from_array
from leadwise.evaluate.embed import EmbedError, embed_cohort
from leadwise.evaluate.prompts import PromptError
from leadwise.evaluate.text_embeddings import NoTextEncoderError
from leadwise.evaluate.vocabulary import unknown_words
from leadwise.evaluate.zeroshot import zeroshot_scores
from leadwise.hub import HubError
from leadwise.model import Model
from leadwise.run import RunError
from leadwise.trained_on import TrainedOn, patient_hash

GIVEN = {"rate_hz": 100, "leads": list(LEADS), "units": "mV"}


@pytest.fixture(scope="module")
def run_folder(cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = typed(Config, {**config_table(cohort_folder), "method": {"name": "cg_dmer", **TINY["cg_dmer"]}})
    folder = tmp_path_factory.mktemp("model") / "run"
    people = [patient_hash("folder", f"p{i:02d}") for i in range(20)]
    provenance = {"cohort": "own", "source": "folder", "fingerprint": "0" * 16, "people": people}
    hashes = TrainedOn.of("folder", ["p03"], [])
    runs.create(config, REPORTS * 20, folder, provenance, hashes=hashes).save_weights()
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "resume").mkdir()
    return folder


@pytest.fixture(scope="module")
def model(run_folder: Path) -> Model:
    return lw.load(run_folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], np.ndarray]:
    return write_csv_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def files(written: tuple[list[Path], np.ndarray]) -> list[Path]:
    return written[0]


@pytest.fixture(scope="module")
def arrays(written: tuple[list[Path], np.ndarray]) -> np.ndarray:
    return written[1]


def test_import_does_not_import_torch() -> None:
    program = "import sys, leadwise; print('torch' in sys.modules); leadwise.read; print('torch' in sys.modules, dir(leadwise))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.startswith("False\nFalse ")
    for name in lw.__all__:
        assert name in out
        assert getattr(lw, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'embed'"):
        lw.embed  # noqa: B018


def test_read_gives_twelve_leads_with_quality_and_a_picture(files: list[Path], tmp_path: Path) -> None:
    ecg = lw.read(files[0], rate_hz=100, units="mV")
    assert ecg.signal.shape == ecg.observed.shape == (12, SIGNAL.n_samples)
    assert ecg.leads == LEADS
    assert (ecg.rate_hz, ecg.duration_s, ecg.format, ecg.refusal) == (100, 4.0, "csv", "")
    assert list(ecg.quality.index) == list(LEADS)
    assert set(ecg.quality["origin"]) == {"recorded"}
    assert repr(ecg) == "ECG('e0', 12 leads, 4 s, 100 Hz)"
    ecg.plot(tmp_path / "ecg.png")
    assert (tmp_path / "ecg.png").read_bytes().startswith(b"\x89PNG")
    np.save(tmp_path / "e0.npy", ecg.signal)
    content = lw.read((tmp_path / "e0.npy").read_bytes(), **GIVEN)
    np.testing.assert_array_equal(content.signal, ecg.signal)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ecg)).signal, ecg.signal)


def test_missing_limb_leads_are_derived_and_named() -> None:
    ecg = from_array(make_batch(1).ecg[0, :2].numpy(), rate_hz=100, leads=["I", "II"], units="mV")
    np.testing.assert_allclose(ecg.signal[2], ecg.signal[1] - ecg.signal[0])
    assert list(ecg.quality["origin"][:6]) == ["recorded"] * 2 + ["derived"] * 4
    assert not ecg.observed[6:].any()
    assert any("not recorded: V1" in remark for remark in ecg.remarks)


def test_formats_lists_every_format_with_a_description() -> None:
    table = lw.formats()
    assert {"wfdb", "csv", "npy"} <= set(table.index)
    assert table["description"].str.len().min() > 10


def test_every_form_of_input_gives_the_same_embedding(
    model: Model, arrays: np.ndarray, files: list[Path], tmp_path: Path
) -> None:
    expected = model.embed(arrays, **GIVEN)
    assert expected.shape == (5, len(model.columns()))
    assert expected.dtype == np.float32
    named = {"rate_hz": 100, "units": "mV"}
    forms = {
        "tensor": (torch.from_numpy(arrays), GIVEN),
        "float64 tensor with a gradient": (torch.tensor(arrays, dtype=torch.float64, requires_grad=True), GIVEN),
        "list of arrays": (list(arrays), GIVEN),
        "microvolts": (arrays * 1000, GIVEN | {"units": "uV"}),
        "paths": (files, named),
        "array of paths": (np.array([str(path) for path in files]), named),
        "series of paths": (pd.Series([str(path) for path in files], index=list("abcde")), named),
        "folder": (files[0].parent, named),
        "pattern": (f"{files[0].parent}/e*.csv", named),
        "ECGs": ([lw.read(path, **named) for path in files], {}),
        "mixed": ([files[0], *(from_array(one, **GIVEN) for one in arrays[1:])], named),
    }
    for name, (ecgs, given) in forms.items():
        np.testing.assert_allclose(model.embed(ecgs, **given, batch_size=2), expected, atol=2e-5, err_msg=name)
    np.save(tmp_path / "stack.npy", arrays)
    np.testing.assert_allclose(model.embed(tmp_path / "stack.npy", **GIVEN), expected, atol=2e-5)
    for one in (arrays[1], from_array(arrays[1], **GIVEN), from_array(arrays[1], **GIVEN).recording):
        given = GIVEN if isinstance(one, np.ndarray) else {}
        np.testing.assert_allclose(model.embed(one, **given), expected[1:2], atol=2e-5)


def test_leads_in_another_order_and_other_channels_are_found_by_name(model: Model, arrays: np.ndarray) -> None:
    order = [5, 3, *range(6, 12), 0, 1, 2, 4]
    expected = model.embed(arrays, **GIVEN)
    np.testing.assert_allclose(
        model.embed(arrays[:, order], rate_hz=100, leads=[LEADS[k] for k in order], units="mV"), expected, atol=2e-5
    )
    more = np.concatenate([arrays, arrays[:, :1]], axis=1)
    np.testing.assert_allclose(model.embed(more, **GIVEN | {"leads": [*LEADS, "-"]}), expected, atol=2e-5)


def test_a_cohort_and_a_dataframe(model: Model, cohort_folder: Path, files: list[Path]) -> None:
    cohort = Cohort.open(cohort_folder)
    expected = embed_cohort(model.run, cohort)
    np.testing.assert_array_equal(model.embed(cohort), expected)
    np.testing.assert_array_equal(model.embed(str(cohort_folder)), expected)
    table = pd.DataFrame({"file": [str(path) for path in files], "rate_hz": 100}, index=list("vwxyz"))
    before = table.copy()
    result = model.embed(table, units="mV", path_column="file", part="backbone+shared")
    assert list(result.index) == list("vwxyz")
    assert list(result.columns) == model.columns("backbone+shared")
    assert result.columns[0] == "backbone0"
    assert "shared0" in result.columns
    pd.testing.assert_frame_equal(table, before)
    with pytest.raises(RecordError, match="no column 'path'; it has file, rate_hz"):
        model.embed(table)

    # the remedy of that message works wherever ECGs are expected
    scores = model.zeroshot(table, ["normal ecg."], reference=table, units="mV", path_column="file")
    assert list(scores.index) == list("vwxyz")
    assert scores["percentile"].notna().all()
    near = model.similar(table, table, top=1, units="mV", path_column="file")
    assert list(near.index) == list("vwxyz")
    assert list(near["record"]) == list(near["ecg"]) == list(table["file"])
    with pytest.raises(RecordError, match="explain takes one ECG; got 5"):
        model.explain(table, "normal ecg.", units="mV", path_column="file")


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ((2, 12, 400), {}, "does not state its lead names, sampling rate, unit; pass leads=, rate_hz=, units="),
        ((2, 12, 400), {"leads": LEADS}, "its sampling rate, unit; pass rate_hz=, units="),
        ((2, 400, 12), GIVEN, r"\(2, 400, 12\), samples before leads; .*array.swapaxes\(1, 2\)"),
        ((400, 12), GIVEN, r"transpose it: array.T"),
        ((2, 11, 400), GIVEN, r"has shape \(2, 11, 400\), but leads= names 12"),
        ((12, 400, 2, 1), GIVEN, r"must be \(N, L, T\)"),
        ((0, 12, 400), GIVEN, "shape"),
        ((2, 12, 400), GIVEN | {"units": "volt-ish"}, "unit 'volt-ish' is not known"),
        ((2, 12, 400), GIVEN | {"rate_hz": -5}, "-5 Hz"),
        ((2, 12, 400), GIVEN | {"leads": "I,II"}, r"is one text; pass a list of names: leads=\['I', 'II'\]"),
        ((2, 12, 400), GIVEN | {"leads": [*LEADS[:-1], "Q9"]}, "'Q9' is none of"),
    ],
)
def test_an_array_that_is_not_described_is_one_error(model: Model, shape: tuple, given: dict, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        model.embed(np.ones(shape), **given)


@pytest.mark.parametrize(
    ("ecgs", "message"),
    [
        ([], "no ECG was given"),
        (3, "int is no ECG"),
        ("nothing/*.xml", "no file matches"),
        ("nothing.csv", "(?i)no such file"),
        (np.array([[True, False]]), "bool"),
        (pd.DataFrame({"path": []}), "no rows"),
    ],
)
def test_an_input_without_ecgs_is_one_error(model: Model, ecgs: object, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        model.embed(ecgs, **GIVEN)


def bad_arrays(good: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays that cannot be embedded, by a part of the reason."""
    late = np.full_like(good, np.nan)
    late = np.concatenate([late, good], axis=1)  # the first four seconds are missing
    few = np.full_like(good, np.nan)
    few[:, :3] = good[:, :3]
    return {
        "all leads are flat": np.zeros_like(good),
        "no sample was observed": np.full_like(good, np.nan),
        "is the unit right": good * 1000,
        "nothing was observed in the window of the run": late,
        "no patch of any lead was observed": few,
    }


def test_an_ecg_that_cannot_be_used_is_an_error_or_a_row_of_nan(model: Model, arrays: np.ndarray) -> None:
    bad = bad_arrays(arrays[0])
    for reason, array in bad.items():
        with pytest.raises((RecordError, EmbedError), match=reason):
            model.embed([arrays[1], array], **GIVEN)
    with pytest.raises(
        RecordError, match=r"in the window of the run .*; choose another window .*, or pass on_error='nan'"
    ):
        model.embed(bad["nothing was observed in the window of the run"], **GIVEN)
    assert np.isfinite(model.embed(bad["nothing was observed in the window of the run"], **GIVEN, window="best")).all()
    with pytest.raises(RecordError, match="all leads are flat") as caught:
        model.explain(bad["all leads are flat"], "normal ecg.", **GIVEN)
    assert "on_error" not in str(caught.value)
    result = model.embed([arrays[1], *bad.values(), arrays[2]], **GIVEN, on_error="nan", batch_size=3)
    np.testing.assert_allclose(result[[0, -1]], model.embed(arrays[1:3], **GIVEN), atol=2e-5)
    assert np.isnan(result[1:-1]).all()
    dropped = result.attrs["dropped"]
    assert [one["row"] for one in dropped] == [1, 2, 3, 4, 5]
    for reason, one in zip(bad, dropped):
        assert reason in one["reason"]
        assert "on_error" not in one["reason"]  # a row of NaN is what that option gives; predict and explain have none
    nothing = model.embed(list(bad.values()), **GIVEN, on_error="nan")
    assert nothing.shape == (5, result.shape[1])
    with pytest.raises(EmbedError, match="choose 'raise' or 'nan'"):
        model.embed(arrays, **GIVEN, on_error="skip")


def test_the_window_moves_to_the_samples(model: Model, arrays: np.ndarray) -> None:
    late = np.concatenate([np.full_like(arrays[0], np.nan), arrays[0]], axis=1)
    moved = model.embed(late, **GIVEN, window="multi_crop_mean")
    np.testing.assert_allclose(moved, model.embed(arrays[0], **GIVEN), atol=2e-5)
    with pytest.raises(ValueError, match="merl_5s_pad"):
        model.embed(late, **GIVEN, window="merl_5s_pad")


def test_each_window_of_a_longer_ecg_is_that_part(model: Model, arrays: np.ndarray) -> None:
    longer = np.concatenate(list(arrays[:3]), axis=1)  # 12 s
    parts = model.embed([longer[:, start : start + 400] for start in (0, 400, 800, 500)], **GIVEN)
    late = longer.copy()
    late[:, :500] = np.nan
    for window, ecg, expected in (
        ("first_10s", longer, parts[0]),
        ("center_10s", longer, parts[1]),
        ("multi_crop_mean", longer, parts[:3].mean(axis=0)),
        ("best", late, parts[3]),
    ):
        np.testing.assert_allclose(model.embed(ecg, **GIVEN, window=window)[0], expected, atol=2e-5, err_msg=window)


def test_only_the_leads_that_a_run_reads_place_its_window(arrays: np.ndarray) -> None:
    table = config_table(Path("unused"))
    table = {
        **table,
        "signal": {**table["signal"], "leads": ["I", "V1"]},
        "method": {"name": "simclr", **TINY["simclr"]},
    }
    two_leads = Model(runs.create(typed(Config, table), []))
    own = [LEADS.index("I"), LEADS.index("V1")]
    ecg = np.full((12, 1200), np.nan)
    ecg[:, :400] = arrays[0]
    ecg[own, :400] = np.nan
    ecg[own, 800:] = arrays[1][own]
    expected = two_leads.embed(arrays[1], **GIVEN)
    for window in ("best", "multi_crop_mean"):
        np.testing.assert_allclose(two_leads.embed(ecg, **GIVEN, window=window), expected, atol=2e-5, err_msg=window)


def test_zeroshot_has_the_cosines_of_the_command_and_ranges_and_percentiles(
    model: Model, cohort_folder: Path, arrays: np.ndarray
) -> None:
    cohort = Cohort.open(cohort_folder)
    prompts = {"normal": ["normal ecg.", "normal sinus rhythm. normal ecg."], "rare": "sarcoidosis."}
    table = model.zeroshot(cohort, prompts, reference=cohort)
    assert len(table) == 2 * len(cohort)
    from leadwise.evaluate.prompt_scores import find_wordings

    scores = zeroshot_scores(model.run, cohort, np.arange(len(cohort)), list(find_wordings(prompts).values()))
    for k, name in enumerate(prompts):
        rows = table[table["class"] == name]
        np.testing.assert_allclose(rows["cosine"], scores[:, k], atol=1e-6)
        # ranks within the cohort itself
        assert rows["percentile"].mean() == pytest.approx(50)
        assert rows.loc[rows["cosine"].idxmax(), "percentile"] > 99
    both, single = (table[table["class"] == name] for name in prompts)
    assert (both["low"] < both["high"]).all()
    assert single["low"].isna().all()
    assert set(single["unknown_words"]) == {"sarcoidosis"}
    assert set(both["n_prompts"]) == {2}
    assert table.attrs["reference"] == {"name": "own", "n": 60}

    # without a reference there is no percentile; a refused ECG has a reason and no score
    table = model.zeroshot([arrays[0], np.zeros_like(arrays[0])], ["normal ecg"], **GIVEN)
    assert table["percentile"].isna().all()
    assert table["cosine"].isna().tolist() == [False, True]
    assert "all leads are flat" in table["refused"].iloc[1]
    assert table["refused"].iloc[0] == ""

    # a refused ECG of the reference is not counted
    reference = [*arrays, np.zeros_like(arrays[0])]
    table = model.zeroshot(arrays[:1], ["normal ecg"], reference=reference, **GIVEN)
    assert table.attrs["reference"] == {"name": "given ECGs", "n": 5}


def test_zeroshot_of_a_task_and_of_wrong_prompts(model: Model, arrays: np.ndarray, tmp_path: Path) -> None:
    table = model.zeroshot(arrays[:1], "super", **GIVEN)
    assert list(table["class"]) == ["NORM", "MI", "STTC", "CD", "HYP"]
    (tmp_path / "own.toml").write_text(
        'source = "x"\ntask = "t"\n[classes.a]\nname = "normal ecg"\nprompts = ["normal ecg."]\n'
    )
    assert list(model.zeroshot(arrays[:1], tmp_path / "own.toml", **GIVEN)["class"]) == ["a"]
    for prompts, message in (
        ("atrial fibrillation", r"pass a list: \['atrial fibrillation'\]"),
        ([], "no class"),
        ({"a": []}, "class 'a' has no text"),
        ([" . "], "an empty one"),
        (7, "got int"),
    ):
        with pytest.raises(PromptError, match=message):
            model.zeroshot(arrays[:1], prompts, **GIVEN)


def test_words_that_the_run_does_not_know(model: Model) -> None:
    assert unknown_words(model.run, "Normal sarcoidosis ECG, normal sarcoidosis") == ("sarcoidosis",)


def test_texts_similar_ecgs_and_an_explanation(
    model: Model, cohort_folder: Path, arrays: np.ndarray, tmp_path: Path
) -> None:
    vectors = model.embed_text(["normal ecg.", "atrial fibrillation."])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.embed_text("normal ecg."), vectors[:1], atol=1e-6)

    near = model.similar(arrays[:2], cohort_folder, top=3, **GIVEN)
    assert list(near.columns) == ["ecg", "place", "record", "cosine", "split", "own"]
    assert near["place"].tolist() == [1, 2, 3, 1, 2, 3]
    assert near["cosine"].iloc[:3].is_monotonic_decreasing
    own = model.similar(arrays[:2], [*arrays, np.zeros_like(arrays[0])], top=99, **GIVEN)
    assert own.loc[0, "record"].iloc[0] == "0"
    assert own["cosine"].iloc[0] == pytest.approx(1)
    assert len(own) == 2 * 5  # the flat one is not in the bank
    after = model.similar(arrays[:1], [np.zeros_like(arrays[0]), *arrays], top=1, **GIVEN)
    assert after["record"].tolist() == ["1"]  # a record after the flat one has its own name

    map_ = model.explain(arrays[0], "atrial fibrillation.", **GIVEN)
    assert list(map_.leads.index) == list(LEADS)
    assert map_.drops.shape[0] == 12
    np.testing.assert_allclose(map_.drops.columns, np.arange(map_.drops.shape[1]) * map_.map.window_s, atol=1e-6)
    for without_top, without_random, is_reliable in ((0.2, 0.1, True), (0.1, 0.2, False), (-0.1, -0.2, False)):
        occlusion = dataclasses.replace(map_.map, without_top=without_top, without_random=without_random)
        assert dataclasses.replace(map_, map=occlusion).is_reliable == is_reliable
    map_.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").is_file()
    with pytest.raises(RecordError, match="explain takes one ECG; got 2"):
        model.explain(arrays[:2], "atrial fibrillation.", **GIVEN)
    with pytest.raises(RecordError, match="all leads are flat"):
        model.explain(np.zeros_like(arrays[0]), "atrial fibrillation.", **GIVEN)


def test_a_run_without_texts_embeds_and_refuses_prompts(arrays: np.ndarray) -> None:
    config = typed(Config, {**config_table(Path("unused")), "method": {"name": "simclr", **TINY["simclr"]}})
    plain = Model(runs.create(config, []))
    assert plain.embed(arrays, **GIVEN).shape[0] == 5
    assert not plain.embeds_text
    with pytest.raises(NoTextEncoderError, match="ECGs alone"):
        plain.zeroshot(arrays, ["normal ecg."], **GIVEN)
    with pytest.raises(RunError, match="no folder"):
        plain.save_pretrained("anywhere")


def test_a_hub_id_is_read_from_the_cache_and_fetched_only_on_request(
    run_folder: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(HubError, match=r'load\("org/ecg", download=True\), or with: hf download org/ecg'):
        lw.load("org/ecg")
    with pytest.raises(HubError, match="cannot be downloaded"):  # the tests are offline
        lw.load("org/ecg", download=True)
    with pytest.raises(HubError, match="belongs to a hub id"):
        lw.load(run_folder, revision="main")
    calls: list[dict] = []

    def fetch(repo: str, **wanted: object) -> str:
        calls.append({"repo": repo, **wanted})
        return str(run_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert Model.from_pretrained("org/ecg", revision="v1").fingerprint == model.fingerprint
    assert (calls[0]["repo"], calls[0]["revision"], calls[0]["local_files_only"]) == ("org/ecg", "v1", True)
    assert set(calls[0]["allow_patterns"]) == {
        "config.toml",
        "data.json",
        "model.safetensors",
        "README.md",
        "calibration.json",
        "tokenizer/*",
    }
    lw.load("org/ecg", download=True)
    assert calls[1]["local_files_only"] is False
    (tmp_path / "org" / "ecg").mkdir(parents=True)
    with pytest.raises(RunError, match="not a run folder"):  # an existing folder comes first
        lw.load("org/ecg")
    assert len(calls) == 2


def test_a_shared_folder_loads_and_leaves_out_who_was_trained_on(
    model: Model, run_folder: Path, cohort_folder: Path, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    folder = model.save_pretrained(tmp_path / "shared", license="cc-by-4.0")
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "config.toml", "data.json", "model.safetensors", "tokenizer"} <= names
    assert not names & {"metrics.jsonl", "resume", "embeddings", "trained_on.json"}
    text = "".join(path.read_text() for path in folder.rglob("*") if path.suffix in (".md", ".toml", ".json"))
    assert str(cohort_folder) not in text
    assert patient_hash("folder", "p03") not in text
    assert patient_hash("folder", "p03") in "".join(path.read_text() for path in run_folder.glob("*.json"))
    assert json.loads((folder / "data.json").read_text())["source"] == "folder"

    again = lw.load(folder)
    assert again.fingerprint == model.fingerprint
    card = ModelCard.load(folder / "README.md").data
    assert (card.library_name, card.pipeline_tag, card.license) == ("leadwise", "feature-extraction", "cc-by-4.0")
    with pytest.raises(HubError, match="is not empty"):
        model.save_pretrained(folder)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    owner = model.save_pretrained(tmp_path / "owner", card=False, people=True)
    assert not (owner / "README.md").exists()
    assert (owner / "trained_on.json").read_bytes() == (run_folder / "trained_on.json").read_bytes()
    assert patient_hash("folder", "p03") in "".join(path.read_text() for path in owner.glob("*.json"))


def test_push_uploads_the_shared_folder_and_is_private(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict] = []

    class Api:
        def create_repo(self, repo_id: str, **options: object) -> None:
            calls.append({"repo": repo_id, **options})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **options: object) -> None:
            calls.append({"files": {path.name for path in Path(folder_path).iterdir()}})
            assert f'load("{repo_id}", download=True)' in (Path(folder_path) / "README.md").read_text()

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert model.push_to_hub("org/ecg") == "https://huggingface.co/org/ecg"
    assert calls[0]["private"] is True
    assert "model.safetensors" in calls[1]["files"]
    with pytest.raises(HubError, match="has the form org/name"):
        model.push_to_hub("ecg")


def test_push_without_a_network_is_one_error(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match=r"org/ecg cannot be uploaded .*hf auth login"):
            model.push_to_hub("org/ecg")

    # the HTTP library's own error, which is no OSError
    http_error = next(base for base in HfHubHTTPError.__mro__ if base.__module__.startswith("httpx"))
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", Mock(side_effect=http_error("no such host")))
    with pytest.raises(HubError, match=r"org/ecg cannot be uploaded \(no such host\)"):
        model.push_to_hub("org/ecg")


def test_export_writes_the_encoder(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr("leadwise.onnx_export.export_onnx", lambda *words: calls.append(words) or words[1])
    assert model.export_onnx(tmp_path / "encoder.onnx", part="shared") == tmp_path / "encoder.onnx"
    assert calls == [(model.run, tmp_path / "encoder.onnx", "shared")]  # the export itself: tests/test_onnx_export.py
