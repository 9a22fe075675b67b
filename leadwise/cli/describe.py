"""The command `describe`: Croissant metadata of a cohort."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from leadwise.cli.output import CohortFolder, bars, out, progress_bars
from leadwise.files import replacing


def describe(
    cohort: CohortFolder,
    target: Annotated[Path, typer.Option("-o", "--out", help="File to write, such as croissant.json.")],
    licence: Annotated[str | None, typer.Option(help="Licence, where the source states none.")] = None,
    citation: Annotated[str | None, typer.Option(help="How to cite the data, where the source states none.")] = None,
    url: Annotated[str | None, typer.Option(help="Address of the data, where the source states none.")] = None,
    date: Annotated[
        str | None, typer.Option(help="Date of publication, as 2026-11-27 [the day on which it was prepared].")
    ] = None,
) -> None:
    """Write Croissant JSON-LD: files with checksums, the columns of the index, licence, citation. No report, no patient."""
    import datetime

    from leadwise.data import croissant
    from leadwise.data.cohort.cohort import Cohort

    # check the options before the files are hashed
    if date is not None:
        try:
            datetime.date.fromisoformat(date)
        except ValueError:
            raise typer.BadParameter(f"--date {date}: it must be a date, such as 2026-11-27") from None
    if target.exists() and not _is_croissant(target):
        raise typer.BadParameter(f"{target} exists and is not a file of this command; give another name with -o")
    opened = Cohort.open(cohort)

    # describe the cohort, and name what neither the source nor the options state
    stated = {"licence": licence, "citation": citation, "url": url, "date": date}
    with progress_bars() as progress:
        table = croissant.describe(opened, {key: text for key, text in stated.items() if text}, bars(progress))
    missing = [
        name for name, key in (("--licence", "license"), ("--citation", "citeAs"), ("--url", "url")) if key not in table
    ]
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    n_files, n_fields = len(table["distribution"]), len(table["recordSet"][0]["field"])
    out.print(
        f"{target}: {n_files} files, {n_fields} columns of {len(opened)} recordings", soft_wrap=True, highlight=False
    )
    if missing:
        out.print(
            f"the cohort states no {', '.join(name.removeprefix('--') for name in missing)}; catalogues need them: pass "
            f"{', '.join(missing)}",
            soft_wrap=True,
            highlight=False,
        )


def _is_croissant(path: Path) -> bool:
    """Whether a file contains Croissant metadata."""
    from leadwise.data.croissant import CONFORMS_TO

    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(table, dict) and CONFORMS_TO in str(table.get("conformsTo"))
