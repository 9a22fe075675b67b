"""CSV text files of one recording: one column per lead, one row per sample.

The first row may name the leads. The file states neither sampling rate nor unit; the caller gives both.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from leadwise.data.formats.arrays import from_table
from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_size
from leadwise.data.recordings.lead_names import is_lead
from leadwise.data.recordings.recording import RecordError, Recording

SUFFIXES = (".csv",)


def matches(first_bytes: bytes) -> bool:
    """Whether a file begins with a row of two or more numbers or lead names, with commas between."""
    try:
        cells = first_bytes.decode("utf-8-sig", errors="ignore").splitlines()[0].split(",")
    except IndexError:
        return False
    return len(cells) > 1 and (all(map(is_lead, cells)) or all(cell.strip() and _is_number(cell) for cell in cells))


def read(path: Path, given: Given) -> Recording:
    """The recording in a CSV file; an empty cell is a missing sample.

    Raises:
        RecordError: the file is absent, empty or not a table of numbers, or something that it does not state is not
            given.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except OSError as error:
        raise RecordError(f"record {path}: cannot be opened ({error.strerror}); check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"record {path}: not a CSV text in UTF-8 ({error}); save it again") from None
    if not rows:
        raise RecordError(f"record {path}: it is empty; it must have a row of lead names and one row per sample")
    names, rows = _split_header(rows)
    channels = choose_channels(path, names, given)
    table = np.empty((len(rows), len(names)))
    for number, row in enumerate(rows):
        try:
            table[number] = [float(cell) if cell.strip() else math.nan for cell in row]
        except ValueError:
            raise RecordError(
                f"record {path}: sample {number + 1} is not {len(names)} numbers; correct that row"
            ) from None
    check_size(path, *table.shape)
    return from_table(path, table, channels, given)


def _split_header(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The column names, empty where the first row holds none, and the rows that are samples."""
    if any(not _is_number(cell) for cell in rows[0]):
        return rows[0], rows[1:]
    return [""] * len(rows[0]), rows


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True
