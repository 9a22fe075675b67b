"""Other wordings of a report's statements: phrase -> findings of the shared dictionary -> names, criteria and wider findings.

A wording is derived from the text of a statement alone. No label of a recording is read, here or in training: a model that is
trained with these texts has still no label of any task, and its zero-shot scores remain zero-shot. `wordings.toml` has the
phrases, the words of doubt, and the hierarchy of findings; `codes.toml` has names, criteria and aliases.

A statement with a negation is not matched: it stays as it is. So does a statement in which no phrase is recognised.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from leadwise.batch import Wordings
from leadwise.data import codes, reports

FILE = Path(__file__).with_name("wordings.toml")
_MAX_PARTS = 4  # a statement of more findings is a whole report: its wordings would be too long for a view
_WORD = re.compile(r"[\w':]+")
_PLAIN = re.compile(r"[a-z0-9 ,'-]+")  # not "extrasystole, type: single pvc" or "complex(es)", and one statement only
_NARROWER = re.compile(r"\b(with|marked|frequent)\b")
_CACHE = 100_000  # distinct statements; free text has more, machine statements a few hundred


@dataclass(frozen=True)
class StatementFinding:
    """One finding of a statement."""

    name: str  # in codes.toml or wordings.toml
    modifier: str = ""  # word of doubt before the name: possible, cannot rule out; "" = none
    droppable: bool = True  # whether half of the wordings omit the modifier


@dataclass(frozen=True)
class _Entry:
    """A finding with its phrases and texts."""

    name: str
    criterion: str
    also: tuple[str, ...]  # not yet checked, see `_same`
    literals: tuple[str, ...]  # phrases of words and blanks alone
    patterns: tuple[re.Pattern[str], ...]  # the other phrases
    wider: tuple[str, ...]  # nearest first; "possible X": X is only possible


@dataclass(frozen=True)
class _Book:
    """`wordings.toml` and `codes.toml`, compiled."""

    entries: dict[str, _Entry]
    droppable: dict[str, str]  # word of doubt -> the word to write
    always: dict[str, str]
    after: dict[str, str]
    negation: re.Pattern[str]
    ignored: re.Pattern[str]
    verdicts: frozenset[str]
    literals: dict[str, list[str]] = field(init=False)  # phrase -> names of its findings
    longest: int = field(init=False)  # words of the longest literal phrase
    before: re.Pattern[str] = field(init=False)
    behind: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        literals: dict[str, list[str]] = {}
        for entry in self.entries.values():
            for phrase in entry.literals:
                literals.setdefault(phrase, []).append(entry.name)
        object.__setattr__(self, "literals", literals)
        object.__setattr__(self, "longest", max(phrase.count(" ") + 1 for phrase in literals))
        object.__setattr__(self, "before", _any_of([*self.droppable, *self.always]))
        object.__setattr__(self, "behind", _any_of(self.after))


def spelled(text: str) -> str:
    """Return a statement in the spelling of the phrases: lower case, single blanks instead of "-" and "/", "and" for "&"."""
    text = text.lower().replace("&", " and ").replace("ischaemi", "ischemi")
    text = re.sub(r"\((e?s)\)", r"\1", text)  # complex(es)
    text = " ".join(re.sub(r"[-/–_]", " ", text).split()).strip(" .*")
    text = re.sub(r"\b(non) (?=specific|conducted|sustained|diagnostic)", r"\1", text)
    return re.sub(r"\b(a v|s t|q t|p r)\b", lambda match: match[0].replace(" ", ""), text)


@lru_cache(maxsize=_CACHE)
def findings(statement: str) -> tuple[StatementFinding, ...]:
    """Return the findings of a statement, in the order of the text; () if there is none, or if the statement negates."""
    book, text = _book(), spelled(statement)
    spans = _spans(text)
    outside = _without(text, [(begin, end) for begin, end, _ in spans])
    if not spans or book.negation.search(outside):
        return ()

    # words of doubt: before a finding, as far back as the last "with" or the last finding of another doubt; or behind it
    matched: list[StatementFinding] = []
    doubt, place = "", 0
    for number, (begin, end, names) in enumerate(spans):
        gap = text[place:begin]
        words = book.before.findall(gap)
        if words:
            doubt = words[-1]
        elif re.search(r"\b(with|plus)\b|;", gap):
            doubt = ""
        following = text[end : spans[number + 1][0] if number + 1 < len(spans) else len(text)]
        behind = book.behind.search(following)
        if behind:
            modifier, droppable = book.after[behind[0]], False
        else:
            modifier, droppable = {**book.droppable, **book.always}.get(doubt, ""), doubt not in book.always
        matched += [StatementFinding(name, modifier, droppable) for name in names]
        place = end
    return tuple({finding.name: finding for finding in matched}.values())


@lru_cache(maxsize=_CACHE)
def wordings(statement: str) -> Wordings:
    """Return the texts that can replace a statement; without findings if it has to stay as it is."""
    matched = findings(statement)
    if len(matched) > _MAX_PARTS:
        return Wordings(())
    is_verdict = any(finding.name in _book().verdicts for finding in matched)
    return Wordings(tuple(map(_forms, matched)), not is_verdict)


def all_texts(texts: Iterable[str]) -> list[str]:
    """Return every wording of the statements of these reports, each once, sorted: further texts for a tokenizer."""
    statements = {statement for text in texts for statement in reports.statements(text)}
    forms = itertools.chain.from_iterable(wordings(statement).findings for statement in statements)
    return sorted({f"{text}." for finding in forms for form in finding for text in form})


def wider(name: str) -> dict[str, str]:
    """Return the wider findings of a finding, the nearest first, each with its modifier: "", or "possible"."""
    chain: dict[str, str] = {}
    queue = [(link, "") for link in _book().entries[name].wider]
    while queue:
        link, modifier = queue.pop(0)
        if link.startswith("possible "):
            link, modifier = link.removeprefix("possible "), "possible"
        if chain.get(link, modifier or "-"):  # not reached before, or only with doubt
            chain[link] = modifier
            queue += [(further, modifier) for further in _book().entries[link].wider]
    return chain


@dataclass(frozen=True)
class Coverage:
    """How many statements of reports have a finding of the dictionary. Occurrences are counted, not distinct statements."""

    n_statements: int
    n_ignored: int  # without a finding: data quality, comparison with an earlier ECG
    n_matched: int
    n_negated: int  # left as they are
    distinct: int
    unmatched: tuple[tuple[str, int], ...]  # statement, occurrences; the most frequent first
    by_finding: dict[str, int]

    @property
    def share(self) -> float:
        """The share of statements with a finding that are matched, of all that are not ignored or negated."""
        relevant = self.n_statements - self.n_ignored - self.n_negated
        return self.n_matched / relevant if relevant else 0.0


def coverage(statements: Iterable[str] | Mapping[str, int]) -> Coverage:
    """Return which statements are recognised; a mapping has the number of occurrences of each."""
    counts, book = Counter(statements), _book()
    by_finding: Counter[str] = Counter()
    ignored = negated = matched = 0
    unmatched = []
    for statement, n in counts.items():
        names = [finding.name for finding in findings(statement)]
        text = spelled(statement)
        if names:
            matched += n
            by_finding.update(dict.fromkeys(names, n))
        elif not text or book.ignored.fullmatch(text):
            ignored += n
        elif book.negation.search(text):
            negated += n
        else:
            unmatched.append((statement, n))
    unmatched.sort(key=lambda pair: (-pair[1], pair[0]))
    return Coverage(
        counts.total(), ignored, matched, negated, len(counts), tuple(unmatched), dict(by_finding.most_common())
    )


def _spans(text: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """Return the parts of a text that are findings, without overlap, the longest first; (begin, end, names), in order."""
    # plain phrases: every sequence of words is looked up, which is ten times faster than a pattern for each phrase
    book = _book()
    by_span: dict[tuple[int, int], list[str]] = {}
    words = [match.span() for match in _WORD.finditer(text)]
    for number, (begin, _) in enumerate(words):
        for _, end in words[number : number + book.longest]:
            if names := book.literals.get(text[begin:end]):
                by_span[begin, end] = list(names)

    # the other phrases
    for entry in book.entries.values():
        for pattern in entry.patterns:
            for match in pattern.finditer(text):
                names = by_span.setdefault(match.span(), [])
                if entry.name not in names:
                    names.append(entry.name)

    # the longest first
    chosen: list[tuple[int, int, tuple[str, ...]]] = []
    for begin, end in sorted(by_span, key=lambda span: (span[0] - span[1], span[0])):
        if all(end <= other_begin or begin >= other_end for other_begin, other_end, _ in chosen):
            chosen.append((begin, end, tuple(by_span[begin, end])))
    return sorted(chosen)


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return the text with the spans and the words of doubt blanked, in which a negation is looked for."""
    for begin, end in spans:
        text = f"{text[:begin]}{' ' * (end - begin)}{text[end:]}"
    return _book().behind.sub(" ", _book().before.sub(" ", text))


def _forms(finding: StatementFinding) -> tuple[tuple[str, ...], ...]:
    """Return the forms of a finding's text, each a list: name; name and criterion; other wordings; wider ones in both forms."""
    entry = _book().entries[finding.name]
    names, short = _doubted([entry.name], finding), _doubted(_short(entry), finding)
    others = _doubted(_same(entry.name), finding)
    wider_names: list[str] = []
    wider_short: list[str] = []
    for name, modifier in wider(entry.name).items():
        link = StatementFinding(name, finding.modifier or modifier, finding.droppable and not modifier)
        wider_names += _doubted([name, *_same(name)[:1]], link)
        wider_short += _doubted(_short(_book().entries[name]), link)
    forms = (names, short, others, wider_names, wider_short)
    return tuple(tuple(dict.fromkeys(form)) for form in forms if form)


def _short(entry: _Entry) -> list[str]:
    return [f"{entry.name}. {entry.criterion}"] if entry.criterion else []


def _doubted(texts: Iterable[str], finding: StatementFinding) -> list[str]:
    """Return the texts with the finding's modifier; without it as well if it may be dropped."""
    plain = list(texts)
    if not finding.modifier:
        return plain
    modified = [f"{finding.modifier} {text}" for text in plain]
    return plain + modified if finding.droppable else modified


@cache
def _same(name: str) -> tuple[str, ...]:
    """Return the further wordings of a finding: those of `wordings.toml`, and those of the dictionary that name it alone.

    The dictionary's `also` and `alias` have narrower findings as well, such as "left bundle branch block" for "bundle branch
    block"; these are not the same finding.
    """
    texts = list(_listed_also(name))
    for text in _book().entries[name].also:
        matched = [finding for part in reports.statements(text) for finding in findings(part)]
        is_same = all(finding.name == name and not finding.modifier for finding in matched)
        if is_same and _PLAIN.fullmatch(text) and not _NARROWER.search(text):
            texts.append(text)
    return tuple(dict.fromkeys(text for text in texts if text != name))


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _listed_also(name: str) -> tuple[str, ...]:
    """Return the wordings that `wordings.toml` has for a finding."""
    return tuple(_table()["findings"].get(name, {}).get("also", ()))


@lru_cache(maxsize=1)
def _book() -> _Book:
    """Read both files. The dictionary's names and aliases are phrases, too; a name of one is no alias of another."""
    table, dictionary = _table(), codes.entries()
    parts: dict[str, str] = table["parts"]
    names = {spelled(name) for name in dictionary}
    entries = {}
    for name in [*dictionary, *(name for name in table["findings"] if name not in dictionary)]:
        line, entry = table["findings"].get(name, {}), dictionary.get(name)
        aliases = [alias for alias in map(spelled, entry.alias) if alias not in names] if entry else []
        phrases = [spelled(name), *aliases]
        literals = tuple(dict.fromkeys(phrase for phrase in phrases if re.fullmatch(r"[\w': ]+", phrase)))
        phrases = [re.escape(phrase) for phrase in phrases if phrase not in literals]
        for text in line.get("text", ()):
            for part, pattern in parts.items():
                text = text.replace(f"{{{part}}}", pattern)
            phrases.append(text)
        compiled = tuple(re.compile(rf"(?<![\w'])(?:{phrase})(?!\w)") for phrase in phrases)
        criterion = line.get("criterion", entry.criterion if entry else "")
        also = (*line.get("also", ()), *(entry.also + entry.alias if entry else ()))
        wider_names = tuple(line.get("wider", ()))
        entries[name] = _Entry(name, criterion, tuple(dict.fromkeys(also)), literals, compiled, wider_names)
    modifiers = table["modifiers"]
    return _Book(
        entries,
        modifiers["may_drop"],
        modifiers["always"],
        modifiers["after"],
        _any_of(table["negations"]),
        re.compile("|".join(table["ignored"])),
        frozenset(table["verdicts"]),
    )


def _any_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of whole words, the longest phrase first."""
    ordered = sorted(phrases, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, ordered))})\b")
