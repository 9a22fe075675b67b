"""Recording -> twelve leads -> the promised (L, T). Leads by name, signals in mV, nothing invented.

`read` (in `waveform.py`) takes a file as it is. `twelve` puts its leads in the canonical order, derives what the
limb-lead algebra gives and says how good each lead is. `conform` resamples, crops and pads to what a
`Signal` promises, and marks what is real.
"""

from __future__ import annotations

import logging
import math
import statistics
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property

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


@dataclass(frozen=True)
class TwelveLead:
    """A recording in the canonical lead order, with the quality of each lead."""

    name: str
    given: np.ndarray | None  # (T0, 12) float64 mV in LEADS order, NaN = missing; None where `digital` says it all
    rate_hz: float
    quality: tuple[LeadQuality, ...]  # 12
    lead_order: str  # verdict of lead_algebra.audit
    digital: Digital | None = None  # (T0, 12), derived and missing leads all -32768
    unused: tuple[str, ...] = ()  # leads of the file that are none of the twelve
    plausible: bool = False  # the range of every lead is surely that of an ECG in mV; False decides nothing

    @cached_property
    def signal(self) -> np.ndarray:
        """The samples (T0, 12) as float64 mV in LEADS order, NaN = missing; converted when first asked for."""
        return in_millivolts(self.given, self.digital)

    @property
    def n_samples(self) -> int:
        """Samples per lead; nothing is converted."""
        return len(self.signal if self.digital is None else self.digital.samples)

    @cached_property
    def typical_range_mv(self) -> float:
        """The median range of the leads in mV, of those not flat if there are any; NaN where nothing moves."""
        ranges = [range_mv(lead) for lead in self.signal.T]
        moving = [(size, quality.flat) for size, quality in zip(ranges, self.quality) if size > 0]
        chosen = [size for size, flat in moving if not flat] or [size for size, _ in moving]
        return statistics.median(chosen) if chosen else math.nan

    @property
    def unit_doubt(self) -> str:
        """A question where the leads are too large or too small for an ECG in mV; '' where they are not."""
        if self.plausible:
            return ""
        typical = self.typical_range_mv
        if math.isnan(typical) or PLAUSIBLE_MV[0] <= typical <= PLAUSIBLE_MV[1]:
            return ""
        return f"its leads range over {typical:.3g} mV; is the unit right?"


def to_twelve_leads(recording: Recording) -> TwelveLead:
    """The twelve canonical leads (T0, 12) in mV by name, derived where I and II allow it, with the quality of each.

    A lead that is truly missing stays NaN. Limb leads that break the algebra of the frontal plane (the verdict stands
    in `lead_order`), a doubtful unit (`unit_doubt`) and leads that are none of the twelve (`unused`) are logged as
    warnings.

    Raises:
        RecordError: none of the twelve leads is there.
    """
    column = {lead: number for number, lead in enumerate(recording.leads) if lead in LEADS}
    if not column:
        raise RecordError(
            f"record {recording.name}: none of the leads {', '.join(LEADS)}; it has {', '.join(recording.leads)}: "
            "say leads= or rename them"
        )
    digital = None if recording.digital is None else _reorder_digital(recording.digital, column)
    unused = tuple(lead for lead in recording.leads if lead not in LEADS)
    found = None
    if recording.given is None and digital is not None and len(column) == len(LEADS):
        found = _from_integers(recording, digital, unused)
    if found is None:
        found = _from_millivolts(recording, column, digital, unused)
    if found.lead_order not in (lead_algebra.OK, lead_algebra.UNCHECKED):
        log.warning(
            "record %s: its limb leads break III = II - I and its kin (%s); check the lead names in the file",
            recording.name,
            found.lead_order,
        )
    if found.unit_doubt:
        log.warning("record %s: %s", recording.name, found.unit_doubt)
    if unused:
        _log_unused(frozenset(unused))
    return found


def _from_millivolts(
    recording: Recording, column: dict[str, int], digital: Digital | None, unused: tuple[str, ...]
) -> TwelveLead:
    """Any recording: the leads it has or that can be derived, NaN where a sample or a lead is missing."""
    signal = np.full((len(recording.signal), len(LEADS)), np.nan)
    origins: list[Origin] = []
    derivable = lead_algebra.EINTHOVEN if "I" in column and "II" in column else {}
    for number, lead in enumerate(LEADS):
        empty = lead not in column or not np.isfinite(recording.signal[:, column[lead]]).any()
        if lead in column and not (empty and lead in derivable):
            signal[:, number] = recording.signal[:, column[lead]]
            origins.append("recorded")
        elif lead in derivable:
            of_i, of_ii = derivable[lead]
            signal[:, number] = of_i * recording.signal[:, column["I"]] + of_ii * recording.signal[:, column["II"]]
            origins.append("derived")
        else:
            origins.append("missing")
    quality = tuple(lead_quality(signal[:, k], origins[k], recording.rate_hz) for k in range(len(LEADS)))
    verdict = lead_algebra.check_limb_leads({lead: recording.signal[:, k] for lead, k in column.items()})
    return TwelveLead(recording.name, signal, recording.rate_hz, quality, verdict, digital, unused)


def _from_integers(recording: Recording, digital: Digital, unused: tuple[str, ...]) -> TwelveLead | None:
    """The same, many times faster, where all twelve leads were recorded as integers and no sample is missing."""
    samples, mv_per_step = np.ascontiguousarray(digital.samples.T), digital.uv_per_step / 1000.0
    if samples.size == 0 or mv_per_step.min() <= 0:
        return None
    seen = integer_quality(samples, digital.baseline, mv_per_step)
    if seen is None:
        return None
    n_limb, step = len(lead_algebra.LIMB_LEADS), float(mv_per_step[0])  # LEADS begins with the limb leads
    limb, middle, is_near = samples[:n_limb], seen.middle[:n_limb], seen.is_near[:n_limb]
    if (mv_per_step[:n_limb] == step).all() and (
        (is_near.all() and lead_algebra.equations_hold(limb, middle, step, MARGIN_MV))
        or lead_algebra.equations_hold(limb, np.median(limb, axis=1), step, off_by_mv=0.0)
    ):
        verdict = lead_algebra.OK
    else:
        verdict = lead_algebra.check_limb_leads(dict(zip(LEADS, digital.millivolts().T)))
    return TwelveLead(recording.name, None, recording.rate_hz, seen.quality, verdict, digital, unused, seen.plausible)


@cache  # a data set has the same names in every file: said once
def _log_unused(names: frozenset[str]) -> None:
    log.warning("leads that are none of the twelve are not used: %s", ", ".join(sorted(names)))


def _reorder_digital(digital: Digital, column: dict[str, int]) -> Digital:
    """The integers (T0, 12) in LEADS order, each lead in one piece of memory; what is not there is MISSING."""
    rows = [column[lead] for lead in LEADS if lead in column]
    if rows == list(range(len(LEADS))) and digital.samples.shape[1] == len(LEADS):
        return digital
    samples = np.full((len(LEADS), len(digital.samples)), MISSING, dtype=np.int16)
    uv_per_step, baseline = np.ones(len(LEADS)), np.zeros(len(LEADS), dtype=np.int32)
    there = [number for number, lead in enumerate(LEADS) if lead in column]
    samples[there] = digital.samples.T[rows]
    uv_per_step[there], baseline[there] = digital.uv_per_step[rows], digital.baseline[rows]
    return Digital(samples.T, uv_per_step, baseline)


def conform(
    signal_mv: np.ndarray, rate_hz: float, promised: Signal, start_s: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What a Signal promises: ecg (L, T) float32 in mV and observed (L, T) bool.

    `signal_mv` is (T0, 12) in LEADS order, NaN = missing. Gaps of at most SHORT_GAP_MS are bridged
    by a straight line; longer ones, missing leads and the padding of a short recording are 0 in `ecg` and false in
    `observed`. `promised.window` says which part of a longer recording stays, or `start_s` where that part begins.
    """
    if signal_mv.ndim != 2 or signal_mv.shape[1] != len(LEADS):
        raise ValueError(f"conform takes (samples, {len(LEADS)} leads) in mV; got shape {signal_mv.shape}")
    ratio = _ratio(promised.rate_hz / rate_hz, len(signal_mv))
    n_resampled = -(-len(signal_mv) * ratio.numerator // ratio.denominator)
    most = max(0, n_resampled - promised.n_samples)
    start = most // 2 if promised.window == "center" else 0
    if start_s is not None:
        start = min(most, round(start_s * promised.rate_hz))
    n_kept = min(promised.n_samples, n_resampled - start)
    first, last, start = _source_window(len(signal_mv), start, n_kept, ratio)

    columns = [LEADS.index(lead) for lead in promised.leads]
    signal, observed = _bridge(signal_mv[first:last, columns], rate_hz)
    if ratio != 1:
        signal, observed = _resample(signal, observed, ratio)
    ecg = np.zeros((len(columns), promised.n_samples), dtype=np.float32)  # (L, T)
    mask = np.zeros(ecg.shape, dtype=bool)
    mask[:, :n_kept] = observed[start : start + n_kept].T
    ecg[:, :n_kept] = np.where(observed, signal, 0.0)[start : start + n_kept].T
    return ecg, mask


def bridge_short_gaps(recording: TwelveLead) -> tuple[np.ndarray, np.ndarray]:
    """The whole recording at its own rate: ecg (12, T0) float32 in mV, short gaps bridged, and observed (12, T0) bool."""
    signal, observed = _bridge(recording.signal, recording.rate_hz)
    return np.where(observed, signal, 0.0).T.astype(np.float32), observed.T


def remarks(recording: TwelveLead) -> tuple[str, ...]:
    """What a person should know of a recording before looking at it: what is missing, derived, repaired or odd."""
    said = []
    for text, chosen in (
        ("not recorded", [q.origin == "missing" for q in recording.quality]),
        ("derived from I and II", [q.origin == "derived" for q in recording.quality]),
        ("flat", [q.flat for q in recording.quality]),
    ):
        names = [lead for lead, is_so in zip(LEADS, chosen) if is_so]
        if names:
            said.append(f"{text}: {', '.join(names)}")
    if recording.unused:
        said.append(f"not used: {', '.join(recording.unused)}")
    for lead, quality in zip(LEADS, recording.quality):
        if quality.origin != "missing" and quality.n_missing:
            said.append(
                f"{lead}: {quality.n_missing} samples missing, {quality.n_short_gaps} short gaps bridged, "
                f"{quality.n_long_gaps} left open"
            )
    if recording.lead_order not in (lead_algebra.OK, lead_algebra.UNCHECKED):
        said.append(f"limb leads break III = II - I and its kin: {recording.lead_order}")
    if recording.unit_doubt:
        said.append(recording.unit_doubt)
    return tuple(said)


def _ratio(exact: float, n_samples: int) -> Fraction:
    """New samples per old one: the simplest fraction that drifts by less than half a new sample over all."""
    for largest in (1000, 10_000, 100_000):
        ratio = Fraction(exact).limit_denominator(largest)
        if ratio > 0 and abs(float(ratio) - exact) * n_samples < 0.5:
            break
    return ratio


def _source_window(n_samples: int, start: int, n_kept: int, ratio: Fraction) -> tuple[int, int, int]:
    """Which source samples are needed for resampled ones `start ... start + n_kept`, and where those then begin.

    A margin keeps the filter's and the gaps' edge effects out; the first sample is a multiple of the denominator, so
    that the resampled grid stays the same as that of the whole recording.
    """
    up, down = ratio.numerator, ratio.denominator
    margin = 20 * max(1, -(-max(up, down) // up)) + 1000
    first = max(0, start * down // up - margin) // down * down
    last = min(n_samples, (start + n_kept) * down // up + margin)
    return first, last, start - first * up // down


def _bridge(signal: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """The signal (T0, L) without NaN and what of it is observed (T0, L): all gaps are filled, only short ones count."""
    observed = np.isfinite(signal)
    if observed.all():
        return signal, observed
    filled, counted = signal.copy(), observed.copy()
    time = np.arange(len(signal))
    for lead in np.flatnonzero(~observed.all(axis=0)):
        real = observed[:, lead]
        if not real.any():
            filled[:, lead] = 0.0
            continue
        filled[~real, lead] = np.interp(time[~real], time[real], signal[real, lead])  # ends: the nearest value
        gaps = find_gaps(real)
        for begin, end in gaps[bridgeable(gaps, len(signal), rate_hz)]:
            counted[begin:end, lead] = True
    return filled, counted


def _resample(signal: np.ndarray, observed: np.ndarray, ratio: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Signal and mask (T0, L) on the new grid (T1, L); a new sample is observed where both its neighbours were."""
    from scipy.signal import resample_poly

    # The median goes out and in again: the filter's gain at 0 Hz differs a little between its phases, and a recorder's
    # offset can be a hundred times the heart's signal. 'line' extends the ends without a step, so they do not ring.
    offset = np.median(signal, axis=0, keepdims=True)
    resampled = resample_poly(signal - offset, ratio.numerator, ratio.denominator, axis=0, padtype="line") + offset
    place = np.arange(len(resampled)) * ratio.denominator
    below = place // ratio.numerator
    above = np.minimum(-(-place // ratio.numerator), len(signal) - 1)
    return resampled, observed[below] & observed[above]
