"""Read an ECG file of any format: file or bytes -> Recording, in mV, with the standard names of its leads."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from leadwise.data import formats
from leadwise.data.formats.given import Given, check_lead_names
from leadwise.data.formats.rate_doubt import with_rate_doubt
from leadwise.data.recordings.recording import RecordError, Recording

N_FIRST_BYTES = 16384  # of a file, given to `matches`; an XML file may begin with a long comment
_MAX_BYTES = 1 << 30  # of a file that is read whole
_APPLE_DOUBLE = b"\x00\x05\x16\x07"  # begins the files "._NAME" that macOS writes on other file systems
_FROM_BYTES = Path("bytes")  # names a recording in messages that was not read from a file


@dataclass(frozen=True)
class Format:
    """A file format: a module of `data/formats` that defines SUFFIXES."""

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read_file: Callable[[Path, Given], Recording] | None  # None: the file is read whole and decoded
    decode: Callable[[bytes, Path, Given], Recording] | None  # None: its recordings cannot be read from bytes
    items: Callable[[Path], tuple[str, ...]] | None  # None: a file holds one recording
    main_file: Callable[[Path], Path] | None  # None: a recording is one file
    files: Callable[[Path], tuple[Path, ...]] | None

    def main(self, path: Path) -> Path:
        """The file that describes the recording at `path`."""
        return path if self.main_file is None else self.main_file(path)

    def read(self, path: Path, given: Given) -> Recording:
        """The recording in a file."""
        if self.read_file is not None:
            return self.read_file(path, given)
        content = _content(path)
        return replace(self.read_bytes(content, path, given), files=(path,))

    def read_bytes(self, content: bytes, path: Path, given: Given) -> Recording:
        """The recording in a file's content; `path` names it in messages."""
        if self.decode is None:
            raise RecordError(
                f"record {path}: a recording in the format {self.name} cannot be read from bytes; pass its path"
            )
        recording = self.decode(content, path, given)
        return recording if recording.contents else replace(recording, contents=(content,))


def read(
    source: Path | str | bytes,
    *,
    leads: Sequence[str] | None = None,
    rate_hz: float | None = None,
    units: str | None = None,
    item: str | int | None = None,
) -> Recording:
    """The recording in a file, or in the content of one; signal (T0, L0) in mV.

    Args:
        source: a path, or bytes. A WFDB record may be named by its header or without suffix.
        leads: one name per channel, "-" for a channel that is not used; replaces the names in the file.
        rate_hz, units: used where the file states neither.
        item: which recording, in a file that holds several (see `items`).

    Raises:
        RecordError: the file is absent, damaged or of an unknown format, or something that it does not state is not
            given.
    """
    path = _FROM_BYTES if isinstance(source, bytes) else Path(source)
    check_lead_names(leads, f"record {path}")
    given = Given(None if leads is None else tuple(leads), rate_hz, units, None if item is None else str(item))
    if isinstance(source, bytes):
        file_format = format_by_content(source[:N_FIRST_BYTES], all_formats())
    else:
        file_format = _format_on_disk(path)
    if file_format is None:
        is_there = isinstance(source, bytes) or path.is_file()
        reason = "its format is not known" if is_there else "no such file; check the path"
        raise RecordError(f"record {path}: {reason}; formats that can be read: {_readable()}")
    if item is not None and file_format.items is None:
        raise RecordError(f"record {path}: a file of the format {file_format.name} holds one recording; leave out item")

    # a library that a format needs may not be installed
    try:
        recording = (
            file_format.read_bytes(source, path, given) if isinstance(source, bytes) else file_format.read(path, given)
        )
    except ModuleNotFoundError as error:
        raise RecordError(
            f"record {path}: reading the format {file_format.name} needs the package {error.name!r}; "
            "install it with: pip install 'leadwise[formats]'"
        ) from None
    except OSError as error:
        raise _cannot_open(path, error) from None
    if recording.given is not None and np.isinf(recording.given).any():
        lead = recording.leads[int(np.isinf(recording.given).any(axis=0).argmax())]
        raise RecordError(
            f"record {path}: lead {lead!r} has infinite samples; correct its scale, or write nan where none is"
        )
    recording = with_rate_doubt(recording)
    return recording if recording.format else replace(recording, format=file_format.name)


def items(path: Path | str) -> tuple[str, ...]:
    """The names of the recordings in a file that holds several, for `read(path, item=...)`; () for any other file."""
    file_format = _format_on_disk(Path(path))
    return () if file_format is None or file_format.items is None else file_format.items(Path(path))


def files(path: Path) -> tuple[Path, ...]:
    """Every file that `read(path)` opens, the one that describes the recording first.

    A header that cannot be parsed is returned alone; `read` raises the error.
    """
    path = Path(path)
    file_format = _format_of(path)
    return (path,) if file_format is None or file_format.files is None else file_format.files(path)


def missing_file(path: Path) -> Path | None:
    """The file that describes the recording at `path`, if it does not exist; None if it does.

    For each path of a large data set: one access to the disk where the file exists.
    """
    for candidate in _candidates(path):
        if os.path.isfile(candidate.main(path)):  # noqa: PTH113  # called 800,000 times
            return None
    file_format = _format_of(path)
    main = path if file_format is None else file_format.main(path)
    return None if main.is_file() else main


def possible_files(path: Path) -> tuple[Path, ...]:
    """The files that may describe the recording at `path`; the disk is not accessed."""
    return tuple(dict.fromkeys((path, *(candidate.main(path) for candidate in _candidates(path)))))


def suffixes() -> tuple[str, ...]:
    """The suffixes of all formats, in lower case with their dot."""
    return tuple(suffix for suffix in _by_suffix(tuple(formats.__path__)) if suffix)


def part_suffixes() -> frozenset[str]:
    """Suffixes of recordings that consist of several files: `a1.hea` and `a1.dat` are parts of one recording."""
    return _part_suffixes(tuple(formats.__path__))


def all_formats() -> tuple[Format, ...]:
    """Every format, by name."""
    return _load_formats(tuple(formats.__path__))


def _format_of(path: Path) -> Format | None:
    """The format of a file, by its suffix, then by its content; None if it is not known."""
    candidates = _candidates(path)
    if len(candidates) == 1 and candidates[0].main(path) == path:  # nothing to decide: the disk is not accessed
        return candidates[0]

    # a header beside the file decides: a .mat with a .hea is a WFDB record
    for candidate in candidates:
        main = candidate.main(path)
        if candidate.main_file is not None and os.path.isfile(main):  # noqa: PTH113  # called for every recording
            return candidate

    # else the content decides: among the formats of the suffix, then among all
    of_suffix = [candidate for candidate in candidates if candidate.main(path) == path]
    if len(of_suffix) == 1:
        return of_suffix[0]
    if path.is_file():
        try:
            with path.open("rb") as file:
                first_bytes = file.read(N_FIRST_BYTES)
        except OSError:
            first_bytes = b""  # `read` raises the error
        known = format_by_content(first_bytes, of_suffix) or format_by_content(first_bytes, all_formats())
        if known is not None:
            return known

    # nothing decides: `read` of a format that has this suffix raises the error
    is_known = path.suffix.lower() in _by_suffix(tuple(formats.__path__))
    if not is_known or (path.suffix == "" and path.is_file()):
        return None
    named = (candidate for candidate in candidates if f".{candidate.name}" == path.suffix.lower())
    return next(named, candidates[0])


def _format_on_disk(path: Path) -> Format | None:
    """The format of a file that is about to be read: that of its suffix, unless its content is of another format.

    Raises:
        RecordError: the path is a folder, or its file cannot be opened, is empty or was written by macOS beside another one.
    """
    file_format = _format_of(path)
    if file_format is not None and file_format.main_file is not None and file_format.main(path).is_file():
        return file_format
    if path.is_dir():
        raise RecordError(f"record {path}: it is a folder; name a file in it")
    if not path.is_file():
        return file_format
    try:
        with path.open("rb") as file:
            first_bytes = file.read(N_FIRST_BYTES)
    except OSError as error:
        raise _cannot_open(path, error) from None
    if not first_bytes:
        raise RecordError(f"record {path}: it is empty (0 bytes); copy it or export it again")
    if first_bytes.startswith(_APPLE_DOUBLE):
        raise RecordError(
            f"record {path}: it holds macOS's notes on another file (names that begin with ._) and no ECG; leave it out"
        )
    if file_format is not None and file_format.main_file is None and file_format.matches(first_bytes):
        return file_format
    others = [known for known in all_formats() if known.main_file is None]
    return format_by_content(first_bytes, others) or file_format


def format_by_content(first_bytes: bytes, candidates: Sequence[Format]) -> Format | None:
    """The first of the formats that a file with these first bytes has; None if it has none of them."""
    return next((known for known in candidates if known.matches(first_bytes)), None)


def _content(path: Path) -> bytes:
    """All bytes of a file that is not implausibly large."""
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise RecordError(
                f"record {path}: it has {size / 1e9:.1f} GB, more than any file of one ECG ({_MAX_BYTES / 1e9:.1f} GB); check "
                "the path"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise RecordError(f"record {path}: no such file; check the path") from None
    except OSError as error:
        raise _cannot_open(path, error) from None


def _cannot_open(path: Path, error: OSError) -> RecordError:
    return RecordError(f"record {path}: cannot be opened ({error.strerror or error}); check its permissions")


def _candidates(path: Path) -> tuple[Format, ...]:
    """The formats of a path's suffix; those of a name without suffix where the suffix is not known ("a.1" is such a name)."""
    by_suffix = _by_suffix(tuple(formats.__path__))
    return by_suffix.get(path.suffix.lower()) or by_suffix.get("", ())


def _readable() -> str:
    """The formats and their suffixes, for a message."""
    texts = []
    for known in all_formats():
        named = [suffix for suffix in known.suffixes if suffix] + ["a name without suffix"] * ("" in known.suffixes)
        texts.append(f"{known.name} ({', '.join(named)})")
    return ", ".join(texts)


# `formats.__path__` is the key of these: a folder that is added to it is searched once.


@lru_cache(maxsize=8)
def _by_suffix(folders: tuple[str, ...]) -> dict[str, tuple[Format, ...]]:
    """Suffix -> the formats that have it."""
    table: dict[str, tuple[Format, ...]] = {}
    for known in _load_formats(folders):
        for suffix in known.suffixes:
            table[suffix] = (*table.get(suffix, ()), known)
    return table


@lru_cache(maxsize=8)
def _part_suffixes(folders: tuple[str, ...]) -> frozenset[str]:
    several_files = (known for known in _load_formats(folders) if known.main_file is not None)
    return frozenset(suffix for known in several_files for suffix in known.suffixes if suffix)


@lru_cache(maxsize=8)
def _load_formats(folders: tuple[str, ...]) -> tuple[Format, ...]:
    """Every module in these folders that defines SUFFIXES, by name."""
    loaded = []
    for name in sorted(module.name for module in pkgutil.iter_modules(folders)):
        module = importlib.import_module(f"{formats.__name__}.{name}")
        if hasattr(module, "SUFFIXES"):
            optional = (getattr(module, member, None) for member in ("read", "decode", "items", "main_file", "files"))
            loaded.append(Format(name, module.SUFFIXES, module.matches, *optional))
    return tuple(loaded)
