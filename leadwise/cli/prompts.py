"""The verbs of prompt files: prompts make, prompts check and prompts show."""

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
    help="Prompt files: look at ours, check your own, or have a language model write one.", no_args_is_help=True
)

SourceName = Annotated[str | None, typer.Option(help="Data set: ptbxl, cpsc2018, csn or simulated.")]
OfTask = Annotated[str | None, typer.Option("--task", help="Label set, such as sub; see `leadwise prompts show`.")]


@app.command()
def show(
    file: Annotated[Path | None, typer.Argument(help="A prompt file; or say --source and --task for ours.")] = None,
    source: SourceName = None,
    task: OfTask = None,
    which: Annotated[str | None, typer.Option("--set", help="name, short or rich; default: all.")] = None,
    json_file: Json = None,
) -> None:
    """Print the prompts of a file, or without arguments the files that we ship."""
    from leadwise.evaluate import prompts

    if file is None and source is None and task is None:
        every = [prompts.load(path) for path in prompts.shipped()]
        rows = [_about(loaded) for loaded in every]
        print_table(rows, "prompt files that we ship; `leadwise prompts show --source ... --task ...` prints one")
        write_json(json_file, {"command": "prompts show", "files": rows})
        return
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
    write_json(json_file, {"command": "prompts show", **_about(loaded), "names": loaded.names, "prompts": loaded.texts})


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Your prompt file.")],
    cohort: Annotated[
        Path | None, typer.Option(help="Also check that its classes are those of this cohort's task.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Check a prompt file: its form (an error), and what in it does not read like a report (a remark)."""
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
    print_table([_about(loaded)], "can be used")
    for remark in remarks:
        out.print(f"look at {remark}", highlight=False, markup=False)
    write_json(json_file, {"command": "prompts check", **_about(loaded), "made": loaded.generation, "remarks": remarks})


@app.command()
def make(
    model: Annotated[str, typer.Option(help="Name of the language model, as the endpoint knows it.")],
    target: Annotated[Path, typer.Option("-o", "--out", help="Prompt file to write.")],
    source: SourceName = None,
    task: OfTask = None,
    like: Annotated[
        Path | None, typer.Option(help="Take source, task, classes and names from this file, not from ours.")
    ] = None,
    url: Annotated[
        str, typer.Option(help="Base of any OpenAI-compatible API, such as http://localhost:8000/v1.")
    ] = "https://api.openai.com/v1",
    key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the key; '' for none.")
    ] = "OPENAI_API_KEY",
    number: Annotated[int, typer.Option("--n", min=1, max=20, help="Prompts for each class.")] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    json_file: Json = None,
) -> None:
    """Have a language model write prompts: it is told label names only, never anything of a record.

    A key stands in an environment variable and is kept nowhere. Stopped half-way, the same command goes on.
    """
    from leadwise.evaluate import prompts
    from leadwise.evaluate.prompts.make import Endpoint
    from leadwise.evaluate.prompts.make import generate_prompts as written

    if target.exists() and not overwrite:
        raise typer.BadParameter(f"{target} is there already; say --overwrite to replace it")
    if target.suffix != ".toml":
        raise typer.BadParameter(f"-o {target}: a prompt file ends in .toml")
    key = (os.environ.get(key_env) or None) if key_env else None
    if key_env and key is None and url.startswith("https://api.openai.com"):
        raise typer.BadParameter(f"environment variable {key_env} is not set; it must hold the key")
    named = prompts.load(_one_file(like, source, task))
    with progress_bars() as progress:
        loaded = written(
            target, named.source, named.task, named.names, Endpoint(url, model, key), number, bars(progress)
        )
    print_table([_about(loaded)], f"written by {model}; look through it before you use it")
    write_json(json_file, {"command": "prompts make", **_about(loaded), "made": loaded.generation})


def _one_file(file: Path | None, source: str | None, task: str | None) -> Path:
    """The file itself, or ours of a source and task."""
    from leadwise.evaluate import prompts

    if file is not None:
        if source is not None or task is not None:
            raise typer.BadParameter("say either a file, or --source and --task")
        return file
    if source is None or task is None:
        raise typer.BadParameter("say both --source and --task, such as --source ptbxl --task sub")
    return prompts.find(source, task)


def _about(loaded: Any) -> dict[str, Any]:
    return {
        "file": loaded.path.name,
        "source": loaded.source,
        "task": loaded.task,
        "classes": len(loaded.names),
        "sets": ", ".join(f"{which} {sum(map(len, loaded.texts[which].values()))}" for which in loaded.sets),
        "sha256": loaded.sha256[:12],
    }
