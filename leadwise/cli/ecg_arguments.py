"""Arguments of the commands that read ECG files: the files, and what they do not state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from leadwise.data.formats.given import Given
    from leadwise.ecg_inputs import Inputs

EcgFiles = Annotated[list[Path], typer.Argument(help="ECG files, folders with ECG files, or one cohort folder.")]
Leads = Annotated[str | None, typer.Option(help="Lead names of files that do not name them, such as I,II,V1.")]
RateHz = Annotated[float | None, typer.Option(help="Sampling rate of files that do not state it.")]
Units = Annotated[str | None, typer.Option(help="Unit of files that do not state it: mV, uV, nV or V.")]


def given_of(leads: str | None, rate_hz: float | None, units: str | None) -> Given:
    """Return what the options state about files."""
    from leadwise.data.formats.given import Given

    names = tuple(lead.strip() for lead in leads.split(",")) if leads else None
    return Given(names, rate_hz, units)


def file_inputs(files: list[Path], given: Given) -> Inputs | Path:
    """Return the ECGs of the arguments: the entries of files and folders, or the folder of one cohort."""
    from leadwise.ecg_inputs import collect_paths

    cohorts = [path for path in files if (path / "cohort.json").is_file()]
    if len(cohorts) == len(files) == 1:
        return cohorts[0]
    if cohorts:
        raise typer.BadParameter(f"{cohorts[0]} is a cohort; pass it alone, or ECG files and folders")
    return collect_paths(files, given)
