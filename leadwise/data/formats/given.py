"""What the caller states about a file (`Given`), and the checks that all formats share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leadwise.batch import LEADS
from leadwise.data.messages import quoted_cell
from leadwise.data.recordings import lead_names
from leadwise.data.recordings.recording import RecordError

NOT_USED = "-"  # in place of a lead name: the channel is not used
LARGEST_RATE_HZ = 10_000.0  # no ECG recorder samples faster
STEP_UV = (1e-6, 1e5)  # plausible steps: finer than any converter, coarser than any ECG
_MAX_SAMPLES = 100_000_000  # per lead: more than a day at 1000 Hz
_MAX_LEADS = 128
_MV_PER_UNIT = {
    "mv": 1.0, "millivolt": 1.0, "millivolts": 1.0,
    "uv": 1e-3, "microvolt": 1e-3, "microvolts": 1e-3,
    "nv": 1e-6, "nanovolt": 1e-6, "nanovolts": 1e-6,
    "v": 1e3, "volt": 1e3, "volts": 1e3,
}  # fmt: skip
_OPTIONS = {
    "leads": ("the leads", "--leads, leads="),
    "rate": ("the sampling rate", "--rate-hz, rate_hz="),
    "unit": ("the unit", "--units, units="),
}  # what a caller may have to state: its name in a message, and its option and argument


@dataclass(frozen=True)
class Given:
    """Facts that the caller states for files that do not state them."""

    leads: tuple[str, ...] | None = None  # in the order of the file's channels; "-" for a channel that is not used
    rate_hz: float | None = None
    units: str | None = None  # mV, uV, nV or V
    item: str | None = None  # which recording, in a file that holds several


def check_is_list(leads: Sequence[str] | None) -> None:
    """Check that `leads` is a list of names.

    Raises:
        RecordError: it is one text, whose letters would be taken for names.
    """
    if isinstance(leads, str):
        names = [lead.strip() for lead in leads.split(",")]
        raise RecordError(f"leads={leads!r} is one text; pass a list of names: leads={names}")


def check_lead_names(leads: Sequence[str] | None, where: str) -> None:
    """Check that each of `leads` is one of the twelve, or "-"; `where` begins the message.

    Raises:
        RecordError: `leads` is one text, or a name is none of the twelve. Its column would be dropped without a message.
    """
    check_is_list(leads)
    for lead in leads or ():
        if lead.strip() != NOT_USED and not lead_names.is_lead(lead):
            raise RecordError(
                f"{where}: the given lead {lead!r} is none of {', '.join(LEADS)}; nearest: {lead_names.nearest(lead)!r}; "
                "write - for a channel that is not used"
            )


def check_stated(path: Path, given: Given, *missing: str) -> None:
    """Check that the caller states what the file does not; `missing` holds "leads", "rate" or "unit".

    Raises:
        RecordError: something is not given; one message names all of it.
    """
    values = {"leads": given.leads, "rate": given.rate_hz, "unit": given.units}
    absent = [what for what in missing if values[what] is None]
    if absent:
        pronoun = "it" if absent in (["rate"], ["unit"]) else "them"
        names, options = zip(*(_OPTIONS[what] for what in absent))
        raise RecordError(
            f"record {path}: the file does not state {_listed(names)}; pass {pronoun} ({'; '.join(options)})"
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def checked_rate(path: Path, rate_hz: float | None) -> float:
    """The sampling rate in Hz.

    Raises:
        RecordError: it is unknown, or not within 0 to 10,000 Hz.
    """
    if rate_hz is None:
        check_stated(path, Given(), "rate")
        raise AssertionError("unreachable: the rate is absent")
    if not math.isfinite(rate_hz) or not 0 < rate_hz <= LARGEST_RATE_HZ:
        raise RecordError(
            f"record {path}: the sampling rate {rate_hz:g} Hz is implausible (0 to {LARGEST_RATE_HZ:,.0f}); correct it"
        )
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


def known_unit(unit: str | None) -> float | None:
    """Factor from a unit to mV; None if it is not one of mV, uV, nV or V, in symbols or in words."""
    text = (unit or "").strip().replace("\u00b5", "u").replace("\u03bc", "u").casefold()
    return _MV_PER_UNIT.get(text)


def mv_per_unit(path: Path, stated: str | None, given: str | None) -> float:
    """Factor from a unit to mV: the unit that the file states, else the unit that the caller gives.

    A given unit never replaces one that the file states, even where the stated one is not known: the file may mean
    something else than a voltage.

    Raises:
        RecordError: the unit is not mV, uV, nV or V, or neither states one.
    """
    if stated is not None and stated.strip():
        factor = known_unit(stated)
        if factor is None:
            raise RecordError(
                f"record {path}: the file states the unit {quoted_cell(stated.strip())}, which is not a voltage (mV, uV, nV, V); "
                "correct the unit in the file, or name the channel - in the leads (--leads, leads=) to leave it out"
            )
        return factor
    if given is None:
        check_stated(path, Given(), "unit")
    factor = known_unit(given)
    if factor is None:
        raise RecordError(
            f"record {path}: the given unit {given!r} is not known; pass mV, uV, nV or V (--units, units=)"
        )
    return factor
