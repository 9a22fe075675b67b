"""The shared dictionary of ECG findings: SNOMED CT, AHA and SCP codes -> plain name, and the wordings for prompts.

The dictionary is `codes.toml`, one line per finding. Codes with one clinical meaning share a line, so that a finding has
the same name in every data set.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).with_name("codes.toml")
_VERDICT = "abnormal ecg"


@dataclass(frozen=True)
class CodeEntry:
    """One finding of the dictionary."""

    name: str  # plain name, lower case
    codes: tuple[str, ...]  # with their vocabulary: snomed:164889003, aha:50, scp:AFIB
    criterion: str  # what a reader sees in the tracing
    also: tuple[str, ...]  # other wordings of a report
    verdict: str  # last statement of such a report
    alias: tuple[str, ...] = ()  # other spellings that data sets use

    @property
    def short(self) -> tuple[str, ...]:
        """The prompt set `short`: the name and its criterion."""
        return (f"{self.name}. {self.criterion}.",)

    @property
    def rich(self) -> tuple[str, ...]:
        """The prompt set `rich`: texts in the style of a cleaned report."""
        texts = [f"{wording}. {self.verdict}." for wording in (self.name, *self.also) if wording != self.verdict]
        return tuple(dict.fromkeys([*texts, f"{self.name}."]))


@lru_cache(maxsize=1)
def entries() -> dict[str, CodeEntry]:
    """Every finding, by name, in the order of the file."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: CodeEntry(
            name,
            tuple(line["codes"].split()),
            line["criterion"],
            tuple(line["also"]),
            line.get("verdict", _VERDICT),
            tuple(line.get("alias", ())),
        )
        for name, line in table.items()
    }


@lru_cache(maxsize=1)
def digest() -> str:
    """SHA-256 of the dictionary, as written to results."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


def by_code(vocabulary: str, code: str) -> CodeEntry | None:
    """The finding of a code of `snomed`, `aha` or `scp`; None if the dictionary does not have it."""
    return _code_table().get(f"{vocabulary}:{code.strip()}")


def by_name(text: str) -> CodeEntry | None:
    """The finding of a name, of another spelling of it, or of a SNOMED CT code; None if the dictionary has none of these.

    Acronyms are not looked up: AF is fibrillation in one data set and flutter in another.
    """
    if re.fullmatch(r"\d{6,18}", text.strip()):
        return by_code("snomed", text)
    return _name_table().get(plain(text))


def plain(text: str) -> str:
    """A label in the spelling of the dictionary: lower case, single blanks, no period at the end."""
    return " ".join(text.lower().split()).rstrip(". ")


@lru_cache(maxsize=1)
def _code_table() -> dict[str, CodeEntry]:
    return {code: entry for entry in entries().values() for code in entry.codes}


@lru_cache(maxsize=1)
def _name_table() -> dict[str, CodeEntry]:
    aliases = {plain(alias): entry for entry in entries().values() for alias in entry.alias}
    return {**aliases, **entries()}
