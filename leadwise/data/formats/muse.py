"""GE MUSE XML: one element per lead, base64 of 16-bit integers with a CRC32; eight leads, or twelve.

A file holds median beats and rhythm; the rhythm is read. Resting ECGs are read, stress and Holter exports are not.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from leadwise.data.formats import stated as facts
from leadwise.data.formats import xml_text
from leadwise.data.formats.clean_statements import clean_statements
from leadwise.data.formats.device_channels import Channel, from_channels
from leadwise.data.formats.given import Given, check_size, mv_per_unit
from leadwise.data.messages import first_few, short_cell
from leadwise.data.recordings.lead_names import standard_name
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".xml",)

_ROOT = "RestingECG"


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a MUSE resting ECG."""
    return xml_text.root_name(first_bytes) == _ROOT


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The rhythm in a MUSE XML file, as the integers of the file.

    Raises:
        RecordError: the file is damaged, holds no rhythm, a lead has another length or CRC than stated, or no unit or rate
            is known.
    """
    # the rhythm, not the median beats
    root = xml_text.parse(path, content, _ROOT, "GE MUSE")
    rhythm = _rhythm(path, root)
    leads = rhythm.findall("LeadData")
    names = [xml_text.text_of(lead, "LeadID") for lead in leads]
    base = xml_text.number(xml_text.text_of(rhythm, "SampleBase"))
    exponent = xml_text.number(xml_text.text_of(rhythm, "SampleExponent")) or 0.0
    if base is not None and abs(exponent) > 9:
        raise RecordError(f"record {path}: its SampleExponent {exponent:g} is implausible; export the file again")

    # what the file states
    version = xml_text.text_of(root, "MuseInfo/MuseVersion")
    offsets = {
        xml_text.text_of(lead, tag) or "0" for lead in leads for tag in ("LeadTimeOffset", "LeadOffsetFirstSample")
    }
    remarks = ["the leads of the file begin at different times"] if len(offsets) > 1 else []
    return from_channels(
        path,
        names,
        lambda number: _channel(path, leads[number], names[number], given),
        None if base is None else base * 10.0**exponent,
        given,
        format_name=f"muse {version}".strip(),
        stated=_stated(root, leads),
        statements=clean_statements(_statements(root)),
        remarks=remarks,
    )


def _rhythm(path: Path, root: Element) -> Element:
    """The waveform of type Rhythm, or the only one without a type."""
    waveforms = {waveform: xml_text.text_of(waveform, "WaveformType").lower() for waveform in root.findall("Waveform")}
    for waveform, kind in waveforms.items():
        if kind == "rhythm":
            return waveform
    untyped = [waveform for waveform, kind in waveforms.items() if not kind]
    if len(untyped) == 1:
        return untyped[0]
    kinds = first_few([short_cell(kind, most=24) for kind in waveforms.values() if kind]) or "none"
    raise RecordError(f"record {path}: it contains no rhythm (waveforms: {kinds}); export the ECG with its rhythm")


def _channel(path: Path, lead: Element, name: str, given: Given) -> Channel:
    """The samples of one lead, checked against the byte count, the sample count and the CRC32 that the file states."""
    # size before decoding
    what = f"lead {name}"
    n_samples = xml_text.count(xml_text.text_of(lead, "LeadSampleCountTotal"))
    n_bytes = xml_text.count(xml_text.text_of(lead, "LeadByteCountTotal"))
    size = xml_text.count(xml_text.text_of(lead, "LeadSampleSize"))
    check_size(path, n_samples, 1)
    if size not in (None, 2):
        raise RecordError(
            f"record {path}: {what} has samples of {size} bytes, and only 2 are read; export it as 16-bit"
        )

    # bytes
    raw = xml_text.decode_base64(path, xml_text.text_of(lead, "WaveFormData"), what)
    if n_bytes is not None and len(raw) != n_bytes:
        raise RecordError(
            f"record {path}: {what} has {len(raw)} bytes and the file states {n_bytes}; export the file again"
        )
    crc = xml_text.count(xml_text.text_of(lead, "LeadDataCRC32"))
    if crc and crc % 2**32 != zlib.crc32(raw):
        raise RecordError(f"record {path}: the CRC32 of {what} differs from the stated {crc}; export the file again")
    values = xml_text.decode_int16(path, raw, what, n_samples)

    # unit
    factor = mv_per_unit(path, xml_text.text_of(lead, "LeadAmplitudeUnits") or None, given.units)
    step = xml_text.required_number(path, xml_text.text_of(lead, "LeadAmplitudeUnitsPerBit"), f"the step of {what}")
    return Channel(values, 1000.0 * step * factor)


def _stated(root: Element, leads: list[Element]) -> dict[str, Any]:
    """Age, sex, device, year, heart rate, intervals, and the leads without contact."""
    person, test, measured = "PatientDemographics", "TestDemographics", "RestingECGMeasurements"
    return facts.stated(
        age=facts.age_years(
            xml_text.text_of(root, f"{person}/PatientAge"), xml_text.text_of(root, f"{person}/AgeUnits") or "years"
        ),
        sex=xml_text.text_of(root, f"{person}/Gender"),
        device=(xml_text.text_of(root, f"{test}/AcquisitionDevice"),),
        year=facts.year(xml_text.text_of(root, f"{test}/AcquisitionDate")),
        heart_rate=xml_text.number(xml_text.text_of(root, f"{measured}/VentricularRate")),
        pr_ms=xml_text.number(xml_text.text_of(root, f"{measured}/PRInterval")),
        qrs_ms=xml_text.number(xml_text.text_of(root, f"{measured}/QRSDuration")),
        qt_ms=xml_text.number(xml_text.text_of(root, f"{measured}/QTInterval")),
        lead_off=[
            standard_name(xml_text.text_of(lead, "LeadID"))
            for lead in leads
            if xml_text.text_of(lead, "LeadOff").upper() == "TRUE"
        ],
    )


def _statements(root: Element) -> Iterator[str]:
    """The lines of the diagnosis; a statement without the flag ENDSLINE continues on the next."""
    line = ""
    for statement in root.findall("Diagnosis/DiagnosisStatement"):
        text = xml_text.text_of(statement, "StmtText")
        line += text if not line or text.startswith((",", ".", ";")) else f" {text}"
        if any(xml_text.text_of(flag) == "ENDSLINE" for flag in statement.findall("StmtFlag")):
            yield line
            line = ""
    if line:
        yield line
