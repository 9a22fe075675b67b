"""Tables of simulated recordings: one CSV file, a row for each recording."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, str | int | float]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows that all have the columns of the first one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
