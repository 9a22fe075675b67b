"""The command `plot`: an ECG on paper grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.ecg_arguments import given_of
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
    from leadwise.ecg import read

    target = target or Path(f"{file.stem}.png")
    read(file, leads=given_of(leads, rate_hz, units).leads, rate_hz=rate_hz, units=units, item=item).plot(target)
    out.print(f"drawn to {target}", soft_wrap=True)
