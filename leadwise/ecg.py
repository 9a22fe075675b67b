"""`ECG`: a recording as users of the API see it, twelve leads in mV with their quality; and functions that make one.

`leadwise.read` is `read`, `leadwise.formats` is `formats`. Nothing here imports torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from leadwise.batch import LEADS
from leadwise.data.formats import reading
from leadwise.data.formats.arrays import from_table
from leadwise.data.formats.channels import choose_channels
from leadwise.data.formats.given import Given, check_is_list, check_lead_names, checked_rate
from leadwise.data.recordings import twelve_leads
from leadwise.data.recordings.recording import RecordError, Recording
from leadwise.data.recordings.twelve_leads import TwelveLead

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leadwise.data.measurements import Measurements

_NEEDED = {"leads": "lead names", "rate_hz": "sampling rate", "units": "unit"}  # argument -> what it states


@dataclass(frozen=True, eq=False, repr=False)
class ECG:
    """A recording with its twelve standard leads; missing limb leads are derived from two others.

    `recording` is the file as it was read, with its own leads and order.
    """

    recording: Recording

    @cached_property
    def twelve(self) -> TwelveLead:
        """The twelve leads with quality and lead order, as `leadwise prepare` uses them.

        Raises:
            RecordError: the recording has none of the twelve leads.
        """
        return twelve_leads.to_twelve_leads(self.recording)

    @property
    def name(self) -> str:
        """The name of the recording: that of its file, without suffix."""
        return self.recording.name

    @property
    def leads(self) -> tuple[str, ...]:
        """The names of the rows of `signal`: always the twelve, in the standard order."""
        return LEADS

    @cached_property
    def signal(self) -> np.ndarray:
        """The samples (12, T) as float64 mV at the file's own rate, NaN = missing."""
        return np.ascontiguousarray(self.twelve.signal.T)

    @cached_property
    def observed(self) -> np.ndarray:
        """Which samples of `signal` (12, T) exist, as bool."""
        mask: np.ndarray = np.isfinite(self.signal)
        return mask

    @property
    def rate_hz(self) -> float:
        """The sampling rate in Hz."""
        return self.recording.rate_hz

    @property
    def duration_s(self) -> float:
        """The duration in seconds."""
        return self.twelve.n_samples / self.rate_hz

    @cached_property
    def quality(self) -> pd.DataFrame:
        """One row per lead: origin (recorded, derived, missing), missing samples, gaps, flat, largest amplitude in mV."""
        return pd.DataFrame(self.twelve.quality, index=pd.Index(LEADS, name="lead"))

    @property
    def stated(self) -> Mapping[str, Any]:
        """What the file states besides samples, such as `age`, `sex` or `device`; never a name, a number or a full date."""
        return self.recording.stated

    @property
    def statements(self) -> tuple[str, ...]:
        """Statements of the device or reader in the file, without names, signatures, dates and times."""
        return self.recording.statements

    @property
    def format(self) -> str:
        """The format of the file, with its version where it has one."""
        return self.recording.format

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks for a reader: leads that are missing, derived, flat or not used, gaps, doubts on names or unit."""
        return twelve_leads.remarks(self.twelve)

    @property
    def unit_doubt(self) -> str:
        """A remark on the unit if the amplitudes are not those of an ECG in mV, else ''."""
        return self.twelve.unit_doubt

    @property
    def refusal(self) -> str:
        """The reason why this ECG is not interpretable, else '': nothing observed, all leads flat, or a doubtful unit."""
        observed = [quality for quality in self.twelve.quality if quality.max_abs_mv == quality.max_abs_mv]
        if not observed:
            return "no sample was observed in any lead"
        if all(quality.flat for quality in observed):
            return "all leads are flat"
        return self.unit_doubt

    def measure(self) -> Measurements:
        """Return heart rate, PR, QRS, QT, QTc and frontal axis, and the points of each beat; NaN where not measurable."""
        from leadwise.data.measurements import measure

        return measure(self.signal, self.leads, self.rate_hz)

    def plot(self, path: Path | str | None = None) -> Figure:
        """Return a figure on paper grid (25 mm/s, 10 mm/mV); with a path (.png, .svg or .pdf), also write it there."""
        from leadwise.pictures import ink, paper

        ecg, observed = twelve_leads.bridge_short_gaps(self.twelve)
        figure = paper.draw(ecg, self.rate_hz, LEADS, title=self.name, notes=self.remarks, observed=observed)
        if path is not None:
            ink.save(figure, Path(path))
        return figure

    def __repr__(self) -> str:
        n_samples = len(self.recording.signal)
        return f"ECG({self.name!r}, {len(self.recording.leads)} leads, {n_samples / self.rate_hz:g} s, {self.rate_hz:g} Hz)"


def read(
    source: Path | str | bytes,
    *,
    leads: Sequence[str] | None = None,
    rate_hz: float | None = None,
    units: str | None = None,
    item: str | int | None = None,
) -> ECG:
    """Return the ECG in a file, or in the bytes of one.

    Args:
        source: a path (a WFDB record may be named by its header, or without suffix), or the contents of a file.
        leads, rate_hz, units: what the file does not state. Names in `leads` replace those of the file.
        item: the name of one recording, in a file that holds several.

    Raises:
        RecordError: no such file, an unknown format, a damaged file, or something that the file does not state is not
            given.
    """
    return ECG(reading.read(source, leads=leads, rate_hz=rate_hz, units=units, item=item))


def from_array(
    array: Any,
    *,
    rate_hz: float | None = None,
    leads: Sequence[str] | None = None,
    units: str | None = None,
    name: str = "array",
) -> ECG:
    """Return the ECG in an array (L, T), a numpy array or torch tensor, which states neither leads, rate nor unit.

    Args:
        leads: the names of the L rows.
        units: mV, uV or V.
        name: the name of the ECG in messages and tables.

    Raises:
        RecordError: leads, rate or unit are not given, the array holds no numbers, or it is not (L, T).
    """
    values = as_numpy(array)
    check_given(rate_hz, leads, units)
    given = given_facts(checked_rate(Path(name), rate_hz), leads, units)
    assert given.leads is not None  # by check_given
    check_shape(values, given.leads, 2)
    check_lead_names(given.leads, "array")
    channels = choose_channels(Path(name), ("",) * len(given.leads), given)
    recording = from_table(Path(name), values.T, channels, given)
    content = np.ascontiguousarray(values).tobytes()
    return ECG(replace(recording, name=name, files=(), contents=(content,), format="array"))


def as_numpy(array: Any) -> np.ndarray:
    """Return a numpy array, list of numbers or torch tensor as a numpy array; a tensor's device and type may be any."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
        return np.asarray(array.numpy())
    return np.asarray(array)


def given_facts(rate_hz: float | None, leads: Sequence[str] | None, units: str | None) -> Given:
    """Return what a caller states about files and arrays.

    Raises:
        RecordError: `leads` is one text instead of a list of names.
    """
    check_is_list(leads)
    return Given(None if leads is None else tuple(leads), rate_hz, units)


def check_given(rate_hz: float | None, leads: Sequence[str] | None, units: str | None) -> None:
    """Check that the caller states what an array does not.

    Raises:
        RecordError: something is missing; one message names all of it.
    """
    values = {"leads": leads, "rate_hz": rate_hz, "units": units}
    missing = [argument for argument, value in values.items() if value is None]
    if missing:
        what = ", ".join(_NEEDED[argument] for argument in missing)
        raise RecordError(f"an array does not state its {what}; pass {', '.join(f'{name}=' for name in missing)}")


def check_shape(values: np.ndarray, leads: Sequence[str], n_dimensions: int) -> None:
    """Check that an array is (L, T), or (N, L, T), of numbers. Nothing is transposed.

    Raises:
        RecordError: it is not; the message contains its shape.
    """
    expected = "(L, T)" if n_dimensions == 2 else "(N, L, T)"
    if values.dtype.kind not in "iuf":
        raise RecordError(f"the array holds {values.dtype}; it must hold numbers of shape {expected}")
    n_leads = len(leads)
    if values.ndim != n_dimensions or 0 in values.shape:
        raise RecordError(f"the array has shape {values.shape}; it must be {expected} with L = {n_leads} leads")
    if values.shape[-2] != n_leads:
        if values.shape[-1] == n_leads:
            remedy = "transpose it: array.T" if n_dimensions == 2 else "swap the last two axes: array.swapaxes(1, 2)"
            raise RecordError(
                f"the array has shape {values.shape}, samples before leads; it must be {expected} with L = {n_leads}; {remedy}"
            )
        raise RecordError(f"the array has shape {values.shape}, but leads= names {n_leads}; it must be {expected}")


def formats() -> pd.DataFrame:
    """Return the file formats that can be read, one row each: suffixes, and a description."""
    rows: list[Mapping[str, str]] = []
    for known in reading.all_formats():
        text = inspect.getdoc(inspect.getmodule(known.matches)) or ""
        suffixes = ", ".join(suffix or "(no suffix)" for suffix in known.suffixes)
        rows.append(
            {"format": known.name, "suffixes": suffixes, "description": text.split("\n\n")[0].replace("\n", " ")}
        )
    return pd.DataFrame(rows).set_index("format")
