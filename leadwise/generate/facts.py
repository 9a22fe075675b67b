"""Facts about an ECG that may leave the machine: probabilities of findings, measured intervals, training reports of similar ECGs.

A fact never contains a name of a recording, file or patient, nor samples or embeddings. A training report is left out if it
contains a name of the cohort's recordings or patients, a part of a patient's name, a date, or a number of five or more digits.
Names that are numbers of up to three digits are not searched: most reports contain such numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadwise.batch import LEADS
from leadwise.data.cohort.cohort import Cohort
from leadwise.data.measurements import measure
from leadwise.data.recordings.recording import RecordError
from leadwise.evaluate.findings import calibrated_tasks, top_findings
from leadwise.evaluate.prompt_calibration import CalibrationError
from leadwise.generate.bank import ReportBank
from leadwise.generate.writer import WriterError, WriterInput
from leadwise.progress import Progress
from leadwise.run import Run

MEASURED = ("heart_rate_bpm", "pr_ms", "qrs_ms", "qt_ms", "qtc_ms", "axis_deg")
N_FINDINGS, N_REPORTS = 8, 3
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{2,4}")
_LONG_NUMBER = re.compile(r"\d{5,}")
_LONGEST = 5  # words of a name; of a longer one, the first five
_WORD = re.compile(r"[\w./-]+")


def collect_facts(run: Run, ecgs: WriterInput, bank: ReportBank | None) -> list[dict[str, Any]]:
    """Return the facts of N ECGs: "findings", "measurements" and "reports_of_similar_ecgs", each if there is any; {} for none.

    Args:
        run: with a calibration (`leadwise calibrate`), the facts have probabilities.
        ecgs: embeddings of the part `shared_part(run)`.
        bank: training reports; None: no reports.

    Raises:
        WriterError: there is no fact about any of the ECGs.
    """
    facts: list[dict[str, Any]] = [{} for _ in range(len(ecgs))]
    for number, findings in _findings(run, ecgs).items():
        facts[number]["findings"] = findings
    for number, measured in enumerate(ecgs.measurements or ()):
        values = round_values(measured)
        if values:
            facts[number]["measurements"] = values
    if bank is not None:
        names = _names(bank, ecgs)
        for number, texts in enumerate(bank.nearest(ecgs, N_REPORTS, lambda text: not is_identifying(text, names))):
            if texts:
                facts[number]["reports_of_similar_ecgs"] = texts
    if facts and not any(facts):
        raise WriterError(
            f"there are no facts about these ECGs: run {run.name} has no calibration (leadwise calibrate RUN COHORT), nothing "
            "was measured, and there are no training reports (--bank COHORT)"
        )
    return facts


def measure_ecg(ecg_mv: NDArray[np.floating], rate_hz: float) -> dict[str, float]:
    """Return the measured values of an ECG (12, T) in LEADS order, NaN where not measurable; none if its rate is too unusual."""
    try:
        measured = measure(ecg_mv, LEADS, rate_hz)
    except RecordError:
        return {}
    return {name: float(getattr(measured, name)) for name in MEASURED}


def measure_cohort(
    cohort: Cohort, rows: NDArray[np.integer], progress: Progress | None = None
) -> list[dict[str, float]]:
    """Return the measured values of each of the rows of a cohort."""
    measured = []
    for number, row in enumerate(rows, start=1):
        signal, rate_hz = cohort.signal(int(row))
        measured.append(measure_ecg(signal.T, rate_hz))
        if progress is not None:
            progress("measure", number, len(rows))
    return measured


def is_identifying(text: str, names: frozenset[str]) -> bool:
    """Return whether a report contains one of the names (`searched_names`), a date, or a number of five or more digits."""
    if _DATE.search(text) or _LONG_NUMBER.search(text):
        return True
    words = {word.strip(".").lower() for word in _WORD.findall(text)}
    parts = re.findall(r"\w+", text.lower())
    words |= set(parts)
    if any(word in names for word in words if len(word) > 3 or not word.isdigit()):
        return True
    return any(" ".join(parts[i : i + n]) in names for n in range(2, _LONGEST + 1) for i in range(len(parts) - n + 1))


def searched_names(records: Iterable[str], patients: Iterable[str]) -> frozenset[str]:
    """Return what is searched in reports, in lower case: each name, its words joined by blanks, and words of patients' names.

    A word of a patient's name counts alone if it consists of three or more letters and the name has several words.
    """
    names: set[str] = set()
    for is_patient, some in ((False, records), (True, patients)):
        for name in some:
            words = re.findall(r"\w+", name.lower())
            names |= {name.lower(), " ".join(words[:_LONGEST])}
            if is_patient and len(words) > 1:
                names |= {word for word in words if len(word) > 2 and word.isalpha()}
    return frozenset(names - {""})


def _names(bank: ReportBank, ecgs: WriterInput) -> frozenset[str]:
    """Return the names of recordings and patients that are searched in reports."""
    return searched_names(bank.cohort.records, [*bank.cohort.patients, *(ecgs.patients or ())])


def _findings(run: Run, ecgs: WriterInput) -> dict[int, list[dict[str, Any]]]:
    """Return the most probable findings of each ECG; nothing for a run without a calibration."""
    if not run.method.embeds_text:
        return {}
    try:
        tasks = calibrated_tasks(run)
    except CalibrationError:
        return {}
    table = top_findings(run, tasks, ecgs.features, [""] * len(ecgs), N_FINDINGS)
    findings: dict[int, list[dict[str, Any]]] = {}
    for number, name, probability, share in zip(table.index, table["finding"], table["probability"], table["share"]):
        entry = {"finding": str(name), "probability": round(float(probability), 2), "frequency": round(float(share), 2)}
        findings.setdefault(int(number), []).append(entry)
    return findings


def round_values(measured: Mapping[str, float]) -> dict[str, int]:
    """Return the measured values by their known names, rounded; what could not be measured is left out."""
    return {name: round(measured[name]) for name in MEASURED if math.isfinite(measured.get(name, math.nan))}
