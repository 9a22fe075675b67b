"""Configs parse and are written back, wrong settings are named, and overrides come last."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from types import SimpleNamespace

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


def test_the_papers_config_has_the_papers_decoder() -> None:
    """The config that takes less time differs from it in the decoder alone."""
    folder = Path(__file__).parents[1] / "configs"
    paper, cross = (with_defaults(settings.read(folder / f"{name}.toml")) for name in ("cg_dmer", "cg_dmer_cross"))
    assert paper.method["decoder"] == "joint"
    assert dataclasses.replace(paper, method={**paper.method, "decoder": "cross"}) == cross


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nstepz = 3", r"unknown setting 'optim\.stepz'; did you mean 'optim.steps'"),
        ("[optim]\nsteps = 'many'", r"setting optim\.steps = 'many'"),
        ("[optim]\nsteps = 1.5", r"setting optim\.steps = 1\.5"),
        ("optim = 3", r"setting 'optim' must be a table"),
        ("[data]\nworkers = -1", r"^setting data\.workers = -1 is out of range: it must be >= 0$"),
        ("[data]\ncohrt = 'x'", r"^unknown setting 'data\.cohrt'; did you mean 'data\.cohort'\?$"),
        ("[data]\nsteps = 3", r"^unknown setting 'data\.steps'; did you mean 'optim\.steps'\?$"),
        ("lr = 3.0", r"^unknown setting 'lr'; did you mean 'optim\.lr'\?$"),
        ("[optimm]\nlr = 3.0", r"^unknown setting 'optimm'; did you mean 'optim'\?$"),
        ("xyz = 3", r"^unknown setting 'xyz'; known: signal, data, method, optim, log$"),
        ("[optim]\nprecision = 'half'", r"^setting optim\.precision = 'half': it must be 'float32' or 'bfloat16'$"),
        ("[optim]\nwarmup = 1.0", r"^setting optim\.warmup = 1\.0 is out of range: it must be in \[0, 1\)$"),
        ("[log]\nevery = 0", r"^setting log\.every = 0 is out of range: it must be >= 1$"),
        ("[signal]\nrate_hz = -5", r"^setting signal\.rate_hz = -5 is out of range: it must be > 0$"),
        ("[data]\nlabel_fraction = 0.5", r"^setting data\.label_fraction = 0\.5 is a share .*: set data\.task"),
        ("[signal]\nleads = ['I', 'X9']", "distinct names out of I, II"),
        ("[signal]\nnormalize = 'zscore'", r"setting signal\.normalize = 'zscore'"),
        ("[optim\nsteps = 3", "is not TOML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.read(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "setting", "value", "allowed"),
    [
        ("cg_dmer", "mask_ratio", 1.6, r"in \[0, 1\)"),
        ("c_melt", "mask_ratio", 1.6, r"in \(0, 1\)"),
        ("c_melt", "mem_layer", 99, r"in \[0, \d+\]"),
        ("crt", "first_ratio", 0.9, r"in \(0, 0\.\d+\]"),
        ("simclr", "view_crop", 0.0, r"in \(0, 1\]"),
        ("astcl", "w_adv", 0.0, "> 0"),
    ],
)
def test_a_value_out_of_range_is_one_line_with_setting_value_and_range(
    name: str, setting: str, value: float, allowed: str
) -> None:
    config = settings.typed(Config, {"method": {"name": name, setting: value}})
    with pytest.raises(
        ConfigError, match=rf"^setting method\.{setting} = {value} is out of range: it must be {allowed}$"
    ):
        with_defaults(config)


def test_a_rule_for_two_settings_names_both() -> None:
    config = settings.typed(Config, {"method": {"name": "cg_dmer", "same_report": "positive", "contrast": "literal"}})
    with pytest.raises(
        ConfigError, match=r"^settings \[method\]: same_report = 'positive' needs contrast = 'standard'"
    ):
        with_defaults(config)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (-0.1, 1)),
        ("(0, 1]", (0.1, 1), (0, 1.1)),
        (">= 2", (2, 3), (1,)),
        ("> 0", (1e-9,), (0, -1)),
        ("< 3", (2,), (3,)),
        ("<= 3", (3,), (4,)),
    ],
)
def test_ranges(text: str, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    for value in inside:
        settings.check_ranges(SimpleNamespace(x=value), x=text)
    for value in (*outside, float("nan")):
        with pytest.raises(settings.RangeError, match=rf"^x = {value!r} is out of range: it must be "):
            settings.check_ranges(SimpleNamespace(x=value), x=text)
    with pytest.raises(ValueError, match="'about 3' is no range"):
        settings.check_ranges(SimpleNamespace(x=3), x="about 3")


@pytest.mark.parametrize(("name", "words"), [("cg_dmer", 1), ("simclr", 0), ("supervised", 0)])
def test_the_least_report_words_depend_on_the_method(name: str, words: int) -> None:
    table = {"name": name, **({"classes": ["a"]} if name == "supervised" else {})}
    assert with_defaults(settings.typed(Config, {"method": table})).data.min_report_words == words
    given = settings.typed(Config, {"method": table, "data": {"min_report_words": 3}})
    assert with_defaults(given).data.min_report_words == 3


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
