"""The available methods: names, settings, sizes, and how to build one from a config.

A method is found by the name of its file in this folder. `MethodFile` holds what a file defines, with the default of each
constant that a file may leave out; `contract` describes them.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from leadwise import methods
from leadwise.batch import Signal, Volume
from leadwise.config import BY_METHOD, Config, ConfigError, drop_removed, read, typed
from leadwise.methods.contract import MethodConfig, PretrainingMethod
from leadwise.nn.text import Tokenizer

_NOT_METHODS = ("catalogue", "contract", "wrapped_encoder")  # modules of this folder that are no method
_SMALL_SIGNAL = Signal(rate_hz=100, duration_s=10.0)  # to count the parameters of SMALL

Settings = dict[str, Any]


# --------------------------------------------------------------------------------------------------- the files


@dataclass(frozen=True)
class MethodFile:
    """What one method file defines. A constant that the file leaves out has the default given here."""

    name: str
    docstring: str
    config_class: type[MethodConfig]
    method_class: type[PretrainingMethod]
    small: Settings | None = None  # SMALL: settings for two CPU cores
    also_small: tuple[Settings, ...] = ()  # ALSO_SMALL: the method's further rows in tables
    small_optim: Settings = field(default_factory=dict)  # SMALL_OPTIM: settings of [optim] that go with SMALL
    needs: str = ""  # NEEDS: of the data, besides ECGs, reports or labels
    signal: Signal = field(default_factory=Signal)  # SIGNAL: the paper's
    tiny: Mapping[str, Settings] = field(default_factory=dict)  # TINY: variant -> settings of the contract tests
    removed: Settings = field(
        default_factory=dict
    )  # REMOVED: settings of earlier versions -> the value that each has now


_CONSTANTS = {"SMALL", "ALSO_SMALL", "SMALL_OPTIM", "NEEDS", "SIGNAL", "TINY", "REMOVED"}


def method_names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__) if module.name not in _NOT_METHODS)


def find_method(name: str) -> MethodFile:
    """Return what the file `methods/<name>.py` defines.

    Raises:
        ValueError: no such file (the message suggests the nearest name), or it does not follow the contract.
    """
    known = method_names()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known: {', '.join(known)}"
        raise ValueError(f"no method '{name}'; {hint}")
    return _read_file(name, importlib.import_module(f"{methods.__name__}.{name}"))


def _read_file(name: str, module: ModuleType) -> MethodFile:
    defined = vars(module)
    for key, base in (("Config", MethodConfig), ("Method", PretrainingMethod)):
        if not (inspect.isclass(defined.get(key)) and issubclass(defined[key], base)):
            raise ValueError(
                f"{module.__file__}: '{key}' is missing or not a subclass of {base.__name__}; derive it from "
                f"leadwise.methods.contract.{base.__name__}"
            )
    constants = {key.lower(): value for key, value in defined.items() if key in _CONSTANTS}
    return MethodFile(name, inspect.cleandoc(module.__doc__ or ""), defined["Config"], defined["Method"], **constants)


def embeds_text(name: str) -> bool:
    """Return whether a method embeds texts, which zero-shot classification needs."""
    return find_method(name).method_class.embeds_text


def learns_labels(name: str) -> bool:
    """Return whether a method trains on the labels of a task; its runs belong to that task. False for an unknown name."""
    return name in method_names() and find_method(name).method_class.learns_labels


def learns_from_teacher(name: str) -> bool:
    """Return whether a method is trained to the embeddings of another run (`data.teacher`). False for an unknown name."""
    return name in method_names() and find_method(name).method_class.learns_from_teacher


def starts_from(name: str) -> tuple[str, ...]:
    """Return the settings of [data] that can name runs from which a method's training starts; () for an unknown name."""
    return find_method(name).method_class.starts_from if name in method_names() else ()


def reads_volumes(name: str) -> bool:
    """Return whether a method is trained on heart images with its small settings. False for an unknown name."""
    if name not in method_names():
        return False
    file = find_method(name)
    return file.method_class.reads_volumes and typed(file.config_class, file.small or {}).uses_volumes


# ------------------------------------------------------------------------------------------------ from a config


def method_settings(config: Config) -> tuple[MethodFile, MethodConfig]:
    """Return the method file that a config names, and the method's settings as its own dataclass.

    Raises:
        ConfigError: no such method, a setting that the method does not have, or a removed setting with another value.
    """
    table = dict(config.method)
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("setting 'method.name' is missing; set it to the name of a file in leadwise/methods")
    try:
        file = find_method(name)
        return file, typed(file.config_class, drop_removed(table, file.removed), "method")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"[method] {error}") from None


def removed_settings(config: Config) -> Settings:
    """Return the settings that the config's method had in earlier versions, with the value that each has now."""
    name = config.method.get("name")
    return dict(find_method(name).removed) if name in method_names() else {}


def with_defaults(config: Config) -> Config:
    """Return the config with every setting of its method written out, and with the least report words for that method.

    Raises:
        ConfigError: no such method, or a setting that the method does not have.
    """
    file, method_config = method_settings(config)
    data = config.data
    if data.min_report_words == BY_METHOD:
        data = dataclasses.replace(data, min_report_words=int(file.method_class.reads_reports))
    # lists, as TOML has them: the config must be equal before it is written and after it is read, and so must its fingerprint
    table = {key: _as_toml(value) for key, value in dataclasses.asdict(method_config).items()}
    return dataclasses.replace(config, data=data, method={"name": config.method["name"], **table})


def _as_toml(value: Any) -> Any:
    """A setting with lists in place of tuples, in nested tables too."""
    if isinstance(value, dict):
        return {key: _as_toml(one) for key, one in value.items()}
    return [_as_toml(one) for one in value] if isinstance(value, (list, tuple)) else value


def volume_setting(config: Config) -> Volume | None:
    """Return the heart images that a run's method reads: its setting `volume`; None for a method that reads none."""
    file, method_config = method_settings(config)
    reads = file.method_class.reads_volumes and method_config.uses_volumes
    volume = getattr(method_config, "volume", None) if reads else None
    if volume is not None and not isinstance(volume, Volume):
        raise ValueError(f"method '{file.name}': its setting 'volume' must be a leadwise.batch.Volume")
    return volume


def phenotype_setting(config: Config) -> tuple[str, ...]:
    """Return the phenotypes that a run's method reads: its setting `phenotypes`; () for a method that reads none."""
    file, method_config = method_settings(config)
    return tuple(getattr(method_config, "phenotypes", ())) if file.method_class.reads_phenotypes else ()


def reads_person(config: Config) -> bool:
    """Return whether a run's method is trained with age and sex."""
    return method_settings(config)[0].method_class.reads_person


def uses_wordings(config: Config) -> bool:
    """Return whether a run trains with other wordings of its reports: a positive setting `rewording` of its method."""
    return (
        bool(with_defaults(config).method.get("rewording", 0)) and method_settings(config)[0].method_class.reads_reports
    )


def patch_samples(config: Config) -> int:
    """Return how many observed samples in a row, from a multiple of this number, a recording needs in one of its leads.

    This is a patch of the method, or a tenth of a second for a method without patches.
    """
    n_patches, n_samples = config.method.get("n_patches"), config.signal.n_samples
    if isinstance(n_patches, int) and 0 < n_patches <= n_samples and n_samples % n_patches == 0:
        return n_samples // n_patches
    return max(1, round(0.1 * config.signal.rate_hz))


def build(
    config: Config,
    tokenizer: Tokenizer | None = None,
    saved_folder: Path | None = None,
    start: Mapping[str, PretrainingMethod] | None = None,
) -> PretrainingMethod:
    """Return the method of a config with fresh weights, drawn from torch's random state.

    Args:
        config: the run's settings.
        tokenizer: the run's tokenizer; None for a method without reports.
        saved_folder: the folder to which `save_extra` wrote, for a saved run.
        start: the methods that become part of this one (`starts_from`); None: those that a saved run contains, with fresh
            weights.

    Raises:
        ConfigError: settings that the method cannot use.
    """
    file, method_config = method_settings(config)
    also: dict[str, Any] = {}
    if file.method_class.starts_from:
        also["start"] = _saved_start(file.method_class, saved_folder) if start is None else start
    try:
        return file.method_class(method_config, config.signal, tokenizer, saved_folder, **also)
    except ValueError as error:
        raise ConfigError(f"[method] {error}") from None


def _saved_start(method: type[PretrainingMethod], saved_folder: Path | None) -> dict[str, PretrainingMethod]:
    """Return the methods that a saved run contains, with fresh weights: `save_start` wrote what describes them."""
    out = {}
    for name in method.starts_from if saved_folder is not None else ():
        folder = saved_folder / name  # type: ignore[operator]
        if (folder / "config.toml").is_file():
            config = read(folder / "config.toml")
            tokenizer = method_settings(config)[0].method_class.load_tokenizer(folder / "tokenizer")
            out[name] = build(config, tokenizer, folder / "tokenizer")
    return out


# ----------------------------------------------------------------------------------------------- small settings


def small_settings(name: str) -> Settings:
    """Return a table [method] for two CPU cores: the method's SMALL.

    Raises:
        ConfigError: the method has no SMALL.
    """
    tables = all_small_settings(name)
    if not tables:
        raise ConfigError(f"method '{name}' has no small settings (SMALL in its file); give a config of its own")
    return tables[0]


def all_small_settings(name: str) -> list[Settings]:
    """Return a table [method] for each row that the method has in tables: SMALL and ALSO_SMALL; empty without SMALL."""
    file = find_method(name)
    return [] if file.small is None else [{"name": name, **table} for table in (file.small, *file.also_small)]


def small_optim_settings(name: str) -> Settings:
    """Return the settings of [optim] that go with a method's small settings; empty if there are none."""
    return dict(find_method(name).small_optim)


# --------------------------------------------------------------------------------------------- what users can list


@dataclass(frozen=True)
class Entry:
    """One method, as `leadwise methods` lists it."""

    name: str
    title: str
    source: str  # arXiv id or journal, and the venue
    reads: str
    n_parameters: int  # with the paper's settings, and the small text encoder instead of a borrowed one
    n_small: int | None  # with the settings for two CPU cores
    zero_shot: bool  # whether it embeds texts
    needs: str  # of the data, besides what it reads
    objective: str  # the rest of the docstring: the loss, and where it departs from the paper


def entries(names: Iterable[str] | None = None) -> list[Entry]:
    """Return all methods, or those of `names`, in that order.

    Raises:
        ValueError: no such method; the message suggests the nearest name.
    """
    return [_entry(find_method(name)) for name in (method_names() if names is None else names)]


def settings(name: str) -> list[dict[str, str]]:
    """Return a row for each setting of a method: the paper's value, and the small one where it differs."""
    file = find_method(name)
    small = file.small or {}
    return [
        {
            "setting": one.name,
            "default": repr(_default(one)),
            "small": repr(small[one.name]) if one.name in small else "",
        }
        for one in dataclasses.fields(file.config_class)
    ]


def _default(setting: dataclasses.Field[Any]) -> Any:
    """The default of a setting, also where a function makes it."""
    factory: Any = setting.default_factory
    return setting.default if factory is dataclasses.MISSING else factory()


def _entry(file: MethodFile) -> Entry:
    # the docstring's first paragraph is the title and, on its last line, the source
    first, _, rest = file.docstring.partition("\n\n")
    title, _, source = first.rpartition("\n") if "\n" in first else (first, "", "")
    return Entry(
        name=file.name,
        title=" ".join(title.split()).rstrip("."),
        source=source.rstrip("."),
        reads=_reads(file),
        n_parameters=_count_parameters(file, {}, file.signal),
        n_small=None if file.small is None else _count_parameters(file, file.small, _SMALL_SIGNAL),
        zero_shot=file.method_class.embeds_text,
        needs=file.needs,
        objective=rest,
    )


def _reads(file: MethodFile) -> str:
    method = file.method_class
    if method.learns_from_teacher:
        return "ECG + teacher"
    images = method.reads_volumes and reads_volumes(file.name)
    others = [name for name, reads in (("report", method.reads_reports), ("heart images", images)) if reads]
    if others:
        return " + ".join(["ECG", *others])
    return "ECG + labels" if method.learns_labels else "ECG"


def _count_parameters(file: MethodFile, table: Settings, signal: Signal) -> int:
    """Return the number of parameters of a method, built on torch's "meta" device, which allocates no memory."""
    labels = {"classes": ["a class"]} if file.method_class.learns_labels else {}
    config = typed(file.config_class, {**table, **labels})
    tokenizer = file.method_class.make_tokenizer(config, ["normal ecg"])
    if tokenizer is not None:
        n_words = dataclasses.asdict(config).get("vocab_size", 0)  # a tokenizer from one report has fewer
        tokenizer.add_tokens([f"word {number}" for number in range(n_words - len(tokenizer))])
    with torch.device("meta"):
        method = file.method_class(config, signal, tokenizer)
    return sum(p.numel() for p in method.parameters())
