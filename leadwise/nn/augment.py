"""Label-preserving views of a batch of ECGs, on its device. ecg (B, L, T) mV, observed (B, L, T) bool."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from leadwise.nn.patches import patchify

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
_WANDER_HZ = (0.05, 0.5)  # of breathing and slow drift
_HUM_HZ = (50.0, 60.0)


def shift(ecg: Tensor, observed: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """The batch moved by one random number of samples below `largest`, either way; what falls off is unobserved.

    One shift for the whole batch, so that every record keeps the same number of whole patches.
    """
    by = int(torch.randint(1 - largest, largest, ()))
    if by < 0:  # later: the end falls off
        return F.pad(ecg[..., :by], (-by, 0)), F.pad(observed[..., :by], (-by, 0))
    return F.pad(ecg[..., by:], (0, by)), F.pad(observed[..., by:], (0, by))


def gain(ecg: Tensor, spread: float) -> Tensor:
    """Each record times exp(N(0, spread)), one factor for all leads so that their algebra holds."""
    return ecg * (spread * torch.randn(len(ecg), 1, 1, device=ecg.device)).exp()


def noise(ecg: Tensor, largest: float) -> Tensor:
    """White noise on an ECG (B, ...), whole or in patches, its standard deviation drawn for each record below `largest`."""
    level = largest * torch.rand(len(ecg), *(1,) * (ecg.ndim - 1), device=ecg.device)
    return ecg + level * torch.randn_like(ecg)


def drop_leads(ecg: Tensor, observed: Tensor, whole: Tensor, chance: float) -> tuple[Tensor, Tensor]:
    """Each lead taken away with `chance`; a record keeps at least one of the leads that `whole` (B, L) says can serve."""
    draw = torch.rand(whole.shape, device=ecg.device)
    spared = draw.masked_fill(~whole, -1.0).argmax(-1, keepdim=True)
    kept = (draw >= chance).scatter(1, spared, True)[..., None]
    return ecg * kept, observed & kept


def lead_algebra(leads: Sequence[str]) -> Tensor:
    """(L, 9): each lead as a sum of the nine electrodes' potentials, in the order of `ELECTRODES`.

    I = LA - RA, II = LL - RA, III = LL - LA; augmented leads against the mean of the other two limbs; Vn against the mean of
    all three. Whatever is mixed by it keeps Einthoven's and Goldberger's relations.
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


def crop(ecg: Tensor, observed: Tensor, n_kept: int, grid: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """A piece of `n_kept` samples of each record, and the sample (B,) at which it begins, a multiple of `grid`.

    It lies between the first and the last sample observed, where they are far enough apart; and of those that do, only pieces
    are drawn that have at least half as many whole patches (of `grid` samples, in any lead) as the best: a record with gaps
    keeps something to look at.
    """
    n_leads, n_samples = ecg.shape[1:]
    there = observed.any(1)  # (B, T)
    first = there.float().argmax(-1, keepdim=True)
    last = n_samples - 1 - there.flip(-1).float().argmax(-1, keepdim=True)
    begins = torch.arange(0, n_samples - n_kept + 1, grid, device=ecg.device)  # (S,)
    earliest = (-(-first // grid) * grid).clamp(max=(n_samples - n_kept) // grid * grid)
    latest = ((last + 1 - n_kept) // grid * grid).maximum(earliest)
    within = (begins >= earliest) & (begins <= latest)  # (B, S)

    whole = patchify(observed, n_samples // grid).all(-1).any(1)  # (B, N)
    so_far = F.pad(whole.long().cumsum(-1), (1, 0))  # whole patches before each place
    shown = so_far[:, n_kept // grid :] - so_far[:, : len(begins)]  # (B, S)
    shown = shown.masked_fill(~within, -1)
    good = within & (2 * shown >= shown.amax(-1, keepdim=True))
    start = begins[torch.rand(good.shape, device=ecg.device).masked_fill(~good, -1.0).argmax(-1)]  # (B,)
    index = (start[:, None] + torch.arange(n_kept, device=ecg.device))[:, None].expand(-1, n_leads, -1)
    return ecg.gather(2, index), observed.gather(2, index), start


def mask_time(ecg: Tensor, observed: Tensor, n_masked: int, grid: int = 1) -> tuple[Tensor, Tensor]:
    """`n_masked` samples in a row, from a multiple of `grid` on, taken away from all leads, unless nothing would be left."""
    begin = grid * torch.randint((ecg.shape[-1] - n_masked) // grid + 1, (len(ecg), 1, 1), device=ecg.device)
    time = torch.arange(ecg.shape[-1], device=ecg.device)
    kept = (time < begin) | (time >= begin + n_masked)  # (B, 1, T)
    kept = kept | ~(observed & kept).any(dim=(1, 2), keepdim=True)
    return ecg * kept, observed & kept


def wander(shape: tuple[int, int, int], largest: float, rate_hz: float, device: torch.device) -> Tensor:
    """Slow waves (B, E, T) of 0.05 to 0.5 Hz, each with an amplitude below `largest`."""
    return _waves(shape, largest, _uniform((shape[0], shape[1], 1), *_WANDER_HZ, device), rate_hz)


def powerline(shape: tuple[int, int, int], largest: float, rate_hz: float, device: torch.device) -> Tensor:
    """Hum (B, E, T) of 50 or 60 Hz, one for a record, its amplitude below `largest`; none that the rate cannot hold."""
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
