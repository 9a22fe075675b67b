"""HL7 annotated ECG (aECG): digits as text, with origin and scale of each lead.

The first series of rhythm is read. Derived series, which hold representative beats, are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from leadwise.data.formats import stated as facts
from leadwise.data.formats import xml_text
from leadwise.data.formats.clean_statements import clean_statements
from leadwise.data.formats.device_channels import Channel, from_channels
from leadwise.data.formats.given import Given, known_unit, mv_per_unit
from leadwise.data.messages import first_few, quoted_cell, short_cell
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".xml",)

_ROOT = "AnnotatedECG"
_SECONDS_PER = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_AGE = "21612-7"  # LOINC: reported age
_STATEMENTS = (
    "MDC_ECG_INTERPRETATION_STATEMENT",
    "MDC_ECG_INTERPRETATION_SUMMARY",
    "MDC_ECG_INTERPRETATION_COMMENT",
)


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is an annotated ECG."""
    return xml_text.root_name(first_bytes) == _ROOT


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The first rhythm series in an aECG file, as the integers of the file where origin and scale allow it.

    Raises:
        RecordError: the file is damaged, has no rhythm series or no lead, or states no sampling interval.
    """
    # the series, and its first set of sequences
    root = xml_text.parse(path, content, _ROOT, "HL7 aECG")
    series = _rhythm(path, root)
    sets = series.findall("component/sequenceSet")
    if not sets:
        raise RecordError(f"record {path}: its rhythm series is empty; export the file again")
    sequences = [one for one in sets[0].findall("component/sequence") if one.find("value/digits") is not None]
    names = [_code(one) for one in sequences]
    remarks = [f"{len(sets) - 1} more sets of sequences are not read"] if len(sets) > 1 else []
    model = xml_text.text_of(series, "author/seriesAuthor/manufacturedSeriesDevice/manufacturerModelName")

    # rate and samples
    return from_channels(
        path,
        names,
        lambda number: _channel(path, sequences[number], names[number], given),
        _rate_hz(path, sets[0]),
        given,
        format_name="hl7_aecg",
        stated=_stated(root, series, model),
        statements=clean_statements(_statements(series)),
        remarks=remarks,
    )


def _rhythm(path: Path, root: Element) -> Element:
    """The first series with the code RHYTHM, else the first without a code."""
    series = root.findall("component/series")
    for wanted in ("RHYTHM", ""):
        for one in series:
            if _code(one).upper() == wanted:
                return one
    codes = first_few([short_cell(_code(one), most=24) for one in series]) or "none"
    raise RecordError(
        f"record {path}: it contains no rhythm series (series: {codes}); export the ECG with its waveforms"
    )


def _code(element: Element) -> str:
    code = element.find("code")
    return "" if code is None else (code.get("code") or "").strip()


def _rate_hz(path: Path, sequence_set: Element) -> float | None:
    """Samples per second, from the increment of the time sequence; None if the file states none."""
    increment = next(sequence_set.iter("increment"), None)
    if increment is None:
        return None
    unit = (increment.get("unit") or "s").strip()
    seconds = xml_text.required_number(path, increment.get("value"), "the sampling interval") * _SECONDS_PER.get(
        unit, 0.0
    )
    if seconds <= 0:
        raise RecordError(
            f"record {path}: its sampling interval is {quoted_cell(increment.get('value'))} {quoted_cell(unit)}, which is no "
            "time; correct the file"
        )
    return round(1.0 / seconds, 6)


def _channel(path: Path, sequence: Element, name: str, given: Given) -> Channel:
    """The samples of one lead: digits * scale + origin."""
    value = sequence.find("value")
    scale, origin = (None if value is None else value.find(tag) for tag in ("scale", "origin"))
    if value is None or scale is None:
        raise RecordError(f"record {path}: lead {name} states no scale; export the file again")
    step = xml_text.required_number(path, scale.get("value"), f"the scale of lead {name}")
    factor = mv_per_unit(path, scale.get("unit"), given.units)
    digits = xml_text.decode_numbers(path, xml_text.text_of(value, "digits"), f"lead {name}")
    origin_mv = 0.0
    if origin is not None and (zero := xml_text.number(origin.get("value"))):
        origin_mv = zero * (known_unit(origin.get("unit")) or factor)
    return Channel(digits, 1000.0 * step * factor, 1000.0 * origin_mv)


def _stated(root: Element, series: Element, model: str) -> dict[str, Any]:
    """Age, sex, device, year, heart rate and intervals."""
    # the person: a reported age, or that at the recording from the birth date, which is dropped
    person = next(root.iter("subjectDemographicPerson"), None)
    times = [
        element.get("value") or "" for path in ("low", "center") for element in series.findall(f"effectiveTime/{path}")
    ]
    times += [element.get("value") or "" for element in root.findall("effectiveTime/*")]
    date = next(filter(None, times), "")
    age = next(
        (
            facts.age_years(value.get("value"), value.get("unit") or "a")
            for one in root.findall("controlVariable/relatedObservation")
            for value in one.findall("value")
            if _code(one) == _AGE
        ),
        None,
    )
    birth = None if person is None else person.find("birthTime")
    if age is None and birth is not None:
        age = facts.age_between(birth.get("value") or "", date)
    gender = None if person is None else person.find("administrativeGenderCode")

    # the measurements of the whole recording, not of single beats: the first of each
    measured = {
        code: _quantity(series, code)
        for code in ("MDC_ECG_HEART_RATE", "MDC_ECG_TIME_PD_PR", "MDC_ECG_TIME_PD_QRS", "MDC_ECG_TIME_PD_QT")
    }
    rate, pr, qrs, qt = measured.values()
    maker = xml_text.text_of(series, "author/seriesAuthor/manufacturerOrganization/name")
    return facts.stated(
        age=age,
        sex=None if gender is None else gender.get("code"),
        device=(model or maker,),
        year=facts.year(date),
        heart_rate=rate,
        pr_ms=pr,
        qrs_ms=qrs,
        qt_ms=qt,
    )


def _quantity(series: Element, code: str) -> float | None:
    """The value of the first annotation of the recording with this code."""
    for annotation in series.findall("subjectOf/annotationSet/component/annotation"):
        value = annotation.find("value")
        if _code(annotation) == code and value is not None:
            scale = 1000.0 if value.get("unit") == "s" else 1.0
            measured = xml_text.number(value.get("value"))
            return None if measured is None else measured * scale
    return None


def _statements(series: Element) -> Iterator[str]:
    """The texts of the interpretation."""
    for annotation in series.iter("annotation"):
        if _code(annotation) in _STATEMENTS:
            yield xml_text.text_of(annotation, "value") or xml_text.text_of(annotation, "text")
