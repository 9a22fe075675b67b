"""The settings of a run: typed dataclasses in Python, TOML on disk. One file describes one run completely.

Each setting's unit and meaning are in the comment on its line. `typed` converts a table to a settings dataclass strictly:
an unknown key or a wrong type is an error that names the setting and the nearest known key. The settings of a method are
defined in its file. Here they are a plain table under `method`, which is converted when the run is created.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from leadwise.batch import Signal

BY_METHOD = -1  # of data.min_report_words: 1 for a method that reads reports, 0 for the others


class ConfigError(ValueError):
    """A setting cannot be used; the message names the key, the value and the remedy."""


class RangeError(ValueError):
    """A value is outside the range of its setting. `setting` is the name inside its table."""

    def __init__(self, setting: str, value: Any, allowed: str) -> None:
        super().__init__(f"{setting} = {value!r} is out of range: it must be {allowed}")
        self.setting = setting


_INTERVAL = re.compile(r"([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])")
_BOUND = re.compile(r"(>=|>|<=|<)\s*(\S+)")


def check_ranges(settings: Any, **allowed: str) -> None:
    """Check that the named settings of a dataclass have values in range; used in `__post_init__`.

    Args:
        settings: the dataclass.
        allowed: by name of the setting, an interval such as "[0, 1)" or a bound such as "> 0" or ">= 1".

    Raises:
        RangeError: a value is not in its range, or not a number.
    """
    for name, text in allowed.items():
        value = getattr(settings, name)
        if not _in_range(value, text):
            raise RangeError(name, value, f"in {text}" if text[0] in "[(" else text)


def _in_range(value: float, text: str) -> bool:
    """Return whether `value` is in the interval or within the bound that `text` describes."""
    interval = _INTERVAL.fullmatch(text)
    if interval:
        left, low, high, right = interval.groups()
        above = value >= float(low) if left == "[" else value > float(low)
        below = value <= float(high) if right == "]" else value < float(high)
        return above and below
    bound = _BOUND.fullmatch(text)
    if bound is None:
        raise ValueError(f"'{text}' is no range; write [0, 1), > 0 or >= 1")
    sign, limit = bound[1], float(bound[2])
    return {">=": value >= limit, ">": value > limit, "<=": value <= limit, "<": value < limit}[sign]


@dataclass(frozen=True)
class DataConfig:
    """The cohort of a run, and which of its recordings are used."""

    cohort: str = ""  # folder that `leadwise prepare` wrote
    train_split: str = "train"  # recordings used for training
    val_split: str = "val"  # held-out patients, on which the pre-training loss is validated
    min_report_words: int = (
        BY_METHOD  # recordings with fewer words in their report are not used; -1: 1 if it is read, else 0
    )
    task: str = ""  # batches contain this task's labels; only recordings with labels are used, with or without reports
    label_fraction: float = 1.0  # share of the task's training recordings to use, drawn by the rule of the probe
    label_seed: int = 42  # seed of that draw; the probe's are 42, 43 and 44
    teacher: str = ""  # run folder, shipped name or hub id of the run that a distilled model is trained to
    init: str = ""  # run folder, shipped name or hub id of the run whose ECG encoder training starts from
    init_volume: str = ""  # the same, of the run whose encoders of heart images are used
    init_text: str = ""  # the same, of the run whose text encoder is used
    workers: int = 0  # threads per process that prepare the next batches; 0 = none, the training loop reads them

    def __post_init__(self) -> None:
        check_ranges(self, workers=">= 0", label_fraction="(0, 1]", min_report_words=">= -1")
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
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: Muon for the matrices of blocks and heads, AdamW for the rest
    pretrained_lr_scale: float = 0.1  # factor on the learning rate of pre-trained layers (the text encoder's)
    state_lr_scale: float = 1.0  # factor on the learning rate of A and dt of state-space layers (encoder "s4")
    weight_decay: float = 1e-5  # decoupled; not applied to norms, biases and embeddings
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = 0.05  # share of the steps in which the rate increases
    final_lr: float = 1e-6  # learning rate at the end of the cosine schedule
    clip: float = 1.0  # largest gradient norm
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16 = autocast
    compile: bool = False  # torch.compile the method's blocks: takes minutes at the start, then steps are faster
    deterministic: bool = True  # one seed gives the same weights to the bit, with several threads and on a GPU too
    device: str = "auto"  # auto: the first GPU, or the CPU if there is none; cpu, cuda, cuda:1
    timeout_s: float = (
        1800.0  # how long a process waits for the others; more than a validation takes, which rank 0 does alone
    )
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, steps=">= 1", batch_size=">= 2", accumulate=">= 1", lr="> 0", clip="> 0", warmup="[0, 1)")
        check_ranges(self, final_lr=">= 0", weight_decay=">= 0", pretrained_lr_scale=">= 0", seed=">= 0")
        check_ranges(self, state_lr_scale=">= 0", timeout_s="> 0")


@dataclass(frozen=True)
class LogConfig:
    """How often a run logs, validates and saves."""

    every: int = 20  # steps between lines of metrics.jsonl
    validate_every: int = 200  # steps between validations on held-out patients; 0 = only at the end
    validate_records: int = 512  # most held-out recordings per validation
    save_every: int = 200  # steps between resume states
    keep: Literal["last", "best", "rankme"] = (
        "last"  # saved weights: best = lowest held-out loss, rankme = highest RankMe of the embeddings; no task's score
    )

    def __post_init__(self) -> None:
        check_ranges(self, every=">= 1", save_every=">= 1", validate_every=">= 0", validate_records=">= 2")


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

    A dataclass in the table, such as a `Volume` among the settings of a method, counts as a table of its values.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range, with its dotted name.
    """
    table = {key: dataclasses.asdict(v) if _is_settings(v) else v for key, v in table.items()}
    _refuse_unknown(kind, table, where)
    try:
        # through JSON, pydantic is strict but accepts an int for a float and a list for a tuple, as in TOML
        return TypeAdapter(kind).validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        raise ConfigError(_describe(error, where)) from None


def _is_settings(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _describe(error: ValidationError, where: str) -> str:
    """Return one line for the first problem: the setting, its value, and what is allowed."""
    first = error.errors(include_url=False)[0]
    path = ".".join([*filter(None, [where]), *map(str, first["loc"])])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, RangeError):  # raised for the table: the cause names the setting
        return f"setting {f'{path}.' if path else ''}{cause}"
    if isinstance(cause, ValueError):  # names the setting, or is a rule for several settings and names them
        return f"setting {cause}" if path and str(cause).startswith(f"{path}.") else f"settings [{path}]: {cause}"
    return f"setting {path or 'table'} = {first['input']!r}: {first['msg'].replace('Input should be', 'it must be')}"


def _refuse_unknown(kind: Any, table: dict[str, Any], where: str, everywhere: Sequence[str] = ()) -> None:
    """Raise ConfigError for a key that is not a field of `kind`, in nested tables too.

    `everywhere` holds the dotted names of all settings, among which the message looks for a similar one.
    """
    hints = typing.get_type_hints(kind)
    everywhere = everywhere or _dotted_names(kind, where)
    for key, value in table.items():
        place = f"{where}.{key}" if where else key
        if key not in hints:
            raise ConfigError(f"unknown setting '{place}'; {_advice(place, everywhere)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"setting '{place}' must be a table ([{place}]), not {value!r}")
            _refuse_unknown(hints[key], value, place, everywhere)


def _dotted_names(kind: Any, where: str) -> list[str]:
    """Return the dotted names of the settings of a dataclass and of the dataclasses in it."""
    names = []
    for key, hint in typing.get_type_hints(kind).items():
        place = f"{where}.{key}" if where else key
        names += _dotted_names(hint, place) if dataclasses.is_dataclass(hint) else [place]
    return names


def _advice(place: str, known: Sequence[str]) -> str:
    """Return a remedy for an unknown dotted name: the nearest one of its table, the same name in another table, or all names."""
    table, _, key = place.rpartition(".")
    prefix = f"{table}." if table else ""
    children = dict.fromkeys(name.removeprefix(prefix).partition(".")[0] for name in known if name.startswith(prefix))
    near = [prefix + child for child in difflib.get_close_matches(key, children, n=1, cutoff=0.5)]
    near = near or [name for name in known if name.rpartition(".")[2] == key]
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(prefix + child for child in children)}"


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
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}; correct that line") from None
    for override in overrides or []:
        set_override(table, override)
    return typed(Config, table)


def override(config: Config, overrides: list[str]) -> Config:
    """A copy of the config with dotted overrides such as `method.mask_ratio=0.6`."""
    table = dataclasses.asdict(config)
    for one in overrides:
        set_override(table, one)
    return typed(Config, table)


def set_override(table: dict[str, Any], text: str) -> None:
    """Set one KEY=VALUE, such as "optim.lr=1e-3", in a nested table.

    Raises:
        ConfigError: the text has another form, or a part of the key is a value.
    """
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
