"""The command `measure`: heart rate, intervals and axis of ECG files or of a cohort, one row per recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadwise.cli.ecg_arguments import EcgFiles, Leads, RateHz, Units, file_inputs, given_of
from leadwise.cli.output import Json, bars, out, print_table, progress_bars, write_json
from leadwise.cli.table_files import check_target, write_table

if TYPE_CHECKING:
    from leadwise.data.measurements import Measurements
    from leadwise.ecg_inputs import Inputs

_N_PRINTED = 10
_NO_BEATS = "no beats were detected"
_SHORT_NAMES = {"heart_rate_bpm": "bpm", "n_beats": "beats"}
_NOT_PRINTED = ("qtc_fridericia_ms", "rr_sd_ms")


def measure(
    files: EcgFiles,
    target: Annotated[
        Path | None, typer.Option("-o", "--out", help=".csv or .parquet file: one row per ECG. Without it, a table.")
    ] = None,
    leads: Leads = None,
    rate_hz: RateHz = None,
    units: Units = None,
    json_file: Json = None,
) -> None:
    """Measure heart rate, PR, QRS, QT, QTc and axis of ECG files or a cohort. Research use only, not for decisions."""
    if target is not None:
        check_target(target, (".csv", ".parquet"))
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.data.recordings.recording import RecordError

    ecgs = file_inputs(files, given_of(leads, rate_hz, units))
    with progress_bars() as progress:
        update = bars(progress)
        measured = _of_cohort(Cohort.open(ecgs)) if isinstance(ecgs, Path) else _of_files(ecgs)
        rows = list(_rows(measured, update))
    refused = [row for row in rows if row["refused"]]
    if len(refused) == len(rows):
        raise RecordError(
            f"none of the {len(rows)} ECGs was measured: {refused[0]['refused'] if refused else 'no ECG'}"
        )

    # print the first rows, and write the table
    print_table([_printed(row) for row in rows[:_N_PRINTED]], "measurements: '-' where not measurable")
    if refused:
        out.print(f"{len(refused)} of {len(rows)} ECGs were not measured: {refused[0]['refused']}", soft_wrap=True)
    write_json(json_file, {"command": "measure", "recordings": [_json_row(row) for row in rows]})
    if target is not None:
        import pandas as pd

        write_table(pd.DataFrame(rows), target)
        out.print(f"{len(rows)} rows written to {target}", highlight=False, soft_wrap=True)
    elif len(rows) > _N_PRINTED:
        out.print(f"{_N_PRINTED} of {len(rows)} ECGs; -o measurements.csv writes all", soft_wrap=True)


Measured = tuple[str, int, "Callable[[], Measurements]"]  # name, number of all ECGs, what measures it


def _of_files(inputs: Inputs) -> Iterator[Measured]:
    """Yield the ECGs of files; an ECG is read when it is measured."""
    from leadwise.data.recordings.recording import RecordError

    for entry in inputs.entries:

        def measured(entry: Any = entry) -> Measurements:
            ecg = entry.open()
            if ecg.refusal:
                raise RecordError(ecg.refusal)
            result: Measurements = ecg.measure()
            return result

        yield entry.name, len(inputs), measured


def _of_cohort(cohort: Any) -> Iterator[Measured]:
    """Yield the recordings of a cohort."""
    from leadwise.batch import LEADS
    from leadwise.data.measurements import measure as measure_signal

    for row, record in enumerate(cohort.records):

        def measured(row: int = row) -> Measurements:
            signal, rate_hz = cohort.signal(row)
            return measure_signal(signal.T, LEADS, rate_hz)

        yield record, len(cohort), measured


def _rows(measured: Iterator[Measured], update: Callable[[str, int, int], None]) -> Iterator[dict[str, Any]]:
    """Yield a row for each ECG: ecg, refused, and the quantities; an ECG that cannot be read is a refused row."""
    from leadwise.data.measurements import QUANTITIES
    from leadwise.data.recordings.recording import RecordError

    for number, (name, total, measure_one) in enumerate(measured, start=1):
        values: dict[str, Any] = {**dict.fromkeys(QUANTITIES, float("nan")), "n_beats": 0}
        reason = ""
        try:
            values = measure_one().values()
            reason = "" if values["n_beats"] else _NO_BEATS
        except RecordError as error:
            reason = str(error)
        yield {"ecg": name, "refused": reason, **values}
        update("measure", number, total)


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for the terminal: the name of the file, and rounded numbers."""
    line: dict[str, Any] = {"ecg": Path(row["ecg"]).name}
    for name, value in row.items():
        if name not in ("ecg", "refused", *_NOT_PRINTED):
            line[_SHORT_NAMES.get(name, name)] = None if value != value else str(round(value))
    return line


def _json_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as JSON values: null where a measurement is not possible."""
    return {name: None if value != value else value for name, value in row.items()}
