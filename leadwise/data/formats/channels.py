"""Which channels of a file are used: decided from their names alone, before units, gains or samples are looked up.

A channel that is not one of the twelve leads never makes a recording unreadable: it is listed as unused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from leadwise.batch import LEADS
from leadwise.data.formats.given import NOT_USED, Given
from leadwise.data.messages import channel_names, first_few
from leadwise.data.recordings.lead_names import alias_remark, standard_name
from leadwise.data.recordings.recording import RecordError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Channels:
    """The channels of a file that are used."""

    used: tuple[int, ...]  # their numbers in the file
    leads: tuple[str, ...]  # of these, the standard names
    unused: tuple[str, ...] = ()  # the names of the other channels, as in the file
    remarks: tuple[str, ...] = ()


def choose_channels(path: Path, names: Sequence[str], given: Given) -> Channels:
    """The channels that hold one of the twelve leads, from the names in the file; `given.leads` replaces these names.

    Where two channels have one lead, that with the standard spelling is used ("II" before "MLII").

    Raises:
        RecordError: no channel is a lead, two channels of the same spelling are one lead, or `given.leads` has another
            number of names than the file has channels.
    """
    if given.leads is not None:
        if len(given.leads) != len(names):
            listed = f" ({channel_names(names)})" if any(names) else ""
            raise RecordError(
                f"record {path}: it has {len(names)} channels{listed} and {len(given.leads)} leads are given "
                f"({first_few(given.leads, 16)}); name each channel, with {NOT_USED} for one that is not used (--leads, leads=)"
            )
        _warn_of_renamed(tuple(names), given.leads)
    try:
        return _choose(tuple(names), given.leads)
    except RecordError as error:
        raise RecordError(f"record {path}: {error}") from None


@lru_cache(maxsize=256)  # a data set has the same names in every file
def _choose(names: tuple[str, ...], given: tuple[str, ...] | None) -> Channels:
    # candidates of each lead, in the order of the file
    candidates: dict[str, list[int]] = {}
    labels = names if given is None else given
    for number, label in enumerate(labels):
        lead = standard_name(label)
        if lead in LEADS:
            candidates.setdefault(lead, []).append(number)
    if not candidates:
        reason = f"none of its channels ({channel_names(names)}) is" if any(names) else "it does not name its channels:"
        what = f"one of the leads {', '.join(LEADS)}" if any(names) else "no lead is known"
        raise RecordError(
            f"{reason} {what}; name each of its {len(names)} channels, with {NOT_USED} for one that is not used "
            "(--leads, leads=)"
        )

    # one channel for each lead
    chosen: dict[int, str] = {}
    for lead, numbers in candidates.items():
        exact = [number for number in numbers if labels[number].strip() == lead] or numbers
        if len(exact) > 1:
            raise RecordError(
                f"lead {lead!r} appears twice (channels {' and '.join(str(n + 1) for n in exact[:2])}); name each "
                f"channel, with {NOT_USED} for the one that is not used (--leads, leads=)"
            )
        chosen[exact[0]] = lead
    used = tuple(sorted(chosen))
    unused = tuple(
        names[number].strip() or f"channel {number + 1}" for number in range(len(names)) if number not in chosen
    )
    remarks = tuple(filter(None, (alias_remark(labels[number]) for number in used)))
    return Channels(used, tuple(chosen[number] for number in used), unused, remarks)


@lru_cache(maxsize=256)  # a data set has the same names in every file: warn once
def _warn_of_renamed(names: tuple[str, ...], given: tuple[str, ...]) -> None:
    renamed = [
        f"{name.strip()} -> {lead.strip()}"
        for name, lead in zip(names, given)
        if standard_name(name) in LEADS and standard_name(name) != standard_name(lead)
    ]
    if renamed:
        log.warning("the given leads replace the names in the files: %s", first_few(renamed, 12))
