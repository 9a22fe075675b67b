"""WFDB records: a header `.hea` and the data files that it names, or a `.mat` behind such a header.

Plain format 16 is read by numpy alone (`wfdb_format16`), all other storage formats by the library `wfdb`. The leads are
chosen by name first; what a header states about the other signals is not looked at.
"""

from __future__ import annotations

import dataclasses
import math
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from leadwise.data.formats import wfdb_format16, wfdb_header
from leadwise.data.formats.channels import Channels, choose_channels
from leadwise.data.formats.given import STEP_UV, Given, check_size, checked_rate, mv_per_unit
from leadwise.data.formats.wfdb_header import Header, SignalLine
from leadwise.data.recordings.lead_names import is_lead
from leadwise.data.recordings.recording import MISSING, Digital, RecordError, Recording

SUFFIXES = ("", ".hea", ".dat", ".mat")  # of a record "a1": the name a1, a1.hea, a1.dat, a1.mat

_INVALID = {"80": -(2**7), "212": -(2**11), "24": -(2**23), "32": -(2**31)}  # reserved by WFDB; else MISSING
_MOST_GAPS = 20_000_000  # values of a record that may be nearly all gaps
_FITS_INT16 = ("16", "80", "160", "212", "8", "61", "310", "311", "508", "516")


def matches(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is a WFDB header."""
    try:
        wfdb_header.parse(first_bytes)
    except wfdb_header.HeaderError:
        return False
    return True


def main_file(path: Path) -> Path:
    """The header of a record: `a1.hea` for `a1`, `a1.hea`, `a1.dat` and `a1.mat`.

    `A1.HEA` for `A1.HEA` and `A1.DAT`, and for `A1` where only that header exists.
    """
    suffix = path.suffix
    if suffix.lower() not in SUFFIXES[1:]:
        lower, upper = path.with_name(path.name + ".hea"), path.with_name(path.name + ".HEA")
        return upper if path.name.isupper() and not lower.is_file() and upper.is_file() else lower
    header, other = path.with_suffix(".hea"), path.with_suffix(".HEA")
    if suffix.isupper():
        header, other = other, header
    # samples whose header has the other case
    return other if suffix.lower() != ".hea" and not header.is_file() and other.is_file() else header


def files(path: Path) -> tuple[Path, ...]:
    """The header and the data files that it names; the header alone where it cannot be parsed (`read` raises then)."""
    own, segments = _named_files(main_file(path))
    return (*own, *(file for segment in segments for file in _named_files(segment)[0]))


def _named_files(header_path: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """A header with the data files that it names, and the headers of its segments."""
    try:
        header = wfdb_header.parse(header_path.read_bytes())
    except (wfdb_header.HeaderError, OSError):
        return (header_path,), ()
    segments = tuple(header_path.with_name(segment.name + ".hea") for segment in header.segments if segment.name != "~")
    return (header_path, *(_data_file(header_path, file) for file in header.files)), segments


def read(path: Path, given: Given) -> Recording:
    """The recording in a WFDB record. The rate and the units that its header states take precedence over `given`.

    Raises:
        RecordError: a file is absent or damaged, the checksum of a lead differs, or something that the header does not
            state is not given.
    """
    path = main_file(path)
    header, raw_header = _read_header(path)
    if header.segments:
        recording = _read_segments(path, header, given)
    else:
        recording = _read_signals(path, header, raw_header, given)
    # age and sex, as PhysioNet's databases write them in comments
    if b"#" not in raw_header:
        return recording
    person = wfdb_header.person(wfdb_header.comments(raw_header))
    stated = {name: value for name, value in person.items() if value is not None}
    return dataclasses.replace(recording, stated=stated) if stated else recording


def _read_signals(path: Path, header: Header, raw_header: bytes, given: Given) -> Recording:
    # the signals that are leads; only these are checked
    channels = choose_channels(path, [line.name for line in header.signals], given)
    lines = [header.signals[number] for number in channels.used]
    for line in lines:
        if line.problem:
            raise RecordError(f"record {path}: {line.problem}; restore the header from its source")
    n_per_frame = lines[0].n_per_frame
    if any(line.n_per_frame != n_per_frame for line in lines):
        raise RecordError(
            f"record {path}: its leads have {', '.join(map(str, sorted({line.n_per_frame for line in lines})))} samples a frame; "
            "convert it so that all leads have one rate"
        )
    frame_rate = header.rate_hz
    rate_hz = checked_rate(path, frame_rate * n_per_frame if frame_rate is not None else given.rate_hz)
    check_size(path, header.n_samples, len(header.signals))
    file_names = dict.fromkeys(line.file for line in lines)
    data_files = tuple(_data_file(path, name) for name in file_names)
    for name, data_file in zip(file_names, data_files):
        _check_data_file(path, data_file, header, name)
    scale = _uv_per_steps(path, lines, channels.leads, given.units)

    # samples as integers (T0, L0): by numpy where that is enough, else by the library
    contents: tuple[bytes, ...] = ()
    is_plain = wfdb_format16.is_plain(header)
    try:
        if is_plain:
            contents = (raw_header, data_files[0].read_bytes())
            samples = wfdb_format16.samples(contents[1], header)
            if len(channels.used) < samples.shape[1]:
                samples = samples.T[list(channels.used)].T  # each lead in one piece
        else:
            samples = _read_by_library(path, header, lines)
        baseline = np.array([line.baseline for line in lines], dtype=np.int32)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise RecordError(f"record {path}: cannot be read ({error}); restore it from its source") from error
    check_size(path, len(samples), samples.shape[1])
    remarks = (*channels.remarks, *_check_checksums(path, header, lines, channels, samples))

    # int16 where the format fits, else millivolts; the reserved value of each format becomes "missing"
    def recording(signal: np.ndarray | None, digital: Digital | None) -> Recording:
        return Recording(
            path.stem, signal, channels.leads, rate_hz, digital, (path, *data_files), contents,
            unused=channels.unused, format="wfdb", remarks=remarks,
        )  # fmt: skip

    if is_plain:  # format 16: its reserved value is MISSING itself
        return recording(None, Digital(samples, scale, baseline))
    invalid = samples == np.array([_INVALID.get(line.format, MISSING) for line in lines])
    samples, invalid = _without_skew(samples, invalid, [line.skew * n_per_frame for line in lines])
    if all(line.format in _FITS_INT16 for line in lines):
        return recording(None, Digital(np.where(invalid, MISSING, samples).astype(np.int16), scale, baseline))
    signal = (samples - baseline) * (scale / 1000.0)  # wider formats do not fit int16
    signal[invalid] = np.nan
    return recording(signal, None)


def _read_segments(path: Path, header: Header, given: Given) -> Recording:
    """The segments of a record one after the other; gaps, and leads that a segment lacks, are missing samples.

    In a record of variable layout the first segment has no samples: it only describes the signals.
    """
    rate_hz = checked_rate(path, header.rate_hz if header.rate_hz is not None else given.rate_hz)
    described = _segment_headers(path, header)
    leads_of = _segment_leads(path, described, given)

    # the samples of each segment; None = a gap
    pieces: list[tuple[int, Recording | None]] = []
    for segment in header.segments:
        if segment.n_samples == 0:
            continue
        part_header, raw = described.get(segment.name, (None, b""))
        if part_header is None or not any(map(is_lead, leads_of[segment.name])):
            pieces.append((segment.n_samples, None))
            continue
        part_given = given if given.leads is None else dataclasses.replace(given, leads=leads_of[segment.name])
        part = _read_signals(path.with_name(segment.name + ".hea"), part_header, raw, part_given)
        if part.rate_hz != rate_hz:
            raise RecordError(
                f"record {path}: segment {segment.name} has {part.rate_hz:g} Hz, the record {rate_hz:g} Hz; correct the header"
            )
        if len(part.signal) != segment.n_samples:
            raise RecordError(
                f"record {path}: segment {segment.name} has {len(part.signal)} samples, and the record's header states "
                f"{segment.n_samples}; download both again"
            )
        pieces.append((segment.n_samples, part))
    parts = [part for _, part in pieces if part is not None]
    if not parts:
        raise RecordError(f"record {path}: none of its {len(header.segments)} segments has a lead; leave it out")

    # one array (T0, L0) with the leads of all segments
    leads = tuple(dict.fromkeys(lead for part in parts for lead in part.leads))
    n_total = sum(n for n, _ in pieces)
    check_size(path, n_total, len(leads))
    n_read = sum(len(part.signal) for part in parts)
    if n_total * len(leads) > _MOST_GAPS and n_read < n_total / 10:
        raise RecordError(
            f"record {path}: its segments hold {n_read:,} of {n_total:,} samples, and the rest are gaps, which is implausible; "
            "correct the header, or read its segments one by one"
        )
    signal = np.full((n_total, len(leads)), np.nan)
    begin = 0
    for n_samples, piece in pieces:
        if piece is not None:
            signal[begin : begin + n_samples, [leads.index(lead) for lead in piece.leads]] = piece.signal
        begin += n_samples
    read_from = (path, *(file for part in parts for file in part.files))
    unused = tuple(dict.fromkeys(name for part in parts for name in part.unused))
    remarks = tuple(dict.fromkeys(remark for part in parts for remark in part.remarks))
    return Recording(
        path.stem, signal, leads, rate_hz, None, read_from, unused=unused, format="wfdb", remarks=remarks
    )  # fmt: skip


def _segment_headers(path: Path, header: Header) -> dict[str, tuple[Header, bytes]]:
    """The header of each segment by its name, and its bytes; a gap has none."""
    described = {}
    for name in dict.fromkeys(segment.name for segment in header.segments if segment.name != "~"):
        described[name] = _read_header(path.with_name(name + ".hea"))
        if described[name][0].segments:
            raise RecordError(
                f"record {path}: its segment {name} is a record of segments itself, which WFDB does not allow; correct the header"
            )
    return described


def _segment_leads(
    path: Path, described: Mapping[str, tuple[Header, bytes]], given: Given
) -> dict[str, tuple[str, ...]]:
    """The leads of each segment by its name: those of its header, or the given ones that replace them.

    The given leads name the signals of the segments that have so many; another segment has some of these signals.

    Raises:
        RecordError: no segment has as many signals as leads are given.
    """
    names = {name: tuple(line.name for line in part.signals) for name, (part, _) in described.items()}
    if given.leads is None:
        return names
    whole = next((own for own in names.values() if len(own) == len(given.leads)), None)
    if whole is None:
        choose_channels(path, max(names.values(), key=len, default=()), given)  # raises
        whole = ()
    given_of = dict(zip(whole, given.leads))
    return {
        name: given.leads if len(own) == len(whole) else tuple(given_of.get(signal, signal) for signal in own)
        for name, own in names.items()
    }


def _data_file(path: Path, name: str) -> Path:
    """A data file beside the header; where only the case of its name differs from the header's, that file."""
    file = path.parent / name
    if os.path.isfile(file):  # noqa: PTH113  # called for every recording
        return file
    for other in (name.upper(), name.lower()):
        if (path.parent / other).is_file():
            return path.parent / other
    return file


def _read_header(path: Path) -> tuple[Header, bytes]:
    try:
        raw = path.read_bytes()
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        if path.is_file():
            raise
        raise RecordError(f"record {path}: no such file; give the .hea file or its name without suffix") from None
    try:
        return wfdb_header.parse(raw), raw
    except wfdb_header.HeaderError as error:
        raise RecordError(f"record {path}: {error}; restore the header from its source") from None


def _read_by_library(path: Path, header: Header, lines: Sequence[SignalLine]) -> np.ndarray:
    """The samples (T0, L0) int64 of the signals `lines`, which have one number of samples a frame, as stored.

    The library reads a header that is written for it. It holds the signals of the files that are needed, plain names and
    no skew: the library does not read a record whose name has a folder, and aligns skewed signals before their checksum
    can be compared.
    """
    import wfdb

    needed_files = list(dict.fromkeys(line.file for line in lines))
    stored = [line for line in header.signals if line.file in needed_files]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = [f"r {len(stored)} {header.rate_hz or 1} {header.n_samples or ''}".rstrip()]
        for number, file in enumerate(needed_files):
            (folder / f"d{number}.dat").symlink_to(_data_file(path, file).resolve())
        for number, line in enumerate(stored):
            storage = f"{line.format}x{line.n_per_frame}+{line.byte_offset}"
            text.append(f"d{needed_files.index(line.file)}.dat {storage} 1(0)/mV 16 0 0 0 0 s{number}")
        (folder / "r.hea").write_text("\n".join(text) + "\n")
        columns = [next(n for n, other in enumerate(stored) if other is line) for line in lines]
        record = wfdb.rdrecord(
            str(folder / "r"), physical=False, channels=columns, smooth_frames=False, ignore_skew=True
        )
    if record.e_d_signal is None:  # one sample in each frame
        return np.asarray(record.d_signal, dtype=np.int64)
    return np.stack([np.asarray(signal, dtype=np.int64) for signal in record.e_d_signal], axis=1)


def _without_skew(samples: np.ndarray, invalid: np.ndarray, skews: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The signals (T0, L0) aligned: sample t of a signal is stored at t + skew. What the file does not hold is missing."""
    if not any(skews):
        return samples, invalid
    aligned, missing = np.zeros_like(samples), np.ones_like(invalid)
    for column, skew in enumerate(skews):
        n_left = max(0, len(samples) - skew)
        aligned[:n_left, column], missing[:n_left, column] = samples[skew:, column], invalid[skew:, column]
    return aligned, missing


def _check_data_file(path: Path, data_file: Path, header: Header, name: str) -> None:
    try:
        status = data_file.stat()
    except (OSError, ValueError):
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise RecordError(f"record {path}: its data file {data_file.name} is missing; put it beside the header")
    needed = header.n_bytes(name)
    if needed is not None and status.st_size < needed:
        raise RecordError(
            f"record {path}: {data_file.name} is truncated: {status.st_size} bytes where its header promises {needed}; "
            "download it again"
        )


def _check_checksums(
    path: Path, header: Header, lines: Sequence[SignalLine], channels: Channels, samples: np.ndarray
) -> tuple[str, ...]:
    """Compare the checksums of the stored samples with the header's; return a remark on checksums that are placeholders.

    By the specification 0 is a placeholder where the header does not state the length; converters write it elsewhere too.
    """
    n_zero = 0
    sums = samples.sum(axis=0, dtype=samples.dtype)  # of int16 it wraps at 65536, as the checksum does
    for line, name, total in zip(lines, channels.leads, sums.tolist()):
        if line.checksum is None or line.checksum == total % 65536:
            continue
        if line.checksum == 0:
            n_zero += header.n_samples is not None
            continue
        raise RecordError(
            f"record {path}: lead {name!r} has checksum {total % 65536}, its header has {line.checksum}; "
            "the data file is damaged or belongs to another header: download it again"
        )
    return (f"the checksums of {n_zero} leads are the placeholder 0 and were not compared",) if n_zero else ()


def _uv_per_steps(path: Path, lines: Sequence[SignalLine], leads: Sequence[str], units: str | None) -> np.ndarray:
    """The step of each lead (L0,) in uV."""
    steps: dict[tuple[float | None, str | None], float] = {}  # in most records all leads have one gain and unit
    for line, lead in zip(lines, leads):
        if (line.gain, line.unit) not in steps:
            steps[line.gain, line.unit] = _uv_per_step(path, line, lead, units)
    return np.array([steps[line.gain, line.unit] for line in lines])


def _uv_per_step(path: Path, line: SignalLine, lead: str, units: str | None) -> float:
    if line.gain is None or not math.isfinite(line.gain) or line.gain <= 0:
        gain_text = "no gain" if line.gain is None else f"the gain {line.gain:g}"
        raise RecordError(f"record {path}: lead {lead!r} has {gain_text}; correct the header's steps per unit")
    step = 1000.0 * mv_per_unit(path, line.unit, units) / line.gain
    if not STEP_UV[0] <= step <= STEP_UV[1]:
        raise RecordError(
            f"record {path}: lead {lead!r} has the gain {line.gain:g} per {line.unit or units}, a step of {step:.3g} uV, which "
            "is implausible; correct the header's steps per unit"
        )
    return step
