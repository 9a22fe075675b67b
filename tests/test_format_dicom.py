"""DICOM waveforms: rhythm not median, units, baseline and padding per channel, leads by code or words, no identity."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vendor_files import check_damage, with_a_damaged_byte

from leadwise.batch import LEADS
from leadwise.data.formats import dicom, reading
from leadwise.data.recordings.recording import RecordError, Recording

pydicom = pytest.importorskip("pydicom")

CODE = dict(zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)))


def dataset(**items: Any) -> Any:
    made_of = pydicom.Dataset()
    for name, value in items.items():
        setattr(made_of, name, value)
    return made_of


def code(value: str, meaning: str, scheme: str = "SCPECG") -> Any:
    return pydicom.Sequence([dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)])


def channel(lead: str, unit: str = "uV", step: str = "2.5", **more: Any) -> Any:
    source = code(f"5.6.3-9-{CODE[lead]}", f"Lead {lead}") if lead in CODE else code("X", lead)
    more = {"ChannelSourceSequence": source, "ChannelBaseline": "0"} | more
    if step:
        more |= {"ChannelSensitivity": step, "ChannelSensitivityUnitsSequence": code(unit, unit)}
    return dataset(**more, WaveformBitsStored=16)


def group(samples: np.ndarray, channels: list[Any], rate_hz: float = 500, **more: Any) -> Any:
    more = {"WaveformOriginality": "ORIGINAL", "WaveformSampleInterpretation": "SS", "WaveformBitsAllocated": 16} | more
    return dataset(
        NumberOfWaveformChannels=len(channels), NumberOfWaveformSamples=len(samples), SamplingFrequency=str(rate_hz),
        ChannelDefinitionSequence=pydicom.Sequence(channels), WaveformData=samples.tobytes(), **more,
    )  # fmt: skip


def write(*groups: Any, **more: Any) -> bytes:
    file = dataset(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.9.2.1", SOPInstanceUID="1.2.3", PatientName="Roe^Jane", PatientID="4711",
        PatientBirthDate="19510203", WaveformSequence=pydicom.Sequence(groups), **more,
    )  # fmt: skip
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


def samples(n_samples: int = 1500, n_channels: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(-900, 900, (n_samples, n_channels)).astype("<i2")


def read(content: bytes, **given: Any) -> Recording:
    return reading.read(content, **given)


def test_a_recording_equals_the_library(tmp_path: Path) -> None:
    content = write(group(samples(), [channel(lead) for lead in LEADS]), PatientAge="067Y", PatientSex="F",
                    Manufacturer="Acme", ManufacturerModelName="E1", StudyDate="20190304")  # fmt: skip
    (tmp_path / "a1.dcm").write_bytes(content)
    (tmp_path / "IM001").write_bytes(content)  # as on a DICOM medium: no suffix
    for name in ("a1.dcm", "IM001"):
        recording = reading.read(tmp_path / name)
        assert (recording.leads, recording.rate_hz, recording.format) == (LEADS, 500, "dicom")
        reference = pydicom.dcmread(tmp_path / name).waveform_array(0)
        np.testing.assert_allclose(recording.signal * 1000, reference, atol=1e-9)
    assert recording.digital is not None
    assert recording.stated == {"age": 67, "sex": "female", "device": "Acme E1", "year": 2019}
    assert not any(word in repr(recording.stated) for word in ("Roe", "4711", "1951", "0304"))


def test_statements_without_signatures() -> None:
    texts = ["Sinus rhythm", "Confirmed by Roe, Jane MD on 04-MAR-2019", "Normal ECG"]
    notes = pydicom.Sequence([dataset(UnformattedTextValue=text) for text in texts])
    recording = read(write(group(samples(), [channel(lead) for lead in LEADS]), WaveformAnnotationSequence=notes))
    assert recording.statements == ("Sinus rhythm", "Normal ECG")


def test_the_rhythm_is_read_and_not_the_median() -> None:
    median = group(samples(600), [channel(lead) for lead in LEADS], WaveformOriginality="DERIVED")
    rhythm = group(samples() // 2, [channel(lead) for lead in LEADS])
    for groups in ((median, rhythm), (rhythm, median)):
        np.testing.assert_allclose(read(write(*groups)).signal, samples() // 2 * 0.0025)
    with pytest.raises(RecordError, match=r"derived and shorter than 2 s \(median beats\)"):
        read(write(median))
    derived = group(samples(), [channel(lead) for lead in LEADS], WaveformOriginality="DERIVED")
    assert read(write(median, derived)).remarks == ("its waveform is marked as derived from others",)


def test_each_channel_has_its_own_unit_baseline_and_correction() -> None:
    channels = [
        channel("I", "mV", "0.00122"), channel("II", ChannelBaseline="10", ChannelSensitivityCorrectionFactor="2"),
        channel("V1", ChannelBaseline="1"),
    ]  # fmt: skip
    values = samples(n_channels=3).astype(float)
    signal = read(write(group(samples(n_channels=3), channels))).signal
    np.testing.assert_allclose(signal, values * [0.00122, 0.005, 0.0025] + [0, 0.010, 0.001])


@pytest.mark.parametrize(
    ("value", "meaning", "scheme"),
    [("2:2", "anything", "MDC"), ("5.6.3-9-2", "", "SCPECG"), ("131074", "", "MDC"), ("L2", "Lead II (Einthoven)", "99X"),
     ("", "MDC_ECG_LEAD_II", "MDC")],
)  # fmt: skip
def test_a_lead_is_known_by_code_or_words(value: str, meaning: str, scheme: str) -> None:
    one = channel("I", ChannelSourceSequence=code(value, meaning, scheme))
    assert read(write(group(samples(n_channels=1), [one]))).leads == ("II",)


def test_a_channel_that_is_not_used_vetoes_nothing() -> None:
    odd = channel("Aortic pressure", "mm[Hg]", "-1")
    recording = read(write(group(samples(n_channels=3), [channel("I"), odd, channel("II")])))
    assert (recording.leads, recording.unused) == (("I", "II"), ("Aortic pressure",))
    with pytest.raises(RecordError, match=r"unit 'mm\[Hg\]', which is not a voltage"):
        read(write(group(samples(n_channels=1), [channel("I", "mm[Hg]")])), units="mV")


def test_without_sensitivity_the_unit_must_be_given() -> None:
    content = write(group(samples(n_channels=1), [channel("I", step="")]))
    with pytest.raises(RecordError, match="does not state the unit"):
        read(content)
    np.testing.assert_allclose(read(content, units="uV").signal, samples(n_channels=1) / 1000)


def test_a_padding_value_is_not_always_believed() -> None:
    values = samples(n_channels=2)
    values[700:710, 0] = 0
    values[1400:, 1] = -32768
    values[100, 1], values[200:260, 1] = 30000, 30000
    channels = [channel("I"), channel("II")]
    for padding, expected in ((0, np.zeros(1500, bool)), (30000, values[:, 1] == 30000)):
        content = write(group(values, channels, WaveformPaddingValue=np.int16(padding).tobytes()))
        signal = read(content).signal
        assert not np.isnan(signal[:, 0]).any()
        expected = expected | (values[:, 1] == -32768)
        expected[100] = False  # one sample is no run
        np.testing.assert_array_equal(np.isnan(signal[:, 1]), expected)
    signal = read(write(group(values, channels, WaveformPaddingValue=np.int16(-32768).tobytes()))).signal
    assert np.isnan(signal).sum() == 100


def test_a_skewed_channel_is_aligned() -> None:
    channels = [channel("I"), channel("II", ChannelSampleSkew="3"), channel("V1", ChannelTimeSkew="-0.004")]
    signal = read(write(group(samples(n_channels=3), channels))).signal
    values = samples(n_channels=3) * 0.0025
    np.testing.assert_allclose(signal[:, 0], values[:, 0])
    np.testing.assert_allclose(signal[3:, 1], values[:-3, 1])
    np.testing.assert_allclose(signal[:-2, 2], values[2:, 2])
    assert np.isnan(signal[:3, 1]).all()
    assert np.isnan(signal[-2:, 2]).all()


def test_a_slot_of_zeros_is_no_lead() -> None:
    values = samples(n_channels=3)
    values[:, 1] = 0
    recording = read(write(group(values, [channel("I"), channel("V3"), channel("II")])))
    assert recording.leads == ("I", "II")
    assert recording.remarks == ("only zeros, so not recorded: V3",)
    np.testing.assert_allclose(recording.signal, values[:, [0, 2]] * 0.0025)
    with pytest.raises(RecordError, match="all samples of its leads are zero"):
        read(write(group(values * 0, [channel("I"), channel("V3"), channel("II")])))


def test_damage_is_one_error() -> None:
    content = write(group(samples(), [channel(lead) for lead in LEADS]))
    promises = write(group(samples(), [channel(lead) for lead in LEADS], WaveformBitsAllocated=32,
                           WaveformSampleInterpretation="SL"))  # fmt: skip
    with pytest.raises(RecordError, match="truncated: 36000 bytes of samples and 12 channels where it promises 72000"):
        read(promises)
    with pytest.raises(RecordError, match="8 bit 'MB', which is not read"):
        read(write(group(samples(), [channel("I")] * 12, WaveformBitsAllocated=8, WaveformSampleInterpretation="MB")))
    long = write(group(samples(), [channel("I")] * 12, WaveformSampleInterpretation="X" * 5000))
    with pytest.raises(RecordError, match=r"16 bit a longer text, which is not read; export it again"):
        read(long)
    with pytest.raises(RecordError, match="not a DICOM file with a waveform"):
        read(write())
    lengths = np.random.default_rng(0).integers(4000, len(content), 60)
    check_damage(read, (one for n in lengths for one in with_a_damaged_byte(content[:n], 132, 4000, n=1, seed=n)))
    check_damage(read, (content[:n] for n in range(132, 4000, 97)))


def test_matches() -> None:
    assert dicom.matches(write(group(samples(n_channels=1), [channel("I")]))[:4096])
    assert not dicom.matches(b"DICM" * 8)
