"""A method that reads heart images and phenotypes: it trains on the recordings that have them, and stores what it needs."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config_table
from test_ecg_cmr import VOLUME, Line, make_folder, options_for

from leadwise import methods
from leadwise import run as runs
from leadwise.batch import Volume
from leadwise.config import Config, ConfigError, dumps, typed
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.cohort.prepare import write
from leadwise.data.sources import ecg_cmr
from leadwise.methods import catalogue
from leadwise.training.dry_run import plan
from leadwise.training.inputs import open_data
from leadwise.training.loop import pretrain

WALL = '''
"""Wall: predict phenotypes from heart images.
A journal of 2026.

    L_wall    squared error of standardised phenotypes
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal, Volume
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.encoder import EcgEncoder, EncoderSettings, check_part


@dataclass(frozen=True)
class Config(EncoderSettings, MethodConfig):
    volume: Volume = Volume()
    phenotypes: tuple[str, ...] = ("lvedv", "lvesv")


class Method(PretrainingMethod):
    reads_volumes = True
    reads_phenotypes = True
    config: Config

    def __init__(
        self, config: Config, signal: Signal, tokenizer: object = None, saved_folder: Path | None = None
    ) -> None:
        super().__init__(config, signal)
        self.ecg = EcgEncoder(config, signal)
        self.head = nn.Linear(self.ecg.width + len(config.volume.phases), len(config.phenotypes))
        self.register_buffer("mean", torch.zeros(len(config.phenotypes)))
        self.n_given = 0

    def take_phenotypes(self, table: Tensor) -> None:
        self.mean.copy_(table.nanmean(dim=0))
        self.n_given += 1

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.volume.shape[1:] == self.config.volume.shape
        assert batch.has_volume.any(dim=1).all()
        features = torch.cat([self.ecg(batch), batch.volume.mean(dim=(2, 3, 4))], dim=1)
        error = (self.head(features) - batch.phenotype / self.mean).square()
        return {"L_wall": error[batch.phenotype.isfinite()].mean()}

    def embed_ecg(self, batch: Batch, part: str = "backbone") -> Tensor:
        check_part(part, self.parts)
        return self.ecg(batch)
'''


@pytest.fixture(autouse=True)
def _wall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The method `wall`, in a folder that is part of the package `leadwise.methods` for one test."""
    folder = tmp_path / "added_methods"
    folder.mkdir()
    (folder / "wall.py").write_text(WALL)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop("leadwise.methods.wall", None)
    vars(methods).pop("wall", None)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def remove_some(folder: Path, lines: list[Line]) -> None:
        lines[0]["ed"] = lines[0]["es"] = ""  # of train
        lines[1]["es"] = ""
        lines[2]["target.lvedv"] = lines[2]["target.lvesv"] = ""  # of val

    folder = make_folder(tmp_path_factory.mktemp("paired") / "source", 24, remove_some)
    write(ecg_cmr.read_source(folder, options_for()), folder.parent / "cohort")
    return folder.parent / "cohort"


def config_for(cohort: Path, steps: int = 2, **volume: object) -> Config:
    geometry = dataclasses.asdict(dataclasses.replace(VOLUME, **volume))  # type: ignore[arg-type]
    table = config_table(cohort, steps=steps)
    return typed(
        Config, table | {"method": {"name": "wall", "resnet_width": 8, "volume": json.loads(json.dumps(geometry))}}
    )


def test_too_few_recordings_with_an_image_have_a_remedy_that_fits(tmp_path: Path) -> None:
    def remove_images(folder: Path, lines: list[Line]) -> None:
        for line in lines[1:]:
            line["ed"] = line["es"] = ""

    folder = make_folder(tmp_path / "source", 24, remove_images)
    write(ecg_cmr.read_source(folder, options_for()), tmp_path / "cohort")
    with pytest.raises(
        ConfigError, match=r"no heart image of any .*; method 'wall' needs them: add them to the table"
    ) as error:
        open_data(config_for(tmp_path / "cohort"))
    assert "min_report_words" not in str(error.value)


def test_it_trains_on_recordings_with_an_image_and_a_phenotype(cohort: Path, tmp_path: Path) -> None:
    data = open_data(config_for(cohort))
    opened = Cohort.open(cohort)
    assert len(data.train) == len(opened.rows(split="train")) - 1
    assert len(data.held_out) == len(opened.rows(split="val")) - 1
    assert data.provenance["left_out"] == {"no_volume": 1, "no_phenotype": 1}
    assert data.train.batch([0]).has_volume.tolist() == [[True, False]]  # type: ignore[union-attr]

    # the run stores the mean of the training recordings, and continues with it
    run = pretrain(config_for(cohort), tmp_path / "run")
    expected = np.nanmean(opened.phenotypes(("lvedv", "lvesv"), data.train.rows), axis=0)
    np.testing.assert_allclose(run.method.mean.numpy(), expected, rtol=1e-5)
    assert run.method.n_given == 1
    run = pretrain(config_for(cohort, steps=3), tmp_path / "run", resume=True)
    assert run.method.n_given == 0
    again = runs.load(tmp_path / "run")
    assert torch.equal(again.method.mean, run.method.mean)
    assert isinstance(again.method.config.volume, Volume)
    assert again.fingerprint == run.fingerprint
    assert json.loads((tmp_path / "run" / "data.json").read_text())["left_out"] == {"no_volume": 1, "no_phenotype": 1}
    assert plan(config_for(cohort), n_timed=1).parameters


def test_nested_settings_are_tables_of_the_file(cohort: Path, tmp_path: Path) -> None:
    config = catalogue.with_defaults(config_for(cohort, normalize="none"))
    assert config.method["volume"]["phases"] == ["ed", "es"]
    assert config.method["volume"]["spacing_mm"] == [8.0, 2.5, 2.0]
    assert "[method.volume]" in dumps(config)
    assert catalogue.with_defaults(config) == config
    assert catalogue.volume_setting(config) == dataclasses.replace(VOLUME, normalize="none")
    assert catalogue.phenotype_setting(config) == ("lvedv", "lvesv")
    (row,) = (row for row in catalogue.settings("wall") if row["setting"] == "volume")
    assert row["default"] == repr(Volume())
    (entry,) = catalogue.entries(["wall"])
    assert entry.reads == "ECG + heart images"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": 6}, "method 'wall': cohort cohort: its heart images have volume.slices = 5, not 6"),
        ({"phases": ("ed", "scar")}, "no heart images of phase 'scar'"),
    ],
)
def test_another_geometry_is_one_error_before_training(cohort: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_data(config_for(cohort, **change))


def test_a_cohort_without_images_is_one_error(cohort_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no heart images; prepare one with `leadwise prepare ecg_cmr`"):
        open_data(config_for(cohort_folder))


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"phases": []}, "volume.phases"),
        ({"phases": ["ed", "ed"]}, "distinct names"),
        ({"slices": 0}, "volume.slices = 0 is out of range"),
        ({"spacing_mm": [10.0, 0.0, 1.0]}, "three distances > 0"),
        ({"depth": 3}, "unknown setting 'method.volume.depth'"),
    ],
)
def test_a_wrong_setting_is_named(cohort: Path, volume: dict[str, object], message: str) -> None:
    config = dataclasses.replace(config_for(cohort), method={"name": "wall", "volume": volume})
    with pytest.raises(ConfigError, match=message):
        catalogue.method_settings(config)
