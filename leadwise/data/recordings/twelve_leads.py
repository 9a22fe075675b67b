"""Convert a recording to the twelve leads, and those to the array (L, T) that a `Signal` specifies.

`read` (in `formats/reading.py`) reads a file. `to_twelve_leads` finds its leads by name, orders them, derives limb leads
from two of I, II and III, and determines the quality of each lead. `conform` resamples, crops and pads them for a model and marks
which samples are observed. Signals are in mV, and no missing sample is invented.
"""

from __future__ import annotations

import logging
import math
import statistics
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from typing import Literal

import numpy as np

from leadwise.batch import LEADS, Signal
from leadwise.data.recordings import lead_algebra
from leadwise.data.recordings.quality import (
    MARGIN_MV,
    PLAUSIBLE_MV,
    LeadQuality,
    Origin,
    bridgeable,
    find_gaps,
    integer_quality,
    lead_quality,
    range_mv,
)
from leadwise.data.recordings.recording import (
    MISSING,
    Digital,
    RecordError,
    Recording,
    in_millivolts,
)

log = logging.getLogger(__name__)

PADDING_S = 0.3  # a shorter constant run in every lead may be a slow stretch of a coarse recording


@dataclass(frozen=True)
class TwelveLead:
    """A recording in the canonical lead order, with the quality of each lead."""

    name: str
    given: np.ndarray | None  # (T0, 12) float64 mV in LEADS order, NaN = missing; None if `digital` holds all samples
    rate_hz: float
    quality: tuple[LeadQuality, ...]  # 12
    lead_order: str  # result of lead_algebra.check_limb_leads
    digital: Digital | None = None  # (T0, 12), -32768 in derived and missing leads
    unused: tuple[str, ...] = ()  # channels of the file that are not among the twelve
    plausible: bool = False  # the range of every lead is certainly that of an ECG in mV; False means undecided
    remarks: tuple[str, ...] = ()  # what reading the file changed or noticed

    @cached_property
    def signal(self) -> np.ndarray:
        """The samples (T0, 12) as float64 mV in LEADS order, NaN = missing; converted on first access."""
        return in_millivolts(self.given, self.digital)

    @property
    def n_samples(self) -> int:
        """Samples per lead, T0; does not convert integers."""
        return len(self.signal if self.digital is None else self.digital.samples)

    @cached_property
    def typical_range_mv(self) -> float:
        """The median range of the leads in mV, without flat leads if others exist; NaN if no lead varies."""
        ranges = [range_mv(lead) for lead in self.signal.T]
        varying = [(size, quality.flat) for size, quality in zip(ranges, self.quality) if size > 0]
        chosen = [size for size, flat in varying if not flat] or [size for size, _ in varying]
        return statistics.median(chosen) if chosen else math.nan

    @property
    def unit_doubt(self) -> str:
        """A remark on the unit if the leads are too large or too small for an ECG in mV, else ''."""
        if self.plausible:
            return ""
        typical = self.typical_range_mv
        if math.isnan(typical) or PLAUSIBLE_MV[0] <= typical <= PLAUSIBLE_MV[1]:
            return ""
        return f"its leads range over {typical:.3g} mV; is the unit right?"


def to_twelve_leads(recording: Recording) -> TwelveLead:
    """Return the twelve standard leads of a recording (T0, 12) in mV, found by name, with the quality of each.

    Limb leads that are missing are derived if two of I, II and III are present; other missing leads are NaN. Padding at
    the ends (every lead constant for at least PADDING_S) becomes missing samples. Three things are logged as warnings:
    limb leads that violate the limb-lead equations (`lead_order`), a doubtful unit (`unit_doubt`), and channels that are
    not among the twelve (`unused`).

    Raises:
        RecordError: the recording has none of the twelve leads.
    """
    # the leads that the file has
    column = {lead: number for number, lead in enumerate(recording.leads) if lead in LEADS}
    if not column:
        raise RecordError(
            f"record {recording.name}: none of the leads {', '.join(LEADS)}; it has {', '.join(recording.leads)}: "
            "name each of its channels (--leads, leads=)"
        )
    recording, padding = _without_padding(recording, sorted(column.values()))
    digital = None if recording.digital is None else _reorder_digital(recording.digital, column)
    unused = (*(lead for lead in recording.leads if lead not in LEADS), *recording.unused)

    # integers of all twelve leads take a faster path
    twelve = None
    if recording.given is None and digital is not None and len(column) == len(LEADS):
        twelve = _from_integers(recording, digital, unused)
    if twelve is None:
        twelve = _from_millivolts(recording, column, digital, unused)
    if recording.remarks or padding:
        twelve = replace(twelve, remarks=(*recording.remarks, *padding))

    # warnings
    if twelve.lead_order not in (lead_algebra.OK, lead_algebra.UNCHECKED):
        log.warning(
            "record %s: its limb leads violate III = II - I or the equations of aVR, aVL and aVF (%s); check the lead names in "
            "the file",
            recording.name,
            twelve.lead_order,
        )
    if twelve.unit_doubt:
        log.warning("record %s: %s", recording.name, twelve.unit_doubt)
    if unused:
        _log_unused(frozenset(unused))
    return twelve


def _from_millivolts(
    recording: Recording, column: dict[str, int], digital: Digital | None, unused: tuple[str, ...]
) -> TwelveLead:
    """The twelve leads of any recording: recorded or derived, NaN where a sample or a lead is missing."""
    signal = np.full((len(recording.signal), len(LEADS)), np.nan)
    origins: list[Origin] = []
    present = {lead for lead in column if np.isfinite(recording.signal[:, column[lead]]).any()}
    pair = lead_algebra.lead_pair(column)
    for number, lead in enumerate(LEADS):
        is_derivable = pair is not None and lead in lead_algebra.LIMB_LEADS and lead not in pair
        if lead in column and not (lead not in present and is_derivable):
            signal[:, number] = recording.signal[:, column[lead]]
            origins.append("recorded")
        elif pair is not None and is_derivable:
            signal[:, number] = lead_algebra.derive(lead, {name: recording.signal[:, column[name]] for name in pair})
            origins.append("derived")
        else:
            origins.append("missing")
    quality = tuple(lead_quality(signal[:, k], origins[k], recording.rate_hz) for k in range(len(LEADS)))
    verdict = lead_algebra.check_limb_leads({lead: recording.signal[:, k] for lead, k in column.items()})
    return TwelveLead(recording.name, signal, recording.rate_hz, quality, verdict, digital, unused)


def _without_padding(recording: Recording, columns: list[int]) -> tuple[Recording, tuple[str, ...]]:
    """The recording with its padding as missing samples, and a remark on it.

    Padding is a run at an end in which every lead is constant for at least PADDING_S. Exporters pad a short recording with
    zeros; the samples are not of a heart. A recording that is constant from end to end is left as it is: it is flat.
    """
    table = recording.given if recording.digital is None else recording.digital.samples
    if table is None:
        return recording, ()
    n_least = max(2, math.ceil(PADDING_S * recording.rate_hz))
    begin = _constant_run(table, columns, n_least)
    end = _constant_run(table[::-1], columns, n_least)
    if begin == end == 0 or begin + end >= len(table):
        return recording, ()

    # mark these samples as missing, in the leads that are used
    outside = np.concatenate([np.arange(begin), np.arange(len(table) - end, len(table))])
    marked = np.array(table, order="K")
    marked[outside[:, None], columns] = MISSING if recording.digital is not None else np.nan
    remark = f"padding of {begin / recording.rate_hz:.2f} s at the start and {end / recording.rate_hz:.2f} s at the end left out"
    if recording.digital is None:
        return replace(recording, given=marked), (remark,)
    return replace(recording, digital=replace(recording.digital, samples=marked)), (remark,)


def _constant_run(table: np.ndarray, columns: list[int], n_least: int) -> int:
    """The number of samples at the start of `table` (T0, L0) in which all `columns` are constant; 0 if below `n_least`.

    A lead that is missing throughout counts as constant; a run without any observed sample does not count.
    """
    if len(table) <= n_least:
        return 0
    first = table[0, columns]
    is_float = table.dtype.kind == "f"
    for place in (n_least - 1, n_least // 2, n_least // 4):  # nearly every recording ends here
        if not np.array_equal(table[place, columns], first, equal_nan=is_float):
            return 0
    is_missing = np.isnan(first) if is_float else first == MISSING
    if is_missing.all():
        return 0
    used = table[:, columns]
    is_different = used != first
    if is_float:
        is_different &= ~(np.isnan(used) & is_missing)
    differs = is_different.any(axis=1)
    n_constant = int(differs.argmax()) if differs.any() else len(table)
    return n_constant if n_constant >= n_least else 0


def _from_integers(recording: Recording, digital: Digital, unused: tuple[str, ...]) -> TwelveLead | None:
    """The same, many times faster, for twelve leads recorded as integers; None if a sample is missing."""
    samples, mv_per_step = np.ascontiguousarray(digital.samples.T), digital.uv_per_step / 1000.0
    if samples.size == 0 or mv_per_step.min() <= 0:
        return None
    counted = integer_quality(samples, digital.baseline, mv_per_step)
    if counted is None:
        return None
    n_limb, step = len(lead_algebra.LIMB_LEADS), float(mv_per_step[0])  # LEADS begins with the limb leads
    limb, middle, is_near = samples[:n_limb], counted.middle[:n_limb], counted.is_near[:n_limb]
    if (mv_per_step[:n_limb] == step).all() and (
        (is_near.all() and lead_algebra.equations_hold(limb, middle, step, MARGIN_MV))
        or lead_algebra.equations_hold(limb, np.median(limb, axis=1), step, off_by_mv=0.0)
    ):
        verdict = lead_algebra.OK
    else:
        verdict = lead_algebra.check_limb_leads(dict(zip(LEADS, digital.millivolts().T)))
    return TwelveLead(
        recording.name, None, recording.rate_hz, counted.quality, verdict, digital, unused, counted.plausible
    )


@cache  # a data set has the same names in every file: log them once
def _log_unused(names: frozenset[str]) -> None:
    log.warning("leads that are not among the twelve are not used: %s", ", ".join(sorted(names)))


def _reorder_digital(digital: Digital, column: dict[str, int]) -> Digital:
    """The integers (T0, 12) in LEADS order, each lead contiguous in memory; absent leads are MISSING."""
    rows = [column[lead] for lead in LEADS if lead in column]
    if rows == list(range(len(LEADS))) and digital.samples.shape[1] == len(LEADS):
        return digital
    samples = np.full((len(LEADS), len(digital.samples)), MISSING, dtype=np.int16)
    uv_per_step, baseline = np.ones(len(LEADS)), np.zeros(len(LEADS), dtype=np.int32)
    present = [number for number, lead in enumerate(LEADS) if lead in column]
    samples[present] = digital.samples.T[rows]
    uv_per_step[present], baseline[present] = digital.uv_per_step[rows], digital.baseline[rows]
    return Digital(samples.T, uv_per_step, baseline)


def conform(
    signal_mv: np.ndarray, rate_hz: float, expected: Signal, start_s: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Convert a signal to the leads, rate and duration of `expected`: ecg (L, T) float32 in mV and observed (L, T) bool.

    `signal_mv` is (T0, 12) in LEADS order, NaN = missing. Gaps of at most SHORT_GAP_MS are bridged by a straight line.
    Longer gaps, missing leads and the padding of a short recording are 0 in `ecg` and False in `observed`. Of a longer
    recording, `expected.window` determines the part that is used, or `start_s`, where that part begins.

    Raises:
        ValueError: `signal_mv` does not have 12 columns.
    """
    if signal_mv.ndim != 2 or signal_mv.shape[1] != len(LEADS):
        raise ValueError(f"conform expects (samples, {len(LEADS)} leads) in mV; got shape {signal_mv.shape}")

    # which resampled samples are used, and which source samples they need
    ratio = _ratio(expected.rate_hz / rate_hz, len(signal_mv))
    n_resampled = -(-len(signal_mv) * ratio.numerator // ratio.denominator)
    most = max(0, n_resampled - expected.n_samples)
    start = most // 2 if expected.window == "center" else 0
    if start_s is not None:
        start = min(most, round(start_s * expected.rate_hz))
    n_used = min(expected.n_samples, n_resampled - start)
    first, last, start = _source_window(len(signal_mv), start, n_used, ratio)

    # the requested leads with gaps bridged, at the new rate, padded to the duration
    columns = [LEADS.index(lead) for lead in expected.leads]
    signal, observed = _bridge(signal_mv[first:last, columns], rate_hz)
    if ratio != 1:
        signal, observed = _resample(signal, observed, ratio)
    ecg = np.zeros((len(columns), expected.n_samples), dtype=np.float32)  # (L, T)
    mask = np.zeros(ecg.shape, dtype=bool)
    mask[:, :n_used] = observed[start : start + n_used].T
    ecg[:, :n_used] = np.where(observed, signal, 0.0)[start : start + n_used].T
    return ecg, mask


def bridge_short_gaps(recording: TwelveLead) -> tuple[np.ndarray, np.ndarray]:
    """The whole recording at its own rate with short gaps bridged: ecg (12, T0) float32 in mV and observed (12, T0) bool."""
    signal, observed = _bridge(recording.signal, recording.rate_hz)
    return np.where(observed, signal, 0.0).T.astype(np.float32), observed.T


def remarks(recording: TwelveLead) -> tuple[str, ...]:
    """Remarks on a recording for its reader: leads that are missing, derived, flat, repaired or doubtful."""
    lines = []
    for text, chosen in (
        ("not recorded", [q.origin == "missing" for q in recording.quality]),
        ("derived from the other limb leads", [q.origin == "derived" for q in recording.quality]),
        ("flat", [q.flat for q in recording.quality]),
    ):
        names = [lead for lead, is_so in zip(LEADS, chosen) if is_so]
        if names:
            lines.append(f"{text}: {', '.join(names)}")
    if recording.unused:
        lines.append(f"not used: {', '.join(recording.unused)}")
    leads_by_gaps: dict[str, list[str]] = {}
    for lead, quality in zip(LEADS, recording.quality):
        if quality.origin != "missing" and quality.n_missing:
            gaps = f"{quality.n_short_gaps} short gaps bridged, {quality.n_long_gaps} left open"
            leads_by_gaps.setdefault(f"{quality.n_missing} samples missing, {gaps}", []).append(lead)
    lines += [f"{', '.join(leads)}: {gaps}" for gaps, leads in leads_by_gaps.items()]
    if recording.lead_order not in (lead_algebra.OK, lead_algebra.UNCHECKED):
        lines.append(f"limb leads violate III = II - I or the equations of aVR, aVL and aVF: {recording.lead_order}")
    if recording.unit_doubt:
        lines.append(recording.unit_doubt)
    return (*lines, *recording.remarks)


def _ratio(exact: float, n_samples: int) -> Fraction:
    """New samples per old sample: the simplest fraction that drifts by less than half a new sample over the recording."""
    for largest in (1000, 10_000, 100_000):
        ratio = Fraction(exact).limit_denominator(largest)
        if ratio > 0 and abs(float(ratio) - exact) * n_samples < 0.5:
            break
    return ratio


def _source_window(n_samples: int, start: int, n_used: int, ratio: Fraction) -> tuple[int, int, int]:
    """The range of source samples needed for the resampled ones `start ... start + n_used`, and `start` within it.

    A margin excludes edge effects of the filter and of gaps. The first sample is a multiple of the denominator, so that
    the resampled grid is that of the whole recording.
    """
    up, down = ratio.numerator, ratio.denominator
    margin = 20 * max(1, -(-max(up, down) // up)) + 1000
    first = max(0, start * down // up - margin) // down * down
    last = min(n_samples, (start + n_used) * down // up + margin)
    return first, last, start - first * up // down


def _bridge(signal: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """The signal (T0, L) with all gaps filled, and observed (T0, L): true in recorded samples and in short gaps."""
    observed = np.isfinite(signal)
    if observed.all():
        return signal, observed
    filled, usable = signal.copy(), observed.copy()
    time = np.arange(len(signal))
    for lead in np.flatnonzero(~observed.all(axis=0)):
        real = observed[:, lead]
        if not real.any():
            filled[:, lead] = 0.0
            continue
        filled[~real, lead] = np.interp(time[~real], time[real], signal[real, lead])  # ends: the nearest value
        gaps = find_gaps(real)
        for begin, end in gaps[bridgeable(gaps, len(signal), rate_hz)]:
            usable[begin:end, lead] = True
    return filled, usable


def _resample(signal: np.ndarray, observed: np.ndarray, ratio: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Resample signal and mask (T0, L) to (T1, L); a new sample is observed if both its neighbours are."""
    from scipy.signal import resample_poly

    # The median is subtracted and added again: the filter's gain at 0 Hz differs slightly between its phases, and a
    # recorder's offset can be a hundred times the ECG. 'line' extends the ends without a step, which avoids ringing.
    offset = np.median(signal, axis=0, keepdims=True)
    ends: Literal["line", "edge"] = "line" if len(signal) > 1 else "edge"  # one sample has no line
    resampled = resample_poly(signal - offset, ratio.numerator, ratio.denominator, axis=0, padtype=ends) + offset
    place = np.arange(len(resampled)) * ratio.denominator
    below = place // ratio.numerator
    above = np.minimum(-(-place // ratio.numerator), len(signal) - 1)
    return resampled, observed[below] & observed[above]
