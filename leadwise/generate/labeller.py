"""A rule-based labeller: the findings and the numbers that a report states.

Each sentence is searched for the phrases of the lexicon (`findings.toml`), the longest first; side and territory are part
of a finding. A negation or a hedge reaches the findings that begin within six tokens after it, up to the next punctuation
or "but"; in "no A, B or C" it reaches the whole list. A normal ECG sets every finding that the report does not mention to no.
The labeller knows only the phrases of its lexicon: `ReportLabels.coverage` is the share of sentences that it recognises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

from leadwise.data.reports import join_modifiers, statements
from leadwise.data.wordings import spelled
from leadwise.generate.lexicon import Lexicon, Status, Statuses, lexicon
from leadwise.generate.report_numbers import read_numbers

_CACHE = 50_000  # sentences whose findings are remembered
_TOKEN = re.compile(r"[\w':]+|[^\w\s]")
_LINK = re.compile(
    r"\s*(?:,|,?\s*(?:and|or|nor|versus|vs)\b)\s*(?:(?:a|an|the|of|any|for|old|acute|other|evidence)\s+)*"
)
_ALTERNATIVE = re.compile(r"\b(?:or|nor|versus|vs)\b")
_RANK: dict[Status, int] = {"no": 0, "uncertain": 1, "yes": 2}


@dataclass(frozen=True)
class ReportLabels:
    """What a report states. A finding that is absent from `findings` is not mentioned."""

    findings: Mapping[str, Status]  # by key; the strongest status if a finding is mentioned more than once
    numbers: Mapping[str, float]  # heart_rate_bpm, pr_ms, qrs_ms, qt_ms, qtc_ms, axis_deg; those that it states
    contradictions: tuple[tuple[str, str], ...]  # pairs of findings that exclude each other; (A, A): stated and denied
    n_sentences: int
    unmatched: tuple[str, ...] = field(repr=False)  # sentences without anything that the lexicon has

    @property
    def coverage(self) -> float:
        """The share of sentences that the lexicon recognises; 1 for a report without sentences."""
        return 1 - len(self.unmatched) / self.n_sentences if self.n_sentences else 1.0

    def stated(self, uncertain: bool = True) -> frozenset[str]:
        """Return the findings that the report states; those with doubt too, if `uncertain`."""
        return frozenset(
            key for key, status in self.findings.items() if status == "yes" or (uncertain and status == "uncertain")
        )

    def to_json(self) -> dict[str, Any]:
        """Return every field except the unrecognised sentences, of which only the number is given."""
        return {
            "findings": dict(self.findings),
            "numbers": dict(self.numbers),
            "contradictions": [list(pair) for pair in self.contradictions],
            "n_sentences": self.n_sentences,
            "n_unmatched": len(self.unmatched),
            "coverage": self.coverage,
        }


@dataclass(frozen=True)
class _Sentence:
    """What one sentence states."""

    findings: Statuses
    matched: bool
    rest_normal: bool  # only the findings that the report names hold


@dataclass(frozen=True)
class _Span:
    """A phrase of the lexicon in a sentence."""

    begin: int
    end: int
    states: Statuses


def label_report(text: str) -> ReportLabels:
    """Return the findings and numbers that a report states.

    Statements end at a period, a semicolon or a line break. Modifiers that a 12SL-like list separates by semicolons are
    joined to their statements first.
    """
    book = lexicon()
    parts = statements(join_modifiers(text) if ";" in text else text)
    sentences = [_label_sentence(part) for part in parts]

    # statuses of findings that are mentioned; what they imply, if not mentioned; the rest, if the ECG is normal
    mentions: dict[str, set[Status]] = {}
    for sentence in sentences:
        for key, status in sentence.findings:
            mentions.setdefault(key, set()).add(status)
    findings = {key: max(statuses, key=_RANK.__getitem__) for key, statuses in mentions.items()}
    findings = {**implied(findings), **findings}
    if findings.get("NORM") == "yes" or any(sentence.rest_normal for sentence in sentences):
        findings = {**dict.fromkeys(book.findings, "no"), **findings}

    unmatched = tuple(
        part for part, sentence in zip(parts, sentences) if not sentence.matched and not read_numbers(part)
    )
    denied = [(key, key) for key, statuses in mentions.items() if {"yes", "no"} <= statuses]
    return ReportLabels(
        findings=findings,
        numbers=dict(read_numbers(text)),
        contradictions=(*denied, *_exclusive_pairs(findings)),
        n_sentences=len(parts),
        unmatched=unmatched,
    )


def implied(findings: Mapping[str, Status]) -> dict[str, Status]:
    """Return the findings that stated findings imply, with the strongest status of those that imply them."""
    result: dict[str, Status] = {}
    for key, status in findings.items():
        for target in lexicon().findings[key].implies if status != "no" else ():
            result[target] = max(status, result.get(target, "no"), key=_RANK.__getitem__)
    return result


def _exclusive_pairs(findings: Mapping[str, Status]) -> list[tuple[str, str]]:
    """Return the pairs of findings stated without doubt that exclude each other."""
    book = lexicon()
    stated = [key for key, status in findings.items() if status == "yes"]
    pairs = [
        pair for group in book.exclusive.values() for pair in combinations([key for key in group if key in stated], 2)
    ]
    if "NORM" in stated:
        pairs += [("NORM", key) for key in stated if not book.findings[key].with_normal]
    return pairs


@lru_cache(maxsize=_CACHE)
def _label_sentence(sentence: str) -> _Sentence:
    """Return what one sentence states."""
    # phrases, and the text outside them, in which cues are searched
    book, text = lexicon(), _expand(spelled(sentence), lexicon())
    if book.history.search(text):
        return _Sentence((), True, False)
    rest_normal = book.rest_normal.search(text)
    spans = _longest_spans(text, book)
    outside = text
    for span in spans:
        blank = re.sub(r"\S", "_", text[span.begin : span.end])  # as many tokens as before, without its punctuation
        outside = outside[: span.begin] + blank + outside[span.end :]

    # what the cues make of each phrase
    cues = _share_in_lists(text, spans, _cue_before(outside, spans, book), _cue_after(outside, spans, book))
    states = [(key, _combine(status, cue)) for span, cue in zip(spans, cues) for key, status in span.states]
    if rest_normal:
        states = [(key, status) for key, status in states if key != "NORM"] + [("NORM", "no")]
    matched = bool(spans) or rest_normal is not None or book.without_finding.fullmatch(text) is not None
    return _Sentence(
        tuple((key, status) for key, status in states if status is not None), matched, rest_normal is not None
    )


def _combine(status: Status, cue: Status | None) -> Status | None:
    """Return the status of a phrase under a cue; None if nothing follows, as from "no normal axis"."""
    if cue is None or cue == "uncertain":
        return cue or status
    return None if status == "no" else "no"


def _expand(text: str, book: Lexicon) -> str:
    """Return the text with each noun written out: "inferior and lateral ischemia" has two findings."""
    places, shifts = book.coordinated

    def write_out(match: re.Match[str]) -> str:
        return re.sub(r"(\w)(?=, | and | or )", rf"\1 {match[3]}", match[1]) + f"{match[2]} {match[3]}"

    return shifts.sub(r"\1\2\3\1\4", places.sub(write_out, text))


def _longest_spans(text: str, book: Lexicon) -> list[_Span]:
    """Return the phrases of a text without overlap, the longest first, in order; one span can state several findings."""
    by_place: dict[tuple[int, int], list[tuple[str, Status]]] = {}
    for pattern, states in book.phrases:
        for match in pattern.finditer(text):
            if match.end() > match.start():
                by_place.setdefault(match.span(), []).extend(states)
    chosen: list[_Span] = []
    for begin, end in sorted(by_place, key=lambda place: (place[0] - place[1], place[0])):
        if all(end <= other.begin or begin >= other.end for other in chosen):
            chosen.append(_Span(begin, end, tuple(dict.fromkeys(by_place[begin, end]))))
    return sorted(chosen, key=lambda span: span.begin)


def _cue_before(text: str, spans: Sequence[_Span], book: Lexicon) -> list[Status | None]:
    """Return what the cues before each phrase make of it; a negation is stronger than a hedge.

    Args:
        text: the sentence with its phrases blanked.
    """
    positions = book.before.positions(text)
    result: list[Status | None] = []
    for span in spans:
        effects: set[Status] = set()
        for _, end, effect in positions:
            ends = book.ends if effect == "no" else book.ends_hedge
            if end <= span.begin and _reaches(text[end : span.begin], ends, book.window):
                effects.add(effect)
        result.append("no" if "no" in effects else "uncertain" if effects else None)
    return result


def _cue_after(text: str, spans: Sequence[_Span], book: Lexicon) -> list[Status | None]:
    """Return what the cues between each phrase and the next make of it; one comma may precede such a cue."""
    positions = book.after.positions(text)
    result: list[Status | None] = []
    for number, span in enumerate(spans):
        limit = spans[number + 1].begin if number + 1 < len(spans) else len(text)
        effect: Status | None = None
        for begin, end, status in positions:
            # "infarct possible" has the cue behind; in "infarct, possible ischemia" it belongs to what follows
            if text[begin:end] in book.before.status and re.match(r"\s*[\w(]", text[end:]):
                continue
            gap = text[span.end : begin]
            if span.end <= begin and end <= limit and (gap.strip() == "," or _reaches(gap, book.ends, book.window)):
                effect = status
                break
        result.append(effect)
    return result


def _reaches(gap: str, ends: frozenset[str], window: int) -> bool:
    """Return whether a cue reaches over a gap: fewer than `window` tokens, and none that ends the reach."""
    tokens = _TOKEN.findall(gap)
    return len(tokens) < window and not any(token in ends or not re.match(r"\w", token) for token in tokens)


def _share_in_lists(
    text: str, spans: Sequence[_Span], before: Sequence[Status | None], after: Sequence[Status | None]
) -> list[Status | None]:
    """Return the cue of each phrase, where the members of an "A, B or C" share the first cue before and the last one after.

    Without a cue, each member of such a list is uncertain.
    """
    cues = [left if left == "no" or right is None else right for left, right in zip(before, after)]
    first = 0
    while first < len(spans):
        # the longest list that begins here; its last link is an "or"
        last = end = first
        while end + 1 < len(spans) and _LINK.fullmatch(link := text[spans[end].end : spans[end + 1].begin]):
            end += 1
            if _ALTERNATIVE.search(link):
                last = end

        # its members
        members = range(first, last + 1)
        is_open = len(members) > 1 and all(spans[member].states and cues[member] is None for member in members)
        for member in members if len(members) > 1 else ():
            shared = next((cue for cue in before[first:member] if cue), None) or after[last]
            cues[member] = cues[member] or shared or ("uncertain" if is_open else None)
        first = last + 1
    return cues
