"""`Recording`: the contents of one ECG file, as integers where the file has them, else in mV."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

MISSING = -32768  # the int16 value of a missing sample, in WFDB format 16 and in a cohort


_MOST_LETTERS = 600  # characters of a message's beginning


class RecordError(ValueError):
    """A recording cannot be used; the message names the record, the value and the remedy.

    A long message loses its middle: a value of a damaged file may be thousands of samples.
    """

    def __init__(self, message: str) -> None:
        cut = f"{message[:_MOST_LETTERS]} ... {message[-_MOST_LETTERS // 2 :]}"
        super().__init__(message if len(message) <= len(cut) else cut)


@dataclass(frozen=True)
class Digital:
    """Samples as integers: mV = (samples - baseline) * uv_per_step / 1000; -32768 = missing."""

    samples: np.ndarray  # (T0, L0) int16
    uv_per_step: np.ndarray  # (L0,) float64, uV
    baseline: np.ndarray  # (L0,) int32

    def millivolts(self) -> np.ndarray:
        """The samples (T0, L0) as float64 mV, NaN = missing."""
        signal: np.ndarray = (self.samples - self.baseline) * (self.uv_per_step / 1000.0)
        signal[self.samples == MISSING] = np.nan
        return signal


@dataclass(frozen=True)
class Recording:
    """The contents of one ECG file."""

    name: str
    given: np.ndarray | None  # (T0, L0) float64 mV, NaN = missing; None if `digital` holds all samples
    leads: tuple[str, ...]  # the standard names of the channels that are used
    rate_hz: float
    digital: Digital | None = None  # the file's own integers, if it has them
    files: tuple[Path, ...] = ()  # all files that were read
    contents: tuple[bytes, ...] = field(default=(), repr=False)  # of these files, if read whole; may name a patient
    unused: tuple[str, ...] = ()  # channels of the file that are not among the twelve leads, as the file names them
    format: str = ""  # of the file, with its version where it has one: "muse 9.0.10"
    # What the file states: `age` in years, `sex` ('male', 'female'), `device`, `year`, `heart_rate` in bpm, ...
    # It never contains a name, a number of a patient or a full date.
    stated: Mapping[str, Any] = field(default_factory=dict)
    statements: tuple[str, ...] = ()  # of the device or the reader, without names, signatures, dates and times
    remarks: tuple[str, ...] = ()  # what reading changed or noticed: "calibration pulse at the end removed"

    @cached_property
    def signal(self) -> np.ndarray:
        """The samples (T0, L0) as float64 mV, NaN = missing; integers are converted on first access."""
        return in_millivolts(self.given, self.digital)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 checksum of its files' concatenated contents, as 64 hexadecimal digits; reads them if necessary."""
        digest = hashlib.sha256()
        for content in self.contents or (file.read_bytes() for file in self.files):
            digest.update(content)
        return digest.hexdigest()


def in_millivolts(given: np.ndarray | None, digital: Digital | None) -> np.ndarray:
    """Return `given`, or the integers converted to mV if it is None: (T0, L) float64 mV, NaN = missing."""
    if given is not None:
        return given
    if digital is None:
        raise ValueError("a recording holds either millivolts or integers; this one has neither")
    return digital.millivolts()
