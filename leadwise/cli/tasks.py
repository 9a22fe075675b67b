"""The command `tasks`: the label sets of the data sets, and the meaning of their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadwise.cli.output import (
    Json,
    out,
    print_table,
    write_json,
)

if TYPE_CHECKING:
    from leadwise.data.tasks import Task


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(help="A task, such as rhythm, or a data set, such as ptbxl: show the classes of its tasks."),
    ] = None,
    json_file: Json = None,
) -> None:
    """List the tasks of all data sets, or the classes of one task or of one data set's tasks, with their meaning."""
    from leadwise.data.sources import catalogue

    # all tasks, without their classes
    every = catalogue.tasks_by_source()
    selected = every if name is None else catalogue.select_tasks(name)
    pairs = [(source, task) for source, tasks in selected.items() for task in tasks]
    if name is None:
        rows = [
            {"source": source, "task": task.name, "classes": len(task.classes), "definition": task.definition}
            for source, task in pairs
        ]
        print_table(rows, "tasks; leadwise tasks NAME lists the classes of one, or of a data set")

    # the classes of the selected tasks
    for source, task in pairs if name is not None else ():
        print_table(_class_rows(task), f"{task.name} of {source}: {len(task.classes)} classes")
        for text in (task.definition, task.remark):
            if text:
                out.print(text, highlight=False, markup=False, soft_wrap=True)

    # a source of many data sets lists them
    datasets = catalogue.list_datasets(name) if name in every else []
    if datasets:
        brief = ("name", "records", "Hz", "licence", "get it from")
        rows = [{key: line[key].removeprefix("https://") for key in brief} for line in datasets]
        print_table(rows, f"data sets of {name}: leadwise prepare {name} PATH name=NAME")

    # a data set may have the name of one of its tasks, or no task of its own
    others = [task.name for task in every.get(name or "", ()) if task not in selected.get(name or "", ())]
    if others:
        out.print(f"the data set {name} has more tasks: {', '.join(others)}", highlight=False, soft_wrap=True)
    if not pairs and not datasets:
        out.print(
            f"the data set {name} has no tasks of its own; a cohort has those of its label columns",
            highlight=False,
            soft_wrap=True,
        )
    result = {"command": "tasks", "tasks": [_to_json(source, task) for source, task in pairs]}
    write_json(json_file, result | ({"datasets": datasets} if datasets else {}))


def _class_rows(task: Task) -> list[dict[str, str]]:
    rows = []
    for code, meaning in task.classes.items():
        snomed = {"SNOMED CT": task.snomed.get(code, "-")} if task.snomed else {}
        rows.append({"class": code, "name": meaning} | snomed)
    return rows


def _to_json(source: str, task: Task) -> dict[str, Any]:
    classes = [
        {"class": code, "name": meaning, "snomed": task.snomed.get(code)} for code, meaning in task.classes.items()
    ]
    return {
        "source": source,
        "task": task.name,
        "definition": task.definition,
        "remark": task.remark,
        "classes": classes,
    }
