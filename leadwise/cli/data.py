"""Verbs that make and look at recordings: simulate, prepare and plot."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadwise.batch import LEADS
from leadwise.cli.output import (
    Json,
    bars,
    console,
    out,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.progress import relabel

if TYPE_CHECKING:
    from leadwise.data.cohort.prepare import WorkerPool
    from leadwise.data.sources.source import Source


def simulate(
    folder: Annotated[Path, typer.Option("-o", "--out", help="New folder for WFDB files and records.csv.")],
    records: Annotated[int, typer.Option(help="How many ECGs.")] = 1500,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
) -> None:
    """Write simulated 12-lead ECGs with reports and labels: WFDB files and a table, as a hospital might hand them over."""
    from leadwise.data.sources import simulated

    with progress_bars() as progress:
        simulated.simulate(folder, records, seed, bars(progress))
    out.print(
        f"{records} ECGs in {folder}; next: leadwise prepare simulated {folder} -o cohorts/simulated", soft_wrap=True
    )


def prepare(
    source: Annotated[
        str | None,
        typer.Argument(help="folder (your own CSV of ECGs), ptbxl, cpsc2018, csn, mimic_iv_ecg or simulated."),
    ] = None,
    path: Annotated[Path | None, typer.Argument(help="Folder of the data set, or your CSV.")] = None,
    target: Annotated[Path | None, typer.Option("-o", "--out", help="Cohort folder to write.")] = None,
    reports: Annotated[
        Path | None, typer.Option(help="ptbxl: CSV with ecg_id and text in place of its own reports.")
    ] = None,
    leads: Annotated[str | None, typer.Option(help="folder: lead names of .npy/.csv columns, such as I,II,V1.")] = None,
    rate_hz: Annotated[float | None, typer.Option(help="folder: rate of .npy/.csv files; ptbxl: 100 or 500.")] = None,
    units: Annotated[str | None, typer.Option(help="folder: unit where files state none: mV, uV or V.")] = None,
    min_likelihood: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="ptbxl: the least likelihood at which a diagnosis counts (super, sub) [0]."),
    ] = None,
    min_words: Annotated[
        int | None,
        typer.Option(min=0, help="Leave out recordings whose report has fewer words [mimic_iv_ecg: 4, else 0]."),
    ] = None,
    allow_missing: Annotated[bool, typer.Option(help="Leave out recordings whose file is not there.")] = False,
    allow_unreadable: Annotated[bool, typer.Option(help="Leave out recordings that cannot be read.")] = False,
    allow_copies: Annotated[
        bool, typer.Option(help="Leave out recordings that have the same samples as another patient's.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a cohort that is there already.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that pack; 1 = this one.")] = 1,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers pack, such as tcp://head:8786.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Pack only the i-th of n shares, as i/n: for a job array. The same call without makes the cohort."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a killed run stopped. Finished shards are kept without it too."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Pack a sample, print time and size for all, keep nothing.")
    ] = False,
    verify: Annotated[Path | None, typer.Option(help="Check every checksum of this cohort instead.")] = None,
    json_file: Json = None,
) -> None:
    """Pack a data set into a cohort: leads by name, millivolts, quality and labels in one table, samples beside it."""
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.data.cohort.estimate import estimate
    from leadwise.data.cohort.prepare import write, write_share

    if verify is not None:
        cohort = Cohort.open(verify, verify=True)
        out.print(f"{verify}: {len(cohort)} recordings, every size and checksum holds", soft_wrap=True)
        told = {"command": "prepare", "cohort": str(verify), "verified": True, "recordings": len(cohort)}
        write_json(json_file, told)
        return
    if source is None or path is None or target is None:
        raise typer.BadParameter(
            "say SOURCE, PATH and -o OUT, such as: leadwise prepare folder manifest.csv -o cohorts/mine"
        )
    rows = _source(
        source, path, reports=reports, leads=leads, rate_hz=rate_hz, units=units, min_likelihood=min_likelihood
    )
    told = {"command": "prepare", "cohort": str(target), "source": source}
    if dry_run:
        sizes = (800_035,) if source == "mimic_iv_ecg" else ()  # the whole of release 1.0, seen from a part of it
        table = estimate(rows, target, min_words).table(workers, sizes)
        print_table(table, f"what preparing {target} will take")
        write_json(json_file, {**told, "dry_run": True, "estimate": {row["what"]: row["value"] for row in table}})
        return
    if resume and not target.with_name(target.name + ".partial").is_dir():
        console.print(f"nothing to resume at {target}; it begins anew", soft_wrap=True)
    with progress_bars(rate=True) as progress, _pool(workers, dask) as pool:
        heard = relabel(bars(progress), f"prepare {target.name}")
        if shard is not None:
            n_shards = write_share(
                rows,
                target,
                _share(shard),
                min_report_words=min_words,
                allow_missing=allow_missing,
                pool=pool,
                progress=heard,
            )
        else:
            ledger = write(
                rows,
                target,
                min_report_words=min_words,
                allow_missing=allow_missing,
                allow_unreadable=allow_unreadable,
                allow_copies=allow_copies,
                overwrite=overwrite,
                pool=pool,
                progress=heard,
            )
    if shard is not None:
        write_json(json_file, {**told, "share": shard, "shards": n_shards})
        out.print(
            f"{n_shards} shards of {shard} are packed; when all shares are, run it without --shard", soft_wrap=True
        )
        return
    counts = vars(ledger)
    print_table([{"what": name.replace("_", " "), "count": n} for name, n in counts.items()], f"ledger of {target}")
    write_json(json_file, {**told, "ledger": counts})


def _pool(workers: int, address: str | None) -> AbstractContextManager[WorkerPool | None]:
    """Who packs: a cluster, processes, or nobody else."""
    if address is None and workers == 1:
        return nullcontext()
    from leadwise.data.cohort import executors as pools

    if address is not None and workers > 1:
        raise typer.BadParameter("say --workers or --dask, not both: a cluster has its own workers")
    return pools.dask(address) if address is not None else pools.processes(workers)


def _share(text: str) -> tuple[int, int]:
    """'3/8' as (3, 8)."""
    which, slash, n = text.partition("/")
    if not slash or not which.isdecimal() or not n.isdecimal():
        raise typer.BadParameter(f"--shard {text}: say i/n, such as 3/8")
    return int(which), int(n)


def _source(name: str, path: Path, **told: Any) -> Source:
    """The rows of a data set by the name of its file in data/sources, read with the options that were told."""
    from leadwise.data.sources import (
        cpsc2018,
        csn,
        folder,
        mimic_iv_ecg,
        ptbxl,
        simulated,
    )

    readers: dict[str, tuple[Callable[..., Source], tuple[str, ...]]] = {  # and the options that each takes
        "folder": (folder.read_source, ("leads", "rate_hz", "units")),
        "ptbxl": (ptbxl.read_source, ("reports", "rate_hz", "min_likelihood")),
        "cpsc2018": (cpsc2018.read_source, ()),
        "csn": (csn.read_source, ()),
        "mimic_iv_ecg": (mimic_iv_ecg.read_source, ()),
        "simulated": (simulated.read_source, ()),
    }
    if name not in readers:
        known = ", ".join(other for other in readers if other != "folder")
        raise typer.BadParameter(f"no source '{name}'; choose folder (your own ECGs), {known}")
    read, takes = readers[name]
    told = {option: value for option, value in told.items() if value is not None}
    idle = [option.replace("_", "-") for option in told if option not in takes]
    if idle:
        raise typer.BadParameter(f"source '{name}' does not take --{', --'.join(idle)}")
    if "leads" in told:
        told["leads"] = tuple(lead.strip() for lead in told["leads"].split(","))
    return read(path, **told)


def plot(
    file: Annotated[Path, typer.Argument(help="A WFDB record (.hea, or its name without ending), .npy or .csv.")],
    target: Annotated[
        Path | None, typer.Option("-o", "--out", help=".png or .svg; default: FILE's name + .png.")
    ] = None,
    leads: Annotated[str | None, typer.Option(help="Lead names of an .npy/.csv file, such as I,II,V1.")] = None,
    rate_hz: Annotated[float | None, typer.Option(help="Rate of an .npy/.csv file.")] = None,
    units: Annotated[str | None, typer.Option(help="Unit where the file states none: mV, uV or V.")] = None,
) -> None:
    """Draw an ECG on paper grid (25 mm/s, 10 mm/mV), with what was missing or repaired."""
    from leadwise.data.formats.reading import read
    from leadwise.data.recordings import twelve_leads
    from leadwise.pictures import ink, paper

    names = tuple(lead.strip() for lead in leads.split(",")) if leads else None
    recording = twelve_leads.to_twelve_leads(read(file, leads=names, rate_hz=rate_hz, units=units))
    ecg, observed = twelve_leads.bridge_short_gaps(recording)
    notes = twelve_leads.remarks(recording)
    target = target or Path(f"{file.stem}.png")
    figure = paper.draw(ecg, recording.rate_hz, LEADS, title=recording.name, notes=notes, observed=observed)
    ink.save(figure, target)
    out.print(f"drawn to {target}", soft_wrap=True)
