"""`ECGEmbedder` in scikit-learn: clone, pickle, pipelines, cross-validation and grid search."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from api_run import write_csv_files, write_run
from conftest import make_batch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import leadwise as lw
from leadwise.batch import LEADS
from leadwise.data.recordings.recording import RecordError
from leadwise.hub import HubError
from leadwise.run import RunError

GIVEN = {"rate_hz": 100, "leads": list(LEADS), "units": "mV"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_run(tmp_path_factory.mktemp("sklearn") / "run"))


@pytest.fixture(scope="module")
def arrays() -> np.ndarray:
    return make_batch(16, seed=1).ecg.numpy()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    paths, _ = write_csv_files(tmp_path_factory.mktemp("files"), 8)
    return pd.DataFrame({"path": [str(path) for path in paths], "age": 50}, index=[f"r{i}" for i in range(8)])


def test_parameters_clone_and_representation(run: str) -> None:
    embedder = lw.ECGEmbedder(run, part="shared", **GIVEN)
    assert set(embedder.get_params()) == {
        "run", "part", "rate_hz", "leads", "units", "path_column", "window", "batch_size", "device", "on_error",
    }  # fmt: skip
    copy = clone(embedder)
    assert copy is not embedder
    assert copy.get_params() == embedder.get_params()
    assert copy.set_params(part="backbone").part == "backbone"
    assert "part='shared'" in repr(embedder)


def test_it_must_be_fitted_with_a_run(run: str, arrays: np.ndarray) -> None:
    embedder = lw.ECGEmbedder(run, **GIVEN)
    for call in (lambda: embedder.transform(arrays), embedder.get_feature_names_out):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(TypeError, match="run must be a folder, name or hub id; got Model"):
        lw.ECGEmbedder(lw.load(run)).fit(arrays)
    with pytest.raises(HubError, match="no run 'nothing'"):
        lw.ECGEmbedder("nothing").fit(arrays)


def test_arrays_give_the_embeddings_of_the_model_and_are_unchanged(run: str, arrays: np.ndarray) -> None:
    before = arrays.copy()
    embedder = lw.ECGEmbedder(run, **GIVEN).fit(arrays)
    features = embedder.transform(arrays)
    assert type(features) is np.ndarray
    np.testing.assert_array_equal(features, lw.load(run).embed(arrays, **GIVEN))
    np.testing.assert_array_equal(features, embedder.transform(arrays))
    np.testing.assert_array_equal(arrays, before)
    assert list(embedder.get_feature_names_out()) == [f"backbone{k}" for k in range(features.shape[1])]


def test_a_table_of_paths_and_pandas_output(run: str, table: pd.DataFrame) -> None:
    before = table.copy()
    embedder = lw.ECGEmbedder(run, rate_hz=100, units="mV").set_output(transform="pandas")
    features = embedder.fit_transform(table)
    assert list(features.index) == list(table.index)
    assert features.columns[0] == "backbone0"
    pd.testing.assert_frame_equal(table, before)
    plain = lw.ECGEmbedder(run, rate_hz=100, units="mV").fit(None)
    np.testing.assert_array_equal(plain.transform(list(table["path"])), features.to_numpy())
    np.testing.assert_array_equal(plain.transform(table["path"].to_numpy()[:, None]), features.to_numpy())


def test_window_and_column_are_those_of_the_model(run: str, arrays: np.ndarray, table: pd.DataFrame) -> None:
    longer, model = np.concatenate([arrays[:1], arrays[1:2]], axis=2), lw.load(run)
    own = [
        lw.ECGEmbedder(run, window=window, **GIVEN).fit(None).transform(longer)
        for window in ("first_10s", "center_10s")
    ]
    assert not np.allclose(*own, atol=1e-4)
    np.testing.assert_array_equal(own[1], model.embed(longer, window="center_10s", **GIVEN))
    renamed = lw.ECGEmbedder(run, rate_hz=100, units="mV", path_column="file").fit(None)
    expected = model.embed(table, rate_hz=100, units="mV")
    np.testing.assert_array_equal(renamed.transform(table.rename(columns={"path": "file"})), expected)


def test_a_pickle_holds_no_weights_and_loads_the_same_run(run: str, arrays: np.ndarray, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    embedder = lw.ECGEmbedder(str(own), **GIVEN).fit(arrays)
    text = pickle.dumps(embedder)
    assert len(text) < 5000
    np.testing.assert_array_equal(pickle.loads(text).transform(arrays), embedder.transform(arrays))
    shutil.rmtree(own)
    write_run(own, seed=1)
    with pytest.raises(RunError, match="has changed since this ECGEmbedder was fitted"):
        pickle.loads(text).transform(arrays)


def test_cross_validation_and_grid_search(run: str, arrays: np.ndarray, table: pd.DataFrame) -> None:
    pipe = make_pipeline(lw.ECGEmbedder(run, **GIVEN), StandardScaler(), LogisticRegression())
    labels = np.arange(len(arrays)) % 2
    scores = cross_val_score(
        pipe, arrays, labels, groups=np.arange(len(arrays)) // 2, cv=GroupKFold(2), error_score="raise"
    )
    assert scores.shape == (2,)
    search = GridSearchCV(pipe, {"ecgembedder__part": ["backbone", "shared"]}, cv=2, error_score="raise")
    search.fit(arrays, labels)
    assert search.best_params_["ecgembedder__part"] in ("backbone", "shared")
    assert search.predict(arrays).shape == labels.shape
    of_table = make_pipeline(lw.ECGEmbedder(run, rate_hz=100, units="mV"), LogisticRegression())
    assert cross_val_score(of_table, table, np.arange(8) % 2, cv=2, error_score="raise").shape == (2,)


def test_an_ecg_that_cannot_be_read_is_an_error_or_a_row_of_nan(run: str, table: pd.DataFrame) -> None:
    broken = table.assign(path=[*table["path"][:-1], "nothing.csv"])
    embedder = lw.ECGEmbedder(run, rate_hz=100, units="mV").fit(broken)
    with pytest.raises(RecordError, match=r"nothing\.csv"):
        embedder.transform(broken)
    features = embedder.set_params(on_error="nan").transform(broken)
    assert np.isnan(features[-1]).all()
    assert np.isfinite(features[:-1]).all()
