"""What an ECG file states about a recording beside its samples: age, sex, device, year, heart rate, intervals.

No name, no number of a patient, no birth date and no full date is taken from a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from leadwise.data.formats.xml_text import number

PLACEHOLDER_BIRTH = (1900, 1, 1)  # of files whose birth date was removed

_DAYS_PER_YEAR = 365.25
_YEARS_PER = {
    "y": 1.0, "a": 1.0, "yr": 1.0, "yrs": 1.0, "year": 1.0, "years": 1.0,
    "mo": 1 / 12, "m": 1 / 12, "month": 1 / 12, "months": 1 / 12,
    "w": 7 / _DAYS_PER_YEAR, "wk": 7 / _DAYS_PER_YEAR, "week": 7 / _DAYS_PER_YEAR, "weeks": 7 / _DAYS_PER_YEAR,
    "d": 1 / _DAYS_PER_YEAR, "day": 1 / _DAYS_PER_YEAR, "days": 1 / _DAYS_PER_YEAR,
    "h": 1 / _DAYS_PER_YEAR / 24, "hour": 1 / _DAYS_PER_YEAR / 24, "hours": 1 / _DAYS_PER_YEAR / 24,
}  # fmt: skip
_OLDEST_YEARS = 120.0
_LARGEST_AGE = 130.0
_NO_DEVICE = ("", "unknown", "x")
_YEARS = (1900, 2100)
_SEX = {"m": "male", "male": "male", "f": "female", "female": "female"}
_LONGEST_MS = 2000.0  # of an interval within a beat
_YEAR = re.compile(r"(?<!\d)(19[5-9]\d|20\d\d)(?!\d)")


def stated(
    age: float | None = None,
    sex: str | None = None,
    device: Sequence[str | None] = (),
    year: int | None = None,
    heart_rate: float | None = None,
    *,
    lead_off: Sequence[str] = (),
    pr_ms: float | None = None,
    qrs_ms: float | None = None,
    qt_ms: float | None = None,
) -> dict[str, Any]:
    """What a file states, for `Recording.stated`: plausible values only; absent, zero and empty ones are left out.

    Args:
        age: in years.
        sex: "M", "F", "male" or "female" in any case; anything else is left out.
        device: manufacturer and model, or either.
        heart_rate: in beats per minute.
        lead_off: the leads without contact.
        pr_ms, qrs_ms, qt_ms: intervals in ms.
    """
    # person, device and date
    facts: dict[str, Any] = {}
    if age is not None and 0 < age <= _LARGEST_AGE:
        facts["age"] = age
    name = _SEX.get((sex or "").strip().casefold())
    if name is not None:
        facts["sex"] = name
    printable = ("".join(letter if letter.isprintable() else " " for letter in part or "") for part in device)
    words = " ".join(" ".join(part.split()) for part in printable if part.strip().casefold() not in _NO_DEVICE)
    if words:
        facts["device"] = words[:80]
    if year is not None and _YEARS[0] < year < _YEARS[1]:
        facts["year"] = year

    # measurements
    if heart_rate is not None and 0 < heart_rate < 500:
        facts["heart_rate"] = heart_rate
    more = {"lead_off": tuple(lead_off), "pr_ms": pr_ms, "qrs_ms": qrs_ms, "qt_ms": qt_ms}
    plausible = {
        name: value for name, value in more.items() if value and (isinstance(value, tuple) or 0 < value < _LONGEST_MS)
    }
    return {**facts, **plausible}


def age_years(value: str | None, unit: str = "years") -> float | None:
    """An age in years, from a number and its unit; None if it is not a plausible age."""
    years, factor = number(value), _YEARS_PER.get(unit.strip().lower() or "years")
    if years is None or factor is None or not 0 <= years * factor <= _OLDEST_YEARS:
        return None
    return round(years * factor, 2)


def age_in_years(birth: tuple[int, int, int], date: tuple[int, int, int]) -> int | None:
    """The age on a date, both as year, month and day; None where one is absent or the birth date is a placeholder."""
    if birth == PLACEHOLDER_BIRTH or birth[0] <= 0 or date[0] <= 0:
        return None
    return date[0] - birth[0] - (date[1:] < birth[1:])


def age_between(birth: str, recording: str) -> float | None:
    """The whole years from a birth date to a recording, both written year, month, day; None if either is not a date."""
    begin, end = _date(birth), _date(recording)
    years = None if begin is None or end is None else age_in_years(begin, end)
    return float(years) if years is not None and 0 <= years < _OLDEST_YEARS else None


def _date(text: str) -> tuple[int, int, int] | None:
    """Year, month and day of a text that begins with 20200131, 2020-01-31 or 2020/01/31."""
    match = re.match(r"\s*(\d{4})[-/]?(\d{2})[-/]?(\d{2})", text or "")
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def year(date: str | None) -> int | None:
    """The year in a date of any spelling, 1950 or later; None if there is none."""
    text = (date or "").strip()
    match = re.match(r"(19[5-9]\d|20\d\d)", text) or _YEAR.search(text)
    return int(match[1]) if match else None
