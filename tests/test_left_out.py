"""A cohort with recordings that a run cannot read: every command leaves out the same ones, counts them, and ends well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import REPORTS, SIGNAL, TINY, config_table, make_batch
from test_usable_rows import write_all

from leadwise.batch import LEADS
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.sources.source import Row
from leadwise.data.usable_rows import REASONS
from leadwise.evaluate.card import card as cards
from leadwise.evaluate.compare import ProbeScorer, run_compare
from leadwise.evaluate.embed import EmbedError, embed_cohort, usable, write_npz
from leadwise.evaluate.merl_legacy.probe_heads import TrainerSettings
from leadwise.evaluate.probe import run_probe
from leadwise.evaluate.protocol import LegacySettings, run_protocol
from leadwise.evaluate.retrieve import run_retrieval
from leadwise.evaluate.search import search
from leadwise.methods.catalogue import reads_volumes
from leadwise.model import Model
from leadwise.run import Run
from leadwise.training.inputs import open_data
from leadwise.training.loop import pretrain

N = 60
N_EMPTY = 6  # recordings with nothing in the window


def recording(number: int) -> np.ndarray:
    """Recordings of 12, 1, 3 and 12 leads; every tenth begins 4 s before anything is observed."""
    samples = make_batch(4, seed=number).ecg[number % 4].numpy().T.astype(np.float64)  # (400, 12)
    leads = (LEADS, ("II",), ("I", "II", "V2"), LEADS)[number % 4]
    samples[:, [k for k, lead in enumerate(LEADS) if lead not in leads]] = np.nan
    if number % 10 == 5:
        samples = np.concatenate([np.full_like(samples, np.nan), samples])
    return samples


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder, rows = tmp_path_factory.mktemp("mixed"), []
    for number in range(N):
        path, kind = folder / f"{number}.npy", number % 4
        np.save(path, recording(number))
        split = "train" if number < 40 else "val" if number < 50 else "test"
        labels = {"own": {"normal": int(number % 3 == 0), "afib": int(number % 3 == 1)}}
        given = {"leads": LEADS, "rate_hz": 100, "units": "mV", "report": REPORTS[kind], "labels": labels}
        rows.append(Row(f"r{number:02d}", path, f"p{number // 2}", split, **given))
    write_all(rows, folder / "out", {"own": ("normal", "afib")})
    return Cohort.open(folder / "out")


def train(cohort: Cohort, folder: Path, name: str = "cg_dmer", **changes) -> Run:
    table = config_table(cohort.folder, steps=3, **changes)
    table["method"] = {"name": name.split()[0], **TINY[name]}
    if name == "supervised":
        table["data"] |= {"task": "own"}
        table["method"] |= {"classes": []}
    if name == "student":
        table["method"] = {"name": name, "resnet_width": 8}  # the text settings are the teacher's
        table["data"] |= {"teacher": str(train(cohort, folder.with_name("teacher")).folder)}
    return pretrain(typed(Config, table), folder)


@pytest.fixture(scope="module")
def run(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(cohort, tmp_path_factory.mktemp("runs") / "run")


def test_training_leaves_out_what_it_cannot_read(cohort: Cohort, run: Run) -> None:
    data = json.loads((run.folder / "data.json").read_text())
    assert data["left_out"] == {"not_observed": 5}  # four of train, one of val
    assert data["n_signals"] == 36
    opened = open_data(run.config)
    assert (len(opened.train), len(opened.held_out), opened.n_left_out) == (36, 9, 0)


def test_embeddings_are_of_the_others_and_the_file_lists_both(cohort: Cohort, run: Run, tmp_path: Path) -> None:
    rows, left_out = usable(run, cohort, cohort.rows())
    assert left_out.to_json() == {"left_out": {"not_observed": N_EMPTY}}
    write_npz(tmp_path / "e.npz", embed_cohort(run, cohort, rows=rows), cohort, rows, left_out)
    with np.load(tmp_path / "e.npz") as file:
        assert len(file["embedding"]) == N - N_EMPTY
        assert np.isfinite(file["embedding"]).all()
        assert file["left_out"].tolist() == [f"r{number}" for number in ("05", 15, 25, 35, 45, 55)]
        assert set(file["left_out_reason"]) == {"not_observed"}
    everything, none = usable(run, cohort, cohort.rows(), "best")
    assert (len(everything), len(none)) == (N, 0)
    assert np.isfinite(embed_cohort(run, cohort, rows=everything, window="best")).all()
    with pytest.raises(EmbedError, match=r"so run can embed none; it reads .*--window best"):
        usable(run, cohort, np.array([5, 15]))


def test_the_api_has_rows_of_nan_for_them(cohort: Cohort, run: Run) -> None:
    model = Model(run)
    with pytest.raises(EmbedError, match="on_error='nan'"):
        model.embed(cohort)
    vectors = model.embed(cohort, on_error="nan")
    empty = np.arange(5, N, 10)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(vectors).any(axis=1)), empty)
    rows = np.setdiff1d(np.arange(N), empty)
    np.testing.assert_array_equal(vectors[rows], embed_cohort(run, cohort, rows=rows))
    assert [(one["row"], one["ecg"]) for one in vectors.attrs["dropped"]] == [(row, f"r{row:02d}") for row in empty]
    assert {one["reason"] for one in vectors.attrs["dropped"]} == {REASONS["not_observed"]}
    table = model.zeroshot(cohort, ["normal ecg."])
    np.testing.assert_array_equal(np.flatnonzero(table["refused"] != ""), empty)
    np.testing.assert_array_equal(np.flatnonzero(table["cosine"].isna()), empty)


def test_every_evaluation_counts_the_same_recordings(cohort: Cohort, run: Run) -> None:
    probe = run_probe(run, cohort, "own", fractions=(1.0,))
    assert probe.to_json()["left_out"] == {"not_observed": N_EMPTY}
    assert probe.n_recordings == {"train": 36, "val": 9, "test": 9}
    best = run_probe(run, cohort, "own", fractions=(1.0,), window="best")
    assert "left_out" not in best.to_json()
    assert best.n_recordings == {"train": 40, "val": 10, "test": 10}
    comparison = run_compare((run, run), cohort, "own", ProbeScorer(), n_replicates=100)
    assert comparison.to_json()["left_out"] == {"not_observed": N_EMPTY}
    assert comparison.n_records == 9
    retrieval = run_retrieval(run, cohort)
    assert (retrieval.n_records, retrieval.to_json()["left_out"]) == (9, {"not_observed": 1})
    assert "left_out" not in run_retrieval(run, cohort, window="best").to_json()
    result = search(run, cohort, "atrial fibrillation.", top=N)
    assert (len(result.hits), result.to_json()["left_out"]) == (N - N_EMPTY, {"not_observed": N_EMPTY})
    legacy = LegacySettings(faults=(), trainer=TrainerSettings(epochs=1))
    protocol = run_protocol(run, cohort, "own", (1.0,), "merl-legacy", legacy)
    assert protocol.to_json()["left_out_recordings"] == {"not_observed": N_EMPTY}


@pytest.mark.slow
def test_a_card_is_made_without_them(cohort: Cohort, run: Run) -> None:
    card = cards.make_card(run, cohort, quick=True, n_records=20)
    assert card.to_json()["left_out"] == {"not_observed": N_EMPTY}
    assert card.facts["tested_and_trained_on"].startswith("No person of the test split was trained on")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if " " not in name and not reads_volumes(name)])
def test_every_method_trains_embeds_and_probes(cohort: Cohort, tmp_path: Path, name: str) -> None:
    """vuno/ST-MEM#10 and Jwoo5/fairseq-signals#52: recordings of 1, 3 and 12 leads in one cohort."""
    run = train(cohort, tmp_path / "run", name)
    probe = run_probe(run, cohort, "own", fractions=(1.0,))
    assert np.isfinite(probe.results[1.0]["trained"].score.macro)
    assert probe.to_json()["left_out"] == {"not_observed": N_EMPTY}
    assert SIGNAL.n_samples == run.config.signal.n_samples
