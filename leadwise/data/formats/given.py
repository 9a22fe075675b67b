"""What the caller states about a file (`Given`), and the checks that all formats share."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leadwise.batch import LEADS
from leadwise.data.recordings.recording import RecordError

_MAX_SAMPLES = 100_000_000  # per lead: more than a day at 1000 Hz
_MAX_LEADS = 128
_MAX_RATE_HZ = 100_000.0
_LEAD_OF = {name.casefold(): name for name in LEADS}
_MV_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "v": 1e3}


@dataclass(frozen=True)
class Given:
    """Facts that the caller states for files that do not state them."""

    leads: tuple[str, ...] | None = None  # in the order of the file's columns
    rate_hz: float | None = None
    units: str | None = None  # mV, uV or V


def check_lead_names(leads: Sequence[str] | None, where: str) -> None:
    """Check that each of `leads` is one of the twelve; `where` begins the message.

    Raises:
        RecordError: a name is none of the twelve. Its column would be dropped without a message.
    """
    for lead, name in zip(leads or (), standard_names(leads or ())):
        if name not in LEADS:
            near = difflib.get_close_matches(lead.strip().casefold(), _LEAD_OF, n=1, cutoff=0.0)
            nearest = _LEAD_OF[near[0]]
            raise RecordError(
                f"{where}: the lead {lead!r} in leads= is none of {', '.join(LEADS)}; nearest: {nearest!r}"
            )


def standard_names(names: Sequence[str]) -> tuple[str, ...]:
    """Lead names in their standard spelling; a name that is none of the twelve stays, without spaces around it."""
    return tuple(_LEAD_OF.get(name.strip().casefold(), name.strip()) for name in names)


def is_lead(name: str) -> bool:
    """Whether `name` is one of the twelve leads, in any case."""
    return name.strip().casefold() in _LEAD_OF


def checked_rate(path: Path, rate_hz: float | None) -> float:
    """The sampling rate in Hz.

    Raises:
        RecordError: it is unknown, or not within 0 to 100,000 Hz.
    """
    if rate_hz is None:
        raise RecordError(f"record {path}: the file does not state its sampling rate; pass rate_hz=")
    if not math.isfinite(rate_hz) or not 0 < rate_hz <= _MAX_RATE_HZ:
        raise RecordError(f"record {path}: the sampling rate {rate_hz:g} Hz is implausible; correct it")
    return float(rate_hz)


def check_size(path: Path, n_samples: int | None, n_leads: int) -> None:
    """Check that a recording has samples, and no more than is plausible; `n_samples` None = not stated.

    Raises:
        RecordError: it has no sample, or an implausible number of samples or leads.
    """
    if n_samples == 0:
        raise RecordError(f"record {path}: it contains no sample; leave it out or download it again")
    if (n_samples or 1) < 0 or (n_samples or 1) > _MAX_SAMPLES or n_leads > _MAX_LEADS:
        raise RecordError(f"record {path}: {n_samples} samples of {n_leads} leads is implausible; check the file")


def mv_per_unit(path: Path, stated: str | None, given: str | None) -> float:
    """Factor from a unit to mV: the unit that the file states if it is a known one, else the unit that the caller gives.

    Raises:
        RecordError: neither is mV, uV or V.
    """
    for unit in (stated, given):
        key = (unit or "").strip().replace("\u00b5", "u").replace("\u03bc", "u").casefold()
        if key in _MV_PER_UNIT:
            return _MV_PER_UNIT[key]
    unit = given if given is not None else stated
    reason = f"the unit {unit!r} is not known" if unit else "no unit is given"
    raise RecordError(f"record {path}: {reason}; pass units= mV, uV or V")
