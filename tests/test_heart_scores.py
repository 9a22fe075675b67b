"""Retrieval of heart images and the heart section of a card, on a small cohort with images and a run that embeds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leadwise import run as runs
from leadwise.batch import LEADS, Volume
from leadwise.config import Config, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources.source import Row, Source
from leadwise.data.volumes.volume_file import VolumeFile
from leadwise.evaluate.card.heart import measure_heart
from leadwise.evaluate.retrieve import RetrievalError
from leadwise.evaluate.volume_retrieval import embed_volumes, run_volume_retrieval
from leadwise.pages.card_heart import add_heart
from leadwise.pages.html import Page
from leadwise.training.loop import pretrain
from tests.command_line import invoke
from tests.conftest import TINY, config_table, make_batch

VOLUME = Volume(slices=3, rows=12, columns=10)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 ECGs with images of two phases, whose brightness is the size of the ECG; one has no systolic image."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    rows = []
    for number in range(90):
        size = 0.5 + rng.random()
        np.save(folder / f"{number}.npy", size * make_batch(4, seed=number).ecg[0].numpy().T)
        for phase in VOLUME.phases:
            image = size + 0.1 * rng.random(VOLUME.shape[1:])
            np.savez(folder / f"{number}_{phase}.npz", volume=image.astype(np.float32), spacing_mm=VOLUME.spacing_mm)
        phases = ("ed",) if number == 5 else VOLUME.phases  # in the test split
        extra: dict[str, float | str | None] = {"lvedv": 100 * size + rng.normal(), "lvesv": 50 * size + rng.normal()}
        rows.append(
            Row(
                f"r{number}", folder / f"{number}.npy", f"p{number}", ("train", "val", "test")[number % 3], "normal ecg.", {},
                extra, leads=LEADS, rate_hz=100, units="mV",
                volumes={phase: VolumeFile(folder / f"{number}_{phase}.npz", "volume") for phase in phases},
            )
        )  # fmt: skip
    source = Source("hearts", rows, {}, volume=VOLUME, targets=("lvedv", "lvesv"), bounds={"lvedv": 0.1})
    write(source, folder / "cohort")
    return folder / "cohort"


@pytest.fixture(scope="module")
def pair_run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on them."""
    folder = tmp_path_factory.mktemp("runs") / "dual"
    table = {**config_table(pairs, steps=2), "method": {"name": "dual_phase_cmr", **TINY["dual_phase_cmr"]}}
    method = table["method"]
    method["volume"] = {"slices": VOLUME.slices, "rows": VOLUME.rows, "columns": VOLUME.columns}
    pretrain(typed(Config, table), folder)
    return folder


def test_images_are_retrieved_by_phase_and_together(pairs: Path, pair_run: Path) -> None:
    run, cohort = runs.load(pair_run), Cohort.open(pairs)
    report = run_volume_retrieval(run, cohort, pools=(8, 64), oracle={8: {1: 0.5, 5: 0.9, 10: 1.0}})
    assert report.n_records == 29  # without the one that has no systolic image
    assert report.without_pool == (64,)
    assert report.remark == "No pool of 64: split 'test' has too few patients with a heart image."
    assert list(report.trained) == ["ECG → ED", "ED → ECG", "ECG → ES", "ES → ECG", "ECG → ED + ES", "ED + ES → ECG"]
    assert report.overlap.n_leaked == 0
    rows = report.rows()
    assert [row["features"] for row in rows[-2:]] == ["chance", "oracle"]
    assert len(rows) == 2 * 6 + 2

    # the images are embedded as the method does by itself
    rows_of_test = cohort.rows("test")[2:5]
    assert set(embed_volumes(run, cohort, rows_of_test)) == {"ed", "es"}
    with pytest.raises(RetrievalError, match="29 patients of split 'test' have heart images, fewer than a pool of 64"):
        run_volume_retrieval(run, cohort, pools=(64,))


def test_the_command_prints_a_table_and_refuses_what_it_cannot_score(
    pairs: Path, pair_run: Path, tmp_path: Path
) -> None:
    oracle = tmp_path / "oracle.json"
    oracle.write_text(json.dumps({"retrieval": {"16": {"r_at_1": 0.5}}}))
    done = invoke(
        "retrieve",
        pair_run,
        pairs,
        "--to",
        "volume",
        "--pools",
        "16",
        "--oracle",
        oracle,
        "--json",
        tmp_path / "r.json",
    )
    assert done.returncode == 0, done.stderr
    assert "ECG → ED + ES" in done.stdout
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["to"], result["n_records"], result["oracle"]) == ("volume", 29, {"16": {"1": 0.5}})
    assert result["directions"]["ECG → ED"]["16"]["chance_recall"]["10"] == 10 / 16
    for words, message in (
        (("--to", "image"), "choose report or volume"),
        (("--to", "volume", "--pools", "1"), "must be whole numbers from 2"),
        (("a text", "--to", "volume"), "omit the text"),
    ):
        refused = invoke("retrieve", pair_run, pairs, *words)
        assert refused.returncode == 2
        assert message in " ".join(refused.stderr.replace("│", " ").split())


def test_a_run_or_a_cohort_without_images_is_refused(
    pairs: Path, pair_run: Path, cohort_folder: Path, tmp_path: Path
) -> None:
    table = {**config_table(pairs, steps=2), "method": {"name": "simclr", **TINY["simclr"]}}
    other = pretrain(typed(Config, table), tmp_path / "simclr")
    with pytest.raises(
        RetrievalError, match=r"run simclr \(simclr\) does not embed ECGs and heart images in one space"
    ):
        run_volume_retrieval(other, Cohort.open(pairs))
    with pytest.raises(RetrievalError, match="cohort own has no heart images; prepare one with"):
        run_volume_retrieval(runs.load(pair_run), Cohort.open(cohort_folder))


def test_the_card_has_a_section_on_the_heart(pairs: Path, pair_run: Path, cohort_folder: Path) -> None:
    run, remarks = runs.load(pair_run), []
    heart = measure_heart(run, Cohort.open(pairs), remarks)
    assert heart is not None
    assert heart.numbers is not None
    assert heart.numbers.fit_split == "val"
    assert heart.retrieval is None
    assert remarks == [
        "Retrieval of heart images is not scored: cohort cohort: 29 patients of split 'test' have heart images, fewer than a "
        "pool of 64; choose a smaller pool."
    ]
    page = Page("card")
    add_heart(page, heart, Cohort.open(pairs))
    text = page.html()
    assert "The heart" in text
    assert text.count("<img") == 2  # the scatter, and the images of one heart
    assert "LEAK? handcrafted: R² of lvedv" in text  # the amplitude is the size, and the bound is a planted one
    assert measure_heart(run, Cohort.open(cohort_folder), []) is None
