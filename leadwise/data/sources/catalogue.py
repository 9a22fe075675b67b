"""Data sets by name: the files of `data/sources`, their options from text, and their tasks."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from leadwise.data import sources
from leadwise.data.cohort.layout import CohortError
from leadwise.data.messages import first_few
from leadwise.data.sources.source import Source
from leadwise.data.tasks import Task

_NOT_SOURCES = ("catalogue", "source")  # modules of this folder that are no data set
_CONTRACT = ("Options", "TASKS", "read_source")


class SourceFile(Protocol):
    """The contract of a file in `data/sources`."""

    __doc__: str | None
    Options: type[Any]  # a frozen dataclass; every field has a default
    TASKS: tuple[Task, ...]

    def read_source(self, folder: Path, options: Any = None) -> Source:
        """The rows of the data set in `folder`."""
        ...


def source_names() -> list[str]:
    """Every data set, by file name; no file is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(sources.__path__) if module.name not in _NOT_SOURCES)


def find_source(name: str) -> SourceFile:
    """The module `data/sources/<name>.py`.

    Raises:
        CohortError: there is no such file, or it lacks a part of the contract.
    """
    if name not in source_names():
        raise CohortError(f"no source '{name}'; {_advice(name, source_names())}")
    module = importlib.import_module(f"{sources.__name__}.{name}")
    missing = [part for part in _CONTRACT if not hasattr(module, part)]
    if missing:
        raise CohortError(f"source {name}: {module.__file__} does not define {', '.join(missing)}; add it")
    return cast(SourceFile, module)


def title(name: str) -> str:
    """The first paragraph of a source's docstring, on one line."""
    return " ".join(inspect.cleandoc(find_source(name).__doc__ or "").partition("\n\n")[0].split())


def list_datasets(name: str) -> list[dict[str, str]]:
    """The data sets that a source of many offers; [] for a source that is one data set."""
    listed: list[dict[str, str]] = getattr(find_source(name), "list_datasets", list)()
    return listed


# ---------------------------------------------------------------------------------------------------------- options


def option_rows(name: str) -> list[dict[str, str]]:
    """A row for each option of a source: its key, the values it takes, its default and its help."""
    options = find_source(name).Options
    hints = typing.get_type_hints(options)
    return [
        {
            "key": one.name,
            "values": _describe(hints[one.name]),
            "default": ""
            if one.default is None
            else f"{one.default:g}"
            if isinstance(one.default, float)
            else str(one.default),
            "help": one.metadata.get("help", ""),
        }
        for one in dataclasses.fields(options)
    ]


def parse_options(name: str, pairs: Sequence[tuple[str, str]]) -> Any:
    """The `Options` of a source from (key, text) pairs.

    Raises:
        CohortError: a key is unknown or appears twice, or a value is not of its type; the message names the remedy.
    """
    options = find_source(name).Options
    hints = typing.get_type_hints(options)
    known = [one.name for one in dataclasses.fields(options)]
    keys = [key for key, _ in pairs]
    unknown = [key for key in keys if key not in known]
    if unknown:
        advice = _advice(unknown[0], known) if known else "it takes none"
        raise CohortError(f"source {name} has no option {', '.join(unknown)}; {advice}")
    doubled = [key for key in known if keys.count(key) > 1]
    if doubled:
        raise CohortError(f"source {name}: option {first_few(doubled)} is given twice; give it once")
    values = {}
    for key, text in pairs:
        try:
            values[key] = _value(hints[key], text)
        except ValueError:
            help_text = next(one.metadata.get("help", "") for one in dataclasses.fields(options) if one.name == key)
            raise CohortError(
                f"source {name}: option {key} is {text!r}; it must be {_describe(hints[key])}: {help_text}"
            ) from None
    return options(**values)


def _value(kind: Any, text: str) -> Any:
    """A text as a value of a type: str, Path, int, float, bool, a Literal, a tuple of one of these, or None as well.

    Raises:
        ValueError: the text is no such value.
    """
    kind = _without_none(kind)
    if typing.get_origin(kind) is tuple:
        return tuple(_value(typing.get_args(kind)[0], part.strip()) for part in text.split(","))
    if typing.get_origin(kind) is Literal:
        for choice in typing.get_args(kind):
            if str(choice) == text:
                return choice
        raise ValueError(text)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind not in (str, Path, int, float):
        raise TypeError(f"an option of type {kind} cannot be given as text; use str, Path, int, float, bool or a tuple")
    if not text:
        raise ValueError(text)
    return kind(text)


def _describe(kind: Any) -> str:
    """The values that a type takes, for a message."""
    kind = _without_none(kind)
    if typing.get_origin(kind) is tuple:
        several = {str: "texts", Path: "paths", int: "whole numbers", float: "numbers"}
        return f"{several[typing.get_args(kind)[0]]} with commas between"
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return {str: "a text", Path: "a path", int: "a whole number", float: "a number", bool: "true or false"}[kind]


def _without_none(kind: Any) -> Any:
    """`X` for a type `X | None`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (kind,) = (one for one in typing.get_args(kind) if one is not type(None))
    return kind


# ------------------------------------------------------------------------------------------------------------ tasks


def tasks_by_source() -> dict[str, tuple[Task, ...]]:
    """The tasks of every data set: source name -> tasks."""
    return {name: find_source(name).TASKS for name in source_names()}


def select_tasks(name: str) -> dict[str, tuple[Task, ...]]:
    """The task of a name, or where there is none, the tasks of the source of that name: source name -> tasks.

    Raises:
        CohortError: there is neither; the message names the nearest.
    """
    every = tasks_by_source()
    of_name = {source: tuple(task for task in tasks if task.name == name) for source, tasks in every.items()}
    of_name = {source: tasks for source, tasks in of_name.items() if tasks}
    if of_name:
        return of_name
    if name in every:
        return {name: every[name]}
    names = dict.fromkeys([*(task.name for tasks in every.values() for task in tasks), *every])
    raise CohortError(f"no task or source {name!r}; {_advice(name, names)}")


def _advice(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or all known names."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
