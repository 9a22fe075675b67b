"""DICOM waveforms with pydicom: the rhythm of a 12-lead ECG, of any storage class that has a waveform sequence.

Only the elements in `_ELEMENTS` are read: a patient's name, number and birth date never leave the file.
Source: DICOM PS3.3, sections C.10.9 (waveform) and C.10.10 (annotation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.clean_statements import clean_statements
from leadwise.data.formats.given import Given, check_size, checked_rate, known_unit, mv_per_unit
from leadwise.data.formats.parsing import library_errors, scaled, without_empty_slots
from leadwise.data.formats.stated import stated
from leadwise.data.messages import quoted_cell
from leadwise.data.recordings.lead_names import is_lead
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".dcm", ".dicom")

_ELEMENTS = (
    "WaveformSequence", "WaveformAnnotationSequence", "PatientAge", "PatientSex", "Manufacturer",
    "ManufacturerModelName", "StudyDate", "AcquisitionDateTime",
)  # fmt: skip
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # a transfer syntax whose size is unknown before it is inflated
_LEAD_OF_CODE = {
    1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF",
}  # fmt: skip  # numbers of SCP-ECG, which IEEE 11073-10102 shares
_CODE_PREFIXES = ("5.6.3-9-", "2:")
_IEEE_PARTITION = 2 << 16  # an IEEE code as one number: 131073 is 2:1
_RUN_S = 0.05  # a padding value inside the type's range is believed in runs of this duration
_SHORTEST_RHYTHM_S = 2.0  # a group that is marked as derived and shorter is a median beat
_YEARS_PER_UNIT = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_HEART_RATES = ("heart rate", "ventricular rate", "ventricular heart rate")


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a DICOM file."""
    return first_bytes[128:132] == b"DICM"


def decode(content: bytes, path: Path, given: Given) -> Recording:
    """The rhythm waveform in a DICOM file.

    Raises:
        RecordError: the file is damaged, holds no waveform or only median beats, or a channel that is used has no
            voltage unit.
    """
    import pydicom

    if _DEFLATED in content[:2048]:
        raise RecordError(
            f"record {path}: it is stored with the transfer syntax Deflated Explicit VR, which is not read; convert it to "
            "Explicit VR Little Endian"
        )
    with library_errors(path, "DICOM"):
        dataset = pydicom.dcmread(BytesIO(content), force=True, specific_tags=list(_ELEMENTS))
        groups = list(dataset.get("WaveformSequence") or ())
        if not groups:
            raise RecordError(f"record {path}: not a DICOM file with a waveform; images and reports cannot be read")
        group, group_remarks = _choose_group(path, groups)
        recording = without_empty_slots(path, _read_group(path, group, given))
        facts, statements = _stated(dataset), _statements(dataset)
    return replace(
        recording,
        format="dicom",
        stated=facts,
        statements=statements,
        remarks=(*group_remarks, *recording.remarks),
    )


def _choose_group(path: Path, groups: Sequence[Any]) -> tuple[Any, tuple[str, ...]]:
    """The group of channels that holds the rhythm: of those that are not derived, the one with most leads."""
    original = [group for group in groups if str(group.get("WaveformOriginality", "")) != "DERIVED"]
    remarks: tuple[str, ...] = ()
    if not original:
        original = [group for group in groups if _duration_s(group) >= _SHORTEST_RHYTHM_S]
        remarks = ("its waveform is marked as derived from others",)
    if not original:
        raise RecordError(
            f"record {path}: its {len(groups)} waveform groups are derived and shorter than {_SHORTEST_RHYTHM_S:g} s "
            "(median beats); export the rhythm"
        )
    chosen = max(original, key=lambda group: (sum(map(is_lead, _names(group))), _duration_s(group)))
    if len(original) > 1:
        remarks = (*remarks, f"{len(original) - 1} other waveform groups are not used")
    return chosen, remarks


def _duration_s(group: Any) -> float:
    return float(group.NumberOfWaveformSamples) / float(group.SamplingFrequency)


def _read_group(path: Path, group: Any, given: Given) -> Recording:
    """The leads of one group of channels."""
    from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES

    # size and type, before anything is allocated
    n_samples, n_channels = int(group.NumberOfWaveformSamples), int(group.NumberOfWaveformChannels)
    check_size(path, n_samples, n_channels)
    rate_hz = checked_rate(path, float(group.SamplingFrequency))
    kind = (int(group.WaveformBitsAllocated), str(group.WaveformSampleInterpretation))
    if kind[1] in ("MB", "AB") or kind not in WAVEFORM_DTYPES:
        raise RecordError(
            f"record {path}: its samples are stored as {kind[0]} bit {quoted_cell(kind[1])}, which is not read; export it again"
        )
    dtype = np.dtype(WAVEFORM_DTYPES[kind])
    data, n_bytes = bytes(group.WaveformData), n_samples * n_channels * dtype.itemsize
    definitions = list(group.ChannelDefinitionSequence)
    if len(data) < n_bytes or len(definitions) != n_channels:
        raise RecordError(
            f"record {path}: it is truncated: {len(data)} bytes of samples and {len(definitions)} channels where it promises "
            f"{n_bytes} and {n_channels}; export it again"
        )

    # the channels that are leads, aligned and scaled; only these are checked
    channels = choose_channels(path, _names(group), given)
    samples = np.frombuffer(data[:n_bytes], dtype).reshape(n_samples, n_channels)[:, list(channels.used)]
    missing = _padding(samples, group.get("WaveformPaddingValue"), rate_hz)
    used = [definitions[number] for number in channels.used]
    samples, missing = _aligned(samples, missing, [_skew(one, rate_hz) for one in used])
    units = [_unit(path, one, given) for one in used]
    steps = [1000.0 * factor * _number(one, "ChannelSensitivity", 1.0)
             * _number(one, "ChannelSensitivityCorrectionFactor", 1.0) for one, factor in zip(used, units)]  # fmt: skip
    offsets = [1000.0 * factor * _number(one, "ChannelBaseline", 0.0) for one, factor in zip(used, units)]
    signal, digital = scaled(path, samples, channels.leads, steps, offsets, missing if missing.any() else None)
    return Recording(
        path.stem, signal, channels.leads, rate_hz, digital, unused=channels.unused, remarks=channels.remarks
    )


def _names(group: Any) -> list[str]:
    """The name of each channel: the lead of its code, else the code's meaning, else its label."""
    return [_name(definition) for definition in group.get("ChannelDefinitionSequence") or ()]


def _name(definition: Any) -> str:
    source = definition.get("ChannelSourceSequence") or ()
    code = str(source[0].get("CodeValue", "")) if source else ""
    meaning = str(source[0].get("CodeMeaning", "")) if source else ""
    number = next((code.removeprefix(prefix) for prefix in _CODE_PREFIXES if code.startswith(prefix)), "")
    if not number and code.isdecimal() and len(code) == 6:
        number = str(int(code) - _IEEE_PARTITION)
    lead = _LEAD_OF_CODE.get(int(number)) if number.isdecimal() else None
    if lead is not None:
        return lead
    return meaning or str(definition.get("ChannelLabel", "")) or code


def _unit(path: Path, definition: Any, given: Given) -> float:
    """Factor from the unit of a channel to mV; the file's unit is its code, or the code's meaning."""
    code = (definition.get("ChannelSensitivityUnitsSequence") or (None,))[0]
    if code is None or "ChannelSensitivity" not in definition:
        return mv_per_unit(path, None, given.units)
    texts = (str(code.get("CodeValue", "")), str(code.get("CodeMeaning", "")))
    return mv_per_unit(path, next((text for text in texts if known_unit(text)), texts[0] or texts[1]), given.units)


def _number(definition: Any, element: str, default: float) -> float:
    value = definition.get(element)
    return default if value in (None, "") else float(value)


def _skew(definition: Any, rate_hz: float) -> int:
    """By how many samples the channel begins later than its group."""
    return round(_number(definition, "ChannelSampleSkew", _number(definition, "ChannelTimeSkew", 0.0) * rate_hz))


def _aligned(samples: np.ndarray, missing: np.ndarray, skews: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Channels (T0, L0) on one time axis; what a channel does not hold there is missing."""
    if not any(skews):
        return samples, missing
    samples, missing = samples.copy(), missing.copy()
    n_samples = len(samples)
    for column, skew in enumerate(skews):
        if abs(skew) >= n_samples:
            missing[:, column] = True
            continue
        samples[:, column], missing[:, column] = np.roll(samples[:, column], skew), np.roll(missing[:, column], skew)
        missing[:skew, column] |= skew > 0
        if skew < 0:
            missing[skew:, column] = True
    return samples, missing


def _padding(samples: np.ndarray, value: Any, rate_hz: float) -> np.ndarray:
    """Which samples (T0, L0) are padding.

    Software writes 0 as padding value into files without padding, where 0 is a sample like any other. A stated value is
    believed if it is the least or greatest of the type; any other, except 0, in runs. Runs of the least value are padding
    even if it is not stated.
    """
    limits = np.iinfo(samples.dtype)
    number = 0
    if isinstance(value, bytes) and len(value) >= samples.itemsize:
        number = int(np.frombuffer(value[: samples.itemsize], samples.dtype)[0])
    elif isinstance(value, int):
        number = value
    absent = (
        _in_runs(samples == limits.min, max(2, round(_RUN_S * rate_hz)))
        if limits.min
        else np.zeros(samples.shape, bool)
    )
    if number == 0:
        return absent
    equal: np.ndarray = samples == number
    absent |= equal if number in (limits.min, limits.max) else _in_runs(equal, max(2, round(_RUN_S * rate_hz)))
    return absent


def _in_runs(equal: np.ndarray, n_run: int) -> np.ndarray:
    """Of the samples (T0, L0) that are true, those in runs of at least `n_run`."""
    runs = np.zeros(equal.shape, dtype=bool)
    for column in np.flatnonzero(equal.any(axis=0)):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], equal[:, column], [0]))))
        for begin, end in edges.reshape(-1, 2):
            if end - begin >= n_run:
                runs[begin:end, column] = True
    return runs


def _stated(dataset: Any) -> Mapping[str, Any]:
    age = str(dataset.get("PatientAge") or "").strip()
    years = float(age[:-1]) * _YEARS_PER_UNIT[age[-1]] if age[:-1].isdecimal() and age[-1] in _YEARS_PER_UNIT else None
    date = str(dataset.get("AcquisitionDateTime") or dataset.get("StudyDate") or "")[:4]
    rates = [
        float(note.NumericValue)
        for note in dataset.get("WaveformAnnotationSequence") or ()
        if _meaning(note) in _HEART_RATES and isinstance(note.get("NumericValue"), int | float)
    ]
    return stated(
        years, str(dataset.get("PatientSex") or ""),
        (str(dataset.get("Manufacturer") or ""), str(dataset.get("ManufacturerModelName") or "")),
        int(date) if date.isdecimal() else None, Counter(rates).most_common(1)[0][0] if rates else None,
    )  # fmt: skip


def _statements(dataset: Any) -> tuple[str, ...]:
    """The free texts of the device or the reader."""
    notes = dataset.get("WaveformAnnotationSequence") or ()
    return clean_statements(str(note.get("UnformattedTextValue") or "") for note in notes)


def _meaning(note: Any) -> str:
    code = note.get("ConceptNameCodeSequence") or ()
    return str(code[0].get("CodeMeaning", "")).strip().casefold() if code else ""
