"""Real and synthetic device files beside the repository against the library of each format; skipped without them.

`pytest -s` prints the largest difference of each file in uV.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leadwise.batch import LEADS
from leadwise.data.formats import reading
from leadwise.data.recordings.recording import RecordError, Recording

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
VENDOR, CASES = SHARED / "data" / "vendor", SHARED / "cases"

pytestmark = [pytest.mark.real, pytest.mark.skipif(not VENDOR.is_dir(), reason="no device files beside the repository")]


def file(name: str) -> Path:
    path = VENDOR / name
    if not path.is_file():
        pytest.skip(f"{name} is absent")
    return path


def report(name: str, difference_uv: float) -> float:
    print(f"{name}: largest difference {difference_uv:.6f} uV")
    return difference_uv


def truth() -> dict[str, np.ndarray]:
    with np.load(file("synthetic/truth_500hz_mV.npz")) as arrays:
        return dict(zip(LEADS, arrays["x"].astype(float).T))


def to_truth(recording: Recording) -> float:
    leads = truth()
    return max(
        float(np.abs(recording.signal[:, k] - leads[name]).max()) * 1000 for k, name in enumerate(recording.leads)
    )


@pytest.mark.parametrize(
    ("name", "rate_hz"),
    [("dicom/arturrod_test_ecg.dcm", 240), ("dicom/ecgtoolkit_Example.dcm", 500), ("dicom/pydicom_waveform_ecg.dcm", 1000),
     ("synthetic/twelve_baseline10uV_corr2.5.dcm", 500)],
)  # fmt: skip
def test_dicom_equals_pydicom(name: str, rate_hz: float) -> None:
    pydicom = pytest.importorskip("pydicom")
    recording = reading.read(file(name))
    dataset = pydicom.dcmread(file(name))
    channels = dataset.WaveformSequence[0].ChannelDefinitionSequence
    uv = [1000.0 if one.ChannelSensitivityUnitsSequence[0].CodeValue == "mV" else 1.0 for one in channels]
    reference = dataset.waveform_array(0) * uv
    assert (recording.leads, recording.rate_hz) == (LEADS, rate_hz)
    assert not np.isnan(recording.signal).any()  # a padding value of 0 marks no sample as missing
    assert report(name, float(np.abs(recording.signal * 1000 - reference).max())) < 1e-9
    assert set(recording.stated) <= {"age", "sex", "device", "year", "heart_rate"}


def test_dicom_equals_the_truth() -> None:
    name = "synthetic/twelve_baseline10uV_corr2.5.dcm"
    assert report(name, to_truth(reading.read(file(name)))) <= 1.2501  # half a step


@pytest.mark.parametrize(
    "name",
    ["ecgtoolkit_Example.scp", "scptools_ECG_20060620_112352_ANON000002.SCP", "scptools_ECG_20070321_110542_ANON000004.SCP",
     "scptools_ECG_20081029_105642_ANON000010.SCP", "scptools_ECG_20170504_163507_ANON000009.SCP"],
)  # fmt: skip
def test_scp_equals_ecgdatakit(name: str) -> None:
    ecgdatakit = pytest.importorskip("ecgdatakit")
    path = file(f"scp/{name}")
    recording = reading.read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = {lead.label: lead.samples * 1000 for lead in ecgdatakit.FileParser().parse(path).leads}  # from mV
    difference = max(
        float(np.abs(recording.signal[:, k] * 1000 - reference[lead]).max()) for k, lead in enumerate(recording.leads)
    )
    assert report(name, difference) < 1e-9
    assert set(recording.leads) | set(recording.unused) == set(reference)


def test_one_recording_as_scp_and_dicom_is_equal() -> None:
    scp, dicom = (reading.read(file(name)) for name in ("scp/ecgtoolkit_Example.scp", "dicom/ecgtoolkit_Example.dcm"))
    columns = [scp.leads.index(lead) for lead in dicom.leads]
    assert report("SCP - DICOM", float(np.abs(scp.signal[:, columns] - dicom.signal).max()) * 1000) == 0.0
    assert scp.rate_hz == dicom.rate_hz


def test_a_record_of_contec_whose_ranges_begin_at_0() -> None:
    recording = reading.read(file("scp/contec_demo.scp"))
    raw = np.frombuffer(file("scp/contec_demo.scp").read_bytes(), "<i2", 80_000, 424).reshape(8, 10_000).T
    np.testing.assert_allclose(recording.signal, raw * 183e-6, rtol=1e-12)
    assert "device" not in recording.stated  # a control character


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scp/scptools_test_log.SCP", "its checksum differs; it is damaged"),
        ("scp/healforce_62.SCP", "not an SCP-ECG record, or a damaged one"),
        ("contec/contec_0000037.ECG", "not an ISHNE file"),
    ],
)
def test_what_is_refused_is_refused_in_one_line(name: str, reason: str) -> None:
    with pytest.raises(RecordError, match=reason) as caught:
        reading.read(file(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["edf/pyedflib_gen2.bdf", "edf/pyedflib_test_subsecond.edf", "edf/pyedflib_test_utf8.edf", "synthetic/twelve.edf",
     "synthetic/twelve.bdf"],
)  # fmt: skip
def test_every_edf_signal_equals_pyedflib(name: str) -> None:
    pyedflib = pytest.importorskip("pyedflib")
    with pyedflib.EdfReader(str(file(name))) as reader:
        n_signals, rates = reader.signals_in_file, reader.getSampleFrequencies()
        signals = [reader.readSignal(number) for number in range(n_signals)]
    largest = 0.0
    for number in range(n_signals):  # each as lead I, since some files hold no ECG
        leads = ["-"] * n_signals
        leads[number] = "I"
        recording = reading.read(file(name), leads=leads)
        assert recording.rate_hz == pytest.approx(rates[number])
        largest = max(largest, float(np.abs(recording.signal[:, 0] * 1000 - signals[number]).max()))
    assert report(name, largest) < 1e-8


@pytest.mark.parametrize(("name", "largest_uv"), [("synthetic/twelve.edf", 0.16), ("synthetic/twelve.bdf", 0.0008)])
def test_edf_equals_the_truth(name: str, largest_uv: float) -> None:
    recording = reading.read(file(name))
    assert recording.leads == LEADS
    assert report(name, to_truth(recording)) < largest_uv


def test_ishne_equals_ecgdatakit() -> None:
    ecgdatakit = pytest.importorskip("ecgdatakit")
    path = file("synthetic/ishne_3lead.ecg")
    recording = reading.read(path)
    reference = {lead.label: lead.samples * 1000 for lead in ecgdatakit.FileParser().parse(path).leads}
    difference = max(
        float(np.abs(recording.signal[:, k] * 1000 - reference[lead]).max()) for k, lead in enumerate(recording.leads)
    )
    assert report(path.name, difference) < 1e-9
    assert recording.leads == ("V1", "V5", "II")


@pytest.mark.parametrize(
    ("name", "units", "largest_uv"),
    [("val_v5.mat", "uV", 0.51), ("val_v73.mat", "uV", 0.51), ("truth_500hz_mV.npz", "mV", 0.0)],
)
def test_arrays_equal_the_truth(name: str, units: str, largest_uv: float) -> None:
    recording = reading.read(file(f"synthetic/{name}"), leads=LEADS, rate_hz=500, units=units)
    assert report(name, to_truth(recording)) <= largest_uv


def test_code15_by_exam_id_without_padding() -> None:
    h5py = pytest.importorskip("h5py")
    path = file("synthetic/exams_part0.hdf5")
    assert reading.items(path) == ("101", "102", "103")
    with h5py.File(path) as arrays:
        row = {str(exam): tracing for exam, tracing in zip(arrays["exam_id"][()], arrays["tracings"][()])}
    for exam in reading.items(path):
        recording = reading.read(path, item=exam, units="mV")
        missing = np.isnan(recording.signal)
        assert missing.sum(axis=0).tolist() == [96] * 12  # 4,096 - 4,000 samples
        assert report(f"exam {exam}", float(np.abs(recording.signal - row[exam])[~missing].max()) * 1000) == 0.0


def test_apple_watch_in_two_languages() -> None:
    english, portuguese = (reading.read(file(f"synthetic/apple_watch_{code}.csv")) for code in ("en", "pt"))
    assert (english.leads, english.rate_hz, len(english.signal)) == (("I",), 512, 15360)
    assert report("apple_watch", float(np.abs(english.signal - portuguese.signal).max()) * 1000) == 0.0


def test_a_text_export_and_a_record_of_cinc() -> None:
    path = file("mrq_prucka/cvrg_J123456_10sec.txt")
    recording = reading.read(path, leads=LEADS, rate_hz=500, units="uV")
    reference = np.loadtxt(path, skiprows=4)
    assert report(path.name, float(np.abs(recording.signal * 1000 - reference).max())) < 1e-9
    wfdb = pytest.importorskip("wfdb")
    signal = wfdb.rdrecord(str(file("cinc/E07500.hea").with_suffix(""))).p_signal
    assert report("E07500", float(np.abs(reading.read(file("cinc/E07500.mat")).signal - signal).max()) * 1000) < 1e-9


GIVEN: dict[str, Any] = {"rate_hz": 250, "units": "mV"}


def test_cases_of_tables() -> None:
    folder = CASES / "23_csv_with_index_and_time"
    if not folder.is_dir():
        pytest.skip("no cases beside the repository")
    reference = np.loadtxt(folder / "lead_prefix.csv", delimiter=",", skiprows=1)
    for name in ("lead_prefix", "names_with_units", "pandas", "semicolon", "time", "units_row"):
        recording = reading.read(folder / f"{name}.csv", **GIVEN)
        assert (recording.leads, recording.rate_hz) == (LEADS, 250)
        np.testing.assert_array_equal(recording.signal, reference)
    assert reading.read(folder / "time.csv", units="mV").rate_hz == 250
    assert reading.read(folder / "units_row.csv", rate_hz=250).leads == LEADS
    rows = CASES / "22_csv_one_row_per_lead"
    np.testing.assert_array_equal(reading.read(rows / "t.csv", leads=LEADS, **GIVEN).signal, reference)
    np.testing.assert_array_equal(reading.read(rows / "t_named.csv", **GIVEN).signal, reference)


def test_cases_of_prints_many_recordings_and_stubs() -> None:
    if not CASES.is_dir():
        pytest.skip("no cases beside the repository")
    print_ = reading.read(CASES / "29_digitized_print" / "dig.csv", rate_hz=250, units="uV")
    n_recorded = np.isfinite(print_.signal).sum(axis=0)
    assert print_.leads == LEADS
    assert n_recorded.min() >= 625  # 2.5 s of each lead
    many = CASES / "21_many_recordings_in_one_array" / "x.npy"
    assert reading.items(many) == ("0", "1", "2")
    for item in reading.items(many):
        np.testing.assert_array_equal(
            reading.read(many, item=item, leads=LEADS, **GIVEN).signal, np.load(many)[int(item)].T
        )
    for path in sorted((CASES / "20_unread_formats").iterdir()):  # stubs without samples: one line each
        if path.suffix not in ("", ".txt"):
            with pytest.raises(RecordError) as caught:
                reading.read(path)
            assert "\n" not in str(caught.value)
