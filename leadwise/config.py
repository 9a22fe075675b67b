"""The settings of a run: typed dataclasses in Python, TOML on disk. One file describes one run completely.

Each setting's unit and meaning are in the comment on its line. `typed` converts a table to a settings dataclass strictly:
an unknown key or a wrong type is an error that names the setting and the nearest known key. The settings of a method are
defined in its file. Here they are a plain table under `method`, which is converted when the run is created.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from leadwise.batch import Signal


class ConfigError(ValueError):
    """A setting cannot be used; the message names the key, the value and the remedy."""


@dataclass(frozen=True)
class DataConfig:
    """The cohort of a run, and which of its recordings are used."""

    cohort: str = ""  # folder that `leadwise prepare` wrote
    train_split: str = "train"  # recordings used for training
    val_split: str = "val"  # held-out patients, on which the pre-training loss is validated
    min_report_words: int = 1  # recordings with fewer words in their report are not used for pre-training
    task: str = ""  # batches contain this task's labels; only recordings with labels are used, with or without reports
    label_fraction: float = 1.0  # share of the task's training recordings to use, drawn by the rule of the probe
    label_seed: int = 42  # seed of that draw; the probe's are 42, 43 and 44
    workers: int = 0  # threads per process that prepare the next batches; 0 = none, the training loop reads them

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"data.workers must be a number of threads, 0 or more; got {self.workers}")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"data.label_fraction must be in (0, 1], 0.01 is one percent; got {self.label_fraction}")
        if self.label_fraction < 1 and not self.task:
            raise ValueError(
                f"data.label_fraction = {self.label_fraction} is a share of a task's labels: set data.task to the task"
            )


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser, learning-rate schedule, precision and device."""

    steps: int = 1000  # optimiser steps of the run
    batch_size: int = 64  # recordings per step, over all processes and passes
    accumulate: int = 1  # gradient-accumulation passes per step; more passes use less memory and more time
    lr: float = 2e-4  # peak learning rate
    pretrained_lr_scale: float = 0.1  # factor on the learning rate of pre-trained layers (the text encoder's)
    weight_decay: float = 1e-5  # of AdamW; not applied to norms, biases and embeddings
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = 0.05  # share of the steps in which the rate increases
    final_lr: float = 1e-6  # learning rate at the end of the cosine schedule
    clip: float = 1.0  # largest gradient norm
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16 = autocast
    compile: bool = False  # torch.compile the method's blocks: takes minutes at the start, then steps are faster
    device: str = "auto"  # auto: the first GPU, or the CPU if there is none; cpu, cuda, cuda:1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.accumulate < 1:
            got = f"{self.steps}, {self.batch_size} and {self.accumulate}"
            raise ValueError(f"optim needs steps >= 1, batch_size >= 2 and accumulate >= 1; got {got}")
        if self.lr <= 0 or self.clip <= 0 or not 0 <= self.warmup < 1:
            raise ValueError(
                f"optim needs lr > 0, clip > 0, 0 <= warmup < 1; got {self.lr}, {self.clip}, {self.warmup}"
            )


@dataclass(frozen=True)
class LogConfig:
    """How often a run logs, validates and saves."""

    every: int = 20  # steps between lines of metrics.jsonl
    validate_every: int = 200  # steps between validations on held-out patients; 0 = only at the end
    validate_records: int = 512  # most held-out recordings per validation
    save_every: int = 200  # steps between resume states
    keep: Literal["last", "best"] = "last"  # weights that are saved: best = lowest held-out loss, never a task's score

    def __post_init__(self) -> None:
        if self.every < 1 or self.save_every < 1 or self.validate_every < 0 or self.validate_records < 2:
            raise ValueError(
                "log needs every and save_every >= 1, validate_every >= 0 and validate_records >= 2; got "
                f"{self.every}, {self.save_every}, {self.validate_every} and {self.validate_records}"
            )


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    signal: Signal = field(default_factory=Signal)
    data: DataConfig = field(default_factory=DataConfig)
    # name: a file in methods/; the others are that method's settings
    method: dict[str, Any] = field(default_factory=lambda: {"name": "cg_dmer"})
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)


T = TypeVar("T")


def typed(kind: type[T], table: dict[str, Any], where: str = "") -> T:
    """Convert `table` strictly to the settings dataclass `kind`; `where` is the dotted name of the table in messages.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range, with its dotted name.
    """
    _refuse_unknown(kind, table, where)
    try:
        # through JSON, pydantic is strict but accepts an int for a float and a list for a tuple, as in TOML
        return TypeAdapter(kind).validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([*filter(None, [where]), *map(str, first["loc"])])
        raise ConfigError(f"setting {place or 'table'} = {first['input']!r}: {first['msg']}") from None


def _refuse_unknown(kind: Any, table: dict[str, Any], where: str) -> None:
    """Raise ConfigError for a key that is not a field of `kind`, in nested tables too."""
    hints = typing.get_type_hints(kind)
    for key, value in table.items():
        place = f"{where}.{key}" if where else key
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
            advice = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(hints)}"
            raise ConfigError(f"unknown setting '{place}'; {advice}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"setting '{place}' must be a table ([{place}]), not {value!r}")
            _refuse_unknown(hints[key], value, place)


def drop_removed(table: dict[str, Any], removed: dict[str, Any], where: str = "method") -> dict[str, Any]:
    """`table` without the settings that this version removed; `removed` holds the value that each has now.

    Raises:
        ConfigError: a removed setting with another value, which this version cannot use.
    """
    for key, value in table.items():
        if key in removed and value != removed[key]:
            raise ConfigError(
                f"setting '{where}.{key}' = {value!r} was removed after leadwise 0.1.0, and its value is now always "
                f"{removed[key]!r}; use leadwise 0.1.0 with this file, or delete the setting and train again"
            )
    return {key: value for key, value in table.items() if key not in removed}


def read(path: Path, overrides: list[str] | None = None) -> Config:
    """Read the settings of a run from a TOML file, then apply dotted overrides such as `method.mask_ratio=0.6`.

    Raises:
        ConfigError: the file is missing or not TOML, or a setting is unknown or has a wrong value.
    """
    if not path.is_file():
        raise ConfigError(f"no config at {path}; see configs/ for examples")
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}; correct that line") from None
    for override in overrides or []:
        _override(table, override)
    return typed(Config, table)


def override(config: Config, overrides: list[str]) -> Config:
    """A copy of the config with dotted overrides such as `method.mask_ratio=0.6`."""
    table = dataclasses.asdict(config)
    for one in overrides:
        _override(table, one)
    return typed(Config, table)


def _override(table: dict[str, Any], text: str) -> None:
    """Set one KEY=VALUE in a nested table."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{text}' is not KEY=VALUE, such as method.mask_ratio=0.6")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # an unquoted word is a string: optim.precision=bfloat16
    *path, last = key.strip().split(".")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"override '{text}': '{part}' is a value, not a table")
    table[last] = parsed


def dumps(config: Config) -> str:
    """The config as TOML text with every setting, including defaults."""
    return tomli_w.dumps(dataclasses.asdict(config))
