"""file -> Recording: WFDB, .mat, .npy and .csv, in mV, under the lead names the file gives, or an error that says why."""

from __future__ import annotations

import csv
import difflib
import math
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leadwise.batch import LEADS
from leadwise.data.formats import mat_struct, wfdb_format16, wfdb_header
from leadwise.data.messages import first_few
from leadwise.data.recordings.recording import (
    MISSING,
    Digital,
    RecordError,
    Recording,
)

_MAX_SAMPLES = 100_000_000  # per lead: more than a day at 1000 Hz
_MAX_LEADS = 128
_MAX_RATE_HZ = 100_000.0
_CANONICAL = {name.casefold(): name for name in LEADS}
_INVALID = {"80": -(2**7), "212": -(2**11), "24": -(2**23), "32": -(2**31)}  # what WFDB reserves; else MISSING
_MV_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "v": 1e3}


def read(
    path: Path, *, leads: Sequence[str] | None = None, rate_hz: float | None = None, units: str | None = None
) -> Recording:
    """The recording in a file: WFDB (`.hea` or the name without suffix), `.mat`, `.npy` or `.csv`; signal (T0, L0) in mV.

    A `.mat` with a `.hea` beside it is WFDB; without one it holds MATLAB's struct `ECG` with the samples in `data`.
    `leads`, `rate_hz` and `units` say what the file does not. What a WFDB header states stands; `.npy` and MATLAB's
    `.mat` need all three, `.csv` needs rate and units (and leads, if its first row is not their names; where it is,
    that row's order stands).
    In an int16 `.npy`, -32768 is missing.

    Raises:
        RecordError: the file is absent, damaged or leaves something unsaid.
    """
    path = Path(path)
    check_told_leads(leads, f"record {path}")
    kind = path.suffix.lower()
    if kind == ".npy":
        recording = _read_npy(path, leads, rate_hz, units)
    elif kind == ".csv":
        recording = _read_csv(path, leads, rate_hz, units)
    elif _is_matlab(path):
        table = mat_struct.struct(path).data
        recording = _from_array(path, table, leads, rate_hz, units)
    else:
        recording = _read_wfdb(_header_path(path), leads, rate_hz, units)
    if len(set(recording.leads)) < len(recording.leads):
        doubled = sorted({lead for lead in recording.leads if recording.leads.count(lead) > 1})
        raise RecordError(f"record {path}: lead {doubled[0]!r} appears twice; give each lead its own name")
    return recording


def files(path: Path) -> tuple[Path, ...]:
    """Every file that `read(path)` needs: the file itself, or the header and the data files that it names.

    A header that cannot be parsed stands alone; `read` says what is wrong with it.
    """
    path = Path(path)
    if path.suffix.lower() in (".npy", ".csv") or _is_matlab(path):
        return (path,)
    header_path = _header_path(path)
    try:
        header = wfdb_header.parse(header_path.read_bytes())
    except (wfdb_header.HeaderError, OSError):
        return (header_path,)
    return (header_path, *(header_path.parent / file for file in header.files))


def check_told_leads(leads: Sequence[str] | None, where: str) -> None:
    """Nothing, if every told lead is one of the twelve; `where` begins the message.

    Raises:
        RecordError: a name that is none of them: its column would be lost without a word.
    """
    for told, name in zip(leads or (), _canonical(leads or ())):
        if name not in LEADS:
            near = difflib.get_close_matches(told.strip().casefold(), _CANONICAL, n=1, cutoff=0.0)
            nearest = _CANONICAL[near[0]]
            raise RecordError(
                f"{where}: the lead {told!r} in leads= is none of {', '.join(LEADS)}; nearest: {nearest!r}"
            )


def _is_matlab(path: Path) -> bool:
    """Whether a path leads to a `.mat` that no header says how to read."""
    return path.suffix.lower() == ".mat" and path.is_file() and not path.with_suffix(".hea").is_file()


def _header_path(path: Path) -> Path:
    if path.suffix.lower() in (".hea", ".dat", ".mat"):
        return path.with_suffix(".hea")
    return path.with_name(path.name + ".hea")


def _read_wfdb(path: Path, leads: Sequence[str] | None, rate_hz: float | None, units: str | None) -> Recording:
    header, raw_header = _header(path)
    rate_hz = _checked_rate(path, header.rate_hz if header.rate_hz is not None else rate_hz)
    _check_size(path, header.n_samples, len(header.signals))
    data_files = tuple(path.parent / file for file in header.files)
    for data in data_files:
        _check_data_file(path, data, header)
    names = tuple(line.name for line in header.signals)
    if not all(names):
        names = _told_leads(path, leads, len(names))
    scale = _uv_per_steps(path, header.signals, units)
    contents: tuple[bytes, ...] = ()
    try:
        if wfdb_format16.is_plain(header):
            contents = (raw_header, data_files[0].read_bytes())
            samples, baseline = wfdb_format16.samples(contents[1], header), wfdb_format16.baseline(header)
        else:
            samples, baseline = _by_wfdb(path)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise RecordError(f"record {path}: cannot be read ({error}); restore it from its source") from error
    _check_size(path, len(samples), samples.shape[1])
    _check_checksums(path, header, names, samples)
    read_from, names = (path, *data_files), _canonical(names)
    if samples.dtype == np.int16:  # format 16: what it reserves for a missing sample is MISSING itself
        return Recording(path.stem, None, names, rate_hz, Digital(samples, scale, baseline), read_from, contents)
    invalid = samples == np.array([_INVALID.get(line.format, MISSING) for line in header.signals])
    if all(line.format in ("16", "80", "160", "212") for line in header.signals):
        digital = Digital(np.where(invalid, MISSING, samples).astype(np.int16), scale, baseline)
        return Recording(path.stem, None, names, rate_hz, digital, read_from)
    signal = (samples - baseline) * (scale / 1000.0)  # wider formats do not fit int16
    signal[invalid] = np.nan
    return Recording(path.stem, signal, names, rate_hz, None, read_from)


def _header(path: Path) -> tuple[wfdb_header.Header, bytes]:
    try:
        raw = path.read_bytes()
    except OSError:
        if path.is_file():
            raise
        raise RecordError(
            f"record {path}: no such file; give the .hea file (its suffix in lower case) or its name without"
        ) from None
    try:
        return wfdb_header.parse(raw), raw
    except wfdb_header.HeaderError as error:
        raise RecordError(f"record {path}: {error}; restore the header from its source") from None


def _by_wfdb(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The samples (T0, L0) int64 and baselines (L0,) of a record in any format."""
    import wfdb

    record = wfdb.rdrecord(str(path.with_suffix("")), physical=False)
    return record.d_signal, np.asarray(record.baseline, dtype=np.int32)


def _check_data_file(path: Path, data: Path, header: wfdb_header.Header) -> None:
    try:
        found = data.stat()
    except (OSError, ValueError):
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise RecordError(f"record {path}: its data file {data.name} is missing; put it beside the header")
    needed = header.n_bytes(data.name)
    if needed is not None and found.st_size < needed:
        raise RecordError(
            f"record {path}: {data.name} is truncated: {found.st_size} bytes where its header promises {needed}; "
            "fetch it again"
        )


def _check_checksums(path: Path, header: wfdb_header.Header, names: Sequence[str], samples: np.ndarray) -> None:
    sums = samples.sum(axis=0, dtype=samples.dtype)  # of int16 it wraps at 65536, as the checksum does
    for line, name, found in zip(header.signals, names, sums.tolist()):
        if line.checksum is not None and line.checksum != found % 65536:
            raise RecordError(
                f"record {path}: lead {name!r} has checksum {found % 65536}, its header says {line.checksum}; "
                "the data file is damaged or belongs to another header: fetch it again"
            )


def _uv_per_steps(path: Path, lines: Sequence[wfdb_header.SignalLine], units: str | None) -> np.ndarray:
    steps: dict[tuple[float | None, str | None], float] = {}  # most records say one gain and unit for all leads
    for line in lines:
        if (line.gain, line.unit) not in steps:
            steps[line.gain, line.unit] = _uv_per_step(path, line, units)
    return np.array([steps[line.gain, line.unit] for line in lines])


def _uv_per_step(path: Path, line: wfdb_header.SignalLine, units: str | None) -> float:
    if line.gain is None or not math.isfinite(line.gain) or line.gain <= 0:
        raise RecordError(
            f"record {path}: lead {line.name!r} has the gain {line.gain}; correct the header's steps per unit"
        )
    return 1000.0 * _mv_per_unit(path, line.unit, units) / line.gain


def _mv_per_unit(path: Path, stated: str | None, told: str | None) -> float:
    """Factor from a unit to mV: the file's own where it states a known one, else what the caller told."""
    for unit in (stated, told):
        key = (unit or "").strip().replace("\u00b5", "u").replace("\u03bc", "u").casefold()
        if key in _MV_PER_UNIT:
            return _MV_PER_UNIT[key]
    unit = told if told is not None else stated
    what = f"the unit {unit!r} is not known" if unit else "no unit is given"
    raise RecordError(f"record {path}: {what}; say units= mV, uV or V")


def _read_npy(path: Path, leads: Sequence[str] | None, rate_hz: float | None, units: str | None) -> Recording:
    if not path.is_file():
        raise RecordError(f"record {path}: no such file; check the path")
    try:  # mapped first: a header that promises more than the file holds fails here, before any memory is taken
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordError(f"record {path}: not a readable .npy array of numbers ({error}); save it again") from None
    return _from_array(path, table, leads, rate_hz, units)


def _from_array(
    path: Path, table: np.ndarray, leads: Sequence[str] | None, rate_hz: float | None, units: str | None
) -> Recording:
    """A recording from an array of numbers that names no lead, either way round."""
    if leads is None:
        raise RecordError(f"record {path}: the file does not name its leads; say leads=")
    if table.ndim != 2 or table.dtype.kind not in "iuf":
        raise RecordError(
            f"record {path}: holds {table.dtype} of shape {table.shape}; it takes numbers of shape (samples, leads)"
        )
    n_rows, n_columns = table.shape
    if (n_rows == len(leads)) == (n_columns == len(leads)):
        why = "could be either way round" if n_rows == n_columns else f"has no side of {len(leads)} leads"
        raise RecordError(f"record {path}: shape {table.shape} {why}; save it as (samples, leads) and check leads=")
    if n_rows == len(leads):
        table = table.T
    _check_size(path, *table.shape)
    return _from_table(path, np.asarray(table), tuple(leads), rate_hz, units)


def _read_csv(path: Path, leads: Sequence[str] | None, rate_hz: float | None, units: str | None) -> Recording:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except OSError as error:
        raise RecordError(f"record {path}: cannot be opened ({error.strerror}); check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"record {path}: not a CSV text in UTF-8 ({error}); save it again") from None
    if not rows:
        raise RecordError(f"record {path}: is empty; it takes a row of lead names and one row per sample")
    if any(not _is_number(cell) for cell in rows[0]):
        names, rows = _canonical(rows[0]), rows[1:]
        if leads is not None and set(_canonical(leads)) != set(names):
            raise RecordError(
                f"record {path}: its first row names {first_few(names, 12)}, leads= says {first_few(leads, 12)}; correct the "
                "one that is wrong, or leave out leads="
            )
    elif leads is None:
        raise RecordError(f"record {path}: the first row holds no lead names; say leads=")
    elif len(leads) != len(rows[0]):
        raise RecordError(f"record {path}: {len(rows[0])} columns and {len(leads)} leads; name each column in leads=")
    else:
        names = tuple(leads)
    table = np.empty((len(rows), len(names)))
    for number, row in enumerate(rows):
        try:
            table[number] = [float(cell) if cell.strip() else math.nan for cell in row]
        except ValueError:
            raise RecordError(
                f"record {path}: sample {number + 1} is not {len(names)} numbers; correct that row"
            ) from None
    _check_size(path, *table.shape)
    return _from_table(path, table, names, rate_hz, units)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _from_table(
    path: Path, table: np.ndarray, names: tuple[str, ...], rate_hz: float | None, units: str | None
) -> Recording:
    """A recording from numbers (T0, L0) in the told unit; integers that fit are kept as they are."""
    rate_hz = _checked_rate(path, rate_hz)
    mv_per_unit = _mv_per_unit(path, None, units)
    leads = _canonical(names)
    if table.dtype.kind in "iu" and table.min() >= MISSING and table.max() < -MISSING:
        steps = np.full(len(leads), 1000.0 * mv_per_unit)
        digital = Digital(table.astype(np.int16), steps, np.zeros(len(leads), dtype=np.int32))
        return Recording(path.stem, None, leads, rate_hz, digital, (path,))
    signal = table.astype(np.float64) * mv_per_unit
    signal[~np.isfinite(signal)] = np.nan
    return Recording(path.stem, signal, leads, rate_hz, None, (path,))


def _canonical(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_CANONICAL.get(name.strip().casefold(), name.strip()) for name in names)


def _told_leads(path: Path, leads: Sequence[str] | None, n_leads: int) -> tuple[str, ...]:
    if leads is None or len(leads) != n_leads:
        raise RecordError(f"record {path}: its header does not name all {n_leads} leads; say leads= with that many")
    return tuple(leads)


def _checked_rate(path: Path, rate_hz: float | None) -> float:
    if rate_hz is None:
        raise RecordError(f"record {path}: the file does not say its sampling rate; say rate_hz=")
    if not math.isfinite(rate_hz) or not 0 < rate_hz <= _MAX_RATE_HZ:
        raise RecordError(f"record {path}: the sampling rate {rate_hz:g} Hz is implausible; correct it")
    return float(rate_hz)


def _check_size(path: Path, n_samples: int | None, n_leads: int) -> None:
    if n_samples == 0:
        raise RecordError(f"record {path}: it holds no sample; leave it out or fetch it again")
    if (n_samples or 1) < 0 or (n_samples or 1) > _MAX_SAMPLES or n_leads > _MAX_LEADS:
        raise RecordError(f"record {path}: {n_samples} samples of {n_leads} leads is implausible; check the file")
