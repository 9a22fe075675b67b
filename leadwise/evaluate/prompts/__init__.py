"""Prompt files: one TOML a task, class -> plain name and several short reports, in the words of machine statements.

    source = "ptbxl"
    task = "super"

    [classes.NORM]
    name = "normal ecg"
    prompts = ["normal sinus rhythm. normal ecg.", "sinus rhythm. within normal limits."]

Prompts are written as a report of such a record would read after cleaning, from what a cardiologist expects of the
class and without a look at any label. The hash of the file goes into the results.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_WORDS = {"str": "a text", "dict": "a table", "list": "a list"}


class PromptError(ValueError):
    """A prompt file that cannot be used; the message names the file, the class and the remedy."""


@dataclass(frozen=True)
class ClassPrompts:
    name: str  # plain words for tables
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    """One prompt file, checked."""

    path: Path
    source: str
    task: str
    classes: dict[str, ClassPrompts]
    sha256: str  # of the file

    def of(self, classes: Iterable[str]) -> list[ClassPrompts]:
        """The prompts of a task's classes, in that order.

        Raises:
            PromptError: a class is missing or unknown; one message names all of them.
        """
        wanted = list(classes)
        missing = [name for name in wanted if name not in self.classes]
        unknown = [name for name in self.classes if name not in wanted]
        faults = []
        if missing:
            faults.append(f"no prompts for {', '.join(missing)}")
        if unknown:
            faults.append(f"unknown classes {', '.join(unknown)}")
        if faults:
            raise PromptError(f"{self.path}: {'; '.join(faults)}. The task's classes are {', '.join(wanted)}")
        return [self.classes[name] for name in wanted]


def find(source: str, task: str) -> Path:
    """The shipped prompt file of a task.

    Raises:
        PromptError: there is none; the message names the nearest.
    """
    shipped = sorted(path.stem for path in _FOLDER.glob("*.toml"))
    wanted = f"{source}_{task}"
    if wanted not in shipped:
        near = difflib.get_close_matches(wanted, shipped, n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped: {', '.join(shipped) or 'none'}"
        raise PromptError(
            f"no prompts are shipped for source '{source}', task '{task}' ({hint}): give a file of your own with --prompts; "
            "the README shows its form"
        )
    return _FOLDER / f"{wanted}.toml"


def load(path: Path) -> Prompts:
    """A prompt file, read strictly.

    Raises:
        PromptError: not there, not TOML, or not of the form above.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} is not TOML in UTF-8: {error}") from None
    _only(table, {"source": str, "task": str, "classes": dict}, f"{path}")
    if not table["classes"]:
        raise PromptError(f"{path}: no classes")
    classes = {name: _class(entry, f"{path}: [classes.{name}]") for name, entry in table["classes"].items()}
    return Prompts(path, table["source"], table["task"], classes, hashlib.sha256(raw).hexdigest())


def _class(entry: Any, where: str) -> ClassPrompts:
    if not isinstance(entry, dict):
        raise PromptError(f"{where} must be a table with name and prompts")
    _only(entry, {"name": str, "prompts": list}, where)
    prompts = entry["prompts"]
    if not prompts or not all(isinstance(prompt, str) and re.search(r"\w", prompt) for prompt in prompts):
        raise PromptError(f"{where}: prompts must be a list of one or more texts")
    if len(set(prompts)) < len(prompts):
        raise PromptError(f"{where}: the same prompt twice")
    return ClassPrompts(entry["name"], tuple(prompts))


def _only(table: dict[str, Any], kinds: dict[str, type], where: str) -> None:
    for key in table:
        if key not in kinds:
            raise PromptError(f"{where}: unknown key '{key}'; known: {', '.join(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(table.get(key), kind):
            raise PromptError(f"{where}: '{key}' must be {_WORDS[kind.__name__]}, not {table.get(key)!r}")
