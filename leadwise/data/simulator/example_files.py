"""Three simulated ECGs as files of three formats, as electrocardiographs and archives export them: GE MUSE, HL7 aECG, WFDB.

Everything in the files is simulated. They contain no statements and no names.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data.simulator.acquisition import MISSING, Device, capture, write_wfdb
from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.simulator.patients import Patient, draw_patients, draw_presentation
from leadwise.data.simulator.tracing import draw_tracing, random_stream
from leadwise.files import replacing

_RATE_HZ = 500
_MUSE_LEADS = (
    "I",
    "II",
    "V1",
    "V2",
    "V3",
    "V4",
    "V5",
    "V6",
)  # a MUSE file leaves out the leads that follow from I and II
_CASES = (  # name of the file, two findings at most with these among them, step in uV
    ("sinus_rhythm.xml", frozenset({"SR", "NORM"}), 4.88),
    ("fibrillation.xml", frozenset({"AFIB"}), 2.5),
    ("left_bundle_branch_block.hea", frozenset({"SR", "CLBBB"}), 1.0),
)
_MOST_FINDINGS = 2
_N_ECGS = 900  # to draw from: enough for every case


@dataclass(frozen=True)
class ExampleFile:
    """One file, and what was simulated in it."""

    path: Path
    format: str  # in words
    findings: tuple[str, ...]  # plain names


def write_examples(folder: Path, seed: int) -> list[ExampleFile]:
    """Write the three files into a folder and return them; the same seed gives the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for name, findings, step_uv in _CASES:
        device = Device(_RATE_HZ, step_uv, 0, "mV", LEADS, tuple(range(len(LEADS))))
        patient, drawn, digital = draw_example(findings, device, seed)
        format_name = _write(folder / name, digital, device, patient)
        names = tuple(FINDINGS[code] for code in FINDINGS if code in drawn)
        examples.append(ExampleFile(folder / name, format_name, names))
    return examples


def draw_example(
    findings: frozenset[str], device: Device, seed: int, k: int = 0
) -> tuple[Patient, frozenset[str], NDArray[np.int16]]:
    """Return the first patient whose `k`-th ECG has these findings, one more at most, and no lost lead; all its findings;
    and the ECG, (T, 12) in steps."""
    for patient in draw_patients(_N_ECGS, seed):
        rng = random_stream(patient, k, seed)
        presentation = draw_presentation(patient, rng)
        if not findings <= presentation.findings or len(presentation.findings) > _MOST_FINDINGS:
            continue
        digital = capture(draw_tracing(patient, rng, device.rate_hz, presentation).leads, device, rng).digital
        if not (digital == MISSING).any() and (np.ptp(digital, axis=0) > 0).all():
            return patient, presentation.findings, digital
    raise ValueError(f"seed {seed} draws no ECG with {', '.join(sorted(findings))}; choose another seed")


def _write(path: Path, digital: NDArray[np.int16], device: Device, patient: Patient) -> str:
    """Write one file in the format of its name and return the name of the format."""
    if path.suffix == ".hea":
        write_wfdb(
            path.with_suffix(""), digital, device, (f"age: {patient.age_years}", f"sex: {patient.sex}", "simulated")
        )
        return "WFDB"
    leads = dict(zip(LEADS, digital.T))
    is_muse = path.name == _CASES[0][0]
    text = muse_text(leads, device, patient) if is_muse else aecg_text(leads, device, patient)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return "GE MUSE XML" if is_muse else "HL7 aECG XML"


def muse_text(leads: dict[str, NDArray[np.int16]], device: Device, patient: Patient) -> str:
    """Return a MUSE resting ECG: eight leads as base64 of little-endian 16-bit integers with their CRC32."""
    waves = []
    for name in _MUSE_LEADS:
        raw = leads[name].astype("<i2").tobytes()
        fields = {
            "LeadByteCountTotal": len(raw),
            "LeadSampleCountTotal": len(raw) // 2,
            "LeadAmplitudeUnitsPerBit": device.uv_per_step,
            "LeadAmplitudeUnits": "MICROVOLTS",
            "LeadID": name,
            "LeadSampleSize": 2,
            "LeadDataCRC32": zlib.crc32(raw),
            "WaveFormData": base64.b64encode(raw).decode(),
        }
        waves.append("<LeadData>" + "".join(f"<{tag}>{value}</{tag}>" for tag, value in fields.items()) + "</LeadData>")
    gender = "FEMALE" if patient.sex == "F" else "MALE"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<RestingECG><MuseInfo><MuseVersion>simulated</MuseVersion></MuseInfo>'
        f"<PatientDemographics><PatientAge>{patient.age_years}</PatientAge><AgeUnits>YEARS</AgeUnits><Gender>{gender}</Gender>"
        f"</PatientDemographics><Waveform><WaveformType>Rhythm</WaveformType><SampleBase>{device.rate_hz}</SampleBase>"
        f"<SampleExponent>0</SampleExponent>{''.join(waves)}</Waveform></RestingECG>\n"
    )


def aecg_text(leads: dict[str, NDArray[np.int16]], device: Device, patient: Patient) -> str:
    """Return an annotated ECG: twelve leads as digits with their scale."""
    sequences = "".join(
        f'<component><sequence><code code="MDC_ECG_LEAD_{name.upper()}"/><value><origin value="0" unit="uV"/>'
        f'<scale value="{device.uv_per_step}" unit="uV"/><digits>{" ".join(map(str, samples.tolist()))}</digits></value>'
        "</sequence></component>"
        for name, samples in leads.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<AnnotatedECG xmlns="urn:hl7-org:v3"><subject><subjectDemographicPerson>'
        f'<administrativeGenderCode code="{patient.sex}"/></subjectDemographicPerson></subject><component><series>'
        '<code code="RHYTHM"/><author><seriesAuthor><manufacturedSeriesDevice><manufacturerModelName>simulated'
        "</manufacturerModelName></manufacturedSeriesDevice></seriesAuthor></author><component><sequenceSet><component>"
        '<sequence><code code="TIME_RELATIVE"/><value><head value="0" unit="s"/>'
        f'<increment value="{1 / device.rate_hz}" unit="s"/></value></sequence></component>{sequences}</sequenceSet>'
        "</component></series></component></AnnotatedECG>\n"
    )
