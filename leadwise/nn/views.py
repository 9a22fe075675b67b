"""Random views of ECGs for two-view methods, and of ECG-report pairs for methods that train on reports.

Disturbances are drawn at the nine electrodes and mapped to the leads, so that III = II - I still holds. Removed parts (a crop, a
lead, a segment) become unobserved, never altered. Signs, leads and time keep their order, so that the diagnosis is unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal, to_device
from leadwise.config import check_ranges
from leadwise.nn import augment
from leadwise.nn import text as reports
from leadwise.nn.patches import patchify


@dataclass(frozen=True)
class ViewSettings:
    """Settings of random views; 0 switches a step off (for `view_crop`: 1)."""

    view_crop: float = 0.5  # share of the recording that a view covers, in one piece
    view_gain: float = 0.1  # one random factor exp(N(0, view_gain)) for all leads of a record
    view_wander_mv: float = 0.1  # baseline wander at each electrode, largest amplitude
    view_powerline_mv: float = 0.02  # mains hum at each electrode, largest amplitude
    view_noise_mv: float = 0.02  # white noise at each electrode, largest standard deviation
    view_lead_mask: float = 0.5  # probability that a lead is removed; at least one remains
    view_time_mask: float = 0.1  # share of the view that is removed from all leads, in one piece

    def __post_init__(self) -> None:
        check_ranges(self, view_crop="(0, 1]", view_lead_mask="[0, 1)", view_time_mask="[0, 1)")
        check_ranges(self, view_gain=">= 0", view_wander_mv=">= 0", view_powerline_mv=">= 0", view_noise_mv=">= 0")


@dataclass(frozen=True)
class UnchangedViewSettings(ViewSettings):
    """Settings of random views where the paper has none: every step is off unless it is set."""

    view_crop: float = 1.0
    view_gain: float = 0.0
    view_wander_mv: float = 0.0
    view_powerline_mv: float = 0.0
    view_noise_mv: float = 0.0
    view_lead_mask: float = 0.0
    view_time_mask: float = 0.0


@dataclass(frozen=True)
class View:
    """B views: ECGs in mV, possibly crops, and their first samples."""

    batch: Batch  # ecg, observed: (B, L, T')
    start: Tensor  # (B,) first sample within the whole recording


class Views(nn.Module):
    """Draws random views. Crops begin and end at multiples of `grid` samples."""

    electrodes: Tensor

    def __init__(self, settings: ViewSettings, signal: Signal, grid: int = 1) -> None:
        super().__init__()
        self.settings, self.rate_hz, self.grid = settings, signal.rate_hz, grid
        n_crop = max(1, round(settings.view_crop * signal.n_samples / grid)) * grid
        self.n_crop = min(n_crop, signal.n_samples)
        self.register_buffer("electrodes", augment.lead_algebra(signal.leads), persistent=False)  # (L, 9)

    def forward(self, batch: Batch) -> View:
        """One random view of each record; call it twice for two views."""
        s = self.settings
        ecg, observed, start = augment.crop(batch.ecg, batch.observed, self.n_crop, self.grid)
        if s.view_gain:
            ecg = augment.gain(ecg, s.view_gain)
        ecg = ecg + self._disturbance(ecg)
        remaining = self._remaining(ecg, observed)
        # an encoder of whole patches needs at least one: otherwise the record keeps all that was observed
        has_patch = self._whole(remaining).any(-1)[:, None, None]
        observed = torch.where(has_patch, remaining, observed)
        return View(replace(batch, ecg=ecg * observed, observed=observed), start)

    def _remaining(self, ecg: Tensor, observed: Tensor) -> Tensor:
        """`observed` after a segment and some leads are removed."""
        s = self.settings
        n_masked = round(s.view_time_mask * ecg.shape[-1] / self.grid) * self.grid
        if n_masked:
            _, observed = augment.mask_time(ecg, observed, n_masked, self.grid)
        if s.view_lead_mask:
            _, observed = augment.drop_leads(ecg, observed, self._whole(observed), s.view_lead_mask)
        return observed

    def _whole(self, observed: Tensor) -> Tensor:
        """(B, L) bool, True for leads with at least one whole observed patch."""
        return patchify(observed, observed.shape[-1] // self.grid).all(-1).any(-1)

    def _disturbance(self, ecg: Tensor) -> Tensor:
        """Wander, hum and noise (B, L, T) in mV, drawn at the nine electrodes and mapped to the leads."""
        s, shape = self.settings, (len(ecg), self.electrodes.shape[1], ecg.shape[-1])
        at_electrodes = ecg.new_zeros(shape)
        if s.view_wander_mv:
            at_electrodes = at_electrodes + augment.wander(shape, s.view_wander_mv, self.rate_hz, ecg.device)
        if s.view_powerline_mv:
            at_electrodes = at_electrodes + augment.powerline(shape, s.view_powerline_mv, self.rate_hz, ecg.device)
        if s.view_noise_mv:
            at_electrodes = augment.noise(at_electrodes, s.view_noise_mv)
        with torch.autocast(ecg.device.type, enabled=False):  # in bfloat16, III would differ from II - I by microvolts
            return self.electrodes.to(at_electrodes) @ at_electrodes


@dataclass(frozen=True)
class PairViewSettings:
    """Settings of random views of an ECG and its report; the papers use none of them."""

    shift_s: float = 0.0  # largest time shift, either direction, one per batch; vacated samples are unobserved
    gain: float = 0.0  # one random factor exp(N(0, gain)) for all leads of a record
    noise_mv: float = 0.0  # white noise on the ECG, largest standard deviation
    lead_dropout: float = 0.0  # probability that a lead is removed; at least one remains
    statement_dropout: float = (
        0.0  # probability that a statement is left out of a report; > 0 also shuffles the statements
    )
    rewording: float = 0.0  # probability that a statement of a report is replaced by another wording of its finding

    def __post_init__(self) -> None:
        check_ranges(self, rewording="[0, 1]")


def pair_view(batch: Batch, settings: PairViewSettings, signal: Signal, grid: int = 1) -> Batch:
    """One random view of each record and its report; one whole patch of `grid` samples remains in each record that has one."""
    if settings.shift_s:
        batch = augment.shift(batch, max(1, round(settings.shift_s * signal.rate_hz)), grid)
    ecg, observed = batch.ecg, batch.observed
    if settings.gain:
        ecg = augment.gain(ecg, settings.gain)
    if settings.lead_dropout:
        whole = patchify(observed, observed.shape[-1] // grid).all(-1).any(-1)
        ecg, observed = augment.drop_leads(ecg, observed, whole, settings.lead_dropout)
    if settings.noise_mv:
        ecg = augment.noise(ecg, settings.noise_mv) * observed
    return replace(
        batch, ecg=ecg, observed=observed, report=report_view(batch, settings.statement_dropout, settings.rewording)
    )


def report_view(batch: Batch, statement_dropout: float, rewording: float) -> tuple[str, ...]:
    """One random view of each report: statements in other words, then left out and shuffled. 0 switches a step off.

    Raises:
        ValueError: `rewording` without the batch's wordings.
    """
    if not rewording:
        if not statement_dropout:
            return batch.report
        return reports.drop_statements(batch.report, batch.statements, statement_dropout)
    if batch.statements is None or batch.wordings is None:
        raise ValueError(
            "rewording > 0 needs the wordings of the statements: Recordings(..., statements=True, wordings=True)"
        )
    pairs = zip(batch.statements, batch.wordings, strict=True)
    reworded = [reports.reword(statements, wordings, rewording) for statements, wordings in pairs]
    if statement_dropout:
        return reports.drop_statements(batch.report, reworded, statement_dropout)
    return tuple(". ".join(statements) + "." if statements else "" for statements in reworded)


def report_ids(whole: Batch, view: Batch) -> Tensor:
    """Report ids (B, 2) int64: two records have the same report if they agree in a column (whole report, or the view's)."""
    # the whole report counts too: two different views of one report are still the same report
    ids = torch.stack([reports.numbers(whole.report), reports.numbers(view.report)], dim=-1)
    return to_device(ids, view.ecg.device)
