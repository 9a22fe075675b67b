"""What the formats that are read with a library share: its errors as RecordError, bytes as a path, stored integers."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from leadwise.data.formats.channels import Channels
from leadwise.data.formats.given import STEP_UV
from leadwise.data.recordings.recording import MISSING, Digital, RecordError, Recording


@contextmanager
def library_errors(path: Path, what: str) -> Iterator[None]:
    """Raise any exception of a parsing library as a RecordError; on damaged bytes a library may raise any exception.

    Warnings of the library are suppressed: they may quote what the file states about the patient.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RecordError, ModuleNotFoundError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise RecordError(f"record {path}: not a readable {what} file ({reason}); export it again") from None


def of_one_rate(channels: Channels, names: Sequence[str], rates: Sequence[float]) -> tuple[Channels, float]:
    """The channels that have the rate of most leads, and this rate in Hz; the others become unused, with a remark.

    `names` and `rates` are those of all channels of the file. Of two rates that are equally frequent, the higher is used.
    """
    counts = Counter(rates[number] for number in channels.used)
    rate_hz = max(counts, key=lambda rate: (counts[rate], rate))
    if len(counts) == 1:
        return channels, rate_hz
    of_rate = [rates[number] == rate_hz for number in channels.used]
    others = [number for number, is_used in zip(channels.used, of_rate) if not is_used]
    dropped = ", ".join(f"{names[number].strip()} ({rates[number]:g} Hz)" for number in others)
    return Channels(
        tuple(number for number, is_used in zip(channels.used, of_rate) if is_used),
        tuple(lead for lead, is_used in zip(channels.leads, of_rate) if is_used),
        (*channels.unused, *(names[number].strip() for number in others)),
        (*channels.remarks, f"channels with another rate than {rate_hz:g} Hz are not used: {dropped}"),
    ), rate_hz


def without_empty_slots(path: Path, recording: Recording) -> Recording:
    """The recording without leads of zeros only: slots without electrode. A remark names them.

    Raises:
        RecordError: all leads are zeros.
    """
    digital = recording.digital
    if digital is not None:
        zero = (digital.samples == digital.baseline) | (digital.samples == MISSING)
    else:
        zero = (recording.signal == 0) | np.isnan(recording.signal)
    empty = zero.all(axis=0)
    if not empty.any():
        return recording
    if empty.all():
        raise RecordError(f"record {path}: all samples of its leads are zero; it contains no ECG: leave it out")
    columns = np.flatnonzero(~empty)
    names = ", ".join(lead for lead, is_empty in zip(recording.leads, empty) if is_empty)
    if digital is not None:
        digital = Digital(digital.samples[:, columns], digital.uv_per_step[columns], digital.baseline[columns])
    return replace(
        recording,
        given=None if recording.given is None else recording.given[:, columns],
        digital=digital,
        leads=tuple(recording.leads[column] for column in columns),
        remarks=(*recording.remarks, f"only zeros, so not recorded: {names}"),
    )


@contextmanager
def as_file(content: bytes, suffix: str) -> Iterator[Path]:
    """A path with this content, for a library that reads no bytes; in memory on Linux, else a temporary file."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("recording")
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"recording{suffix}"
        path.write_bytes(content)
        yield path


def scaled(
    path: Path,
    samples: np.ndarray,
    leads: Sequence[str],
    uv_per_step: Sequence[float],
    offset_uv: Sequence[float] | None = None,
    missing: np.ndarray | None = None,
) -> tuple[np.ndarray | None, Digital | None]:
    """Stored integers (T0, L0) as mV or as `Digital`: uV = samples * uv_per_step + offset_uv.

    They stay integers if they fit into int16 and the offset is a multiple of the step; else they become float64 mV.
    `missing` (T0, L0) marks samples that are not recorded. One of the two results is None.

    Raises:
        RecordError: a step is implausible.
    """
    steps = np.asarray(uv_per_step, dtype=np.float64)
    offsets = np.zeros(len(steps)) if offset_uv is None else np.asarray(offset_uv, dtype=np.float64)
    for lead, step, offset in zip(leads, steps, offsets):
        if not STEP_UV[0] <= abs(step) <= STEP_UV[1] or not np.isfinite(offset):
            raise RecordError(
                f"record {path}: lead {lead!r} has a step of {step:.3g} uV and an offset of {offset:.3g} uV, which is "
                "implausible; correct the file, or name the channel - in the leads (--leads, leads=) to leave it out"
            )

    # integers, where nothing is lost by it
    baseline = -offsets / steps
    is_whole = np.abs(baseline - np.round(baseline)) <= 1e-6 * np.maximum(1, np.abs(baseline))
    fits = (np.abs(baseline) < 2**31).all() and is_whole.all() and (steps > 0).all()
    if fits and samples.dtype.kind in "iu" and samples.size:
        recorded = samples if missing is None else samples[~missing]
        if recorded.size == 0 or (recorded.min() > MISSING and recorded.max() <= -MISSING - 1):
            stored = samples.astype(np.int16)
            if missing is not None:
                stored[missing] = MISSING
            return None, Digital(stored, steps, np.round(baseline).astype(np.int32))

    # else millivolts; what is too large for them becomes infinite, which `reading` refuses
    with np.errstate(over="ignore", invalid="ignore"):
        signal = (samples * steps + offsets) / 1000.0
    if missing is not None:
        signal[missing] = np.nan
    return signal, None
