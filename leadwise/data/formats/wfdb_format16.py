"""Plain WFDB format 16, read by numpy alone: the format of nearly every ECG corpus, many times faster than with `wfdb`.

A data file contains frames of one little-endian int16 per signal. Every record that is not this plain case is read by
the library `wfdb`.
"""

from __future__ import annotations

import numpy as np

from leadwise.data.formats.wfdb_header import Header


def is_plain(header: Header) -> bool:
    """Whether every signal is in one file in format 16, from the same byte offset on and without skew."""
    first = header.signals[0]
    return header.n_described == len(header.signals) and all(
        line.format == "16"
        and line.skew == 0
        and line.n_per_frame == 1
        and line.file == first.file
        and line.byte_offset == first.byte_offset
        for line in header.signals
    )


def samples(content: bytes, header: Header) -> np.ndarray:
    """The samples (T0, L0) int16 in a plain header's data file; each lead is contiguous in memory.

    If the header does not state the number of samples, all are read.

    Raises:
        ValueError: the file is shorter than the header states.
    """
    n_leads, offset = len(header.signals), header.signals[0].byte_offset
    n_samples = header.n_samples
    if n_samples is None:
        n_samples = max(0, len(content) - offset) // (2 * n_leads)
    if n_samples == 0:
        return np.empty((0, n_leads), dtype=np.int16)
    frames = np.frombuffer(content, dtype="<i2", count=n_samples * n_leads, offset=offset)
    lead_major = np.array(frames.reshape(n_samples, n_leads).T, dtype=np.int16, order="C")  # (L0, T0)
    return lead_major.T
