"""A recording from the channels of an ECG device's file, in which each channel has its own unit and samples.

A format passes the names of all channels and a function that decodes one of them. Only the channels that are used are
decoded, so that a damaged channel that is not one of the twelve leads does not make a recording unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_size, checked_rate
from leadwise.data.formats.parsing import scaled
from leadwise.data.messages import first_few
from leadwise.data.recordings.recording import MISSING, RecordError, Recording


@dataclass(frozen=True)
class Channel:
    """The samples of one channel: uV = values * uv_per_step + offset_uv."""

    values: np.ndarray  # (T0,) integers, in which -32768 = missing, or floats with NaN = missing
    uv_per_step: float
    offset_uv: float = 0.0


def from_channels(
    path: Path,
    names: Sequence[str],
    decode: Callable[[int], Channel],
    rate_hz: float | None,
    given: Given,
    *,
    format_name: str,
    stated: Mapping[str, Any],
    statements: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Recording:
    """The recording in the channels of a file; `decode` returns the samples of the channel of a number.

    A channel of zeros only is a slot without electrode: it is missing, and a remark names it. `rate_hz` None: the rate
    that is given.

    Raises:
        RecordError: no channel is a lead, all are zeros, their lengths differ, or the rate is not known.
    """
    # names, then rate, then samples
    if not names:
        raise RecordError(f"record {path}: it contains no ECG channel; export the file again")
    chosen = choose_channels(path, names, given)
    rate = checked_rate(path, given.rate_hz if rate_hz is None else rate_hz)
    channels = {lead: decode(number) for lead, number in zip(chosen.leads, chosen.used)}

    # one length
    lengths = {lead: len(channel.values) for lead, channel in channels.items()}
    first = next(iter(lengths))
    for lead, length in lengths.items():
        if length != lengths[first]:
            raise RecordError(
                f"record {path}: lead {lead} has {length} samples and lead {first} has {lengths[first]}; export the file again"
            )
    check_size(path, lengths[first], len(names))

    # slots without electrode
    empty = [lead for lead, channel in channels.items() if not channel.values.any()]
    if len(empty) == len(channels):
        raise RecordError(f"record {path}: all samples of its leads are zero; it contains no ECG: leave it out")
    used = {lead: channel for lead, channel in channels.items() if lead not in empty}
    notes = [*chosen.remarks, *remarks]
    if empty:
        notes.append(f"only zeros, so not recorded: {first_few(empty, 12)}")

    # integers where they fit
    samples = np.stack([channel.values for channel in used.values()], axis=1)
    missing = samples == MISSING if samples.dtype.kind in "iu" else ~np.isfinite(samples)
    signal, digital = scaled(
        path,
        samples,
        tuple(used),
        [channel.uv_per_step for channel in used.values()],
        [channel.offset_uv for channel in used.values()],
        missing if missing.any() else None,
    )
    return Recording(
        path.stem,
        signal,
        tuple(used),
        rate,
        digital,
        unused=chosen.unused,
        format=format_name,
        stated=dict(stated),
        statements=tuple(statements),
        remarks=tuple(notes),
    )


def cut(recording: Recording, n_samples: int, remark: str) -> Recording:
    """The first `n_samples` of a recording, with a remark that states what was cut."""
    digital = recording.digital
    return replace(
        recording,
        given=None if recording.given is None else recording.given[:n_samples],
        digital=None if digital is None else replace(digital, samples=digital.samples[:n_samples]),
        remarks=(*recording.remarks, remark),
    )
