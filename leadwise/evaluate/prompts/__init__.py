"""Prompt files: one TOML a data set and task, class -> plain name and texts in up to three sets.

    source = "ptbxl"
    task = "super"

    [classes.NORM]
    name = "normal ecg"
    short = ["normal ecg. upright p wave before every narrow qrs."]
    rich = ["normal sinus rhythm. normal ecg.", "sinus rhythm. within normal limits."]

Set `name` is the plain name alone, `short` adds one criterion, `rich` holds several texts as a report of such a record
would read after cleaning. A file of one's own may hold a single list `prompts` instead: set `own`. What stands in the
files we ship comes from what a cardiologist expects of the class, without a look at any label. Classes are scoped by data
set, since acronyms are not: AF is flutter in CSN. A file that `extends` another one takes its classes, but those in
`without`. The hash of what was read goes into the results.
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

from leadwise.data import reports

_FOLDER = Path(__file__).parent
SETS = ("name", "short", "rich", "own")
"""Every set there can be, from the plainest to the one taken when none is asked for."""
_LISTS = {"short": "short", "rich": "rich", "own": "prompts"}  # set -> its key in a file
_WORDS = {"str": "a text", "dict": "a table", "list": "a list"}
GENERATION_KEYS = ("model", "host", "date", "prompt")  # what a file that a language model wrote says of itself

MAX_WORDS = 18
_MARKS = re.compile(r"[a-z0-9 .,&/()':-]+\.")
_CHATTER = re.compile(
    r"\b(is|are|was|were|shows?|showing|patients?|this|that|here|sure|certainly|please|you|your|e\.g|i\.e|etc|label|json)\b"
)


class PromptError(ValueError):
    """A prompt file that cannot be used; the message names the file, the class and the remedy."""


@dataclass(frozen=True)
class ClassPrompts:
    """One class in one set."""

    name: str  # plain words for tables
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    """One prompt file, checked."""

    path: Path
    source: str
    task: str
    names: dict[str, str]  # class -> plain name
    texts: dict[str, dict[str, tuple[str, ...]]]  # set -> class -> its prompts; every set has every class
    sha256: str  # of the file, and of the one that it extends
    generation: dict[str, str] | None = None  # MADE: how a language model wrote it

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets of this file, from the plainest on."""
        return tuple(which for which in SETS if which in self.texts)

    def provenance(self, which: str | None = None) -> dict[str, str]:
        """What a result says of its prompts, so that they can be found again: file, sha256 and set (default: as `of`)."""
        return {"file": self.path.name, "sha256": self.sha256, "set": which or self.sets[-1]}

    def for_classes(self, classes: Iterable[str], which: str | None = None) -> list[ClassPrompts]:
        """The prompts of a task's classes, in that order, of one set (default: the last of `sets`, rich or own).

        Raises:
            PromptError: the file has no such set, or a class is missing or unknown; one message names all of them.
        """
        chosen = which or self.sets[-1]
        if chosen not in self.texts:
            raise PromptError(f"{self.path}: no set '{chosen}'; it has {', '.join(self.sets)}")
        wanted = list(classes)
        missing = [name for name in wanted if name not in self.names]
        unknown = [name for name in self.names if name not in wanted]
        faults = []
        if missing:
            faults.append(f"no prompts for {', '.join(missing)}")
        if unknown:
            faults.append(f"unknown classes {', '.join(unknown)}")
        if faults:
            raise PromptError(f"{self.path}: {'; '.join(faults)}. The task's classes are {', '.join(wanted)}")
        return [ClassPrompts(self.names[name], self.texts[chosen][name]) for name in wanted]


def shipped() -> list[Path]:
    """Every prompt file of the package."""
    return sorted(_FOLDER.glob("*.toml"))


def find(source: str, task: str) -> Path:
    """The shipped prompt file of a task.

    Raises:
        PromptError: there is none; the message names the nearest.
    """
    stems = [path.stem for path in shipped()]
    wanted = f"{source}_{task}"
    if wanted not in stems:
        near = difflib.get_close_matches(wanted, stems, n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped: {', '.join(stems) or 'none'}"
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
    table, raw = _read(path)
    _check_keys(
        table, {"source": str, "task": str, "classes": dict}, f"{path}", {"made": dict, "extends": str, "without": list}
    )
    names = {code: _name(entry, f"{path}: [classes.{code}]") for code, entry in table["classes"].items()}
    lists = {code: _lists(entry, f"{path}: [classes.{code}]") for code, entry in table["classes"].items()}
    digest = hashlib.sha256(raw)
    if "extends" in table:
        below, inherited = _inherited(path, table)
        names, lists = {**{code: below.names[code] for code in inherited}, **names}, {**inherited, **lists}
        digest.update(below.sha256.encode())
    elif "without" in table:
        raise PromptError(f"{path}: 'without' says what is not taken over, but there is no 'extends'")
    if not names:
        raise PromptError(f"{path}: no classes")
    texts: dict[str, dict[str, tuple[str, ...]]] = {
        "name": {code: (reports.clean(name),) for code, name in names.items()}
    }
    for which in _LISTS:
        lacking = [code for code in names if which not in lists[code]]
        if len(lacking) < len(names):
            if lacking:
                raise PromptError(
                    f"{path}: no '{_LISTS[which]}' for {', '.join(lacking)}, though other classes have it"
                )
            texts[which] = {code: lists[code][which] for code in names}
    return Prompts(path, table["source"], table["task"], names, texts, digest.hexdigest(), _generation(path, table))


def style_problem(text: str) -> str | None:
    """What keeps a text from reading like a cleaned report, in words; None if nothing does."""
    if text != reports.clean(text) or not _MARKS.fullmatch(text):
        return "not in the style of reports: lower case, plain letters, a period after each statement"
    if len(text.split()) > MAX_WORDS or len(reports.statements(text)) > 4:
        return f"longer than {MAX_WORDS} words or four statements"
    if said := _CHATTER.search(text):
        return f"the word '{said[0]}' is talk about an ECG, not a report of one"
    return None


def remarks(loaded: Prompts) -> list[str]:
    """What a person should look at again in a file that can be used: style, and texts that two classes share."""
    found = []
    for which in loaded.sets:
        first: dict[frozenset[str], str] = {}
        owners: dict[str, list[str]] = {}
        for code, texts in loaded.texts[which].items():
            found += [f"{code}, {which}: {why}: {text!r}" for text in texts if (why := style_problem(text))]
            cleaned = frozenset(map(reports.clean, texts))
            twin = first.setdefault(cleaned, code)
            if twin != code:
                found.append(f"{which}: {twin} and {code} have the same prompts, so nothing tells them apart")
                continue
            for text in cleaned:
                owners.setdefault(text, []).append(code)
        found += [
            f"{which}: {' and '.join(codes)} share a prompt, which tells them less apart: {text!r}"
            for text, codes in sorted(owners.items())
            if len(codes) > 1
        ]
    return found


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return tomllib.loads(raw.decode("utf-8")), raw
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} is not TOML in UTF-8: {error}") from None


def _inherited(path: Path, table: dict[str, Any]) -> tuple[Prompts, dict[str, dict[str, tuple[str, ...]]]]:
    """The file that this one extends, and the lists of its classes, but those it leaves out or writes anew."""
    stem, without = table["extends"], table.get("without", [])
    if not re.fullmatch(r"[\w-]+", stem):
        raise PromptError(f"{path}: 'extends' must be the name of a file beside it, without .toml, not {stem!r}")
    beside = path.with_name(f"{stem}.toml")
    if "extends" in _read(beside)[0]:
        raise PromptError(f"{path}: it extends {beside.name}, which extends another one; name the first one")
    below = load(beside)
    strange = [code for code in without if not isinstance(code, str) or code not in below.names]
    if strange:
        raise PromptError(f"{path}: 'without' names {', '.join(map(str, strange))}, which {beside.name} does not have")
    kept = [code for code in below.names if code not in without and code not in table["classes"]]
    return below, {code: {w: below.texts[w][code] for w in below.sets if w in _LISTS} for code in kept}


def _name(entry: Any, where: str) -> str:
    if not isinstance(entry, dict):
        raise PromptError(f"{where} must be a table with name and prompts")
    _check_keys(entry, {"name": str}, where, dict.fromkeys(_LISTS.values(), list))
    if not re.search(r"\w", entry["name"]):
        raise PromptError(f"{where}: 'name' is empty")
    return str(entry["name"])


def _lists(entry: dict[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    """The sets that a class has, by name."""
    lists = {}
    for which, key in _LISTS.items():
        if key not in entry:
            continue
        texts = entry[key]
        if not texts or not all(isinstance(text, str) and re.search(r"\w", text) for text in texts):
            raise PromptError(f"{where}: {key} must be a list of one or more texts")
        if len(set(texts)) < len(texts):
            raise PromptError(f"{where}: the same prompt twice")
        lists[which] = tuple(texts)
    return lists


def _generation(path: Path, table: dict[str, Any]) -> dict[str, str] | None:
    if "made" not in table:
        return None
    _check_keys(table["made"], dict.fromkeys(GENERATION_KEYS, str), f"{path}: [made]")
    return dict(table["made"])


def _check_keys(
    table: dict[str, Any], kinds: dict[str, type], where: str, optional: dict[str, type] | None = None
) -> None:
    """Every key of `kinds` is there, those of `optional` may be, and all are of their kind."""
    known = {**kinds, **(optional or {})}
    for key in table:
        if key not in known:
            raise PromptError(f"{where}: unknown key '{key}'; known: {', '.join(known)}")
    for key, kind in known.items():
        if (key in table or key in kinds) and not isinstance(table.get(key), kind):
            raise PromptError(f"{where}: '{key}' must be {_WORDS[kind.__name__]}, not {table.get(key)!r}")
