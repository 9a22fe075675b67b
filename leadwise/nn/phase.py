"""The phase of the cardiac cycle: R peaks of an ECG, the phase between two of them, and the phase as a training target.

Phase goes from 0 at an R peak to 1 at the next. Before the first R peak of a record and after the last, it is unknown: samples
there have no target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.batch import Batch, Signal
from leadwise.nn import normalize

_APART_S = 0.25  # least time between two R peaks
_SMOOTH_S = 0.08  # width of a QRS, over which its energy is averaged
_REFINE_S = 0.06  # from the middle of a QRS's energy to its R peak, at most
_LEVEL = 0.3  # of the record's highest energy, as its 98th percentile
_QRS_ONSET_S = 0.04  # before the R peak
_T_END = 0.36  # after the R peak, in s at an RR interval of 1 s; grows with the square root of RR


@dataclass(frozen=True)
class RPeaks:
    """The R peaks of B records, in order; records with fewer have padding."""

    sample: Tensor  # (B, M) int64
    real: Tensor  # (B, M) bool, False in padding


@dataclass(frozen=True)
class Phase:
    """The phase of each sample of B records."""

    value: Tensor  # (B, T) in [0, 1); 0 where unknown
    known: Tensor  # (B, T) bool
    rr_s: Tensor  # (B, T) s, the RR interval that contains the sample; 0 where unknown


@torch.no_grad()
def r_peaks(batch: Batch, signal: Signal) -> RPeaks:
    """Return the R peaks of each record: of lead II where it is observed, else of all observed leads together.

    A QRS is a local maximum, within 0.25 s, of the energy of the first difference, averaged over 80 ms: the height of the
    samples alone, as published, would also count tall T waves. The R peak is the largest deviation from the median next to it.
    """
    trace, observed = _trace(batch, signal)
    rate = signal.rate_hz

    # the energy of steep parts, averaged over the width of a QRS
    step = F.pad((trace[:, 1:] - trace[:, :-1]).square() * (observed[:, 1:] & observed[:, :-1]), (1, 0))
    width = 2 * max(1, round(_SMOOTH_S * rate / 2)) + 1
    energy = F.avg_pool1d(step[:, None], width, 1, width // 2)[:, 0]  # (B, T)

    # local maxima that are high enough; of equal neighbours the first
    reach = max(1, round(_APART_S * rate)) // 2
    highest = F.max_pool1d(energy[:, None], 2 * reach + 1, 1, reach)[:, 0]
    level = _LEVEL * energy.sort(-1).values[:, int(0.98 * (energy.shape[1] - 1)), None]
    is_peak = (energy == highest) & (energy > level) & (energy > 0)
    is_peak = is_peak & ~F.pad(is_peak[:, :-1], (1, 0))

    # as indices, padded to the record with the most
    n = is_peak.sum(1)
    most = max(1, int(n.max()))
    order = (~is_peak).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
    real = torch.arange(most, device=order.device)[None] < n[:, None]

    # move each to the largest deviation next to it
    near = max(1, round(_REFINE_S * rate))
    window = order[..., None] + torch.arange(-near, near + 1, device=order.device)  # (B, M, 2 near + 1)
    inside = window.clamp(0, trace.shape[1] - 1)
    size = (trace.abs() * observed)[:, None].expand(-1, most, -1).gather(2, inside)
    sample = inside.gather(2, size.argmax(-1, keepdim=True))[..., 0]
    return RPeaks(torch.where(real, sample, 0), real)


def heart_rate(peaks: RPeaks, rate_hz: float) -> Tensor:
    """Return the mean ventricular rate (B,) in bpm between the first and the last R peak; NaN with fewer than two."""
    n = peaks.real.sum(1)
    last = peaks.sample.gather(1, (n - 1).clamp(min=0)[:, None])[:, 0]
    seconds = (last - peaks.sample[:, 0]) / rate_hz
    return torch.where(n > 1, 60 * (n - 1) / seconds.clamp(min=1e-3), torch.nan)


@torch.no_grad()
def rr_phase(peaks: RPeaks, n_samples: int, rate_hz: float) -> Phase:
    """Return the phase of each of `n_samples` samples: linear from 0 to 1 between R peaks, unknown outside of them."""
    b, most = peaks.sample.shape
    marks = torch.zeros(b, n_samples, dtype=torch.int64, device=peaks.sample.device)
    marks.scatter_add_(1, peaks.sample, peaks.real.long())
    marks = marks.clamp(max=1)
    # the positions without duplicates, and for each sample the number of peaks up to it
    count = marks.cumsum(1)
    position = torch.arange(n_samples, device=marks.device).expand(b, -1)
    places = torch.zeros(b, most + 2, dtype=torch.int64, device=marks.device)
    places.scatter_(1, torch.where(marks > 0, count, most + 1), position)
    known = (count > 0) & (count < count[:, -1:])
    before = places.gather(1, count)
    after = places.gather(1, (count + 1).clamp(max=most + 1))
    length = torch.where(known, after - before, 1).clamp(min=1)
    value = torch.where(known, (position - before) / length, 0.0)
    return Phase(value, known, torch.where(known, length / rate_hz, 0.0))


def phase_of(batch: Batch, signal: Signal) -> Phase:
    """Return the phase of each sample of a batch."""
    return rr_phase(r_peaks(batch, signal), batch.ecg.shape[-1], signal.rate_hz)


def phase_target(phase: Phase) -> Tensor:
    """(B, T, 2): sine and cosine of the phase, which do not jump at an R peak. Only `phase.known` samples are targets."""
    angle = 2 * math.pi * phase.value
    return torch.stack([angle.sin(), angle.cos()], dim=-1)


def window_weights(phase: Phase, name: str, half_s: float, n_tokens: int) -> Tensor:
    """(B, N): the share of each token's samples that is within `half_s` of a point of the cycle.

    A token is one of `n_tokens` equal parts of the samples. The points: "ed", the onset of the QRS (end of diastole, the
    largest volume), and "es", the end of the T wave (end of systole, the smallest).

    Raises:
        ValueError: another name.
    """
    since_r = phase.value * phase.rr_s
    if name == "ed":
        away = torch.minimum((since_r + _QRS_ONSET_S).abs(), (phase.rr_s - since_r - _QRS_ONSET_S).abs())
    elif name == "es":
        away = (since_r - _T_END * phase.rr_s.sqrt()).abs()
    else:
        raise ValueError(f"'{name}' has no window of the cardiac cycle; known: ed, es")
    inside = (
        phase.known & (away <= half_s)
    ).long()  # whole numbers: a GPU has no repeatable sum along an axis of floats
    # tokens may cover the samples unevenly, as the positions of a ResNet do: each token has an equal share
    edges = torch.linspace(0, inside.shape[1], n_tokens + 1, device=inside.device).round().long()
    total = F.pad(inside.cumsum(1), (1, 0))
    return (total[:, edges[1:]] - total[:, edges[:-1]]) / (edges[1:] - edges[:-1]).clamp(min=1)


def _trace(batch: Batch, signal: Signal) -> tuple[Tensor, Tensor]:
    """One trace (B, T) for each record, with the median at 0, and its observed samples."""
    ecg = (batch.ecg - normalize.median(batch.ecg, batch.observed)) * batch.observed
    anything = batch.observed.any(1)
    # all leads, each divided by its spread, as the root of the mean square
    spread = ecg.square().sum(-1, keepdim=True) / batch.observed.sum(-1, keepdim=True).clamp(min=1)
    scaled = ecg / (spread.sqrt() + 1e-3)
    together = (scaled.square().sum(1) / batch.observed.sum(1).clamp(min=1)).sqrt()
    if "II" not in signal.leads:
        return together, anything
    lead = signal.leads.index("II")
    has_two = 2 * batch.observed[:, lead].sum(-1) >= anything.sum(-1)  # in at least half of what any lead has
    has_two = has_two & (spread[:, lead, 0] > 1e-6)
    trace = torch.where(has_two[:, None], scaled[:, lead], together)
    return trace, torch.where(has_two[:, None], batch.observed[:, lead], anything)
