"""Result tables as files for other programs: CSV, and a LaTeX tabular for a paper.

A table is a list of rows, each a dict with the same columns, as reports give them. In LaTeX a score's interval stands in
the score's own cell: `low` and `high` are that of the first of SCORED in the row, `NAME_low` and `NAME_high` that of NAME.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leadwise.files import replacing

Rows = Sequence[Mapping[str, Any]]

SCORED = ("macro", "auroc", "trained", "difference")  # the columns that may have an interval
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


class ExportError(ValueError):
    """A table that cannot be written; the message names the file or column."""


def to_csv(rows: Rows) -> str:
    """CSV with a header; numbers in full precision, nothing where there is no value.

    Raises:
        ExportError: no rows.
    """
    names = _columns(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_latex(
    rows: Rows,
    best: Mapping[str, bool] | None = None,
    within: str | None = None,
    across: Sequence[str] = (),
    hidden: Sequence[str] = (),
    decimals: int = 3,
) -> str:
    """A tabular of the booktabs package; a score's interval stands small beside it, a missing value is a dash.

    Args:
        best: columns whose best cell is bold, True where higher is better; all that look alike to `decimals` are.
        within: a column that parts the table: the best is sought among rows that share its value, a rule between.
        across: columns of which the highest cell on each line is bold.
        hidden: columns to leave out.

    Raises:
        ExportError: no rows, or a named column is not there.
    """
    named = _columns(rows)
    unknown = [name for name in (*(best or {}), *across, *([within] if within else [])) if name not in named]
    if unknown:
        raise ExportError(f"the table has no column '{unknown[0]}'; it has {', '.join(named)}")
    ends = ("low", "high", *(f"{name}_{end}" for name in SCORED for end in ("low", "high")))
    names = [name for name in named if name not in (*hidden, *ends)]
    bold = _best(rows, best or {}, within, decimals) | _highest(rows, across, decimals)
    sides = "".join("r" if all(_is_number(row.get(name)) for row in rows) else "l" for name in names)
    lines = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", " & ".join(escape(name) for name in names) + r" \\"]
    lines.append(r"\midrule")
    for at, row in enumerate(rows):
        if within and at and row.get(within) != rows[at - 1].get(within):
            lines.append(r"\midrule")
        lines.append(" & ".join(_cell(row, name, (at, name) in bold, decimals) for name in names) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def write(path: Path, text: str) -> None:
    """Write a table's text whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def escape(text: str) -> str:
    """Text as LaTeX shows it: every character that means something to TeX made plain."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _columns(rows: Rows) -> list[str]:
    if not rows:
        raise ExportError("the table has no rows, so there is nothing to write")
    return list(dict.fromkeys(name for row in rows for name in row))


def _best(rows: Rows, best: Mapping[str, bool], within: str | None, decimals: int) -> set[tuple[int, str]]:
    """(row, column) of the best cells, a part of the table at a time; a part of one row has none."""
    found = set()
    for part in dict.fromkeys(row.get(within) if within else None for row in rows):
        members = [at for at, row in enumerate(rows) if not within or row.get(within) == part]
        for name, higher in best.items():
            shown = {at: round(float(rows[at][name]), decimals) for at in members if rows[at].get(name) is not None}
            if len(shown) > 1:
                top = max(shown.values()) if higher else min(shown.values())
                found |= {(at, name) for at, value in shown.items() if value == top}
    return found


def _highest(rows: Rows, across: Sequence[str], decimals: int) -> set[tuple[int, str]]:
    """(row, column) of the highest of some columns, line by line."""
    found = set()
    for at, row in enumerate(rows):
        shown = {name: round(float(row[name]), decimals) for name in across if row.get(name) is not None}
        found |= {(at, name) for name, value in shown.items() if value == max(shown.values())}
    return found


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _cell(row: Mapping[str, Any], name: str, bold: bool, decimals: int) -> str:
    value = row.get(name)
    if value is None:
        return "--"
    if not isinstance(value, float):
        return escape(str(value))
    if name in ("fraction", "p", "p_holm"):
        text = f"{value:.2g}"
    else:
        text = f"{value:.{decimals}f}"
    text = text.replace("-", r"$-$")
    if bold:
        text = rf"\textbf{{{text}}}"
    ends = _interval(row, name)
    if ends:
        low, high = (f"{end:.{decimals}f}".replace("-", r"$-$") for end in ends)
        text += rf" {{\footnotesize [{low}, {high}]}}"
    return text


def _interval(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The interval of one column of a row; never that of another column."""
    if name not in SCORED:
        return None
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None and name == next(scored for scored in SCORED if scored in row):
        low, high = row.get("low"), row.get("high")
    return None if low is None or high is None else (low, high)


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as a Markdown table; columns that stay empty are left out."""
    heads = [
        name
        for name in dict.fromkeys(k for line in lines for k in line)
        if any(line.get(name, "") != "" for line in lines)
    ]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    rows += ["| " + " | ".join(str(line.get(name, "")).replace("|", "/") for name in heads) + " |" for line in lines]
    return "\n".join(rows)
