"""Two looks at one heart: what a view keeps, and what it lays over it. On the batch, on its device.

What is laid over an ECG arises at the electrodes and reaches every lead by the algebra of the leads, so that III stays II - I.
What is taken away (a crop, a lead, a stretch of time) is unobserved, never altered. Signs, leads and time keep their order:
a view of a diagnosis is still that diagnosis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from leadwise.batch import Batch, Signal
from leadwise.nn import augment
from leadwise.nn import text as reports
from leadwise.nn.patches import patchify


@dataclass(frozen=True)
class ViewSettings:
    """What a view of an ECG does; 0 switches a step off (`view_crop`: 1)."""

    view_crop: float = 0.5  # share of the promised time that a view keeps, in one piece
    view_gain: float = 0.1  # one random factor exp(N(0, view_gain)) for all leads of a record
    view_wander_mv: float = 0.1  # baseline wander at each electrode, largest amplitude
    view_powerline_mv: float = 0.02  # hum at each electrode, largest amplitude
    view_noise_mv: float = 0.02  # white noise at each electrode, largest standard deviation
    view_lead_mask: float = 0.5  # chance of each lead to be taken away, one at least stays
    view_time_mask: float = 0.1  # share of the view's time that is taken away in all leads, in one piece

    def __post_init__(self) -> None:
        shares = (self.view_lead_mask, self.view_time_mask)
        if not 0 < self.view_crop <= 1 or not all(0 <= share < 1 for share in shares):
            raise ValueError(
                f"view_crop lies in (0, 1], view_lead_mask and view_time_mask in [0, 1); got {self.view_crop}, "
                f"{self.view_lead_mask} and {self.view_time_mask}"
            )
        if min(self.view_gain, self.view_wander_mv, self.view_powerline_mv, self.view_noise_mv) < 0:
            raise ValueError("view_gain, view_wander_mv, view_powerline_mv and view_noise_mv are 0 or more")


@dataclass(frozen=True)
class View:
    """B views: an ECG in mV that may be a crop, and where in the promised time each begins."""

    batch: Batch  # ecg, observed: (B, L, T')
    start: Tensor  # (B,) samples


class Views(nn.Module):
    """Draws views. `grid`: the samples at which a crop may begin and end."""

    electrodes: Tensor

    def __init__(self, settings: ViewSettings, signal: Signal, grid: int = 1) -> None:
        super().__init__()
        self.settings, self.rate_hz, self.grid = settings, signal.rate_hz, grid
        n_kept = max(1, round(settings.view_crop * signal.n_samples / grid)) * grid
        self.n_kept = min(n_kept, signal.n_samples)
        self.register_buffer("electrodes", augment.lead_algebra(signal.leads), persistent=False)  # (L, 9)

    def forward(self, batch: Batch) -> View:
        """One random view of each record; twice called, two views."""
        s = self.settings
        ecg, observed, start = augment.crop(batch.ecg, batch.observed, self.n_kept, self.grid)
        if s.view_gain:
            ecg = augment.gain(ecg, s.view_gain)
        ecg = ecg + self._laid_over(ecg)
        shown = self._taken_away(ecg, observed)
        # an encoder of whole patches must be left with one: a record with gaps keeps what it has
        left = self._whole(shown).any(-1)[:, None, None]
        observed = torch.where(left, shown, observed)
        return View(replace(batch, ecg=ecg * observed, observed=observed), start)

    def _taken_away(self, ecg: Tensor, observed: Tensor) -> Tensor:
        """What is still observed when a stretch of time and some leads are taken away."""
        s = self.settings
        n_masked = round(s.view_time_mask * ecg.shape[-1] / self.grid) * self.grid
        if n_masked:
            _, observed = augment.mask_time(ecg, observed, n_masked, self.grid)
        if s.view_lead_mask:
            _, observed = augment.drop_leads(ecg, observed, self._whole(observed), s.view_lead_mask)
        return observed

    def _whole(self, observed: Tensor) -> Tensor:
        """Leads with a whole patch observed, (B, L) bool."""
        return patchify(observed, observed.shape[-1] // self.grid).all(-1).any(-1)

    def _laid_over(self, ecg: Tensor) -> Tensor:
        """Wander, hum and noise (B, L, T) mV, drawn at nine electrodes."""
        s, shape = self.settings, (len(ecg), self.electrodes.shape[1], ecg.shape[-1])
        laid = ecg.new_zeros(shape)
        if s.view_wander_mv:
            laid = laid + augment.wander(shape, s.view_wander_mv, self.rate_hz, ecg.device)
        if s.view_powerline_mv:
            laid = laid + augment.powerline(shape, s.view_powerline_mv, self.rate_hz, ecg.device)
        if s.view_noise_mv:
            laid = augment.noise(laid, s.view_noise_mv)
        with torch.autocast(ecg.device.type, enabled=False):  # bfloat16 would leave III and II - I microvolts apart
            return self.electrodes.to(laid) @ laid


@dataclass(frozen=True)
class PairViewSettings:
    """A view of an ECG with its report, all off in the papers."""

    shift_s: float = 0.0  # move each batch by less than this, either way; what falls off is unobserved
    gain: float = 0.0  # one random factor exp(N(0, gain)) for all leads of a record
    noise_mv: float = 0.0  # white noise on the ECG, largest standard deviation
    lead_dropout: float = 0.0  # chance of each lead to be taken away, one at least stays
    statement_dropout: float = 0.0  # chance of each statement of a report to be left out; > 0 also shuffles them


def pair_view(batch: Batch, settings: PairViewSettings, signal: Signal) -> Batch:
    """One random view of each record and its report, on their device."""
    ecg, observed = batch.ecg, batch.observed
    if settings.shift_s:
        ecg, observed = augment.shift(ecg, observed, max(1, round(settings.shift_s * signal.rate_hz)))
    if settings.gain:
        ecg = augment.gain(ecg, settings.gain)
    if settings.lead_dropout:
        ecg, observed = augment.drop_leads(ecg, observed, observed.any(-1), settings.lead_dropout)
    if settings.noise_mv:
        ecg = augment.noise(ecg, settings.noise_mv) * observed
    report = batch.report
    if settings.statement_dropout:
        report = reports.drop_statements(report, batch.statements, settings.statement_dropout)
    return replace(batch, ecg=ecg, observed=observed, report=report)


def report_numbers(batch: Batch, view: Batch) -> Tensor:
    """(B, 2) int64: hashes of each record's whole report and of its view; records that agree in one have the same report."""
    # whole reports too, because two views of one report can differ and are still the same report
    return torch.stack([reports.numbers(batch.report), reports.numbers(view.report)], dim=-1).to(view.ecg.device)
