"""Write the reports of ECG files or of a cohort's recordings, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leadwise.data.cohort.cohort import Cohort
from leadwise.data.usable_rows import REASONS
from leadwise.ecg_inputs import Inputs
from leadwise.evaluate.embed import Features, embed_cohort, usable
from leadwise.evaluate.embed_ecgs import embed_ecgs
from leadwise.generate import folder as folders
from leadwise.generate.bank import ReportBank
from leadwise.generate.facts import measure_cohort, measure_ecg
from leadwise.generate.writer import NOTE, Writer, WriterError, WriterInput
from leadwise.generate.writers.majority import MajorityWriter
from leadwise.generate.writers.retrieve import RetrieveWriter
from leadwise.generate.writers.server import ServerOptions, ServerWriter
from leadwise.progress import Progress
from leadwise.run import Run

NAMES = ("majority", "retrieve", "server")


def open_writer(
    name: str,
    run: Run,
    bank: Cohort | None = None,
    server: ServerOptions | None = None,
    progress: Progress | None = None,
) -> Writer:
    """Return the writer of a name, or the trained one of a folder.

    Args:
        name: one of NAMES, or a folder that `leadwise train-writer` wrote.
        run: the run that reads the ECGs.
        bank: cohort whose training reports `majority` and `retrieve` return, and `server` is sent.
        server: the server that the user names.

    Raises:
        WriterError: there is no such writer, or what it needs is missing.
    """
    if (server is not None) != (name == "server"):
        raise WriterError("the writer 'server' and --server-url belong together: pass both or none")
    if server is not None:
        return ServerWriter(run, server, None if bank is None else ReportBank.open(run, bank, progress))
    if name in NAMES:
        if bank is None:
            raise WriterError(
                f"the writer '{name}' returns training reports: pass the cohort that has them (--bank COHORT)"
            )
        return MajorityWriter(bank) if name == "majority" else RetrieveWriter(run, ReportBank.open(run, bank, progress))
    if not Path(name).is_dir():
        raise WriterError(
            f"no writer {name!r}: it is one of {', '.join(NAMES)}, or a folder that leadwise train-writer wrote (train one: "
            "leadwise train-writer RUN COHORT -o FOLDER)"
        )
    return folders.load(name)


@dataclass(frozen=True)
class _Ecgs:
    """N ECGs of an input, of which those in `places` could be embedded."""

    names: Sequence[str]
    places: NDArray[np.int64]
    features: Features  # one row per place
    reasons: Mapping[int, str]  # of the others
    source: str = ""
    patients: Sequence[str] | None = None  # one per place
    measurements: Sequence[Mapping[str, float]] | None = None  # one per place
    checksums: Sequence[str] | None = None  # one per place


def write_reports(
    run: Run, writer: Writer, ecgs: Cohort | Inputs, split: str | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Return one row per ECG: ecg, refused (the reason why it has no report, or ''), report, writer, note.

    Args:
        split: of a cohort; None: all.

    Raises:
        WriterError: no ECG can be embedded, or the writer fails.
    """
    encoder = writer.encoder(run)
    if isinstance(ecgs, Cohort):
        opened = _of_cohort(run, encoder, ecgs, writer, split, progress)
    else:
        opened = _of_files(encoder, ecgs, writer, progress)
    if not len(opened.places):
        reason = next(iter(opened.reasons.values()), "there is none")
        raise WriterError(f"none of the {len(opened.names)} ECGs can be read: {reason}")

    # one report for each embedded ECG, and a reason for each other
    given = WriterInput(opened.features, opened.source, opened.patients, opened.measurements, opened.checksums)
    written = writer.write(given, progress)
    texts = dict(zip(opened.places.tolist(), written, strict=True))
    reasons = {number: writer.no_report for number, text in texts.items() if not text} | dict(opened.reasons)
    numbers = range(len(opened.names))
    columns = {
        "ecg": list(opened.names),
        "refused": [reasons.get(number, "") for number in numbers],
        "report": [texts.get(number, "") for number in numbers],
        "writer": writer.name,
        "note": NOTE,
    }
    return pd.DataFrame(columns)


def _of_cohort(
    run: Run, encoder: Run, cohort: Cohort, writer: Writer, split: str | None, progress: Progress | None
) -> _Ecgs:
    rows = cohort.rows(split)
    if not len(rows):
        raise WriterError(f"cohort {cohort.name} has no recording in split '{split}'; choose another --split")
    chosen, left_out = usable(encoder, cohort, rows)
    features = embed_cohort(encoder, cohort, writer.part, chosen, progress, run.cache_folder)
    reasons = {record: REASONS[reason] for reason, records in left_out.records.items() for record in records}
    names, places = cohort.records.take(rows), np.searchsorted(rows, chosen)
    others = np.setdiff1d(np.arange(len(rows)), places)
    missing = {int(number): reasons[names[number]] for number in others}
    measured = measure_cohort(cohort, chosen, progress) if writer.reads_measurements else None
    patients, checksums = cohort.patients.take(chosen), cohort.checksums(chosen)
    return _Ecgs(names, places, features, missing, cohort.source, patients, measured, checksums)


def _of_files(encoder: Run, inputs: Inputs, writer: Writer, progress: Progress | None) -> _Ecgs:
    features, dropped = embed_ecgs(encoder, inputs, writer.part, on_error="nan", progress=progress)
    places = np.flatnonzero(np.isfinite(features).all(axis=1))
    reasons = {one.position: one.reason for one in dropped}
    measured = None
    if writer.reads_measurements:
        opened = (inputs.entries[place].open() for place in places)
        measured = [measure_ecg(ecg.signal, ecg.rate_hz) for ecg in opened]
    return _Ecgs(inputs.names, places, features[places], reasons, measurements=measured)
