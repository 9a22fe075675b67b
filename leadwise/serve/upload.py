"""An uploaded file as an ECG. A file of a format that is read from bytes touches no disk; others go through a scratch folder.

An archive (.zip) holds the files of one recording, such as header and samples of a WFDB record.
"""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from leadwise.data.formats import reading, wfdb_header
from leadwise.data.recordings.recording import RecordError
from leadwise.ecg import ECG, read
from leadwise.serve.settings import Limits

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_OPTION = re.compile(r"--[a-z-]+, ([a-z_]+)=")  # how readers name what the caller states: option and argument
_ZIP = b"PK\x03\x04"


class TooLargeError(RecordError):
    """A recording or an archive that exceeds a limit."""


@dataclass(frozen=True)
class UploadFacts:
    """What the user states about a file."""

    name: str = ""  # of the file; only its suffix is used
    rate_hz: float | None = None
    leads: tuple[str, ...] | None = None
    units: str | None = None
    item: str | None = None


def open_upload(content: bytes, facts: UploadFacts, folder: Path, limits: Limits) -> ECG:
    """Return the ECG of an upload. `folder` is an empty scratch folder.

    Raises:
        RecordError: the content cannot be read as an ECG, or is too large.
    """
    if not content:
        raise RecordError("the file is empty (0 bytes); copy it or export it again")
    suffix = PurePosixPath(facts.name).suffix.lower()
    if suffix == ".zip" and content.startswith(_ZIP):
        return _checked(_read_archive(_unpack(content, limits), facts, folder), limits)
    return _checked(_read_one(content, suffix, facts, folder), limits)


def open_pair(content: bytes, facts: UploadFacts, folder: Path, limits: Limits) -> tuple[ECG, ECG]:
    """Return the two ECGs of an archive with the files 1/NAME and 2/NAME.

    Raises:
        RecordError: as `open_upload`, or the archive does not hold such files.
    """
    if not content.startswith(_ZIP):
        raise RecordError("two ECGs are compared as a .zip with the files 1/NAME and 2/NAME; this is no .zip")
    files = _unpack(content, limits)
    opened = []
    for side, name in (("1", "first"), ("2", "second")):
        own = {path: data for path, data in files.items() if path.split("/")[0] == side}
        if not own:
            raise RecordError(f"the .zip has no file {side}/NAME; it must hold the files 1/NAME and 2/NAME")
        own_folder = folder / name
        own_folder.mkdir()
        opened.append(_checked(_read_archive(own, facts, own_folder), limits))
    return opened[0], opened[1]


def _read_one(content: bytes, suffix: str, facts: UploadFacts, folder: Path) -> ECG:
    """Return the ECG of a single file, whose format its content decides, and its suffix where several formats match."""
    first_bytes = content[: reading.N_FIRST_BYTES]
    formats = reading.all_formats()
    by_content = reading.format_by_content(first_bytes, formats)
    by_suffix = reading.format_by_content(first_bytes, [known for known in formats if suffix in known.suffixes])
    chosen = by_suffix or by_content
    if chosen is not None and chosen.decode is not None and chosen == by_content:
        return _read_source(content, facts)
    if chosen is not None and chosen.main_file is not None:
        raise RecordError("this is the header of a recording of several files; drop its files together, or as one .zip")
    path = folder / f"upload{suffix if _SUFFIX.fullmatch(suffix) else ''}"
    path.write_bytes(content)
    return _read_source(path, facts)


def _read_archive(files: dict[str, bytes], facts: UploadFacts, folder: Path) -> ECG:
    """Return the ECG of the files of an archive: a header with its samples, or a single file."""
    if len(files) == 1:
        ((name, content),) = files.items()
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".zip":
            raise RecordError("the .zip holds another .zip; unpack it first")
        return _read_one(content, suffix, facts, folder)
    headers = [name for name in files if name.lower().endswith(".hea")]
    if not headers:
        raise RecordError(f"the .zip holds {len(files)} files and no header (.hea); drop one recording at a time")
    main = headers if len(headers) == 1 else [name for name in headers if _has_segments(files[name])]
    if len(main) != 1:
        raise RecordError(f"the .zip holds {len(headers)} recordings; drop one at a time")
    names = [PurePosixPath(name).name for name in files]
    if len(set(names)) < len(names):
        raise RecordError("two files of the .zip have the same name; drop one recording at a time")
    for name, content in zip(names, files.values()):
        (folder / name).write_bytes(content)
    return _read_source(folder / PurePosixPath(main[0]).name, facts)


def _has_segments(header: bytes) -> bool:
    try:
        return bool(wfdb_header.parse(header).segments)
    except wfdb_header.HeaderError:
        return False


def _read_source(source: bytes | Path, facts: UploadFacts) -> ECG:
    return read(source, leads=facts.leads, rate_hz=facts.rate_hz, units=facts.units, item=facts.item)


def _unpack(content: bytes, limits: Limits) -> dict[str, bytes]:
    """Return the files of an archive by name, without folders, hidden files and those of macOS.

    Raises:
        RecordError: it is damaged, encrypted, empty or too large.
    """
    files: dict[str, bytes] = {}
    left = limits.unpacked_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_hidden(entry.filename)]
            if len(entries) > limits.archive_files:
                raise TooLargeError(f"the .zip holds {len(entries)} files; at most {limits.archive_files} are read")
            for entry in entries:
                if entry.flag_bits & 1:
                    raise RecordError("the .zip is encrypted; pack it without a password")
                with archive.open(entry) as file:
                    data = file.read(left + 1)
                left -= len(data)
                if left < 0:
                    raise TooLargeError(
                        f"the files of the .zip have more than {limits.unpacked_bytes / 1e6:g} MB; drop one recording at a time"
                    )
                files[entry.filename] = data
    except RecordError:
        raise
    except Exception as error:  # zipfile raises many kinds on damaged bytes
        raise RecordError(f"the .zip is damaged ({type(error).__name__}); pack it again") from None
    if not files:
        raise RecordError("the .zip holds no file; pack it again")
    return files


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _checked(ecg: ECG, limits: Limits) -> ECG:
    """Return the ECG with its leads found.

    Raises:
        RecordError: it has none of the twelve leads, too few samples or too many.
    """
    recording = ecg.recording
    n_samples = len(recording.signal if recording.digital is None else recording.digital.samples)
    if n_samples > limits.samples:
        raise TooLargeError(
            f"the recording has {n_samples:,} samples per lead; at most {limits.samples:,} are read here: cut it, or use "
            "leadwise predict"
        )
    duration_s = n_samples / recording.rate_hz
    if duration_s < limits.shortest_s:
        raise RecordError(
            f"the recording lasts {duration_s:.3g} s ({n_samples:,} sample{'' if n_samples == 1 else 's'} at "
            f"{recording.rate_hz:g} Hz); at least {limits.shortest_s:g} s is needed: export all of it, or correct the sampling "
            "rate"
        )
    _ = ecg.twelve
    return ecg


def message(error: BaseException, folder: Path) -> str:
    """Return the text of an error without paths and without the placeholder for the name of the upload.

    Facts that the file does not state have the names of the API.
    """
    text = " ".join(str(error).split()).replace(f"{folder}/", "").replace(str(folder), "the file")
    text = re.sub(r"/proc/self/fd/\d+", "the file", text)
    text = re.sub(r"^record [^:]{0,300}: ", "", text)
    text = _OPTION.sub(r"\1", text)
    return text[:500] or "the file cannot be read; export it again"
