"""The command complete: missing leads from those that are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leadwise.cli.ecg_arguments import RateHz, Units, file_inputs, given_of
from leadwise.cli.output import AcceptChanges, Json, bars, out, print_line, print_table, progress_bars, write_json

if TYPE_CHECKING:
    from leadwise.ecg_inputs import Inputs
    from leadwise.synthesis.completion import MapCompleter, RunCompleter

_DEFAULT_LEADS = "II,V1,V5"  # of a cohort
_FEWEST_DRAWS = 10  # the estimate, and 9 draws: fewer have no band of 80 %


def complete(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder of wear_ecg, or of cg_dmer, merit or st_mem with a decoder of all leads; or: linear."
        ),
    ],
    files: Annotated[list[Path], typer.Argument(help="ECG files, folders with ECG files, or one cohort folder.")],
    target: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.")],
    leads: Annotated[
        str | None,
        typer.Option(
            help="Leads that are read, such as II,V1,V5; all others are filled in. [all that a file has; a cohort: II,V1,V5]"
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=1, help="Draws of a run from which the uncertainty band is computed; 1: no band.")
    ] = 21,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    names: Annotated[
        str | None, typer.Option(help="Lead names of files that do not name them, such as I,II,V1.")
    ] = None,
    rate_hz: RateHz = None,
    units: Units = None,
    encoder: Annotated[
        Path | None, typer.Option(help="Cohort: run whose embedding the probe of the labels uses [RUN, unless linear].")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Cohort: labels that the probe scores [its first task].")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Cohort: number of test recordings [all].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist in --out.")] = False,
    accept_changes: AcceptChanges = False,
    json_file: Json = None,
) -> None:
    """Fill in missing leads, for files, or score it on a cohort. Filled-in leads are synthetic: research use only."""
    from leadwise.synthesis.completion import open_completer, parse_leads

    # check the options before anything is loaded
    if 1 < draws < _FEWEST_DRAWS:
        raise typer.BadParameter(
            f"--draws {draws}: the first is the estimate, and a band of 80 % needs 9 more; pass 1, or {_FEWEST_DRAWS} or more"
        )
    given = None if leads is None else parse_leads(leads)
    ecgs = file_inputs(files, given_of(names, rate_hz, units))
    if isinstance(ecgs, Path):
        _score(
            run,
            ecgs,
            target,
            given or parse_leads(_DEFAULT_LEADS),
            encoder,
            task,
            limit,
            overwrite,
            accept_changes,
            json_file,
        )
        return
    for option, value in (("--encoder", encoder), ("--task", task), ("--limit", limit)):
        if value is not None:
            raise typer.BadParameter(f"{option} belongs to a cohort; omit it with ECG files")
    completer = open_completer(run, accept_changes)
    result = _complete_files(completer, ecgs, target, given, draws, seed, overwrite)
    write_json(json_file, {"command": "complete", "run": str(run), **result})


def _complete_files(
    completer: RunCompleter | MapCompleter,
    ecgs: Inputs,
    target: Path,
    given: tuple[str, ...] | None,
    draws: int,
    seed: int,
    overwrite: bool,
) -> dict[str, object]:
    """Complete files and write them; a file that cannot be completed does not stop the others, and ends in an error."""
    from leadwise.data.recordings.recording import RecordError
    from leadwise.synthesis.completion import CompletionError, complete_ecg
    from leadwise.synthesis.written import NOTE, check_free, write_made

    # one after the other
    stems = [_stem(name) for name in ecgs.names]
    check_free(stems, target, overwrite)
    rows, failures = [], []
    with progress_bars() as progress:
        update = bars(progress)
        for number, (entry, stem) in enumerate(zip(ecgs.entries, stems), start=1):
            try:
                completed = complete_ecg(completer, entry.open(), given, draws, seed)
                paths = write_made(replace(completed, name=stem), target, overwrite)
                rows.append({"ecg": entry.name, "record": paths[0].name, "synthetic": ", ".join(completed.synthetic)})
            except (RecordError, CompletionError, OSError) as error:
                failures.append(str(error))
            update("complete", number, len(ecgs))

    # what was written, and what was not
    if rows:
        print_table(rows, f"written to {target}: .hea and .dat, .npz, .png")
        print_line(NOTE)
    if failures:
        listed = "; ".join(failures[:3]) + ("; ..." if len(failures) > 3 else "")
        raise CompletionError(
            f"{len(failures)} of {len(ecgs)} ECGs were not completed: {listed}" if len(ecgs) > 1 else listed
        )
    return {"folder": str(target), "note": NOTE, "ecgs": rows}


def _stem(name: str) -> str:
    """Return the name of an ECG without folder and suffix; an item of a file follows the name of the file."""
    file, _, item = name.partition("#")
    return f"{Path(file).stem}_{item}" if item else Path(file).stem


def _score(
    run: Path,
    cohort: Path,
    target: Path,
    given: tuple[str, ...],
    encoder: Path | None,
    task: str | None,
    limit: int | None,
    overwrite: bool,
    accept_changes: bool,
    json_file: Path | None,
) -> None:
    """Score completed leads on the test split of a cohort, and write the tables to a folder."""
    import json

    from leadwise import hub
    from leadwise.data.cohort.cohort import Cohort
    from leadwise.files import replacing
    from leadwise.synthesis.completion import RunCompleter, open_completer
    from leadwise.synthesis.completion_scores import score_completion

    # load, and complete the test recordings
    scores_file = target / "completion.json"
    if scores_file.exists() and not overwrite:
        raise typer.BadParameter(
            f"-o {target}: {scores_file.name} exists already; pass --overwrite, or choose another folder"
        )
    completer, opened = open_completer(run, accept_changes), Cohort.open(cohort)
    reader = completer.run if isinstance(completer, RunCompleter) else None
    if encoder is not None:
        reader = hub.load(encoder, accept_changes=accept_changes)
    with progress_bars() as progress:
        report = score_completion([completer], opened, given, reader, task, limit, bars(progress))

    # print the tables and write the file
    subject = f"{completer.name} on {report.cohort}, test: {len(report.patients)} recordings from {', '.join(given)}"
    print_table(report.rows(), f"{subject}; mean over {', '.join(report.synthetic)}")
    for name, some in report.subsets.items():
        print_table(report.rows(some), f"recordings with {name}: {int(some.sum())}")
    print_table(report.lead_rows("r"), "Pearson's r by lead")
    if report.utility:
        print_table(
            report.utility_rows(),
            f"AUROC of task {report.task}, probe on {report.encoder}, fitted on true twelve leads",
        )
    for sentence in report.verdicts():
        print_line(sentence)
    if report.n_left_out:
        print_line(f"{report.n_left_out} test recordings without some sample of some lead left out")
    for name, overlap in report.overlaps.items():
        print_line(f"{name}: {overlap.remark}" if overlap.remark else "")
    result = {"run": str(run), **report.to_json()}
    target.mkdir(parents=True, exist_ok=True)
    with replacing(scores_file) as temporary:
        temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    write_json(json_file, result)
    out.print(f"scores written to {scores_file}", highlight=False, soft_wrap=True)
