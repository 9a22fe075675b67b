"""The ECG files beneath a folder, of every format that `reading` knows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leadwise.data.formats.reading import N_FIRST_BYTES, Format, all_formats, format_by_content
from leadwise.data.messages import first_few

# Files of any content have these suffixes. A file with another suffix of a format is an ECG, or a damaged one.
_COMMON_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".dat", ".rec")


@dataclass(frozen=True)
class EcgFiles:
    """The ECG files of a folder and its other files, each in order of their paths."""

    folder: Path
    paths: tuple[Path, ...]
    others: tuple[Path, ...]

    @property
    def left_out(self) -> str:
        """The files that are no ECGs, by number and name; '' if there are none."""
        names = [path.relative_to(self.folder).as_posix() for path in self.others]
        return f"{len(names)} other files are left out: {first_few(names, 8)}" if names else ""


def beneath(folder: Path) -> EcgFiles:
    """The files in `folder` and its subfolders that hold an ECG by their content, or should by their suffix.

    A file with the suffix of an ECG format and other content counts too: reading it raises the error that says why. A
    file with any other name counts if its content is that of an ECG format, as of DICOM files without suffix. The data
    file of a header is no file of its own. Hidden files and folders, cohorts and unfinished cohorts are left out; links
    to folders are not followed.
    """
    paths: list[Path] = []
    others: list[Path] = []
    for file in _walk(folder):
        counts = is_ecg(file)
        if counts is not None:
            (paths if counts else others).append(file)
    return EcgFiles(folder, tuple(sorted(paths)), tuple(sorted(others)))


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_left_out(Path(place) / name)]
        yield from (Path(place) / name for name in names if not name.startswith("."))


def _is_left_out(folder: Path) -> bool:
    is_unfinished = folder.suffix == ".partial" and (folder / "parts").is_dir()
    return folder.name.startswith(".") or is_unfinished or (folder / "cohort.json").is_file()


def is_ecg(file: Path) -> bool | None:
    """Whether a file describes a recording; None if it is a part of the recording that another file describes."""
    suffix = file.suffix.lower()
    candidates = [known for known in all_formats() if suffix and suffix in known.suffixes]
    if any(known.main(file) != file and known.main(file).is_file() for known in candidates):
        return None
    candidates = [known for known in candidates if known.main(file) == file]
    if candidates and suffix not in _COMMON_SUFFIXES:
        return True

    # the content decides; a text of any name is no ECG
    others = [known for known in all_formats() if known.main_file is None and ".txt" not in known.suffixes]
    return file.is_file() and _matches(file, [*candidates, *others])


def _matches(file: Path, candidates: list[Format]) -> bool:
    try:
        with file.open("rb") as content:
            first_bytes = content.read(N_FIRST_BYTES)
    except OSError:
        return False
    return format_by_content(first_bytes, candidates) is not None
