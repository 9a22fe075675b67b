"""Simulated 12-lead ECGs: WFDB files, a table of records, and a table of the true values behind them.

    records.csv    path, record, patient, split, report, age, sex, label.findings.<CODE> in {0, 1}
    truth.csv      what was drawn: rates, intervals, axis, T wave in II, ST levels, device, artefacts, what the report omits
    ecg/00/*.hea   12-lead ECGs of 10 s in mixed rates, lead orders, spellings and units, several per patient

Purpose: to test the whole path from files to scores, and to rank methods, on any machine and without patient data. It
is no evidence of clinical accuracy. Its limits:

- A single moving heart vector has no conduction heterogeneity: nothing is fragmented, local or border-line by tissue,
  and every lead is a linear view of the same three curves. Real leads have more than three dimensions.
- Waves are smooth sums of Gaussians, and findings are drawn with a margin between them (a PR interval of 195 ms does not
  occur), so a threshold on the right quantity separates what overlaps in a clinic. Such shortcuts make scores high.
- A report follows from the labels by a table of phrases. Its noise is synthetic: wording, hedges, omissions, irrelevant
  remarks.
- 28 findings, fixed prevalences, few combinations, one recording length; age affects only how a sinus rhythm varies with
  breathing, and sex affects nothing.

Its scores must not be compared with those of real data sets.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.cohort.layout import CohortError, creating_folder
from leadwise.data.simulator.acquisition import capture, draw_device, write_wfdb
from leadwise.data.simulator.findings import FINDINGS
from leadwise.data.simulator.patients import Patient, draw_patients
from leadwise.data.simulator.reports import write_report
from leadwise.data.simulator.table import Row, write_table
from leadwise.data.simulator.tracing import draw_tracing, random_stream
from leadwise.data.sources import folder as table_source
from leadwise.data.sources.source import Source
from leadwise.data.tasks import Task, class_names
from leadwise.progress import Progress

log = logging.getLogger(__name__)

TASKS = (Task("findings", "Simulated ECGs: the findings that were drawn; every record.", FINDINGS),)

_PATIENTS_PER_FOLDER = 100


def simulate(
    folder: Path, n_records: int, seed: int, progress: Progress | None = None, measurements: bool = True
) -> Path:
    """Write `n_records` simulated ECGs into a new folder and return it; the same seed gives the same files.

    Without `measurements`, the reports state no interval, axis or T wave (`reports.MEASURED`); the ECGs are the same.
    `progress` is called with ("simulate", ECGs written, ECGs in total).

    Raises:
        CohortError: the folder exists, or `n_records` is not positive.
    """
    if n_records < 1:
        raise CohortError(f"{n_records} records cannot be simulated; give 1 or more")
    with creating_folder(folder) as partial:
        records: list[Row] = []
        truths: list[Row] = []
        for patient in draw_patients(n_records, seed):
            for k in range(patient.n_ecgs):
                row, truth = _write_record(partial, patient, k, seed, measurements)
                records.append(row)
                truths.append(truth)
                if progress is not None:
                    progress("simulate", len(records), n_records)
        write_table(partial / "truth.csv", truths)
        write_table(partial / "records.csv", records)
    log.info("simulated %d ECGs of %d patients in %s", n_records, len({row["patient"] for row in records}), folder)
    return folder


@dataclass(frozen=True)
class Options:
    """Simulated ECGs have no options; `leadwise simulate` has."""


def read_source(folder: Path, options: Options | None = None) -> Source:
    """The recordings of a folder that `simulate` wrote, with the task 'findings'; no recording is opened.

    Raises:
        CohortError: the folder contains no simulated data set, or its table was changed.
    """
    table = Path(folder) / "records.csv"
    if not table.is_file():
        raise CohortError(
            f"{folder} contains no records.csv; write a simulated data set there with `leadwise simulate`, or name another "
            "folder"
        )
    source = table_source.read_source(table)
    if source.tasks != class_names(TASKS):
        raise CohortError(
            f"{table}: its label columns are not the simulator's {len(FINDINGS)} findings; simulate it again"
        )
    return replace(source, name="simulated")


def _write_record(folder: Path, patient: Patient, k: int, seed: int, measurements: bool) -> tuple[Row, Row]:
    """Write one ECG; return its row of records.csv and its row of truth.csv."""
    # draw the device, the tracing and the report, in this order: it decides the random numbers
    rng = random_stream(patient, k, seed)
    device = draw_device(rng)
    tracing = draw_tracing(patient, rng, device.rate_hz)
    captured = capture(tracing.leads, device, rng)
    report = write_report(tracing.presentation, tracing.truth["rate_bpm"], rng, measurements)

    # the WFDB files
    patient_id = f"s{patient.number + 1:05d}"
    record = f"{patient_id}_{k + 1}"
    path = Path("ecg") / f"{patient.number // _PATIENTS_PER_FOLDER:02d}" / record
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_wfdb(
        folder / path, captured.digital, device, (f"age: {patient.age_years}", f"sex: {patient.sex}", "simulated")
    )

    # the rows of the two tables
    findings = tracing.presentation.findings
    row: Row = {
        "path": path.with_name(f"{record}.hea").as_posix(),
        "record": record,
        "patient": patient_id,
        "split": patient.split,
        "report": report.text,
        "age": patient.age_years,
        "sex": patient.sex,
        **{f"label.findings.{code}": int(code in findings) for code in FINDINGS},
    }
    truth: Row = {
        "record": record,
        "rhythm": tracing.presentation.rhythm,
        "ventricular_escape": int(tracing.presentation.ventricular_escape),
        **{
            name: "" if np.isnan(value) else round(value, 3 if name == "t_mv" else 2)
            for name, value in tracing.truth.items()
        },
        **{f"st_mv.{lead}": round(float(level), 4) for lead, level in zip(LEADS, tracing.st_mv)},
        "report_states": " ".join(report.stated),
        "report_omits": " ".join(report.omitted),
        "rate_hz": device.rate_hz,
        "uv_per_step": device.uv_per_step,
        "units": device.units,
        "lead_names": " ".join(device.names),
        **captured.artefacts,
    }
    return row, truth
