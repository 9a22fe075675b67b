"""The command `simulate`: simulated ECGs as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import bars, out, progress_bars


def simulate(
    folder: Annotated[Path, typer.Option("-o", "--out", help="New folder for WFDB files and records.csv.")],
    records: Annotated[int, typer.Option(help="Number of ECGs.")] = 1500,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
) -> None:
    """Write simulated 12-lead ECGs with reports and labels: WFDB files and a table, in the form of a hospital's export."""
    from leadwise.data.sources import simulated

    with progress_bars() as progress:
        simulated.simulate(folder, records, seed, bars(progress))
    out.print(
        f"{records} ECGs in {folder}; next: leadwise prepare simulated {folder} -o cohorts/simulated", soft_wrap=True
    )
