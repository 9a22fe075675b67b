"""The command `convert`: ECG files of any format to WFDB."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.ecg_arguments import given_of
from leadwise.cli.output import out, print_table


def convert(
    source: Annotated[Path, typer.Argument(help="An ECG file, or a folder: every file in it that can be read.")],
    target: Annotated[Path, typer.Argument(help="Folder for the WFDB records, NAME.hea and NAME.dat each.")],
    leads: Annotated[
        str | None, typer.Option(help="Names of the channels, such as I,II,V1; - for one that is not used.")
    ] = None,
    rate_hz: Annotated[float | None, typer.Option(help="Sampling rate, if the file does not state it.")] = None,
    units: Annotated[str | None, typer.Option(help="Unit, if the file does not state it: mV, uV, nV or V.")] = None,
    derive: Annotated[
        bool, typer.Option("--derive", help="Add the limb leads that follow from I, II and III.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace records that exist.")] = False,
) -> None:
    """Write WFDB records (format 16) from ECG files of any format that can be read."""
    from leadwise.data import ecg_files
    from leadwise.data.formats.reading import items, read
    from leadwise.data.formats.wfdb_writer import with_derived_leads, write_wfdb
    from leadwise.data.recordings.recording import RecordError
    from leadwise.files import sync_tree

    names = given_of(leads, rate_hz, units).leads
    beneath = ecg_files.beneath(source) if source.is_dir() else None
    files = (source,) if beneath is None else beneath.paths
    if not files:
        raise RecordError(f"{source} contains no file that can be read; name an ECG file or another folder")

    # a.xml and a.scp of one folder become a_xml and a_scp
    n_of_name = Counter(map(_place, files))

    # one record per file, or per recording of a file that holds several; a bad file does not stop the others
    rows, failures = [], []
    for file in files:
        try:
            for item in items(file) or (None,):
                recording = read(file, leads=names, rate_hz=rate_hz, units=units, item=item)
                recording = with_derived_leads(recording) if derive else recording
                place = target / file.parent.relative_to(source) if source.is_dir() else target
                stem = file.stem if n_of_name[_place(file)] == 1 else f"{file.stem}_{file.suffix.removeprefix('.')}"
                name = stem if item is None else f"{stem}_{item}"
                header = write_wfdb(recording, place, name, overwrite)
                rows.append(
                    {
                        "file": str(file.relative_to(source)) if source.is_dir() else file.name,
                        "record": str(header.relative_to(target)),
                        "format": recording.format,
                        "leads": len(recording.leads),
                        "rate_hz": recording.rate_hz,
                        "seconds": round(len(recording.signal) / recording.rate_hz, 2),
                    }
                )
        except RecordError as error:
            failures.append(str(error))
    if rows:
        sync_tree(target)
    print_table(rows, f"written to {target}")
    if beneath is not None and beneath.left_out:
        out.print(beneath.left_out, soft_wrap=True)
    if failures:
        listed = "; ".join(failures[:3]) + ("; ..." if len(failures) > 3 else "")
        raise RecordError(f"{len(failures)} of {len(files)} files were not converted: {listed}")
    out.print(f"{len(rows)} records written to {target}", soft_wrap=True)


def _place(file: Path) -> str:
    """The path of a file without its suffix; names that differ in case are one on some disks."""
    return str(file.with_suffix("")).casefold()
