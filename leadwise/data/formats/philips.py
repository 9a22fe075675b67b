"""Philips XML (SierraECG and PhilipsECG, versions 1.03, 1.04, 1.04.01): base64 of all leads, mostly XLI-compressed.

XLI: each lead is a chunk of 10-bit LZW codes. Its bytes are the high, then the low bytes of second differences, which wrap
at 16 bits. III, aVR, aVL and aVF are residuals of what the limb-lead equations predict.
The recorder adds a calibration pulse of 1 mV behind the ECG; it is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.formats import stated as facts
from leadwise.data.formats import xml_text
from leadwise.data.formats.clean_statements import clean_statements
from leadwise.data.formats.device_channels import Channel, cut, from_channels
from leadwise.data.formats.given import Given, check_size, checked_rate
from leadwise.data.messages import quoted_cell
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".xml",)

_ROOT = "restingecgdata"
_STANDARD_SETS = ("STD-12", "10-WIRE")  # lead sets without labels: the twelve leads in their order
_LIMB = LEADS[:6]
_CHUNK_HEADER = 8  # bytes: size of the chunk, a word that is not used, the first difference
_BITS = 10
_END = (1 << _BITS) - 1  # the code that ends a chunk; no string has it
_MIN_ZEROS_S = 0.02  # zeros of all leads at the end that are no ECG
_PULSE_MV = (0.9, 1.1)


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a Philips ECG."""
    return xml_text.root_name(first_bytes) == _ROOT


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The recording in a Philips XML file, as the integers of the file, up to the last sample before the calibration.

    Raises:
        RecordError: the file is damaged or truncated, its compression is not known, or a chunk is too short.
    """
    # what describes the samples: in the waveform's own attributes, or in version 1.03 in the acquisition
    root = xml_text.parse(path, content, _ROOT, "Philips")
    waveform = root.find("waveforms/parsedwaveforms")
    if waveform is None:
        raise RecordError(f"record {path}: it contains no waveform; export the ECG with its waveforms")
    acquired = "dataacquisition/signalcharacteristics"
    rate = waveform.get("samplespersecond") or xml_text.text_of(root, f"{acquired}/samplingrate")
    rate_hz = checked_rate(path, xml_text.required_number(path, rate, "the sampling rate"))
    duration_ms = xml_text.required_number(path, waveform.get("durationperchannel"), "durationperchannel")
    n_samples = round(duration_ms * rate_hz / 1000)
    names = _names(path, root, waveform)
    check_size(path, n_samples, len(names))
    step = waveform.get("resolution") or xml_text.first_text(
        root, f"{acquired}/resolution", f"{acquired}/signalresolution"
    )
    uv_per_step = xml_text.required_number(path, step, "the resolution")
    offset = xml_text.number(waveform.get("signaloffset") or xml_text.text_of(root, f"{acquired}/signaloffset")) or 0.0

    # samples
    samples = _samples(path, waveform, names, n_samples, xml_text.text_of(root, f"{acquired}/signalsigned"))
    version = xml_text.text_of(root, "documentinfo/documentversion")
    recording = from_channels(
        path,
        names,
        lambda number: Channel(samples[number], uv_per_step, -offset * uv_per_step),
        rate_hz,
        given,
        format_name=f"philips {version}".strip(),
        stated=_stated(root),
        statements=clean_statements(_statements(root)),
    )
    return _without_calibration(recording)


def _names(path: Path, root: Element, waveform: Element) -> list[str]:
    """The name of each lead: the labels of the waveform, else the order of a standard lead set."""
    labels = (waveform.get("leadlabels") or "").split()
    n_labels = xml_text.count(waveform.get("numberofleads"))
    if labels:
        return labels[: n_labels or len(labels)]
    acquired = root.find("dataacquisition/signalcharacteristics")
    n_leads = xml_text.required_number(
        path, xml_text.text_of(acquired, "numberchannelsallocated"), "the number of channels"
    )
    lead_set = xml_text.text_of(acquired, "acquisitiontype") or xml_text.text_of(acquired, "leadset")
    check_size(path, None, int(n_leads))
    standard = LEADS if lead_set in _STANDARD_SETS else ()
    return [standard[k] if k < len(standard) else f"channel {k + 1}" for k in range(int(n_leads))]


def _samples(path: Path, waveform: Element, names: Sequence[str], n_samples: int, signed: str) -> list[np.ndarray]:
    """The integers of every lead, (n_samples,) each."""
    # plain samples
    compression = (waveform.get("compression") or waveform.get("compressmethod") or "").upper()
    if (waveform.get("compressflag") or "").lower() == "false" or compression in ("", "NONE", "UNCOMPRESSED"):
        return _uncompressed(path, waveform, names, n_samples, (waveform.get("signalsigned") or signed).lower())
    if compression != "XLI":
        raise RecordError(
            f"record {path}: its compression {quoted_cell(compression)} is not known; export it without compression"
        )

    # one chunk for each lead; the stream may have more
    raw = xml_text.decode_base64(path, waveform.text, "the waveform")
    leads, begin = [], 0
    for name in names:
        size = int.from_bytes(raw[begin : begin + 4], "little", signed=True)
        first = int.from_bytes(raw[begin + 6 : begin + _CHUNK_HEADER], "little", signed=True)
        body = raw[begin + _CHUNK_HEADER : begin + _CHUNK_HEADER + max(size, 0)]
        if size <= 0 or len(body) < size:
            raise RecordError(f"record {path}: the waveform ends before lead {name}; export the file again")
        leads.append(_from_differences(_decompress(path, body, name, n_samples), first)[:n_samples])
        if len(leads[-1]) < n_samples:
            raise RecordError(
                f"record {path}: lead {name} has {len(leads[-1])} samples and the file states {n_samples}; export it again"
            )
        begin += _CHUNK_HEADER + size
    return _from_residuals(leads) if tuple(names[:6]) == _LIMB else leads


def _uncompressed(path: Path, waveform: Element, names: Sequence[str], n_samples: int, signed: str) -> list[np.ndarray]:
    """The integers of every lead, one lead after the other, from base64 or plain numbers."""
    n_values = n_samples * len(names)
    if (waveform.get("dataencoding") or "").lower() == "plain":
        values = xml_text.decode_numbers(path, waveform.text, "the waveform")
        xml_text.check_count(path, len(values), "the waveform", n_values)
    else:
        raw = xml_text.decode_base64(path, waveform.text, "the waveform")
        values = xml_text.decode_int16(path, raw, "the waveform", n_values)
        if signed == "false":
            values = values.view("<u2").astype(np.int64)
    return list(values.reshape(len(names), n_samples))


def _decompress(path: Path, body: bytes, name: str, n_samples: int) -> bytes:
    """The bytes of a chunk of 10-bit LZW codes, most significant bit first; the table is full at 1023 strings."""
    # more bytes than the stated samples need are a damaged stream
    table = [bytes([value]) for value in range(256)]
    out, previous, limit = bytearray(), b"", 4 * n_samples + 4096
    bits = n_bits = 0
    for byte in body:
        bits, n_bits = (bits << 8) | byte, n_bits + 8
        if n_bits < _BITS:
            continue
        n_bits -= _BITS
        code = bits >> n_bits
        bits &= (1 << n_bits) - 1
        if code == _END:
            break

        # a code that is not in the table yet means the string that is added now
        if code < len(table):
            string = table[code]
        elif code == len(table) and previous:
            string = previous + previous[:1]
        else:
            string = b""
        if not string or len(out) > limit:
            raise RecordError(
                f"record {path}: the compressed samples of lead {name} are damaged; export the file again"
            )
        out += string
        if previous and len(table) < _END:
            table.append(previous + string[:1])
        previous = string
    return bytes(out)


def _from_differences(raw: bytes, first: int) -> np.ndarray:
    """The samples (T0,) of a chunk: its two first words are samples, the others second differences + 64.

    A second difference belongs to the sample after its place. Samples wrap at 16 bits, as in the recorder.
    """
    half = len(raw) // 2
    if half < 2:
        return np.zeros(0, dtype=np.int16)
    octets = np.frombuffer(raw[: 2 * half], np.uint8).astype(np.int64)
    words = _wrapped((octets[:half] << 8) | octets[half:]).astype(np.int64)
    second = np.concatenate([[first], words[2:-1] - 64])[: half - 2]
    slopes = (words[1] - words[0]) - np.cumsum(second)
    samples = np.concatenate([words[:2], words[1] + np.cumsum(slopes)])
    return _wrapped(samples)


def _from_residuals(leads: list[np.ndarray]) -> list[np.ndarray]:
    """The leads, with III, aVR, aVL and aVF computed from I, II and their stored residuals; wraps at 16 bits."""
    one, two, *residuals = (lead.astype(np.int64) for lead in leads[:6])
    three = _wrapped(two - one - residuals[0]).astype(np.int64)
    avr = -residuals[1] - (one + two) // 2
    avl = (one - three) // 2 - residuals[2]
    avf = (two + three) // 2 - residuals[3]
    return [*leads[:2], *map(_wrapped, (three, avr, avl, avf)), *leads[6:]]


def _wrapped(values: np.ndarray) -> np.ndarray:
    """Integers as int16, modulo 65,536."""
    return (values & 0xFFFF).astype(np.uint16).view(np.int16)


def _without_calibration(recording: Recording) -> Recording:
    """The recording up to the last sample before the zeros that surround the calibration pulse, with a remark."""
    # the end, where all leads are equal: zeros, with or without a pulse
    digital = recording.digital
    if digital is None or digital.samples.shape[1] < 2:
        return recording
    level = digital.samples[:, 0]
    differs = np.flatnonzero((digital.samples != level[:, None]).any(axis=1))
    last = int(differs[-1]) + 1 if len(differs) else 0
    tail = level[last:] - digital.baseline[0]
    n_zeros = int(np.argmax(tail != 0)) if tail.any() else len(tail)
    if last == 0 or n_zeros < _MIN_ZEROS_S * recording.rate_hz:
        return recording

    # what the end holds
    largest = float(tail.max()) * digital.uv_per_step[0] / 1000.0
    if _PULSE_MV[0] <= largest <= _PULSE_MV[1]:
        at = (last + int(np.argmax(tail == tail.max()))) / recording.rate_hz
        what = f"calibration pulse of 1 mV at {at:.1f} s cut"
    elif not tail.any():
        what = f"zeros of all leads from {last / recording.rate_hz:.2f} s to the end cut"
    else:
        return recording
    return cut(recording, last, what)


def _stated(root: Element) -> dict[str, Any]:
    """Age, sex, device, year, heart rate and intervals; a default age is not the patient's."""
    person = root.find("patient/generalpatientdata")
    acquired = root.find("dataacquisition")
    date = "" if acquired is None else acquired.get("date", "")
    ages = [facts.age_years(xml_text.text_of(person, f"age/{unit}"), unit) for unit in ("years", "months", "days")]
    measured = next(
        (one for name in ("globalmeasurements", "interpretationmeasurements") for one in root.iter(name)
         if xml_text.text_of(one, "heartrate")),
        None,
    )  # fmt: skip
    return facts.stated(
        age=next(
            (age for age in ages if age is not None),
            facts.age_between(xml_text.text_of(person, "age/dateofbirth"), date),
        ),
        sex=xml_text.text_of(person, "sex"),
        device=(xml_text.text_of(acquired, "machine"),),
        year=facts.year(date),
        heart_rate=xml_text.number(xml_text.text_of(measured, "heartrate")),
        pr_ms=_measured(measured, "meanprint", "print"),
        qrs_ms=_measured(measured, "meanqrsdur", "qrsdur"),
        qt_ms=_measured(measured, "meanqtint", "qtint"),
    )


def _measured(measured: Element | None, *names: str) -> float | None:
    """The number in the first of these elements; its name differs between versions."""
    return None if measured is None else xml_text.number(xml_text.first_text(measured, *names))


def _statements(root: Element) -> Iterator[str]:
    """The statements of the first interpretation, then its severity; the reasons beside them are measurements."""
    interpretation = root.find("interpretations/interpretation")
    if interpretation is None:
        return
    for statement in interpretation.findall("statement"):
        yield xml_text.text_of(statement, "leftstatement")
    yield xml_text.text_of(interpretation, "severity")
