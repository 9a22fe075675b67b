"""Sample files of devices beside the checkout: the values of another reader, of twins in other formats, and of the truth.

The largest difference of every file in uV is printed: `pytest -s -m real tests/test_vendor_real.py`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from leadwise.batch import LEADS
from leadwise.data.formats import reading
from leadwise.data.recordings.lead_names import standard_name
from leadwise.data.recordings.recording import RecordError, Recording
from leadwise.data.recordings.twelve_leads import to_twelve_leads

VENDOR = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "vendor"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not VENDOR.is_dir(), reason="the sample files are not beside this checkout"),
]
XML_FOLDERS = ("muse_xml", "philips_xml", "hl7_aecg", "cardiosoft_xml", "schiller_xml")
FILES = sorted(path for folder in XML_FOLDERS for path in (VENDOR / folder).glob("*.xml")) if VENDOR.is_dir() else []
FILES += [VENDOR / "synthetic" / name for name in ("muse_8lead.xml", "mortara_eli.xml")]
REFUSED = {"fda_empty.xml": "contains no rhythm series"}
SHORT = {"fda_minimum_aecg.xml": 13}
PHILIPS_S = 10.7  # where the calibration pulse begins
MISSING_EXTRA = {"cvrg_104_900657176.xml": ("V3R", "V4R", "V7")}


def by_ecgdatakit(path: Path) -> dict[str, np.ndarray]:
    """The leads in uV as ecgdatakit reads them; {} if it does not read the file."""
    ecgdatakit = pytest.importorskip("ecgdatakit")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = ecgdatakit.FileParser().parse(str(path))
    except Exception:  # any error of the other reader
        return {}
    leads = {}
    for one in record.leads:
        lead = one.to_physical() if one.is_raw else one
        factor = {"uV": 1.0, "mV": 1000.0}[lead.units]
        leads[standard_name(lead.label)] = np.asarray(lead.samples, dtype=np.float64) * factor
    return leads


def microvolts(recording: Recording) -> dict[str, np.ndarray]:
    return {lead: 1000.0 * recording.signal[:, number] for number, lead in enumerate(recording.leads)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_xml_file_has_the_values_of_another_reader(path: Path) -> None:
    # refused, with one line
    if path.name in REFUSED:
        with pytest.raises(RecordError, match=REFUSED[path.name]) as error:
            reading.read(path)
        assert "\n" not in str(error.value)
        return

    # read, from the file and from bytes
    recording = reading.read(path)
    assert len(recording.leads) in (1, 3, 8, 12)
    assert recording.unused == MISSING_EXTRA.get(path.name, ())
    np.testing.assert_array_equal(reading.read(path.read_bytes()).signal, recording.signal)
    assert len(recording.signal) == SHORT.get(path.name, len(recording.signal))

    # compared up to the calibration pulse, which the other reader leaves in
    others = by_ecgdatakit(path)
    largest = {
        lead: float(np.abs(values - others[lead][: len(values)]).max())
        for lead, values in microvolts(recording).items()
        if lead in others
    }
    largest_text = f"{max(largest.values()):.3g} uV" if largest else "not read by ecgdatakit"
    print(f"\n{recording.format:22} {path.name:36} {len(recording.leads):2} leads  {largest_text}")
    if others:
        assert set(largest) == set(recording.leads)
        assert max(largest.values()) == 0.0


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent.name == "philips_xml"], ids=lambda path: path.name
)
def test_the_calibration_pulse_of_every_philips_file_is_cut(path: Path) -> None:
    recording = reading.read(path)
    assert recording.remarks == (f"calibration pulse of 1 mV at {PHILIPS_S} s cut",)
    assert 10.0 <= len(recording.signal) / recording.rate_hz < PHILIPS_S
    leads = microvolts(recording)
    assert np.abs(leads["III"] - leads["II"] + leads["I"]).max() < 10.1  # two steps
    assert to_twelve_leads(recording).lead_order == "ok"


def test_one_recording_in_three_formats_is_equal() -> None:
    """SCP, DICOM and aECG of one recording, in all leads; formats of which nothing is installed are left out."""
    pytest.importorskip("pydicom")
    pytest.importorskip("ecgdatakit")
    aecg = to_twelve_leads(reading.read(VENDOR / "hl7_aecg" / "ecgtoolkit_Example.xml"))
    for folder, name in (("scp", "ecgtoolkit_Example.scp"), ("dicom", "ecgtoolkit_Example.dcm")):
        other = to_twelve_leads(reading.read(VENDOR / folder / name))
        length = min(len(aecg.signal), len(other.signal))
        assert length >= 4990
        difference = float(1000 * np.abs(aecg.signal[:length] - other.signal[:length]).max())
        print(f"\naECG - {folder}: {difference:.3g} uV in {length} samples of 12 leads")
        assert difference < 1e-9


def test_the_wfdb_twin_of_a_muse_file_is_five_times_too_large() -> None:
    """Its gain is wrong by exactly 5: no reader may repair it, and none may differ in another way."""
    muse = microvolts(reading.read(VENDOR / "muse_xml" / "egm_muse-sinus.xml"))
    twin = microvolts(reading.read(VENDOR / "muse_xml" / "muse-sinus.hea"))
    for lead, values in muse.items():
        assert np.abs(5 * values - twin[lead]).max() < 5.0  # the twin is rounded to whole microvolts


@pytest.mark.parametrize(("name", "step_uv"), [("muse_8lead.xml", 4.88), ("mortara_eli.xml", 2.5)])
def test_synthetic_files_have_the_values_of_the_truth(name: str, step_uv: float) -> None:
    truth = np.load(VENDOR / "synthetic" / "truth_500hz_mV.npz")
    order = [truth["leads"].tolist().index(lead) for lead in LEADS]
    recording = to_twelve_leads(reading.read(VENDOR / "synthetic" / name))
    difference = 1000 * np.abs(recording.signal - truth["x"][:, order]).max(axis=0)
    print(
        f"\n{name}: {difference.max():.3g} uV, of which recorded leads {difference[[0, 1, *range(6, 12)]].max():.3g} uV"
    )
    assert difference[[0, 1, *range(6, 12)]].max() <= step_uv / 2 + 0.01
    assert difference.max() <= 1.5 * step_uv  # leads that are derived from two rounded ones


def test_heart_rates_are_doubted_where_the_rate_is_wrong_only() -> None:
    doubts = {}
    for path in FILES:
        if path.name not in REFUSED and "synthetic" not in path.parts:
            doubts[path.name] = [remark for remark in reading.read(path).remarks if remark.startswith("rate doubt")]
    assert doubts.pop("liryc_hl7aecg_example.xml") == [
        "rate doubt: the file states 57 beats/min, and its R peaks at 100 Hz give 12; is the sampling rate right?"
    ]
    assert not any(doubts.values())


def test_no_signature_or_date_is_stored() -> None:
    for path in FILES:
        if path.name not in REFUSED:
            recording = reading.read(path)
            text = repr((recording.stated, recording.statements, recording.remarks)).lower()
            assert not [
                word for word in ("confirmed by", "signed", "xxxx", "00:00", "0000", "compared with") if word in text
            ]


def test_a_text_export_is_read_with_what_it_does_not_state() -> None:
    path = VENDOR / "mrq_prucka" / "cvrg_J123456_10sec.txt"
    recording = to_twelve_leads(reading.read(path, leads=LEADS, rate_hz=500, units="uV"))
    assert recording.signal.shape == (5000, 12)
    assert recording.lead_order == "ok"
