"""Schiller XML (SEMA): the samples of each lead as numbers with commas between, in steps of `unitperbit`.

The wave data of type ECG_RHYTHMS is read, that of ECG_AVERAGES is not.
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
from leadwise.data.formats.given import Given, check_size, mv_per_unit
from leadwise.data.messages import quoted_cell
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".xml",)

_ROOT = "com.xiriuz.sema.xml.schillerEDI.SchillerEDI"
_RHYTHM = "ECG_RHYTHMS"


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a Schiller export."""
    return xml_text.root_name(first_bytes) == _ROOT


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The rhythm in a Schiller XML file, as the integers of the file.

    Raises:
        RecordError: the file is damaged, has no rhythm, or a lead has another length than stated.
    """
    # the rhythm, not the averages
    root = xml_text.parse(path, content, _ROOT, "Schiller")
    rhythms = [wave for wave in root.iter("wavedata") if xml_text.text_of(wave, "type") == _RHYTHM]
    if not rhythms:
        raise RecordError(f"record {path}: it contains no wave data of type {_RHYTHM}; export the ECG with its rhythm")
    wave = rhythms[0]
    leads = wave.findall("channel")
    names = [xml_text.text_of(lead, "name") for lead in leads]

    # its rate and step
    rate = xml_text.text_of(wave, "resolution/samplerate/value")
    exponent = xml_text.number(xml_text.text_of(wave, "resolution/samplerate/exponent"))
    if exponent not in (None, 0, 1):
        raise RecordError(
            f"record {path}: its sampling rate has the exponent {exponent:g}, and only 1 is known; export it again"
        )
    step = xml_text.required_number(path, xml_text.text_of(wave, "resolution/yres/unitperbit"), "unitperbit")
    factor = mv_per_unit(path, xml_text.text_of(wave, "resolution/yres/units") or None, given.units)

    def channel(number: int) -> Channel:
        what = f"lead {names[number]}"
        written = xml_text.text_of(leads[number], "datastype") or "COMMASEPARATE"
        if written != "COMMASEPARATE":
            raise RecordError(
                f"record {path}: {what} is written as {quoted_cell(written)}, and only COMMASEPARATE is read"
            )
        n_samples = xml_text.count(xml_text.text_of(leads[number], "samplecount"))
        check_size(path, n_samples, len(names))
        values = xml_text.decode_numbers(path, xml_text.text_of(leads[number], "data"), what)
        xml_text.check_count(path, len(values), what, n_samples)
        return Channel(values, 1000.0 * step * factor)

    return from_channels(
        path,
        names,
        channel,
        xml_text.required_number(path, rate, "the sampling rate") if rate else None,
        given,
        format_name="schiller",
        stated=_stated(root),
        statements=clean_statements(_statements(root)),
        remarks=[f"{len(rhythms) - 1} more rhythms are not read"] if len(rhythms) > 1 else [],
    )


def _stated(root: Element) -> dict[str, Any]:
    """Age, sex, device, year, heart rate and intervals."""
    date = xml_text.text_of(root, "examdescript/startdatetime/date")
    measured = {
        xml_text.text_of(one, "name"): xml_text.number(xml_text.text_of(one, "value"))
        for one in root.iter("annotation_global")
    }
    return facts.stated(
        age=facts.age_between(xml_text.text_of(root, "patdata/birthdate"), date),
        sex=xml_text.text_of(root, "patdata/gender"),
        device=(xml_text.text_of(root, "examdescript/aquiringdevice/hardware/model"),),
        year=facts.year(date),
        heart_rate=measured.get("HR"),
        pr_ms=measured.get("PQ"),
        qrs_ms=measured.get("QRS"),
        qt_ms=measured.get("QT"),
    )


def _statements(root: Element) -> Iterator[str]:
    """The lines of the interpretation."""
    for text in root.iter("textdata"):
        if xml_text.text_of(text, "type") == "INTERPRETATION":
            for line in text.findall("textdata"):
                yield from xml_text.text_of(line).splitlines()
