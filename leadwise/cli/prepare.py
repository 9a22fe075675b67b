"""The command `prepare`: a data set into a cohort. The options of a data set are those of its file in data/sources."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from leadwise.cli.output import (
    Json,
    bars,
    console,
    out,
    parse_share,
    print_table,
    progress_bars,
    write_json,
)
from leadwise.progress import relabel

if TYPE_CHECKING:
    from leadwise.data.cohort.prepare import WorkerPool
    from leadwise.data.sources.source import Source

_ARGUMENTS = "leadwise.prepare.arguments"


class PrepareCommand(TyperCommand):
    """`prepare`, whose help has the options of the data set that is named beside --help."""

    # `ctx` and `formatter` are of click, which recent versions of typer contain and older ones import

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Store the words of the command line: --help is processed before the arguments are."""
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options of the data set, or without one the names of all data sets, and then the common options."""
        from leadwise.data.sources import catalogue

        names = catalogue.source_names()
        name = next((word for word in ctx.meta.get(_ARGUMENTS, ()) if word in names), None)
        if name is None:
            with formatter.section("Data sets"):
                formatter.write_text(f"{', '.join(names)}. `leadwise prepare NAME --help` shows the options of one.")
        else:
            with formatter.section(name):
                formatter.write_text(catalogue.title(name))
            rows = catalogue.option_rows(name)
            with formatter.section(f"Options of {name}, each given as key=value after PATH"):
                if rows:
                    formatter.write_dl([(f"{row['key']}=", _option_help(row)) for row in rows])
                else:
                    formatter.write_text("none")
        super().format_options(ctx, formatter)


def prepare(
    source: Annotated[
        str | None, typer.Argument(help="Name of the data set, such as ptbxl; folder: your own CSV table of ECGs.")
    ] = None,
    path: Annotated[Path | None, typer.Argument(help="Folder of the data set, or your CSV table.")] = None,
    options: Annotated[
        list[str] | None, typer.Argument(help="Options of the data set: min_likelihood=50", metavar="KEY=VALUE")
    ] = None,
    target: Annotated[Path | None, typer.Option("-o", "--out", help="Cohort folder to write.")] = None,
    reports: Annotated[str | None, typer.Option(help="The same as reports=", hidden=True)] = None,
    leads: Annotated[str | None, typer.Option(help="The same as leads=", hidden=True)] = None,
    rate_hz: Annotated[str | None, typer.Option(help="The same as rate_hz=", hidden=True)] = None,
    units: Annotated[str | None, typer.Option(help="The same as units=", hidden=True)] = None,
    root: Annotated[str | None, typer.Option(help="The same as root=", hidden=True)] = None,
    min_likelihood: Annotated[str | None, typer.Option(help="The same as min_likelihood=", hidden=True)] = None,
    min_words: Annotated[
        int | None,
        typer.Option(
            min=0, help="Leave out recordings whose report has fewer words [default: as the data set defines]."
        ),
    ] = None,
    allow_missing: Annotated[bool, typer.Option(help="Leave out recordings whose file is missing.")] = False,
    allow_unreadable: Annotated[
        bool, typer.Option(help="Leave out recordings and rows of the table that cannot be used.")
    ] = False,
    allow_copies: Annotated[
        bool, typer.Option(help="Leave out recordings that have the same samples as another patient's.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing cohort.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that pack; 1 = this one.")] = 1,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers pack, such as tcp://head:8786.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Pack only the i-th of n shares, as i/n: for a job array. The same call without it writes the cohort."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue where a killed run stopped; a cohort that is finished already is a success."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Pack a sample, print time and size for all recordings, write nothing.")
    ] = False,
    verify: Annotated[Path | None, typer.Option(help="Check every checksum of this cohort instead.")] = None,
    json_file: Json = None,
) -> None:
    """Pack a data set into a cohort: leads by name, millivolts, quality and labels in one table, samples beside it."""
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.data.cohort.estimate import estimate
    from leadwise.data.cohort.layout import CohortError
    from leadwise.data.cohort.left_out import LeftOutError
    from leadwise.data.cohort.prepare import finished_ledger, write, write_share

    # check an existing cohort instead
    if verify is not None:
        cohort = Cohort.open(verify, verify=True)
        out.print(f"{verify}: {len(cohort)} recordings, every size and checksum is right", soft_wrap=True)
        result = {"command": "prepare", "cohort": str(verify), "verified": True, "recordings": len(cohort)}
        write_json(json_file, result)
        return

    # the rows of the data set; no recording is opened yet
    if source is None or path is None or target is None:
        raise typer.BadParameter(
            "give SOURCE, PATH and -o OUT, such as: leadwise prepare folder manifest.csv -o cohorts/mine"
        )
    flags = {
        "reports": reports,
        "leads": leads,
        "rate_hz": rate_hz,
        "units": units,
        "root": root,
        "min_likelihood": min_likelihood,
    }
    rows = _read_source(source, path, flags, options or [])
    result = {"command": "prepare", "cohort": str(target), "source": source}

    # print an estimate and stop
    if dry_run:
        if rows.bad_rows:
            out.print(f"{len(rows.bad_rows)} rows cannot be used, such as: {rows.bad_rows[0].reason}", soft_wrap=True)
        sizes = () if rows.n_published is None else (rows.n_published,)  # the folder may contain a part of the data set
        table = estimate(rows, target, min_words).table(workers, sizes)
        print_table(table, f"time and size of {target}")
        write_json(json_file, {**result, "dry_run": True, "estimate": {row["what"]: row["value"] for row in table}})
        return

    # a cohort that is finished already, or an earlier run to continue
    if resume and not overwrite and (target / "cohort.json").is_file():
        finished = finished_ledger(rows, target, min_report_words=min_words)
        if finished is None:
            raise CohortError(
                f"cohort {target} was finished from other rows, options or files; pass --overwrite instead of --resume to "
                "replace it, or choose another folder with -o"
            )
        out.print(f"finished already: {target} has {finished.kept} recordings", soft_wrap=True, highlight=False)
        write_json(json_file, {**result, "finished_already": True, "ledger": vars(finished)})
        return
    if resume and not target.with_name(target.name + ".partial").is_dir():
        console.print(f"nothing to resume at {target}; starting from the beginning", soft_wrap=True)

    # pack one share of the shards, or all of them
    try:
        with progress_bars(rate=True) as progress, _pool(workers, dask) as pool:
            callback = relabel(bars(progress), f"prepare {target.name}")
            if shard is not None:
                n_shards = write_share(
                    rows,
                    target,
                    parse_share(shard),
                    min_report_words=min_words,
                    allow_missing=allow_missing,
                    pool=pool,
                    progress=callback,
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
                    progress=callback,
                )
    except LeftOutError as error:
        _print_reasons(error.file)
        raise

    # report what was written
    if shard is not None:
        write_json(json_file, {**result, "share": shard, "shards": n_shards})
        out.print(
            f"{n_shards} shards of {shard} are packed; when all shares are, run it without --shard", soft_wrap=True
        )
        return
    counts = vars(ledger)
    print_table([{"what": name.replace("_", " "), "count": n} for name, n in counts.items()], f"ledger of {target}")
    _print_reasons(target / "dropped.csv")
    write_json(json_file, {**result, "ledger": counts})


def _print_reasons(file: Path, most: int = 10) -> None:
    """Print why recordings are left out, in groups; nothing if there is none."""
    from leadwise.data.cohort import left_out

    groups = left_out.groups(left_out.read(file))
    if groups:
        rows = [
            {"reason": group.reason.replace("_", " "), "count": group.n, "first": group.record, "detail": group.detail}
            for group in groups[:most]
        ]
        more = f" and {len(groups) - most} more reasons" if len(groups) > most else ""
        print_table(rows, f"recordings left out, by reason{more}; all are in {file}")


def _pool(workers: int, address: str | None) -> AbstractContextManager[WorkerPool | None]:
    """The pool that packs shards: a Dask cluster, processes, or None for this process."""
    if address is None and workers == 1:
        return nullcontext()
    from leadwise.data.cohort import executors as pools

    if address is not None and workers > 1:
        raise typer.BadParameter("give --workers or --dask, not both: a cluster has its own workers")
    return pools.dask(address) if address is not None else pools.processes(workers)


def _read_source(name: str, path: Path, flags: dict[str, str | None], options: list[str]) -> Source:
    """The rows of a data set, with its options from flags such as --rate-hz 500 and words such as rate_hz=500."""
    from leadwise.data.cohort.layout import CohortError
    from leadwise.data.recordings.recording import RecordError
    from leadwise.data.sources import catalogue

    pairs = [(key, value) for key, value in flags.items() if value is not None]
    for word in options:
        key, equals, value = word.partition("=")
        if not equals:
            raise typer.BadParameter(
                f"{word!r} is not key=value; give SOURCE, PATH and options of the data set, such as {_example(name)}"
            )
        pairs.append((key.strip().replace("-", "_"), value))
    try:
        typed = catalogue.parse_options(name, pairs)
    except (CohortError, RecordError) as error:
        raise typer.BadParameter(str(error)) from None
    return catalogue.find_source(name).read_source(path, typed)


def _example(name: str) -> str:
    """An option of a data set, for a message; one of PTB-XL if it has none."""
    from leadwise.data.sources import catalogue

    rows = catalogue.option_rows(name) if name in catalogue.source_names() else []
    return f"{rows[0]['key']}=..." if rows else "min_likelihood=50"


def _option_help(row: dict[str, Any]) -> str:
    """One line of help of a data set's option."""
    default = f" [default: {row['default']}]" if row["default"] else ""
    return f"{row['help']} ({row['values']}){default}"
