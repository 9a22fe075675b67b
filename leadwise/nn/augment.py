"""Label-preserving augmentations of a batch of ECGs, on its device: ecg (B, L, T) mV, observed (B, L, T) bool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.batch import Batch, to_device
from leadwise.nn.patches import patchify

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
_WANDER_HZ = (0.05, 0.5)  # breathing and slow drift
_HUM_HZ = (50.0, 60.0)


def shift(batch: Batch, largest: int, grid: int = 1) -> Batch:
    """Shift a batch in time by fewer than `largest` samples, in either direction; vacated samples are unobserved.

    The whole batch has one shift, so that every record has the same number of whole patches. A record that would lose its
    last whole patch (of `grid` samples, in any lead) is not shifted.
    """
    by = int(torch.randint(1 - largest, largest, ()))
    ecg, observed = _shifted(batch.ecg, batch.observed, by, grid)
    moved = replace(batch, ecg=ecg, observed=observed)
    if batch.common is None:
        return moved
    common = batch.common[None, None]  # as a batch of one record with one lead
    return moved.with_common(_shifted(common, common, by, grid)[1][0, 0])


def _shifted(ecg: Tensor, observed: Tensor, by: int, grid: int) -> tuple[Tensor, Tensor]:
    before, after = max(0, -by), max(0, by)  # by < 0: later in time, the end is cut off
    n_samples = ecg.shape[-1]
    moved_ecg, moved = (F.pad(x[..., after : n_samples - before], (before, after)) for x in (ecg, observed))
    has_patch = patchify(moved, n_samples // grid).all(-1).any(-1).any(-1)[:, None, None]
    return torch.where(has_patch, moved_ecg, ecg), torch.where(has_patch, moved, observed)


def gain(ecg: Tensor, spread: float) -> Tensor:
    """Multiply each record by exp(N(0, spread)): one factor for all leads, so that III = II - I still holds."""
    return ecg * to_device((spread * torch.randn(len(ecg), 1, 1)).exp(), ecg.device)


def noise(ecg: Tensor, largest: float) -> Tensor:
    """Add white noise to an ECG (B, ...), whole or in patches; each record draws its standard deviation below `largest`."""
    level = largest * torch.rand(len(ecg), *(1,) * (ecg.ndim - 1), device=ecg.device)
    return ecg + level * torch.randn_like(ecg)


def drop_leads(ecg: Tensor, observed: Tensor, whole: Tensor, chance: float) -> tuple[Tensor, Tensor]:
    """Make each lead unobserved with probability `chance`; at least one lead that is True in `whole` (B, L) remains."""
    draw = torch.rand(whole.shape, device=ecg.device)
    spared = draw.masked_fill(~whole, -1.0).argmax(-1, keepdim=True)
    remains = (draw >= chance).scatter(1, spared, True)[..., None]
    return ecg * remains, observed & remains


def lead_algebra(leads: Sequence[str]) -> Tensor:
    """(L, 9) matrix that computes leads from the potentials of nine electrodes, in the order of `ELECTRODES`.

    I = LA - RA, II = LL - RA, III = LL - LA; augmented leads against the mean of the other two limbs; Vn against the mean of
    all three. Leads computed with it satisfy Einthoven's and Goldberger's equations.
    """
    limbs = {"RA": (1.0, 0.0, 0.0), "LA": (0.0, 1.0, 0.0), "LL": (0.0, 0.0, 1.0)}
    difference = {"I": ("LA", "RA"), "II": ("LL", "RA"), "III": ("LL", "LA")}
    rows = torch.zeros(len(leads), len(ELECTRODES))
    for row, lead in zip(rows, leads):
        if lead in difference:
            plus, minus = difference[lead]
            row[:3] = torch.tensor(limbs[plus]) - torch.tensor(limbs[minus])
        elif lead.startswith("aV"):
            own = torch.tensor(limbs[{"R": "RA", "L": "LA", "F": "LL"}[lead[2]]])
            row[:3] = own - (1 - own) / 2
        else:
            row[:3], row[ELECTRODES.index(lead)] = -1 / 3, 1.0
    return rows


def crop(ecg: Tensor, observed: Tensor, n_crop: int, grid: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Crop `n_crop` samples of each record at random; also returns (B,) the first sample, a multiple of `grid`.

    The crop is within the observed part of the record if that is long enough. Only crops are drawn that have at least half as
    many whole patches (of `grid` samples, in any lead) as the best one, so that a crop of a record with gaps is not empty.
    """
    n_leads, n_samples = ecg.shape[1:]
    any_lead = observed.any(1)  # (B, T)
    first = any_lead.float().argmax(-1, keepdim=True)
    last = n_samples - 1 - any_lead.flip(-1).float().argmax(-1, keepdim=True)
    begins = torch.arange(0, n_samples - n_crop + 1, grid, device=ecg.device)  # (S,)
    earliest = (-(-first // grid) * grid).clamp(max=(n_samples - n_crop) // grid * grid)
    latest = ((last + 1 - n_crop) // grid * grid).maximum(earliest)
    within = (begins >= earliest) & (begins <= latest)  # (B, S)

    whole = patchify(observed, n_samples // grid).all(-1).any(1)  # (B, N)
    n_before = F.pad(whole.long().cumsum(-1), (1, 0))  # whole patches before each position
    n_whole = n_before[:, n_crop // grid :] - n_before[:, : len(begins)]  # (B, S)
    n_whole = n_whole.masked_fill(~within, -1)
    good = within & (2 * n_whole >= n_whole.amax(-1, keepdim=True))
    start = begins[torch.rand(good.shape, device=ecg.device).masked_fill(~good, -1.0).argmax(-1)]  # (B,)
    index = (start[:, None] + torch.arange(n_crop, device=ecg.device))[:, None].expand(-1, n_leads, -1)
    return ecg.gather(2, index), observed.gather(2, index), start


def mask_time(ecg: Tensor, observed: Tensor, n_masked: int, grid: int = 1) -> tuple[Tensor, Tensor]:
    """Make `n_masked` consecutive samples of all leads unobserved, from a multiple of `grid`, unless nothing would remain."""
    begin = grid * torch.randint((ecg.shape[-1] - n_masked) // grid + 1, (len(ecg), 1, 1), device=ecg.device)
    time = torch.arange(ecg.shape[-1], device=ecg.device)
    remains = (time < begin) | (time >= begin + n_masked)  # (B, 1, T)
    remains = remains | ~(observed & remains).any(dim=(1, 2), keepdim=True)
    return ecg * remains, observed & remains


def wander(shape: tuple[int, int, int], largest: float, rate_hz: float, device: torch.device) -> Tensor:
    """Baseline wander (B, E, T): sines of 0.05 to 0.5 Hz, each with an amplitude below `largest`."""
    return _waves(shape, largest, _uniform((shape[0], shape[1], 1), *_WANDER_HZ, device), rate_hz)


def powerline(shape: tuple[int, int, int], largest: float, rate_hz: float, device: torch.device) -> Tensor:
    """Mains hum (B, E, T) of 50 or 60 Hz per record, amplitude below `largest`; 0 where the frequency is above Nyquist."""
    fifty = torch.rand(shape[0], 1, 1, device=device) < 0.5
    hertz = torch.where(fifty, _HUM_HZ[0], _HUM_HZ[1]).expand(-1, shape[1], -1)
    return _waves(shape, largest, hertz, rate_hz) * (hertz < rate_hz / 2)


def _waves(shape: tuple[int, int, int], largest: float, hertz: Tensor, rate_hz: float) -> Tensor:
    device = hertz.device
    phase = 2 * math.pi * torch.rand(shape[0], shape[1], 1, device=device)
    level = largest * torch.rand(shape[0], shape[1], 1, device=device)
    time = torch.arange(shape[2], device=device) / rate_hz
    return level * torch.sin(2 * math.pi * hertz * time + phase)


def _uniform(shape: tuple[int, int, int], low: float, high: float, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(shape, device=device)
