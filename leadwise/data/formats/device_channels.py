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
from leadwise.data.messages import first_few
from leadwise.data.recordings.recording import MISSING, Digital, RecordError, Recording

_LARGEST = -MISSING - 1  # of int16
_STEP_MV = (1e-9, 100.0)  # plausible steps: finer than any converter, coarser than any ECG


@dataclass(frozen=True)
class Channel:
    """The samples of one channel: mV = (values - baseline) * mv_per_step."""

    values: np.ndarray  # (T0,) integers, or floats with NaN = missing
    mv_per_step: float
    baseline: float = 0.0


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

    for lead, channel in channels.items():
        if not _STEP_MV[0] <= abs(channel.mv_per_step) <= _STEP_MV[1]:
            raise RecordError(
                f"record {path}: lead {lead} has the step {channel.mv_per_step:g} mV, which is implausible for an ECG; correct "
                "the amplitude unit or the resolution in the file"
            )

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
    leads = tuple(used)
    digital = _digital(list(used.values()))
    signal = None
    if digital is None:
        signal = np.stack([(one.values - one.baseline) * one.mv_per_step for one in used.values()], axis=1)
        signal[~np.isfinite(signal)] = np.nan
    return Recording(
        path.stem,
        signal,
        leads,
        rate,
        digital,
        unused=chosen.unused,
        format=format_name,
        stated=dict(stated),
        statements=tuple(statements),
        remarks=tuple(notes),
    )


def _digital(channels: Sequence[Channel]) -> Digital | None:
    """The integers of all channels; None if one has fractions or exceeds int16."""
    for channel in channels:
        values = channel.values
        if values.dtype.kind not in "iu" or values.min() < MISSING or values.max() > _LARGEST:
            return None
        if channel.baseline != round(channel.baseline) or abs(channel.baseline) > 2**30:
            return None
    samples = np.stack([channel.values.astype(np.int16) for channel in channels], axis=1)
    steps = np.array([1000.0 * channel.mv_per_step for channel in channels])
    return Digital(samples, steps, np.array([round(channel.baseline) for channel in channels], dtype=np.int32))


def cut(recording: Recording, n_samples: int, remark: str) -> Recording:
    """The first `n_samples` of a recording, with a remark that states what was cut."""
    digital = recording.digital
    return replace(
        recording,
        given=None if recording.given is None else recording.given[:n_samples],
        digital=None if digital is None else replace(digital, samples=digital.samples[:n_samples]),
        remarks=(*recording.remarks, remark),
    )
