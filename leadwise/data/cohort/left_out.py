"""Recordings that are left out of a cohort: `dropped.csv` with each of them and its reason, and their reasons in groups."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leadwise.data.cohort.layout import CohortError
from leadwise.data.cohort.shard import Dropped
from leadwise.files import replacing

FILE = "dropped.csv"
VOLUMES_FILE = "volumes_left_out.csv"
"""Phases of heart images that are left out, of recordings that are not; only in a cohort with heart images."""

_PLACE = re.compile(r"^(record .*?|\S.*? row \d+): ")  # what begins a detail and differs between recordings
_VALUE = re.compile(r"'[^']*'|\([^()]*\)|\d+(\.\d+)?")
_NAMES_ONLY = ("missing_file", "copy")  # reasons whose detail only names a file or a recording


class LeftOutError(CohortError):
    """Recordings cannot be used and may not be left out; `file` lists each of them with its reason."""

    def __init__(self, message: str, file: Path) -> None:
        super().__init__(message)
        self.file = file


@dataclass(frozen=True)
class ReasonGroup:
    """Recordings that are left out for the same reason."""

    reason: str  # a field of the ledger
    n: int
    record: str  # the first of them
    detail: str  # of the first, without the name of its file
    message: str  # the detail with the name of its file

    def text(self) -> str:
        """The group for a message: `record a/2.npy: it is empty (and 3 others)`."""
        others = "" if self.n == 1 else f" (and {self.n - 1} other{'s' if self.n > 2 else ''})"
        return f"{self.message}{others}"


def write(path: Path, dropped: Iterable[Dropped]) -> None:
    """Write the recordings and their reasons as CSV."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["record", "reason", "detail"])
        table.writerows((entry.record, entry.reason, entry.detail) for entry in dropped)


def read(path: Path) -> list[Dropped]:
    """The recordings of such a file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Dropped(line["record"], line["reason"], line["detail"]) for line in csv.DictReader(file)]


def groups(dropped: Iterable[Dropped]) -> list[ReasonGroup]:
    """Recordings whose details differ only in names and numbers, as groups; the largest first."""
    members: dict[tuple[str, str], list[Dropped]] = {}
    for entry in dropped:
        kind = "" if entry.reason in _NAMES_ONLY else _VALUE.sub("#", _short(entry))
        members.setdefault((entry.reason, kind), []).append(entry)
    return [
        ReasonGroup(reason, len(entries), entries[0].record, _short(entries[0]), entries[0].detail)
        for (reason, _), entries in sorted(members.items(), key=lambda item: -len(item[1]))
    ]


def _short(entry: Dropped) -> str:
    return _PLACE.sub("", entry.detail)
