"""The commands for prompt files (prompts make, check and show), and for wordings of reports (prompts coverage)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from leadwise.cli.output import (
    Json,
    bars,
    out,
    print_table,
    progress_bars,
    write_json,
)

app = typer.Typer(
    help="Prompt files: print the shipped ones, check your own, or generate one with a language model; wordings of reports.",
    no_args_is_help=True,
)

SourceName = Annotated[str | None, typer.Option(help="Data set: ptbxl, cpsc2018, csn or simulated.")]
OfTask = Annotated[str | None, typer.Option("--task", help="Label set, such as sub; see `leadwise prompts show`.")]


@app.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(help="A prompt file; or pass --source and --task for a shipped one.")
    ] = None,
    source: SourceName = None,
    task: OfTask = None,
    which: Annotated[str | None, typer.Option("--set", help="name, short or rich; default: all.")] = None,
    json_file: Json = None,
) -> None:
    """Print the prompts of a file; without arguments, list the shipped files."""
    from leadwise.evaluate import prompts

    # without arguments: the list of shipped files
    if file is None and source is None and task is None:
        shipped = [prompts.load(path) for path in prompts.shipped()]
        rows = [_summary(loaded) for loaded in shipped]
        print_table(rows, "shipped prompt files; `leadwise prompts show --source ... --task ...` prints one")
        write_json(json_file, {"command": "prompts show", "files": rows})
        return

    # one table for each prompt set
    path = _one_file(file, source, task)
    loaded = prompts.load(path)
    chosen = loaded.sets if which is None else (which,)
    for name in chosen:
        entries = loaded.for_classes(loaded.names, name)
        lines = [
            {"class": code, "name": entry.name, "prompt": text}
            for code, entry in zip(loaded.names, entries)
            for text in entry.prompts
        ]
        print_table(lines, f"{loaded.path.name}, set {name}")
    write_json(
        json_file, {"command": "prompts show", **_summary(loaded), "names": loaded.names, "prompts": loaded.texts}
    )


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Your prompt file.")],
    cohort: Annotated[
        Path | None, typer.Option(help="Also check that its classes are those of this cohort's task.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Check a prompt file: invalid content is an error, text that is not in the style of reports a remark."""
    from leadwise.evaluate import prompts

    loaded = prompts.load(file)
    if cohort is not None:
        from leadwise.data.cohort.cohort import Cohort

        opened = Cohort.open(cohort)
        if loaded.task not in opened.tasks:
            known = ", ".join(opened.tasks) or "none"
            raise prompts.PromptError(f"{file}: cohort {opened.name} has no task '{loaded.task}'; it has {known}")
        loaded.for_classes(opened.tasks[loaded.task])
    remarks = prompts.remarks(loaded)
    print_table([_summary(loaded)], "valid prompt file")
    for remark in remarks:
        out.print(f"remark: {remark}", highlight=False, markup=False)
    write_json(
        json_file, {"command": "prompts check", **_summary(loaded), "made": loaded.generation, "remarks": remarks}
    )


@app.command()
def coverage(
    cohort: Annotated[Path, typer.Argument(help="Folder that `leadwise prepare` wrote.")],
    split: Annotated[str | None, typer.Option(help="Only this split; default: all recordings.")] = None,
    unmatched: Annotated[
        int, typer.Option(min=0, help="Also print so many of the most frequent unmatched statements: report text.")
    ] = 0,
    json_file: Json = None,
) -> None:
    """Print how many statements of a cohort's reports have a known finding, which the setting `rewording` can reword.

    Statements without a finding (data quality, comparisons) and with a negation stay as they are and are not counted in
    the share.
    """
    import numpy as np

    from leadwise.data import wordings
    from leadwise.data.cohort.cohort import Cohort

    opened = Cohort.open(cohort)
    rows = np.arange(len(opened)) if split is None else opened.rows(split=split)
    result = wordings.coverage(statement for report in opened.statements(rows) for statement in report)
    summary = {
        "statements": result.n_statements,
        "distinct": result.distinct,
        "matched": result.n_matched,
        "negated": result.n_negated,
        "without finding": result.n_ignored,
        "unmatched": sum(n for _, n in result.unmatched),
        "share": round(result.share, 4),
    }
    print_table([summary], f"statements of {opened.name}{f', split {split}' if split else ''}")
    print_table([{"finding": name, "occurrences": n} for name, n in result.by_finding.items()], "findings")
    if unmatched:
        rows_unmatched = [{"statement": text, "occurrences": n} for text, n in result.unmatched[:unmatched]]
        print_table(rows_unmatched, "unmatched statements")
    write_json(json_file, {"command": "prompts coverage", "split": split, **summary, "findings": result.by_finding})


@app.command()
def make(
    model: Annotated[str, typer.Option(help="Name of the language model at the endpoint.")],
    target: Annotated[Path, typer.Option("-o", "--out", help="Prompt file to write.")],
    source: SourceName = None,
    task: OfTask = None,
    like: Annotated[
        Path | None, typer.Option(help="Read source, task, classes and names from this file, not from a shipped one.")
    ] = None,
    url: Annotated[
        str, typer.Option(help="Base URL of an OpenAI-compatible API, such as http://localhost:8000/v1.")
    ] = "https://api.openai.com/v1",
    key_env: Annotated[
        str, typer.Option(help="Environment variable with the API key; '' for none.")
    ] = "OPENAI_API_KEY",
    number: Annotated[int, typer.Option("--n", min=1, max=20, help="Prompts for each class.")] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json_file: Json = None,
) -> None:
    """Generate prompts with a language model. The requests contain class names only, never data of a recording.

    The API key is read from an environment variable and not stored. After an interruption, the same command continues.
    """
    from leadwise.evaluate import prompts
    from leadwise.evaluate.prompts.make import Endpoint, generate_prompts

    if target.exists() and not overwrite:
        raise typer.BadParameter(f"{target} exists; pass --overwrite to replace it")
    if target.suffix != ".toml":
        raise typer.BadParameter(f"-o {target}: the name of a prompt file must end in .toml")
    key = (os.environ.get(key_env) or None) if key_env else None
    if key_env and key is None and url.startswith("https://api.openai.com"):
        raise typer.BadParameter(f"environment variable {key_env} is not set; it must hold the key")
    template = prompts.load(_one_file(like, source, task))
    with progress_bars() as progress:
        loaded = generate_prompts(
            target, template.source, template.task, template.names, Endpoint(url, model, key), number, bars(progress)
        )
    print_table([_summary(loaded)], f"generated by {model}; review it before use")
    write_json(json_file, {"command": "prompts make", **_summary(loaded), "made": loaded.generation})


def _one_file(file: Path | None, source: str | None, task: str | None) -> Path:
    """Return the given file, or the shipped one of a source and task."""
    from leadwise.evaluate import prompts

    if file is not None:
        if source is not None or task is not None:
            raise typer.BadParameter("pass either a file, or --source and --task")
        return file
    if source is None or task is None:
        raise typer.BadParameter("pass both --source and --task, such as --source ptbxl --task sub")
    return prompts.find(source, task)


def _summary(loaded: Any) -> dict[str, Any]:
    return {
        "file": loaded.path.name,
        "source": loaded.source,
        "task": loaded.task,
        "classes": len(loaded.names),
        "sets": ", ".join(f"{name} {sum(map(len, loaded.texts[name].values()))}" for name in loaded.sets),
        "sha256": loaded.sha256[:12],
    }
