"""WFDB format 16 read by numpy alone: what nearly every ECG corpus is, many times faster than by `wfdb`.

The file holds frames of one little-endian int16 per signal. Nothing is decided here that a header does not say:
whatever is not this plain case is left to `wfdb`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leadwise.data.wfdb_header import Header


def is_plain(header: Header) -> bool:
    """Whether every signal lies in one file in format 16, from the same byte on and none behind another."""
    first = header.signals[0]
    return header.n_described == len(header.signals) and all(
        line.format == "16"
        and line.skew == 0
        and line.file == first.file
        and line.byte_offset == first.byte_offset
        and line.baseline is not None
        for line in header.signals
    )


def n_samples(header: Header, n_bytes: int) -> int:
    """Samples per signal: as the header says, else as many as the data file of `n_bytes` holds."""
    if header.n_samples is not None:
        return header.n_samples
    return max(0, n_bytes - header.signals[0].byte_offset) // (2 * len(header.signals))


def samples(data: Path, header: Header, n_samples: int) -> np.ndarray:
    """The samples (T0, L0) int16 of a plain header's data file; in memory each lead lies in one piece.

    Raises:
        OSError: the file cannot be read.
        ValueError: it ends before `n_samples`.
    """
    n_leads, offset = len(header.signals), header.signals[0].byte_offset
    frames = np.frombuffer(data.read_bytes(), dtype="<i2", count=n_samples * n_leads, offset=offset)
    lead_major = np.array(frames.reshape(n_samples, n_leads).T, dtype=np.int16, order="C")  # (L0, T0)
    return lead_major.T
