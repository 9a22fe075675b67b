"""The command `simulate`: simulated ECGs, or pairs of ECG and heart volumes, as files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leadwise.cli.output import bars, out, progress_bars

if TYPE_CHECKING:
    from leadwise.data.simulator.paired.voxels import Grid

_SHAPE = "6x46x42"


def simulate(
    folder: Annotated[Path, typer.Option("-o", "--out", help="New folder for the files.")],
    records: Annotated[int, typer.Option(help="Number of ECGs; with --paired, of people.")] = 1500,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    paired: Annotated[
        bool, typer.Option("--paired", help="One ECG per person, and short-axis volumes of the same heart.")
    ] = False,
    shape: Annotated[
        str, typer.Option(help="With --paired: slices x rows x columns of a volume; 12x92x85 covers the whole heart.")
    ] = _SHAPE,
    infarcts: Annotated[
        bool, typer.Option("--infarcts", help="With --paired: a scar in 20 % of the people, and scar volumes.")
    ] = False,
    half: Annotated[
        bool, typer.Option("--half", help="With --paired: a third volume, at half of the RR interval.")
    ] = False,
    slice_shift_mm: Annotated[
        float, typer.Option(help="With --paired: SD of the shift of each slice in its plane.")
    ] = 0.0,
    processes: Annotated[int, typer.Option(help="With --paired: processes that simulate.")] = 1,
) -> None:
    """Write simulated 12-lead ECGs with reports and labels, or with --paired ECGs and volumes of the same hearts."""
    if paired:
        from leadwise.data.simulator.paired.cohort import PairSettings, simulate_pairs

        settings = PairSettings(_grid(shape), infarcts, half, slice_shift_mm)
        with progress_bars() as progress:
            simulate_pairs(folder, records, seed, settings, processes, bars(progress))
        out.print(
            f"{records} pairs in {folder}; next: leadwise prepare ecg_cmr {folder} -o cohorts/simulated-pairs",
            soft_wrap=True,
        )
        return
    from leadwise.data.cohort.layout import CohortError
    from leadwise.data.sources import simulated

    if shape != _SHAPE or infarcts or half or slice_shift_mm or processes != 1:
        raise CohortError("--shape, --infarcts, --half, --slice-shift-mm and --processes are of pairs; add --paired")
    with progress_bars() as progress:
        simulated.simulate(folder, records, seed, bars(progress))
    out.print(
        f"{records} ECGs in {folder}; next: leadwise prepare simulated {folder} -o cohorts/simulated", soft_wrap=True
    )


def _grid(shape: str) -> Grid:
    """Return the grid of a text such as 6x46x42."""
    from leadwise.data.cohort.layout import CohortError
    from leadwise.data.simulator.paired.voxels import Grid

    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})", shape)
    if match is None:
        raise CohortError(f"--shape {shape} is not slices x rows x columns; give for example {_SHAPE}")
    return Grid(*map(int, match.groups()))
