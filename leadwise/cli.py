"""The command line: each verb a few lines over a function of the same name. Heavy imports wait until a verb runs."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from leadwise.batch import LEADS
from leadwise.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable

    from leadwise.data.cohort import Pool, Source

app = typer.Typer(
    name="leadwise",
    help="12-lead ECGs and their reports in; representations that classify, retrieve and explain out.\n\n"
    "A first look: leadwise demo. Your own ECGs: leadwise prepare folder manifest.csv -o cohorts/mine. "
    "Research use only. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(stderr=True)
out = Console(width=None if sys.stdout.isatty() else 160)  # a file or a pipe has no edge to wrap at

RunFolder = Annotated[Path, typer.Argument(help="Run folder that `leadwise pretrain` left.")]
CohortFolder = Annotated[Path, typer.Argument(help="Cohort folder that `leadwise prepare` wrote.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file, as one JSON object.")]
TaskName = Annotated[
    str, typer.Option("--task", help="Label set: super, sub, form or rhythm for PTB-XL; findings; own.")
]


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("-o", "--out", help="Where everything is left.")] = Path("demo"),
    records: Annotated[
        int | None, typer.Option(min=1, help="How many ECGs to simulate; default: as many as the demo needs.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; default: as many as the demo needs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the hearts and of the training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in that folder.")] = False,
    json_file: Json = None,
) -> None:
    """The whole way on simulated ECGs: simulate, prepare, pretrain, embed, probe, zero-shot, and a report to open."""
    from leadwise import demo as whole_way

    with _progress() as progress:
        result = whole_way.demo(
            folder, n_records=records, steps=steps, seed=seed, overwrite=overwrite, progress=_bars(progress)
        )
    for title, rows in result.tables.items():
        _print_table(rows, title)
    _write_json(json_file, result.to_json())
    out.print(f"open {result.page}", highlight=False, soft_wrap=True)


@app.command()
def simulate(
    folder: Annotated[Path, typer.Option("-o", "--out", help="New folder for WFDB files and records.csv.")],
    records: Annotated[int, typer.Option(help="How many ECGs.")] = 1500,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
) -> None:
    """Write simulated 12-lead ECGs with reports and labels: WFDB files and a table, as a hospital might hand them over."""
    from leadwise.data.sources import simulated

    with _progress() as progress:
        simulated.simulate(folder, records, seed, _bar(progress, "simulate"))
    out.print(
        f"{records} ECGs in {folder}; next: leadwise prepare simulated {folder} -o cohorts/simulated", soft_wrap=True
    )


@app.command()
def prepare(
    source: Annotated[
        str | None, typer.Argument(help="folder (your own CSV of ECGs), ptbxl, mimic_iv_ecg or simulated.")
    ] = None,
    path: Annotated[Path | None, typer.Argument(help="Folder of the data set, or your CSV.")] = None,
    target: Annotated[Path | None, typer.Option("-o", "--out", help="Cohort folder to write.")] = None,
    reports: Annotated[
        Path | None, typer.Option(help="ptbxl: CSV with ecg_id and text in place of its own reports.")
    ] = None,
    leads: Annotated[str | None, typer.Option(help="folder: lead names of .npy/.csv columns, such as I,II,V1.")] = None,
    rate_hz: Annotated[float | None, typer.Option(help="folder: rate of .npy/.csv files; ptbxl: 100 or 500.")] = None,
    units: Annotated[str | None, typer.Option(help="folder: unit where files state none: mV, uV or V.")] = None,
    min_words: Annotated[
        int | None,
        typer.Option(min=0, help="Leave out recordings whose report has fewer words [mimic_iv_ecg: 4, else 0]."),
    ] = None,
    allow_missing: Annotated[bool, typer.Option(help="Leave out recordings whose file is not there.")] = False,
    allow_unreadable: Annotated[bool, typer.Option(help="Leave out recordings that cannot be read.")] = False,
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
    from leadwise.data import cohort as cohorts
    from leadwise.data.estimate import estimate

    if verify is not None:
        cohort = cohorts.Cohort.open(verify, verify=True)
        out.print(f"{verify}: {len(cohort)} recordings, every size and checksum holds", soft_wrap=True)
        told = {"command": "prepare", "cohort": str(verify), "verified": True, "recordings": len(cohort)}
        _write_json(json_file, told)
        return
    if source is None or path is None or target is None:
        raise typer.BadParameter(
            "say SOURCE, PATH and -o OUT, such as: leadwise prepare folder manifest.csv -o cohorts/mine"
        )
    rows = _source(source, path, reports, leads, rate_hz, units)
    told = {"command": "prepare", "cohort": str(target), "source": source}
    if dry_run:
        sizes = (800_035,) if source == "mimic_iv_ecg" else ()  # the whole of release 1.0, seen from a part of it
        table = estimate(rows, target, min_words).table(workers, sizes)
        _print_table(table, f"what preparing {target} will take")
        _write_json(json_file, {**told, "dry_run": True, "estimate": {row["what"]: row["value"] for row in table}})
        return
    if resume and not target.with_name(target.name + ".partial").is_dir():
        console.print(f"nothing to resume at {target}; it begins anew", soft_wrap=True)
    with _progress(rate=True) as progress, _pool(workers, dask) as pool:
        heard = _bar(progress, f"prepare {target.name}")
        if shard is not None:
            n_shards = cohorts.write_share(
                rows,
                target,
                _share(shard),
                min_report_words=min_words,
                allow_missing=allow_missing,
                pool=pool,
                progress=heard,
            )
        else:
            ledger = cohorts.write(
                rows,
                target,
                min_report_words=min_words,
                allow_missing=allow_missing,
                allow_unreadable=allow_unreadable,
                overwrite=overwrite,
                pool=pool,
                progress=heard,
            )
    if shard is not None:
        _write_json(json_file, {**told, "share": shard, "shards": n_shards})
        out.print(
            f"{n_shards} shards of {shard} are packed; when all shares are, run it without --shard", soft_wrap=True
        )
        return
    counts = vars(ledger)
    _print_table([{"what": name.replace("_", " "), "count": n} for name, n in counts.items()], f"ledger of {target}")
    _write_json(json_file, {**told, "ledger": counts})


def _pool(workers: int, address: str | None) -> AbstractContextManager[Pool | None]:
    """Who packs: a cluster, processes, or nobody else."""
    if address is None and workers == 1:
        return nullcontext()
    from leadwise.data import workers as pools

    if address is not None and workers > 1:
        raise typer.BadParameter("say --workers or --dask, not both: a cluster has its own workers")
    return pools.dask(address) if address is not None else pools.processes(workers)


def _share(text: str) -> tuple[int, int]:
    """'3/8' as (3, 8)."""
    which, slash, n = text.partition("/")
    if not slash or not which.isdecimal() or not n.isdecimal():
        raise typer.BadParameter(f"--shard {text}: say i/n, such as 3/8")
    return int(which), int(n)


def _source(
    name: str, path: Path, reports: Path | None, leads: str | None, rate_hz: float | None, units: str | None
) -> Source:
    """The rows of a data set by the name of its file in data/sources."""
    from leadwise.data.sources import folder, mimic_iv_ecg, ptbxl, simulated

    takes = {
        "ptbxl": ("reports", "rate-hz"),
        "mimic_iv_ecg": (),
        "simulated": (),
        "folder": ("leads", "rate-hz", "units"),
    }
    given = {"reports": reports, "leads": leads, "rate-hz": rate_hz, "units": units}
    idle = [option for option, value in given.items() if value is not None and option not in takes.get(name, given)]
    if idle:
        raise typer.BadParameter(f"source '{name}' does not take --{', --'.join(idle)}")
    if name == "ptbxl":
        return ptbxl.read_source(path, reports=reports, rate_hz=rate_hz)
    if name == "simulated":
        return simulated.read_source(path)
    if name == "mimic_iv_ecg":
        return mimic_iv_ecg.read_source(path)
    if name == "folder":
        names = tuple(lead.strip() for lead in leads.split(",")) if leads else None
        return folder.read_source(path, leads=names, rate_hz=rate_hz, units=units)
    raise typer.BadParameter(f"no source '{name}'; choose folder (your own ECGs), ptbxl, mimic_iv_ecg or simulated")


@app.command()
def pretrain(
    config: Annotated[Path, typer.Argument(help="TOML file such as configs/ptbxl_cpu.toml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change: method.mask_ratio=0.6")] = None,
    target: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder to write.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out exactly where it stopped.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, counts, parameters, time and memory; train nothing.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Train a method on a cohort's ECGs and reports, leaving a run folder."""
    from leadwise import config as settings
    from leadwise import plan as planning
    from leadwise import pretrain as training

    typed, first = settings.read(config, overrides), _rank() == 0
    if dry_run:
        plan = planning.plan(typed)
        if not first:
            return
        out.print(plan.config, highlight=False, markup=False, soft_wrap=True)
        _print_table(plan.parameters, "parameters")
        _print_table(plan.estimate, "what it will take, from a few timed steps")
        estimate = {row["what"]: row["value"] for row in plan.estimate}
        told = {"command": "pretrain", "dry_run": True, "cohort": typed.data.cohort, "config": plan.config}
        _write_json(json_file, {**told, "parameters": plan.parameters, "estimate": estimate})
        return
    if target is None:
        raise typer.BadParameter("say where the run goes: -o runs/NAME (or --dry-run)")
    with _progress(shown=first) as progress:
        training.pretrain(typed, target, resume=resume, progress=_bars(progress) if first else None)
    if not first:
        return
    from leadwise.pictures import curves, ink

    metrics = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    told = {"command": "pretrain", "cohort": typed.data.cohort, "run": str(target), "last": metrics[-1]}
    _write_json(json_file, told)
    ink.save(curves.draw(metrics, title=target.name), target / "curves.png")
    out.print(f"run in {target}; its curves: {target / 'curves.png'}", soft_wrap=True)


@app.command()
def embed(
    run: RunFolder,
    cohort: CohortFolder,
    target: Annotated[Path, typer.Option("-o", "--out", help=".npz file: embedding (N, D), record, patient, split.")],
    part: Annotated[str, typer.Option(help="backbone, shared, specific or both.")] = "backbone",
    split: Annotated[str | None, typer.Option(help="Only train, val or test.")] = None,
    json_file: Json = None,
) -> None:
    """Write an embedding for every recording of a cohort."""
    from leadwise import run as runs
    from leadwise.data.cohort import Cohort
    from leadwise.evaluate import embed as embedding

    loaded, opened = runs.load(run), Cohort.open(cohort)
    rows = opened.rows(split=split)
    with _progress() as progress:
        features = embedding.embed_cohort(loaded, opened, part, rows, _bars(progress))
    embedding.write_npz(target, features, opened, rows)
    told = {"command": "embed", "cohort": str(cohort), "run": str(run), "part": part, "file": str(target)}
    _write_json(json_file, {**told, "recordings": features.shape[0], "width": features.shape[1]})
    out.print(f"{features.shape[0]} embeddings of {features.shape[1]} numbers in {target}", soft_wrap=True)


@app.command()
def probe(
    run: RunFolder,
    cohort: CohortFolder,
    task: TaskName,
    part: Annotated[str, typer.Option(help="Feature: backbone, shared, specific or both.")] = "backbone",
    fractions: Annotated[str, typer.Option(help="Shares of the training labels.")] = "0.01,0.1,1",
    per_class: Annotated[bool, typer.Option("--per-class", help="Print each class too.")] = False,
    json_file: Json = None,
) -> None:
    """Linear probe: how well frozen features classify, beside the untrained encoder and hand-crafted features."""
    from leadwise import run as runs
    from leadwise.data.cohort import Cohort
    from leadwise.evaluate import probe as probing

    try:
        shares = tuple(float(share) for share in fractions.split(","))
    except ValueError:
        raise typer.BadParameter(f"--fractions {fractions}: say numbers within (0, 1], such as 0.01,0.1,1") from None
    with _progress() as progress:
        report = probing.run_probe(
            runs.load(run), Cohort.open(cohort), task, fractions=shares, part=part, progress=_bars(progress)
        )
    _print_table(report.rows(), f"probe of {report.run} on {report.cohort}, task {task}: macro AUROC on test")
    if per_class:
        _print_table(report.class_rows(), "AUROC per class")
    _write_json(json_file, report.to_json())


@app.command()
def zeroshot(
    run: RunFolder,
    cohort: CohortFolder,
    task: TaskName,
    prompts: Annotated[
        Path | None, typer.Option(help="Your own prompt file (TOML); default: ours for this task.")
    ] = None,
    split: Annotated[str, typer.Option(help="Recordings to score.")] = "test",
    per_class: Annotated[bool, typer.Option("--per-class", help="Print each class too.")] = False,
    json_file: Json = None,
) -> None:
    """Classify by prompts alone, no label seen, beside the untrained encoder and a shuffled control."""
    from leadwise import run as runs
    from leadwise.data.cohort import Cohort
    from leadwise.evaluate import zeroshot as zero

    with _progress() as progress:
        report = zero.run_zeroshot(
            runs.load(run), Cohort.open(cohort), task, prompts_path=prompts, split=split, progress=_bars(progress)
        )
    _print_table(report.rows(), f"zero-shot of {report.run} on {report.cohort}, task {task}: macro AUROC on {split}")
    if per_class:
        _print_table(report.class_rows(), "AUROC per class")
    _write_json(json_file, report.to_json())


@app.command()
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
    from leadwise.data import record
    from leadwise.pictures import paper

    names = tuple(lead.strip() for lead in leads.split(",")) if leads else None
    recording = record.twelve(record.read(file, leads=names, rate_hz=rate_hz, units=units))
    ecg, observed = record.repaired(recording)
    notes = record.remarks(recording)
    target = target or Path(f"{file.stem}.png")
    figure = paper.draw(ecg, recording.rate_hz, LEADS, title=recording.name, notes=notes, observed=observed)
    paper.save(figure, target)
    out.print(f"drawn to {target}", soft_wrap=True)


# --- what a person sees


def _rank() -> int:
    """The number of this process among those that `torchrun` started: only the first one shows and draws."""
    return int(os.environ.get("RANK", "0"))


def _progress(rate: bool = False, shown: bool = True) -> Progress:
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([_Rate()] if rate else []),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=console, transient=False, disable=not shown)


class _Rate(ProgressColumn):
    """Recordings a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} records/s")


def _bars(progress: Progress) -> Callable[[str, int, int], None]:
    """A callback (what, done, total) that keeps one bar for each thing it hears of; "name|details" updates details."""
    tasks: dict[str, Any] = {}

    def heard(what: str, done: int, total: int) -> None:
        name, _, details = what.partition("|")
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], completed=done, total=total, description=f"{name} {details}".rstrip())

    return heard


def _bar(progress: Progress, what: str) -> Callable[[int, int], None]:
    heard = _bars(progress)
    return lambda done, total: heard(what, done, total)


def _print_table(rows: list[dict[str, Any]], title: str) -> None:
    """A table; a score and its interval share a cell, and remarks on classes stand below it."""
    if not rows:
        return
    lines, remarks = [], []
    for row in rows:
        line = {name: value for name, value in row.items() if name not in ("low", "high", "skipped", "unlearnable")}
        for name in ("macro", "auroc", "trained"):
            if line.get(name) is not None and row.get("low") is not None:
                line[name] = f"{row[name]:.3f} ({row['low']:.3f}-{row['high']:.3f})"
        lines.append(line)
        where = " ".join(str(row[name]) for name in ("fraction", "features") if name in row)
        if row.get("features", "trained") == "trained":  # the same classes for every feature
            remarks += [f"{where}: {key} {row[key]}" for key in ("skipped", "unlearnable") if row.get(key)]
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in lines[0]:
        table.add_column(str(name), justify="left" if isinstance(lines[0][name], str) else "right")
    for line in lines:
        table.add_row(*(_cell(value) for value in line.values()))
    out.print(table)
    for remark in remarks:
        out.print(remark, highlight=False, markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _write_json(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        with replacing(path) as part:
            part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def main() -> None:
    """The entry point: one clear line for an error a person can mend, a traceback for the rest."""
    level = logging.WARNING if _rank() else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    for name in ("httpx", "huggingface_hub", "matplotlib", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        app(standalone_mode=True)
    except (ValueError, OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and not _raised_here(error):
            raise
        who = f"rank {_rank()}: " if "RANK" in os.environ else ""
        console.print(f"{who}error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def _raised_here(error: BaseException) -> bool:
    """Whether our own code raised it: then its message is meant for a person, else it is a fault to be traced."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and Path(last.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parent)


if __name__ == "__main__":
    main()
