"""WFDB records: a header `.hea` and the data files that it names, or a `.mat` behind such a header.

Plain format 16 is read by numpy alone (`wfdb_format16`), all other storage formats by the library `wfdb`.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leadwise.data.formats import wfdb_format16, wfdb_header
from leadwise.data.formats.given import Given, check_size, checked_rate, mv_per_unit, standard_names
from leadwise.data.recordings.recording import MISSING, Digital, RecordError, Recording

SUFFIXES = ("", ".hea", ".dat", ".mat")  # of a record "a1": the name a1, a1.hea, a1.dat, a1.mat

_INVALID = {"80": -(2**7), "212": -(2**11), "24": -(2**23), "32": -(2**31)}  # reserved by WFDB; else MISSING


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a WFDB header."""
    try:
        wfdb_header.parse(first_bytes)
    except wfdb_header.HeaderError:
        return False
    return True


def main_file(path: Path) -> Path:
    """The header of a record: `a1.hea` for `a1`, `a1.hea`, `a1.dat` and `a1.mat`."""
    if path.suffix.lower() in SUFFIXES[1:]:
        return path.with_suffix(".hea")
    return path.with_name(path.name + ".hea")


def files(path: Path) -> tuple[Path, ...]:
    """The header and the data files that it names; the header alone where it cannot be parsed (`read` raises then)."""
    header_path = main_file(path)
    try:
        header = wfdb_header.parse(header_path.read_bytes())
    except (wfdb_header.HeaderError, OSError):
        return (header_path,)
    return (header_path, *(header_path.parent / file for file in header.files))


def read(path: Path, given: Given) -> Recording:
    """The recording in a WFDB record. What its header states takes precedence over `given`.

    Raises:
        RecordError: a file is absent or damaged, the checksum of a lead differs, or something that the header does not
            state is not given.
    """
    path = main_file(path)

    # the header decides everything but the samples; check it before a data file is opened
    header, raw_header = _read_header(path)
    rate_hz = checked_rate(path, header.rate_hz if header.rate_hz is not None else given.rate_hz)
    check_size(path, header.n_samples, len(header.signals))
    data_files = tuple(path.parent / file for file in header.files)
    for data_file in data_files:
        _check_data_file(path, data_file, header)
    names = tuple(line.name for line in header.signals)
    if not all(names):
        names = _given_names(path, given, len(names))
    scale = _uv_per_steps(path, header.signals, given.units)

    # samples as integers (T0, L0): by numpy where that is enough, else by the library
    contents: tuple[bytes, ...] = ()
    try:
        if wfdb_format16.is_plain(header):
            contents = (raw_header, data_files[0].read_bytes())
            samples, baseline = wfdb_format16.samples(contents[1], header), wfdb_format16.baseline(header)
        else:
            samples, baseline = _read_by_library(path)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise RecordError(f"record {path}: cannot be read ({error}); restore it from its source") from error
    check_size(path, len(samples), samples.shape[1])
    _check_checksums(path, header, names, samples)

    # int16 where the format fits, else millivolts; the reserved value of each format becomes "missing"
    read_from, leads = (path, *data_files), standard_names(names)
    if samples.dtype == np.int16:  # format 16: its reserved value is MISSING itself
        return Recording(path.stem, None, leads, rate_hz, Digital(samples, scale, baseline), read_from, contents)
    invalid = samples == np.array([_INVALID.get(line.format, MISSING) for line in header.signals])
    if all(line.format in ("16", "80", "160", "212") for line in header.signals):
        digital = Digital(np.where(invalid, MISSING, samples).astype(np.int16), scale, baseline)
        return Recording(path.stem, None, leads, rate_hz, digital, read_from)
    signal = (samples - baseline) * (scale / 1000.0)  # wider formats do not fit int16
    signal[invalid] = np.nan
    return Recording(path.stem, signal, leads, rate_hz, None, read_from)


def _read_header(path: Path) -> tuple[wfdb_header.Header, bytes]:
    try:
        raw = path.read_bytes()
    except OSError:
        if path.is_file():
            raise
        raise RecordError(
            f"record {path}: no such file; give the .hea file (its suffix in lower case) or its name without suffix"
        ) from None
    try:
        return wfdb_header.parse(raw), raw
    except wfdb_header.HeaderError as error:
        raise RecordError(f"record {path}: {error}; restore the header from its source") from None


def _read_by_library(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The samples (T0, L0) int64 and baselines (L0,) of a record in any storage format."""
    import wfdb

    record = wfdb.rdrecord(str(path.with_suffix("")), physical=False)
    return record.d_signal, np.asarray(record.baseline, dtype=np.int32)


def _check_data_file(path: Path, data_file: Path, header: wfdb_header.Header) -> None:
    try:
        status = data_file.stat()
    except (OSError, ValueError):
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise RecordError(f"record {path}: its data file {data_file.name} is missing; put it beside the header")
    needed = header.n_bytes(data_file.name)
    if needed is not None and status.st_size < needed:
        raise RecordError(
            f"record {path}: {data_file.name} is truncated: {status.st_size} bytes where its header promises {needed}; "
            "download it again"
        )


def _check_checksums(path: Path, header: wfdb_header.Header, names: Sequence[str], samples: np.ndarray) -> None:
    sums = samples.sum(axis=0, dtype=samples.dtype)  # of int16 it wraps at 65536, as the checksum does
    for line, name, total in zip(header.signals, names, sums.tolist()):
        if line.checksum is not None and line.checksum != total % 65536:
            raise RecordError(
                f"record {path}: lead {name!r} has checksum {total % 65536}, its header has {line.checksum}; "
                "the data file is damaged or belongs to another header: download it again"
            )


def _uv_per_steps(path: Path, lines: Sequence[wfdb_header.SignalLine], units: str | None) -> np.ndarray:
    """The step of each lead (L0,) in uV."""
    steps: dict[tuple[float | None, str | None], float] = {}  # in most records all leads have one gain and unit
    for line in lines:
        if (line.gain, line.unit) not in steps:
            steps[line.gain, line.unit] = _uv_per_step(path, line, units)
    return np.array([steps[line.gain, line.unit] for line in lines])


def _uv_per_step(path: Path, line: wfdb_header.SignalLine, units: str | None) -> float:
    if line.gain is None or not math.isfinite(line.gain) or line.gain <= 0:
        raise RecordError(
            f"record {path}: lead {line.name!r} has the gain {line.gain}; correct the header's steps per unit"
        )
    return 1000.0 * mv_per_unit(path, line.unit, units) / line.gain


def _given_names(path: Path, given: Given, n_leads: int) -> tuple[str, ...]:
    if given.leads is None or len(given.leads) != n_leads:
        raise RecordError(f"record {path}: its header does not name all {n_leads} leads; pass leads= with that many")
    return given.leads
