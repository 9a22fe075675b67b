"""GE CardioSoft XML: the samples of each lead as numbers with commas between, in steps of `Resolution` microvolts.

The resting strip (`StripData`) is read; the median beats and vector loops beside it are not.
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
from leadwise.data.messages import quoted_cell
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".xml",)

_ROOT = "CardiologyXML"
_UNIT = "uVperLsb"


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a CardioSoft export."""
    return xml_text.root_name(first_bytes) == _ROOT


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The resting strip in a CardioSoft XML file, as the integers of the file.

    Raises:
        RecordError: the file is damaged, has no strip, or a lead has another length than stated.
    """
    # the strip
    root = xml_text.parse(path, content, _ROOT, "GE CardioSoft")
    strips = [strip for strip in root.iter("StripData") if strip.find("WaveformData") is not None]
    if not strips:
        raise RecordError(f"record {path}: it contains no StripData; export the resting ECG with its waveforms")
    strip = strips[0]
    leads = strip.findall("WaveformData")
    names = [lead.get("lead", "").strip() for lead in leads]

    # its rate, length and step
    n_samples = xml_text.count(xml_text.text_of(strip, "ChannelSampleCountTotal"))
    check_size(path, n_samples, len(names))
    step_uv = xml_text.required_number(path, xml_text.text_of(strip, "Resolution"), "the resolution")
    resolution = strip.find("Resolution")
    unit = _UNIT if resolution is None else resolution.get("units", _UNIT)
    if unit.lower() != _UNIT.lower():
        raise RecordError(
            f"record {path}: its resolution is in {quoted_cell(unit)}, and only {_UNIT} is known; correct the file"
        )
    rate = xml_text.text_of(strip, "SampleRate")

    def channel(number: int) -> Channel:
        values = xml_text.decode_numbers(path, leads[number].text, f"lead {names[number]}")
        xml_text.check_count(path, len(values), f"lead {names[number]}", n_samples)
        return Channel(values, step_uv)

    version = xml_text.text_of(root, "ClinicalInfo/DeviceInfo/SoftwareVer").removeprefix("V")
    return from_channels(
        path,
        names,
        channel,
        xml_text.required_number(path, rate, "the sampling rate") if rate else None,
        given,
        format_name=f"cardiosoft {version}".strip(),
        stated=_stated(root),
        statements=clean_statements(_statements(root)),
        remarks=[f"{len(strips) - 1} more strips are not read"] if len(strips) > 1 else [],
    )


def _stated(root: Element) -> dict[str, Any]:
    """Age, sex, device, year, heart rate and intervals."""
    age = root.find("PatientInfo/Age")
    measured = "RestingECGMeasurements"
    return facts.stated(
        age=None if age is None else facts.age_years(age.text, age.get("units", "years")),
        sex=xml_text.text_of(root, "PatientInfo/Gender"),
        device=(xml_text.text_of(root, "ClinicalInfo/DeviceInfo/Desc"),),
        year=facts.year(xml_text.text_of(root, "ObservationDateTime/Year")),
        heart_rate=xml_text.number(xml_text.text_of(root, f"{measured}/VentricularRate")),
        pr_ms=xml_text.number(xml_text.text_of(root, f"{measured}/PQInterval")),
        qrs_ms=xml_text.number(xml_text.text_of(root, f"{measured}/QRSDuration")),
        qt_ms=xml_text.number(xml_text.text_of(root, f"{measured}/QTInterval")),
    )


def _statements(root: Element) -> Iterator[str]:
    """The lines of the interpretation: elements with text below it."""
    for interpretation in root.findall("Interpretation"):
        for element in interpretation.iter("DiagnosisText"):
            yield xml_text.text_of(element)
