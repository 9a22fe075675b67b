"""The verb that says which tasks there are, and what their classes mean."""

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
    task: Annotated[str | None, typer.Argument(help="Show the classes of this task, such as csn.")] = None,
    json_file: Json = None,
) -> None:
    """List the tasks that data sets are labelled for, or one task's classes with what they mean."""
    from leadwise.data import tasks

    chosen = tasks.TASKS if task is None else (tasks.find(task),)
    if task is None:
        rows = [
            {"source": one.source, "task": one.name, "classes": len(one.classes), "definition": one.definition}
            for one in chosen
        ]
        print_table(rows, "tasks; leadwise tasks TASK lists its classes")
    for one in chosen if task is not None else ():
        print_table(_classes(one), f"{one.name} of {one.source}: {len(one.classes)} classes")
        for text in (one.definition, one.remark):
            if text:
                out.print(text, highlight=False, markup=False, soft_wrap=True)
    write_json(json_file, {"command": "tasks", "tasks": [_told(one) for one in chosen]})


def _classes(one: Task) -> list[dict[str, str]]:
    rows = []
    for code, name in one.classes.items():
        rows.append({"class": code, "name": name} | ({"SNOMED CT": one.snomed.get(code, "-")} if one.snomed else {}))
    return rows


def _told(one: Task) -> dict[str, Any]:
    classes = [{"class": code, "name": name, "snomed": one.snomed.get(code)} for code, name in one.classes.items()]
    return {
        "source": one.source,
        "task": one.name,
        "definition": one.definition,
        "remark": one.remark,
        "classes": classes,
    }
