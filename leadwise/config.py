"""Typed settings inside, TOML outside. One file describes one run completely.

Settings are frozen dataclasses with the unit and meaning on each field's line. `typed` reads a table into one strictly:
an unknown key or a wrong type is an error that names the place and the nearest known key. A method's own settings stand in
its file; here they are a plain table under `method`, typed when the run is built.
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
    """A setting that cannot be used; the message names the key, the value and the remedy."""


@dataclass(frozen=True)
class DataConfig:
    cohort: str = ""  # folder that `leadwise prepare` wrote
    train_split: str = "train"  # recordings to learn from
    val_split: str = "val"  # held-out patients for the pre-training criterion
    min_report_words: int = 1  # recordings with fewer words in their report are left out of pre-training
    task: str = ""  # labels of this task travel with each batch: only recordings that have them, whatever their reports
    label_fraction: float = 1.0  # share of the task's training recordings that is learnt from, drawn as the probe draws
    label_seed: int = 42  # of that draw; the probe's are 42, 43 and 44
    workers: int = 0  # threads of each process that prepare coming batches; 0 = the loop does

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"data.workers is a number of threads, 0 or more; got {self.workers}")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"data.label_fraction lies in (0, 1], 0.01 is one percent; got {self.label_fraction}")
        if self.label_fraction < 1 and not self.task:
            raise ValueError("data.label_fraction is a share of a task's labels: name the task in data.task")


@dataclass(frozen=True)
class OptimConfig:
    steps: int = 1000  # optimiser steps: the clock of a run
    batch_size: int = 64  # recordings a step, of all processes and passes together
    accumulate: int = 1  # passes that each process shares a step's recordings out to: memory for time
    lr: float = 2e-4  # peak learning rate
    pretrained_lr_scale: float = 0.1  # factor on the rate of layers that came pre-trained (the text encoder's)
    weight_decay: float = 1e-5  # AdamW; never on norms, biases and embeddings
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = 0.05  # share of the steps with rising rate
    final_lr: float = 1e-6  # where the cosine ends
    clip: float = 1.0  # largest gradient norm
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16 = autocast
    compile: bool = False  # torch.compile the method's blocks: minutes at the start for faster steps
    device: str = "auto"  # auto: the first GPU, or the CPU where there is none; cpu, cuda, cuda:1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.accumulate < 1:
            got = f"{self.steps}, {self.batch_size} and {self.accumulate}"
            raise ValueError(f"optim wants steps >= 1, batch_size >= 2 and accumulate >= 1; got {got}")
        if self.lr <= 0 or self.clip <= 0 or not 0 <= self.warmup < 1:
            raise ValueError(
                f"optim wants lr > 0, clip > 0, 0 <= warmup < 1; got {self.lr}, {self.clip}, {self.warmup}"
            )


@dataclass(frozen=True)
class LogConfig:
    every: int = 20  # steps between lines of metrics.jsonl
    validate_every: int = 200  # steps between passes over held-out patients; 0 = only at the end
    validate_records: int = 512  # at most so many held-out recordings a pass
    save_every: int = 200  # steps between resume states
    keep: Literal["last", "best"] = "last"  # weights that stay: best = lowest held-out loss, never a task's score

    def __post_init__(self) -> None:
        if self.every < 1 or self.save_every < 1 or self.validate_every < 0 or self.validate_records < 2:
            raise ValueError("log wants every, save_every >= 1, validate_every >= 0 and validate_records >= 2")


@dataclass(frozen=True)
class Config:
    signal: Signal = field(default_factory=Signal)
    data: DataConfig = field(default_factory=DataConfig)
    # name = a file in methods/, the rest its settings
    method: dict[str, Any] = field(default_factory=lambda: {"name": "cg_dmer"})
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)


T = TypeVar("T")


def typed(kind: type[T], table: dict[str, Any], where: str = "") -> T:
    """`table` as the settings dataclass `kind`, strictly.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range, with its dotted place.
    """
    _refuse_unknown(kind, table, where)
    try:
        # through JSON: strict on types, yet an int is a float and a list a tuple, as TOML writes them
        return TypeAdapter(kind).validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([*filter(None, [where]), *map(str, first["loc"])])
        raise ConfigError(f"setting {place or 'table'} = {first['input']!r}: {first['msg']}") from None


def _refuse_unknown(kind: Any, table: dict[str, Any], where: str) -> None:
    hints = typing.get_type_hints(kind)
    for key, value in table.items():
        place = f"{where}.{key}" if where else key
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
            advice = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(hints)}"
            raise ConfigError(f"unknown setting '{place}'; {advice}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"setting '{place}' is a table of its own ([{place}]), not {value!r}")
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
    """The settings of one run: a TOML file, then dotted overrides such as `method.mask_ratio=0.6`."""
    if not path.is_file():
        raise ConfigError(f"no config at {path}; see configs/ for examples")
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for override in overrides or []:
        _override(table, override)
    return typed(Config, table)


def override(config: Config, overrides: list[str]) -> Config:
    """The config with dotted overrides such as `method.mask_ratio=0.6`."""
    table = dataclasses.asdict(config)
    for one in overrides:
        _override(table, one)
    return typed(Config, table)


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{text}' is not KEY=VALUE, such as method.mask_ratio=0.6")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string: optim.precision=bfloat16
    *path, last = key.strip().split(".")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"override '{text}': '{part}' is a value, not a table")
    table[last] = parsed


def dumps(config: Config) -> str:
    """The whole config as TOML text, every setting written out."""
    return tomli_w.dumps(dataclasses.asdict(config))
