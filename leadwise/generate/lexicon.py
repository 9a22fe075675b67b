"""The lexicon of the report labeller, compiled from `findings.toml`: phrases, words of negation and doubt, exclusive groups."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

FILE = Path(__file__).with_name("findings.toml")

Status = Literal["yes", "no", "uncertain"]
Statuses = tuple[tuple[str, Status], ...]  # keys of findings with their status


@dataclass(frozen=True)
class LexiconFinding:
    """One finding of the lexicon."""

    key: str  # PTB-XL acronym without underscores, or a name of ours
    name: str  # plain name, lower case
    weight: float  # in the weighted omission rate: 1 minor, 2 relevant, 4 needs action now
    with_normal: bool  # a normal ECG may have it
    implies: tuple[str, ...]  # findings that hold as well


@dataclass(frozen=True)
class Cues:
    """Words of negation and doubt on one side of a finding."""

    pattern: re.Pattern[str]  # every cue, the longest first
    status: Mapping[str, Status | None]  # cue -> what it makes of a finding; None for a cue without effect

    def positions(self, text: str) -> list[tuple[int, int, Status]]:
        """Return begin, end and effect of the cues in a text, in order, without those that have no effect."""
        matches = ((match.start(), match.end(), self.status[match[0]]) for match in self.pattern.finditer(text))
        return [(begin, end, status) for begin, end, status in matches if status is not None]


@dataclass(frozen=True)
class Lexicon:
    """`findings.toml`, compiled."""

    findings: Mapping[str, LexiconFinding]
    phrases: tuple[tuple[re.Pattern[str], Statuses], ...]  # a pattern and what it states; () for recognised text only
    rest_normal: re.Pattern[str]
    without_finding: re.Pattern[str]
    history: re.Pattern[str]  # of sentences about an earlier ECG
    before: Cues
    after: Cues
    window: int  # tokens
    ends: frozenset[str]  # words that end the reach of a negation
    ends_hedge: frozenset[str]  # words that end the reach of a hedge
    exclusive: Mapping[str, tuple[str, ...]]
    codes: Mapping[str, Mapping[str, tuple[str, ...]]]  # data set -> class -> findings
    twelve_sl: Mapping[str, Statuses]  # acronym of the 12SL program -> what its statement means
    twelve_sl_doubt: frozenset[str]  # acronyms that put doubt on the next statement
    coordinated: tuple[re.Pattern[str], ...]  # "inferior and lateral ischemia": several places before one noun


@cache
def lexicon() -> Lexicon:
    """Return the compiled lexicon."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    parts: dict[str, str] = table["parts"]

    # findings, and every phrase with what it states
    findings = {
        key: LexiconFinding(
            key, line["name"], line["weight"], line.get("with_normal", False), tuple(line.get("implies", ()))
        )
        for key, line in table["findings"].items()
    }
    phrases: list[tuple[re.Pattern[str], Statuses]] = []
    keys: dict[str, Status] = {"text": "yes", "doubtful": "uncertain", "absent": "no"}
    for finding, line in table["findings"].items():
        for key, status in keys.items():
            phrases += [(_pattern(text, parts), ((finding, status),)) for text in line.get(key, ())]
    phrases += [(_pattern(text, parts), ()) for text in table["other"]["neutral"]]

    # codes of label sets, and acronyms of the 12SL program
    codes = {source: {code: tuple(names) for code, names in lines.items()} for source, lines in table["codes"].items()}
    acronyms = {
        name: tuple(_acronym_status(text) for text in texts) for name, texts in table["twelve_sl"]["acronyms"].items()
    }
    return Lexicon(
        findings=findings,
        phrases=tuple(phrases),
        rest_normal=_pattern("|".join(table["other"]["rest_normal"]), parts),
        without_finding=re.compile("|".join(table["other"]["without_finding"])),
        history=re.compile("|".join(table["other"]["history"])),
        before=_cues(table["before"]),
        after=_cues(table["after"]),
        window=int(table["window"]),
        ends=frozenset(table["ends"]),
        ends_hedge=frozenset([*table["ends"], *table["ends_hedge"]]),
        exclusive={name: tuple(group) for name, group in table["exclusive"].items()},
        codes=codes,
        twelve_sl=acronyms,
        twelve_sl_doubt=frozenset(table["twelve_sl"]["doubt"]),
        coordinated=_coordinated(table["adjectives"], table["heads"]),
    )


def findings_of_code(source: str, code: str) -> tuple[str, ...]:
    """Return the findings that a class of a task means, one of which has to hold; () if the lexicon does not have it.

    Args:
        source: data set, such as "ptbxl" or "simulated".
        code: class of one of its tasks, such as "LPR".
    """
    book = lexicon()
    listed = book.codes.get(source, {}).get(code)
    if listed is not None:
        return listed
    return (code,) if code in book.findings else ()


def _pattern(text: str, parts: Mapping[str, str]) -> re.Pattern[str]:
    """Return a pattern of whole words."""
    for part, pattern in parts.items():
        text = text.replace(f"{{{part}}}", pattern)
    return re.compile(rf"(?<![\w'])(?:{text})(?!\w)")


def _cues(table: Mapping[str, list[str]]) -> Cues:
    effects: dict[str, Status | None] = {"no": "no", "uncertain": "uncertain", "other": None}
    status = {cue: effects[kind] for kind, cues in table.items() for cue in cues}
    words = _longest_first(cue for cue in status if cue[0].isalnum())
    marks = "".join(
        rf"|{re.escape(cue)}" for cue in status if not cue[0].isalnum()
    )  # "?" follows a word without a blank
    return Cues(re.compile(rf"(?<![\w'])(?:{words})(?!\w){marks}"), status)


def _longest_first(phrases: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


def _acronym_status(text: str) -> tuple[str, Status]:
    """Return finding and status of "KEY", "KEY?" or "-KEY"."""
    if text.startswith("-"):
        return text[1:], "no"
    return (text[:-1], "uncertain") if text.endswith("?") else (text, "yes")


def _coordinated(adjectives: list[str], heads: list[str]) -> tuple[re.Pattern[str], ...]:
    place, noun = _longest_first(adjectives), _longest_first(heads)
    places = re.compile(rf"\b((?:(?:{place})(?:, and |, or |, | and | or ))+)({place}) ({noun})\b")
    shifts = re.compile(r"\b(st (?:segment )?)(elevations?|depressions?)( and | or | nor )(elevations?|depressions?)\b")
    return places, shifts
