"""The prompts of a task: its shipped file, else the shared dictionary of ECG findings (`data/codes.toml`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from leadwise.data import codes, reports
from leadwise.evaluate.prompts import PromptError, Prompts, find, load

log = logging.getLogger(__name__)


def task_prompts(source: str, task: str, classes: Sequence[str]) -> Prompts:
    """Return the prompts of a task: the shipped file of its source, else those of its classes in the dictionary.

    A class that the dictionary does not have is scored by its name; a warning and `Prompts.by_name` list these.

    Raises:
        PromptError: there is no file, and the dictionary has none of the classes.
    """
    try:
        return load(find(source, task))
    except PromptError as no_file:
        known = [name for name in classes if codes.by_name(name)]
        if not known:
            raise PromptError(f"{no_file}. The dictionary of findings has none of its classes either") from None
    return from_dictionary(source, task, classes)


def from_dictionary(source: str, task: str, classes: Sequence[str]) -> Prompts:
    """Return the prompts of classes from the dictionary; a class that it does not have has its name as its only prompt."""
    # a class is a name, another spelling of it, or a SNOMED CT code
    entries = {name: codes.by_name(name) for name in classes}
    by_name = tuple(name for name, entry in entries.items() if entry is None)
    if by_name:
        log.warning(
            "task %s: the dictionary of findings has no prompts for %s; scored by their name. Pass your own file as --prompts",
            task,
            ", ".join(by_name),
        )

    # a set must have every class
    names = {name: entry.name if entry else name for name, entry in entries.items()}
    alone: dict[str, tuple[str, ...]] = {name: (reports.clean(text),) for name, text in names.items()}
    texts: dict[str, dict[str, tuple[str, ...]]] = {
        "name": alone,
        "short": {name: entry.short if entry else alone[name] for name, entry in entries.items()},
        "rich": {name: entry.rich if entry else alone[name] for name, entry in entries.items()},
    }
    return Prompts(codes.FILE, source, task, names, texts, codes.digest(), by_name=by_name)
