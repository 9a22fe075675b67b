"""The command `plot`: an ECG on paper grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.batch import LEADS
from leadwise.cli.output import out


def plot(
    file: Annotated[
        Path,
        typer.Argument(help="An ECG file of any format that can be read; a WFDB record also without suffix."),
    ],
    target: Annotated[
        Path | None, typer.Option("-o", "--out", help=".png, .svg or .pdf; default: the name of FILE and .png.")
    ] = None,
    leads: Annotated[
        str | None, typer.Option(help="Names of the channels, such as I,II,V1; - for one that is not used.")
    ] = None,
    rate_hz: Annotated[float | None, typer.Option(help="Sampling rate, if the file does not state it.")] = None,
    item: Annotated[str | None, typer.Option(help="Which recording, in a file that holds several.")] = None,
    units: Annotated[str | None, typer.Option(help="Unit if the file does not state it: mV, uV, nV or V.")] = None,
) -> None:
    """Draw an ECG on paper grid (25 mm/s, 10 mm/mV), with remarks on missing and repaired samples."""
    from leadwise.data.formats.reading import read
    from leadwise.data.recordings import twelve_leads
    from leadwise.pictures import ink, paper

    names = tuple(lead.strip() for lead in leads.split(",")) if leads else None
    recording = twelve_leads.to_twelve_leads(read(file, leads=names, rate_hz=rate_hz, units=units, item=item))
    ecg, observed = twelve_leads.bridge_short_gaps(recording)
    notes = twelve_leads.remarks(recording)
    target = target or Path(f"{file.stem}.png")
    figure = paper.draw(ecg, recording.rate_hz, LEADS, title=recording.name, notes=notes, observed=observed)
    ink.save(figure, target)
    out.print(f"drawn to {target}", soft_wrap=True)
