"""Read a table of text cells: any common separator and Unicode encoding, as Excel, R and pandas write them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from leadwise.data.cohort.layout import CohortError

SEPARATORS = (",", ";", "\t", "|")
SUFFIXES = (".csv", ".tsv")

_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_HINT = "sep="  # Excel writes the separator into a first line of its own: sep=;


@dataclass(frozen=True)
class TableFile:
    """The content of a table: column names, and the cells of each line with its number in a text editor."""

    header: tuple[str, ...]  # without spaces around the names and without empty columns at the end
    lines: tuple[tuple[int, tuple[str, ...]], ...]  # lines without content are left out
    separator: str


def read(path: Path, needed: str) -> TableFile:
    """The table in a file; `needed` is a column that it must have, which helps to find the separator.

    The separator is a comma, a semicolon, a tab or a vertical bar. The encoding is UTF-8, or UTF-16 with a byte order
    mark. A line may have fewer or more cells than the header; the caller decides.

    Raises:
        CohortError: the file is not text in one of these encodings, or its quotes are wrong.
    """
    text = _decode(path, path.read_bytes())
    first, _, rest = text.partition("\n")
    skipped = 0
    if first.strip().strip('"').lower().startswith(_HINT):
        text, skipped = rest, 1
    separator = _separator(text, needed)
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header = [name.strip() for name in next(table, [])]
        lines = [(table.line_num + skipped, tuple(cells)) for cells in table if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise CohortError(f"{path} is not a CSV table ({error}); save it again") from None
    while header and not header[-1]:
        header.pop()
    return TableFile(tuple(header), tuple(lines), separator)


def header_of(path: Path, needed: str) -> tuple[str, ...]:
    """The cells of the first line; () if the file is not text. Only the beginning of the file is read."""
    with path.open("rb") as file:
        content = file.read(1 << 16)
    try:
        text = content.decode(_encoding(content), errors="ignore")
    except UnicodeError:
        return ()
    first, _, rest = text.partition("\n")
    if first.strip().strip('"').lower().startswith(_HINT):
        first = rest.partition("\n")[0]
    return tuple(cell.strip() for cell in _cells(first, _separator(first, needed)))


def _decode(path: Path, content: bytes) -> str:
    try:
        text = content.decode(_encoding(content))
    except UnicodeError:
        raise CohortError(f"{path} is not text in UTF-8; save it as 'CSV UTF-8'") from None
    if "\0" in text:
        raise CohortError(f"{path} is not text in UTF-8; save it as 'CSV UTF-8'")
    return text


def _encoding(content: bytes) -> str:
    return next((encoding for mark, encoding in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")


def _separator(text: str, needed: str) -> str:
    """The separator whose header has the column `needed`, else the one that gives the most columns."""
    first = text.partition("\n")[0]

    def rank(separator: str) -> tuple[bool, int]:
        names = [name.strip().casefold() for name in _cells(first, separator)]
        return needed in names, len(names)

    return max(SEPARATORS, key=rank)  # the first of equals: a comma


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []
