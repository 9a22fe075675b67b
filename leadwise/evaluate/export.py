"""Result tables as files: CSV for other programs, and a LaTeX tabular for a paper.

A table is a list of rows, each a dict with the same columns, as the reports return them. In LaTeX the interval of a score is
in the cell of the score: `low` and `high` belong to the first of SCORED in the row, `NAME_low` and `NAME_high` to NAME.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leadwise.files import replacing

Rows = Sequence[Mapping[str, Any]]

SCORED = ("macro", "auroc", "r2", "trained", "difference")  # the columns that may have an interval
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
    """Return CSV with a header; numbers in full precision, empty cells for missing values.

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
    """Return a tabular for the booktabs package, with intervals in small print and dashes for missing values.

    Args:
        best: columns whose best cell is bold, True if higher is better; cells that are equal to `decimals` are all bold.
        within: a column that divides the table: the best cell is bold in each group of equal values, with a rule between.
        across: columns of which the highest cell in each row is bold.
        hidden: columns to omit.

    Raises:
        ExportError: no rows, or a named column does not exist.
    """
    # the columns to print; those of interval ends are merged into the cells of their scores
    columns = _columns(rows)
    unknown = [name for name in (*(best or {}), *across, *([within] if within else [])) if name not in columns]
    if unknown:
        raise ExportError(f"the table has no column '{unknown[0]}'; it has {', '.join(columns)}")
    ends = ("low", "high", *(f"{name}_{end}" for name in SCORED for end in ("low", "high")))
    names = [name for name in columns if name not in (*hidden, *ends)]

    # header, then the rows with a rule between groups
    bold = _best(rows, best or {}, within, decimals) | _highest(rows, across, decimals)
    alignment = "".join("r" if all(_is_number(row.get(name)) for row in rows) else "l" for name in names)
    lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", " & ".join(escape(name) for name in names) + r" \\"]
    lines.append(r"\midrule")
    for i, row in enumerate(rows):
        if within and i and row.get(within) != rows[i - 1].get(within):
            lines.append(r"\midrule")
        lines.append(" & ".join(_cell(row, name, (i, name) in bold, decimals) for name in names) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def write(path: Path, text: str) -> None:
    """Write the text of a table atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def escape(text: str) -> str:
    """Return text with every special character of TeX escaped."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _columns(rows: Rows) -> list[str]:
    if not rows:
        raise ExportError("the table has no rows, so there is nothing to write")
    return list(dict.fromkeys(name for row in rows for name in row))


def _best(rows: Rows, best: Mapping[str, bool], within: str | None, decimals: int) -> set[tuple[int, str]]:
    """Return (row, column) of the best cells of each group of rows; a group of one row has none."""
    cells = set()
    for group in dict.fromkeys(row.get(within) if within else None for row in rows):
        members = [i for i, row in enumerate(rows) if not within or row.get(within) == group]
        for name, higher in best.items():
            rounded = {i: round(float(rows[i][name]), decimals) for i in members if rows[i].get(name) is not None}
            if len(rounded) > 1:
                top = max(rounded.values()) if higher else min(rounded.values())
                cells |= {(i, name) for i, value in rounded.items() if value == top}
    return cells


def _highest(rows: Rows, across: Sequence[str], decimals: int) -> set[tuple[int, str]]:
    """Return (row, column) of the highest of some columns, in each row."""
    cells = set()
    for i, row in enumerate(rows):
        rounded = {name: round(float(row[name]), decimals) for name in across if row.get(name) is not None}
        cells |= {(i, name) for name, value in rounded.items() if value == max(rounded.values())}
    return cells


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
    """Return the interval of one column of a row, if it has one; never that of another column."""
    if name not in SCORED:
        return None
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None and name == next(scored for scored in SCORED if scored in row):
        low, high = row.get("low"), row.get("high")
    return None if low is None or high is None else (low, high)


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the lines as a Markdown table without empty columns."""
    heads = [
        name
        for name in dict.fromkeys(k for line in lines for k in line)
        if any(line.get(name, "") != "" for line in lines)
    ]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    rows += ["| " + " | ".join(str(line.get(name, "")).replace("|", "/") for name in heads) + " |" for line in lines]
    return "\n".join(rows)
