"""The measurements that a report states, with their units.

Values are converted to beats/min, ms and degrees. Numbers without a unit are taken in these units; intervals below 3 are
seconds. A limit is no measurement: "rate below 60" gives nothing. Values outside `RANGES` are left out.

`remove_numbers` returns a report without them, for a writer that is trained on findings alone.
"""

from __future__ import annotations

import re
from functools import lru_cache
from types import MappingProxyType

from leadwise.data import reports

RANGES = MappingProxyType(
    {
        "heart_rate_bpm": (15.0, 350.0),
        "pr_ms": (50.0, 600.0),
        "qrs_ms": (40.0, 300.0),
        "qt_ms": (150.0, 800.0),
        "qtc_ms": (150.0, 900.0),
        "axis_deg": (-180.0, 360.0),
    }
)
"""Measurements that are read, by the names of `leadwise.data.measurements`, with the values that are plausible."""

_IS = r"\s*(?:[:=]|is|was|of|at|measures|\(ms\)|\(msec\))?\s*(?:about|approximately|approx\.?|~)?\s*"
_NUMBER = r"([-+−]?\d+(?:\.\d+)?)"
_TIME = r"\s*(ms|msecs?|milliseconds?|secs?|seconds?|s)?\b"
_PER_MINUTE = r"(?:bpm|b\.p\.m\.|/\s*min(?:ute)?|beats?\s*(?:/|per)\s*min(?:ute)?|per minute)"

_RATE = r"(?<!atrial )(?<!atrial-)\b(?:(?:ventricular|heart|vent\.?|sinus)\s+rate|hr|rate)"
_QTC = r"\bqtc(?:[- ]?\(?(?:b|f|h|bazett|fridericia|hodges|framingham)\)?)?(?:[- ]interval)?"

_PATTERNS: tuple[tuple[str, str], ...] = (
    ("heart_rate_bpm", rf"{_RATE}{_IS}{_NUMBER}(?!\s*(?:ms|:))"),
    ("heart_rate_bpm", rf"(?<![\d.])(\d{{2,3}})\s*{_PER_MINUTE}"),
    ("pr_ms", rf"\bp-?[rq](?:[- ]interval|\s+(?:duration|time))?{_IS}{_NUMBER}{_TIME}"),
    ("qrs_ms", rf"\bqrs(?:\s+(?:duration|interval|width|complex))*{_IS}{_NUMBER}{_TIME}"),
    ("qt_ms", rf"\bq-?t(?!c)(?:[- ]interval|\s+duration)?{_IS}{_NUMBER}{_TIME}"),
    ("qtc_ms", rf"{_QTC}{_IS}{_NUMBER}{_TIME}"),
    ("axis_deg", rf"(?<![pt][- ])\baxis(?:\s+deviation)?{_IS}{_NUMBER}\s*(?:°|deg(?:rees?)?)?"),
)
_PAIR = re.compile(
    rf"\bq-?t\s*/\s*qtc?(?:[- ]?(?:b|f|bazett|fridericia))?(?:[- ]interval)?{_IS}{_NUMBER}{_TIME}\s*/\s*{_NUMBER}{_TIME}"
)
_AXES = re.compile(rf"\bp-r-t axes{_IS}{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}")  # of P, QRS and T
_COMPILED = tuple((name, re.compile(pattern)) for name, pattern in _PATTERNS)
_LIMIT = re.compile(
    r"(?:below|above|beyond|under|over|than|least|most|exceeding|<|>|≤|≥|atrial rate|atrial rate of)\s*$"
)

# for `remove_numbers`: any number with a unit, the words between a name and its number, and names of measurements alone
_WITH_UNIT = re.compile(
    rf"(?<![\w.]){_NUMBER}\s*(?:{_PER_MINUTE}|(?:ms|msecs?|milliseconds?|secs?|seconds?|s|mv|mm|deg(?:rees?)?)\b|%|°)"
)
_TO_NUMBER = re.compile(
    r"(?:\s*(?:[:=~]|\(ms\)|\(msec\)|\b(?:is|was|of|at|measures|about|approximately|approx\.?)))*\s*$"
)
_BOUND = re.compile(r"(?:below|above|beyond|under|over|than|least|most|exceeding|<|>|≤|≥)\s*$")
_NAMES = (
    r"(?:\b(?:the|an?|mean|ventricular|atrial|vent|heart|sinus|frontal|electrical|qrs|p-?[rq]|q-?tc?[bf]?|r-?r|p-r-t|hr|rate|"
    r"intervals?|duration|width|complex|time|axis|axes)\b[\s,:/.-]*(?:and\b\s*)?)+"
)
_CLAUSE = re.compile(rf"(?:,|\b(?:with|at|and)\b)\s*{_NAMES}(?=$|,|\))|\(\s*{_NAMES}\)|^{_NAMES}(?<=,)\s*|^{_NAMES}$")
_DANGLING = re.compile(r"(?:\s*(?:[,:(]|\b(?:with|at|of|and|is|an?|the)\b))+\s*$|^[\s,:]+|\(\s*\)")


@lru_cache(maxsize=20_000)
def read_numbers(text: str) -> MappingProxyType[str, float]:
    """Return the measurements in a report, by name: the first plausible value of each."""
    flat = " ".join(text.lower().replace("−", "-").split())
    values: dict[str, float] = {}

    # two or three values in one expression
    if pair := _PAIR.search(flat):
        _store(values, "qt_ms", pair[1], pair[2] or pair[4])
        _store(values, "qtc_ms", pair[3], pair[4] or pair[2])
    if axes := _AXES.search(flat):
        _store(values, "axis_deg", axes[2], None)

    # one value
    for name, pattern in _COMPILED:
        for match in pattern.finditer(flat):
            if not _LIMIT.search(flat[: match.start()]):
                _store(values, name, match[1], match[2] if pattern.groups > 1 else None)
    return MappingProxyType(values)


def _store(values: dict[str, float], name: str, number: str, unit: str | None) -> None:
    """Add a value in the unit of its name, unless it is not plausible or there is one already."""
    value = float(number)
    if name.endswith("_ms") and ((unit or "").startswith("s") or (unit is None and abs(value) < 3)):
        value *= 1000
    low, high = RANGES[name]
    if name in values or not low <= value <= high:
        return
    values[name] = value - 360 if name == "axis_deg" and value > 180 else value


def remove_numbers(text: str) -> str:
    """Return a report without measurements and other numbers with units, in the style of `leadwise.data.reports.clean`.

    A statement that only measures is left out. Limits ("pr interval longer than 200 ms"), degrees of block, ratios and names of
    leads remain: they are part of findings.
    """
    return reports.join_statements([part for part in map(_without_numbers, reports.statements(text)) if part])


def _without_numbers(statement: str) -> str:
    """Return a statement without its measurements; as it is if there are none."""
    # the places of numbers with their units, and the words that lead to them
    flat = statement.replace("−", "-")
    places = [(match.start(1), match.end()) for pattern in (_PAIR, _AXES) for match in pattern.finditer(flat)]
    for pattern in (_WITH_UNIT, *(pattern for _, pattern in _COMPILED)):
        places += [(match.start(1), match.end()) for match in pattern.finditer(flat)]
    places = [(begin, end) for begin, end in places if not _BOUND.search(flat[:begin])]
    if not places:
        return statement

    # cut them, then names of measurements that have no value left
    parts, done = [], 0
    for begin, end in sorted(places):
        lead = _TO_NUMBER.search(flat[:begin])
        if begin >= done:
            parts.append(flat[done : max(done, lead.start() if lead else begin)])
        done = max(done, end)
    flat, previous = " ".join([*parts, flat[done:]]), ""
    while flat != previous:
        previous, flat = flat, _DANGLING.sub("", _CLAUSE.sub("", flat))
        flat = re.sub(r"\s*,(?:\s*,)*", ",", re.sub(r"\s+", " ", flat).replace(" )", ")")).strip()
    return flat
