"""Statements without signatures, names after "by", dates and times; findings stay."""

from __future__ import annotations

import pytest

from leadwise.data.formats.clean_statements import clean_statement, clean_statements

UNCHANGED = (
    "Sinus rhythm",
    "Sinus rhythm with 2:1 A-V block",
    "ATRIAL FIBRILLATION FOLLOWED BY PAUSE",
    "Vent. rate has increased BY 30 BPM",
    "LVH by voltage criteria",
    "ST elevation caused by early repolarization",
    "ST>0.10mV, II III aVF, STd V1-V3",
    "R56L/RISIII/S12R56/S3RL & LAA/LAD",
    "(RaVL+SV3)xQRSd >280",
    "QRSd >105, terminal axis(90,270)",
    "SINUS ARRHYTHMIA, RATE 51- 69",
    "Inferior infarct, acute (LCx)",
    "RSR(V1) - nondiagnostic",
    "Marked sinus bradycardia (May be normal)",
    "Septal infarct, age undetermined",
    "Mobitz I (Wenckebach) 3:2",
    "normal P axis, V-rate 62-130",
    "No previous ECGs available",
)
CUT = {
    "Confirmed by SMITH, JOHN (123) on 1/2/2003 10:11:12 AM": "",
    "Sinus rhythm. Confirmed by: Dr X": "Sinus rhythm",
    "Electronically signed by: Smith, John 04-Mar-2012 10:11:12": "",
    "Electronically Signed On 4-3-2012 10:11 by J. Smith": "",
    "Reviewed by JANE DOE, MD": "",
    "Overread by:Doe": "",
    "Referred by: AAASSS": "",
    "Ordering physician: Jane Doe": "",
    "Technician: 123": "",
    "Patient ID: 4711": "",
    "MRN 4711": "",
    "DOB: 1/2/1960": "",
    "Smith, John, MD": "",
    "Seen with Dr. Smith": "Seen with",
    "Premature beats, MD Smith": "Premature beats",
    "Reported to the ward by Jane Doe": "Reported to the ward",
    "Best\u00e4tigt durch Dr. Meyer am 3.4.2012": "",
    "Valid\u00e9 par Dupont": "",
    "Laudado por Silva": "",
    "Unconfirmed Diagnosis": "",
    "Diagnostic non confirm\u00e9.": "",
    "Preliminary": "",
    "When compared with ECG of 30-MAR-2023 10:21,": "",
    "When compared with ECG of 30-MAR-2023 10:21, No significant change was found": "No significant change was found",
    "Compared to ECG 2019-03-04, rate faster": "rate faster",
    "Sinus rhythm since 2019-01-01": "Sinus rhythm",
    "March 3, 2020: sinus rhythm": "sinus rhythm",
    "Known AV block since 1/2/2019 treated": "Known AV block treated",
    "Recorded at 10:30 pm": "",
    "Abnormal ECG 20200102101010": "Abnormal ECG",
    "- ABNORMAL ECG -": "ABNORMAL ECG",
    ">>> Acute MI <<<": "Acute MI",
    "  spaces \n between ": "spaces between",
    "--": "",
    "": "",
}


@pytest.mark.parametrize("statement", UNCHANGED)
def test_findings_stay(statement: str) -> None:
    assert clean_statement(statement) == statement


@pytest.mark.parametrize(("statement", "cleaned"), CUT.items())
def test_persons_dates_and_times_are_cut(statement: str, cleaned: str) -> None:
    assert clean_statement(statement) == cleaned


def test_a_name_on_the_next_line_is_cut() -> None:
    assert clean_statements(["Sinus rhythm", "Confirmed by", "SMITH JOHN", "Normal ECG", "Normal ECG"]) == (
        "Sinus rhythm",
        "Normal ECG",
    )
