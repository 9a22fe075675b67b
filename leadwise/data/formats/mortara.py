"""Mortara ELI XML: one element CHANNEL per lead, base64 of 16-bit integers in its attributes; mV = (x + OFFSET) / UNITS_PER_MV.

The beats of TYPICAL_CYCLE are averages and are not read.
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
from leadwise.data.formats.given import Given, check_size
from leadwise.data.messages import first_few, quoted_cell, short_cell
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".xml",)

_ROOT = "ECG"


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes has the root element of a Mortara ECG."""
    return xml_text.root_name(first_bytes) == _ROOT


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The recording in a Mortara ELI XML file, as the integers of the file.

    Raises:
        RecordError: the file is damaged, has no channel, or a channel has another format or length than stated.
    """
    # one rate in all channels
    root = xml_text.parse(path, content, _ROOT, "Mortara ELI")
    channels = root.findall("CHANNEL")
    if not channels:
        raise RecordError(f"record {path}: it contains no CHANNEL element; export the ECG with its waveforms")
    rates = {channel.get("SAMPLE_FREQ", "").strip() for channel in channels}
    if len(rates) > 1:
        raise RecordError(
            f"record {path}: its channels have the rates {first_few(map(quoted_cell, sorted(rates)))} Hz; export them with one"
        )
    names = [channel.get("NAME", "").strip() for channel in channels]
    rate = rates.pop()
    return from_channels(
        path,
        names,
        lambda number: _channel(path, channels[number], names[number]),
        xml_text.required_number(path, rate, "SAMPLE_FREQ") if rate else None,
        given,
        format_name="mortara",
        stated=_stated(root),
        statements=clean_statements(_statements(root)),
    )


def _channel(path: Path, channel: Element, name: str) -> Channel:
    """The samples of one channel."""
    # how they are written
    what = f"lead {name}"
    written = {key: (channel.get(key) or usual).strip().upper() for key, usual in (("BITS", "16"), ("FORMAT", "SIGNED"),
                                                                                  ("ENCODING", "BASE64"))}  # fmt: skip
    if tuple(written.values()) != ("16", "SIGNED", "BASE64"):
        raise RecordError(
            f"record {path}: {what} is written as {' '.join(map(short_cell, written.values()))}, and only 16 SIGNED BASE64 is "
            "read; export it so"
        )
    n_stated = xml_text.count(channel.get("DURATION"))
    check_size(path, n_stated, 1)

    # samples; DURATION counts samples, in some files milliseconds
    raw = xml_text.decode_base64(path, channel.get("DATA") or channel.text, what)
    values = xml_text.decode_int16(path, raw, what, None)
    rate_hz = xml_text.number(channel.get("SAMPLE_FREQ")) or 0.0
    if n_stated and rate_hz and round(len(values) * 1000 / rate_hz) != n_stated:
        xml_text.check_count(path, len(values), what, n_stated)
    per_mv = xml_text.required_number(path, channel.get("UNITS_PER_MV"), f"UNITS_PER_MV of {what}")
    if per_mv <= 0:
        raise RecordError(f"record {path}: UNITS_PER_MV of {what} is {per_mv:g}; export the file again")
    offset = xml_text.number(channel.get("OFFSET")) or 0.0
    return Channel(values, 1000.0 / per_mv, 1000.0 * offset / per_mv)


def _stated(root: Element) -> dict[str, Any]:
    """Age, sex, device, year, heart rate and intervals, from attributes."""
    person, source, cycle = (_attributes(root, name) for name in ("SUBJECT", "SOURCE", "TYPICAL_CYCLE"))
    date = root.get("ACQUISITION_TIME_XML") or root.get("ACQUISITION_TIME") or ""
    age = facts.age_years(
        root.get("AGE") or person.get("AGE"), root.get("AGE_UNITS") or person.get("AGE_UNITS") or "years"
    )
    if age is None:
        age = facts.age_between(person.get("DOB", ""), date)
    return facts.stated(
        age=age,
        sex=person.get("GENDER"),
        device=(source.get("MODEL") or source.get("MANUFACTURER", ""),),
        year=facts.year(date),
        heart_rate=xml_text.number(root.get("VENT_RATE")),
        pr_ms=xml_text.number(cycle.get("PR_DURATION")),
        qrs_ms=xml_text.number(cycle.get("QRS_DURATION")),
        qt_ms=xml_text.number(cycle.get("QT")),
    )


def _attributes(root: Element, name: str) -> dict[str, str]:
    element = root.find(name)
    return {} if element is None else dict(element.attrib)


def _statements(root: Element) -> Iterator[str]:
    """The statements of the automatic interpretation, without their reasons."""
    for statement in root.findall("AUTOMATIC_INTERPRETATION/STATEMENT"):
        yield statement.get("TEXT") or xml_text.text_of(statement)
