"""Configs parse and are written back, wrong settings are named, and overrides come last."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from leadwise import config as settings
from leadwise.config import Config, ConfigError
from leadwise.methods.catalogue import with_defaults

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_parses_and_its_method_knows_every_setting(path: Path) -> None:
    config = with_defaults(settings.read(path))
    again = settings.typed(Config, tomllib.loads(settings.dumps(config)))
    assert again == config
    first = path.read_text().splitlines()[0]
    assert first.startswith("# leadwise pretrain configs/" + path.name)


def test_there_are_configs() -> None:
    assert {"cg_dmer", "cg_dmer_small", "cg_dmer_tiny", "merl", "merl_ptbxl_cpu", "ptbxl_cpu"} <= {
        p.stem for p in CONFIGS
    }


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nstepz = 3", r"unknown setting 'optim\.stepz'; did you mean 'steps'"),
        ("[optim]\nsteps = 'many'", r"setting optim\.steps = 'many'"),
        ("[optim]\nsteps = 1.5", r"setting optim\.steps = 1\.5"),
        ("optim = 3", r"setting 'optim' must be a table"),
        ("[data]\nworkers = -1", r"data\.workers must be a number of threads"),
        ("[signal]\nleads = ['I', 'X9']", "distinct names out of I, II"),
        ("[signal]\nnormalize = 'zscore'", r"setting signal\.normalize = 'zscore'"),
        ("[optim\nsteps = 3", "is not TOML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.read(write(tmp_path, text))


def test_dotted_overrides_come_last(tmp_path: Path) -> None:
    path = write(tmp_path, "[optim]\nlr = 1e-3\n[method]\nname = 'cg_dmer'\n")
    config = settings.read(
        path, ["optim.lr=2e-4", "method.mask_ratio=0.6", "optim.precision=bfloat16", "optim.steps=7"]
    )
    assert config.optim.lr == 2e-4
    assert config.method["mask_ratio"] == 0.6
    assert config.optim.precision == "bfloat16"
    assert config.optim.steps == 7
    with pytest.raises(ConfigError, match="is not KEY=VALUE"):
        settings.read(path, ["optim.lr"])
    with pytest.raises(ConfigError, match=r"unknown setting 'optim\.lrr'"):
        settings.read(path, ["optim.lrr=1"])


def test_an_int_is_a_float_and_a_list_a_tuple(tmp_path: Path) -> None:
    config = settings.read(write(tmp_path, "[signal]\nduration_s = 8\nleads = ['II', 'V1']\n[optim]\nclip = 2\n"))
    assert config.signal.duration_s == 8.0
    assert config.signal.leads == ("II", "V1")
    assert config.signal.n_samples == 4000
